/* SPDX-License-Identifier: Apache-2.0 */
#include "rpc/client.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>

#include "rpc/client_internal.h"

enum {
    IDLE_CALLS_MAX = 1024,
    KEEP_LEN = 16384, /* of a buffer in an idle call */
};

/* --- memory of calls ------------------------------------------------------------------------- */

static uint32_t take_slot(struct rpc_client *client, struct client_call *call)
{
    if (client->free_slot == SLOT_NONE) {
        uint32_t index = client->slot_count++;
        client->slots = (struct call_slot *)mem_realloc(
            client->slots, client->slot_count * sizeof(client->slots[0]));
        /* Generations start at 1, so that no id is 0. */
        client->slots[index] = (struct call_slot){.generation = 1, .next_free = SLOT_NONE};
        client->free_slot = index;
    }
    uint32_t index = client->free_slot;
    client->free_slot = client->slots[index].next_free;
    client->slots[index].call = call;
    return index;
}

static void give_slot(struct rpc_client *client, uint32_t index)
{
    struct call_slot *slot = &client->slots[index];

    slot->call = NULL;
    slot->generation = slot->generation == UINT32_MAX ? 1 : slot->generation + 1;
    slot->next_free = client->free_slot;
    client->free_slot = index;
}

static struct client_call *find_call(struct rpc_client *client, uint64_t id)
{
    uint32_t index = (uint32_t)id;

    if (index >= client->slot_count || client->slots[index].generation != id >> 32)
        return NULL;
    return client->slots[index].call;
}

static struct client_call *new_call(struct rpc_client *client)
{
    struct list_node *node = list_pop_front(&client->idle);
    struct client_call *call = node ? container_of(node, struct client_call, node)
                                    : (struct client_call *)mem_zalloc(sizeof(*call));

    call->slot = take_slot(client, call);
    call->generation = client->slots[call->slot].generation;
    call->stream_id = 0;
    call->is_done = false;
    call->request_sent = 0;
    call->http_status = 0;
    call->grpc_status = -1;
    return call;
}

static void clear_buf(struct buf *buf)
{
    if (buf->cap > KEEP_LEN)
        buf_free(buf);
    buf_clear(buf);
}

static void free_call(struct client_call *call)
{
    buf_free(&call->path);
    buf_free(&call->request);
    buf_free(&call->response.body);
    buf_free(&call->message);
    mem_free(call);
}

void client_recycle(struct rpc_client *client, struct client_call *call)
{
    assert(call->is_done && !list_linked(&call->node));
    if (client->idle.count >= IDLE_CALLS_MAX) {
        free_call(call);
        return;
    }
    clear_buf(&call->path);
    clear_buf(&call->request);
    clear_buf(&call->message);
    grpc_message_reset(&call->response, KEEP_LEN);
    list_push_front(&client->idle, &call->node);
}

/* --- the end of a call ----------------------------------------------------------------------- */

void client_finish(struct rpc_client *client, struct client_call *call,
                   const struct client_result *result)
{
    struct rpc_result out = {.status = result->status,
                             .message = result->message,
                             .body = buf_bytes(&call->response.body),
                             .is_local = result->is_local,
                             .is_unsent =
                                 result->is_local && call->request_sent < call->request.len};

    assert(!call->is_done);
    call->is_done = true;
    client->open_count--;
    give_slot(client, call->slot);
    if (heap_contains(&call->deadline))
        heap_remove(&client->deadlines, &call->deadline);
    if (result->status != GRPC_OK)
        out.body = bytes_of(NULL, 0);
    call->done(call->ctx, &out);
}

void client_answer(struct rpc_client *client, struct client_call *call)
{
    struct client_result result = {.status = call->grpc_status,
                                   .message = buf_cstr(&call->message)};

    if (call->grpc_status < 0) {
        result.status = (int)grpc_status_of_http(call->http_status);
        result.message = "The response has no grpc-status; is this a gRPC server?";
        result.is_local = call->http_status == 0;
    } else if (call->grpc_status == GRPC_OK && !grpc_message_complete(&call->response)) {
        result.status = GRPC_INTERNAL;
        result.message = "The response message is incomplete";
        result.is_local = true;
    }
    client_finish(client, call, &result);
}

/* Ends a call before its answer. One that has a stream stays in memory until that is closed. */
static void abandon(struct rpc_client *client, struct client_call *call,
                    const struct client_result *result)
{
    if (call->stream_id == 0) {
        list_remove(&client->waiting, &call->node);
        client_finish(client, call, result);
        client_recycle(client, call);
        return;
    }
    client_link_reset(client, call);
    client_finish(client, call, result);
}

static void expire_calls(struct rpc_client *client)
{
    const struct client_result result = {GRPC_DEADLINE_EXCEEDED, "Deadline exceeded", true};
    struct heap_node *node;

    while ((node = heap_min(&client->deadlines)) && node->key <= client->now_ms)
        abandon(client, container_of(node, struct client_call, deadline), &result);
}

/* --- public ---------------------------------------------------------------------------------- */

static char *make_authority(const char *host, uint16_t port)
{
    char text[300];
    bool is_v6 = strchr(host, ':') != NULL;

    (void)snprintf(text, sizeof(text), is_v6 ? "[%s]:%u" : "%s:%u", host, port);
    return mem_strdup(text);
}

struct rpc_client *rpc_client_new(const struct rpc_client_options *options)
{
    struct rpc_client *client = (struct rpc_client *)mem_zalloc(sizeof(*client));

    client->host = mem_strdup(options->host);
    client->port = options->port;
    client->authority = make_authority(options->host, options->port);
    client->authority_len = strlen(client->authority);
    client->connect_timeout_ms = options->connect_timeout_ms ? options->connect_timeout_ms : 5000;
    client->message_max = options->message_max ? options->message_max : 10485760;
    client->forks_lookups = options->forks_lookups;
    client->hold_calls = options->hold_calls;
    client->keepalive_ms = options->keepalive_ms ? options->keepalive_ms : 20000;
    client->secret =
        bytes_of(mem_strndup(options->secret.ptr, options->secret.len), options->secret.len);
    client->tls_config = rpc_tls_ref(options->tls);
    client->fd = -1;
    client->free_slot = SLOT_NONE;
    list_init(&client->waiting);
    list_init(&client->streams);
    list_init(&client->idle);
    heap_init(&client->deadlines);
    client_link_init(client);
    return client;
}

void rpc_client_free(struct rpc_client *client)
{
    const struct client_result cancelled = {GRPC_CANCELLED, "Cancelled", true};
    struct list_node *node;

    if (!client)
        return;
    /* Callbacks may queue new calls: those are in `waiting` and end here, too. */
    list_foreach (&client->streams, it) {
        struct client_call *call = container_of(it, struct client_call, node);
        if (!call->is_done)
            client_finish(client, call, &cancelled);
    }
    client_link_lose(client, "");
    while ((node = list_first(&client->waiting)))
        abandon(client, container_of(node, struct client_call, node), &cancelled);
    client_link_free(client);
    while ((node = list_pop_front(&client->idle)))
        free_call(container_of(node, struct client_call, node));
    heap_free(&client->deadlines);
    mem_free(client->slots);
    rpc_tls_unref(client->tls_config);
    mem_free((void *)client->secret.ptr);
    mem_free(client->authority);
    mem_free(client->host);
    mem_free(client);
}

void rpc_client_call(struct rpc_client *client, const char *path, struct bytes message,
                     uint32_t timeout_ms, rpc_result_fn done, void *ctx, int64_t now_ms,
                     uint64_t *id)
{
    struct client_call *call = new_call(client);
    uint8_t prefix[GRPC_PREFIX_LEN];

    assert(message.len <= UINT32_MAX);
    grpc_prefix_encode(prefix, (uint32_t)message.len);
    buf_append(&call->request, prefix, sizeof(prefix));
    buf_append(&call->request, message.ptr, message.len);
    buf_append_str(&call->path, path);
    call->done = done;
    call->ctx = ctx;
    call->timeout_ms = timeout_ms;
    if (timeout_ms) {
        grpc_timeout_format(call->timeout_text, timeout_ms);
        heap_insert(&client->deadlines, &call->deadline, clock_add(now_ms, timeout_ms));
    }
    if (client->secret.len)
        sign_request(call->signature, client->secret, bytes_str(path), message);
    client->open_count++;
    list_push_back(&client->waiting, &call->node);
    if (id)
        *id = (uint64_t)call->generation << 32 | call->slot;
}

void rpc_client_cancel(struct rpc_client *client, uint64_t id)
{
    const struct client_result cancelled = {GRPC_CANCELLED, "Cancelled", true};
    struct client_call *call = find_call(client, id);

    if (call)
        abandon(client, call, &cancelled);
}

size_t rpc_client_open_calls(const struct rpc_client *client)
{
    return client->open_count;
}

bool rpc_client_is_leaving(const struct rpc_client *client)
{
    return client->state == LINK_UP && client->is_going && client->streams.count > 0;
}

int rpc_client_fd(const struct rpc_client *client)
{
    return client->state == LINK_RESOLVING ? lookup_fd(client->lookup) : client->fd;
}

short rpc_client_events(const struct rpc_client *client)
{
    switch (client->state) {
    case LINK_NONE:
        return 0;
    case LINK_RESOLVING:
        return POLLIN;
    case LINK_CONNECTING:
        return POLLOUT;
    case LINK_SECURING:
        return tls_stream_wants_write(client->tls) ? POLLOUT : POLLIN;
    case LINK_UP:
        break;
    }
    if (client->tls && tls_stream_wants_write(client->tls))
        return POLLIN | POLLOUT;
    bool wants_out = client->out.len > client->out_head ||
                     (!list_empty(&client->waiting) && !rpc_client_is_leaving(client)) ||
                     nghttp2_session_want_write(client->session);
    return (short)(POLLIN | (wants_out ? POLLOUT : 0));
}

static int64_t keepalive_due_ms(const struct rpc_client *client)
{
    if (client->state != LINK_UP || client->open_count == 0)
        return CLOCK_NEVER;
    int64_t since_ms = client->ping_ms != CLOCK_NEVER ? client->ping_ms : client->heard_ms;
    return clock_add(since_ms, client->keepalive_ms);
}

int64_t rpc_client_next_ms(const struct rpc_client *client)
{
    const struct heap_node *node = heap_min(&client->deadlines);
    int64_t due_ms = node ? node->key : CLOCK_NEVER;
    int64_t keepalive_ms = keepalive_due_ms(client);

    if (client->state == LINK_NONE && !list_empty(&client->waiting))
        return 0; /* a connection is to be made */
    if (client->state != LINK_NONE && client->state != LINK_UP &&
        client->connect_deadline_ms < due_ms)
        due_ms = client->connect_deadline_ms;
    return keepalive_ms < due_ms ? keepalive_ms : due_ms;
}

static void keep_alive(struct rpc_client *client)
{
    if (client->now_ms < keepalive_due_ms(client))
        return;
    if (client->ping_ms != CLOCK_NEVER) {
        client_link_lose(client, "no answer to a PING");
        return;
    }
    client->ping_ms = client->now_ms;
    nghttp2_submit_ping(client->session, NGHTTP2_FLAG_NONE, NULL);
}

void rpc_client_io(struct rpc_client *client, int64_t now_ms)
{
    client->now_ms = now_ms;
    client_link_io(client);
    expire_calls(client);
    keep_alive(client);
    client_link_flush(client);
}

/* --- blocking form --------------------------------------------------------------------------- */

struct waiter {
    bool is_done, is_local;
    int status;
    struct buf *body;
    char message[400];
};

static void wake(void *ctx, const struct rpc_result *result)
{
    struct waiter *waiter = (struct waiter *)ctx;

    waiter->is_done = true;
    waiter->is_local = result->is_local;
    waiter->status = result->status;
    (void)snprintf(waiter->message, sizeof(waiter->message), "%s", result->message);
    if (waiter->body)
        buf_append(waiter->body, result->body.ptr, result->body.len);
}

static int poll_ms(const struct rpc_client *client, int64_t now_ms)
{
    int64_t due_ms = rpc_client_next_ms(client);

    if (due_ms == CLOCK_NEVER)
        return -1;
    int64_t left_ms = due_ms - now_ms;
    return left_ms < 0 ? 0 : left_ms > INT32_MAX ? INT32_MAX : (int)left_ms;
}

int rpc_client_call_wait(struct rpc_client *client, const char *path, struct bytes message,
                         uint32_t timeout_ms, int *status, struct buf *body, struct err_text *why)
{
    struct waiter waiter = {.body = body};
    int64_t now_ms = clock_boot_ms();

    rpc_client_call(client, path, message, timeout_ms, wake, &waiter, now_ms, NULL);
    rpc_client_io(client, now_ms);
    while (!waiter.is_done) {
        struct pollfd pollfd = {.fd = rpc_client_fd(client), .events = rpc_client_events(client)};
        int rv = poll(&pollfd, 1, poll_ms(client, now_ms));
        assert(rv >= 0 || errno == EINTR);
        now_ms = clock_boot_ms();
        rpc_client_io(client, now_ms);
    }
    *status = waiter.status;
    if (!waiter.is_local) {
        err_set(why, 0, "%s", waiter.message);
        return 0;
    }
    int code = waiter.status == GRPC_DEADLINE_EXCEEDED ? ERR_TIMEOUT : ERR_UNAVAILABLE;
    return err_set(why, code, "%s: %s", client->authority, waiter.message);
}
