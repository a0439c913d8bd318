/* SPDX-License-Identifier: Apache-2.0 */
#include "world.h"

#include <sqlite3.h>

#define TEST(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)

/* --- claims ----------------------------------------------------------------------------------- */

static void a_held_claim_gets_the_next_task(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    struct test_call *call = world_claim(world);
    assert_int_equal(world_turn(world), 0);
    assert_false(call->replied);
    world_pass(world, 100);
    uint64_t commits = world_stats(world).commits;
    world_task_at(world, 0, "a");
    assert_int_equal(world_turn(world), 0);
    assert_string_equal(call->id, "a");
    assert_int_equal(call->commits, commits + 1);
}

static void a_hold_ends_by_itself(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    struct test_call *call = world_claim(world);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(engine_next_ms(world->engine), world->now_ms + HOLD);
    world_pass(world, HOLD - 1);
    assert_int_equal(world_turn(world), 0);
    assert_false(call->replied);
    world_pass(world, 1);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(call->status, GRPC_NOT_FOUND);
    assert_string_equal(call->message, "No pending activations");
}

/* Answered 100 ms before the caller gives up, at once when that is now. */
static void a_hold_ends_before_the_callers_deadline(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    struct test_call *call = world_claim(world);
    call->call.deadline_ms = world->now_ms + 1000;
    struct test_call *hasty = world_claim(world);
    hasty->call.deadline_ms = world->now_ms + 100;
    assert_int_equal(world_turn(world), 0);
    assert_true(hasty->replied);
    world_pass(world, 899);
    assert_int_equal(world_turn(world), 0);
    assert_false(call->replied);
    world_pass(world, 1);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(call->status, GRPC_NOT_FOUND);
}

static void without_long_poll_nothing_is_held(void **state)
{
    struct world *world = WORLD(state);
    world->options.hold_ms = 0;
    world_start(world);
    struct test_call *call = world_claim(world);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(call->status, GRPC_NOT_FOUND);
}

static void filters_apply(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    struct test_call *other = world_claim_of(world, "other", NULL);
    struct test_call *odd = world_claim_of(world, NULL, "ns"); /* never matches, is never held */
    struct test_call *fitting = world_claim_of(world, "app", "ns");
    assert_int_equal(world_turn(world), 0);
    assert_false(other->replied);
    assert_int_equal(odd->status, GRPC_NOT_FOUND);
    assert_string_equal(fitting->id, "a");
}

static void a_cancelled_hold_gets_nothing(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    struct test_call *call = world_claim(world);
    assert_int_equal(world_turn(world), 0);
    world_cancel(world, call);
    assert_int_equal(world_turn(world), 0);
    assert_true(call->released);
    assert_int_equal(call->status, GRPC_CANCELLED);
    assert_int_equal(world_stats(world).cancelled, 1);
    world_task_at(world, 0, "a");
    world_expect_claim(world, "a");
}

/* The task that this turn gave it goes to somebody else. */
static void a_cancel_in_the_turn_of_its_grant(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    struct test_call *call = world_claim(world);
    assert_int_equal(world_turn(world), 0);
    world_task_at(world, 0, "a");
    world_cancel(world, call);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(call->status, GRPC_CANCELLED);
    assert_string_equal(call->id, "");
    world_expect_claim(world, "a");
}

/* A cancel that comes after the answer only ends its reference. */
static void a_late_cancel(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    struct test_call *call = world_claim(world);
    world_cancel(world, call);
    assert_int_equal(world_turn(world), 0);
    assert_string_equal(call->id, "a");
    assert_true(call->released);
}

static void an_undelivered_task_goes_back(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    struct activation activation = world_activation("a");
    activation.retry_state.has_at_most_once = activation.retry_state.at_most_once = true;
    world_record(world, 0, &activation);
    assert_int_equal(world_turn(world), 0);
    world_committed(world, 0, 1);
    struct test_call *call = world_claim(world);
    assert_int_equal(world_turn(world), 0);
    assert_string_equal(call->id, "a");
    world_undelivered(world, call);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_stats(world).undelivered, 1);
    world_expect_claim(world, "a");
}

/* An old failure must not take the task from whoever has it now. */
static void an_undelivered_claim_of_the_past(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    struct test_call *first = world_claim(world);
    assert_int_equal(world_turn(world), 0);
    world_pass(world, 10000 + GRACE);
    assert_int_equal(world_turn(world), 0);
    world_expect_claim(world, "a");
    world_undelivered(world, first);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_stats(world).undelivered, 0);
    assert_int_equal(world_task(world, "a")->state, TASK_PROCESSING);
}

static void expect_returned(struct test_call *call, unsigned returned, unsigned ignored)
{
    struct give_back_response response;
    const char *why;
    assert_true(call->replied);
    assert_int_equal(call->status, GRPC_OK);
    assert_int_equal(give_back_response_decode(buf_bytes(&call->answer), &response, &why), 0);
    assert_int_equal(response.returned, returned);
    assert_int_equal(response.ignored, ignored);
}

/* Durable before the answer (INV-7), at-most-once or not; the places stay, no attempt is counted.
 */
static void tasks_given_back_are_claimable_again(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    struct activation activation = world_activation("a");
    activation.retry_state.has_at_most_once = activation.retry_state.at_most_once = true;
    world_record(world, 0, &activation);
    assert_int_equal(world_turn(world), 0);
    world_committed(world, 0, 1);
    struct test_call *got[2] = {world_claim(world)};
    assert_int_equal(world_turn(world), 0);
    assert_string_equal(got[0]->id, "a");
    world_task_at(world, 1, "b");
    got[1] = world_claim(world);
    assert_int_equal(world_turn(world), 0);
    world_task_at(world, 2, "c");
    assert_int_equal(world_turn(world), 0);
    uint64_t commits = world_stats(world).commits;
    struct test_call *call = world_give_back(world, got, 2);
    assert_int_equal(world_turn(world), 0);
    expect_returned(call, 2, 0);
    assert_int_equal(call->commits, commits + 1);
    assert_int_equal(world_sql_int(world, "SELECT count(*) FROM inflight_taskactivations WHERE "
                                          "status = 'Pending' AND processing_attempts = 0"),
                     3);
    world_expect_claim(world, "a");
    world_expect_claim(world, "b");
    call = world_give_back(world, got, 2); /* by now others have them */
    assert_int_equal(world_turn(world), 0);
    expect_returned(call, 0, 2);
    assert_int_equal(world_task(world, "a")->state, TASK_PROCESSING);
    assert_int_equal(world_stats(world).returned, 2);
    assert_int_equal(world_stats(world).not_returned, 2);
}

/* Whoever waits gets it in the turn that takes it back. */
static void a_task_given_back_goes_to_a_held_claim(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    struct test_call *first = world_claim(world);
    assert_int_equal(world_turn(world), 0);
    struct test_call *waiting = world_claim(world);
    assert_int_equal(world_turn(world), 0);
    assert_false(waiting->replied);
    struct test_call *call = world_give_back(world, &first, 1);
    assert_int_equal(world_turn(world), 0);
    expect_returned(call, 1, 0);
    assert_string_equal(waiting->id, "a");
    assert_int_not_equal(waiting->call.claim_number, first->call.claim_number);
}

/* A restart forgets all claims: the number of an earlier life names none of this one. */
static void a_claim_of_an_earlier_life(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    struct test_call *first = world_claim(world);
    assert_int_equal(world_turn(world), 0);
    uint64_t number = first->call.claim_number;
    world->options.inflight.claims_from = 1000;
    world_crash(world, CRASH_POWER);
    first->call.claim_number = number;
    struct test_call *call = world_give_back(world, &first, 1);
    assert_int_equal(world_turn(world), 0);
    expect_returned(call, 0, 1);
    assert_int_equal(world_task(world, "a")->state, TASK_PROCESSING);
}

/* --- reports ---------------------------------------------------------------------------------- */

static void a_report_fetches_the_next(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    world_task_at(world, 1, "b");
    world_expect_claim(world, "a");
    struct test_call *report = world_report(world, "a", ACTIVATION_COMPLETE);
    report->call.status.has_fetch_next = true;
    struct test_call *second = world_report(world, "b", ACTIVATION_COMPLETE);
    second->call.status.has_fetch_next = true;
    second->call.status.id = bytes_str("unknown");
    assert_int_equal(world_turn(world), 0);
    assert_string_equal(report->id, "b");
    assert_int_equal(second->status, GRPC_OK); /* and is never held */
    assert_string_equal(second->id, "");
}

static void a_batch_is_applied_in_order(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    world_task_at(world, 1, "b");
    world_expect_claim(world, "a");
    world_expect_claim(world, "b");
    struct test_call *call =
        world_batch(world, (const char *[]){"a", "unknown", "b"}, 3, ACTIVATION_COMPLETE);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(call->status, GRPC_OK);
    assert_int_equal(world_counts(world).completed, 2);
    assert_int_equal(world_counts(world).reports[REPORT_UNKNOWN_ID], 1);
}

/* Spec 13: 12: a batch is applied whole or not at all, so that sending it again is right; and what
 * was applied already is not applied twice. */
static void test_weakness_12_a_failed_batch_is_sent_again(void **state)
{
    static const char *const ids[] = {"a", "b"};
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    world_task_at(world, 1, "b");
    world_expect_claim(world, "a");
    world_expect_claim(world, "b");
    crash_vfs_fail(world->disk, CRASH_OP_SYNC, 1, SQLITE_IOERR_FSYNC, true);
    struct test_call *call = world_batch(world, ids, 2, ACTIVATION_RETRY);
    assert_int_not_equal(world_turn(world), 0);
    assert_false(call->replied);
    assert_int_equal(world->record_count, 0);
    world_crash(world, CRASH_POWER);
    assert_int_equal(world_task(world, "a")->state, world_task(world, "b")->state);
    for (int i = 0; i < 2; i++) { /* the second time because the first answer was lost */
        call = world_batch(world, ids, 2, ACTIVATION_RETRY);
        assert_int_equal(world_turn(world), 0);
        assert_int_equal(call->status, GRPC_OK);
        assert_int_equal(world->record_count, 2);
    }
}

/* --- Enqueue in Kafka mode -------------------------------------------------------------------- */

static int collect_id(void *ctx, struct bytes id)
{
    buf_append(ctx, id.ptr, id.len);
    buf_append(ctx, " ", 1);
    return 0;
}

static void expect_ids(const struct test_call *call, const char *expected)
{
    struct buf ids = {0};
    const char *why;
    assert_int_equal(call->status, GRPC_OK);
    assert_int_equal(enqueue_response_decode(buf_bytes(&call->answer), collect_id, &ids, &why), 0);
    assert_true(bytes_equal_str(buf_bytes(&ids), expected));
    buf_free(&ids);
}

static void enqueue_replies_after_all_deliveries(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    struct test_call *call = world_enqueue(world, NULL, (const char *[]){"x", "y"}, 2);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->record_count, 2);
    assert_string_equal(world->records[0].topic, "tasks");
    assert_int_equal(engine_publishing(world->engine), 2);
    world_deliver(world, 1, TOPIC_DELIVERED);
    assert_int_equal(world_turn(world), 0);
    assert_false(call->replied);
    world_deliver(world, 0, TOPIC_DELIVERED);
    assert_int_equal(world_turn(world), 0);
    expect_ids(call, "x y ");
    assert_int_equal(engine_publishing(world->engine), 0);
}

static void enqueue_fails_when_one_does(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    struct test_call *call = world_enqueue(world, "tasks", (const char *[]){"x", "y"}, 2);
    assert_int_equal(world_turn(world), 0);
    world_deliver(world, 0, TOPIC_FAILED);
    assert_int_equal(world_turn(world), 0);
    assert_false(call->replied); /* the other one still names it */
    world_deliver(world, 1, TOPIC_DELIVERED);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(call->status, GRPC_UNAVAILABLE);
}

static void enqueue_refused_by_the_producer(void **state)
{
    struct world *world = WORLD(state);
    world->produce_code = ERR_FULL;
    world_start(world);
    struct test_call *call = world_enqueue(world, NULL, (const char *[]){"x", "y"}, 2);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(call->status, GRPC_UNAVAILABLE);
    assert_int_equal(engine_publishing(world->engine), 0);
}

static void enqueue_to_a_foreign_topic(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    struct test_call *call = world_enqueue(world, "payments", (const char *[]){"x"}, 1);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(call->status, GRPC_INVALID_ARGUMENT);
    assert_int_equal(world->record_count, 0);
}

/* The end comes while Kafka has the records: the call is answered, the publications are freed. */
static void enqueue_cut_short_by_the_end(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    struct test_call *call = world_enqueue(world, NULL, (const char *[]){"x", "y"}, 2);
    assert_int_equal(world_turn(world), 0);
    world_deliver(world, 0, TOPIC_DELIVERED);
    engine_destroy(world->engine, world->events);
    world->engine = NULL;
    assert_int_equal(call->status, GRPC_UNAVAILABLE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_held_claim_gets_the_next_task),
        TEST(a_hold_ends_by_itself),
        TEST(a_hold_ends_before_the_callers_deadline),
        TEST(without_long_poll_nothing_is_held),
        TEST(filters_apply),
        TEST(a_cancelled_hold_gets_nothing),
        TEST(a_cancel_in_the_turn_of_its_grant),
        TEST(a_late_cancel),
        TEST(an_undelivered_task_goes_back),
        TEST(an_undelivered_claim_of_the_past),
        TEST(tasks_given_back_are_claimable_again),
        TEST(a_task_given_back_goes_to_a_held_claim),
        TEST(a_claim_of_an_earlier_life),
        TEST(a_report_fetches_the_next),
        TEST(a_batch_is_applied_in_order),
        TEST(test_weakness_12_a_failed_batch_is_sent_again),
        TEST(enqueue_replies_after_all_deliveries),
        TEST(enqueue_fails_when_one_does),
        TEST(enqueue_refused_by_the_producer),
        TEST(enqueue_to_a_foreign_topic),
        TEST(enqueue_cut_short_by_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
