/* SPDX-License-Identifier: Apache-2.0 */
/* A look at a cluster, against librdkafka's mock. Refused credentials:
 * tests/integration/test_topics_security.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "mock.h"

#define LONG_MS 20000

static struct mock mock;
static struct recorder recorder;

static void on_failed(void *ctx, int code, const char *why)
{
    const struct topic_source_events *events = ctx;
    events->failed(events->ctx, code, why);
}

static struct kafka_check *start(const char *const *topics, size_t count, const char *address)
{
    struct kafka_check_options options = {.cluster = {.name = "main", .address = address},
                                          .topics = topics,
                                          .topic_count = count,
                                          .ctx = &recorder.events,
                                          .failed = on_failed};
    struct kafka_check *check;
    struct err_text why;
    assert_int_equal(kafka_check_start(&check, &options, &why), 0);
    return check;
}

static int set_up(void **state)
{
    (void)state;
    mock_start(&mock, 1);
    recorder_init(&recorder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    recorder_free(&recorder);
    mock_stop(&mock);
    return 0;
}

static void a_missing_topic_is_told(void **state)
{
    (void)state;
    static const char *const topics[] = {"there", "missing"};
    char expected[256];
    assert_int_equal(rd_kafka_mock_topic_create(mock.cluster, "there", 2, 1), 0);
    rd_kafka_mock_topic_set_error(mock.cluster, "missing", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    struct kafka_check *check = start(topics, 2, mock.address.address);
    assert_true(RECORDER_WAIT(&recorder, recorder.failed_count == 1, LONG_MS));
    assert_int_equal(recorder.failed_code, ERR_NOT_FOUND);
    snprintf(expected, sizeof(expected),
             "topic 'missing' does not exist on cluster 'main' (%s): create it or set "
             "create_missing_topics",
             mock.address.address);
    assert_string_equal(recorder.failed_why, expected);
    kafka_check_end(check);
}

static void a_refused_topic_is_told(void **state)
{
    (void)state;
    static const char *const topics[] = {"refused"};
    rd_kafka_mock_topic_set_error(mock.cluster, "refused",
                                  RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
    struct kafka_check *check = start(topics, 1, mock.address.address);
    assert_true(RECORDER_WAIT(&recorder, recorder.failed_count == 1, LONG_MS));
    assert_int_equal(recorder.failed_code, ERR_DENIED);
    kafka_check_end(check);
}

static void a_cluster_that_is_away_is_waited_for(void **state)
{
    (void)state;
    struct kafka_check *check = start(NULL, 0, "127.0.0.1:1");
    assert_false(RECORDER_WAIT(&recorder, recorder.failed_count > 0, 1500));
    int64_t before_ms = clock_boot_ms();
    kafka_check_end(check);
    assert_true(clock_boot_ms() - before_ms < 4000);
}

static void bad_properties_are_named(void **state)
{
    (void)state;
    struct kafka_property property = {"sasl.mechanismus", "PLAIN"};
    struct kafka_check_options options = {
        .cluster = {.address = "127.0.0.1:1", .properties = &property, .property_count = 1}};
    struct kafka_check *check;
    struct err_text why;
    assert_int_equal(kafka_check_start(&check, &options, &why), ERR_INVALID);
    assert_non_null(strstr(why.s, "sasl.mechanismus"));
    kafka_check_end(NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_missing_topic_is_told),
        TEST(a_refused_topic_is_told),
        TEST(a_cluster_that_is_away_is_waited_for),
        TEST(bad_properties_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
