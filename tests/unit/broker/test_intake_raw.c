/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of raw topics (spec/broker.md 3.5). The expected bytes come from Python's protobuf and
 * msgpack. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "broker/intake.h"
#include "wire/params.h"

#define WALL    1700000009999
#define WRITTEN 1700000000123
#define ID      "05bb1ec8-c9b6-802e-be90-21937ac4cc6c"
#define UNDATED "02d16335-3023-8899-a701-b0decc048c96"

static const struct intake_limits limits = {.payload_max = 1000, .delay_max_s = 3600};

static struct intake_raw raw_at(int64_t level)
{
    return (struct intake_raw){.cluster = "main",
                               .topic = "events",
                               .application = "app",
                               .namespace = "ns",
                               .taskname = "task",
                               .duration_s = 30,
                               .compression_level = level};
}

static struct topic_record record_of(struct bytes payload)
{
    return (struct topic_record){
        .partition = 2, .offset = 77, .timestamp_ms = WRITTEN, .payload = payload};
}

static struct intake_item take(const struct topic_record *record, int64_t level)
{
    struct intake_raw raw = raw_at(level);
    struct intake_item item;
    intake_raw_record(&item, record, &raw, &limits, WALL);
    assert_int_equal(item.partition, 2);
    assert_int_equal(item.offset, 77);
    return item;
}

static struct buf unpacked(const struct intake_item *item)
{
    struct buf packed = {0};
    const char *why;
    assert_int_equal(params_decompress(item->parsed.parameters_bytes, 1 << 20, &packed, &why), 0);
    return packed;
}

static void expect_header(const struct intake_item *item, const char *key, const char *expected)
{
    struct bytes value;
    assert_int_equal(activation_header(blob_bytes(item->blob), key, &value), expected != NULL);
    if (expected)
        assert_true(bytes_equal_str(value, expected));
}

static void every_byte(void **state)
{
    (void)state;
    static const uint8_t expected[] =
        "\x0a\x24" ID "\x12\x02ns\x1a\x04task\x2a\x06\x0a\x01h\x12\x01v"
        "\x32\x0b\x08\x80\xe2\xcf\xaa\x06\x10\xc0\xa9\xd3\x3a\x40\x1e\x62\x03"
        "app\x6a\x15\x82\xa4\x61rgs\x91\xc4\x04\x00\xffhi\xa6kwargs\x80";
    const struct topic_header headers[] = {{bytes_str("h"), bytes_str("v")}};
    struct topic_record record = record_of(bytes_of("\0\xffhi", 4));
    record.headers = headers;
    record.header_count = 1;
    struct intake_item item = take(&record, INTAKE_RAW_PLAIN);
    assert_null(item.reason);
    assert_int_equal(item.blob->len, sizeof expected - 1);
    assert_memory_equal(item.blob->data, expected, sizeof expected - 1);
    intake_item_clear(&item);
}

static void the_row(void **state)
{
    (void)state;
    struct topic_record record = record_of(bytes_str("x"));
    struct intake_item item = take(&record, 3);
    assert_null(item.reason);
    assert_true(bytes_equal_str(item.parsed.id, ID));
    assert_int_equal(item.received_at_ms, WRITTEN);
    assert_true(item.expires_at_ms == CLOCK_NEVER);
    assert_true(item.delay_until_ms == INT64_MIN);
    assert_int_equal(item.duration_s, 30);
    assert_int_equal(item.on_attempts_exceeded, ON_ATTEMPTS_EXCEEDED_DISCARD);
    assert_false(item.parsed.retry_state.present);
    intake_item_clear(&item);
}

static void compressed_unless_told_not_to(void **state)
{
    (void)state;
    static const int64_t levels[] = {INT32_MIN, -2, 0, 3, 19, INT32_MAX};
    static const char packed[] = "\x82\xa4\x61rgs\x91\xc4\x01x\xa6kwargs\x80";
    struct topic_record record = record_of(bytes_str("x"));
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        struct intake_item item = take(&record, levels[i]);
        struct buf plain = unpacked(&item);
        assert_true(bytes_equal_str(buf_bytes(&plain), packed));
        expect_header(&item, "compression-type", "zstd");
        buf_free(&plain);
        intake_item_clear(&item);
    }
    struct intake_item item = take(&record, INTAKE_RAW_PLAIN);
    assert_true(bytes_equal_str(item.parsed.parameters_bytes, packed));
    expect_header(&item, "compression-type", NULL);
    intake_item_clear(&item);
}

static void headers_that_are_text(void **state)
{
    (void)state;
    const struct topic_header headers[] = {
        {bytes_str("twice"), bytes_str("first")},
        {bytes_str("null"), {0}},
        {bytes_str("empty"), bytes_of("", 0)},
        {bytes_str("binary"), bytes_str("\xff\xfe")},
        {bytes_str("\xff"), bytes_str("its name is not text")},
        {bytes_str("twice"), bytes_str("second")},
        {bytes_str("twice"), bytes_str("\xff")},
        {bytes_str("compression-type"), bytes_str("gzip")},
        {bytes_str("ü"), bytes_str("ü")},
    };
    struct topic_record record = record_of(bytes_str("x"));
    record.headers = headers;
    record.header_count = sizeof headers / sizeof *headers;
    struct intake_item item = take(&record, 3);
    expect_header(&item, "twice", "second");
    expect_header(&item, "null", NULL);
    expect_header(&item, "empty", "");
    expect_header(&item, "binary", NULL);
    expect_header(&item, "\xff", NULL);
    expect_header(&item, "ü", "ü");
    expect_header(&item, "compression-type", "zstd");
    intake_item_clear(&item);
    item = take(&record, INTAKE_RAW_PLAIN);
    expect_header(&item, "compression-type", "gzip");
    intake_item_clear(&item);
}

static void a_tombstone_is_an_empty_argument(void **state)
{
    (void)state;
    struct topic_record record = record_of((struct bytes){0});
    record.tombstone = true;
    struct intake_item item = take(&record, INTAKE_RAW_PLAIN);
    assert_null(item.reason);
    const struct bytes expected = bytes_of("\x82\xa4\x61rgs\x91\xc4\0\xa6kwargs\x80", 17);
    assert_true(bytes_equal(item.parsed.parameters_bytes, expected));
    intake_item_clear(&item);
}

static void without_a_usable_time_it_is_now(void **state)
{
    (void)state;
    struct topic_record record = record_of(bytes_str("x"));
    record.timestamp_ms = -1;
    struct intake_item item = take(&record, 3);
    assert_int_equal(item.received_at_ms, WALL);
    assert_true(bytes_equal_str(item.parsed.id, UNDATED));
    intake_item_clear(&item);
    record.timestamp_ms = INT64_C(253402300800000);
    item = take(&record, 3);
    assert_int_equal(item.parsed.received_at_s, WALL / 1000);
    intake_item_clear(&item);
    record.timestamp_ms = INT64_C(253402300799999);
    item = take(&record, 3);
    assert_int_equal(item.parsed.received_at_s, 253402300799);
    assert_int_equal(item.parsed.received_at_ns, 999000000);
    intake_item_clear(&item);
}

static void read_again_it_is_the_same(void **state)
{
    (void)state;
    struct topic_record record = record_of(bytes_str("x"));
    struct intake_item first = take(&record, 3), again = take(&record, 3);
    assert_true(bytes_equal(blob_bytes(first.blob), blob_bytes(again.blob)));
    intake_item_clear(&first);
    intake_item_clear(&again);
}

/* What counts is the size of what would be stored. */
static void too_large(void **state)
{
    (void)state;
    struct blob *large = blob_new(2000);
    memset(large->data, 'x', large->len);
    struct topic_record record = record_of(blob_bytes(large));
    struct intake_item item = take(&record, 3);
    assert_null(item.reason);
    intake_item_clear(&item);
    item = take(&record, INTAKE_RAW_PLAIN);
    assert_string_equal(item.reason, "too large");
    assert_true(bytes_equal(blob_bytes(item.blob), blob_bytes(large)));
    intake_item_clear(&item);
    blob_unref(large);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_byte),
        cmocka_unit_test(the_row),
        cmocka_unit_test(compressed_unless_told_not_to),
        cmocka_unit_test(headers_that_are_text),
        cmocka_unit_test(a_tombstone_is_an_empty_argument),
        cmocka_unit_test(without_a_usable_time_it_is_now),
        cmocka_unit_test(read_again_it_is_the_same),
        cmocka_unit_test(too_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
