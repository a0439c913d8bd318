/* SPDX-License-Identifier: Apache-2.0 */
#include "core/queues.h"

#include <assert.h>

#include "base/mem.h"

/* Names of honest workers are short; a claim for a longer one is answered at once instead of held,
 * so that the names that only claims know cannot take much memory. */
#define CLAIM_NAME_MAX 512

void queues_init(struct queues *queues, const uint64_t seed[2])
{
    map_init(&queues->applications, seed);
    heap_init(&queues->ready);
    claim_queue_init(&queues->claims, NULL, NULL);
    claim_queue_init(&queues->hopeless, NULL, NULL);
    queues->claim_only = 0;
}

void queues_free(struct queues *queues)
{
    assert(queues->applications.count == 0 && queues->ready.count == 0);
    map_free(&queues->applications);
    heap_free(&queues->ready);
}

/* --- heads ------------------------------------------------------------------------------------ */

static struct task *task_in_line(struct list_node *node)
{
    return node ? container_of(node, struct task, line) : NULL;
}

static struct task *queue_head(const struct task_queue *queue)
{
    struct task *line = task_in_line(list_first(&queue->line));
    struct heap_node *node = heap_min(&queue->back);
    struct task *back = node ? container_of(node, struct task, back) : NULL;

    if (!line || !back)
        return line ? line : back;
    return line->rowid < back->rowid ? line : back;
}

static struct task *application_head(const struct application *application)
{
    struct heap_node *node = heap_min(&application->ready);

    return node ? queue_head(container_of(node, struct task_queue, by_head)) : NULL;
}

/* --- names --------------------------------------------------------------------------------------
 */

struct application *queues_application(const struct queues *queues, struct bytes name)
{
    struct map_node *node = map_find(&queues->applications, name);

    return node ? container_of(node, struct application, by_name) : NULL;
}

static struct task_queue *find_queue(const struct application *application, struct bytes name)
{
    struct map_node *node = map_find(&application->namespaces, name);

    return node ? container_of(node, struct task_queue, by_name) : NULL;
}

static struct application *make_application(struct queues *queues, struct bytes name)
{
    struct application *application = mem_zalloc(sizeof(*application) + name.len);

    application->name_len = name.len;
    if (name.len)
        memcpy(application->name, name.ptr, name.len);
    map_init(&application->namespaces, queues->applications.seed);
    heap_init(&application->ready);
    claim_queue_init(&application->claims, application, NULL);
    map_insert(&queues->applications, &application->by_name, bytes_of(application->name, name.len));
    queues->claim_only++;
    return application;
}

static struct task_queue *make_queue(struct queues *queues, struct application *application,
                                     struct bytes name)
{
    struct task_queue *queue = mem_zalloc(sizeof(*queue) + name.len);

    if (name.len)
        memcpy(queue->name, name.ptr, name.len);
    queue->application = application;
    list_init(&queue->line);
    heap_init(&queue->back);
    claim_queue_init(&queue->claims, application, queue);
    map_insert(&application->namespaces, &queue->by_name, bytes_of(queue->name, name.len));
    queues->claim_only++;
    return queue;
}

static struct application *need_application(struct queues *queues, struct bytes name)
{
    struct application *application = queues_application(queues, name);

    return application ? application : make_application(queues, name);
}

static struct task_queue *need_queue(struct queues *queues, struct application *application,
                                     struct bytes name)
{
    struct task_queue *queue = find_queue(application, name);

    return queue ? queue : make_queue(queues, application, name);
}

static void free_queue_if_unused(struct queues *queues, struct task_queue *queue)
{
    if (queue->tasks || !list_empty(&queue->claims.held))
        return;
    assert(!queue_head(queue) && !heap_contains(&queue->by_head));
    map_remove(&queue->application->namespaces, &queue->by_name);
    heap_free(&queue->back);
    mem_free(queue);
    queues->claim_only--;
}

static void free_application_if_unused(struct queues *queues, struct application *application)
{
    if (application->namespaces.count || !list_empty(&application->claims.held))
        return;
    assert(application->tasks == 0 && !heap_contains(&application->by_head));
    map_remove(&queues->applications, &application->by_name);
    map_free(&application->namespaces);
    heap_free(&application->ready);
    mem_free(application);
    queues->claim_only--;
}

/* --- tasks --------------------------------------------------------------------------------------
 */

struct task_queue *queues_enter(struct queues *queues, struct bytes application,
                                struct bytes namespace)
{
    struct application *owner = need_application(queues, application);
    struct task_queue *queue = need_queue(queues, owner, namespace);

    if (owner->tasks++ == 0)
        queues->claim_only--;
    if (queue->tasks++ == 0)
        queues->claim_only--;
    return queue;
}

void queues_leave(struct queues *queues, struct task_queue *queue)
{
    struct application *application = queue->application;

    assert(queue->tasks && application->tasks);
    if (--queue->tasks == 0)
        queues->claim_only++;
    if (--application->tasks == 0)
        queues->claim_only++;
    free_queue_if_unused(queues, queue);
    free_application_if_unused(queues, application);
}

/* `node` stands in `heap` for what is below it, under the rowid of its head; NULL: nothing is
 * claimable. */
static void refresh_head(struct heap *heap, struct heap_node *node, const struct task *first)
{
    if (!first && heap_contains(node))
        heap_remove(heap, node);
    else if (first && !heap_contains(node))
        heap_insert(heap, node, first->rowid);
    else if (first && first->rowid != node->key)
        heap_move(heap, node, first->rowid);
}

static void refresh_heads(struct queues *queues, struct task_queue *queue)
{
    struct application *application = queue->application;

    refresh_head(&application->ready, &queue->by_head, queue_head(queue));
    refresh_head(&queues->ready, &application->by_head, application_head(application));
}

void queues_add_ready(struct queues *queues, struct task *task)
{
    struct task_queue *queue = task->queue;
    const struct task *last = task_in_line(list_last(&queue->line));

    assert(!queues_is_ready(task));
    if (!last || last->rowid < task->rowid)
        list_push_back(&queue->line, &task->line);
    else
        heap_insert(&queue->back, &task->back, task->rowid);
    refresh_heads(queues, queue);
}

void queues_remove_ready(struct queues *queues, struct task *task)
{
    if (list_linked(&task->line))
        list_remove(&task->queue->line, &task->line);
    else
        heap_remove(&task->queue->back, &task->back);
    refresh_heads(queues, task->queue);
}

static struct task *head(const struct queues *queues)
{
    struct heap_node *node = heap_min(&queues->ready);

    return node ? application_head(container_of(node, struct application, by_head)) : NULL;
}

struct task *queues_first(const struct queues *queues, const struct claim_filter *filter)
{
    if (!filter->has_application)
        return filter->has_namespace ? NULL : head(queues);
    struct application *application = queues_application(queues, filter->application);
    if (!filter->has_namespace || !application)
        return application ? application_head(application) : NULL;
    struct task_queue *queue = find_queue(application, filter->namespace);
    return queue ? queue_head(queue) : NULL;
}

/* --- claims -------------------------------------------------------------------------------------
 */

/* Where the filter's claims wait if its names exist already; NULL when one does not. */
static struct claim_queue *find_claims(const struct queues *queues,
                                       const struct claim_filter *filter)
{
    struct application *application = queues_application(queues, filter->application);

    if (!application || !filter->has_namespace)
        return application ? &application->claims : NULL;
    struct task_queue *queue = find_queue(application, filter->namespace);
    return queue ? &queue->claims : NULL;
}

static bool may_make_names(const struct queues *queues, const struct claim_filter *filter,
                           size_t claim_only_max)
{
    size_t names = filter->has_namespace ? 2 : 1; /* at most */

    return queues->claim_only + names <= claim_only_max &&
           filter->application.len <= CLAIM_NAME_MAX &&
           (!filter->has_namespace || filter->namespace.len <= CLAIM_NAME_MAX);
}

struct claim_queue *queues_claims(struct queues *queues, const struct claim_filter *filter,
                                  size_t claim_only_max)
{
    if (!filter->has_application)
        return filter->has_namespace ? &queues->hopeless : &queues->claims;
    struct claim_queue *found = find_claims(queues, filter);
    if (found || !may_make_names(queues, filter, claim_only_max))
        return found;
    struct application *application = need_application(queues, filter->application);
    if (!filter->has_namespace)
        return &application->claims;
    return &need_queue(queues, application, filter->namespace)->claims;
}

static struct claim *newer(struct claim *a, struct claim *b)
{
    if (!a || !b)
        return a ? a : b;
    return a->seq > b->seq ? a : b;
}

struct claim *queues_newest_claim(const struct queues *queues, const struct task_queue *queue)
{
    struct claim *exact = claim_queue_newest(&queue->claims);
    struct claim *wide = claim_queue_newest(&queue->application->claims);

    return newer(newer(exact, wide), claim_queue_newest(&queues->claims));
}

void queues_tidy(struct queues *queues, struct claim_queue *claims)
{
    struct application *application = claims->application;

    if (claims->queue)
        free_queue_if_unused(queues, claims->queue);
    if (application)
        free_application_if_unused(queues, application);
}
