/* SPDX-License-Identifier: Apache-2.0 */
#include "world.h"

#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"

#define FILE_NAME "world.sqlite"

static void copy_text(char *to, size_t size, struct bytes from)
{
    snprintf(to, size, "%.*s", BYTES_FMT_ARG(from));
}

/* --- ports ----------------------------------------------------------------------------------- */

static struct test_call *call_of(struct engine_call *call)
{
    return container_of(call, struct test_call, call);
}

static uint64_t commits_now(const struct world *world)
{
    assert_false(store_in_transaction(world->store)); /* nothing leaves from inside */
    return world->engine ? world->engine->stats.commits : 0;
}

static void on_reply(void *ctx, struct engine_call *engine_call, const struct rpc_reply *reply)
{
    struct world *world = ctx;
    struct test_call *call = call_of(engine_call);
    struct activation activation;
    const char *why;
    assert_false(call->replied);
    call->replied = true;
    call->status = reply->status;
    call->commits = engine_call->granted ? commits_now(world) : world->engine->stats.commits;
    snprintf(call->message, sizeof call->message, "%s", reply->message ? reply->message : "");
    buf_append(&call->answer, reply->blob ? reply->blob->data : NULL,
               reply->blob ? reply->blob->len : 0);
    if (engine_call->granted) {
        assert_int_equal(activation_parse(blob_bytes(reply->blob), &activation, &why), 0);
        copy_text(call->id, sizeof call->id, activation.id);
    }
    blob_unref(reply->blob);
}

static void on_release(void *ctx, struct engine_call *call)
{
    (void)ctx;
    call_of(call)->released = true;
}

static void on_flush(void *ctx)
{
    ((struct world *)ctx)->flushes++;
}

static bool on_busy(void *ctx, unsigned attempt)
{
    struct world *world = ctx;
    assert_int_equal(attempt, world->busy_calls + 1);
    world->busy_calls++;
    if (world->unlock && world->busy_calls == world->busy_until)
        world->unlock(world);
    return world->unlock != NULL;
}

static void on_source_failed(void *ctx, uint32_t source, int code, const char *why)
{
    (void)source;
    (void)code;
    (void)why;
    ((struct world *)ctx)->source_failures++;
}

/* --- scripted source and sink ----------------------------------------------------------------- */

static int source_start(struct topic_source *source, const struct topic_source_events *events,
                        struct err_text *why)
{
    (void)source;
    (void)events;
    (void)why;
    return 0;
}

static void source_commit(struct topic_source *source, int32_t partition, int64_t next_offset,
                          struct bytes metadata, bool urgent)
{
    struct world *world = container_of(source, struct world, source);
    assert_true(world->commit_count < WORLD_RECORDS);
    struct test_commit *commit = &world->commits[world->commit_count++];
    *commit = (struct test_commit){.partition = partition,
                                   .next_offset = next_offset,
                                   .urgent = urgent,
                                   .commits = commits_now(world)};
    copy_text(commit->metadata, sizeof commit->metadata, metadata);
}

static void source_ask(struct topic_source *source, int32_t partition)
{
    struct world *world = container_of(source, struct world, source);
    world->ask_count++;
    world->asked = partition;
}

static void source_revoke_done(struct topic_source *source, int32_t partition)
{
    struct world *world = container_of(source, struct world, source);
    world->revoke_done_count++;
    world->revoked = partition;
}

static void source_wake(struct topic_source *source)
{
    container_of(source, struct world, source)->wake_count++;
}

static const struct topic_source_ops source_ops = {.start = source_start,
                                                   .commit = source_commit,
                                                   .ask = source_ask,
                                                   .revoke_done = source_revoke_done,
                                                   .wake = source_wake};

static int sink_produce(struct topic_sink *sink, const char *topic, struct blob *payload,
                        const struct topic_header *headers, size_t header_count, void *opaque,
                        const char **why)
{
    struct world *world = container_of(sink, struct world, sink);
    if (world->produce_code) {
        *why = "the sink refuses";
        return world->produce_code;
    }
    assert_true(world->record_count < WORLD_RECORDS);
    struct test_record *record = &world->records[world->record_count++];
    *record = (struct test_record){.opaque = opaque, .commits = world->engine->stats.commits};
    snprintf(record->topic, sizeof record->topic, "%s", topic);
    buf_append(&record->payload, payload->data, payload->len);
    size_t len = 0;
    for (size_t i = 0; i < header_count; i++)
        len += (size_t)snprintf(record->headers + len, sizeof record->headers - len, "%.*s=%.*s;",
                                BYTES_FMT_ARG(headers[i].key), BYTES_FMT_ARG(headers[i].value));
    assert_true(len < sizeof record->headers);
    return 0;
}

static const struct topic_sink_ops sink_ops = {.produce = sink_produce};

static int forward_produce(struct topic_sink *sink, const char *topic, struct blob *payload,
                           const struct topic_header *headers, size_t header_count, void *opaque,
                           const char **why)
{
    struct world *world = container_of(sink, struct world, forward_sink);
    int rc = sink_produce(&world->sink, topic, payload, headers, header_count, opaque, why);
    if (rc == 0)
        snprintf(world->records[world->record_count - 1].cluster, sizeof world->records[0].cluster,
                 "%s", world->forward_cluster);
    return rc;
}

static const struct topic_sink_ops forward_sink_ops = {.produce = forward_produce};

static struct topic_sink *on_forward_sink(void *ctx, const char *cluster)
{
    struct world *world = ctx;
    snprintf(world->forward_cluster, sizeof world->forward_cluster, "%s", cluster);
    return world->no_forward_sink ? NULL : &world->forward_sink;
}

/* --- life ------------------------------------------------------------------------------------- */

static void default_options(struct world *world)
{
    world->source_options =
        (struct engine_source_options){.cluster = "main", .topic = "tasks", .group = "workers"};
    world->options = (struct engine_options){
        .inflight = {.seed = {1, 2},
                     .max_processing_attempts = 3,
                     .grace_ms = GRACE,
                     .publish_backoff_ms = 100,
                     .publish_backoff_max_ms = 30000,
                     .parked_retry_ms = 300000,
                     .claims_max = 100,
                     .queues_max = 100},
        .limits = {.pending_max = 100,
                   .processing_max = 50,
                   .delay_warn = 1000,
                   .store_max_bytes = UINT64_MAX,
                   .blob_cache_bytes = 1 << 20,
                   .blob_cache_item_bytes = 65536,
                   .turn_events = 4096,
                   .turn_bytes = 8 << 20,
                   .outbox_inflight = 256,
                   .outbox_max = 100000,
                   .enqueue_backlog = 1000,
                   .done_max = 1000,
                   .done_memory_ms = 86400000},
        .intake = {.payload_max = 1 << 20, .delay_max_s = 3600},
        .hold_ms = HOLD,
        .startup_grace_ms = 10000,
        .source_count = 1,
        .retry_topic = "retries",
        .deadletter_topic = "dlq",
        .ports = {.ctx = world,
                  .reply = on_reply,
                  .release = on_release,
                  .flush = on_flush,
                  .store_busy = on_busy,
                  .forward_sink = on_forward_sink,
                  .source_failed = on_source_failed},
    };
}

static struct world *new_world(void)
{
    log_init(LOG_TEXT, "off", NULL);
    struct world *world = mem_zalloc(sizeof *world);
    world->disk = crash_vfs_new(1);
    world->now_ms = BOOT0;
    world->wall_ms = WALL0;
    world->events_tail = &world->events;
    world->source.ops = &source_ops;
    world->sink.ops = &sink_ops;
    world->forward_sink.ops = &forward_sink_ops;
    default_options(world);
    return world;
}

int world_setup(void **state)
{
    *state = new_world();
    return 0;
}

int world_setup_embedded(void **state)
{
    struct world *world = new_world();
    world->source_options.embedded = true;
    *state = world;
    return 0;
}

static void inline_delivered(void *ctx, void *opaque, enum topic_delivery delivery, const char *why)
{
    engine_sink_delivered(((struct world *)ctx)->engine, opaque, delivery, why);
}

static void open_log(struct world *world)
{
    struct embedded_io io;
    engine_embedded_io(world->store, &io);
    world->log = embedded_log_new(&io);
    world->options.log = world->log;
    assert_int_equal(
        embedded_source_new(&world->used_source, world->log, world->source_options.topic, NULL), 0);
}

static void start_log(struct world *world)
{
    struct topic_sink_events sink_events = {.ctx = world, .delivered = inline_delivered};
    struct topic_source_events source_events;
    assert_int_equal(embedded_sink_new(&world->used_sink, world->log, &sink_events, NULL), 0);
    engine_source_events(world->engine, 0, &source_events);
    assert_int_equal(world->used_source->ops->start(world->used_source, &source_events, NULL), 0);
}

int world_open(struct world *world, struct err_text *why)
{
    struct store_options store = {
        .path = FILE_NAME, .vfs = crash_vfs_name(world->disk), .no_lock = true};
    int rc = store_open(&world->store, &store, why);
    if (rc)
        return rc;
    world->used_source = &world->source;
    world->used_sink = &world->sink;
    if (world->source_options.embedded)
        open_log(world);
    world->source_options.source = world->used_source;
    world->options.sources = &world->source_options;
    world->options.store = world->store;
    rc = engine_create(&world->engine, &world->options, world->now_ms, world->wall_ms, why);
    if (rc)
        return rc;
    if (world->log)
        start_log(world);
    engine_attach_sinks(world->engine, world->used_sink, world->used_sink);
    return 0;
}

void world_start(struct world *world)
{
    struct err_text why;
    if (world_open(world, &why))
        fail_msg("%s", why.s);
    if (!world->log)
        world_assign(world, 0, 0, -1, "");
    assert_int_equal(world_turn(world), 0);
}

/* Publications that a sink has accepted and will never report. */
static void forget_records(struct world *world)
{
    for (size_t i = 0; i < world->record_count; i++) {
        mem_free(world->records[i].opaque);
        buf_free(&world->records[i].payload);
    }
    world->record_count = 0;
}

static void forget_calls(struct world *world)
{
    for (size_t i = 0; i < world->call_count; i++) {
        blob_unref(world->calls[i].call.granted);
        buf_free(&world->calls[i].body);
        buf_free(&world->calls[i].answer);
    }
    memset(world->calls, 0, sizeof world->calls);
    world->call_count = 0;
}

void world_close_engine(struct world *world)
{
    if (world->log) {
        world->used_source->ops->destroy(world->used_source);
        if (world->used_sink != &world->sink)
            world->used_sink->ops->destroy(world->used_sink);
    }
    engine_destroy(world->engine, world->events);
    if (world->log)
        embedded_log_free(world->log);
    world->engine = NULL;
    world->log = NULL;
    world->options.log = NULL;
    world->events = NULL;
    world->events_tail = &world->events;
}

void world_crash(struct world *world, enum crash_mode mode)
{
    struct crash_vfs *after = crash_vfs_image(world->disk, mode, 7);
    struct err_text why;
    world_close_engine(world);
    store_abandon(world->store);
    crash_vfs_free(world->disk);
    forget_records(world);
    forget_calls(world);
    world->commit_count = 0;
    world->disk = after;
    if (world_open(world, &why))
        fail_msg("%s", why.s);
}

int world_teardown(void **state)
{
    struct world *world = *state;
    if (world->engine)
        world_close_engine(world);
    if (world->locker)
        sqlite3_close(world->locker);
    if (world->store)
        store_close(world->store);
    forget_records(world);
    forget_calls(world);
    crash_vfs_free(world->disk);
    mem_free(world);
    return 0;
}

void world_pass(struct world *world, int64_t ms)
{
    world->now_ms += ms;
    world->wall_ms += ms;
}

/* --- turns ------------------------------------------------------------------------------------ */

void world_post(struct world *world, struct engine_event *event)
{
    event->node.next = NULL;
    *world->events_tail = &event->node;
    world->events_tail = &event->node.next;
}

int world_turn(struct world *world)
{
    struct inbox_node *events = world->events;
    world->events = NULL;
    world->events_tail = &world->events;
    int rc = engine_turn(world->engine, events, world->now_ms, world->wall_ms);
    if (rc == 0)
        inflight_check(world->engine->inflight);
    return rc;
}

void world_settle(struct world *world)
{
    assert_int_equal(world_turn(world), 0);
    for (int i = 0; engine_next_ms(world->engine) <= world->now_ms; i++) {
        assert_true(i < 1000);
        assert_int_equal(world_turn(world), 0);
    }
}

struct inflight_counts world_counts(const struct world *world)
{
    struct inflight_counts counts;
    inflight_get_counts(world->engine->inflight, &counts);
    return counts;
}

struct engine_stats world_stats(const struct world *world)
{
    struct engine_stats stats;
    engine_get_stats(world->engine, &stats);
    return stats;
}

struct task *world_task(const struct world *world, const char *id)
{
    return inflight_find(world->engine->inflight, bytes_str(id));
}

/* --- what sources report ---------------------------------------------------------------------- */

struct activation world_activation(const char *id)
{
    return (struct activation){
        .id = bytes_str(id),
        .namespace = bytes_str("ns"),
        .taskname = bytes_str("ns.task"),
        .has_application = true,
        .application = bytes_str("app"),
        .has_received_at = true,
        .received_at_s = WALL0 / 1000,
        .retry_state = {.present = true,
                        .max_attempts = 3,
                        .on_attempts_exceeded = ON_ATTEMPTS_EXCEEDED_DEADLETTER},
        .processing_deadline_duration = 10,
    };
}

struct blob *world_payload(const struct activation *activation)
{
    struct buf payload = {0};
    activation_encode(activation, NULL, 0, &payload);
    struct blob *blob = blob_copy(buf_bytes(&payload));
    buf_free(&payload);
    return blob;
}

void world_record_at(struct world *world, int32_t partition, int64_t offset, struct blob *payload)
{
    struct engine_records *event =
        engine_event_new(EVENT_RECORDS, sizeof *event + sizeof event->items[0]);
    struct topic_record record = {
        .partition = partition, .offset = offset, .timestamp_ms = -1, .tombstone = !payload};
    if (payload)
        record.payload = blob_bytes(payload);
    event->count = 1;
    gate_take(engine_gate(world->engine), 1);
    intake_record(&event->items[0], &record, &world->options.intake, world->wall_ms);
    blob_unref(payload);
    world_post(world, &event->event);
}

void world_raw_record(struct world *world, int64_t offset, const char *payload)
{
    const struct intake_raw raw = {.cluster = "main",
                                   .topic = "events",
                                   .application = "app",
                                   .namespace = "ns",
                                   .taskname = "ns.task",
                                   .duration_s = 10,
                                   .compression_level = INTAKE_RAW_PLAIN};
    struct topic_record record = {
        .offset = offset, .timestamp_ms = world->wall_ms, .payload = bytes_str(payload)};
    struct engine_records *event =
        engine_event_new(EVENT_RECORDS, sizeof *event + sizeof event->items[0]);
    event->count = 1;
    gate_take(engine_gate(world->engine), 1);
    intake_raw_record(&event->items[0], &record, &raw, &world->options.intake, world->wall_ms);
    world_post(world, &event->event);
}

void world_record(struct world *world, int64_t offset, const struct activation *activation)
{
    world_record_at(world, 0, offset, world_payload(activation));
}

void world_task_at(struct world *world, int64_t offset, const char *id)
{
    struct activation activation = world_activation(id);
    world_record(world, offset, &activation);
}

void world_assign(struct world *world, int32_t partition, int64_t start, int64_t committed,
                  const char *metadata)
{
    struct topic_position position = {.partition = partition,
                                      .assigned = true,
                                      .start_offset = start,
                                      .committed = committed,
                                      .metadata = bytes_str(metadata)};
    world_post(world, &engine_positions_event(EVENT_ASSIGNED, 0, &position, 1)->event);
}

static void post_partition(struct world *world, enum engine_event_kind kind, int32_t partition,
                           int64_t next_offset)
{
    struct engine_partitions *event =
        engine_event_new(kind, sizeof *event + sizeof event->partitions[0]);
    event->count = 1;
    event->partitions[0] = partition;
    event->next_offset = next_offset;
    world_post(world, &event->event);
}

void world_revoke(struct world *world, int32_t partition)
{
    post_partition(world, EVENT_REVOKING, partition, 0);
}

void world_committed(struct world *world, int32_t partition, int64_t next_offset)
{
    post_partition(world, EVENT_COMMITTED, partition, next_offset);
}

void world_answer(struct world *world, int32_t partition, int64_t committed, int64_t low,
                  const char *metadata, int code)
{
    struct topic_position position = {.partition = partition,
                                      .committed = committed,
                                      .low = low,
                                      .metadata = bytes_str(metadata)};
    struct engine_positions *event = engine_positions_event(EVENT_ANSWERED, 0, &position, 1);
    event->code = code;
    world_post(world, &event->event);
}

void world_deliver(struct world *world, size_t record, enum topic_delivery delivery)
{
    struct engine_delivered *event = engine_event_new(EVENT_DELIVERED, sizeof *event);
    assert_true(record < world->record_count && world->records[record].opaque);
    event->opaque = world->records[record].opaque;
    event->delivery = delivery;
    world->records[record].opaque = NULL;
    snprintf(event->why, sizeof event->why, "as the test says");
    world_post(world, &event->event);
}

/* --- calls ------------------------------------------------------------------------------------ */

static struct test_call *new_call(struct world *world, enum engine_event_kind kind)
{
    assert_true(world->call_count < WORLD_CALLS);
    struct test_call *call = &world->calls[world->call_count++];
    call->call.event.kind = kind;
    call->call.deadline_ms = CLOCK_NEVER;
    world_post(world, &call->call.event);
    return call;
}

struct test_call *world_claim_of(struct world *world, const char *application,
                                 const char *namespace)
{
    struct test_call *call = new_call(world, EVENT_CLAIM);
    struct task_filter *filter = &call->call.filter;
    filter->has_application = application != NULL;
    filter->has_namespace = namespace != NULL;
    filter->application = bytes_str(application ? application : "");
    filter->namespace = bytes_str(namespace ? namespace : "");
    return call;
}

struct test_call *world_claim(struct world *world)
{
    return world_claim_of(world, NULL, NULL);
}

struct test_call *world_report(struct world *world, const char *id, enum activation_status status)
{
    struct test_call *call = new_call(world, EVENT_STATUS);
    call->call.status = (struct set_status_request){.id = bytes_str(id), .status = (int32_t)status};
    return call;
}

struct test_call *world_batch(struct world *world, const char *const *ids, size_t count,
                              enum activation_status status)
{
    struct test_call *call = new_call(world, EVENT_BATCH);
    for (size_t i = 0; i < count; i++) {
        struct set_status_request update = {.id = bytes_str(ids[i]), .status = (int32_t)status};
        set_batch_encode_one(&update, &call->body);
    }
    call->call.body = buf_bytes(&call->body);
    return call;
}

struct test_call *world_enqueue(struct world *world, const char *topic, const char *const *ids,
                                size_t count)
{
    struct test_call *call = new_call(world, EVENT_ENQUEUE);
    for (size_t i = 0; i < count; i++) {
        struct activation activation = world_activation(ids[i]);
        struct blob *payload = world_payload(&activation);
        enqueue_encode_activation(blob_bytes(payload), &call->body);
        blob_unref(payload);
    }
    if (topic)
        enqueue_encode_topic(bytes_str(topic), &call->body);
    call->call.body = buf_bytes(&call->body);
    return call;
}

struct test_call *world_give_back(struct world *world, struct test_call *const *got, size_t count)
{
    struct test_call *call = new_call(world, EVENT_GIVE_BACK);
    for (size_t i = 0; i < count; i++) {
        struct give_back entry = {.id = bytes_str(got[i]->id), .claim = got[i]->call.claim_number};
        give_back_encode_one(&entry, &call->body);
    }
    call->call.body = buf_bytes(&call->body);
    return call;
}

void world_cancel(struct world *world, struct test_call *call)
{
    struct engine_call_event *event = engine_event_new(EVENT_CANCEL, sizeof *event);
    event->call = &call->call;
    world_post(world, &event->event);
}

void world_undelivered(struct world *world, struct test_call *call)
{
    struct engine_undelivered *event = engine_event_new(EVENT_UNDELIVERED, sizeof *event);
    assert_non_null(call->call.granted);
    event->activation = call->call.granted;
    event->claim_number = call->call.claim_number;
    call->call.granted = NULL;
    world_post(world, &event->event);
}

void world_expect_claim(struct world *world, const char *id)
{
    struct test_call *call = world_claim(world);
    assert_int_equal(world_turn(world), 0);
    assert_true(call->replied);
    assert_int_equal(call->status, GRPC_OK);
    assert_string_equal(call->id, id);
}

void world_expect_no_task(struct world *world)
{
    struct test_call *call = world_claim(world);
    call->call.deadline_ms = world->now_ms; /* not held */
    assert_int_equal(world_turn(world), 0);
    assert_true(call->replied);
    assert_int_equal(call->status, GRPC_NOT_FOUND);
}

/* --- the file --------------------------------------------------------------------------------- */

static sqlite3 *connect_file(struct world *world, int flags)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open_v2(FILE_NAME, &db, flags, crash_vfs_name(world->disk)),
                     SQLITE_OK);
    return db;
}

int64_t world_sql_int(struct world *world, const char *sql)
{
    sqlite3 *db = connect_file(world, SQLITE_OPEN_READONLY);
    sqlite3_stmt *stmt;
    int rc = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    int64_t value = rc == SQLITE_ROW ? sqlite3_column_int64(stmt, 0) : -1;
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    assert_int_equal(rc, SQLITE_ROW);
    return value;
}

/* Only while no engine runs: a foreign writer is fail-stop. */
void world_sql(struct world *world, const char *sql)
{
    sqlite3 *db = connect_file(world, SQLITE_OPEN_READWRITE);
    char *why = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &why) != SQLITE_OK)
        fail_msg("%s", why);
    sqlite3_close(db);
}

static void unlock_file(struct world *world)
{
    sqlite3_close(world->locker);
    world->locker = NULL;
}

void world_lock_file(struct world *world, unsigned busy_until)
{
    sqlite3 *db = connect_file(world, SQLITE_OPEN_READWRITE);
    assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    world->locker = db;
    world->busy_until = busy_until;
    world->unlock = unlock_file;
}

bool world_has_header(const struct test_record *record, const char *key, const char *value)
{
    char text[256];
    snprintf(text, sizeof text, "%s=%s;", key, value);
    return strstr(record->headers, text) != NULL;
}
