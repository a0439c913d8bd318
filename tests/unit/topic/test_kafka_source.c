/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/clock.h"
#include "mock.h"

#define LONG_MS 20000

static struct mock mock;
static struct recorder recorder, other;

static int set_up(void **state)
{
    (void)state;
    mock_start(&mock, 1);
    recorder_init(&recorder);
    recorder_init(&other);
    return 0;
}

static void end(struct recorder *r)
{
    if (r->source)
        mock_source_end(r->source);
    r->source = NULL;
}

static int tear_down(void **state)
{
    (void)state;
    end(&recorder); /* a failed test leaves them running */
    end(&other);
    recorder_free(&recorder);
    recorder_free(&other);
    mock_stop(&mock);
    return 0;
}

static void make_topic(int partitions)
{
    assert_int_equal(rd_kafka_mock_topic_create(mock.cluster, "tasks", partitions, 1), 0);
}

static void delivers_records_in_order_with_headers_and_time(void **state)
{
    (void)state;
    make_topic(1);
    int64_t before_ms = clock_wall_ms();
    mock_produce(&mock, "tasks", 0, 0, 1000);
    recorder.credit = 5000;
    mock_source(&mock, "tasks", &recorder);

    assert_true(RECORDER_WAIT(&recorder, recorder.total == 1000, LONG_MS));
    end(&recorder);
    for (int i = 0; i < 1000; i++) {
        char text[64];
        snprintf(text, sizeof(text), "%d", i);
        assert_string_equal(recorder.records[i].payload, text);
        assert_int_equal(recorder.records[i].offset, i);
        assert_int_equal(recorder.records[i].header_count, 1);
        snprintf(text, sizeof(text), "number=%d", i);
        assert_string_equal(recorder.records[i].header, text);
        assert_false(recorder.records[i].tombstone);
        assert_true(recorder.records[i].timestamp_ms >= before_ms);
    }
    assert_int_equal(recorder.credit, 4000);
    assert_int_equal(recorder.credit_taken, 0);
}

static void tells_a_tombstone_from_an_empty_payload(void **state)
{
    char empty[1] = "";

    (void)state;
    make_topic(1);
    rd_kafka_producev(mock.producer, RD_KAFKA_V_TOPIC("tasks"), RD_KAFKA_V_PARTITION(0),
                      RD_KAFKA_V_VALUE(empty, 0), RD_KAFKA_V_END);
    rd_kafka_producev(mock.producer, RD_KAFKA_V_TOPIC("tasks"), RD_KAFKA_V_PARTITION(0),
                      RD_KAFKA_V_VALUE(NULL, 0), RD_KAFKA_V_KEY("key", 3), RD_KAFKA_V_END);
    rd_kafka_flush(mock.producer, LONG_MS);
    recorder.credit = 10;
    mock_source(&mock, "tasks", &recorder);

    assert_true(RECORDER_WAIT(&recorder, recorder.total == 2, LONG_MS));
    end(&recorder);
    assert_false(recorder.records[0].tombstone);
    assert_int_equal(recorder.records[0].payload_len, 0);
    assert_true(recorder.records[1].tombstone);
}

static void announces_an_explicit_start_before_any_record(void **state)
{
    (void)state;
    make_topic(2);
    mock_produce(&mock, "tasks", 1, 0, 7);
    mock_source(&mock, "tasks", &recorder);

    assert_true(RECORDER_WAIT(&recorder, recorder.assigned_now == 2, LONG_MS));
    assert_true(recorder.assigned[1].assigned);
    assert_int_equal(recorder.assigned[1].start_offset, 0);
    assert_int_equal(recorder.assigned[1].committed, -1);
    assert_int_equal(recorder.assigned[1].metadata_len, 0);
    assert_int_equal(recorder.assigned[1].low, 0);
    assert_int_equal(recorder.assigned[1].high, 7);
    assert_int_equal(recorder.total, 0); /* no credit yet */
    end(&recorder);
}

static void latest_starts_at_the_end(void **state)
{
    (void)state;
    make_topic(1);
    mock_produce(&mock, "tasks", 0, 0, 7);
    struct kafka_source_options options = mock_source_options(&mock, "tasks");
    options.auto_offset_reset = "latest";
    struct topic_source *source;
    assert_int_equal(kafka_source_new(&source, &options, NULL), 0);
    recorder.source = source;
    recorder.credit = 100;
    assert_int_equal(source->ops->start(source, &recorder.events, NULL), 0);

    assert_true(RECORDER_WAIT(&recorder, recorder.assigned_now == 1, LONG_MS));
    assert_int_equal(recorder.assigned[0].start_offset, 7);
    mock_produce(&mock, "tasks", 0, 7, 1);
    assert_true(RECORDER_WAIT(&recorder, recorder.total == 1, LONG_MS));
    assert_int_equal(recorder.records[0].offset, 7);
    end(&recorder);
}

static void takes_no_more_than_the_credit(void **state)
{
    (void)state;
    make_topic(2);
    mock_produce(&mock, "tasks", 0, 0, 500);
    mock_produce(&mock, "tasks", 1, 0, 500);
    recorder.credit = 10;
    struct topic_source *source = mock_source(&mock, "tasks", &recorder);

    assert_true(RECORDER_WAIT(&recorder, recorder.total == 10, LONG_MS));
    /* Asked again, given nothing: from here on it has to wait. */
    size_t calls = RECORDER_GET(&recorder, credit_calls);
    source->ops->wake(source);
    assert_true(RECORDER_WAIT(&recorder, recorder.credit_calls > calls + 1, LONG_MS));
    assert_int_equal(recorder.total, 10);
    recorder_set_credit(&recorder, 5000);
    assert_true(RECORDER_WAIT(&recorder, recorder.total == 1000, LONG_MS));
    assert_int_equal(recorder.out_of_order, 0);
    end(&recorder);
}

static void commits_offset_and_metadata_and_reads_them_back(void **state)
{
    (void)state;
    make_topic(1);
    mock_produce(&mock, "tasks", 0, 0, 10);
    recorder.credit = 100;
    struct topic_source *source = mock_source(&mock, "tasks", &recorder);
    assert_true(RECORDER_WAIT(&recorder, recorder.total == 10, LONG_MS));
    source->ops->commit(source, 0, 4, bytes_str("a@0"), false);
    source->ops->commit(source, 0, 6, bytes_str("a@0,b@5"), true);
    assert_true(RECORDER_WAIT(&recorder, recorder.committed[0] == 6, LONG_MS));

    source->ops->ask(source, 0);
    assert_true(RECORDER_WAIT(&recorder, recorder.answered_count == 1, LONG_MS));
    assert_int_equal(recorder.answer.code, 0);
    assert_int_equal(recorder.answer.committed, 6);
    assert_string_equal(recorder.answer.metadata, "a@0,b@5");
    assert_int_equal(recorder.answer.low, 0);
    assert_int_equal(recorder.answer.high, 10);
    assert_true(recorder.answer.assigned);
    end(&recorder);

    other.credit = 100;
    mock_source(&mock, "tasks", &other);
    assert_true(RECORDER_WAIT(&other, other.total == 4, LONG_MS));
    assert_int_equal(other.assigned[0].start_offset, 6);
    assert_int_equal(other.assigned[0].committed, 6);
    assert_string_equal(other.assigned[0].metadata, "a@0,b@5");
    assert_int_equal(other.records[0].offset, 6);
    end(&other);
}

static void a_failed_commit_is_repeated_until_confirmed(void **state)
{
    (void)state;
    make_topic(1);
    mock_produce(&mock, "tasks", 0, 0, 10);
    recorder.credit = 100;
    struct topic_source *source = mock_source(&mock, "tasks", &recorder);
    assert_true(RECORDER_WAIT(&recorder, recorder.total == 10, LONG_MS));
    rd_kafka_mock_push_request_errors(
        mock.cluster, MOCK_OFFSET_COMMIT, 3, RD_KAFKA_RESP_ERR_OFFSET_METADATA_TOO_LARGE,
        RD_KAFKA_RESP_ERR_UNKNOWN, RD_KAFKA_RESP_ERR_INVALID_COMMIT_OFFSET_SIZE);
    source->ops->commit(source, 0, 10, bytes_of(NULL, 0), false);
    assert_true(RECORDER_WAIT(&recorder, recorder.committed[0] == 10, LONG_MS));
    end(&recorder);
}

static void stop_commits_what_was_named_last(void **state)
{
    (void)state;
    make_topic(1);
    mock_produce(&mock, "tasks", 0, 0, 10);
    recorder.credit = 100;
    struct topic_source *source = mock_source(&mock, "tasks", &recorder);
    assert_true(RECORDER_WAIT(&recorder, recorder.total == 10, LONG_MS));
    for (int i = 1; i <= 9; i++)
        source->ops->commit(source, 0, i, bytes_str("m"), false);
    end(&recorder);
    assert_int_equal(recorder.committed[0], 9);
    assert_int_equal(recorder.revoking_calls, 0);
}

static void refuses_commits_below_its_start_and_of_foreign_partitions(void **state)
{
    (void)state;
    make_topic(1);
    mock_produce(&mock, "tasks", 0, 0, 10);
    recorder.credit = 100;
    struct topic_source *source = mock_source(&mock, "tasks", &recorder);
    assert_true(RECORDER_WAIT(&recorder, recorder.total == 10, LONG_MS));
    source->ops->commit(source, 0, 8, bytes_of(NULL, 0), true);
    assert_true(RECORDER_WAIT(&recorder, recorder.committed[0] == 8, LONG_MS));
    end(&recorder);

    source = mock_source(&mock, "tasks", &other);
    assert_true(RECORDER_WAIT(&other, other.assigned_now == 1, LONG_MS));
    source->ops->commit(source, 0, 3, bytes_of(NULL, 0), true); /* a late one: it would rewind */
    source->ops->commit(source, 9, 3, bytes_of(NULL, 0), true);
    source->ops->ask(source, 0);
    assert_true(RECORDER_WAIT(&other, other.answered_count == 1, LONG_MS));
    end(&other);
    assert_int_equal(other.answer.committed, 8);
    assert_int_equal(other.committed[0], -1);
}

static void a_loading_coordinator_is_asked_again(void **state)
{
    (void)state;
    make_topic(1);
    mock_produce(&mock, "tasks", 0, 0, 3);
    rd_kafka_mock_push_request_errors(mock.cluster, MOCK_OFFSET_FETCH, 2,
                                      RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
                                      RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS);
    recorder.credit = 100;
    mock_source(&mock, "tasks", &recorder);
    assert_true(RECORDER_WAIT(&recorder, recorder.total == 3, LONG_MS));
    assert_int_equal(recorder.assigned_calls, 1);
    end(&recorder);
}

static void a_rebalance_waits_for_the_engine(void **state)
{
    (void)state;
    make_topic(2);
    mock_produce(&mock, "tasks", 0, 0, 10);
    mock_produce(&mock, "tasks", 1, 0, 10);
    recorder.credit = other.credit = 1000;
    recorder.auto_revoke = false;
    struct topic_source *first = mock_source(&mock, "tasks", &recorder);
    assert_true(RECORDER_WAIT(&recorder, recorder.total == 20, LONG_MS));
    /* The mock, unlike Kafka, takes no commit while it rebalances: kafka_probe tests a last commit.
     */
    first->ops->commit(first, 0, 10, bytes_str("first@0"), true);
    first->ops->commit(first, 1, 7, bytes_str("first@0"), true);
    assert_true(RECORDER_WAIT(&recorder, recorder.committed[0] == 10, LONG_MS));
    assert_true(RECORDER_WAIT(&recorder, recorder.committed[1] == 7, LONG_MS));
    mock_source(&mock, "tasks", &other);
    assert_true(RECORDER_WAIT(&recorder, recorder.revoking_calls == 1, LONG_MS));
    assert_int_equal(other.assigned_calls, 0);

    first->ops->revoke_done(first, 0);
    first->ops->revoke_done(first, 1);
    assert_true(RECORDER_WAIT(&other, other.assigned_now == 1, LONG_MS));
    assert_true(RECORDER_WAIT(&recorder, recorder.assigned_now == 1, LONG_MS));
    struct recorder *owner = other.assigned[1].assigned ? &other : &recorder;
    assert_true(RECORDER_WAIT(owner, owner->assigned[1].start_offset == 7, LONG_MS));
    assert_string_equal(owner->assigned[1].metadata, "first@0");
    assert_true(RECORDER_WAIT(owner, owner->next[1] == 10, LONG_MS));
    assert_int_equal(recorder.after_revoke, 0);
}

static void an_expired_log_is_read_from_its_low_end(void **state)
{
    (void)state;
    make_topic(1);
    struct topic_source *source = mock_source(&mock, "tasks", &recorder);
    assert_true(RECORDER_WAIT(&recorder, recorder.assigned_now == 1, LONG_MS));
    /* A commit far above the end: fetching there is out of range, the log seems to be made anew. */
    source->ops->commit(source, 0, 5000, bytes_str("old"), true);
    assert_true(RECORDER_WAIT(&recorder, recorder.committed[0] == 5000, LONG_MS));
    end(&recorder);

    mock_produce(&mock, "tasks", 0, 0, 5);
    other.credit = 100;
    source = mock_source(&mock, "tasks", &other);
    assert_true(RECORDER_WAIT(&other, other.total == 5, LONG_MS));
    assert_int_equal(other.assigned_calls, 2);
    assert_int_equal(other.revoking_calls, 1);
    assert_int_equal(other.assigned[0].start_offset, 0);
    assert_int_equal(other.out_of_order, 0);
    source->ops->commit(source, 0, 5, bytes_str("new"), true);
    assert_true(RECORDER_WAIT(&other, other.committed[0] == 5, LONG_MS));
    end(&other);
}

static void lag_is_the_distance_to_the_end(void **state)
{
    (void)state;
    make_topic(1);
    mock_produce(&mock, "tasks", 0, 0, 10);
    recorder.credit = 4;
    struct topic_source *source = mock_source(&mock, "tasks", &recorder);
    assert_true(RECORDER_WAIT(&recorder, recorder.total == 4, LONG_MS));
    /* One more call: the position moved when records() had returned. */
    size_t calls = RECORDER_GET(&recorder, credit_calls);
    assert_true(RECORDER_WAIT(&recorder, recorder.credit_calls > calls, LONG_MS));
    assert_int_equal(kafka_source_lag(source, 0), 6);
    assert_int_equal(kafka_source_lag(source, 7), -1);
    end(&recorder);
}

static void lags_say_where_every_partition_stands(void **state)
{
    (void)state;
    struct kafka_lag lags[3];
    make_topic(2);
    mock_produce(&mock, "tasks", 1, 0, 10);
    recorder.credit = 4;
    struct topic_source *source = mock_source(&mock, "tasks", &recorder);
    assert_true(RECORDER_WAIT(&recorder, recorder.total == 4, LONG_MS));
    source->ops->commit(source, 1, 3, bytes_str(""), true);
    assert_true(RECORDER_WAIT(&recorder, recorder.committed[1] == 3, LONG_MS));
    assert_int_equal(kafka_source_lags(source, lags, 1), 2); /* more than there is room for */
    assert_int_equal(kafka_source_lags(source, lags, 3), 2);
    size_t full = lags[1].partition == 1; /* the order is the group's */
    assert_int_equal(lags[full].partition, 1);
    assert_int_equal(lags[full].position, 4);
    assert_int_equal(lags[full].committed, 3);
    assert_int_equal(lags[full].high, 10);
    assert_int_equal(lags[full].lag, 6);
    assert_int_equal(lags[!full].position, 0);
    assert_int_equal(lags[!full].committed, -1);
    assert_int_equal(lags[!full].lag, 0);
    end(&recorder);
    assert_int_equal(recorder.total, 4);
}

static void a_missing_topic_fails_the_source(void **state)
{
    (void)state;
    char expected[256];
    rd_kafka_mock_topic_set_error(mock.cluster, "tasks", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    mock_source(&mock, "tasks", &recorder);

    assert_true(RECORDER_WAIT(&recorder, recorder.failed_count == 1, LONG_MS));
    assert_int_equal(recorder.failed_code, ERR_NOT_FOUND);
    snprintf(expected, sizeof(expected),
             "topic 'tasks' does not exist on cluster '%s': create it or set create_missing_topics",
             mock.address.address);
    assert_string_equal(recorder.failed_why, expected);
    end(&recorder);
}

static void a_refused_topic_fails_the_source(void **state)
{
    (void)state;
    rd_kafka_mock_topic_set_error(mock.cluster, "tasks",
                                  RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
    mock_source(&mock, "tasks", &recorder);

    assert_true(RECORDER_WAIT(&recorder, recorder.failed_count == 1, LONG_MS));
    assert_int_equal(recorder.failed_code, ERR_DENIED);
    end(&recorder);
}

static void an_unreachable_cluster_is_waited_for_and_stop_is_prompt(void **state)
{
    (void)state;
    struct kafka_source_options options = mock_source_options(&mock, "tasks");
    options.cluster.address = "127.0.0.1:1";
    struct topic_source *source;
    assert_int_equal(kafka_source_new(&source, &options, NULL), 0);
    recorder.source = source;
    assert_int_equal(source->ops->start(source, &recorder.events, NULL), 0);
    assert_false(RECORDER_WAIT(&recorder, recorder.failed_count > 0, 1500));
    int64_t before_ms = clock_boot_ms();
    end(&recorder);
    assert_true(clock_boot_ms() - before_ms < 4000);
}

/* Nobody will read a partition that the topic does not have: who asks must learn that. */
static void a_partition_that_is_gone_is_said_to_be(void **state)
{
    (void)state;
    make_topic(1);
    struct topic_source *source = mock_source(&mock, "tasks", &recorder);
    assert_true(RECORDER_WAIT(&recorder, recorder.assigned_calls == 1, LONG_MS));
    source->ops->ask(source, 7);
    assert_true(RECORDER_WAIT(&recorder, recorder.answered_count == 1, LONG_MS));
    assert_int_equal(recorder.answer.code, ERR_NOT_FOUND);
    assert_int_equal(recorder.answer.partition, 7);
    assert_int_equal(recorder.answer.committed, -1);
    assert_false(recorder.answer.assigned);
    end(&recorder);
}

static void an_outage_is_survived(void **state)
{
    (void)state;
    make_topic(1);
    mock_produce(&mock, "tasks", 0, 0, 5);
    recorder.credit = 100;
    struct topic_source *source = mock_source(&mock, "tasks", &recorder);
    assert_true(RECORDER_WAIT(&recorder, recorder.total == 5, LONG_MS));
    rd_kafka_mock_broker_set_down(mock.cluster, 1);
    source->ops->commit(source, 0, 5, bytes_str("m"), true);
    source->ops->ask(source, 0);
    assert_true(RECORDER_WAIT(&recorder, recorder.answered_count == 1, LONG_MS));
    assert_int_equal(recorder.answer.code, ERR_UNAVAILABLE);
    assert_int_equal(recorder.committed[0], -1);
    rd_kafka_mock_broker_set_up(mock.cluster, 1);
    assert_true(RECORDER_WAIT(&recorder, recorder.committed[0] == 5, LONG_MS));
    mock_produce(&mock, "tasks", 0, 5, 5);
    assert_true(RECORDER_WAIT(&recorder, recorder.total >= 10, LONG_MS));
    assert_int_equal(recorder.failed_count, 0);
    end(&recorder);
}

static void bad_options_are_named(void **state)
{
    (void)state;
    struct kafka_source_options options = mock_source_options(&mock, "tasks");
    struct err_text why;
    struct topic_source *source;
    options.auto_offset_reset = "sometimes";
    assert_int_equal(kafka_source_new(&source, &options, &why), ERR_INVALID);
    assert_non_null(strstr(why.s, "auto.offset.reset"));

    struct kafka_property property = {"sasl.mechanismus", "PLAIN"};
    options.auto_offset_reset = "latest";
    options.cluster.properties = &property;
    options.cluster.property_count = 1;
    assert_int_equal(kafka_source_new(&source, &options, &why), ERR_INVALID);
    assert_non_null(strstr(why.s, "sasl.mechanismus"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

/* The mock cluster lets a new consumer group wait for 3 s, so nearly all of the time here is
 * waiting: with the argument N of the build's test, each of its SHARDS runs an equal part beside
 * the others.
 */
#define SHARDS 4

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(delivers_records_in_order_with_headers_and_time),
        TEST(tells_a_tombstone_from_an_empty_payload),
        TEST(announces_an_explicit_start_before_any_record),
        TEST(latest_starts_at_the_end),
        TEST(takes_no_more_than_the_credit),
        TEST(commits_offset_and_metadata_and_reads_them_back),
        TEST(a_failed_commit_is_repeated_until_confirmed),
        TEST(stop_commits_what_was_named_last),
        TEST(refuses_commits_below_its_start_and_of_foreign_partitions),
        TEST(a_loading_coordinator_is_asked_again),
        TEST(a_rebalance_waits_for_the_engine),
        TEST(an_expired_log_is_read_from_its_low_end),
        TEST(lag_is_the_distance_to_the_end),
        TEST(lags_say_where_every_partition_stands),
        TEST(a_missing_topic_fails_the_source),
        TEST(a_refused_topic_fails_the_source),
        TEST(an_unreachable_cluster_is_waited_for_and_stop_is_prompt),
        TEST(a_partition_that_is_gone_is_said_to_be),
        TEST(an_outage_is_survived),
        TEST(bad_options_are_named),
    };

    if (argc < 2)
        return cmocka_run_group_tests(tests, NULL, NULL);
    struct CMUnitTest mine[sizeof tests / sizeof *tests];
    size_t count = 0;
    for (size_t i = strtoul(argv[1], NULL, 10); i < sizeof tests / sizeof *tests; i += SHARDS)
        mine[count++] = tests[i];
    return _cmocka_run_group_tests("shard", mine, count, NULL, NULL);
}
