/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much of their time children are busy. Each child keeps account in memory that the worker
 * sees: when it began to be busy or to wait, and the time of both so far. So tasks of any length
 * count with their exact time, those that are still running, too; nothing is time-stamped late by
 * whoever reads it (spec/client.md 13.18).
 *
 *   occupancy of an interval = busy time of all children / (busy + waiting time of all children)
 *
 * The divisor is the interval times the children that ran, also when some were started or ended
 * within it.
 *
 * One writer for each account, one reader. A writer that is killed while it writes leaves an
 * account that is wrong by the time of one task at most.
 */
#ifndef TASKMILL_WORKER_OCCUPANCY_H
#define TASKMILL_WORKER_OCCUPANCY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct occupancy_account {
    _Atomic uint32_t version; /* odd while it is written */
    _Atomic uint32_t state;   /* enum in occupancy.c */
    _Atomic int64_t since_us; /* boot clock: when the state began */
    _Atomic uint64_t busy_us, wait_us;
};

/* In the child. It waits from occupancy_wait on; before that it does not count. */
void occupancy_wait(struct occupancy_account *account, int64_t now_us);
void occupancy_busy(struct occupancy_account *account, int64_t now_us);

struct occupancy_time {
    uint64_t busy_us, wait_us;
};

/* In the worker. Before a new child gets the account; nobody else uses it. */
void occupancy_reset(struct occupancy_account *account);
/* Adds the child's time until now. */
void occupancy_add(const struct occupancy_account *account, int64_t now_us,
                   struct occupancy_time *sum);

/* What passed from `before` to `now`, in millionths; false if no child ran in between. */
bool occupancy_between(const struct occupancy_time *before, const struct occupancy_time *now,
                       int64_t *millionths);

#endif
