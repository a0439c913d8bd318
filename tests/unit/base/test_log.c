/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"

/* Stderr goes to a file between capture_begin and capture_end, so that records can be read back and
 * cmocka's own reports are not lost. No assertions in between. */
static int real_stderr;
static FILE *captured;
static char text[1 << 20];

static void capture_begin(void)
{
    fflush(stderr);
    real_stderr = dup(STDERR_FILENO);
    captured = tmpfile();
    dup2(fileno(captured), STDERR_FILENO);
}

static const char *capture_end(void)
{
    dup2(real_stderr, STDERR_FILENO);
    close(real_stderr);
    rewind(captured);
    size_t len = fread(text, 1, sizeof(text) - 1, captured);
    text[len] = '\0';
    fclose(captured);
    return text;
}

/* What follows "2026-01-01T00:00:00.000000Z ", whose shape is checked. */
static const char *after_timestamp(const char *record)
{
    static const char shape[] = "dddd-dd-ddTdd:dd:dd.ddddddZ ";

    for (size_t i = 0; shape[i]; i++) {
        if (shape[i] == 'd')
            assert_in_range(record[i], '0', '9');
        else
            assert_int_equal(record[i], shape[i]);
    }
    return record + sizeof(shape) - 1;
}

static void init(enum log_format format, const char *filter)
{
    assert_int_equal(log_init(format, filter, NULL), 0);
}

static void test_text_format(void **state)
{
    (void)state;
    init(LOG_TEXT, "trace");
    capture_begin();
    log_info("taskmill::kafka",
             LOG_FIELDS(log_int("partition", -3), log_str("topic", "tasks"),
                        log_str("reason", "two words"), log_double("ratio", 0.1),
                        log_bool("ok", true), log_str("none", "")),
             "assigned %s", "now");
    const char *record = capture_end();
    assert_string_equal(after_timestamp(record),
                        " INFO taskmill::kafka: assigned now partition=-3 topic=tasks "
                        "reason=\"two words\" ratio=0.1 ok=true none=\"\"\n");
}

static void test_levels_are_padded(void **state)
{
    (void)state;
    init(LOG_TEXT, "trace");
    capture_begin();
    log_error("t", NULL, "e");
    log_warn("t", NULL, "w");
    log_debug("t", NULL, "d");
    log_at(LOG_TRACE, "t", NULL, "t");
    const char *record = capture_end();
    static const char *const wanted[] = {"ERROR t: e\n", " WARN t: w\n", "DEBUG t: d\n",
                                         "TRACE t: t\n"};
    for (size_t i = 0; i < 4; i++) {
        record = after_timestamp(record);
        assert_memory_equal(record, wanted[i], strlen(wanted[i]));
        record += strlen(wanted[i]);
    }
    assert_string_equal(record, "");
}

static void test_text_escapes(void **state)
{
    (void)state;
    init(LOG_TEXT, "info");
    capture_begin();
    log_info("t",
             LOG_FIELDS(log_str("quote", "a\"b\\c"), log_str("esc", "\x1b[31mred"),
                        log_str("list", "a,b"), log_bytes("bad", bytes_of("x\xFFy\0z", 5))),
             "line one\nERROR fake: line\ttwo\r \xC2\x9B \"quoted\" ä");
    const char *record = capture_end();
    assert_string_equal(after_timestamp(record),
                        " INFO t: line one\\nERROR fake: line\\ttwo\\r \\u009b \"quoted\" ä "
                        "quote=\"a\\\"b\\\\c\" esc=\"\\u001b[31mred\" list=\"a,b\" "
                        "bad=\"x\xEF\xBF\xBDy\\u0000z\"\n");
}

static json_t *parse_json(const char *record)
{
    json_error_t error;
    json_t *json = json_loads(record, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);

    if (!json)
        fail_msg("not JSON: %s: %s", error.text, record);
    return json;
}

static void test_json_format(void **state)
{
    (void)state;
    init(LOG_JSON, "info");
    capture_begin();
    log_warn("taskmill::store",
             LOG_FIELDS(log_int("big", INT64_MIN), log_str("path", "/a \"b\"\\c\x01\x7f"),
                        log_double("nan", NAN), log_double("third", 1.0 / 3), log_bool("no", false),
                        log_bytes("bad", bytes_of("\xED\xA0\x80", 3))),
             "two\nlines");
    const char *record = capture_end();
    assert_ptr_equal(strchr(record, '\n'), record + strlen(record) - 1);

    json_t *json = parse_json(record);
    assert_string_equal(json_string_value(json_object_get(json, "level")), "WARN");
    assert_string_equal(json_string_value(json_object_get(json, "target")), "taskmill::store");
    assert_string_equal(json_string_value(json_object_get(json, "message")), "two\nlines");
    assert_int_equal(json_integer_value(json_object_get(json, "big")), INT64_MIN);
    assert_string_equal(json_string_value(json_object_get(json, "path")), "/a \"b\"\\c\x01\x7f");
    assert_true(json_is_null(json_object_get(json, "nan")));
    assert_true(json_real_value(json_object_get(json, "third")) == 1.0 / 3);
    assert_true(json_is_false(json_object_get(json, "no")));
    assert_string_equal(json_string_value(json_object_get(json, "bad")),
                        "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
    const char *timestamp = json_string_value(json_object_get(json, "timestamp"));
    assert_int_equal(strlen(timestamp), 27);
    json_decref(json);
}

/* A sample of all sequences of one to four bytes from around the edges of UTF-8. */
static void test_any_bytes_make_valid_json(void **state)
{
    static const uint8_t edges[] = {0x00, 0x1F, '"',  '\\', 0x7F, 0x80, 0x9F, 0xA0, 0xBF, 0xC0,
                                    0xC1, 0xC2, 0xE0, 0xED, 0xEF, 0xF0, 0xF4, 0xF5, 0xFF};
    const size_t n = sizeof(edges);

    (void)state;
    init(LOG_JSON, "info");
    for (size_t i = 0; i < n * n * n * n; i += 97) {
        uint8_t s[4] = {edges[i % n], edges[i / n % n], edges[i / n / n % n], edges[i / n / n / n]};
        capture_begin();
        log_info("t", LOG_FIELDS(log_bytes("s", bytes_of(s, 1 + i % 4))), "m");
        json_decref(parse_json(capture_end()));
    }
}

static void test_long_strings_are_cut(void **state)
{
    char *big = mem_alloc(100001);

    (void)state;
    memset(big, 'x', 100000);
    big[100000] = '\0';
    init(LOG_TEXT, "info");
    capture_begin();
    log_info("t", LOG_FIELDS(log_str("k", big)), "%s", big);
    const char *record = capture_end();
    assert_true(strlen(record) < 17000);
    const char *message = strstr(record, "t: ") + 3;
    assert_int_equal(strspn(message, "x"), 8192);
    assert_memory_equal(message + 8192, "... k=xxx", 9);
    assert_string_equal(record + strlen(record) - 5, "x...\n");
    mem_free(big);
}

static void test_filter_levels(void **state)
{
    (void)state;
    init(LOG_TEXT, "warn");
    assert_true(log_enabled(LOG_ERROR, "t"));
    assert_true(log_enabled(LOG_WARN, "t"));
    assert_false(log_enabled(LOG_INFO, "t"));
    assert_false(log_enabled(LOG_OFF, "t"));
    init(LOG_TEXT, "OFF");
    assert_false(log_enabled(LOG_ERROR, "t"));
    init(LOG_TEXT, NULL);
    assert_true(log_enabled(LOG_INFO, "t"));
    assert_false(log_enabled(LOG_DEBUG, "t"));
    init(LOG_TEXT, "");
    assert_true(log_enabled(LOG_INFO, "t"));
}

static void test_modules_of_the_original(void **state)
{
    struct err_text why;

    (void)state;
    assert_int_equal(log_init(LOG_TEXT,
                              "warn,taskbroker::upkeep=debug,taskbroker::kafka::consumer=error,"
                              "taskbroker::grpcx=debug",
                              &why),
                     0);
    assert_true(log_enabled(LOG_DEBUG, "taskmill::engine"));
    assert_true(log_enabled(LOG_ERROR, "taskmill::kafka"));
    assert_false(log_enabled(LOG_WARN, "taskmill::kafka"));
    assert_false(log_enabled(LOG_INFO, "taskmill::rpc"));
    assert_int_equal(log_init(LOG_TEXT, "error,taskbroker=info", &why), 0);
    assert_true(log_enabled(LOG_INFO, "taskmill::broker"));
    assert_false(log_enabled(LOG_WARN, "librdkafka"));
}

static void test_filter_targets(void **state)
{
    (void)state;
    init(LOG_TEXT, " info , librdkafka=warn,taskmill::kafka = trace,taskmill::kafka::x=off,,");
    assert_true(log_enabled(LOG_INFO, "taskmill::store"));
    assert_false(log_enabled(LOG_DEBUG, "taskmill::store"));
    assert_false(log_enabled(LOG_INFO, "librdkafka"));
    assert_true(log_enabled(LOG_WARN, "librdkafka"));
    assert_true(log_enabled(LOG_TRACE, "taskmill::kafka"));
    assert_true(log_enabled(LOG_TRACE, "taskmill::kafka::consumer"));
    assert_false(log_enabled(LOG_ERROR, "taskmill::kafka::x"));

    init(LOG_TEXT, "taskmill=debug"); /* nothing else was asked for */
    assert_true(log_enabled(LOG_DEBUG, "taskmill::store"));
    assert_false(log_enabled(LOG_ERROR, "librdkafka"));

    init(LOG_TEXT, "h2=error,debug,h2=info,warn"); /* the later one counts */
    assert_true(log_enabled(LOG_INFO, "h2"));
    assert_false(log_enabled(LOG_INFO, "other"));
}

static void test_bad_directives_are_skipped(void **state)
{
    struct err_text why;

    (void)state;
    assert_int_equal(log_init(LOG_TEXT, "debug,inof,=info,a b=warn,x=loud,y=warn", &why),
                     ERR_INVALID);
    assert_non_null(strstr(why.s, "\"inof\""));
    assert_true(log_enabled(LOG_DEBUG, "x"));
    assert_false(log_enabled(LOG_INFO, "y"));

    assert_int_equal(log_init(LOG_TEXT, "nonsense", &why), ERR_INVALID);
    assert_true(log_enabled(LOG_INFO, "t"));
    assert_false(log_enabled(LOG_DEBUG, "t"));
}

static void test_directives_are_limited(void **state)
{
    struct err_text why;
    char filter[1000] = "info";

    (void)state;
    for (int i = 0; i < 40; i++)
        snprintf(filter + strlen(filter), sizeof(filter) - strlen(filter), ",t%02d=debug", i);
    assert_int_equal(log_init(LOG_TEXT, filter, &why), ERR_INVALID);
    assert_non_null(strstr(why.s, "\"t31=debug\" is skipped: too many"));
    assert_true(log_enabled(LOG_DEBUG, "t30"));
    assert_false(log_enabled(LOG_DEBUG, "t32"));
}

static int evaluated;

static const char *count_evaluation(void)
{
    evaluated++;
    return "x";
}

static void test_arguments_of_unwanted_records_are_not_evaluated(void **state)
{
    (void)state;
    init(LOG_TEXT, "info");
    evaluated = 0;
    capture_begin();
    log_debug("t", NULL, "%s", count_evaluation());
    log_info("t", NULL, "%s", count_evaluation());
    capture_end();
    assert_int_equal(evaluated, 1);
}

static void test_errno_survives(void **state)
{
    (void)state;
    init(LOG_TEXT, "info");
    capture_begin();
    int null_fd = open("/dev/full", O_WRONLY);
    dup2(null_fd, STDERR_FILENO);
    close(null_fd);
    errno = EXDEV;
    log_info("t", NULL, "lost, because the device is full");
    int after = errno;
    capture_end();
    assert_int_equal(after, EXDEV);
}

/* Runs log_init with stderr on a terminal and returns what one record looks like there. */
static const char *record_on_terminal(enum log_format format)
{
    int master, slave;

    assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
    fflush(stderr);
    int saved = dup(STDERR_FILENO);
    dup2(slave, STDERR_FILENO);
    int rv = log_init(format, "info", NULL);
    log_info("t", LOG_FIELDS(log_int("k", 1)), "m");
    dup2(saved, STDERR_FILENO);
    close(saved);
    ssize_t len = read(master, text, sizeof(text) - 1);
    close(master);
    close(slave);
    assert_int_equal(rv, 0);
    assert_true(len > 0);
    text[len] = '\0';
    return text;
}

static void test_colours(void **state)
{
    (void)state;
    setenv("TERM", "xterm", 1);
    unsetenv("NO_COLOR");
    assert_non_null(strstr(record_on_terminal(LOG_TEXT), "\x1b[32m INFO\x1b[0m "));
    assert_null(strchr(record_on_terminal(LOG_JSON), '\x1b'));
    setenv("NO_COLOR", "1", 1);
    assert_null(strchr(record_on_terminal(LOG_TEXT), '\x1b'));
    setenv("NO_COLOR", "", 1); /* empty means unset: no-color.org */
    assert_non_null(strchr(record_on_terminal(LOG_TEXT), '\x1b'));
    setenv("TERM", "dumb", 1);
    assert_null(strchr(record_on_terminal(LOG_TEXT), '\x1b'));
    unsetenv("NO_COLOR");

    capture_begin(); /* a file is no terminal */
    setenv("TERM", "xterm", 1);
    log_init(LOG_TEXT, "info", NULL);
    log_info("t", NULL, "m");
    assert_null(strchr(capture_end(), '\x1b'));
}

#define WRITERS 4
#define RECORDS 500

static void *write_records(void *arg)
{
    const int *number = arg;

    for (int i = 0; i < RECORDS; i++)
        log_info("t", LOG_FIELDS(log_int("thread", *number), log_int("i", i)), "m");
    return NULL;
}

static void test_records_of_threads_do_not_mix(void **state)
{
    pthread_t threads[WRITERS];
    int numbers[WRITERS], next[WRITERS] = {0}, records = 0, errors = 0;

    (void)state;
    init(LOG_JSON, "info");
    capture_begin();
    for (int i = 0; i < WRITERS; i++) {
        numbers[i] = i;
        errors += pthread_create(&threads[i], NULL, write_records, &numbers[i]) != 0;
    }
    for (int i = 0; i < WRITERS; i++)
        errors += pthread_join(threads[i], NULL) != 0;
    char *rest = (char *)(uintptr_t)capture_end(), *line;
    assert_int_equal(errors, 0);
    while ((line = strsep(&rest, "\n")) && *line) {
        json_t *json = parse_json(line);
        json_int_t thread = json_integer_value(json_object_get(json, "thread"));
        assert_in_range(thread, 0, WRITERS - 1);
        assert_int_equal(json_integer_value(json_object_get(json, "i")), next[thread]++);
        json_decref(json);
        records++;
    }
    assert_int_equal(records, WRITERS * RECORDS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_modules_of_the_original),
        cmocka_unit_test(test_text_format),
        cmocka_unit_test(test_levels_are_padded),
        cmocka_unit_test(test_text_escapes),
        cmocka_unit_test(test_json_format),
        cmocka_unit_test(test_any_bytes_make_valid_json),
        cmocka_unit_test(test_long_strings_are_cut),
        cmocka_unit_test(test_filter_levels),
        cmocka_unit_test(test_filter_targets),
        cmocka_unit_test(test_bad_directives_are_skipped),
        cmocka_unit_test(test_directives_are_limited),
        cmocka_unit_test(test_arguments_of_unwanted_records_are_not_evaluated),
        cmocka_unit_test(test_errno_survives),
        cmocka_unit_test(test_colours),
        cmocka_unit_test(test_records_of_threads_do_not_mix),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
