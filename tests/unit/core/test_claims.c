/* SPDX-License-Identifier: Apache-2.0 */
/* Claims that find nothing and wait. */
#include <stdio.h>

#include "core_help.h"

#define HOLD (T0 + 5000)

static struct task *add_to(struct inflight *inflight, const char *id, int64_t rowid,
                           const char *application, const char *namespace)
{
    struct task_spec spec = spec_of(id, rowid);
    spec.application = bytes_str(application);
    spec.namespace = bytes_str(namespace);
    return add(inflight, &spec, T0);
}

static void expect_grant(const struct effect *effect, struct claim *claim, struct task *task)
{
    assert_int_equal(effect->kind, EFFECT_GRANT);
    assert_ptr_equal(effect->claim, claim);
    assert_ptr_equal(effect->task, task);
    assert_int_equal(effect->claim_number, task->claim);
    assert_true(inflight_claim_stands(task, effect->claim_number));
}

static void test_newest_first(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct claim claims[3];
    size_t count;
    for (int i = 0; i < 3; i++)
        assert_true(claim_held(inflight, &claims[i], any_task(), HOLD, T0));
    struct task *a = add_plain(inflight, "a", 1, T0), *b = add_plain(inflight, "b", 2, T0);
    assert_int_equal(a->state, TASK_PROCESSING);
    assert_int_equal(a->due_ms, T0 + DURATION + GRACE);
    const struct effect *effects = commit(inflight, &count);
    assert_int_equal(count, 2);
    expect_grant(&effects[0], &claims[2], a);
    expect_grant(&effects[1], &claims[1], b);
    assert_non_null(claims[0].queue);
    finish(inflight);
    inflight_free(inflight);
}

/* Newest wins across the kinds of filter, and only filters that match count. */
static void test_filter_kinds(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct claim any, application, exact, other, orphan;
    size_t count;
    struct claim_filter no_application = {.has_namespace = true, .namespace = bytes_str("ns")};
    assert_true(claim_held(inflight, &exact, of_namespace("app", "ns"), HOLD, T0));
    assert_true(claim_held(inflight, &any, any_task(), HOLD, T0));
    assert_true(claim_held(inflight, &application, of_application("app"), HOLD, T0));
    assert_true(claim_held(inflight, &other, of_namespace("app", "other"), HOLD, T0));
    assert_true(claim_held(inflight, &orphan, no_application, HOLD, T0));
    struct task *a = add_to(inflight, "a", 1, "app", "ns");
    struct task *b = add_to(inflight, "b", 2, "app", "ns");
    struct task *c = add_to(inflight, "c", 3, "app", "ns");
    struct task *d = add_to(inflight, "d", 4, "app", "ns");
    struct task *e = add_to(inflight, "e", 5, "elsewhere", "other");
    struct task *f = add_to(inflight, "f", 6, "app", "other");
    const struct effect *effects = commit(inflight, &count);
    assert_int_equal(count, 4);
    expect_grant(&effects[0], &application, a);
    expect_grant(&effects[1], &any, b);
    expect_grant(&effects[2], &exact, c);
    expect_grant(&effects[3], &other, f);
    assert_int_equal(d->state, TASK_PENDING);
    assert_int_equal(e->state, TASK_PENDING);
    assert_non_null(orphan.queue);
    finish(inflight);
    inflight_free(inflight);
}

static void test_hold_ends_at_its_millisecond(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct claim first, second;
    size_t count;
    assert_true(claim_held(inflight, &second, of_application("x"), HOLD + 1, T0));
    assert_true(claim_held(inflight, &first, of_namespace("x", "y"), HOLD, T0));
    assert_int_equal(inflight_next_ms(inflight), HOLD);
    assert_false(inflight_advance(inflight, HOLD - 1, 0));
    turn(inflight, 0);
    assert_false(inflight_advance(inflight, HOLD, 0));
    const struct effect *effects = commit(inflight, &count);
    assert_int_equal(count, 1);
    assert_int_equal(effects[0].kind, EFFECT_NONE);
    assert_ptr_equal(effects[0].claim, &first);
    assert_null(first.queue);
    finish(inflight);
    assert_false(inflight_advance(inflight, HOLD + 1, 0));
    turn(inflight, 1);
    assert_int_equal(inflight_next_ms(inflight), CLOCK_NEVER);
    assert_int_equal(counts_of(inflight).held_claims, 0);
    inflight_free(inflight);
}

/* A task that comes back in the millisecond in which a hold ends goes to it. */
static void test_task_before_hold_end(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct claim claim;
    size_t count;
    struct task_spec spec = spec_of("a", 1);
    spec.delay_until_ms = HOLD;
    struct task *task = add(inflight, &spec, T0);
    assert_true(claim_held(inflight, &claim, any_task(), HOLD, T0));
    assert_false(inflight_advance(inflight, HOLD, 0));
    const struct effect *effects = commit(inflight, &count);
    assert_int_equal(count, 1);
    expect_grant(&effects[0], &claim, task);
    finish(inflight);
    inflight_free(inflight);
}

static void test_not_held(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct claim claim;
    assert_false(claim_held(inflight, &claim, any_task(), T0, T0));
    assert_false(claim_held(inflight, &claim, any_task(), 0, T0));
    assert_null(claim_now(inflight, any_task(), T0));
    inflight_cancel(inflight, &claim);
    turn(inflight, 0);
    inflight_free(inflight);
}

static void test_cancel(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct claim claims[4];
    static const char *const names[] = {"p", "q", "r", "s"};
    for (int i = 0; i < 4; i++)
        assert_true(claim_held(inflight, &claims[i], of_application(names[i]), HOLD, T0));
    inflight_cancel(inflight, &claims[2]);
    inflight_cancel(inflight, &claims[2]);
    assert_int_equal(counts_of(inflight).held_claims, 3);
    struct task *task = add_to(inflight, "a", 1, "r", "ns");
    assert_int_equal(task->state, TASK_PENDING);
    turn(inflight, 0);
    for (int i = 0; i < 4; i++)
        inflight_cancel(inflight, &claims[i]);
    assert_int_equal(counts_of(inflight).held_claims, 0);
    assert_false(inflight_advance(inflight, HOLD, 0));
    turn(inflight, 0);
    inflight_free(inflight);
}

/* The caller hangs up between the grant and the commit: the task is back in its place, the effect
 * gone. */
static void test_cancel_after_grant(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct claim claim, next;
    size_t count;
    assert_true(claim_held(inflight, &claim, any_task(), HOLD, T0));
    struct task *task = add_plain(inflight, "a", 1, T0);
    inflight_cancel(inflight, &claim);
    assert_int_equal(task->state, TASK_PENDING);
    assert_int_equal(counts_of(inflight).given_back, 1);
    turn(inflight, 0);

    assert_ptr_equal(claim_now(inflight, any_task(), T0), task);
    assert_true(claim_held(inflight, &claim, any_task(), HOLD, T0));
    assert_true(claim_held(inflight, &next, any_task(), HOLD, T0));
    assert_true(inflight_give_back(inflight, bytes_str("a"), task->claim, T0));
    inflight_cancel(inflight, &next); /* so the other one gets it */
    const struct effect *effects = commit(inflight, &count);
    assert_int_equal(count, 1);
    expect_grant(&effects[0], &claim, task);
    finish(inflight);
    inflight_free(inflight);
}

static void test_cancel_after_hold_end(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct claim claim;
    assert_true(claim_held(inflight, &claim, any_task(), HOLD, T0));
    assert_false(inflight_advance(inflight, HOLD, 0));
    inflight_cancel(inflight, &claim);
    turn(inflight, 0);
    inflight_free(inflight);
}

/* Its late first worker reports between the grant and the commit: nobody may run it again. */
static void test_grant_of_an_ended_task(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct claim claim;
    size_t count;
    assert_true(claim_held(inflight, &claim, any_task(), HOLD, T0));
    add_plain(inflight, "a", 1, T0);
    assert_int_equal(report(inflight, "a", REPORT_COMPLETE, T0), REPORT_APPLIED);
    const struct effect *effects = commit(inflight, &count);
    assert_int_equal(count, 1);
    assert_int_equal(effects[0].kind, EFFECT_NONE);
    assert_ptr_equal(effects[0].claim, &claim);
    assert_null(effects[0].task);
    finish(inflight);
    inflight_free(inflight);
}

static void test_release_all(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct claim claims[3];
    assert_true(claim_held(inflight, &claims[0], any_task(), HOLD, T0));
    assert_true(claim_held(inflight, &claims[1], of_application("a"), HOLD, T0));
    assert_true(claim_held(inflight, &claims[2], of_namespace("a", "b"), CLOCK_NEVER, T0));
    inflight_release_claims(inflight);
    size_t count;
    const struct effect *effects = commit(inflight, &count);
    assert_int_equal(count, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(effects[i].kind, EFFECT_NONE);
        assert_ptr_equal(effects[i].claim, &claims[i]);
        assert_null(claims[i].queue);
    }
    finish(inflight);
    inflight_free(inflight);
}

/* A claim may be used again once its effect was let go. */
static void test_claim_again(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct claim claim = {0};
    struct claim_filter any = any_task();
    struct task *task;
    for (int64_t now_ms = T0; now_ms < T0 + 3; now_ms++) {
        inflight_claim(inflight, &claim, &any, now_ms + 1, now_ms, &task);
        assert_non_null(claim.queue);
        inflight_advance(inflight, now_ms + 1, 0);
        turn(inflight, 1);
    }
    inflight_free(inflight);
}

static void test_limit_of_claims(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct claim claims[101];
    for (int i = 0; i < 100; i++)
        assert_true(claim_held(inflight, &claims[i], any_task(), HOLD, T0));
    assert_false(claim_held(inflight, &claims[100], any_task(), HOLD, T0));
    inflight_cancel(inflight, &claims[50]);
    assert_true(claim_held(inflight, &claims[100], any_task(), HOLD, T0));
    inflight_free(inflight);
}

/* 20 names: pairs cost two, further namespaces of a known application one. */
static void test_limit_of_names(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct claim claims[40];
    char name[16];
    size_t held = 0;
    for (int i = 0; i < 40; i++) {
        snprintf(name, sizeof(name), "stranger-%d", i);
        held += claim_held(inflight, &claims[i], of_application(name), HOLD, T0);
    }
    assert_int_equal(held, 20);
    struct claim more, wide;
    assert_false(claim_held(inflight, &more, of_namespace("x", "y"), HOLD, T0));
    assert_true(claim_held(inflight, &wide, any_task(), HOLD, T0)); /* needs no name */
    assert_true(claim_held(inflight, &more, of_application("stranger-0"), HOLD, T0));
    inflight_cancel(inflight, &more);
    struct task *task = add_to(inflight, "a", 1, "served", "ns"); /* to the wide one */
    assert_int_equal(task->state, TASK_PROCESSING);
    assert_true(claim_held(inflight, &more, of_namespace("served", "ns"), HOLD, T0));
    inflight_check(inflight);
    inflight_free(inflight);
}

static void test_long_names_are_not_held(void **state)
{
    (void)state;
    static char name[70000];
    memset(name, 'n', sizeof(name) - 1);
    struct inflight *inflight = new_inflight();
    struct claim claim;
    assert_false(claim_held(inflight, &claim, of_application(name), HOLD, T0));
    assert_false(claim_held(inflight, &claim, of_namespace("app", name), HOLD, T0));
    assert_true(claim_held(inflight, &claim, of_application(name + sizeof(name) - 513), HOLD, T0));
    inflight_free(inflight);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_newest_first),
        cmocka_unit_test(test_filter_kinds),
        cmocka_unit_test(test_hold_ends_at_its_millisecond),
        cmocka_unit_test(test_task_before_hold_end),
        cmocka_unit_test(test_not_held),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_cancel_after_grant),
        cmocka_unit_test(test_cancel_after_hold_end),
        cmocka_unit_test(test_grant_of_an_ended_task),
        cmocka_unit_test(test_release_all),
        cmocka_unit_test(test_claim_again),
        cmocka_unit_test(test_limit_of_claims),
        cmocka_unit_test(test_limit_of_names),
        cmocka_unit_test(test_long_names_are_not_held),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
