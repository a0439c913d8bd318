/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One stored activation in memory, and its life:
 *
 *             delay elapsed         claim                  report Complete
 *   intake ─▶ DELAY ──────▶ PENDING ────────▶ PROCESSING ──────────────────▶ ended
 *      └────────────────────▲ │ expired ▶ ended  │  │ report Failure, at-most-once Retry,
 *                           │ │                  │  │ at-most-once or last missed deadline
 *                           └─┼─ missed deadline ┘  ├──▶ FAILURE ─▶ dead letter delivered,
 *                             └─ undelivered claim, │               or discarded ─▶ ended
 *                                given back         │
 *                                                   └─ report Retry ─▶ RETRY ─▶ delivered ─▶ ended
 *
 * Besides, from outside: a killswitch ends a task in any state, unless its record is with the
 * producer; a demoted namespace ends PENDING and DELAY tasks, whose activations go to another topic
 * through the outbox.
 *
 * CLAIMED rows exist only in files (push mode of the original); they load as PENDING. COMPLETE rows
 * of a file are ended at load. "Ended" is not a state of the file: the row is deleted.
 *
 * All times are boot-clock milliseconds, except the two wall times kept for the file.
 */
#ifndef TASKMILL_CORE_TASK_H
#define TASKMILL_CORE_TASK_H

#include "base/bytes.h"
#include "base/clock.h"
#include "base/heap.h"
#include "base/list.h"
#include "base/map.h"

enum task_state { TASK_PENDING, TASK_DELAY, TASK_PROCESSING, TASK_RETRY, TASK_FAILURE };
#define TASK_STATES 5

/* How a task ended (INV-3), or why it fails. */
#define TASK_END_MAP(X)                                                            \
    X(TASK_LIVE, "live")                                                           \
    X(TASK_COMPLETED, "completed")                                                 \
    X(TASK_RETRIED, "retried")                                                     \
    X(TASK_DEADLETTERED, "dead-lettered")                                          \
    X(TASK_DISCARDED, "discarded by its failure policy")                           \
    X(TASK_EXPIRED, "expired")                                                     \
    X(TASK_FOREIGN, "dropped: another broker's store owns this at-most-once task") \
    X(TASK_KILLED, "dropped by a killswitch")                                      \
    X(TASK_FORWARDED, "forwarded: its namespace is demoted")

enum task_end {
#define X(name, text) name,
    TASK_END_MAP(X)
#undef X
};
#define TASK_ENDS 9
const char *task_end_name(enum task_end end);

#define TASK_FAILURE_MAP(X)                                                  \
    X(FAILURE_NONE, "")                                                      \
    X(FAILURE_REPORTED, "reported by the worker")                            \
    X(FAILURE_ATTEMPTS, "processing attempts exceeded")                      \
    X(FAILURE_DEADLINE, "deadline missed, at most once")                     \
    X(FAILURE_CLAIMED_AT_CRASH, "claimed at crash")                          \
    X(FAILURE_RETRY_AT_MOST_ONCE, "retry reported for an at-most-once task") \
    X(FAILURE_RETRY_IMPOSSIBLE, "the retry cannot be published")             \
    X(FAILURE_OWNER_UNKNOWN, "at most once: the offset's owner is unknown")  \
    X(FAILURE_BAD_ROW, "bad row in the database file")

enum task_failure {
#define X(name, text) name,
    TASK_FAILURE_MAP(X)
#undef X
};
const char *task_failure_name(enum task_failure failure);

/* A claim lasts at least so long: with a duration of zero (or negative, as a file may have it) and
 * no grace it would end in the turn in which it begins, and nobody would ever get the task. A
 * second is what the original's whole seconds come to. */
#define LEASE_MIN_MS 1000

/* The value of on_attempts_exceeded that asks for a dead letter; every other one discards. */
#define TASK_DEADLETTER_POLICY 2

/* Where the activation came from; source 0: not known (a row of a foreign file). */
struct task_origin {
    int64_t source;
    int32_t partition;
    int64_t offset;
};

/* What a Retry report asks to change in the payload before it is republished. */
struct task_rewrite {
    bool has_max_attempts, has_delay_on_retry;
    uint32_t max_attempts;
    uint64_t delay_on_retry; /* s */
};

struct task_queue;

/* Owned by inflight.c, which alone writes it, except the members marked "engine". Read-only to
 * others. */
struct task {
    struct map_node by_id;    /* key: id */
    struct list_node line;    /* claimable PENDING tasks: in the line of their queue, */
    struct heap_node back;    /* or among those that came back to it, key: rowid */
    struct heap_node timer;   /* expiry, delay, deadline or publish back-off, by state */
    struct list_node changed; /* tasks changed in this turn */
    struct list_node waiting; /* at-most-once tasks waiting for their offset's confirmation */
    struct list_node barred;  /* PENDING, DELAY: to be forwarded, no worker gets it */
    struct list_node live;    /* all tasks, in order of arrival: for walks */
    struct task_queue *queue; /* application and namespace */
    int64_t rowid;
    struct task_origin origin;
    int64_t expires_at_ms; /* CLOCK_NEVER: never */
    int64_t due_ms;        /* DELAY: delay end; PROCESSING: deadline; else CLOCK_NEVER */
    uint64_t claim;        /* number of the last claim, unique in all runs; 0: none in this run */
    int64_t received_at_wall_ms, added_at_wall_ms;
    int64_t duration_ms; /* processing_deadline_duration */
    struct task_rewrite rewrite;
    struct blob
        *blob; /* engine: cached payload or NULL; released by inflight when the task is freed */
    uint32_t payload_len; /* engine */
    uint32_t attempts;    /* processing_attempts: missed deadlines */
    uint32_t publish_failures;
    uint8_t state;   /* enum task_state: written by one setter only */
    uint8_t end;     /* enum task_end; not TASK_LIVE: the row goes at the next commit */
    uint8_t failure; /* enum task_failure */
    uint8_t on_attempts_exceeded; /* 0, 1 discard, 2 dead letter */
    uint8_t publish; /* RETRY, FAILURE: enum publish_kind of the record asked for last */
    bool at_most_once;
    bool stored;        /* the file has this row */
    bool confirmed;     /* at most once: claimable */
    bool legacy;        /* was in the file when Taskmill first opened it */
    bool rewritten;     /* this turn: the payload must be spliced with `rewrite` and written */
    bool handed;        /* RETRY, FAILURE: the record is with the producer */
    bool parked;        /* FAILURE: nothing can be published now; tried every few minutes */
    bool notified;      /* a notice without payload was delivered in this run */
    bool latency_known; /* engine: its way to a worker was measured, or is not ours to measure */
    uint16_t taskname_len;
    uint16_t id_len;
    char text[]; /* id, then taskname; not NUL-terminated */
};

static inline struct bytes task_id(const struct task *task)
{
    return bytes_of(task->text, task->id_len);
}

static inline struct bytes task_name(const struct task *task)
{
    return bytes_of(task->text + task->id_len, task->taskname_len);
}

struct bytes task_application(const struct task *task);
struct bytes task_namespace(const struct task *task);

#endif
