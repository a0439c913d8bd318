/* SPDX-License-Identifier: Apache-2.0 */
/* Rows that another program, another run or a crash left in the file. */
#include "world.h"

#include <stdio.h>

#define TEST(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)

#define WALL_S (WALL0 / 1000)

/* An empty file with all tables, nobody at work. */
static void make_file(struct world *world)
{
    struct err_text why;
    if (world_open(world, &why))
        fail_msg("%s", why.s);
    world_crash(world, CRASH_KILL); /* closes it as a kill would, opens the copy */
    engine_destroy(world->engine, NULL);
    world->engine = NULL;
    store_close(world->store);
    world->store = NULL;
}

static void put_row(struct world *world, const char *id, const char *status, const char *more)
{
    char sql[1024];
    struct activation activation = world_activation(id);
    struct blob *payload = world_payload(&activation);
    char hex[512] = "";
    for (size_t i = 0; i < payload->len; i++)
        snprintf(hex + 2 * i, sizeof hex - 2 * i, "%02x", payload->data[i]);
    blob_unref(payload);
    snprintf(sql, sizeof sql,
             "INSERT INTO inflight_taskactivations (id, activation, partition, offset, added_at, "
             "received_at, processing_attempts, processing_deadline_duration, status, "
             "at_most_once, application, namespace, taskname, on_attempts_exceeded) VALUES ('%s', "
             "x'%s', 0, 5, %lld, %lld, 0, 10, '%s', 0, 'app', 'ns', 'ns.task', 2)",
             id, hex, (long long)WALL_S, (long long)WALL_S, status);
    world_sql(world, sql);
    if (more) {
        snprintf(sql, sizeof sql, "UPDATE inflight_taskactivations SET %s WHERE id = '%s'", more,
                 id);
        world_sql(world, sql);
    }
}

static void open_file(struct world *world)
{
    struct err_text why;
    if (world_open(world, &why))
        fail_msg("%s", why.s);
    inflight_check(world->engine->inflight);
}

static void every_state_is_loaded(void **state)
{
    struct world *world = WORLD(state);
    make_file(world);
    put_row(world, "pending", "Pending", NULL);
    put_row(world, "claimed", "Claimed", "claim_expires_at = 1");
    put_row(world, "delay", "Delay", "delay_until = 1700000060");
    put_row(world, "processing", "Processing", "processing_deadline = 1700000012");
    put_row(world, "retry", "Retry", NULL);
    put_row(world, "failure", "Failure", NULL);
    put_row(world, "complete", "Complete", NULL);
    open_file(world);
    assert_int_equal(world_task(world, "pending")->state, TASK_PENDING);
    assert_int_equal(world_task(world, "claimed")->state, TASK_PENDING);
    assert_int_equal(world_task(world, "delay")->state, TASK_DELAY);
    assert_int_equal(world_task(world, "delay")->due_ms, BOOT0 + 61000); /* end of that second */
    assert_int_equal(world_task(world, "processing")->state, TASK_PROCESSING);
    assert_int_equal(world_task(world, "processing")->due_ms, BOOT0 + 12999);
    assert_int_equal(world_task(world, "retry")->state, TASK_RETRY);
    assert_int_equal(world_task(world, "failure")->state, TASK_FAILURE);
    assert_null(world_task(world, "complete"));
    assert_int_equal(
        world_sql_int(world, "SELECT count(*) FROM inflight_taskactivations WHERE id = 'complete'"),
        0);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->record_count, 2); /* the retry and the dead letter leave at once */
    world_expect_claim(world, "pending");     /* payloads are read back */
    world_expect_claim(world, "claimed");
}

static void bad_rows_are_parked_not_refused(void **state)
{
    struct world *world = WORLD(state);
    make_file(world);
    put_row(world, "strange", "Sleeping", NULL);
    put_row(world, "nameless", "Pending", "namespace = NULL");
    open_file(world);
    assert_int_equal(world_counts(world).parked, 2);
    assert_int_equal(world_task(world, "strange")->failure, FAILURE_BAD_ROW);
    assert_int_equal(world_task(world, "nameless")->state, TASK_FAILURE);
    world_expect_no_task(world);
    assert_int_equal(world_sql_int(world,
                                   "SELECT count(*) FROM inflight_taskactivations WHERE status = "
                                   "'Sleeping'"),
                     1);
}

/* INV-14: no row waits longer than its own limits allow, and none fires in the start-up grace. */
static void times_are_clamped(void **state)
{
    struct world *world = WORLD(state);
    make_file(world);
    put_row(world, "late", "Processing", "processing_deadline = 1");
    put_row(world, "far", "Processing",
            "processing_deadline = 9000000000, processing_deadline_duration = 60");
    put_row(world, "none", "Processing", "processing_deadline = NULL");
    put_row(world, "delayed", "Delay", "delay_until = 9000000000");
    put_row(world, "over", "Delay", "delay_until = 1");
    put_row(world, "undated", "Delay", "delay_until = NULL");
    open_file(world);
    assert_int_equal(world_task(world, "late")->due_ms, BOOT0 + 10000);
    assert_int_equal(world_task(world, "far")->due_ms, BOOT0 + 60000 + GRACE);
    assert_int_equal(world_task(world, "none")->due_ms, BOOT0 + 10000 + GRACE);
    assert_int_equal(world_task(world, "delayed")->due_ms, BOOT0 + 3600000);
    assert_int_equal(world_task(world, "over")->due_ms, BOOT0);
    assert_int_equal(world_task(world, "undated")->due_ms, BOOT0);
}

/* A file may hold every number that a column can. */
static void wild_numbers_do_no_harm(void **state)
{
    static const char *const numbers[] = {"-9223372036854775807", "9223372036854775807",
                                          "-9223372036854775", "9223372036854775", "0"};
    static const char *const statuses[] = {"Pending", "Delay", "Processing"};
    struct world *world = WORLD(state);
    make_file(world);
    for (size_t i = 0; i < 5; i++)
        for (size_t j = 0; j < 3; j++) {
            char id[32], more[512];
            const char *n = numbers[i];
            snprintf(id, sizeof id, "%zu-%zu", i, j);
            snprintf(more, sizeof more,
                     "expires_at = %s, delay_until = %s, processing_deadline = %s, "
                     "processing_deadline_duration = %s, processing_attempts = %s, received_at = "
                     "%s, added_at = %s, offset = %s, partition = %s, on_attempts_exceeded = %s",
                     n, n, n, n, n, n, n, n, n, n);
            put_row(world, id, statuses[j], more);
        }
    open_file(world);
    for (int i = 0; i < 5; i++) {
        world_settle(world);
        world_pass(world, 3600000);
    }
    inflight_check(world->engine->inflight);
}

/* Spec 13: 34: from 2^31 seconds on the original stored no deadline and never came back; negative
 * durations of a file have none either. Ours all have one. */
static void test_weakness_34_every_duration_has_a_deadline(void **state)
{
    static const struct {
        const char *id, *duration;
        int64_t lasts_s;
    } cases[] = {{"negative", "-5", 0},
                 {"int32", "2147483647", INT32_MAX},
                 {"beyond", "2147483648", INT32_MAX},
                 {"vast", "9223372036854775807", INT32_MAX}};
    struct world *world = WORLD(state);
    make_file(world);
    for (size_t i = 0; i < 4; i++) {
        char more[80];
        snprintf(more, sizeof more, "processing_deadline_duration = %s", cases[i].duration);
        put_row(world, cases[i].id, "Pending", more);
    }
    open_file(world);
    for (size_t i = 0; i < 4; i++) {
        world_expect_claim(world, cases[i].id);
        assert_int_equal(world_task(world, cases[i].id)->due_ms,
                         BOOT0 + cases[i].lasts_s * 1000 + GRACE);
    }
    assert_int_equal(world_sql_int(world, "SELECT count(processing_deadline) FROM "
                                          "inflight_taskactivations"),
                     4);
    world_pass(world, INT64_C(2147483647) * 1000 + GRACE);
    assert_int_equal(world_turn(world), 0);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(world_task(world, cases[i].id)->state, TASK_PENDING);
}

static void order_and_rowids_go_on(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    world_task_at(world, 1, "b");
    assert_int_equal(world_turn(world), 0);
    world_crash(world, CRASH_POWER);
    world_assign(world, 0, 2, 2, "");
    world_task_at(world, 2, "c");
    assert_int_equal(world_turn(world), 0);
    world_expect_claim(world, "a");
    world_expect_claim(world, "b");
    world_expect_claim(world, "c");
}

/* INV-4: it may have run; it is not offered again. */
static void claimed_at_crash_ends_by_its_policy(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    struct activation activation = world_activation("a");
    activation.retry_state.has_at_most_once = activation.retry_state.at_most_once = true;
    world_record(world, 0, &activation);
    assert_int_equal(world_turn(world), 0);
    world_committed(world, 0, 1);
    world_expect_claim(world, "a");
    world_crash(world, CRASH_POWER);
    assert_int_equal(world_turn(world), 0);
    world_expect_no_task(world);
    world_pass(world, 10000 + GRACE);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_task(world, "a")->failure, FAILURE_CLAIMED_AT_CRASH);
    assert_int_equal(world->record_count, 1);
    assert_string_equal(world->records[0].topic, "dlq");
}

static void milliseconds_survive_a_restart(void **state)
{
    struct world *world = WORLD(state);
    world->wall_ms += 250;
    world_start(world);
    struct activation activation = world_activation("a");
    activation.has_delay = true;
    activation.delay = 20;
    activation.received_at_ns = 345000000;
    world_record(world, 0, &activation);
    assert_int_equal(world_turn(world), 0);
    world_pass(world, 1000);
    int64_t due_ms = world_task(world, "a")->due_ms;
    world_crash(world, CRASH_POWER);
    assert_int_equal(world_task(world, "a")->due_ms, due_ms + 1); /* never early: rounded up */
}

/* INV-14: a step of the wall clock moves nothing in a running broker. */
static void a_wall_step_changes_nothing(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    struct activation activation = world_activation("a");
    activation.has_delay = true;
    activation.delay = 20;
    world_record(world, 0, &activation);
    assert_int_equal(world_turn(world), 0);
    int64_t due_ms = world_task(world, "a")->due_ms;
    world->wall_ms += 86400000;
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_task(world, "a")->due_ms, due_ms);
    assert_int_equal(world_task(world, "a")->state, TASK_DELAY);
}

/* Spec 13: 13: a clock that is set back to before the start does not end the start-up grace. */
static void test_weakness_13_a_clock_set_back_leaves_the_grace(void **state)
{
    struct world *world = WORLD(state);
    make_file(world);
    put_row(world, "a", "Processing", "processing_deadline = 1");
    open_file(world);
    world->wall_ms -= 86400000;
    world_settle(world);
    assert_int_equal(world_task(world, "a")->state, TASK_PROCESSING);
    world->now_ms += 9999; /* of the 10 s of these tests */
    world_settle(world);
    assert_int_equal(world_task(world, "a")->state, TASK_PROCESSING);
    world->now_ms += 1;
    world_settle(world);
    assert_int_equal(world_task(world, "a")->state, TASK_PENDING);
}

/* Spec 13: 29: what a worker has waits for the grace, because that worker may still report; what no
 * worker has got (rows of the original's push mode) does not. */
static void test_weakness_29_claimed_rows_come_back_after_a_restart(void **state)
{
    struct world *world = WORLD(state);
    make_file(world);
    put_row(world, "claimed", "Claimed", "claim_expires_at = 9000000000");
    put_row(world, "running", "Processing", "processing_deadline = 1");
    put_row(world, "done", "Processing", "processing_deadline = 1");
    open_file(world);
    world_expect_claim(world, "claimed");
    world_expect_no_task(world);
    world_report(world, "done", ACTIVATION_COMPLETE);
    world_settle(world);
    assert_null(world_task(world, "done"));
    world_pass(world, 10000);
    world_expect_claim(world, "running");
}

static void a_store_that_fails_to_load_is_named(void **state)
{
    struct world *world = WORLD(state);
    struct err_text why = {""};
    make_file(world);
    put_row(world, "a", "Complete", NULL);
    struct store_options options = {
        .path = "world.sqlite", .vfs = crash_vfs_name(world->disk), .no_lock = true};
    assert_int_equal(store_open(&world->store, &options, &why), 0);
    crash_vfs_fail(world->disk, CRASH_OP_SYNC, 1, 1034 /* SQLITE_IOERR_FSYNC */, true);
    world->options.store = world->store;
    world->options.sources = &world->source_options;
    world->source_options.source = &world->source;
    assert_int_not_equal(
        engine_create(&world->engine, &world->options, world->now_ms, world->wall_ms, &why), 0);
    assert_null(world->engine);
    assert_true(why.s[0] != '\0');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_state_is_loaded),
        TEST(bad_rows_are_parked_not_refused),
        TEST(times_are_clamped),
        TEST(wild_numbers_do_no_harm),
        TEST(test_weakness_34_every_duration_has_a_deadline),
        TEST(order_and_rowids_go_on),
        TEST(claimed_at_crash_ends_by_its_policy),
        TEST(milliseconds_survive_a_restart),
        TEST(a_wall_step_changes_nothing),
        TEST(test_weakness_13_a_clock_set_back_leaves_the_grace),
        TEST(test_weakness_29_claimed_rows_come_back_after_a_restart),
        TEST(a_store_that_fails_to_load_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
