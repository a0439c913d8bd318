/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The children of a worker: forked in advance, each on a socketpair and in a process group of its
 * own. The pool enforces deadlines by killing the whole group, and never lets a job that a child
 * has started be started again (struct child_shared). It replaces
 *   - children that died: at once, or after a pause that doubles (100 ms to 5 s) while they die
 *     without having run a task;
 *   - children that are not ready start_timeout_ms after their start;
 *   - worn-out ones, which ran max_tasks or are larger than max_memory_bytes: as soon as more than
 *     min_ready others or they themselves are ready, they get no more tasks and leave when they
 *     have run what they have. Until then they go on working.
 *
 * Driven by the worker's loop, one thread: pool_poll, poll(2), pool_io, pool_tick, assign,
 * pool_flush.
 */
#ifndef TASKMILL_WORKER_POOL_H
#define TASKMILL_WORKER_POOL_H

#include <poll.h>

#include "client/retry.h"
#include "worker/child.h"
#include "worker/job.h"
#include "worker/tasks.h"

struct pool;

/* What happens to children, for who counts it. */
enum pool_child {
    POOL_CHILD_STARTED,
    POOL_CHILD_NOT_STARTED, /* no process */
    POOL_CHILD_WORN,        /* has run enough, and leaves */
    POOL_CHILD_KILLED,      /* by us, at a deadline */
    POOL_CHILD_SIGNALLED,   /* died of a signal */
    POOL_CHILD_EXITED       /* by itself */
};

struct pool_events {
    void *ctx;
    /* The job has ended; `why` has a line unless it is complete. */
    void (*done)(void *ctx, struct job *job, enum attempt_end end, const char *why, int64_t run_us);
    /* Its child died before it was started: it may go to another. */
    void (*returned)(void *ctx, struct job *job);
    /* A child has asked for the job (once.h). ONCE_RUN: it is about to start it, `done` will
     * follow; else the child has let it go. */
    void (*asked)(void *ctx, struct job *job, enum once_answer answer, const char *why);
    void (*child)(void *ctx, enum pool_child what); /* NULL: nobody counts */
    /* In a new child: close what belongs to the parent. */
    void (*forked)(void *ctx);
};

struct pool_options {
    const struct tasks *tasks;
    uint32_t size;
    uint32_t min_ready;        /* so many stay while worn-out ones leave; below size */
    uint32_t max_tasks;        /* 0: no limit */
    uint64_t max_memory_bytes; /* resident, with the child's processes; 0: no limit */
    uint32_t start_timeout_ms; /* 0: no limit */
    struct child_options child;
    struct pool_events events;
};

/* Starts no child before the first pool_tick. */
int pool_new(struct pool **out, const struct pool_options *options, struct err_text *why);
/* Asks the children to end, and waits so long for those without a job: their persistent commands
 * may have something to put in order. Blocks. */
void pool_stop(struct pool *pool, int64_t grace_ms);
/* Kills all children for good. Jobs whose end they have told still go to `done`, the others,
 * started or not, to `returned`. */
void pool_kill(struct pool *pool, int64_t now_ms);
/* Kills what is left; all jobs inside go to `returned`. */
void pool_free(struct pool *pool);

/* Fills one entry for each child (fd -1 for none); returns how many: always `size`. */
size_t pool_poll(struct pool *pool, struct pollfd *fds);
void pool_io(struct pool *pool, const struct pollfd *fds, int64_t now_ms);
/* After SIGCHLD: collects children that ended. */
void pool_reap(struct pool *pool, int64_t now_ms);
/* Starts children and kills those past their deadline. */
void pool_tick(struct pool *pool, int64_t now_ms);
int64_t pool_next_ms(const struct pool *pool);

size_t pool_ready(const struct pool *pool); /* children that take tasks */
size_t pool_jobs(const struct pool *pool);  /* jobs they have */

struct pool_counts {
    size_t pending, running, exiting; /* children */
    size_t waiting;                   /* jobs behind one that is first */
    struct occupancy_time time;       /* of all children that ever ran */
};
void pool_count(const struct pool *pool, int64_t now_us, struct pool_counts *out);
/* Ready children that have been at one job for more than `than_ms`. */
size_t pool_slow(const struct pool *pool, int64_t than_ms, int64_t now_ms);
/* Gives a job to the child that has the fewest; false when each has `max_each` already. */
bool pool_assign(struct pool *pool, struct job *job, uint32_t max_each, int64_t now_ms);
void pool_flush(struct pool *pool);
/* Takes back, for good, every job that no child has started: they go to `returned`, in the order in
 * which they may be put in front of a queue, and no child starts them any more. Jobs that are
 * started go on; pool_assign finds no child from now on. */
void pool_revoke(struct pool *pool);

#endif
