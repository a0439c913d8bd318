/* SPDX-License-Identifier: Apache-2.0 */
/* Rules against activations: the table of spec/broker.md 9, fact by fact. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/runtime.h"
#include "wire/params.h"

static struct runtime *parse(const char *rules)
{
    struct config_warnings warnings = {0};
    struct runtime *runtime = NULL;
    struct err_text why;
    struct buf text = {0};
    buf_printf(&text, "demoted_namespaces: []\ndrop_task_killswitch: [%s]\n", rules);
    if (runtime_parse(&runtime, "r.yml", buf_bytes(&text), &warnings, &why))
        fail_msg("%s: %s", rules, why.s);
    buf_free(&text);
    config_warnings_free(&warnings);
    return runtime;
}

/* The verdict over task "t" with these parameters. */
static enum runtime_match judge_bytes(const char *rules, struct bytes parameters,
                                      const struct activation_header *headers, size_t header_count)
{
    struct activation activation = {.id = bytes_str("id"),
                                    .namespace = bytes_str("ns"),
                                    .taskname = bytes_str("t"),
                                    .parameters_bytes = parameters};
    struct buf payload = {0};
    activation_encode(&activation, headers, header_count, &payload);
    struct activation parsed;
    const char *why;
    size_t cost = 0;
    assert_int_equal(activation_parse(buf_bytes(&payload), &parsed, &why), 0);
    struct runtime *runtime = parse(rules);
    enum runtime_match match = runtime_match(runtime, &parsed, buf_bytes(&payload), &cost);
    runtime_unref(runtime);
    buf_free(&payload);
    return match;
}

static enum runtime_match judge(const char *rules, const char *json)
{
    struct buf packed = {0};
    const char *why = "";
    if (params_from_json(bytes_str(json), &packed, &why))
        fail_msg("%s: %s", json, why);
    enum runtime_match match = judge_bytes(rules, buf_bytes(&packed), NULL, 0);
    buf_free(&packed);
    return match;
}

static void names(void **state)
{
    (void)state;
    assert_int_equal(judge("t", "{}"), RUNTIME_WHOLE_TASK);
    assert_int_equal(judge("u", "{}"), RUNTIME_KEEP);
    assert_int_equal(judge("{name: t}", "{}"), RUNTIME_KEEP); /* a selector with neither */
    assert_int_equal(judge("{name: t, select_arg: {}, select_kwarg: null}", "{\"args\": [1]}"),
                     RUNTIME_KEEP);
    assert_int_equal(judge("{name: t, select_arg: {0: 9}}, t", "{}"), RUNTIME_WHOLE_TASK);
    assert_int_equal(judge("{name: u, select_arg: {0: 1}}", "{\"args\": [1]}"), RUNTIME_KEEP);
    assert_int_equal(judge("a, b, z, {name: t, select_arg: {0: 1}}, {name: s}", "{\"args\": [1]}"),
                     RUNTIME_SELECTOR);
    assert_string_equal(runtime_match_name(RUNTIME_WHOLE_TASK), "whole_task");
    assert_string_equal(runtime_match_name(RUNTIME_SELECTOR), "selector");
}

static void values(void **state)
{
    (void)state;
    static const struct {
        const char *wanted, *given; /* YAML, JSON */
        bool equal;
    } cases[] = {
        {"123", "123", true},
        {"123", "123.0", false},
        {"123", "\"123\"", false},
        {"123.0", "123.0", true},
        {"123.0", "123", false},
        {"'123'", "\"123\"", true},
        {"'123'", "123", false},
        {"-5", "-5", true},
        {"-5", "5", false},
        {"5", "-5", false},
        {"-9223372036854775808", "-9223372036854775808", true},
        {"18446744073709551615", "18446744073709551615", true},
        {"18446744073709551615", "-1", false},
        {"0x10", "16", true},
        {"-0", "0", true},
        {"0", "0", true},
        {"0", "false", false},
        {"0", "null", false},
        {"1.5", "1.5", true},
        {"1e3", "1000.0", true},
        {"0.1", "0.1", true},
        {"true", "true", true},
        {"true", "false", false},
        {"true", "1", false},
        {"'true'", "true", false},
        {"yes", "\"yes\"", true},
        {"null", "null", true},
        {"~", "\"\"", false},
        {"''", "\"\"", true},
        {"''", "null", false},
        {"\"\\u00e9\"", "\"\xc3\xa9\"", true},
        {"abc", "\"abcd\"", false},
        {"[1, a, null]", "[1, \"a\", null]", true},
        {"[1, a]", "[\"a\", 1]", false},
        {"[1]", "[1, 2]", false},
        {"[1, 2]", "[1]", false},
        {"[]", "[]", true},
        {"[]", "{}", false},
        {"{}", "{}", true},
        {"{a: 1, b: 2}", "{\"b\": 2, \"a\": 1}", true},
        {"{a: 1, b: 2}", "{\"a\": 1}", false},
        {"{a: 1}", "{\"a\": 1, \"b\": 2}", false},
        {"{a: 1}", "{\"a\": 1.0}", false},
        {"{a: [{b: [1, {c: x}]}]}", "{\"a\": [{\"b\": [1, {\"c\": \"x\"}]}]}", true},
        {"{a: [{b: [1, {c: x}]}]}", "{\"a\": [{\"b\": [1, {\"c\": \"y\"}]}]}", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf rule = {0}, params = {0};
        enum runtime_match expected = cases[i].equal ? RUNTIME_SELECTOR : RUNTIME_KEEP;
        buf_printf(&rule, "{name: t, select_arg: {1: %s}}", cases[i].wanted);
        buf_printf(&params, "{\"args\": [\"x\", %s]}", cases[i].given);
        if (judge(buf_cstr(&rule), buf_cstr(&params)) != expected)
            fail_msg("select_arg %s against %s", cases[i].wanted, cases[i].given);
        buf_clear(&rule);
        buf_clear(&params);
        buf_printf(&rule, "{name: t, select_kwarg: {k: %s}}", cases[i].wanted);
        buf_printf(&params, "{\"args\": [], \"kwargs\": {\"j\": 0, \"k\": %s}}", cases[i].given);
        if (judge(buf_cstr(&rule), buf_cstr(&params)) != expected)
            fail_msg("select_kwarg %s against %s", cases[i].wanted, cases[i].given);
        buf_free(&rule);
        buf_free(&params);
    }
}

static void any_one_selector_suffices(void **state)
{
    (void)state;
    static const char rules[] = "{name: t, select_arg: {0: 1, 7: x}, select_kwarg: {a: 1, b: 2}}";
    assert_int_equal(judge(rules, "{\"args\": [1], \"kwargs\": {}}"), RUNTIME_SELECTOR);
    assert_int_equal(judge(rules, "{\"args\": [2]}"), RUNTIME_KEEP);
    assert_int_equal(judge(rules, "{\"args\": [0,0,0,0,0,0,0,\"x\"]}"), RUNTIME_SELECTOR);
    assert_int_equal(judge(rules, "{\"kwargs\": {\"b\": 2}}"), RUNTIME_SELECTOR);
    assert_int_equal(judge(rules, "{\"kwargs\": {\"b\": 1, \"a\": 2}}"), RUNTIME_KEEP);
    assert_int_equal(judge(rules, "{}"), RUNTIME_KEEP);
    static const char two[] = "{name: t, select_arg: {0: 1}}, {name: t, select_arg: {0: 2}}";
    assert_int_equal(judge(two, "{\"args\": [2]}"), RUNTIME_SELECTOR);
    assert_int_equal(judge(two, "{\"args\": [3]}"), RUNTIME_KEEP);
}

#define BYTES(text) bytes_of(text, sizeof(text) - 1)

/* Anything that does not decode, or that the original cannot decode, is kept. */
static void doubt_keeps(void **state)
{
    (void)state;
    static const char rule[] = "{name: t, select_arg: {0: 1}, select_kwarg: {k: 1}}";
    const struct {
        struct bytes packed;
        bool matches;
    } cases[] = {
        {BYTES("\x81\xa4"
               "args\x91\x01"),
         true},
        {BYTES(""), false},         /* no parameters_bytes: legacy JSON */
        {BYTES("\x91\x01"), false}, /* not a map */
        {BYTES("\x81\xa4"
               "args\x01"),
         false}, /* args is no list */
        {BYTES("\x81\xa4"
               "args\x92\x01"),
         false}, /* cut off */
        {BYTES("\x81\xa4"
               "args\x91\x01\x00"),
         false}, /* followed by a byte */
        {BYTES("\x81\xa4"
               "args\x92\x01\xc4\x01z"),
         false}, /* bin, elsewhere in args */
        {BYTES("\x82\xa4"
               "args\x91\x01\xa6kwargs\x81\xa1z\xd4\x01z"),
         false}, /* ext, in kwargs */
        {BYTES("\x82\xa4"
               "args\x91\x01\xa6kwargs\x81\xa1z\x81\xc4\x01z\x01"),
         false}, /* bin as the key of a map */
        {BYTES("\x82\xa4"
               "args\x91\x01\xa1z\xc4\x01z"),
         true},                                                 /* bin outside of both */
        {BYTES("\x81\xa6kwargs\x82\xa1k\x01\xa1k\x02"), false}, /* the last k counts */
        {BYTES("\x81\xa6kwargs\x82\xa1k\x02\xa1k\x01"), true},
        {BYTES("\x81\xa6kwargs\x81\x01\x01"), false}, /* a key that is no text */
        {BYTES("\x81\xa4"
               "args\x91\xcf\x00\x00\x00\x00\x00\x00\x00\x01"),
         true}, /* a long form of 1 */
        {BYTES("\x81\xa4"
               "args\x91\xd0\x01"),
         true}, /* a signed form of 1 */
        {BYTES("\x81\xa4"
               "args\x91\xca\x3f\x80\x00\x00"),
         false}, /* 1.0 */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (judge_bytes(rule, cases[i].packed, NULL, 0) !=
            (cases[i].matches ? RUNTIME_SELECTOR : RUNTIME_KEEP))
            fail_msg("case %zu", i);
}

static void a_map_with_a_key_twice_equals_none(void **state)
{
    (void)state;
    assert_int_equal(judge_bytes("{name: t, select_arg: {0: {a: 1, b: 1}}}",
                                 BYTES("\x81\xa4"
                                       "args\x91\x82\xa1"
                                       "a\x01\xa1"
                                       "a\x01"),
                                 NULL, 0),
                     RUNTIME_KEEP);
}

/* --- zstd ------------------------------------------------------------------------------------- */

static void pack_args_one(struct buf *packed, size_t padding)
{
    msgpack_put_map(packed, 1);
    msgpack_put_str(packed, bytes_str("args"));
    msgpack_put_array(packed, 2);
    msgpack_put_uint(packed, 1);
    struct buf text = {0};
    buf_reserve(&text, padding + 1);
    memset(text.ptr, 'x', padding);
    text.len = padding;
    msgpack_put_str(packed, buf_bytes(&text));
    buf_free(&text);
}

static void compressed(void **state)
{
    (void)state;
    static const char rule[] = "{name: t, select_arg: {0: 1}}";
    const struct activation_header zstd = {bytes_str("compression-type"), bytes_str("zstd")};
    const struct activation_header gzip = {bytes_str("compression-type"), bytes_str("gzip")};
    struct buf packed = {0}, frame = {0};
    const char *why;
    pack_args_one(&packed, 10);
    assert_int_equal(params_compress(buf_bytes(&packed), &frame, &why), 0);
    assert_int_equal(judge_bytes(rule, buf_bytes(&frame), &zstd, 1), RUNTIME_SELECTOR);
    assert_int_equal(judge_bytes(rule, buf_bytes(&frame), NULL, 0), RUNTIME_KEEP);
    assert_int_equal(judge_bytes(rule, buf_bytes(&frame), &gzip, 1), RUNTIME_KEEP);
    assert_int_equal(judge_bytes(rule, buf_bytes(&packed), &zstd, 1), RUNTIME_KEEP);
    assert_int_equal(judge_bytes(rule, bytes_of(frame.ptr, frame.len - 1), &zstd, 1), RUNTIME_KEEP);
    buf_free(&packed);
    buf_free(&frame);
}

static void compressed_up_to_64_mib(void **state)
{
    (void)state;
    static const char rule[] = "{name: t, select_arg: {0: 1}}";
    const struct activation_header zstd = {bytes_str("compression-type"), bytes_str("zstd")};
    const char *why;
    for (int over = 0; over < 2; over++) {
        struct buf packed = {0}, frame = {0};
        pack_args_one(&packed, (64u << 20) - 13 + (size_t)over);
        assert_int_equal(packed.len, (64u << 20) + over);
        assert_int_equal(params_compress(buf_bytes(&packed), &frame, &why), 0);
        buf_free(&packed);
        assert_int_equal(judge_bytes(rule, buf_bytes(&frame), &zstd, 1),
                         over ? RUNTIME_KEEP : RUNTIME_SELECTOR);
        buf_free(&frame);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(values),
        cmocka_unit_test(any_one_selector_suffices),
        cmocka_unit_test(doubt_keeps),
        cmocka_unit_test(a_map_with_a_key_twice_equals_none),
        cmocka_unit_test(compressed),
        cmocka_unit_test(compressed_up_to_64_mib),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
