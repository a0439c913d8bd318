/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"

static void test_names_and_texts(void **state)
{
    (void)state;
    assert_string_equal(err_name(ERR_FULL), "ERR_FULL");
    assert_string_equal(err_string(ERR_FULL), "queue or table is full");
    assert_string_equal(err_name(ERR_SYSTEM), "ERR_SYSTEM");
    assert_string_equal(err_name(0), "ERR_?");
    assert_string_equal(err_string(-999), "unknown error");
}

static void test_codes_are_unique_and_negative(void **state)
{
    static const int codes[] = {
#define X(code, number, text) code,
        ERR_MAP(X)
#undef X
    };
    const size_t count = sizeof(codes) / sizeof(codes[0]);

    (void)state;
    for (size_t i = 0; i < count; i++) {
        assert_true(codes[i] < 0);
        assert_string_not_equal(err_string(codes[i]), "unknown error");
        for (size_t j = 0; j < i; j++)
            assert_int_not_equal(codes[i], codes[j]);
    }
}

static void test_set_formats_and_returns_the_code(void **state)
{
    struct err_text why;

    (void)state;
    assert_int_equal(err_set(&why, ERR_IO, "%s: %s", "/x", strerror(ENOENT)), ERR_IO);
    assert_string_equal(why.s, "/x: No such file or directory");
    assert_int_equal(err_set(NULL, ERR_BUSY, "%d", 1), ERR_BUSY);
}

static void test_line_breaks_become_spaces(void **state)
{
    struct err_text why;

    (void)state;
    err_set(&why, ERR_IO, "one\ntwo\r\nthree%c", '\n');
    assert_string_equal(why.s, "one two  three ");
}

static void test_text_may_be_its_own_argument(void **state)
{
    struct err_text why;

    (void)state;
    err_set(&why, ERR_IO, "disk");
    err_set(&why, ERR_IO, "store: %s, again: %s", why.s, why.s);
    assert_string_equal(why.s, "store: disk, again: disk");
}

static void test_long_text_is_cut(void **state)
{
    char text[600];
    struct err_text why;

    (void)state;
    memset(text, 'x', sizeof(text));
    text[511] = '\0';
    err_set(&why, ERR_IO, "%s", text); /* just fits */
    assert_string_equal(why.s, text);

    text[511] = 'x';
    text[512] = '\0';
    err_set(&why, ERR_IO, "%s", text);
    assert_int_equal(strlen(why.s), 511);
    assert_int_equal(strspn(why.s, "x"), 508);
    assert_string_equal(why.s + 508, "...");
}

static void test_cut_keeps_whole_characters(void **state)
{
    char text[1024] = "a"; /* so that the cut at 508 falls inside a two-byte character */
    struct err_text why;

    (void)state;
    for (size_t i = 1; i + 2 < sizeof(text); i += 2)
        memcpy(text + i, "\xC3\xA4", 2);
    err_set(&why, ERR_IO, "%s", text);
    assert_int_equal(strlen(why.s), 510);
    assert_memory_equal(why.s, text, 507);
    assert_string_equal(why.s + 507, "...");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_and_texts),
        cmocka_unit_test(test_codes_are_unique_and_negative),
        cmocka_unit_test(test_set_formats_and_returns_the_code),
        cmocka_unit_test(test_line_breaks_become_spaces),
        cmocka_unit_test(test_text_may_be_its_own_argument),
        cmocka_unit_test(test_long_text_is_cut),
        cmocka_unit_test(test_cut_keeps_whole_characters),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
