/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Claims that wait for a task: a list for every filter that is waited for (core/queues.h), the
 * newest last, and one heap of the times at which they stop waiting.
 */
#ifndef TASKMILL_CORE_CLAIMS_H
#define TASKMILL_CORE_CLAIMS_H

#include "base/heap.h"
#include "base/list.h"

struct claim;

struct claim_queue {
    struct list held; /* of struct claim, oldest first */
    /* Whose filter this is: both NULL for the two lists that are in no application. */
    struct application *application;
    struct task_queue *queue;
};

struct claims {
    struct heap timers;
    uint64_t next_seq;
};

void claims_init(struct claims *claims);
void claims_free(struct claims *claims);
void claim_queue_init(struct claim_queue *queue, struct application *application,
                      struct task_queue *task_queue);

void claims_hold(struct claims *claims, struct claim *claim, struct claim_queue *queue,
                 int64_t until_ms);
/* Returns the queue that the claim waited in. */
struct claim_queue *claims_remove(struct claims *claims, struct claim *claim);
/* The last one that came; NULL when nobody waits here. */
struct claim *claim_queue_newest(const struct claim_queue *queue);
/* The one whose wait ends first; NULL: none. */
struct claim *claims_first_due(const struct claims *claims);

#endif
