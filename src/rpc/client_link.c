/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "rpc/client_internal.h"

enum {
    READ_LEN = 128 * 1024,
    WRITE_LEN = 256 * 1024,
    STREAM_WINDOW_LEN = 4 * 1024 * 1024,
    LINK_WINDOW_LEN = 16 * 1024 * 1024,
    GRPC_MESSAGE_KEEP_LEN = 8192
};

/* --- streams: nghttp2 callbacks -------------------------------------------------------------- */

static struct client_call *call_of(nghttp2_session *session, int32_t stream_id)
{
    return (struct client_call *)nghttp2_session_get_stream_user_data(session, stream_id);
}

static int parse_number(struct bytes text, int max)
{
    int value = 0;

    if (text.len == 0 || text.len > 3)
        return -1;
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] < '0' || text.ptr[i] > '9')
            return -1;
        value = value * 10 + (text.ptr[i] - '0');
    }
    return value <= max ? value : -1;
}

static void take_header(struct client_call *call, struct bytes name, struct bytes value)
{
    if (bytes_equal_str(name, ":status")) {
        call->http_status = parse_number(value, 999);
    } else if (bytes_equal_str(name, "grpc-status")) {
        int status = parse_number(value, GRPC_UNAUTHENTICATED);
        call->grpc_status = status < 0 ? GRPC_UNKNOWN : status;
    } else if (bytes_equal_str(name, "grpc-message")) {
        buf_clear(&call->message);
        if (value.len > GRPC_MESSAGE_KEEP_LEN)
            value.len = GRPC_MESSAGE_KEEP_LEN;
        grpc_percent_decode(value, &call->message);
    }
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                     void *user)
{
    (void)flags, (void)user;
    struct client_call *call = call_of(session, frame->hd.stream_id);

    if (call && !call->is_done)
        take_header(call, bytes_of(name, name_len), bytes_of(value, value_len));
    return 0;
}

/* The call ends here and now; the stream when the reset is sent. */
static void end_with(struct rpc_client *client, struct client_call *call, int status,
                     const char *message)
{
    const struct client_result result = {status, message, true};

    client_link_reset(client, call);
    client_finish(client, call, &result);
}

static int on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t stream_id,
                         const uint8_t *data, size_t len, void *user)
{
    (void)flags;
    struct rpc_client *client = (struct rpc_client *)user;
    struct client_call *call = call_of(session, stream_id);

    if (!call || call->is_done)
        return 0;
    switch (grpc_message_feed(&call->response, bytes_of(data, len), client->message_max)) {
    case GRPC_FEED_OK:
        break;
    case GRPC_FEED_TOO_LARGE:
        end_with(client, call, GRPC_RESOURCE_EXHAUSTED, "The response is larger than the limit");
        break;
    case GRPC_FEED_COMPRESSED:
        end_with(client, call, GRPC_UNIMPLEMENTED, "The response is compressed");
        break;
    case GRPC_FEED_BAD_FLAG:
        end_with(client, call, GRPC_INTERNAL, "The response has an invalid compression flag");
        break;
    case GRPC_FEED_EXCESS:
        end_with(client, call, GRPC_INTERNAL, "More than one response message");
        break;
    }
    return 0;
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct rpc_client *client = (struct rpc_client *)user;

    if (frame->hd.type == NGHTTP2_GOAWAY)
        client->is_going = true;
    else if (frame->hd.type == NGHTTP2_SETTINGS)
        client->has_settings = true;
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA)
        return 0;
    if (!(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
        return 0;
    struct client_call *call = call_of(session, frame->hd.stream_id);
    if (!call || call->is_done)
        return 0;
    if (call->request_sent < call->request.len) /* answered before all was sent: no need for more */
        client_link_reset(client, call);
    client_answer(client, call);
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t error_code,
                           void *user)
{
    struct rpc_client *client = (struct rpc_client *)user;
    struct client_call *call = call_of(session, stream_id);

    if (!call)
        return 0;
    list_remove(&client->streams, &call->node);
    if (!call->is_done) {
        if (error_code == NGHTTP2_REFUSED_STREAM)
            call->request_sent = 0; /* as if it had not been: nobody has read it */
        const struct client_result result = {(int)grpc_status_of_reset(error_code),
                                             nghttp2_http2_strerror(error_code), true};
        client_finish(client, call, &result);
    }
    client_recycle(client, call);
    return 0;
}

static ssize_t read_request(nghttp2_session *session, int32_t stream_id, uint8_t *buf,
                            size_t max_len, uint32_t *flags, nghttp2_data_source *source,
                            void *user)
{
    (void)session, (void)stream_id, (void)buf, (void)user;
    const struct client_call *call = (const struct client_call *)source->ptr;
    size_t left = call->request.len - call->request_sent;

    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (left > max_len)
        return (ssize_t)max_len;
    *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)left;
}

static int send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *head,
                     size_t len, nghttp2_data_source *source, void *user)
{
    (void)session;
    struct rpc_client *client = (struct rpc_client *)user;
    struct client_call *call = (struct client_call *)source->ptr;

    assert(frame->data.padlen == 0); /* we ask for no padding */
    buf_append(&client->out, head, 9);
    buf_append(&client->out, call->request.ptr + call->request_sent, len);
    call->request_sent += len;
    return 0;
}

int client_link_init(struct rpc_client *client)
{
    nghttp2_session_callbacks *callbacks;
    int rv = nghttp2_session_callbacks_new(&callbacks);

    assert(rv == 0); /* fails only without memory, as the next */
    rv = nghttp2_option_new(&client->option);
    assert(rv == 0);
    nghttp2_option_set_no_closed_streams(client->option, 1);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    nghttp2_session_callbacks_set_send_data_callback(callbacks, send_data);
    client->callbacks = callbacks;
    client->in = (uint8_t *)mem_alloc(READ_LEN);
    return 0;
}

void client_link_free(struct rpc_client *client)
{
    nghttp2_session_callbacks_del(client->callbacks);
    nghttp2_option_del(client->option);
    buf_free(&client->out);
    mem_free(client->in);
}

void client_link_reset(struct rpc_client *client, struct client_call *call)
{
    if (call->stream_id > 0)
        nghttp2_submit_rst_stream(client->session, NGHTTP2_FLAG_NONE, call->stream_id,
                                  NGHTTP2_CANCEL);
}

/* --- connecting ------------------------------------------------------------------------------ */

static void forget_socket(struct rpc_client *client)
{
    tls_stream_free(client->tls);
    client->tls = NULL;
    if (client->fd >= 0)
        close(client->fd);
    client->fd = -1;
    client->state = LINK_NONE;
}

/* Ends the calls of `list`, which callbacks cannot reach any more. */
static void end_all(struct rpc_client *client, struct list *list, const char *why)
{
    const struct client_result result = {GRPC_UNAVAILABLE, why, true};
    struct list_node *node;

    while ((node = list_pop_front(list))) {
        struct client_call *call = container_of(node, struct client_call, node);
        if (!call->is_done)
            client_finish(client, call, &result);
        client_recycle(client, call);
    }
}

/* From here the calls are in no list and on no stream that a callback's cancel could touch. */
static void move_all(struct list *to, struct list *from)
{
    struct list_node *node;

    list_init(to);
    while ((node = list_pop_front(from))) {
        container_of(node, struct client_call, node)->stream_id = -1;
        list_push_back(to, node);
    }
}

static void forget_names(struct rpc_client *client)
{
    struct lookup_answer ignored;

    if (client->lookup)
        lookup_end(client->lookup, &ignored);
    client->lookup = NULL;
    mem_free(client->names);
    client->names = NULL;
}

void client_link_lose(struct rpc_client *client, const char *why)
{
    struct list lost;
    char text[sizeof(client->why)];

    (void)snprintf(text, sizeof(text), "%s", why); /* `why` may be the client's own, and change */
    forget_socket(client);
    nghttp2_session_del(client->session);
    client->session = NULL;
    client->is_going = false;
    buf_clear(&client->out);
    client->out_head = 0;
    forget_names(client);
    move_all(&lost, &client->streams);
    end_all(client, &lost, text);
}

/* No address answers: the calls that wait end. */
static void fail_connect(struct rpc_client *client)
{
    struct list lost;
    char text[sizeof(client->why)];

    (void)snprintf(text, sizeof(text), "%s", client->why);
    client_link_lose(client, text);
    move_all(&lost, &client->waiting);
    end_all(client, &lost, text);
}

static int start_session(struct rpc_client *client)
{
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW_LEN},
    };

    if (nghttp2_session_client_new2(&client->session, client->callbacks, client, client->option) !=
            0 ||
        nghttp2_submit_settings(client->session, NGHTTP2_FLAG_NONE, settings, 2) != 0 ||
        nghttp2_session_set_local_window_size(client->session, NGHTTP2_FLAG_NONE, 0,
                                              LINK_WINDOW_LEN) != 0)
        return ERR_SYSTEM;
    return 0;
}

static void link_up(struct rpc_client *client)
{
    client->state = LINK_UP;
    client->has_settings = false;
    client->heard_ms = client->now_ms;
    client->ping_ms = CLOCK_NEVER;
    forget_names(client);
    if (start_session(client) != 0)
        client_link_lose(client, "HTTP/2 session cannot be made");
}

/* Another address would meet the same server, or one with the same certificate: none is tried. */
static void secure(struct rpc_client *client)
{
    struct err_text why;
    int rv = tls_stream_handshake(client->tls, &why);

    if (rv == 0) {
        link_up(client);
        return;
    }
    if (rv == ERR_BUSY && client->now_ms < client->connect_deadline_ms)
        return;
    if (rv == ERR_BUSY)
        (void)err_set(&why, rv, "TLS: no answer in %u ms", client->connect_timeout_ms);
    (void)snprintf(client->why, sizeof(client->why), "cannot connect: %s", why.s);
    fail_connect(client);
}

static void connected(struct rpc_client *client)
{
    int one = 1;

    (void)setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (!client->tls_config) {
        link_up(client);
        return;
    }
    client->state = LINK_SECURING;
    client->tls = tls_stream_new(client->tls_config, client->fd, client->host);
    secure(client);
}

static void note_failure(struct rpc_client *client, int error)
{
    (void)snprintf(client->why, sizeof(client->why), "cannot connect: %s", strerror(error));
}

/* Tries addresses until one is on its way or connected. */
static void try_addresses(struct rpc_client *client)
{
    for (; client->address < client->names->count; client->address++) {
        const struct lookup_address *it = &client->names->addresses[client->address];
        const struct sockaddr *address = (const struct sockaddr *)&it->address;

        client->fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (client->fd < 0) {
            note_failure(client, errno);
            continue;
        }
        if (connect(client->fd, address, it->len) == 0) {
            connected(client);
            return;
        }
        if (errno == EINPROGRESS) {
            client->state = LINK_CONNECTING;
            return;
        }
        note_failure(client, errno);
        forget_socket(client);
    }
    fail_connect(client);
}

static void take_names(struct rpc_client *client)
{
    if (client->names->count == 0) {
        (void)snprintf(client->why, sizeof(client->why), "cannot resolve the name: %s",
                       client->names->why);
        fail_connect(client);
        return;
    }
    client->address = 0;
    try_addresses(client);
}

static void start_connect(struct rpc_client *client)
{
    struct err_text why;
    char port[8];

    (void)snprintf(port, sizeof(port), "%u", client->port);
    client->connect_deadline_ms = clock_add(client->now_ms, client->connect_timeout_ms);
    client->names = (struct lookup_answer *)mem_zalloc(sizeof(*client->names));
    if (client->forks_lookups && !lookup_numeric(client->host, port, SOCK_STREAM, client->names)) {
        if (lookup_start(&client->lookup, client->host, port, SOCK_STREAM, &why) == 0) {
            client->state = LINK_RESOLVING;
            return;
        }
        (void)snprintf(client->names->why, sizeof(client->names->why), "%.120s", why.s);
    } else if (!client->forks_lookups) {
        (void)lookup_now(client->host, port, SOCK_STREAM, client->names);
    }
    take_names(client);
}

static void check_lookup(struct rpc_client *client)
{
    struct pollfd pollfd = {.fd = lookup_fd(client->lookup), .events = POLLIN};
    bool is_late = poll(&pollfd, 1, 0) <= 0;

    if (is_late && client->now_ms < client->connect_deadline_ms)
        return;
    lookup_end(client->lookup, client->names);
    client->lookup = NULL;
    client->state = LINK_NONE;
    if (is_late)
        (void)snprintf(client->names->why, sizeof(client->names->why),
                       "no name server answers in %u ms", client->connect_timeout_ms);
    take_names(client);
}

static void check_connect(struct rpc_client *client)
{
    struct pollfd pollfd = {.fd = client->fd, .events = POLLOUT};
    int error = 0;
    socklen_t len = sizeof(error);

    if (poll(&pollfd, 1, 0) <= 0) {
        if (client->now_ms < client->connect_deadline_ms)
            return;
        (void)snprintf(client->why, sizeof(client->why), "cannot connect: no answer in %u ms",
                       client->connect_timeout_ms);
        fail_connect(client);
        return;
    }
    if (getsockopt(client->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
        error = errno;
    if (error == 0) {
        connected(client);
        return;
    }
    note_failure(client, error);
    forget_socket(client);
    client->address++;
    try_addresses(client);
}

/* --- reading and writing --------------------------------------------------------------------- */

static ssize_t read_plain(struct rpc_client *client, struct err_text *why)
{
    ssize_t rv;

    do
        rv = recv(client->fd, client->in, READ_LEN, MSG_DONTWAIT);
    while (rv < 0 && errno == EINTR);
    if (rv >= 0)
        return rv;
    return errno == EAGAIN || errno == EWOULDBLOCK ? ERR_BUSY
                                                   : err_set(why, ERR_IO, "%s", strerror(errno));
}

/* A server that wants TLS hangs up on plain text without a word that we could read. */
static void lose_reading(struct rpc_client *client, const char *why)
{
    struct err_text text;

    if (client->has_settings || client->tls)
        (void)err_set(&text, 0, "%s", why);
    else
        (void)err_set(&text, 0, "%s; perhaps the server speaks TLS, which was not asked for", why);
    client_link_lose(client, text.s);
}

/* True when there may be more. */
static bool read_once(struct rpc_client *client)
{
    struct err_text why;
    ssize_t len = client->tls ? tls_stream_read(client->tls, client->in, READ_LEN, &why)
                              : read_plain(client, &why);

    if (len < 0) {
        if (len != ERR_BUSY)
            lose_reading(client, why.s);
        return false;
    }
    if (len == 0) {
        lose_reading(client, "connection closed by the server");
        return false;
    }
    client->heard_ms = client->now_ms;
    client->ping_ms = CLOCK_NEVER;
    ssize_t rv = nghttp2_session_mem_recv(client->session, client->in, (size_t)len);
    if (rv < 0) {
        client_link_lose(client, nghttp2_strerror((int)rv));
        return false;
    }
    return len == READ_LEN;
}

void client_link_io(struct rpc_client *client)
{
    if (client->state == LINK_NONE && !list_empty(&client->waiting))
        start_connect(client);
    if (client->state == LINK_RESOLVING)
        check_lookup(client);
    else if (client->state == LINK_CONNECTING)
        check_connect(client);
    else if (client->state == LINK_SECURING)
        secure(client);
    while (client->state == LINK_UP && read_once(client))
        ;
}

/* Values point into the call, which outlives the frame. */
static nghttp2_nv nv_of(const char *name, const void *value, size_t len)
{
    return (nghttp2_nv){(uint8_t *)name, (uint8_t *)value, strlen(name), len,
                        NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE};
}

static void submit(struct rpc_client *client, struct client_call *call)
{
    const char *scheme = client->tls ? "https" : "http";
    nghttp2_nv nv[9] = {
        GRPC_STATIC_NV(":method", "POST"),
        nv_of(":scheme", scheme, strlen(scheme)),
        nv_of(":path", call->path.ptr, call->path.len),
        nv_of(":authority", client->authority, client->authority_len),
        GRPC_STATIC_NV("te", "trailers"),
        GRPC_STATIC_NV("content-type", "application/grpc"),
        GRPC_STATIC_NV("user-agent", "grpc-taskmill"),
    };
    size_t count = 7;
    nghttp2_data_provider provider = {.source.ptr = call, .read_callback = read_request};

    if (call->timeout_ms)
        nv[count++] = nv_of("grpc-timeout", call->timeout_text, strlen(call->timeout_text));
    if (client->secret.len) {
        nv[count] = nv_of("sentry-signature", call->signature, SIGN_HEX_LEN);
        nv[count++].flags |= NGHTTP2_NV_FLAG_NO_INDEX; /* never the same again */
    }
    call->stream_id = nghttp2_submit_request(client->session, NULL, nv, count, &provider, call);
}

static void submit_waiting(struct rpc_client *client)
{
    struct list_node *node;

    while (client->state == LINK_UP && (node = list_pop_front(&client->waiting))) {
        struct client_call *call = container_of(node, struct client_call, node);

        submit(client, call);
        if (call->stream_id > 0) {
            list_push_back(&client->streams, &call->node);
            continue;
        }
        /* Stream ids are used up (2^30 calls): no call has to fail for that, but the link ends. */
        call->stream_id = 0;
        list_push_front(&client->waiting, &call->node);
        client->is_going = true;
        return;
    }
}

/* The server goes: a new connection is made when the last call on this one has ended. */
static void leave_going(struct rpc_client *client)
{
    struct list refused;

    if (client->streams.count == 0) {
        client_link_lose(client, "the server goes away");
        if (!list_empty(&client->waiting))
            start_connect(client);
        return;
    }
    if (client->hold_calls)
        return;
    move_all(&refused, &client->waiting);
    end_all(client, &refused, "the server is shutting down");
}

static bool make_frames(struct rpc_client *client)
{
    const uint8_t *ptr;
    ssize_t len;

    while (client->out.len < WRITE_LEN) {
        len = nghttp2_session_mem_send(client->session, &ptr);
        if (len < 0) {
            client_link_lose(client, nghttp2_strerror((int)len));
            return false;
        }
        if (len == 0)
            return false;
        buf_append(&client->out, ptr, (size_t)len);
    }
    return true;
}

static ssize_t write_plain(struct rpc_client *client, const uint8_t *ptr, size_t len,
                           struct err_text *why)
{
    ssize_t rv;

    do
        rv = send(client->fd, ptr, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (rv < 0 && errno == EINTR);
    if (rv >= 0)
        return rv;
    return errno == EAGAIN || errno == EWOULDBLOCK ? ERR_BUSY
                                                   : err_set(why, ERR_IO, "%s", strerror(errno));
}

/* True when all of `out` was written. */
static bool write_out(struct rpc_client *client)
{
    size_t len = client->out.len - client->out_head;
    struct err_text why;

    if (len == 0)
        return true;
    const uint8_t *ptr = client->out.ptr + client->out_head;
    ssize_t rv = client->tls ? tls_stream_write(client->tls, ptr, len, &why)
                             : write_plain(client, ptr, len, &why);
    if (rv < 0) {
        if (rv != ERR_BUSY)
            client_link_lose(client, why.s);
        return false;
    }
    client->out_head += (size_t)rv;
    if (client->out_head < client->out.len)
        return false;
    buf_clear(&client->out);
    client->out_head = 0;
    return true;
}

void client_link_flush(struct rpc_client *client)
{
    bool has_more = true;

    if (client->state == LINK_UP && client->is_going)
        leave_going(client);
    if (client->state != LINK_UP)
        return;
    if (!client->is_going)
        submit_waiting(client);
    while (has_more && client->state == LINK_UP && write_out(client)) {
        has_more = make_frames(client);
        if (client->state == LINK_UP && !write_out(client))
            return;
    }
    if (client->state == LINK_UP && !nghttp2_session_want_read(client->session) &&
        !nghttp2_session_want_write(client->session) && client->out.len == 0)
        client_link_lose(client, "the connection has ended");
}
