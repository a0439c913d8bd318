/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a scheduler does at each moment: which runs are due, whose they are, sending them, and how
 * long to sleep. Clock, storage and sender are given as functions, so that tests run many
 * schedulers against models of them; there is no I/O of its own.
 *
 * A turn loads what is not known of the entries, claims what is due (run_storage.h has the
 * protocol), sends what is ours, marks it as done, and says when it wants to be called again. It
 * never waits by itself; storage and sender may block for their own limits.
 *
 *   The storage fails    nothing is claimed. It is asked again after a pause that doubles from
 *                        0.25 s to 15 s, with jitter; then missed runs follow each entry's policy.
 *   A send fails         its entry waits, its lease running out or renewed, and is tried again
 *                        after a pause of the same kind, up to 30 s. The other entries go on.
 *   The wall clock jumps every entry is looked at again.
 *
 * Each outage is a WARN once and every minute, and an INFO at its end. One thread.
 */
#ifndef TASKMILL_SCHEDULER_TICK_H
#define TASKMILL_SCHEDULER_TICK_H

#include "scheduler/run_storage.h"
#include "scheduler/schedules_file.h"

#define TICK_SLEEP_MAX_MS     60000
#define TICK_BATCH            256 /* runs of one send, steps of one swap */
#define TICK_PAUSE_MIN_MS     250
#define TICK_STORAGE_PAUSE_MS 15000
#define TICK_SEND_PAUSE_MS    30000

struct tick_run {
    const struct schedules_entry *entry;
    int64_t due_s;
    char id[SCHEDULE_RUN_ID_SIZE];
    int result;   /* out: 0 when it is durable at its destination, else why not */
    bool refused; /* out: it can never be sent, however often it is tried */
    struct err_text why;
};

struct tick_counters {
    uint64_t sent, refused, failed_sends; /* runs */
    uint64_t claims_lost, take_overs, storage_failures;
    uint64_t missed_dropped; /* decisions that dropped runs by policy */
};

enum tick_event {
    TICK_SENT,    /* a run is durable at its destination */
    TICK_SYNCED,  /* another scheduler was first; we know its run now */
    TICK_UNKNOWN, /* the storage knows nothing of this entry */
};

struct tick_options {
    struct run_storage *storage; /* not owned */
    /* The times of base/clock.h. */
    void (*now)(void *ctx, int64_t *wall_ms, int64_t *boot_ms);
    /* Sends `count` runs, at most TICK_BATCH, and fills their results. */
    void (*send)(void *ctx, struct tick_run *runs, size_t count);
    /* For logs and meters; may be NULL. `run` is NULL except with TICK_SENT, late_ms is how long
     * after its due time that was. */
    void (*event)(void *ctx, enum tick_event event, const struct schedules_entry *entry,
                  const struct tick_run *run, int64_t late_ms);
    void *ctx;
    char owner[RUN_OWNER_SIZE]; /* of this process, random */
    uint32_t lease_ms;          /* longer than twice send_limit_ms */
    uint32_t send_limit_ms;     /* how long one send() may take */
    uint32_t seed;              /* of jitter */
};

struct tick;

/* The schedules stay the caller's and must outlive their use. */
struct tick *tick_new(const struct tick_options *options, const struct schedules *schedules);
void tick_free(struct tick *tick);

/* Does what is due at this moment; ms until it wants to be called again, 0 to TICK_SLEEP_MAX_MS. */
int64_t tick_turn(struct tick *tick);

/* Gives open claims away, so that others need not wait for the leases: before the end, and before
 * other schedules are used. One attempt; a storage that fails leaves it to the leases. */
void tick_release(struct tick *tick);
/* Uses other schedules from now on. Runs of entries that are gone are not sent any more. */
void tick_replace(struct tick *tick, const struct schedules *schedules);

struct tick_counters tick_counters(const struct tick *tick);
/* Is the storage failing now? */
bool tick_storage_down(const struct tick *tick);

#endif
