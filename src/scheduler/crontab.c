/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A match is looked for month by month: the days of a month that match are one set of bits, made
 * from the words and the weekday of its first day; within a day, hours and minutes are sets, too.
 */
#include "scheduler/crontab.h"

#include <ctype.h>

#include "scheduler/civil.h"

enum word { MINUTE, HOUR, DAY, MONTH, WEEKDAY, WORD_COUNT };

struct word_rule {
    const char *name;
    unsigned min, max;
    const char *names; /* of three letters each; the first is `first_name` */
    unsigned first_name;
    const char *allowed;
};

static const struct word_rule rules[WORD_COUNT] = {
    [MINUTE] = {"minute", 0, 59, "", 0, "0-59"},
    [HOUR] = {"hour", 0, 23, "", 0, "0-23"},
    [DAY] = {"day of month", 1, 31, "", 0, "1-31, L or LW"},
    [MONTH] = {"month", 1, 12, "JANFEBMARAPRMAYJUNJULAUGSEPOCTNOVDEC", 1, "1-12 or JAN-DEC"},
    [WEEKDAY] = {"day of week", 0, 7, "SUNMONTUEWEDTHUFRISAT", 0,
                 "0-7, SUN-SAT, 5L (last Friday) or MON#2 (second Monday)"},
};

/* What one word says. */
struct values {
    uint64_t set;
    uint8_t last; /* 5L */
    uint8_t nth[6];
    bool last_day, last_workday;
};

struct parser {
    struct crontab *out;
    enum word word;
    struct bytes text; /* the word, for messages; as given */
    struct err_text *why;
};

__attribute__((format(printf, 2, 3))) static int fault(const struct parser *p, const char *fmt, ...)
{
    struct err_text text;
    va_list ap;

    va_start(ap, fmt);
    err_setv(&text, 0, fmt, ap);
    va_end(ap);
    return err_set(p->why, ERR_INVALID, "crontab \"%s\": %s \"%.*s\": %s", p->out->text,
                   rules[p->word].name, BYTES_FMT_ARG(p->text), text.s);
}

/* --- words ----------------------------------------------------------------------------------- */

/* Cuts `text` at the first `mark`; false if there is none. */
static bool cut(struct bytes text, char mark, struct bytes *before, struct bytes *after)
{
    const uint8_t *at = text.len ? memchr(text.ptr, mark, text.len) : NULL;

    if (at == NULL)
        return false;
    *before = bytes_of(text.ptr, (size_t)(at - text.ptr));
    *after = bytes_of(at + 1, text.len - before->len - 1);
    return true;
}

/* Digits only. Numbers too large to matter become UINT32_MAX. */
static bool number(struct bytes text, uint32_t *out)
{
    uint64_t value = 0;

    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] < '0' || text.ptr[i] > '9')
            return false;
        value = value * 10 + (uint64_t)(text.ptr[i] - '0');
        value = value > UINT32_MAX ? UINT32_MAX : value;
    }
    *out = (uint32_t)value;
    return text.len > 0;
}

static bool name_of_value(const struct word_rule *rule, struct bytes text, unsigned *out)
{
    for (unsigned i = 0; rule->names[i * 3] != '\0'; i++)
        if (bytes_equal(text, bytes_of(rule->names + (size_t)i * 3, 3))) {
            *out = rule->first_name + i;
            return true;
        }
    return false;
}

static int read_value(const struct parser *p, struct bytes text, unsigned *out)
{
    const struct word_rule *rule = &rules[p->word];
    uint32_t value;

    if (name_of_value(rule, text, out))
        return 0;
    if (!number(text, &value) || value < rule->min || value > rule->max)
        return fault(p, "\"%.*s\" is not one of %s", BYTES_FMT_ARG(text), rule->allowed);
    *out = value;
    return 0;
}

static uint64_t span(unsigned first, unsigned last)
{
    return (UINT64_MAX >> (63 - (last - first))) << first;
}

static uint64_t all_of(const struct parser *p)
{
    return span(rules[p->word].min, rules[p->word].max);
}

static int read_range(const struct parser *p, struct bytes from, struct bytes to,
                      struct values *values)
{
    unsigned first = 0, last = 0;
    int rv = read_value(p, from, &first);

    rv = rv ? rv : read_value(p, to, &last);
    if (rv)
        return rv;
    if (last < first)
        return fault(p, "the range %.*s-%.*s ends before it starts", BYTES_FMT_ARG(from),
                     BYTES_FMT_ARG(to));
    values->set |= span(first, last);
    return 0;
}

/* Without lists and steps. */
static int read_plain(const struct parser *p, struct bytes text, struct values *values)
{
    struct bytes from, to;
    unsigned value = 0;
    int rv;

    if (bytes_equal_str(text, "*")) {
        values->set |= all_of(p);
        return 0;
    }
    if (cut(text, '-', &from, &to))
        return read_range(p, from, to, values);
    if (p->word == DAY && bytes_equal_str(text, "L")) {
        values->last_day = true;
        return 0;
    }
    if (p->word == DAY && bytes_equal_str(text, "LW")) {
        values->last_workday = true;
        return 0;
    }
    rv = read_value(p, text, &value);
    if (rv == 0)
        values->set |= span(value, value);
    return rv;
}

static uint64_t every_nth(uint64_t set, uint32_t n)
{
    uint64_t kept = 0;
    uint32_t skip = 0;

    for (uint64_t rest = set; rest != 0; rest &= rest - 1) {
        if (skip == 0)
            kept |= rest & (~rest + 1);
        skip = skip == 0 ? n - 1 : skip - 1;
    }
    return kept;
}

static int read_stepped(const struct parser *p, struct bytes term, struct bytes step_text,
                        struct values *values)
{
    struct values these = {0};
    uint32_t step;
    int rv;

    if (!number(step_text, &step) || step == 0)
        return fault(p, "the step after the / must be a whole number from 1 on");
    rv = read_plain(p, term, &these);
    if (rv)
        return rv;
    values->last_day |= these.last_day;
    values->last_workday |= these.last_workday;
    if (these.set != 0 && (these.set & (these.set - 1)) == 0) /* one value: it and all above it */
        these.set = span((unsigned)__builtin_ctzll(these.set), rules[p->word].max);
    values->set |= every_nth(these.set, step);
    return 0;
}

static int read_last_weekday(const struct parser *p, struct bytes text, struct values *values)
{
    unsigned weekday = 0;
    uint32_t digits;
    int rv;

    if (text.ptr[text.len - 1] != 'L' || !number(bytes_of(text.ptr, text.len - 1), &digits))
        return fault(p, "a last weekday is written as a number and L, 5L for the last Friday");
    rv = read_value(p, bytes_of(text.ptr, text.len - 1), &weekday);
    if (rv == 0)
        values->last |= (uint8_t)(1U << weekday % 7);
    return rv;
}

static int read_nth_weekday(const struct parser *p, struct bytes term, struct bytes nth_text,
                            struct values *values)
{
    unsigned weekday = 0;
    uint32_t nth;
    int rv;

    if (!number(nth_text, &nth) || nth < 1 || nth > 5)
        return fault(p, "after the # stands a number from 1 to 5");
    rv = read_value(p, term, &weekday);
    if (rv == 0)
        values->nth[nth] |= (uint8_t)(1U << weekday % 7);
    return rv;
}

static int read_item(const struct parser *p, struct bytes text, struct values *values)
{
    struct bytes before, after;

    if (text.len == 0)
        return fault(p, "an item of the list is empty");
    if (p->word == WEEKDAY && memchr(text.ptr, 'L', text.len))
        return read_last_weekday(p, text, values);
    if (p->word == WEEKDAY && cut(text, '#', &before, &after))
        return read_nth_weekday(p, before, after, values);
    if (cut(text, '/', &before, &after))
        return read_stepped(p, before, after, values);
    return read_plain(p, text, values);
}

/* `text` is in capitals. */
static int read_list(const struct parser *p, struct bytes text, struct values *values)
{
    struct bytes item;
    int rv = 0;

    while (rv == 0 && cut(text, ',', &item, &text))
        rv = read_item(p, item, values);
    return rv ? rv : read_item(p, text, values);
}

static void keep(struct crontab *out, enum word word, const struct values *values)
{
    switch (word) {
    case MINUTE:
        out->minutes = values->set;
        break;
    case HOUR:
        out->hours = (uint32_t)values->set;
        break;
    case DAY:
        out->days = (uint32_t)values->set;
        out->last_day = values->last_day;
        out->last_workday = values->last_workday;
        break;
    case MONTH:
        out->months = (uint16_t)values->set;
        break;
    case WEEKDAY:
        out->weekdays = (uint8_t)((values->set | values->set >> 7) & 0x7f);
        out->last_weekdays = values->last;
        memcpy(out->nth_weekdays, values->nth, sizeof(values->nth));
        break;
    case WORD_COUNT:
        break;
    }
}

/* Python's blanks (of ASCII). */
static bool is_blank(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1c && c <= 0x1f);
}

/* Copies the words into out->text; ERR_INVALID unless there are five of plain ASCII. */
static int split(struct crontab *out, struct bytes text, struct bytes words[WORD_COUNT],
                 struct err_text *why)
{
    size_t at = 0, count = 0, len = 0;

    while (at < text.len) {
        size_t start = at;

        while (at < text.len && !is_blank(text.ptr[at]) && text.ptr[at] > ' ' &&
               text.ptr[at] < 0x7f)
            at++;
        if (at > start) {
            if (count < WORD_COUNT) {
                len += len ? 1 : 0;
                words[count] = bytes_of(out->text + len, at - start);
                memcpy(out->text + len, text.ptr + start, at - start);
                len += at - start;
                out->text[len] = count + 1 < WORD_COUNT ? ' ' : '\0';
            }
            count++;
        } else if (!is_blank(text.ptr[at++])) {
            return err_set(why, ERR_INVALID, "crontab: a character that is not plain ASCII");
        }
    }
    if (count == WORD_COUNT)
        return 0;
    return err_set(why, ERR_INVALID,
                   "crontab \"%.*s\": %zu words; there must be five: minute, hour, day of month, "
                   "month, day of week%s",
                   BYTES_FMT_ARG(text), count,
                   count == 6 ? " (no seconds, and no blank inside a word)" : "");
}

static bool begins_with_star(struct bytes word)
{
    return word.len > 0 && word.ptr[0] == '*';
}

static int64_t next_local(const struct crontab *crontab, int64_t local_s, int32_t last_year);

int crontab_parse(struct crontab *out, struct bytes text, struct err_text *why)
{
    struct parser parser = {.out = out, .why = why};
    struct bytes words[WORD_COUNT] = {{0}};
    int rv;

    memset(out, 0, sizeof(*out));
    if (text.len > CRONTAB_TEXT_MAX)
        return err_set(why, ERR_TOO_LARGE, "crontab: longer than %d characters", CRONTAB_TEXT_MAX);
    rv = split(out, text, words, why);
    for (parser.word = 0; rv == 0 && parser.word < WORD_COUNT; parser.word++) {
        struct values values = {0};
        uint8_t capitals[CRONTAB_TEXT_MAX];

        parser.text = words[parser.word];
        for (size_t i = 0; i < parser.text.len; i++)
            capitals[i] = (uint8_t)toupper(parser.text.ptr[i]);
        rv = read_list(&parser, bytes_of(capitals, parser.text.len), &values);
        keep(out, parser.word, &values);
    }
    if (rv)
        return rv;
    out->both_days = begins_with_star(words[DAY]) || begins_with_star(words[WEEKDAY]);
    out->fixed_time = !begins_with_star(words[MINUTE]) && !begins_with_star(words[HOUR]);
    if (next_local(out, 0, 1970 + CRONTAB_SEARCH_YEARS) == CRONTAB_NEVER)
        return err_set(why, ERR_INVALID,
                       "crontab \"%s\": never matches: no day of any year fits day of month, month "
                       "and day of week together",
                       out->text);
    return 0;
}

int crontab_of_words(struct crontab *out, const struct crontab_words *words, struct err_text *why)
{
    const struct bytes in_order[WORD_COUNT] = {words->minute, words->hour, words->day_of_month,
                                               words->month_of_year, words->day_of_week};
    struct buf text = {0};
    int rv = 0;

    for (size_t i = 0; i < WORD_COUNT && rv == 0; i++) {
        struct bytes word = in_order[i].ptr ? in_order[i] : bytes_str("*");

        if (word.len == 0 || word.len > CRONTAB_TEXT_MAX)
            rv = err_set(why, ERR_INVALID, "crontab: %s is empty or too long", rules[i].name);
        for (size_t at = 0; rv == 0 && at < word.len; at++)
            if (is_blank(word.ptr[at]))
                rv = err_set(why, ERR_INVALID, "crontab: %s \"%.*s\": no blanks inside a word",
                             rules[i].name, BYTES_FMT_ARG(word));
        buf_append_str(&text, i ? " " : "");
        buf_append(&text, word.ptr, word.len);
    }
    rv = rv ? rv : crontab_parse(out, buf_bytes(&text), why);
    buf_free(&text);
    return rv;
}

/* --- days ------------------------------------------------------------------------------------ */

static uint32_t days_by_weekday(const struct crontab *c, int32_t first_weekday, int32_t day_count)
{
    uint32_t days = 0;

    for (int32_t day = 1; day <= day_count; day++) {
        unsigned weekday = 1U << (first_weekday + day - 1) % 7;

        if ((c->weekdays & weekday) || (c->nth_weekdays[(day + 6) / 7] & weekday) ||
            ((c->last_weekdays & weekday) && day + 7 > day_count))
            days |= 1U << day;
    }
    return days;
}

/* Bit n: the nth day of the month matches. */
static uint32_t days_of_month(const struct crontab *c, int32_t year, int32_t month)
{
    int32_t count = civil_month_days(year, month);
    int32_t first_weekday = civil_weekday(civil_to_days(year, month, 1));
    int32_t last_weekday = (first_weekday + count - 1) % 7;
    uint32_t by_weekday = days_by_weekday(c, first_weekday, count);
    uint32_t by_date = c->days & (uint32_t)span(1, (unsigned)count);

    if (c->last_day)
        by_date |= 1U << count;
    if (c->last_workday)
        by_date |= 1U << (count - (last_weekday == 0 ? 2 : last_weekday == 6));
    return c->both_days ? by_date & by_weekday : by_date | by_weekday;
}

/* The lowest value of a set that is not below `from`; -1: none. */
static int32_t at_or_above(uint64_t set, int32_t from)
{
    uint64_t rest = from < 64 ? set & (UINT64_MAX << from) : 0;

    return rest ? __builtin_ctzll(rest) : -1;
}

/* The first matching day at or after `days`, a day number; CRONTAB_NEVER: not up to last_year. */
static int64_t next_day(const struct crontab *c, int64_t days, int32_t last_year)
{
    struct civil at = civil_of_days(days);

    for (; at.year <= last_year; at.day = 1) {
        if (c->months & 1U << at.month) {
            int32_t day = at_or_above(days_of_month(c, at.year, at.month), at.day);

            if (day > 0)
                return civil_to_days(at.year, at.month, day);
        }
        at.year += at.month == 12;
        at.month = at.month % 12 + 1;
    }
    return CRONTAB_NEVER;
}

/* The first matching minute of a day at or after `minute`; -1: none. */
static int32_t next_minute(const struct crontab *c, int32_t minute)
{
    int32_t hour = at_or_above(c->hours, minute / 60);
    int32_t found = hour == minute / 60 ? at_or_above(c->minutes, minute % 60) : -1;

    if (hour == minute / 60 && found < 0)
        hour = at_or_above(c->hours, hour + 1);
    if (hour < 0)
        return -1;
    return hour * 60 + (found >= 0 ? found : at_or_above(c->minutes, 0));
}

/* The first match at or after a local time, counted as if that were UTC. */
static int64_t next_local(const struct crontab *c, int64_t local_s, int32_t last_year)
{
    int64_t minutes = -civil_floor_div(-local_s, 60);
    int64_t day = civil_floor_div(minutes, 24 * 60);
    int32_t of_day = (int32_t)(minutes - day * 24 * 60);
    int64_t found = next_day(c, day, last_year);

    if (found == day) {
        int32_t minute = next_minute(c, of_day);

        if (minute >= 0)
            return day * CIVIL_DAY_S + minute * 60;
        found = next_day(c, day + 1, last_year);
    }
    if (found == CRONTAB_NEVER)
        return CRONTAB_NEVER;
    return found * CIVIL_DAY_S + next_minute(c, 0) * 60;
}

/* --- clocks ---------------------------------------------------------------------------------- */

/* The latest local time that clocks showed before `at_s`: more than just before it, if they were
 * put back a while ago. */
static int64_t latest_shown(const struct zone *zone, int64_t at_s)
{
    struct zone_span span_before = zone_span_at(zone, at_s - 1);
    int64_t latest = at_s - 1 + span_before.offset_s;

    while (span_before.from_s > at_s - 2 * ZONE_OFFSET_MAX) {
        int64_t last_s = span_before.from_s - 1;

        span_before = zone_span_at(zone, last_s);
        if (last_s + span_before.offset_s > latest)
            latest = last_s + span_before.offset_s;
    }
    return latest;
}

/* The first moment at or after `from_s` at which clocks show `local_s` or more. */
static int64_t when_shown(const struct zone *zone, int64_t local_s, int64_t from_s)
{
    int64_t at_s = local_s - ZONE_OFFSET_MAX > from_s ? local_s - ZONE_OFFSET_MAX : from_s;
    struct zone_span here = zone_span_at(zone, at_s);

    while (local_s - here.offset_s >= here.until_s)
        here = zone_span_at(zone, here.until_s);
    at_s = at_s > here.from_s ? at_s : here.from_s;
    return local_s - here.offset_s > at_s ? local_s - here.offset_s : at_s;
}

static int64_t next_by_clock(const struct crontab *c, const struct zone *zone, int64_t from_s,
                             int32_t last_year)
{
    for (;;) {
        struct zone_span here = zone_span_at(zone, from_s);
        int64_t local_s = next_local(c, from_s + here.offset_s, last_year);

        if (local_s == CRONTAB_NEVER || local_s - here.offset_s < here.until_s)
            return local_s == CRONTAB_NEVER ? CRONTAB_NEVER : local_s - here.offset_s;
        if (here.until_s == INT64_MAX)
            return CRONTAB_NEVER;
        from_s = here.until_s;
    }
}

int64_t crontab_next(const struct crontab *crontab, const struct zone *zone, int64_t from_s)
{
    int64_t local_s;
    int32_t last_year;

    if (from_s < CIVIL_MIN_S + CIVIL_DAY_S * 3LL ||
        from_s > CIVIL_MAX_S - (CRONTAB_SEARCH_YEARS + 10LL) * 366 * CIVIL_DAY_S)
        return CRONTAB_NEVER;
    last_year = civil_of_days(civil_floor_div(from_s, CIVIL_DAY_S)).year + CRONTAB_SEARCH_YEARS + 1;
    if (zone == NULL)
        return next_local(crontab, from_s, last_year);
    if (!crontab->fixed_time)
        return next_by_clock(crontab, zone, from_s, last_year);
    local_s = next_local(crontab, latest_shown(zone, from_s) + 1, last_year);
    return local_s == CRONTAB_NEVER ? CRONTAB_NEVER : when_shown(zone, local_s, from_s);
}

/* crontab_next(x) <= until_s holds for every x up to the last match and for none above it. */
int64_t crontab_last(const struct crontab *crontab, const struct zone *zone, int64_t from_s,
                     int64_t until_s)
{
    int64_t low = from_s, high = until_s;

    if (from_s > until_s || crontab_next(crontab, zone, from_s) > until_s)
        return CRONTAB_NEVER;
    for (int64_t back = 60; high - back > low; back *= 2) /* it is near, most times */
        if (crontab_next(crontab, zone, high - back) <= until_s)
            low = high - back;
    while (low < high) {
        int64_t middle = low + (high - low + 1) / 2;

        if (crontab_next(crontab, zone, middle) <= until_s)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}
