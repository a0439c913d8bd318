/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log records carry text from strangers: task names, error messages, addresses. So everything that
 * is not a plain printable character is escaped, in both formats: a record is always one line,
 * never moves the cursor of a terminal, is always valid UTF-8 (U+FFFD stands for a bad byte), and
 * has a length limit a string.
 */
#include "base/log.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

#define LOG_DIRECTIVES_MAX 32
#define LOG_TARGET_MAX     64
#define LOG_STRING_MAX     8192 /* bytes of one message or value; the rest is cut with "..." */

struct directive {
    char target[LOG_TARGET_MAX]; /* "" matches all */
    size_t len;
    enum log_level level;
};

static struct {
    enum log_format format;
    bool colour;
    size_t count;
    struct directive directives[LOG_DIRECTIVES_MAX];
    enum log_level most; /* the most talkative level of all directives */
} log_state = {.count = 1, .directives = {{.level = LOG_INFO}}, .most = LOG_INFO};

static const char *const level_names[] = {"OFF", "ERROR", "WARN", "INFO", "DEBUG", "TRACE"};
#define COLOUR_DIM "\x1b[2m"
#define COLOUR_OFF "\x1b[0m"
/* The colours of the original's text format. */
static const char *const level_colours[] = {"",         "\x1b[31m", "\x1b[33m",
                                            "\x1b[32m", "\x1b[34m", "\x1b[35m"};

static bool parse_level(struct bytes word, enum log_level *level)
{
    for (int i = LOG_OFF; i <= LOG_TRACE; i++) {
        if (word.len == strlen(level_names[i]) &&
            strncasecmp((const char *)word.ptr, level_names[i], word.len) == 0) {
            *level = (enum log_level)i;
            return true;
        }
    }
    return false;
}

static struct bytes trim(struct bytes s)
{
    while (s.len && (s.ptr[0] == ' ' || s.ptr[0] == '\t'))
        s = bytes_of(s.ptr + 1, s.len - 1);
    while (s.len && (s.ptr[s.len - 1] == ' ' || s.ptr[s.len - 1] == '\t'))
        s.len--;
    return s;
}

static bool valid_target(struct bytes target)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_:.-";

    if (target.len == 0 || target.len >= LOG_TARGET_MAX)
        return false;
    for (size_t i = 0; i < target.len; i++)
        if (!memchr(allowed, target.ptr[i], sizeof(allowed) - 1))
            return false;
    return true;
}

/* A later directive for the same target replaces the earlier one. */
static int add_directive(struct bytes target, enum log_level level)
{
    struct directive *d = log_state.directives, *end = d + log_state.count;

    while (d < end && !bytes_equal(bytes_of(d->target, d->len), target))
        d++;
    if (d == end) {
        if (log_state.count == LOG_DIRECTIVES_MAX)
            return ERR_FULL;
        log_state.count++;
        memcpy(d->target, target.ptr, target.len);
        d->len = target.len;
    }
    d->level = level;
    return 0;
}

/* Operators of the original name its modules. The whole program is the whole program; a module is
 * where its records are written here, and below it (taskbroker::kafka::consumer). */
static struct bytes own_target(struct bytes target)
{
    static const struct {
        const char *theirs, *ours;
    } modules[] = {
        {"taskbroker::config", "taskmill::config"},
        {"taskbroker::grpc", "taskmill::rpc"},
        {"taskbroker::kafka", "taskmill::kafka"},
        {"taskbroker::runtime_config", "taskmill::runtime"},
        {"taskbroker::store", "taskmill::store"},
        {"taskbroker::upkeep", "taskmill::engine"},
    };
    for (size_t i = 0; i < sizeof(modules) / sizeof(modules[0]); i++) {
        size_t len = strlen(modules[i].theirs);
        if (target.len >= len && memcmp(target.ptr, modules[i].theirs, len) == 0 &&
            (target.len == len || target.ptr[len] == ':'))
            return bytes_str(modules[i].ours);
    }
    return bytes_equal_str(target, "taskbroker") ? bytes_str("taskmill") : target;
}

static int parse_directive(struct bytes text)
{
    const uint8_t *equals = (const uint8_t *)memchr(text.ptr, '=', text.len);
    struct bytes target = bytes_str(""), word = text;
    enum log_level level;

    if (equals) {
        target = trim(bytes_of(text.ptr, (size_t)(equals - text.ptr)));
        word = trim(bytes_of(equals + 1, (size_t)(text.ptr + text.len - equals) - 1));
        if (!valid_target(target))
            return ERR_INVALID;
        target = own_target(target);
    }
    if (!parse_level(word, &level))
        return ERR_INVALID;
    return add_directive(target, level);
}

static int parse_filter(struct bytes filter, struct err_text *why)
{
    int result = 0;

    while (filter.len) {
        const uint8_t *comma = (const uint8_t *)memchr(filter.ptr, ',', filter.len);
        size_t len = comma ? (size_t)(comma - filter.ptr) : filter.len;
        struct bytes text = trim(bytes_of(filter.ptr, len));
        int rv = text.len ? parse_directive(text) : 0;
        if (rv && !result)
            result = err_set(why, ERR_INVALID, "log filter: \"%.*s\" is skipped: %s",
                             BYTES_FMT_ARG(text),
                             rv == ERR_FULL ? "too many directives"
                                            : "not a level (off, error, warn, info, debug, trace) "
                                              "or target=level");
        len += comma ? 1 : 0;
        filter = bytes_of(filter.ptr + len, filter.len - len);
    }
    return result;
}

static bool want_colour(void)
{
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");

    return isatty(STDERR_FILENO) && !(no_color && *no_color) && !(term && !strcmp(term, "dumb"));
}

int log_init(enum log_format format, const char *filter, struct err_text *why)
{
    log_state.format = format;
    log_state.colour = format == LOG_TEXT && want_colour();
    log_state.count = 0;
    int rv = filter ? parse_filter(bytes_str(filter), why) : 0;
    if (log_state.count == 0)
        (void)add_directive(bytes_str(""), LOG_INFO);
    log_state.most = LOG_OFF;
    for (size_t i = 0; i < log_state.count; i++)
        if (log_state.directives[i].level > log_state.most)
            log_state.most = log_state.directives[i].level;
    return rv;
}

bool log_enabled(enum log_level level, const char *target)
{
    const struct directive *best = NULL;

    if (level == LOG_OFF || level > log_state.most)
        return false;
    for (size_t i = 0; i < log_state.count; i++) {
        const struct directive *d = &log_state.directives[i];
        if (strncmp(target, d->target, d->len) == 0 && (!best || d->len > best->len))
            best = d;
    }
    return best && level <= best->level;
}

/* Length of the well-formed UTF-8 character at the start of `s`, or 0. */
static size_t utf8_char(struct bytes s, uint32_t *code)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    uint8_t lead = s.ptr[0];
    size_t len = lead < 0x80             ? 1
                 : (lead & 0xE0) == 0xC0 ? 2
                 : (lead & 0xF0) == 0xE0 ? 3
                 : (lead & 0xF8) == 0xF0 ? 4
                                         : 0;

    if (len == 0 || len > s.len)
        return 0;
    *code = len == 1 ? lead : lead & (0xFFu >> (len + 1));
    for (size_t i = 1; i < len; i++) {
        if ((s.ptr[i] & 0xC0) != 0x80)
            return 0;
        *code = *code << 6 | (s.ptr[i] & 0x3F);
    }
    bool surrogate = *code >= 0xD800 && *code <= 0xDFFF;
    return *code < least[len] || *code > 0x10FFFF || surrogate ? 0 : len;
}

/* Controls, and what some readers take for a line end. */
static bool must_escape(uint32_t code)
{
    return code < 0x20 || (code >= 0x7F && code < 0xA0) || code == 0x2028 || code == 0x2029;
}

static void append_escape(struct buf *out, uint32_t code)
{
    switch (code) {
    case '\n':
        buf_append_str(out, "\\n");
        break;
    case '\r':
        buf_append_str(out, "\\r");
        break;
    case '\t':
        buf_append_str(out, "\\t");
        break;
    default:
        buf_printf(out, "\\u%04x", code);
    }
}

/* Appends `s` with the escapes of JSON, which text records use too; quotes and backslashes are
 * escaped only `quoted`. */
static void append_clean(struct buf *out, struct bytes s, bool quoted)
{
    size_t at = 0;

    while (at < s.len && at < LOG_STRING_MAX) {
        uint32_t code;
        size_t len = utf8_char(bytes_of(s.ptr + at, s.len - at), &code);
        if (len == 0) {
            buf_append_str(out, "\xEF\xBF\xBD");
            at++;
            continue;
        }
        if (must_escape(code)) {
            append_escape(out, code);
        } else {
            if (quoted && (code == '"' || code == '\\'))
                buf_append_byte(out, '\\');
            buf_append(out, s.ptr + at, len);
        }
        at += len;
    }
    if (at < s.len)
        buf_append_str(out, "...");
}

static void append_quoted(struct buf *out, struct bytes s)
{
    buf_append_byte(out, '"');
    append_clean(out, s, true);
    buf_append_byte(out, '"');
}

/* May the value stand in a text record without quotes? */
static bool is_plain_word(struct bytes s)
{
    for (size_t i = 0; i < s.len; i++)
        if (s.ptr[i] <= ' ' || s.ptr[i] >= 0x7F || strchr("\"\\=,{}[]", s.ptr[i]))
            return false;
    return s.len > 0;
}

/* The shorter of two notations that give the same number back. */
static void append_double(struct buf *out, double d)
{
    char s[32];

    if (!isfinite(d)) {
        bool json = log_state.format == LOG_JSON; /* which has no such numbers */
        buf_append_str(out, json ? "null" : isnan(d) ? "nan" : d > 0 ? "inf" : "-inf");
        return;
    }
    (void)snprintf(s, sizeof(s), "%.15g", d);
    if (strtod(s, NULL) != d)
        (void)snprintf(s, sizeof(s), "%.17g", d);
    buf_append_str(out, s);
}

static void append_value(struct buf *out, const struct log_field *f)
{
    switch (f->kind) {
    case LOG_FIELD_STR:
        if (log_state.format == LOG_TEXT && is_plain_word(f->str))
            append_clean(out, f->str, false);
        else
            append_quoted(out, f->str);
        break;
    case LOG_FIELD_INT:
        buf_printf(out, "%lld", (long long)f->i);
        break;
    case LOG_FIELD_DOUBLE:
        append_double(out, f->d);
        break;
    case LOG_FIELD_BOOL:
        buf_append_str(out, f->i ? "true" : "false");
        break;
    }
}

static void append_timestamp(struct buf *out)
{
    int64_t us = clock_wall_us();
    time_t seconds = (time_t)(us / 1000000);
    char s[32];
    struct tm tm = {0};

    (void)gmtime_r(&seconds, &tm); /* fails only beyond the year 2^31 */
    (void)strftime(s, sizeof(s), "%Y-%m-%dT%H:%M:%S", &tm);
    buf_printf(out, "%s.%06dZ", s, (int)(us % 1000000));
}

static void colour(struct buf *out, const char *code)
{
    if (log_state.colour)
        buf_append_str(out, code);
}

static void format_text(struct buf *out, enum log_level level, const char *target,
                        const struct log_field *fields, struct bytes message)
{
    colour(out, COLOUR_DIM);
    append_timestamp(out);
    colour(out, COLOUR_OFF);
    buf_append_byte(out, ' ');
    colour(out, level_colours[level]);
    buf_printf(out, "%5s", level_names[level]);
    colour(out, COLOUR_OFF);
    buf_append_byte(out, ' ');
    colour(out, COLOUR_DIM);
    append_clean(out, bytes_str(target), false);
    buf_append_byte(out, ':');
    colour(out, COLOUR_OFF);
    buf_append_byte(out, ' ');
    append_clean(out, message, false);
    for (const struct log_field *f = fields; f && f->key; f++) {
        buf_append_byte(out, ' ');
        colour(out, COLOUR_DIM);
        append_clean(out, bytes_str(f->key), false);
        buf_append_byte(out, '=');
        colour(out, COLOUR_OFF);
        append_value(out, f);
    }
}

static void format_json(struct buf *out, enum log_level level, const char *target,
                        const struct log_field *fields, struct bytes message)
{
    buf_append_str(out, "{\"timestamp\":\"");
    append_timestamp(out);
    buf_printf(out, "\",\"level\":\"%s\",\"message\":", level_names[level]);
    append_quoted(out, message);
    for (const struct log_field *f = fields; f && f->key; f++) {
        buf_append_byte(out, ',');
        append_quoted(out, bytes_str(f->key));
        buf_append_byte(out, ':');
        append_value(out, f);
    }
    buf_append_str(out, ",\"target\":");
    append_quoted(out, bytes_str(target));
    buf_append_byte(out, '}');
}

/* One write for a record, so that those of several threads and processes do not mix; a pipe may
 * still take a long one in parts. When stderr is gone or full there is nobody left to tell. */
static void write_record(const struct buf *out)
{
    size_t done = 0;

    while (done < out->len) {
        ssize_t len = write(STDERR_FILENO, out->ptr + done, out->len - done);
        if (len > 0)
            done += (size_t)len;
        else if (len == 0 || errno != EINTR)
            return;
    }
}

void log_write(enum log_level level, const char *target, const struct log_field *fields,
               const char *fmt, ...)
{
    struct buf out = {0}, message = {0};
    int saved_errno = errno; /* so that a caller may log first and look at errno then */
    va_list ap;

    assert(level > LOG_OFF && level <= LOG_TRACE);
    va_start(ap, fmt);
    buf_vprintf(&message, fmt, ap);
    va_end(ap);
    if (log_state.format == LOG_JSON)
        format_json(&out, level, target, fields, buf_bytes(&message));
    else
        format_text(&out, level, target, fields, buf_bytes(&message));
    buf_append_byte(&out, '\n');
    write_record(&out);
    buf_free(&message);
    buf_free(&out);
    errno = saved_errno;
}
