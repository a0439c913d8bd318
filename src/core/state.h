/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of an inflight, for core/ only: the table itself and the moves of one task in it.
 *
 *   state.c     the one setter of a task's state; being claimable, waiting, ended
 *   publish.c   records that tasks in RETRY and FAILURE leave by
 *   effects.c   what a turn tells its owner
 *   inflight.c  events: the public functions
 *
 * A live task is in `tasks`. Besides, by its state:
 *   PENDING                claimable: in its queue's ready heap; with an expiry: in `timers`
 *   PENDING, DELAY         at most once and not confirmed: in `unconfirmed`
 *   PENDING, DELAY         barred: in `barred`, and not claimable
 *   DELAY, PROCESSING      in `timers`
 *   RETRY, FAILURE         exactly one of: effect of this turn, handed to the producer, in `timers`
 * An ended task is in no structure but `changed` (this turn) or `ended` (until the effects are
 * done). No held claim matches a claimable task.
 */
#ifndef TASKMILL_CORE_STATE_H
#define TASKMILL_CORE_STATE_H

#include "core/inflight.h"
#include "core/queues.h"

#define TASK_UNBORN TASK_STATES /* of a task that has no state yet */

struct effect_list {
    struct effect *effects;
    size_t count, cap;
};

struct inflight {
    struct inflight_config config;
    int64_t now_ms; /* of the last event */
    struct map tasks;
    struct heap timers;
    struct queues queues;
    struct claims claims;
    struct served served;
    struct list changed, ended, unconfirmed, barred, live;
    struct list_node *walk; /* of `live`: the next to be seen; NULL: no walk */
    inflight_bar_fn *is_barred;
    void *bar_ctx;
    struct effect_list next, released; /* collected in this turn; let go by the last commit */
    uint64_t last_claim;
    uint64_t ended_as[TASK_ENDS];
    struct inflight_counts counts; /* those that are not the length of something above */
};

/* --- state.c ---------------------------------------------------------------------------------- */

/* Every change of task->state goes through here. due_ms as in struct task. */
void state_set(struct inflight *inflight, struct task *task, enum task_state to, int64_t due_ms);
/* The row goes with the next commit; the task stays readable until the effects are done. */
void state_end(struct inflight *inflight, struct task *task, enum task_end end);
/* Takes the task out of every structure but `changed`, and out of the counts by state. */
void state_unlink(struct inflight *inflight, struct task *task);

/* To be called whenever a PENDING task may have become claimable: ends it when it has expired,
 * gives it to the newest claim that matches, or lines it up. */
void state_offer(struct inflight *inflight, struct task *task);
void state_grant(struct inflight *inflight, struct task *task);
/* Nobody has started it under its claim: back to its place. */
void state_undo_grant(struct inflight *inflight, struct task *task);
/* To FAILURE; from there to a dead letter, or out, as the reason and the task's policy have it. */
void state_fail(struct inflight *inflight, struct task *task, enum task_failure failure);
/* PENDING or DELAY: whether it is to be forwarded; if so it is gathered, and not claimable. */
bool state_bar(struct inflight *inflight, struct task *task);
/* Does what is due at or before now for this task. */
void state_fire_if_due(struct inflight *inflight, struct task *task);
/* CLOCK_NEVER: no timer. */
void state_set_timer(struct inflight *inflight, struct task *task, int64_t at_ms);

/* --- publish.c -------------------------------------------------------------------------------- */

/* Asks for the task's record in this turn's effects. */
void publish_want(struct inflight *inflight, struct task *task, enum publish_kind kind);
/* Nothing can be published now: tries the dead letter again later. */
void publish_park(struct inflight *inflight, struct task *task);

/* --- effects.c -------------------------------------------------------------------------------- */

void effects_push(struct inflight *inflight, struct effect effect);
/* Undoes the answer that this turn has for a claim. */
void effects_cancel(struct inflight *inflight, struct claim *claim);

#endif
