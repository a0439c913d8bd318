/* SPDX-License-Identifier: Apache-2.0 */
/* Embedded mode: records, rows and positions in the transactions of one file. */
#include "world.h"

#include <sqlite3.h>
#include <stdio.h>

#define TEST(name) cmocka_unit_test_setup_teardown(name, world_setup_embedded, world_teardown)

static int64_t log_rows(struct world *world)
{
    return world_sql_int(world, "SELECT count(*) FROM taskmill_log");
}

static void enqueued_and_claimed_in_one_turn(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    struct test_call *held = world_claim(world);
    assert_int_equal(world_turn(world), 0);
    uint64_t commits = world_stats(world).commits;
    struct test_call *call = world_enqueue(world, NULL, (const char *[]){"a", "b"}, 2);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(call->status, GRPC_OK);
    assert_string_equal(held->id, "a");
    assert_int_equal(held->commits, commits + 1);
    assert_int_equal(log_rows(world), 0); /* never written as a record */
    assert_int_equal(world_sql_int(world, "SELECT count(*) FROM inflight_taskactivations"), 2);
}

/* INV-7 */
static void an_answer_outlives_a_power_cut(void **state)
{
    struct world *world = WORLD(state);
    world->options.limits.pending_max = 1;
    world_start(world);
    struct test_call *call = world_enqueue(world, "tasks", (const char *[]){"a", "b", "c"}, 3);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(call->status, GRPC_OK);
    assert_int_equal(world_counts(world).tasks, 1); /* the rest waits in the log */
    assert_int_equal(log_rows(world), 2);
    world_crash(world, CRASH_POWER);
    world_settle(world);
    world_expect_claim(world, "a");
    world_settle(world);
    world_expect_claim(world, "b");
    world_settle(world);
    world_expect_claim(world, "c");
    world_settle(world);
    assert_int_equal(log_rows(world), 0);
}

static void a_failed_commit_answers_nobody(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    struct test_call *call = world_enqueue(world, NULL, (const char *[]){"a"}, 1);
    crash_vfs_fail(world->disk, CRASH_OP_SYNC, 1, SQLITE_IOERR_FSYNC, true);
    assert_int_not_equal(world_turn(world), 0);
    assert_false(call->replied);
}

/* The log's first write of a turn may be the first of all: it waits for the lock, too. */
static void a_locked_file_is_waited_for(void **state)
{
    struct world *world = WORLD(state);
    world->options.limits.pending_max = 1;
    world_start(world);
    world_enqueue(world, NULL, (const char *[]){"a"}, 1);
    assert_int_equal(world_turn(world), 0);
    world_lock_file(world, 2);
    struct test_call *call = world_enqueue(world, NULL, (const char *[]){"b"}, 1);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->busy_calls, 2);
    assert_int_equal(call->status, GRPC_OK);
    assert_int_equal(log_rows(world), 1);
}

static void a_full_log_refuses(void **state)
{
    struct world *world = WORLD(state);
    world->options.limits.pending_max = 1;
    world->options.limits.enqueue_backlog = 2;
    world_start(world);
    world_enqueue(world, NULL, (const char *[]){"a", "b", "c"}, 3);
    world_settle(world);
    struct test_call *call = world_enqueue(world, NULL, (const char *[]){"d"}, 1);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(call->status, GRPC_RESOURCE_EXHAUSTED);
    world_expect_claim(world, "a");
    world_settle(world);
    call = world_enqueue(world, NULL, (const char *[]){"d"}, 1);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(call->status, GRPC_OK);
}

static void a_full_store_refuses(void **state)
{
    struct world *world = WORLD(state);
    world->options.limits.store_max_bytes = 1;
    world_start(world);
    struct test_call *call = world_enqueue(world, NULL, (const char *[]){"a"}, 1);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(call->status, GRPC_RESOURCE_EXHAUSTED);
    assert_int_equal(world_counts(world).tasks, 0);
}

static void only_a_consumed_topic_takes_tasks(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    struct test_call *call = world_enqueue(world, "dlq", (const char *[]){"a"}, 1);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(call->status, GRPC_INVALID_ARGUMENT);
}

static void a_dead_letter_moves_into_the_log(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_enqueue(world, NULL, (const char *[]){"a"}, 1);
    world_expect_claim(world, "a");
    world_report(world, "a", ACTIVATION_FAILURE);
    world_settle(world);
    assert_int_equal(world_counts(world).tasks, 0);
    assert_int_equal(
        world_sql_int(world, "SELECT high - low FROM taskmill_log_topics WHERE name = 'dlq'"), 1);
    assert_int_equal(log_rows(world), 1);
    assert_int_equal(embedded_log_waiting(world->log), 0);
}

/* The retry topic is the consumed one here: the new task is there in the next turns. */
static void a_retry_comes_back(void **state)
{
    struct world *world = WORLD(state);
    world->options.retry_topic = "tasks";
    world_start(world);
    world_enqueue(world, NULL, (const char *[]){"a"}, 1);
    world_expect_claim(world, "a");
    world_report(world, "a", ACTIVATION_RETRY);
    world_settle(world);
    assert_int_equal(world_counts(world).tasks, 1);
    assert_int_equal(world_counts(world).retried, 1);
    assert_null(world_task(world, "a"));
    struct test_call *call = world_claim(world);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(call->status, GRPC_OK);
}

/* Nobody else reads this log: no offset has to be confirmed. */
static void once_is_claimable_at_once(void **state)
{
    struct world *world = WORLD(state);
    struct activation activation = world_activation("a");
    activation.retry_state.has_at_most_once = activation.retry_state.at_most_once = true;
    world_start(world);
    struct blob *payload = world_payload(&activation);
    int64_t offset;
    assert_int_equal(
        embedded_log_append(world->log, "tasks", blob_bytes(payload), NULL, 0, &offset), 0);
    blob_unref(payload);
    world_expect_no_task(world); /* the claim is handled before the log is read */
    world_expect_claim(world, "a");
    world_crash(world, CRASH_POWER);
    assert_int_equal(world_counts(world).unconfirmed, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(enqueued_and_claimed_in_one_turn),
        TEST(an_answer_outlives_a_power_cut),
        TEST(a_failed_commit_answers_nobody),
        TEST(a_locked_file_is_waited_for),
        TEST(a_full_log_refuses),
        TEST(a_full_store_refuses),
        TEST(only_a_consumed_topic_takes_tasks),
        TEST(a_dead_letter_moves_into_the_log),
        TEST(a_retry_comes_back),
        TEST(once_is_claimable_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
