/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "mock.h"

#define LONG_MS    20000
#define PARTITIONS 1

/* The fates of records; RECORDER_WAIT works on it by its field names. */
struct fates {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t count, delivered, failed, impossible;
    char why[256];
};

static struct mock mock;
static struct fates fates;
static struct recorder recorder;
static struct topic_sink *sink;

static void on_delivered(void *ctx, void *opaque, enum topic_delivery delivery, const char *why)
{
    struct fates *f = ctx;

    pthread_mutex_lock(&f->lock);
    f->count++;
    f->delivered += delivery == TOPIC_DELIVERED;
    f->failed += delivery == TOPIC_FAILED;
    f->impossible += delivery == TOPIC_IMPOSSIBLE;
    snprintf(f->why, sizeof(f->why), "%s", why ? why : "");
    ++*(int *)opaque;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

static void open_sink(uint32_t message_max_bytes, uint32_t delivery_timeout_ms)
{
    const struct kafka_sink_options options = {.cluster = mock.address,
                                               .message_max_bytes = message_max_bytes,
                                               .delivery_timeout_ms = delivery_timeout_ms};
    const struct topic_sink_events events = {.ctx = &fates, .delivered = on_delivered};
    struct err_text why;

    assert_int_equal(kafka_sink_new(&sink, &options, &events, &why), 0);
}

static int set_up(void **state)
{
    pthread_condattr_t attr;

    (void)state;
    mock_start(&mock, 1);
    rd_kafka_mock_topic_create(mock.cluster, "out", PARTITIONS, 1);
    recorder_init(&recorder);
    fates = (struct fates){0};
    pthread_mutex_init(&fates.lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&fates.changed, &attr);
    pthread_condattr_destroy(&attr);
    open_sink(1000000, 10000);
    return 0;
}

static void close_sink(void)
{
    if (sink) {
        sink->ops->stop(sink, 5000);
        sink->ops->destroy(sink);
    }
    sink = NULL;
}

static int tear_down(void **state)
{
    (void)state;
    close_sink();
    if (recorder.source)
        mock_source_end(recorder.source);
    recorder_free(&recorder);
    pthread_cond_destroy(&fates.changed);
    pthread_mutex_destroy(&fates.lock);
    mock_stop(&mock);
    return 0;
}

static int produce(const char *topic, size_t len, int *reported)
{
    struct blob *payload = blob_new(len);
    const struct topic_header header = {bytes_str("reason"), bytes_str("test")};
    const char *why = NULL;

    memset(payload->data, 'x', len);
    int rv = sink->ops->produce(sink, topic, payload, &header, 1, reported, &why);
    blob_unref(payload);
    assert_true(rv == 0 || why != NULL);
    return rv;
}

static void every_record_is_reported_once_and_arrives(void **state)
{
    (void)state;
    static int reported[1000];
    memset(reported, 0, sizeof(reported));
    for (int i = 0; i < 1000; i++)
        assert_int_equal(produce("out", 10, &reported[i]), 0);
    assert_true(RECORDER_WAIT(&fates, fates.delivered == 1000, LONG_MS));
    for (int i = 0; i < 1000; i++)
        assert_int_equal(reported[i], 1);

    recorder.credit = 2000;
    mock_source(&mock, "out", &recorder);
    assert_true(RECORDER_WAIT(&recorder, recorder.total == 1000, LONG_MS));
    assert_string_equal(recorder.records[0].payload, "xxxxxxxxxx");
    assert_string_equal(recorder.records[0].header, "reason=test");
}

static void null_and_empty_payloads_stay_apart(void **state)
{
    (void)state;
    int reported = 0;
    const char *why;
    assert_int_equal(sink->ops->produce(sink, "out", NULL, NULL, 0, &reported, &why), 0);
    assert_int_equal(produce("out", 0, &reported), 0);
    assert_true(RECORDER_WAIT(&fates, fates.delivered == 2, LONG_MS));
    recorder.credit = 10;
    mock_source(&mock, "out", &recorder);
    assert_true(RECORDER_WAIT(&recorder, recorder.total == 2, LONG_MS));
    assert_true(recorder.records[0].tombstone);
    assert_false(recorder.records[1].tombstone);
}

static void larger_than_our_limit_is_never_accepted(void **state)
{
    (void)state;
    int reported = 0;
    assert_int_equal(produce("out", 1000001, &reported), ERR_TOO_LARGE);
    close_sink();
    assert_int_equal(reported, 0);
}

static void refused_as_too_large_is_impossible_after_a_try_alone(void **state)
{
    (void)state;
    int reported = 0;
    rd_kafka_mock_push_request_errors(mock.cluster, MOCK_PRODUCE, 2,
                                      RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
                                      RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE);
    assert_int_equal(produce("out", 10, &reported), 0);
    assert_true(RECORDER_WAIT(&fates, fates.count == 1, LONG_MS));
    assert_int_equal(fates.impossible, 1);
    assert_int_equal(reported, 1);
}

static void a_batch_that_is_too_large_is_sent_one_by_one(void **state)
{
    (void)state;
    int reported[20] = {0};
    rd_kafka_mock_push_request_errors(mock.cluster, MOCK_PRODUCE, 1,
                                      RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE);
    for (int i = 0; i < 20; i++)
        assert_int_equal(produce("out", 10, &reported[i]), 0);
    assert_true(RECORDER_WAIT(&fates, fates.count == 20, LONG_MS));
    assert_int_equal(fates.delivered, 20);
    recorder.credit = 100;
    mock_source(&mock, "out", &recorder);
    assert_true(RECORDER_WAIT(&recorder, recorder.total == 20, LONG_MS));
    assert_string_equal(recorder.records[19].header, "reason=test");
}

static void an_invalid_record_is_impossible(void **state)
{
    (void)state;
    int reported = 0;
    rd_kafka_mock_push_request_errors(mock.cluster, MOCK_PRODUCE, 1,
                                      RD_KAFKA_RESP_ERR_INVALID_RECORD);
    assert_int_equal(produce("out", 10, &reported), 0);
    assert_true(RECORDER_WAIT(&fates, fates.count == 1, LONG_MS));
    assert_int_equal(fates.impossible, 1);
}

static void refused_access_fails_but_is_not_impossible(void **state)
{
    (void)state;
    int reported = 0;
    rd_kafka_mock_push_request_errors(mock.cluster, MOCK_PRODUCE, 1,
                                      RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
    assert_int_equal(produce("out", 10, &reported), 0);
    assert_true(RECORDER_WAIT(&fates, fates.count == 1, LONG_MS));
    assert_int_equal(fates.failed, 1);
    assert_string_not_equal(fates.why, "");
}

static void an_outage_longer_than_the_timeout_fails(void **state)
{
    (void)state;
    int reported = 0;
    close_sink();
    open_sink(1000000, 1000);
    rd_kafka_mock_broker_set_down(mock.cluster, 1);
    assert_int_equal(produce("out", 10, &reported), 0);
    assert_true(RECORDER_WAIT(&fates, fates.failed == 1, LONG_MS));
    rd_kafka_mock_broker_set_up(mock.cluster, 1);
    while (fates.delivered == 0) { /* each try ends by itself, within its timeout */
        size_t count = fates.count;
        assert_int_equal(produce("out", 10, &reported), 0);
        assert_true(RECORDER_WAIT(&fates, fates.count > count, LONG_MS));
        assert_true(fates.count < 20);
    }
}

static void a_fatal_error_makes_a_new_client(void **state)
{
    (void)state;
    int reported = 0;
    rd_kafka_mock_push_request_errors(mock.cluster, MOCK_PRODUCE, 1,
                                      RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_int_equal(produce("out", 10, &reported), 0);
    assert_true(RECORDER_WAIT(&fates, fates.count == 1, LONG_MS));
    while (fates.delivered == 0) {
        size_t count = fates.count;
        assert_int_equal(produce("out", 10, &reported), 0);
        assert_true(RECORDER_WAIT(&fates, fates.count > count, LONG_MS));
        assert_true(fates.count < 50);
    }
    assert_int_equal(fates.impossible, 0);
}

static void goes_on_without_idempotence_where_it_is_refused(void **state)
{
    (void)state;
    int reported = 0;
    close_sink();
    rd_kafka_resp_err_t refused[32];
    for (size_t i = 0; i < 32; i++)
        refused[i] = RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
    rd_kafka_mock_push_request_errors_array(mock.cluster, MOCK_INIT_PRODUCER_ID, 32, refused);
    open_sink(1000000, 10000);
    while (fates.delivered == 0) {
        size_t count = fates.count;
        assert_int_equal(produce("out", 10, &reported), 0);
        assert_true(RECORDER_WAIT(&fates, fates.count > count, LONG_MS));
        assert_true(fates.count < 50);
    }
}

static void stop_reports_what_cannot_be_delivered(void **state)
{
    (void)state;
    int reported[10] = {0};
    rd_kafka_mock_broker_set_down(mock.cluster, 1);
    for (int i = 0; i < 10; i++)
        assert_int_equal(produce("out", 10, &reported[i]), 0);
    sink->ops->stop(sink, 200);
    for (int i = 0; i < 10; i++)
        assert_int_equal(reported[i], 1);
    assert_int_equal(fates.failed, 10);
}

static void a_bad_number_of_partitions_is_named(void **state)
{
    (void)state;
    struct err_text why;
    const char *const topics[] = {"fresh"};
    /* The mock knows no CreateTopics: only what is decided before the request can be tested here.
     */
    assert_int_equal(kafka_create_topics(&mock.address, topics, 0, 1, &why), 0);
    assert_int_equal(kafka_create_topics(&mock.address, topics, 1, -5, &why), ERR_INVALID);
    assert_non_null(strstr(why.s, "fresh"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_record_is_reported_once_and_arrives),
        TEST(null_and_empty_payloads_stay_apart),
        TEST(larger_than_our_limit_is_never_accepted),
        TEST(refused_as_too_large_is_impossible_after_a_try_alone),
        TEST(a_batch_that_is_too_large_is_sent_one_by_one),
        TEST(an_invalid_record_is_impossible),
        TEST(refused_access_fails_but_is_not_impossible),
        TEST(an_outage_longer_than_the_timeout_fails),
        TEST(a_fatal_error_makes_a_new_client),
        TEST(goes_on_without_idempotence_where_it_is_refused),
        TEST(stop_reports_what_cannot_be_delivered),
        TEST(a_bad_number_of_partitions_is_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
