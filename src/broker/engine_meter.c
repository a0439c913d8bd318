/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the engine counts (meters.h). Three ways, cheapest first:
 *   copied     numbers that the core, the store or the engine keep anyway: engine_meter_copy adds
 *              the difference to the meters, every 100 ms;
 *   a turn     sums over a turn, observed once at its end: batches, transactions;
 *   an event   the few things that need each event: reports by result, times of calls.
 *
 * Time is charged to kinds of work. The engine says when it begins something else
 * (engine_begin_work); the clock is read only then, so a thousand rows of one kind cost two
 * readings. The clock is given from outside and nothing but meters depends on it; without one all
 * times are 0 and none is observed.
 */
#include "base/clock.h"
#include "base/mem.h"
#include "broker/engine_int.h"

#define DEFAULT_PERIOD_MS 1000

static const char *const report_statuses[] = {
    [REPORT_COMPLETE] = "Complete", [REPORT_RETRY] = "Retry", [REPORT_FAILURE] = "Failure"};

/* In the original's words; what INV-6 ignores is something that it does not have. */
static const char *const report_outcomes[] = {
    [OUTCOME_OK] = "ok", [OUTCOME_NOT_FOUND] = "not_found", [OUTCOME_IGNORED] = "ignored"};

/* --- set-up ---------------------------------------------------------------------------------- */

static struct metric *tagged(struct engine *engine, enum meter meter, const char *value)
{
    return meter_series(engine->meters, meter, METER_TAGS(bytes_str(value)));
}

static void init_reports(struct engine *engine)
{
    for (int i = 0; i < OUTCOMES; i++)
        for (int j = 0; j < REPORT_STATUSES; j++)
            engine->meter.reports[i][j] = meter_series(
                engine->meters, METER_SET_STATUS,
                METER_TAGS(bytes_str(report_outcomes[i]), bytes_str(report_statuses[j])));
}

static void init_source(struct engine *engine, struct engine_source *source)
{
    struct source_meter *meter = &source->meter;
    meter->assigned = tagged(engine, METER_ASSIGNED, source->topic);
    meter->revoked = tagged(engine, METER_REVOKED, source->topic);
    meter->partitions = tagged(engine, METER_PARTITIONS, source->topic);
    meter->expired = tagged(engine, METER_EXPIRED_AT_INTAKE, source->topic);
    meter->stored = tagged(engine, METER_ROWS_STORED, source->topic);
    meter->write_failed = tagged(engine, METER_WRITE_FAILED, source->topic);
    meter->batch_rows = tagged(engine, METER_BATCH_ROWS, source->topic);
    meter->batch_bytes = tagged(engine, METER_BATCH_BYTES, source->topic);
    meter->write_time = tagged(engine, METER_WRITE_TIME, source->topic);
    meter->insert_lag = tagged(engine, METER_INSERT_LAG, source->topic);
    for (int block = BLOCK_NONE + 1; block < ENGINE_BLOCKS; block++)
        meter->backpressure[block] =
            meter_series(engine->meters, METER_BACKPRESSURE,
                         METER_TAGS(bytes_str(source->topic),
                                    bytes_str(engine_block_name((enum engine_block)block))));
}

void engine_meter_init(struct engine *engine, const struct engine_options *options)
{
    struct engine_meter *meter = &engine->meter;
    meter->options = options->meter;
    if (meter->options.period_ms <= 0)
        meter->options.period_ms = DEFAULT_PERIOD_MS;
    meter->next_period_ms = engine->now_ms + meter->options.period_ms;
    meter->period_us = engine_meter_now_us(engine);
    init_reports(engine);
    for (size_t i = 0; i < engine->source_count; i++)
        init_source(engine, &engine->sources[i]);
}

/* --- time ------------------------------------------------------------------------------------ */

int64_t engine_meter_now_us(const struct engine *engine)
{
    return engine->meter.options.clock_us ? engine->meter.options.clock_us() : 0;
}

enum engine_work engine_begin_work(struct engine *engine, enum engine_work work)
{
    struct engine_meter *meter = &engine->meter;
    enum engine_work before = meter->work;
    if (work == before)
        return before;
    int64_t now_us = engine_meter_now_us(engine);
    meter->spent_us[before] += (uint64_t)(now_us - meter->since_us);
    meter->since_us = now_us;
    meter->work = work;
    return before;
}

void engine_meter_due(void *ctx, int state)
{
    static const enum engine_work works[TASK_STATES] = {
        [TASK_PENDING] = WORK_EXPIRY,       [TASK_DELAY] = WORK_DELAYS,
        [TASK_PROCESSING] = WORK_DEADLINES, [TASK_RETRY] = WORK_RETRIES,
        [TASK_FAILURE] = WORK_FAILED,
    };
    engine_begin_work(ctx, state < 0 ? WORK_OTHER : works[state]);
}

enum engine_work engine_work_of(const struct task *task)
{
    switch ((enum task_end)task->end) {
    case TASK_LIVE:
        break;
    case TASK_COMPLETED:
        return WORK_COMPLETED;
    case TASK_RETRIED:
        return WORK_RETRIES;
    case TASK_DEADLETTERED:
    case TASK_DISCARDED:
        return WORK_FAILED;
    case TASK_EXPIRED:
        return WORK_EXPIRY;
    case TASK_KILLED:
        return WORK_KILLED;
    case TASK_FORWARDED:
        return WORK_FORWARDS;
    case TASK_FOREIGN:
        return WORK_OTHER;
    }
    return task->state == TASK_RETRY     ? WORK_RETRIES
           : task->state == TASK_FAILURE ? WORK_FAILED
                                         : WORK_OTHER;
}

/* --- a turn ---------------------------------------------------------------------------------- */

void engine_meter_turn_begin(struct engine *engine)
{
    struct engine_meter *meter = &engine->meter;
    meter->turn_us = meter->since_us = engine_meter_now_us(engine);
    meter->work = WORK_OTHER;
}

/* What goes to another topic is in the outbox, in the same transaction: it cannot fail alone. */
static void observe_rules(struct engine *engine, const char *topic, const struct batch_meter *turn)
{
    if (turn->matched && engine->meter.options.clock_us)
        metric_observe(tagged(engine, METER_KILL_TIME, topic), (uint64_t)turn->match_us);
    if (!turn->forwarded)
        return;
    metric_observe(tagged(engine, METER_FORWARD_ATTEMPTS, topic), turn->forwarded);
    metric_observe(tagged(engine, METER_FORWARD_SUCCESSES, topic), turn->forwarded);
    metric_observe(tagged(engine, METER_FORWARD_FAILURES, topic), 0);
}

static void observe_batch(struct engine *engine, const struct engine_source *source,
                          uint64_t write_us)
{
    const struct source_meter *meter = &source->meter;
    metric_observe(meter->batch_rows, meter->turn.rows);
    metric_observe(meter->batch_bytes, meter->turn.bytes);
    observe_rules(engine, source->topic, &meter->turn);
    if (!meter->turn.stored)
        return;
    metric_add(meter->stored, meter->turn.stored);
    if (engine->meter.options.clock_us)
        metric_observe(meter->write_time, write_us);
    int64_t lag_ms = engine->wall_ms - meter->turn.oldest_ms;
    metric_observe(meter->insert_lag, lag_ms > 0 ? (uint64_t)lag_ms / 1000 : 0);
}

/* At a drain nobody waits for room. */
static void count_block(struct engine *engine)
{
    if (engine->block == BLOCK_NONE || engine->block == BLOCK_DRAIN)
        return;
    for (size_t i = 0; i < engine->source_count; i++)
        metric_add(engine->sources[i].meter.backpressure[engine->block], 1);
}

void engine_meter_wrote(struct engine *engine, int rc)
{
    uint64_t write_us = (uint64_t)(engine_meter_now_us(engine) - engine->meter.write_us);
    for (size_t i = 0; i < engine->source_count; i++) {
        struct source_meter *meter = &engine->sources[i].meter;
        if (rc && meter->turn.stored)
            metric_add(meter->write_failed, 1);
        else if (meter->turn.rows)
            observe_batch(engine, &engine->sources[i], write_us);
        meter->turn = (struct batch_meter){0};
    }
}

void engine_meter_turn_end(struct engine *engine, enum engine_block block_before)
{
    struct engine_meter *meter = &engine->meter;
    if (engine->block != block_before)
        count_block(engine);
    int64_t now_us = engine_meter_now_us(engine);
    meter->spent_us[meter->work] += (uint64_t)(now_us - meter->since_us);
    meter->busy_us += (uint64_t)(now_us - meter->turn_us);
    meter->since_us = now_us;
    meter->work = WORK_OTHER;
}

void engine_meter_maintained(struct engine *engine)
{
    const struct store_upkeep *did = store_last_upkeep(engine->store);
    const struct bytes *database = METER_TAGS(bytes_str("meta")); /* the original's name for it */
    struct meters *meters = engine->meters;
    if (did->checkpointed) {
        meter_set(meters, METER_CHECKPOINT_BUSY, did->checkpoint_busy);
        meter_set(meters, METER_CHECKPOINT_FAILED, did->checkpoint_failed);
        if (!did->checkpoint_failed) {
            meter_set(meters, METER_WAL_PAGES, did->wal_pages);
            meter_set(meters, METER_CHECKPOINT_PAGES, did->file_pages);
            if (engine->meter.options.clock_us)
                meter_observe(meters, METER_CHECKPOINT_TIME, (uint64_t)did->checkpoint_us);
        }
    }
    if (did->vacuumed) {
        if (engine->meter.options.clock_us)
            metric_observe(meter_series(meters, METER_VACUUM_TIME, database),
                           (uint64_t)did->vacuum_us);
        metric_set(meter_series(meters, METER_VACUUM_FREE, database), did->free_pages);
    }
}

/* --- events ---------------------------------------------------------------------------------- */

void engine_meter_took(struct engine *engine, uint32_t source, const struct intake_item *item)
{
    struct batch_meter *turn = &engine->sources[source].meter.turn;
    turn->rows++;
    turn->bytes += item->blob ? item->blob->len : 0;
}

void engine_meter_stored(struct engine *engine, uint32_t source, const struct intake_item *item)
{
    struct batch_meter *turn = &engine->sources[source].meter.turn;
    if (turn->stored++ == 0 || item->received_at_ms < turn->oldest_ms)
        turn->oldest_ms = item->received_at_ms;
}

void engine_meter_report(struct engine *engine, enum report_status status,
                         enum report_result result)
{
    enum report_outcome outcome = result == REPORT_APPLIED      ? OUTCOME_OK
                                  : result == REPORT_UNKNOWN_ID ? OUTCOME_NOT_FOUND
                                                                : OUTCOME_IGNORED;
    metric_add(engine->meter.reports[outcome][status], 1);
    if (status == REPORT_FAILURE)
        meter_add(engine->meters, METER_FAILURES_REPORTED, 1);
}

void engine_meter_batch(struct engine *engine, const struct report_batch *batch)
{
    struct meters *meters = engine->meters;
    size_t total = 0;
    for (int i = 0; i < REPORT_STATUSES; i++) {
        size_t count = batch->counts[i], changed = batch->applied[i];
        total += count;
        if (i == REPORT_RETRY || !count)
            continue;
        metric_observe(tagged(engine, METER_BATCH_SIZE, report_statuses[i]), count);
        metric_observe(tagged(engine, METER_BATCH_DIFF, report_statuses[i]), count - changed);
        metric_observe(tagged(engine, METER_BATCH_PARTIAL, report_statuses[i]), count != changed);
    }
    meter_add(meters, METER_BATCH_UPDATES, total);
    meter_observe(meters, METER_BATCH_COUNT, total > batch->counts[REPORT_RETRY]);
    meter_observe(meters, METER_BATCH_RETRIES, batch->counts[REPORT_RETRY]);
}

void engine_meter_reply(struct engine *engine, const struct engine_call *call, bool with_task)
{
    struct meters *meters = engine->meters;
    if (!engine->meter.options.clock_us || !call->started_us)
        return;
    int64_t took_us = engine->meter.reply_us - call->started_us;
    uint64_t us = took_us > 0 ? (uint64_t)took_us : 0;
    switch (call->event.kind) {
    case EVENT_CLAIM:
        if (with_task)
            meter_observe(meters, METER_GET_TASK_TIME, us);
        break;
    case EVENT_STATUS:
        meter_observe(meters, METER_SET_STATUS_TIME, us);
        if (call->status.has_fetch_next)
            meter_observe(meters, METER_FETCH_NEXT_TIME, us);
        break;
    case EVENT_BATCH:
        meter_observe(meters, METER_SET_BATCH_TIME, us);
        break;
    default:
        break;
    }
}

void engine_meter_latency(struct engine *engine, const struct task *task, uint64_t latency_ms)
{
    if (latency_ms == 0 || task->attempts > 0)
        return;
    const struct bytes *names = METER_TAGS(task_namespace(task), task_name(task));
    metric_observe(
        meter_cached(&engine->meter.latencies, engine->meters, METER_START_LATENCY, names),
        latency_ms);
}

/* --- copied numbers -------------------------------------------------------------------------- */

static void copy_to(struct metric *metric, uint64_t now, uint64_t before)
{
    metric_add(metric, now - before);
}

static void copy_ends(struct engine *engine, const struct inflight_counts *now)
{
    const struct inflight_counts *before = &engine->meter.counts;
    uint64_t failed = now->deadlettered + now->discarded,
             failed_before = before->deadlettered + before->discarded;
    const struct {
        enum meter meter;
        const char *tag;
        uint64_t now, before;
    } counters[] = {
        {METER_TRANSITIONS, "completed", now->completed, before->completed},
        {METER_TRANSITIONS, "retried", now->retried, before->retried},
        {METER_TRANSITIONS, "failed", failed, failed_before},
        {METER_CLEANUP, "publish_deadlettered", now->deadlettered, before->deadlettered},
        {METER_CLEANUP, "delete_discarded", now->discarded, before->discarded},
        {METER_CLEANUP, "removed_expired", now->expired, before->expired},
        {METER_CLEANUP, "mark_processing_attempts_exceeded_as_failure", now->attempts_exceeded,
         before->attempts_exceeded},
        {METER_CLEANUP, "processing_deadline_exceeded", now->deadlines_missed,
         before->deadlines_missed},
        {METER_CLEANUP, "mark_delay_elapsed_as_pending", now->delays_elapsed,
         before->delays_elapsed},
        {METER_DROPPED, "duplicate id", now->duplicates, before->duplicates},
        {METER_DROPPED, "owned by another broker", now->foreign, before->foreign},
    };
    for (size_t i = 0; i < sizeof counters / sizeof *counters; i++)
        copy_to(tagged(engine, counters[i].meter, counters[i].tag), counters[i].now,
                counters[i].before);
    for (int i = REPORT_UNKNOWN_ID; i < REPORT_RESULTS; i++)
        copy_to(tagged(engine, METER_REPORTS_IGNORED, report_result_name((enum report_result)i)),
                now->reports[i], before->reports[i]);
    copy_to(meter_series(engine->meters, METER_GIVEN_BACK, NULL), now->given_back,
            before->given_back);
    copy_to(meter_series(engine->meters, METER_PUBLISH_FAILURES, NULL), now->publish_failures,
            before->publish_failures);
    engine->meter.counts = *now;
}

static void copy_engine(struct engine *engine, const struct engine_stats *now)
{
    const struct engine_stats *before = &engine->meter.stats;
    struct meters *meters = engine->meters;
    copy_to(tagged(engine, METER_DROPPED, "ended at-most-once task"), now->done_dropped,
            before->done_dropped);
    copy_to(tagged(engine, METER_DROPPED, "offset read before"), now->offsets_back,
            before->offsets_back);
    meter_add(meters, METER_BAD_MESSAGES, now->outboxed - before->outboxed);
    meter_add(meters, METER_DELAYS_CUT, now->delays_cut - before->delays_cut);
    meter_add(meters, METER_ENQUEUED, now->enqueued - before->enqueued);
    copy_to(tagged(engine, METER_RETURNED, "ok"), now->returned, before->returned);
    copy_to(tagged(engine, METER_RETURNED, "ignored"), now->not_returned, before->not_returned);
    meter_add(meters, METER_COMMITS, now->commits - before->commits);
    engine->meter.stats = *now;
    uint64_t lost = metrics_overflows(meters_registry(meters));
    meter_add(meters, METER_SERIES_LOST, lost - engine->meter.series_lost);
    engine->meter.series_lost = lost;
}

static void set_depth(struct engine *engine, enum meter meter, size_t depth)
{
    const struct bytes *place =
        METER_TAGS(bytes_str(METER_DEPTH_TOPIC), bytes_str(METER_DEPTH_PARTITION));
    metric_set(meter_series(engine->meters, meter, place), (int64_t)depth);
}

static void set_gauges(struct engine *engine, const struct engine_stats *stats, int64_t wall_ms)
{
    struct meters *meters = engine->meters;
    const struct inflight_counts *counts = &stats->inflight;
    set_depth(engine, METER_PENDING, counts->by_state[TASK_PENDING]);
    set_depth(engine, METER_DELAYED, counts->by_state[TASK_DELAY]);
    set_depth(engine, METER_CLAIMED, 0);
    set_depth(engine, METER_PROCESSING, counts->by_state[TASK_PROCESSING]);
    const struct task *oldest = inflight_oldest_ready(engine->inflight);
    int64_t lag_ms = oldest ? wall_ms - oldest->received_at_wall_ms : 0;
    meter_set(meters, METER_MAX_LAG, lag_ms > 0 ? lag_ms : 0);
    meter_set(meters, METER_FILE_SIZE, (int64_t)engine->size.file_bytes);
    meter_set(meters, METER_WAL_SIZE, (int64_t)engine->size.wal_bytes);
    meter_set(meters, METER_OUTBOX, (int64_t)stats->outbox);
    meter_set(meters, METER_PUBLISHING, (int64_t)stats->publishing);
    meter_set(meters, METER_PARKED, (int64_t)counts->parked);
    meter_set(meters, METER_UNCONFIRMED, (int64_t)counts->unconfirmed);
    meter_set(meters, METER_UNSERVED, (int64_t)counts->unserved_pending);
    meter_set(meters, METER_HELD, (int64_t)counts->held_claims);
}

/* --- periods --------------------------------------------------------------------------------- */

static void observe_upkeep(struct engine *engine)
{
    static const enum meter meters[WORKS] = {
        [WORK_RETRIES] = METER_RETRIES_TIME, [WORK_DEADLINES] = METER_DEADLINES_TIME,
        [WORK_EXPIRY] = METER_EXPIRY_TIME,   [WORK_DELAYS] = METER_DELAYS_TIME,
        [WORK_FAILED] = METER_FAILED_TIME,   [WORK_COMPLETED] = METER_COMPLETED_TIME,
        [WORK_KILLED] = METER_KILLED_TIME,   [WORK_FORWARDS] = METER_FORWARD_TIME,
    };
    uint64_t sum_us = 0;
    for (int i = WORK_OTHER + 1; i < WORKS; i++) {
        uint64_t us = engine->meter.spent_us[i];
        sum_us += us;
        meter_observe(engine->meters, meters[i], us);
    }
    meter_observe(engine->meters, METER_UPKEEP_TIME, sum_us);
    memset(engine->meter.spent_us, 0, sizeof engine->meter.spent_us);
}

static void set_store_status(struct engine *engine)
{
    struct store_counters status;
    if (!engine->meter.options.store_status || store_get_counters(engine->store, &status))
        return;
    const struct {
        enum meter meter;
        int64_t value;
    } gauges[] = {
        {METER_CACHE_USED, status.cache_used_bytes},
        {METER_CACHE_USED_SHARED, status.cache_used_shared_bytes},
        {METER_CACHE_HIT, status.cache_hits},
        {METER_CACHE_MISS, status.cache_misses},
        {METER_CACHE_WRITE, status.cache_writes},
        {METER_CACHE_SPILL, status.cache_spills},
        {METER_SCHEMA_USED, status.schema_used_bytes},
        {METER_STMT_USED, status.stmt_used_bytes},
        {METER_LOOKASIDE_USED, status.lookaside_used},
        {METER_LOOKASIDE_HIT, status.lookaside_hits},
        {METER_LOOKASIDE_MISS_SIZE, status.lookaside_misses_size},
        {METER_LOOKASIDE_MISS_FULL, status.lookaside_misses_full},
        {METER_DEFERRED_FKS, status.deferred_fks},
    };
    for (size_t i = 0; i < sizeof gauges / sizeof *gauges; i++)
        meter_set(engine->meters, gauges[i].meter, gauges[i].value);
}

static void end_period(struct engine *engine)
{
    struct engine_meter *meter = &engine->meter;
    int64_t now_us = engine_meter_now_us(engine), period_us = now_us - meter->period_us;
    if (meter->options.clock_us) {
        observe_upkeep(engine);
        if (period_us > 0)
            meter_set(engine->meters, METER_UTILIZATION,
                      (int64_t)(meter->busy_us * 1000000 / (uint64_t)period_us));
    }
    meter->busy_us = 0;
    meter->period_us = now_us;
    set_store_status(engine);
    count_block(engine);
}

void engine_measure(struct engine *engine, int64_t boot_ms, int64_t wall_ms)
{
    struct engine_stats stats;
    engine_get_stats(engine, &stats);
    copy_ends(engine, &stats.inflight);
    copy_engine(engine, &stats);
    set_gauges(engine, &stats, wall_ms);
    if (boot_ms < engine->meter.next_period_ms)
        return;
    engine->meter.next_period_ms = boot_ms + engine->meter.options.period_ms;
    end_period(engine);
}

int64_t engine_next_measure_ms(const struct engine *engine)
{
    return engine->meter.next_period_ms;
}
