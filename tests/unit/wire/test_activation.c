/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/activation.h"

#include "hexed.h"

static struct activation parsed(const struct hexed *message)
{
    struct activation activation;
    const char *why = NULL;
    assert_int_equal(activation_parse(hexed_bytes(message), &activation, &why), 0);
    return activation;
}

static void assert_refused(const char *hex, const char *expected_why)
{
    struct hexed message = unhex(hex);
    struct activation activation;
    const char *why = NULL;
    assert_int_equal(activation_parse(hexed_bytes(&message), &activation, &why), ERR_MALFORMED);
    assert_string_equal(why, expected_why);
}

/* The payload after the edit. */
static struct hexed spliced(const char *hex, const struct activation_edit *edit)
{
    struct hexed message = unhex(hex), result = {.len = 0};
    struct buf out = {0};
    const char *why = NULL;
    assert_int_equal(activation_splice(hexed_bytes(&message), edit, &out, &why), 0);
    assert_true(out.len <= sizeof(result.data));
    if (out.len > 0)
        memcpy(result.data, out.ptr, out.len);
    result.len = out.len;
    buf_free(&out);
    return result;
}

static void test_every_field(void **state)
{
    (void)state;
    struct hexed message = unhex("0a026964 12026e73 1a0174 22027b7d 2a06 0a016b 120176"
                                 "3209 08 80e2cfaa06 10 c801 3a0a 0802 1003 1802 2001 283c"
                                 "40 1e 48 ac02 58 0a 6203617070 6a0180");
    struct activation a = parsed(&message);
    assert_bytes_str(a.id, "id");
    assert_bytes_str(a.namespace, "ns");
    assert_bytes_str(a.taskname, "t");
    assert_bytes_str(a.parameters, "{}");
    assert_true(a.has_received_at);
    assert_int_equal(a.received_at_s, 1700000000);
    assert_int_equal(a.received_at_ns, 200);
    assert_true(a.retry_state.present);
    assert_int_equal(a.retry_state.attempts, 2);
    assert_int_equal(a.retry_state.max_attempts, 3);
    assert_int_equal(a.retry_state.on_attempts_exceeded, ON_ATTEMPTS_EXCEEDED_DEADLETTER);
    assert_true(a.retry_state.has_at_most_once && a.retry_state.at_most_once);
    assert_true(a.retry_state.has_delay_on_retry);
    assert_int_equal(a.retry_state.delay_on_retry, 60);
    assert_int_equal(a.processing_deadline_duration, 30);
    assert_true(a.has_expires && a.has_delay && a.has_application);
    assert_int_equal(a.expires, 300);
    assert_int_equal(a.delay, 10);
    assert_bytes_str(a.application, "app");
    assert_bytes_hex(a.parameters_bytes, "80");
}

static void test_nothing(void **state)
{
    (void)state;
    struct hexed empty = {.len = 0};
    struct activation a = parsed(&empty);
    assert_int_equal(a.id.len, 0);
    assert_false(a.has_received_at || a.has_application || a.has_expires || a.has_delay);
    assert_false(a.retry_state.present);
}

static void test_last_wins_and_messages_merge(void **state)
{
    (void)state;
    struct hexed message = unhex("0a0161 0a0162 4001 4002 6200"
                                 "3202 0805 3202 1007 3a02 0801 3a04 1002 2000 3a00");
    struct activation a = parsed(&message);
    assert_bytes_str(a.id, "b");
    assert_int_equal(a.processing_deadline_duration, 2);
    assert_true(a.has_application);
    assert_int_equal(a.application.len, 0);
    assert_int_equal(a.received_at_s, 5);
    assert_int_equal(a.received_at_ns, 7);
    assert_int_equal(a.retry_state.attempts, 1);
    assert_int_equal(a.retry_state.max_attempts, 2);
    assert_true(a.retry_state.has_at_most_once);
    assert_false(a.retry_state.at_most_once);
}

static void test_values_are_narrowed(void **state)
{
    (void)state;
    struct hexed message = unhex("3a17 08 ffffffff1f 18 ffffffffffffffffff01 20 8080808010"
                                 "3211 08 ffffffffffffffffff01 10 ffffffff0f");
    struct activation a = parsed(&message);
    assert_int_equal(a.retry_state.attempts, UINT32_MAX);
    assert_int_equal(a.retry_state.on_attempts_exceeded, -1);
    assert_true(a.retry_state.at_most_once);
    assert_int_equal(a.received_at_s, -1);
    assert_int_equal(a.received_at_ns, -1);
}

static void test_foreign_types_are_unknown_fields(void **state)
{
    (void)state;
    struct hexed message = unhex("0801 0d00000000 4201ff 5a0161 32020a00 3a020a00 0a0161 0b0c");
    struct activation a = parsed(&message);
    assert_bytes_str(a.id, "a");
    assert_int_equal(a.processing_deadline_duration, 0);
    assert_false(a.has_delay);
    assert_true(a.has_received_at && a.retry_state.present);
    assert_int_equal(a.retry_state.attempts, 0);
}

static void test_reasons(void **state)
{
    (void)state;
    assert_refused("0a01ff", "id: not valid UTF-8");
    assert_refused("0a01ff 0a0161", "id: not valid UTF-8");
    assert_refused("1201ff", "namespace: not valid UTF-8");
    assert_refused("1a01ff", "taskname: not valid UTF-8");
    assert_refused("2201ff", "parameters: not valid UTF-8");
    assert_refused("6201ff", "application: not valid UTF-8");
    assert_refused("2a03 0a01ff", "headers: key is not valid UTF-8");
    assert_refused("2a06 0a0161 1201ff", "headers: value is not valid UTF-8");
    assert_refused("2a02 0a05", "headers: malformed entry");
    assert_refused("3201 08", "received_at: malformed timestamp");
    assert_refused("3a01 08", "retry_state: malformed message");
    assert_refused("0a05 61", "length runs past the end of the message");
    assert_refused("0000", "field number 0");
}

static void test_headers(void **state)
{
    (void)state;
    struct hexed message = unhex("2a06 0a0161 120131 2a06 0a0162 120132 2a06 0a0161 120133"
                                 "2a03 0a0163 2a03 120139");
    struct bytes value;
    assert_true(activation_header(hexed_bytes(&message), "a", &value));
    assert_bytes_str(value, "3");
    assert_true(activation_header(hexed_bytes(&message), "b", &value));
    assert_bytes_str(value, "2");
    assert_true(activation_header(hexed_bytes(&message), "c", &value));
    assert_int_equal(value.len, 0);
    assert_true(activation_header(hexed_bytes(&message), "", &value));
    assert_bytes_str(value, "9");
    assert_false(activation_header(hexed_bytes(&message), "d", &value));
}

/* For upb an entry with a field of its own is an unknown field, so the worker does not see it
 * either. */
static void test_header_with_foreign_field_is_none(void **state)
{
    (void)state;
    struct hexed message = unhex("2a06 0a0161 120131 2a08 0a0161 120132 1801 2a05 0801 120133");
    struct bytes value;
    assert_true(activation_header(hexed_bytes(&message), "a", &value));
    assert_bytes_str(value, "1");
    assert_false(activation_header(hexed_bytes(&message), "", &value));
}

static void count_header(void *ctx, struct bytes key, struct bytes value)
{
    int *sum = ctx;
    assert_int_equal(key.len, 1);
    *sum = *sum * 10 + (value.ptr[0] - '0');
}

static void test_each_header_in_wire_order(void **state)
{
    (void)state;
    struct hexed message = unhex("2a06 0a0161 120131 0a0169 2a06 0a0161 120132 2a06 0a0162 120133");
    int sum = 0;
    activation_each_header(hexed_bytes(&message), count_header, &sum);
    assert_int_equal(sum, 123);
}

static void test_splice_without_edit_copies(void **state)
{
    (void)state;
    const char *hex = "0a0161 7a00 2a06 0a0161 120131 3a02 0801 0a0162 7b7c 3a0578000a0161";
    struct hexed result = spliced(hex, &(struct activation_edit){.attempts_add = 0});
    assert_bytes_hex(hexed_bytes(&result), hex);
}

static void test_splice_a_retry(void **state)
{
    (void)state;
    struct activation_edit edit = {
        .set_id = true,
        .id = bytes_str("new"),
        .set_received_at = true,
        .received_at_s = 9,
        .received_at_ns = 8,
        .set_delay = true,
        .delay = 60,
        .attempts_add = 1,
    };
    struct hexed result = spliced("0a036f6c64 2a06 0a0161 120131 32020805 3a04 0801 1003 5801"
                                  "7a0178",
                                  &edit);
    assert_bytes_hex(hexed_bytes(&result), "0a036e6577 3204 0809 1008 3a04 1003 0802 583c"
                                           "2a06 0a0161 120131 7a0178");
}

static void test_splice_keeps_what_it_does_not_know(void **state)
{
    (void)state;
    struct activation_edit edit = {.set_id = true,
                                   .id = bytes_str("n"),
                                   .set_received_at = true,
                                   .received_at_s = 1,
                                   .set_delay = true,
                                   .delay = 2,
                                   .set_max_attempts = true,
                                   .max_attempts = 4};
    /* Other types under the same numbers, unknown fields in every message, all fields twice. */
    struct hexed result = spliced("0801 0a0161 0a0162 5a0163 5801 5802 3205 0807 7a0174"
                                  "3205 7a0175 1002 3a04 1009 7801 3a04 1008 7802",
                                  &edit);
    assert_bytes_hex(hexed_bytes(&result), "0a016e 320a 7a0174 7a0175 0801 1000 3a06 7801 7802 1004"
                                           "5802 0801 5a0163");
}

static void test_splice_merges_duplicates(void **state)
{
    (void)state;
    struct activation_edit edit = {.set_max_attempts = true, .max_attempts = 9, .attempts_add = 1};
    struct hexed result = spliced("3a04 0803 7801 4001 3a06 1002 2001 7802", &edit);
    assert_bytes_hex(hexed_bytes(&result), "3a0a 7801 2001 7802 0804 1009 4001");
    struct activation a = parsed(&result);
    assert_int_equal(a.retry_state.attempts, 4);
    assert_int_equal(a.retry_state.max_attempts, 9);
}

static void test_splice_retry_state_absent(void **state)
{
    (void)state;
    struct hexed result = spliced("0a0161", &(struct activation_edit){.attempts_add = 1});
    assert_bytes_hex(hexed_bytes(&result), "0a0161");
    result =
        spliced("0a0161", &(struct activation_edit){
                              .attempts_add = 1, .set_delay_on_retry = true, .delay_on_retry = 5});
    assert_bytes_hex(hexed_bytes(&result), "3a02 2805 0a0161");
    result = spliced("", &(struct activation_edit){.set_max_attempts = true, .max_attempts = 0});
    assert_true(parsed(&result).retry_state.present);
}

static void test_splice_attempts_wrap(void **state)
{
    (void)state;
    struct hexed result =
        spliced("3a06 08 ffffffff0f", &(struct activation_edit){.attempts_add = 1});
    assert_int_equal(parsed(&result).retry_state.attempts, 0);
}

static void test_splice_clears_delay(void **state)
{
    (void)state;
    struct hexed result =
        spliced("5801 0a0161 5802 5a0178", &(struct activation_edit){.clear_delay = true});
    assert_bytes_hex(hexed_bytes(&result), "0a0161 5a0178");
}

static void test_splice_refuses_malformed(void **state)
{
    (void)state;
    struct hexed message = unhex("0a0161 0a01ff");
    struct buf out = {0};
    const char *why = NULL;
    struct activation_edit edit = {.set_id = true, .id = bytes_str("n")};
    assert_int_equal(activation_splice(hexed_bytes(&message), &edit, &out, &why), ERR_MALFORMED);
    assert_string_equal(why, "id: not valid UTF-8");
    assert_int_equal(out.len, 0);
}

static void test_encode(void **state)
{
    (void)state;
    struct activation a = {
        .id = bytes_str("a"),
        .namespace = bytes_str("n"),
        .taskname = bytes_str("t"),
        .has_application = true,
        .has_received_at = true,
        .received_at_ns = -1,
        .retry_state = {.present = true, .on_attempts_exceeded = 2, .has_at_most_once = true},
        .processing_deadline_duration = 300,
        .has_expires = true,
        .has_delay = true,
        .delay = 1,
        .parameters_bytes = bytes_str("p"),
    };
    struct activation_header header = {bytes_str("k"), bytes_of(NULL, 0)};
    struct buf out = {0};
    activation_encode(&a, &header, 1, &out);
    assert_bytes_hex(buf_bytes(&out),
                     "0a0161 12016e 1a0174 2a05 0a016b 1200 320b 10 ffffffffffffffffff01"
                     "3a04 1802 2000 40ac02 4800 5801 6200 6a0170");
    buf_clear(&out);
    activation_encode(&(struct activation){.has_delay = false}, NULL, 0, &out);
    assert_int_equal(out.len, 0);
    buf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_field),
        cmocka_unit_test(test_nothing),
        cmocka_unit_test(test_last_wins_and_messages_merge),
        cmocka_unit_test(test_values_are_narrowed),
        cmocka_unit_test(test_foreign_types_are_unknown_fields),
        cmocka_unit_test(test_reasons),
        cmocka_unit_test(test_headers),
        cmocka_unit_test(test_header_with_foreign_field_is_none),
        cmocka_unit_test(test_each_header_in_wire_order),
        cmocka_unit_test(test_splice_without_edit_copies),
        cmocka_unit_test(test_splice_a_retry),
        cmocka_unit_test(test_splice_keeps_what_it_does_not_know),
        cmocka_unit_test(test_splice_merges_duplicates),
        cmocka_unit_test(test_splice_retry_state_absent),
        cmocka_unit_test(test_splice_attempts_wrap),
        cmocka_unit_test(test_splice_clears_delay),
        cmocka_unit_test(test_splice_refuses_malformed),
        cmocka_unit_test(test_encode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
