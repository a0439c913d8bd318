/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Time zones by their IANA names ("Europe/Berlin"), from the system's TZif files (Debian package
 * tzdata; RFC 8536, versions 2 to 4).
 *
 * Why a reader of our own: glibc's localtime_r knows one zone, that of the environment, and
 * changing the environment is not safe with threads; it has no tzalloc. Debian's C libraries with
 * zones (libical, GLib) bring whole calendars or main loops, cctz is C++. The format is small: a
 * table of moments at which the offset changes, and a rule (a POSIX TZ string) for the time after
 * the table. Names, the daylight flag and the counts of leap seconds of that table are not needed.
 * Files that count leap seconds ("right/...") are refused: Unix time does not count them.
 *
 * A struct zone never changes after it was read; any thread may use it.
 */
#ifndef TASKMILL_SCHEDULER_TIMEZONE_H
#define TASKMILL_SCHEDULER_TIMEZONE_H

#include "base/bytes.h"
#include "base/err.h"

#define ZONE_NAME_MAX   64
#define ZONE_FILE_MAX   65536 /* bytes; the largest of tzdata has 4 KiB */
#define ZONE_OFFSET_MAX 93599 /* seconds, of either sign: less than 26 hours */
#define ZONE_FOLDER     "/usr/share/zoneinfo"

struct zone;

/* Reads `name` below `folder` (NULL: that of TZDIR in the environment, else ZONE_FOLDER).
 * ERR_INVALID: no name of a zone; ERR_NOT_FOUND: no such zone, or no tzdata; ERR_MALFORMED,
 * ERR_TOO_LARGE, ERR_UNSUPPORTED, ERR_IO. */
int zone_read(struct zone **out, const char *folder, struct bytes name, struct err_text *why);
/* The same from a file's content; `name` is for messages. */
int zone_parse(struct zone **out, const char *name, struct bytes file, struct err_text *why);
void zone_free(struct zone *zone); /* NULL is allowed */
const char *zone_name(const struct zone *zone);

/* Whether this is UTC under its usual names ("UTC", "GMT", "Etc/UTC", "Etc/GMT"): no zone is
 * needed.
 */
bool zone_is_utc(struct bytes name);

/* A time in which the offset stays the same. */
struct zone_span {
    int64_t from_s;   /* INT64_MIN: since ever */
    int64_t until_s;  /* the first second that is no longer in it; INT64_MAX: for ever */
    int32_t offset_s; /* local time - UTC */
};
/* The span that `at_s` (Unix seconds) is in. `zone` NULL: UTC, one span. */
struct zone_span zone_span_at(const struct zone *zone, int64_t at_s);

#endif
