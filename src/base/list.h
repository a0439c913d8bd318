/* SPDX-License-Identifier: Apache-2.0 */
/* Intrusive doubly linked list. The node lives inside its owner's struct (container_of leads back);
 * the list owns nothing. Not thread-safe. */
#ifndef TASKMILL_BASE_LIST_H
#define TASKMILL_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list_node {
    struct list_node *prev, *next; /* both NULL: in no list */
};

struct list {
    struct list_node head; /* sentinel */
    size_t count;
};

void list_init(struct list *list);
void list_push_back(struct list *list, struct list_node *node);
void list_push_front(struct list *list, struct list_node *node);
void list_remove(struct list *list, struct list_node *node);
/* NULL when empty. */
struct list_node *list_first(const struct list *list);
struct list_node *list_last(const struct list *list);
struct list_node *list_pop_front(struct list *list);

static inline bool list_linked(const struct list_node *node)
{
    return node->next != NULL;
}

static inline bool list_empty(const struct list *list)
{
    return list->count == 0;
}

/* `it` must not be removed inside list_foreach; use the _safe form for that. */
#define list_foreach(list, it) \
    for (struct list_node *it = (list)->head.next; it != &(list)->head; it = it->next)
#define list_foreach_safe(list, it)                                                             \
    for (struct list_node *it = (list)->head.next, *it##_next_ = it->next; it != &(list)->head; \
         it = it##_next_, it##_next_ = it->next)

#endif
