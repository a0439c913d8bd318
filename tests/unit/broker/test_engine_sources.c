/* SPDX-License-Identifier: Apache-2.0 */
/* Records, offsets, revokes, and who may run an at-most-once task. */
#include "world.h"

#include <stdio.h>

#define TEST(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)

static struct activation once(const char *id)
{
    struct activation activation = world_activation(id);
    activation.retry_state.has_at_most_once = activation.retry_state.at_most_once = true;
    return activation;
}

static void once_at(struct world *world, int64_t offset, const char *id)
{
    struct activation activation = once(id);
    world_record(world, offset, &activation);
}

static const char *owners(const struct world *world, int64_t first, const char *more)
{
    static char text[256];
    snprintf(text, sizeof text, "tm1:%s@%lld%s", store_id(world->store), (long long)first, more);
    return text;
}

/* --- records ---------------------------------------------------------------------------------- */

static void steps_back_are_dropped_and_jumps_taken(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 4, "a");
    world_task_at(world, 3, "b");
    world_task_at(world, 9, "c");
    world_record_at(world, 7, 0, NULL); /* not assigned */
    assert_int_equal(world_turn(world), 0);
    assert_null(world_task(world, "b"));
    assert_int_equal(world_counts(world).tasks, 2);
    assert_int_equal(world_stats(world).offsets_back, 1);
    assert_int_equal(world_stats(world).offsets_jumped, 2);
    assert_int_equal(world->commit_count, 1);
    assert_int_equal(world->commits[0].next_offset, 10);
    assert_int_equal(world_stats(world).outbox, 0);
}

/* Spec 13: 7, kept as it is, and counted. */
static void test_weakness_07_duplicates_are_dropped_and_counted(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    world_task_at(world, 1, "a");
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_counts(world).duplicates, 1);
    assert_int_equal(world->commits[0].next_offset, 2);
    world_expect_claim(world, "a");
    world_expect_no_task(world);
}

static void the_expired_are_dropped_at_intake(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    struct activation activation = world_activation("a");
    activation.has_expires = true;
    activation.expires = 10;
    world_pass(world, 10000);
    world_record(world, 0, &activation);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_stats(world).expired_at_intake, 1);
    assert_int_equal(world_counts(world).tasks, 0);
    assert_int_equal(world->commits[0].next_offset, 1);
}

/* The times that come in are cut to milliseconds: received_at here, and the two clocks at the
 * translation, whose parts of a millisecond differ. What they have lost must not shorten the delay.
 */
static void delays_never_end_early(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    struct activation activation = world_activation("a");
    activation.received_at_s = world->wall_ms / 1000;
    activation.received_at_ns = 999999;
    activation.has_delay = true;
    activation.delay = 1;
    world_record(world, 0, &activation);
    assert_int_equal(world_turn(world), 0);
    world_pass(world, 1001);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_task(world, "a")->state, TASK_DELAY);
    world_pass(world, 1);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_task(world, "a")->state, TASK_PENDING);
}

/* received_at may lie in the future of our clock: nobody waits longer than the cap. */
static void delays_are_capped_from_now(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    struct activation activation = world_activation("a");
    activation.received_at_s += 1000000;
    activation.has_delay = true;
    activation.delay = 3601;
    world_record(world, 0, &activation);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_task(world, "a")->due_ms, world->now_ms + 3600000);
    assert_int_equal(world_stats(world).delays_cut, 1);
}

/* --- revokes ---------------------------------------------------------------------------------- */

static void a_revoke_is_answered_after_the_commit_and_the_offsets(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    world_revoke(world, 0);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->commit_count, 1);
    assert_int_equal(world->commits[0].next_offset, 1);
    assert_int_equal(world->revoke_done_count, 1);
    assert_int_equal(world->revoked, 0);
    world_task_at(world, 1, "b"); /* INV-9: nothing is stored after it */
    assert_int_equal(world_turn(world), 0);
    assert_null(world_task(world, "b"));
    assert_int_equal(world->commit_count, 1);
}

/* The engine stood still for longer than a session: the source went on without its answer, lost the
 * partition and has it again. The answer of then must not end the assignment of now. */
static void a_revoke_that_time_has_overtaken(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    world_revoke(world, 0);
    world_assign(world, 0, 0, -1, "");
    world_task_at(world, 0, "a");
    world_task_at(world, 1, "b");
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->revoke_done_count, 0);
    world_task_at(world, 2, "c");
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_counts(world).tasks, 3);
    assert_int_equal(world->commits[world->commit_count - 1].next_offset, 3);
}

/* --- at most once ----------------------------------------------------------------------------- */

static void once_waits_for_its_offset(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    once_at(world, 0, "a");
    assert_int_equal(world_turn(world), 0);
    assert_true(world->commits[0].urgent);
    assert_string_equal(world->commits[0].metadata, owners(world, 0, ""));
    world_expect_no_task(world);
    assert_int_equal(world_counts(world).unconfirmed, 1);
    world_committed(world, 0, 1);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_sql_int(world, "SELECT next_offset FROM taskmill_confirmed"), 1);
    world_expect_claim(world, "a");
}

static void an_ordinary_commit_is_not_urgent(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    assert_int_equal(world_turn(world), 0);
    assert_false(world->commits[0].urgent);
}

static void rows_below_the_confirmed_offset_are_claimable_at_start(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    once_at(world, 0, "a");
    assert_int_equal(world_turn(world), 0);
    world_committed(world, 0, 1);
    assert_int_equal(world_turn(world), 0);
    once_at(world, 1, "b");
    assert_int_equal(world_turn(world), 0);
    world_crash(world, CRASH_POWER);
    world_expect_claim(world, "a");
    world_expect_no_task(world);
    assert_int_equal(world->ask_count, 1);
    assert_int_equal(world->asked, 0);
}

/* Somebody reset the group: what is read again may be read by another broker, too, and what was
 * confirmed once says nothing about it. */
static void a_reset_takes_the_confirmation_back(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    once_at(world, 0, "a");
    once_at(world, 1, "b");
    assert_int_equal(world_turn(world), 0);
    world_committed(world, 0, 2);
    assert_int_equal(world_turn(world), 0);
    world_expect_claim(world, "a");
    world_expect_claim(world, "b");
    world_assign(world, 0, 0, 0, "");
    once_at(world, 0, "c");
    assert_int_equal(world_turn(world), 0);
    world_crash(world, CRASH_POWER);
    world_expect_no_task(world);
    assert_int_equal(world_counts(world).unconfirmed, 1);
}

static void asked(struct world *world)
{
    world_start(world);
    once_at(world, 5, "a");
    assert_int_equal(world_turn(world), 0);
    world_crash(world, CRASH_POWER);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->ask_count, 1);
}

static void an_answer_confirms_our_own(void **state)
{
    struct world *world = WORLD(state);
    asked(world);
    world_answer(world, 0, 6, 0, owners(world, 0, ""), 0);
    assert_int_equal(world_turn(world), 0);
    world_expect_claim(world, "a");
}

static void an_answer_gives_it_to_another(void **state)
{
    struct world *world = WORLD(state);
    asked(world);
    world_answer(world, 0, 6, 0, "tm1:0123456789abcdef@0", 0);
    assert_int_equal(world_turn(world), 0);
    assert_null(world_task(world, "a"));
    assert_int_equal(world_counts(world).foreign, 1);
    assert_int_equal(world->record_count, 0);
    assert_int_equal(world_sql_int(world, "SELECT count(*) FROM taskmill_done"), 0);
}

/* Not committed, not ours to commit, still in the topic: whoever has the partition reads it. */
static void an_answer_leaves_it_to_the_reader(void **state)
{
    struct world *world = WORLD(state);
    asked(world);
    world_answer(world, 0, 5, 3, owners(world, 0, ""), 0);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_counts(world).foreign, 1);
}

static void an_unknown_owner_makes_a_dead_letter(void **state)
{
    struct world *world = WORLD(state);
    asked(world);
    world_answer(world, 0, 6, 0, "some other broker's words", 0);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_task(world, "a")->failure, FAILURE_OWNER_UNKNOWN);
    assert_int_equal(world->record_count, 1);
    assert_string_equal(world->records[0].topic, "dlq");
}

static void a_topic_that_is_gone_makes_a_dead_letter(void **state)
{
    struct world *world = WORLD(state);
    asked(world);
    world_answer(world, 0, -1, -1, "", ERR_NOT_FOUND);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_task(world, "a")->failure, FAILURE_OWNER_UNKNOWN);
}

static void no_answer_means_wait(void **state)
{
    struct world *world = WORLD(state);
    asked(world);
    world_answer(world, 0, 0, 0, "", ERR_UNAVAILABLE);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_counts(world).unconfirmed, 1);
    assert_int_equal(engine_next_ms(world->engine), world->now_ms + ASK_INTERVAL_MS);
    world_pass(world, ASK_INTERVAL_MS);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->ask_count, 2);
}

/* The partition came to us meanwhile: the answer is older than what we know. */
static void an_answer_that_comes_too_late(void **state)
{
    struct world *world = WORLD(state);
    asked(world);
    world_assign(world, 0, 5, 5, owners(world, 0, ""));
    world_answer(world, 0, 5, 0, "", 0);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_counts(world).unconfirmed, 1);
}

/* Rows of the original have no owners in Kafka: once committed they are ours alone. */
static void a_legacy_row_needs_no_list(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    once_at(world, 5, "a");
    assert_int_equal(world_turn(world), 0);
    world_crash(world, CRASH_KILL);
    engine_destroy(world->engine, NULL);
    world->engine = NULL;
    store_close(world->store);
    world->store = NULL;
    world_sql(world, "UPDATE inflight_taskactivations SET taskmill_source = NULL");
    struct err_text why;
    assert_int_equal(world_open(world, &why), 0);
    assert_int_equal(world_turn(world), 0);
    world_answer(world, 0, 6, 0, "", 0);
    assert_int_equal(world_turn(world), 0);
    world_expect_claim(world, "a");
}

/* --- ended at-most-once tasks ----------------------------------------------------------------- */

static void a_replay_of_an_ended_one_is_dropped(void **state)
{
    struct world *world = WORLD(state);
    world->options.limits.done_memory_ms = 60000;
    world_start(world);
    once_at(world, 0, "a");
    assert_int_equal(world_turn(world), 0);
    world_committed(world, 0, 1);
    world_expect_claim(world, "a");
    world_report(world, "a", ACTIVATION_COMPLETE);
    assert_int_equal(world_turn(world), 0);
    world_crash(world, CRASH_POWER); /* it is remembered by the file */
    world_assign(world, 0, 0, 0, "");
    once_at(world, 0, "a");
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_stats(world).done_dropped, 1);
    assert_int_equal(world_counts(world).tasks, 0);
    assert_int_equal(world->commits[0].next_offset, 1);

    world_pass(world, 61000);
    world_settle(world);
    assert_int_equal(world_sql_int(world, "SELECT count(*) FROM taskmill_done"), 0);
}

static void the_memory_of_ended_ones_is_bounded(void **state)
{
    struct world *world = WORLD(state);
    world->options.limits.done_max = 2;
    world_start(world);
    for (int64_t i = 0; i < 4; i++) {
        char id[2] = {(char)('a' + i), 0};
        once_at(world, i, id);
        assert_int_equal(world_turn(world), 0);
        world_committed(world, 0, i + 1);
        world_expect_claim(world, id);
        world_report(world, id, ACTIVATION_COMPLETE);
        world_settle(world);
    }
    assert_int_equal(world_sql_int(world, "SELECT count(*) FROM taskmill_done"), 2);
    assert_int_equal(world_sql_int(world, "SELECT count(*) FROM taskmill_done WHERE id = 'd'"), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(steps_back_are_dropped_and_jumps_taken),
        TEST(test_weakness_07_duplicates_are_dropped_and_counted),
        TEST(the_expired_are_dropped_at_intake),
        TEST(delays_never_end_early),
        TEST(delays_are_capped_from_now),
        TEST(a_revoke_is_answered_after_the_commit_and_the_offsets),
        TEST(a_revoke_that_time_has_overtaken),
        TEST(once_waits_for_its_offset),
        TEST(an_ordinary_commit_is_not_urgent),
        TEST(rows_below_the_confirmed_offset_are_claimable_at_start),
        TEST(a_reset_takes_the_confirmation_back),
        TEST(an_answer_confirms_our_own),
        TEST(an_answer_gives_it_to_another),
        TEST(an_answer_leaves_it_to_the_reader),
        TEST(an_unknown_owner_makes_a_dead_letter),
        TEST(a_topic_that_is_gone_makes_a_dead_letter),
        TEST(no_answer_means_wait),
        TEST(an_answer_that_comes_too_late),
        TEST(a_legacy_row_needs_no_list),
        TEST(a_replay_of_an_ended_one_is_dropped),
        TEST(the_memory_of_ended_ones_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
