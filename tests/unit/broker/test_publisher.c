/* SPDX-License-Identifier: Apache-2.0 */
/* Retries, dead letters, the outbox: what goes out, when, and what stays until it has arrived. */
#include "world.h"

#include <stdio.h>

#include "wire/ident.h"

#define TEST(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)

/* Task "a" is with a worker. */
static void start_claimed(struct world *world, const struct activation *activation)
{
    world_start(world);
    world_record(world, 0, activation);
    world_expect_claim(world, "a");
}

static void start_plain(struct world *world)
{
    struct activation activation = world_activation("a");
    start_claimed(world, &activation);
}

static struct activation parsed(const struct test_record *record)
{
    struct activation activation;
    const char *why;
    assert_int_equal(activation_parse(buf_bytes(&record->payload), &activation, &why), 0);
    return activation;
}

static int64_t rows(struct world *world)
{
    return world_sql_int(world, "SELECT count(*) FROM inflight_taskactivations");
}

/* --- retries ---------------------------------------------------------------------------------- */

static void a_retry_is_rewritten_and_its_row_waits(void **state)
{
    struct world *world = WORLD(state);
    struct activation activation = world_activation("a");
    activation.retry_state.attempts = 4;
    activation.retry_state.has_delay_on_retry = true;
    activation.retry_state.delay_on_retry = 7;
    activation.has_expires = true;
    activation.expires = 1000;
    start_claimed(world, &activation);
    world_pass(world, 2345);
    world_report(world, "a", ACTIVATION_RETRY);
    uint64_t commits = world_stats(world).commits;
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->record_count, 1);
    assert_int_equal(world->records[0].commits, commits + 1); /* its state is durable before */
    assert_string_equal(world->records[0].topic, "retries");

    struct activation retry = parsed(&world->records[0]);
    char id[IDENT_DASHED_LEN + 1];
    ident_retry(id, bytes_str("a"), 4);
    assert_true(bytes_equal_str(retry.id, id));
    assert_int_equal(retry.retry_state.attempts, 5);
    assert_true(retry.has_delay);
    assert_int_equal(retry.delay, 7);
    assert_int_equal(retry.received_at_s, world->wall_ms / 1000);
    assert_int_equal(retry.received_at_ns, world->wall_ms % 1000 * 1000000);
    assert_true(bytes_equal_str(retry.taskname, "ns.task"));
    assert_int_equal(retry.expires, 1000);

    assert_int_equal(rows(world), 1);
    world_deliver(world, 0, TOPIC_DELIVERED);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(rows(world), 0);
    assert_int_equal(world_counts(world).retried, 1);
}

/* Spec 13: 8: whether the report was lost or the broker, the retry goes out again under one id. */
static void test_weakness_08_a_repeated_retry_keeps_its_id(void **state)
{
    struct world *world = WORLD(state);
    char id[IDENT_DASHED_LEN + 1];
    ident_retry(id, bytes_str("a"), 0);
    start_plain(world);
    world_report(world, "a", ACTIVATION_RETRY);
    assert_int_equal(world_turn(world), 0);
    world_deliver(world, 0, TOPIC_FAILED); /* it says: it may be there all the same */
    assert_int_equal(world_turn(world), 0);
    world_pass(world, 100);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->record_count, 2);
    for (size_t i = 0; i < 2; i++)
        assert_true(bytes_equal_str(parsed(&world->records[i]).id, id));
    world_crash(world, CRASH_POWER);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->record_count, 1);
    assert_true(bytes_equal_str(parsed(&world->records[0]).id, id));

    struct blob *twice = blob_copy(buf_bytes(&world->records[0].payload));
    world_assign(world, 0, 1, 1, "");
    world_record_at(world, 0, 1, blob_ref(twice)); /* both copies come in: one task */
    world_record_at(world, 0, 2, twice);
    world_pass(world, 60000); /* past its delay */
    world_settle(world);
    assert_int_equal(world_counts(world).duplicates, 1);
    world_expect_claim(world, id);
    world_expect_no_task(world);
}

/* The worker's own wishes go into the stored payload and, through it, into the retry. */
static void a_retry_with_wishes(void **state)
{
    struct world *world = WORLD(state);
    start_plain(world);
    struct test_call *report = world_report(world, "a", ACTIVATION_RETRY);
    report->call.status.has_max_attempts = true;
    report->call.status.max_attempts = 9;
    report->call.status.has_delay_on_retry = true;
    report->call.status.delay_on_retry = 11;
    assert_int_equal(world_turn(world), 0);
    struct activation retry = parsed(&world->records[0]);
    assert_int_equal(retry.retry_state.max_attempts, 9);
    assert_int_equal(retry.retry_state.delay_on_retry, 11);
    assert_int_equal(retry.delay, 11);
    world_crash(world, CRASH_POWER); /* before its report: it is published again, the same */
    assert_int_equal(world_turn(world), 0);
    struct activation again = parsed(&world->records[0]);
    assert_int_equal(again.retry_state.max_attempts, 9);
    assert_int_equal(again.delay, 11);
}

static void headers_and_unknown_fields_survive(void **state)
{
    struct world *world = WORLD(state);
    struct activation activation = world_activation("a");
    const struct activation_header header = {bytes_str("trace"), bytes_str("123")};
    struct buf payload = {0};
    activation_encode(&activation, &header, 1, &payload);
    buf_append(&payload, "\xf2\x3f\x03xyz", 6); /* field 1022 */
    world_start(world);
    world_record_at(world, 0, 0, blob_copy(buf_bytes(&payload)));
    buf_free(&payload);
    world_expect_claim(world, "a");
    world_report(world, "a", ACTIVATION_RETRY);
    assert_int_equal(world_turn(world), 0);
    struct bytes sent = buf_bytes(&world->records[0].payload);
    assert_non_null(memmem(sent.ptr, sent.len, "\xf2\x3f\x03xyz", 6));
    assert_non_null(memmem(sent.ptr, sent.len, "trace", 5));
}

static void failed_publishes_back_off(void **state)
{
    static const int64_t waits_ms[] = {100, 200, 400, 800};
    struct world *world = WORLD(state);
    start_plain(world);
    world_report(world, "a", ACTIVATION_RETRY);
    assert_int_equal(world_turn(world), 0);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(world->record_count, i + 1);
        world_deliver(world, i, TOPIC_FAILED);
        assert_int_equal(world_turn(world), 0);
        assert_int_equal(engine_next_ms(world->engine), world->now_ms + waits_ms[i]);
        world_pass(world, waits_ms[i] - 1);
        assert_int_equal(world_turn(world), 0);
        assert_int_equal(world->record_count, i + 1);
        world_pass(world, 1);
        assert_int_equal(world_turn(world), 0);
    }
    assert_int_equal(world->record_count, 5);
    assert_int_equal(rows(world), 1);
}

static void a_full_producer_is_tried_again(void **state)
{
    struct world *world = WORLD(state);
    start_plain(world);
    world->produce_code = ERR_FULL;
    world_report(world, "a", ACTIVATION_RETRY);
    world_settle(world);
    assert_int_equal(engine_publishing(world->engine), 0);
    assert_int_equal(engine_next_ms(world->engine), world->now_ms + 100);
    world->produce_code = 0;
    world_pass(world, 100);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->record_count, 1);
}

/* Too large for the topic: dead letter instead; that too large as well: a notice, and the row
 * stays. */
static void the_impossible_becomes_a_notice(void **state)
{
    struct world *world = WORLD(state);
    start_plain(world);
    world_report(world, "a", ACTIVATION_RETRY);
    assert_int_equal(world_turn(world), 0);
    world_deliver(world, 0, TOPIC_IMPOSSIBLE);
    assert_int_equal(world_turn(world), 0);
    assert_string_equal(world->records[1].topic, "dlq");
    assert_string_equal(world->records[1].headers, ""); /* ordinary dead letters are payload only */
    world_deliver(world, 1, TOPIC_IMPOSSIBLE);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->records[2].payload.len, 0);
    assert_true(world_has_header(&world->records[2], "taskmill-id", "a"));
    assert_true(
        world_has_header(&world->records[2], "taskmill-failure", "the retry cannot be published"));
    world_deliver(world, 2, TOPIC_DELIVERED);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(rows(world), 1);
    assert_int_equal(world_counts(world).parked, 1);
    world_pass(world, 300000);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->record_count, 4); /* once more, whole */
    assert_true(world->records[3].payload.len > 0);
}

/* The policy would discard it; what cannot be retried is a dead letter, after a restart too. */
static void a_forced_dead_letter_survives_a_crash(void **state)
{
    struct world *world = WORLD(state);
    struct activation activation = world_activation("a");
    activation.retry_state.on_attempts_exceeded = ON_ATTEMPTS_EXCEEDED_DISCARD;
    start_claimed(world, &activation);
    world_report(world, "a", ACTIVATION_RETRY);
    assert_int_equal(world_turn(world), 0);
    world_deliver(world, 0, TOPIC_IMPOSSIBLE);
    assert_int_equal(world_turn(world), 0);
    assert_string_equal(world->records[1].topic, "dlq");
    world_crash(world, CRASH_POWER);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->record_count, 1);
    assert_string_equal(world->records[0].topic, "dlq");
    assert_int_equal(world_counts(world).discarded, 0);
}

/* --- dead letters ----------------------------------------------------------------------------- */

static void a_dead_letter_is_the_payload_itself(void **state)
{
    struct world *world = WORLD(state);
    struct activation activation = world_activation("a");
    start_claimed(world, &activation);
    world_report(world, "a", ACTIVATION_FAILURE);
    assert_int_equal(world_turn(world), 0);
    struct blob *payload = world_payload(&activation);
    assert_string_equal(world->records[0].topic, "dlq");
    assert_true(bytes_equal(buf_bytes(&world->records[0].payload), blob_bytes(payload)));
    blob_unref(payload);
    world_deliver(world, 0, TOPIC_DELIVERED);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(rows(world), 0);
    assert_int_equal(world_counts(world).deadlettered, 1);
}

static void discarded_by_policy(void **state)
{
    struct world *world = WORLD(state);
    struct activation activation = world_activation("a");
    activation.retry_state.on_attempts_exceeded = ON_ATTEMPTS_EXCEEDED_DISCARD;
    start_claimed(world, &activation);
    world_report(world, "a", ACTIVATION_FAILURE);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->record_count, 0);
    assert_int_equal(rows(world), 0);
}

/* INV-8: a crash between the report and the commit publishes it again, it never loses it. */
static void a_crash_before_the_report_publishes_again(void **state)
{
    struct world *world = WORLD(state);
    start_plain(world);
    world_report(world, "a", ACTIVATION_FAILURE);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->record_count, 1);
    world_crash(world, CRASH_POWER);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->record_count, 1);
    world_deliver(world, 0, TOPIC_DELIVERED);
    assert_int_equal(world_turn(world), 0);
    world_crash(world, CRASH_POWER);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->record_count, 0);
}

/* --- the outbox ------------------------------------------------------------------------------- */

static void garbage_goes_out_with_its_reason(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_record_at(world, 0, 3, blob_copy(bytes_str("\xff garbage")));
    world_record_at(world, 0, 4, NULL);
    uint64_t commits = world_stats(world).commits;
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->record_count, 2);
    struct test_record *record = &world->records[0];
    assert_int_equal(record->commits, commits + 1);
    assert_string_equal(record->topic, "dlq");
    assert_true(bytes_equal_str(buf_bytes(&record->payload), "\xff garbage"));
    assert_true(world_has_header(record, "taskmill-reason", "not a TaskActivation"));
    assert_true(world_has_header(record, "taskmill-cluster", "main"));
    assert_true(world_has_header(record, "taskmill-topic", "tasks"));
    assert_true(world_has_header(record, "taskmill-partition", "0"));
    assert_true(world_has_header(record, "taskmill-offset", "3"));
    assert_true(world_has_header(&world->records[1], "taskmill-reason", "null payload"));
    assert_int_equal(world->commits[0].next_offset, 5); /* free at once */

    assert_int_equal(world_sql_int(world, "SELECT count(*) FROM taskmill_outbox"), 2);
    world_deliver(world, 1, TOPIC_DELIVERED);
    world_settle(world);
    assert_int_equal(world_sql_int(world, "SELECT count(*) FROM taskmill_outbox"), 1);
    assert_int_equal(world_stats(world).outbox, 1);
}

static void the_outbox_survives_and_goes_out_again(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_record_at(world, 0, 3, blob_copy(bytes_str("\xff garbage")));
    assert_int_equal(world_turn(world), 0);
    world_crash(world, CRASH_POWER);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->record_count, 1);
    assert_true(bytes_equal_str(buf_bytes(&world->records[0].payload), "\xff garbage"));
    assert_true(world_has_header(&world->records[0], "taskmill-offset", "3"));
    world_deliver(world, 0, TOPIC_DELIVERED);
    world_assign(world, 0, 4, 4, "");
    world_record_at(world, 0, 4, NULL); /* numbers go on behind what was loaded */
    world_settle(world);
    assert_int_equal(world_sql_int(world, "SELECT count(*) FROM taskmill_outbox"), 1);
}

static void the_outbox_backs_off(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_record_at(world, 0, 0, NULL);
    assert_int_equal(world_turn(world), 0);
    int64_t wait_ms = 100;
    for (size_t i = 0; i < 12; i++) {
        world_deliver(world, i, TOPIC_FAILED);
        assert_int_equal(world_turn(world), 0);
        assert_int_equal(engine_next_ms(world->engine), world->now_ms + wait_ms);
        world_pass(world, wait_ms);
        assert_int_equal(world_turn(world), 0);
        wait_ms = wait_ms * 2 > 30000 ? 30000 : wait_ms * 2;
    }
}

static void an_impossible_outbox_record_is_announced_and_kept(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    world_record_at(world, 0, 0, blob_copy(bytes_str("\xff large")));
    assert_int_equal(world_turn(world), 0);
    world_deliver(world, 0, TOPIC_IMPOSSIBLE);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->record_count, 2);
    assert_int_equal(world->records[1].payload.len, 0);
    world_deliver(world, 1, TOPIC_DELIVERED);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world_sql_int(world, "SELECT count(*) FROM taskmill_outbox"), 1);
    assert_int_equal(engine_next_ms(world->engine), world->now_ms + 300000);
    world_pass(world, 300000);
    assert_int_equal(world_turn(world), 0);
    assert_true(world->records[2].payload.len > 0);
}

static void few_outbox_records_are_under_way(void **state)
{
    struct world *world = WORLD(state);
    world->options.limits.outbox_inflight = 2;
    world_start(world);
    for (int64_t i = 0; i < 5; i++)
        world_record_at(world, 0, i, NULL);
    world_settle(world);
    assert_int_equal(world->record_count, 2);
    world_deliver(world, 0, TOPIC_DELIVERED);
    world_settle(world);
    assert_int_equal(world->record_count, 3);
}

/* A file may hold an entry with any number of headers. */
static void an_entry_with_many_headers(void **state)
{
    struct world *world = WORLD(state);
    world_start(world);
    struct store_header headers[20];
    char keys[20][8];
    for (size_t i = 0; i < 20; i++) {
        snprintf(keys[i], sizeof keys[i], "k%zu", i);
        headers[i] = (struct store_header){bytes_str(keys[i]), bytes_str("v")};
    }
    struct store_outbox entry = {.entry = 1,
                                 .topic = bytes_str("dlq"),
                                 .payload = bytes_str("x"),
                                 .headers = headers,
                                 .header_count = 20};
    assert_int_equal(store_begin(world->store), 0);
    assert_int_equal(store_outbox_add(world->store, &entry), 0);
    assert_int_equal(store_commit(world->store), 0);
    world_crash(world, CRASH_KILL);
    assert_int_equal(world_turn(world), 0);
    assert_int_equal(world->record_count, 1);
    assert_true(world_has_header(&world->records[0], "k19", "v"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_retry_is_rewritten_and_its_row_waits),
        TEST(test_weakness_08_a_repeated_retry_keeps_its_id),
        TEST(a_retry_with_wishes),
        TEST(headers_and_unknown_fields_survive),
        TEST(failed_publishes_back_off),
        TEST(a_full_producer_is_tried_again),
        TEST(the_impossible_becomes_a_notice),
        TEST(a_forced_dead_letter_survives_a_crash),
        TEST(a_dead_letter_is_the_payload_itself),
        TEST(discarded_by_policy),
        TEST(a_crash_before_the_report_publishes_again),
        TEST(garbage_goes_out_with_its_reason),
        TEST(the_outbox_survives_and_goes_out_again),
        TEST(the_outbox_backs_off),
        TEST(an_impossible_outbox_record_is_announced_and_kept),
        TEST(few_outbox_records_are_under_way),
        TEST(an_entry_with_many_headers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
