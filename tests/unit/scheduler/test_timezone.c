/* SPDX-License-Identifier: Apache-2.0 */
/* All zones of the system are compared with Python's zoneinfo in tests/integration/wire. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "scheduler/crontab.h"

/* A file of version 2 with one type (offset_s), at most one moment at which it begins, and a
 * footer. */
struct content {
    int32_t first_offset_s; /* before the first moment */
    int32_t offset_s;
    const int64_t *moments;
    size_t moment_count;
    uint32_t leap_count;
    char version;
    const char *footer;
};

static void put(struct buf *out, uint64_t value, size_t size)
{
    for (size_t i = size; i > 0; i--)
        buf_append_byte(out, (uint8_t)(value >> (8 * (i - 1))));
}

static void put_header(struct buf *out, char version, const uint32_t counts[6])
{
    buf_append_str(out, "TZif");
    buf_append_byte(out, (uint8_t)version);
    put(out, 0, 8);
    put(out, 0, 7);
    for (size_t i = 0; i < 6; i++)
        put(out, counts[i], 4);
}

static struct buf file_of(const struct content *c)
{
    const uint32_t none[6] = {0, 0, 0, 0, 1, 1};
    const uint32_t counts[6] = {0, 0, c->leap_count, (uint32_t)c->moment_count, 2, 4};
    struct buf out = {0};

    put_header(&out, c->version ? c->version : '2', none);
    put(&out, 0, 7); /* one type and one character of version 1 */
    put_header(&out, c->version ? c->version : '2', counts);
    for (size_t i = 0; i < c->moment_count; i++)
        put(&out, (uint64_t)c->moments[i], 8);
    for (size_t i = 0; i < c->moment_count; i++)
        buf_append_byte(&out, 1);
    put(&out, (uint32_t)c->first_offset_s, 4);
    put(&out, 0, 2);
    put(&out, (uint32_t)c->offset_s, 4);
    put(&out, 0, 2);
    buf_append(&out, "ABC\0", 4);
    for (uint32_t i = 0; i < c->leap_count; i++)
        put(&out, 0, 8), put(&out, 0, 4);
    buf_append_byte(&out, '\n');
    buf_append_str(&out, c->footer);
    buf_append_byte(&out, '\n');
    return out;
}

static struct zone *zone_of(const struct content *content)
{
    struct buf file = file_of(content);
    struct zone *zone = NULL;
    struct err_text why = {{0}};

    if (zone_parse(&zone, "Test/Zone", buf_bytes(&file), &why))
        fail_msg("%s", why.s);
    buf_free(&file);
    return zone;
}

static void assert_span(const struct zone *zone, int64_t at_s, struct zone_span expected)
{
    struct zone_span span = zone_span_at(zone, at_s);

    assert_true(span.from_s == expected.from_s);
    assert_true(span.until_s == expected.until_s);
    assert_int_equal(span.offset_s, expected.offset_s);
}

static void test_utc(void **state)
{
    (void)state;
    assert_span(NULL, 0, (struct zone_span){INT64_MIN, INT64_MAX, 0});
    assert_true(zone_is_utc(bytes_str("UTC")) && zone_is_utc(bytes_str("Etc/UTC")));
    assert_false(zone_is_utc(bytes_str("Europe/London")) || zone_is_utc(bytes_str("")));
}

static void test_table_without_footer(void **state)
{
    const int64_t moments[] = {1000, 5000};
    struct zone *zone = zone_of(
        &(struct content){.offset_s = -3600, .moments = moments, .moment_count = 2, .footer = ""});

    (void)state;
    assert_string_equal(zone_name(zone), "Test/Zone");
    assert_span(zone, 999, (struct zone_span){INT64_MIN, 1000, 0});
    assert_span(zone, 1000, (struct zone_span){1000, 5000, -3600});
    assert_span(zone, 4999, (struct zone_span){1000, 5000, -3600});
    assert_span(zone, 5000, (struct zone_span){5000, INT64_MAX, -3600});
    zone_free(zone);
}

/* The offset at a moment by a footer alone. */
static int32_t by_footer(const char *footer, int64_t at_s)
{
    struct zone *zone = zone_of(&(struct content){.footer = footer});
    int32_t offset_s = zone_span_at(zone, at_s).offset_s;

    zone_free(zone);
    return offset_s;
}

static void test_rules(void **state)
{
    static const char berlin[] = "CET-1CEST,M3.5.0,M10.5.0/3";

    (void)state;
    assert_int_equal(by_footer("<+0545>-5:45", 0), 20700);
    assert_int_equal(by_footer("EST5", 0), -18000);
    assert_int_equal(by_footer("AAA1:02:03", 0), -3723);
    assert_int_equal(by_footer(berlin, 1774745999), 3600); /* 2026-03-29 00:59:59 UTC */
    assert_int_equal(by_footer(berlin, 1774746000), 7200);
    assert_int_equal(by_footer(berlin, 1792889999), 7200); /* 2026-10-25 00:59:59 */
    assert_int_equal(by_footer(berlin, 1792890000), 3600);
    /* south: daylight time goes over the new year */
    assert_int_equal(by_footer("AEST-10AEDT,M10.1.0,M4.1.0/3", 1767225600), 39600);
    assert_int_equal(by_footer("AEST-10AEDT,M10.1.0,M4.1.0/3", 1782864000), 36000);
    /* half an hour */
    assert_int_equal(by_footer("<+1030>-10:30<+11>-11,M10.1.0,M4.1.0", 1767225600), 39600);
    /* daylight time for ever */
    assert_int_equal(by_footer("ABC3EDT4,0/0,J365/23", 1767225600), -14400);
    assert_int_equal(by_footer("ABC3EDT4,0/0,J365/23", 1782864000), -14400);
    /* J60 is 1 March, 59 is 29 February in leap years: 2024-02-29 12:00 */
    assert_int_equal(by_footer("AAA0BBB,J60/0,J200", 1709208000), 0);
    assert_int_equal(by_footer("AAA0BBB,59/0,J200", 1709208000), 3600);
    /* hours before the day and days after it */
    assert_int_equal(by_footer("IST-2IDT,M3.4.4/26,M10.5.0", 1774569599),
                     7200); /* 2026-03-26 23:59:59 */
    assert_int_equal(by_footer("IST-2IDT,M3.4.4/26,M10.5.0", 1774569600), 10800);
    assert_int_equal(by_footer("<-02>2<-01>,M3.5.0/-1,M10.5.0/0", 1774745999), -7200);
    assert_int_equal(by_footer("<-02>2<-01>,M3.5.0/-1,M10.5.0/0", 1774746000), -3600);
}

static void test_rule_begins_after_the_table(void **state)
{
    const int64_t moments[] = {1774000000};
    struct zone *zone = zone_of(&(struct content){.offset_s = 3600,
                                                  .moments = moments,
                                                  .moment_count = 1,
                                                  .footer = "CET-1CEST,M3.5.0,M10.5.0/3"});

    (void)state;
    assert_span(zone, 1774000000, (struct zone_span){1774000000, 1774746000, 3600});
    assert_span(zone, 1774746000, (struct zone_span){1774746000, 1792890000, 7200});
    zone_free(zone);
}

static void test_far_times(void **state)
{
    struct zone *zone = zone_of(&(struct content){.footer = "CET-1CEST,M3.5.0,M10.5.0/3"});

    (void)state;
    assert_int_equal(zone_span_at(zone, INT64_MAX).offset_s, 3600);
    assert_int_equal(zone_span_at(zone, INT64_MIN).offset_s, 3600);
    zone_free(zone);
}

/* More than two days later: the widest change there can be. */
static void test_clocks_put_back_by_two_days(void **state)
{
    const int64_t moments[] = {86400LL * 1000};
    struct zone *zone = zone_of(&(struct content){.first_offset_s = 25 * 3600,
                                                  .offset_s = -25 * 3600,
                                                  .moments = moments,
                                                  .moment_count = 1,
                                                  .footer = ""});
    struct crontab crontab;

    (void)state;
    assert_int_equal(crontab_parse(&crontab, bytes_str("30 0 * * *"), NULL), 0);
    /* 00:30 was shown half an hour before the change; 49.5 hours after it, it is shown again */
    assert_true(crontab_next(&crontab, zone, moments[0] - 1801) == moments[0] - 1800);
    assert_true(crontab_next(&crontab, zone, moments[0] + 49 * 3600) ==
                moments[0] + 49 * 3600 + 1800 + 86400);
    zone_free(zone);
}

static void refused(const struct content *content, size_t cut, int code, const char *reason)
{
    struct buf file = file_of(content);
    struct err_text why = {{0}};
    struct zone *zone = NULL;

    assert_int_equal(zone_parse(&zone, "T", bytes_of(file.ptr, file.len - cut), &why), code);
    assert_null(zone);
    if (strcmp(why.s, reason) != 0)
        fail_msg("%s", why.s);
    buf_free(&file);
}

static void test_bad_files(void **state)
{
    static const char *const footers[] = {"A1",
                                          "CET",
                                          "CET-25",
                                          "CET-1CEST",
                                          "CET-1 ",
                                          "<+01-1",
                                          "CET-1CEST,M3.5.0",
                                          "CET-1CEST,M13.5.0,M1.1.0",
                                          "CET-1CEST,M1.6.0,M1.1.0",
                                          "CET-1CEST,J0,J1",
                                          "CET-1CEST,366,1",
                                          "CET-1CEST,M3.5.0/168,M1.1.0",
                                          "CET-1CEST,M3.5.0,M1.1.0x"};
    const int64_t moments[] = {5, 5};

    (void)state;
    for (size_t i = 0; i < sizeof(footers) / sizeof(footers[0]); i++)
        refused(&(struct content){.footer = footers[i]}, 0, ERR_MALFORMED,
                "timezone \"T\": the rule at its end cannot be read");
    refused(&(struct content){.footer = "", .version = '\0' + 1}, 0, ERR_UNSUPPORTED,
            "timezone \"T\": its format is version 1, which ends in 2038");
    refused(&(struct content){.footer = "", .leap_count = 1}, 0, ERR_UNSUPPORTED,
            "timezone \"T\": it counts leap seconds, which Unix time does not");
    refused(&(struct content){.footer = "", .moments = moments, .moment_count = 2}, 0,
            ERR_MALFORMED, "timezone \"T\": its moments are not in order");
    refused(
        &(struct content){.footer = "", .offset_s = 93600, .moments = moments, .moment_count = 1},
        0, ERR_MALFORMED, "timezone \"T\": a type is missing or out of range");
    for (size_t cut = 1; cut < 100; cut++) {
        struct buf file = file_of(&(struct content){.footer = ""});
        struct zone *zone = NULL;

        assert_int_equal(zone_parse(&zone, "T", bytes_of(file.ptr, file.len - cut), NULL),
                         ERR_MALFORMED);
        buf_free(&file);
    }
    assert_int_equal(zone_parse(&(struct zone *){NULL}, "T", bytes_str("#! nothing"), NULL),
                     ERR_MALFORMED);
}

static void test_names(void **state)
{
    static const char *const bad[] = {"",        "/etc/passwd", "../x",    "Europe/../x",
                                      "Europe/", "a b",         ".hidden", "Europe//Berlin",
                                      "\xc3\xbc"};
    struct zone *zone = NULL;
    struct err_text why = {{0}};

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(zone_read(&zone, NULL, bytes_str(bad[i]), &why), ERR_INVALID);
    assert_string_equal(why.s, "timezone \"\xc3\xbc\" is no name of a time zone; write it like "
                               "Europe/Berlin");
    assert_int_equal(zone_read(&zone, ZONE_FOLDER, bytes_str("Europe/Berln"), &why), ERR_NOT_FOUND);
    assert_string_equal(why.s,
                        "timezone \"Europe/Berln\": there is no such zone in /usr/share/zoneinfo "
                        "(names are like Europe/Berlin; the package tzdata brings them)");
    assert_int_equal(zone_read(&zone, NULL, bytes_str("Europe"), &why), ERR_NOT_FOUND);
    assert_int_equal(zone_read(&zone, NULL, bytes_str("zone.tab"), &why), ERR_MALFORMED);
    assert_int_equal(zone_read(&zone, NULL, bytes_str("America/Argentina/Buenos_Aires"), &why), 0);
    zone_free(zone);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_utc),       cmocka_unit_test(test_table_without_footer),
        cmocka_unit_test(test_rules),     cmocka_unit_test(test_rule_begins_after_the_table),
        cmocka_unit_test(test_far_times), cmocka_unit_test(test_clocks_put_back_by_two_days),
        cmocka_unit_test(test_bad_files), cmocka_unit_test(test_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
