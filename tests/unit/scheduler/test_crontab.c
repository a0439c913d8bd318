/* SPDX-License-Identifier: Apache-2.0 */
/* The grammar at large is compared with cronsim in tests/integration/wire. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "scheduler/civil.h"
#include "scheduler/crontab.h"

static int64_t at(int32_t year, int32_t month, int32_t day, int32_t hour, int32_t minute)
{
    return civil_to_days(year, month, day) * CIVIL_DAY_S + hour * 3600 + minute * 60;
}

static struct crontab parsed(const char *text)
{
    struct crontab crontab;
    struct err_text why = {{0}};

    if (crontab_parse(&crontab, bytes_str(text), &why))
        fail_msg("%s", why.s);
    return crontab;
}

static void assert_next(const char *text, int64_t from_s, int64_t expected)
{
    struct crontab crontab = parsed(text);

    assert_int_equal(crontab_next(&crontab, NULL, from_s), expected);
    assert_int_equal(crontab_next(&crontab, NULL, expected), expected);
}

static void refused(const char *text, const char *reason)
{
    struct crontab crontab;
    struct err_text why = {{0}};

    assert_int_not_equal(crontab_parse(&crontab, bytes_str(text), &why), 0);
    if (strcmp(why.s, reason) != 0)
        fail_msg("%s", why.s);
}

static void test_civil_days(void **state)
{
    (void)state;
    assert_int_equal(civil_to_days(1970, 1, 1), 0);
    assert_int_equal(civil_to_days(1, 1, 1) * CIVIL_DAY_S, CIVIL_MIN_S);
    assert_int_equal(civil_to_days(10000, 1, 1) * CIVIL_DAY_S - 1, CIVIL_MAX_S);
    assert_int_equal(civil_weekday(0), 4);
    assert_int_equal(civil_weekday(-5), 6);
    for (int64_t day = -719162; day < 2932896; day += 13) {
        struct civil date = civil_of_days(day);

        assert_true(date.day <= civil_month_days(date.year, date.month));
        assert_int_equal(civil_to_days(date.year, date.month, date.day), day);
    }
}

static void test_next_match(void **state)
{
    (void)state;
    assert_next("* * * * *", at(2026, 1, 1, 0, 0), at(2026, 1, 1, 0, 0));
    assert_next("* * * * *", at(2026, 1, 1, 0, 0) + 1, at(2026, 1, 1, 0, 1));
    assert_next("*/5 * * * *", at(2026, 12, 31, 23, 56), at(2027, 1, 1, 0, 0));
    assert_next("0 3 * * *", at(2026, 1, 1, 3, 1), at(2026, 1, 2, 3, 0));
    assert_next("0 0 29 2 *", at(2096, 3, 1, 0, 0), at(2104, 2, 29, 0, 0));
    assert_next("0 0 L * *", at(2026, 2, 1, 0, 0), at(2026, 2, 28, 0, 0));
    assert_next("0 0 LW * *", at(2026, 2, 1, 0, 0), at(2026, 2, 27, 0, 0));
    assert_next("0 0 * * 5L", at(2026, 11, 1, 0, 0), at(2026, 11, 27, 0, 0));
    assert_next("0 0 * * mon#2", at(2026, 11, 1, 0, 0), at(2026, 11, 9, 0, 0));
    assert_next("0 0 13 * 5", at(2026, 11, 7, 0, 0), at(2026, 11, 13, 0, 0));
    assert_next("0 0 */2 * 5", at(2026, 11, 7, 0, 0), at(2026, 11, 13, 0, 0));
    assert_next("0 0 20 * 5", at(2026, 11, 7, 0, 0), at(2026, 11, 13, 0, 0));
    assert_next("0 0 * * */2", at(2026, 11, 9, 0, 0), at(2026, 11, 10, 0, 0));
}

static void test_rarest_day_is_within_the_search(void **state)
{
    (void)state;
    assert_next("0 0 */28 2 1#5", at(2072, 3, 1, 0, 0), at(2112, 2, 29, 0, 0));
}

static void test_client_weakness_35_errors_say_what_is_allowed(void **state)
{
    (void)state;
    refused("61 * * * *", "crontab \"61 * * * *\": minute \"61\": \"61\" is not one of 0-59");
    refused("0 0 * * FRIL",
            "crontab \"0 0 * * FRIL\": day of week \"FRIL\": a last weekday is written as a number "
            "and L, 5L for the last Friday");
    refused(
        "0 0 * * sat-sun",
        "crontab \"0 0 * * sat-sun\": day of week \"sat-sun\": the range SAT-SUN ends before it "
        "starts");
    refused("0 0 1,,2 * *",
            "crontab \"0 0 1,,2 * *\": day of month \"1,,2\": an item of the list is empty");
    refused("*/0 * * * *",
            "crontab \"*/0 * * * *\": minute \"*/0\": the step after the / must be a "
            "whole number from 1 on");
    refused(
        "0 0 * * 1#6",
        "crontab \"0 0 * * 1#6\": day of week \"1#6\": after the # stands a number from 1 to 5");
    refused("* * * *", "crontab \"* * * *\": 4 words; there must be five: minute, hour, day of "
                       "month, month, day of week");
    refused("0, 30 * * * *",
            "crontab \"0, 30 * * * *\": 6 words; there must be five: minute, hour, day of month, "
            "month, day of week (no seconds, and no blank inside a word)");
    refused("* * * * \xc3\xbc", "crontab: a character that is not plain ASCII");
}

static void test_what_never_matches_is_refused(void **state)
{
    static const char *const never[] = {"0 0 30 2 *", "0 0 31 4,6 *", "* * */20 * 1L",
                                        "0 0 30,31 2 *"};

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct crontab crontab;
        struct err_text why = {{0}};

        assert_int_equal(crontab_parse(&crontab, bytes_str(never[i]), &why), ERR_INVALID);
        assert_non_null(strstr(why.s, "never matches"));
    }
}

static void test_limits(void **state)
{
    struct crontab crontab;
    char text[CRONTAB_TEXT_MAX + 2];

    (void)state;
    memset(text, ' ', sizeof(text));
    memcpy(text, "* * * * *", 9);
    assert_int_equal(crontab_parse(&crontab, bytes_of(text, CRONTAB_TEXT_MAX), NULL), 0);
    assert_int_equal(crontab_parse(&crontab, bytes_of(text, CRONTAB_TEXT_MAX + 1), NULL),
                     ERR_TOO_LARGE);
    crontab = parsed("* * * * *");
    assert_true(crontab_next(&crontab, NULL, INT64_MIN) == CRONTAB_NEVER);
    assert_true(crontab_next(&crontab, NULL, INT64_MAX) == CRONTAB_NEVER);
}

static void test_text_and_words(void **state)
{
    struct crontab crontab = parsed(" */5\t0  1 jan MON ");
    struct crontab_words words = {.minute = bytes_str("0"), .day_of_week = bytes_str("1")};
    struct err_text why = {{0}};

    (void)state;
    assert_string_equal(crontab.text, "*/5 0 1 jan MON");
    assert_int_equal(crontab_of_words(&crontab, &words, &why), 0);
    assert_string_equal(crontab.text, "0 * * * 1");
    words.hour = bytes_str("1 2");
    assert_int_equal(crontab_of_words(&crontab, &words, &why), ERR_INVALID);
    assert_string_equal(why.s, "crontab: hour \"1 2\": no blanks inside a word");
    words.hour = bytes_str("");
    assert_int_equal(crontab_of_words(&crontab, &words, &why), ERR_INVALID);
}

static void test_last_match(void **state)
{
    struct crontab daily = parsed("0 3 * * *"), rare = parsed("0 0 29 2 *");

    (void)state;
    assert_int_equal(crontab_last(&daily, NULL, at(2026, 1, 1, 0, 0), at(2026, 3, 1, 2, 0)),
                     at(2026, 2, 28, 3, 0));
    assert_int_equal(crontab_last(&daily, NULL, at(2026, 1, 1, 3, 0), at(2026, 1, 1, 3, 0)),
                     at(2026, 1, 1, 3, 0));
    assert_true(crontab_last(&daily, NULL, at(2026, 1, 1, 3, 1), at(2026, 1, 2, 2, 59)) ==
                CRONTAB_NEVER);
    assert_true(crontab_last(&daily, NULL, 2, 1) == CRONTAB_NEVER);
    assert_int_equal(crontab_last(&rare, NULL, at(2000, 1, 1, 0, 0), at(2027, 1, 1, 0, 0)),
                     at(2024, 2, 29, 0, 0));
}

/* --- clock changes: in Berlin 2026-03-29 02:00 -> 03:00 and 2026-10-25 03:00 -> 02:00 --------- */

static int berlin_setup(void **state)
{
    struct zone *zone = NULL;
    struct err_text why = {{0}};

    if (zone_read(&zone, NULL, bytes_str("Europe/Berlin"), &why))
        fail_msg("%s", why.s);
    *state = zone;
    return 0;
}

static int berlin_teardown(void **state)
{
    zone_free(*state);
    return 0;
}

/* The matches of a night: the first in minutes from `from_s`, each other in minutes from the minute
 * after the match before; ends with -1. */
static void assert_night(const struct zone *zone, const char *text, int64_t from_s,
                         const int *minutes)
{
    struct crontab crontab = parsed(text);

    for (; *minutes >= 0; minutes++) {
        int64_t found = crontab_next(&crontab, zone, from_s);

        assert_int_equal((found - from_s) / 60, *minutes);
        from_s = found + 60;
    }
}

static void test_fixed_time_that_does_not_exist(void **state)
{
    const struct zone *zone = *state;
    int64_t from_s = at(2026, 3, 29, 0, 0); /* 01:00 on the wall; the jump is an hour later */

    assert_night(zone, "30 2 * * *", from_s, (const int[]){60, 23 * 60 + 29, -1});
    assert_night(zone, "15,45 2,3 * * *", from_s, (const int[]){60, 14, 29, -1});
    assert_night(zone, "0 3 * * *", from_s, (const int[]){60, 24 * 60 - 1, -1});
    assert_night(zone, "0 2,3 * * *", from_s, (const int[]){60, 23 * 60 - 1, -1});
    /* asked in the very moment of the jump */
    assert_night(zone, "30 2 * * *", from_s + 3600, (const int[]){0, 23 * 60 + 29, -1});
}

static void test_fixed_time_that_exists_twice(void **state)
{
    const struct zone *zone = *state;
    int64_t from_s = at(2026, 10, 24, 23, 0); /* 01:00; from 03:00 back two hours later */

    assert_night(zone, "30 2 * * *", from_s, (const int[]){90, 25 * 60 - 1, -1});
    assert_night(zone, "0,30 2 * * *", from_s, (const int[]){60, 29, 24 * 60 + 29, -1});
    assert_night(zone, "0 3 * * *", from_s, (const int[]){180, 24 * 60 - 1, -1});
    /* asked during the second pass */
    assert_night(zone, "30 2 * * *", from_s + 125 * 60, (const int[]){24 * 60 + 25, -1});
}

static void test_by_the_clock(void **state)
{
    const struct zone *zone = *state;
    int64_t spring_s = at(2026, 3, 29, 0, 0), autumn_s = at(2026, 10, 24, 23, 0);

    assert_night(zone, "*/30 2 * * *", spring_s, (const int[]){24 * 60, 29, -1});
    assert_night(zone, "0 * * * *", spring_s, (const int[]){0, 59, 59, -1});
    assert_night(zone, "0 */2 * * *", spring_s, (const int[]){120, -1});
    assert_night(zone, "*/30 2 * * *", autumn_s, (const int[]){60, 29, 29, 29, 23 * 60 + 29, -1});
    assert_night(zone, "0 * * * *", autumn_s, (const int[]){0, 59, 59, 59, -1});
}

static void test_a_zone_may_swallow_an_expression(void **state)
{
    struct crontab crontab = parsed("* 2 * 3 0L");

    assert_true(crontab_next(&crontab, *state, at(2026, 1, 1, 0, 0)) == CRONTAB_NEVER);
    assert_true(crontab_next(&crontab, NULL, at(2026, 1, 1, 0, 0)) != CRONTAB_NEVER);
}

static void test_last_match_in_a_zone(void **state)
{
    struct crontab daily = parsed("30 2 * * *");

    assert_int_equal(crontab_last(&daily, *state, at(2026, 3, 1, 0, 0), at(2026, 3, 29, 12, 0)),
                     at(2026, 3, 29, 1, 0));
    assert_int_equal(crontab_last(&daily, *state, at(2026, 3, 1, 0, 0), at(2026, 10, 25, 12, 0)),
                     at(2026, 10, 25, 0, 30));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_civil_days),
        cmocka_unit_test(test_next_match),
        cmocka_unit_test(test_rarest_day_is_within_the_search),
        cmocka_unit_test(test_client_weakness_35_errors_say_what_is_allowed),
        cmocka_unit_test(test_what_never_matches_is_refused),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_text_and_words),
        cmocka_unit_test(test_last_match),
        cmocka_unit_test_setup_teardown(test_fixed_time_that_does_not_exist, berlin_setup,
                                        berlin_teardown),
        cmocka_unit_test_setup_teardown(test_fixed_time_that_exists_twice, berlin_setup,
                                        berlin_teardown),
        cmocka_unit_test_setup_teardown(test_by_the_clock, berlin_setup, berlin_teardown),
        cmocka_unit_test_setup_teardown(test_a_zone_may_swallow_an_expression, berlin_setup,
                                        berlin_teardown),
        cmocka_unit_test_setup_teardown(test_last_match_in_a_zone, berlin_setup, berlin_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
