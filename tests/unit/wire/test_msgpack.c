/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/params.h"

#include "hexed.h"

static struct msgpack_reader reader_of(const struct hexed *packed)
{
    return (struct msgpack_reader){.pos = packed->data, .end = packed->data + packed->len};
}

static struct msgpack_value only_value(const struct hexed *packed)
{
    struct msgpack_reader reader = reader_of(packed);
    struct msgpack_value value;
    const char *why = NULL;
    assert_int_equal(msgpack_read(&reader, &value, &why), 0);
    assert_ptr_equal(reader.pos, reader.end);
    return value;
}

static void assert_int_form(const char *hex, int64_t expected)
{
    struct hexed packed = unhex(hex);
    struct msgpack_value value = only_value(&packed);
    if (expected < 0) {
        assert_int_equal(value.type, MSGPACK_INT);
        assert_true(value.i == expected);
    } else {
        assert_int_equal(value.type, MSGPACK_UINT);
        assert_true(value.u == (uint64_t)expected);
    }
}

static void test_integers(void **state)
{
    (void)state;
    assert_int_form("00", 0);
    assert_int_form("7f", 127);
    assert_int_form("ff", -1);
    assert_int_form("e0", -32);
    assert_int_form("ccff", 255);
    assert_int_form("cd0100", 256);
    assert_int_form("ceffffffff", UINT32_MAX);
    assert_int_form("cf7fffffffffffffff", INT64_MAX);
    assert_int_form("d080", -128);
    assert_int_form("d18000", INT16_MIN);
    assert_int_form("d280000000", INT32_MIN);
    assert_int_form("d38000000000000000", INT64_MIN);
    assert_int_form("d005", 5); /* signed form of a positive number */
    struct hexed packed = unhex("cfffffffffffffffff");
    assert_true(only_value(&packed).u == UINT64_MAX);
}

static void test_other_scalars(void **state)
{
    (void)state;
    struct hexed packed = unhex("c0");
    assert_int_equal(only_value(&packed).type, MSGPACK_NIL);
    packed = unhex("c2");
    assert_int_equal(only_value(&packed).type, MSGPACK_BOOL);
    assert_false(only_value(&packed).b);
    packed = unhex("c3");
    assert_true(only_value(&packed).b);
    packed = unhex("ca3fc00000");
    assert_int_equal(only_value(&packed).type, MSGPACK_FLOAT);
    assert_true(only_value(&packed).d == 1.5);
    packed = unhex("cb3ff8000000000000");
    assert_true(only_value(&packed).d == 1.5);
}

static void assert_data_form(const char *hex, enum msgpack_type type, const char *content)
{
    struct hexed packed = unhex(hex);
    struct msgpack_value value = only_value(&packed);
    assert_int_equal(value.type, type);
    assert_bytes_str(value.data, content);
}

static void test_data(void **state)
{
    (void)state;
    assert_data_form("a161", MSGPACK_STR, "a");
    assert_data_form("d90161", MSGPACK_STR, "a");
    assert_data_form("da000161", MSGPACK_STR, "a");
    assert_data_form("db0000000161", MSGPACK_STR, "a");
    assert_data_form("c40161", MSGPACK_BIN, "a");
    assert_data_form("c5000161", MSGPACK_BIN, "a");
    assert_data_form("c60000000161", MSGPACK_BIN, "a");
    assert_data_form("d4ff61", MSGPACK_EXT, "a");
    assert_data_form("d5 05 6162", MSGPACK_EXT, "ab");
    assert_data_form("c7 01 05 61", MSGPACK_EXT, "a");
    struct hexed packed = unhex("d4ff61");
    assert_int_equal(only_value(&packed).ext_type, -1);
}

static void test_malformed(void **state)
{
    (void)state;
    const char *bad[] = {
        "",       "c1",           "cc",         "cd01",    "cfffffffffffffff", "a261",
        "d90261", "dbffffffff61", "c6ffffffff", "d8 0561", "c7 02 05 61",      "c7",
        "91",     "9201",         "81a161",     "dc0002",  "ddffffffff",       "dfffffffff",
        "a1ff",   "a3eda080",     "d901ff",     "cb00",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct hexed packed = unhex(bad[i]);
        struct msgpack_reader reader = reader_of(&packed);
        const char *why = NULL;
        assert_int_equal(msgpack_skip(&reader, &why), ERR_MALFORMED);
        assert_non_null(why);
    }
}

static void test_skip(void **state)
{
    (void)state;
    struct hexed packed = unhex("93 01 82 a161 90 c40162 80 92 c0 80 a178");
    struct msgpack_reader reader = reader_of(&packed);
    const char *why;
    assert_int_equal(msgpack_skip(&reader, &why), 0);
    assert_int_equal(reader.end - reader.pos, 2);
    packed = unhex("81 01 02"); /* a key that Python does not read */
    reader = reader_of(&packed);
    assert_int_equal(msgpack_skip(&reader, &why), ERR_MALFORMED);
}

static int skip_nested(uint8_t first, size_t levels)
{
    uint8_t packed[PARAMS_DEPTH_MAX + 2];
    memset(packed, first, levels);
    packed[levels - 1] = 0x90;
    struct msgpack_reader reader = {.pos = packed, .end = packed + levels};
    const char *why;
    return msgpack_skip(&reader, &why);
}

static void test_skip_depth(void **state)
{
    (void)state;
    assert_int_equal(skip_nested(0x91, 1024), 0);
    assert_int_equal(skip_nested(0x91, 1025), ERR_MALFORMED);
}

static void test_shortest_integers(void **state)
{
    (void)state;
    struct buf out = {0};
    const int64_t numbers[] = {0,          127,
                               128,        255,
                               256,        65535,
                               65536,      -1,
                               -32,        -33,
                               -128,       -129,
                               -32768,     -32769,
                               INT32_MIN,  (int64_t)INT32_MIN - 1,
                               UINT32_MAX, (int64_t)UINT32_MAX + 1};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        msgpack_put_int(&out, numbers[i]);
    assert_bytes_hex(buf_bytes(&out),
                     "00 7f cc80 ccff cd0100 cdffff ce00010000 ff e0 d0df d080 d1ff7f d18000"
                     "d2ffff7fff d280000000 d3ffffffff7fffffff ceffffffff cf0000000100000000");
    buf_free(&out);
}

static void test_put_the_rest(void **state)
{
    (void)state;
    struct buf out = {0};
    msgpack_put_nil(&out);
    msgpack_put_bool(&out, true);
    msgpack_put_bool(&out, false);
    msgpack_put_uint(&out, UINT64_MAX);
    msgpack_put_double(&out, -1.5);
    msgpack_put_str(&out, bytes_str("a"));
    msgpack_put_bin(&out, bytes_of(NULL, 0));
    msgpack_put_array(&out, 15);
    msgpack_put_array(&out, 16);
    msgpack_put_array(&out, 65536);
    msgpack_put_map(&out, 15);
    msgpack_put_map(&out, 16);
    msgpack_put_map(&out, 65536);
    assert_bytes_hex(buf_bytes(&out), "c0 c3 c2 cfffffffffffffffff cbbff8000000000000 a161 c400"
                                      "9f dc0010 dd00010000 8f de0010 df00010000");
    buf_free(&out);
}

/* First bytes of a string and a bin of `len` bytes. */
static void assert_lengths(size_t len, const char *str_hex, const char *bin_hex)
{
    static const uint8_t zeros[65536];
    struct hexed str = unhex(str_hex), bin = unhex(bin_hex);
    struct buf out = {0};
    msgpack_put_str(&out, bytes_of(zeros, len));
    assert_int_equal(out.len, str.len + len);
    assert_memory_equal(out.ptr, str.data, str.len);
    buf_clear(&out);
    msgpack_put_bin(&out, bytes_of(zeros, len));
    assert_int_equal(out.len, bin.len + len);
    assert_memory_equal(out.ptr, bin.data, bin.len);
    buf_free(&out);
}

static void test_shortest_lengths(void **state)
{
    (void)state;
    assert_lengths(31, "bf", "c41f");
    assert_lengths(32, "d920", "c420");
    assert_lengths(255, "d9ff", "c4ff");
    assert_lengths(256, "da0100", "c50100");
    assert_lengths(65535, "daffff", "c5ffff");
    assert_lengths(65536, "db00010000", "c600010000");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_integers),
        cmocka_unit_test(test_other_scalars),
        cmocka_unit_test(test_data),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_skip),
        cmocka_unit_test(test_skip_depth),
        cmocka_unit_test(test_shortest_integers),
        cmocka_unit_test(test_put_the_rest),
        cmocka_unit_test(test_shortest_lengths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
