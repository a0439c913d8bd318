/* SPDX-License-Identifier: Apache-2.0 */
#include "fixture.h"

static void append(struct store *store, const char *topic, int64_t offset, const char *payload)
{
    const struct store_header header = {bytes_str("key"), bytes_str(payload)};

    assert_int_equal(store_log_append(store, topic, offset, bytes_str(payload), &header, 1), 0);
}

static void print_record(void *ctx, int64_t offset, struct bytes payload,
                         const struct store_header *headers, size_t header_count)
{
    assert_int_equal(header_count, 1);
    assert_true(bytes_equal(headers[0].value, payload));
    buf_printf((struct buf *)ctx, "%lld=%.*s ", (long long)offset, BYTES_FMT_ARG(payload));
}

static void assert_reads(struct store *store, const char *topic, int64_t from, size_t max,
                         const char *expected)
{
    struct buf out = {0};

    assert_int_equal(store_log_read(store, topic, from, max, print_record, &out), 0);
    assert_string_equal(buf_cstr(&out), expected);
    buf_free(&out);
}

static void assert_bounds(struct store *store, const char *topic, int64_t low, int64_t high)
{
    int64_t actual_low, actual_high;

    assert_int_equal(store_log_bounds(store, topic, &actual_low, &actual_high), 0);
    assert_int_equal(actual_low, low);
    assert_int_equal(actual_high, high);
}

static void begin(struct fixture *f)
{
    assert_int_equal(store_begin(f->store), 0);
}

static void commit(struct fixture *f)
{
    assert_int_equal(store_commit(f->store), 0);
}

static void records_are_read_in_order(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    assert_bounds(f->store, "a", 0, 0);
    begin(f);
    append(f->store, "a", 0, "zero");
    append(f->store, "b", 0, "other");
    append(f->store, "a", 1, "one");
    append(f->store, "a", 2, "two");
    /* The open transaction sees itself. */
    assert_reads(f->store, "a", 0, 10, "0=zero 1=one 2=two ");
    commit(f);
    assert_reads(f->store, "a", 1, 10, "1=one 2=two ");
    assert_reads(f->store, "a", 0, 2, "0=zero 1=one ");
    assert_reads(f->store, "a", 3, 10, "");
    assert_reads(f->store, "b", 0, 10, "0=other ");
    assert_reads(f->store, "unknown", 0, 10, "");
    fixture_reopen(f);
    assert_bounds(f->store, "a", 0, 3);
    assert_bounds(f->store, "b", 0, 1);
    assert_reads(f->store, "a", 0, 10, "0=zero 1=one 2=two ");
}

static void end_survives_an_empty_log(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    begin(f);
    append(f->store, "a", 0, "zero");
    append(f->store, "a", 1, "one");
    commit(f);
    begin(f);
    assert_int_equal(store_log_trim(f->store, "a", 1), 0);
    assert_bounds(f->store, "a", 1, 2);
    assert_reads(f->store, "a", 0, 10, "1=one ");
    assert_int_equal(store_log_trim(f->store, "a", 2), 0);
    commit(f);
    fixture_reopen(f);
    assert_bounds(f->store, "a", 2, 2);
    assert_reads(f->store, "a", 0, 10, "");
    begin(f);
    append(f->store, "a", 2, "two");
    commit(f);
    assert_reads(f->store, "a", 0, 10, "2=two ");
    assert_int_equal(fixture_foreign_int(f->path, "SELECT count(*) FROM taskmill_log"), 1);
}

static void trim_backwards_does_nothing(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    begin(f);
    append(f->store, "a", 0, "zero");
    append(f->store, "a", 1, "one");
    assert_int_equal(store_log_trim(f->store, "a", 1), 0);
    assert_int_equal(store_log_trim(f->store, "a", 0), 0);
    assert_int_equal(store_log_trim(f->store, "unknown", 0), 0);
    commit(f);
    assert_bounds(f->store, "a", 1, 2);
}

/* Records that were taken in the turn in which they came are never stored; their offsets are used
 * up. */
static void trim_past_the_end_moves_the_end(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    begin(f);
    append(f->store, "a", 0, "zero");
    assert_int_equal(store_log_trim(f->store, "a", 5), 0);
    assert_int_equal(store_log_trim(f->store, "new", 3), 0);
    commit(f);
    fixture_reopen(f);
    assert_bounds(f->store, "a", 5, 5);
    assert_bounds(f->store, "new", 3, 3);
    begin(f);
    append(f->store, "new", 3, "three");
    commit(f);
    assert_reads(f->store, "new", 0, 10, "3=three ");
}

static void uncommitted_bounds_are_lost_with_their_records(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    begin(f);
    append(f->store, "a", 0, "zero");
    commit(f);
    begin(f);
    append(f->store, "a", 1, "one");
    store_abandon(f->store);
    f->store = fixture_open_path(f->path);
    assert_bounds(f->store, "a", 0, 1);
    assert_reads(f->store, "a", 0, 10, "0=zero ");
}

/* Offsets may jump; ranges of neighbouring topics do not touch. */
static void topics_do_not_mix(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    const int64_t last = (INT64_C(1) << 48) - 1;

    begin(f);
    append(f->store, "a", last, "a-last");
    append(f->store, "b", 0, "b-first");
    append(f->store, "b", last, "b-last");
    commit(f);
    assert_reads(f->store, "a", 0, 10, "281474976710655=a-last ");
    assert_reads(f->store, "b", 0, 10, "0=b-first 281474976710655=b-last ");
    begin(f);
    assert_int_equal(store_log_trim(f->store, "a", last + 1), 0);
    commit(f);
    assert_reads(f->store, "b", 0, 10, "0=b-first 281474976710655=b-last ");
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(records_are_read_in_order),
        TEST(end_survives_an_empty_log),
        TEST(trim_backwards_does_nothing),
        TEST(trim_past_the_end_moves_the_end),
        TEST(uncommitted_bounds_are_lost_with_their_records),
        TEST(topics_do_not_mix),
    };

    return cmocka_run_group_tests_name("store/log", tests, NULL, NULL);
}
