/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection's life and what its peer sends. nghttp2 checks the protocol; here are the limits it
 * does not have (INV-10, INV-13). Nothing is kept of a request's headers but what the few known
 * ones say.
 *
 * A connection is never closed inside an nghttp2 callback: conn_fail marks it and the flush at the
 * end of the turn closes it.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "rpc/server_internal.h"
#include "wire/consumer.h"

enum {
    DRAIN_NOTICE_MS = 1000, /* how long a peer has to acknowledge the first GOAWAY's PING */
    /* A header block of this many times the limit is no mistake any more: the connection ends. */
    HEADER_ABUSE_FACTOR = 8,
    /* Frames that cost us something and bring nothing (PING, SETTINGS, PRIORITY, empty
     * DATA, unknown). */
    NUISANCES_PER_S = 1000,
    NUISANCES_BURST = 10000,
    RESET_BURST_FACTOR = 10
};

/* --- life ------------------------------------------------------------------------------------ */

struct conn *conn_new(struct server_thread *thread, int fd)
{
    struct conn *conn = (struct conn *)mem_zalloc(sizeof(*conn));

    conn->msg.kind = MSG_CONN;
    conn->thread = thread;
    conn->fd = fd;
    list_init(&conn->calls);
    list_init(&conn->receiving);
    list_init(&conn->unsent);
    return conn;
}

static void start_tls(struct conn *conn)
{
    struct rpc_tls *tls = server_tls(conn->thread->server);

    conn->is_secure = !tls;
    if (!tls)
        return;
    conn->tls = tls_stream_new(tls, conn->fd, NULL);
    rpc_tls_unref(tls);
    list_push_back(&conn->thread->handshakes, &conn->in_handshakes);
}

/* age_ms, 10 % more or less. */
static int64_t choose_age_ms(struct server_thread *thread, uint32_t age_ms)
{
    thread->chance ^= thread->chance << 13;
    thread->chance ^= thread->chance >> 17;
    thread->chance ^= thread->chance << 5;
    return (int64_t)age_ms * (900 + thread->chance % 201) / 1000;
}

static int start_session(struct conn *conn)
{
    const struct rpc_server *server = conn->thread->server;
    const struct rpc_limits *limits = &server->limits;
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, limits->streams_per_connection},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, SERVER_WINDOW_LEN},
        {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, 16384},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, limits->header_bytes},
        /* Spares both sides the tree of RFC 7540 priorities. */
        {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
    };
    int32_t window_len =
        limits->connection_bytes > INT32_MAX ? INT32_MAX : (int32_t)limits->connection_bytes;

    if (nghttp2_session_server_new2(&conn->session, server->callbacks, conn, server->option) != 0)
        return ERR_SYSTEM;
    if (nghttp2_submit_settings(conn->session, NGHTTP2_FLAG_NONE, settings,
                                sizeof(settings) / sizeof(settings[0])) != 0 ||
        nghttp2_session_set_local_window_size(conn->session, NGHTTP2_FLAG_NONE, 0, window_len) != 0)
        return ERR_SYSTEM;
    return 0;
}

int conn_start(struct conn *conn)
{
    struct server_thread *thread = conn->thread;
    const struct rpc_limits *limits = &thread->server->limits;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};

    list_push_back(&thread->conns, &conn->in_thread);
    conn->accepted_ms = conn->idle_since_ms = thread->now_ms;
    conn->progress_ms = conn->reply_ms = thread->now_ms;
    conn->resets =
        rate_new(limits->resets_per_s, limits->resets_per_s * RESET_BURST_FACTOR, thread->now_ms);
    conn->nuisances = rate_new(NUISANCES_PER_S, NUISANCES_BURST, thread->now_ms);
    conn->age_due_ms =
        limits->age_ms ? thread->now_ms + choose_age_ms(thread, limits->age_ms) : CLOCK_NEVER;
    start_tls(conn);
    if (start_session(conn) != 0 ||
        epoll_ctl(thread->epoll_fd, EPOLL_CTL_ADD, conn->fd, &event) != 0) {
        conn_close(conn, "cannot be served");
        return ERR_SYSTEM;
    }
    conn_mark_dirty(conn);
    return 0;
}

void conn_mark_dirty(struct conn *conn)
{
    if (!list_linked(&conn->in_dirty))
        list_push_back(&conn->thread->dirty, &conn->in_dirty);
}

void conn_fail(struct conn *conn, const char *why)
{
    if (!conn->is_failed)
        conn->why = why;
    conn->is_failed = true;
    conn_mark_dirty(conn);
}

void conn_release_call(struct conn *conn)
{
    assert(conn->call_count > 0);
    conn->call_count--;
    if (conn->session || conn->fd >= 0 || conn->call_count > 0)
        return;
    atomic_fetch_sub_explicit(&conn->thread->server->conn_count, 1, memory_order_relaxed);
    mem_free(conn);
}

static void end_calls(struct conn *conn)
{
    struct list_node *node;

    while ((node = list_first(&conn->calls)))
        call_closed(container_of(node, struct rpc_call, in_conn), true);
    while ((node = list_pop_front(&conn->unsent))) {
        struct rpc_call *call = container_of(node, struct rpc_call, in_phase);
        call_tell_delivery(call, false);
        call_settle(call);
    }
}

void conn_close(struct conn *conn, const char *why)
{
    struct server_thread *thread = conn->thread;

    log_debug(RPC_LOG, NULL, "connection closed: %s", why ? why : "done");
    conn->call_count++;
    if (conn->is_blocked)
        atomic_fetch_sub_explicit(&thread->open_streams, 1, memory_order_relaxed);
    if (list_linked(&conn->in_handshakes))
        list_remove(&thread->handshakes, &conn->in_handshakes);
    tls_stream_free(conn->tls);
    conn->tls = NULL;
    close(conn->fd);
    conn->fd = -1;
    nghttp2_session_del(conn->session);
    conn->session = NULL;
    end_calls(conn);
    buf_free(&conn->backlog);
    list_remove(&thread->conns, &conn->in_thread);
    if (list_linked(&conn->in_dirty))
        list_remove(&thread->dirty, &conn->in_dirty);
    conn_release_call(conn);
}

/* --- reading --------------------------------------------------------------------------------- */

bool conn_feed(struct conn *conn, struct bytes bytes)
{
    const struct rpc_limits *limits = &conn->thread->server->limits;
    ssize_t rv = nghttp2_session_mem_recv(conn->session, bytes.ptr, bytes.len);

    conn_mark_dirty(conn);
    if (rv < 0)
        conn_fail(conn, nghttp2_strerror((int)rv));
    else if (nghttp2_session_get_outbound_queue_size(conn->session) >
             (size_t)limits->streams_per_connection * 4 + 1024)
        conn_fail(conn, "peer does not read what it causes");
    if (!conn->is_failed)
        return true;
    conn_close(conn, conn->why);
    return false;
}

/* Tells the peer to go away and to stay away for a while; streams that are open die with the
 * connection. */
static void enhance_calm(struct conn *conn, const char *why)
{
    if (conn->is_calm)
        return;
    conn->is_calm = true;
    conn->why = why;
    if (server_thread_may_log(conn->thread))
        log_warn(RPC_LOG, NULL, "connection ended: %s", why);
    if (nghttp2_session_terminate_session(conn->session, NGHTTP2_ENHANCE_YOUR_CALM) != 0)
        conn_fail(conn, why);
    conn_mark_dirty(conn);
}

static void count_reset(struct conn *conn)
{
    if (!rate_take(&conn->resets, conn->thread->now_ms))
        enhance_calm(conn, "too many streams reset");
}

static void count_nuisance(struct conn *conn)
{
    if (!rate_take(&conn->nuisances, conn->thread->now_ms))
        enhance_calm(conn, "too many frames without use");
}

bool conn_secure(struct conn *conn)
{
    struct server_thread *thread = conn->thread;
    struct err_text why;

    if (conn->is_secure)
        return true;
    if (thread->handshakes_left == 0)
        return false; /* the socket stays ready: it is its turn soon */
    thread->handshakes_left--;
    int rv = tls_stream_handshake(conn->tls, &why);
    if (rv == ERR_BUSY) {
        conn_mark_dirty(conn); /* it may have to wait until it can write */
        return false;
    }
    if (rv != 0) {
        if (rv != ERR_CLOSED && server_thread_may_log(thread))
            log_warn(RPC_LOG, NULL, "connection refused: %s", why.s);
        conn_close(conn, why.s);
        return false;
    }
    conn->is_secure = true;
    list_remove(&thread->handshakes, &conn->in_handshakes);
    conn_mark_dirty(conn);
    return true;
}

static ssize_t read_plain(struct conn *conn, uint8_t *ptr, size_t len)
{
    ssize_t rv;

    do
        rv = recv(conn->fd, ptr, len, MSG_DONTWAIT);
    while (rv < 0 && errno == EINTR);
    if (rv < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK ? ERR_BUSY : ERR_IO;
    return rv;
}

static ssize_t read_some(struct conn *conn, uint8_t *ptr, size_t len)
{
    if (!conn->tls)
        return read_plain(conn, ptr, len);
    ssize_t rv = tls_stream_read(conn->tls, ptr, len, NULL);
    if (tls_stream_wants_write(conn->tls))
        conn_mark_dirty(conn);
    for (uint32_t n = tls_stream_take_chatter(conn->tls); n > 0 && !conn->is_calm; n--)
        count_nuisance(conn);
    return rv;
}

void conn_read(struct conn *conn)
{
    struct server_thread *thread = conn->thread;

    if (!conn_secure(conn))
        return;
    ssize_t len = read_some(conn, thread->in, SERVER_READ_LEN);
    if (len > 0)
        conn_feed(conn, bytes_of(thread->in, (size_t)len));
    else if (len == 0)
        conn_close(conn, "by the peer");
    else if (len != ERR_BUSY)
        conn_close(conn, "connection lost");
}

static int result(const struct conn *conn)
{
    return conn->is_failed ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

/* --- headers --------------------------------------------------------------------------------- */

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct conn *conn = (struct conn *)user;

    conn->header_bytes = 0;
    conn->header_call = NULL;
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return result(conn);
    /* Calls whose stream is gone but which handlers still hold count here, and nowhere else. */
    if (conn->call_count >= 2 * (size_t)conn->thread->server->limits.streams_per_connection) {
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id,
                                  NGHTTP2_REFUSED_STREAM);
        return result(conn);
    }
    struct rpc_call *call = call_new(conn, frame->hd.stream_id);
    conn->header_call = call;
    int rv = nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, call);
    assert(rv == 0); /* the stream was opened just now */
    return result(conn);
}

static const struct server_method *find_method(const struct rpc_server *server, struct bytes path)
{
    for (size_t i = 0; i < server->method_count; i++) {
        const struct server_method *m = &server->methods[i];
        if (m->path_len == path.len && memcmp(m->method.path, path.ptr, path.len) == 0)
            return m;
    }
    return NULL;
}

static bool is_health(struct bytes path)
{
    static const char prefix[] = "/" HEALTH_SERVICE;
    const size_t len = sizeof(prefix) - 1;

    return path.len >= len && memcmp(path.ptr, prefix, len) == 0;
}

static void take_path(struct rpc_call *call, struct bytes path)
{
    const struct rpc_server *server = call->thread->server;

    call->method = find_method(server, path);
    call->is_stream = call->method && call->method->kind != METHOD_UNARY;
    call->is_reflection = call->method && call->method->kind == METHOD_REFLECTION;
    call->is_exempt = server->secret_count == 0 || is_health(path);
    if (!call->method && !call->is_exempt)
        buf_append(&call->path, path.ptr, path.len);
}

static void take_timeout(struct rpc_call *call, struct bytes value)
{
    int64_t timeout_ms;

    /* One that cannot be read is ignored, as the original does. */
    if (grpc_timeout_parse(value, &timeout_ms) == 0)
        call->deadline_ms = clock_add(call->thread->now_ms, timeout_ms);
}

static void take_signature(struct rpc_call *call, struct bytes value)
{
    /* Of the wrong length it must fail like any other wrong one, and never by its first part match.
     */
    bool fits = value.len <= sizeof(call->signature);

    call->signature_len = fits ? value.len : 1;
    memcpy(call->signature, value.ptr, call->signature_len);
}

static bool is_header(struct bytes name, const char *wanted)
{
    return memcmp(name.ptr, wanted, name.len) == 0; /* lengths are known to be equal */
}

static void take_header(struct rpc_call *call, struct bytes name, struct bytes value)
{
    switch (name.len) {
    case 5:
        if (is_header(name, ":path"))
            take_path(call, value);
        break;
    case 7:
        if (is_header(name, ":method"))
            call->has_post = bytes_equal_str(value, "POST");
        break;
    case 12:
        if (is_header(name, "content-type"))
            call->has_content_type = grpc_content_type_ok(value);
        else if (is_header(name, "grpc-timeout"))
            take_timeout(call, value);
        break;
    case 13:
        if (is_header(name, "grpc-encoding"))
            call->has_encoding = !bytes_equal_str(value, "identity");
        break;
    case 16:
        if (is_header(name, "sentry-signature"))
            take_signature(call, value);
        break;
    default:
        break;
    }
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                     void *user)
{
    (void)session, (void)frame, (void)flags;
    struct conn *conn = (struct conn *)user;
    size_t limit = conn->thread->server->limits.header_bytes;
    struct rpc_call *call = conn->header_call;

    conn->header_bytes += name_len + value_len + 32; /* RFC 9113, 6.5.2 */
    if (conn->header_bytes > limit * HEADER_ABUSE_FACTOR)
        conn_fail(conn, "header list far above the limit");
    else if (call && conn->header_bytes > limit)
        call->http_status = 431;
    else if (call)
        take_header(call, bytes_of(name, name_len), bytes_of(value, value_len));
    return result(conn);
}

static void refuse_http(struct rpc_call *call, int http_status)
{
    call->http_status = http_status;
    call_set_state(call, CALL_REPLIED);
    send_http_refusal(call);
}

/* Early refusals: nothing of the body need be read for them. */
static void take_request_headers(struct rpc_call *call)
{
    if (call->http_status != 0) {
        refuse_http(call, call->http_status);
    } else if (!call->has_post) {
        refuse_http(call, 405);
    } else if (!call->has_content_type) {
        refuse_http(call, 415);
    } else if (call->has_encoding) {
        call_refuse(call, GRPC_UNIMPLEMENTED, "Compressed messages are not supported");
    } else if (!call->is_exempt && call->signature_len == 0) {
        if (server_thread_may_log(call->thread))
            log_error(RPC_LOG, NULL, "GRPC Authentication error: missing sentry-signature header");
        call_refuse(call, GRPC_UNAUTHENTICATED, "Authentication failed");
    } else if (!call->method && call->is_exempt) {
        call_refuse(call, GRPC_UNIMPLEMENTED, "");
    }
}

/* --- body ------------------------------------------------------------------------------------ */

static void refuse_too_large(struct rpc_call *call)
{
    char text[128];

    (void)snprintf(
        text, sizeof(text),
        "Error, decoded message length too large: found %u bytes, the limit is: %u bytes",
        call->request.want_len, call->thread->server->limits.message_bytes);
    call_refuse(call, GRPC_OUT_OF_RANGE, text);
}

static void check_buffered(struct rpc_call *call)
{
    const char *fault = call_over_limit(call);

    if (fault)
        call_refuse(call, GRPC_RESOURCE_EXHAUSTED, fault);
}

static void take_body(struct rpc_call *call, struct bytes chunk)
{
    switch (grpc_message_feed(&call->request, chunk, call->thread->server->limits.message_bytes)) {
    case GRPC_FEED_OK:
        call_count_request(call, chunk.len);
        check_buffered(call);
        break;
    case GRPC_FEED_TOO_LARGE:
        refuse_too_large(call);
        break;
    case GRPC_FEED_COMPRESSED:
        call_refuse(call, GRPC_UNIMPLEMENTED, "Compressed messages are not supported");
        break;
    case GRPC_FEED_BAD_FLAG:
        call_refuse(call, GRPC_INTERNAL,
                    "protocol error: received message with invalid compression flag");
        break;
    case GRPC_FEED_EXCESS:
        call_refuse(call, GRPC_INTERNAL, "More than one request message");
        break;
    }
}

static int on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t stream_id,
                         const uint8_t *data, size_t len, void *user)
{
    (void)flags;
    struct conn *conn = (struct conn *)user;
    struct rpc_call *call =
        (struct rpc_call *)nghttp2_session_get_stream_user_data(session, stream_id);

    if (call && call->is_reflection)
        reflection_take(call, bytes_of(data, len));
    else if (call && call->state == CALL_RECEIVING)
        take_body(call, bytes_of(data, len));
    return result(conn);
}

static void take_request_end(struct rpc_call *call)
{
    call->is_request_end = true;
    if (call->is_reflection && reflection_is_open(call))
        reflection_half_closed(call);
    else if (call->state == CALL_RECEIVING)
        call_start(call);
}

/* --- frames ---------------------------------------------------------------------------------- */

static void take_headers_frame(struct conn *conn, const nghttp2_frame *frame)
{
    struct rpc_call *call = conn->header_call;

    if (call && frame->headers.cat == NGHTTP2_HCAT_REQUEST)
        take_request_headers(call);
    conn->header_call = NULL;
}

static void end_drain_notice(struct conn *conn)
{
    if (!conn->has_notice || conn->has_goaway)
        return;
    conn->has_goaway = true;
    if (nghttp2_submit_goaway(conn->session, NGHTTP2_FLAG_NONE,
                              nghttp2_session_get_last_proc_stream_id(conn->session),
                              NGHTTP2_NO_ERROR, NULL, 0) != 0)
        conn_fail(conn, "GOAWAY could not be sent");
    conn_mark_dirty(conn);
}

/* Some clients measure the line by a PING for each answer that comes; those are welcome. */
static void take_ping(struct conn *conn)
{
    if (!conn->has_answered)
        count_nuisance(conn);
    conn->has_answered = false;
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct conn *conn = (struct conn *)user;
    bool is_stream_end = false;

    switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
        take_headers_frame(conn, frame);
        is_stream_end = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
        break;
    case NGHTTP2_DATA:
        is_stream_end = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
        if (!is_stream_end && frame->hd.length <= frame->data.padlen)
            count_nuisance(conn);
        break;
    case NGHTTP2_RST_STREAM:
        count_reset(conn);
        break;
    case NGHTTP2_PING:
        if (frame->hd.flags & NGHTTP2_FLAG_ACK)
            end_drain_notice(conn);
        else
            take_ping(conn);
        break;
    case NGHTTP2_WINDOW_UPDATE:
    case NGHTTP2_GOAWAY:
        break;
    case NGHTTP2_SETTINGS:
        conn->has_preface = true;
        count_nuisance(conn);
        break;
    default:
        count_nuisance(conn);
        break;
    }
    if (is_stream_end) {
        struct rpc_call *call =
            (struct rpc_call *)nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
        if (call)
            take_request_end(call);
    }
    return result(conn);
}

/* Streams that nghttp2 has to reset because of what the peer sent cost us as much as those the peer
 * resets itself (CVE-2025-8671, "MadeYouReset"), and nghttp2 does not count them. */
static int on_invalid_frame(nghttp2_session *session, const nghttp2_frame *frame, int error,
                            void *user)
{
    (void)session, (void)frame, (void)error;
    struct conn *conn = (struct conn *)user;

    count_reset(conn);
    return result(conn);
}

static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct conn *conn = (struct conn *)user;

    if (frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA)
        conn->has_answered = true;
    if (frame->hd.type == NGHTTP2_RST_STREAM && frame->rst_stream.error_code != NGHTTP2_NO_ERROR)
        count_reset(conn);
    if (frame->hd.type != NGHTTP2_HEADERS || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
        return result(conn);
    struct rpc_call *call =
        (struct rpc_call *)nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (call && call->is_reset_after && !call->is_request_end)
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id,
                                  NGHTTP2_NO_ERROR);
    return result(conn);
}

static int on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t error_code,
                           void *user)
{
    struct conn *conn = (struct conn *)user;
    struct rpc_call *call =
        (struct rpc_call *)nghttp2_session_get_stream_user_data(session, stream_id);

    if (!call)
        return result(conn);
    if (conn->header_call == call)
        conn->header_call = NULL;
    call_closed(call, error_code != NGHTTP2_NO_ERROR);
    return result(conn);
}

void conn_callbacks(nghttp2_session_callbacks *callbacks)
{
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks, on_invalid_frame);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_send);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    nghttp2_session_callbacks_set_send_data_callback(callbacks, send_data_frame);
}

/* --- time ------------------------------------------------------------------------------------ */

static void check_bodies(struct conn *conn, int64_t now_ms)
{
    struct list_node *node;

    while ((node = list_first(&conn->receiving))) {
        struct rpc_call *call = container_of(node, struct rpc_call, in_phase);

        if (now_ms - call->started_ms < conn->thread->server->limits.body_timeout_ms)
            return;
        if (call == conn->header_call) {
            conn_fail(conn, "request headers came too slowly");
            return;
        }
        call_refuse(call, GRPC_DEADLINE_EXCEEDED, "Request body came too slowly");
    }
}

/* Age and idleness end a connection as a drain does: whatever the peer has sent before it knew is
 * still served, so that no caller sees an error. */
static void check_time_to_go(struct conn *conn)
{
    uint32_t idle_ms = conn->thread->server->limits.idle_timeout_ms;
    int64_t now_ms = conn->thread->now_ms;

    if (conn->has_notice)
        return;
    if (now_ms >= conn->age_due_ms)
        conn->is_aged = true;
    else if (!idle_ms || conn->idle_since_ms == CLOCK_NEVER ||
             now_ms - conn->idle_since_ms < idle_ms)
        return;
    conn_drain(conn);
}

/* While the socket is blocked its bytes count; else replies, which wait for the peer's windows: a
 * peer that keeps them closed is not excused by other frames that it reads. */
static bool is_stalled(const struct conn *conn)
{
    int64_t limit_ms = conn->thread->server->limits.write_timeout_ms;
    int64_t now_ms = conn->thread->now_ms;

    if (conn->backlog.len > 0)
        return now_ms - conn->progress_ms >= limit_ms;
    return conn->reply_bytes > 0 && now_ms - conn->reply_ms >= limit_ms;
}

void conn_check(struct conn *conn)
{
    const struct rpc_limits *limits = &conn->thread->server->limits;
    int64_t now_ms = conn->thread->now_ms;

    check_bodies(conn, now_ms);
    if (!conn->has_preface && now_ms - conn->accepted_ms >= limits->preface_timeout_ms)
        conn_fail(conn, "no HTTP/2 preface in time");
    else if (is_stalled(conn))
        conn_fail(conn, "peer takes no bytes");
    else if (conn->is_aged && now_ms - conn->notice_ms >= limits->age_grace_ms)
        conn_fail(conn, "its age and its grace are over");
    else if (conn->has_notice && now_ms - conn->notice_ms >= DRAIN_NOTICE_MS)
        end_drain_notice(conn);
    else
        check_time_to_go(conn);
}

void conn_drain(struct conn *conn)
{
    static const uint8_t opaque[8] = "drain";

    if (conn->has_notice)
        return;
    conn->has_notice = true;
    conn->notice_ms = conn->thread->now_ms;
    if (nghttp2_submit_shutdown_notice(conn->session) != 0 ||
        nghttp2_submit_ping(conn->session, NGHTTP2_FLAG_NONE, opaque) != 0)
        conn_fail(conn, "GOAWAY could not be sent");
    conn_mark_dirty(conn);
}
