/* SPDX-License-Identifier: Apache-2.0 */
/* The model Kafka. It keeps to the contract of topic/topic.h, and is as unkind as that allows. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* {"args": [...]} in msgpack, but for its one argument. */
#define ARGS   \
    "\x81\xa4" \
    "args\x91"

void sim_kafka_init(struct sim *sim)
{
    for (int i = 0; i < SIM_PARTITIONS; i++) {
        sim->tasks[i].committed = -1;
        sim->tasks[i].owner = -1;
    }
}

void sim_kafka_append(struct sim *sim, struct blob *payload, struct fact *fact,
                      struct garbage *garbage)
{
    int32_t index = (int32_t)sim_below(sim, SIM_PARTITIONS);
    struct sim_partition *partition = &sim->tasks[index];
    if (partition->count == partition->cap) {
        partition->cap = partition->cap ? partition->cap * 2 : 64;
        partition->records =
            mem_realloc(partition->records, partition->cap * sizeof *partition->records);
    }
    if (garbage) {
        garbage->partition = index;
        garbage->offset = (int64_t)partition->count;
    }
    partition->records[partition->count++] =
        (struct sim_record){.payload = payload, .fact = fact, .garbage = garbage};
    sim->result->messages++;
    sim_trace(sim, "message %d/%zu is %s", index, partition->count - 1,
              fact ? fact->id : "garbage");
}

struct activation sim_kafka_activation(struct sim *sim, char id[])
{
    snprintf(id, IDENT_HEX_LEN + 1, "%032llx", (unsigned long long)++sim->next_id);
    bool at_most_once = sim_chance(sim, 40);
    return (struct activation){
        .id = bytes_str(id),
        .namespace = bytes_str(sim_chance(sim, 50) ? "a" : "b"),
        .taskname = bytes_str(sim_chance(sim, 30) ? "task2" : "task"),
        .parameters_bytes = bytes_str(sim_chance(sim, 30) ? ARGS "\x01" : ARGS "\x02"),
        .has_application = true,
        .application = bytes_str("sim"),
        .has_received_at = true,
        .received_at_s = sim->wall_ms / 1000,
        .received_at_ns = (int32_t)(sim->wall_ms % 1000) * 1000000,
        .retry_state = {.present = true,
                        .max_attempts = 3,
                        .on_attempts_exceeded = sim_chance(sim, 50) ? 2 : 1,
                        .has_at_most_once = true,
                        .at_most_once = at_most_once},
        .processing_deadline_duration = 1 + sim_below(sim, 3),
        .has_expires = sim_chance(sim, 10),
        .expires = 1 + sim_below(sim, 20),
        .has_delay = sim_chance(sim, 20),
        .delay = 1 + sim_below(sim, 8),
    };
}

void sim_kafka_produce(struct sim *sim)
{
    char id[IDENT_HEX_LEN + 1];
    struct activation activation = sim_kafka_activation(sim, id);
    struct buf payload = {0};
    activation_encode(&activation, NULL, 0, &payload);
    sim_kafka_append(sim, blob_copy(buf_bytes(&payload)), sim_fact_arrived(sim, &activation), NULL);
    buf_free(&payload);
}

void sim_kafka_produce_garbage(struct sim *sim)
{
    struct garbage *garbage = mem_zalloc(sizeof *garbage);
    if (sim->garbage_count == sim->garbage_cap) {
        sim->garbage_cap = sim->garbage_cap ? sim->garbage_cap * 2 : 16;
        sim->garbage = mem_realloc(sim->garbage, sim->garbage_cap * sizeof *sim->garbage);
    }
    sim->garbage[sim->garbage_count++] = garbage;
    struct blob *payload = sim_chance(sim, 30) ? NULL : blob_copy(bytes_str("\xff\xff no task"));
    sim_kafka_append(sim, payload, NULL, garbage);
}

/* --- source ----------------------------------------------------------------------------------- */

static struct sim_source *source_of(struct topic_source *base)
{
    return container_of(base, struct sim_source, base);
}

static int source_start(struct topic_source *base, const struct topic_source_events *events,
                        struct err_text *why)
{
    (void)why;
    struct sim_source *source = source_of(base);
    source->events = *events;
    source->started = true;
    return 0;
}

static void apply_commit(struct sim_source *source, int32_t index)
{
    struct sim_partition *partition = &source->sim->tasks[index];
    int64_t wanted = source->partitions[index].wanted;
    if (wanted < partition->committed)
        sim_violation(source->sim, "commit of partition %d moved back from %lld to %lld", index,
                      (long long)partition->committed, (long long)wanted);
    if (wanted > (int64_t)partition->count)
        sim_violation(source->sim, "commit of partition %d beyond its end", index);
    partition->committed = wanted;
    sim_trace(source->sim, "node %d commits partition %d at %lld [%.*s]", source->node, index,
              (long long)wanted, (int)source->partitions[index].metadata_len,
              source->partitions[index].metadata);
    partition->metadata_len = source->partitions[index].metadata_len;
    memcpy(partition->metadata, source->partitions[index].metadata, partition->metadata_len);
}

static void source_commit(struct topic_source *base, int32_t index, int64_t next_offset,
                          struct bytes metadata, bool urgent)
{
    (void)urgent;
    struct sim_source *source = source_of(base);
    if (!source->partitions[index].assigned)
        sim_violation(source->sim, "node %d names partition %d in a commit after its revoke",
                      source->node, index);
    source->partitions[index].wanted = next_offset;
    source->partitions[index].metadata_len = metadata.len;
    memcpy(source->partitions[index].metadata, metadata.ptr, metadata.len);
    if (!source->zombie && sim_chance(source->sim, 40))
        apply_commit(source, index); /* the answer comes, or not, with a later poll */
}

static void source_ask(struct topic_source *base, int32_t partition)
{
    source_of(base)->partitions[partition].ask = true;
}

static void source_revoke_done(struct topic_source *base, int32_t index)
{
    struct sim_source *source = source_of(base);
    struct sim *sim = source->sim;
    if (!source->partitions[index].revoking)
        sim_violation(sim, "revoke of partition %d done that was not asked for", index);
    sim_trace(sim, "node %d gives partition %d back", source->node, index);
    bool lost = source->zombie || sim_trouble(sim, FAULT_COMMIT, 20);
    if (source->partitions[index].wanted >= 0 && !lost)
        apply_commit(source, index);
    source->partitions[index].assigned = false;
    source->partitions[index].revoking = false;
    source->partitions[index].wanted = -1;
    if (sim->tasks[index].owner == source->node)
        sim->tasks[index].owner = -1;
}

static void source_wake(struct topic_source *base)
{
    (void)base;
}

static void deliver_records(struct sim_source *source, int32_t index)
{
    struct sim *sim = source->sim;
    struct sim_partition *partition = &sim->tasks[index];
    int64_t *position = &source->partitions[index].position;
    size_t wanted = sim_below(sim, 8);
    if (wanted > partition->count - (size_t)*position)
        wanted = partition->count - (size_t)*position;
    if (!wanted)
        return;
    size_t count = source->events.credit(source->events.ctx, wanted);
    struct topic_record records[8];
    for (size_t i = 0; i < count; i++) {
        struct sim_record *record = &partition->records[*position];
        records[i] = (struct topic_record){.partition = index,
                                           .offset = (*position)++,
                                           .timestamp_ms = -1,
                                           .tombstone = !record->payload,
                                           .payload = blob_bytes(record->payload)};
        sim_trace(sim, "node %d reads %d/%lld", source->node, index, (long long)records[i].offset);
        if (record->fact) /* a replay: the row may come back */
            record->fact->complete_acked[source->node] = false;
    }
    if (count)
        source->events.records(source->events.ctx, records, count);
}

static void answer_commit(struct sim_source *source, int32_t index)
{
    struct sim *sim = source->sim;
    int64_t wanted = source->partitions[index].wanted;
    if (wanted < 0 || source->zombie || sim_trouble(sim, FAULT_COMMIT, 30))
        return;
    apply_commit(source, index);
    if (sim_trouble(sim, FAULT_COMMIT, 20))
        return; /* done, but the answer was lost: it will be repeated */
    source->partitions[index].wanted = -1;
    source->events.committed(source->events.ctx, index, wanted);
}

static void answer_ask(struct sim_source *source, int32_t index)
{
    struct sim *sim = source->sim;
    const struct sim_partition *partition = &sim->tasks[index];
    source->partitions[index].ask = false;
    struct topic_position position = {
        .partition = index,
        .assigned = source->partitions[index].assigned,
        .committed = partition->committed,
        .metadata = bytes_of(partition->metadata, partition->metadata_len),
        .low = 0,
        .high = (int64_t)partition->count,
    };
    int code = sim_trouble(sim, FAULT_COMMIT, 30) ? ERR_UNAVAILABLE : 0;
    source->events.answered(source->events.ctx, &position, code);
}

static void deliver_assignment(struct sim_source *source, int32_t index)
{
    const struct sim_partition *partition = &source->sim->tasks[index];
    source->partitions[index].assign_due = false;
    source->partitions[index].assigned = true;
    source->partitions[index].wanted = -1;
    source->partitions[index].position = partition->committed < 0 ? 0 : partition->committed;
    struct topic_position position = {
        .partition = index,
        .assigned = true,
        .start_offset = source->partitions[index].position,
        .committed = partition->committed,
        .metadata = bytes_of(partition->metadata, partition->metadata_len),
        .low = 0,
        .high = (int64_t)partition->count,
    };
    sim_trace(source->sim, "node %d is assigned partition %d from %lld [%.*s]", source->node, index,
              (long long)position.start_offset, BYTES_FMT_ARG(position.metadata));
    source->events.assigned(source->events.ctx, &position, 1);
}

static void source_poll(struct topic_source *base)
{
    struct sim_source *source = source_of(base);
    for (int32_t i = 0; i < SIM_PARTITIONS; i++) {
        if (source->partitions[i].assign_due)
            deliver_assignment(source, i);
        if (source->partitions[i].assigned && !source->partitions[i].revoking) {
            deliver_records(source, i);
            answer_commit(source, i);
        }
        if (source->partitions[i].ask && sim_chance(source->sim, 50))
            answer_ask(source, i);
    }
}

static void source_stop(struct topic_source *base, uint32_t timeout_ms)
{
    (void)timeout_ms;
    source_of(base)->started = false;
}

static void source_destroy(struct topic_source *base)
{
    (void)base;
}

void sim_source_init(struct sim_source *source, struct sim *sim, int node)
{
    static const struct topic_source_ops ops = {
        .start = source_start,
        .commit = source_commit,
        .ask = source_ask,
        .revoke_done = source_revoke_done,
        .wake = source_wake,
        .poll = source_poll,
        .stop = source_stop,
        .destroy = source_destroy,
    };
    *source = (struct sim_source){.base.ops = &ops, .sim = sim, .node = node};
    for (int i = 0; i < SIM_PARTITIONS; i++)
        source->partitions[i].wanted = -1;
}

/* --- the group -------------------------------------------------------------------------------- */

static void begin_revoke(struct sim_source *source, int32_t index)
{
    if (!source->partitions[index].assigned || source->partitions[index].revoking)
        return;
    source->partitions[index].revoking = true;
    source->events.revoking(source->events.ctx, &index, 1);
}

static bool revoke_everything(struct sim *sim)
{
    bool all_free = true;
    for (int n = 0; n < SIM_NODES; n++) {
        struct sim_source *source = &sim->nodes[n].source;
        if (!sim->nodes[n].engine || !source->started)
            continue;
        for (int32_t i = 0; i < SIM_PARTITIONS; i++) {
            source->partitions[i].assign_due = false;
            if (!source->partitions[i].assigned && sim->tasks[i].owner == n)
                sim->tasks[i].owner = -1; /* it never heard of it */
            begin_revoke(source, i);
        }
    }
    /* Each member's turn makes durable what it has and gives the partitions back. */
    for (int n = 0; n < SIM_NODES; n++)
        if (sim->nodes[n].engine)
            sim_node_turn(&sim->nodes[n]);
    for (int i = 0; i < SIM_PARTITIONS; i++)
        all_free = all_free && sim->tasks[i].owner < 0;
    return all_free;
}

/* Eager rebalance: everybody gives everything back, then partitions are dealt anew. A zombie learns
 * here that it had lost them. */
void sim_kafka_rebalance(struct sim *sim)
{
    if (sim->embedded || !revoke_everything(sim))
        return; /* somebody crashed on the way: its session ends, the next rebalance deals */
    for (int i = 0; i < SIM_PARTITIONS; i++) {
        int n = (int)sim_below(sim, SIM_NODES);
        if (!sim->nodes[n].engine)
            n = (n + 1) % SIM_NODES;
        if (!sim->nodes[n].engine)
            continue;
        sim->nodes[n].source.zombie = false;
        sim->tasks[i].owner = n;
        sim->nodes[n].source.partitions[i].assign_due = true;
    }
    for (int n = 0; n < SIM_NODES; n++)
        sim->nodes[n].source.zombie = false;
}

void sim_kafka_leave(struct sim *sim, int node)
{
    for (int i = 0; i < SIM_PARTITIONS; i++)
        if (sim->tasks[i].owner == node)
            sim->tasks[i].owner = -1;
}

/* The others get its partitions at once; it goes on with what it has until the next rebalance tells
 * it. */
void sim_kafka_lose_session(struct sim *sim, int node)
{
    int other = (node + 1) % SIM_NODES;
    if (!sim->nodes[node].engine || !sim->nodes[other].engine || sim->nodes[other].source.zombie)
        return;
    sim->nodes[node].source.zombie = true;
    sim_trace(sim, "node %d loses its session", node);
    for (int i = 0; i < SIM_PARTITIONS; i++) {
        if (sim->tasks[i].owner != node)
            continue;
        sim->nodes[node].source.partitions[i].assign_due = false;
        sim->tasks[i].owner = other;
        sim->nodes[other].source.partitions[i].assign_due = true;
    }
}

/* --- sink ------------------------------------------------------------------------------------- */

static struct sim_sink *sink_of(struct topic_sink *base)
{
    return container_of(base, struct sim_sink, base);
}

static int64_t header_number(const struct topic_header *headers, size_t count, const char *key)
{
    for (size_t i = 0; i < count; i++) {
        if (!bytes_equal_str(headers[i].key, key))
            continue;
        char text[32] = "";
        memcpy(text, headers[i].value.ptr, headers[i].value.len);
        return strtoll(text, NULL, 10);
    }
    return -1;
}

static int sink_produce(struct topic_sink *base, const char *topic, struct blob *payload,
                        const struct topic_header *headers, size_t header_count, void *opaque,
                        const char **why)
{
    struct sim_sink *sink = sink_of(base);
    if (sim_trouble(sink->sim, FAULT_PRODUCE, 5)) {
        *why = "queue full";
        return ERR_FULL;
    }
    struct sim_publication *publication = mem_zalloc(sizeof *publication);
    publication->to_deadletter = strcmp(topic, "dlq") == 0;
    publication->to_long = strcmp(topic, "long") == 0;
    publication->payload = blob_ref(payload);
    publication->opaque = opaque;
    publication->garbage = header_count > 0;
    publication->partition = (int32_t)header_number(headers, header_count, "taskmill-partition");
    publication->offset = header_number(headers, header_count, "taskmill-offset");
    list_push_back(&sink->open, &publication->link);
    return 0;
}

/* The record is in its topic now. */
static void arrive(struct sim *sim, const struct sim_publication *publication)
{
    if (publication->garbage) {
        struct garbage *garbage = sim_garbage_at(sim, publication->partition, publication->offset);
        if (!garbage)
            sim_violation(sim, "dead letter from partition %d offset %lld, which held a task",
                          publication->partition, (long long)publication->offset);
        garbage->deadlettered = true;
        return;
    }
    struct activation activation;
    const char *why;
    if (activation_parse(blob_bytes(publication->payload), &activation, &why))
        sim_violation(sim, "published record does not parse: %s", why);
    if (publication->to_long) {
        sim_forwarded(sim, sim_fact(sim, activation.id));
        return;
    }
    if (publication->to_deadletter) {
        sim_fact(sim, activation.id)->deadlettered = true;
        return;
    }
    struct fact *fact = sim_fact_arrived(sim, &activation);
    sim_kafka_append(sim, blob_ref(publication->payload), fact, NULL);
}

static void sink_poll(struct topic_sink *base)
{
    struct sim_sink *sink = sink_of(base);
    struct sim *sim = sink->sim;
    list_foreach_safe (&sink->open, node) {
        if (!sim->quiet && sim_chance(sim, 50))
            continue; /* still on its way */
        struct sim_publication *publication = container_of(node, struct sim_publication, link);
        bool lost = sim_trouble(sim, FAULT_PRODUCE, 15);
        bool misreported = sim_trouble(sim, FAULT_PRODUCE, 10);
        sim_trace(sim, "node %d: delivery lost %d misreported %d", sink->node, lost, misreported);
        if (!lost)
            arrive(sim, publication);
        list_remove(&sink->open, node);
        engine_sink_delivered(sim->nodes[sink->node].engine, publication->opaque,
                              lost || misreported ? TOPIC_FAILED : TOPIC_DELIVERED, "trouble");
        blob_unref(publication->payload);
        mem_free(publication);
    }
}

void sim_sink_abandon(struct sim_sink *sink)
{
    struct list_node *node;
    while ((node = list_pop_front(&sink->open))) {
        struct sim_publication *publication = container_of(node, struct sim_publication, link);
        if (sim_chance(sink->sim, 50))
            arrive(sink->sim, publication);
        blob_unref(publication->payload);
        mem_free(publication->opaque);
        mem_free(publication);
    }
}

static void sink_stop(struct topic_sink *base, uint32_t timeout_ms)
{
    (void)base;
    (void)timeout_ms;
}

static void sink_destroy(struct topic_sink *base)
{
    (void)base;
}

void sim_sink_init(struct sim_sink *sink, struct sim *sim, int node)
{
    static const struct topic_sink_ops ops = {
        .produce = sink_produce, .poll = sink_poll, .stop = sink_stop, .destroy = sink_destroy};
    *sink = (struct sim_sink){.base.ops = &ops, .sim = sim, .node = node};
    list_init(&sink->open);
}
