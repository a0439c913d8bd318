/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs without Kafka: one broker, the shipped embedded log on the crash disk, model producers that
 * call Enqueue. Promises beside the usual ones: what Enqueue answered with OK is on the disk until
 * it ended (INV-7), what it refused never is, a dead letter stays, and a message of its own is in
 * one place only, in the log or a row.
 */
#include "sim.h"

#include <string.h>

#include "base/mem.h"

/* --- the log of a node ------------------------------------------------------------------------ */

/* A record on its way into the log: what it is, and what the engine calls it. */
struct carried {
    void *opaque;
    bool to_deadletter, to_long;
    struct blob *payload;
};

static struct sim_log *log_of(struct topic_sink *sink)
{
    return container_of(sink, struct sim_log, sink);
}

static struct fact *fact_arrived(struct sim *sim, struct bytes payload)
{
    struct activation activation;
    const char *why;
    if (activation_parse(payload, &activation, &why))
        sim_violation(sim, "published record does not parse: %s", why);
    return sim_fact_arrived(sim, &activation);
}

static int sink_produce(struct topic_sink *base, const char *topic, struct blob *payload,
                        const struct topic_header *headers, size_t header_count, void *opaque,
                        const char **why)
{
    struct sim_log *log = log_of(base);
    if (sim_trouble(log->node->sim, FAULT_PRODUCE, 5)) {
        *why = "not now";
        return ERR_FULL;
    }
    fact_arrived(log->node->sim,
                 blob_bytes(payload)); /* it may become a row with the next commit */
    struct carried *carried = mem_alloc(sizeof *carried);
    *carried = (struct carried){.opaque = opaque,
                                .to_deadletter = strcmp(topic, "dlq") == 0,
                                .to_long = strcmp(topic, "long") == 0,
                                .payload = blob_ref(payload)};
    int rc =
        log->inner->ops->produce(log->inner, topic, payload, headers, header_count, carried, why);
    if (rc) {
        blob_unref(carried->payload);
        mem_free(carried);
    }
    return rc;
}

static void sink_poll(struct topic_sink *base)
{
    struct topic_sink *inner = log_of(base)->inner;
    inner->ops->poll(inner);
}

/* It is durable now. */
static void note_delivery(struct sim *sim, const struct carried *carried)
{
    struct fact *fact = fact_arrived(sim, blob_bytes(carried->payload));
    if (carried->to_long)
        sim_forwarded(sim, fact);
    else if (carried->to_deadletter)
        fact->deadlettered = true;
    else
        fact->kept = true;
}

static void on_delivered(void *ctx, void *opaque, enum topic_delivery delivery, const char *why)
{
    struct sim_node *node = ctx;
    struct carried *carried = opaque;
    if (delivery == TOPIC_DELIVERED)
        note_delivery(node->sim, carried);
    engine_sink_delivered(node->engine, carried->opaque, delivery, why);
    blob_unref(carried->payload);
    mem_free(carried);
}

struct topic_source *sim_embedded_open(struct sim_node *node)
{
    struct sim_log *log = &node->log;
    struct embedded_io io;
    engine_embedded_io(node->store, &io);
    *log = (struct sim_log){.node = node, .log = embedded_log_new(&io)};
    if (embedded_source_new(&log->source, log->log, "tasks", NULL))
        sim_violation(node->sim, "INV-11: the log does not open: %s", store_why(node->store));
    return log->source;
}

void sim_embedded_start(struct sim_node *node)
{
    static const struct topic_sink_ops ops = {.produce = sink_produce, .poll = sink_poll};
    struct sim_log *log = &node->log;
    struct topic_sink_events sink_events = {.ctx = node, .delivered = on_delivered};
    struct topic_source_events events;
    log->sink.ops = &ops;
    embedded_sink_new(&log->inner, log->log, &sink_events, NULL);
    engine_attach_sinks(node->engine, &log->sink, &log->sink);
    engine_source_events(node->engine, 0, &events);
    log->source->ops->start(log->source, &events, NULL);
}

void sim_embedded_close_topics(struct sim_node *node)
{
    node->log.source->ops->destroy(node->log.source);
    node->log.inner->ops->destroy(node->log.inner);
}

void sim_embedded_close(struct sim_node *node)
{
    embedded_log_free(node->log.log);
    node->log.log = NULL;
}

/* --- producers -------------------------------------------------------------------------------- */

void sim_embedded_enqueue(struct sim_node *node)
{
    struct sim *sim = node->sim;
    struct sim_call *call = sim_worker_call(node, EVENT_ENQUEUE);
    call->enqueued_count = 1 + sim_below(sim, SIM_ENQUEUE_MAX);
    for (size_t i = 0; i < call->enqueued_count; i++) {
        char id[IDENT_HEX_LEN + 1];
        struct activation activation = sim_kafka_activation(sim, id);
        struct buf payload = {0};
        activation_encode(&activation, NULL, 0, &payload);
        enqueue_encode_activation(buf_bytes(&payload), &call->body);
        buf_free(&payload);
        call->enqueued[i] = sim_fact_arrived(sim, &activation);
        sim->result->messages++;
    }
    call->call.body = buf_bytes(&call->body);
    sim_node_post(node, &call->call.event);
}

void sim_embedded_answered(struct sim_call *call, enum grpc_status status)
{
    for (size_t i = 0; i < call->enqueued_count; i++) {
        sim_trace(call->node->sim, "Enqueue of %s: %d", call->enqueued[i]->id, (int)status);
        if (status == GRPC_OK)
            call->enqueued[i]->kept = true;
        else if (status == GRPC_RESOURCE_EXHAUSTED)
            call->enqueued[i]->refused = true;
    }
}

/* --- checks ----------------------------------------------------------------------------------- */

struct log_image {
    struct sim *sim;
    uint64_t stamp;
};

static struct fact *fact_of(struct sim *sim, struct bytes payload)
{
    struct activation activation;
    const char *why;
    if (activation_parse(payload, &activation, &why))
        sim_violation(sim, "a record of the log does not parse: %s", why);
    struct fact *fact = sim_fact(sim, activation.id);
    if (!fact)
        sim_violation(sim, "a record nobody produced: %.*s", BYTES_FMT_ARG(activation.id));
    return fact;
}

/* A retry may be there twice, after a crash between its delivery and the end of its parent. */
static void note_task(void *ctx, int64_t offset, struct bytes payload,
                      const struct store_header *headers, size_t header_count)
{
    (void)headers;
    (void)header_count;
    struct log_image *image = ctx;
    struct fact *fact = fact_of(image->sim, payload);
    bool again = fact->stamp == image->stamp;
    if (again && fact->attempts == 0)
        sim_violation(image->sim, "task %s is in the log at %lld, and elsewhere too", fact->id,
                      (long long)offset);
    if (fact->refused)
        sim_violation(image->sim, "INV-7: task %s was refused and is in the log", fact->id);
    fact->stamp = image->stamp;
    if (!again)
        fact->status = STORE_PENDING;
}

static void note_deadletter(void *ctx, int64_t offset, struct bytes payload,
                            const struct store_header *headers, size_t header_count)
{
    (void)offset;
    (void)headers;
    (void)header_count;
    struct log_image *image = ctx;
    fact_of(image->sim, payload)->deadletter_stamp = image->stamp;
}

static void note_long(void *ctx, int64_t offset, struct bytes payload,
                      const struct store_header *headers, size_t header_count)
{
    (void)offset;
    (void)headers;
    (void)header_count;
    struct log_image *image = ctx;
    fact_of(image->sim, payload)->long_stamp = image->stamp;
}

void sim_embedded_note_log(struct sim *sim, struct store *store, uint64_t stamp)
{
    struct log_image image = {.sim = sim, .stamp = stamp};
    int64_t low, high, dead_low, dead_high, long_low, long_high;
    if (store_log_bounds(store, "tasks", &low, &high) ||
        store_log_bounds(store, "dlq", &dead_low, &dead_high) ||
        store_log_bounds(store, "long", &long_low, &long_high) ||
        store_log_read(store, "long", long_low, SIZE_MAX >> 1, note_long, &image) ||
        store_log_read(store, "tasks", low, SIZE_MAX >> 1, note_task, &image) ||
        store_log_read(store, "dlq", dead_low, SIZE_MAX >> 1, note_deadletter, &image))
        sim_violation(sim, "INV-11: the log of a crash image does not load: %s", store_why(store));
}

void sim_embedded_check(struct sim *sim, uint64_t stamp)
{
    for (struct map_node *it = map_first(&sim->facts); it; it = map_next(&sim->facts, it)) {
        const struct fact *fact = container_of(it, struct fact, by_id);
        if (fact->deadlettered && fact->deadletter_stamp != stamp)
            sim_violation(sim, "INV-2: the dead letter of task %s is gone", fact->id);
        if (fact->forwarded && fact->long_stamp != stamp)
            sim_violation(sim, "INV-2: the forwarded task %s is gone", fact->id);
        if (fact->kept && fact->stamp != stamp && fact->deadletter_stamp != stamp &&
            fact->outbox_stamp != stamp && fact->long_stamp != stamp &&
            !sim_check_may_be_gone(sim, fact))
            sim_violation(sim, "INV-7: task %s was taken in and is lost", fact->id);
    }
}
