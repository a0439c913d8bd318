/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/engine.h"

#include <assert.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/plant.h"
#include "broker/engine_int.h"

const char *engine_block_name(enum engine_block block)
{
    static const char *const names[] = {
#define X(name, text) [name] = (text),
        ENGINE_BLOCK_MAP(X)
#undef X
    };
    return names[block];
}

int64_t engine_boot_of_wall(const struct engine *engine, int64_t wall_ms)
{
    return clock_add(engine->now_ms, wall_ms - engine->wall_ms);
}

int64_t engine_wall_of_boot(const struct engine *engine, int64_t boot_ms)
{
    return clock_add(engine->wall_ms, boot_ms - engine->now_ms);
}

void *engine_event_new(enum engine_event_kind kind, size_t size)
{
    struct engine_event *event = mem_zalloc(size);
    event->kind = kind;
    return event;
}

struct engine_positions *engine_positions_event(enum engine_event_kind kind, uint32_t source,
                                                const struct topic_position *positions,
                                                size_t count)
{
    struct engine_positions *event =
        engine_event_new(kind, sizeof *event + count * sizeof event->positions[0]);
    event->source = source;
    event->count = count;
    for (size_t i = 0; i < count; i++) {
        struct engine_position *to = &event->positions[i];
        to->position = positions[i];
        to->position.metadata = bytes_of(NULL, 0);
        size_t len = positions[i].metadata.len;
        if (len > sizeof to->metadata)
            len = 0; /* not one of ours: counts as "no list" */
        if (len)
            memcpy(to->metadata, positions[i].metadata.ptr, len);
        to->metadata_len = len;
    }
    return event;
}

bool engine_may_warn(struct engine *engine, enum engine_warning which, uint64_t *unsaid)
{
    if (engine->now_ms < engine->warnings[which].next_ms) {
        engine->warnings[which].unsaid++;
        return false;
    }
    *unsaid = engine->warnings[which].unsaid;
    engine->warnings[which].unsaid = 0;
    engine->warnings[which].next_ms = engine->now_ms + WARNING_INTERVAL_MS;
    return true;
}

bool engine_try_again(struct engine *engine, int rc, unsigned *attempts)
{
    return rc == ERR_BUSY && engine->ports.store_busy(engine->ports.ctx, ++*attempts);
}

/* --- creation -------------------------------------------------------------------------------- */

static int add_source(struct engine *engine, size_t i, const struct engine_source_options *options)
{
    struct store_source key = {.cluster = bytes_str(options->cluster),
                               .topic = bytes_str(options->topic),
                               .group = bytes_str(options->group)};
    struct engine_source *source = &engine->sources[i];
    int rc = store_add_source(engine->store, &key, &source->number);
    if (rc)
        return rc;
    source->source = options->source;
    source->embedded = options->embedded;
    source->raw = options->raw;
    source->cluster = mem_strdup(options->cluster);
    source->topic = mem_strdup(options->topic);
    return 0;
}

static void init_members(struct engine *engine, const struct engine_options *options)
{
    engine->limits = options->limits;
    engine->intake = options->intake;
    engine->hold_ms = options->hold_ms;
    engine->startup_grace_ms = options->startup_grace_ms;
    engine->grace_ms = options->inflight.grace_ms;
    engine->publish_backoff_ms = options->inflight.publish_backoff_ms;
    engine->publish_backoff_max_ms = options->inflight.publish_backoff_max_ms;
    engine->parked_retry_ms = options->inflight.parked_retry_ms;
    engine->ports = options->ports;
    engine->own_meters = options->meters ? NULL : meters_new();
    engine->meters = options->meters ? options->meters : engine->own_meters;
    engine->retry_topic = mem_strdup(options->retry_topic);
    engine->deadletter_topic = mem_strdup(options->deadletter_topic);
    engine->store = options->store;
    engine->log = options->log;
    engine->backlog_tail = &engine->backlog;
    struct inflight_config inflight = options->inflight;
    inflight.due = engine_meter_due;
    inflight.due_ctx = engine;
    engine->inflight = inflight_new(&inflight);
    engine->offsets = offsets_new(store_id(options->store));
    engine->done =
        done_new(options->inflight.seed, options->limits.done_max, options->limits.done_memory_ms);
    gate_init(&engine->gate);
    list_init(&engine->calls);
    list_init(&engine->outbox);
    list_init(&engine->outbox_new);
    list_init(&engine->outbox_gone);
    heap_init(&engine->outbox_due);
    engine->sources = mem_calloc(options->source_count, sizeof *engine->sources);
    engine->inline_sources = mem_calloc(options->source_count, sizeof *engine->inline_sources);
    engine->source_count = options->source_count;
}

static const char *failure_text(const struct engine *engine, int rc)
{
    const char *why = store_why(engine->store);
    return *why ? why : err_string(rc);
}

int engine_create(struct engine **out, const struct engine_options *options, int64_t boot_ms,
                  int64_t wall_ms, struct err_text *why)
{
    struct engine *engine = mem_zalloc(sizeof *engine);
    init_members(engine, options);
    engine->now_ms = boot_ms;
    engine->wall_ms = wall_ms;
    engine->next_ask_ms = boot_ms;
    engine->next_size_ms = boot_ms;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < options->source_count; i++)
        rc = add_source(engine, i, &options->sources[i]);
    if (rc)
        err_set(why, rc, "%s", failure_text(engine, rc));
    else
        rc = engine_load(engine, why);
    if (rc) {
        engine_destroy(engine, NULL);
        return rc;
    }
    engine_meter_init(engine, options);
    *out = engine;
    return 0;
}

void engine_attach_sinks(struct engine *engine, struct topic_sink *sink,
                         struct topic_sink *enqueue_sink)
{
    engine->sink = sink;
    for (size_t i = 0; i < engine->source_count; i++)
        engine->sources[i].enqueue_sink = enqueue_sink;
}

void engine_attach_enqueue_sink(struct engine *engine, uint32_t source, struct topic_sink *sink)
{
    assert(source < engine->source_count);
    engine->sources[source].enqueue_sink = sink;
}

static bool is_call(const struct engine_event *event)
{
    return event->kind == EVENT_CLAIM || event->kind == EVENT_STATUS ||
           event->kind == EVENT_BATCH || event->kind == EVENT_ENQUEUE ||
           event->kind == EVENT_GIVE_BACK;
}

/* Takes the call into the books: from now on it is owed an answer. */
static void accept_call(struct engine *engine, struct engine_event *event)
{
    struct engine_call *call = container_of(event, struct engine_call, event);
    list_push_back(&engine->calls, &call->link);
}

static void free_event(struct engine_event *event)
{
    switch (event->kind) {
    case EVENT_RECORDS: {
        struct engine_records *records = container_of(event, struct engine_records, event);
        for (size_t i = records->next; i < records->count; i++)
            intake_item_clear(&records->items[i]);
        break;
    }
    case EVENT_UNDELIVERED:
        blob_unref(container_of(event, struct engine_undelivered, event)->activation);
        break;
    case EVENT_RULES: {
        struct engine_rules *rules = container_of(event, struct engine_rules, event);
        runtime_unref(rules->runtime);
        mem_free(rules->forward_topic);
        mem_free(rules->forward_cluster);
        break;
    }
    case EVENT_DELIVERED:
        mem_free(container_of(event, struct engine_delivered, event)->opaque);
        break;
    default:
        break;
    }
    mem_free(event);
}

/* Ends an event that no turn handles. */
static void discard(struct engine *engine, struct engine_event *event)
{
    if (is_call(event)) {
        accept_call(engine, event);
        return;
    }
    if (event->kind == EVENT_CANCEL)
        engine->ports.release(engine->ports.ctx,
                              container_of(event, struct engine_call_event, event)->call);
    free_event(event);
}

void engine_destroy(struct engine *engine, struct inbox_node *events)
{
    if (!engine)
        return;
    *engine->backlog_tail = events;
    while (engine->backlog) {
        struct inbox_node *node = engine->backlog;
        engine->backlog = node->next;
        discard(engine, container_of(node, struct engine_event, node));
    }
    inflight_free(engine->inflight); /* it may hold claims, which live in the calls */
    engine_refuse_calls(engine);
    publisher_free(engine);
    engine_rules_free(engine);
    offsets_free(engine->offsets);
    done_free(engine->done);
    for (size_t i = 0; i < engine->source_count; i++) {
        mem_free(engine->sources[i].cluster);
        mem_free(engine->sources[i].topic);
    }
    mem_free(engine->sources);
    mem_free(engine->inline_sources);
    mem_free(engine->replies);
    mem_free(engine->revokes);
    mem_free(engine->uncache);
    mem_free(engine->confirmed);
    buf_free(&engine->done_dropped);
    buf_free(&engine->scratch);
    mem_free(engine->retry_topic);
    mem_free(engine->deadletter_topic);
    meters_free(engine->own_meters);
    mem_free(engine);
}

/* --- events ---------------------------------------------------------------------------------- */

void engine_defer(struct engine *engine, struct engine_event *event)
{
    event->node.next = NULL;
    *engine->backlog_tail = &event->node;
    engine->backlog_tail = &event->node.next;
}

void engine_sink_delivered(struct engine *engine, void *opaque, enum topic_delivery delivery,
                           const char *why)
{
    publisher_delivered(engine, opaque, delivery, why);
}

static void drain(struct engine *engine)
{
    engine->draining = true;
    inflight_release_claims(engine->inflight);
}

static void source_failed(struct engine *engine, const struct engine_source_failed *event)
{
    engine->ports.source_failed(engine->ports.ctx, event->source, event->code, event->why);
}

static int handle_event(struct engine *engine, struct engine_event *event)
{
    if (is_call(event))
        accept_call(engine, event);
    struct engine_call *call = container_of(event, struct engine_call, event);
    switch (event->kind) {
    case EVENT_CLAIM:
        engine_on_claim(engine, call);
        return 0;
    case EVENT_STATUS:
        engine_on_status(engine, call);
        return 0;
    case EVENT_BATCH:
        engine_on_batch(engine, call);
        return 0;
    case EVENT_ENQUEUE:
        return engine_on_enqueue(engine, call);
    case EVENT_GIVE_BACK:
        engine_on_give_back(engine, call);
        return 0;
    case EVENT_CANCEL:
        engine_on_cancel(engine, container_of(event, struct engine_call_event, event));
        break;
    case EVENT_UNDELIVERED:
        engine_on_undelivered(engine, container_of(event, struct engine_undelivered, event));
        break;
    case EVENT_RECORDS:
        engine_on_records(engine, container_of(event, struct engine_records, event));
        break;
    case EVENT_ASSIGNED:
        engine_on_assigned(engine, container_of(event, struct engine_positions, event));
        break;
    case EVENT_REVOKING:
        engine_on_revoking(engine, container_of(event, struct engine_partitions, event));
        break;
    case EVENT_COMMITTED:
        engine_on_committed(engine, container_of(event, struct engine_partitions, event));
        break;
    case EVENT_ANSWERED:
        engine_on_answered(engine, container_of(event, struct engine_positions, event));
        break;
    case EVENT_DELIVERED: {
        struct engine_delivered *delivered = container_of(event, struct engine_delivered, event);
        struct publication *publication = delivered->opaque;
        delivered->opaque = NULL;
        publisher_delivered(engine, publication, delivered->delivery, delivered->why);
        break;
    }
    case EVENT_SOURCE_FAILED:
        source_failed(engine, container_of(event, struct engine_source_failed, event));
        break;
    case EVENT_RULES:
        engine_on_rules(engine, container_of(event, struct engine_rules, event));
        break;
    case EVENT_DRAIN:
        drain(engine);
        break;
    }
    free_event(event);
    return 0;
}

static bool turn_full(const struct engine *engine, size_t events)
{
    return events >= engine->limits.turn_events ||
           engine->turn_rows >= engine->limits.turn_events ||
           engine->turn_bytes >= engine->limits.turn_bytes;
}

/* A batch of records that does not fit the turn stays at the head of the backlog. */
static bool records_left(const struct engine_event *event)
{
    if (event->kind != EVENT_RECORDS)
        return false;
    const struct engine_records *records = container_of(event, struct engine_records, event);
    return records->next < records->count;
}

static int handle_events(struct engine *engine)
{
    for (size_t events = 0; engine->backlog && !turn_full(engine, events); events++) {
        struct inbox_node *node = engine->backlog;
        struct engine_event *event = container_of(node, struct engine_event, node);
        if (records_left(event)) {
            engine_on_records(engine, container_of(event, struct engine_records, event));
            if (records_left(event))
                return 0;
        }
        /* The event is freed, or belongs to another list, once it is handled. */
        engine->backlog = node->next;
        if (!engine->backlog)
            engine->backlog_tail = &engine->backlog;
        engine->stats.events++;
        int rc = handle_event(engine, event);
        if (rc)
            return rc;
    }
    return 0;
}

/* --- the turn -------------------------------------------------------------------------------- */

static void poll_sources(struct engine *engine)
{
    for (size_t i = 0; i < engine->source_count; i++) {
        struct topic_source *source = engine->sources[i].source;
        if (source && source->ops->poll)
            source->ops->poll(source);
    }
    if (engine->sink && engine->sink->ops->poll)
        engine->sink->ops->poll(engine->sink);
}

static void drop_done_id(void *ctx, struct bytes id)
{
    struct engine *engine = ctx;
    uint32_t len = (uint32_t)id.len;
    buf_append(&engine->done_dropped, &len, sizeof len);
    buf_append(&engine->done_dropped, id.ptr, id.len);
}

static void advance_time(struct engine *engine)
{
    engine->more_due =
        inflight_advance(engine->inflight, engine->now_ms, engine->limits.turn_events);
    engine_begin_work(engine, WORK_OTHER);
    done_expire(engine->done, engine->now_ms, engine->limits.turn_events, drop_done_id, engine);
    if (engine->settle)
        engine_settle(engine);
    if (engine->now_ms >= engine->next_ask_ms)
        engine_ask(engine);
}

static int commit(struct engine *engine)
{
    if (!store_in_transaction(engine->store))
        return 0;
    unsigned attempts = 0;
    int rc;
    do
        rc = store_commit(engine->store);
    while (engine_try_again(engine, rc, &attempts));
    if (rc == 0) {
        engine->stats.commits++;
        engine->unmeasured_bytes += engine->turn_bytes;
    }
    return rc;
}

static void uncache(struct engine *engine)
{
    for (size_t i = 0; i < engine->uncache_count; i++)
        inflight_set_blob(engine->inflight, engine->uncache[i], NULL);
    engine->uncache_count = 0;
}

/* Everything of this turn is durable: let it out. */
static int release(struct engine *engine)
{
    inflight_committed(engine->inflight);
    offsets_durable(engine->offsets);
    publisher_committed(engine);
    if (engine->log)
        embedded_log_committed(engine->log);
    int rc = 0;
    if (!PLANTED(PLANT_REPLY_BEFORE_COMMIT))
        rc = engine_release_replies(engine);
    if (rc == 0)
        rc = publisher_release(engine);
    uncache(engine);
    inflight_effects_done(engine->inflight);
    engine_hand_out_commits(engine);
    engine_finish_revokes(engine);
    engine->ports.flush(engine->ports.ctx);
    return rc;
}

static enum engine_block find_block(const struct engine *engine,
                                    const struct inflight_counts *counts)
{
    const struct engine_limits *limits = &engine->limits;
    uint64_t disk_floor = engine->size.wal_bytes * 2;
    if (disk_floor < 64u << 20)
        disk_floor = 64u << 20;
    if (engine->draining)
        return BLOCK_DRAIN;
    if (counts->by_state[TASK_PROCESSING] >= limits->processing_max)
        return BLOCK_PROCESSING;
    if (engine->size.used_bytes >= limits->store_max_bytes)
        return BLOCK_SIZE;
    if (engine->size.disk_free_bytes < disk_floor)
        return BLOCK_DISK;
    if (engine->outbox.count >= limits->outbox_max)
        return BLOCK_OUTBOX;
    if (inflight_pending_served(engine->inflight, engine->now_ms) >= limits->pending_max)
        return BLOCK_PENDING;
    return BLOCK_NONE;
}

/* Intake that stops for want of room would look like a hang. */
static void report_full(struct engine *engine)
{
    uint64_t unsaid;
    static const char *const texts[] = {
        [BLOCK_SIZE] = "the store has reached store.max_size",
        [BLOCK_DISK] = "the disk of the store is nearly full",
        [BLOCK_OUTBOX] = "too many records of the outbox wait for their topic",
        [BLOCK_DRAIN] = NULL, /* the last one */
    };
    const char *full = texts[engine->block];
    if (!full || !engine_may_warn(engine, WARNING_FULL, &unsaid))
        return;
    log_warn(ENGINE_TARGET,
             LOG_FIELDS(log_str("reason", engine_block_name(engine->block)),
                        log_int("used_bytes", (int64_t)engine->size.used_bytes),
                        log_int("wal_bytes", (int64_t)engine->size.wal_bytes),
                        log_int("disk_free_bytes", (int64_t)engine->size.disk_free_bytes)),
             "no new tasks are taken until there is room: %s", full);
}

/* The original stops intake at this number; here only store.max_size does. */
static void report_delayed(struct engine *engine, size_t delayed)
{
    uint64_t unsaid;
    if (delayed < engine->limits.delay_warn || !engine_may_warn(engine, WARNING_DELAYED, &unsaid))
        return;
    log_warn(ENGINE_TARGET,
             LOG_FIELDS(log_int("delayed", (int64_t)delayed),
                        log_int("max_delay_count", (int64_t)engine->limits.delay_warn)),
             "max_delay_count is reached; intake goes on up to store.max_size");
}

/* Work that nobody fetches is a mistake of somebody's deployment, and fills the store. */
static void report_unserved(struct engine *engine, const struct inflight_counts *counts)
{
    uint64_t unsaid;
    size_t pending;
    if (inflight_pending_served(engine->inflight, engine->now_ms) ==
            counts->by_state[TASK_PENDING] ||
        !engine_may_warn(engine, WARNING_UNSERVED, &unsaid))
        return;
    struct bytes application = inflight_first_unserved(engine->inflight, &pending);
    log_warn(ENGINE_TARGET,
             LOG_FIELDS(log_bytes("application", application), log_int("pending", (int64_t)pending),
                        log_int("unserved_applications", (int64_t)counts->unserved_applications),
                        log_int("unserved_pending", (int64_t)counts->unserved_pending)),
             "no worker asks for the tasks of an application; they wait outside max_pending_count, "
             "up to store.max_size: start a worker for it, or stop sending");
}

static void open_gate(struct engine *engine)
{
    struct inflight_counts counts;
    inflight_get_counts(engine->inflight, &counts);
    engine->block = find_block(engine, &counts);
    report_full(engine);
    report_delayed(engine, counts.by_state[TASK_DELAY]);
    report_unserved(engine, &counts);
    size_t room = 0;
    if (engine->block == BLOCK_NONE)
        room =
            engine->limits.pending_max - inflight_pending_served(engine->inflight, engine->now_ms);
    if (!gate_open(&engine->gate, room))
        return;
    for (size_t i = 0; i < engine->source_count; i++)
        if (engine->sources[i].source)
            engine->sources[i].source->ops->wake(engine->sources[i].source);
}

static int measure(struct engine *engine)
{
    if (engine->now_ms < engine->next_size_ms)
        return 0;
    engine->next_size_ms = engine->now_ms + SIZE_INTERVAL_MS;
    engine->unmeasured_bytes = 0;
    int rc = store_size(engine->store, &engine->size);
    return rc == ERR_BUSY ? 0 : rc; /* the last numbers will do */
}

static int run_turn(struct engine *engine)
{
    int rc = handle_events(engine);
    if (rc)
        return rc;
    poll_sources(engine); /* after the events: what Enqueue appended becomes a row in this turn */
    advance_time(engine);
    if ((rc = engine_sweep(engine)))
        return rc;
    engine->meter.write_us = engine_meter_now_us(engine);
    if ((rc = engine_write(engine))) {
        engine_meter_wrote(engine, rc);
        return rc;
    }
    if (PLANTED(PLANT_REPLY_BEFORE_COMMIT)) {
        if ((rc = engine_release_replies(engine)))
            return rc;
        engine->ports.flush(engine->ports.ctx);
    }
    if (PLANTED(PLANT_OFFSET_BEFORE_COMMIT)) {
        offsets_durable(engine->offsets);
        engine_hand_out_commits(engine);
    }
    rc = commit(engine);
    engine_meter_wrote(engine, rc);
    if (rc || (rc = release(engine)))
        return rc;
    rc = store_maintain(engine->store, 2);
    engine_meter_maintained(engine);
    if (rc || (rc = measure(engine)))
        return rc;
    open_gate(engine);
    return 0;
}

int engine_turn(struct engine *engine, struct inbox_node *events, int64_t boot_ms, int64_t wall_ms)
{
    assert(!engine->failed);
    if (PLANTED(PLANT_WALL_TIMERS)) {
        int64_t passed_ms = wall_ms - engine->wall_ms;
        boot_ms = engine->now_ms + (passed_ms > 0 ? passed_ms : 0);
    }
    assert(boot_ms >= engine->now_ms);
    engine->now_ms = boot_ms;
    engine->wall_ms = wall_ms;
    engine->turn_rows = 0;
    engine->turn_bytes = 0;
    engine->stats.turns++;
    enum engine_block block = engine->block;
    engine_meter_turn_begin(engine);
    *engine->backlog_tail = events;
    while (*engine->backlog_tail)
        engine->backlog_tail = &(*engine->backlog_tail)->next;
    engine->failed = run_turn(engine);
    engine_meter_turn_end(engine, block);
    return engine->failed;
}

/* What came in since the last look may have filled the store: the next look must not wait for an
 * event. */
static bool size_in_doubt(const struct engine *engine)
{
    uint64_t max = engine->limits.store_max_bytes, used = engine->size.used_bytes;
    return engine->unmeasured_bytes &&
           (used >= max || engine->unmeasured_bytes >= (max - used) / 2);
}

int64_t engine_next_ms(const struct engine *engine)
{
    if (engine->backlog || engine->more_due || engine->settle || engine_sweep_is_due(engine))
        return engine->now_ms;
    /* Dirty: dead letters and retries of this turn are written by the next one. */
    if (engine->log && (embedded_log_has_work(engine->log) || embedded_log_is_dirty(engine->log)))
        return engine->now_ms;
    int64_t next = inflight_next_ms(engine->inflight);
    int64_t others[] = {done_next_ms(engine->done), publisher_next_ms(engine),
                        inflight_unconfirmed(engine->inflight) ? engine->next_ask_ms : CLOCK_NEVER,
                        size_in_doubt(engine) || engine->block == BLOCK_SIZE ||
                                engine->block == BLOCK_DISK
                            ? engine->next_size_ms
                            : CLOCK_NEVER};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (others[i] < next)
            next = others[i];
    return next;
}

bool engine_has_backlog(const struct engine *engine)
{
    return engine->backlog != NULL;
}

const char *engine_failure(const struct engine *engine)
{
    return failure_text(engine, engine->failed);
}

/* --- numbers --------------------------------------------------------------------------------- */

struct gate *engine_gate(struct engine *engine)
{
    return &engine->gate;
}

size_t engine_publishing(const struct engine *engine)
{
    return engine->publishing;
}

void engine_get_stats(const struct engine *engine, struct engine_stats *out)
{
    *out = engine->stats;
    inflight_get_counts(engine->inflight, &out->inflight);
    struct offsets_counts offsets;
    offsets_get_counts(engine->offsets, &offsets);
    out->offsets_back = offsets.backs;
    out->offsets_jumped = offsets.jumps;
    out->block = engine->block;
    out->store = engine->size;
    out->outbox = engine->outbox.count + engine->outbox_new.count;
    out->publishing = engine->publishing;
    out->rules = runtime_rule_count(engine->rules);
    out->demoted_namespaces = runtime_namespace_count(engine->rules);
    out->sweeping = engine->sweeping;
    if (engine->log) {
        uint64_t bytes;
        embedded_log_size(engine->log, &out->log_records, &bytes);
        out->log_waiting = embedded_log_waiting(engine->log);
    }
    const struct task *oldest = inflight_oldest_ready(engine->inflight);
    int64_t age_ms = oldest ? engine->wall_ms - oldest->received_at_wall_ms : 0;
    out->oldest_pending_wall_ms = oldest ? oldest->received_at_wall_ms : 0;
    out->oldest_pending_ms = age_ms > 0 ? age_ms : 0; /* received_at is the producer's clock */
}
