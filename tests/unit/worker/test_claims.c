/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "worker/claims.h"

#define SOURCES 4

struct fixture {
    struct peer peers[2];
    struct source sources[SOURCES]; /* two applications at each peer */
    struct claims claims;
};

static struct fixture make(void)
{
    return (struct fixture){0};
}

static void wire(struct fixture *f)
{
    for (size_t i = 0; i < SOURCES; i++)
        f->sources[i] = (struct source){.peer = &f->peers[i / 2], .application = i % 2};
    f->claims = (struct claims){
        .sources = f->sources, .count = SOURCES, .unreported_max = CLAIMS_UNREPORTED};
}

static void test_calls_spread_over_sources(void **state)
{
    struct fixture f = make();

    (void)state;
    wire(&f);
    for (int round = 1; round <= 3; round++) {
        for (size_t i = 0; i < SOURCES; i++)
            claims_opened(&f.claims, claims_pick(&f.claims, false, 0));
        for (size_t i = 0; i < SOURCES; i++)
            assert_int_equal(f.sources[i].open, round);
    }
    assert_null(claims_pick(&f.claims, true, 0));
    for (int i = 0; i < 3; i++)
        claims_closed(&f.claims, &f.sources[2]);
    assert_ptr_equal(claims_pick(&f.claims, true, 0), &f.sources[2]);
    assert_int_equal(f.claims.open, 9);
}

/* A place that becomes free goes back to the source that has the fewest. */
static void test_held_tasks_count_as_calls(void **state)
{
    struct fixture f = make();

    (void)state;
    wire(&f);
    for (uint32_t i = 0; i < SOURCES; i++)
        f.sources[i].held = 2;
    for (size_t turn = 0; turn < 100; turn++) {
        struct source *released = &f.sources[turn * 7 % SOURCES];

        released->held--;
        f.claims.next = turn % SOURCES;
        assert_ptr_equal(claims_pick(&f.claims, false, 0), released);
        released->held++;
    }
    f.sources[1].held = 1;
    f.sources[1].open = 1;
    f.sources[3].held = 0;
    f.sources[3].open = 1;
    assert_ptr_equal(claims_pick(&f.claims, false, 0), &f.sources[3]);
    assert_ptr_equal(claims_pick(&f.claims, true, 0), &f.sources[0]);
}

static void test_client_weakness_21_a_failed_peer_alone_is_left_alone(void **state)
{
    struct fixture f = make();
    int64_t now = 1000, pause = 0;

    (void)state;
    wire(&f);
    assert_true(claims_peer_failed(&f.peers[0], 0, now));
    assert_false(claims_peer_failed(&f.peers[0], 0, now)); /* the same loss, another call */
    assert_int_equal(f.peers[0].blocked_until_ms, now + CLAIMS_BLOCK_MS);
    for (int i = 0; i < 10; i++) {
        struct source *source = claims_pick(&f.claims, false, now);

        assert_ptr_equal(source->peer, &f.peers[1]);
        claims_opened(&f.claims, source);
    }
    assert_int_equal(claims_next_ms(&f.claims, now), now + CLAIMS_BLOCK_MS);
    for (int i = 0; i < 12; i++) {
        now = f.peers[0].blocked_until_ms;
        assert_true(claims_peer_failed(&f.peers[0], 0, now));
        assert_true(f.peers[0].blocked_until_ms - now >= pause);
        pause = f.peers[0].blocked_until_ms - now;
    }
    assert_int_equal(pause, CLAIMS_BLOCK_MAX_MS);
    assert_true(claims_peer_ok(&f.peers[0]));
    assert_false(claims_peer_ok(&f.peers[0]));
    assert_ptr_equal(claims_pick(&f.claims, false, now)->peer, &f.peers[0]);
}

/* In the original one that came back was blocked for 20 s by its next failure. */
static void test_client_weakness_22_after_an_answer_failures_start_anew(void **state)
{
    struct peer peer = {0};
    int64_t now_ms = 0;

    (void)state;
    for (int i = 0; i < 20; i++) {
        now_ms = peer.blocked_until_ms + 1;
        assert_true(claims_peer_failed(&peer, 0, now_ms));
    }
    assert_true(peer.blocked_until_ms - now_ms == CLAIMS_BLOCK_MAX_MS);
    assert_true(claims_peer_ok(&peer));
    assert_true(claims_peer_failed(&peer, 0, now_ms));
    assert_true(peer.blocked_until_ms - now_ms == CLAIMS_BLOCK_MS);
}

static void test_pauses_are_spread_by_a_quarter_at_most(void **state)
{
    (void)state;
    for (uint32_t chance = 0; chance < 1000; chance++) {
        struct peer peer = {0};

        assert_true(claims_peer_failed(&peer, chance * 7919, 0));
        assert_in_range(peer.blocked_until_ms, CLAIMS_BLOCK_MS * 3 / 4, CLAIMS_BLOCK_MS);
        assert_in_range(claims_report_pause_ms(1, chance * 7919, false), 75, 100);
        assert_in_range(claims_report_pause_ms(UINT32_MAX, chance * 7919, false), 7500, 10000);
        assert_in_range(claims_report_pause_ms(1, chance * 7919, true), 75, 100);
        assert_in_range(claims_report_pause_ms(UINT32_MAX, chance * 7919, true), 750, 1000);
    }
}

static void test_empty_answers(void **state)
{
    struct fixture f = make();
    struct source *source = &f.sources[0];

    (void)state;
    wire(&f);
    f.claims.count = 1;
    claims_got_nothing(source, CLAIMS_HELD_MS, 5000); /* was held: ask again at once */
    assert_ptr_equal(claims_pick(&f.claims, false, 5000), source);
    claims_got_nothing(source, 1, 5000);
    assert_null(claims_pick(&f.claims, false, 5000));
    assert_int_equal(claims_next_ms(&f.claims, 5000), 5000 + CLAIMS_EMPTY_MS);
    for (int i = 0; i < 40; i++)
        claims_got_nothing(source, 1, 5000);
    assert_int_equal(claims_next_ms(&f.claims, 5000), 5000 + CLAIMS_EMPTY_MAX_MS);
    claims_got_task(source);
    assert_ptr_equal(claims_pick(&f.claims, false, 5000), source);
    assert_int_equal(claims_next_ms(&f.claims, 5000), CLOCK_NEVER);
}

/* A broker that was away answers a claim: the reports for it must not sit out their pauses, or
 * their tasks run again there. Those that it refuses keep their pauses, however often it answers
 * claims. */
static void test_unheard_reports_go_when_the_peer_answers(void **state)
{
    struct peer peer = {0};

    (void)state;
    assert_true(claims_peer_failed(&peer, 0, 1000));
    assert_int_equal(claims_report_due_ms(&peer, 9000, true), 9000);
    assert_true(claims_peer_ok(&peer));
    assert_true(claims_report_due_ms(&peer, 9000, true) <= 1000);
    assert_int_equal(claims_report_due_ms(&peer, 9000, false), 9000);
}

static void test_client_weakness_12_undelivered_reports_stop_claims(void **state)
{
    struct fixture f = make();

    (void)state;
    wire(&f);
    f.peers[0].unreported = f.peers[1].unreported = CLAIMS_UNREPORTED;
    assert_null(claims_pick(&f.claims, false, 0));
    assert_false(claims_fetch_next(&f.claims, &f.sources[0], 32));
    f.peers[0].unreported--;
    assert_ptr_equal(claims_pick(&f.claims, false, 0)->peer, &f.peers[0]);
}

static void test_rebalance(void **state)
{
    struct fixture f = make();

    (void)state;
    wire(&f);
    for (int i = 0; i < 3; i++)
        assert_true(claims_fetch_next(&f.claims, &f.sources[0], 4));
    assert_false(claims_fetch_next(&f.claims, &f.sources[0], 4));
    assert_true(claims_fetch_next(&f.claims, &f.sources[0], 4));
    f.claims.count = 1; /* nobody else to ask */
    for (int i = 0; i < 100; i++)
        assert_true(claims_fetch_next(&f.claims, &f.sources[0], 4));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calls_spread_over_sources),
        cmocka_unit_test(test_held_tasks_count_as_calls),
        cmocka_unit_test(test_client_weakness_21_a_failed_peer_alone_is_left_alone),
        cmocka_unit_test(test_client_weakness_22_after_an_answer_failures_start_anew),
        cmocka_unit_test(test_pauses_are_spread_by_a_quarter_at_most),
        cmocka_unit_test(test_empty_answers),
        cmocka_unit_test(test_unheard_reports_go_when_the_peer_answers),
        cmocka_unit_test(test_client_weakness_12_undelivered_reports_stop_claims),
        cmocka_unit_test(test_rebalance)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
