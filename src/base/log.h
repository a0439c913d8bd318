/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records to stderr, one line each, text or JSON (spec/broker.md 10.3).
 * text: `2026-01-01T00:00:00.000000Z  INFO taskmill::kafka: message key=value key="two words"`
 * JSON: {"timestamp":...,"level":...,"message":...,"target":...,"key":value,...}
 * The filter is a comma list of `level` or `target=level` (targets match by prefix, the longest
 * wins; those of the original's modules, taskbroker::..., mean the ones here that write their
 * records); levels: off, error, warn, info, debug, trace. ANSI colours only on a terminal and
 * without NO_COLOR. Process-wide by nature (stderr is); thread-safe; a record is one write(2).
 */
#ifndef TASKMILL_BASE_LOG_H
#define TASKMILL_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"

enum log_level { LOG_OFF, LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG, LOG_TRACE };
enum log_format { LOG_TEXT, LOG_JSON };

/* A field of a record; build with the log_* helpers below. */
struct log_field {
    const char *key; /* NULL ends the list */
    enum { LOG_FIELD_STR, LOG_FIELD_INT, LOG_FIELD_DOUBLE, LOG_FIELD_BOOL } kind;
    struct bytes str;
    int64_t i;
    double d;
};

/* Bad directives are skipped; the first one is named in `why` and ERR_INVALID returned (the good
 * ones still count). Call before threads start. Default: text, "info". */
int log_init(enum log_format format, const char *filter, struct err_text *why);
bool log_enabled(enum log_level level, const char *target);
void log_write(enum log_level level, const char *target, const struct log_field *fields,
               const char *fmt, ...) __attribute__((format(printf, 4, 5)));

static inline struct log_field log_str(const char *key, const char *value)
{
    return (struct log_field){.key = key, .kind = LOG_FIELD_STR, .str = bytes_str(value)};
}

static inline struct log_field log_bytes(const char *key, struct bytes value)
{
    return (struct log_field){.key = key, .kind = LOG_FIELD_STR, .str = value};
}

static inline struct log_field log_int(const char *key, int64_t value)
{
    return (struct log_field){.key = key, .kind = LOG_FIELD_INT, .i = value};
}

static inline struct log_field log_double(const char *key, double value)
{
    return (struct log_field){.key = key, .kind = LOG_FIELD_DOUBLE, .d = value};
}

static inline struct log_field log_bool(const char *key, bool value)
{
    return (struct log_field){.key = key, .kind = LOG_FIELD_BOOL, .i = value};
}

#define LOG_FIELDS(...) ((const struct log_field[]){__VA_ARGS__, {.key = NULL}})

/* log_info("taskmill::kafka", LOG_FIELDS(log_int("partition", 3)), "assigned %s", topic);
 * fields may be NULL. Arguments are evaluated only if the record is wanted. */
#define log_at(level, target, fields, ...)                 \
    do {                                                   \
        if (log_enabled(level, target))                    \
            log_write(level, target, fields, __VA_ARGS__); \
    } while (0)
#define log_error(target, fields, ...) log_at(LOG_ERROR, target, fields, __VA_ARGS__)
#define log_warn(target, fields, ...)  log_at(LOG_WARN, target, fields, __VA_ARGS__)
#define log_info(target, fields, ...)  log_at(LOG_INFO, target, fields, __VA_ARGS__)
#define log_debug(target, fields, ...) log_at(LOG_DEBUG, target, fields, __VA_ARGS__)

#endif
