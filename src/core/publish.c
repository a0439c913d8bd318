/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leaving by a record (INV-8). A task in RETRY or FAILURE asks for its record, hands it over with
 * the next commit, and stays until the delivery report:
 *
 *   want ─▶ effect ─▶ handed ─▶ delivered ─▶ ended
 *    ▲                  ├─ failed ─────▶ back-off ─▶ want the same
 *    │                  └─ impossible ─▶ retry ▶ dead letter ▶ notice ▶ parked
 *    └───────── minutes later, as a dead letter ────────────────────────┘
 *
 * A parked task has told the dead letter topic what it can (the notice, once in a run) and is never
 * dropped: somebody may raise the limit that it exceeds.
 */
#include <assert.h>

#include "core/state.h"

void publish_want(struct inflight *inflight, struct task *task, enum publish_kind kind)
{
    assert(task->state == TASK_RETRY || task->state == TASK_FAILURE);
    assert((task->state == TASK_RETRY) == (kind == PUBLISH_RETRY));
    state_set_timer(inflight, task, CLOCK_NEVER);
    task->publish = kind;
    task->handed = false;
    effects_push(inflight, (struct effect){.kind = EFFECT_PUBLISH, .publish = kind, .task = task});
}

void publish_park(struct inflight *inflight, struct task *task)
{
    assert(task->state == TASK_FAILURE);
    inflight->counts.parked += !task->parked;
    task->parked = true;
    task->handed = false;
    task->publish = PUBLISH_DEADLETTER;
    state_set_timer(inflight, task, clock_add(inflight->now_ms, inflight->config.parked_retry_ms));
}

static int64_t backoff_ms(const struct inflight_config *config, uint32_t failures)
{
    int64_t wait_ms = config->publish_backoff_ms, max_ms = config->publish_backoff_max_ms;

    while (--failures > 0 && wait_ms <= max_ms / 2)
        wait_ms *= 2;
    return failures > 0 ? max_ms : wait_ms;
}

static void delivered(struct inflight *inflight, struct task *task)
{
    switch ((enum publish_kind)task->publish) {
    case PUBLISH_RETRY:
        state_end(inflight, task, TASK_RETRIED);
        break;
    case PUBLISH_DEADLETTER:
        state_end(inflight, task, TASK_DEADLETTERED);
        break;
    case PUBLISH_NOTICE:
        task->notified = true;
        publish_park(inflight, task);
        break;
    }
}

static void failed(struct inflight *inflight, struct task *task)
{
    if (task->publish_failures < UINT32_MAX)
        task->publish_failures++;
    task->handed = false;
    state_set_timer(
        inflight, task,
        clock_add(inflight->now_ms, backoff_ms(&inflight->config, task->publish_failures)));
}

static void impossible(struct inflight *inflight, struct task *task)
{
    task->publish_failures = 0;
    if (task->publish == PUBLISH_RETRY)
        state_fail(inflight, task, FAILURE_RETRY_IMPOSSIBLE);
    else if (task->publish == PUBLISH_DEADLETTER && !task->notified)
        publish_want(inflight, task, PUBLISH_NOTICE);
    else
        publish_park(inflight, task);
}

void inflight_published(struct inflight *inflight, struct task *task, enum publish_kind kind,
                        enum publish_outcome outcome, int64_t now_ms)
{
    assert(task->end == TASK_LIVE && task->handed && task->publish == kind);
    assert(now_ms >= inflight->now_ms);
    inflight->now_ms = now_ms;
    if (outcome == PUBLISH_DELIVERED) {
        delivered(inflight, task);
        return;
    }
    inflight->counts.publish_failures++;
    if (outcome == PUBLISH_FAILED)
        failed(inflight, task);
    else
        impossible(inflight, task);
}
