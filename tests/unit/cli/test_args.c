/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "cli/cli.h"

enum { OPT_FILE = 1, OPT_FORCE };

static const struct cli_option options[] = {
    {OPT_FILE, "file", 'f', true}, {OPT_FORCE, "force", 0, false}, {0}};

/* A command line as it comes: words that may be written to, NULL at the end. */
#define ARGS(...)                                                \
    char *words[] = {(char *)(uintptr_t) "x", __VA_ARGS__ NULL}; \
    struct cli_args args = cli_args_init("x", (int)(sizeof words / sizeof words[0]) - 1, words)
#define W(s) (char *)(uintptr_t)s,

static void test_every_form(void **state)
{
    ARGS(W("a") W("--file") W("b") W("--file=c=d") W("-f") W("e") W("-fg") W("--force") W("-5")
             W("--") W("--force") W("--"));
    static const struct {
        int id;
        const char *value;
    } expected[] = {{CLI_POSITIONAL, "a"},  {OPT_FILE, "b"},
                    {OPT_FILE, "c=d"},      {OPT_FILE, "e"},
                    {OPT_FILE, "g"},        {OPT_FORCE, NULL},
                    {CLI_POSITIONAL, "-5"}, {CLI_POSITIONAL, "--force"},
                    {CLI_POSITIONAL, "--"}};

    (void)state;
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        assert_int_equal(cli_next(&args, options), expected[i].id);
        if (expected[i].value == NULL)
            assert_null(args.value);
        else
            assert_string_equal(args.value, expected[i].value);
    }
    assert_int_equal(cli_next(&args, options), CLI_END);
    assert_int_equal(cli_next(&args, options), CLI_END);
}

static void test_bad(void **state)
{
    (void)state;
    {
        ARGS(W("--nonsense"));
        assert_int_equal(cli_next(&args, options), CLI_BAD);
    }
    {
        ARGS(W("--fil") W("x"));
        assert_int_equal(cli_next(&args, options), CLI_BAD);
    }
    {
        ARGS(W("--file"));
        assert_int_equal(cli_next(&args, options), CLI_BAD);
    }
    {
        ARGS(W("--force=1"));
        assert_int_equal(cli_next(&args, options), CLI_BAD);
    }
    {
        ARGS(W("-x"));
        assert_int_equal(cli_next(&args, options), CLI_BAD);
    }
}

static void test_help(void **state)
{
    ARGS(W("--help") W("-h"));

    (void)state;
    assert_int_equal(cli_next(&args, options), CLI_HELP);
    assert_int_equal(cli_next(&args, options), CLI_HELP);
}

static void test_numbers(void **state)
{
    static const char *const bad[] = {
        "", "x", "1x", "-1", "+1", " 1", "0", "101", "99999999999999999999999"};
    struct cli_args args = cli_args_init("x", 0, NULL);
    uint64_t value = 7;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        args.value = bad[i];
        assert_false(cli_number(&args, "--n", 1, 100, &value));
        assert_int_equal(value, 7);
    }
    args.value = "100";
    assert_true(cli_number(&args, "--n", 1, 100, &value));
    assert_int_equal(value, 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_form),
                                       cmocka_unit_test(test_bad), cmocka_unit_test(test_help),
                                       cmocka_unit_test(test_numbers)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
