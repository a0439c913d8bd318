/* SPDX-License-Identifier: Apache-2.0 */
/* Leaving by a record: back-off, what cannot be sent, parked tasks. */
#include "core_help.h"

static struct task *failing(struct inflight *inflight, enum report_status status)
{
    struct task *task = add_plain(inflight, "t", 1, T0);
    claim_now(inflight, any_task(), T0);
    assert_int_equal(report(inflight, "t", status, T0), REPORT_APPLIED);
    return task;
}

static void test_delivered(void **state)
{
    static const struct {
        enum report_status report;
        enum publish_kind kind;
        enum task_end end;
    } rows[] = {{REPORT_RETRY, PUBLISH_RETRY, TASK_RETRIED},
                {REPORT_FAILURE, PUBLISH_DEADLETTER, TASK_DEADLETTERED}};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct inflight *inflight = new_inflight();
        struct task *task = failing(inflight, rows[i].report);
        turn_publishes(inflight, task, rows[i].kind);
        assert_true(task->stored); /* INV-8: the row is there until the delivery report */
        inflight_published(inflight, task, rows[i].kind, PUBLISH_DELIVERED, T0 + 5);
        assert_int_equal(task->end, rows[i].end);
        assert_ptr_equal(inflight_next_change(inflight, NULL), task);
        turn(inflight, 0);
        assert_int_equal(counts_of(inflight).retried, i == 0);
        assert_int_equal(counts_of(inflight).deadlettered, i == 1);
        inflight_free(inflight);
    }
}

static void test_complete_before_the_commit(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    failing(inflight, REPORT_RETRY);
    assert_int_equal(report(inflight, "t", REPORT_COMPLETE, T0), REPORT_APPLIED);
    turn(inflight, 0); /* no record */
    assert_int_equal(counts_of(inflight).completed, 1);
    inflight_free(inflight);
}

static void test_backoff_doubles(void **state)
{
    static const int64_t waits_ms[] = {100,  200,   400,   800,   1600,  3200,
                                       6400, 12800, 25600, 30000, 30000, 30000};
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task *task = failing(inflight, REPORT_RETRY);
    int64_t now_ms = T0;
    turn_publishes(inflight, task, PUBLISH_RETRY);
    for (size_t i = 0; i < sizeof(waits_ms) / sizeof(*waits_ms); i++) {
        inflight_published(inflight, task, PUBLISH_RETRY, PUBLISH_FAILED, now_ms);
        assert_false(task->handed);
        assert_int_equal(inflight_next_ms(inflight), now_ms + waits_ms[i]);
        now_ms += waits_ms[i];
        assert_false(inflight_advance(inflight, now_ms - 1, 0));
        turn(inflight, 0);
        assert_false(inflight_advance(inflight, now_ms, 0));
        assert_int_equal(inflight_change_count(inflight), 0); /* nothing to write for it */
        turn_publishes(inflight, task, PUBLISH_RETRY);
    }
    assert_int_equal(counts_of(inflight).publish_failures, 12);
    inflight_published(inflight, task, PUBLISH_RETRY, PUBLISH_DELIVERED, now_ms);
    assert_int_equal(task->end, TASK_RETRIED);
    inflight_free(inflight);
}

static void test_backoff_ends_at_its_limit(void **state)
{
    static const int64_t waits_ms[] = {1, 2, 3, 3, 3};
    (void)state;
    struct inflight *inflight = inflight_new(
        &(struct inflight_config){.publish_backoff_ms = 1, .publish_backoff_max_ms = 3});
    struct task *task = failing(inflight, REPORT_RETRY);
    int64_t now_ms = T0;
    for (size_t i = 0; i < sizeof(waits_ms) / sizeof(*waits_ms); i++) {
        turn_publishes(inflight, task, PUBLISH_RETRY);
        inflight_published(inflight, task, PUBLISH_RETRY, PUBLISH_FAILED, now_ms);
        now_ms += waits_ms[i];
        assert_int_equal(inflight_next_ms(inflight), now_ms);
        inflight_advance(inflight, now_ms, 0);
    }
    inflight_free(inflight);
}

/* retry too large -> dead letter too large -> notice -> parked -> tried again, without another
 * notice */
static void test_impossible(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task *task = failing(inflight, REPORT_RETRY);
    turn_publishes(inflight, task, PUBLISH_RETRY);
    inflight_published(inflight, task, PUBLISH_RETRY, PUBLISH_IMPOSSIBLE, T0);
    assert_int_equal(task->failure, FAILURE_RETRY_IMPOSSIBLE);
    assert_int_equal(inflight_change_count(inflight), 1);
    turn_publishes(inflight, task, PUBLISH_DEADLETTER);
    inflight_published(inflight, task, PUBLISH_DEADLETTER, PUBLISH_IMPOSSIBLE, T0);
    turn_publishes(inflight, task, PUBLISH_NOTICE);
    inflight_published(inflight, task, PUBLISH_NOTICE, PUBLISH_DELIVERED, T0);
    assert_true(task->parked);
    assert_int_equal(counts_of(inflight).parked, 1);

    int64_t now_ms = T0;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(inflight_next_ms(inflight), now_ms + PARKED);
        now_ms += PARKED;
        assert_false(inflight_advance(inflight, now_ms - 1, 0));
        turn(inflight, 0);
        assert_false(inflight_advance(inflight, now_ms, 0));
        turn_publishes(inflight, task, PUBLISH_DEADLETTER);
        assert_int_equal(counts_of(inflight).parked, 1);
        if (i < 2)
            inflight_published(inflight, task, PUBLISH_DEADLETTER, PUBLISH_IMPOSSIBLE, now_ms);
    }
    inflight_published(inflight, task, PUBLISH_DEADLETTER, PUBLISH_DELIVERED, now_ms);
    assert_int_equal(counts_of(inflight).parked, 0);
    assert_int_equal(counts_of(inflight).deadlettered, 1);
    turn(inflight, 0);
    inflight_free(inflight);
}

static void test_notice_that_fails(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task *task = failing(inflight, REPORT_FAILURE);
    turn_publishes(inflight, task, PUBLISH_DEADLETTER);
    inflight_published(inflight, task, PUBLISH_DEADLETTER, PUBLISH_IMPOSSIBLE, T0);
    turn_publishes(inflight, task, PUBLISH_NOTICE);
    inflight_published(inflight, task, PUBLISH_NOTICE, PUBLISH_FAILED, T0);
    assert_int_equal(inflight_next_ms(inflight), T0 + BACKOFF);
    inflight_advance(inflight, T0 + BACKOFF, 0);
    turn_publishes(inflight, task, PUBLISH_NOTICE);
    inflight_published(inflight, task, PUBLISH_NOTICE, PUBLISH_IMPOSSIBLE, T0 + BACKOFF);
    assert_true(task->parked);
    assert_int_equal(inflight_next_ms(inflight), T0 + BACKOFF + PARKED);
    inflight_advance(inflight, T0 + BACKOFF + PARKED, 0);
    turn_publishes(inflight, task, PUBLISH_DEADLETTER);
    inflight_published(inflight, task, PUBLISH_DEADLETTER, PUBLISH_IMPOSSIBLE,
                       T0 + BACKOFF + PARKED);
    turn_publishes(inflight, task, PUBLISH_NOTICE); /* it was never delivered */
    inflight_free(inflight);
}

/* The answer of a producer that refuses at once, while the effects are still being carried out. */
static void test_answer_while_effects_are_out(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task *a = failing(inflight, REPORT_RETRY);
    struct task *b = add_plain(inflight, "u", 2, T0);
    claim_now(inflight, any_task(), T0);
    report(inflight, "u", REPORT_FAILURE, T0);
    size_t count;
    const struct effect *effects = commit(inflight, &count);
    assert_int_equal(count, 2);
    inflight_published(inflight, effects[0].task, PUBLISH_RETRY, PUBLISH_IMPOSSIBLE, T0);
    inflight_published(inflight, effects[1].task, PUBLISH_DEADLETTER, PUBLISH_DELIVERED, T0);
    assert_ptr_equal(effects[1].task, b); /* still there, still readable */
    assert_int_equal(b->end, TASK_DEADLETTERED);
    finish(inflight);
    assert_int_equal(b->end, TASK_DEADLETTERED); /* its row goes with the next commit */
    turn_publishes(inflight, a, PUBLISH_DEADLETTER);
    inflight_free(inflight);
}

static void test_rewrite(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task *task = add_plain(inflight, "t", 1, T0);
    struct task_rewrite rewrite = {.has_delay_on_retry = true, .delay_on_retry = 7};
    claim_now(inflight, any_task(), T0);
    turn(inflight, 0);
    inflight_report(inflight, bytes_str("t"), REPORT_RETRY, &rewrite, T0);
    assert_true(task->rewritten);
    assert_true(task->rewrite.has_delay_on_retry && !task->rewrite.has_max_attempts);
    assert_int_equal(task->rewrite.delay_on_retry, 7);
    turn_publishes(inflight, task, PUBLISH_RETRY);
    assert_false(task->rewritten);

    task = add_plain(inflight, "u", 2, T0);
    claim_now(inflight, any_task(), T0);
    rewrite = (struct task_rewrite){.max_attempts = 9}; /* not present: nothing to rewrite */
    inflight_report(inflight, bytes_str("u"), REPORT_RETRY, &rewrite, T0);
    assert_false(task->rewritten);
    inflight_free(inflight);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_delivered),
        cmocka_unit_test(test_complete_before_the_commit),
        cmocka_unit_test(test_backoff_doubles),
        cmocka_unit_test(test_backoff_ends_at_its_limit),
        cmocka_unit_test(test_impossible),
        cmocka_unit_test(test_notice_that_fails),
        cmocka_unit_test(test_answer_while_effects_are_out),
        cmocka_unit_test(test_rewrite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
