/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inflight table against a model that keeps everything in flat arrays and scans: random events
 * from a seed go to both, and after each one the task it touched, after each turn all tasks, the
 * effects in order and the counters must agree. A run prints the seed it is in.
 */
#include <stdio.h>

#include "core_help.h"

#define SEEDS  60
#define STEPS  4000
#define TASKS  160
#define CLAIMS 24
#define NAMES  3
#define NEVER  CLOCK_NEVER

static const char *const names[NAMES] = {"a", "b", "c"};

/* --- the model -------------------------------------------------------------------------------- */

struct model_task {
    bool used; /* slot in use: live, or ended and not freed */
    char id[8];
    int application, namespace;
    int64_t rowid, expires_ms, due_ms, duration_ms, timer_ms;
    uint64_t timer_seq, claim;
    enum task_state state;
    enum task_end end;
    uint32_t attempts, failures;
    uint8_t policy;
    bool once, confirmed, handed, parked, notified;
    enum publish_kind publish;
    struct task *real;
};

struct model_claim {
    bool held, asked;           /* asked: has an effect in this turn */
    int application, namespace; /* -1: any */
    int64_t until_ms;
    uint64_t seq;
    struct claim real;
};

struct model_effect {
    enum effect_kind kind;
    enum publish_kind publish;
    struct model_claim *claim;
    struct model_task *task;
    uint64_t number;
};

struct model {
    struct model_task tasks[TASKS];
    struct model_claim claims[CLAIMS];
    struct model_effect effects[4096];
    size_t effect_count;
    int64_t now_ms, next_rowid;
    uint64_t seq, last_claim, random;
    struct inflight *inflight;
};

static void push(struct model *m, struct model_effect effect)
{
    assert_true(m->effect_count < 4096);
    m->effects[m->effect_count++] = effect;
    if (effect.claim)
        effect.claim->asked = true;
}

static void set_timer(struct model *m, struct model_task *t, int64_t at_ms)
{
    t->timer_ms = at_ms;
    t->timer_seq = ++m->seq;
}

static void go(struct model *m, struct model_task *t, enum task_state to, int64_t due_ms)
{
    t->state = to;
    t->due_ms = due_ms;
    set_timer(m, t, to == TASK_PENDING ? t->expires_ms : due_ms);
}

static void end(struct model *m, struct model_task *t, enum task_end how)
{
    t->end = how;
    set_timer(m, t, NEVER);
}

static void want(struct model *m, struct model_task *t, enum publish_kind kind)
{
    t->publish = kind;
    t->handed = false;
    set_timer(m, t, NEVER);
    push(m, (struct model_effect){.kind = EFFECT_PUBLISH, .publish = kind, .task = t});
}

static void model_fail(struct model *m, struct model_task *t, bool by_policy)
{
    go(m, t, TASK_FAILURE, NEVER);
    if (by_policy && t->policy != 2)
        end(m, t, TASK_DISCARDED);
    else
        want(m, t, PUBLISH_DEADLETTER);
}

static bool live(const struct model_task *t)
{
    return t->used && t->end == TASK_LIVE;
}

static bool claimable(const struct model_task *t)
{
    return live(t) && t->state == TASK_PENDING && (!t->once || t->confirmed);
}

static bool fits(const struct model_task *t, int application, int namespace)
{
    if (application < 0)
        return namespace < 0;
    return t->application == application && (namespace < 0 || t->namespace == namespace);
}

static void grant(struct model *m, struct model_task *t)
{
    t->claim = ++m->last_claim;
    go(m, t, TASK_PROCESSING, m->now_ms + t->duration_ms + GRACE);
}

static void offer(struct model *m, struct model_task *t)
{
    struct model_claim *newest = NULL;
    if (t->state == TASK_PENDING && t->expires_ms <= m->now_ms) {
        end(m, t, TASK_EXPIRED);
        return;
    }
    if (!claimable(t))
        return;
    for (struct model_claim *c = m->claims; c < m->claims + CLAIMS; c++)
        if (c->held && fits(t, c->application, c->namespace) && (!newest || c->seq > newest->seq))
            newest = c;
    if (!newest)
        return;
    newest->held = false;
    grant(m, t);
    push(m, (struct model_effect){
                .kind = EFFECT_GRANT, .claim = newest, .task = t, .number = t->claim});
}

static void back(struct model *m, struct model_task *t)
{
    go(m, t, TASK_PENDING, NEVER);
    offer(m, t);
}

static void fire(struct model *m, struct model_task *t)
{
    if (t->state == TASK_PENDING) {
        end(m, t, TASK_EXPIRED);
    } else if (t->state != TASK_DELAY && t->state != TASK_PROCESSING) {
        want(m, t, t->publish);
    } else if (t->state == TASK_PROCESSING && (t->once || ++t->attempts >= 3)) {
        model_fail(m, t, true);
    } else {
        back(m, t);
    }
}

static bool due(const struct model *m, const struct model_task *t)
{
    return live(t) && t->timer_ms != NEVER && t->timer_ms <= m->now_ms;
}

static void fire_if_due(struct model *m, struct model_task *t)
{
    if (due(m, t))
        fire(m, t);
}

static struct model_task *next_due(struct model *m)
{
    struct model_task *first = NULL;
    for (struct model_task *t = m->tasks; t < m->tasks + TASKS; t++)
        if (due(m, t) && (!first || t->timer_ms < first->timer_ms ||
                          (t->timer_ms == first->timer_ms && t->timer_seq < first->timer_seq)))
            first = t;
    return first;
}

static struct model_claim *next_hold_end(struct model *m, int64_t now_ms)
{
    struct model_claim *first = NULL;
    for (struct model_claim *c = m->claims; c < m->claims + CLAIMS; c++)
        if (c->held && c->until_ms <= now_ms &&
            (!first || c->until_ms < first->until_ms ||
             (c->until_ms == first->until_ms && c->seq < first->seq)))
            first = c;
    return first;
}

static void end_holds(struct model *m, int64_t now_ms)
{
    struct model_claim *c;
    while ((c = next_hold_end(m, now_ms))) {
        c->held = false;
        push(m, (struct model_effect){.kind = EFFECT_NONE, .claim = c});
    }
}

static bool stands(const struct model_task *t, uint64_t number)
{
    return live(t) && t->state == TASK_PROCESSING && t->claim == number;
}

static void model_commit(struct model *m)
{
    size_t kept = 0;
    for (size_t i = 0; i < m->effect_count; i++) {
        struct model_effect e = m->effects[i];
        if (e.kind == EFFECT_PUBLISH && live(e.task))
            e.task->handed = true;
        else if (e.kind == EFFECT_PUBLISH || !e.claim)
            continue;
        else if (e.kind == EFFECT_GRANT && !stands(e.task, e.number))
            e = (struct model_effect){.kind = EFFECT_NONE, .claim = e.claim};
        if (e.claim)
            e.claim->asked = false;
        m->effects[kept++] = e;
    }
    m->effect_count = kept;
}

/* --- comparing -------------------------------------------------------------------------------- */

static void same_task(const struct model_task *t)
{
    assert_int_equal(t->real->end, t->end);
    assert_int_equal(t->real->state, t->state);
    if (t->end != TASK_LIVE)
        return;
    assert_int_equal(t->real->due_ms, t->due_ms);
    assert_int_equal(t->real->claim, t->claim);
    assert_int_equal(t->real->attempts, t->attempts);
    assert_int_equal(t->real->parked, t->parked);
    assert_int_equal(t->real->handed, t->handed);
}

static void same_effects(struct model *m)
{
    size_t count;
    const struct effect *effects = inflight_effects(m->inflight, &count);
    assert_int_equal(count, m->effect_count);
    for (size_t i = 0; i < count; i++) {
        const struct model_effect *e = &m->effects[i];
        assert_int_equal(effects[i].kind, e->kind);
        assert_ptr_equal(effects[i].claim, e->claim ? &e->claim->real : NULL);
        assert_ptr_equal(effects[i].task, e->task ? e->task->real : NULL);
        if (e->kind == EFFECT_GRANT)
            assert_int_equal(effects[i].claim_number, e->number);
        if (e->kind == EFFECT_PUBLISH)
            assert_int_equal(effects[i].publish, e->publish);
    }
}

static void same_counts(const struct model *m)
{
    struct inflight_counts counts = counts_of(m->inflight);
    size_t by_state[TASK_STATES] = {0}, tasks = 0, held = 0, unconfirmed = 0;
    int64_t next_ms = NEVER;
    for (const struct model_task *t = m->tasks; t < m->tasks + TASKS; t++) {
        if (!live(t))
            continue;
        tasks++;
        by_state[t->state]++;
        unconfirmed += t->state <= TASK_DELAY && t->once && !t->confirmed;
        next_ms = t->timer_ms < next_ms ? t->timer_ms : next_ms;
    }
    for (const struct model_claim *c = m->claims; c < m->claims + CLAIMS; c++) {
        held += c->held;
        next_ms = c->held && c->until_ms < next_ms ? c->until_ms : next_ms;
    }
    assert_int_equal(counts.tasks, tasks);
    assert_int_equal(counts.held_claims, held);
    assert_int_equal(counts.unconfirmed, unconfirmed);
    assert_memory_equal(counts.by_state, by_state, sizeof(by_state));
    assert_int_equal(inflight_next_ms(m->inflight), next_ms);
}

static void same_all(const struct model *m)
{
    for (const struct model_task *t = m->tasks; t < m->tasks + TASKS; t++)
        if (t->used)
            same_task(t);
    size_t walked = 0;
    inflight_walk_start(m->inflight);
    for (const struct task *t; (t = inflight_walk_next(m->inflight)); walked++)
        assert_int_equal(t->end, TASK_LIVE);
    assert_int_equal(walked, counts_of(m->inflight).tasks);
    for (const struct model_claim *c = m->claims; c < m->claims + CLAIMS; c++)
        assert_int_equal(c->real.queue != NULL, c->held);
    same_counts(m);
}

/* --- events ----------------------------------------------------------------------------------- */

/* xorshift64*: the test is the same everywhere. */
static uint64_t roll(struct model *m, uint64_t sides)
{
    m->random ^= m->random >> 12;
    m->random ^= m->random << 25;
    m->random ^= m->random >> 27;
    return (m->random * 2685821657736338717u >> 33) % sides;
}

static struct model_task *random_live(struct model *m)
{
    for (int tries = 0; tries < 8; tries++) {
        struct model_task *t = &m->tasks[roll(m, TASKS)];
        if (live(t))
            return t;
    }
    return NULL;
}

static void do_add(struct model *m)
{
    struct model_task *t = &m->tasks[roll(m, TASKS)];
    if (t->used)
        return;
    *t = (struct model_task){.used = true,
                             .application = (int)roll(m, NAMES),
                             .namespace = (int)roll(m, NAMES),
                             .rowid = m->next_rowid++,
                             .expires_ms = roll(m, 4) ? NEVER : m->now_ms + (int64_t)roll(m, 9000),
                             .duration_ms = (int64_t)roll(m, 3000),
                             .policy = (uint8_t)roll(m, 3),
                             .once = roll(m, 3) == 0,
                             .confirmed = roll(m, 2)};
    int64_t delay_ms = roll(m, 3) ? 0 : m->now_ms + (int64_t)roll(m, 5000);
    snprintf(t->id, sizeof(t->id), "t%d", (int)(t - m->tasks));
    struct task_spec spec = spec_of(t->id, t->rowid);
    spec.application = bytes_str(names[t->application]);
    spec.namespace = bytes_str(names[t->namespace]);
    spec.expires_at_ms = t->expires_ms;
    spec.delay_until_ms = delay_ms;
    spec.duration_ms = t->duration_ms;
    spec.at_most_once = t->once;
    spec.confirmed = t->confirmed;
    spec.on_attempts_exceeded = t->policy;
    t->real = add(m->inflight, &spec, m->now_ms);
    if (delay_ms > m->now_ms)
        go(m, t, TASK_DELAY, delay_ms);
    else
        back(m, t);
}

static struct model_task *model_claim(struct model *m, int application, int namespace)
{
    for (;;) {
        struct model_task *first = NULL;
        for (struct model_task *t = m->tasks; t < m->tasks + TASKS; t++)
            if (claimable(t) && fits(t, application, namespace) &&
                (!first || t->rowid < first->rowid))
                first = t;
        if (!first || first->expires_ms > m->now_ms)
            return first;
        end(m, first, TASK_EXPIRED);
    }
}

static void do_claim(struct model *m, bool hold)
{
    int application = (int)roll(m, NAMES + 1) - 1, namespace = (int)roll(m, NAMES + 2) - 2;
    struct model_claim *c = &m->claims[roll(m, CLAIMS)];
    struct claim_filter filter = {.has_application = application >= 0,
                                  .has_namespace = namespace >= 0,
                                  .application =
                                      bytes_str(names[application < 0 ? 0 : application]),
                                  .namespace = bytes_str(names[namespace < 0 ? 0 : namespace])};
    struct task *task;
    if (hold && (c->held || c->asked))
        return;
    int64_t until_ms = hold ? m->now_ms + (int64_t)roll(m, 3000) : 0;
    inflight_claim(m->inflight, hold ? &c->real : NULL, &filter, until_ms, m->now_ms, &task);
    struct model_task *t = model_claim(m, application, namespace);
    assert_ptr_equal(task, t ? t->real : NULL);
    if (t) {
        grant(m, t);
    } else if (until_ms > m->now_ms) {
        c->held = true;
        c->application = application;
        c->namespace = namespace;
        c->until_ms = until_ms;
        c->seq = ++m->seq;
    }
}

static void do_cancel(struct model *m)
{
    struct model_claim *c = &m->claims[roll(m, CLAIMS)];
    /* A cancel brings no time of its own: it counts with that of the event before. */
    inflight_report(m->inflight, bytes_str("nobody"), REPORT_COMPLETE, NULL, m->now_ms);
    inflight_cancel(m->inflight, &c->real);
    c->held = false;
    if (!c->asked)
        return;
    c->asked = false;
    for (size_t i = 0; i < m->effect_count; i++) {
        struct model_effect *e = &m->effects[i];
        if (e->claim != c)
            continue;
        e->claim = NULL;
        if (e->kind == EFFECT_GRANT && stands(e->task, e->number))
            back(m, e->task);
        return;
    }
}

static void obey(struct model *m, struct model_task *t, enum report_status status)
{
    if (status == REPORT_COMPLETE) {
        end(m, t, TASK_COMPLETED);
    } else if (status == REPORT_FAILURE || t->once) {
        model_fail(m, t, true);
    } else {
        go(m, t, TASK_RETRY, NEVER);
        want(m, t, PUBLISH_RETRY);
    }
}

static void do_report(struct model *m)
{
    struct model_task *t = random_live(m);
    enum report_status status = (enum report_status)roll(m, 3);
    if (!t)
        return;
    enum report_result result = report(m->inflight, t->id, status, m->now_ms);
    fire_if_due(m, t);
    enum report_result expected = REPORT_APPLIED;
    if (!live(t))
        expected = REPORT_UNKNOWN_ID;
    else if (t->state == TASK_PENDING || t->state == TASK_DELAY)
        expected = status == REPORT_COMPLETE ? REPORT_APPLIED : REPORT_NOT_CLAIMED;
    else if (t->state != TASK_PROCESSING && (status != REPORT_COMPLETE || t->handed))
        expected = REPORT_ENDING;
    assert_int_equal(result, expected);
    if (expected == REPORT_APPLIED)
        obey(m, t, status);
    same_task(t);
}

static void do_give_back(struct model *m)
{
    struct model_task *t = random_live(m);
    if (!t)
        return;
    uint64_t number = t->claim - (t->claim && roll(m, 4) == 0);
    bool given = inflight_give_back(m->inflight, bytes_str(t->id), number, m->now_ms);
    fire_if_due(m, t);
    bool expected = number && stands(t, number);
    assert_int_equal(given, expected);
    if (expected)
        back(m, t);
    same_task(t);
}

static void do_ownership(struct model *m)
{
    struct model_task *t = random_live(m);
    uint64_t how = roll(m, 4);
    if (!t)
        return;
    if (how < 2)
        inflight_confirm(m->inflight, t->real, m->now_ms);
    else
        inflight_refuse(m->inflight, t->real, how == 2, m->now_ms);
    fire_if_due(m, t);
    if (!live(t) || t->state > TASK_DELAY || !t->once || t->confirmed)
        return;
    if (how < 2) {
        t->confirmed = true;
        offer(m, t);
    } else if (how == 2) {
        end(m, t, TASK_FOREIGN);
    } else {
        model_fail(m, t, false);
    }
}

static void park(struct model *m, struct model_task *t)
{
    t->parked = true;
    t->handed = false;
    t->publish = PUBLISH_DEADLETTER;
    set_timer(m, t, m->now_ms + PARKED);
}

static void model_published(struct model *m, struct model_task *t, enum publish_outcome outcome)
{
    if (outcome == PUBLISH_FAILED) {
        int64_t wait_ms = BACKOFF;
        for (uint32_t i = 0; i < t->failures && wait_ms < 30000; i++)
            wait_ms *= 2;
        t->failures++;
        t->handed = false;
        set_timer(m, t, m->now_ms + (wait_ms < 30000 ? wait_ms : 30000));
    } else if (outcome == PUBLISH_DELIVERED && t->publish != PUBLISH_NOTICE) {
        end(m, t, t->publish == PUBLISH_RETRY ? TASK_RETRIED : TASK_DEADLETTERED);
    } else if (outcome == PUBLISH_DELIVERED) {
        t->notified = true;
        park(m, t);
    } else {
        t->failures = 0;
        if (t->publish == PUBLISH_RETRY)
            model_fail(m, t, false);
        else if (t->publish == PUBLISH_DEADLETTER && !t->notified)
            want(m, t, PUBLISH_NOTICE);
        else
            park(m, t);
    }
}

static void do_published(struct model *m)
{
    struct model_task *t = random_live(m);
    enum publish_outcome outcome = (enum publish_outcome)roll(m, 3);
    if (!t || !t->handed)
        return;
    inflight_published(m->inflight, t->real, t->publish, outcome, m->now_ms);
    model_published(m, t, outcome);
    same_task(t);
}

/* A killswitch, or a demoted namespace. */
static void do_outside(struct model *m, enum task_end how)
{
    struct model_task *t = random_live(m);
    if (!t || t->handed || (how == TASK_FORWARDED && t->state > TASK_DELAY))
        return;
    if (how == TASK_KILLED)
        inflight_kill(m->inflight, t->real, m->now_ms);
    else
        inflight_forward(m->inflight, t->real, m->now_ms);
    end(m, t, how);
    same_task(t);
}

static void do_advance(struct model *m)
{
    uint64_t far = roll(m, 50) == 0 ? PARKED : 800;
    m->now_ms += (int64_t)roll(m, far);
    if (roll(m, 2))
        return; /* the next events see the time first */
    inflight_advance(m->inflight, m->now_ms, 0);
    struct model_task *t;
    while ((t = next_due(m)))
        fire(m, t);
    end_holds(m, m->now_ms);
}

static void do_turn(struct model *m)
{
    inflight_check(m->inflight);
    inflight_committed(m->inflight);
    model_commit(m);
    same_effects(m);
    same_all(m);
    inflight_effects_done(m->inflight);
    m->effect_count = 0;
    for (struct model_task *t = m->tasks; t < m->tasks + TASKS; t++)
        if (t->end != TASK_LIVE)
            *t = (struct model_task){0};
    inflight_check(m->inflight);
}

static void step(struct model *m)
{
    uint64_t dice = roll(m, 100);
    if (dice < 26)
        do_add(m);
    else if (dice < 40)
        do_claim(m, false);
    else if (dice < 56)
        do_claim(m, true);
    else if (dice < 60)
        do_cancel(m);
    else if (dice < 72)
        do_report(m);
    else if (dice < 76)
        do_give_back(m);
    else if (dice < 80)
        do_ownership(m);
    else if (dice < 84)
        do_published(m);
    else if (dice < 86)
        do_outside(m, dice == 84 ? TASK_KILLED : TASK_FORWARDED);
    else if (dice < 93)
        do_advance(m);
    else
        do_turn(m);
}

static void release_all(struct model *m)
{
    inflight_release_claims(m->inflight);
    end_holds(m, NEVER);
    do_turn(m);
    assert_int_equal(counts_of(m->inflight).held_claims, 0);
}

/* Every kind of thing did happen, often. */
static void add_counts(uint64_t seen[12], const struct inflight_counts *counts)
{
    const uint64_t add[12] = {counts->claimed, counts->given_back,   counts->completed,
                              counts->retried, counts->deadlettered, counts->discarded,
                              counts->expired, counts->foreign,      counts->deadlines_missed,
                              counts->parked,  counts->killed,       counts->forwarded};
    for (int i = 0; i < 12; i++)
        seen[i] += add[i];
}

static void test_against_the_model(void **state)
{
    static struct model model;
    uint64_t seen[12] = {0};
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        print_message("seed %d\n", (int)seed);
        model = (struct model){.now_ms = T0,
                               .next_rowid = 1,
                               .random = seed * 0x9e3779b97f4a7c15u,
                               .inflight = new_inflight()};
        for (int i = 0; i < STEPS; i++)
            step(&model);
        release_all(&model);
        struct inflight_counts counts = counts_of(model.inflight);
        add_counts(seen, &counts);
        inflight_free(model.inflight);
    }
    for (int i = 0; i < 12; i++)
        assert_true(seen[i] > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_the_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
