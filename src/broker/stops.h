/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stopping several things that each may block, within one limit: they stop beside each other, and
 * what does not return in time is left behind.
 */
#ifndef TASKMILL_BROKER_STOPS_H
#define TASKMILL_BROKER_STOPS_H

#include <stddef.h>
#include <stdint.h>

struct stop_job {
    const char *what; /* "the consumer of topic t": for the warning; copied */
    /* Blocks; ought to return by until_ms (boot clock). */
    void (*stop)(void *arg, int64_t until_ms);
    void *arg;
};

/* Returns when all have returned, or at leave_ms (> until_ms), with the number of those that have
 * not: each was named in a WARN and goes on, so nothing that it uses may be freed any more. */
size_t stops_run(const struct stop_job *jobs, size_t count, int64_t until_ms, int64_t leave_ms);

#endif
