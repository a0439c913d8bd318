/* SPDX-License-Identifier: Apache-2.0 */
/* A broker of the simulation: shipped store and engine on a disk that can stop at any write. A
 * crash inside a turn: the disk image is taken at that moment, every later operation fails, the
 * engine fails its turn (INV-12) and so lets nothing out; the next start opens the image. */
#include "sim.h"

#include <sqlite3.h>
#include <string.h>

#include "base/mem.h"

static bool never_busy(void *ctx, unsigned attempt)
{
    (void)attempt;
    struct sim_node *node = ctx;
    sim_violation(node->sim, "the store is busy without another process");
}

static void on_source_failed(void *ctx, uint32_t source, int code, const char *why)
{
    (void)source;
    (void)code;
    struct sim_node *node = ctx;
    sim_violation(node->sim, "source failed: %s", why);
}

static struct topic_sink *on_forward_sink(void *ctx, const char *cluster)
{
    (void)cluster;
    struct sim_node *node = ctx;
    return node->sim->embedded ? &node->log.sink : &node->sink.base;
}

static void on_flush(void *ctx)
{
    (void)ctx;
}

static void stop_disk(struct crash_vfs *disk)
{
    crash_vfs_fail(disk, CRASH_OP_READ, 1, SQLITE_IOERR_READ, true);
    crash_vfs_fail(disk, CRASH_OP_WRITE, 1, SQLITE_IOERR_WRITE, true);
    crash_vfs_fail(disk, CRASH_OP_SYNC, 1, SQLITE_IOERR_FSYNC, true);
    crash_vfs_fail(disk, CRASH_OP_TRUNCATE, 1, SQLITE_IOERR_TRUNCATE, true);
}

static void on_disk_event(void *ctx, enum crash_event event, const char *name)
{
    (void)name;
    struct sim_node *node = ctx;
    struct sim *sim = node->sim;
    bool at_this_sync = node->crash_at_sync && event == CRASH_BEFORE_SYNC;
    if (at_this_sync || (node->crash_in && --node->crash_in == 0)) {
        node->crash_at_sync = false;
        node->crash_in = 0;
        node->crash_image = crash_vfs_image(node->disk, node->crash_mode, sim_next(sim));
        stop_disk(node->disk);
        return;
    }
    bool at_sync = event == CRASH_BEFORE_SYNC || event == CRASH_AFTER_SYNC;
    if (!node->engine || node->crash_image)
        return;
    if (sim_chance(sim, at_sync ? sim->image_percent : sim->image_percent / 8))
        sim_check_image(node, sim_chance(sim, 70) ? CRASH_POWER : CRASH_KILL);
}

void sim_node_init(struct sim_node *node, struct sim *sim, int index)
{
    *node = (struct sim_node){.sim = sim, .index = index};
    node->disk = crash_vfs_new(sim_next(sim));
    node->events_tail = &node->events;
    list_init(&node->calls);
    sim_source_init(&node->source, sim, index);
    sim_sink_init(&node->sink, sim, index);
}

static void open_store(struct sim_node *node)
{
    struct store_options options = {.path = "sim.sqlite",
                                    .vfs = crash_vfs_name(node->disk),
                                    .no_lock = true,
                                    .wal_limit_bytes = 65536};
    struct err_text why;
    if (store_open(&node->store, &options, &why))
        sim_violation(node->sim, "INV-11: node %d does not open: %s", node->index, why.s);
}

static void create_engine(struct sim_node *node)
{
    struct sim *sim = node->sim;
    struct engine_source_options source = {.source = sim->embedded ? sim_embedded_open(node)
                                                                   : &node->source.base,
                                           .cluster = "sim",
                                           .topic = "tasks",
                                           .group = "g",
                                           .embedded = sim->embedded};
    struct engine_options options = {
        .inflight = {.seed = {1, 2},
                     .claims_from = sim_next(sim),
                     .max_processing_attempts = SIM_MAX_ATTEMPTS,
                     .grace_ms = SIM_GRACE_MS,
                     .publish_backoff_ms = 20,
                     .publish_backoff_max_ms = 200,
                     .parked_retry_ms = 1000,
                     .unserved_after_ms = 500,
                     .claims_max = 100,
                     .queues_max = 100},
        .limits = {.pending_max = 20,
                   .processing_max = 30,
                   .delay_warn = 100,
                   .store_max_bytes = UINT64_MAX,
                   .blob_cache_bytes = 2000,
                   .blob_cache_item_bytes = 200,
                   .turn_events = 16,
                   .turn_bytes = 4096,
                   .outbox_inflight = 2,
                   .outbox_max = 8,
                   .enqueue_backlog = 10,
                   .done_max = 1000,
                   .done_memory_ms = 10000000},
        .intake = {.payload_max = 1000, .delay_max_s = 1000},
        .hold_ms = 300,
        .startup_grace_ms = 700,
        .store = node->store,
        .sources = &source,
        .source_count = 1,
        .log = node->log.log,
        .retry_topic = "tasks",
        .deadletter_topic = "dlq",
        .ports = {.ctx = node,
                  .reply = sim_worker_reply,
                  .release = sim_worker_release,
                  .flush = on_flush,
                  .store_busy = never_busy,
                  .forward_sink = on_forward_sink,
                  .source_failed = on_source_failed},
    };
    struct err_text why;
    if (engine_create(&node->engine, &options, sim->boot_ms, sim->wall_ms + node->wall_error_ms,
                      &why))
        sim_violation(sim, "INV-11: node %d does not load: %s", node->index, why.s);
}

static void start_topics(struct sim_node *node)
{
    if (node->sim->embedded) {
        sim_embedded_start(node);
        return;
    }
    struct topic_source_events events;
    engine_attach_sinks(node->engine, &node->sink.base, &node->sink.base);
    sim_source_init(&node->source, node->sim, node->index);
    engine_source_events(node->engine, 0, &events);
    node->source.base.ops->start(&node->source.base, &events, NULL);
}

static void note_loaded(struct sim *sim, int index)
{
    for (struct map_node *it = map_first(&sim->facts); it; it = map_next(&sim->facts, it))
        container_of(it, struct fact, by_id)->on_disk[index] = false;
    for (size_t i = 0; i < sim->garbage_count; i++)
        sim->garbage[i]->on_disk[index] = false;
}

void sim_node_start(struct sim_node *node)
{
    struct sim *sim = node->sim;
    sim_trace(sim, "node %d starts", node->index);
    crash_vfs_seed_sqlite((uint32_t)sim_next(sim));
    open_store(node);
    create_engine(node);
    note_loaded(sim, node->index);
    start_topics(node);
    crash_vfs_set_hook(node->disk, CRASH_ALL_EVENTS, on_disk_event, node);
    sim_rules_post(node);
    sim_node_turn(node);
}

static void drop_events(struct sim_node *node)
{
    while (node->events) {
        struct inbox_node *next = node->events->next;
        struct engine_event *event = container_of(node->events, struct engine_event, node);
        if (event->kind == EVENT_UNDELIVERED)
            blob_unref(container_of(event, struct engine_undelivered, event)->activation);
        if (event->kind != EVENT_CLAIM && event->kind != EVENT_STATUS &&
            event->kind != EVENT_ENQUEUE && event->kind != EVENT_GIVE_BACK)
            mem_free(event);
        node->events = next;
    }
    node->events_tail = &node->events;
}

static void take_down(struct sim_node *node)
{
    sim_kafka_leave(node->sim, node->index);
    drop_events(node);
    sim_sink_abandon(&node->sink);
    if (node->sim->embedded)
        sim_embedded_close_topics(node);
    engine_destroy(node->engine, NULL);
    if (node->sim->embedded)
        sim_embedded_close(node);
    node->engine = NULL;
    sim_worker_drop_calls(node);
    for (struct map_node *it = map_first(&node->sim->facts); it;
         it = map_next(&node->sim->facts, it)) {
        struct fact *fact = container_of(it, struct fact, by_id);
        fact->with_worker[node->index] = false;
    }
    crash_vfs_set_hook(node->disk, 0, NULL, NULL);
    node->crash_in = 0;
    node->crash_at_sync = false;
    node->undelivered_count = 0;
}

static void finish_crash(struct sim_node *node)
{
    node->sim->result->crashes++;
    sim_trace(node->sim, "node %d crashes (%s)", node->index,
              node->crash_mode == CRASH_KILL ? "kill" : "power");
    take_down(node);
    stop_disk(node->disk); /* so that the close changes nothing */
    store_close(node->store);
    node->store = NULL;
    crash_vfs_free(node->disk);
    node->disk = node->crash_image;
    node->crash_image = NULL;
    sim_check_note_disk(node);
}

void sim_node_kill_at_sync(struct sim_node *node)
{
    node->crash_mode = CRASH_KILL;
    node->crash_at_sync = true;
}

void sim_node_crash(struct sim_node *node, enum crash_mode mode, uint64_t in)
{
    node->crash_mode = mode;
    node->crash_in = in;
    if (in)
        return;
    node->crash_image = crash_vfs_image(node->disk, mode, sim_next(node->sim));
    finish_crash(node);
}

/* A graceful stop: partitions given back, store closed. */
void sim_node_stop(struct sim_node *node)
{
    sim_node_post(node, engine_event_new(EVENT_DRAIN, sizeof(struct engine_event)));
    for (int32_t i = 0; i < SIM_PARTITIONS; i++)
        if (node->source.partitions[i].assigned && !node->source.partitions[i].revoking) {
            node->source.partitions[i].revoking = true;
            node->source.events.revoking(node->source.events.ctx, &i, 1);
        }
    while (node->engine && (node->events || engine_has_backlog(node->engine)))
        sim_node_turn(node);
    if (node->engine)
        sim_node_turn(node);
    if (!node->engine)
        return; /* crashed on the way */
    take_down(node);
    store_close(node->store);
    node->store = NULL;
    sim_check_note_disk(node);
}

void sim_node_post(struct sim_node *node, struct engine_event *event)
{
    event->node.next = NULL;
    *node->events_tail = &event->node;
    node->events_tail = &event->node.next;
}

/* A claim nobody received is given back at once, at-most-once or not. Those posted in this turn's
 * own release (from `first_new` on) are for the next one. */
static void check_given_back(struct sim_node *node, size_t first_new)
{
    if (engine_has_backlog(node->engine) || first_new == 0)
        return;
    for (size_t i = 0; i < first_new; i++) {
        const struct sim_undelivered *undelivered = &node->undelivered[i];
        const struct task *task =
            inflight_find(node->engine->inflight, bytes_str(undelivered->fact->id));
        if (task && inflight_claim_stands(task, undelivered->claim))
            sim_violation(node->sim, "task %s stays claimed by a stream that died",
                          undelivered->fact->id);
    }
    node->undelivered_count -= first_new;
    memmove(node->undelivered, node->undelivered + first_new,
            node->undelivered_count * sizeof *node->undelivered);
}

void sim_node_turn(struct sim_node *node)
{
    size_t undelivered = node->undelivered_count;
    struct sim *sim = node->sim;
    struct inbox_node *events = node->events;
    node->events = NULL;
    node->events_tail = &node->events;
    sim->result->turns++;
    int rc = engine_turn(node->engine, events, sim->boot_ms, sim->wall_ms + node->wall_error_ms);
    if (node->crash_image) {
        finish_crash(node);
        return;
    }
    if (rc)
        sim_violation(sim, "node %d: turn failed without a fault: %s", node->index,
                      engine_failure(node->engine));
    inflight_check(node->engine->inflight);
    check_given_back(node, undelivered);
    sim_rules_check(node);
}

void sim_node_free(struct sim_node *node)
{
    if (node->engine) {
        take_down(node);
        store_close(node->store);
    }
    crash_vfs_free(node->disk);
}
