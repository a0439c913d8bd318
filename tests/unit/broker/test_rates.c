/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/rates.h"

static void look(struct rates *rates, int64_t now_ms, uint64_t completed)
{
    uint64_t totals[RATES] = {[RATE_COMPLETED] = completed};

    rates_sample(rates, now_ms, totals);
}

static int rate(const struct rates *rates, int64_t window_ms)
{
    return (int)(rates_per_s(rates, RATE_COMPLETED, window_ms) * 100 + 0.5);
}

static void nothing_before_the_second_look(void **state)
{
    (void)state;
    struct rates rates = {0};

    assert_int_equal(rate(&rates, 1000), 0);
    look(&rates, 5000, 700);
    assert_int_equal(rate(&rates, 1000), 0); /* those may have come at any time */
    look(&rates, 6000, 750);
    assert_int_equal(rate(&rates, 1000), 5000);
    assert_int_equal(rate(&rates, 60000), 5000); /* since the first look */
}

static void each_window_has_its_own_past(void **state)
{
    (void)state;
    struct rates rates = {0};
    uint64_t total = 0;

    for (int64_t s = 0; s <= 200; s++) {
        look(&rates, s * 1000, total);
        total += s < 190 ? 6 : 60; /* the last ten seconds are busier */
    }
    assert_int_equal(rate(&rates, 1000), 6000);
    assert_int_equal(rate(&rates, 10000), 6000);
    assert_int_equal(rate(&rates, 60000), 1500);
    assert_int_equal(rates_per_s(&rates, RATE_CLAIMED, 60000), 0);
}

static void looks_in_quick_succession_count_once(void **state)
{
    (void)state;
    struct rates rates = {0};

    look(&rates, 1000, 0);
    look(&rates, 1500, 10);
    look(&rates, 1990, 20); /* a second, nearly */
    assert_int_equal(rates.count, 2);
    assert_int_equal(rate(&rates, 1000), 2020);
}

static void a_late_look_stretches_the_window(void **state)
{
    (void)state;
    struct rates rates = {0};

    look(&rates, 0, 0);
    look(&rates, 5000, 100); /* the machine slept */
    assert_int_equal(rate(&rates, 1000), 2000);
    assert_string_equal(rate_name(RATE_DEAD_LETTERED), "dead_lettered");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_before_the_second_look),
        cmocka_unit_test(each_window_has_its_own_past),
        cmocka_unit_test(looks_in_quick_succession_count_once),
        cmocka_unit_test(a_late_look_stretches_the_window),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
