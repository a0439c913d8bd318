/* SPDX-License-Identifier: Apache-2.0 */
/* Dates of the proleptic Gregorian calendar as day numbers (0: 1970-01-01). Pure; exact for every
 * year from 1 to 9999, which is what callers keep to. */
#ifndef TASKMILL_SCHEDULER_CIVIL_H
#define TASKMILL_SCHEDULER_CIVIL_H

#include <stdbool.h>
#include <stdint.h>

#define CIVIL_DAY_S    86400
#define CIVIL_YEAR_MAX 9999
#define CIVIL_MIN_S    (-62135596800) /* 0001-01-01 00:00:00 UTC */
#define CIVIL_MAX_S    253402300799   /* 9999-12-31 23:59:59 UTC */

struct civil {
    int32_t year;
    int32_t month; /* 1 to 12 */
    int32_t day;   /* 1 to 31 */
};

/* Rounded towards minus infinity; the divisor is positive. */
static inline int64_t civil_floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

static inline bool civil_is_leap(int32_t year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

static inline int32_t civil_month_days(int32_t year, int32_t month)
{
    static const int8_t days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

    return days[month - 1] + (month == 2 && civil_is_leap(year));
}

/* Years are counted from March here, so that the leap day is the last of its year; 153 days are
 * five months from March on. */
static inline int64_t civil_to_days(int32_t year, int32_t month, int32_t day)
{
    int64_t y = year - (month <= 2);
    int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;

    return y * 365 + civil_floor_div(y, 4) - civil_floor_div(y, 100) + civil_floor_div(y, 400) +
           of_year - 719468;
}

static inline struct civil civil_of_days(int64_t days)
{
    int64_t from_era = days + 719468; /* since 0000-03-01 */
    int64_t era = civil_floor_div(from_era, 146097);
    int64_t of_era = from_era - era * 146097;
    int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * year + year / 4 - year / 100);
    int64_t march_month = (5 * of_year + 2) / 153;
    int32_t month = (int32_t)(march_month < 10 ? march_month + 3 : march_month - 9);

    return (struct civil){.year = (int32_t)(year + era * 400 + (month <= 2)),
                          .month = month,
                          .day = (int32_t)(of_year - (153 * march_month + 2) / 5 + 1)};
}

/* 0: Sunday. */
static inline int32_t civil_weekday(int64_t days)
{
    return (int32_t)(days + 4 - civil_floor_div(days + 4, 7) * 7);
}

#endif
