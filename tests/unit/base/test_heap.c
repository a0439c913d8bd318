/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "base/heap.h"

#define NODES 300

/* xorshift: the same run on every machine. */
static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static int by_key_then_seq(const void *a, const void *b)
{
    const struct heap_node *x = *(struct heap_node *const *)a, *y = *(struct heap_node *const *)b;

    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return x->seq < y->seq ? -1 : x->seq > y->seq;
}

static void assert_is_heap(const struct heap *heap)
{
    for (size_t i = 0; i < heap->count; i++) {
        assert_int_equal(heap->nodes[i]->position, i + 1);
        if (i > 0)
            assert_true(by_key_then_seq(&heap->nodes[(i - 1) / 2], &heap->nodes[i]) < 0);
    }
}

static void test_empty(void **state)
{
    struct heap heap;

    (void)state;
    heap_init(&heap);
    assert_null(heap_min(&heap));
    heap_free(&heap);
}

static void test_equal_keys_leave_in_order_of_insertion(void **state)
{
    struct heap heap;
    struct heap_node nodes[100] = {0};

    (void)state;
    heap_init(&heap);
    for (size_t i = 0; i < 100; i++)
        heap_insert(&heap, &nodes[i], (int64_t)(i % 3));
    for (size_t key = 0; key < 3; key++) {
        for (size_t i = key; i < 100; i += 3) {
            assert_ptr_equal(heap_min(&heap), &nodes[i]);
            heap_remove(&heap, &nodes[i]);
            assert_false(heap_contains(&nodes[i]));
        }
    }
    assert_null(heap_min(&heap));
    heap_free(&heap);
}

static void test_move_keeps_the_order_of_insertion(void **state)
{
    struct heap heap;
    struct heap_node first = {0}, second = {0};

    (void)state;
    heap_init(&heap);
    heap_insert(&heap, &first, 10);
    heap_insert(&heap, &second, 5);
    assert_ptr_equal(heap_min(&heap), &second);
    heap_move(&heap, &first, 5);
    assert_ptr_equal(heap_min(&heap), &first);
    heap_move(&heap, &first, 6);
    assert_ptr_equal(heap_min(&heap), &second);
    heap_free(&heap);
}

static void test_extreme_keys(void **state)
{
    struct heap heap;
    struct heap_node least = {0}, zero = {0}, greatest = {0};

    (void)state;
    heap_init(&heap);
    heap_insert(&heap, &greatest, INT64_MAX);
    heap_insert(&heap, &zero, 0);
    heap_insert(&heap, &least, INT64_MIN);
    assert_ptr_equal(heap_min(&heap), &least);
    heap_remove(&heap, &least);
    assert_ptr_equal(heap_min(&heap), &zero);
    heap_remove(&heap, &zero);
    assert_ptr_equal(heap_min(&heap), &greatest);
    heap_free(&heap);
}

static void test_free_forgets_nodes(void **state)
{
    struct heap heap;
    struct heap_node node = {0};

    (void)state;
    heap_init(&heap);
    heap_insert(&heap, &node, 1);
    heap_free(&heap);
    assert_false(heap_contains(&node));
    heap_insert(&heap, &node, 2); /* a freed heap is an empty one */
    assert_ptr_equal(heap_min(&heap), &node);
    heap_free(&heap);
}

/* The model of the differential test: an array, sorted when asked. */
struct model {
    struct heap_node *nodes[NODES];
    size_t count;
};

static struct heap_node *model_min(struct model *model)
{
    qsort(model->nodes, model->count, sizeof(model->nodes[0]), by_key_then_seq);
    return model->count ? model->nodes[0] : NULL;
}

static void model_remove(struct model *model, const struct heap_node *node)
{
    size_t i = 0;

    while (model->nodes[i] != node)
        i++;
    model->nodes[i] = model->nodes[--model->count];
}

static void one_step(struct heap *heap, struct model *model, struct heap_node *nodes,
                     uint64_t *seed)
{
    struct heap_node *node = &nodes[next_random(seed) % NODES];
    int64_t key = (int64_t)(next_random(seed) % 50) - 25; /* few keys, many ties */

    if (!heap_contains(node)) {
        heap_insert(heap, node, key);
        model->nodes[model->count++] = node;
    } else if (next_random(seed) % 2) {
        heap_move(heap, node, key);
    } else {
        heap_remove(heap, node);
        model_remove(model, node);
    }
}

static void test_random_steps_against_a_sorted_array(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct heap_node nodes[NODES] = {0};
        struct model model = {.count = 0};
        struct heap heap;
        uint64_t random = seed;

        heap_init(&heap);
        for (int i = 0; i < 1000; i++) {
            one_step(&heap, &model, nodes, &random);
            assert_int_equal(heap.count, model.count);
            assert_ptr_equal(heap_min(&heap), model_min(&model));
        }
        assert_is_heap(&heap);
        while (model_min(&model)) {
            struct heap_node *min = model_min(&model);
            assert_ptr_equal(heap_min(&heap), min);
            heap_remove(&heap, min);
            model_remove(&model, min);
        }
        assert_null(heap_min(&heap));
        heap_free(&heap);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_equal_keys_leave_in_order_of_insertion),
        cmocka_unit_test(test_move_keeps_the_order_of_insertion),
        cmocka_unit_test(test_extreme_keys),
        cmocka_unit_test(test_free_forgets_nodes),
        cmocka_unit_test(test_random_steps_against_a_sorted_array),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
