/* SPDX-License-Identifier: Apache-2.0 */
/* What dishonest, broken and slow peers see: the limits of struct rpc_limits (INV-10, INV-13).
 * After each the server still serves an honest client. */
#include "peer.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

struct scene {
    struct fixture *fixture;
    struct peer *peer;
};

static struct scene enter(const struct rpc_limits *limits)
{
    struct scene scene = {.fixture = fixture_new(limits, NULL, 1)};

    scene.peer = peer_new(rpc_server_port(scene.fixture->server));
    return scene;
}

static void leave(struct scene *scene)
{
    struct rpc_client *client = fixture_client(scene->fixture, NULL);

    peer_free(scene->peer);
    /* Where connections are counted, the server may yet have to see that those before are gone. */
    struct outcome outcome = {.status = GRPC_UNAVAILABLE};
    while (outcome.status == GRPC_UNAVAILABLE) {
        fixture_call(client, INLINE_PATH, "still there", PEER_WAIT_S * 1000, &outcome);
        fixture_run(client, &outcome.calls, outcome.calls + 1);
    }
    assert_int_equal(outcome.status, GRPC_OK);
    outcome_free(&outcome);
    rpc_client_free(client);
    fixture_wait_no_streams(scene->fixture);
    fixture_free(scene->fixture);
}

/* --- no HTTP/2 at all ------------------------------------------------------------------------- */

static void other_protocols_are_closed(void **state)
{
    (void)state;
    const char *const greetings[] = {
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\x16\x03\x01\x02\x01\x01\xfc\x03\x03 hello, TLS here",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", "                                                  "};

    for (size_t i = 0; i < sizeof(greetings) / sizeof(greetings[0]); i++) {
        struct scene scene = enter(NULL);
        peer_write(scene.peer, bytes_str(greetings[i]));
        (void)peer_read_to_end(scene.peer);
        leave(&scene);
    }
}

static void missing_preface_times_out(void **state)
{
    (void)state;
    struct rpc_limits limits = {.preface_timeout_ms = 50};

    for (int i = 0; i < 3; i++) {
        struct scene scene = enter(&limits);
        if (i == 1)
            peer_write(scene.peer, bytes_str("PRI * HTTP/2.0\r\n"));
        if (i == 2) /* no SETTINGS */
            peer_write(scene.peer, bytes_str("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
        peer_read_to_end(scene.peer);
        leave(&scene);
    }
}

static void garbage_after_the_preface_ends_the_connection(void **state)
{
    (void)state;
    uint32_t random = 1;

    for (int round = 0; round < 200; round++) {
        struct scene scene = {0};
        static struct fixture *fixture; /* one server for all rounds */
        uint8_t garbage[500];

        if (round == 0)
            fixture = fixture_new(NULL, NULL, 1);
        scene.fixture = fixture;
        scene.peer = peer_new(rpc_server_port(fixture->server));
        peer_hello(scene.peer);
        for (size_t i = 0; i < sizeof(garbage); i++) {
            random = random * 1664525 + 1013904223;
            garbage[i] = (uint8_t)(random >> 24);
        }
        garbage[0] = garbage[1] = 0; /* short frames go deeper */
        garbage[3] %= 12;
        peer_write(scene.peer, bytes_of(garbage, sizeof(garbage)));
        if (round == 199)
            leave(&scene);
        else
            peer_free(scene.peer);
    }
}

/* --- requests that are not gRPC --------------------------------------------------------------- */

static void ask(struct peer *peer, int32_t stream_id, const char *method, const char *type)
{
    struct buf block = {0};

    peer_add_header(&block, ":method", method);
    peer_add_header(&block, ":scheme", "http");
    peer_add_header(&block, ":authority", "test");
    peer_add_header(&block, ":path", ECHO_PATH);
    if (type)
        peer_add_header(&block, "content-type", type);
    peer_frame(peer, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM, stream_id,
               buf_bytes(&block));
    buf_free(&block);
}

static void http_refusals(void **state)
{
    (void)state;
    struct scene scene = enter(NULL);

    peer_hello(scene.peer);
    ask(scene.peer, 1, "GET", "application/grpc");
    assert_true(peer_expect_header(scene.peer, 1, ":status: 405\nallow: POST\n"));
    ask(scene.peer, 3, "POST", "application/json");
    assert_true(peer_expect_header(scene.peer, 3, ":status: 415\n"));
    ask(scene.peer, 5, "POST", NULL);
    assert_true(peer_expect_header(scene.peer, 5, ":status: 415\n"));
    leave(&scene);
}

static void headers_above_the_limit(void **state)
{
    (void)state;
    struct rpc_limits limits = {.header_bytes = 1000};
    struct scene scene = enter(&limits);
    struct buf block = {0};

    peer_hello(scene.peer);
    peer_add_header(&block, ":method", "POST");
    peer_add_header(&block, ":scheme", "http");
    peer_add_header(&block, ":authority", "test");
    peer_add_header(&block, ":path", ECHO_PATH);
    for (int i = 0; i < 30; i++)
        peer_add_header(&block, "x", "0123456789");
    peer_frame(scene.peer, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM, 1,
               buf_bytes(&block));
    assert_true(peer_expect_header(scene.peer, 1, ":status: 431\n"));
    /* Far above it is no mistake any more. */
    for (int i = 0; i < 200; i++)
        peer_add_header(&block, "x", "0123456789");
    peer_frame(scene.peer, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM, 3,
               buf_bytes(&block));
    peer_read_to_end(scene.peer);
    buf_free(&block);
    leave(&scene);
}

/* One byte of HPACK refers to a header of 4 KB. */
static void header_bomb_ends_the_connection(void **state)
{
    (void)state;
    struct scene scene = enter(NULL);
    struct buf block = {0};

    peer_hello(scene.peer);
    peer_add_header(&block, ":method", "POST");
    peer_add_header(&block, ":scheme", "http");
    peer_add_header(&block, ":authority", "test");
    peer_add_header(&block, ":path", ECHO_PATH);
    /* Literal with incremental indexing, name "x", a value of 4000 bytes. */
    const uint8_t literal[] = {0x40, 1, 'x', 0x7f, 0xa1, 0x1e};
    buf_append(&block, literal, sizeof(literal));
    for (int i = 0; i < 4000; i++)
        buf_append_byte(&block, 'v');
    for (int i = 0; i < 12000; i++)
        buf_append_byte(&block, 0xbe); /* index 62: the newest entry */
    peer_frame(scene.peer, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM, 1,
               buf_bytes(&block));
    peer_read_to_end(scene.peer);
    buf_free(&block);
    leave(&scene);
}

struct body_case {
    const char *bytes;
    size_t len;
    const char *line;
};

static void bad_bodies_get_a_status(void **state)
{
    (void)state;
    static const struct body_case cases[] = {
        {"", 0, "grpc-status: 13\ngrpc-message: Missing%20request%20message.\n"},
        {"\0\0\0", 3, "grpc-status: 13\n"},
        {"\0\0\0\0", 4, "grpc-status: 13\n"},
        {"\0\0\0\0\5abc", 8, "grpc-status: 13\n"},
        {"\0\0\0\0\1ab", 7,
         "grpc-status: 13\ngrpc-message: More%20than%20one%20request%20message\n"},
        {"\1\0\0\0\1a", 6, "grpc-status: 12\n"},
        {"\7\0\0\0\1a", 6, "grpc-status: 13\n"},
        {"\0\xff\xff\xff\xff", 5,
         "grpc-status: 11\ngrpc-message: Error,%20decoded%20message%20length%20too%20large:%20found"
         "%204294967295%20bytes,%20the%20limit%20is:%204194304%20bytes\n"},
    };
    struct scene scene = enter(NULL);

    peer_hello(scene.peer);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int32_t stream_id = (int32_t)(2 * i + 1);
        peer_request(scene.peer, stream_id, ECHO_PATH, 0);
        peer_data(scene.peer, stream_id, bytes_of(cases[i].bytes, cases[i].len), true);
        assert_true(peer_expect_header(scene.peer, stream_id, cases[i].line));
    }
    assert_int_equal(fixture_count(scene.fixture, &scene.fixture->started), 0);
    leave(&scene);
}

static void oversize_is_known_from_the_prefix(void **state)
{
    (void)state;
    struct scene scene = enter(NULL);
    struct peer_frame frame;

    peer_hello(scene.peer);
    peer_request(scene.peer, 1, ECHO_PATH, 0);
    peer_data(scene.peer, 1, bytes_of("\0\0\x50\0\0", 5), false); /* 5 MiB, of which none is sent */
    assert_true(peer_expect_header(scene.peer, 1, "grpc-status: 11\n"));
    assert_true(peer_expect(scene.peer, NGHTTP2_RST_STREAM, 1, &frame));
    assert_memory_equal(frame.payload.ptr, "\0\0\0\0", 4);
    leave(&scene);
}

static void request_bytes_per_connection_are_bounded(void **state)
{
    (void)state;
    struct rpc_limits limits = {.connection_bytes = 65536};
    struct scene scene = enter(&limits);
    uint8_t chunk[16384] = {0, 0, 0, 0xff, 0xff};

    peer_hello(scene.peer);
    for (int32_t i = 0; i < 5; i++) {
        peer_request(scene.peer, 2 * i + 1, ECHO_PATH, 0);
        peer_data(scene.peer, 2 * i + 1, bytes_of(chunk, sizeof(chunk)), false);
    }
    assert_true(peer_expect_header(scene.peer, 9, "grpc-status: 8\n"));
    leave(&scene);
}

static void compressed_requests_are_refused_by_their_header(void **state)
{
    (void)state;
    struct scene scene = enter(NULL);
    struct buf block = {0};

    peer_hello(scene.peer);
    peer_add_header(&block, ":method", "POST");
    peer_add_header(&block, ":scheme", "http");
    peer_add_header(&block, ":authority", "test");
    peer_add_header(&block, ":path", ECHO_PATH);
    peer_add_header(&block, "content-type", "application/grpc+proto");
    peer_add_header(&block, "grpc-encoding", "gzip");
    peer_frame(scene.peer, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1, buf_bytes(&block));
    assert_true(peer_expect_header(scene.peer, 1, "grpc-status: 12\n"));
    assert_non_null(strstr(buf_cstr(&scene.peer->headers), "grpc-accept-encoding: identity\n"));
    buf_free(&block);
    leave(&scene);
}

/* --- floods ----------------------------------------------------------------------------------- */

static void rapid_reset_is_stopped(void **state)
{
    (void)state;
    struct rpc_limits limits = {.resets_per_s = 10};
    struct scene scene = enter(&limits);
    const struct bytes cancel = bytes_of("\0\0\0\x08", 4);

    peer_hello(scene.peer);
    for (int32_t i = 0; i < 1000; i++)
        if (!peer_request(scene.peer, 2 * i + 1, ECHO_PATH, 0) ||
            !peer_frame(scene.peer, NGHTTP2_RST_STREAM, 0, 2 * i + 1, cancel))
            break;
    assert_int_equal(peer_read_to_end(scene.peer), NGHTTP2_ENHANCE_YOUR_CALM);
    leave(&scene);
}

/* Resets that the peer drives us to send: a window overflow on each of many streams. */
static void resets_forced_on_us_are_stopped(void **state)
{
    (void)state;
    struct rpc_limits limits = {.resets_per_s = 10};
    struct scene scene = enter(&limits);
    const struct bytes overflow = bytes_of("\x7f\xff\xff\xff", 4);

    peer_hello(scene.peer);
    for (int32_t i = 0; i < 1000; i++)
        if (!peer_request(scene.peer, 2 * i + 1, HOLD_PATH, 0) ||
            !peer_frame(scene.peer, NGHTTP2_WINDOW_UPDATE, 0, 2 * i + 1, overflow))
            break;
    assert_int_equal(peer_read_to_end(scene.peer), NGHTTP2_ENHANCE_YOUR_CALM);
    leave(&scene);
}

static void continuation_flood_ends_the_connection(void **state)
{
    (void)state;
    struct scene scene = enter(NULL);
    struct buf block = {0};

    peer_hello(scene.peer);
    peer_add_header(&block, ":method", "POST");
    peer_frame(scene.peer, NGHTTP2_HEADERS, 0, 1, buf_bytes(&block));
    for (int i = 0; i < 10000; i++)
        if (!peer_frame(scene.peer, NGHTTP2_CONTINUATION, 0, 1, bytes_of(NULL, 0)))
            break;
    peer_read_to_end(scene.peer);
    buf_free(&block);
    leave(&scene);
}

static void useless_frames_are_stopped(void **state)
{
    (void)state;
    struct scene scene = enter(NULL);

    peer_hello(scene.peer);
    peer_request(scene.peer, 1, ECHO_PATH, 0);
    for (int i = 0; i < 20000; i++)
        if (!peer_data(scene.peer, 1, bytes_of(NULL, 0), false))
            break;
    assert_int_equal(peer_read_to_end(scene.peer), NGHTTP2_ENHANCE_YOUR_CALM);
    leave(&scene);
}

/* Answers to PING pile up when the peer does not read. */
static void ping_flood_without_reading_ends_the_connection(void **state)
{
    (void)state;
    struct scene scene = enter(NULL);
    struct buf pings = {0};

    peer_hello(scene.peer);
    for (int i = 0; i < 1000; i++)
        buf_append(&pings, "\0\0\x08\x06\0\0\0\0\0abcdefgh", 17);
    while (peer_write(scene.peer, buf_bytes(&pings)))
        ;
    buf_free(&pings);
    leave(&scene);
}

static void pings_are_answered(void **state)
{
    (void)state;
    struct scene scene = enter(NULL);
    struct peer_frame frame;

    peer_hello(scene.peer);
    peer_frame(scene.peer, NGHTTP2_PING, 0, 0, bytes_str("12345678"));
    assert_true(peer_expect(scene.peer, NGHTTP2_PING, 0, &frame));
    assert_int_equal(frame.flags, NGHTTP2_FLAG_ACK);
    assert_memory_equal(frame.payload.ptr, "12345678", 8);
    leave(&scene);
}

/* Go's client, for one, measures the line with a PING for each answer. */
static void a_ping_for_each_answer_is_no_flood(void **state)
{
    (void)state;
    struct scene scene = enter(NULL);
    int one = 1;

    setsockopt(scene.peer->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    peer_hello(scene.peer);
    peer_frame(scene.peer, NGHTTP2_WINDOW_UPDATE, 0, 0, bytes_of("\0\1\0\0", 4));
    for (int32_t i = 0; i < 15000; i++) { /* above what is borne of useless frames */
        int32_t stream_id = 2 * i + 1;
        peer_frame(scene.peer, NGHTTP2_PING, 0, 0, bytes_str("12345678"));
        peer_request(scene.peer, stream_id, INLINE_PATH, 0);
        peer_data(scene.peer, stream_id, bytes_of("\0\0\0\0\0", 5), true);
        assert_true(peer_expect_header(scene.peer, stream_id, "grpc-status: 0\n"));
    }
    leave(&scene);
}

/* --- slowness --------------------------------------------------------------------------------- */

static void slow_bodies_time_out(void **state)
{
    (void)state;
    struct rpc_limits limits = {.body_timeout_ms = 50};
    struct scene scene = enter(&limits);

    peer_hello(scene.peer);
    peer_request(scene.peer, 1, ECHO_PATH, 0);
    peer_data(scene.peer, 1, bytes_of("\0\0\0", 3), false);
    assert_true(peer_expect_header(scene.peer, 1, "grpc-status: 4\n"));
    leave(&scene);
}

static void slow_headers_time_out(void **state)
{
    (void)state;
    struct rpc_limits limits = {.body_timeout_ms = 50};
    struct scene scene = enter(&limits);
    struct buf block = {0};

    peer_hello(scene.peer);
    peer_add_header(&block, ":method", "POST");
    peer_frame(scene.peer, NGHTTP2_HEADERS, 0, 1, buf_bytes(&block));
    peer_read_to_end(scene.peer);
    buf_free(&block);
    leave(&scene);
}

/* The peer opens no flow-control window: the reply cannot leave, and its claim must come back. */
static void closed_window_times_out(void **state)
{
    (void)state;
    struct rpc_limits limits = {.write_timeout_ms = 50};
    struct scene scene = enter(&limits);
    struct fixture *f = scene.fixture;

    peer_hello(scene.peer);
    peer_frame(scene.peer, NGHTTP2_SETTINGS, 0, 0, bytes_of("\0\x04\0\0\0\0", 6));
    peer_request(scene.peer, 1, SIZE_PATH, 0);
    peer_data(scene.peer, 1,
              bytes_of("\0\0\0\0\2"
                       "10",
                       7),
              true);
    peer_read_to_end(scene.peer);
    fixture_wait(f, &f->unsent, 1);
    assert_int_equal(fixture_count(f, &f->sent), 0);
    leave(&scene);
}

/* Frames that it does read are no excuse. */
static void closed_window_times_out_despite_pings(void **state)
{
    (void)state;
    struct rpc_limits limits = {.write_timeout_ms = 50};
    struct scene scene = enter(&limits);
    struct fixture *f = scene.fixture;
    struct peer_frame frame;

    peer_hello(scene.peer);
    peer_frame(scene.peer, NGHTTP2_SETTINGS, 0, 0, bytes_of("\0\x04\0\0\0\0", 6));
    peer_request(scene.peer, 1, SIZE_PATH, 0);
    peer_data(scene.peer, 1,
              bytes_of("\0\0\0\0\2"
                       "10",
                       7),
              true);
    for (int64_t end_ms = clock_boot_ms() + PEER_WAIT_S * 1000; clock_boot_ms() < end_ms;) {
        if (!peer_frame(scene.peer, NGHTTP2_PING, 0, 0, bytes_str("12345678")) ||
            !peer_expect(scene.peer, NGHTTP2_PING, 0, &frame))
            break;
        struct pollfd pause = {.fd = -1};
        (void)poll(&pause, 1, 5); /* so that the limit of useless frames is not what ends it */
    }
    fixture_wait(f, &f->unsent, 1);
    leave(&scene);
}

/* The peer opens all windows but reads nothing: the socket fills. */
static void stalled_reader_times_out(void **state)
{
    (void)state;
    struct rpc_limits limits = {.write_timeout_ms = 50};
    struct scene scene = enter(&limits);
    struct fixture *f = scene.fixture;

    peer_hello(scene.peer);
    peer_frame(scene.peer, NGHTTP2_SETTINGS, 0, 0, bytes_of("\0\x04\x7f\xff\xff\xff", 6));
    peer_frame(scene.peer, NGHTTP2_WINDOW_UPDATE, 0, 0, bytes_of("\x7f\0\0\0", 4));
    peer_request(scene.peer, 1, SIZE_PATH, 0);
    peer_data(scene.peer, 1,
              bytes_of("\0\0\0\0\x08"
                       "40000000",
                       13),
              true);
    fixture_wait(f, &f->sent, 1);
    fixture_wait_no_streams(f); /* without a byte read here */
    leave(&scene);
}

static void replies_for_a_slow_peer_are_bounded(void **state)
{
    (void)state;
    struct rpc_limits limits = {.outbound_bytes = 1000000};
    struct scene scene = enter(&limits);
    struct fixture *f = scene.fixture;

    peer_hello(scene.peer);
    for (int32_t i = 0; i < 4; i++) {
        peer_request(scene.peer, 2 * i + 1, SIZE_PATH, 0);
        peer_data(scene.peer, 2 * i + 1,
                  bytes_of("\0\0\0\0\6"
                           "400000",
                           11),
                  true);
    }
    peer_read_to_end(scene.peer);
    fixture_wait_no_streams(f);
    leave(&scene);
}

static void idle_connections_are_told_to_go(void **state)
{
    (void)state;
    struct rpc_limits limits = {.idle_timeout_ms = 50};
    struct scene scene = enter(&limits);

    peer_hello(scene.peer);
    assert_int_equal(peer_read_to_end(scene.peer), NGHTTP2_NO_ERROR);
    leave(&scene);
}

static void old_connections_are_told_to_go(void **state)
{
    (void)state;
    struct rpc_limits limits = {.age_ms = 50};
    struct scene scene = enter(&limits);
    struct fixture *f = scene.fixture;
    struct peer_frame frame;

    peer_hello(scene.peer);
    peer_request(scene.peer, 1, HOLD_PATH, 0);
    peer_data(scene.peer, 1, bytes_of("\0\0\0\0\0", 5), true);
    assert_true(peer_expect(scene.peer, NGHTTP2_GOAWAY, 0, &frame));
    assert_memory_equal(frame.payload.ptr, "\x7f\xff\xff\xff\0\0\0\0", 8); /* only a notice */
    /* What was sent before the peer knew is served. */
    peer_request(scene.peer, 3, INLINE_PATH, 0);
    peer_data(scene.peer, 3, bytes_of("\0\0\0\0\0", 5), true);
    assert_true(peer_expect_header(scene.peer, 3, "grpc-status: 0\n"));
    /* And what was held before finishes. */
    fixture_reply(fixture_held(f), GRPC_OK, NULL, NULL);
    assert_true(peer_expect_header(scene.peer, 1, "grpc-status: 0\n"));
    assert_int_equal(peer_read_to_end(scene.peer), NGHTTP2_NO_ERROR);
    leave(&scene);
}

static void old_connections_end_after_their_grace(void **state)
{
    (void)state;
    struct rpc_limits limits = {.age_ms = 50, .age_grace_ms = 100};
    struct scene scene = enter(&limits);
    struct fixture *f = scene.fixture;

    peer_hello(scene.peer);
    peer_request(scene.peer, 1, HOLD_PATH, 0);
    peer_data(scene.peer, 1, bytes_of("\0\0\0\0\0", 5), true);
    peer_read_to_end(scene.peer);
    fixture_wait(f, &f->cancelled, 1);
    leave(&scene);
}

/* --- how many --------------------------------------------------------------------------------- */

static void connections_are_bounded(void **state)
{
    (void)state;
    struct rpc_limits limits = {.connections = 2};
    struct scene scene = enter(&limits);
    struct peer *second = peer_new(rpc_server_port(scene.fixture->server));
    struct peer_frame frame = {0};

    assert_true(peer_read(scene.peer, &frame)); /* the server's SETTINGS: it is served */
    frame = (struct peer_frame){0};
    assert_true(peer_read(second, &frame));
    struct peer *third = peer_new(rpc_server_port(scene.fixture->server));
    frame = (struct peer_frame){0};
    assert_false(peer_read(third, &frame));
    peer_free(third);
    peer_free(second);
    leave(&scene);
}

/* Whoever comes while there is no descriptor waits in the kernel's queue and is served later. */
static void running_out_of_descriptors_only_delays(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, NULL, 1);
    struct scene scene = {.fixture = f};
    struct rlimit before, tight;
    struct peer_frame frame = {0};

    int lowest_free = dup(STDERR_FILENO);
    close(lowest_free);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    tight = before;
    tight.rlim_cur = (rlim_t)lowest_free + 1; /* one more: the peer's own */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    scene.peer = peer_new(rpc_server_port(f->server));
    struct pollfd pollfd = {.fd = scene.peer->fd, .events = POLLIN};
    int ready = poll(&pollfd, 1, 150);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(ready, 0);
    assert_true(peer_read(scene.peer, &frame)); /* the server's SETTINGS */
    leave(&scene);
}

static void streams_are_bounded(void **state)
{
    (void)state;
    struct rpc_limits limits = {.streams_per_connection = 4};
    struct scene scene = enter(&limits);
    struct fixture *f = scene.fixture;
    struct peer_frame frame;

    peer_hello(scene.peer);
    for (int32_t i = 0; i < 5; i++) {
        peer_request(scene.peer, 2 * i + 1, HOLD_PATH, 0);
        peer_data(scene.peer, 2 * i + 1, bytes_of("\0\0\0\0\0", 5), true);
    }
    assert_true(peer_expect(scene.peer, NGHTTP2_RST_STREAM, 9, &frame));
    assert_memory_equal(frame.payload.ptr, "\0\0\0\x07", 4); /* REFUSED_STREAM */
    assert_int_equal(fixture_count(f, &f->started), 4);
    for (int i = 0; i < 4; i++)
        fixture_reply(fixture_held(f), GRPC_OK, NULL, NULL);
    leave(&scene);
}

/* Streams that were reset but whose calls a handler still holds are bounded as well. */
static void held_calls_of_dead_streams_are_bounded(void **state)
{
    (void)state;
    struct rpc_limits limits = {.streams_per_connection = 4};
    struct scene scene = enter(&limits);
    struct fixture *f = scene.fixture;
    struct peer_frame frame;

    peer_hello(scene.peer);
    for (int32_t i = 0; i < 9; i++) {
        peer_request(scene.peer, 2 * i + 1, HOLD_PATH, 0);
        peer_data(scene.peer, 2 * i + 1, bytes_of("\0\0\0\0\0", 5), true);
        if (i < 8)
            peer_frame(scene.peer, NGHTTP2_RST_STREAM, 0, 2 * i + 1, bytes_of("\0\0\0\x08", 4));
    }
    assert_true(peer_expect(scene.peer, NGHTTP2_RST_STREAM, 17, &frame));
    fixture_wait(f, &f->cancelled, 8);
    assert_int_equal(fixture_count(f, &f->started), 8);
    for (int i = 0; i < 8; i++)
        fixture_reply(fixture_held(f), GRPC_OK, NULL, NULL);
    fixture_wait(f, &f->unsent, 8);
    leave(&scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(other_protocols_are_closed),
        cmocka_unit_test(missing_preface_times_out),
        cmocka_unit_test(garbage_after_the_preface_ends_the_connection),
        cmocka_unit_test(http_refusals),
        cmocka_unit_test(headers_above_the_limit),
        cmocka_unit_test(header_bomb_ends_the_connection),
        cmocka_unit_test(bad_bodies_get_a_status),
        cmocka_unit_test(oversize_is_known_from_the_prefix),
        cmocka_unit_test(request_bytes_per_connection_are_bounded),
        cmocka_unit_test(compressed_requests_are_refused_by_their_header),
        cmocka_unit_test(rapid_reset_is_stopped),
        cmocka_unit_test(resets_forced_on_us_are_stopped),
        cmocka_unit_test(continuation_flood_ends_the_connection),
        cmocka_unit_test(useless_frames_are_stopped),
        cmocka_unit_test(ping_flood_without_reading_ends_the_connection),
        cmocka_unit_test(pings_are_answered),
        cmocka_unit_test(a_ping_for_each_answer_is_no_flood),
        cmocka_unit_test(slow_bodies_time_out),
        cmocka_unit_test(slow_headers_time_out),
        cmocka_unit_test(closed_window_times_out),
        cmocka_unit_test(closed_window_times_out_despite_pings),
        cmocka_unit_test(stalled_reader_times_out),
        cmocka_unit_test(replies_for_a_slow_peer_are_bounded),
        cmocka_unit_test(idle_connections_are_told_to_go),
        cmocka_unit_test(old_connections_are_told_to_go),
        cmocka_unit_test(old_connections_end_after_their_grace),
        cmocka_unit_test(connections_are_bounded),
        cmocka_unit_test(running_out_of_descriptors_only_delays),
        cmocka_unit_test(streams_are_bounded),
        cmocka_unit_test(held_calls_of_dead_streams_are_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
