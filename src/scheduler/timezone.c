/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A TZif file (RFC 8536) from version 2 on, all numbers big-endian:
 *
 *     header, 44 bytes   "TZif", version, 15 unused, six counts: UT flags, standard flags, leap
 *                        seconds, transitions, types, characters
 *     data of version 1  with moments of 4 bytes; skipped
 *     header again
 *     data               moments of 8 bytes, a type for each, types of 6 bytes (offset of 4,
 *                        daylight flag, name), characters, leap seconds of 12, flags
 *     footer             newline, POSIX TZ string, newline
 *
 * Before the first moment type 0 holds; after the last one the footer, or without one the last
 * type.
 */
#include "scheduler/timezone.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "scheduler/civil.h"

#define HEADER_LEN     44
#define TYPE_LEN       6
#define RULE_HOURS_MAX 167 /* of version 3 */

/* A day of a year, and the local time on it. */
struct rule_date {
    enum { BY_MONTH, BY_DAY_WITHOUT_LEAP, BY_DAY } kind;
    int32_t month, week, weekday; /* Mm.w.d; week 5 is the last */
    int32_t day;                  /* Jn: 1 to 365, never 29 February; n: 0 to 365 */
    int32_t time_s;
};

struct rule {
    int32_t standard_s, daylight_s;
    bool has_daylight;
    struct rule_date start, end; /* of daylight time; on standard and on daylight clocks */
};

struct change {
    int64_t at_s;
    int32_t offset_s; /* from then on */
};

struct zone {
    char *name;
    struct change *changes; /* ascending */
    size_t count;
    int32_t first_offset_s; /* before changes[0] */
    struct rule rule;       /* after the last change */
};

/* --- the footer's rule ------------------------------------------------------------------------ */

struct scan {
    const uint8_t *at, *end;
};

static bool take(struct scan *scan, uint8_t c)
{
    if (scan->at == scan->end || *scan->at != c)
        return false;
    scan->at++;
    return true;
}

static bool take_number(struct scan *scan, int32_t max, int32_t *out)
{
    const uint8_t *start = scan->at;
    int32_t value = 0;

    for (; scan->at < scan->end && *scan->at >= '0' && *scan->at <= '9'; scan->at++) {
        value = value * 10 + (*scan->at - '0');
        if (value > max)
            return false;
    }
    *out = value;
    return scan->at > start;
}

/* [+-]hh[:mm[:ss]] */
static bool take_time(struct scan *scan, int32_t hours_max, int32_t *out)
{
    bool negative = take(scan, '-');
    int32_t hours, minutes = 0, seconds = 0;

    if (!negative)
        take(scan, '+');
    if (!take_number(scan, hours_max, &hours))
        return false;
    if (take(scan, ':') &&
        (!take_number(scan, 59, &minutes) || (take(scan, ':') && !take_number(scan, 59, &seconds))))
        return false;
    *out = (hours * 3600 + minutes * 60 + seconds) * (negative ? -1 : 1);
    return true;
}

static bool is_letter(uint8_t c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

/* CET, or <+03>: three characters at least. */
static bool skip_name(struct scan *scan)
{
    bool quoted = take(scan, '<');
    const uint8_t *start = scan->at;

    while (scan->at < scan->end && (quoted ? *scan->at != '>' : is_letter(*scan->at)))
        scan->at++;
    return scan->at - start >= 3 && (!quoted || take(scan, '>'));
}

static bool take_month_date(struct scan *scan, struct rule_date *date)
{
    date->kind = BY_MONTH;
    return take_number(scan, 12, &date->month) && date->month >= 1 && take(scan, '.') &&
           take_number(scan, 5, &date->week) && date->week >= 1 && take(scan, '.') &&
           take_number(scan, 6, &date->weekday);
}

static bool take_date(struct scan *scan, struct rule_date *date)
{
    bool ok;

    if (take(scan, 'M')) {
        ok = take_month_date(scan, date);
    } else if (take(scan, 'J')) {
        date->kind = BY_DAY_WITHOUT_LEAP;
        ok = take_number(scan, 365, &date->day) && date->day >= 1;
    } else {
        date->kind = BY_DAY;
        ok = take_number(scan, 365, &date->day);
    }
    date->time_s = 2 * 3600;
    return ok && (!take(scan, '/') || take_time(scan, RULE_HOURS_MAX, &date->time_s));
}

/* std offset [dst [offset] , start[/time] , end[/time]] */
static bool parse_rule(struct bytes text, struct rule *rule)
{
    struct scan scan = {.at = text.ptr, .end = text.ptr + text.len};
    int32_t west;

    *rule = (struct rule){0};
    if (!skip_name(&scan) || !take_time(&scan, 24, &west))
        return false;
    rule->standard_s = -west; /* POSIX counts to the west */
    if (scan.at == scan.end)
        return true;
    rule->has_daylight = true;
    rule->daylight_s = rule->standard_s + 3600;
    if (!skip_name(&scan))
        return false;
    if (scan.at < scan.end && *scan.at != ',') {
        if (!take_time(&scan, 24, &west))
            return false;
        rule->daylight_s = -west;
    }
    return take(&scan, ',') && take_date(&scan, &rule->start) && take(&scan, ',') &&
           take_date(&scan, &rule->end) && scan.at == scan.end;
}

/* The local time of a rule's date, counted as if it were UTC. */
static int64_t date_in_year(const struct rule_date *date, int32_t year)
{
    int64_t day = civil_to_days(year, 1, 1);

    if (date->kind == BY_DAY) {
        day += date->day;
    } else if (date->kind == BY_DAY_WITHOUT_LEAP) {
        day += date->day - 1 + (civil_is_leap(year) && date->day >= 60);
    } else {
        int32_t days = civil_month_days(year, date->month);
        int32_t of_month;

        day = civil_to_days(year, date->month, 1);
        of_month = (date->weekday - civil_weekday(day) + 7) % 7 + (date->week - 1) * 7;
        day += of_month < days ? of_month : of_month - 7;
    }
    return day * CIVIL_DAY_S + date->time_s;
}

/* Keeps the order of equal moments: the later one counts. */
static void insert(struct change *changes, size_t count, struct change change)
{
    for (; count > 0 && changes[count - 1].at_s > change.at_s; count--)
        changes[count] = changes[count - 1];
    changes[count] = change;
}

static struct zone_span span_by_rule(const struct rule *rule, int64_t at_s)
{
    struct zone_span span = {INT64_MIN, INT64_MAX, rule->standard_s};
    struct change changes[2 * 5];
    size_t count = 0;
    int32_t year;

    if (!rule->has_daylight || at_s < CIVIL_MIN_S + 800LL * CIVIL_DAY_S)
        return span;
    if (at_s > CIVIL_MAX_S) {
        span.from_s = CIVIL_MAX_S + 1;
        return span;
    }
    /* A date may lie a week before or after its year. */
    year = civil_of_days(civil_floor_div(at_s, CIVIL_DAY_S)).year;
    for (int32_t y = year - 2; y <= year + 2; y++) {
        insert(changes, count++,
               (struct change){date_in_year(&rule->start, y) - rule->standard_s, rule->daylight_s});
        insert(changes, count++,
               (struct change){date_in_year(&rule->end, y) - rule->daylight_s, rule->standard_s});
    }
    for (size_t i = 0; i < count && changes[i].at_s <= at_s; i++) {
        span = (struct zone_span){changes[i].at_s, INT64_MAX, changes[i].offset_s};
        if (i + 1 < count)
            span.until_s = changes[i + 1].at_s;
    }
    return span;
}

/* --- the table -------------------------------------------------------------------------------- */

static uint64_t big_endian(const uint8_t *ptr, size_t size)
{
    uint64_t value = 0;

    for (size_t i = 0; i < size; i++)
        value = value << 8 | ptr[i];
    return value;
}

struct header {
    size_t ut_flags, standard_flags, leaps, times, types, chars;
};

/* Cuts a header off the file; false if there is none or its counts cannot be. */
static bool take_header(struct bytes *file, struct header *out, uint8_t *version)
{
    size_t *const counts[] = {&out->ut_flags, &out->standard_flags, &out->leaps,
                              &out->times,    &out->types,          &out->chars};

    if (file->len < HEADER_LEN || memcmp(file->ptr, "TZif", 4) != 0)
        return false;
    *version = file->ptr[4];
    for (size_t i = 0; i < 6; i++) {
        *counts[i] = (size_t)big_endian(file->ptr + 20 + i * 4, 4);
        if (*counts[i] > ZONE_FILE_MAX)
            return false;
    }
    *file = bytes_of(file->ptr + HEADER_LEN, file->len - HEADER_LEN);
    return true;
}

static size_t data_len(const struct header *h, size_t time_len)
{
    return h->times * (time_len + 1) + h->types * TYPE_LEN + h->chars + h->leaps * (time_len + 4) +
           h->standard_flags + h->ut_flags;
}

static bool offset_of_type(const struct header *h, const uint8_t *types, size_t index, int32_t *out)
{
    if (index >= h->types)
        return false;
    *out = (int32_t)(uint32_t)big_endian(types + index * TYPE_LEN, 4);
    return *out >= -ZONE_OFFSET_MAX && *out <= ZONE_OFFSET_MAX;
}

/* NULL, or what is wrong. */
static const char *read_table(struct zone *zone, const struct header *h, const uint8_t *data)
{
    const uint8_t *indices = data + h->times * 8, *types = indices + h->times;

    if (!offset_of_type(h, types, 0, &zone->first_offset_s))
        return "its first type is missing or out of range";
    zone->changes = mem_calloc(h->times + 1, sizeof(*zone->changes));
    for (size_t i = 0; i < h->times; i++) {
        struct change *change = &zone->changes[i];

        change->at_s = (int64_t)big_endian(data + i * 8, 8);
        if (i > 0 && change->at_s <= zone->changes[i - 1].at_s)
            return "its moments are not in order";
        if (!offset_of_type(h, types, indices[i], &change->offset_s))
            return "a type is missing or out of range";
        zone->count++;
    }
    return NULL;
}

static const char *read_footer(struct zone *zone, struct bytes footer)
{
    const uint8_t *end;

    if (footer.len < 2 || footer.ptr[0] != '\n')
        return "it ends too early";
    footer = bytes_of(footer.ptr + 1, footer.len - 1);
    end = memchr(footer.ptr, '\n', footer.len);
    if (end == NULL)
        return "it ends too early";
    footer.len = (size_t)(end - footer.ptr);
    if (footer.len == 0) {
        zone->rule.standard_s =
            zone->count ? zone->changes[zone->count - 1].offset_s : zone->first_offset_s;
        return NULL;
    }
    return parse_rule(footer, &zone->rule) ? NULL : "the rule at its end cannot be read";
}

static const char *read_file(struct zone *zone, struct bytes file, int *code)
{
    struct header header;
    uint8_t version;
    const char *fault;

    *code = ERR_MALFORMED;
    if (!take_header(&file, &header, &version))
        return "it is not a time zone file (TZif)";
    *code = ERR_UNSUPPORTED;
    if (version < '2')
        return "its format is version 1, which ends in 2038";
    *code = ERR_MALFORMED;
    if (data_len(&header, 4) > file.len)
        return "it ends too early";
    file = bytes_of(file.ptr + data_len(&header, 4), file.len - data_len(&header, 4));
    if (!take_header(&file, &header, &version) || data_len(&header, 8) > file.len)
        return "it ends too early";
    *code = ERR_UNSUPPORTED;
    if (header.leaps > 0)
        return "it counts leap seconds, which Unix time does not";
    *code = ERR_MALFORMED;
    fault = read_table(zone, &header, file.ptr);
    return fault ? fault
                 : read_footer(zone, bytes_of(file.ptr + data_len(&header, 8),
                                              file.len - data_len(&header, 8)));
}

int zone_parse(struct zone **out, const char *name, struct bytes file, struct err_text *why)
{
    struct zone *zone = mem_zalloc(sizeof(*zone));
    const char *fault = "larger than any zone's file";
    int code = ERR_TOO_LARGE;

    zone->name = mem_strdup(name);
    if (file.len <= ZONE_FILE_MAX)
        fault = read_file(zone, file, &code);
    if (fault == NULL) {
        *out = zone;
        return 0;
    }
    zone_free(zone);
    return err_set(why, code, "timezone \"%s\": %s", name, fault);
}

/* --- files ------------------------------------------------------------------------------------ */

/* Paths stay below the folder: no part of a name begins with a dot. */
static bool is_name(struct bytes name)
{
    uint8_t before = '/';

    for (size_t i = 0; i < name.len; i++) {
        uint8_t c = name.ptr[i];
        bool plain = is_letter(c) || (c >= '0' && c <= '9') || c == '_' || c == '+' || c == '-';

        if (!plain && (before == '/' || (c != '/' && c != '.')))
            return false;
        before = c;
    }
    return name.len > 0 && name.len <= ZONE_NAME_MAX && before != '/';
}

static int read_content(const char *path, struct buf *content)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat about;
    ssize_t got = 0;
    int rv = 0;

    if (fd < 0)
        return errno == ENOENT || errno == ENOTDIR ? ERR_NOT_FOUND : ERR_IO;
    if (fstat(fd, &about) || !S_ISREG(about.st_mode))
        rv = ERR_NOT_FOUND;
    while (rv == 0 && content->len <= ZONE_FILE_MAX) {
        buf_reserve(content, 4096);
        got = read(fd, content->ptr + content->len, content->cap - content->len);
        if (got <= 0)
            break;
        content->len += (size_t)got;
    }
    close(fd);
    return got < 0 ? ERR_IO : rv;
}

int zone_read(struct zone **out, const char *folder, struct bytes name, struct err_text *why)
{
    struct buf path = {0}, content = {0};
    char text[ZONE_NAME_MAX + 1] = {0};
    int rv;

    if (!is_name(name))
        return err_set(why, ERR_INVALID,
                       "timezone \"%.*s\" is no name of a time zone; write it like Europe/Berlin",
                       BYTES_FMT_ARG(name));
    folder = folder ? folder : getenv("TZDIR");
    folder = folder && folder[0] ? folder : ZONE_FOLDER;
    memcpy(text, name.ptr, name.len);
    buf_printf(&path, "%s/%s", folder, text);
    rv = read_content(buf_cstr(&path), &content);
    if (rv == ERR_NOT_FOUND)
        err_set(why, rv,
                "timezone \"%s\": there is no such zone in %s (names are like Europe/Berlin; the "
                "package tzdata brings them)",
                text, folder);
    else if (rv)
        err_set(why, rv, "timezone \"%s\": %s cannot be read: %s", text, buf_cstr(&path),
                strerror(errno));
    else
        rv = zone_parse(out, text, buf_bytes(&content), why);
    buf_free(&path);
    buf_free(&content);
    return rv;
}

void zone_free(struct zone *zone)
{
    if (zone == NULL)
        return;
    mem_free(zone->name);
    mem_free(zone->changes);
    mem_free(zone);
}

const char *zone_name(const struct zone *zone)
{
    return zone->name;
}

bool zone_is_utc(struct bytes name)
{
    static const char *const names[] = {"UTC", "GMT", "Etc/UTC", "Etc/GMT"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (bytes_equal_str(name, names[i]))
            return true;
    return false;
}

/* How many changes are not after `at_s`. */
static size_t changes_until(const struct zone *zone, int64_t at_s)
{
    size_t low = 0, high = zone->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (zone->changes[middle].at_s <= at_s)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct zone_span zone_span_at(const struct zone *zone, int64_t at_s)
{
    struct zone_span span = {INT64_MIN, INT64_MAX, 0};
    size_t passed;

    if (zone == NULL)
        return span;
    passed = changes_until(zone, at_s);
    if (passed == zone->count) {
        span = span_by_rule(&zone->rule, at_s);
        if (passed > 0 && span.from_s < zone->changes[passed - 1].at_s)
            span.from_s = zone->changes[passed - 1].at_s;
        return span;
    }
    span.until_s = zone->changes[passed].at_s;
    span.offset_s = zone->first_offset_s;
    if (passed > 0) {
        span.from_s = zone->changes[passed - 1].at_s;
        span.offset_s = zone->changes[passed - 1].offset_s;
    }
    return span;
}
