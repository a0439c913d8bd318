/* SPDX-License-Identifier: Apache-2.0 */
#include "fixture.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct held_call {
    struct inbox_node node;
};

static struct rpc_call *call_of(struct inbox_node *node)
{
    return rpc_call_of_user(container_of(node, struct held_call, node));
}

static void count(struct fixture *fixture, size_t *value)
{
    pthread_mutex_lock(&fixture->lock);
    (*value)++;
    pthread_cond_broadcast(&fixture->changed);
    pthread_mutex_unlock(&fixture->lock);
}

static void start_echo(void *ctx, struct rpc_call *call)
{
    struct fixture *fixture = (struct fixture *)ctx;

    count(fixture, &fixture->started);
    inbox_push(&fixture->engine, &((struct held_call *)rpc_call_user(call))->node);
}

static void start_inline(void *ctx, struct rpc_call *call)
{
    (void)ctx;
    struct rpc_reply reply = {.blob = blob_copy(rpc_call_body(call))};

    rpc_reply(call, &reply);
}

static void start_fail(void *ctx, struct rpc_call *call)
{
    (void)ctx;
    struct bytes body = rpc_call_body(call);
    char *text = mem_strndup(body.ptr, body.len);
    struct rpc_reply reply = {.status = GRPC_NOT_FOUND, .message = text};

    rpc_reply(call, &reply);
    mem_free(text);
}

static void start_size(void *ctx, struct rpc_call *call)
{
    (void)ctx;
    struct bytes body = rpc_call_body(call);
    char *text = mem_strndup(body.ptr, body.len);
    size_t len = strtoul(text, NULL, 10);
    struct rpc_reply reply = {.blob = blob_new(len), .prefix = "ab", .prefix_len = 2};

    for (size_t i = 0; i < len; i++)
        reply.blob->data[i] = (uint8_t)i;
    rpc_reply(call, &reply);
    mem_free(text);
}

static void start_hold(void *ctx, struct rpc_call *call)
{
    struct fixture *fixture = (struct fixture *)ctx;
    struct inbox_node *node = &((struct held_call *)rpc_call_user(call))->node;

    pthread_mutex_lock(&fixture->lock);
    node->next = fixture->held;
    fixture->held = node;
    fixture->held_count++;
    fixture->started++;
    pthread_cond_broadcast(&fixture->changed);
    pthread_mutex_unlock(&fixture->lock);
}

static void on_cancelled(void *ctx, struct rpc_call *call)
{
    (void)call;
    struct fixture *fixture = (struct fixture *)ctx;

    count(fixture, &fixture->cancelled);
}

static void on_delivered(void *ctx, struct rpc_call *call, bool sent)
{
    (void)call;
    struct fixture *fixture = (struct fixture *)ctx;

    count(fixture, sent ? &fixture->sent : &fixture->unsent);
}

static void *engine_main(void *arg)
{
    struct fixture *fixture = (struct fixture *)arg;
    struct rpc_batch *batch = rpc_batch_new(fixture->server);

    while (!fixture->is_over) {
        struct inbox_node *node = inbox_take(&fixture->engine, 64);
        if (!node && inbox_prepare_sleep(&fixture->engine)) {
            struct pollfd pollfd = {.fd = fixture->engine.event_fd, .events = POLLIN};
            (void)poll(&pollfd, 1, -1);
            inbox_woken(&fixture->engine);
        }
        while (node) {
            struct inbox_node *next = node->next;
            struct rpc_call *call = call_of(node);
            struct rpc_reply reply = {.blob = blob_copy(rpc_call_body(call))};
            rpc_batch_reply(batch, call, &reply);
            node = next;
        }
        rpc_batch_flush(batch);
    }
    rpc_batch_free(batch);
    return NULL;
}

static struct fixture *new_fixture(const struct rpc_limits *limits, const char *secret,
                                   uint32_t threads, const struct rpc_tls_options *tls)
{
    static const struct rpc_method methods[] = {
        {ECHO_PATH, start_echo, on_cancelled, on_delivered},
        {INLINE_PATH, start_inline, NULL, NULL},
        {FAIL_PATH, start_fail, NULL, NULL},
        {SIZE_PATH, start_size, NULL, on_delivered},
        {HOLD_PATH, start_hold, on_cancelled, on_delivered},
    };
    struct fixture *fixture = (struct fixture *)mem_zalloc(sizeof(*fixture));
    struct bytes secrets[2] = {bytes_str("another"), bytes_str(secret ? secret : "")};
    struct rpc_server_options options = {
        .address = "127.0.0.1",
        .threads = threads,
        .methods = methods,
        .method_count = sizeof(methods) / sizeof(methods[0]),
        .ctx = fixture,
        .user_size = sizeof(struct held_call),
        .secrets = secrets,
        .secret_count = secret ? 2 : 0,
        .tls = tls,
    };
    struct err_text why;

    if (limits)
        options.limits = *limits;
    assert_int_equal(inbox_init(&fixture->engine), 0);
    pthread_mutex_init(&fixture->lock, NULL);
    pthread_cond_init(&fixture->changed, NULL);
    assert_int_equal(rpc_server_create(&fixture->server, &options, &why), 0);
    assert_int_equal(rpc_server_start(fixture->server, &why), 0);
    assert_int_equal(pthread_create(&fixture->engine_thread, NULL, engine_main, fixture), 0);
    return fixture;
}

struct fixture *fixture_new(const struct rpc_limits *limits, const char *secret, uint32_t threads)
{
    return new_fixture(limits, secret, threads, NULL);
}

struct fixture *fixture_new_tls(const struct rpc_limits *limits, const struct rpc_tls_options *tls)
{
    return new_fixture(limits, NULL, 1, tls);
}

void fixture_free(struct fixture *fixture)
{
    rpc_server_stop(fixture->server);
    atomic_store(&fixture->is_over, true);
    inbox_wake(&fixture->engine);
    pthread_join(fixture->engine_thread, NULL);
    for (struct inbox_node *node = inbox_take(&fixture->engine, SIZE_MAX), *next; node;
         node = next) {
        next = node->next;
        fixture_reply(call_of(node), GRPC_UNAVAILABLE, "over", NULL);
    }
    while (fixture->held)
        fixture_reply(fixture_held(fixture), GRPC_UNAVAILABLE, "over", NULL);
    rpc_server_destroy(fixture->server);
    inbox_destroy(&fixture->engine);
    pthread_cond_destroy(&fixture->changed);
    pthread_mutex_destroy(&fixture->lock);
    mem_free(fixture);
}

void fixture_wait(struct fixture *fixture, const size_t *value, size_t least)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += FIXTURE_WAIT_S;
    pthread_mutex_lock(&fixture->lock);
    int rv = 0;
    while (*value < least && rv == 0)
        rv = pthread_cond_timedwait(&fixture->changed, &fixture->lock, &until);
    size_t got = *value;
    pthread_mutex_unlock(&fixture->lock);
    if (got < least)
        fail_msg("waited for %zu, have %zu", least, got);
}

size_t fixture_count(struct fixture *fixture, const size_t *value)
{
    pthread_mutex_lock(&fixture->lock);
    size_t got = *value;
    pthread_mutex_unlock(&fixture->lock);
    return got;
}

struct rpc_call *fixture_held(struct fixture *fixture)
{
    fixture_wait(fixture, &fixture->held_count, 1);
    pthread_mutex_lock(&fixture->lock);
    struct inbox_node *node = fixture->held;
    fixture->held = node->next;
    fixture->held_count--;
    pthread_mutex_unlock(&fixture->lock);
    return call_of(node);
}

void fixture_reply(struct rpc_call *call, enum grpc_status status, const char *message,
                   const char *body)
{
    struct rpc_reply reply = {.status = status, .message = message};

    if (body)
        reply.blob = blob_copy(bytes_str(body));
    rpc_reply(call, &reply);
}

void fixture_wait_no_streams(struct fixture *fixture)
{
    int64_t end_ms = clock_boot_ms() + FIXTURE_WAIT_S * 1000;

    while (rpc_server_open_streams(fixture->server) > 0)
        if (clock_boot_ms() > end_ms)
            fail_msg("%zu streams stay open", rpc_server_open_streams(fixture->server));
}

/* --- client ----------------------------------------------------------------------------------- */

struct rpc_client *fixture_client(struct fixture *fixture, const char *secret)
{
    struct rpc_client_options options = {.host = "127.0.0.1",
                                         .port = rpc_server_port(fixture->server),
                                         .secret = bytes_str(secret ? secret : "")};

    return rpc_client_new(&options);
}

struct rpc_client *fixture_client_tls(struct fixture *fixture, const struct rpc_tls_options *tls)
{
    struct rpc_client_options options = {.host = "127.0.0.1",
                                         .port = rpc_server_port(fixture->server)};
    struct err_text why;

    assert_int_equal(rpc_tls_client_new(&options.tls, tls, &why), 0);
    struct rpc_client *client = rpc_client_new(&options);
    rpc_tls_unref(options.tls);
    return client;
}

void outcome_done(void *ctx, const struct rpc_result *result)
{
    struct outcome *outcome = (struct outcome *)ctx;

    outcome->calls++;
    outcome->status = result->status;
    outcome->is_local = result->is_local;
    snprintf(outcome->message, sizeof(outcome->message), "%s", result->message);
    buf_append(&outcome->body, result->body.ptr, result->body.len);
}

void outcome_free(struct outcome *outcome)
{
    buf_free(&outcome->body);
}

uint64_t fixture_call(struct rpc_client *client, const char *path, const char *body,
                      uint32_t timeout_ms, struct outcome *outcome)
{
    uint64_t id;

    rpc_client_call(client, path, bytes_str(body), timeout_ms, outcome_done, outcome,
                    clock_boot_ms(), &id);
    return id;
}

static void run_once(struct rpc_client *client, int64_t end_ms)
{
    int64_t now_ms = clock_boot_ms(), due_ms = rpc_client_next_ms(client);
    struct pollfd pollfd = {.fd = rpc_client_fd(client), .events = rpc_client_events(client)};

    if (now_ms > end_ms)
        fail_msg("waited in vain");
    if (due_ms > end_ms)
        due_ms = end_ms;
    (void)poll(&pollfd, 1, due_ms > now_ms ? (int)(due_ms - now_ms) : 0);
    rpc_client_io(client, clock_boot_ms());
}

void fixture_run_until(struct fixture *fixture, struct rpc_client *client, const size_t *value,
                       size_t least)
{
    int64_t end_ms = clock_boot_ms() + FIXTURE_WAIT_S * 1000;

    /* First until the request is written, then the server counts. */
    rpc_client_io(client, clock_boot_ms());
    while (rpc_client_events(client) & POLLOUT)
        run_once(client, end_ms);
    fixture_wait(fixture, value, least);
}

void fixture_run(struct rpc_client *client, const int *calls, int value)
{
    int64_t end_ms = clock_boot_ms() + FIXTURE_WAIT_S * 1000;

    rpc_client_io(client, clock_boot_ms());
    while (*calls < value)
        run_once(client, end_ms);
}

int fixture_ask(struct rpc_client *client, const char *path, struct bytes request, struct buf *body,
                struct err_text *why)
{
    struct err_text text;
    int status;
    int rv = rpc_client_call_wait(client, path, request, 0, &status, body, why ? why : &text);

    if (rv != 0)
        fail_msg("%s: %s", path, why ? why->s : text.s);
    return status;
}
