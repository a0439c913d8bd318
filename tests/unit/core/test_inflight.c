/* SPDX-License-Identifier: Apache-2.0 */
/* Order, time, loading, at most once, and what a turn leaves behind. */
#include <stdio.h>

#include "core_help.h"

/* --- order ------------------------------------------------------------------------------------ */

static void test_first_come_first_served(void **state)
{
    static const char *const places[][2] = {{"a", "x"}, {"b", "x"}, {"a", "y"},
                                            {"a", "x"}, {"b", "x"}, {"a", "y"}};
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task *tasks[6];
    for (int i = 0; i < 6; i++) {
        char id[2] = {(char)('0' + i), 0};
        struct task_spec spec = spec_of(id, i + 1);
        spec.application = bytes_str(places[i][0]);
        spec.namespace = bytes_str(places[i][1]);
        tasks[i] = add(inflight, &spec, T0);
    }
    struct claim_filter no_application = {.has_namespace = true, .namespace = bytes_str("x")};
    assert_null(claim_now(inflight, no_application, T0));
    assert_null(claim_now(inflight, of_application("c"), T0));
    assert_null(claim_now(inflight, of_namespace("b", "y"), T0));
    assert_ptr_equal(inflight_oldest_ready(inflight), tasks[0]);
    assert_ptr_equal(claim_now(inflight, of_namespace("a", "y"), T0), tasks[2]);
    assert_ptr_equal(claim_now(inflight, of_application("b"), T0), tasks[1]);
    assert_ptr_equal(claim_now(inflight, any_task(), T0), tasks[0]);
    assert_ptr_equal(claim_now(inflight, any_task(), T0), tasks[3]);
    assert_ptr_equal(claim_now(inflight, of_application("a"), T0), tasks[5]);
    assert_ptr_equal(claim_now(inflight, any_task(), T0), tasks[4]);
    assert_null(claim_now(inflight, any_task(), T0));
    assert_null(inflight_oldest_ready(inflight));
    turn(inflight, 0);
    inflight_free(inflight);
}

static void test_back_to_its_place(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task *a = add_plain(inflight, "a", 1, T0), *b = add_plain(inflight, "b", 2, T0);
    add_plain(inflight, "c", 3, T0);
    assert_ptr_equal(claim_now(inflight, any_task(), T0), a);
    assert_ptr_equal(claim_now(inflight, any_task(), T0), b);
    assert_true(inflight_give_back(inflight, bytes_str("b"), b->claim, T0));
    assert_true(inflight_give_back(inflight, bytes_str("a"), a->claim, T0));
    assert_ptr_equal(claim_now(inflight, any_task(), T0), a);
    assert_ptr_equal(claim_now(inflight, any_task(), T0), b);
    assert_int_equal(a->attempts, 0); /* a claim that nobody got is no attempt */
    inflight_advance(inflight, T0 + DURATION + GRACE, 0);
    assert_int_equal(a->attempts, 1);
    assert_ptr_equal(claim_now(inflight, any_task(), T0 + DURATION + GRACE), a);
    inflight_free(inflight);
}

/* INV-4, INV-6: an old number does not take the task from who has it now. */
static void test_give_back_of_an_old_claim(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task *task = add_plain(inflight, "a", 1, T0);
    claim_now(inflight, any_task(), T0);
    uint64_t old = task->claim;
    assert_true(inflight_give_back(inflight, bytes_str("a"), old, T0));
    assert_false(inflight_give_back(inflight, bytes_str("a"), old, T0));
    claim_now(inflight, any_task(), T0);
    assert_int_not_equal(task->claim, old);
    assert_false(inflight_give_back(inflight, bytes_str("a"), old, T0));
    assert_false(inflight_give_back(inflight, bytes_str("nobody"), old, T0));
    assert_int_equal(task->state, TASK_PROCESSING);
    /* At its deadline the claim is over, whether or not the timer was looked at. */
    assert_false(inflight_give_back(inflight, bytes_str("a"), task->claim, task->due_ms));
    assert_int_equal(task->attempts, 1);
    inflight_free(inflight);
}

/* A row that was handed out before a restart has no number of this run: nothing gives it back. */
static void test_give_back_after_a_restart(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task_load load = {
        .spec = spec_of("a", 1), .state = TASK_PROCESSING, .due_ms = T0 + DURATION};
    struct task *task = NULL;
    assert_int_equal(inflight_load(inflight, &load, T0, &task), 0);
    for (uint64_t claim = 0; claim < 3; claim++)
        assert_false(inflight_give_back(inflight, bytes_str("a"), claim, T0));
    assert_int_equal(task->state, TASK_PROCESSING);
    inflight_free(inflight);
}

static void test_claims_are_numbered_from_anywhere(void **state)
{
    (void)state;
    struct inflight_config config = {.max_processing_attempts = 1, .claims_from = UINT64_MAX};
    struct inflight *inflight = inflight_new(&config);
    struct task *task = add_plain(inflight, "a", 1, T0);
    claim_now(inflight, any_task(), T0);
    assert_true(task->claim == (uint64_t)INT64_MAX + 1);
    assert_true(inflight_give_back(inflight, bytes_str("a"), task->claim, T0));
    inflight_free(inflight);
}

/* Whoever waits gets it in the same turn, an at-most-once task too. */
static void test_give_back_to_a_held_claim(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct claim claim = {0};
    struct task_spec spec = spec_of("a", 1);
    spec.at_most_once = spec.confirmed = true;
    struct task *task = add(inflight, &spec, T0);
    claim_now(inflight, any_task(), T0);
    turn(inflight, 0);
    uint64_t old = task->claim;
    assert_true(claim_held(inflight, &claim, any_task(), T0 + 5000, T0));
    assert_true(inflight_give_back(inflight, bytes_str("a"), old, T0));
    assert_int_equal(task->state, TASK_PROCESSING);
    assert_int_equal(task->attempts, 0);
    assert_false(inflight_give_back(inflight, bytes_str("a"), old, T0));
    turn(inflight, 1);
    inflight_free(inflight);
}

static void test_duplicates(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task_spec spec = spec_of("a", 2);
    struct task *task = NULL;
    add_plain(inflight, "a", 1, T0);
    spec.blob = blob_copy(bytes_str("payload"));
    assert_int_equal(inflight_add(inflight, &spec, T0, &task), ERR_EXISTS);
    struct task_load load = {.spec = spec};
    assert_int_equal(inflight_load(inflight, &load, T0, &task), ERR_EXISTS);
    assert_null(task);
    blob_unref(spec.blob); /* still the caller's */
    assert_int_equal(counts_of(inflight).duplicates, 2);
    assert_int_equal(counts_of(inflight).added, 1);
    inflight_free(inflight);
}

/* The id is free as soon as its task has ended; the old row is written before the new one. */
static void test_id_used_again_in_the_same_turn(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task *old = add_plain(inflight, "a", 1, T0);
    turn(inflight, 0);
    assert_int_equal(report(inflight, "a", REPORT_COMPLETE, T0), REPORT_APPLIED);
    struct task *new = add_plain(inflight, "a", 2, T0);
    assert_int_equal(inflight_change_count(inflight), 2);
    assert_ptr_equal(inflight_next_change(inflight, NULL), old);
    assert_true(old->stored && old->end == TASK_COMPLETED);
    assert_ptr_equal(inflight_next_change(inflight, old), new);
    assert_true(!new->stored &&new->end == TASK_LIVE);
    assert_null(inflight_next_change(inflight, new));
    turn(inflight, 0);
    assert_true(new->stored);
    inflight_free(inflight);
}

/* --- time ------------------------------------------------------------------------------------- */

static void test_delay(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task_spec spec = spec_of("a", 1);
    spec.delay_until_ms = T0 + 7;
    struct task *task = add(inflight, &spec, T0);
    assert_int_equal(task->state, TASK_DELAY);
    assert_int_equal(task->due_ms, T0 + 7);
    assert_int_equal(inflight_next_ms(inflight), T0 + 7);
    assert_false(inflight_advance(inflight, T0 + 6, 0));
    assert_null(claim_now(inflight, any_task(), T0 + 6));
    assert_false(inflight_advance(inflight, T0 + 7, 0));
    assert_ptr_equal(claim_now(inflight, any_task(), T0 + 7), task);
    spec = spec_of("b", 2);
    spec.delay_until_ms = T0 + 7;
    assert_int_equal(add(inflight, &spec, T0 + 7)->state, TASK_PENDING);
    inflight_free(inflight);
}

static void test_deadline(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task *task = add_plain(inflight, "a", 1, T0);
    int64_t now_ms = T0;
    for (uint32_t attempt = 1; attempt <= 3; attempt++) {
        assert_ptr_equal(claim_now(inflight, any_task(), now_ms), task);
        now_ms += DURATION + GRACE;
        assert_int_equal(task->due_ms, now_ms);
        assert_false(inflight_advance(inflight, now_ms - 1, 0));
        assert_int_equal(task->state, TASK_PROCESSING);
        assert_false(inflight_advance(inflight, now_ms, 0));
        assert_int_equal(task->attempts, attempt);
    }
    assert_int_equal(task->state, TASK_FAILURE);
    assert_int_equal(counts_of(inflight).deadlines_missed, 3);
    turn_publishes(inflight, task, PUBLISH_DEADLETTER);
    inflight_free(inflight);
}

/* A deadline beyond all time does not wrap; a negative duration of a bad file is none. */
static void test_deadline_at_the_ends(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task_spec spec = spec_of("a", 1);
    spec.duration_ms = INT64_MAX;
    struct task *for_ever = add(inflight, &spec, T0);
    spec = spec_of("b", 2);
    spec.duration_ms = INT64_MIN;
    struct task *at_once = add(inflight, &spec, T0);
    claim_now(inflight, any_task(), T0);
    claim_now(inflight, any_task(), T0);
    assert_int_equal(for_ever->due_ms, CLOCK_NEVER);
    assert_int_equal(at_once->due_ms, T0 + GRACE);
    assert_int_equal(inflight_next_ms(inflight), T0 + GRACE);
    inflight_check(inflight);
    assert_int_equal(report(inflight, "a", REPORT_COMPLETE, T0), REPORT_APPLIED);
    inflight_free(inflight);
}

/* No grace and no duration: whoever gets the task has it for a second, not for no time at all. */
static void test_deadline_of_nothing(void **state)
{
    (void)state;
    struct inflight *inflight =
        inflight_new(&(struct inflight_config){.max_processing_attempts = 3, .claims_max = 9});
    struct task_spec spec = spec_of("a", 1);
    struct claim claims[5];
    spec.duration_ms = 0;
    for (int i = 0; i < 5; i++)
        assert_true(claim_held(inflight, &claims[i], any_task(), T0 + 60000, T0));
    struct task *task = add(inflight, &spec, T0);
    for (int i = 0; i < 3; i++) {
        size_t count;
        assert_false(inflight_advance(inflight, T0 + i * LEASE_MIN_MS, 0));
        assert_int_equal(task->state, TASK_PROCESSING);
        assert_int_equal(task->due_ms, T0 + (i + 1) * LEASE_MIN_MS);
        const struct effect *effects = commit(inflight, &count);
        assert_int_equal(count, 1);
        assert_int_equal(effects[0].kind, EFFECT_GRANT);
        finish(inflight);
    }
    assert_false(inflight_advance(inflight, T0 + 3 * LEASE_MIN_MS, 0));
    assert_int_equal(task->state, TASK_FAILURE);
    inflight_free(inflight);
}

static void test_expiry(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task_spec spec = spec_of("a", 1);
    spec.expires_at_ms = T0 + 10;
    struct task *a = add(inflight, &spec, T0);
    spec = spec_of("b", 2);
    spec.expires_at_ms = T0 + 20;
    struct task *b = add(inflight, &spec, T0);
    turn(inflight, 0);
    assert_false(inflight_advance(inflight, T0 + 9, 0));
    assert_int_equal(a->end, TASK_LIVE);
    assert_false(inflight_advance(inflight, T0 + 10, 0));
    assert_int_equal(a->end, TASK_EXPIRED);
    assert_ptr_equal(claim_now(inflight, any_task(), T0 + 19), b); /* its last millisecond */
    assert_int_equal(b->state, TASK_PROCESSING);
    turn(inflight, 0);
    /* Expiry does not apply to claimed tasks, but counts again when one comes back. */
    assert_false(inflight_advance(inflight, T0 + 20, 0));
    assert_int_equal(b->end, TASK_LIVE);
    assert_true(inflight_give_back(inflight, bytes_str("b"), b->claim, T0 + 20));
    assert_int_equal(b->end, TASK_EXPIRED);
    turn(inflight, 0);
    assert_int_equal(counts_of(inflight).expired, 2);
    inflight_free(inflight);
}

static void test_expired_are_never_granted(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct claim claim;
    for (int i = 1; i <= 3; i++) {
        char id[2] = {(char)('a' + i), 0};
        struct task_spec spec = spec_of(id, i);
        spec.expires_at_ms = T0 + (i < 3 ? 10 : 11);
        add(inflight, &spec, T0);
    }
    /* Time has come, but nobody has advanced it. */
    struct task *task = claim_now(inflight, any_task(), T0 + 10);
    assert_int_equal(task->rowid, 3);
    assert_int_equal(counts_of(inflight).expired, 2);
    assert_true(claim_held(inflight, &claim, any_task(), T0 + 5000, T0 + 10));
    struct task_spec spec = spec_of("late", 9);
    spec.expires_at_ms = T0 + 10;
    assert_int_equal(add(inflight, &spec, T0 + 10)->end, TASK_EXPIRED);
    assert_non_null(claim.queue);
    turn(inflight, 0);
    inflight_free(inflight);
}

static void test_delay_outlives_expiry(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task_spec spec = spec_of("a", 1);
    spec.expires_at_ms = T0 + 10;
    spec.delay_until_ms = T0 + 20;
    struct task *task = add(inflight, &spec, T0);
    inflight_advance(inflight, T0 + 19, 0);
    assert_int_equal(task->end, TASK_LIVE);
    inflight_advance(inflight, T0 + 20, 0);
    assert_int_equal(task->end, TASK_EXPIRED);
    inflight_free(inflight);
}

static void test_advance_in_slices(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    for (int i = 0; i < 10; i++) {
        char id[2] = {(char)('0' + i), 0};
        struct task_spec spec = spec_of(id, i + 1);
        spec.delay_until_ms = T0 + 1 + i / 9; /* the last is later */
        add(inflight, &spec, T0);
    }
    assert_true(inflight_advance(inflight, T0 + 1, 4));
    assert_int_equal(counts_of(inflight).by_state[TASK_PENDING], 4);
    assert_true(inflight_advance(inflight, T0 + 1, 4));
    assert_false(inflight_advance(inflight, T0 + 1, 4));
    assert_int_equal(counts_of(inflight).by_state[TASK_PENDING], 9);
    assert_int_equal(counts_of(inflight).by_state[TASK_DELAY], 1);
    inflight_free(inflight);
}

/* A late Retry at the very deadline finds the task unclaimed, timer looked at or not. */
static void test_report_at_the_deadline(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task *task = add_plain(inflight, "a", 1, T0);
    claim_now(inflight, any_task(), T0);
    int64_t due_ms = task->due_ms;
    assert_int_equal(report(inflight, "a", REPORT_RETRY, due_ms), REPORT_NOT_CLAIMED);
    assert_int_equal(task->state, TASK_PENDING);
    assert_int_equal(report(inflight, "a", REPORT_COMPLETE, due_ms), REPORT_APPLIED);
    assert_int_equal(report(inflight, "a", REPORT_COMPLETE, due_ms), REPORT_UNKNOWN_ID);
    assert_int_equal(report(inflight, "zzz", REPORT_RETRY, due_ms), REPORT_UNKNOWN_ID);
    assert_int_equal(counts_of(inflight).reports[REPORT_UNKNOWN_ID], 2);
    inflight_free(inflight);
}

/* --- loading ---------------------------------------------------------------------------------- */

static struct task *load_row(struct inflight *inflight, struct task_spec spec,
                             enum task_state state, int64_t due_ms, uint32_t attempts)
{
    struct task_load load = {
        .spec = spec, .state = state, .due_ms = due_ms, .attempts = attempts, .legacy = true};
    struct task *task;
    assert_int_equal(inflight_load(inflight, &load, T0, &task), 0);
    assert_true(task->stored && task->legacy);
    return task;
}

static void test_load_unchanged(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task *pending = load_row(inflight, spec_of("p", 1), TASK_PENDING, 0, 2);
    struct task *delay = load_row(inflight, spec_of("d", 2), TASK_DELAY, T0 + 5, 0);
    struct task *processing = load_row(inflight, spec_of("x", 3), TASK_PROCESSING, T0 + 9, 0);
    assert_int_equal(pending->state, TASK_PENDING);
    assert_int_equal(delay->state, TASK_DELAY);
    assert_int_equal(processing->state, TASK_PROCESSING);
    assert_int_equal(inflight_change_count(inflight), 0); /* the file says so already */
    turn(inflight, 0);
    assert_int_equal(report(inflight, "x", REPORT_COMPLETE, T0), REPORT_APPLIED);
    inflight_advance(inflight, T0 + 5, 0);
    assert_int_equal(delay->state, TASK_PENDING);
    assert_int_equal(inflight_change_count(inflight), 2);
    turn(inflight, 0);
    inflight_free(inflight);
}

static void test_load_what_must_leave(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task_spec once = spec_of("o", 3), discard = spec_of("k", 4), expired = spec_of("e", 5);
    once.at_most_once = true;
    discard.on_attempts_exceeded = 0;
    expired.expires_at_ms = T0;
    struct task *tasks[] = {
        load_row(inflight, spec_of("r", 1), TASK_RETRY, 0, 0),
        load_row(inflight, spec_of("f", 2), TASK_FAILURE, 0, 0),
        load_row(inflight, once, TASK_RETRY, 0, 0),
        load_row(inflight, spec_of("m", 6), TASK_PENDING, 0, 3),
    };
    struct task *discarded = load_row(inflight, discard, TASK_FAILURE, 0, 0);
    struct task *gone = load_row(inflight, expired, TASK_PENDING, 0, 0);
    assert_int_equal(discarded->end, TASK_DISCARDED);
    assert_int_equal(gone->end, TASK_EXPIRED);
    assert_int_equal(tasks[2]->failure, FAILURE_RETRY_AT_MOST_ONCE);
    assert_int_equal(tasks[3]->failure, FAILURE_ATTEMPTS);
    size_t count;
    const struct effect *effects = commit(inflight, &count);
    assert_int_equal(count, 4);
    for (size_t i = 0; i < count; i++) {
        assert_ptr_equal(effects[i].task, tasks[i]);
        assert_int_equal(effects[i].publish, i ? PUBLISH_DEADLETTER : PUBLISH_RETRY);
    }
    finish(inflight);
    inflight_free(inflight);
}

static void test_load_claimed_at_crash(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task_spec spec = spec_of("a", 1);
    spec.at_most_once = true;
    struct task *task = load_row(inflight, spec, TASK_PROCESSING, T0 + 60, 0);
    assert_int_equal(inflight_unconfirmed(inflight), 0);
    inflight_advance(inflight, T0 + 59, 0);
    assert_int_equal(task->state, TASK_PROCESSING);
    inflight_advance(inflight, T0 + 60, 0);
    assert_int_equal(task->failure, FAILURE_CLAIMED_AT_CRASH);
    turn_publishes(inflight, task, PUBLISH_DEADLETTER);
    inflight_free(inflight);
}

static void test_load_extreme_attempts(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task *task = load_row(inflight, spec_of("a", 1), TASK_PROCESSING, T0, UINT32_MAX);
    inflight_advance(inflight, T0, 0);
    assert_int_equal(task->failure, FAILURE_ATTEMPTS);
    assert_int_equal(task->attempts, UINT32_MAX);
    inflight_free(inflight);
}

static void test_load_bad_row(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task_load load = {.spec = spec_of("a", 1), .state = TASK_PENDING, .bad_row = true};
    struct task *task;
    load.spec.on_attempts_exceeded = 0;
    assert_int_equal(inflight_load(inflight, &load, T0, &task), 0);
    assert_true(task->parked && task->state == TASK_FAILURE);
    assert_int_equal(inflight_change_count(inflight), 0); /* left alone */
    turn(inflight, 0);
    inflight_advance(inflight, T0 + PARKED, 0);
    turn_publishes(inflight, task, PUBLISH_DEADLETTER);
    inflight_free(inflight);
}

/* --- at most once ----------------------------------------------------------------------------- */

struct visit {
    struct inflight *inflight;
    size_t seen;
};

/* Odd rows are ours, row 2 is another store's, row 4 nobody's; the rest waits on. */
static void decide(void *ctx, struct task *task)
{
    struct visit *visit = ctx;
    visit->seen++;
    if (task->rowid % 2)
        inflight_confirm(visit->inflight, task, T0);
    else if (task->rowid <= 4)
        inflight_refuse(visit->inflight, task, task->rowid == 2, T0);
}

static void test_confirmation(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task *tasks[7];
    for (int i = 1; i <= 6; i++) {
        char id[2] = {(char)('0' + i), 0};
        struct task_spec spec = spec_of(id, i);
        spec.at_most_once = true;
        spec.on_attempts_exceeded = 1;
        spec.delay_until_ms = i == 5 ? T0 + 10 : 0;
        tasks[i] = add(inflight, &spec, T0);
    }
    assert_int_equal(inflight_unconfirmed(inflight), 6);
    assert_null(claim_now(inflight, any_task(), T0));
    assert_null(inflight_oldest_ready(inflight));
    struct visit visit = {.inflight = inflight};
    inflight_each_unconfirmed(inflight, decide, &visit);
    assert_int_equal(visit.seen, 6);
    assert_int_equal(inflight_unconfirmed(inflight), 1);
    assert_int_equal(tasks[2]->end, TASK_FOREIGN);
    assert_int_equal(tasks[4]->failure, FAILURE_OWNER_UNKNOWN);
    assert_int_equal(tasks[4]->on_attempts_exceeded, TASK_DEADLETTER_POLICY); /* for the file */
    assert_ptr_equal(claim_now(inflight, any_task(), T0), tasks[1]);
    assert_ptr_equal(claim_now(inflight, any_task(), T0), tasks[3]);
    assert_null(claim_now(inflight, any_task(), T0));
    inflight_advance(inflight, T0 + 10, 0);
    assert_ptr_equal(claim_now(inflight, any_task(), T0 + 10), tasks[5]);
    inflight_confirm(inflight, tasks[5], T0 + 10); /* once more changes nothing */
    assert_int_equal(counts_of(inflight).foreign, 1);
    assert_int_equal(counts_of(inflight).unconfirmed, 1);
    turn(inflight, 1);
    inflight_free(inflight);
}

static void test_confirmation_serves_a_hold(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task_spec spec = spec_of("a", 1);
    struct claim claim;
    spec.at_most_once = true;
    struct task *task = add(inflight, &spec, T0);
    assert_true(claim_held(inflight, &claim, any_task(), T0 + 100, T0));
    turn(inflight, 0);
    inflight_confirm(inflight, task, T0);
    assert_int_equal(task->state, TASK_PROCESSING);
    turn(inflight, 1);
    /* Undelivered: back to Pending and still confirmed. */
    assert_true(inflight_give_back(inflight, bytes_str("a"), task->claim, T0));
    assert_int_equal(inflight_unconfirmed(inflight), 0);
    assert_ptr_equal(claim_now(inflight, any_task(), T0), task);
    inflight_free(inflight);
}

static void test_confirmation_comes_too_late(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task_spec spec = spec_of("a", 1);
    spec.at_most_once = true;
    spec.expires_at_ms = T0 + 5;
    struct task *a = add(inflight, &spec, T0);
    spec.id = bytes_str("b");
    struct task *b = add(inflight, &spec, T0);
    inflight_confirm(inflight, a, T0 + 5);
    inflight_refuse(inflight, b, false, T0 + 5);
    assert_int_equal(a->end, TASK_EXPIRED);
    assert_int_equal(b->end, TASK_EXPIRED);
    turn(inflight, 0);
    inflight_free(inflight);
}

/* --- the turn --------------------------------------------------------------------------------- */

static void test_cached_bytes(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task_spec spec = spec_of("a", 1);
    spec.blob = blob_copy(bytes_str("12345"));
    spec.payload_len = 5;
    struct blob *kept = blob_ref(spec.blob);
    struct task *task = add(inflight, &spec, T0);
    assert_int_equal(counts_of(inflight).payload_bytes_cached, 5);
    inflight_set_blob(inflight, task, blob_copy(bytes_str("1234567")));
    assert_int_equal(counts_of(inflight).payload_bytes_cached, 7);
    inflight_set_blob(inflight, task, NULL);
    assert_int_equal(counts_of(inflight).payload_bytes_cached, 0);
    inflight_set_blob(inflight, task, kept);
    assert_int_equal(task->payload_len, 5);
    turn(inflight, 0);
    report(inflight, "a", REPORT_COMPLETE, T0);
    assert_int_equal(counts_of(inflight).payload_bytes_cached, 5); /* readable until the end */
    turn(inflight, 0);
    assert_int_equal(counts_of(inflight).payload_bytes_cached, 0);
    inflight_free(inflight);
}

/* Events between the commit and the end of its effects belong to the next turn. */
static void test_events_while_effects_are_out(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct claim first, second;
    size_t count;
    assert_true(claim_held(inflight, &first, any_task(), T0 + 100, T0));
    assert_true(claim_held(inflight, &second, any_task(), T0 + 100, T0));
    struct task *task = add_plain(inflight, "a", 1, T0);
    const struct effect *effects = commit(inflight, &count);
    assert_int_equal(count, 1);
    assert_ptr_equal(effects[0].claim, &second);
    /* The stream turned out to be dead: the task goes to the other one, after another commit. */
    assert_true(inflight_give_back(inflight, bytes_str("a"), effects[0].claim_number, T0));
    assert_ptr_equal(effects[0].task, task);
    inflight_effects(inflight, &count);
    assert_int_equal(count, 1);
    finish(inflight);
    effects = commit(inflight, &count);
    assert_int_equal(count, 1);
    assert_ptr_equal(effects[0].claim, &first);
    finish(inflight);
    inflight_free(inflight);
}

static void test_claim_that_no_longer_stands(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task *task = add_plain(inflight, "a", 1, T0);
    claim_now(inflight, any_task(), T0);
    uint64_t number = task->claim;
    assert_true(inflight_claim_stands(task, number));
    report(inflight, "a", REPORT_COMPLETE, T0);
    assert_false(inflight_claim_stands(task, number));
    turn(inflight, 0);
    inflight_free(inflight);
    inflight_free(NULL);
}

/* Names are freed with their last user: what a stranger names once does not stay. */
static void test_many_names_come_and_go(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    char name[16];
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof(name), "name-%d", i);
        struct task_spec spec = spec_of(name, i + 1);
        spec.application = spec.namespace = bytes_str(name);
        add(inflight, &spec, T0);
        claim_now(inflight, of_namespace(name, name), T0);
        assert_int_equal(report(inflight, name, REPORT_COMPLETE, T0), REPORT_APPLIED);
        if (i % 100 == 99)
            turn(inflight, 0);
    }
    assert_int_equal(counts_of(inflight).completed, 1000);
    inflight_free(inflight);
}

static void test_free_in_the_middle(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct claim claim;
    size_t count;
    for (int i = 0; i < 8; i++) {
        char id[2] = {(char)('0' + i), 0};
        struct task_spec spec = spec_of(id, i + 1);
        spec.blob = blob_copy(bytes_str("payload"));
        spec.at_most_once = i == 7;
        add(inflight, &spec, T0);
    }
    claim_now(inflight, any_task(), T0);
    claim_now(inflight, any_task(), T0);
    report(inflight, "0", REPORT_RETRY, T0);
    report(inflight, "2", REPORT_COMPLETE, T0);
    commit(inflight, &count);
    report(inflight, "3", REPORT_COMPLETE, T0);
    assert_true(claim_held(inflight, &claim, of_application("other"), T0 + 9, T0));
    inflight_free(inflight);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_come_first_served),
        cmocka_unit_test(test_back_to_its_place),
        cmocka_unit_test(test_give_back_of_an_old_claim),
        cmocka_unit_test(test_give_back_after_a_restart),
        cmocka_unit_test(test_claims_are_numbered_from_anywhere),
        cmocka_unit_test(test_give_back_to_a_held_claim),
        cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_id_used_again_in_the_same_turn),
        cmocka_unit_test(test_delay),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_deadline_at_the_ends),
        cmocka_unit_test(test_deadline_of_nothing),
        cmocka_unit_test(test_expiry),
        cmocka_unit_test(test_expired_are_never_granted),
        cmocka_unit_test(test_delay_outlives_expiry),
        cmocka_unit_test(test_advance_in_slices),
        cmocka_unit_test(test_report_at_the_deadline),
        cmocka_unit_test(test_load_unchanged),
        cmocka_unit_test(test_load_what_must_leave),
        cmocka_unit_test(test_load_claimed_at_crash),
        cmocka_unit_test(test_load_extreme_attempts),
        cmocka_unit_test(test_load_bad_row),
        cmocka_unit_test(test_confirmation),
        cmocka_unit_test(test_confirmation_serves_a_hold),
        cmocka_unit_test(test_confirmation_comes_too_late),
        cmocka_unit_test(test_cached_bytes),
        cmocka_unit_test(test_events_while_effects_are_out),
        cmocka_unit_test(test_claim_that_no_longer_stands),
        cmocka_unit_test(test_many_names_come_and_go),
        cmocka_unit_test(test_free_in_the_middle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
