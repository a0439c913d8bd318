/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file of schedules, YAML:
 *
 *     application: shop                    # whose tasks these are
 *     schedules:
 *       refresh-rates:                     # the entry's key; part of the storage's key and of ids
 *         task: billing:billing.refresh    # namespace:name
 *         schedule: {timedelta: 5m}        # or {seconds: 300}; units s, m, h, d, w: 1h30m
 *       nightly-report:
 *         task: billing:billing.report
 *         schedule: {crontab: "30 2 * * 1-5"}
 *         timezone: Europe/Berlin          # of the crontab; default: UTC
 *         missed: one                      # or skip, all; see schedule.h
 *         missed_limit: 100                # with all
 *         args: [weekly, 3]                # parameters; default: none
 *         kwargs: {to: ops@example.com}
 *         headers: {team: billing}         # text to text
 *         processing_deadline: 30          # seconds; default 10
 *         expires: 600                     # seconds; default: never
 *         retry: {times: 3, delay: 60, times_exceeded: deadletter}
 *       hourly:
 *         task: ops:ops.sweep
 *         schedule: {crontab: {minute: 0}} # hour, day_of_week, day_of_month, month_of_year: `*`
 *         at_most_once: true               # excludes retry
 *
 * Nothing is guessed: unknown and repeated keys, a crontab that never matches, a number that YAML's
 * versions read differently (yaml_json.h) are errors, with file, line, entry, and what is allowed.
 * Anchors and aliases work. Different entries never share a storage key: their keys differ, and
 * there is no colon in what follows them but those that separate.
 */
#ifndef TASKMILL_SCHEDULER_SCHEDULES_FILE_H
#define TASKMILL_SCHEDULER_SCHEDULES_FILE_H

#include <taskmill.h>

#include "scheduler/schedule.h"

#define SCHEDULES_FILE_MAX    (4 << 20) /* bytes */
#define SCHEDULES_MAX         10000     /* entries */
#define SCHEDULES_KEY_MAX     256       /* bytes of an entry's key */
#define SCHEDULES_HEADERS_MAX 64        /* of one entry */

struct schedules_entry {
    char *key;
    char *namespace;
    char *task;
    char *id; /* schedule_id() */
    struct schedule schedule;
    char *params; /* JSON {"args": [...], "kwargs": {...}} for taskmill_params_from_json */
    struct taskmill_header *headers;
    size_t header_count;
    uint32_t processing_deadline_s;     /* 0: the default */
    uint32_t expires_s;                 /* 0: never */
    struct taskmill_retry_policy retry; /* times 0: none */
    bool at_most_once;
    uint32_t line; /* of the key in the file */
};

struct schedules {
    char *application;
    struct schedules_entry *entries; /* in the order of the file */
    size_t count;
    struct zone **zones; /* that the entries point to */
    size_t zone_count;
};

/* `name` stands for the file in messages; `zone_folder` as in zone_read. ERR_MALFORMED,
 * ERR_INVALID, ERR_TOO_LARGE, and what zone_read returns. */
int schedules_parse(struct schedules **out, const char *name, struct bytes text,
                    const char *zone_folder, struct err_text *why);
/* The same from a regular file; also ERR_NOT_FOUND, ERR_DENIED, ERR_IO. */
int schedules_read(struct schedules **out, const char *path, struct err_text *why);
void schedules_free(struct schedules *schedules); /* NULL is allowed */

/* The names by which storage and ids know an entry; they live as long as the schedules. */
static inline struct schedule_names schedules_names(const struct schedules_entry *entry)
{
    return (struct schedule_names){
        .entry = entry->key, .namespace = entry->namespace, .task = entry->task, .id = entry->id};
}

#endif
