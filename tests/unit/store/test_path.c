/* SPDX-License-Identifier: Apache-2.0 */
#include "fixture.h"

static void assert_parses(const char *text, const char *expected)
{
    char *path = NULL;
    struct err_text why = {""};

    assert_int_equal(path_parse(text, &path, &why), 0);
    assert_string_equal(path, expected);
    mem_free(path);
}

static void assert_refused(const char *text)
{
    char *path = NULL;
    struct err_text why = {""};

    assert_int_equal(path_parse(text, &path, &why), ERR_INVALID);
    assert_null(path);
    assert_non_null(strstr(why.s, "not the path of a database file"));
}

static void originals_spellings_are_read(void **state)
{
    (void)state;
    assert_parses("./taskbroker-inflight.sqlite", "./taskbroker-inflight.sqlite");
    assert_parses("/opt/sqlite/db", "/opt/sqlite/db");
    assert_parses("sqlite:/opt/db", "/opt/db");
    assert_parses("sqlite:///opt/db", "/opt/db");
    assert_parses("sqlite://db?mode=rwc", "db");
    assert_parses("db?cache=shared&mode=rwc", "db");
    assert_parses("a%20b%2Fc%2fd", "a b/c/d");
    assert_parses("100%", "100%");
    assert_parses("a%zzb%4", "a%zzb%4");
    assert_parses("a%00b", "a%00b"); /* no file name may hold a NUL */
}

static void what_is_no_file_is_refused(void **state)
{
    (void)state;
    assert_refused("");
    assert_refused("sqlite:");
    assert_refused("?mode=rwc");
    assert_refused(":memory:");
    assert_refused("sqlite::memory:");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(originals_spellings_are_read),
        cmocka_unit_test(what_is_no_file_is_refused),
    };

    return cmocka_run_group_tests_name("store/path", tests, NULL, NULL);
}
