/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <time.h>

#include "base/clock.h"

static void test_add_saturates(void **state)
{
    (void)state;
    assert_int_equal(clock_add(40, 2), 42);
    assert_int_equal(clock_add(-40, 2), -38);
    assert_int_equal(clock_add(CLOCK_NEVER, 1), CLOCK_NEVER);
    assert_int_equal(clock_add(CLOCK_NEVER, -1), CLOCK_NEVER - 1);
    assert_int_equal(clock_add(CLOCK_NEVER, CLOCK_NEVER), CLOCK_NEVER);
    assert_int_equal(clock_add(INT64_MIN, -1), INT64_MIN);
    assert_int_equal(clock_add(INT64_MIN, INT64_MAX), -1);
}

static void test_boot_clock_never_goes_back(void **state)
{
    (void)state;
    int64_t before = clock_boot_us();
    assert_true(before > 0);
    for (int i = 0; i < 10000; i++) {
        int64_t now = clock_boot_us();
        assert_true(now >= before);
        before = now;
    }
    int64_t ms = clock_boot_ms();
    assert_true(ms >= before / 1000);
    assert_true(ms <= clock_boot_us() / 1000);
}

static void test_wall_clock_is_unix_time(void **state)
{
    (void)state;
    int64_t before_s = (int64_t)time(NULL);
    int64_t ms = clock_wall_ms(), us = clock_wall_us();
    int64_t after_s = (int64_t)time(NULL);
    /* time() may lag behind by a tick */
    assert_true(ms / 1000 >= before_s && ms / 1000 <= after_s + 1);
    assert_true(us / 1000000 >= before_s && us / 1000000 <= after_s + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_add_saturates),
        cmocka_unit_test(test_boot_clock_never_goes_back),
        cmocka_unit_test(test_wall_clock_is_unix_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
