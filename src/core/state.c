/* SPDX-License-Identifier: Apache-2.0 */
#include "core/state.h"

#include <assert.h>

#include "base/plant.h"

#define BIT(state) (1u << (state))

/* The arrows of the drawing in core/task.h, by their ends: from which states each may be entered. A
 * row can be loaded in any state. */
static const unsigned legal_from[TASK_STATES] = {
    [TASK_PENDING] = BIT(TASK_UNBORN) | BIT(TASK_DELAY) | BIT(TASK_PROCESSING),
    [TASK_DELAY] = BIT(TASK_UNBORN),
    [TASK_PROCESSING] = BIT(TASK_UNBORN) | BIT(TASK_PENDING),
    [TASK_RETRY] = BIT(TASK_UNBORN) | BIT(TASK_PROCESSING) |
                   (PLANTED(PLANT_UNFENCED_RETRY) ? BIT(TASK_PENDING) | BIT(TASK_DELAY) : 0),
    [TASK_FAILURE] = BIT(TASK_UNBORN) | BIT(TASK_PENDING) | BIT(TASK_DELAY) | BIT(TASK_PROCESSING) |
                     BIT(TASK_RETRY),
};

static void mark_changed(struct inflight *inflight, struct task *task)
{
    if (!list_linked(&task->changed))
        list_push_back(&inflight->changed, &task->changed);
}

void state_set_timer(struct inflight *inflight, struct task *task, int64_t at_ms)
{
    if (heap_contains(&task->timer))
        heap_remove(&inflight->timers, &task->timer);
    if (at_ms != CLOCK_NEVER)
        heap_insert(&inflight->timers, &task->timer, at_ms);
}

static void leave_state(struct inflight *inflight, const struct task *task)
{
    inflight->counts.by_state[task->state]--;
    served_leave(&inflight->served, &task->queue->application->served, task->state);
}

/* --- the setter ---------------------------------------------------------------------------------
 */

void state_set(struct inflight *inflight, struct task *task, enum task_state to, int64_t due_ms)
{
    enum task_state from = task->state;

    assert(task->end == TASK_LIVE);
    assert(legal_from[to] & BIT(from));
    if (from != TASK_UNBORN)
        leave_state(inflight, task);
    inflight->counts.by_state[to]++;
    served_enter(&inflight->served, &task->queue->application->served, to, inflight->now_ms);
    task->state = to;
    task->due_ms = due_ms;

    if (queues_is_ready(task))
        queues_remove_ready(&inflight->queues, task);
    bool waits = (to == TASK_PENDING || to == TASK_DELAY) && task->at_most_once && !task->confirmed;
    if (waits && !list_linked(&task->waiting))
        list_push_back(&inflight->unconfirmed, &task->waiting);
    else if (!waits && list_linked(&task->waiting))
        list_remove(&inflight->unconfirmed, &task->waiting);
    if (list_linked(&task->barred))
        list_remove(&inflight->barred, &task->barred);
    /* Only a task that may be claimed can expire (spec/broker.md 6). */
    state_set_timer(inflight, task, to == TASK_PENDING ? task->expires_at_ms : due_ms);
    /* A row that was just loaded is in the file as it is here. */
    if (from != TASK_UNBORN || !task->stored)
        mark_changed(inflight, task);
}

void state_unlink(struct inflight *inflight, struct task *task)
{
    if (queues_is_ready(task))
        queues_remove_ready(&inflight->queues, task);
    if (list_linked(&task->waiting))
        list_remove(&inflight->unconfirmed, &task->waiting);
    if (list_linked(&task->barred))
        list_remove(&inflight->barred, &task->barred);
    if (inflight->walk == &task->live)
        inflight->walk = task->live.next;
    list_remove(&inflight->live, &task->live);
    state_set_timer(inflight, task, CLOCK_NEVER);
    leave_state(inflight, task);
    map_remove(&inflight->tasks, &task->by_id);
}

void state_end(struct inflight *inflight, struct task *task, enum task_end end)
{
    assert(task->end == TASK_LIVE && end != TASK_LIVE);
    state_unlink(inflight, task);
    inflight->counts.parked -= task->parked;
    inflight->ended_as[end]++;
    task->end = end;
    mark_changed(inflight, task);
}

/* --- claimable ----------------------------------------------------------------------------------
 */

/* INV-4: nobody gets an at-most-once task that another broker may still read. */
static bool claimable(const struct task *task)
{
    return task->state == TASK_PENDING &&
           (!task->at_most_once || task->confirmed || PLANTED(PLANT_CLAIM_BEFORE_CONFIRMATION));
}

static void grant_held(struct inflight *inflight, struct task *task, struct claim *claim)
{
    queues_tidy(&inflight->queues, claims_remove(&inflight->claims, claim));
    state_grant(inflight, task);
    effects_push(inflight, (struct effect){.kind = EFFECT_GRANT,
                                           .claim = claim,
                                           .task = task,
                                           .claim_number = task->claim});
}

bool state_bar(struct inflight *inflight, struct task *task)
{
    if (!list_linked(&task->barred) && inflight->is_barred &&
        inflight->is_barred(inflight->bar_ctx, task))
        list_push_back(&inflight->barred, &task->barred);
    return list_linked(&task->barred);
}

void state_offer(struct inflight *inflight, struct task *task)
{
    if (task->state == TASK_PENDING && task->expires_at_ms <= inflight->now_ms) {
        state_end(inflight, task, TASK_EXPIRED);
        return;
    }
    if (!claimable(task) || queues_is_ready(task) || state_bar(inflight, task))
        return;
    struct claim *claim = queues_newest_claim(&inflight->queues, task->queue);
    if (claim)
        grant_held(inflight, task, claim);
    else
        queues_add_ready(&inflight->queues, task);
}

static int64_t deadline_ms(const struct inflight *inflight, const struct task *task)
{
    int64_t duration_ms = task->duration_ms > 0 ? task->duration_ms : 0;

    int64_t lease_ms = clock_add(duration_ms, inflight->config.grace_ms);

    if (lease_ms < LEASE_MIN_MS)
        lease_ms = LEASE_MIN_MS;
    return clock_add(inflight->now_ms, lease_ms);
}

void state_grant(struct inflight *inflight, struct task *task)
{
    assert(claimable(task));
    task->claim = ++inflight->last_claim;
    inflight->counts.claimed++;
    state_set(inflight, task, TASK_PROCESSING, deadline_ms(inflight, task));
}

void state_undo_grant(struct inflight *inflight, struct task *task)
{
    inflight->counts.given_back++;
    state_set(inflight, task, TASK_PENDING, CLOCK_NEVER);
    state_offer(inflight, task);
}

/* --- failure and time ---------------------------------------------------------------------------
 */

/* A task that a worker has had ends as its policy says. One that fails on its way, by no fault of
 * its own, becomes a dead letter whatever its policy: discarding it would lose it (INV-2). */
static bool policy_applies(enum task_failure failure)
{
    return failure != FAILURE_RETRY_IMPOSSIBLE && failure != FAILURE_OWNER_UNKNOWN;
}

void state_fail(struct inflight *inflight, struct task *task, enum task_failure failure)
{
    inflight->counts.attempts_exceeded += failure == FAILURE_ATTEMPTS;
    task->failure = failure;
    if (!policy_applies(failure)) /* also after a restart, which knows only what the row says */
        task->on_attempts_exceeded = TASK_DEADLETTER_POLICY;
    if (task->state != TASK_FAILURE) /* a row loaded as FAILURE is there already */
        state_set(inflight, task, TASK_FAILURE, CLOCK_NEVER);
    if (task->on_attempts_exceeded != TASK_DEADLETTER_POLICY)
        state_end(inflight, task, TASK_DISCARDED);
    else
        publish_want(inflight, task, PUBLISH_DEADLETTER);
}

static void miss_deadline(struct inflight *inflight, struct task *task)
{
    inflight->counts.deadlines_missed++;
    if (task->at_most_once) {
        /* Claimed, but not in this run: the worker may have run it before the crash (INV-4). */
        state_fail(inflight, task, task->claim ? FAILURE_DEADLINE : FAILURE_CLAIMED_AT_CRASH);
        return;
    }
    if (task->attempts < UINT32_MAX) /* a file may say anything */
        task->attempts++;
    if (task->attempts >= inflight->config.max_processing_attempts) {
        state_fail(inflight, task, FAILURE_ATTEMPTS);
        return;
    }
    state_set(inflight, task, TASK_PENDING, CLOCK_NEVER);
    state_offer(inflight, task);
}

static void fire(struct inflight *inflight, struct task *task)
{
    switch ((enum task_state)task->state) {
    case TASK_PENDING:
        state_end(inflight, task, TASK_EXPIRED);
        break;
    case TASK_DELAY:
        inflight->counts.delays_elapsed++;
        state_set(inflight, task, TASK_PENDING, CLOCK_NEVER);
        state_offer(inflight, task);
        break;
    case TASK_PROCESSING:
        miss_deadline(inflight, task);
        break;
    case TASK_RETRY:
    case TASK_FAILURE:
        publish_want(inflight, task, task->publish);
        break;
    }
}

void state_fire_if_due(struct inflight *inflight, struct task *task)
{
    if (heap_contains(&task->timer) && task->timer.key <= inflight->now_ms)
        fire(inflight, task);
}
