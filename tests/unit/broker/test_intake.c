/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "broker/intake.h"

#define WALL 1700000000123

static const struct intake_limits limits = {.payload_max = 100000, .delay_max_s = 3600};

static struct activation plain(void)
{
    return (struct activation){.id = bytes_str("id"),
                               .namespace = bytes_str("ns"),
                               .taskname = bytes_str("task"),
                               .has_received_at = true,
                               .received_at_s = 1699999990,
                               .received_at_ns = 500000000,
                               .processing_deadline_duration = 30};
}

static struct intake_item take_bytes(struct bytes payload)
{
    struct topic_record record = {.partition = 2, .offset = 77, .payload = payload};
    struct intake_item item;
    intake_record(&item, &record, &limits, WALL);
    assert_int_equal(item.partition, 2);
    assert_int_equal(item.offset, 77);
    return item;
}

static struct intake_item take(const struct activation *activation)
{
    struct buf payload = {0};
    activation_encode(activation, NULL, 0, &payload);
    struct intake_item item = take_bytes(buf_bytes(&payload));
    buf_free(&payload);
    return item;
}

static void expect_refused(struct intake_item item, const char *reason, const char *detail)
{
    assert_string_equal(item.reason, reason);
    assert_string_equal(item.detail, detail);
    assert_non_null(item.blob); /* goes to the dead letter topic whole */
    intake_item_clear(&item);
}

static void a_good_one_becomes_a_row(void **state)
{
    (void)state;
    struct activation activation = plain();
    struct intake_item item = take(&activation);
    assert_null(item.reason);
    assert_int_equal(item.received_at_ms, 1699999990500);
    assert_true(item.expires_at_ms == CLOCK_NEVER);
    assert_true(item.delay_until_ms == INT64_MIN);
    assert_false(item.delay_cut);
    assert_int_equal(item.duration_s, 30);
    assert_true(bytes_equal_str(item.parsed.id, "id"));
    intake_item_clear(&item);
    assert_null(item.blob);
}

static void a_tombstone_has_its_own_reason(void **state)
{
    (void)state;
    struct topic_record record = {.tombstone = true};
    struct intake_item item;
    intake_record(&item, &record, &limits, WALL);
    assert_string_equal(item.reason, "null payload");
    assert_null(item.blob);
}

static void what_does_not_parse(void **state)
{
    (void)state;
    struct intake_item item = take_bytes(bytes_str("\xff\xff\xff"));
    assert_string_equal(item.reason, "not a TaskActivation");
    assert_true(item.detail[0] != '\0');
    intake_item_clear(&item);
}

static void too_large(void **state)
{
    (void)state;
    struct blob *large = blob_new(100001);
    memset(large->data, 0, large->len);
    expect_refused(take_bytes(blob_bytes(large)), "too large", "");
    blob_unref(large);
}

static void names_have_a_limit(void **state)
{
    (void)state;
    static char name[1025];
    memset(name, 'x', sizeof name);
    struct activation activation = plain();
    struct bytes *fields[] = {&activation.id, &activation.application, &activation.namespace,
                              &activation.taskname};
    const char *details[] = {
        "id is longer than 1024 bytes", "application is longer than 1024 bytes",
        "namespace is longer than 1024 bytes", "taskname is longer than 1024 bytes"};
    activation.has_application = true;
    for (size_t i = 0; i < 4; i++) {
        struct bytes before = *fields[i];
        *fields[i] = bytes_of(name, 1025);
        expect_refused(take(&activation), "name too long", details[i]);
        *fields[i] = bytes_of(name, 1024);
        struct intake_item item = take(&activation);
        assert_null(item.reason);
        intake_item_clear(&item);
        *fields[i] = before;
    }
}

static void unknown_enum(void **state)
{
    (void)state;
    struct activation activation = plain();
    activation.retry_state = (struct retry_state){.present = true, .on_attempts_exceeded = 3};
    expect_refused(take(&activation), "value out of range",
                   "retry_state.on_attempts_exceeded is not a known value");
    activation.retry_state.on_attempts_exceeded = -1;
    expect_refused(take(&activation), "value out of range",
                   "retry_state.on_attempts_exceeded is not a known value");
}

static void expiry_beyond_the_calendar(void **state)
{
    (void)state;
    struct activation activation = plain();
    activation.has_expires = true;
    activation.expires = 253402300799 - 1699999990;
    struct intake_item item = take(&activation);
    assert_null(item.reason);
    assert_int_equal(item.expires_at_ms, INT64_C(253402300799500));
    intake_item_clear(&item);
    activation.expires++;
    expect_refused(take(&activation), "value out of range", "expires lies beyond the year 9999");
    activation.expires = UINT64_MAX;
    expect_refused(take(&activation), "value out of range", "expires lies beyond the year 9999");
}

static void an_unusable_received_at_is_now(void **state)
{
    (void)state;
    const struct {
        bool has;
        int64_t s;
        int32_t ns;
    } cases[] = {{false, 0, 0},       {true, 253402300800, 0}, {true, -62135596801, 0},
                 {true, 5, -1},       {true, 5, 1000000000},   {true, INT64_MAX, 0},
                 {true, INT64_MIN, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct activation activation = plain();
        activation.has_received_at = cases[i].has;
        activation.received_at_s = cases[i].s;
        activation.received_at_ns = cases[i].ns;
        struct intake_item item = take(&activation);
        assert_null(item.reason);
        assert_int_equal(item.received_at_ms, WALL);
        intake_item_clear(&item);
    }
}

static void delays_are_capped(void **state)
{
    (void)state;
    const struct {
        uint64_t delay_s;
        int64_t until_ms;
        bool cut;
    } cases[] = {{0, 1699999990500, false},
                 {3600, 1699999990500 + 3600000, false},
                 {3601, 1699999990500 + 3600000, true},
                 {UINT64_MAX, 1699999990500 + 3600000, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct activation activation = plain();
        activation.has_delay = true;
        activation.delay = cases[i].delay_s;
        struct intake_item item = take(&activation);
        assert_null(item.reason);
        assert_int_equal(item.delay_until_ms, cases[i].until_ms);
        assert_int_equal(item.delay_cut, cases[i].cut);
        intake_item_clear(&item);
    }
}

static void durations_fit_the_column(void **state)
{
    (void)state;
    struct activation activation = plain();
    activation.processing_deadline_duration = UINT64_MAX;
    struct intake_item item = take(&activation);
    assert_int_equal(item.duration_s, INT32_MAX);
    intake_item_clear(&item);
    activation.processing_deadline_duration = 0;
    item = take(&activation);
    assert_int_equal(item.duration_s, 0);
    intake_item_clear(&item);
}

static void enqueue_says_what_is_wrong(void **state)
{
    (void)state;
    const char *why = NULL;
    struct activation activation = plain();
    struct buf payload = {0};
    activation_encode(&activation, NULL, 0, &payload);
    assert_int_equal(intake_check(buf_bytes(&payload), &limits, &why), 0);
    buf_free(&payload);
    assert_int_equal(intake_check(bytes_str("\xff"), &limits, &why), ERR_MALFORMED);
    assert_non_null(why);
    struct blob *large = blob_new(100001);
    memset(large->data, 0, large->len);
    assert_int_equal(intake_check(blob_bytes(large), &limits, &why), ERR_TOO_LARGE);
    assert_string_equal(why, "too large");
    blob_unref(large);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_one_becomes_a_row),
        cmocka_unit_test(a_tombstone_has_its_own_reason),
        cmocka_unit_test(what_does_not_parse),
        cmocka_unit_test(too_large),
        cmocka_unit_test(names_have_a_limit),
        cmocka_unit_test(unknown_enum),
        cmocka_unit_test(expiry_beyond_the_calendar),
        cmocka_unit_test(an_unusable_received_at_is_now),
        cmocka_unit_test(delays_are_capped),
        cmocka_unit_test(durations_fit_the_column),
        cmocka_unit_test(enqueue_says_what_is_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
