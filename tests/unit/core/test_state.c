/* SPDX-License-Identifier: Apache-2.0 */
/* Every situation a task can be in, times every event: where it goes, what is asked to be
 * published, what the reporter is told. */
#include "core_help.h"

enum situation {
    PENDING,
    PENDING_AGAIN, /* claimed once, deadline missed */
    UNCONFIRMED,   /* at most once, Pending */
    CONFIRMED,     /* the same, confirmed */
    EXPIRING,      /* Pending, with an expiry */
    DELAY,
    DELAY_UNCONFIRMED,
    PROCESSING,
    PROCESSING_LAST,    /* at its last attempt */
    PROCESSING_DISCARD, /* the same, policy discard */
    PROCESSING_ONCE,    /* at most once */
    PROCESSING_ONCE_DISCARD,
    LOADED_ONCE, /* at most once, Processing in the file */
    RETRY,       /* this turn */
    RETRY_HANDED,
    RETRY_BACKOFF,
    FAILURE,
    FAILURE_HANDED,
    FAILURE_BACKOFF,
    NOTICE_HANDED,
    PARKED_ROW,
    SITUATIONS
};

enum event {
    COMPLETE,
    REPORT_R, /* Retry */
    REPORT_F, /* Failure */
    CLAIM,
    GIVE_BACK,
    DUE, /* the task's timer, if any */
    CONFIRM,
    FOREIGN,
    UNKNOWN,
    DELIVERED,
    FAILED,
    IMPOSSIBLE,
    EVENTS
};

static const char *const event_names[EVENTS] = {"complete",  "retry",     "failure", "claim",
                                                "give back", "due",       "confirm", "foreign",
                                                "unknown",   "delivered", "failed",  "impossible"};

/*
 * Where it goes: - stays; P Pending, D Delay, X Processing, R Retry, F Failure;
 *   c completed, r retried, d dead-lettered, k discarded, e expired, f foreign.
 * A letter may be followed by what is newly asked for: + retry, ! dead letter, ? notice.
 * . is an event that cannot be.
 */
static const struct row {
    const char *name;
    const char *to[EVENTS];
} table[SITUATIONS] = {
    /*                       complete retry failure claim give due confirm foreign unknown
                             delivered failed impossible */
    [PENDING] = {"pending", {"c", "-", "-", "X", "-", "-", "-", "-", "-", ".", ".", "."}},
    [PENDING_AGAIN] = {"pending again",
                       {"c", "-", "-", "X", "-", "-", "-", "-", "-", ".", ".", "."}},
    [UNCONFIRMED] = {"unconfirmed", {"c", "-", "-", "-", "-", "-", "-", "f", "F!", ".", ".", "."}},
    [CONFIRMED] = {"confirmed", {"c", "-", "-", "X", "-", "-", "-", "-", "-", ".", ".", "."}},
    [EXPIRING] = {"expiring", {"c", "-", "-", "X", "-", "e", "-", "-", "-", ".", ".", "."}},
    [DELAY] = {"delay", {"c", "-", "-", "-", "-", "P", "-", "-", "-", ".", ".", "."}},
    [DELAY_UNCONFIRMED] = {"delay, unconfirmed",
                           {"c", "-", "-", "-", "-", "P", "-", "f", "F!", ".", ".", "."}},
    [PROCESSING] = {"processing", {"c", "R+", "F!", "-", "P", "P", "-", "-", "-", ".", ".", "."}},
    [PROCESSING_LAST] = {"processing, last attempt",
                         {"c", "R+", "F!", "-", "P", "F!", "-", "-", "-", ".", ".", "."}},
    [PROCESSING_DISCARD] = {"processing, last attempt, discard",
                            {"c", "R+", "k", "-", "P", "k", "-", "-", "-", ".", ".", "."}},
    [PROCESSING_ONCE] = {"processing, once",
                         {"c", "F!", "F!", "-", "P", "F!", "-", "-", "-", ".", ".", "."}},
    [PROCESSING_ONCE_DISCARD] = {"processing, once, discard",
                                 {"c", "k", "k", "-", "P", "k", "-", "-", "-", ".", ".", "."}},
    [LOADED_ONCE] = {"loaded processing, once",
                     {"c", "F!", "F!", "-", "-", "F!", "-", "-", "-", ".", ".", "."}},
    [RETRY] = {"retry", {"c", "-", "-", "-", "-", "-", "-", "-", "-", ".", ".", "."}},
    [RETRY_HANDED] = {"retry, handed",
                      {"-", "-", "-", "-", "-", "-", "-", "-", "-", "r", "-", "F!"}},
    [RETRY_BACKOFF] = {"retry, back-off",
                       {"c", "-", "-", "-", "-", "-+", "-", "-", "-", ".", ".", "."}},
    [FAILURE] = {"failure", {"c", "-", "-", "-", "-", "-", "-", "-", "-", ".", ".", "."}},
    [FAILURE_HANDED] = {"failure, handed",
                        {"-", "-", "-", "-", "-", "-", "-", "-", "-", "d", "-", "-?"}},
    [FAILURE_BACKOFF] = {"failure, back-off",
                         {"c", "-", "-", "-", "-", "-!", "-", "-", "-", ".", ".", "."}},
    [NOTICE_HANDED] = {"notice, handed",
                       {"-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "-"}},
    [PARKED_ROW] = {"parked", {"c", "-", "-", "-", "-", "-!", "-", "-", "-", ".", ".", "."}},
};

/* --- building a situation --------------------------------------------------------------------- */

static void claim_it(struct inflight *inflight, struct task *task)
{
    assert_ptr_equal(claim_now(inflight, any_task(), T0), task);
}

static void fail_publish(struct inflight *inflight, struct task *task)
{
    inflight_published(inflight, task, task->publish, PUBLISH_FAILED, T0);
}

static struct task *load(struct inflight *inflight, const struct task_load *load)
{
    struct task *task;
    assert_int_equal(inflight_load(inflight, load, T0, &task), 0);
    return task;
}

static struct task *added(struct inflight *inflight, enum situation situation)
{
    struct task_spec spec = spec_of("t", 1);
    switch (situation) {
    case PROCESSING_DISCARD:
        spec.on_attempts_exceeded = 1;
        break;
    case PROCESSING_ONCE_DISCARD:
        spec.on_attempts_exceeded = 0;
        spec.at_most_once = spec.confirmed = true;
        break;
    case UNCONFIRMED:
    case DELAY_UNCONFIRMED:
        spec.at_most_once = true;
        break;
    case CONFIRMED:
    case PROCESSING_ONCE:
        spec.at_most_once = spec.confirmed = true;
        break;
    case EXPIRING:
        spec.expires_at_ms = T0 + 50;
        break;
    default:
        break;
    }
    if (situation == DELAY || situation == DELAY_UNCONFIRMED)
        spec.delay_until_ms = T0 + 50;
    return add(inflight, &spec, T0);
}

static void to_publishing(struct inflight *inflight, struct task *task, enum situation situation)
{
    bool retry = situation == RETRY || situation == RETRY_HANDED || situation == RETRY_BACKOFF;
    claim_it(inflight, task);
    report(inflight, "t", retry ? REPORT_RETRY : REPORT_FAILURE, T0);
    if (situation == RETRY || situation == FAILURE)
        return;
    turn(inflight, 1);
    if (situation == RETRY_BACKOFF || situation == FAILURE_BACKOFF)
        fail_publish(inflight, task);
    if (situation != NOTICE_HANDED)
        return;
    inflight_published(inflight, task, PUBLISH_DEADLETTER, PUBLISH_IMPOSSIBLE, T0);
    turn_publishes(inflight, task, PUBLISH_NOTICE);
}

static struct task *build(struct inflight *inflight, enum situation situation)
{
    struct task_load row = {.spec = spec_of("t", 1), .state = TASK_PROCESSING};
    if (situation == LOADED_ONCE) {
        row.spec.at_most_once = true;
        row.due_ms = T0 + 50;
        return load(inflight, &row);
    }
    if (situation == PARKED_ROW) {
        row.bad_row = true;
        return load(inflight, &row);
    }
    if (situation == PENDING_AGAIN) {
        row.attempts = 1;
        row.due_ms = T0;
        struct task *task = load(inflight, &row);
        assert_false(inflight_advance(inflight, T0, 0));
        return task;
    }
    struct task *task = added(inflight, situation);
    if (situation == PROCESSING_LAST || situation == PROCESSING_DISCARD)
        task->attempts = 2;
    if (situation >= PROCESSING && situation <= PROCESSING_ONCE_DISCARD)
        claim_it(inflight, task);
    if (situation >= RETRY)
        to_publishing(inflight, task, situation);
    return task;
}

/* --- applying an event ------------------------------------------------------------------------ */

static enum report_result expected_result(const struct task *task, enum report_status status)
{
    switch (task->state) {
    case TASK_PROCESSING:
        return REPORT_APPLIED;
    case TASK_PENDING:
    case TASK_DELAY:
        return status == REPORT_COMPLETE ? REPORT_APPLIED : REPORT_NOT_CLAIMED;
    default:
        return status == REPORT_COMPLETE && !task->handed ? REPORT_APPLIED : REPORT_ENDING;
    }
}

static void apply_report(struct inflight *inflight, struct task *task, enum report_status status)
{
    enum report_result expected = expected_result(task, status);
    uint64_t before = counts_of(inflight).reports[expected];
    assert_int_equal(report(inflight, "t", status, T0), expected);
    assert_int_equal(counts_of(inflight).reports[expected], before + 1);
}

static void apply_give_back(struct inflight *inflight, struct task *task)
{
    bool stands = task->state == TASK_PROCESSING && task->claim;
    assert_false(inflight_give_back(inflight, task_id(task), task->claim + 1, T0));
    assert_int_equal(inflight_give_back(inflight, task_id(task), task->claim, T0), stands);
    assert_false(inflight_give_back(inflight, task_id(task), task->claim, T0));
}

static void apply_due(struct inflight *inflight, const struct task *task)
{
    int64_t due_ms = inflight_next_ms(inflight);
    enum task_state state = task->state;
    if (due_ms == CLOCK_NEVER)
        return;
    assert_false(inflight_advance(inflight, due_ms - 1, 0));
    assert_int_equal(task->state, state);
    assert_int_equal(task->end, TASK_LIVE);
    assert_false(inflight_advance(inflight, due_ms, 0));
}

static void apply(struct inflight *inflight, struct task *task, enum event event)
{
    switch (event) {
    case COMPLETE:
        return apply_report(inflight, task, REPORT_COMPLETE);
    case REPORT_R:
        return apply_report(inflight, task, REPORT_RETRY);
    case REPORT_F:
        return apply_report(inflight, task, REPORT_FAILURE);
    case CLAIM:
        claim_now(inflight, any_task(), T0);
        return;
    case GIVE_BACK:
        return apply_give_back(inflight, task);
    case DUE:
        return apply_due(inflight, task);
    case CONFIRM:
        return inflight_confirm(inflight, task, T0);
    case FOREIGN:
    case UNKNOWN:
        return inflight_refuse(inflight, task, event == FOREIGN, T0);
    default:
        return inflight_published(inflight, task, task->publish,
                                  (enum publish_outcome)(event - DELIVERED), T0);
    }
}

/* --- comparing -------------------------------------------------------------------------------- */

static char letter(const struct task *task)
{
    static const char states[] = "PDXRF", ends[] = "-crdkef";
    return task->end == TASK_LIVE ? states[task->state] : ends[task->end];
}

static void expect_effects(struct inflight *inflight, const struct task *task, char asked)
{
    static const char kinds[] = "+!?";
    size_t count, publishes = 0;
    const struct effect *effects = commit(inflight, &count);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(effects[i].kind, EFFECT_PUBLISH);
        assert_ptr_equal(effects[i].task, task);
        assert_int_equal(kinds[effects[i].publish], asked);
        publishes++;
    }
    assert_int_equal(publishes, asked ? 1 : 0);
    finish(inflight);
}

static void run_cell(enum situation situation, enum event event)
{
    const char *to = table[situation].to[event];
    struct inflight *inflight = new_inflight();
    struct task *task = build(inflight, situation);
    /* What is asked for in this very turn stays asked for until the commit. */
    bool same_turn = situation == RETRY || situation == FAILURE;
    if (!same_turn)
        turn(inflight, 0);
    char before = letter(task);
    apply(inflight, task, event);
    inflight_check(inflight);

    char expected = to[0] == '-' ? before : to[0], asked = to[1];
    if (same_turn && to[0] == '-')
        asked = situation == RETRY ? '+' : '!';
    if (letter(task) != expected)
        fail_msg("%s, %s: went to %c, expected %c", table[situation].name, event_names[event],
                 letter(task), expected);
    expect_effects(inflight, task, asked);
    inflight_free(inflight);
}

static void test_every_state_and_event(void **state)
{
    (void)state;
    for (int situation = 0; situation < SITUATIONS; situation++)
        for (int event = 0; event < EVENTS; event++)
            if (table[situation].to[event][0] != '.')
                run_cell((enum situation)situation, (enum event)event);
}

/* --- why tasks fail --------------------------------------------------------------------------- */

static void test_reasons(void **state)
{
    static const struct {
        enum situation situation;
        enum event event;
        enum task_failure reason;
    } rows[] = {
        {PROCESSING, REPORT_F, FAILURE_REPORTED},
        {PROCESSING_LAST, DUE, FAILURE_ATTEMPTS},
        {PROCESSING_DISCARD, DUE, FAILURE_ATTEMPTS},
        {PROCESSING_ONCE, DUE, FAILURE_DEADLINE},
        {PROCESSING_ONCE, REPORT_R, FAILURE_RETRY_AT_MOST_ONCE},
        {LOADED_ONCE, DUE, FAILURE_CLAIMED_AT_CRASH},
        {RETRY_HANDED, IMPOSSIBLE, FAILURE_RETRY_IMPOSSIBLE},
        {UNCONFIRMED, UNKNOWN, FAILURE_OWNER_UNKNOWN},
        {PARKED_ROW, CLAIM, FAILURE_BAD_ROW},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        struct inflight *inflight = new_inflight();
        struct task *task = build(inflight, rows[i].situation);
        apply(inflight, task, rows[i].event);
        assert_int_equal(task->failure, rows[i].reason);
        inflight_free(inflight);
    }
}

/* Reasons that are not the task's fault never discard it. */
static void test_no_discard_without_a_run(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task_spec spec = spec_of("t", 1);
    spec.at_most_once = true;
    spec.on_attempts_exceeded = 1;
    struct task *unknown = add(inflight, &spec, T0);
    inflight_refuse(inflight, unknown, false, T0);
    turn_publishes(inflight, unknown, PUBLISH_DEADLETTER);

    spec = spec_of("u", 2);
    spec.on_attempts_exceeded = 0;
    struct task *too_large = add(inflight, &spec, T0);
    claim_it(inflight, too_large);
    report(inflight, "u", REPORT_RETRY, T0);
    turn_publishes(inflight, too_large, PUBLISH_RETRY);
    inflight_published(inflight, too_large, PUBLISH_RETRY, PUBLISH_IMPOSSIBLE, T0);
    turn_publishes(inflight, too_large, PUBLISH_DEADLETTER);
    inflight_free(inflight);
}

/* A task that came and went within one turn is no row. */
static void test_discard_ends_in_the_same_turn(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task *task = build(inflight, PROCESSING_DISCARD);
    assert_false(task->stored);
    assert_int_equal(report(inflight, "t", REPORT_FAILURE, T0), REPORT_APPLIED);
    assert_int_equal(task->end, TASK_DISCARDED);
    assert_ptr_equal(inflight_next_change(inflight, NULL), task);
    assert_null(inflight_next_change(inflight, task));
    turn(inflight, 0);
    struct inflight_counts counts = counts_of(inflight);
    assert_int_equal(counts.discarded, 1);
    assert_int_equal(counts.tasks, 0);
    inflight_free(inflight);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_state_and_event),
        cmocka_unit_test(test_reasons),
        cmocka_unit_test(test_no_discard_without_a_run),
        cmocka_unit_test(test_discard_ends_in_the_same_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
