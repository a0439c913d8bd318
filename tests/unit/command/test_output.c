/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "command/output.h"

static void keep(void *ctx, struct bytes line)
{
    buf_append(ctx, line.ptr, line.len);
    buf_append_byte(ctx, '|');
}

static void feed(struct output *output, const char *text)
{
    output_feed(output, bytes_str(text));
}

static void test_lines(void **state)
{
    struct output output = {0};
    struct buf lines = {0};

    (void)state;
    output_begin(&output, 100, keep, &lines);
    feed(&output, "one\ntw");
    assert_string_equal(buf_cstr(&lines), "one|");
    feed(&output, "o\r\n\n\nthree");
    assert_string_equal(buf_cstr(&lines), "one|two|");
    assert_int_equal(output_end(&output), 0);
    assert_string_equal(buf_cstr(&lines), "one|two|three|");
    buf_free(&lines);
    output_free(&output);
}

static void test_the_limit_is_of_one_task(void **state)
{
    struct output output = {0};
    struct buf lines = {0};

    (void)state;
    output_begin(&output, 5, keep, &lines);
    feed(&output, "abc\ndef\n");
    feed(&output, "ghi\n");
    assert_int_equal(output_end(&output), 7);
    assert_string_equal(buf_cstr(&lines), "abc|d|");
    assert_true(bytes_equal_str(output_last_line(&output), "ghi"));
    output_begin(&output, 5, keep, &lines);
    assert_int_equal(output_last_line(&output).len, 0);
    feed(&output, "xyz");
    assert_int_equal(output_end(&output), 0);
    assert_string_equal(buf_cstr(&lines), "abc|d|xyz|");
    output_begin(&output, 0, keep, &lines);
    feed(&output, "nothing");
    assert_int_equal(output_end(&output), 7);
    assert_string_equal(buf_cstr(&lines), "abc|d|xyz|");
    buf_free(&lines);
    output_free(&output);
}

static void test_long_lines_are_cut(void **state)
{
    struct output output = {0};
    struct buf lines = {0}, text = {0};

    (void)state;
    for (size_t i = 0; i < 2 * OUTPUT_LINE_MAX + 10; i++)
        buf_append_byte(&text, 'x');
    output_begin(&output, SIZE_MAX, keep, &lines);
    output_feed(&output, buf_bytes(&text));
    assert_int_equal(output_end(&output), 0);
    assert_int_equal(lines.len, text.len + 3);
    assert_int_equal(lines.ptr[OUTPUT_LINE_MAX], '|');
    assert_int_equal(output.tail.len, OUTPUT_TAIL_MAX);
    buf_free(&text);
    buf_free(&lines);
    output_free(&output);
}

static void test_last_line(void **state)
{
    static const struct {
        const char *text, *last;
    } rows[] = {{"", ""}, {"\n \n", ""}, {"one", "one"}, {"a\nb\n", "b"}, {"a\n b \r\n\t\n", " b"}};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct output output = {0};
        struct buf lines = {0};

        output_begin(&output, 100, keep, &lines);
        feed(&output, rows[i].text);
        assert_true(bytes_equal_str(output_last_line(&output), rows[i].last));
        buf_free(&lines);
        output_free(&output);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines), cmocka_unit_test(test_the_limit_is_of_one_task),
        cmocka_unit_test(test_long_lines_are_cut), cmocka_unit_test(test_last_line)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
