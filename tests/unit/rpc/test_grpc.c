/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "rpc/grpc.h"
#include "rpc/rate.h"

static void feeds_a_message_in_any_pieces(void **state)
{
    (void)state;
    const uint8_t wire[] = {0, 0, 0, 0, 3, 'a', 'b', 'c'};

    for (size_t step = 1; step <= sizeof(wire); step++) {
        struct grpc_message message = {0};
        for (size_t at = 0; at < sizeof(wire); at += step) {
            assert_false(grpc_message_complete(&message));
            size_t len = sizeof(wire) - at < step ? sizeof(wire) - at : step;
            assert_int_equal(grpc_message_feed(&message, bytes_of(wire + at, len), 3),
                             GRPC_FEED_OK);
        }
        assert_true(grpc_message_complete(&message));
        assert_true(bytes_equal_str(buf_bytes(&message.body), "abc"));
        grpc_message_reset(&message, 0);
        assert_null(message.body.ptr);
    }
}

static enum grpc_feed feed(const uint8_t *wire, size_t len)
{
    struct grpc_message message = {0};
    enum grpc_feed rv = grpc_message_feed(&message, bytes_of(wire, len), 10);

    buf_free(&message.body);
    return rv;
}

static void refuses_bad_messages(void **state)
{
    (void)state;
    const uint8_t compressed[] = {1, 0, 0, 0, 0}, flag[] = {2, 0, 0, 0, 0};
    const uint8_t large[] = {0, 0, 0, 0, 11}, huge[] = {0, 0xff, 0xff, 0xff, 0xff};
    const uint8_t excess[] = {0, 0, 0, 0, 1, 'a', 'b'}, empty[] = {0, 0, 0, 0, 0};

    assert_int_equal(feed(compressed, 5), GRPC_FEED_COMPRESSED);
    assert_int_equal(feed(flag, 5), GRPC_FEED_BAD_FLAG);
    assert_int_equal(feed(large, 5), GRPC_FEED_TOO_LARGE);
    assert_int_equal(feed(huge, 5), GRPC_FEED_TOO_LARGE);
    assert_int_equal(feed(excess, 7), GRPC_FEED_EXCESS);
    assert_int_equal(feed(empty, 5), GRPC_FEED_OK);
}

static int64_t parse(const char *text)
{
    int64_t timeout_ms = -1;

    return grpc_timeout_parse(bytes_str(text), &timeout_ms) == 0 ? timeout_ms : -1;
}

static void parses_timeouts(void **state)
{
    (void)state;
    assert_int_equal(parse("1S"), 1000);
    assert_int_equal(parse("100m"), 100);
    assert_int_equal(parse("5u"), 1);
    assert_int_equal(parse("1001u"), 2);
    assert_int_equal(parse("1n"), 1);
    assert_int_equal(parse("1000001n"), 2);
    assert_int_equal(parse("2M"), 120000);
    assert_int_equal(parse("99999999H"), 99999999LL * 3600000);
    assert_int_equal(parse("0m"), 0);
    assert_int_equal(parse("100000000m"), -1);
    const char *const bad[] = {"", "S", "1", "1s", "-1S", "1.5S", " 1S", "1 S"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(parse(bad[i]), -1);
}

static void formats_what_it_parses(void **state)
{
    (void)state;
    const uint32_t values_ms[] = {1, 999, 5000, 99999999};
    char text[GRPC_TIMEOUT_TEXT_MAX];

    for (size_t i = 0; i < 4; i++) {
        grpc_timeout_format(text, values_ms[i]);
        assert_int_equal(parse(text), values_ms[i]);
    }
    grpc_timeout_format(text, UINT32_MAX);
    assert_string_equal(text, "4294967S");
}

static void encodes_and_decodes_messages(void **state)
{
    (void)state;
    struct buf encoded = {0}, decoded = {0};

    grpc_percent_encode("Authentication failed", &encoded);
    assert_string_equal(buf_cstr(&encoded), "Authentication%20failed");
    buf_clear(&encoded);
    grpc_percent_encode("50% \"a\"\n\xc3\xa9`", &encoded);
    assert_string_equal(buf_cstr(&encoded), "50%25%20%22a%22%0A%C3%A9%60");
    grpc_percent_decode(buf_bytes(&encoded), &decoded);
    assert_string_equal(buf_cstr(&decoded), "50% \"a\"\n\xc3\xa9`");
    buf_clear(&decoded);
    grpc_percent_decode(bytes_str("100%, %zz, %4, %00%41%c3%A9"), &decoded);
    assert_string_equal(buf_cstr(&decoded), "100%, %zz, %4, ?A\xc3\xa9");
    buf_free(&encoded);
    buf_free(&decoded);
}

static void cuts_long_messages_at_a_whole_escape(void **state)
{
    (void)state;
    char text[GRPC_MESSAGE_MAX];
    struct buf encoded = {0};

    memset(text, ' ', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    grpc_percent_encode(text, &encoded);
    assert_true(encoded.len <= GRPC_MESSAGE_MAX);
    assert_true(encoded.len % 3 == 0);
    assert_memory_equal(encoded.ptr + encoded.len - 3, "%20", 3);
    buf_free(&encoded);
}

static void knows_content_types(void **state)
{
    (void)state;
    assert_true(grpc_content_type_ok(bytes_str("application/grpc")));
    assert_true(grpc_content_type_ok(bytes_str("application/grpc+proto")));
    assert_true(grpc_content_type_ok(bytes_str("application/grpc;charset=utf-8")));
    assert_false(grpc_content_type_ok(bytes_str("application/grpc-web")));
    assert_false(grpc_content_type_ok(bytes_str("application/grp")));
    assert_false(grpc_content_type_ok(bytes_str("")));
}

static void names_statuses(void **state)
{
    (void)state;
    assert_string_equal(grpc_status_name(GRPC_OK), "OK");
    assert_string_equal(grpc_status_name(GRPC_UNAUTHENTICATED), "UNAUTHENTICATED");
    assert_string_equal(grpc_status_name(99), "UNKNOWN");
    assert_true(bytes_equal_str(grpc_status_text(GRPC_UNAUTHENTICATED), "16"));
    assert_int_equal(grpc_status_of_http(404), GRPC_UNIMPLEMENTED);
    assert_int_equal(grpc_status_of_http(503), GRPC_UNAVAILABLE);
    assert_int_equal(grpc_status_of_http(200), GRPC_UNKNOWN);
    assert_int_equal(grpc_status_of_reset(NGHTTP2_REFUSED_STREAM), GRPC_UNAVAILABLE);
    assert_int_equal(grpc_status_of_reset(NGHTTP2_NO_ERROR), GRPC_INTERNAL);
}

static void rate_lets_bursts_and_then_the_rate_through(void **state)
{
    (void)state;
    struct rate rate = rate_new(10, 3, 1000);

    for (int i = 0; i < 3; i++)
        assert_true(rate_take(&rate, 1000));
    assert_false(rate_take(&rate, 1000));
    assert_false(rate_take(&rate, 1099));
    assert_true(rate_take(&rate, 1100));
    assert_false(rate_take(&rate, 1100));
    assert_false(rate_take(&rate, 900)); /* a step back gives nothing */
    assert_true(rate_take(&rate, INT64_MAX));
    assert_true(rate_take(&rate, INT64_MAX));
    assert_true(rate_take(&rate, INT64_MAX));
    assert_false(rate_take(&rate, INT64_MAX));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(feeds_a_message_in_any_pieces),
        cmocka_unit_test(refuses_bad_messages),
        cmocka_unit_test(parses_timeouts),
        cmocka_unit_test(formats_what_it_parses),
        cmocka_unit_test(encodes_and_decodes_messages),
        cmocka_unit_test(cuts_long_messages_at_a_whole_escape),
        cmocka_unit_test(knows_content_types),
        cmocka_unit_test(names_statuses),
        cmocka_unit_test(rate_lets_bursts_and_then_the_rate_through),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
