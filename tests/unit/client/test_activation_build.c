/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "client/activation_build.h"
#include "wire/activation.h"
#include "wire/params.h"

static const struct taskmill_task_options plain_task = {.processing_deadline_s = 10};

static int build(const struct taskmill_task_options *task,
                 const struct taskmill_send_options *options, const struct taskmill_params *params,
                 struct buf *out)
{
    struct taskmill_headers headers = {0};
    struct activation_source source = {.id = "0123456789abcdef0123456789abcdef",
                                       .application = "shop",
                                       .namespace = "billing",
                                       .name = "pay",
                                       .now_us = INT64_C(1700000000123456),
                                       .task = task,
                                       .options = options,
                                       .headers = &headers,
                                       .params = params};

    int rv = headers_take(&headers, options->headers, options->header_count);

    if (rv == 0)
        rv = activation_build(&source, out);
    headers_free(&headers);
    return rv;
}

static void test_fields(void **state)
{
    struct taskmill_header header = {"k", "v"};
    struct taskmill_send_options options = {
        .countdown_s = 9, .expires_s = 8, .headers = &header, .header_count = 1};
    struct taskmill_task_options task = {
        .processing_deadline_s = 30, .expires_s = 99, .retry = {.times = 4, .delay_s = 2}};
    struct buf out = {0};
    struct activation a;
    struct bytes value;
    const char *why = "";

    (void)state;
    assert_int_equal(build(&task, &options, NULL, &out), 0);
    assert_int_equal(activation_parse(buf_bytes(&out), &a, &why), 0);
    assert_true(bytes_equal_str(a.id, "0123456789abcdef0123456789abcdef"));
    assert_true(bytes_equal_str(a.application, "shop"));
    assert_true(bytes_equal_str(a.namespace, "billing"));
    assert_true(bytes_equal_str(a.taskname, "pay"));
    assert_int_equal(a.received_at_s, 1700000000);
    assert_int_equal(a.received_at_ns, 123456000);
    assert_int_equal(a.processing_deadline_duration, 30);
    assert_true(a.has_expires && a.expires == 8); /* of the call */
    assert_true(a.has_delay && a.delay == 9);
    assert_int_equal(a.retry_state.max_attempts, 4);
    assert_int_equal(a.parameters.len, 0);
    assert_true(activation_header(buf_bytes(&out), "k", &value) && bytes_equal_str(value, "v"));
    assert_false(activation_header(buf_bytes(&out), "compression-type", &value));
    buf_free(&out);
}

static void test_absent(void **state)
{
    struct taskmill_send_options options = {0};
    struct buf out = {0};
    struct activation a;
    const char *why = "";

    (void)state;
    assert_int_equal(build(&plain_task, &options, NULL, &out), 0);
    assert_int_equal(activation_parse(buf_bytes(&out), &a, &why), 0);
    assert_false(a.has_expires);
    assert_false(a.has_delay);
    assert_true(a.retry_state.has_at_most_once);
    buf_free(&out);
}

/* Strictly more than 3,000,000 packed bytes are compressed; 20 of them are not the value. */
static void test_compression_limit(void **state)
{
    size_t plain = PARAMS_COMPRESS_ABOVE - 20;
    char *content = calloc(1, plain + 1);
    struct taskmill_send_options options = {0};

    (void)state;
    for (size_t extra = 0; extra < 2; extra++) {
        struct taskmill_params *p = taskmill_params_new();
        struct buf out = {0}, unpacked = {0};
        struct activation a;
        struct bytes value;
        const char *why = "";

        taskmill_params_bytes(p, content, plain + extra);
        assert_int_equal(build(&plain_task, &options, p, &out), 0);
        assert_int_equal(activation_parse(buf_bytes(&out), &a, &why), 0);
        if (extra == 0) {
            assert_int_equal(a.parameters_bytes.len, PARAMS_COMPRESS_ABOVE);
            assert_false(activation_header(buf_bytes(&out), "compression-type", &value));
        } else {
            assert_true(activation_header(buf_bytes(&out), "compression-type", &value));
            assert_true(bytes_equal_str(value, "zstd"));
            assert_int_equal(
                params_decompress(a.parameters_bytes, PARAMS_UNCOMPRESSED_MAX, &unpacked, &why), 0);
            assert_int_equal(unpacked.len, PARAMS_COMPRESS_ABOVE + 1);
        }
        buf_free(&out);
        buf_free(&unpacked);
        taskmill_params_free(p);
    }
    free(content);
}

static void test_compress_on_demand(void **state)
{
    struct taskmill_task_options task = {.processing_deadline_s = 10, .compress = true};
    struct taskmill_send_options options = {0};
    struct buf out = {0};
    struct bytes value;

    (void)state;
    assert_int_equal(build(&task, &options, NULL, &out), 0);
    assert_true(activation_header(buf_bytes(&out), "compression-type", &value));
    buf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fields), cmocka_unit_test(test_absent),
                                       cmocka_unit_test(test_compression_limit),
                                       cmocka_unit_test(test_compress_on_demand)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
