/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "core/done.h"
#include "core_help.h"

struct seen {
    char ids[64];
};

static void see(void *ctx, struct bytes id)
{
    struct seen *seen = ctx;
    size_t len = strlen(seen->ids);
    assert_true(len + id.len + 2 <= sizeof seen->ids);
    memcpy(seen->ids + len, id.ptr, id.len);
    memcpy(seen->ids + len + id.len, " ", 2);
}

static struct done *three(size_t count_max)
{
    static const uint64_t seed[2] = {3, 4};
    struct done *done = done_new(seed, count_max, 1000);
    assert_true(done_add(done, bytes_str("a"), 100));
    assert_true(done_add(done, bytes_str("b"), 100));
    assert_true(done_add(done, bytes_str("c"), 300));
    return done;
}

static void test_membership(void **state)
{
    (void)state;
    struct done *done = three(10);
    assert_int_equal(done_count(done), 3);
    assert_true(done_contains(done, bytes_str("b")));
    assert_false(done_contains(done, bytes_str("d")));
    assert_false(done_contains(done, bytes_str("")));
    assert_false(done_add(done, bytes_str("b"), 900));
    assert_int_equal(done_count(done), 3);
    assert_true(done_add(done, bytes_str(""), 900));
    assert_true(done_contains(done, bytes_str("")));
    done_free(done);
}

static void test_age(void **state)
{
    (void)state;
    struct done *done = three(10);
    struct seen seen = {""};
    assert_int_equal(done_next_ms(done), 1100);
    done_expire(done, 1099, 10, see, &seen);
    assert_string_equal(seen.ids, "");
    done_expire(done, 1100, 10, see, &seen);
    assert_string_equal(seen.ids, "a b ");
    assert_false(done_contains(done, bytes_str("a")));
    assert_true(done_contains(done, bytes_str("c")));
    assert_int_equal(done_next_ms(done), 1300);
    done_expire(done, CLOCK_NEVER, 10, see, &seen);
    assert_string_equal(seen.ids, "a b c ");
    assert_int_equal(done_next_ms(done), CLOCK_NEVER);
    assert_true(done_add(done, bytes_str("a"), 1400)); /* forgotten: new again */
    done_free(done);
}

static void test_in_slices(void **state)
{
    (void)state;
    struct done *done = three(10);
    struct seen seen = {""};
    done_expire(done, 5000, 1, see, &seen);
    assert_string_equal(seen.ids, "a ");
    assert_true(done_next_ms(done) <= 5000);
    done_expire(done, 5000, 1, see, &seen);
    assert_string_equal(seen.ids, "a b ");
    done_expire(done, 5000, 0, see, &seen);
    assert_int_equal(done_count(done), 1);
    done_free(done);
}

static void test_count(void **state)
{
    (void)state;
    struct done *done = three(2);
    struct seen seen = {""};
    assert_true(done_next_ms(done) <= 300); /* at once: one too many */
    done_expire(done, 300, 10, see, &seen);
    assert_string_equal(seen.ids, "a ");
    assert_int_equal(done_count(done), 2);
    assert_int_equal(done_next_ms(done), 1100);
    done_free(done);
}

static void test_time_going_back(void **state)
{
    (void)state;
    struct done *done = three(10);
    struct seen seen = {""};
    assert_true(done_add(done, bytes_str("d"), 50)); /* counts as 300, behind c */
    done_expire(done, 1200, 10, see, &seen);
    assert_string_equal(seen.ids, "a b ");
    done_expire(done, 1300, 10, see, &seen);
    assert_string_equal(seen.ids, "a b c d ");
    done_free(done);
    done_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_membership),      cmocka_unit_test(test_age),
        cmocka_unit_test(test_in_slices),       cmocka_unit_test(test_count),
        cmocka_unit_test(test_time_going_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
