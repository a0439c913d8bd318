/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who may have what next: one queue for every (application, namespace) that a live task or a held
 * claim names, grouped by application.
 *
 *   queues.ready       applications by their head's rowid   -> the first task of all
 *   application.ready  its queues by their head's rowid     -> the first task of an application
 *   queue.line, .back  its claimable tasks by rowid         -> the first task of a namespace
 *
 * Most tasks come and go in order of rowid: they stand in line, a plain list. One that is behind
 * its turn (a delay over, a claim given back, a deadline missed) goes to the heap beside it; the
 * head is the lower of the two. Only heads are ordered across queues. So a usual task costs O(1) in
 * its queue, an unusual one O(log n), and both O(log queues) above when the head changes. A name
 * that nobody uses any more is freed; names that only claims know are bounded, because strangers
 * choose them.
 */
#ifndef TASKMILL_CORE_QUEUES_H
#define TASKMILL_CORE_QUEUES_H

#include "core/claims.h"
#include "core/inflight.h"
#include "core/served.h"

struct application {
    struct map_node by_name;
    struct map namespaces; /* of struct task_queue */
    struct heap ready;     /* of struct task_queue, by head */
    struct heap_node by_head;
    struct claim_queue claims; /* for any of its namespaces */
    struct served_entry served;
    size_t tasks;
    size_t name_len;
    char name[];
};

struct task_queue {
    struct map_node by_name;
    struct application *application;
    struct list line; /* of struct task, rowids rising */
    struct heap back; /* of struct task, by rowid */
    struct heap_node by_head;
    struct claim_queue claims; /* for exactly this queue */
    size_t tasks;
    char name[];
};

struct queues {
    struct map applications;
    struct heap ready;           /* of struct application, by head */
    struct claim_queue claims;   /* for any task */
    struct claim_queue hopeless; /* a namespace without application: matches nothing */
    size_t claim_only;           /* applications and queues without a task */
};

void queues_init(struct queues *queues, const uint64_t seed[2]);
/* Nobody may use a queue any more (asserted). */
void queues_free(struct queues *queues);

/* The queue of a task that comes to live; every call is paired with one queues_leave. */
struct task_queue *queues_enter(struct queues *queues, struct bytes application,
                                struct bytes namespace);
void queues_leave(struct queues *queues, struct task_queue *queue);

static inline bool queues_is_ready(const struct task *task)
{
    return list_linked(&task->line) || heap_contains(&task->back);
}

/* Makes a task (whose ->queue is set) claimable, and not. */
void queues_add_ready(struct queues *queues, struct task *task);
void queues_remove_ready(struct queues *queues, struct task *task);
/* The claimable task of lowest rowid that matches; NULL: none. */
struct task *queues_first(const struct queues *queues, const struct claim_filter *filter);

/* NULL when no live task or held claim names it. */
struct application *queues_application(const struct queues *queues, struct bytes name);

/* Where a claim with this filter waits, made if need be; NULL when that would leave more than
 * claim_only_max names that only claims know, or the filter is too long to be kept. */
struct claim_queue *queues_claims(struct queues *queues, const struct claim_filter *filter,
                                  size_t claim_only_max);
/* The newest held claim that matches a task of this queue; NULL: none. */
struct claim *queues_newest_claim(const struct queues *queues, const struct task_queue *queue);
/* After a claim left: frees the names that only it knew. */
void queues_tidy(struct queues *queues, struct claim_queue *claims);

#endif
