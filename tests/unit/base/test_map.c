/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/map.h"
#include "base/mem.h"

#define MANY 50000

static const uint64_t seed[2] = {1, 2};

struct entry {
    struct map_node node;
    char key[24];
    int number;
    bool seen;
};

static struct entry *entry_of(struct map_node *node)
{
    return node ? container_of(node, struct entry, node) : NULL;
}

static struct entry *new_entries(size_t count)
{
    struct entry *entries = mem_calloc(count, sizeof(*entries));

    for (size_t i = 0; i < count; i++) {
        entries[i].number = (int)i;
        snprintf(entries[i].key, sizeof(entries[i].key), "task-%zu", i);
    }
    return entries;
}

static void insert_all(struct map *map, struct entry *entries, size_t count)
{
    for (size_t i = 0; i < count; i++)
        map_insert(map, &entries[i].node, bytes_str(entries[i].key));
}

static void test_empty(void **state)
{
    struct map map;

    (void)state;
    map_init(&map, seed);
    assert_null(map_find(&map, bytes_str("x")));
    assert_null(map_first(&map));
    map_free(&map);
}

static void test_many_keys(void **state)
{
    struct entry *entries = new_entries(MANY);
    struct map map;

    (void)state;
    map_init(&map, seed);
    insert_all(&map, entries, MANY);
    assert_int_equal(map.count, MANY);
    for (size_t i = 0; i < MANY; i++)
        assert_ptr_equal(entry_of(map_find(&map, bytes_str(entries[i].key))), &entries[i]);
    assert_null(map_find(&map, bytes_str("task-50000")));
    assert_null(map_find(&map, bytes_str("")));

    for (size_t i = 0; i < MANY; i += 2)
        map_remove(&map, &entries[i].node);
    assert_int_equal(map.count, MANY / 2);
    for (size_t i = 0; i < MANY; i++)
        assert_ptr_equal(entry_of(map_find(&map, bytes_str(entries[i].key))),
                         i % 2 ? &entries[i] : NULL);
    map_free(&map);
    mem_free(entries);
}

static void test_chains_stay_short(void **state)
{
    struct entry *entries = new_entries(MANY);
    struct map map;
    size_t longest = 0;

    (void)state;
    map_init(&map, seed);
    insert_all(&map, entries, MANY);
    for (size_t i = 0; i < map.bucket_count; i++) {
        size_t len = 0;
        for (struct map_node *node = map.buckets[i]; node; node = node->next)
            len++;
        longest = len > longest ? len : longest;
    }
    assert_true(map.bucket_count >= map.count);
    assert_true(longest <= 12);
    map_free(&map);
    mem_free(entries);
}

static void test_keys_are_bytes(void **state)
{
    struct map map;
    struct map_node a = {0}, b = {0}, empty = {0};

    (void)state;
    map_init(&map, seed);
    map_insert(&map, &a, bytes_of("x\0a", 3));
    map_insert(&map, &b, bytes_of("x\0b", 3));
    map_insert(&map, &empty, bytes_of(NULL, 0));
    assert_ptr_equal(map_find(&map, bytes_of("x\0a", 3)), &a);
    assert_ptr_equal(map_find(&map, bytes_of("x\0b", 3)), &b);
    assert_ptr_equal(map_find(&map, bytes_str("")), &empty);
    assert_null(map_find(&map, bytes_str("x")));
    map_free(&map);
}

static void test_iteration_sees_each_once(void **state)
{
    struct entry *entries = new_entries(1000);
    struct map map;
    size_t count = 0;

    (void)state;
    map_init(&map, seed);
    insert_all(&map, entries, 1000);
    for (struct map_node *node = map_first(&map); node; node = map_next(&map, node)) {
        assert_false(entry_of(node)->seen);
        entry_of(node)->seen = true;
        count++;
    }
    assert_int_equal(count, 1000);
    map_free(&map);
    mem_free(entries);
}

static void test_iteration_may_remove_behind_itself(void **state)
{
    struct entry *entries = new_entries(1000);
    struct map map;
    size_t count = 0;

    (void)state;
    map_init(&map, seed);
    insert_all(&map, entries, 1000);
    for (struct map_node *node = map_first(&map), *next; node; node = next) {
        next = map_next(&map, node);
        count++;
        if (entry_of(node)->number % 3)
            map_remove(&map, node);
    }
    assert_int_equal(count, 1000);
    assert_int_equal(map.count, 334);
    for (size_t i = 0; i < 1000; i++)
        assert_int_equal(map_find(&map, bytes_str(entries[i].key)) != NULL, i % 3 == 0);
    map_free(&map);
    mem_free(entries);
}

/* A run is reproducible from its seed: same seed and history, same order. */
static void test_order_depends_on_the_seed_alone(void **state)
{
    static const uint64_t other_seed[2] = {1, 3};
    struct entry *a = new_entries(200), *b = new_entries(200), *c = new_entries(200);
    struct map x, y, z;
    size_t differ = 0;

    (void)state;
    map_init(&x, seed);
    map_init(&y, seed);
    map_init(&z, other_seed);
    insert_all(&x, a, 200);
    insert_all(&y, b, 200);
    insert_all(&z, c, 200);
    struct map_node *n = map_first(&x), *m = map_first(&y), *o = map_first(&z);
    for (; n; n = map_next(&x, n), m = map_next(&y, m), o = map_next(&z, o)) {
        assert_int_equal(entry_of(n)->number, entry_of(m)->number);
        differ += entry_of(n)->number != entry_of(o)->number;
    }
    assert_null(m);
    assert_true(differ > 100);
    map_free(&x);
    map_free(&y);
    map_free(&z);
    mem_free(a);
    mem_free(b);
    mem_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_many_keys),
        cmocka_unit_test(test_chains_stay_short),
        cmocka_unit_test(test_keys_are_bytes),
        cmocka_unit_test(test_iteration_sees_each_once),
        cmocka_unit_test(test_iteration_may_remove_behind_itself),
        cmocka_unit_test(test_order_depends_on_the_seed_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
