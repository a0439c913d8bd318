/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>

#include "worker/occupancy.h"

static struct occupancy_time time_of(const struct occupancy_account *account, int64_t now_us)
{
    struct occupancy_time sum = {0};

    occupancy_add(account, now_us, &sum);
    return sum;
}

static void a_child_that_is_not_ready_has_no_time(void **state)
{
    struct occupancy_account account;
    struct occupancy_time none = {0}, sum;
    int64_t millionths;

    (void)state;
    occupancy_reset(&account);
    sum = time_of(&account, 5000000);
    assert_int_equal(sum.busy_us + sum.wait_us, 0);
    assert_false(occupancy_between(&none, &sum, &millionths));
}

/* spec/client.md 13.18: there, tasks shorter than 0.1 s count as nothing. */
static void test_client_weakness_18_short_tasks_count_in_full(void **state)
{
    struct occupancy_account account;
    struct occupancy_time before = {0}, sum;
    int64_t now_us = 1000, millionths;

    (void)state;
    occupancy_reset(&account);
    occupancy_wait(&account, now_us);
    for (int i = 0; i < 10000; i++) {
        occupancy_busy(&account, now_us += 25);
        occupancy_wait(&account, now_us += 75);
    }
    sum = time_of(&account, now_us);
    assert_int_equal(sum.busy_us, 750000);
    assert_int_equal(sum.wait_us, 250000);
    assert_true(occupancy_between(&before, &sum, &millionths));
    assert_int_equal(millionths, 750000);
}

static void what_goes_on_counts_until_now(void **state)
{
    struct occupancy_account account;
    struct occupancy_time before, now;
    int64_t millionths;

    (void)state;
    occupancy_reset(&account);
    occupancy_wait(&account, 0);
    occupancy_busy(&account, 100);
    before = time_of(&account, 1000);
    assert_int_equal(before.busy_us, 900);
    now = time_of(&account, 2000); /* a task of hours is busy in every interval */
    assert_true(occupancy_between(&before, &now, &millionths));
    assert_int_equal(millionths, 1000000);
    assert_false(occupancy_between(&now, &now, &millionths));
    assert_int_equal(time_of(&account, 50).busy_us, 0); /* a clock that is behind the child's */
}

static void children_that_came_late_weigh_less(void **state)
{
    struct occupancy_account old, young;
    struct occupancy_time before = {0}, now = {0};
    int64_t millionths;

    (void)state;
    occupancy_reset(&old);
    occupancy_reset(&young);
    occupancy_wait(&old, 0);
    occupancy_wait(&young, 900);
    occupancy_busy(&young, 900);
    occupancy_add(&old, 1000, &now);
    occupancy_add(&young, 1000, &now);
    assert_true(occupancy_between(&before, &now, &millionths));
    assert_int_equal(millionths, 90909); /* 100 of 1,100 */
}

static void a_writer_killed_in_the_middle_stops_nobody(void **state)
{
    struct occupancy_account account;

    (void)state;
    occupancy_reset(&account);
    occupancy_wait(&account, 0);
    occupancy_busy(&account, 10);
    atomic_fetch_add(&account.version, 1);
    assert_int_equal(time_of(&account, 30).busy_us, 20);
}

static void *work(void *arg)
{
    struct occupancy_account *account = arg;

    for (int64_t now_us = 0; now_us < 3000000; now_us += 2) {
        occupancy_busy(account, now_us);
        occupancy_wait(account, now_us + 1);
    }
    return NULL;
}

/* Both sums belong to one moment: with tasks and pauses of equal length they never drift apart. */
static void a_reader_sees_one_moment(void **state)
{
    struct occupancy_account account;
    pthread_t thread;

    (void)state;
    occupancy_reset(&account);
    occupancy_wait(&account, 0);
    assert_int_equal(pthread_create(&thread, NULL, work, &account), 0);
    for (int i = 0; i < 20000; i++) {
        struct occupancy_time sum = time_of(&account, 0);

        assert_true(sum.busy_us <= sum.wait_us + 1 && sum.wait_us <= sum.busy_us + 1);
    }
    pthread_join(thread, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_child_that_is_not_ready_has_no_time),
        cmocka_unit_test(test_client_weakness_18_short_tasks_count_in_full),
        cmocka_unit_test(what_goes_on_counts_until_now),
        cmocka_unit_test(children_that_came_late_weigh_less),
        cmocka_unit_test(a_writer_killed_in_the_middle_stops_nobody),
        cmocka_unit_test(a_reader_sees_one_moment),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
