/* SPDX-License-Identifier: Apache-2.0 */
#include "rpc/server.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "rpc/reflection.h"
#include "rpc/server_internal.h"
#include "wire/consumer.h"

enum {
    ACCEPTS_PER_TURN = 64,
    ACCEPT_PAUSE_MS =
        100, /* after running out of descriptors: callers wait in the kernel's queue */
    LISTEN_BACKLOG = 4096,
    SWEEP_STEP_MIN_MS = 10,
    SWEEP_STEP_MAX_MS = 1000,
    /* Limits that nghttp2 enforces. */
    ACKS_MAX = 1000, /* answers to PING and SETTINGS that wait because the peer does not read */
    SETTINGS_MAX = 32,
    CONTINUATIONS_MAX = 8
};

/* --- options --------------------------------------------------------------------------------- */

static void set_default(uint32_t *value, uint32_t fallback)
{
    if (*value == 0)
        *value = fallback;
}

static void fill_limits(struct rpc_limits *limits)
{
    set_default(&limits->connections, 10000);
    set_default(&limits->streams_per_connection, 1024);
    set_default(&limits->message_bytes, 4194304);
    set_default(&limits->connection_bytes, 16777216);
    set_default(&limits->total_bytes, 268435456);
    set_default(&limits->outbound_bytes, 67108864);
    set_default(&limits->header_bytes, 16384);
    set_default(&limits->preface_timeout_ms, 10000);
    set_default(&limits->body_timeout_ms, 30000);
    set_default(&limits->write_timeout_ms, 20000);
    set_default(&limits->resets_per_s, 100);
    set_default(&limits->age_grace_ms, 30000);
    set_default(&limits->handshakes, 256);
}

/* A quarter of the shortest time-out, so that none is late by more. */
static int sweep_step_ms(const struct rpc_limits *limits)
{
    uint32_t step_ms = SWEEP_STEP_MAX_MS * 4;
    const uint32_t timeouts_ms[] = {
        limits->preface_timeout_ms, limits->body_timeout_ms, limits->write_timeout_ms,
        limits->idle_timeout_ms,    limits->age_ms,          limits->age_grace_ms};

    for (size_t i = 0; i < sizeof(timeouts_ms) / sizeof(timeouts_ms[0]); i++)
        if (timeouts_ms[i] != 0 && timeouts_ms[i] < step_ms)
            step_ms = timeouts_ms[i];
    step_ms /= 4;
    return step_ms < SWEEP_STEP_MIN_MS ? SWEEP_STEP_MIN_MS : (int)step_ms;
}

/* Of "/package.Service/Method". */
static struct bytes service_of(const char *path)
{
    const char *end = strrchr(path, '/');

    return end > path ? bytes_of(path + 1, (size_t)(end - path - 1)) : bytes_str("");
}

static void add_service(struct rpc_server *server, struct bytes name)
{
    for (size_t i = 0; i < server->service_count; i++)
        if (bytes_equal(server->services[i], name))
            return;
    server->services[server->service_count++] = name;
}

static void add_method(struct rpc_server *server, const struct rpc_method *method,
                       enum method_kind kind)
{
    server->methods[server->method_count++] =
        (struct server_method){.method = *method, .path_len = strlen(method->path), .kind = kind};
    add_service(server, service_of(method->path));
}

static void copy_methods(struct rpc_server *server, const struct rpc_server_options *options)
{
    const struct rpc_method check = {.path = HEALTH_CHECK, .start = health_check};
    const struct rpc_method watch = {.path = HEALTH_WATCH, .start = health_watch};
    const struct rpc_method info = {.path = REFLECTION_INFO, .start = reflection_start};
    const struct rpc_method alpha = {.path = REFLECTION_INFO_ALPHA, .start = reflection_start};
    size_t count = options->method_count + 4;

    server->methods = (struct server_method *)mem_calloc(count, sizeof(server->methods[0]));
    server->services = (struct bytes *)mem_calloc(count, sizeof(server->services[0]));
    for (size_t i = 0; i < options->method_count; i++)
        add_method(server, &options->methods[i], METHOD_UNARY);
    add_method(server, &check, METHOD_UNARY);
    add_method(server, &watch, METHOD_WATCH);
    add_method(server, &info, METHOD_REFLECTION);
    add_method(server, &alpha, METHOD_REFLECTION);
}

static void copy_secrets(struct rpc_server *server, const struct rpc_server_options *options)
{
    server->secret_count = options->secret_count;
    server->secrets = (struct bytes *)mem_calloc(options->secret_count, sizeof(server->secrets[0]));
    for (size_t i = 0; i < options->secret_count; i++) {
        struct bytes secret = options->secrets[i];
        server->secrets[i] = bytes_of(mem_strndup(secret.ptr, secret.len), secret.len);
    }
}

/* --- TLS ------------------------------------------------------------------------------------- */

static char *copy_path(const char *path)
{
    return path ? mem_strdup(path) : NULL;
}

static int set_up_tls(struct rpc_server *server, const struct rpc_tls_options *options,
                      struct err_text *why)
{
    if (!options)
        return 0;
    server->tls_options =
        (struct rpc_tls_options){.ca_path = copy_path(options->ca_path),
                                 .certificate_path = copy_path(options->certificate_path),
                                 .key_path = copy_path(options->key_path)};
    return rpc_tls_server_new(&server->tls, &server->tls_options, why);
}

static void free_tls(struct rpc_server *server)
{
    rpc_tls_unref(server->tls);
    mem_free((char *)server->tls_options.ca_path);
    mem_free((char *)server->tls_options.certificate_path);
    mem_free((char *)server->tls_options.key_path);
    pthread_mutex_destroy(&server->tls_lock);
}

struct rpc_tls *server_tls(struct rpc_server *server)
{
    pthread_mutex_lock(&server->tls_lock);
    struct rpc_tls *tls = rpc_tls_ref(server->tls);
    pthread_mutex_unlock(&server->tls_lock);
    return tls;
}

int rpc_server_reload_tls(struct rpc_server *server, struct err_text *why)
{
    struct rpc_tls *fresh, *old;

    if (!server->tls_options.certificate_path)
        return 0;
    int rv = rpc_tls_server_new(&fresh, &server->tls_options, why);
    if (rv != 0)
        return rv;
    pthread_mutex_lock(&server->tls_lock);
    old = server->tls;
    server->tls = fresh;
    pthread_mutex_unlock(&server->tls_lock);
    rpc_tls_unref(old);
    return 0;
}

static int set_up_nghttp2(struct rpc_server *server)
{
    const struct rpc_limits *limits = &server->limits;

    if (nghttp2_session_callbacks_new(&server->callbacks) != 0)
        return ERR_SYSTEM;
    if (nghttp2_option_new(&server->option) != 0)
        return ERR_SYSTEM;
    conn_callbacks(server->callbacks);
    nghttp2_option_set_no_closed_streams(server->option, 1);
    nghttp2_option_set_max_outbound_ack(server->option, ACKS_MAX);
    nghttp2_option_set_max_settings(server->option, SETTINGS_MAX);
    nghttp2_option_set_max_continuations(server->option, CONTINUATIONS_MAX);
    nghttp2_option_set_stream_reset_rate_limit(server->option, (uint64_t)limits->resets_per_s * 10,
                                               limits->resets_per_s);
    return 0;
}

/* --- listening ------------------------------------------------------------------------------- */

struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    };
    socklen_t len;
};

static int parse_address(struct address *out, const char *text, uint16_t port)
{
    *out = (struct address){0};
    if (inet_pton(AF_INET, text, &out->v4.sin_addr) == 1) {
        out->v4.sin_family = AF_INET;
        out->v4.sin_port = htons(port);
        out->len = sizeof(out->v4);
        return 0;
    }
    if (inet_pton(AF_INET6, text, &out->v6.sin6_addr) == 1) {
        out->v6.sin6_family = AF_INET6;
        out->v6.sin6_port = htons(port);
        out->len = sizeof(out->v6);
        return 0;
    }
    return ERR_INVALID;
}

static int bind_and_listen(int fd, struct address *address)
{
    int one = 1;

    /* REUSEADDR only skips TIME_WAIT; a second listener is still refused. */
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) != 0 ||
        bind(fd, &address->any, address->len) != 0 || listen(fd, LISTEN_BACKLOG) != 0)
        return ERR_SYSTEM;
    if (getsockname(fd, &address->any, &address->len) != 0)
        return ERR_SYSTEM;
    return 0;
}

static const char *bind_hint(int error)
{
    switch (error) {
    case EADDRINUSE:
        return "; stop the program that uses it or choose another port";
    case EADDRNOTAVAIL:
        return "; choose an address of this machine, or 0.0.0.0 for all";
    case EACCES:
        return "; ports below 1024 need root, choose a higher one";
    default:
        return "";
    }
}

static int open_listener(struct rpc_server *server, const char *text, uint16_t port,
                         struct err_text *why)
{
    struct address address;

    if (parse_address(&address, text, port) != 0)
        return err_set(why, ERR_INVALID, "address %s: not an IPv4 or IPv6 address", text);
    int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind_and_listen(fd, &address) != 0) {
        int error = errno;
        if (fd >= 0)
            close(fd);
        return err_set(why, ERR_SYSTEM, "address %s:%u: %s%s", text, port, strerror(error),
                       bind_hint(error));
    }
    server->listen_fd = fd;
    server->port =
        ntohs(address.any.sa_family == AF_INET ? address.v4.sin_port : address.v6.sin6_port);
    return 0;
}

static int watch_listener(struct rpc_server *server)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = server};

    return epoll_ctl(server->threads[0].epoll_fd, EPOLL_CTL_ADD, server->listen_fd, &event);
}

/* Out of descriptors or memory: stop looking for a while instead of spinning on a ready listener.
 */
static void pause_accepting(struct rpc_server *server)
{
    struct server_thread *thread = &server->threads[0];

    if (server_thread_may_log(thread))
        log_warn(RPC_LOG, NULL, "cannot accept connections: %s; raise the limit of open files",
                 strerror(errno));
    epoll_ctl(thread->epoll_fd, EPOLL_CTL_DEL, server->listen_fd, NULL);
    server->accept_again_ms = thread->now_ms + ACCEPT_PAUSE_MS;
}

void server_accept_again(struct rpc_server *server)
{
    if (server->accept_again_ms == 0 || server->threads[0].now_ms < server->accept_again_ms)
        return;
    server->accept_again_ms = 0;
    if (watch_listener(server) != 0)
        server->accept_again_ms = server->threads[0].now_ms + ACCEPT_PAUSE_MS;
}

static void set_socket_options(const struct rpc_server *server, int fd)
{
    int one = 1;
    unsigned int user_timeout_ms = server->limits.write_timeout_ms;

    /* Failures only cost latency, or time until a dead peer is noticed. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout_ms, sizeof(user_timeout_ms));
}

static void hand_over(struct rpc_server *server, int fd)
{
    if (atomic_load(&server->conn_count) >= server->limits.connections) {
        if (server_thread_may_log(&server->threads[0]))
            log_warn(RPC_LOG, LOG_FIELDS(log_int("limit", server->limits.connections)),
                     "connection refused: too many are open");
        close(fd);
        return;
    }
    atomic_fetch_add_explicit(&server->conn_count, 1, memory_order_relaxed);
    set_socket_options(server, fd);
    struct server_thread *thread = &server->threads[server->next_thread++ % server->thread_count];
    struct conn *conn = conn_new(thread, fd);
    inbox_push(&thread->inbox, &conn->msg.node);
}

void server_accept(struct rpc_server *server)
{
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        int fd = accept4(server->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0) {
            hand_over(server, fd);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            pause_accepting(server);
            return;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return;
        }
        /* Any other error concerns only the connection that was to be accepted. */
    }
}

/* --- life ------------------------------------------------------------------------------------ */

static int init_threads(struct rpc_server *server, uint32_t count, struct err_text *why)
{
    server->threads = (struct server_thread *)mem_calloc(count, sizeof(server->threads[0]));
    for (; server->thread_count < count; server->thread_count++) {
        int rv = server_thread_init(&server->threads[server->thread_count], server,
                                    server->thread_count, why);
        if (rv != 0)
            return rv;
    }
    return 0;
}

int rpc_server_create(struct rpc_server **out, const struct rpc_server_options *options,
                      struct err_text *why)
{
    struct rpc_server *server = (struct rpc_server *)mem_zalloc(sizeof(*server));
    int rv;

    assert(options->threads >= 1 && options->threads <= 64);
    server->listen_fd = -1;
    server->ctx = options->ctx;
    server->user_size = options->user_size;
    server->turn_end = options->turn_end;
    server->finished = options->finished;
    server->limits = options->limits;
    fill_limits(&server->limits);
    server->sweep_step_ms = sweep_step_ms(&server->limits);
    copy_methods(server, options);
    copy_secrets(server, options);
    pthread_mutex_init(&server->tls_lock, NULL);
    health_init(&server->health);
    health_set(&server->health, bytes_str(""), HEALTH_SERVING);
    if (set_up_nghttp2(server) != 0) {
        rv = err_set(why, ERR_SYSTEM, "nghttp2 cannot be set up");
        goto fail;
    }
    if ((rv = set_up_tls(server, options->tls, why)) != 0 ||
        (rv = init_threads(server, options->threads, why)) != 0 ||
        (rv = open_listener(server, options->address, options->port, why)) != 0)
        goto fail;
    *out = server;
    return 0;

fail:
    rpc_server_destroy(server);
    return rv;
}

int rpc_server_start(struct rpc_server *server, struct err_text *why)
{
    if (watch_listener(server) != 0)
        return err_set(why, ERR_SYSTEM, "rpc server: epoll: %s", strerror(errno));
    for (uint32_t i = 0; i < server->thread_count; i++) {
        struct server_thread *thread = &server->threads[i];
        int error = pthread_create(&thread->id, NULL, server_thread_main, thread);

        if (error != 0) {
            rpc_server_stop(server);
            return err_set(why, ERR_SYSTEM, "rpc thread %u: %s", i, strerror(error));
        }
        char name[16];
        (void)snprintf(name, sizeof(name), "rpc-%u", i);
        pthread_setname_np(thread->id, name);
        thread->is_running = true;
    }
    return 0;
}

uint16_t rpc_server_port(const struct rpc_server *server)
{
    return server->port;
}

static void wake_all(struct rpc_server *server)
{
    for (uint32_t i = 0; i < server->thread_count; i++)
        inbox_wake(&server->threads[i].inbox);
}

void rpc_server_drain(struct rpc_server *server)
{
    atomic_store(&server->is_draining, true);
    wake_all(server);
}

size_t rpc_server_open_streams(const struct rpc_server *server)
{
    size_t count = 0;

    for (uint32_t i = 0; i < server->thread_count; i++)
        count += atomic_load(&server->threads[i].open_streams);
    return count;
}

size_t rpc_server_connections(const struct rpc_server *server)
{
    return atomic_load_explicit(&server->conn_count, memory_order_relaxed);
}

void rpc_server_stop(struct rpc_server *server)
{
    atomic_store(&server->is_stopping, true);
    wake_all(server);
    for (uint32_t i = 0; i < server->thread_count; i++) {
        struct server_thread *thread = &server->threads[i];
        if (!thread->is_running)
            continue;
        int error = pthread_join(thread->id, NULL);
        assert(error == 0);
        thread->is_running = false;
    }
}

void rpc_server_destroy(struct rpc_server *server)
{
    if (!server)
        return;
    for (uint32_t i = 0; i < server->thread_count; i++)
        assert(!server->threads[i].is_running);
    atomic_store(&server->is_stopping, true); /* connections that were never started are closed */
    for (uint32_t i = 0; i < server->thread_count; i++)
        server_thread_free(&server->threads[i]);
    if (server->listen_fd >= 0)
        close(server->listen_fd);
    nghttp2_session_callbacks_del(server->callbacks);
    nghttp2_option_del(server->option);
    health_free(&server->health);
    free_tls(server);
    for (size_t i = 0; i < server->secret_count; i++)
        mem_free((void *)server->secrets[i].ptr);
    mem_free(server->secrets);
    mem_free(server->services);
    mem_free(server->methods);
    mem_free(server->threads);
    mem_free(server);
}

void rpc_server_set_health(struct rpc_server *server, const char *service, int status)
{
    health_set(&server->health, bytes_str(service), status);
    wake_all(server);
}
