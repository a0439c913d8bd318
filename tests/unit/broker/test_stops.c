/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/latch.h"
#include "broker/stops.h"

static void open_latch(void *arg, int64_t until_ms)
{
    (void)until_ms;
    latch_open(arg);
}

static void wait_for_latch(void *arg, int64_t until_ms)
{
    assert_true(latch_wait(arg, until_ms));
}

static void they_run_beside_each_other(void **state)
{
    (void)state;
    struct latch latch;
    int64_t now_ms = clock_boot_ms();

    latch_init(&latch);
    /* The first can only end when the second runs. */
    const struct stop_job jobs[] = {{"waits", wait_for_latch, &latch},
                                    {"opens", open_latch, &latch}};
    assert_int_equal(stops_run(jobs, 2, now_ms + 60000, now_ms + 61000), 0);
    latch_destroy(&latch);
}

struct stuck {
    struct latch release, ended;
};

static void hang(void *arg, int64_t until_ms)
{
    struct stuck *stuck = arg;

    (void)until_ms;
    latch_wait(&stuck->release, CLOCK_NEVER);
    latch_open(&stuck->ended);
}

static void what_hangs_is_left_behind(void **state)
{
    (void)state;
    /* Static: the thread that is left behind lets go of it a moment after the test. */
    static struct stuck stuck;
    static struct latch other;
    int64_t now_ms = clock_boot_ms();

    latch_init(&stuck.release);
    latch_init(&stuck.ended);
    latch_init(&other);
    const struct stop_job jobs[] = {{"hangs", hang, &stuck}, {"opens", open_latch, &other}};
    assert_int_equal(stops_run(jobs, 2, now_ms + 10, now_ms + 30), 1);
    assert_in_range(clock_boot_ms() - now_ms, 30, 20000);
    assert_true(latch_wait(&other, 0));
    latch_open(&stuck.release);
    assert_true(latch_wait(&stuck.ended, CLOCK_NEVER));
}

static void nothing_to_stop(void **state)
{
    (void)state;
    assert_int_equal(stops_run(NULL, 0, 0, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(they_run_beside_each_other),
        cmocka_unit_test(what_hangs_is_left_behind),
        cmocka_unit_test(nothing_to_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
