/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/list.h"
#include "base/mem.h"

struct item {
    struct list_node node;
    int number;
};

static int number_of(const struct list_node *node)
{
    return container_of(node, struct item, node)->number;
}

/* The list holds exactly the items with these numbers, seen from both ends. */
static void assert_numbers(const struct list *list, const int *numbers, size_t count)
{
    size_t i = 0;

    assert_int_equal(list->count, count);
    assert_int_equal(list_empty(list), count == 0);
    list_foreach (list, it)
        assert_int_equal(number_of(it), numbers[i++]);
    assert_int_equal(i, count);
    for (const struct list_node *it = list->head.prev; it != &list->head; it = it->prev)
        assert_int_equal(number_of(it), numbers[--i]);
    assert_int_equal(i, 0);
}

#define ASSERT_NUMBERS(list, ...) \
    assert_numbers(list, (const int[]){__VA_ARGS__}, sizeof((int[]){__VA_ARGS__}) / sizeof(int))

static void test_empty(void **state)
{
    struct list list;

    (void)state;
    list_init(&list);
    assert_null(list_first(&list));
    assert_null(list_last(&list));
    assert_null(list_pop_front(&list));
    assert_numbers(&list, NULL, 0);
}

static void test_push_and_remove(void **state)
{
    struct item items[5];
    struct list list;

    (void)state;
    list_init(&list);
    for (int i = 0; i < 5; i++)
        items[i] = (struct item){.number = i};
    assert_false(list_linked(&items[0].node));
    list_push_back(&list, &items[1].node);
    list_push_back(&list, &items[2].node);
    list_push_front(&list, &items[0].node);
    list_push_back(&list, &items[3].node);
    ASSERT_NUMBERS(&list, 0, 1, 2, 3);
    assert_true(list_linked(&items[0].node));
    assert_ptr_equal(list_first(&list), &items[0].node);
    assert_ptr_equal(list_last(&list), &items[3].node);

    list_remove(&list, &items[1].node);
    assert_false(list_linked(&items[1].node));
    ASSERT_NUMBERS(&list, 0, 2, 3);
    list_remove(&list, &items[3].node);
    ASSERT_NUMBERS(&list, 0, 2);
    assert_ptr_equal(list_pop_front(&list), &items[0].node);
    list_push_back(&list, &items[0].node);
    ASSERT_NUMBERS(&list, 2, 0);
}

static void test_safe_walk_may_remove(void **state)
{
    struct item items[6];
    struct list list;

    (void)state;
    list_init(&list);
    for (int i = 0; i < 6; i++) {
        items[i] = (struct item){.number = i};
        list_push_back(&list, &items[i].node);
    }
    list_foreach_safe (&list, it)
        if (number_of(it) % 2)
            list_remove(&list, it);
    ASSERT_NUMBERS(&list, 0, 2, 4);
    list_foreach_safe (&list, it)
        list_remove(&list, it);
    assert_numbers(&list, NULL, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_push_and_remove),
        cmocka_unit_test(test_safe_walk_may_remove),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
