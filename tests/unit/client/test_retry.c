/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "client/retry.h"

static void test_decision_table(void **state)
{
    static const struct {
        uint32_t times;
        unsigned on;
        uint32_t attempts;
        enum attempt_end end;
        enum activation_status expected;
    } rows[] = {
        {0, 0, 0, ATTEMPT_COMPLETE, ACTIVATION_COMPLETE},
        {0, 0, 0, ATTEMPT_RETRY, ACTIVATION_FAILURE}, /* no policy: never, not even when asked */
        {1, 0, 0, ATTEMPT_RETRY, ACTIVATION_FAILURE},
        {2, 0, 0, ATTEMPT_RETRY, ACTIVATION_RETRY},
        {2, 0, 1, ATTEMPT_RETRY, ACTIVATION_FAILURE},
        {3, 0, 0, ATTEMPT_FAILURE, ACTIVATION_FAILURE},
        {3, TASKMILL_ON_FAILURE, 0, ATTEMPT_FAILURE, ACTIVATION_RETRY},
        {3, TASKMILL_ON_FAILURE, 2, ATTEMPT_FAILURE, ACTIVATION_FAILURE},
        {3, TASKMILL_ON_FAILURE, 0, ATTEMPT_DEADLINE, ACTIVATION_FAILURE},
        {3, TASKMILL_ON_DEADLINE, 0, ATTEMPT_DEADLINE, ACTIVATION_RETRY},
        {3, TASKMILL_ON_DEADLINE, 0, ATTEMPT_FAILURE, ACTIVATION_FAILURE},
        {UINT32_MAX, 0, UINT32_MAX, ATTEMPT_RETRY, ACTIVATION_FAILURE}, /* no overflow */
        {UINT32_MAX, 0, UINT32_MAX - 2, ATTEMPT_RETRY, ACTIVATION_RETRY},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct taskmill_retry_policy policy = {.times = rows[i].times, .on = rows[i].on};

        assert_int_equal(retry_decide(&policy, rows[i].attempts, rows[i].end), rows[i].expected);
    }
}

/* After a RETRY the activation says max_attempts = times + 1; the policy alone is asked. */
static void test_client_weakness_01_the_last_attempt_knows_that_it_is(void **state)
{
    struct taskmill_retry_policy policy = {.times = 4};

    (void)state;
    for (uint32_t attempts = 0; attempts < 6; attempts++) {
        bool is_left = attempts < 3;

        assert_int_equal(retry_attempts_left(&policy, attempts), is_left);
        assert_int_equal(retry_decide(&policy, attempts, ATTEMPT_RETRY),
                         is_left ? ACTIVATION_RETRY : ACTIVATION_FAILURE);
    }
}

static void test_client_weakness_02_deadlines_by_policy(void **state)
{
    struct taskmill_retry_policy policy = {.times = 2, .on = TASKMILL_ON_FAILURE};

    (void)state;
    assert_int_equal(retry_decide(&policy, 0, ATTEMPT_DEADLINE), ACTIVATION_FAILURE);
    policy.on = TASKMILL_ON_DEADLINE;
    assert_int_equal(retry_decide(&policy, 0, ATTEMPT_DEADLINE), ACTIVATION_RETRY);
    assert_int_equal(retry_decide(&policy, 1, ATTEMPT_DEADLINE), ACTIVATION_FAILURE);
}

static void test_report(void **state)
{
    struct set_status_request report = {0};

    (void)state;
    retry_fill_report(&(struct taskmill_retry_policy){.times = 3}, &report);
    assert_true(report.has_max_attempts);
    assert_int_equal(report.max_attempts, 4);
    assert_false(report.has_delay_on_retry);
    retry_fill_report(&(struct taskmill_retry_policy){.times = 3, .delay_s = 7}, &report);
    assert_true(report.has_delay_on_retry);
    assert_int_equal(report.delay_on_retry, 7);
    retry_fill_report(&(struct taskmill_retry_policy){.times = UINT32_MAX}, &report);
    assert_int_equal(report.max_attempts, UINT32_MAX);
}

static void test_first_state(void **state)
{
    struct taskmill_retry_policy none = {0};
    struct taskmill_retry_policy dead = {.times_exceeded = TASKMILL_DEADLETTER};
    struct taskmill_retry_policy five = {.times = 5, .delay_s = 60};
    struct retry_state first;

    (void)state;
    first = retry_first_state(&none, false);
    assert_true(first.present && first.has_at_most_once && !first.at_most_once);
    assert_int_equal(first.max_attempts, 1);
    assert_int_equal(first.on_attempts_exceeded, ON_ATTEMPTS_EXCEEDED_DISCARD);
    first = retry_first_state(&five, true);
    assert_true(first.at_most_once);
    assert_int_equal(first.max_attempts, 1);
    first = retry_first_state(&five, false);
    assert_false(first.has_at_most_once);
    assert_int_equal(first.max_attempts, 5);
    assert_int_equal(first.delay_on_retry, 60);
    first = retry_first_state(&dead, false);
    assert_int_equal(first.max_attempts, 1);
    assert_int_equal(first.on_attempts_exceeded, ON_ATTEMPTS_EXCEEDED_DEADLETTER);
    assert_false(first.has_delay_on_retry);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decision_table),
        cmocka_unit_test(test_client_weakness_01_the_last_attempt_knows_that_it_is),
        cmocka_unit_test(test_client_weakness_02_deadlines_by_policy),
        cmocka_unit_test(test_report), cmocka_unit_test(test_first_state)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
