/* SPDX-License-Identifier: Apache-2.0 */
/*
 * At-most-once tasks in the worker: what happens to one whose store was asked, and the place where
 * they wait while it cannot be asked.
 *
 * A held task keeps its claim; it is given to a child again when the pause is over. As many as
 * there are children wait without taking the place of other tasks; more of them count as tasks in
 * hand (traffic.c), so that an outage cannot pile up claims. A task waits until its deadline at the
 * broker must be thought to have passed, or until the worker drains: then it goes back to the
 * broker; one that was asked for, and so may have its key, is left there to its deadline.
 */
#include "base/clock.h"
#include "base/log.h"
#include "worker/worker_int.h"

bool once_guards(const struct worker *worker, const struct job *job)
{
    return worker->options.once.redis != NULL && job->task->options.at_most_once;
}

bool once_hold(struct worker *worker, struct job *job)
{
    if (job->claim == 0 || once_may_ask(&worker->outage, worker->now_ms))
        return false;
    list_push_back(&worker->held, &job->node);
    return true;
}

void once_release(struct worker *worker)
{
    struct list_node *node;

    if (worker->outage.failures > 0 && !worker->draining &&
        (worker->outage.probing || worker->now_ms < worker->outage.again_ms))
        return;
    /* In their order. During an outage the first asks, and the others come back here. */
    while ((node = list_last(&worker->held)) != NULL) {
        list_remove(&worker->held, node);
        list_push_front(&worker->queue, node);
    }
}

int64_t once_next_ms(const struct worker *worker)
{
    if (list_empty(&worker->held) || worker->outage.probing)
        return CLOCK_NEVER;
    return worker->outage.again_ms;
}

size_t once_in_hand(const struct worker *worker)
{
    size_t held = worker->held.count;

    return held > worker->options.concurrency ? held - worker->options.concurrency : 0;
}

static void on_duplicate(struct worker *worker, struct job *job)
{
    wmeters_add_task(worker->watch.meters, WM_ONCE_SKIPPED, bytes_str(job->task->ns->name),
                     bytes_str(job->task->name), 1);
    log_info(WORKER_TARGET,
             LOG_FIELDS(log_bytes("id", job->id), log_str("namespace", job->task->ns->name),
                        log_str("task", job->task->name)),
             "an at-most-once task was begun before: it is not run again, and reported complete");
    traffic_report(worker, job, ACTIVATION_COMPLETE);
}

static void on_unasked(struct worker *worker, struct job *job, const char *why)
{
    wmeters_add(worker->watch.meters, WM_ONCE_UNASKED, 1);
    if (once_failed(&worker->outage, worker_chance(worker), worker->now_ms))
        log_error(WORKER_TARGET,
                  LOG_FIELDS(log_bytes("id", job->id), log_str("task", job->task->name),
                             log_str("error", why)),
                  "Redis cannot be asked whether an at-most-once task was begun before: such tasks "
                  "wait, others go on");
    list_push_back(&worker->held, &job->node);
}

void once_asked(struct worker *worker, struct job *job, enum once_answer answer, const char *why)
{
    if (answer == ONCE_UNASKED) {
        on_unasked(worker, job, why);
        return;
    }
    if (once_answered(&worker->outage))
        log_info(WORKER_TARGET, LOG_FIELDS(log_int("waiting", (int64_t)worker->held.count)),
                 "Redis answers again: at-most-once tasks go on");
    if (answer == ONCE_DUPLICATE)
        on_duplicate(worker, job);
}
