/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes of a peer through a server connection, without its thread: fed, answered and timed by hand.
 * The first byte chooses: bit 0 whether preface and SETTINGS are put in front, bit 1 whether
 * signatures are asked for, bit 2 whether the clock runs far between chunks; the high bits the size
 * of chunks. Short limits make their code reachable. One server serves all inputs; whatever is left
 * of a connection at the end of an input would trip the assertions of the next or of the leak
 * checker.
 */
#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "rpc/server_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct rpc_call *held[64];
static size_t held_count;

static void start_inline(void *ctx, struct rpc_call *call)
{
    (void)ctx;
    struct rpc_reply reply = {.blob = blob_copy(rpc_call_body(call))};

    rpc_reply(call, &reply);
}

static void start_hold(void *ctx, struct rpc_call *call)
{
    struct rpc_reply reply = {.status = GRPC_RESOURCE_EXHAUSTED, .message = "too many are held"};

    if (held_count < sizeof(held) / sizeof(held[0]))
        held[held_count++] = call;
    else
        rpc_reply(call, &reply);
    (void)ctx;
}

static void on_delivered(void *ctx, struct rpc_call *call, bool sent)
{
    (void)ctx, (void)call, (void)sent;
}

static struct rpc_server *make_server(bool has_secret)
{
    static const struct rpc_method methods[] = {
        {"/t/Inline", start_inline, NULL, on_delivered},
        {"/t/Hold", start_hold, NULL, on_delivered},
    };
    struct bytes secret = bytes_str("secret");
    struct rpc_server_options options = {
        .address = "127.0.0.1",
        .threads = 1,
        .methods = methods,
        .method_count = 2,
        .secrets = &secret,
        .secret_count = has_secret,
        .limits = {.streams_per_connection = 8,
                   .message_bytes = 1000,
                   .connection_bytes = 65535,
                   .total_bytes = 100000,
                   .outbound_bytes = 4000,
                   .header_bytes = 500,
                   .resets_per_s = 1,
                   .idle_timeout_ms = 60000},
    };
    struct rpc_server *server;

    int rv = rpc_server_create(&server, &options, NULL);
    assert(rv == 0);
    return server;
}

static void answer_held(void)
{
    struct rpc_reply reply = {.prefix = "held", .prefix_len = 4};

    while (held_count > 0)
        rpc_reply(held[--held_count], &reply);
}

static void discard(int fd)
{
    char bytes[65536];

    while (recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
        ;
}

/* True while the connection is alive. */
static bool work(struct server_thread *thread, int peer_fd)
{
    server_thread_work(thread);
    discard(peer_fd);
    return !list_empty(&thread->conns);
}

static void feed(struct server_thread *thread, struct conn *conn, int peer_fd, uint8_t choice,
                 struct bytes input)
{
    size_t step = (size_t)1 << (choice >> 4);

    while (input.len > 0) {
        size_t len = input.len < step ? input.len : step;
        if (!conn_feed(conn, bytes_of(input.ptr, len)) || !work(thread, peer_fd))
            return;
        input = bytes_of(input.ptr + len, input.len - len);
        thread->now_ms += choice & 4 ? 700 : 1;
    }
    answer_held();
    if (work(thread, peer_fd))
        conn_close(conn, "end of the input");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char hello[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0";
    static struct rpc_server *servers[2];
    int fds[2];

    if (size == 0)
        return 0;
    struct rpc_server **server = &servers[data[0] >> 1 & 1];
    if (!*server)
        *server = make_server(data[0] >> 1 & 1);
    struct server_thread *thread = &(*server)->threads[0];
    int rv = socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds);
    assert(rv == 0);
    server_thread_enter(thread);
    (*server)->conn_count++;
    struct conn *conn = conn_new(thread, fds[0]);
    rv = conn_start(conn);
    assert(rv == 0);

    bool is_alive = true;
    if (data[0] & 1)
        is_alive = conn_feed(conn, bytes_of(hello, sizeof(hello))); /* its NUL ends the SETTINGS */
    if (is_alive)
        feed(thread, conn, fds[1], data[0], bytes_of(data + 1, size - 1));
    answer_held();
    server_thread_work(thread);
    assert((*server)->conn_count == 0 && thread->open_streams == 0 && thread->request_bytes == 0);
    close(fds[1]);
    return 0;
}
