/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "client/params_build.h"
#include "wire/params.h"

static void assert_packs(struct taskmill_params *p, const char *expected, size_t len)
{
    struct buf out = {0};

    assert_int_equal(params_pack(p, &out), 0);
    assert_int_equal(out.len, len);
    assert_memory_equal(out.ptr, expected, len);
    buf_free(&out);
    taskmill_params_free(p);
}

#define ASSERT_PACKS(p, literal) assert_packs(p, literal, sizeof(literal) - 1)

static void assert_refused(struct taskmill_params *p, int code, const char *part)
{
    struct buf out = {0};

    assert_int_equal(params_pack(p, &out), code);
    assert_non_null(strstr(taskmill_last_error(), part));
    assert_int_equal(out.len, 0);
    buf_free(&out);
    taskmill_params_free(p);
}

/* The vector of spec/client.md 0. */
static void test_reference_vector(void **state)
{
    struct taskmill_params *p = taskmill_params_new();

    (void)state;
    taskmill_params_kw_int(p, "k", 2);
    taskmill_params_int(p, 1);
    ASSERT_PACKS(p, "\x82\xa4"
                    "args\x91\x01\xa6"
                    "kwargs\x81\xa1k\x02");
}

static void test_none(void **state)
{
    (void)state;
    ASSERT_PACKS(NULL, "\x82\xa4"
                       "args\x90\xa6"
                       "kwargs\x80");
    ASSERT_PACKS(taskmill_params_new(), "\x82\xa4"
                                        "args\x90\xa6"
                                        "kwargs\x80");
}

static void test_every_type(void **state)
{
    struct taskmill_params *p = taskmill_params_new();

    (void)state;
    taskmill_params_null(p);
    taskmill_params_bool(p, true);
    taskmill_params_uint(p, UINT64_MAX);
    taskmill_params_double(p, 0.5);
    taskmill_params_str(p, "s");
    taskmill_params_bytes(p, "\0", 1);
    ASSERT_PACKS(p, "\x82\xa4"
                    "args\x96\xc0\xc3\xcf\xff\xff\xff\xff\xff\xff\xff\xff"
                    "\xcb\x3f\xe0\0\0\0\0\0\0\xa1s\xc4\x01\0\xa6"
                    "kwargs\x80");
}

/* f([1, {"a": []}], m={"x": [2]}) */
static void test_nested(void **state)
{
    struct taskmill_params *p = taskmill_params_new();

    (void)state;
    taskmill_params_array(p);
    taskmill_params_int(p, 1);
    taskmill_params_map(p);
    taskmill_params_kw_array(p, "a");
    taskmill_params_end(p);
    taskmill_params_end(p);
    taskmill_params_end(p);
    taskmill_params_kw_map(p, "m");
    taskmill_params_kw_array(p, "x");
    taskmill_params_int(p, 2);
    taskmill_params_end(p);
    taskmill_params_end(p);
    ASSERT_PACKS(p, "\x82\xa4"
                    "args\x91\x92\x01\x81\xa1"
                    "a\x90\xa6"
                    "kwargs\x81\xa1m\x81\xa1x\x91\x02");
}

static void test_mistakes(void **state)
{
    struct taskmill_params *p;

    (void)state;
    p = taskmill_params_new();
    taskmill_params_end(p);
    assert_refused(p, TASKMILL_ERR_STATE, "without an open");

    p = taskmill_params_new();
    taskmill_params_array(p);
    assert_refused(p, TASKMILL_ERR_STATE, "missing (1 open)");

    p = taskmill_params_new();
    taskmill_params_array(p);
    taskmill_params_kw_int(p, "k", 1);
    taskmill_params_end(p);
    assert_refused(p, TASKMILL_ERR_INVALID, "value k: the open container is an array");

    p = taskmill_params_new();
    taskmill_params_kw_map(p, "m");
    taskmill_params_int(p, 1);
    assert_refused(p, TASKMILL_ERR_INVALID, "the open container is a map");

    p = taskmill_params_new();
    taskmill_params_kw_int(p, "k", 1);
    taskmill_params_kw_int(p, "k", 2);
    assert_refused(p, TASKMILL_ERR_EXISTS, "k is given twice");

    p = taskmill_params_new();
    taskmill_params_str(p, "\xff");
    taskmill_params_end(p); /* the first mistake counts */
    assert_refused(p, TASKMILL_ERR_INVALID, "UTF-8");

    p = taskmill_params_new();
    taskmill_params_array(p);
    taskmill_params_map(p);
    taskmill_params_kw_int(p, "", 1);
    taskmill_params_kw_int(p, "", 2);
    assert_refused(p, TASKMILL_ERR_EXISTS, "is given twice");
}

/* Names count once in each map, not across maps; also of values that hold the name themselves. */
static void test_names_of_each_map(void **state)
{
    struct taskmill_params *p = taskmill_params_new();

    (void)state;
    for (int i = 0; i < 2; i++) {
        taskmill_params_kw_map(p, i ? "b" : "a");
        taskmill_params_kw_str(p, "a", "b");
        taskmill_params_kw_str(p, "b", "a");
        taskmill_params_end(p);
    }
    assert_int_equal(taskmill_params_check(p), 0);
    taskmill_params_kw_null(p, "b");
    assert_refused(p, TASKMILL_ERR_EXISTS, "b is given twice");
}

/* Hashed from 17 names on: each name is found again, and only these. */
static void test_large_map(void **state)
{
    enum { COUNT = 200000 };
    char name[32];

    (void)state;
    for (int again = -1; again < COUNT; again += again < 40 ? 1 : 39989) {
        struct taskmill_params *p = taskmill_params_new();
        int count = again < 40 ? 40 : COUNT;

        taskmill_params_kw_map(p, "m");
        for (int i = 0; i < count; i++) {
            snprintf(name, sizeof name, "name%d", i);
            taskmill_params_kw_int(p, name, i);
        }
        assert_int_equal(taskmill_params_check(p), 0);
        snprintf(name, sizeof name, "name%d", again < 0 ? count : again);
        taskmill_params_kw_int(p, name, 0);
        assert_int_equal(taskmill_params_check(p), again < 0 ? 0 : TASKMILL_ERR_EXISTS);
        taskmill_params_free(p);
    }
}

/* As deep as Python unpacks: 1024 containers with args and the outer map. */
static void test_depth(void **state)
{
    (void)state;
    for (int levels = 1022; levels <= 1023; levels++) {
        struct taskmill_params *p = taskmill_params_new();
        struct bytes args, kwargs;
        struct buf out = {0};
        const char *why = "";

        for (int i = 0; i < levels; i++)
            taskmill_params_array(p);
        for (int i = 0; i < levels; i++)
            taskmill_params_end(p);
        if (levels == 1023) {
            assert_refused(p, TASKMILL_ERR_TOO_LARGE, "deeper than 1024");
            break;
        }
        assert_int_equal(params_pack(p, &out), 0);
        assert_int_equal(params_open(buf_bytes(&out), &args, &kwargs, &why), 0);
        buf_free(&out);
        taskmill_params_free(p);
    }
}

/* A value that is passed on brings its own depth. */
static void test_depth_of_a_passed_value(void **state)
{
    unsigned char nested[1000];
    struct taskmill_value value = {NULL, nested, sizeof nested};

    (void)state;
    memset(nested, 0x91, sizeof nested);
    nested[sizeof nested - 1] = 0x90;
    for (int levels = 22; levels <= 23; levels++) {
        struct taskmill_params *p = taskmill_params_new();

        for (int i = 0; i < levels; i++)
            taskmill_params_array(p);
        taskmill_params_value(p, &value);
        assert_int_equal(taskmill_params_check(p), levels == 22 ? 0 : TASKMILL_ERR_TOO_LARGE);
        taskmill_params_free(p);
    }
}

static void test_json(void **state)
{
    struct taskmill_params *p =
        taskmill_params_from_json("{\"args\": [1], \"kwargs\": {\"k\": 2}}");

    (void)state;
    ASSERT_PACKS(p, "\x82\xa4"
                    "args\x91\x01\xa6"
                    "kwargs\x81\xa1k\x02");
    p = taskmill_params_from_json("{}");
    taskmill_params_int(p, 1);
    assert_refused(p, TASKMILL_ERR_STATE, "no more values");
}

/* Wrong text is a mistake of the builder: it must not send a task without parameters. */
static void test_bad_json(void **state)
{
    struct taskmill_params *p = taskmill_params_from_json("{");
    struct taskmill_app *app;

    (void)state;
    assert_int_equal(taskmill_params_check(p), TASKMILL_ERR_MALFORMED);
    assert_string_equal(taskmill_last_error(), "parameters: JSON ends too early");
    taskmill_params_int(p, 1); /* the first mistake counts */
    assert_refused(p, TASKMILL_ERR_MALFORMED, "JSON ends too early");
    assert_refused(taskmill_params_from_json("{\"args\": 1}"), TASKMILL_ERR_MALFORMED,
                   "args is not an array");
    assert_refused(taskmill_params_from_json(NULL), TASKMILL_ERR_INVALID, "NULL");

    app = taskmill_app_new("shop");
    assert_int_equal(taskmill_test_capture(app, true), 0);
    assert_int_equal(
        taskmill_send(app, "n", "t", taskmill_params_from_json("[]"), .undeclared = true),
        TASKMILL_ERR_MALFORMED);
    assert_string_equal(taskmill_last_error(), "parameters: JSON is not an object");
    assert_int_equal(taskmill_test_count(app), 0);
    taskmill_app_free(app);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reference_vector),
                                       cmocka_unit_test(test_none),
                                       cmocka_unit_test(test_every_type),
                                       cmocka_unit_test(test_nested),
                                       cmocka_unit_test(test_mistakes),
                                       cmocka_unit_test(test_names_of_each_map),
                                       cmocka_unit_test(test_large_map),
                                       cmocka_unit_test(test_depth),
                                       cmocka_unit_test(test_depth_of_a_passed_value),
                                       cmocka_unit_test(test_json),
                                       cmocka_unit_test(test_bad_json)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
