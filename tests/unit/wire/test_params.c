/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/params.h"

#include <pthread.h>

#include "hexed.h"

/* A quarter of what a main thread has by default; also enough for frames that a sanitizer has
 * made three times as large. */
#define STACK_BYTES (2 << 20)

/* args [1], kwargs {k: 2}: spec/client.md 0 */
#define VECTOR "82a4617267739101a66b776172677381a16b02"

static void test_open_vector(void **state)
{
    (void)state;
    struct hexed packed = unhex(VECTOR);
    struct bytes args, kwargs;
    const char *why;
    assert_int_equal(params_open(hexed_bytes(&packed), &args, &kwargs, &why), 0);
    assert_bytes_hex(args, "9101");
    assert_bytes_hex(kwargs, "81a16b02");
}

static void test_vector_is_what_we_write(void **state)
{
    (void)state;
    struct buf out = {0};
    const char *why;
    msgpack_put_map(&out, 2);
    msgpack_put_str(&out, bytes_str("args"));
    msgpack_put_array(&out, 1);
    msgpack_put_int(&out, 1);
    msgpack_put_str(&out, bytes_str("kwargs"));
    msgpack_put_map(&out, 1);
    msgpack_put_str(&out, bytes_str("k"));
    msgpack_put_uint(&out, 2);
    assert_bytes_hex(buf_bytes(&out), VECTOR);
    buf_clear(&out);
    struct bytes json = bytes_str("{\"kwargs\": {\"k\": 2}, \"args\": [1]}");
    assert_int_equal(params_from_json(json, &out, &why), 0);
    assert_bytes_hex(buf_bytes(&out), VECTOR);
    buf_free(&out);
}

static void test_open_missing_and_other_keys(void **state)
{
    (void)state;
    struct hexed packed = unhex("83 a178 91c0 c404 61726773 01 a461726773 90");
    struct bytes args, kwargs;
    const char *why;
    assert_int_equal(params_open(hexed_bytes(&packed), &args, &kwargs, &why), 0);
    assert_bytes_hex(args, "90");
    assert_int_equal(kwargs.len, 0);
    packed = unhex("82 a461726773 9101 a461726773 9102"); /* the last one wins */
    assert_int_equal(params_open(hexed_bytes(&packed), &args, &kwargs, &why), 0);
    assert_bytes_hex(args, "9102");
}

static void assert_unopened(const char *hex, const char *expected_why)
{
    struct hexed packed = unhex(hex);
    struct bytes args, kwargs;
    const char *why = NULL;
    assert_int_equal(params_open(hexed_bytes(&packed), &args, &kwargs, &why), ERR_MALFORMED);
    assert_string_equal(why, expected_why);
}

static void test_open_refuses(void **state)
{
    (void)state;
    assert_unopened("", "parameters are empty");
    assert_unopened("90", "parameters are not a map");
    assert_unopened("80 c0", "parameters are followed by other bytes");
    assert_unopened("81 01 02", "parameters have a key that is not a string");
    assert_unopened("81 a461726773 80", "args is not an array");
    assert_unopened("81 a66b7761726773 90", "kwargs is not a map");
    assert_unopened("81 a66b7761726773 81 c40161 01", "kwargs has a key that is not a string");
    assert_unopened("81 a461726773 91 81 01 01", "parameters have a map key that is not a string");
    assert_unopened("81 a461726773 9101 81", "parameters are followed by other bytes");
    assert_unopened("82 a461726773 9101", "parameters end inside a value");
}

static void assert_json(const char *hex, const char *expected)
{
    struct hexed packed = unhex(hex);
    struct buf json = {0}, back = {0};
    const char *why = NULL;
    assert_int_equal(params_to_json(hexed_bytes(&packed), &json, &why), 0);
    assert_string_equal(buf_cstr(&json), expected);
    assert_int_equal(params_from_json(buf_bytes(&json), &back, &why), 0);
    assert_bytes_hex(buf_bytes(&back), hex);
    buf_free(&json);
    buf_free(&back);
}

static void test_json_both_ways(void **state)
{
    (void)state;
    assert_json("82 a461726773 90 a66b7761726773 80", "{\"args\":[],\"kwargs\":{}}");
    assert_json(VECTOR, "{\"args\":[1],\"kwargs\":{\"k\":2}}");
    assert_json("82 a461726773 93 c0 c3 c2 a66b7761726773 80",
                "{\"args\":[null,true,false],\"kwargs\":{}}");
    assert_json("82 a461726773 93 cfffffffffffffffff d38000000000000000 cf8000000000000000"
                "a66b7761726773 80",
                "{\"args\":[18446744073709551615,-9223372036854775808,9223372036854775808],"
                "\"kwargs\":{}}");
    assert_json("82 a461726773 94 cb3ff0000000000000 cb3fb999999999999a cb4480f0cf064dd592"
                "cb8000000000000000 a66b7761726773 80",
                "{\"args\":[1.0,0.1,1e+22,-0.0],\"kwargs\":{}}");
    assert_json("82 a461726773 94 c400 c401ff c402ffee c403ffeedd a66b7761726773 80",
                "{\"args\":[{\"$bytes\":\"\"},{\"$bytes\":\"/w==\"},{\"$bytes\":\"/+4=\"},"
                "{\"$bytes\":\"/+7d\"}],\"kwargs\":{}}");
    assert_json("82 a461726773 93 cb7ff8000000000000 cb7ff0000000000000 cbfff0000000000000"
                "a66b7761726773 80",
                "{\"args\":[{\"$float\":\"nan\"},{\"$float\":\"inf\"},{\"$float\":\"-inf\"}],"
                "\"kwargs\":{}}");
    assert_json("82 a461726773 92 a6 22 5c 0a 00 c3bc a13f a66b7761726773 81 a122 a0",
                "{\"args\":[\"\\\"\\\\\\u000a\\u0000\xc3\xbc\",\"?\"],\"kwargs\":{\"\\\"\":\"\"}}");
}

static void test_json_of_missing_containers(void **state)
{
    (void)state;
    struct hexed packed = unhex("80");
    struct buf json = {0};
    const char *why;
    assert_int_equal(params_to_json(hexed_bytes(&packed), &json, &why), 0);
    assert_string_equal(buf_cstr(&json), "{\"args\":[],\"kwargs\":{}}");
    buf_free(&json);
}

static void test_json_unsupported(void **state)
{
    (void)state;
    const char *bad[] = {"81 a461726773 91 d4ff61", "81 a461726773 91 81 c40161 01"};
    for (size_t i = 0; i < 2; i++) {
        struct hexed packed = unhex(bad[i]);
        struct buf json = {0};
        const char *why = NULL;
        buf_append_str(&json, "kept");
        assert_int_equal(params_to_json(hexed_bytes(&packed), &json, &why), ERR_UNSUPPORTED);
        assert_string_equal(buf_cstr(&json), "kept");
        assert_non_null(why);
        buf_free(&json);
    }
}

static void assert_bad_json(const char *json, const char *expected_why)
{
    struct buf packed = {0};
    const char *why = NULL;
    assert_int_equal(params_from_json(bytes_str(json), &packed, &why), ERR_MALFORMED);
    assert_string_equal(why, expected_why);
    assert_int_equal(packed.len, 0);
    buf_free(&packed);
}

static void test_bad_json(void **state)
{
    (void)state;
    assert_bad_json("", "JSON ends too early");
    assert_bad_json("{\"args\": [1", "JSON ends too early");
    assert_bad_json("{,}", "JSON has a syntax error");
    assert_bad_json("[]", "JSON is not an object");
    assert_bad_json("{\"args\": {}}", "args is not an array");
    assert_bad_json("{\"kwargs\": []}", "kwargs is not an object");
    assert_bad_json("{\"args\": [18446744073709551616]}",
                    "JSON holds a number that does not fit 64 bits");
    assert_bad_json("{\"args\": [-9223372036854775809]}",
                    "JSON holds a number that does not fit 64 bits");
    assert_bad_json("{\"args\": [\"\xff\"]}", "JSON is not valid UTF-8");
    assert_bad_json("{\"\\u0000\": 1}", "JSON has a key with a NUL in it");
}

static void test_json_depth(void **state)
{
    (void)state;
    for (size_t levels = 1022; levels <= 1024; levels++) { /* and the outer map */
        struct buf json = {0}, packed = {0};
        const char *why;
        buf_append_str(&json, "{\"args\":");
        for (size_t i = 0; i < levels; i++)
            buf_append_byte(&json, '[');
        for (size_t i = 0; i < levels; i++)
            buf_append_byte(&json, ']');
        buf_append_byte(&json, '}');
        int rv = params_from_json(buf_bytes(&json), &packed, &why);
        assert_int_equal(rv, levels < 1024 ? 0 : ERR_MALFORMED);
        buf_clear(&json);
        if (rv == 0)
            assert_int_equal(params_to_json(buf_bytes(&packed), &json, &why), 0);
        buf_free(&json);
        buf_free(&packed);
    }
}

/* Through all that is recursive, both ways. */
static void *deepest(void *arg)
{
    struct buf json = {0}, packed = {0};
    struct bytes args, kwargs;
    const char *why;

    (void)arg;
    msgpack_put_map(&packed, 1);
    msgpack_put_str(&packed, bytes_str("kwargs"));
    for (int i = 0; i < 1022; i++) {
        msgpack_put_map(&packed, 1);
        msgpack_put_str(&packed, bytes_str("k"));
    }
    msgpack_put_array(&packed, 0);
    assert_int_equal(params_open(buf_bytes(&packed), &args, &kwargs, &why), 0);
    assert_int_equal(params_to_json(buf_bytes(&packed), &json, &why), 0);
    buf_clear(&packed);
    assert_int_equal(params_from_json(buf_bytes(&json), &packed, &why), 0);
    buf_free(&json);
    buf_free(&packed);
    return NULL;
}

/* The deepest parameters fit into a thread whose stack is smaller than usual. */
static void test_stack(void **state)
{
    pthread_attr_t attributes;
    pthread_t thread;

    (void)state;
    assert_int_equal(pthread_attr_init(&attributes), 0);
    assert_int_equal(pthread_attr_setstacksize(&attributes, STACK_BYTES), 0);
    assert_int_equal(pthread_create(&thread, &attributes, deepest, NULL), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    pthread_attr_destroy(&attributes);
}

static void test_zstd(void **state)
{
    (void)state;
    struct buf frame = {0}, plain = {0};
    const char *why;
    struct bytes text = bytes_str("hello hello hello hello");
    buf_append_str(&plain, "before ");
    assert_int_equal(params_compress(text, &frame, &why), 0);
    buf_append_str(&frame, "after"); /* ignored, as by the Python worker */
    assert_int_equal(params_decompress(buf_bytes(&frame), text.len, &plain, &why), 0);
    assert_string_equal(buf_cstr(&plain), "before hello hello hello hello");
    assert_int_equal(params_decompress(buf_bytes(&frame), text.len - 1, &plain, &why),
                     ERR_TOO_LARGE);
    buf_clear(&frame);
    buf_clear(&plain);
    assert_int_equal(params_compress(bytes_of(NULL, 0), &frame, &why), 0);
    assert_int_equal(params_decompress(buf_bytes(&frame), 0, &plain, &why), 0);
    assert_int_equal(plain.len, 0);
    assert_int_equal(params_decompress(bytes_of(NULL, 0), 10, &plain, &why), ERR_MALFORMED);
    buf_free(&frame);
    buf_free(&plain);
}

/* One frame of level 3, with its content size and no checksum. */
static void test_zstd_frame(void **state)
{
    (void)state;
    struct buf plain = {0}, frame = {0}, third = {0}, high = {0};
    const char *why;
    for (unsigned i = 0; i < 20000; i++)
        buf_printf(&plain, "%u,", i * i % 977);
    struct bytes text = buf_bytes(&plain);
    assert_int_equal(params_compress(text, &frame, &why), 0);
    assert_int_equal(params_compress_at(text, 3, &third, &why), 0);
    assert_int_equal(params_compress_at(text, 19, &high, &why), 0);
    assert_true(bytes_equal(buf_bytes(&frame), buf_bytes(&third)));
    assert_false(bytes_equal(buf_bytes(&frame), buf_bytes(&high)));
    assert_bytes_hex(bytes_of(frame.ptr, 4), "28b52ffd");
    assert_int_equal(frame.ptr[4] >> 6, 2);      /* the size takes 4 bytes */
    assert_int_equal(frame.ptr[4] & 0x07, 0);    /* no checksum, no dictionary */
    assert_int_equal(frame.ptr[4] & 0x20, 0x20); /* one segment: the size follows at once */
    uint32_t size = frame.ptr[5] | frame.ptr[6] << 8 | frame.ptr[7] << 16;
    assert_int_equal(size, text.len);
    buf_free(&plain);
    buf_free(&frame);
    buf_free(&third);
    buf_free(&high);
}

static void test_zstd_levels(void **state)
{
    (void)state;
    static const int64_t levels[] = {INT64_MIN, -2, 0, 1, 3, 22, 23, INT64_MAX};
    struct bytes text = bytes_str("hello hello hello hello");
    for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
        struct buf frame = {0}, plain = {0};
        const char *why;
        assert_int_equal(params_compress_at(text, levels[i], &frame, &why), 0);
        assert_int_equal(params_decompress(buf_bytes(&frame), text.len, &plain, &why), 0);
        assert_true(bytes_equal(buf_bytes(&plain), text));
        buf_free(&frame);
        buf_free(&plain);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_vector),
        cmocka_unit_test(test_vector_is_what_we_write),
        cmocka_unit_test(test_open_missing_and_other_keys),
        cmocka_unit_test(test_open_refuses),
        cmocka_unit_test(test_json_both_ways),
        cmocka_unit_test(test_json_of_missing_containers),
        cmocka_unit_test(test_json_unsupported),
        cmocka_unit_test(test_bad_json),
        cmocka_unit_test(test_json_depth),
        cmocka_unit_test(test_stack),
        cmocka_unit_test(test_zstd),
        cmocka_unit_test(test_zstd_frame),
        cmocka_unit_test(test_zstd_levels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
