/* SPDX-License-Identifier: Apache-2.0 */
/* A child of the worker: runs the tasks it is given, one after the other. */
#ifndef TASKMILL_WORKER_CHILD_H
#define TASKMILL_WORKER_CHILD_H

#include <stdatomic.h>

#include "command/process.h"
#include "worker/occupancy.h"
#include "worker/once.h"
#include "worker/tasks.h"

/* Memory of the child that the parent sees, also after the child's death: which job it has reached,
 * so that the others may be given to another child (and that one never). The cell decides between
 * the two: the child reaches a job by exchanging the number of the one before, and the parent takes
 * back what is not reached by setting the highest bit, after which no exchange succeeds. A job that
 * must be asked for (once.h) is reached before it is started: its key may be used from then on. */
#define CHILD_REVOKED (UINT64_C(1) << 63)
#define CHILD_ASKING  (UINT64_C(1) << 62) /* reached, and not started */
#define CHILD_SEQ     (CHILD_ASKING - 1)

struct child_shared {
    _Atomic uint64_t started_seq; /* of the job that was reached last, with the bits above */
    _Atomic int64_t started_ms;   /* boot clock; written before started_seq */
    struct process_groups groups; /* of its commands, which die with it */
    struct occupancy_account account;
};

/* The last job that the child has reached; 0: none. */
static inline uint64_t child_reached(const struct child_shared *shared)
{
    return atomic_load_explicit(&shared->started_seq, memory_order_acquire) & CHILD_SEQ;
}

/* No job of the child above this number is started, and all others are. */
static inline uint64_t child_started(const struct child_shared *shared)
{
    uint64_t cell = atomic_load_explicit(&shared->started_seq, memory_order_acquire);

    return (cell & CHILD_SEQ) - ((cell & CHILD_ASKING) != 0);
}

/* From now on the child reaches nothing; what it has reached by now is the result. */
static inline uint64_t child_revoke(struct child_shared *shared)
{
    return atomic_fetch_or_explicit(&shared->started_seq, CHILD_REVOKED, memory_order_acq_rel) &
           CHILD_SEQ;
}

struct child_options {
    bool measures;            /* somebody wants to know how memory grows */
    struct once_options once; /* redis NULL: at-most-once tasks are not asked for */
    bool await_sends; /* a task has ended when what it sent with no_wait is delivered, too */
};

/* Never returns. `fd` is the child's end of a blocking socketpair. */
void child_main(int fd, struct child_shared *shared, const struct tasks *tasks,
                const struct child_options *options) __attribute__((noreturn));

#endif
