/* SPDX-License-Identifier: Apache-2.0 */
/* Intrusive binary min-heap of int64 keys: timers (key = due time in ms) and arrival order
 * (key = rowid). Equal keys leave in the order in which they were inserted. The heap owns an array
 * of pointers, not the nodes. insert and remove are O(log n); inserting a key greater than all
 * others is O(1). Not thread-safe. */
#ifndef TASKMILL_BASE_HEAP_H
#define TASKMILL_BASE_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct heap_node {
    int64_t key;
    uint64_t seq;    /* insertion number: breaks ties */
    size_t position; /* index + 1; 0: in no heap */
};

struct heap {
    struct heap_node **nodes;
    size_t count, cap;
    uint64_t next_seq;
};

void heap_init(struct heap *heap);
void heap_free(struct heap *heap); /* frees the array; nodes still inside are forgotten */
void heap_insert(struct heap *heap, struct heap_node *node, int64_t key);
void heap_remove(struct heap *heap, struct heap_node *node);
/* Changes the key of a node that is inside, keeping its seq. */
void heap_move(struct heap *heap, struct heap_node *node, int64_t key);
/* NULL when empty. */
struct heap_node *heap_min(const struct heap *heap);

static inline bool heap_contains(const struct heap_node *node)
{
    return node->position != 0;
}

#endif
