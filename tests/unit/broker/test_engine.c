/* SPDX-License-Identifier: Apache-2.0 */
/* The turn: what it writes, when it lets things out, what stops intake, how it fails and ends. */
#include "world.h"

#include <sqlite3.h>

#define TEST(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)

/* A task that comes, is claimed and completed within a turn never touches the disk. */
static void a_life_within_one_turn_writes_nothing(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    uint64_t commits = world_stats(world).commits;
    uint64_t writes = crash_vfs_op_count(world->disk, CRASH_OP_WRITE);
    world_task_at(world, 0, "a");
    struct test_call *claim = world_claim(world);
    struct test_call *report = world_report(world, "a", ACTIVATION_COMPLETE);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_stats(world).commits, commits);
    assert_int_equal(crash_vfs_op_count(world->disk, CRASH_OP_WRITE), writes);
    /* The report ended the task before the claim's reply could leave. */
    assert_int_equal(claim->status, GRPC_NOT_FOUND);
    assert_int_equal(report->status, GRPC_OK);
    assert_int_equal(world->commit_count, 1);
    assert_int_equal(world->commits[0].next_offset, 1);
}

static void replies_and_offsets_leave_after_the_commit(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    uint64_t before = world_stats(world).commits;
    world_task_at(world, 0, "a");
    struct test_call *claim = world_claim(world);
    assert_int_equal(world_turn(world), 0);
    assert_string_equal(claim->id, "a");
    assert_int_equal(claim->commits, before + 1);
    assert_int_equal(world->commits[0].commits, before + 1);
    assert_int_equal(world_sql_int(world, "SELECT count(*) FROM inflight_taskactivations "
                                          "WHERE id = 'a' AND status = 'Processing'"),
                     1);
}

/* INV-12, INV-7: nothing of a turn that fails gets out, and whoever waits is told at the end. */
static void a_failed_commit_lets_nothing_out(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    assert_int_equal(world_turn(world), 0);
    struct test_call *held = world_claim_of(world, "other", NULL);
    assert_int_equal(world_turn(world), 0);
    size_t commits = world->commit_count;
    crash_vfs_fail(world->disk, CRASH_OP_SYNC, 1, SQLITE_IOERR_FSYNC, true);
    struct test_call *claim = world_claim(world);
    struct test_call *report = world_report(world, "x", ACTIVATION_COMPLETE);
    struct test_call *batch = world_batch(world, (const char *[]){"y"}, 1, ACTIVATION_FAILURE);
    world_task_at(world, 1, "b");
    world_revoke(world, 0);
    assert_int_not_equal(world_turn(world), 0);
    assert_false(claim->replied || report->replied || batch->replied || held->replied);
    assert_int_equal(world->commit_count, commits);
    assert_int_equal(world->revoke_done_count, 0);
    assert_true(engine_failure(world->engine)[0] != '\0');

    struct test_call *late = world_claim(world);
    struct test_call *cancelled = world_claim(world);
    world_cancel(world, cancelled);
    engine_destroy(world->engine, world->events);
    world->engine = NULL;
    struct test_call *all[] = {held, claim, report, batch, late, cancelled};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        assert_true(all[i]->replied);
        assert_int_equal(all[i]->status, GRPC_UNAVAILABLE);
    }
    assert_true(cancelled->released);
}

static void a_claim_and_its_answer_survive_a_power_cut(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    world_task_at(world, 1, "b");
    world_expect_claim(world, "a");
    world_report(world, "a", ACTIVATION_COMPLETE);
    assert_int_equal(world_turn(world), 0);
    world_crash(world, CRASH_POWER);
    assert_null(world_task(world, "a"));
    assert_non_null(world_task(world, "b"));
}

/* --- locks by others -------------------------------------------------------------------------- */

static void a_locked_file_is_waited_for(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_lock_file(world, 3);
    world_task_at(world, 0, "a");
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->busy_calls, 3);
    assert_int_equal(world->commits[0].next_offset, 1);
}

static void giving_up_on_a_locked_file_is_a_failure(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_lock_file(world, 0);
    world->unlock = NULL;
    world_task_at(world, 0, "a");
    assert_int_equal(world_turn(world), ERR_BUSY);
    assert_int_equal(world->commit_count, 0);
    assert_string_equal(engine_failure(world->engine), err_string(ERR_BUSY));
}

/* --- back-pressure ---------------------------------------------------------------------------- */

static void room_is_what_pending_leaves(void **state)
{
    struct world *world = WORLD(state);
    world->options.limits.pending_max = 3;
    world_start(world);
    struct gate *gate = engine_gate(world->engine);
    assert_int_equal(world_stats(world).block, BLOCK_NONE);
    assert_int_equal(gate_take(gate, 10), 3);
    gate_return(gate, 3);
    world_task_at(world, 0, "a");
    world_task_at(world, 1, "b");
    world_task_at(world, 2, "c");
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_stats(world).block, BLOCK_PENDING);
    assert_int_equal(gate_take(gate, 10), 0);
    size_t wakes = world->wake_count;
    world_expect_claim(world, "a");
    assert_int_equal(world_stats(world).block, BLOCK_NONE);
    assert_int_equal(world->wake_count, wakes + 1);
    assert_int_equal(gate_take(gate, 10), 1);
}

static void processing_blocks(void **state)
{
    struct world *world = WORLD(state);
    world->options.limits.processing_max = 1;
    world_start(world);
    world_task_at(world, 0, "a");
    world_expect_claim(world, "a");
    assert_int_equal(world_stats(world).block, BLOCK_PROCESSING);
    assert_int_equal(gate_take(engine_gate(world->engine), 1), 0);
    world_report(world, "a", ACTIVATION_COMPLETE);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_stats(world).block, BLOCK_NONE);
}

static void a_large_store_blocks_and_is_looked_at_again(void **state)
{
    struct world *world = WORLD(state);
    world->options.limits.store_max_bytes = 1;
    world_start(world);
    assert_int_equal(world_stats(world).block, BLOCK_SIZE);
    assert_int_equal(gate_take(engine_gate(world->engine), 1), 0);
    int64_t next_ms = engine_next_ms(world->engine);
    assert_true(next_ms > world->now_ms && next_ms <= world->now_ms + 1000);
    world->engine->limits.store_max_bytes = UINT64_MAX;
    world_pass(world, next_ms - world->now_ms);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_stats(world).block, BLOCK_NONE);
}

static void a_full_disk_blocks_before_it_fails(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world->engine->size.disk_free_bytes = 1;
    world->engine->next_size_ms = CLOCK_NEVER;
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_stats(world).block, BLOCK_DISK);
}

static void delayed_tasks_do_not_block(void **state)
{
    struct world *world = WORLD(state);
    world->options.limits.delay_warn = 1;
    world->options.limits.pending_max = 1;
    world_start(world);
    for (int64_t i = 0; i < 3; i++) {
        char id[2] = {(char)('a' + i), 0};
        struct activation activation = world_activation(id);
        activation.has_delay = true;
        activation.delay = 60;
        world_record(world, i, &activation);
    }
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_counts(world).by_state[TASK_DELAY], 3);
    assert_int_equal(world_stats(world).block, BLOCK_NONE);
}

/* --- drain, bounds, names --------------------------------------------------------------------- */

static void drain_answers_holds_and_takes_reports(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    world_expect_claim(world, "a");
    struct test_call *held = world_claim(world);
    assert_int_equal(world_turn(world), 0);
    assert_false(held->replied);
    world_post(world, engine_event_new(EVENT_DRAIN, sizeof(struct engine_event)));
    world_task_at(world, 1, "b");
    struct test_call *late = world_claim(world);
    struct test_call *report = world_report(world, "a", ACTIVATION_COMPLETE);
    report->call.status.has_fetch_next = true;
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(held->status, GRPC_NOT_FOUND);
    assert_true(held->replied);
    assert_int_equal(late->status, GRPC_NOT_FOUND);
    assert_int_equal(report->status, GRPC_OK);
    assert_string_equal(report->id, "");
    assert_null(world_task(world, "a"));
    assert_int_equal(world_stats(world).block, BLOCK_DRAIN);
    assert_int_equal(gate_take(engine_gate(world->engine), 1), 0);
}

static void a_turn_is_bounded(void **state)
{
    struct world *world = WORLD(state);
    world->options.limits.turn_events = 2;
    world_start(world);
    for (int64_t i = 0; i < 5; i++) {
        char id[2] = {(char)('a' + i), 0};
        world_task_at(world, i, id);
    }
    struct test_call *last = world_claim(world);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_counts(world).tasks, 2);
    assert_true(engine_has_backlog(world->engine));
    assert_true(engine_next_ms(world->engine) <= world->now_ms);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_counts(world).tasks, 4);
    assert_false(last->replied);
    assert_int_equal(world_turn(world), 0);
    assert_false(engine_has_backlog(world->engine));
    assert_string_equal(last->id, "a");
}

/* One event with more rows than a turn takes is cut, and what follows it waits. */
static void a_batch_is_split_by_bytes(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    struct engine_records *event =
        engine_event_new(EVENT_RECORDS, sizeof *event + 3 * sizeof event->items[0]);
    event->count = 3;
    for (int64_t i = 0; i < 3; i++) {
        char id[2] = {(char)('a' + i), 0};
        struct activation activation = world_activation(id);
        struct blob *payload = world_payload(&activation);
        struct topic_record record = {.offset = i, .payload = blob_bytes(payload)};
        intake_record(&event->items[i], &record, &world->options.intake, world->wall_ms);
        blob_unref(payload);
    }
    world->engine->limits.turn_bytes = 1;
    world_post(world, &event->event);
    struct test_call *report = world_report(world, "a", ACTIVATION_COMPLETE);
    for (size_t i = 1; i <= 3; i++) {
        assert_int_equal(world_turn(world), 0);
        assert_int_equal(world_counts(world).tasks, i);
        assert_false(report->replied);
        assert_int_equal(world->commits[i - 1].next_offset, i);
    }
    assert_int_equal(world_turn(world), 0);
    assert_true(report->replied);
}

static void what_is_queued_is_freed_at_the_end(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    world_expect_claim(world, "a");
    world_undelivered(world, &world->calls[0]);
    world_task_at(world, 1, "b");
    world_assign(world, 1, 0, -1, "");
    world_claim(world);
    /* world_teardown destroys the engine with these; the sanitizer tells what was left */
}

static void warnings_come_once_in_a_while(void **state)
{
    struct world *world = WORLD(state);
    uint64_t unsaid = 9;
    world_start(world);
    assert_true(engine_may_warn(world->engine, WARNING_OWNER, &unsaid));
    assert_int_equal(unsaid, 0);
    assert_false(engine_may_warn(world->engine, WARNING_OWNER, &unsaid));
    assert_false(engine_may_warn(world->engine, WARNING_OWNER, &unsaid));
    assert_true(engine_may_warn(world->engine, WARNING_OUTBOX, &unsaid));
    world_pass(world, WARNING_INTERVAL_MS);
    assert_int_equal(world_turn(world), 0);
    assert_true(engine_may_warn(world->engine, WARNING_OWNER, &unsaid));
    assert_int_equal(unsaid, 2);
}

static void a_failed_source_is_passed_on(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    struct engine_source_failed *event = engine_event_new(EVENT_SOURCE_FAILED, sizeof *event);
    event->code = ERR_NOT_FOUND;
    world_post(world, &event->event);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->source_failures, 1);
}

static void blocks_have_names(void **state)
{
    (void)state;
    assert_string_equal(engine_block_name(BLOCK_NONE), "none");
    assert_string_equal(engine_block_name(BLOCK_PENDING), "pending_limit");
    assert_string_equal(engine_block_name(BLOCK_DRAIN), "drain");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_life_within_one_turn_writes_nothing),
        TEST(replies_and_offsets_leave_after_the_commit),
        TEST(a_failed_commit_lets_nothing_out),
        TEST(a_claim_and_its_answer_survive_a_power_cut),
        TEST(a_locked_file_is_waited_for),
        TEST(giving_up_on_a_locked_file_is_a_failure),
        TEST(room_is_what_pending_leaves),
        TEST(processing_blocks),
        TEST(a_large_store_blocks_and_is_looked_at_again),
        TEST(a_full_disk_blocks_before_it_fails),
        TEST(delayed_tasks_do_not_block),
        TEST(drain_answers_holds_and_takes_reports),
        TEST(a_turn_is_bounded),
        TEST(a_batch_is_split_by_bytes),
        TEST(what_is_queued_is_freed_at_the_end),
        TEST(warnings_come_once_in_a_while),
        TEST(a_failed_source_is_passed_on),
        TEST(blocks_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
