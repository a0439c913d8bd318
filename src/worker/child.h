/* SPDX-License-Identifier: Apache-2.0 */
/* A child of the worker: runs the tasks it is given, one after the other. */
#ifndef TASKMILL_WORKER_CHILD_H
#define TASKMILL_WORKER_CHILD_H

#include <stdatomic.h>

#include "worker/command_process.h"
#include "worker/once.h"
#include "worker/tasks.h"

/* Memory of the child that the parent sees, also after the child's death: which job it has started,
 * so that the others may be given to another child (and that one never). */
struct child_shared {
    _Atomic uint64_t started_seq;
    _Atomic int64_t started_ms;   /* boot clock; written before started_seq */
    struct process_groups groups; /* of its commands, which die with it */
};

struct child_options {
    struct once_options once; /* redis NULL: at-most-once tasks are not asked for */
    bool await_sends; /* a task has ended when what it sent with no_wait is delivered, too */
};

/* Never returns. `fd` is the child's end of a blocking socketpair. */
void child_main(int fd, struct child_shared *shared, const struct tasks *tasks,
                const struct child_options *options) __attribute__((noreturn));

#endif
