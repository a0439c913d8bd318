/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "base/prometheus.h"
#include "base/statsd.h"
#include "rpc/status.h"
#include "worker/meters.h"

struct world {
    struct worker_meters *meters;
    struct taskmill_namespace ns;
    struct task_def task;
    struct buf lines; /* of statsd */
};

static int set_up(void **state)
{
    static struct world world;

    world = (struct world){.meters = wmeters_new("pod1")};
    world.ns.name = (char *)"ns";
    world.task.ns = &world.ns;
    world.task.name = "t";
    *state = &world;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;

    wmeters_free(w->meters);
    buf_free(&w->lines);
    return 0;
}

static void collect(void *ctx, struct bytes datagram)
{
    struct world *w = ctx;

    buf_append(&w->lines, datagram.ptr, datagram.len);
    buf_append_byte(&w->lines, '\n');
}

static const char *export(struct world *w)
{
    struct statsd_format *format = statsd_format_new("", NULL, 0);

    buf_clear(&w->lines);
    buf_append_byte(&w->lines, '\n');
    statsd_format_export(format, wmeters_registry(w->meters), collect, w);
    statsd_format_free(format);
    return buf_cstr(&w->lines);
}

static void assert_line(const char *text, const char *line)
{
    char wanted[256];

    snprintf(wanted, sizeof wanted, "\n%s\n", line);
    if (!strstr(text, wanted))
        fail_msg("no line %s in:%s", line, text);
}

static void a_task_is_counted_everywhere(void **state)
{
    struct world *w = *state;
    struct meters_run run = {.task = &w->task,
                             .host = "b:1",
                             .end = ATTEMPT_COMPLETE,
                             .status = ACTIVATION_COMPLETE,
                             .run_us = 700,
                             .memory_kib = 2,
                             .has_received_at = true,
                             .latency_us = 3};
    const char *text;

    for (int i = 0; i < 3; i++) /* 2.1 ms: what is below a whole one is not lost */
        wmeters_task(w->meters, &run);
    run.end = ATTEMPT_DEADLINE;
    run.status = ACTIVATION_RETRY;
    run.latency_us = -50; /* a clock that is behind */
    wmeters_task(w->meters, &run);
    text = export(w);
    assert_line(text, "taskworker.worker.execute_task:3|c|#namespace:ns,taskname:t,status:complete,"
                      "taskbroker_host:b:1");
    assert_line(text, "taskworker.worker.execute_task:1|c|#namespace:ns,taskname:t,status:retry,"
                      "taskbroker_host:b:1");
    assert_line(text,
                "taskworker.worker.processing_deadline_exceeded:1|c|#namespace:ns,taskname:t");
    assert_line(text, "taskworker.cogs.usage:2|c|#feature:ns");
    assert_non_null(strstr(text, "\ntaskworker.worker.execution_duration:0.0007|d|@0.24999"));
    assert_non_null(strstr(text, "\ntaskworker.worker.memory_change:2048|d|@0.24999"));
    assert_line(text, "taskworker.worker.execution_latency:0|d|#namespace:ns,taskname:t,"
                      "taskbroker_host:b:1");
    assert_non_null(strstr(text, "\ntaskworker.worker.execution_latency:0.000003|d|@0.3333"));
}

static void calls_are_timers_in_seconds(void **state)
{
    struct world *w = *state;
    const char *text;

    wmeters_rpc(w->meters, WM_GET_TASK_RPC, "GetTask", "b:1", 7, GRPC_OK);
    wmeters_rpc(w->meters, WM_UPDATE_TASK_RPC, "SetTaskStatus", "b:1", 5, GRPC_UNAVAILABLE);
    text = export(w);
    assert_line(text, "taskworker.get_task.rpc:0.000007|ms|#host:b:1");
    assert_line(text, "taskworker.update_task.rpc:0.000005|ms|#host:b:1");
    assert_line(text, "taskworker.client.rpc_error:1|c|#method:SetTaskStatus,status:UNAVAILABLE");
}

static void occupancy_comes_and_goes(void **state)
{
    const struct prometheus_label pool = {"processing_pool", "p"};
    struct world *w = *state;
    struct buf page = {0};

    assert_null(strstr(export(w), "occupancy"));
    wmeters_set_occupancy(w->meters, 250000);
    assert_line(export(w), "taskworker.worker.occupancy:0.25|g|#pod_name:pod1");
    prometheus_write_labelled(wmeters_registry(w->meters), &pool, 1, &page);
    assert_line(buf_cstr(&page), "taskworker_worker_occupancy{processing_pool=\"p\"} 0.25");
    buf_clear(&page);
    wmeters_set_occupancy(w->meters, -1);
    assert_null(strstr(export(w), "occupancy"));
    prometheus_write_labelled(wmeters_registry(w->meters), &pool, 1, &page);
    assert_null(strstr(buf_cstr(&page), "taskworker_worker_occupancy{"));
    assert_line(buf_cstr(&page),
                "taskworker_worker_child_busy_seconds_total{processing_pool=\"p\"} 0");
    buf_free(&page);
}

static void nobody_watches(void **state)
{
    struct world *w = *state;

    wmeters_add(NULL, WM_NOT_FOUND, 1);
    wmeters_observe(NULL, WM_COMPLETE_DURATION, 1);
    wmeters_add_for(NULL, WM_FETCH_NEXT, "True", 1);
    wmeters_set(NULL, WM_CONCURRENCY, NULL, 1);
    wmeters_set_occupancy(NULL, 1);
    wmeters_rpc(NULL, WM_GET_TASK_RPC, "GetTask", "b:1", 1, 0);
    wmeters_task(NULL, &(struct meters_run){.task = &w->task});
}

/* --- docs/metrics.md ------------------------------------------------------------------------- */

/* Names of spec/client.md 8 and 14 that a worker in pull or push mode has. */
static const char *const original_names[] = {
    "taskworker.producer.compressed_parameters_size",
    "taskworker.producer.compression_time",
    "taskworker.registry.send_task.scheduled",
    "taskworker.registry.send_task.success",
    "taskworker.registry.send_task.failed",
    "taskworker.registry.send_task.cancelled",
    "taskworker.get_task.rpc",
    "taskworker.update_task.rpc",
    "taskworker.update_task_batch.rpc",
    "taskworker.client.rpc_error",
    "taskworker.client.get_task",
    "taskworker.client.fetch_next",
    "taskworker.client.health_check.touched",
    "taskworker.client.loadbalancer.rebalance",
    "taskworker.client.skipping_set_task_due_to_unavailable_host",
    "taskworker.worker.add_tasks.child_tasks_full",
    "taskworker.worker.fetch_task.not_found",
    "taskworker.worker.fetch_task.dropped_during_shutdown",
    "taskworker.worker.result_thread.queue_empty",
    "taskworker.worker.child_tasks.put.full",
    "taskworker.worker.child_task_queue_empty",
    "taskworker.worker.child_task.put.duration",
    "taskworker.worker.complete_duration",
    "taskworker.worker.update_status_batch_size",
    "taskworker.worker.processed_tasks.put.duration",
    "taskworker.worker.spawn_child",
    "taskworker.worker.child.spawn",
    "taskworker.worker.push_rpc",
    "taskworker.worker.push_rpc.duration",
    "taskworker.worker.warmup_timeout",
    "taskworker.worker.warmup_duration",
    "taskworker.child_tasks.size",
    "taskworker.processed_tasks.size",
    "taskworker.worker.occupancy",
    "taskworker.worker.concurrency",
    "taskworker.worker.exiting_children.size",
    "taskworker.worker.children",
    "taskworker.worker.max_task_count_reached",
    "taskworker.worker.child.parent_release_wait_duration",
    "taskworker.worker.unknown_task",
    "taskworker.worker.at_most_once.skipped",
    "taskworker.worker.processing_deadline_exceeded",
    "taskworker.task.at_most_once.executed",
    "taskworker.worker.memory_change",
    "taskworker.worker.context_rebuild.duration",
    "taskworker.worker.execute_task",
    "taskworker.worker.execution_duration",
    "taskworker.worker.execution_latency",
    "taskworker.worker.e2e_latency",
    "taskworker.worker.future_completion_duration",
    "taskworker.cogs.usage",
    "taskworker.worker.produce.result",
    "taskworker.task.futures_produced",
    "taskworker.task.incomplete_futures",
    "taskworker.worker.oldest_pending_activation_age",
    "taskworker.worker.activations_with_pending_futures",
    "taskworker.worker.child_busy_seconds",
    "taskworker.worker.child_wait_seconds",
    "taskworker.worker.child_message.age",
    "taskworker.worker.shutdown.stage_duration",
    "taskworker.worker.occupancy.accounting_overflow",
    "taskworker.worker.occupancy.accounting_deficit",
    "taskworker.worker.shutdown.results_dropped",
    "taskworker.worker.shutdown.child_tasks_discarded",
};

static struct buf document;

static int read_document(void **state)
{
    char part[4096];
    size_t got;
    FILE *file = fopen(METRICS_DOCS, "r");
    char *worker;

    (void)state;
    assert_non_null(file);
    while ((got = fread(part, 1, sizeof part, file)) > 0)
        buf_append(&document, part, got);
    fclose(file);
    worker = strstr(buf_cstr(&document), "\n# The worker's metrics\n");
    assert_non_null(worker);
    buf_consume(&document, (size_t)(worker - buf_cstr(&document)));
    return 0;
}

static int forget_document(void **state)
{
    (void)state;
    buf_free(&document);
    return 0;
}

/* The row's text from its type on; NULL: none. It is an error if there are two. */
static const char *find_row(const char *name)
{
    char start[128];
    const char *row;

    snprintf(start, sizeof start, "\n| `%s` | ", name);
    row = strstr(buf_cstr(&document), start);
    if (row == NULL)
        return NULL;
    assert_null(strstr(row + 1, start));
    return row + strlen(start);
}

static void type_and_tags(const struct metric_def *def, struct buf *out)
{
    const char *type = def->kind == METRIC_COUNTER ? "c"
                       : def->kind == METRIC_GAUGE ? "g"
                                                   : def->statsd;

    buf_clear(out);
    buf_printf(out, "%s | ", type);
    for (int i = 0; i < METRIC_LABELS_MAX && def->labels[i]; i++)
        buf_printf(out, "%s%s", i ? ", " : "", def->labels[i]);
    buf_append_str(out, def->labels[0] ? " | " : "- | ");
}

static bool goes_to_statsd(const struct metric_def *def)
{
    return def->statsd == NULL || def->statsd[0] != '\0';
}

static void every_family_is_described(void **state)
{
    struct buf wanted = {0};

    (void)state;
    for (int i = 0; i < WORKER_METERS; i++) {
        const struct metric_def *def = wmeters_def((enum worker_meter)i);
        const char *row = find_row(def->name);

        if (!goes_to_statsd(def))
            continue;
        if (row == NULL)
            fail_msg("docs/metrics.md lacks %s", def->name);
        type_and_tags(def, &wanted);
        if (strncmp(row, buf_cstr(&wanted), wanted.len) != 0 ||
            strncmp(row + wanted.len, "not sent", 8) == 0)
            fail_msg("docs/metrics.md is wrong about %s, which is %s", def->name,
                     buf_cstr(&wanted));
    }
    buf_free(&wanted);
}

static bool is_declared(const char *name)
{
    for (int i = 0; i < WORKER_METERS; i++) {
        const struct metric_def *def = wmeters_def((enum worker_meter)i);

        if (goes_to_statsd(def) && strcmp(def->name, name) == 0)
            return true;
    }
    return false;
}

static void what_is_described_as_sent_is_declared(void **state)
{
    const char *row = buf_cstr(&document);
    size_t rows = 0;

    (void)state;
    while ((row = strstr(row, "\n| `")) != NULL) {
        char name[128], type[8], tags[128], meaning[16];

        assert_int_equal(
            sscanf(row, "\n| `%127[^`]` | %7s | %127[^|]| %15[^|]", name, type, tags, meaning), 4);
        if ((strncmp(meaning, "not sent", 8) != 0) != is_declared(name))
            fail_msg("%s: documentation and table differ about whether it is sent", name);
        row++;
        rows++;
    }
    assert_true(rows > WORKER_METERS);
}

static void no_name_of_the_original_is_forgotten(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof original_names / sizeof *original_names; i++)
        if (find_row(original_names[i]) == NULL)
            fail_msg("docs/metrics.md lacks %s", original_names[i]);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_task_is_counted_everywhere),
        TEST(calls_are_timers_in_seconds),
        TEST(occupancy_comes_and_goes),
        TEST(nobody_watches),
        cmocka_unit_test(every_family_is_described),
        cmocka_unit_test(what_is_described_as_sent_is_declared),
        cmocka_unit_test(no_name_of_the_original_is_forgotten),
    };

    return cmocka_run_group_tests(tests, read_document, forget_document);
}
