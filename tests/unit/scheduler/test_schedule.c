/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "scheduler/schedule.h"

#define NOON 1767268800 /* 2026-01-01 12:00 UTC */
#define HOUR 3600

static struct schedule interval(int64_t interval_s, enum schedule_missed missed, uint32_t limit)
{
    return (struct schedule){.kind = SCHEDULE_INTERVAL,
                             .interval_s = interval_s,
                             .missed = missed,
                             .missed_limit = limit};
}

static struct schedule crontab(const char *text, enum schedule_missed missed, uint32_t limit)
{
    struct schedule schedule = {.kind = SCHEDULE_CRONTAB, .missed = missed, .missed_limit = limit};
    struct err_text why = {{0}};

    if (crontab_parse(&schedule.crontab, bytes_str(text), &why))
        fail_msg("%s", why.s);
    return schedule;
}

static void assert_due(const struct schedule *schedule, int64_t last_run_s, int64_t now_s,
                       int64_t first_s, int64_t last_s, int64_t next_s, bool dropped)
{
    struct schedule_due due = schedule_due(schedule, last_run_s, now_s);

    assert_true(due.due);
    assert_int_equal(due.first_s, first_s);
    assert_int_equal(due.last_s, last_s);
    assert_int_equal(due.next_s, next_s);
    assert_int_equal(due.dropped, dropped);
    assert_true(due.next_s > now_s);
}

static void assert_waits(const struct schedule *schedule, int64_t last_run_s, int64_t now_s,
                         int64_t next_s)
{
    struct schedule_due due = schedule_due(schedule, last_run_s, now_s);

    assert_false(due.due);
    assert_int_equal(due.next_s, next_s);
}

static void test_interval_keeps_its_phase(void **state)
{
    struct schedule every_5m = interval(300, SCHEDULE_MISSED_ONE, 100);
    int64_t last_s = NOON, now_s = NOON;

    (void)state;
    assert_due(&every_5m, SCHEDULE_NEVER_RAN, NOON, NOON, NOON, NOON + 300, false);
    assert_waits(&every_5m, NOON, NOON + 299, NOON + 300);
    for (int run = 1; run <= 1000; run++) { /* each one sent 7 s late */
        struct schedule_due due = schedule_due(&every_5m, last_s, now_s + 307);

        now_s = due.next_s - 300;
        assert_int_equal(due.last_s, NOON + run * 300);
        last_s = due.last_s;
    }
}

static void test_interval_missed(void **state)
{
    struct schedule one = interval(300, SCHEDULE_MISSED_ONE, 100);
    struct schedule skip = interval(300, SCHEDULE_MISSED_SKIP, 100);
    struct schedule all = interval(300, SCHEDULE_MISSED_ALL, 3);
    int64_t now_s = NOON + 1000; /* due at 300, 600, 900 */

    (void)state;
    assert_due(&one, NOON, now_s, NOON + 900, NOON + 900, NOON + 1200, true);
    assert_due(&all, NOON, now_s, NOON + 300, NOON + 900, NOON + 1200, false);
    assert_due(&all, NOON - 300, now_s, NOON + 300, NOON + 900, NOON + 1200, true);
    assert_true(schedule_due(&skip, NOON, now_s).dropped);
    assert_waits(&skip, NOON, now_s, NOON + 1200);
    assert_int_equal(schedule_due(&skip, NOON, now_s).last_s, NOON + 900);
    assert_due(&skip, NOON, NOON + 960, NOON + 900, NOON + 900, NOON + 1200, true);
    assert_due(&skip, NOON, NOON + 360, NOON + 300, NOON + 300, NOON + 600, false);
}

static void test_crontab_due(void **state)
{
    struct schedule hourly = crontab("0 * * * *", SCHEDULE_MISSED_ONE, 100);

    (void)state;
    assert_due(&hourly, SCHEDULE_NEVER_RAN, NOON + 59, NOON, NOON, NOON + HOUR, false);
    assert_waits(&hourly, SCHEDULE_NEVER_RAN, NOON + 60, NOON + HOUR);
    assert_waits(&hourly, NOON, NOON + 59, NOON + HOUR);
    assert_waits(&hourly, NOON, NOON + HOUR - 1, NOON + HOUR);
    assert_due(&hourly, NOON, NOON + HOUR, NOON + HOUR, NOON + HOUR, NOON + 2 * HOUR, false);
    /* stored by an original, which sent at second 27 */
    assert_waits(&hourly, NOON + 27, NOON + 30, NOON + HOUR);
}

static void test_client_weakness_33_crontab_missed(void **state)
{
    struct schedule one = crontab("0 * * * *", SCHEDULE_MISSED_ONE, 100);
    struct schedule skip = crontab("0 * * * *", SCHEDULE_MISSED_SKIP, 100);
    struct schedule all = crontab("0 * * * *", SCHEDULE_MISSED_ALL, 3);
    int64_t late_s = NOON + 3 * HOUR + 61;

    (void)state;
    assert_due(&one, NOON, late_s, NOON + 3 * HOUR, NOON + 3 * HOUR, NOON + 4 * HOUR, true);
    assert_due(&one, NOON, NOON + HOUR + 90, NOON + HOUR, NOON + HOUR, NOON + 2 * HOUR, false);
    assert_waits(&skip, NOON, late_s, NOON + 4 * HOUR);
    assert_due(&skip, NOON, late_s - 1, NOON + 3 * HOUR, NOON + 3 * HOUR, NOON + 4 * HOUR, true);
    assert_due(&all, NOON, late_s, NOON + HOUR, NOON + 3 * HOUR, NOON + 4 * HOUR, false);
    assert_due(&all, NOON - HOUR, late_s, NOON + HOUR, NOON + 3 * HOUR, NOON + 4 * HOUR, true);
    all.missed_limit = 1;
    assert_due(&all, NOON, late_s, NOON + 3 * HOUR, NOON + 3 * HOUR, NOON + 4 * HOUR, true);
}

static void test_a_year_of_minutes_is_cut_to_the_limit(void **state)
{
    struct schedule all = crontab("* * * * *", SCHEDULE_MISSED_ALL, SCHEDULE_MISSED_LIMIT_MAX);
    struct schedule_due due = schedule_due(&all, NOON - 366 * 24 * HOUR, NOON);
    size_t count = 0;

    (void)state;
    for (int64_t due_s = due.first_s; due_s <= due.last_s; due_s = schedule_after(&all, due_s))
        count++;
    assert_int_equal(count, SCHEDULE_MISSED_LIMIT_MAX);
    assert_true(due.dropped && due.last_s == NOON);
}

static void test_last_run_in_the_future(void **state)
{
    struct schedule every_5m = interval(300, SCHEDULE_MISSED_ONE, 100);
    struct schedule hourly = crontab("0 * * * *", SCHEDULE_MISSED_ONE, 100);
    int64_t wrong_s = NOON + SCHEDULE_FUTURE_MAX_S + 1;

    (void)state;
    assert_waits(&every_5m, NOON + 1000, NOON, NOON + 1300);
    assert_waits(&hourly, NOON + 2 * HOUR, NOON, NOON + 3 * HOUR);
    assert_false(schedule_due(&every_5m, wrong_s - 1, NOON).from_future);
    assert_true(schedule_due(&every_5m, wrong_s, NOON).from_future);
    assert_due(&every_5m, wrong_s, NOON, NOON, NOON, NOON + 300, false);
    assert_waits(&hourly, wrong_s + 60, NOON + 60, NOON + HOUR);
}

/* In Berlin clocks jump from 02:00 to 03:00 on 2026-03-29 at 01:00 UTC. */
static void test_a_jump_of_the_clocks_is_no_missed_run(void **state)
{
    struct schedule daily = crontab("30 2 * * *", SCHEDULE_MISSED_ALL, 100);
    struct zone *berlin = NULL;
    int64_t jump_s = 1774746000;

    (void)state;
    assert_int_equal(zone_read(&berlin, NULL, bytes_str("Europe/Berlin"), NULL), 0);
    daily.zone = berlin;
    assert_waits(&daily, jump_s - 24 * HOUR + 1800, jump_s - 1, jump_s);
    assert_due(&daily, jump_s - 24 * HOUR + 1800, jump_s, jump_s, jump_s, jump_s + 23 * HOUR + 1800,
               false);
    assert_waits(&daily, jump_s, jump_s + 3 * HOUR, jump_s + 23 * HOUR + 1800);
    zone_free(berlin);
}

static void test_client_weakness_34_ttl_ends_with_the_next_due_time(void **state)
{
    (void)state;
    assert_int_equal(schedule_ttl_ms(NOON + 300, NOON * 1000LL + 4), 299996);
    assert_int_equal(schedule_ttl_ms(NOON, NOON * 1000LL + 4), 1);
    assert_true(schedule_ttl_ms(CRONTAB_NEVER, NOON * 1000LL) == SCHEDULE_INTERVAL_MAX_S * 1000);
}

static void assert_text(struct buf *text, const char *expected)
{
    assert_string_equal(buf_cstr(text), expected);
    buf_free(text);
}

static void test_names(void **state)
{
    struct schedule every_5m = interval(300, SCHEDULE_MISSED_ONE, 100);
    struct schedule five = crontab("*/5  * * * *", SCHEDULE_MISSED_ONE, 100);
    struct schedule_names names = {"nightly", "billing", "billing.report", "*/5_*_*_*_*"};
    char id[SCHEDULE_RUN_ID_SIZE];
    struct zone *berlin = NULL;
    struct buf text = {0};

    (void)state;
    schedule_id(&every_5m, &text);
    assert_text(&text, "300");
    schedule_id(&five, &text);
    assert_text(&text, "*/5_*_*_*_*");
    assert_int_equal(zone_read(&berlin, NULL, bytes_str("Europe/Berlin"), NULL), 0);
    five.zone = berlin;
    schedule_id(&five, &text);
    assert_text(&text, "*/5_*_*_*_*@Europe/Berlin");
    zone_free(berlin);
    schedule_storage_key(&names, SCHEDULE_KEY, &text);
    assert_text(&text, "tw:scheduler:nightly:billing:billing.report:*/5_*_*_*_*");
    schedule_storage_key(&names, SCHEDULE_KEY_NO_ENTRY, &text);
    assert_text(&text, "tw:scheduler:billing:billing.report:*/5_*_*_*_*");
    schedule_storage_key(&names, SCHEDULE_KEY_NO_ID, &text);
    assert_text(&text, "tw:scheduler:billing:billing.report");
    /* sha256(b"taskmill schedule\0" entry "\0" id "\0" + due as 8 bytes), marked as version 8 */
    schedule_run_id(id, &names, NOON);
    assert_string_equal(id, "683a734d27f584578351278358160a60");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_interval_keeps_its_phase),
        cmocka_unit_test(test_interval_missed),
        cmocka_unit_test(test_crontab_due),
        cmocka_unit_test(test_client_weakness_33_crontab_missed),
        cmocka_unit_test(test_a_year_of_minutes_is_cut_to_the_limit),
        cmocka_unit_test(test_last_run_in_the_future),
        cmocka_unit_test(test_a_jump_of_the_clocks_is_no_missed_run),
        cmocka_unit_test(test_client_weakness_34_ttl_ends_with_the_next_due_time),
        cmocka_unit_test(test_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
