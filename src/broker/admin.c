/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libmicrohttpd does the HTTP; the thread is ours, so that it can count seconds, cut slow
 * connections and tell of its own end. Everything that this thread reads of the broker is atomic, a
 * copy under a short lock, or does not change.
 */
#include "broker/admin.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/prometheus.h"
#include "broker/status.h"

#define TARGET         "taskmill::admin"
#define LISTEN_BACKLOG 128
#define PARTITIONS_MAX 10000 /* of a topic, in /status.json */
#define ADDRESS_MAX    (INET6_ADDRSTRLEN + 16)

enum admin_state { STARTING, RUNNING, STOPPING };

struct connection {
    int fd; /* -1: free */
    int64_t since_ms;
};

struct admin {
    const struct config *cfg;
    struct meters *meters;
    void (*failed)(void *ctx, int code, const char *why);
    void *ctx;
    char address[ADDRESS_MAX], grpc_address[ADDRESS_MAX];
    struct MHD_Daemon *daemon;
    int listen_fd; /* until the daemon has it */
    int wake_fd;
    pthread_t thread;
    bool thread_started;
    atomic_bool ending;
    int64_t start_boot_ms, start_wall_ms;
    struct admin_view view; /* written before `state` becomes RUNNING */
    char *store_path;
    _Atomic int state;

    /* the thread's own */
    struct rates rates;
    size_t unsent_bytes; /* of answers; the connections have taken less */
    struct connection connections[ADMIN_CONNECTIONS];
};

/* --- the port -------------------------------------------------------------------------------- */

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* The text was checked by config_load. */
static socklen_t parse_address(const char *text, union address *out, uint16_t *port)
{
    char host[ADDRESS_MAX];
    const char *colon = strrchr(text, ':');
    bool brackets = text[0] == '[';
    size_t len = (size_t)(colon - text) - (brackets ? 2 : 0);
    *port = (uint16_t)strtoul(colon + 1, NULL, 10);
    *out = (union address){0};
    snprintf(host, sizeof host, "%.*s", (int)len, text + brackets);
    if (brackets) {
        out->v6.sin6_family = AF_INET6;
        inet_pton(AF_INET6, host, &out->v6.sin6_addr);
        return sizeof out->v6;
    }
    out->v4.sin_family = AF_INET;
    inet_pton(AF_INET, host, &out->v4.sin_addr);
    return sizeof out->v4;
}

/* A listening socket, or -1 with errno. */
static int listen_at(union address *address, socklen_t len, uint16_t port)
{
    int one = 1;
    if (address->any.sa_family == AF_INET6)
        address->v6.sin6_port = htons(port);
    else
        address->v4.sin_port = htons(port);
    int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    /* REUSEADDR only skips TIME_WAIT; a second listener is still refused. */
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0 &&
        bind(fd, &address->any, len) == 0 && listen(fd, LISTEN_BACKLOG) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

static void set_address(struct admin *admin, uint16_t port)
{
    const char *text = admin->cfg->admin_addr;
    snprintf(admin->address, sizeof admin->address, "%.*s:%u", (int)(strrchr(text, ':') - text),
             text, port);
}

static int open_port(struct admin *admin, struct err_text *why)
{
    const struct config *cfg = admin->cfg;
    union address address;
    uint16_t first;
    socklen_t len = parse_address(cfg->admin_addr, &address, &first);
    unsigned ports = cfg->admin_addr_explicit ? 1 : ADMIN_PORTS;
    for (unsigned i = 0; i < ports; i++) {
        admin->listen_fd = listen_at(&address, len, (uint16_t)(first + i));
        if (admin->listen_fd >= 0) {
            set_address(admin, (uint16_t)(first + i));
            if (i > 0)
                log_warn(TARGET, NULL, "%s is taken; the admin port is %s (admin_addr)",
                         cfg->admin_addr, admin->address);
            return 0;
        }
        if (errno != EADDRINUSE)
            break;
    }
    if (errno == EADDRINUSE && !cfg->admin_addr_explicit)
        return err_set(why, ERR_EXISTS, "%s and the %u ports after it are taken", cfg->admin_addr,
                       ADMIN_PORTS - 1);
    return err_set(why, ERR_SYSTEM,
                   "admin_addr %s: %s; choose another address, or null for no admin port",
                   cfg->admin_addr, strerror(errno));
}

/* --- what is told ---------------------------------------------------------------------------- */

static struct status_verdict find_health(const struct admin *admin, int state)
{
    const struct config *cfg = admin->cfg;
    if (state == STARTING)
        return (struct status_verdict){true, "starting: the store is being read"};
    if (cfg->health_check_killswitched)
        return (struct status_verdict){true, "health_check_killswitched is set"};
    if (!engine_thread_healthy(admin->view.thread, (int64_t)cfg->upkeep_unhealthy_interval_ms,
                               clock_boot_ms()))
        return (struct status_verdict){
            false, "no turn of the engine ended within upkeep_unhealthy_interval_ms: the disk "
                   "hangs, or another process locks the database"};
    return (struct status_verdict){true, "ok"};
}

static struct status_verdict find_readiness(const struct admin *admin, int state)
{
    if (state == STARTING)
        return (struct status_verdict){false, "starting: the store is being read"};
    if (state == STOPPING)
        return (struct status_verdict){false, "stopping"};
    struct status_verdict health = find_health(admin, state);
    return health.yes ? (struct status_verdict){true, "ready"} : health;
}

static unsigned tell_verdict(struct status_verdict verdict, struct buf *out)
{
    buf_printf(out, "%s\n", verdict.why);
    return verdict.yes ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE;
}

static unsigned tell_health(struct admin *admin, struct buf *out)
{
    return tell_verdict(find_health(admin, atomic_load(&admin->state)), out);
}

static unsigned tell_readiness(struct admin *admin, struct buf *out)
{
    return tell_verdict(find_readiness(admin, atomic_load(&admin->state)), out);
}

static unsigned tell_metrics(struct admin *admin, struct buf *out)
{
    prometheus_write(meters_registry(admin->meters), out);
    return MHD_HTTP_OK;
}

static void list_partitions(const struct admin *admin, size_t source, struct status_topic *topic)
{
    const struct admin_view *view = &admin->view;
    size_t room = 64;
    *topic = (struct status_topic){.topic = view->topics[source]->name,
                                   .cluster = view->topics[source]->cluster_name,
                                   .group = view->topics[source]->consumer_group};
    if (admin->cfg->embedded)
        return;
    for (;;) {
        struct kafka_lag *lags = mem_calloc(room, sizeof *lags);
        size_t count = kafka_source_lags(view->sources[source], lags, room);
        if (count <= room || room == PARTITIONS_MAX) {
            topic->partitions = lags;
            topic->partition_count = count < room ? count : room;
            return;
        }
        mem_free(lags);
        room = count < PARTITIONS_MAX ? count : PARTITIONS_MAX;
    }
}

static struct status_topic *list_topics(const struct admin *admin)
{
    size_t count = admin->view.source_count;
    struct status_topic *topics = mem_calloc(count, sizeof *topics);
    for (size_t i = 0; i < count; i++)
        list_partitions(admin, i, &topics[i]);
    return topics;
}

static void free_topics(struct status_topic *topics, size_t count)
{
    for (size_t i = 0; i < count; i++)
        mem_free((void *)topics[i].partitions);
    mem_free(topics);
}

static void tell_started(struct admin *admin, struct status *status, struct buf *out)
{
    struct engine_stats *stats = mem_zalloc(sizeof *stats);
    struct service *service = admin->view.service;
    engine_thread_stats(admin->view.thread, stats);
    status->started = true;
    status->engine = stats;
    status->store_path = admin->store_path;
    status->store_max_bytes =
        admin->cfg->store.max_size == CONFIG_NONE ? UINT64_MAX : admin->cfg->store.max_size;
    status->runtime_path = admin->cfg->runtime_config_path;
    status->embedded = admin->cfg->embedded;
    if (service) {
        status->grpc_address = admin->grpc_address;
        status->connections = rpc_server_connections(service_server(service));
        status->streams = rpc_server_open_streams(service_server(service));
    }
    struct status_topic *topics = list_topics(admin);
    status->topics = topics;
    status->topic_count = admin->view.source_count;
    status_write(status, &admin->rates, out);
    free_topics(topics, status->topic_count);
    mem_free(stats);
}

static unsigned tell_status(struct admin *admin, struct buf *out)
{
    static const char *const names[] = {
        [STARTING] = "starting", [RUNNING] = "running", [STOPPING] = "stopping"};
    int state = atomic_load(&admin->state);
    struct status status = {.state = names[state],
                            .healthy = find_health(admin, state),
                            .ready = find_readiness(admin, state),
                            .wall_ms = clock_wall_ms(),
                            .started_wall_ms = admin->start_wall_ms,
                            .uptime_ms = clock_boot_ms() - admin->start_boot_ms,
                            .admin_address = admin->address};
    if (state == STARTING)
        status_write(&status, &admin->rates, out);
    else
        tell_started(admin, &status, out);
    return MHD_HTTP_OK;
}

/* --- HTTP ------------------------------------------------------------------------------------ */

static const struct page {
    const char *path, *content_type;
    unsigned (*tell)(struct admin *admin, struct buf *out); /* the HTTP status */
    bool large;
} pages[] = {
    {"/metrics", PROMETHEUS_CONTENT_TYPE, tell_metrics, true},
    {"/healthz", "text/plain; charset=utf-8", tell_health, false},
    {"/readyz", "text/plain; charset=utf-8", tell_readiness, false},
    {"/status.json", "application/json", tell_status, true},
};

/* What one connection is given; freed when it has been sent, or never will be. */
struct body {
    struct admin *admin;
    struct buf text;
};

static void free_body(void *arg)
{
    struct body *body = arg;
    body->admin->unsent_bytes -= body->text.len;
    buf_free(&body->text);
    mem_free(body);
}

/* Takes over the text. */
static enum MHD_Result answer(struct admin *admin, struct MHD_Connection *connection,
                              unsigned status, const char *content_type, struct buf *text)
{
    struct body *body = mem_zalloc(sizeof *body);
    *body = (struct body){.admin = admin, .text = *text};
    *text = (struct buf){0};
    admin->unsent_bytes += body->text.len;
    struct MHD_Response *response = MHD_create_response_from_buffer_with_free_callback_cls(
        body->text.len, body->text.ptr, free_body, body);
    if (!response) {
        free_body(body);
        return MHD_NO; /* closes the connection */
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, content_type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    enum MHD_Result rv = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return rv;
}

static unsigned tell(struct admin *admin, const char *method, const char *url,
                     const char **content_type, struct buf *out)
{
    *content_type = "text/plain; charset=utf-8";
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0) {
        buf_append_str(out, "only GET and HEAD\n");
        return MHD_HTTP_METHOD_NOT_ALLOWED;
    }
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++) {
        if (strcmp(url, pages[i].path) != 0)
            continue;
        if (pages[i].large && admin->unsent_bytes > ADMIN_ANSWER_BYTES) {
            buf_append_str(out, "too many answers wait for slow readers\n");
            return MHD_HTTP_SERVICE_UNAVAILABLE;
        }
        *content_type = pages[i].content_type;
        return pages[i].tell(admin, out);
    }
    buf_append_str(out, "there are /metrics /healthz /readyz /status.json\n");
    return MHD_HTTP_NOT_FOUND;
}

/* Called first when the headers are there; the answer is given then, whatever a body would say. */
static enum MHD_Result handle(void *cls, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *upload_data,
                              size_t *upload_data_size, void **request)
{
    (void)version, (void)upload_data, (void)upload_data_size, (void)request;
    struct buf text = {0};
    const char *content_type;
    unsigned status = tell(cls, method, url, &content_type, &text);
    return answer(cls, connection, status, content_type, &text);
}

static void on_connection(void *cls, struct MHD_Connection *connection, void **slot,
                          enum MHD_ConnectionNotificationCode code)
{
    struct admin *admin = cls;
    if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
        if (*slot)
            ((struct connection *)*slot)->fd = -1;
        return;
    }
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    for (size_t i = 0; i < ADMIN_CONNECTIONS; i++) {
        if (admin->connections[i].fd < 0) {
            admin->connections[i] =
                (struct connection){.fd = info->connect_fd, .since_ms = clock_boot_ms()};
            *slot = &admin->connections[i];
            return;
        }
    }
}

/* --- the thread ------------------------------------------------------------------------------ */

static void sample_rates(struct admin *admin, int64_t now_ms)
{
    if (atomic_load(&admin->state) == STARTING)
        return;
    struct engine_stats *stats = mem_alloc(sizeof *stats);
    uint64_t totals[RATES];
    engine_thread_stats(admin->view.thread, stats);
    status_totals(stats, totals);
    rates_sample(&admin->rates, now_ms, totals);
    mem_free(stats);
}

/* libmicrohttpd's own time-out counts from the last byte: one byte at a time would hold a slot for
 * ever. */
static void cut_slow(struct admin *admin, int64_t now_ms)
{
    for (size_t i = 0; i < ADMIN_CONNECTIONS; i++) {
        struct connection *connection = &admin->connections[i];
        if (connection->fd >= 0 && now_ms - connection->since_ms >= ADMIN_REQUEST_MS)
            shutdown(connection->fd, SHUT_RDWR);
    }
}

static int wait_ms(struct admin *admin)
{
    MHD_UNSIGNED_LONG_LONG ms;
    if (MHD_get_timeout(admin->daemon, &ms) == MHD_YES && ms < RATES_INTERVAL_MS)
        return (int)ms;
    return RATES_INTERVAL_MS;
}

static void *run(void *ctx)
{
    struct admin *admin = ctx;
    int epoll_fd = MHD_get_daemon_info(admin->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    while (!atomic_load(&admin->ending)) {
        struct pollfd fds[] = {{.fd = epoll_fd, .events = POLLIN},
                               {.fd = admin->wake_fd, .events = POLLIN}};
        poll(fds, 2, wait_ms(admin));
        int64_t now_ms = clock_boot_ms();
        cut_slow(admin, now_ms);
        sample_rates(admin, now_ms);
        if (MHD_run(admin->daemon) != MHD_YES) {
            admin->failed(admin->ctx, ERR_SYSTEM, "the admin port's HTTP server has failed");
            return NULL;
        }
    }
    return NULL;
}

/* --- life ------------------------------------------------------------------------------------ */

static int start_daemon(struct admin *admin, struct err_text *why)
{
    unsigned flags = MHD_USE_EPOLL | (admin->cfg->admin_addr[0] == '[' ? MHD_USE_IPv6 : 0);
    admin->daemon =
        MHD_start_daemon(flags, 0, NULL, NULL, handle, admin, MHD_OPTION_LISTEN_SOCKET,
                         admin->listen_fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)ADMIN_CONNECTIONS,
                         MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)ADMIN_REQUEST_BYTES,
                         MHD_OPTION_NOTIFY_CONNECTION, on_connection, admin, MHD_OPTION_END);
    if (!admin->daemon)
        return err_set(why, ERR_SYSTEM, "admin_addr %s: the HTTP server does not start",
                       admin->address);
    admin->listen_fd = -1;
    return 0;
}

static int start_thread(struct admin *admin, struct err_text *why)
{
    admin->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (admin->wake_fd < 0)
        return err_set(why, ERR_SYSTEM, "eventfd: %s", strerror(errno));
    int error = pthread_create(&admin->thread, NULL, run, admin);
    if (error)
        return err_set(why, ERR_SYSTEM, "admin thread: %s", strerror(error));
    pthread_setname_np(admin->thread, "admin");
    admin->thread_started = true;
    return 0;
}

int admin_create(struct admin **out, const struct admin_options *options, struct err_text *why)
{
    struct admin *admin = mem_zalloc(sizeof *admin);
    admin->cfg = options->cfg;
    admin->meters = options->meters;
    admin->failed = options->failed;
    admin->ctx = options->ctx;
    admin->listen_fd = admin->wake_fd = -1;
    admin->start_boot_ms = clock_boot_ms();
    admin->start_wall_ms = clock_wall_ms();
    for (size_t i = 0; i < ADMIN_CONNECTIONS; i++)
        admin->connections[i].fd = -1;
    /* What happens before the thread's first look counts, too. */
    rates_sample(&admin->rates, admin->start_boot_ms, (const uint64_t[RATES]){0});
    int rc;
    if ((rc = open_port(admin, why)) || (rc = start_daemon(admin, why)) ||
        (rc = start_thread(admin, why))) {
        admin_destroy(admin);
        return rc;
    }
    log_info(TARGET, NULL, "admin port listening on http://%s", admin->address);
    *out = admin;
    return 0;
}

const char *admin_address(const struct admin *admin)
{
    return admin->address;
}

void admin_started(struct admin *admin, const struct admin_view *view)
{
    const char *grpc = admin->cfg->grpc_addr;
    admin->view = *view;
    admin->store_path = mem_strdup(view->store_path);
    admin->view.store_path = NULL;
    if (view->service)
        snprintf(admin->grpc_address, sizeof admin->grpc_address,
                 strchr(grpc, ':') ? "[%s]:%u" : "%s:%u", grpc,
                 rpc_server_port(service_server(view->service)));
    atomic_store(&admin->state, RUNNING);
}

void admin_draining(struct admin *admin)
{
    int running = RUNNING; /* one that never started stays "starting": there is no view */
    atomic_compare_exchange_strong(&admin->state, &running, STOPPING);
}

void admin_destroy(struct admin *admin)
{
    if (!admin)
        return;
    atomic_store(&admin->ending, true);
    if (admin->thread_started) {
        eventfd_write(admin->wake_fd, 1);
        pthread_join(admin->thread, NULL);
    }
    if (admin->daemon)
        MHD_stop_daemon(admin->daemon); /* closes the port, too */
    if (admin->listen_fd >= 0)
        close(admin->listen_fd);
    if (admin->wake_fd >= 0)
        close(admin->wake_fd);
    mem_free(admin->store_path);
    mem_free(admin);
}
