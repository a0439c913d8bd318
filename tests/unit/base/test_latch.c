/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/latch.h"

static void the_limit_ends_a_wait(void **state)
{
    (void)state;
    struct latch latch;
    int64_t start_ms = clock_boot_ms();

    latch_init(&latch);
    assert_false(latch_wait(&latch, start_ms)); /* looks only */
    assert_false(latch_wait(&latch, start_ms + 30));
    assert_in_range(clock_boot_ms() - start_ms, 30, 10000);
    latch_open(&latch);
    assert_true(latch_wait(&latch, start_ms));
    assert_true(latch_wait(&latch, CLOCK_NEVER));
    latch_destroy(&latch);
}

static void *open_it(void *latch)
{
    latch_open(latch);
    return NULL;
}

static void another_thread_opens_it(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++) {
        struct latch latch;
        pthread_t thread;

        latch_init(&latch);
        assert_int_equal(pthread_create(&thread, NULL, open_it, &latch), 0);
        assert_true(latch_wait(&latch, CLOCK_NEVER));
        pthread_join(thread, NULL);
        latch_destroy(&latch);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_limit_ends_a_wait),
        cmocka_unit_test(another_thread_opens_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
