/* SPDX-License-Identifier: Apache-2.0 */
#include "base/list.h"

#include <assert.h>

void list_init(struct list *list)
{
    list->head.prev = list->head.next = &list->head;
    list->count = 0;
}

static void insert_before(struct list *list, struct list_node *next, struct list_node *node)
{
    assert(!list_linked(node));
    node->prev = next->prev;
    node->next = next;
    next->prev->next = node;
    next->prev = node;
    list->count++;
}

void list_push_back(struct list *list, struct list_node *node)
{
    insert_before(list, &list->head, node);
}

void list_push_front(struct list *list, struct list_node *node)
{
    insert_before(list, list->head.next, node);
}

void list_remove(struct list *list, struct list_node *node)
{
    assert(list_linked(node) && list->count > 0);
    node->prev->next = node->next;
    node->next->prev = node->prev;
    node->prev = node->next = NULL;
    list->count--;
}

struct list_node *list_first(const struct list *list)
{
    return list_empty(list) ? NULL : list->head.next;
}

struct list_node *list_last(const struct list *list)
{
    return list_empty(list) ? NULL : list->head.prev;
}

struct list_node *list_pop_front(struct list *list)
{
    struct list_node *node = list_first(list);

    if (node)
        list_remove(list, node);
    return node;
}
