/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "broker/meters.h"

struct found {
    const char *name;
    struct bytes values[METRIC_LABELS_MAX];
    size_t series;
    uint64_t counter;
};

static void find(void *arg, const struct metric_view *view)
{
    struct found *found = arg;
    if (strcmp(view->def->name, found->name) != 0)
        return;
    found->series++;
    for (size_t i = 0; i < view->label_count; i++)
        if (!bytes_equal(view->values[i], found->values[i]))
            return;
    found->counter += view->counter;
}

static struct found look(const struct meters *meters, const char *name, const char *first,
                         const char *second)
{
    struct found found = {.name = name, .values = {bytes_str(first), bytes_str(second)}};
    metrics_visit(meters_registry(meters), find, &found);
    return found;
}

static void families_are_sound(void **state)
{
    (void)state;
    struct meters *meters = meters_new(); /* asserts that names are unique */
    for (int i = 0; i < METERS; i++) {
        const struct metric_def *def = meter_def((enum meter)i);
        assert_true(strlen(def->name) > 0 && strlen(def->help) > 0);
        assert_int_equal(strspn(def->name, "abcdefghijklmnopqrstuvwxyz_."), strlen(def->name));
        assert_true(def->scale == 1 || def->scale == METER_US || def->scale == METER_MS);
        assert_true(def->kind != METRIC_COUNTER || def->scale == 1);
    }
    meters_free(meters);
    meters_free(NULL);
}

static void known_counters_exist_from_the_start(void **state)
{
    (void)state;
    struct meters *meters = meters_new();
    assert_int_equal(look(meters, "upkeep.task.state_transition", "failed", "").series, 3);
    assert_int_equal(look(meters, "upkeep.cleanup_action", "removed_expired", "").series, 6);
    assert_int_equal(look(meters, "enqueue.activations", "", "").series, 1);
    assert_int_equal(look(meters, "filter.drop_task_killswitch", "", "").series, 0);
    meters_free(meters);
}

static void counts_with_and_without_tags(void **state)
{
    (void)state;
    struct meters *meters = meters_new();
    const struct bytes *tags = METER_TAGS(bytes_str("completed"));
    meter_add_tagged(meters, METER_TRANSITIONS, tags, 2);
    metric_add(meter_series(meters, METER_TRANSITIONS, tags), 3);
    assert_int_equal(look(meters, "upkeep.task.state_transition", "completed", "").counter, 5);
    meter_add(meters, METER_ENQUEUED, 7);
    assert_int_equal(look(meters, "enqueue.activations", "", "").counter, 7);
    meters_free(meters);
}

static void a_cache_finds_the_same_series(void **state)
{
    (void)state;
    struct meters *meters = meters_new();
    static struct meter_cache cache;
    char names[1000][8]; /* more than there are slots: they push each other out */
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 1000; i++) {
            snprintf(names[i], sizeof names[i], "n%d", i);
            const struct bytes *tags = METER_TAGS(bytes_str("ns"), bytes_str(names[i]));
            struct metric *cached = meter_cached(&cache, meters, METER_FORWARDED_TASK, tags);
            assert_ptr_equal(cached, meter_series(meters, METER_FORWARDED_TASK, tags));
            metric_add(cached, 1);
        }
    const char *name = "upkeep.forward_task_demoted_namespace";
    assert_int_equal(look(meters, name, "ns", "n17").counter, 2);
    assert_int_equal(look(meters, name, "ns", "n17").series, 1000);
    /* values that differ only in how they are cut into labels, or in the middle */
    assert_ptr_not_equal(meter_cached(&cache, meters, METER_FORWARDED_TASK,
                                      METER_TAGS(bytes_str("a"), bytes_str("0123456701234567"))),
                         meter_cached(&cache, meters, METER_FORWARDED_TASK,
                                      METER_TAGS(bytes_str("a"), bytes_str("9123456701234567"))));
    meters_free(meters);
}

static void strangers_cannot_make_endless_series(void **state)
{
    (void)state;
    struct meters *meters = meters_new();
    struct meter_cache cache = {{NULL}};
    for (int i = 0; i < METERS_SERIES_MAX + 10; i++) {
        char name[16];
        snprintf(name, sizeof name, "task-%d", i);
        metric_add(meter_cached(&cache, meters, METER_FORWARDED_TASK,
                                METER_TAGS(bytes_str("ns"), bytes_str(name))),
                   1);
    }
    struct found found = look(meters, "upkeep.forward_task_demoted_namespace", "other", "other");
    assert_in_range(found.series, METERS_SERIES_MAX - 200, METERS_SERIES_MAX + 1);
    assert_true(found.counter >= 10);
    assert_int_equal(found.counter + found.series - 1, METERS_SERIES_MAX + 10);
    meters_free(meters);
}

/* --- docs/metrics.md ------------------------------------------------------------------------- */

/* Every name of spec/broker.md 10.2. */
static const char *const original_names[] = {
    "arroyo.consumer.current_partitions",
    "arroyo.consumer.partitions_assigned.count",
    "arroyo.consumer.partitions_revoked.count",
    "consumer.message.payload_size_bytes",
    "consumer.raw.payload_size_bytes",
    "consumer.raw.compressed_payload_size_bytes",
    "filter.drop_task_killswitch.duration",
    "filter.drop_task_killswitch",
    "filter.expired_at_consumer",
    "filter.forward_task_demoted_namespace",
    "filter.forward_task_demoted_namespace.skipped",
    "consumer.batch_rows",
    "consumer.batch_bytes",
    "consumer.forward_attempts",
    "consumer.forward_successes",
    "consumer.forward_failures",
    "consumer.inflight_activation_writer.backpressure",
    "consumer.inflight_activation_writer.write_to_store",
    "consumer.inflight_activation_writer.insert_lag",
    "consumer.inflight_activation_writer.stored",
    "consumer.inflight_activation_writer.write_failed",
    "grpc.request",
    "grpc.request.duration",
    "grpc_server.received_to_gettask.latency",
    "grpc_server.get_task.duration",
    "grpc_server.set_status.duration",
    "grpc_server.fetch_next.duration",
    "grpc_server.set_batch_activation_status.duration",
    "grpc_server.set_status.failure",
    "grpc_server.set_status",
    "grpc_server.set_batch_activation_status.total_updates_received",
    "grpc_server.set_batch_activation_status.num_batches",
    "grpc_server.set_batch_activation_status.retry_updates",
    "grpc_server.set_batch_activation_status.batch_size",
    "grpc_server.set_batch_activation_status.affected_diff",
    "grpc_server.set_batch_activation_status.partial",
    "grpc_server.flush_updates.requested",
    "grpc_server.flush_updates.affected",
    "grpc_server.flush_updates.updated",
    "grpc_server.flush_updates.partial",
    "grpc_server.flush_updates",
    "fetch.loop.count",
    "fetch.empty",
    "fetch.claimed",
    "fetch.store_error",
    "fetch.submit",
    "fetch.claim_activations_for_push.duration",
    "fetch.loop.duration",
    "fetch.claim_batch_size",
    "push.received_to_claimed.latency",
    "push.received_to_push.latency",
    "push.queue.depth",
    "push.updater.queue.depth",
    "push.queue.wait_duration",
    "push.queue.latency",
    "push.thread.update.duration",
    "worker.push_task.duration",
    "worker.push_task.attempts",
    "worker.push_task",
    "push.undo_claim",
    "push.mark_activation_processing",
    "push.thread.update",
    "push.missing_worker_mapping",
    "push.updater.flush",
    "push.updater.flush.expected",
    "push.updater.flush.actual",
    "sqlite.write.acquire_conn",
    "postgres.write.acquire_conn",
    "sqlite.db.cache_used_bytes",
    "sqlite.db.cache_used_shared_bytes",
    "sqlite.db.cache_hit_total",
    "sqlite.db.cache_miss_total",
    "sqlite.db.cache_write_total",
    "sqlite.db.cache_spill_total",
    "sqlite.db.schema_used_bytes",
    "sqlite.db.stmt_used_bytes",
    "sqlite.db.lookaside_used",
    "sqlite.db.lookaside_hit_highwater",
    "sqlite.db.lookaside_miss_size_highwater",
    "sqlite.db.lookaside_miss_full_highwater",
    "sqlite.db.deferred_fks_unresolved",
    "store.passive_checkpoint_busy",
    "store.pages_written_to_wal",
    "store.pages_committed_to_db",
    "store.checkpoint.failed",
    "store.checkpoint.duration",
    "store.vacuum",
    "store.vacuum.freelist",
    "store.retry.attempt",
    "store.retry.succeeded",
    "store.retry.exhausted",
    "upkeep.handle_retries",
    "upkeep.handle_processing_deadline",
    "upkeep.handle_claim_expiration",
    "upkeep.handle_processing_attempts_exceeded",
    "upkeep.handle_expires_at",
    "upkeep.handle_delay_until",
    "upkeep.handle_failed_tasks",
    "upkeep.remove_completed",
    "upkeep.remove_killswitched",
    "upkeep.forward_task_demoted_namespaces",
    "upkeep.full_vacuum",
    "upkeep.duration",
    "upkeep.handle_processing_deadline.skipped",
    "upkeep.handle_claim_expiration.skipped",
    "upkeep.dlq.message_size",
    "upkeep.forward_task_demoted_namespace",
    "upkeep.forward_task_demoted_namespace.publish_failure",
    "upkeep.forwarded_tasks",
    "upkeep.full_vacuum.failure",
    "upkeep.task.state_transition",
    "upkeep.cleanup_action",
    "upkeep.current_pending_tasks",
    "upkeep.current_claimed_tasks",
    "upkeep.current_processing_tasks",
    "upkeep.current_delayed_tasks",
    "upkeep.pending_activation.max_lag.sec",
    "upkeep.db_file_size.bytes",
    "upkeep.wal_file_size.bytes",
    "upkeep.health",
    "runtime.num_workers",
    "runtime.num_alive_tasks",
    "runtime.worker_utilization",
    "runtime.global_queue_depth",
    "runtime.worker_local_queue_depth",
};

enum { CELLS = 4, ROWS_MAX = 400 };

/* | `name` | type | tags | meaning | */
struct row {
    struct bytes cells[CELLS];
};

static struct row rows[ROWS_MAX];
static size_t row_count;
static struct buf text;

static void read_row(const char *line, size_t len)
{
    struct row *row = &rows[row_count];
    const char *end = line + len;
    if (len < 3 || memcmp(line, "| `", 3) != 0)
        return;
    for (int i = 0; i < CELLS; i++) {
        line += 2;
        const char *bar = memmem(line, (size_t)(end - line), " |", 2);
        assert_non_null(bar);
        row->cells[i] = bytes_of(line, (size_t)(bar - line));
        line = bar + 1;
    }
    row->cells[0] = bytes_of(row->cells[0].ptr + 1, row->cells[0].len - 2);
    assert_true(++row_count < ROWS_MAX);
}

static int read_document(void **state)
{
    (void)state;
    char part[4096];
    size_t got;
    FILE *file = fopen(METRICS_DOCS, "r");
    assert_non_null(file);
    while ((got = fread(part, 1, sizeof part, file)) > 0)
        buf_append(&text, part, got);
    fclose(file);
    char *worker = strstr(buf_cstr(&text), "\n# The worker's metrics\n");
    assert_non_null(worker);
    worker[1] = '\0'; /* tests/unit/worker/test_meters.c */
    for (const char *line = buf_cstr(&text), *end; (end = strchr(line, '\n')); line = end + 1)
        read_row(line, (size_t)(end - line));
    assert_true(row_count > METERS);
    return 0;
}

static int forget_document(void **state)
{
    (void)state;
    buf_free(&text);
    return 0;
}

static const struct row *find_row(const char *name)
{
    const struct row *found = NULL;
    for (size_t i = 0; i < row_count; i++) {
        if (!bytes_equal_str(rows[i].cells[0], name))
            continue;
        assert_null(found); /* described twice */
        found = &rows[i];
    }
    return found;
}

static bool is_sent(const struct row *row)
{
    static const char not_sent[] = "not sent: ";
    struct bytes meaning = row->cells[3];
    return meaning.len < sizeof not_sent || memcmp(meaning.ptr, not_sent, sizeof not_sent - 1) != 0;
}

static void tags_of(const struct metric_def *def, struct buf *out)
{
    buf_clear(out);
    for (int i = 0; i < METRIC_LABELS_MAX && def->labels[i]; i++)
        buf_printf(out, "%s%s", i ? ", " : "", def->labels[i]);
    if (!out->len)
        buf_append_str(out, "-");
}

static void every_family_is_described(void **state)
{
    static const char *const types[] = {
        [METRIC_COUNTER] = "c", [METRIC_GAUGE] = "g", [METRIC_HISTOGRAM] = "h"};
    struct buf tags = {0};
    (void)state;
    for (int i = 0; i < METERS; i++) {
        const struct metric_def *def = meter_def((enum meter)i);
        const struct row *row = find_row(def->name);
        if (!row)
            fail_msg("docs/metrics.md lacks %s", def->name);
        tags_of(def, &tags);
        if (!is_sent(row) || !bytes_equal_str(row->cells[1], types[def->kind]) ||
            !bytes_equal(row->cells[2], buf_bytes(&tags)))
            fail_msg("docs/metrics.md is wrong about %s", def->name);
    }
    buf_free(&tags);
}

static bool is_declared(struct bytes name)
{
    for (int i = 0; i < METERS; i++)
        if (bytes_equal_str(name, meter_def((enum meter)i)->name))
            return true;
    return false;
}

static void what_is_described_as_sent_is_declared(void **state)
{
    (void)state;
    for (size_t i = 0; i < row_count; i++)
        if (is_sent(&rows[i]) != is_declared(rows[i].cells[0]))
            fail_msg("%.*s: documentation and METERS_MAP differ about whether it is sent",
                     BYTES_FMT_ARG(rows[i].cells[0]));
}

static void no_name_of_the_original_is_forgotten(void **state)
{
    (void)state;
    size_t count = sizeof original_names / sizeof *original_names;
    for (size_t i = 0; i < count; i++)
        if (!find_row(original_names[i]))
            fail_msg("docs/metrics.md lacks %s", original_names[i]);
    size_t ours = 0;
    bool passed = false;
    for (size_t i = 0; i < row_count; i++) {
        passed = passed || bytes_equal_str(rows[i].cells[0], "outbox.entries");
        ours += passed;
    }
    assert_int_equal(row_count - ours, count);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(families_are_sound),
        cmocka_unit_test(known_counters_exist_from_the_start),
        cmocka_unit_test(counts_with_and_without_tags),
        cmocka_unit_test(a_cache_finds_the_same_series),
        cmocka_unit_test(strangers_cannot_make_endless_series),
        cmocka_unit_test(every_family_is_described),
        cmocka_unit_test(what_is_described_as_sent_is_declared),
        cmocka_unit_test(no_name_of_the_original_is_forgotten),
    };

    return cmocka_run_group_tests(tests, read_document, forget_document);
}
