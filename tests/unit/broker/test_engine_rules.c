/* SPDX-License-Identifier: Apache-2.0 */
/* Killswitch and demotion: at intake, over stored rows in every state, and from one set of rules to
 * the next. */
#include "world.h"

#include <stdio.h>

#include "wire/params.h"

#define TEST(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)

/* --- rules ------------------------------------------------------------------------------------ */

static struct engine_rules *rules_of(const char *killswitch, const char *namespaces)
{
    struct config_warnings warnings = {0};
    struct buf text = {0};
    struct err_text why;
    struct engine_rules *rules = engine_event_new(EVENT_RULES, sizeof *rules);
    buf_printf(&text, "drop_task_killswitch: [%s]\ndemoted_namespaces: [%s]\n", killswitch,
               namespaces);
    if (runtime_parse(&rules->runtime, "r.yml", buf_bytes(&text), &warnings, &why))
        fail_msg("%s", why.s);
    buf_free(&text);
    config_warnings_free(&warnings);
    rules->forwards = true;
    rules->forward_topic = mem_strdup("long");
    return rules;
}

static void post_rules(struct world *world, const char *killswitch, const char *namespaces)
{
    world_post(world, &rules_of(killswitch, namespaces)->event);
}

static void post_no_rules(struct world *world)
{
    post_rules(world, "", "");
}

static int64_t rows(struct world *world)
{
    return world_sql_int(world, "SELECT count(*) FROM inflight_taskactivations");
}

static int64_t outbox_rows(struct world *world)
{
    return world_sql_int(world, "SELECT count(*) FROM taskmill_outbox");
}

/* A task whose arguments are (n,). */
static void post_with_arg(struct world *world, int64_t offset, const char *id, uint64_t n)
{
    struct activation activation = world_activation(id);
    struct buf parameters = {0};
    msgpack_put_map(&parameters, 1);
    msgpack_put_str(&parameters, bytes_str("args"));
    msgpack_put_array(&parameters, 1);
    msgpack_put_uint(&parameters, n);
    activation.parameters_bytes = buf_bytes(&parameters);
    world_record(world, offset, &activation);
    buf_free(&parameters);
}

static void post_delayed(struct world *world, int64_t offset, const char *id)
{
    struct activation activation = world_activation(id);
    activation.has_delay = true;
    activation.delay = 100;
    world_record(world, offset, &activation);
}

static void post_at_most_once(struct world *world, int64_t offset, const char *id)
{
    struct activation activation = world_activation(id);
    activation.retry_state.has_at_most_once = true;
    activation.retry_state.at_most_once = true;
    world_record(world, offset, &activation);
}

static int64_t last_offset(const struct world *world)
{
    return world->commit_count ? world->commits[world->commit_count - 1].next_offset : -1;
}

/* --- killswitch at intake --------------------------------------------------------------------- */

static void a_killed_record_frees_its_offset(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    post_rules(world, "ns.task", "");
    world_task_at(world, 0, "a");
    world_task_at(world, 1, "b");
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(rows(world), 0);
    assert_int_equal(last_offset(world), 2);
    assert_int_equal(world_stats(world).killed_at_intake, 2);
    world_expect_no_task(world);
}

static void a_selector_drops_what_it_names(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    post_rules(world, "other, {name: ns.task, select_arg: {0: 7}}", "");
    post_with_arg(world, 0, "a", 7);
    post_with_arg(world, 1, "b", 8);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_stats(world).killed_at_intake, 1);
    world_expect_claim(world, "b");
}

/* --- killswitch over stored rows -------------------------------------------------------------- */

static void rows_of_every_state_are_purged(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "processing");
    world_expect_claim(world, "processing");
    world_task_at(world, 1, "retry");
    world_expect_claim(world, "retry");
    world->produce_code = ERR_FULL; /* its record goes nowhere yet */
    world_report(world, "retry", ACTIVATION_RETRY);
    world_settle(world);
    world_task_at(world, 2, "pending");
    post_delayed(world, 3, "delay");
    post_at_most_once(world, 4, "waiting");
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(rows(world), 5);
    post_rules(world, "ns.task", "");
    world_settle(world);
    assert_int_equal(rows(world), 0);
    assert_int_equal(world_counts(world).killed, 5);
    assert_int_equal(world_counts(world).tasks, 0);
    /* A report that comes later is for nobody. */
    struct test_call *report = world_report(world, "processing", ACTIVATION_COMPLETE);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(report->status, GRPC_OK);
    assert_int_equal(world_counts(world).reports[REPORT_UNKNOWN_ID], 1);
    world_crash(world, CRASH_POWER);
    assert_int_equal(world_counts(world).tasks, 0);
}

/* Also of a row whose payload is not in memory. */
static void stored_rows_are_selected_by_their_arguments(void **state)
{
    struct world *world = WORLD(state);
    world->options.limits.blob_cache_bytes = 0;
    world_start(world);
    post_with_arg(world, 0, "a", 7);
    post_with_arg(world, 1, "b", 8);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_counts(world).payload_bytes_cached, 0);
    post_rules(world, "{name: ns.task, select_arg: {0: 7}}", "");
    world_settle(world);
    assert_int_equal(world_counts(world).killed, 1);
    world_expect_claim(world, "b");
}

/* The record is with the producer: it may be in its topic already. */
static void a_handed_row_waits_for_its_report(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    world_expect_claim(world, "a");
    world_report(world, "a", ACTIVATION_RETRY);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->record_count, 1);
    post_rules(world, "ns.task", "");
    world_settle(world);
    assert_int_equal(rows(world), 1);
    world_deliver(world, 0, TOPIC_FAILED);
    world_settle(world);
    assert_int_equal(rows(world), 0);
    assert_int_equal(world_counts(world).killed, 1);
    assert_int_equal(world->record_count, 1); /* not asked for again */
}

static void a_handed_row_that_is_delivered_has_left(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    world_expect_claim(world, "a");
    world_report(world, "a", ACTIVATION_RETRY);
    assert_int_equal(world_turn(world), 0);
    post_rules(world, "ns.task", "");
    world_deliver(world, 0, TOPIC_DELIVERED);
    world_settle(world);
    assert_int_equal(world_counts(world).retried, 1);
    assert_int_equal(world_counts(world).killed, 0);
    /* The retried copy meets the rules when it comes back. */
    world_record_at(world, 0, 1, blob_copy(buf_bytes(&world->records[0].payload)));
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_stats(world).killed_at_intake, 1);
    assert_int_equal(rows(world), 0);
}

/* It may have run: a replay of its id must not. */
static void a_killed_at_most_once_task_is_remembered(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    post_at_most_once(world, 0, "a");
    assert_int_equal(world_turn(world), 0);
    world_committed(world, 0, 1);
    world_settle(world);
    world_expect_claim(world, "a");
    post_rules(world, "ns.task", "");
    world_settle(world);
    assert_int_equal(rows(world), 0);
    post_no_rules(world);
    post_at_most_once(world, 1, "a");
    world_settle(world);
    assert_int_equal(world_stats(world).done_dropped, 1);
    assert_int_equal(rows(world), 0);
}

/* A claim of the same turn gets nothing. */
static void a_task_killed_in_the_turn_of_its_claim(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    assert_int_equal(world_turn(world), 0);
    struct test_call *claim = world_claim(world);
    post_rules(world, "ns.task", "");
    world_settle(world);
    assert_true(claim->replied);
    assert_int_equal(claim->status, GRPC_NOT_FOUND);
    assert_int_equal(rows(world), 0);
}

static void post_many(struct world *world, int count)
{
    for (int i = 0; i < count; i++) {
        char id[32];
        snprintf(id, sizeof id, "t%d", i);
        world_task_at(world, i, id);
    }
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(rows(world), count);
}

static void a_purge_takes_some_rows_each_turn(void **state)
{
    struct world *world = WORLD(state);
    world->options.limits.pending_max = 5000;
    world_start(world);
    post_many(world, 2500);
    post_rules(world, "ns.task", "");
    assert_int_equal(world_turn(world), 0);
    int64_t left = rows(world);
    assert_true(left > 0 && left < 2500);
    assert_int_equal(engine_next_ms(world->engine), world->now_ms);
    world_settle(world);
    assert_int_equal(rows(world), 0);
}

static void a_change_in_the_middle_of_a_purge(void **state)
{
    struct world *world = WORLD(state);
    world->options.limits.pending_max = 5000;
    world_start(world);
    post_many(world, 2500);
    post_rules(world, "ns.task", "");
    assert_int_equal(world_turn(world), 0);
    int64_t left = rows(world);
    post_no_rules(world);
    world_settle(world);
    assert_int_equal(rows(world), left);
    assert_int_equal(world_counts(world).killed, 2500 - left);
}

/* How operators get out of a full store. */
static void a_purge_reopens_a_blocked_intake(void **state)
{
    struct world *world = WORLD(state);
    world->options.limits.pending_max = 10;
    world_start(world);
    post_many(world, 10);
    assert_int_equal(world_stats(world).block, BLOCK_PENDING);
    assert_int_equal(gate_take(engine_gate(world->engine), 5), 0);
    post_rules(world, "ns.task", "");
    world_settle(world);
    assert_int_equal(world_stats(world).block, BLOCK_NONE);
    assert_int_equal(gate_take(engine_gate(world->engine), 5), 5);
}

/* --- demotion --------------------------------------------------------------------------------- */

static void a_demoted_record_leaves_through_the_outbox(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    post_rules(world, "", "ns");
    struct activation activation = world_activation("a");
    struct blob *payload = world_payload(&activation);
    world_record_at(world, 0, 0, blob_ref(payload));
    uint64_t commits = world_stats(world).commits;
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(rows(world), 0);
    assert_int_equal(outbox_rows(world), 1);
    assert_int_equal(last_offset(world), 1);
    assert_int_equal(world_stats(world).forwarded_at_intake, 1);
    assert_int_equal(world->record_count, 1);
    const struct test_record *record = &world->records[0];
    assert_int_equal(record->commits, commits + 1); /* durable before */
    assert_string_equal(record->topic, "long");
    assert_string_equal(record->headers, "");
    assert_true(bytes_equal(buf_bytes(&record->payload), blob_bytes(payload)));
    blob_unref(payload);
    world_deliver(world, 0, TOPIC_DELIVERED);
    world_settle(world);
    assert_int_equal(outbox_rows(world), 0);
}

static void stored_rows_that_wait_are_forwarded(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "running");
    world_expect_claim(world, "running");
    world_task_at(world, 1, "pending");
    post_delayed(world, 2, "delay");
    assert_int_equal(world_turn(world), 0);
    post_rules(world, "", "other, ns");
    uint64_t commits = world_stats(world).commits;
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_stats(world).commits, commits + 1); /* row and entry: one transaction */
    assert_int_equal(rows(world), 1);
    assert_int_equal(outbox_rows(world), 2);
    assert_int_equal(world_counts(world).forwarded, 2);
    assert_int_equal(world->record_count, 2);
    /* The one with a worker ends there. */
    world_report(world, "running", ACTIVATION_COMPLETE);
    world_settle(world);
    assert_int_equal(rows(world), 0);
    assert_int_equal(world_counts(world).completed, 1);
}

/* Even when a worker waits for it. */
static void a_row_that_comes_back_later_is_forwarded(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    world_expect_claim(world, "a");
    post_rules(world, "", "ns");
    world_settle(world);
    assert_int_equal(rows(world), 1);
    world_pass(world, 10000 + GRACE - 1000);
    struct test_call *claim = world_claim(world);
    assert_int_equal(world_turn(world), 0);
    world_pass(world, 1000);
    world_settle(world);
    assert_false(claim->replied);
    assert_int_equal(rows(world), 0);
    assert_int_equal(outbox_rows(world), 1);
    assert_int_equal(world_counts(world).forwarded, 1);
}

static void a_crash_after_the_commit_publishes_again(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    assert_int_equal(world_turn(world), 0);
    struct engine_rules *rules = rules_of("", "ns");
    rules->forward_cluster = mem_strdup("far:9092");
    world_post(world, &rules->event);
    assert_int_equal(world_turn(world), 0);
    world_crash(world, CRASH_POWER);
    assert_int_equal(rows(world), 0);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->record_count, 1);
    assert_string_equal(world->records[0].topic, "long");
    assert_string_equal(world->records[0].cluster, "far:9092");
    world_deliver(world, 0, TOPIC_DELIVERED);
    world_settle(world);
    assert_int_equal(outbox_rows(world), 0);
}

/* A cluster that cannot be used now: the entry stays, and is tried again with back-off. */
static void a_forward_that_fails_stays(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world->no_forward_sink = true;
    struct engine_rules *rules = rules_of("", "ns");
    rules->forward_cluster = mem_strdup("far:9092");
    world_post(world, &rules->event);
    world_task_at(world, 0, "a");
    world_settle(world);
    assert_int_equal(world->record_count, 0);
    assert_int_equal(outbox_rows(world), 1);
    assert_int_equal(engine_next_ms(world->engine), world->now_ms + 100);
    world->no_forward_sink = false;
    world_pass(world, 100);
    world_settle(world);
    assert_int_equal(world->record_count, 1);
    world_deliver(world, 0, TOPIC_IMPOSSIBLE); /* no notice: an empty activation is no task */
    world_settle(world);
    assert_int_equal(world->record_count, 1);
    assert_int_equal(outbox_rows(world), 1);
    world_pass(world, 300000);
    world_settle(world);
    assert_int_equal(world->record_count, 2);
    assert_true(world->records[1].payload.len > 0);
}

/* The topic takes nothing: intake goes on, but not for ever. */
static void a_full_outbox_stops_intake(void **state)
{
    struct world *world = WORLD(state);
    world->options.limits.outbox_max = 2;
    world_start(world);
    post_rules(world, "", "ns");
    world_task_at(world, 0, "a");
    world_settle(world);
    assert_int_equal(world_stats(world).block, BLOCK_NONE);
    world_task_at(world, 1, "b");
    world_settle(world);
    assert_int_equal(world_stats(world).block, BLOCK_OUTBOX);
    assert_string_equal(engine_block_name(BLOCK_OUTBOX), "outbox_limit");
    assert_int_equal(gate_take(engine_gate(world->engine), 1), 0);
    world_deliver(world, 0, TOPIC_DELIVERED);
    world_settle(world);
    assert_int_equal(world_stats(world).block, BLOCK_NONE);
    assert_int_equal(gate_take(engine_gate(world->engine), 1), 1);
}

static void demoted_tasks_stay_when_their_topic_is_consumed_here(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    struct engine_rules *rules = rules_of("", "ns");
    rules->forwards = false;
    world_post(world, &rules->event);
    world_task_at(world, 0, "a");
    world_settle(world);
    assert_int_equal(world_stats(world).kept_demoted, 1);
    world_expect_claim(world, "a");
}

/* Forwarded, it could be published, and so run, twice. */
static void at_most_once_tasks_stay(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    post_at_most_once(world, 0, "a");
    assert_int_equal(world_turn(world), 0);
    post_rules(world, "", "ns");
    post_at_most_once(world, 1, "b");
    world_settle(world);
    assert_int_equal(rows(world), 2);
    assert_int_equal(outbox_rows(world), 0);
    assert_int_equal(world_stats(world).kept_demoted, 1);
    world_committed(world, 0, 2);
    world_settle(world);
    world_expect_claim(world, "a");
    world_expect_claim(world, "b");
}

static void copies_of_a_living_task_are_not_forwarded(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_task_at(world, 0, "a");
    world_expect_claim(world, "a");
    post_rules(world, "", "ns");
    world_task_at(world, 1, "a");
    world_settle(world);
    assert_int_equal(outbox_rows(world), 0);
    assert_int_equal(world_counts(world).duplicates, 1);
}

static void killed_comes_before_demoted_and_expired(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    struct activation activation = world_activation("a");
    activation.has_expires = true;
    activation.expires = 0;
    post_rules(world, "ns.task", "ns");
    world_record(world, 0, &activation);
    world_settle(world);
    assert_int_equal(world_stats(world).killed_at_intake, 1);
    post_rules(world, "", "ns");
    world_record(world, 1, &activation);
    world_settle(world);
    assert_int_equal(world_stats(world).expired_at_intake, 1);
    assert_int_equal(outbox_rows(world), 0);
}

static void a_demotion_that_ends_leaves_the_rest(void **state)
{
    struct world *world = WORLD(state);
    world->options.limits.pending_max = 5000;
    world_start(world);
    post_many(world, 2500);
    world->produce_code = ERR_FULL;
    post_rules(world, "", "ns");
    assert_int_equal(world_turn(world), 0);
    int64_t left = rows(world), gone = outbox_rows(world);
    assert_int_equal(left + gone, 2500);
    assert_true(left > 0 && gone > 0);
    assert_true(inflight_first_barred(world->engine->inflight) != NULL);
    post_no_rules(world);
    world_settle(world);
    assert_int_equal(rows(world), left);
    assert_null(inflight_first_barred(world->engine->inflight));
    char next[32];
    snprintf(next, sizeof next, "t%d", (int)gone);
    world_expect_claim(world, next);
}

/* Gathered under rules that are gone: looked at again, however many stand before them. */
static void what_was_gathered_obeys_the_new_rules(void **state)
{
    struct world *world = WORLD(state);
    world->options.limits.pending_max = 20000;
    world_start(world);
    for (int i = 0; i < 12000; i++) {
        char id[32];
        snprintf(id, sizeof id, "t%d", i);
        world_task_at(world, i, id);
    }
    world_settle(world);
    world->produce_code = ERR_FULL;
    post_rules(world, "", "ns");
    for (int i = 0; i < 3; i++)
        assert_int_equal(world_turn(world), 0);
    int64_t left = rows(world);
    assert_true(left > 8192 && left < 12000);
    struct engine_rules *rules = rules_of("other", "ns");
    rules->forwards = false;
    world_post(world, &rules->event);
    world_settle(world);
    assert_int_equal(rows(world), left);
    assert_null(inflight_first_barred(world->engine->inflight));
    post_rules(world, "", "ns");
    for (int i = 0; i < 3; i++)
        assert_int_equal(world_turn(world), 0);
    int64_t forwarded = (int64_t)world_counts(world).forwarded;
    post_rules(world, "ns.task", "ns");
    world_settle(world);
    assert_int_equal(world_counts(world).forwarded, forwarded); /* killed comes before demoted */
    assert_int_equal(rows(world), 0);
}

/* --- tasks of the broker's own ---------------------------------------------------------------- */

static void a_task_put_in_by_hand(void **state)
{
    struct world *world = WORLD(state);
    world->options.limits.pending_max = 1;
    world_start(world);
    for (int i = 0; i < 3; i++) {
        char id[8];
        snprintf(id, sizeof id, "c%d", i);
        struct activation activation = world_activation(id);
        struct blob *payload = world_payload(&activation);
        engine_add_task(world->engine, payload, i);
        blob_unref(payload);
    }
    assert_int_equal(world_turn(world), 0);
    world_crash(world, CRASH_POWER);
    assert_int_equal(world_counts(world).tasks, 3);
    assert_int_equal(world_sql_int(world, "SELECT max(\"offset\") FROM inflight_taskactivations "
                                          "WHERE partition = 0 AND status = 'Pending'"),
                     2);
    assert_int_equal(world->commit_count, 0); /* no offset moves by it */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_killed_record_frees_its_offset),
        TEST(a_selector_drops_what_it_names),
        TEST(rows_of_every_state_are_purged),
        TEST(stored_rows_are_selected_by_their_arguments),
        TEST(a_handed_row_waits_for_its_report),
        TEST(a_handed_row_that_is_delivered_has_left),
        TEST(a_killed_at_most_once_task_is_remembered),
        TEST(a_task_killed_in_the_turn_of_its_claim),
        TEST(a_purge_takes_some_rows_each_turn),
        TEST(a_change_in_the_middle_of_a_purge),
        TEST(a_purge_reopens_a_blocked_intake),
        TEST(a_demoted_record_leaves_through_the_outbox),
        TEST(stored_rows_that_wait_are_forwarded),
        TEST(a_row_that_comes_back_later_is_forwarded),
        TEST(a_crash_after_the_commit_publishes_again),
        TEST(a_forward_that_fails_stays),
        TEST(a_full_outbox_stops_intake),
        TEST(demoted_tasks_stay_when_their_topic_is_consumed_here),
        TEST(at_most_once_tasks_stay),
        TEST(copies_of_a_living_task_are_not_forwarded),
        TEST(killed_comes_before_demoted_and_expired),
        TEST(a_demotion_that_ends_leaves_the_rest),
        TEST(what_was_gathered_obeys_the_new_rules),
        TEST(a_task_put_in_by_hand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
