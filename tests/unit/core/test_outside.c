/* SPDX-License-Identifier: Apache-2.0 */
/* What is done to tasks from outside: walks over all of them, killswitch, demotion. */
#include "core_help.h"

/* True of every task, while *ctx. */
static bool bar(void *ctx, const struct task *task)
{
    assert_true(task->end == TASK_LIVE);
    return *(const bool *)ctx;
}

/* --- walks ------------------------------------------------------------------------------------ */

static void test_walk_sees_everything_once(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task *a = add_plain(inflight, "a", 1, T0), *b = add_plain(inflight, "b", 2, T0);
    struct task *c = add_plain(inflight, "c", 3, T0);
    assert_null(inflight_walk_next(inflight)); /* none was started */
    inflight_walk_start(inflight);
    assert_ptr_equal(inflight_walk_next(inflight), a);
    assert_ptr_equal(claim_now(inflight, any_task(), T0), a);
    assert_ptr_equal(inflight_walk_next(inflight), b);
    assert_ptr_equal(inflight_walk_next(inflight), c);
    assert_null(inflight_walk_next(inflight));
    assert_null(inflight_walk_next(inflight));
    inflight_free(inflight);
}

static void test_walk_passes_what_ends_before_it(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task *a = add_plain(inflight, "a", 1, T0), *b = add_plain(inflight, "b", 2, T0);
    struct task *c = add_plain(inflight, "c", 3, T0);
    inflight_walk_start(inflight);
    inflight_kill(inflight, b, T0);
    assert_ptr_equal(inflight_walk_next(inflight), a);
    inflight_kill(inflight, a, T0);
    inflight_kill(inflight, c, T0);
    struct task *d = add_plain(inflight, "d", 4, T0);
    struct task *seen = inflight_walk_next(inflight);
    assert_true(seen == d || seen == NULL);
    assert_null(inflight_walk_next(inflight));
    turn(inflight, 0);
    inflight_walk_start(inflight);
    assert_ptr_equal(inflight_walk_next(inflight), d);
    inflight_kill(inflight, d, T0);
    assert_null(inflight_walk_next(inflight));
    inflight_walk_start(inflight);
    assert_null(inflight_walk_next(inflight));
    inflight_free(inflight);
}

/* --- killswitch ------------------------------------------------------------------------------- */

static void test_kill_in_every_state(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task_spec waiting = spec_of("waiting", 5), delay = spec_of("delay", 6);
    waiting.at_most_once = true;
    delay.delay_until_ms = T0 + 1000;
    struct task *tasks[] = {
        add_plain(inflight, "retry", 1, T0),   add_plain(inflight, "failure", 2, T0),
        add_plain(inflight, "running", 3, T0), add_plain(inflight, "pending", 4, T0),
        add(inflight, &waiting, T0),           add(inflight, &delay, T0),
    };
    for (int i = 0; i < 3; i++)
        assert_ptr_equal(claim_now(inflight, any_task(), T0), tasks[i]);
    turn(inflight, 0);
    assert_int_equal(report(inflight, "retry", REPORT_RETRY, T0), REPORT_APPLIED);
    assert_int_equal(report(inflight, "failure", REPORT_FAILURE, T0), REPORT_APPLIED);
    for (size_t i = 0; i < sizeof tasks / sizeof *tasks; i++) {
        inflight_kill(inflight, tasks[i], T0);
        assert_int_equal(tasks[i]->end, TASK_KILLED);
    }
    size_t count;
    commit(inflight, &count);
    assert_int_equal(count, 0); /* no record of them leaves */
    finish(inflight);
    assert_int_equal(counts_of(inflight).killed, 6);
    assert_int_equal(counts_of(inflight).tasks, 0);
    assert_int_equal(report(inflight, "running", REPORT_COMPLETE, T0), REPORT_UNKNOWN_ID);
    assert_int_equal(inflight_next_ms(inflight), CLOCK_NEVER);
    inflight_free(inflight);
}

static void test_kill_after_a_failed_publish(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task *a = add_plain(inflight, "a", 1, T0);
    assert_ptr_equal(claim_now(inflight, any_task(), T0), a);
    turn(inflight, 0);
    report(inflight, "a", REPORT_FAILURE, T0);
    turn_publishes(inflight, a, PUBLISH_DEADLETTER);
    inflight_published(inflight, a, PUBLISH_DEADLETTER, PUBLISH_FAILED, T0);
    inflight_kill(inflight, a, T0);
    turn(inflight, 0);
    assert_int_equal(counts_of(inflight).killed, 1);
    inflight_free(inflight);
}

static void test_kill_takes_a_grant_back(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct claim claim;
    size_t count;
    assert_true(claim_held(inflight, &claim, any_task(), T0 + 1000, T0));
    struct task *a = add_plain(inflight, "a", 1, T0);
    inflight_kill(inflight, a, T0);
    const struct effect *effects = commit(inflight, &count);
    assert_int_equal(count, 1);
    assert_int_equal(effects[0].kind, EFFECT_NONE);
    assert_ptr_equal(effects[0].claim, &claim);
    finish(inflight);
    inflight_free(inflight);
}

/* --- demotion --------------------------------------------------------------------------------- */

static void test_barred_tasks_are_gathered(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    bool on = true;
    inflight_set_bar(inflight, bar, &on);
    struct claim claim;
    assert_true(claim_held(inflight, &claim, any_task(), T0 + 1000, T0));
    struct task *a = add_plain(inflight, "a", 1, T0);
    assert_true(claim.queue != NULL); /* it goes on waiting */
    assert_ptr_equal(inflight_first_barred(inflight), a);
    inflight_check(inflight);
    inflight_forward(inflight, a, T0);
    assert_int_equal(a->end, TASK_FORWARDED);
    assert_null(inflight_first_barred(inflight));
    turn(inflight, 0);
    assert_int_equal(counts_of(inflight).forwarded, 1);
    inflight_free(inflight);
}

static void test_reconsidered_after_a_change(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    bool on = true;
    struct task_spec later = spec_of("later", 2);
    later.delay_until_ms = T0 + 1000;
    struct task *a = add_plain(inflight, "a", 1, T0), *b = add(inflight, &later, T0);
    inflight_set_bar(inflight, bar, &on);
    inflight_reconsider(inflight, a, T0);
    inflight_reconsider(inflight, b, T0);
    inflight_check(inflight);
    assert_null(claim_now(inflight, any_task(), T0));
    assert_ptr_equal(inflight_first_barred(inflight), a);
    /* Its delay ends: still barred. */
    inflight_advance(inflight, T0 + 1000, 0);
    inflight_check(inflight);
    assert_null(claim_now(inflight, any_task(), T0 + 1000));
    on = false;
    inflight_set_bar(inflight, NULL, NULL);
    inflight_reconsider(inflight, a, T0 + 1000);
    inflight_reconsider(inflight, b, T0 + 1000);
    assert_null(inflight_first_barred(inflight));
    assert_ptr_equal(claim_now(inflight, any_task(), T0 + 1000), a);
    assert_ptr_equal(claim_now(inflight, any_task(), T0 + 1000), b);
    inflight_reconsider(inflight, a, T0 + 1000); /* with a worker: nothing to say */
    turn(inflight, 0);
    inflight_free(inflight);
}

static void test_what_comes_back_is_barred(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    bool on = true;
    struct task *a = add_plain(inflight, "a", 1, T0);
    assert_ptr_equal(claim_now(inflight, any_task(), T0), a);
    uint64_t number = a->claim;
    turn(inflight, 0);
    inflight_set_bar(inflight, bar, &on);
    assert_true(inflight_give_back(inflight, bytes_str("a"), number, T0));
    assert_ptr_equal(inflight_first_barred(inflight), a);
    assert_int_equal(report(inflight, "a", REPORT_COMPLETE, T0), REPORT_APPLIED);
    assert_null(inflight_first_barred(inflight));
    turn(inflight, 0);
    inflight_free(inflight);
}

static void test_barred_tasks_expire(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    bool on = true;
    struct task_spec spec = spec_of("a", 1);
    spec.expires_at_ms = T0 + 10;
    inflight_set_bar(inflight, bar, &on);
    struct task *a = add(inflight, &spec, T0);
    inflight_advance(inflight, T0 + 10, 0);
    assert_int_equal(a->end, TASK_EXPIRED);
    assert_null(inflight_first_barred(inflight));
    turn(inflight, 0);
    inflight_free(inflight);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_walk_sees_everything_once),
        cmocka_unit_test(test_walk_passes_what_ends_before_it),
        cmocka_unit_test(test_kill_in_every_state),
        cmocka_unit_test(test_kill_after_a_failed_publish),
        cmocka_unit_test(test_kill_takes_a_grant_back),
        cmocka_unit_test(test_barred_tasks_are_gathered),
        cmocka_unit_test(test_reconsidered_after_a_change),
        cmocka_unit_test(test_what_comes_back_is_barred),
        cmocka_unit_test(test_barred_tasks_expire),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
