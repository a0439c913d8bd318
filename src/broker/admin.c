/* SPDX-License-Identifier: Apache-2.0 */
/*
 * http/http.h does the HTTP; the thread is ours, so that it can count seconds and tell of its own
 * end. Everything that this thread reads of the broker is atomic, a
 * copy under a short lock, or does not change.
 */
#include "broker/admin.h"

#include <errno.h>
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
#include "http/http.h"

#define TARGET         "taskmill::admin"
#define PARTITIONS_MAX 10000 /* of a topic, in /status.json */
#define ADDRESS_MAX    64

enum admin_state { STARTING, RUNNING, STOPPING };

struct admin {
    const struct config *cfg;
    struct meters *meters;
    void (*failed)(void *ctx, int code, const char *why);
    void *ctx;
    char grpc_address[ADDRESS_MAX];
    struct http *http;
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
};

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
    return verdict.yes ? HTTP_OK : HTTP_UNAVAILABLE;
}

static unsigned tell_health(void *ctx, struct buf *out)
{
    struct admin *admin = ctx;
    return tell_verdict(find_health(admin, atomic_load(&admin->state)), out);
}

static unsigned tell_readiness(void *ctx, struct buf *out)
{
    struct admin *admin = ctx;
    return tell_verdict(find_readiness(admin, atomic_load(&admin->state)), out);
}

static unsigned tell_metrics(void *ctx, struct buf *out)
{
    struct admin *admin = ctx;
    prometheus_write(meters_registry(admin->meters), out);
    return HTTP_OK;
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

static unsigned tell_status(void *ctx, struct buf *out)
{
    struct admin *admin = ctx;
    static const char *const names[] = {
        [STARTING] = "starting", [RUNNING] = "running", [STOPPING] = "stopping"};
    int state = atomic_load(&admin->state);
    struct status status = {.state = names[state],
                            .healthy = find_health(admin, state),
                            .ready = find_readiness(admin, state),
                            .wall_ms = clock_wall_ms(),
                            .started_wall_ms = admin->start_wall_ms,
                            .uptime_ms = clock_boot_ms() - admin->start_boot_ms,
                            .admin_address = http_address(admin->http)};
    if (state == STARTING)
        status_write(&status, &admin->rates, out);
    else
        tell_started(admin, &status, out);
    return HTTP_OK;
}

/* --- HTTP ------------------------------------------------------------------------------------ */

static const struct http_page pages[] = {
    {"/metrics", PROMETHEUS_CONTENT_TYPE, tell_metrics, true},
    {"/healthz", "text/plain; charset=utf-8", tell_health, false},
    {"/readyz", "text/plain; charset=utf-8", tell_readiness, false},
    {"/status.json", "application/json", tell_status, true},
};

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

static int wait_ms(const struct admin *admin)
{
    int ms = http_wait_ms(admin->http);
    return ms < RATES_INTERVAL_MS ? ms : RATES_INTERVAL_MS;
}

static void *run(void *ctx)
{
    struct admin *admin = ctx;
    while (!atomic_load(&admin->ending)) {
        struct pollfd fds[] = {{.fd = http_fd(admin->http), .events = POLLIN},
                               {.fd = admin->wake_fd, .events = POLLIN}};
        poll(fds, 2, wait_ms(admin));
        int64_t now_ms = clock_boot_ms();
        sample_rates(admin, now_ms);
        if (http_run(admin->http, now_ms) != 0) {
            admin->failed(admin->ctx, ERR_SYSTEM, "the admin port's HTTP server has failed");
            return NULL;
        }
    }
    return NULL;
}

/* --- life ------------------------------------------------------------------------------------ */

static int open_port(struct admin *admin, struct err_text *why)
{
    const struct config *cfg = admin->cfg;
    const struct http_options options = {.address = cfg->admin_addr,
                                         .ports = cfg->admin_addr_explicit ? 1 : ADMIN_PORTS,
                                         .setting = "admin_addr",
                                         .advice =
                                             "choose another address, or null for no admin port",
                                         .pages = pages,
                                         .page_count = sizeof pages / sizeof *pages,
                                         .ctx = admin};
    return http_open(&admin->http, &options, why);
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
    admin->wake_fd = -1;
    admin->start_boot_ms = clock_boot_ms();
    admin->start_wall_ms = clock_wall_ms();
    /* What happens before the thread's first look counts, too. */
    rates_sample(&admin->rates, admin->start_boot_ms, (const uint64_t[RATES]){0});
    int rc;
    if ((rc = open_port(admin, why)) || (rc = start_thread(admin, why))) {
        admin_destroy(admin);
        return rc;
    }
    *out = admin;
    return 0;
}

const char *admin_address(const struct admin *admin)
{
    return http_address(admin->http);
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
    http_close(admin->http);
    if (admin->wake_fd >= 0)
        close(admin->wake_fd);
    mem_free(admin->store_path);
    mem_free(admin);
}
