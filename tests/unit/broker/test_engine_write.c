/* SPDX-License-Identifier: Apache-2.0 */
/* Rows as they reach the file, and which payloads stay in memory. */
#include "world.h"

#define TEST(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)

static void a_row_holds_what_the_original_holds(void **state)
{
    struct world *world = WORLD(state);
    world->wall_ms += 1999;
    world_start(world);
    struct activation activation = world_activation("a");
    activation.has_expires = true;
    activation.expires = 100;
    world_record(world, 7, &activation);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(
        world_sql_int(
            world, "SELECT count(*) FROM inflight_taskactivations WHERE id = 'a' AND offset = 7 "
                   "AND partition = 0 AND added_at = 1700000001 AND received_at = 1700000000 AND "
                   "expires_at = 1700000100 AND delay_until IS NULL AND processing_deadline IS "
                   "NULL AND processing_deadline_duration = 10 AND status = 'Pending' AND "
                   "application = 'app' AND namespace = 'ns' AND taskname = 'ns.task' AND "
                   "on_attempts_exceeded = 2 AND at_most_once = 0 AND processing_attempts = 0"),
        1);
    world_expect_claim(world, "a");
    assert_int_equal(world_sql_int(world, "SELECT processing_deadline FROM "
                                          "inflight_taskactivations"),
                     (world->wall_ms + 10000 + GRACE) / 1000);
}

/* However often it moved in a turn. */
static void a_row_is_written_once_a_turn(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    assert_int_equal(world_turn(world), 0);
    uint64_t written = world_stats(world).rows_written;
    struct test_call *claim = world_claim(world);
    world_report(world, "a", ACTIVATION_FAILURE);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_stats(world).rows_written, written + 1);
    assert_int_equal(claim->status, GRPC_NOT_FOUND);
}

static void missed_deadlines_count_in_the_file(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    world_expect_claim(world, "a");
    world_pass(world, 10000 + GRACE);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(
        world_sql_int(world, "SELECT processing_attempts FROM inflight_taskactivations"), 1);
    assert_int_equal(world_sql_int(world, "SELECT count(*) FROM inflight_taskactivations WHERE "
                                          "processing_deadline IS NULL AND status = 'Pending'"),
                     1);
}

static void large_payloads_are_read_back(void **state)
{
    struct world *world = WORLD(state);
    world->options.limits.blob_cache_item_bytes = 30;
    world_start(world);
    world_task_at(world, 0, "a");
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_counts(world).payload_bytes_cached, 0);
    world_expect_claim(world, "a");
}

static void the_cache_has_a_limit(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    assert_int_equal(world_turn(world), 0);
    uint64_t one = world_counts(world).payload_bytes_cached;
    world->engine->limits.blob_cache_bytes = 2 * one;
    world_task_at(world, 1, "b");
    world_task_at(world, 2, "c");
    world_task_at(world, 3, "d");
    assert_int_equal(world_turn(world), 0);
    assert_true(world_counts(world).payload_bytes_cached <= 2 * one);
    static const char *const ids[] = {"a", "b", "c", "d"};
    for (size_t i = 0; i < 4; i++)
        world_expect_claim(world, ids[i]);
}

/* A retry topic that is out of reach must not fill the memory with rewritten payloads. */
static void rewritten_payloads_obey_the_limit(void **state)
{
    struct world *world = WORLD(state);
    world->options.limits.blob_cache_bytes = 0;
    world_start(world);
    world_task_at(world, 0, "a");
    world_expect_claim(world, "a");
    struct test_call *report = world_report(world, "a", ACTIVATION_RETRY);
    report->call.status.has_max_attempts = true;
    report->call.status.max_attempts = 9;
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->record_count, 1);
    assert_int_equal(world_counts(world).payload_bytes_cached, 0);
    world_deliver(world, 0, TOPIC_FAILED);
    assert_int_equal(world_turn(world), 0);
    world_pass(world, 100);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->record_count, 2);
    struct activation again;
    const char *why;
    assert_int_equal(activation_parse(buf_bytes(&world->records[1].payload), &again, &why), 0);
    assert_int_equal(again.retry_state.max_attempts, 9); /* read back as rewritten */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_row_holds_what_the_original_holds),
        TEST(a_row_is_written_once_a_turn),
        TEST(missed_deadlines_count_in_the_file),
        TEST(large_payloads_are_read_back),
        TEST(the_cache_has_a_limit),
        TEST(rewritten_payloads_obey_the_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
