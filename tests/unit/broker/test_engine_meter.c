/* SPDX-License-Identifier: Apache-2.0 */
/* What the engine counts, and the times that it charges to kinds of work. */
#include "world.h"

#include <stdio.h>

struct sought {
    const char *name;
    const char *tags; /* "value,value" */
    bool found;
    uint64_t count, sum; /* a histogram's; a counter is a count, a gauge a sum */
};

static void look_at(void *arg, const struct metric_view *view)
{
    struct sought *sought = arg;
    struct buf tags = {0};
    for (size_t i = 0; i < view->label_count; i++)
        buf_printf(&tags, "%s%.*s", i ? "," : "", BYTES_FMT_ARG(view->values[i]));
    if (strcmp(view->def->name, sought->name) == 0 &&
        bytes_equal_str(buf_bytes(&tags), sought->tags)) {
        sought->found = true;
        sought->count = view->histogram ? view->histogram->count : view->counter;
        sought->sum = view->histogram ? view->histogram->sum : (uint64_t)view->gauge;
    }
    buf_free(&tags);
}

static struct sought seek(struct world *world, const char *name, const char *tags)
{
    struct sought sought = {.name = name, .tags = tags};
    engine_measure(world->engine, world->now_ms, world->wall_ms);
    metrics_visit(meters_registry(world->engine->meters), look_at, &sought);
    return sought;
}

static void assert_counter(struct world *world, const char *name, const char *tags, uint64_t count)
{
    assert_int_equal(seek(world, name, tags).count, count);
}

/* Each reading is a millisecond later. */
static int64_t test_clock_us;

static int64_t ticking_clock(void)
{
    return test_clock_us += 1000;
}

static void ends_are_counted_once(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    world_task_at(world, 1, "b");
    world_task_at(world, 2, "a");
    world_settle(world);
    world_expect_claim(world, "a");
    world_expect_claim(world, "b");
    world_report(world, "a", ACTIVATION_COMPLETE);
    world_report(world, "b", ACTIVATION_FAILURE);
    world_report(world, "nobody", ACTIVATION_COMPLETE);
    world_settle(world);
    assert_counter(world, "upkeep.task.state_transition", "failed", 0); /* not published yet */
    world_deliver(world, 0, TOPIC_DELIVERED);
    world_settle(world);
    for (int i = 0; i < 2; i++) { /* the second look adds nothing */
        assert_counter(world, "upkeep.task.state_transition", "completed", 1);
        assert_counter(world, "upkeep.task.state_transition", "failed", 1);
        assert_counter(world, "upkeep.cleanup_action", "publish_deadlettered", 1);
        assert_int_equal(seek(world, "upkeep.dlq.message_size", "").count, 1);
        assert_counter(world, "intake.dropped", "duplicate id", 1);
        assert_counter(world, "grpc_server.set_status", "ok,Complete", 1);
        assert_counter(world, "grpc_server.set_status", "ok,Failure", 1);
        assert_counter(world, "grpc_server.set_status", "not_found,Complete", 1);
        assert_counter(world, "grpc_server.set_status.failure", "", 1);
        assert_counter(world, "reports.ignored", "unknown id", 1);
    }
}

/* Spec 13: 1: a dead letter that its topic does not take loses nothing, and is seen. */
static void test_weakness_01_a_failed_dead_letter_keeps_its_row(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    world_settle(world);
    world_expect_claim(world, "a");
    world_report(world, "a", ACTIVATION_FAILURE);
    world_settle(world);
    world_deliver(world, 0, TOPIC_FAILED);
    world_settle(world);
    assert_counter(world, "publish.failures", "", 1);
    world_pass(world, 100);
    world_settle(world);
    assert_string_equal(world->records[1].topic, "dlq"); /* tried again */
    world_deliver(world, 1, TOPIC_IMPOSSIBLE);
    world_settle(world);
    assert_true(world_has_header(&world->records[2], "taskmill-id", "a")); /* a notice instead */
    world_deliver(world, 2, TOPIC_DELIVERED);
    world_settle(world);
    assert_int_equal(seek(world, "tasks.parked", "").sum, 1);
    assert_counter(world, "upkeep.task.state_transition", "failed", 0);
    world_crash(world, CRASH_POWER);
    world_settle(world);
    assert_int_equal(world_sql_int(world, "SELECT count(*) FROM inflight_taskactivations"), 1);
    assert_string_equal(world->records[0].topic, "dlq");
    world_deliver(world, 0, TOPIC_DELIVERED);
    world_settle(world);
    assert_counter(world, "upkeep.task.state_transition", "failed", 1);
    assert_int_equal(world_counts(world).tasks, 0);
}

/* Spec 13: 4, kept as it is: dropped whatever their policy, before they are stored and after. */
static void test_weakness_04_expired_tasks_are_dropped_and_counted(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    struct activation activation = world_activation("late");
    activation.retry_state.on_attempts_exceeded = ON_ATTEMPTS_EXCEEDED_DEADLETTER;
    activation.has_expires = true;
    activation.expires = 10;
    world_record(world, 0, &activation);
    world_settle(world);
    world_pass(world, 11000);
    world_settle(world); /* nobody came for it */
    world_record(world, 1, &activation);
    world_settle(world);
    assert_counter(world, "upkeep.cleanup_action", "removed_expired", 1);
    assert_counter(world, "filter.expired_at_consumer", world->source_options.topic, 1);
    assert_int_equal(world->record_count, 0);
    assert_int_equal(world_counts(world).tasks, 0);
}

/* Spec 13: 5, kept as it is: neither their failure nor that of their retry makes a dead letter. */
static void test_weakness_05_raw_tasks_are_discarded_and_counted(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_raw_record(world, 0, "event");
    world_raw_record(world, 1, "event");
    world_settle(world);
    for (int i = 0; i < 2; i++) {
        struct test_call *claim = world_claim(world);
        assert_int_equal(world_turn(world), 0);
        assert_int_equal(claim->status, GRPC_OK);
        struct test_call *report =
            world_report(world, claim->id, i ? ACTIVATION_RETRY : ACTIVATION_FAILURE);
        report->call.status.has_max_attempts = i;
        report->call.status.max_attempts = 2;
        world_settle(world);
    }
    assert_counter(world, "upkeep.cleanup_action", "delete_discarded", 1);
    assert_int_equal(world->record_count, 1); /* the retry */
    world_deliver(world, 0, TOPIC_DELIVERED);
    struct blob *retry = blob_copy(buf_bytes(&world->records[0].payload));
    world_record_at(world, 0, 2, retry);
    world_settle(world);
    struct test_call *claim = world_claim(world);
    assert_int_equal(world_turn(world), 0);
    world_report(world, claim->id, ACTIVATION_FAILURE);
    world_settle(world);
    assert_counter(world, "upkeep.cleanup_action", "delete_discarded", 2);
    assert_counter(world, "upkeep.cleanup_action", "publish_deadlettered", 0);
    assert_int_equal(world->record_count, 1);
    assert_int_equal(world_counts(world).tasks, 0);
}

/* Spec 13: 11, INV-6: who comes too late changes nothing, except that a task that was done is. */
static void test_weakness_11_late_reports_are_ignored_and_counted(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    world_settle(world);
    world_expect_claim(world, "a");
    world_pass(world, 1000000);
    world_settle(world);
    assert_counter(world, "upkeep.cleanup_action", "processing_deadline_exceeded", 1);
    world_report(world, "a", ACTIVATION_RETRY);
    world_report(world, "a", ACTIVATION_FAILURE);
    world_settle(world);
    assert_counter(world, "grpc_server.set_status", "ignored,Retry", 1);
    assert_counter(world, "grpc_server.set_status", "ignored,Failure", 1);
    assert_int_equal(world_task(world, "a")->state, TASK_PENDING);
    world_report(world, "a", ACTIVATION_COMPLETE);
    world_settle(world);
    assert_counter(world, "upkeep.task.state_transition", "completed", 1);
    world_report(world, "a", ACTIVATION_RETRY); /* the original published it again */
    world_settle(world);
    assert_counter(world, "grpc_server.set_status", "not_found,Retry", 1);
    assert_int_equal(world->record_count, 0);
}

/* Spec 13: 33, kept as it is: the worker decides how often; each retry is counted. */
static void test_weakness_33_retries_beyond_max_attempts_are_counted(void **state)
{
    struct world *world = WORLD(state);
    struct activation activation = world_activation("a");
    activation.retry_state.attempts = 7;
    activation.retry_state.max_attempts = 3;
    world_start(world);
    world_record(world, 0, &activation);
    activation = world_activation("b");
    activation.retry_state = (struct retry_state){0};
    world_record(world, 1, &activation);
    world_settle(world);
    world_expect_claim(world, "a");
    world_expect_claim(world, "b");
    world_report(world, "a", ACTIVATION_RETRY);
    world_report(world, "b", ACTIVATION_RETRY);
    world_settle(world);
    assert_int_equal(world->record_count, 2);
    for (size_t i = 0; i < 2; i++) {
        assert_string_equal(world->records[i].topic, "retries");
        world_deliver(world, i, TOPIC_DELIVERED);
    }
    world_settle(world);
    assert_counter(world, "upkeep.task.state_transition", "retried", 2);
}

static void a_batch_tells_what_changed_nothing(void **state)
{
    static const char *const ids[] = {"a", "nobody"};
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    world_settle(world);
    world_expect_claim(world, "a");
    world_batch(world, ids, 2, ACTIVATION_COMPLETE);
    world_settle(world);
    const char *batch = "grpc_server.set_batch_activation_status";
    char name[128];
    snprintf(name, sizeof name, "%s.total_updates_received", batch);
    assert_counter(world, name, "", 2);
    snprintf(name, sizeof name, "%s.batch_size", batch);
    assert_int_equal(seek(world, name, "Complete").sum, 2);
    snprintf(name, sizeof name, "%s.affected_diff", batch);
    assert_int_equal(seek(world, name, "Complete").sum, 1);
    snprintf(name, sizeof name, "%s.partial", batch);
    assert_int_equal(seek(world, name, "Complete").sum, 1);
    assert_false(seek(world, name, "Failure").found);
    assert_counter(world, "grpc_server.set_status", "ok,Complete", 0);
}

static void intake_is_counted_by_topic(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    const char *topic = world->source_options.topic;
    struct activation expired = world_activation("late");
    expired.has_expires = true;
    expired.expires = 0;
    world_task_at(world, 0, "a");
    world_task_at(world, 1, "b");
    world_record(world, 2, &expired);
    world_record_at(world, 0, 3, NULL);
    world_settle(world);
    struct sought rows = seek(world, "consumer.batch_rows", topic);
    assert_int_equal(rows.sum, 4);
    assert_counter(world, "consumer.inflight_activation_writer.stored", topic, 2);
    assert_counter(world, "filter.expired_at_consumer", topic, 1);
    assert_counter(world, "intake.dead_lettered", "", 1);
    assert_int_equal(seek(world, "consumer.inflight_activation_writer.insert_lag", topic).count, 1);
    assert_int_equal(seek(world, "outbox.entries", "").sum, 1);
    assert_int_equal(seek(world, "upkeep.current_pending_tasks", "taskworker,-1").sum, 2);
}

static void partitions_come_and_go(void **state)
{
    struct world *world = WORLD(state);
    world_start(world); /* assigns partition 0 */
    const char *topic = world->source_options.topic;
    world_assign(world, 1, 0, -1, "");
    world_assign(world, 1, 0, -1, ""); /* again, without a revoke */
    world_settle(world);
    assert_int_equal(seek(world, "arroyo.consumer.current_partitions", topic).sum, 2);
    world_revoke(world, 0);
    world_settle(world);
    assert_int_equal(seek(world, "arroyo.consumer.current_partitions", topic).sum, 1);
    assert_counter(world, "arroyo.consumer.partitions_assigned.count", topic, 3);
    assert_counter(world, "arroyo.consumer.partitions_revoked.count", topic, 1);
}

static void back_pressure_has_a_reason(void **state)
{
    struct world *world = WORLD(state);
    world->options.limits.pending_max = 2;
    world->options.meter.period_ms = 1000;
    world_start(world);
    char tags[64];
    snprintf(tags, sizeof tags, "%s,pending_limit", world->source_options.topic);
    const char *name = "consumer.inflight_activation_writer.backpressure";
    assert_counter(world, name, tags, 0);
    world_task_at(world, 0, "a");
    world_task_at(world, 1, "b");
    world_settle(world);
    assert_counter(world, name, tags, 1);
    assert_counter(world, name, tags, 1); /* not for each look */
    world_pass(world, 1000);
    assert_counter(world, name, tags, 2); /* but once a period */
    world_expect_claim(world, "a");
    world_pass(world, 1000);
    assert_counter(world, name, tags, 2);
}

static void times_are_charged_to_kinds_of_work(void **state)
{
    struct world *world = WORLD(state);
    world->options.meter.clock_us = ticking_clock;
    world->options.meter.period_ms = 1000;
    world_start(world);
    world_pass(world, 1000);
    seek(world, "", ""); /* the end of a period */
    world_task_at(world, 0, "a");
    world_settle(world);
    world_expect_claim(world, "a");
    world_report(world, "a", ACTIVATION_COMPLETE);
    world_settle(world);
    assert_int_equal(seek(world, "upkeep.remove_completed", "").sum, 0); /* not over yet */
    world_pass(world, 1000);
    assert_true(seek(world, "upkeep.remove_completed", "").sum >= 1000);
    assert_int_equal(seek(world, "upkeep.handle_retries", "").sum, 0);
    assert_int_equal(seek(world, "upkeep.handle_processing_deadline", "").sum, 0);
    assert_int_equal(seek(world, "upkeep.duration", "").sum,
                     seek(world, "upkeep.remove_completed", "").sum);
    assert_int_equal(seek(world, "upkeep.duration", "").count, 2); /* periods */
    uint64_t busy = seek(world, "runtime.worker_utilization", "").sum;
    assert_in_range(busy, 1, 1000000);
}

static void timers_are_charged_by_what_they_are(void **state)
{
    struct world *world = WORLD(state);
    world->options.meter.clock_us = ticking_clock;
    world->options.meter.period_ms = 1;
    world_start(world);
    struct activation delayed = world_activation("d");
    delayed.has_delay = true;
    delayed.delay = 5;
    world_record(world, 0, &delayed);
    world_settle(world);
    world_pass(world, 6000);
    world_settle(world);
    assert_counter(world, "upkeep.cleanup_action", "mark_delay_elapsed_as_pending", 1);
    assert_true(seek(world, "upkeep.handle_delay_until", "").sum >= 1000);
    assert_int_equal(seek(world, "upkeep.handle_expires_at", "").sum, 0);
}

/* A call that waited for a task took only as long as we let it wait once the task was there. */
static void waiting_for_a_task_is_not_our_time(void **state)
{
    struct world *world = WORLD(state);
    world->options.meter.clock_us = ticking_clock;
    world_start(world);
    struct test_call *held = world_claim(world);
    held->call.started_us = test_clock_us + 1;
    assert_int_equal(world_turn(world), 0);
    test_clock_us += 4000000;
    world_task_at(world, 0, "a");
    world_settle(world);
    assert_string_equal(held->id, "a");
    struct sought took = seek(world, "grpc_server.get_task.duration", "");
    assert_int_equal(took.count, 1);
    assert_in_range(took.sum, 1000, 1000000);
}

static void without_a_clock_no_time_is_invented(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    world_settle(world);
    world_expect_claim(world, "a");
    world_pass(world, 100000);
    assert_int_equal(seek(world, "upkeep.duration", "").count, 0);
    assert_int_equal(seek(world, "grpc_server.get_task.duration", "").count, 0);
    assert_false(seek(world, "runtime.worker_utilization", "").found);
    assert_false(seek(world, "sqlite.db.cache_used_bytes", "").found);
}

static void sqlites_counters_are_read(void **state)
{
    struct world *world = WORLD(state);
    world->options.meter.store_status = true;
    world_start(world);
    world_pass(world, 2000);
    assert_true(seek(world, "sqlite.db.cache_used_bytes", "").sum > 0);
    assert_true(seek(world, "sqlite.db.stmt_used_bytes", "").sum > 0);
    assert_true(seek(world, "upkeep.db_file_size.bytes", "").sum > 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(ends_are_counted_once),
        TEST(test_weakness_01_a_failed_dead_letter_keeps_its_row),
        TEST(test_weakness_04_expired_tasks_are_dropped_and_counted),
        TEST(test_weakness_05_raw_tasks_are_discarded_and_counted),
        TEST(test_weakness_11_late_reports_are_ignored_and_counted),
        TEST(test_weakness_33_retries_beyond_max_attempts_are_counted),
        TEST(a_batch_tells_what_changed_nothing),
        TEST(intake_is_counted_by_topic),
        TEST(partitions_come_and_go),
        TEST(back_pressure_has_a_reason),
        TEST(times_are_charged_to_kinds_of_work),
        TEST(timers_are_charged_by_what_they_are),
        TEST(waiting_for_a_task_is_not_our_time),
        TEST(without_a_clock_no_time_is_invented),
        TEST(sqlites_counters_are_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
