/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The worker: claims tasks from one or many brokers, runs them in prefork children and reports how
 * they ended. One process, one event loop; the children do the work.
 *
 * Rules
 *   - It asks only for applications it has tasks for. Without any task it stays up and claims
 *     nothing.
 *   - One task a child is claimed; while tasks are short (below 5 ms on average), up to 7 more are
 *     on their way for each child, in all at most tasks_ahead.
 *   - A report goes to the broker the task came from, again and again until it is delivered.
 *   - A task that a child has started is never started again here, whatever happens to the child.
 *   - First SIGTERM or SIGINT: no new claims, calls that wait for tasks are cancelled, claimed
 *     tasks that no child has started go back to their brokers, the others run to their end or
 *     until shutdown_timeout_ms, reports are delivered, exit 0. A second one: everything is killed,
 *     exit 1.
 */
#ifndef TASKMILL_WORKER_WORKER_H
#define TASKMILL_WORKER_WORKER_H

#include "rpc/tls.h"
#include "worker/hosts.h"
#include "worker/once.h"
#include "worker/tasks.h"
#include "worker/watch.h"

struct worker_options {
    const struct host_list *hosts;
    const char *secret;         /* signs every call; NULL: none */
    struct rpc_tls_options tls; /* for dispatch_tls, which the handlers' own sending uses, too */
    const struct tasks *tasks;
    const char *namespace;           /* asks for this one only; NULL: all */
    uint32_t concurrency;            /* children */
    uint32_t min_concurrency;        /* stay when worn-out children leave; below concurrency */
    uint32_t max_child_task_count;   /* a child is replaced after so many; 0: never */
    uint64_t max_child_memory_bytes; /* resident, with its processes; 0: no limit */
    uint32_t start_timeout_ms;       /* until a child is ready; 0: no limit */
    uint32_t tasks_ahead;            /* claimed at most besides those that run */
    bool await_sends;         /* a task's report waits for what its handler sent with no_wait */
    uint32_t rebalance_after; /* tasks from one source before the others are asked; with several */
    uint32_t unreported_max;  /* reports that wait for another try stop claims from their broker */
    const char *health_path;  /* touched once per health_every_ms; NULL: none */
    uint32_t health_every_ms;
    struct once_options once; /* redis NULL: at-most-once tasks always run; `worker` is filled in */
    struct watch_options watch;
    bool has_shutdown_timeout;
    uint32_t shutdown_timeout_ms; /* from the signal on; what still runs is killed */
    uint32_t drain_timeout_ms;    /* for reports, after the last task has ended */
    uint32_t drain_gone_ms;       /* the same while no connection to their broker can be made */
    const char *processing_pool;  /* a tag of metrics; NULL: none was given */
};

/* Runs until a signal. The exit code: 0 drained; 1 with a line on the log otherwise. The app's
 * default destination is set for handlers that send. */
int worker_run(const struct worker_options *options);

#endif
