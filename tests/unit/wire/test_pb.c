/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/pb.h"

#include "hexed.h"

/* Number of fields, or the error. */
static int walk(const char *hex, int depth)
{
    struct hexed message = unhex(hex);
    struct pb_reader reader = pb_reader_init(hexed_bytes(&message), depth);
    struct pb_field field;
    const char *why = NULL;
    int rv, count = 0;
    while ((rv = pb_next(&reader, &field, &why)) > 0)
        count++;
    if (rv < 0)
        assert_non_null(why);
    return rv < 0 ? rv : count;
}

static void test_every_type(void **state)
{
    (void)state;
    struct hexed message = unhex("08 9601  11 0807060504030201  1a 03616263  25 04030201");
    struct pb_reader reader = pb_reader_init(hexed_bytes(&message), 0);
    struct pb_field field;
    const char *why;
    assert_int_equal(pb_next(&reader, &field, &why), 1);
    assert_int_equal(field.number, 1);
    assert_int_equal(field.type, PB_VARINT);
    assert_int_equal(field.value, 150);
    assert_bytes_hex(field.record, "089601");
    assert_int_equal(pb_next(&reader, &field, &why), 1);
    assert_int_equal(field.type, PB_FIXED64);
    assert_true(field.value == 0x0102030405060708u);
    assert_int_equal(pb_next(&reader, &field, &why), 1);
    assert_int_equal(field.type, PB_LEN);
    assert_bytes_str(field.data, "abc");
    assert_bytes_hex(field.record, "1a03616263");
    assert_int_equal(pb_next(&reader, &field, &why), 1);
    assert_int_equal(field.type, PB_FIXED32);
    assert_int_equal(field.value, 0x01020304);
    assert_int_equal(pb_next(&reader, &field, &why), 0);
    assert_int_equal(pb_next(&reader, &field, &why), 0);
}

static void test_empty_message(void **state)
{
    (void)state;
    struct pb_reader reader = pb_reader_init(bytes_of(NULL, 0), 0);
    struct pb_field field;
    const char *why;
    assert_int_equal(pb_next(&reader, &field, &why), 0);
}

static void test_varints(void **state)
{
    (void)state;
    assert_int_equal(walk("08 ffffffffffffffffff01", 0), 1);
    assert_int_equal(walk("08 ffffffffffffffffff7f", 0), 1); /* surplus bits are dropped */
    assert_int_equal(walk("08 ffffffffffffffffffff01", 0), ERR_MALFORMED);
    assert_int_equal(walk("08 ff", 0), ERR_MALFORMED);
    assert_int_equal(walk("08", 0), ERR_MALFORMED);
    assert_int_equal(walk("88 80 80 80 00 01", 0), 1); /* a tag of 5 bytes */
    assert_int_equal(walk("88 80 80 80 80 00 01", 0), ERR_MALFORMED);
    assert_int_equal(walk("f8 ff ff ff 0f 01", 0), 1); /* the greatest field number */
    assert_int_equal(walk("f8 ff ff ff 1f 01", 0), ERR_MALFORMED);
}

static void test_lengths(void **state)
{
    (void)state;
    assert_int_equal(walk("0a 03 616263", 0), 1);
    assert_int_equal(walk("0a 04 616263", 0), ERR_MALFORMED);
    assert_int_equal(walk("0a 838080808080808080 00 616263", 0), 1);
    assert_int_equal(walk("0a 8080808008", 0), ERR_MALFORMED);           /* 2^31 */
    assert_int_equal(walk("0a ffffffffffffffffff01", 0), ERR_MALFORMED); /* 2^64-1 */
    assert_int_equal(walk("0d 010203", 0), ERR_MALFORMED);
    assert_int_equal(walk("09 01020304050607", 0), ERR_MALFORMED);
}

static void test_bad_tags(void **state)
{
    (void)state;
    assert_int_equal(walk("00 00", 0), ERR_MALFORMED); /* field number 0 */
    assert_int_equal(walk("80 00 00", 0), ERR_MALFORMED);
    assert_int_equal(walk("0e", 0), ERR_MALFORMED); /* wire type 6 */
    assert_int_equal(walk("0f", 0), ERR_MALFORMED); /* wire type 7 */
    assert_int_equal(walk("0c", 0), ERR_MALFORMED); /* end of nothing */
}

static void test_groups(void **state)
{
    (void)state;
    struct hexed message = unhex("7b 0801 73 74 7c 08 02");
    struct pb_reader reader = pb_reader_init(hexed_bytes(&message), 0);
    struct pb_field field;
    const char *why;
    assert_int_equal(pb_next(&reader, &field, &why), 1);
    assert_int_equal(field.number, 15);
    assert_int_equal(field.type, PB_GROUP_START);
    assert_bytes_hex(field.data, "08017374");
    assert_bytes_hex(field.record, "7b080173747c");
    assert_int_equal(pb_next(&reader, &field, &why), 1);
    assert_int_equal(field.number, 1);

    assert_int_equal(walk("7b 74", 0), ERR_MALFORMED);          /* ends another group */
    assert_int_equal(walk("7b 73 7c 74", 0), ERR_MALFORMED);    /* crossed */
    assert_int_equal(walk("7b", 0), ERR_MALFORMED);             /* never ends */
    assert_int_equal(walk("7b 0000 7c", 0), ERR_MALFORMED);     /* field number 0 */
    assert_int_equal(walk("7b 0a 05 61 7c", 0), ERR_MALFORMED); /* length past the end */
    assert_int_equal(walk("7b fc 80 80 80 00", 0), 1);          /* end tag of 5 bytes */
}

static int walk_nested_groups(int levels, int depth)
{
    uint8_t message[2 * (PB_DEPTH_MAX + 2)];
    memset(message, 0x7b, (size_t)levels);
    memset(message + levels, 0x7c, (size_t)levels);
    struct pb_reader reader = pb_reader_init(bytes_of(message, 2 * (size_t)levels), depth);
    struct pb_field field;
    const char *why;
    return pb_next(&reader, &field, &why);
}

static void test_depth_limit(void **state)
{
    (void)state;
    assert_int_equal(walk_nested_groups(PB_DEPTH_MAX, 0), 1);
    assert_int_equal(walk_nested_groups(PB_DEPTH_MAX + 1, 0), ERR_MALFORMED);
    assert_int_equal(walk_nested_groups(PB_DEPTH_MAX - 2, 2), 1);
    assert_int_equal(walk_nested_groups(PB_DEPTH_MAX - 1, 2), ERR_MALFORMED);
    assert_int_equal(walk_nested_groups(1, PB_DEPTH_MAX), ERR_MALFORMED);
}

static bool valid(const char *hex)
{
    struct hexed text = unhex(hex);
    return pb_utf8_valid(hexed_bytes(&text));
}

static void test_utf8(void **state)
{
    (void)state;
    assert_true(pb_utf8_valid(bytes_of(NULL, 0)));
    assert_true(pb_utf8_valid(bytes_of("a\0b", 3)));
    assert_true(valid("7f c280 dfbf e0a080 ed9fbf ee8080 efbfbf f0908080 f48fbfbf"));
    const char *bad[] = {
        "80",
        "bf",
        "c080",
        "c1bf",
        "c2",
        "c241",
        "e08080",
        "e09fbf",
        "eda080",
        "edbfbf",
        "e282",
        "e28241",
        "f08080",
        "f0808080",
        "f08fbfbf",
        "f4908080",
        "f09f98",
        "f5808080",
        "ff",
        "fe",
        "61 61 61 61 61 61 61 80",
        "61 61 61 61 61 61 61 61 c3",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(valid(bad[i]));
}

/* Every code point, and every lone surrogate, at every position around the 8-byte step. */
static void test_utf8_every_code_point(void **state)
{
    (void)state;
    for (uint32_t c = 0x80; c <= 0x110100; c++) {
        uint8_t text[16] = "aaaaaaa";
        size_t at = c % 8, len;
        if (c < 0x800) {
            len = 2;
            text[at] = (uint8_t)(0xc0 | c >> 6);
        } else if (c < 0x10000) {
            len = 3;
            text[at] = (uint8_t)(0xe0 | c >> 12);
        } else {
            len = 4;
            text[at] = (uint8_t)(0xf0 | c >> 18);
        }
        for (size_t i = 1; i < len; i++)
            text[at + i] = (uint8_t)(0x80 | (c >> 6 * (len - 1 - i) & 0x3f));
        bool expected = c <= 0x10ffff && !(c >= 0xd800 && c <= 0xdfff);
        assert_int_equal(pb_utf8_valid(bytes_of(text, at + len)), expected);
    }
}

static void test_put(void **state)
{
    (void)state;
    struct buf out = {0};
    pb_put_uint(&out, 1, 150);
    pb_put_uint(&out, 536870911, UINT64_MAX);
    pb_put_bytes(&out, 2, bytes_str("abc"));
    pb_put_bytes(&out, 3, bytes_of(NULL, 0));
    pb_put_tag(&out, 15, PB_GROUP_START);
    pb_put_varint(&out, 0);
    assert_bytes_hex(buf_bytes(&out),
                     "089601 f8ffffff0f ffffffffffffffffff01 1203616263 1a00 7b 00");
    buf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_type),
        cmocka_unit_test(test_empty_message),
        cmocka_unit_test(test_varints),
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_bad_tags),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_depth_limit),
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_utf8_every_code_point),
        cmocka_unit_test(test_put),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
