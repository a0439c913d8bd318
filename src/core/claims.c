/* SPDX-License-Identifier: Apache-2.0 */
#include "core/claims.h"

#include <assert.h>

#include "base/mem.h"
#include "core/inflight.h"

void claims_init(struct claims *claims)
{
    *claims = (struct claims){.next_seq = 1};
    heap_init(&claims->timers);
}

void claims_free(struct claims *claims)
{
    heap_free(&claims->timers);
}

void claim_queue_init(struct claim_queue *queue, struct application *application,
                      struct task_queue *task_queue)
{
    list_init(&queue->held);
    queue->application = application;
    queue->queue = task_queue;
}

void claims_hold(struct claims *claims, struct claim *claim, struct claim_queue *queue,
                 int64_t until_ms)
{
    assert(!claim->queue && !claim->effect);
    claim->queue = queue;
    claim->seq = claims->next_seq++;
    list_push_back(&queue->held, &claim->link);
    heap_insert(&claims->timers, &claim->timer, until_ms);
}

struct claim_queue *claims_remove(struct claims *claims, struct claim *claim)
{
    struct claim_queue *queue = claim->queue;

    assert(queue);
    list_remove(&queue->held, &claim->link);
    heap_remove(&claims->timers, &claim->timer);
    claim->queue = NULL;
    return queue;
}

struct claim *claim_queue_newest(const struct claim_queue *queue)
{
    struct list_node *node = list_last(&queue->held);

    return node ? container_of(node, struct claim, link) : NULL;
}

struct claim *claims_first_due(const struct claims *claims)
{
    struct heap_node *node = heap_min(&claims->timers);

    return node ? container_of(node, struct claim, timer) : NULL;
}
