/* SPDX-License-Identifier: Apache-2.0 */
/* What core/state.h says of the structure, as asserts over all of it. For tests and the simulator.
 */
#include <assert.h>

#include "base/mem.h"
#include "base/plant.h"
#include "core/state.h"

static void check_heap(const struct heap *heap)
{
    for (size_t i = 0; i < heap->count; i++) {
        const struct heap_node *node = heap->nodes[i];
        const struct heap_node *parent = heap->nodes[(i ? i - 1 : 0) / 2];
        assert(node->position == i + 1);
        assert(parent->key <= node->key);
    }
}

static bool must_be_ready(const struct task *task)
{
    bool open = !task->at_most_once || task->confirmed || PLANTED(PLANT_CLAIM_BEFORE_CONFIRMATION);

    return task->state == TASK_PENDING && open && !list_linked(&task->barred);
}

static bool must_wait(const struct task *task)
{
    return (task->state == TASK_PENDING || task->state == TASK_DELAY) && task->at_most_once &&
           !task->confirmed;
}

static int64_t timer_ms(const struct task *task)
{
    return heap_contains(&task->timer) ? task->timer.key : CLOCK_NEVER;
}

static void check_timer(const struct task *task)
{
    switch ((enum task_state)task->state) {
    case TASK_PENDING:
        assert(task->due_ms == CLOCK_NEVER && timer_ms(task) == task->expires_at_ms);
        break;
    case TASK_DELAY:
    case TASK_PROCESSING:
        assert(timer_ms(task) == task->due_ms);
        break;
    case TASK_RETRY:
    case TASK_FAILURE:
        assert(task->due_ms == CLOCK_NEVER);
        assert(!task->handed || timer_ms(task) == CLOCK_NEVER);
        assert((task->state == TASK_RETRY) == (task->publish == PUBLISH_RETRY));
        break;
    }
}

static void check_task(const struct inflight *inflight, const struct task *task)
{
    assert(task->end == TASK_LIVE && task->state < TASK_STATES);
    assert(inflight_find(inflight, task_id(task)) == task);
    assert(queues_is_ready(task) == must_be_ready(task));
    assert(!list_linked(&task->line) || !heap_contains(&task->back));
    assert(!heap_contains(&task->back) || task->back.key == task->rowid);
    assert(list_linked(&task->waiting) == must_wait(task));
    assert(list_linked(&task->live));
    assert(!list_linked(&task->barred) || task->state == TASK_PENDING || task->state == TASK_DELAY);
    assert(task->stored || list_linked(&task->changed));
    assert(!task->parked || task->state == TASK_FAILURE);
    assert(task->queue->tasks > 0);
    check_timer(task);
}

/* A task in RETRY or FAILURE can leave: its record is asked for, on its way, or will be asked for.
 */
static void check_publishes(const struct inflight *inflight)
{
    size_t asked = 0, leaving = 0;

    for (size_t i = 0; i < inflight->next.count; i++) {
        const struct effect *effect = &inflight->next.effects[i];
        if (effect->kind == EFFECT_PUBLISH && effect->task->end == TASK_LIVE) {
            assert(!effect->task->handed && timer_ms(effect->task) == CLOCK_NEVER);
            asked++;
        }
    }
    for (struct map_node *node = map_first(&inflight->tasks); node;
         node = map_next(&inflight->tasks, node)) {
        const struct task *task = container_of(node, struct task, by_id);
        if (task->state == TASK_RETRY || task->state == TASK_FAILURE)
            leaving += !task->handed && timer_ms(task) == CLOCK_NEVER;
    }
    assert(asked == leaving);
}

static void check_tasks(const struct inflight *inflight)
{
    size_t by_state[TASK_STATES] = {0}, count = 0, waiting = 0, parked = 0, timers = 0, barred = 0;

    for (struct map_node *node = map_first(&inflight->tasks); node;
         node = map_next(&inflight->tasks, node)) {
        const struct task *task = container_of(node, struct task, by_id);
        check_task(inflight, task);
        count++;
        by_state[task->state]++;
        waiting += list_linked(&task->waiting);
        parked += task->parked;
        timers += heap_contains(&task->timer);
        barred += list_linked(&task->barred);
    }
    assert(count == inflight->live.count && barred == inflight->barred.count);
    assert(count == inflight->tasks.count && timers == inflight->timers.count);
    assert(waiting == inflight->unconfirmed.count && parked == inflight->counts.parked);
    for (int state = 0; state < TASK_STATES; state++)
        assert(by_state[state] == inflight->counts.by_state[state]);
}

static uint64_t blob_len(const struct task *task)
{
    return task->blob ? task->blob->len : 0;
}

static void check_blobs(const struct inflight *inflight)
{
    uint64_t bytes = 0;

    for (struct map_node *node = map_first(&inflight->tasks); node;
         node = map_next(&inflight->tasks, node))
        bytes += blob_len(container_of(node, struct task, by_id));
    list_foreach (&inflight->ended, node)
        bytes += blob_len(container_of(node, struct task, changed));
    list_foreach (&inflight->changed, node) {
        const struct task *task = container_of(node, struct task, changed);
        bytes += task->end != TASK_LIVE ? blob_len(task) : 0;
    }
    assert(bytes == inflight->counts.payload_bytes_cached);
}

/* --- queues and claims ------------------------------------------------------------------------ */

static size_t check_claim_queue(const struct claim_queue *queue)
{
    uint64_t last = 0;

    list_foreach (&queue->held, node) {
        const struct claim *claim = container_of(node, struct claim, link);
        assert(claim->queue == queue && claim->seq > last && claim->effect == 0);
        assert(heap_contains(&claim->timer));
        last = claim->seq;
    }
    return queue->held.count;
}

/* The lowest rowid in line; INT64_MAX: none. */
static int64_t check_line(const struct task_queue *queue)
{
    int64_t first = INT64_MAX, last = INT64_MIN;

    list_foreach (&queue->line, node) {
        const struct task *task = container_of(node, struct task, line);
        assert(task->queue == queue && task->rowid > last);
        last = task->rowid;
        first = first == INT64_MAX ? task->rowid : first;
    }
    return first;
}

static int64_t heap_first(const struct heap *heap)
{
    const struct heap_node *node = heap_min(heap);

    return node ? node->key : INT64_MAX;
}

/* `node` stands in the heap above for this lowest rowid. */
static void check_head(const struct heap_node *node, int64_t rowid)
{
    assert(heap_contains(node) == (rowid != INT64_MAX));
    assert(rowid == INT64_MAX || node->key == rowid);
}

static size_t check_queue(const struct inflight *inflight, const struct task_queue *queue)
{
    assert(queue->tasks || queue->claims.held.count);
    int64_t line = check_line(queue), back = heap_first(&queue->back);
    size_t ready = queue->line.count + queue->back.count;
    assert(ready <= queue->tasks);
    check_heap(&queue->back);
    check_head(&queue->by_head, line < back ? line : back);
    assert(ready == 0 || !queues_newest_claim(&inflight->queues, queue));
    return check_claim_queue(&queue->claims);
}

static size_t check_application(const struct inflight *inflight,
                                const struct application *application, size_t *claim_only)
{
    size_t tasks = 0, claims = check_claim_queue(&application->claims);

    assert(application->namespaces.count || application->claims.held.count);
    for (struct map_node *node = map_first(&application->namespaces); node;
         node = map_next(&application->namespaces, node)) {
        const struct task_queue *queue = container_of(node, struct task_queue, by_name);
        assert(queue->application == application);
        claims += check_queue(inflight, queue);
        tasks += queue->tasks;
        *claim_only += queue->tasks == 0;
    }
    assert(tasks == application->tasks);
    *claim_only += application->tasks == 0;
    check_heap(&application->ready);
    check_head(&application->by_head, heap_first(&application->ready));
    return claims;
}

static void check_queues(const struct inflight *inflight)
{
    const struct queues *queues = &inflight->queues;
    size_t claim_only = 0;
    size_t claims = check_claim_queue(&queues->claims) + check_claim_queue(&queues->hopeless);

    for (struct map_node *node = map_first(&queues->applications); node;
         node = map_next(&queues->applications, node))
        claims += check_application(inflight, container_of(node, struct application, by_name),
                                    &claim_only);
    check_heap(&queues->ready);
    assert(claims == inflight->claims.timers.count);
    assert(claim_only == queues->claim_only);
}

static void check_served(const struct inflight *inflight)
{
    const struct served *served = &inflight->served;
    size_t pending = 0, processing = 0, unserved = 0, unserved_pending = 0, checks = 0;

    check_heap(&served->checks);
    for (struct map_node *node = map_first(&inflight->queues.applications); node;
         node = map_next(&inflight->queues.applications, node)) {
        const struct served_entry *entry = &container_of(node, struct application, by_name)->served;
        bool checked = heap_contains(&entry->check);
        pending += entry->pending;
        processing += entry->processing;
        unserved += served_is_unserved(entry);
        unserved_pending += served_is_unserved(entry) ? entry->pending : 0;
        checks += checked;
        assert(!(checked && served_is_unserved(entry)));
        assert((checked || served_is_unserved(entry)) == (entry->pending && served->after_ms));
    }
    assert(pending == inflight->counts.by_state[TASK_PENDING]);
    assert(processing == inflight->counts.by_state[TASK_PROCESSING]);
    assert(unserved == served->unserved.count && unserved_pending == served->unserved_pending);
    assert(checks == served->checks.count);
}

void inflight_check(const struct inflight *inflight)
{
    check_heap(&inflight->timers);
    check_heap(&inflight->claims.timers);
    check_tasks(inflight);
    check_publishes(inflight);
    check_blobs(inflight);
    check_queues(inflight);
    check_served(inflight);
}
