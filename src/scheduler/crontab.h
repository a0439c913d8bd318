/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Crontab expressions, and when they match. Pure; any thread.
 *
 * Grammar: that of Python's cronsim 2.8, which the original uses (spec/client.md 7.2). Five words,
 * minute hour day-of-month month day-of-week; each a list `a,b,c` of
 *
 *     *         every value
 *     a  a-b    a value, a range that does not end before it starts
 *     x/n       every nth value: of all (*), of a range, or of a and all above it (a/n, also a-a/n)
 *     L  LW     day of month: the last day; the last one from Monday to Friday (L/n is L)
 *     5L        day of week: the last Friday of the month
 *     1#2 MON#2 day of week: the second Monday of the month, 1 to 5
 *
 * with minutes 0-59, hours 0-23, days 1-31, months 1-12 or JAN-DEC, weekdays 0-7 (0 and 7: Sunday)
 * or SUN-SAT, any case, leading zeros allowed. If the day of month or the day of week *begins* with
 * an asterisk (with a step after it, too), a day must match both; else one suffices.
 *
 * What differs from cronsim, on purpose:
 *   - Six words are an error. cronsim takes the first of six as seconds, so that a blank too many
 *     ("0, 30 * * * *") becomes another schedule, which may never fire (spec/client.md 13 no. 35).
 *   - An expression that never matches ("0 0 30 2 *", or every 20th day if it is the last Monday)
 *     is an error when it is read; of most, cronsim says so when it is asked for the next time,
 *     which stops the original's scheduler (no. 31).
 *     The calendar repeats every 400 years, and the rarest days there are, 29th of February on a
 *     certain weekday, are at most 40 years apart; so what does not match within
 *     CRONTAB_SEARCH_YEARS never does.
 *   - Words are ASCII. (Python folds other letters: "ſun" is SUN there.)
 *
 * Time zones (the original knows only UTC). Which rule applies depends on the first two words, as
 * in Debian's cron and cronsim:
 *
 *   fixed times   neither minute nor hour begins with `*` ("30 2 * * *", "0 1-23/2 * * *"). Each
 *                 matching local time fires once, at the first moment at which the clocks on the
 *                 wall show it or have gone past it. So 02:30 fires at 03:00 on the day on which
 *                 clocks jump from 02:00 to 03:00 (all times inside the jump together fire once),
 *                 and only in the first pass when they are put back and show 02:30 twice.
 *   by the clock  the others ("0 * * * *", every 15 minutes): whenever clocks on the wall show a
 *                 matching time; nothing inside a jump forward, and both passes of a repeated hour.
 *
 * So a zone can swallow an expression that is by the clock (every minute of 02:00-02:59 on the last
 * Sunday of March, in Berlin): crontab_next then says CRONTAB_NEVER, and whoever reads a schedule
 * asks once, to refuse it.
 *
 * cronsim itself agrees with all this save for two slips, which a differential test excludes by
 * name: it returns times that do not exist when a jump swallows midnight, and it loses its minutes
 * for a while after jumps of half an hour (Lord Howe).
 */
#ifndef TASKMILL_SCHEDULER_CRONTAB_H
#define TASKMILL_SCHEDULER_CRONTAB_H

#include "base/bytes.h"
#include "base/err.h"
#include "scheduler/timezone.h"

/* Every value of all five words spelled out needs 358. */
#define CRONTAB_TEXT_MAX     400
#define CRONTAB_SEARCH_YEARS 50
/* Later than any time a crontab can match. */
#define CRONTAB_NEVER INT64_MAX

/* Bit n of a set stands for the value n. */
struct crontab {
    uint64_t minutes;
    uint32_t hours;
    uint32_t days;
    uint16_t months;
    uint8_t weekdays;        /* 0: Sunday to 6 */
    uint8_t last_weekdays;   /* 5L */
    uint8_t nth_weekdays[6]; /* [2]: of 1#2; [0] is unused */
    bool last_day;           /* L */
    bool last_workday;       /* LW */
    bool both_days;          /* day of month and day of week must match */
    bool fixed_time;         /* the rule for time zones, see above */
    /* The five words as given, one blank between them: the schedule's id is made of it. */
    char text[CRONTAB_TEXT_MAX + 1];
};

/* ERR_INVALID, ERR_TOO_LARGE; *out is then undefined. */
int crontab_parse(struct crontab *out, struct bytes text, struct err_text *why);

/* The words one by one, in the order in which the original's crontab() takes them: the third is
 * the day of *week*. A NULL pointer stands for `*`. */
struct crontab_words {
    struct bytes minute, hour, day_of_week, day_of_month, month_of_year;
};
int crontab_of_words(struct crontab *out, const struct crontab_words *words, struct err_text *why);

/* The first match at or after `from_s` (Unix seconds) on the clocks of `zone` (NULL: UTC).
 * CRONTAB_NEVER: none within CRONTAB_SEARCH_YEARS, which only a zone can cause, or a time outside
 * the years 2 to 9938. With fixed times in a zone the result need not
 * be a whole local minute of the expression: see jumps above. */
int64_t crontab_next(const struct crontab *crontab, const struct zone *zone, int64_t from_s);
/* The last match that is not before `from_s` and not after `until_s`; CRONTAB_NEVER: none. */
int64_t crontab_last(const struct crontab *crontab, const struct zone *zone, int64_t from_s,
                     int64_t until_s);

#endif
