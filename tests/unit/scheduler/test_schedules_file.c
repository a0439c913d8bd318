/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "scheduler/schedules_file.h"

#define HEAD  "application: shop\nschedules:\n  a:\n"
#define ENTRY HEAD "    task: ns:t\n    schedule: {seconds: 5}\n"

static struct schedules *parsed(const char *text)
{
    struct schedules *schedules = NULL;
    struct err_text why = {{0}};

    if (schedules_parse(&schedules, "s.yml", bytes_str(text), NULL, &why))
        fail_msg("%s", why.s);
    return schedules;
}

static void refused(const char *text, const char *reason)
{
    struct schedules *schedules = NULL;
    struct err_text why = {{0}};

    assert_int_not_equal(schedules_parse(&schedules, "s.yml", bytes_str(text), NULL, &why), 0);
    assert_null(schedules);
    if (strcmp(why.s, reason) != 0)
        fail_msg("%s", why.s);
}

static void test_whole_entry(void **state)
{
    struct schedules *s =
        parsed("application: shop\n"
               "schedules:\n"
               "  nightly-report:\n"
               "    task: billing:billing.report\n"
               "    schedule: {crontab: \"30 2 * * 1-5\"}\n"
               "    timezone: Europe/Berlin\n"
               "    missed: all\n"
               "    missed_limit: 7\n"
               "    args: [weekly, 3, 1.5, true, null, '7', 18446744073709551615]\n"
               "    kwargs: {to: ops@example.com, at: [no, -0x1, {a: .nan}]}\n"
               "    headers: {team: billing, n: 1}\n"
               "    processing_deadline: 30\n"
               "    expires: 600\n"
               "    retry: {times: 3, delay: 60, times_exceeded: deadletter}\n");
    const struct schedules_entry *e = &s->entries[0];

    (void)state;
    assert_string_equal(s->application, "shop");
    assert_int_equal(s->count, 1);
    assert_string_equal(e->key, "nightly-report");
    assert_string_equal(e->namespace, "billing");
    assert_string_equal(e->task, "billing.report");
    assert_string_equal(e->id, "30_2_*_*_1-5@Europe/Berlin");
    assert_int_equal(e->schedule.kind, SCHEDULE_CRONTAB);
    assert_string_equal(zone_name(e->schedule.zone), "Europe/Berlin");
    assert_int_equal(e->schedule.missed, SCHEDULE_MISSED_ALL);
    assert_int_equal(e->schedule.missed_limit, 7);
    assert_string_equal(e->params,
                        "{\"args\": [\"weekly\", 3, 1.5, true, null, \"7\", 18446744073709551615], "
                        "\"kwargs\": {\"to\": \"ops@example.com\", \"at\": [\"no\", \"-0x1\", "
                        "{\"a\": {\"$float\": \"nan\"}}]}}");
    assert_int_equal(e->header_count, 2);
    assert_string_equal(e->headers[1].key, "n");
    assert_string_equal(e->headers[1].value, "1");
    assert_int_equal(e->processing_deadline_s, 30);
    assert_int_equal(e->expires_s, 600);
    assert_int_equal(e->retry.times, 3);
    assert_int_equal(e->retry.delay_s, 60);
    assert_int_equal(e->retry.times_exceeded, TASKMILL_DEADLETTER);
    schedules_free(s);
}

static void test_defaults_and_forms(void **state)
{
    struct schedules *s =
        parsed("application: shop\n"
               "schedules:\n"
               "  a: {task: 'n:t', schedule: {timedelta: 1h30m}}\n"
               "  b: {task: 'n:t', schedule: {seconds: 300}, at_most_once: true}\n"
               "  c: {task: 'n:t', schedule: {crontab: {minute: 0, hour: '*/2'}}, "
               "timezone: UTC}\n"
               "  d: {task: 'n:t', schedule: {crontab: {day_of_week: mon}}, "
               "timezone: Asia/Tokyo}\n"
               "  e: {task: 'n:t', schedule: {crontab: '0 1 * * *'}, "
               "timezone: Asia/Tokyo, missed: skip}\n");

    (void)state;
    assert_int_equal(s->count, 5);
    assert_int_equal(s->entries[0].schedule.interval_s, 5400);
    assert_int_equal(s->entries[0].schedule.missed, SCHEDULE_MISSED_ONE);
    assert_int_equal(s->entries[0].schedule.missed_limit, SCHEDULE_MISSED_LIMIT_DEFAULT);
    assert_string_equal(s->entries[0].params, "{\"args\": [], \"kwargs\": {}}");
    assert_string_equal(s->entries[1].id, "300");
    assert_true(s->entries[1].at_most_once);
    assert_string_equal(s->entries[2].id, "0_*/2_*_*_*");
    assert_null(s->entries[2].schedule.zone);
    assert_string_equal(s->entries[3].id, "*_*_*_*_mon@Asia/Tokyo");
    assert_int_equal(s->zone_count, 1);
    assert_ptr_equal(s->entries[3].schedule.zone, s->entries[4].schedule.zone);
    assert_int_equal(s->entries[4].line, 7);
    schedules_free(s);
}

static void test_anchors(void **state)
{
    struct schedules *s = parsed("application: shop\n"
                                 "schedules:\n"
                                 "  a: {task: 'n:t', schedule: &every {seconds: 7}}\n"
                                 "  b: {task: 'n:u', schedule: *every}\n");

    (void)state;
    assert_int_equal(s->entries[1].schedule.interval_s, 7);
    schedules_free(s);
}

static void test_errors_of_the_file(void **state)
{
    (void)state;
    refused("", "s.yml:1: the file is empty; it needs application and schedules");
    refused("application: x\n", "s.yml:1: there are no schedules");
    refused("schedules: {a: {task: 'n:t', schedule: {seconds: 5}}}",
            "s.yml:1: application is missing: whose tasks these are");
    refused("application: x\nentries: {}\n",
            "s.yml:2: there is no key entries, only application and schedules");
    refused("application: x\napplication: y\n",
            "s.yml:2: the file: the key application is there twice");
    refused(ENTRY "  a:\n    task: ns:t\n", "s.yml:6: schedules: the key a is there twice");
    refused("a: [", "s.yml:2: not YAML: did not find expected node content, while parsing a flow "
                    "node");
    refused(HEAD "    schedule: {crontab: */5 * * * *}\n",
            "s.yml:4: not YAML: did not find expected alphabetic or numeric character, while "
            "scanning an alias (a text that begins with * needs quotes: \"*/5 * * * *\")");
}

static void test_errors_of_entries(void **state)
{
    (void)state;
    refused(HEAD "    schedule: {seconds: 5}\n", "s.yml:4: entry a: it has no task");
    refused(HEAD "    task: ns:t\n", "s.yml:4: entry a: it has no schedule");
    refused(HEAD "    task: ns\n", "s.yml:4: entry a: task must be written as namespace:name");
    refused(HEAD "    task: a:b:c\n", "s.yml:4: entry a: task must be written as namespace:name");
    refused(
        ENTRY "    deadline: 3\n",
        "s.yml:6: entry a: unknown key deadline; an entry has task, schedule, timezone, missed, "
        "missed_limit, args, kwargs, headers, processing_deadline, expires, retry, "
        "at_most_once");
    refused(ENTRY "    missed: never\n", "s.yml:6: entry a: missed is one, skip or all");
    refused(ENTRY "    missed_limit: 0\n",
            "s.yml:6: entry a: missed_limit must be a whole number from 1 to 10000");
    refused(ENTRY "    at_most_once: yes\n", "s.yml:6: entry a: at_most_once is true or false");
    refused(ENTRY "    at_most_once: true\n    retry: {times: 2}\n",
            "s.yml:4: entry a: at_most_once and retry exclude each other");
    refused(ENTRY "    retry: {delay: 2}\n", "s.yml:4: entry a: retry needs times");
    refused(ENTRY "    retry: {on: [failure]}\n",
            "s.yml:6: entry a: retry has no key on; it has times, delay, times_exceeded");
    refused(ENTRY "    expires: 0\n",
            "s.yml:6: entry a: expires must be a whole number from 1 to 4294967295");
    refused(ENTRY "    timezone: Europe/Berlin\n",
            "s.yml:6: entry a: timezone is for crontabs; an interval has none");
    refused(ENTRY "    headers: {compression-type: zstd}\n",
            "s.yml:6: entry a: header compression-type is set by the scheduler; remove it");
    refused(ENTRY "    headers: {a: {}}\n", "s.yml:6: entry a: header a must be a text");
}

static void test_errors_of_schedules(void **state)
{
    static const char task[] = HEAD "    task: ns:t\n    schedule: ";
    static const struct {
        const char *schedule, *reason;
    } cases[] = {
        {"5m", "schedule must be a map of key: value"},
        {"{}", "schedule takes one of timedelta, seconds, crontab"},
        {"{seconds: 5, timedelta: 5s}", "schedule takes one of timedelta, seconds, crontab"},
        {"{every: 5}", "a schedule has no key every; it has timedelta, seconds or crontab"},
        {"{seconds: 0}", "seconds must be a whole number from 1 to 4294967295"},
        {"{seconds: 1.5}", "seconds must be a whole number from 1 to 4294967295"},
        {"{timedelta: 300}", "timedelta must be whole seconds, at least 1, with units: 30s, 5m, "
                             "1h30m, 2d, 1w"},
        {"{timedelta: 0s}", "timedelta must be whole seconds, at least 1, with units: 30s, 5m, "
                            "1h30m, 2d, 1w"},
        {"{timedelta: 99999999999999999999w}",
         "timedelta must be whole seconds, at least 1, with units: 30s, 5m, 1h30m, 2d, 1w"},
        {"{crontab: 0 0 30 2 *}", "crontab \"0 0 30 2 *\": never matches: no day of any year fits "
                                  "day of month, month and day of week together"},
        {"{crontab: {minutes: 5}}", "crontab has no key minutes; it has minute, hour, day_of_week, "
                                    "day_of_month, month_of_year"},
        {"{crontab: {minute: 61}}", "crontab \"61 * * * *\": minute \"61\": \"61\" is not one of "
                                    "0-59"},
        {"{crontab: [1]}", "crontab must be a text like \"30 2 * * 1-5\", or a map"},
        {"{crontab: '* 2 * 3 0L'}\n    timezone: Europe/Berlin",
         "crontab \"* 2 * 3 0L\" never matches in Europe/Berlin: the clocks skip that time"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct buf text = {0}, reason = {0};

        buf_printf(&text, "%s%s\n", task, cases[i].schedule);
        buf_printf(&reason, "s.yml:5: entry a: %s", cases[i].reason);
        refused(buf_cstr(&text), buf_cstr(&reason));
        buf_free(&text);
        buf_free(&reason);
    }
    refused(HEAD
            "    task: ns:t\n    schedule: {crontab: '0 1 * * *'}\n    timezone: Europe/Berln\n",
            "s.yml:6: entry a: timezone \"Europe/Berln\": there is no such zone in "
            "/usr/share/zoneinfo (names are like Europe/Berlin; the package tzdata brings them)");
}

static void test_errors_of_parameters(void **state)
{
    (void)state;
    refused(ENTRY "    args: {a: 1}\n", "s.yml:6: entry a: args must be a list");
    refused(ENTRY "    kwargs: [1]\n", "s.yml:6: entry a: kwargs must be a map of name: value");
    refused(ENTRY "    args: [007]\n",
            "s.yml:6: entry a: args: a number with a leading zero: quote it if it is a text, else "
            "remove the zero");
    refused(ENTRY "    args: [18446744073709551616]\n",
            "s.yml:6: entry a: args: a whole number must be from -2^63 to 2^64-1");
    refused(ENTRY "    args: [1e999]\n", "s.yml:6: entry a: args: a number too large for a double");
    refused(ENTRY "    kwargs: {a: 1, a: 2}\n", "s.yml:6: entry a: kwargs: a key is there twice");
    refused(ENTRY "    kwargs: {[a]: 1}\n", "s.yml:6: entry a: kwargs: a key must be a text");
    refused(ENTRY "    args: []\n    args: []\n",
            "s.yml:7: entry a: the entry: the key args is there twice");
    refused(ENTRY "    args: &loop [*loop]\n",
            "s.yml:6: entry a: args: too deep, or too many values");
    refused(ENTRY "    args: [!!timestamp 2001-01-01]\n",
            "s.yml:6: entry a: args: a tag other than !!str and !!binary");
}

static void test_files(void **state)
{
    struct schedules *schedules = NULL;
    struct err_text why = {{0}};
    char path[] = "/tmp/taskmill-schedules-XXXXXX";
    int fd = mkstemp(path);

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(write(fd, ENTRY, sizeof(ENTRY) - 1), sizeof(ENTRY) - 1);
    close(fd);
    assert_int_equal(schedules_read(&schedules, path, &why), 0);
    assert_int_equal(schedules->count, 1);
    schedules_free(schedules);
    unlink(path);
    assert_int_equal(schedules_read(&schedules, path, &why), ERR_NOT_FOUND);
    assert_int_equal(schedules_read(&schedules, "/tmp", &why), ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_entry),
        cmocka_unit_test(test_defaults_and_forms),
        cmocka_unit_test(test_anchors),
        cmocka_unit_test(test_errors_of_the_file),
        cmocka_unit_test(test_errors_of_entries),
        cmocka_unit_test(test_errors_of_schedules),
        cmocka_unit_test(test_errors_of_parameters),
        cmocka_unit_test(test_files),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
