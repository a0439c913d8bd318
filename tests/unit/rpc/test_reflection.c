/* SPDX-License-Identifier: Apache-2.0 */
/* Answers of the reflection service, and how its streams begin, go on and end. */
#include "peer.h"
#include "rpc/reflection.h"
#include "wire/pb.h"
#include "wire/sign.h"

#define INFO REFLECTION_INFO

/* --- answers ---------------------------------------------------------------------------------- */

static int answer(uint32_t number, const char *text, struct buf *out)
{
    const struct bytes services[] = {bytes_str("a.One"), bytes_str("b.Two")};
    struct buf request = {0};
    const char *why = NULL;

    pb_put_bytes(&request, number, bytes_str(text));
    int rv = reflection_answer(buf_bytes(&request), services, 2, out, &why);
    assert_int_equal(rv == 0, why == NULL);
    buf_free(&request);
    return rv;
}

/* The content of a field, which must be there. */
static struct bytes field_of(struct bytes message, uint32_t number)
{
    struct pb_reader reader = pb_reader_init(message, 0);
    struct pb_field field;
    const char *why;

    while (pb_next(&reader, &field, &why) > 0)
        if (field.number == number)
            return field.data;
    fail_msg("no field %u", number);
    return bytes_of(NULL, 0);
}

static size_t count_fields(struct bytes message)
{
    struct pb_reader reader = pb_reader_init(message, 0);
    struct pb_field field;
    const char *why;
    size_t count = 0;

    while (pb_next(&reader, &field, &why) > 0)
        count++;
    return count;
}

static void files_come_with_their_imports(void **state)
{
    (void)state;
    static const char *const asked[][2] = {
        {"3", "sentry_protos/taskbroker/v1/taskbroker.proto"},
        {"4", "sentry_protos.taskbroker.v1.ConsumerService"},
        {"4", "sentry_protos.taskbroker.v1.ConsumerService.GetTask"},
        {"4", "sentry_protos.taskbroker.v1.TaskActivation"},
        {"4", "sentry_protos.taskbroker.v1.TaskActivation.HeadersEntry"},
        {"4", "sentry_protos.taskbroker.v1.RetryState.attempts"},
        {"4", "sentry_protos.taskbroker.v1.TASK_ACTIVATION_STATUS_RETRY"},
    };

    for (size_t i = 0; i < sizeof(asked) / sizeof(asked[0]); i++) {
        struct buf out = {0};
        assert_int_equal(answer((uint32_t)(asked[i][0][0] - '0'), asked[i][1], &out), 0);
        struct bytes files = field_of(buf_bytes(&out), 4);
        assert_int_equal(count_fields(files), 2); /* itself and google/protobuf/timestamp.proto */
        assert_true(bytes_equal_str(field_of(field_of(files, 1), 1),
                                    "sentry_protos/taskbroker/v1/taskbroker.proto"));
        buf_free(&out);
    }
}

static void every_symbol_is_found(void **state)
{
    (void)state;
    assert_true(reflection_symbol_count > 100);
    for (size_t i = 0; i < reflection_symbol_count; i++) {
        const struct reflection_symbol *symbol = &reflection_symbols[i];
        struct buf out = {0};

        assert_int_equal(answer(4, symbol->name, &out), 0);
        assert_true(bytes_equal(field_of(field_of(buf_bytes(&out), 4), 1),
                                reflection_files[symbol->file].descriptor));
        buf_free(&out);
    }
}

static void what_is_not_there_is_not_found(void **state)
{
    (void)state;
    static const char *const asked[][2] = {
        {"3", "no.proto"},    {"3", ""},        {"4", ""},
        {"4", "grpc.health"}, {"4", "zzz"},     {"4", "grpc.health.v1.HealthX"},
        {"5", "\x0a\x01x"},   {"6", "no.Type"},
    };

    for (size_t i = 0; i < sizeof(asked) / sizeof(asked[0]); i++) {
        struct buf out = {0};
        assert_int_equal(answer((uint32_t)(asked[i][0][0] - '0'), asked[i][1], &out), 0);
        struct bytes error = field_of(buf_bytes(&out), 7);
        assert_memory_equal(error.ptr, "\x08\x05", 2); /* NOT_FOUND */
        buf_free(&out);
    }
    struct buf out = {0};
    assert_int_equal(answer(6, "taskmill.v1.EnqueueRequest", &out), 0);
    assert_int_equal(count_fields(field_of(buf_bytes(&out), 5)), 1); /* the name, no number */
    buf_free(&out);
}

static void services_are_listed(void **state)
{
    (void)state;
    struct buf out = {0};

    assert_int_equal(answer(7, "", &out), 0);
    assert_true(bytes_equal_str(field_of(buf_bytes(&out), 6), "\x0a\x07\x0a\x05"
                                                              "a.One\x0a\x07\x0a\x05"
                                                              "b.Two"));
    buf_free(&out);
}

static void bad_requests_are_refused(void **state)
{
    (void)state;
    struct buf out = {0};

    assert_int_equal(answer(1, "only a host", &out), ERR_MALFORMED);
    assert_int_equal(answer(2, "unknown", &out), ERR_MALFORMED);
    assert_int_equal(answer(4, "\xff", &out), ERR_MALFORMED);
    assert_int_equal(out.len, 0);
    buf_free(&out);
}

/* --- streams ---------------------------------------------------------------------------------- */

static struct bytes list_request(void)
{
    return bytes_of("\0\0\0\0\2\x3a\0", 7);
}

/* Reads one message of answers; false when the stream ended first. */
static bool read_answer(struct peer *peer, int32_t stream_id)
{
    struct peer_frame frame = {0};

    while (peer_read(peer, &frame)) {
        if (frame.stream_id == stream_id && frame.type == NGHTTP2_DATA)
            return true;
        if (frame.stream_id == stream_id && frame.type == NGHTTP2_HEADERS &&
            frame.flags & NGHTTP2_FLAG_END_STREAM)
            return false;
    }
    return false;
}

static void a_stream_goes_back_and_forth(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, NULL, 1);
    struct peer *peer = peer_new(rpc_server_port(f->server));
    struct bytes request = list_request();

    peer_hello(peer);
    peer_request(peer, 1, INFO, 0);
    for (int i = 0; i < 3; i++) {
        peer_data(peer, 1, request, false);
        assert_true(read_answer(peer, 1));
    }
    /* Byte by byte, and two at once. */
    for (size_t i = 0; i < request.len; i++)
        peer_data(peer, 1, bytes_of(request.ptr + i, 1), false);
    assert_true(read_answer(peer, 1));
    peer_data(peer, 1, bytes_of("\0\0\0\0\2\x3a\0\0\0\0\0\2\x3a\0", 14), true);
    assert_true(read_answer(peer, 1));
    assert_true(read_answer(peer, 1));
    assert_true(peer_expect_header(peer, 1, "grpc-status: 0\n"));
    peer_free(peer);
    fixture_wait_no_streams(f);
    fixture_free(f);
}

struct bad_stream {
    const char *bytes;
    size_t len;
    bool is_end;
    const char *line;
};

static void bad_streams_get_a_status(void **state)
{
    (void)state;
    static const struct bad_stream cases[] = {
        {"", 0, true, "grpc-status: 13\n"},
        {"\0\0\0", 3, true, "grpc-status: 13\n"},
        {"\0\0\0\0\2\x3a\0\0\0", 9, true, "grpc-status: 13\n"},
        {"\0\0\0\x20\0", 5, false, "grpc-status: 8\n"},
        {"\0\0\0\0\2\x3a\0\0\0\0\x20\0", 12, false, "grpc-status: 8\n"},
        {"\1\0\0\0\2\x3a\0", 7, false, "grpc-status: 8\n"},
        {"\0\0\0\0\2\x0a\0", 7, false, "grpc-status: 3\ngrpc-message: asks%20for%20nothing\n"},
        {"\0\0\0\0\2\x3a\x09", 7, false, "grpc-status: 3\n"},
    };
    struct fixture *f = fixture_new(NULL, NULL, 1);
    struct peer *peer = peer_new(rpc_server_port(f->server));

    peer_hello(peer);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int32_t stream_id = (int32_t)(2 * i + 1);
        peer_request(peer, stream_id, INFO, 0);
        peer_data(peer, stream_id, bytes_of(cases[i].bytes, cases[i].len), cases[i].is_end);
        assert_true(peer_expect_header(peer, stream_id, cases[i].line));
    }
    peer_free(peer);
    fixture_wait_no_streams(f);
    fixture_free(f);
}

/* The peer takes no answers but asks on: requests that wait are bounded, answers are not made. */
static void waiting_requests_are_bounded(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, NULL, 1);
    struct peer *peer = peer_new(rpc_server_port(f->server));

    peer_hello(peer);
    peer_frame(peer, NGHTTP2_SETTINGS, 0, 0, bytes_of("\0\x04\0\0\0\0", 6)); /* no window */
    peer_request(peer, 1, INFO, 0);
    for (int i = 0; i < 10000; i++)
        peer_data(peer, 1, list_request(), false);
    /* With room again, what is under way comes and then the verdict. */
    peer_frame(peer, NGHTTP2_WINDOW_UPDATE, 0, 1, bytes_of("\0\1\0\0", 4));
    assert_true(peer_expect_header(peer, 1, "grpc-status: 8\n"));
    assert_non_null(strstr(buf_cstr(&peer->headers), "Too%20many%20requests%20wait"));
    peer_free(peer);
    fixture_wait_no_streams(f);
    fixture_free(f);
}

static void ask_signed(struct peer *peer, int32_t stream_id, const char *signature)
{
    struct buf block = {0};

    peer_add_header(&block, ":method", "POST");
    peer_add_header(&block, ":scheme", "http");
    peer_add_header(&block, ":authority", "test");
    peer_add_header(&block, ":path", INFO);
    peer_add_header(&block, "content-type", "application/grpc");
    if (signature)
        peer_add_header(&block, "sentry-signature", signature);
    peer_frame(peer, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, stream_id, buf_bytes(&block));
    buf_free(&block);
    peer_data(peer, stream_id, list_request(), false);
}

static void the_first_request_is_signed(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, "secret", 1);
    struct peer *peer = peer_new(rpc_server_port(f->server));
    char signature[SIGN_HEX_LEN + 1];

    peer_hello(peer);
    ask_signed(peer, 1, NULL);
    assert_true(peer_expect_header(peer, 1, "grpc-status: 16\n"));
    sign_request(signature, bytes_str("secret"), bytes_str(INFO), bytes_str("another"));
    ask_signed(peer, 3, signature);
    assert_true(peer_expect_header(peer, 3, "grpc-status: 16\n"));
    sign_request(signature, bytes_str("secret"), bytes_str(INFO), bytes_of("\x3a\0", 2));
    ask_signed(peer, 5, signature);
    assert_true(read_answer(peer, 5));
    peer_data(peer, 5, list_request(), true);
    assert_true(read_answer(peer, 5));
    assert_true(peer_expect_header(peer, 5, "grpc-status: 0\n"));
    peer_free(peer);
    fixture_wait_no_streams(f);
    fixture_free(f);
}

static void streams_end_with_the_server(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, NULL, 1);
    struct peer *peer = peer_new(rpc_server_port(f->server));

    peer_hello(peer);
    peer_request(peer, 1, INFO, 0);
    peer_data(peer, 1, list_request(), false);
    assert_true(read_answer(peer, 1));
    rpc_server_drain(f->server);
    assert_true(peer_expect_header(peer, 1, "grpc-status: 14\n"));
    peer_free(peer);
    fixture_wait_no_streams(f);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_come_with_their_imports),
        cmocka_unit_test(every_symbol_is_found),
        cmocka_unit_test(what_is_not_there_is_not_found),
        cmocka_unit_test(services_are_listed),
        cmocka_unit_test(bad_requests_are_refused),
        cmocka_unit_test(a_stream_goes_back_and_forth),
        cmocka_unit_test(bad_streams_get_a_status),
        cmocka_unit_test(waiting_requests_are_bounded),
        cmocka_unit_test(the_first_request_is_signed),
        cmocka_unit_test(streams_end_with_the_server),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
