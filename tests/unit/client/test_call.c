/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "client/activation_build.h"
#include "client/call.h"

struct fixture {
    struct taskmill_app *app;
    const struct task_def *task;
    struct buf payload;
};

static enum taskmill_status nothing(struct taskmill_call *call)
{
    return taskmill_retry(call, "not %s", "now");
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct taskmill_namespace *ns;

    f->app = taskmill_app_new("shop");
    ns = taskmill_namespace(f->app, "billing", .retry = {.times = 2});
    (void)taskmill_task(ns, "pay", nothing, .data = f);
    f->task = registry_find(f->app, bytes_str("billing"), bytes_str("pay"));
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    buf_free(&f->payload);
    taskmill_app_free(f->app);
    free(f);
    return 0;
}

static void open_call(struct fixture *f, struct taskmill_call *call, struct taskmill_params *p,
                      bool compress)
{
    struct taskmill_header header = {"k", "v"};
    struct taskmill_send_options options = {.headers = &header, .header_count = 1};
    struct taskmill_task_options task = f->task->options;
    struct taskmill_headers headers = {0};
    struct err_text why;

    assert_int_equal(headers_take(&headers, options.headers, options.header_count), 0);
    task.compress = compress;
    buf_clear(&f->payload);
    assert_int_equal(activation_build(&(struct activation_source){.id = "id",
                                                                  .application = "shop",
                                                                  .namespace = "billing",
                                                                  .name = "pay",
                                                                  .now_us = 1500000,
                                                                  .task = &task,
                                                                  .options = &options,
                                                                  .headers = &headers,
                                                                  .params = p},
                                      &f->payload),
                     0);
    headers_free(&headers);
    taskmill_params_free(p);
    assert_int_equal(call_open(call, f->app, f->task, buf_bytes(&f->payload), &why), 0);
}

static void test_arguments(void **state)
{
    struct taskmill_call call;
    struct taskmill_params *p = taskmill_params_new();
    const char *text = NULL;
    const void *raw;
    int64_t i = 5;
    uint64_t u;
    double d;
    bool b;
    size_t len;

    taskmill_params_int(p, -42);
    taskmill_params_uint(p, UINT64_MAX);
    taskmill_params_double(p, 2.5);
    taskmill_params_bool(p, true);
    taskmill_params_str(p, "text");
    taskmill_params_bytes(p, "a\0b", 3);
    taskmill_params_kw_str(p, "email", "a@b.c");
    taskmill_params_kw_int(p, "n", 7);
    open_call(*state, &call, p, true);

    assert_int_equal(taskmill_arg_count(&call), 6);
    assert_int_equal(taskmill_arg_int(&call, 0, &i), 0);
    assert_int_equal(i, -42);
    assert_int_equal(taskmill_arg_uint(&call, 0, &u), TASKMILL_ERR_INVALID);
    assert_int_equal(taskmill_arg_int(&call, 1, &i), TASKMILL_ERR_INVALID); /* too large */
    assert_int_equal(i, -42);
    assert_int_equal(taskmill_arg_uint(&call, 1, &u), 0);
    assert_true(u == UINT64_MAX);
    assert_int_equal(taskmill_arg_double(&call, 2, &d), 0);
    assert_true(d == 2.5);
    assert_int_equal(taskmill_arg_double(&call, 0, &d), 0);
    assert_true(d == -42);
    assert_int_equal(taskmill_arg_bool(&call, 3, &b), 0);
    assert_true(b);
    assert_int_equal(taskmill_arg_str(&call, 4, &text), 0);
    assert_string_equal(text, "text");
    assert_int_equal(taskmill_arg_bytes(&call, 5, &raw, &len), 0);
    assert_int_equal(len, 3);
    assert_memory_equal(raw, "a\0b", 3);
    assert_int_equal(taskmill_arg_str(&call, 5, &text), TASKMILL_ERR_INVALID);
    assert_non_null(strstr(taskmill_last_error(), "bytes"));
    assert_int_equal(taskmill_arg_int(&call, 6, &i), TASKMILL_ERR_NOT_FOUND);
    assert_int_equal(taskmill_kwarg_str(&call, "email", &text), 0);
    assert_string_equal(text, "a@b.c");
    assert_int_equal(taskmill_kwarg_int(&call, "n", &i), 0);
    assert_int_equal(i, 7);
    assert_int_equal(taskmill_kwarg_int(&call, "x", &i), TASKMILL_ERR_NOT_FOUND);
    call_close(&call);
}

static void test_containers(void **state)
{
    struct taskmill_call call;
    struct taskmill_params *p =
        taskmill_params_from_json("{\"args\": [[1, {\"a\": [true, null]}]], \"kwargs\": {}}");
    struct taskmill_value list, map, inner, item;
    int64_t i;

    open_call(*state, &call, p, false);
    assert_int_equal(taskmill_arg(&call, 0, &list), 0);
    assert_int_equal(taskmill_value_type(&list), TASKMILL_ARRAY);
    assert_int_equal(taskmill_value_count(&list), 2);
    assert_int_equal(taskmill_value_at(&list, 0, &item), 0);
    assert_int_equal(taskmill_value_int(&item, &i), 0);
    assert_int_equal(i, 1);
    assert_int_equal(taskmill_value_at(&list, 2, &item), TASKMILL_ERR_NOT_FOUND);
    assert_int_equal(taskmill_value_at(&list, 1, &map), 0);
    assert_int_equal(taskmill_value_type(&map), TASKMILL_MAP);
    assert_int_equal(taskmill_value_get(&map, "a", &inner), 0);
    assert_int_equal(taskmill_value_count(&inner), 2);
    assert_int_equal(taskmill_value_at(&map, 0, &item), 0);
    assert_int_equal(taskmill_value_count(&item), 2);
    assert_int_equal(taskmill_value_at(&inner, 1, &item), 0);
    assert_int_equal(taskmill_value_type(&item), TASKMILL_NULL);
    assert_int_equal(taskmill_value_get(&map, "b", &item), TASKMILL_ERR_NOT_FOUND);
    assert_int_equal(taskmill_value_get(&list, "b", &item), TASKMILL_ERR_INVALID);
    assert_int_equal(taskmill_value_count(&item), 0);
    call_close(&call);
}

/* What a handler needs that does not know the names. */
static void test_keys(void **state)
{
    struct taskmill_call call;
    struct taskmill_params *p = taskmill_params_from_json(
        "{\"args\": [1, 2], \"kwargs\": {\"first\": {\"in\": 3}, \"second\": 4}}");
    struct taskmill_value args, kwargs, item, key;
    const char *text;
    int64_t i;

    open_call(*state, &call, p, false);
    args = taskmill_args(&call);
    kwargs = taskmill_kwargs(&call);
    assert_int_equal(taskmill_value_count(&args), 2);
    assert_int_equal(taskmill_value_count(&kwargs), 2);
    assert_int_equal(taskmill_value_key(&kwargs, 1, &key), 0);
    assert_int_equal(taskmill_value_str(&key, &text), 0);
    assert_string_equal(text, "second");
    assert_int_equal(taskmill_value_at(&kwargs, 1, &item), 0);
    assert_int_equal(taskmill_value_int(&item, &i), 0);
    assert_int_equal(i, 4);
    assert_int_equal(taskmill_value_at(&kwargs, 0, &item), 0);
    assert_int_equal(taskmill_value_key(&item, 0, &key), 0);
    assert_int_equal(taskmill_value_str(&key, &text), 0);
    assert_string_equal(text, "in");
    assert_int_equal(taskmill_value_key(&kwargs, 2, &key), TASKMILL_ERR_NOT_FOUND);
    assert_int_equal(taskmill_value_key(&args, 0, &key), TASKMILL_ERR_INVALID);
    call_close(&call);
}

static void test_facts(void **state)
{
    struct fixture *f = *state;
    struct taskmill_call call;

    open_call(f, &call, NULL, false);
    assert_string_equal(taskmill_call_id(&call), "id");
    assert_string_equal(taskmill_call_application(&call), "shop");
    assert_string_equal(taskmill_call_namespace(&call), "billing");
    assert_string_equal(taskmill_call_task(&call), "pay");
    assert_int_equal(taskmill_call_attempt(&call), 0);
    assert_true(taskmill_call_retries_left(&call));
    assert_int_equal(taskmill_call_sent_us(&call), 1500000);
    assert_string_equal(taskmill_call_header(&call, "k"), "v");
    assert_null(taskmill_call_header(&call, "x"));
    assert_ptr_equal(taskmill_call_data(&call), f);
    assert_ptr_equal(taskmill_call_app(&call), f->app);
    assert_int_equal(f->task->handler(&call), TASKMILL_RETRY);
    assert_string_equal(call.error.s, "not now");
    call_close(&call);
}

static void put_activation(struct buf *out, const char *parameters, struct bytes packed,
                           const char *compression)
{
    struct activation_header header = {bytes_str("compression-type"), bytes_str(compression)};

    buf_clear(out);
    activation_encode(&(struct activation){.id = bytes_str("id"),
                                           .namespace = bytes_str("billing"),
                                           .taskname = bytes_str("pay"),
                                           .parameters = bytes_str(parameters),
                                           .parameters_bytes = packed},
                      &header, 1, out);
}

/* What old clients send, and what nobody should. */
static void test_odd_parameters(void **state)
{
    struct fixture *f = *state;
    struct taskmill_call call;
    struct taskmill_value all;
    struct err_text why;
    int64_t i;

    put_activation(&f->payload, "{\"args\": [3], \"kwargs\": {}}", bytes_str(""), "none");
    assert_int_equal(call_open(&call, f->app, f->task, buf_bytes(&f->payload), &why), 0);
    assert_int_equal(taskmill_arg_int(&call, 0, &i), 0);
    assert_int_equal(i, 3);
    call_close(&call);

    put_activation(&f->payload, "", bytes_str(""), "none");
    assert_true(call_open(&call, f->app, f->task, buf_bytes(&f->payload), &why) < 0);
    put_activation(&f->payload, "", bytes_str("\x80"), "zstd");
    assert_true(call_open(&call, f->app, f->task, buf_bytes(&f->payload), &why) < 0);
    assert_non_null(strstr(why.s, "parameters"));
    put_activation(&f->payload, "", bytes_str("\x80"), "none");
    assert_int_equal(call_open(&call, f->app, f->task, buf_bytes(&f->payload), &why), 0);
    assert_int_equal(taskmill_arg_count(&call), 0);
    assert_int_equal(taskmill_kwarg_int(&call, "k", &i), TASKMILL_ERR_NOT_FOUND);
    all = taskmill_args(&call);
    assert_int_equal(taskmill_value_type(&all), TASKMILL_ARRAY);
    all = taskmill_kwargs(&call);
    assert_int_equal(taskmill_value_type(&all), TASKMILL_MAP);
    assert_int_equal(taskmill_value_count(&all), 0);
    call_close(&call);
    put_activation(&f->payload, "", bytes_str("\xc1"), "none");
    assert_true(call_open(&call, f->app, f->task, buf_bytes(&f->payload), &why) < 0);
}

/* A walk that began at the front for each element would take hours. */
static void test_a_walk_is_linear(void **state)
{
    enum { PAIRS = 300000 };
    struct fixture *f = *state;
    struct taskmill_call call;
    struct taskmill_value all, pair, number;
    struct err_text why;
    struct buf packed = {0};
    int64_t left, right, sum = 0;

    buf_append(&packed,
               "\x82\xa4"
               "args"
               "\x91\xdd\x00\x04\x93\xe0",
               12);
    for (int i = 0; i < PAIRS; i++)
        buf_append(&packed, "\x92\x01\x02", 3);
    buf_append(&packed,
               "\xa6"
               "kwargs"
               "\x80",
               8);
    put_activation(&f->payload, "", buf_bytes(&packed), "none");
    assert_int_equal(call_open(&call, f->app, f->task, buf_bytes(&f->payload), &why), 0);
    assert_int_equal(taskmill_arg(&call, 0, &all), 0);
    assert_int_equal(taskmill_value_count(&all), PAIRS);
    for (size_t i = 0; i < PAIRS; i++) {
        assert_int_equal(taskmill_value_at(&all, i, &pair), 0);
        assert_int_equal(taskmill_value_at(&pair, 1, &number), 0);
        assert_int_equal(taskmill_value_int(&number, &right), 0);
        assert_int_equal(taskmill_value_at(&pair, 0, &number), 0); /* back */
        assert_int_equal(taskmill_value_int(&number, &left), 0);
        sum += 10 * left + right;
    }
    assert_int_equal(sum, 12 * PAIRS);
    assert_int_equal(taskmill_value_at(&all, PAIRS, &pair), TASKMILL_ERR_NOT_FOUND);
    call_close(&call);
    buf_free(&packed);
}

/* An old client that sends no msgpack: base64 of the zstd frame of the JSON. */
static void test_compressed_json(void **state)
{
    /* python: base64.b64encode(zstandard.compress(b'{"args":[7],"kwargs":{}}')) */
    static const char good[] = "KLUv/SAYwQAAeyJhcmdzIjpbN10sImt3YXJncyI6e319";
    static const char cut[] = "KLUv/SAYwQAAeyJhcmdzIjpbN10sImt3YXJn";
    struct fixture *f = *state;
    struct taskmill_call call;
    struct err_text why;
    int64_t i;

    put_activation(&f->payload, good, bytes_str(""), "zstd");
    assert_int_equal(call_open(&call, f->app, f->task, buf_bytes(&f->payload), &why), 0);
    assert_int_equal(taskmill_arg_int(&call, 0, &i), 0);
    assert_int_equal(i, 7);
    call_close(&call);

    put_activation(&f->payload, cut, bytes_str(""), "zstd");
    assert_int_equal(call_open(&call, f->app, f->task, buf_bytes(&f->payload), &why),
                     TASKMILL_ERR_MALFORMED);
    put_activation(&f->payload, "{\"args\": []}", bytes_str(""), "zstd");
    assert_int_equal(call_open(&call, f->app, f->task, buf_bytes(&f->payload), &why),
                     TASKMILL_ERR_MALFORMED);
    assert_non_null(strstr(why.s, "base64"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_arguments, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_containers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_keys, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_facts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_walk_is_linear, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_odd_parameters, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_compressed_json, set_up, tear_down)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
