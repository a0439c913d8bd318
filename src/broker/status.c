/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/status.h"

#include <jansson.h>
#include <stdlib.h>
#include <unistd.h>

static json_t *number(uint64_t value)
{
    return json_integer((json_int_t)(value > INT64_MAX ? INT64_MAX : value));
}

/* Of values for which -1 means "not known". */
static json_t *known(int64_t value)
{
    return value < 0 ? json_null() : json_integer(value);
}

static json_t *seconds(int64_t ms)
{
    return json_real((double)ms / 1000);
}

/* NULL, and text that is not UTF-8 (a path may be anything), is null. */
static json_t *text(const char *value)
{
    json_t *string = value ? json_string(value) : NULL;
    return string ? string : json_null();
}

void status_totals(const struct engine_stats *engine, uint64_t totals[RATES])
{
    const struct inflight_counts *counts = &engine->inflight;
    totals[RATE_TAKEN_IN] = counts->added;
    totals[RATE_CLAIMED] = counts->claimed;
    totals[RATE_COMPLETED] = counts->completed;
    totals[RATE_RETRIED] = counts->retried;
    totals[RATE_FAILED] = counts->deadlettered + counts->discarded;
    totals[RATE_DEAD_LETTERED] = counts->deadlettered;
}

static json_t *tasks(const struct inflight_counts *counts)
{
    json_t *object = json_object();
    json_object_set_new(object, "pending", number(counts->by_state[TASK_PENDING]));
    json_object_set_new(object, "delay", number(counts->by_state[TASK_DELAY]));
    json_object_set_new(object, "processing", number(counts->by_state[TASK_PROCESSING]));
    json_object_set_new(object, "retry", number(counts->by_state[TASK_RETRY]));
    json_object_set_new(object, "failure", number(counts->by_state[TASK_FAILURE]));
    json_object_set_new(object, "total", number(counts->tasks));
    json_object_set_new(object, "parked", number(counts->parked));
    json_object_set_new(object, "unconfirmed_at_most_once", number(counts->unconfirmed));
    json_object_set_new(object, "unserved", number(counts->unserved_pending));
    return object;
}

static json_t *totals(const struct engine_stats *engine)
{
    json_t *object = json_object();
    uint64_t values[RATES];
    status_totals(engine, values);
    for (enum rate rate = 0; rate < RATES; rate++)
        json_object_set_new(object, rate_name(rate), number(values[rate]));
    json_object_set_new(object, "expired", number(engine->inflight.expired));
    json_object_set_new(object, "discarded", number(engine->inflight.discarded));
    json_object_set_new(object, "killed", number(engine->inflight.killed));
    json_object_set_new(object, "forwarded", number(engine->inflight.forwarded));
    json_object_set_new(object, "deadlines_missed", number(engine->inflight.deadlines_missed));
    json_object_set_new(object, "duplicates", number(engine->inflight.duplicates));
    return object;
}

static json_t *rates_of(const struct rates *rates, enum rate rate)
{
    json_t *object = json_object();
    json_object_set_new(object, "1s", json_real(rates_per_s(rates, rate, 1000)));
    json_object_set_new(object, "10s", json_real(rates_per_s(rates, rate, 10000)));
    json_object_set_new(object, "60s", json_real(rates_per_s(rates, rate, 60000)));
    return object;
}

static json_t *all_rates(const struct rates *rates)
{
    json_t *object = json_object();
    for (enum rate rate = 0; rate < RATES; rate++)
        json_object_set_new(object, rate_name(rate), rates_of(rates, rate));
    return object;
}

static json_t *store(const struct status *status)
{
    const struct store_size *size = &status->engine->store;
    json_t *object = json_object();
    json_object_set_new(object, "path", text(status->store_path));
    json_object_set_new(object, "used_bytes", number(size->used_bytes));
    json_object_set_new(object, "file_bytes", number(size->file_bytes));
    json_object_set_new(object, "wal_bytes", number(size->wal_bytes));
    json_object_set_new(object, "disk_free_bytes", number(size->disk_free_bytes));
    json_object_set_new(object, "max_bytes",
                        status->store_max_bytes == UINT64_MAX ? json_null()
                                                              : number(status->store_max_bytes));
    return object;
}

static json_t *outbox(const struct engine_stats *engine)
{
    json_t *object = json_object();
    json_object_set_new(object, "entries", number(engine->outbox));
    json_object_set_new(object, "publishing", number(engine->publishing));
    return object;
}

static json_t *partition(const struct kafka_lag *lag)
{
    json_t *object = json_object();
    json_object_set_new(object, "partition", json_integer(lag->partition));
    json_object_set_new(object, "position", known(lag->position));
    json_object_set_new(object, "committed", known(lag->committed));
    json_object_set_new(object, "high_watermark", known(lag->high));
    json_object_set_new(object, "lag", known(lag->lag));
    return object;
}

static json_t *topic(const struct status_topic *topic)
{
    json_t *object = json_object(), *partitions = json_array();
    for (size_t i = 0; i < topic->partition_count; i++)
        json_array_append_new(partitions, partition(&topic->partitions[i]));
    json_object_set_new(object, "topic", text(topic->topic));
    json_object_set_new(object, "cluster", text(topic->cluster));
    json_object_set_new(object, "group", text(topic->group));
    json_object_set_new(object, "partitions", partitions);
    return object;
}

static json_t *topics(const struct status *status)
{
    json_t *array = json_array();
    for (size_t i = 0; i < status->topic_count; i++)
        json_array_append_new(array, topic(&status->topics[i]));
    return array;
}

/* received_at is the producer's clock: it may lie in the future. */
static json_t *oldest_age(const struct status *status)
{
    int64_t since_ms = status->engine->oldest_pending_wall_ms;
    if (since_ms == 0)
        return json_null();
    return seconds(status->wall_ms > since_ms ? status->wall_ms - since_ms : 0);
}

static json_t *embedded_log(const struct status *status)
{
    if (!status->embedded)
        return json_null();
    json_t *object = json_object();
    json_object_set_new(object, "records", number(status->engine->log_records));
    json_object_set_new(object, "waiting", number(status->engine->log_waiting));
    return object;
}

static json_t *runtime_config(const struct status *status)
{
    const struct engine_stats *engine = status->engine;
    if (!status->runtime_path)
        return json_null();
    json_t *object = json_object();
    json_object_set_new(object, "path", text(status->runtime_path));
    json_object_set_new(object, "killswitch_rules", number(engine->rules));
    json_object_set_new(object, "demoted_namespaces", number(engine->demoted_namespaces));
    json_object_set_new(object, "applying", json_boolean(engine->sweeping));
    return object;
}

static json_t *verdict(const struct status_verdict *verdict)
{
    json_t *object = json_object();
    json_object_set_new(object, "ok", json_boolean(verdict->yes));
    json_object_set_new(object, "reason", text(verdict->why));
    return object;
}

static void add_started(const struct status *status, const struct rates *rates, json_t *root)
{
    const struct engine_stats *engine = status->engine;
    json_object_set_new(root, "grpc_address", text(status->grpc_address));
    json_object_set_new(root, "connections", number(status->connections));
    json_object_set_new(root, "streams", number(status->streams));
    json_object_set_new(root, "held_claims", number(engine->inflight.held_claims));
    json_object_set_new(root, "tasks", tasks(&engine->inflight));
    json_object_set_new(root, "oldest_pending_age_s", oldest_age(status));
    json_object_set_new(root, "backpressure",
                        engine->block == BLOCK_NONE ? json_null()
                                                    : text(engine_block_name(engine->block)));
    json_object_set_new(root, "rates_per_s", all_rates(rates));
    json_object_set_new(root, "totals", totals(engine));
    json_object_set_new(root, "outbox", outbox(engine));
    json_object_set_new(root, "store", store(status));
    json_object_set_new(root, "topics", topics(status));
    json_object_set_new(root, "embedded_log", embedded_log(status));
    json_object_set_new(root, "runtime_config", runtime_config(status));
}

void status_write(const struct status *status, const struct rates *rates, struct buf *out)
{
    json_t *root = json_object();
    json_object_set_new(root, "version", text(TASKMILL_VERSION));
    json_object_set_new(root, "pid", json_integer(getpid()));
    json_object_set_new(root, "state", text(status->state));
    json_object_set_new(root, "healthy", verdict(&status->healthy));
    json_object_set_new(root, "ready", verdict(&status->ready));
    json_object_set_new(root, "started_at_s", seconds(status->started_wall_ms));
    json_object_set_new(root, "uptime_s", seconds(status->uptime_ms));
    json_object_set_new(root, "admin_address", text(status->admin_address));
    if (status->started)
        add_started(status, rates, root);
    char *json = json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(15));
    buf_printf(out, "%s\n", json ? json : "{}");
    free(json); /* tidy: free, jansson allocated it */
    json_decref(root);
}
