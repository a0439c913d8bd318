/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>

#include "rpc/server_internal.h"

enum {
    IDLE_CALLS_MAX = 4096,  /* kept for reuse per thread */
    REQUEST_KEEP_LEN = 4096 /* of request memory kept in an idle call */
};

static _Thread_local struct server_thread *current_thread;

void server_thread_enter(struct server_thread *thread)
{
    current_thread = thread;
}

/* --- memory ---------------------------------------------------------------------------------- */

static void call_free(struct rpc_call *call)
{
    grpc_message_reset(&call->request, 0);
    buf_free(&call->request.body);
    call->thread->call_count--;
    mem_free(call);
}

static void put_idle(struct server_thread *thread, struct rpc_call *call)
{
    if (thread->idle_count >= IDLE_CALLS_MAX) {
        call_free(call);
        return;
    }
    call->next_idle = thread->idle;
    thread->idle = call;
    thread->idle_count++;
}

static void fetch_returned(struct server_thread *thread)
{
    struct rpc_call *call = atomic_exchange_explicit(&thread->returned, NULL, memory_order_acquire);

    while (call) {
        struct rpc_call *next = call->next_idle;
        put_idle(thread, call);
        call = next;
    }
}

static struct rpc_call *take_memory(struct server_thread *thread)
{
    struct rpc_call *call;

    if (!thread->idle)
        fetch_returned(thread);
    if (thread->idle) {
        call = thread->idle;
        thread->idle = call->next_idle;
        thread->idle_count--;
        return call;
    }
    call = (struct rpc_call *)mem_alloc(sizeof(*call) + thread->server->user_size);
    call->request.body = (struct buf){0};
    thread->call_count++;
    return call;
}

struct rpc_call *call_new(struct conn *conn, int32_t stream_id)
{
    struct server_thread *thread = conn->thread;
    struct rpc_call *call = take_memory(thread);
    struct buf body = call->request.body;

    memset(call, 0, sizeof(*call) + thread->server->user_size);
    call->request.body = body;
    call->msg.kind = MSG_REPLY;
    atomic_init(&call->refs, 1);
    call->thread = thread;
    call->conn = conn;
    call->stream_id = stream_id;
    call->is_open = true;
    call->deadline_ms = CLOCK_NEVER;
    call->started_ms = thread->now_ms;
    call->started_us = thread->now_us;
    list_push_back(&conn->calls, &call->in_conn);
    list_push_back(&conn->receiving, &call->in_phase);
    conn->call_count++;
    conn->idle_since_ms = CLOCK_NEVER;
    atomic_fetch_add_explicit(&thread->open_streams, 1, memory_order_relaxed);
    return call;
}

void calls_free(struct server_thread *thread)
{
    fetch_returned(thread);
    while (thread->idle) {
        struct rpc_call *call = thread->idle;
        thread->idle = call->next_idle;
        call_free(call);
    }
    assert(thread->call_count == 0); /* else somebody holds a call of a server that is no more */
}

static void recycle(struct rpc_call *call)
{
    struct server_thread *thread = call->thread;

    blob_unref(call->reply.blob);
    mem_free((char *)call->reply.message);
    buf_free(&call->waiting);
    buf_free(&call->path);
    grpc_message_reset(&call->request, REQUEST_KEEP_LEN);
    if (thread == current_thread) {
        put_idle(thread, call);
        return;
    }
    struct rpc_call *top = atomic_load_explicit(&thread->returned, memory_order_relaxed);
    do
        call->next_idle = top;
    while (!atomic_compare_exchange_weak_explicit(&thread->returned, &top, call,
                                                  memory_order_release, memory_order_relaxed));
}

/* --- a call's life on its thread ------------------------------------------------------------- */

static void tell_finished(const struct rpc_call *call)
{
    const struct rpc_server *server = call->thread->server;
    int64_t took_us = call->thread->now_us - call->started_us;

    if (server->finished)
        server->finished(server->ctx, call->method ? call->method->method.path : NULL,
                         took_us > 0 ? (uint64_t)took_us : 0);
}

void call_set_state(struct rpc_call *call, enum call_state state)
{
    assert(state > call->state); /* only forwards; HELD may be skipped */
    if (call->is_stream ? call->state == CALL_RECEIVING : state == CALL_REPLIED)
        tell_finished(call);
    if (call->state == CALL_RECEIVING)
        list_remove(&call->conn->receiving, &call->in_phase);
    call->state = state;
    if (state == CALL_REPLIED)
        call_drop_request(call);
}

void call_count_request(struct rpc_call *call, size_t more)
{
    call->request_bytes += more;
    call->conn->request_bytes += more;
    call->thread->request_bytes += more;
}

void call_uncount_request(struct rpc_call *call, size_t less)
{
    assert(less <= call->request_bytes);
    call->request_bytes -= less;
    call->conn->request_bytes -= less;
    call->thread->request_bytes -= less;
}

const char *call_over_limit(const struct rpc_call *call)
{
    const struct rpc_server *server = call->thread->server;

    if (call->conn->request_bytes > server->limits.connection_bytes)
        return "Too many request bytes on this connection";
    if (call->thread->request_bytes > server->limits.total_bytes / server->thread_count)
        return "Too many request bytes on this server";
    return NULL;
}

void call_drop_request(struct rpc_call *call)
{
    call_uncount_request(call, call->request_bytes);
    if (!call->is_stream) /* a watch, whose request names the service for as long as it lives */
        grpc_message_reset(&call->request, REQUEST_KEEP_LEN);
}

static void stop_deadline(struct rpc_call *call)
{
    if (heap_contains(&call->deadline))
        heap_remove(&call->thread->deadlines, &call->deadline);
}

void call_settle(struct rpc_call *call)
{
    struct conn *conn = call->conn;

    if (call->is_open || call->state != CALL_REPLIED || call->is_delivery_due)
        return;
    call->conn = NULL;
    rpc_call_unref(call);
    conn_release_call(conn);
}

void call_tell_delivery(struct rpc_call *call, bool sent)
{
    if (!call->is_delivery_due)
        return;
    call->is_delivery_due = false;
    call->method->method.delivered(call->thread->server->ctx, call, sent);
}

void call_refuse(struct rpc_call *call, enum grpc_status status, const char *message)
{
    struct buf encoded = {0};

    stop_deadline(call);
    call_set_state(call, CALL_REPLIED);
    grpc_percent_encode(message, &encoded);
    send_status(call, status, buf_bytes(&encoded));
    buf_free(&encoded);
}

static bool is_authentic(struct rpc_call *call)
{
    const struct rpc_server *server = call->thread->server;

    if (call->is_exempt)
        return true;
    struct bytes path = call->method ? bytes_of(call->method->method.path, call->method->path_len)
                                     : buf_bytes(&call->path);
    if (sign_verify(bytes_of(call->signature, call->signature_len), server->secrets,
                    server->secret_count, path, buf_bytes(&call->request.body)))
        return true;
    if (server_thread_may_log(call->thread))
        log_error(RPC_LOG, LOG_FIELDS(log_bytes("path", path)),
                  "GRPC Authentication error: Invalid request signature");
    return false;
}

static bool is_well_formed(struct rpc_call *call)
{
    if (grpc_message_complete(&call->request))
        return true;
    if (call->request.prefix_len == 0)
        call_refuse(call, GRPC_INTERNAL, "Missing request message.");
    else
        call_refuse(call, GRPC_INTERNAL, "Unexpected EOF decoding stream.");
    return false;
}

void call_start(struct rpc_call *call)
{
    if (!is_well_formed(call))
        return;
    if (!is_authentic(call)) {
        call_refuse(call, GRPC_UNAUTHENTICATED, "Authentication failed");
        return;
    }
    if (!call->method) {
        call_refuse(call, GRPC_UNIMPLEMENTED, "");
        return;
    }
    call_set_state(call, CALL_HELD);
    if (call->deadline_ms != CLOCK_NEVER)
        heap_insert(&call->thread->deadlines, &call->deadline, call->deadline_ms);
    call->method->method.start(call->thread->server->ctx, call);
}

static void leave(struct rpc_call *call)
{
    call->is_gone = true;
    if (call->method->method.cancelled)
        call->method->method.cancelled(call->thread->server->ctx, call);
}

void call_closed(struct rpc_call *call, bool has_failed)
{
    struct conn *conn = call->conn;

    assert(call->is_open);
    call->is_open = false;
    stop_deadline(call);
    list_remove(&conn->calls, &call->in_conn);
    conn->reply_bytes -= call->reply_len - call->reply_sent;
    if (conn->calls.count == 0)
        conn->idle_since_ms = call->thread->now_ms;
    atomic_fetch_sub_explicit(&call->thread->open_streams, 1, memory_order_relaxed);

    if (list_linked(&call->in_streams))
        list_remove(&call->thread->streams, &call->in_streams);
    if (call->state == CALL_HELD && !call->is_stream && !call->is_gone)
        leave(call);
    else if (call->state == CALL_RECEIVING || (call->state == CALL_HELD && call->is_stream))
        call_set_state(call, CALL_REPLIED);
    else if (call->state == CALL_REPLIED && !list_linked(&call->in_phase))
        call_tell_delivery(call, !has_failed); /* no DATA on its way that would tell it later */
    call_settle(call);
}

void call_replied(struct rpc_call *call)
{
    stop_deadline(call);
    call_set_state(call, CALL_REPLIED);
    /* A reply after rpc_server_stop comes home on another thread: no handler wants to hear of it.
     */
    call->is_delivery_due = call->method->method.delivered && call->thread == current_thread;
    if (call->is_gone) {
        call_tell_delivery(call, false);
        call_settle(call);
        return;
    }
    send_reply(call);
}

void call_expire(struct rpc_call *call)
{
    static const char text[] = "Timeout%20expired";

    stop_deadline(call);
    if (call->state != CALL_HELD || !call->is_open)
        return;
    if (call->is_stream) {
        stream_stop(call, GRPC_CANCELLED);
        return;
    }
    leave(call);
    send_status(call, GRPC_CANCELLED, bytes_str(text));
}

/* --- the handlers' side ---------------------------------------------------------------------- */

struct bytes rpc_call_body(const struct rpc_call *call)
{
    return buf_bytes(&call->request.body);
}

int64_t rpc_call_deadline_ms(const struct rpc_call *call)
{
    return call->deadline_ms;
}

int64_t rpc_call_started_us(const struct rpc_call *call)
{
    return call->started_us;
}

uint32_t rpc_call_thread(const struct rpc_call *call)
{
    return call->thread->index;
}

void *rpc_call_user(struct rpc_call *call)
{
    return call->user;
}

struct rpc_call *rpc_call_of_user(void *user)
{
    return container_of(user, struct rpc_call, user);
}

struct rpc_call *rpc_call_ref(struct rpc_call *call)
{
    uint32_t before = atomic_fetch_add_explicit(&call->refs, 1, memory_order_relaxed);

    assert(before > 0);
    return call;
}

void rpc_call_unref(struct rpc_call *call)
{
    uint32_t before = atomic_fetch_sub_explicit(&call->refs, 1, memory_order_acq_rel);

    assert(before > 0);
    if (before == 1)
        recycle(call);
}

static void fill_reply(struct rpc_call *call, const struct rpc_reply *reply)
{
    assert(reply->prefix_len <= sizeof(reply->prefix));
    call->reply = *reply;
    if (!reply->message)
        return;
    struct buf encoded = {0};
    grpc_percent_encode(reply->message, &encoded);
    call->reply.message = buf_cstr(&encoded); /* the call frees it */
}

void rpc_reply(struct rpc_call *call, const struct rpc_reply *reply)
{
    struct server_thread *thread = call->thread;

    fill_reply(call, reply);
    if (thread != current_thread) {
        inbox_push(&thread->inbox, &call->msg.node);
        return;
    }
    call->msg.node.next = NULL;
    *thread->local_tail = &call->msg.node;
    thread->local_tail = &call->msg.node.next;
}

struct batch_chain {
    struct inbox_node *first, **tail;
    size_t count;
};

struct rpc_batch {
    struct rpc_server *server;
    struct batch_chain chains[]; /* one per rpc thread */
};

struct rpc_batch *rpc_batch_new(struct rpc_server *server)
{
    struct rpc_batch *batch = (struct rpc_batch *)mem_zalloc(
        sizeof(*batch) + server->thread_count * sizeof(batch->chains[0]));

    batch->server = server;
    for (uint32_t i = 0; i < server->thread_count; i++)
        batch->chains[i].tail = &batch->chains[i].first;
    return batch;
}

void rpc_batch_free(struct rpc_batch *batch)
{
    if (!batch)
        return;
    rpc_batch_flush(batch);
    mem_free(batch);
}

void rpc_batch_reply(struct rpc_batch *batch, struct rpc_call *call, const struct rpc_reply *reply)
{
    struct batch_chain *chain = &batch->chains[call->thread->index];

    fill_reply(call, reply);
    call->msg.node.next = NULL;
    *chain->tail = &call->msg.node;
    chain->tail = &call->msg.node.next;
    chain->count++;
}

void rpc_batch_flush(struct rpc_batch *batch)
{
    for (uint32_t i = 0; i < batch->server->thread_count; i++) {
        struct batch_chain *chain = &batch->chains[i];

        inbox_push_chain(&batch->server->threads[i].inbox, chain->first, chain->count);
        *chain = (struct batch_chain){.tail = &chain->first};
    }
}
