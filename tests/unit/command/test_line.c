/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "call_help.h"
#include "command/line.h"

static void test_task(void **state)
{
    struct call_help help;
    struct buf line = {0};
    struct err_text why;

    (void)state;
    call_help_open(&help, "i\"d",
                   "{\"args\":[18446744073709551615,{\"$float\":\"nan\"},\"\\u2028\\n\"],"
                   "\"kwargs\":{\"b\":{\"$bytes\":\"AA==\"}}}",
                   1, 5, 20);
    assert_int_equal(command_line_task(&help.call, 19750, &line, &why), 0);
    assert_string_equal(
        buf_cstr(&line),
        "{\"id\":\"i\\\"d\",\"task\":\"task\",\"namespace\":\"ns\",\"application\":\"app\","
        "\"attempt\":1,\"retries_left\":3,\"deadline\":19.750,\"sent\":1700000000.000005,"
        "\"headers\":{\"k\":\"v \\\" w\"},"
        "\"args\":[18446744073709551615,{\"$float\":\"nan\"},\"\xe2\x80\xa8\\u000a\"],"
        "\"kwargs\":{\"b\":{\"$bytes\":\"AA==\"}}}\n");
    buf_clear(&line);
    assert_int_equal(command_line_task(&help.call, 0, &line, &why), 0);
    assert_non_null(strstr(buf_cstr(&line), "\"deadline\":null,"));
    call_help_close(&help);
    buf_free(&line);
}

/* The policy of the worker counts, not what the activation says. */
static void test_retries_left(void **state)
{
    static const struct {
        uint32_t attempts, times;
        const char *left;
    } rows[] = {{0, 0, "0"}, {0, 1, "0"}, {0, 3, "2"}, {2, 3, "0"}, {9, 3, "0"}};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct call_help help;
        struct buf line = {0}, wanted = {0};
        struct err_text why;

        call_help_open(&help, "id", "{}", rows[i].attempts, rows[i].times, 0);
        assert_int_equal(command_line_task(&help.call, 0, &line, &why), 0);
        buf_printf(&wanted, "\"retries_left\":%s,", rows[i].left);
        assert_non_null(strstr(buf_cstr(&line), buf_cstr(&wanted)));
        call_help_close(&help);
        buf_free(&line);
        buf_free(&wanted);
    }
}

static void test_parameters_that_json_lacks(void **state)
{
    static const uint8_t packed[] = "\x82\xa4"
                                    "args\x91\xd4\x01\x00\xa6"
                                    "kwargs\x80";
    struct call_help help;
    struct buf line = {0};
    struct err_text why;

    (void)state;
    call_help_open(&help, "id", "{}", 0, 0, 0);
    help.call.packed = bytes_of(packed, sizeof packed - 1);
    buf_append_str(&line, "before");
    assert_int_equal(command_line_task(&help.call, 0, &line, &why), ERR_UNSUPPORTED);
    assert_string_equal(buf_cstr(&line), "before");
    assert_non_null(strstr(why.s, "extension"));
    call_help_close(&help);
    buf_free(&line);
}

static void test_answers(void **state)
{
    static const struct {
        const char *line;
        enum attempt_end end;
        const char *error;
    } rows[] = {
        {"{\"id\":\"a\",\"status\":\"complete\"}", ATTEMPT_COMPLETE, ""},
        {" { \"status\" : \"retry\" , \"id\" : \"a\", \"more\": [1] } \r", ATTEMPT_RETRY, ""},
        {"{\"id\":\"a\",\"status\":\"failure\",\"error\":\"why\\nso\"}", ATTEMPT_FAILURE, "why so"},
        {"{\"id\":\"a\",\"status\":\"failure\",\"error\":null}", ATTEMPT_FAILURE, ""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        enum attempt_end end = ATTEMPT_DEADLINE;
        struct err_text why = {"before"};

        assert_int_equal(command_line_answer(bytes_str(rows[i].line), bytes_str("a"), &end, &why),
                         0);
        assert_int_equal(end, rows[i].end);
        assert_string_equal(why.s, rows[i].error);
    }
}

static void test_wrong_answers(void **state)
{
    static const struct {
        const char *line, *part;
    } rows[] = {
        {"", "no answer"},
        {"Loading the model...", "no answer (stdout is for answers, stderr for everything else): "
                                 "\"Loading the model...\""},
        {"[]", "no answer"},
        {"{}", "no answer"},
        {"{\"id\":\"a\",\"id\":\"a\",\"status\":\"complete\"}", "no answer"},
        {"{\"id\":\"b\",\"status\":\"complete\"}", "another task"},
        {"{\"id\":\"a\\u0000\",\"status\":\"complete\"}", "another task"},
        {"{\"id\":7,\"status\":\"complete\"}", "another task"},
        {"{\"id\":\"a\"}", "complete, retry or failure"},
        {"{\"id\":\"a\",\"status\":\"done\"}", "complete, retry or failure"},
        {"{\"id\":\"a\",\"status\":\"failure\",\"error\":1}", "is a text"},
        {"{\"id\":\"a\",\"status\":\"complete\"} x", "no answer"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        enum attempt_end end;
        struct err_text why;

        assert_int_equal(command_line_answer(bytes_str(rows[i].line), bytes_str("a"), &end, &why),
                         ERR_MALFORMED);
        if (strstr(why.s, rows[i].part) == NULL)
            fail_msg("row %zu: %s", i, why.s);
    }
}

static void test_ready(void **state)
{
    struct err_text why;

    (void)state;
    assert_int_equal(command_line_ready(bytes_str("{\"ready\": true, \"pid\": 1}"), &why), 0);
    assert_int_equal(command_line_ready(bytes_str("{\"ready\": false}"), &why), ERR_MALFORMED);
    assert_int_equal(command_line_ready(bytes_str("hello"), &why), ERR_MALFORMED);
    assert_string_equal(why.s, "its first line should be {\"ready\": true}: \"hello\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_task),
        cmocka_unit_test(test_retries_left),
        cmocka_unit_test(test_parameters_that_json_lacks),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_wrong_answers),
        cmocka_unit_test(test_ready),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
