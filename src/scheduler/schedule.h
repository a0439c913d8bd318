/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When a schedule is due. Pure: the last run and the time go in, due times come out; no storage, no
 * clock, no sending. All times are Unix seconds; any thread.
 *
 * Due times
 *
 *   A run has a *due time*, a whole second: for an interval the last due time plus the interval,
 *   for a crontab a match. A run sent late keeps its due time, and the next interval counts from
 *   it: the phase of an interval does not drift (in the original each run moves it by the delay of
 *   the loop). Lateness of milliseconds or of a loaded machine is therefore never added up, and no
 *   crontab run is lost by it (spec/client.md 13 nos. 32 and 33).
 *
 * What the storage remembers
 *
 *   The due time of the last run (`last_s` of the decision), as the value of the entry's key, which
 *   lives until the next due time (schedule_ttl_ms). The original stores the time of sending there;
 *   it reads ours as such and waits until the same next second. Values of the original have a
 *   fraction: cut it off (towards the past), as the original does.
 *
 * Missed runs, when due times lie in the past (nobody ran, storage or destination was down)
 *
 *   SCHEDULE_MISSED_ONE   the latest of them is run, once, however many there are. The default: for
 *                         intervals it is what the original does; for crontabs the original drops
 *                         what is a minute late, so that a restart of two minutes at 03:00 loses
 *                         the night's run without a word. A run that is late can be seen and
 *                         explained.
 *   SCHEDULE_MISSED_SKIP  the latest one is run if it is not older than SCHEDULE_GRACE_S, the
 *                         others are dropped: what the original does with crontabs.
 *   SCHEDULE_MISSED_ALL   each is run, the oldest first; if there are more than missed_limit, the
 *                         newest missed_limit of them.
 *
 *   All runs of one decision belong to one claim, whose value is the newest due time: an entry has
 *   one key, so runs that are claimed one by one could be claimed twice while the storage's key of
 *   the run before has just expired.
 *
 * Without a last run (a new entry; a key that expired) an interval is due now, with its due time
 * now; a crontab is due if the current minute matches.
 *
 * A last run in the future: clocks were put back, or another host's are ahead. The next run is the
 * first due time after it, so nothing runs twice. If it is more than SCHEDULE_FUTURE_MAX_S ahead,
 * that clock was plainly wrong; it is taken for no last run (`from_future` tells, for a WARN).
 */
#ifndef TASKMILL_SCHEDULER_SCHEDULE_H
#define TASKMILL_SCHEDULER_SCHEDULE_H

#include "scheduler/crontab.h"

#define SCHEDULE_INTERVAL_MAX_S       (400LL * 366 * 86400)
#define SCHEDULE_GRACE_S              60
#define SCHEDULE_FUTURE_MAX_S         86400
#define SCHEDULE_MISSED_LIMIT_DEFAULT 100
#define SCHEDULE_MISSED_LIMIT_MAX     10000
#define SCHEDULE_NEVER_RAN            INT64_MIN
#define SCHEDULE_RUN_ID_SIZE          33 /* 32 hexadecimal digits and a NUL */

enum schedule_kind { SCHEDULE_INTERVAL, SCHEDULE_CRONTAB };
enum schedule_missed { SCHEDULE_MISSED_ONE, SCHEDULE_MISSED_SKIP, SCHEDULE_MISSED_ALL };

struct schedule {
    enum schedule_kind kind;
    int64_t interval_s;      /* 1 to SCHEDULE_INTERVAL_MAX_S */
    struct crontab crontab;  /* if it is one */
    const struct zone *zone; /* of the crontab; NULL: UTC; not owned */
    enum schedule_missed missed;
    uint32_t missed_limit; /* 1 to SCHEDULE_MISSED_LIMIT_MAX */
};

struct schedule_due {
    bool due;         /* something is to be sent now */
    bool dropped;     /* there were more missed runs, which the policy drops */
    bool from_future; /* the last run was taken for none */
    int64_t first_s;  /* if due: each due time from this one */
    int64_t last_s;   /* to this one is sent; they are the same except with SCHEDULE_MISSED_ALL. If
                         all was dropped, the last of those: the caller may take it for the last
                         run, so as not to be told again */
    int64_t next_s; /* the first due time after now: when to ask again. CRONTAB_NEVER is possible */
};

/* `last_run_s`: due time (or the original's time of sending) of the last run, SCHEDULE_NEVER_RAN
 * (or any time before 1970) if there is none. */
struct schedule_due schedule_due(const struct schedule *schedule, int64_t last_run_s,
                                 int64_t now_s);
/* The due time that follows a due time:
 *     for (int64_t due_s = d.first_s; due_s <= d.last_s; due_s = schedule_after(s, due_s)) */
int64_t schedule_after(const struct schedule *schedule, int64_t due_s);

/* How long the storage's key lives: until next_s, at least 1 ms. The original writes whole seconds,
 * cut; a scheduler that starts in the missing fraction runs once more (spec/client.md 13 no. 34).
 * It only reads keys, so that milliseconds (SET ... PX) do not disturb it. */
int64_t schedule_ttl_ms(int64_t next_s, int64_t now_ms);

/* --- names ----------------------------------------------------------------------------------- */

/* As the original writes it (spec/client.md 7.4): whole seconds ("300") or the crontab's text with
 * `_` for blanks; a crontab on other clocks than UTC adds `@` and the zone: no original has it, and
 * its key must not be taken for that of the same words in UTC. */
void schedule_id(const struct schedule *schedule, struct buf *out);

/* What an original of some version reads (spec/client.md 7.4, 12). Only the first is ever written.
 */
enum schedule_key {
    SCHEDULE_KEY,          /* tw:scheduler:ENTRY:NAMESPACE:TASK:ID */
    SCHEDULE_KEY_NO_ENTRY, /* tw:scheduler:NAMESPACE:TASK:ID, of 26.5.0 */
    SCHEDULE_KEY_NO_ID,    /* tw:scheduler:NAMESPACE:TASK, older */
    SCHEDULE_KEY_COUNT
};
struct schedule_names {
    const char *entry, *namespace, *task, *id;
};
void schedule_storage_key(const struct schedule_names *names, enum schedule_key form,
                          struct buf *out);

/* The activation's id of one run: the same for whoever sends it and however often (ident_scheduled
 * of wire/ident.h over entry, id and due time). */
void schedule_run_id(char out[SCHEDULE_RUN_ID_SIZE], const struct schedule_names *names,
                     int64_t due_s);

#endif
