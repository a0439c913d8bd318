/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What goes to the peer. nghttp2 makes frames one at a time (mem_send); they are collected in the
 * thread's buffer and leave in one write(2). DATA is made by us in the same buffer (NO_COPY),
 * straight from the reply's blob: that is the one copy it sees, and tells where in the stream of
 * bytes a reply begins, hence when the kernel has taken its first byte.
 */
#include <assert.h>
#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "rpc/server_internal.h"

enum { WRITES_PER_TURN = 4 }; /* of one connection, then it is the turn of the others */

static const nghttp2_nv ok_headers[] = {GRPC_STATIC_NV(":status", "200"),
                                        GRPC_STATIC_NV("content-type", "application/grpc")};
static const nghttp2_nv ok_trailer = GRPC_STATIC_NV("grpc-status", "0");

/* --- replies to frames ----------------------------------------------------------------------- */

static void submit_trailer(struct rpc_call *call)
{
    const struct rpc_reply *reply = &call->reply;
    nghttp2_nv nv[2] = {ok_trailer};
    size_t count = 1;

    if (reply->status != GRPC_OK) {
        nv[0] = grpc_nv("grpc-status", grpc_status_text(reply->status));
        if (reply->message)
            nv[count++] = grpc_nv("grpc-message", bytes_str(reply->message));
    }
    if (nghttp2_submit_trailer(call->conn->session, call->stream_id, nv, count) != 0)
        conn_fail(call->conn, "trailers could not be sent");
}

static ssize_t read_reply(nghttp2_session *session, int32_t stream_id, uint8_t *buf, size_t max_len,
                          uint32_t *flags, nghttp2_data_source *source, void *user)
{
    (void)session, (void)stream_id, (void)buf, (void)user;
    struct rpc_call *call = (struct rpc_call *)source->ptr;
    size_t left = call->reply_len - call->reply_sent;

    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (left > max_len)
        return (ssize_t)max_len;
    *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
    submit_trailer(call);
    return (ssize_t)left;
}

/* Appends bytes [reply_sent, reply_sent + len) of: gRPC prefix, reply prefix, blob. */
static void append_reply(struct rpc_call *call, struct buf *out, size_t len)
{
    uint8_t head[GRPC_PREFIX_LEN + sizeof(call->reply.prefix)];
    size_t head_len = GRPC_PREFIX_LEN + call->reply.prefix_len;

    if (call->reply_sent < head_len) {
        grpc_prefix_encode(head, (uint32_t)(call->reply_len - GRPC_PREFIX_LEN));
        memcpy(head + GRPC_PREFIX_LEN, call->reply.prefix, call->reply.prefix_len);
        size_t part = head_len - call->reply_sent;
        if (part > len)
            part = len;
        buf_append(out, head + call->reply_sent, part);
        call->reply_sent += part;
        len -= part;
    }
    if (len == 0)
        return;
    buf_append(out, call->reply.blob->data + (call->reply_sent - head_len), len);
    call->reply_sent += len;
}

int send_data_frame(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *head, size_t len,
                    nghttp2_data_source *source, void *user)
{
    (void)session;
    struct conn *conn = (struct conn *)user;
    struct rpc_call *call = (struct rpc_call *)source->ptr;
    struct buf *out = &conn->thread->out;

    assert(frame->data.padlen == 0); /* we ask for no padding */
    buf_append(out, head, 9);
    conn->queued += 9;
    if (call->is_delivery_due && !list_linked(&call->in_phase)) {
        call->data_at = conn->queued;
        list_push_back(&conn->unsent, &call->in_phase);
    }
    append_reply(call, out, len);
    conn->queued += len;
    conn->reply_bytes -= len;
    conn->reply_ms = conn->thread->now_ms;
    return 0;
}

static void count_reply(struct rpc_call *call)
{
    struct conn *conn = call->conn;

    if (conn->reply_bytes == 0)
        conn->reply_ms = conn->thread->now_ms;
    conn->reply_bytes += call->reply_len;
    if (conn->reply_bytes + conn->backlog.len > conn->thread->server->limits.outbound_bytes)
        conn_fail(conn, "peer takes replies too slowly");
}

static void submit_headers(struct rpc_call *call, const nghttp2_nv *nv, size_t count,
                           nghttp2_data_source_read_callback read)
{
    struct conn *conn = call->conn;
    nghttp2_data_provider provider = {.source.ptr = call, .read_callback = read};

    if (nghttp2_submit_response(conn->session, call->stream_id, nv, count,
                                read ? &provider : NULL) != 0)
        conn_fail(conn, "response could not be sent");
    conn_mark_dirty(conn);
}

void send_reply(struct rpc_call *call)
{
    struct rpc_reply *reply = &call->reply;

    if (reply->status != GRPC_OK) {
        send_status(call, reply->status, bytes_str(reply->message ? reply->message : ""));
        return;
    }
    call->reply_len = GRPC_PREFIX_LEN + reply->prefix_len + blob_bytes(reply->blob).len;
    count_reply(call);
    submit_headers(call, ok_headers, 2, read_reply);
}

void send_status(struct rpc_call *call, enum grpc_status status, struct bytes encoded_message)
{
    nghttp2_nv nv[5] = {ok_headers[0], ok_headers[1],
                        grpc_nv("grpc-status", grpc_status_text(status))};
    size_t count = 3;

    if (encoded_message.len)
        nv[count++] = grpc_nv("grpc-message", encoded_message);
    if (call->has_encoding)
        nv[count++] = grpc_nv("grpc-accept-encoding", bytes_str("identity"));
    call->is_reset_after = !call->is_request_end;
    submit_headers(call, nv, count, NULL);
}

void send_http_refusal(struct rpc_call *call)
{
    char text[4] = {(char)('0' + call->http_status / 100),
                    (char)('0' + call->http_status / 10 % 10),
                    (char)('0' + call->http_status % 10)};
    nghttp2_nv nv[2] = {grpc_nv(":status", bytes_of(text, 3)), grpc_nv("allow", bytes_str("POST"))};

    call->is_reset_after = !call->is_request_end;
    submit_headers(call, nv, call->http_status == 405 ? 2 : 1, NULL);
}

/* --- streams of answers ---------------------------------------------------------------------- */

/* One message at a time is under way; the next is made when the peer has room for it. Hence of a
 * watch only the latest status matters, and answers do not pile up. */
static bool next_message(struct rpc_call *call)
{
    if (call->is_reflection ? !reflection_next(call) : !health_next(call))
        return false;
    call->reply_len = GRPC_PREFIX_LEN + call->reply.prefix_len + blob_bytes(call->reply.blob).len;
    call->reply_sent = 0;
    count_reply(call);
    return true;
}

static ssize_t read_stream(nghttp2_session *session, int32_t stream_id, uint8_t *buf,
                           size_t max_len, uint32_t *flags, nghttp2_data_source *source, void *user)
{
    (void)session, (void)stream_id, (void)buf, (void)user;
    struct rpc_call *call = (struct rpc_call *)source->ptr;

    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (call->reply_sent < call->reply_len || next_message(call)) {
        size_t left = call->reply_len - call->reply_sent;
        return (ssize_t)(left < max_len ? left : max_len);
    }
    if (!call->is_stream_end)
        return NGHTTP2_ERR_DEFERRED;
    *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
    submit_trailer(call);
    return 0;
}

void stream_start(struct rpc_call *call)
{
    list_push_back(&call->thread->streams, &call->in_streams);
    submit_headers(call, ok_headers, 2, read_stream);
    if (call->thread->is_draining)
        stream_stop(call, GRPC_UNAVAILABLE);
}

void stream_resume(struct rpc_call *call)
{
    /* Fails when nothing is deferred: then the stream is about to ask by itself. */
    (void)nghttp2_session_resume_data(call->conn->session, call->stream_id);
    conn_mark_dirty(call->conn);
}

void stream_stop(struct rpc_call *call, enum grpc_status status)
{
    if (call->is_stream_end)
        return;
    call->is_stream_end = true;
    call->is_reset_after = true; /* does nothing if the request has ended, as that of a watch */
    call->reply.status = status;
    stream_resume(call);
}

void streams_end(struct server_thread *thread)
{
    list_foreach (&thread->streams, node)
        stream_stop(container_of(node, struct rpc_call, in_streams), GRPC_UNAVAILABLE);
}

/* --- writing --------------------------------------------------------------------------------- */

static void tell_deliveries(struct conn *conn)
{
    struct list_node *node;

    while ((node = list_first(&conn->unsent))) {
        struct rpc_call *call = container_of(node, struct rpc_call, in_phase);

        if (conn->written <= call->data_at)
            return;
        list_remove(&conn->unsent, node);
        call_tell_delivery(call, true);
        call_settle(call);
    }
}

static void set_blocked(struct conn *conn, bool blocked)
{
    struct epoll_event event = {.events = EPOLLIN | (blocked ? EPOLLOUT : 0), .data.ptr = conn};

    if (conn->is_blocked == blocked)
        return;
    conn->is_blocked = blocked;
    if (epoll_ctl(conn->thread->epoll_fd, EPOLL_CTL_MOD, conn->fd, &event) != 0)
        conn_fail(conn, "epoll_ctl failed");
    /* A connection with bytes to write counts as an open stream: drain waits for it. */
    if (blocked)
        atomic_fetch_add_explicit(&conn->thread->open_streams, 1, memory_order_relaxed);
    else
        atomic_fetch_sub_explicit(&conn->thread->open_streams, 1, memory_order_relaxed);
}

static ssize_t write_plain(struct conn *conn, const uint8_t *ptr, size_t len)
{
    ssize_t rv;

    do
        rv = send(conn->fd, ptr, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (rv < 0 && errno == EINTR);
    if (rv < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK ? ERR_BUSY : ERR_IO;
    return rv;
}

/* How many bytes the kernel took (with TLS: in whole records, for a part of one is worth nothing to
 * the peer); 0 when it takes none now or the connection failed. */
static size_t write_some(struct conn *conn, const uint8_t *ptr, size_t len)
{
    ssize_t rv =
        conn->tls ? tls_stream_write(conn->tls, ptr, len, NULL) : write_plain(conn, ptr, len);

    if (rv < 0) {
        if (rv != ERR_BUSY)
            conn_fail(conn, "connection lost while writing");
        return 0;
    }
    conn->written += (size_t)rv;
    conn->progress_ms = conn->thread->now_ms;
    return (size_t)rv;
}

/* Writes what an earlier flush left behind. True when nothing of it remains. */
static bool write_backlog(struct conn *conn)
{
    size_t len = conn->backlog.len - conn->backlog_head;

    if (len == 0)
        return true;
    size_t done = write_some(conn, conn->backlog.ptr + conn->backlog_head, len);
    conn->backlog_head += done;
    if (done < len)
        return false;
    buf_free(&conn->backlog);
    conn->backlog_head = 0;
    return true;
}

/* Collects frames; true when nghttp2 had more than fits. */
static bool make_frames(struct conn *conn, struct buf *out)
{
    const uint8_t *ptr;
    ssize_t len;

    buf_clear(out);
    while (out->len < SERVER_WRITE_LEN) {
        len = nghttp2_session_mem_send(conn->session, &ptr);
        if (len == 0)
            return false;
        if (len < 0) {
            conn_fail(conn, "frames could not be made");
            return false;
        }
        buf_append(out, ptr, (size_t)len);
        conn->queued += (size_t)len;
    }
    return true;
}

static void write_frames(struct conn *conn)
{
    struct buf *out = &conn->thread->out;

    for (int round = 0; round < WRITES_PER_TURN; round++) {
        bool has_more = make_frames(conn, out);
        if (conn->is_failed || out->len == 0)
            return;
        size_t done = write_some(conn, out->ptr, out->len);
        if (done < out->len) {
            buf_append(&conn->backlog, out->ptr + done, out->len - done);
            conn->progress_ms = conn->thread->now_ms;
            return;
        }
        if (!has_more)
            return;
    }
    conn_mark_dirty(conn);
}

bool conn_flush(struct conn *conn)
{
    conn->call_count++; /* keeps conn in memory while its calls end */
    if (!conn->is_failed && conn->is_secure && write_backlog(conn))
        write_frames(conn);
    if (!conn->is_failed)
        set_blocked(conn,
                    conn->backlog.len > 0 || (conn->tls && tls_stream_wants_write(conn->tls)));
    tell_deliveries(conn);
    bool is_over =
        conn->is_failed || (conn->backlog.len == 0 && !nghttp2_session_want_read(conn->session) &&
                            !nghttp2_session_want_write(conn->session));
    if (is_over)
        conn_close(conn, conn->why);
    conn_release_call(conn);
    return !is_over;
}
