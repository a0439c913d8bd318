/* SPDX-License-Identifier: Apache-2.0 */
#include "base/heap.h"

#include <assert.h>

#include "base/mem.h"

#define HEAP_CAP_MIN 16

void heap_init(struct heap *heap)
{
    *heap = (struct heap){0};
}

void heap_free(struct heap *heap)
{
    for (size_t i = 0; i < heap->count; i++)
        heap->nodes[i]->position = 0;
    mem_free(heap->nodes);
    *heap = (struct heap){0};
}

static bool before(const struct heap_node *a, const struct heap_node *b)
{
    return a->key != b->key ? a->key < b->key : a->seq < b->seq;
}

static void place(struct heap *heap, size_t at, struct heap_node *node)
{
    heap->nodes[at] = node;
    node->position = at + 1;
}

/* Both sifts carry `node` from the hole at `at` to where it belongs, moving the others by one. */
static void sift_up(struct heap *heap, size_t at, struct heap_node *node)
{
    while (at > 0) {
        size_t parent = (at - 1) / 2;
        if (!before(node, heap->nodes[parent]))
            break;
        place(heap, at, heap->nodes[parent]);
        at = parent;
    }
    place(heap, at, node);
}

static void sift_down(struct heap *heap, size_t at, struct heap_node *node)
{
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= heap->count)
            break;
        if (child + 1 < heap->count && before(heap->nodes[child + 1], heap->nodes[child]))
            child++;
        if (!before(heap->nodes[child], node))
            break;
        place(heap, at, heap->nodes[child]);
        at = child;
    }
    place(heap, at, node);
}

static void settle(struct heap *heap, size_t at, struct heap_node *node)
{
    if (at > 0 && before(node, heap->nodes[(at - 1) / 2]))
        sift_up(heap, at, node);
    else
        sift_down(heap, at, node);
}

static void assert_inside(const struct heap *heap, const struct heap_node *node)
{
    assert(node->position > 0 && node->position <= heap->count);
    assert(heap->nodes[node->position - 1] == node);
}

void heap_insert(struct heap *heap, struct heap_node *node, int64_t key)
{
    assert(!heap_contains(node));
    if (heap->count == heap->cap) {
        heap->cap = heap->cap ? heap->cap * 2 : HEAP_CAP_MIN;
        heap->nodes =
            (struct heap_node **)mem_realloc(heap->nodes, heap->cap * sizeof(*heap->nodes));
    }
    node->key = key;
    node->seq = heap->next_seq++;
    heap->count++;
    sift_up(heap, heap->count - 1, node);
}

void heap_remove(struct heap *heap, struct heap_node *node)
{
    assert_inside(heap, node);
    size_t hole = node->position - 1;
    struct heap_node *last = heap->nodes[--heap->count];
    node->position = 0;
    if (last != node)
        settle(heap, hole, last);
}

void heap_move(struct heap *heap, struct heap_node *node, int64_t key)
{
    assert_inside(heap, node);
    node->key = key;
    settle(heap, node->position - 1, node);
}

struct heap_node *heap_min(const struct heap *heap)
{
    return heap->count ? heap->nodes[0] : NULL;
}
