/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>

#include "base/mem.h"
#include "broker/status.h"

static json_t *write_and_read(const struct status *status, const struct rates *rates)
{
    struct buf out = {0};
    json_error_t error;

    status_write(status, rates, &out);
    assert_int_equal(out.ptr[out.len - 1], '\n');
    json_t *root = json_loadb((const char *)out.ptr, out.len, 0, &error);
    if (!root)
        fail_msg("%s in %s", error.text, buf_cstr(&out));
    buf_free(&out);
    return root;
}

static const json_t *at(const json_t *root, const char *first, const char *second)
{
    const json_t *value = json_object_get(root, first);

    if (value && second)
        value = json_object_get(value, second);
    if (!value)
        fail_msg("no %s.%s", first, second ? second : "");
    return value;
}

static int64_t int_at(const json_t *root, const char *first, const char *second)
{
    return json_integer_value(at(root, first, second));
}

static struct engine_stats *new_stats(void)
{
    struct engine_stats *stats = mem_zalloc(sizeof *stats);

    stats->inflight.by_state[TASK_PENDING] = 3;
    stats->inflight.by_state[TASK_PROCESSING] = 2;
    stats->inflight.tasks = 5;
    stats->inflight.parked = 1;
    stats->inflight.deadlettered = 4;
    stats->inflight.discarded = 5;
    stats->block = BLOCK_PENDING;
    stats->oldest_pending_wall_ms = 90000;
    stats->store.wal_bytes = UINT64_MAX; /* more than JSON's integers hold */
    return stats;
}

static void a_broker_that_has_started(void **state)
{
    (void)state;
    struct engine_stats *stats = new_stats();
    struct rates rates = {0};
    const struct kafka_lag lags[] = {{0, 10, 8, 15, 5}, {1, 0, -1, -1, -1}};
    const struct status_topic topic = {"t", "c", "g", lags, 2};
    struct status status = {.state = "running",
                            .healthy = {true, "ok"},
                            .ready = {false, "no"},
                            .wall_ms = 92500,
                            .started_wall_ms = 1500,
                            .uptime_ms = 2250,
                            .admin_address = "127.0.0.1:1",
                            .started = true,
                            .grpc_address = "127.0.0.1:2",
                            .store_path = "bad \xff path",
                            .store_max_bytes = UINT64_MAX,
                            .engine = stats,
                            .topics = &topic,
                            .topic_count = 1};
    uint64_t totals[RATES] = {0};
    rates_sample(&rates, 0, totals);
    totals[RATE_CLAIMED] = 30;
    rates_sample(&rates, 2000, totals);
    json_t *root = write_and_read(&status, &rates);
    const json_t *partitions =
        json_object_get(json_array_get(at(root, "topics", NULL), 0), "partitions");

    assert_true(json_string_length(at(root, "version", NULL)) > 0);
    assert_false(json_boolean_value(at(root, "ready", "ok")));
    assert_string_equal(json_string_value(at(root, "ready", "reason")), "no");
    assert_true(json_real_value(at(root, "uptime_s", NULL)) == 2.25);
    assert_true(json_real_value(at(root, "oldest_pending_age_s", NULL)) == 2.5);
    assert_int_equal(int_at(root, "tasks", "processing"), 2);
    assert_int_equal(int_at(root, "totals", "failed"), 9);
    assert_int_equal(int_at(root, "totals", "dead_lettered"), 4);
    assert_true(json_real_value(json_object_get(at(root, "rates_per_s", "claimed"), "10s")) == 15);
    assert_string_equal(json_string_value(at(root, "backpressure", NULL)), "pending_limit");
    assert_true(json_is_null(at(root, "store", "path")));
    assert_true(json_is_null(at(root, "store", "max_bytes")));
    assert_int_equal(int_at(root, "store", "wal_bytes"), INT64_MAX);
    assert_true(json_is_null(at(root, "embedded_log", NULL)));
    assert_int_equal(int_at(json_array_get(partitions, 0), "lag", NULL), 5);
    assert_int_equal(int_at(json_array_get(partitions, 0), "committed", NULL), 8);
    assert_true(json_is_null(at(json_array_get(partitions, 1), "high_watermark", NULL)));
    assert_true(json_is_null(at(json_array_get(partitions, 1), "committed", NULL)));
    json_decref(root);
    mem_free(stats);
}

static void a_broker_that_starts_knows_nothing_else(void **state)
{
    (void)state;
    struct rates rates = {0};
    struct status status = {.state = "starting", .admin_address = "x"};
    json_t *root = write_and_read(&status, &rates);

    assert_string_equal(json_string_value(at(root, "state", NULL)), "starting");
    assert_null(json_object_get(root, "tasks"));
    json_decref(root);
}

static void nothing_to_tell_is_null(void **state)
{
    (void)state;
    struct rates rates = {0};
    struct engine_stats *stats = mem_zalloc(sizeof *stats);
    struct status status = {.state = "running",
                            .admin_address = "x",
                            .started = true,
                            .embedded = true,
                            .engine = stats};
    stats->log_waiting = 7;
    stats->demoted_namespaces = 2;
    json_t *root = write_and_read(&status, &rates);

    assert_true(json_is_null(at(root, "backpressure", NULL)));
    assert_true(json_is_null(at(root, "oldest_pending_age_s", NULL)));
    assert_true(json_is_null(at(root, "grpc_address", NULL)));
    assert_int_equal(int_at(root, "embedded_log", "waiting"), 7);
    assert_true(json_is_null(at(root, "runtime_config", NULL)));
    json_decref(root);
    status.runtime_path = "/etc/runtime.yml";
    root = write_and_read(&status, &rates);
    assert_int_equal(int_at(root, "runtime_config", "demoted_namespaces"), 2);
    json_decref(root);
    mem_free(stats);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_broker_that_has_started),
        cmocka_unit_test(a_broker_that_starts_knows_nothing_else),
        cmocka_unit_test(nothing_to_tell_is_null),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
