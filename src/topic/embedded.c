/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The embedded log.
 *
 * A topic is the range [low, high) of offsets. With a source, `low` is also the source's position:
 * what is delivered becomes a row in the same transaction, so it leaves the log with it. New
 * records wait in `tail`, the last part of the range; poll() delivers from there, and only what is
 * left when the engine writes its transaction goes into the storage. So a record that a source can
 * take at once is never stored as a record.
 *
 *      low                first of tail            high
 *       | only in storage  | in memory: stored ones, then new ones |
 *
 * Stored records stay in `tail` up to TAIL_BYTES, so that a source that is a little behind reads
 * nothing back. A topic without a source keeps nothing in memory after the write.
 */
#include "topic/embedded.h"

#include <assert.h>

#include "base/list.h"
#include "base/mem.h"

#define TAIL_BYTES   (size_t)(4 << 20)
#define BATCH        512
#define POLL_RECORDS 4096 /* one poll() delivers at most so many; the rest is has_work() */

struct record {
    struct list_node node;
    int64_t offset;
    struct blob *payload;
    struct topic_header *headers; /* one allocation with what they point to */
    size_t header_count;
    bool stored;
};

struct embedded_topic {
    char *name;
    int64_t low, high;
    int64_t stored_low;  /* as the storage has it */
    int64_t opened_high; /* records from here on are counted in log->bytes */
    struct list tail;
    size_t tail_bytes; /* of stored records in it */
    struct embedded_source *source;
};

struct embedded_log {
    struct embedded_io io;
    struct embedded_topic **topics;
    size_t topic_count;
    struct list sinks;
    uint64_t bytes;
    int failed; /* met by poll(); the next write reports it */
};

struct embedded_source {
    struct topic_source base;
    struct embedded_log *log;
    struct embedded_topic *topic;
    struct topic_source_events events;
    int64_t start_offset;
    struct buf metadata;          /* of the last commit */
    struct buf asked;             /* int32_t each */
    struct topic_record *records; /* of one batch */
    bool started, announced;
    bool blocked; /* refused credit since the last wake() */
};

struct delivery {
    struct list_node node;
    void *opaque;
};

struct embedded_sink {
    struct topic_sink base;
    struct list_node node; /* in the log's sinks */
    struct embedded_log *log;
    struct topic_sink_events events;
    struct list fresh, carried, durable; /* appended; in the transaction; committed */
};

/* Topics. */

static struct embedded_topic *find_topic(const struct embedded_log *log, const char *name)
{
    for (size_t i = 0; i < log->topic_count; i++) {
        if (!strcmp(log->topics[i]->name, name))
            return log->topics[i];
    }
    return NULL;
}

static int open_topic(struct embedded_log *log, const char *name, struct embedded_topic **out)
{
    int64_t low, high;

    *out = find_topic(log, name);
    if (*out)
        return 0;
    int rv = log->io.bounds(log->io.ctx, name, &low, &high);
    if (rv)
        return rv;
    struct embedded_topic *topic = mem_zalloc(sizeof(*topic));
    topic->name = mem_strdup(name);
    topic->low = topic->stored_low = low;
    topic->high = topic->opened_high = high;
    list_init(&topic->tail);
    log->topics =
        mem_realloc(log->topics, (log->topic_count + 1) * sizeof(struct embedded_topic *));
    log->topics[log->topic_count++] = topic;
    *out = topic;
    return 0;
}

static size_t headers_len(const struct topic_header *headers, size_t count)
{
    size_t len = count * sizeof(*headers);

    for (size_t i = 0; i < count; i++)
        len += headers[i].key.len + headers[i].value.len;
    return len;
}

static struct bytes copy_at(uint8_t **at, struct bytes from)
{
    struct bytes copy = bytes_of(*at, from.len);

    if (from.len > 0)
        memcpy(*at, from.ptr, from.len);
    *at += from.len;
    return copy;
}

static struct topic_header *copy_headers(const struct topic_header *headers, size_t count)
{
    if (count == 0)
        return NULL;
    struct topic_header *copy = mem_alloc(headers_len(headers, count));
    uint8_t *at = (uint8_t *)(copy + count);
    for (size_t i = 0; i < count; i++) {
        copy[i].key = copy_at(&at, headers[i].key);
        copy[i].value = copy_at(&at, headers[i].value);
    }
    return copy;
}

static struct record *first_record(const struct embedded_topic *topic)
{
    struct list_node *node = list_first(&topic->tail);

    return node ? container_of(node, struct record, node) : NULL;
}

static void drop_first(struct embedded_topic *topic)
{
    struct record *record = container_of(list_pop_front(&topic->tail), struct record, node);

    if (record->stored)
        topic->tail_bytes -= record->payload->len;
    blob_unref(record->payload);
    mem_free(record->headers);
    mem_free(record);
}

/* Takes over the reference to `payload`, if it succeeds. */
static int append(struct embedded_log *log, const char *name, struct blob *payload,
                  const struct topic_header *headers, size_t header_count, int64_t *offset)
{
    struct embedded_topic *topic;
    int rv = open_topic(log, name, &topic);

    if (rv)
        return rv;
    struct record *record = mem_zalloc(sizeof(*record));
    record->offset = topic->high++;
    record->payload = payload;
    record->headers = copy_headers(headers, header_count);
    record->header_count = header_count;
    list_push_back(&topic->tail, &record->node);
    log->bytes += payload->len;
    *offset = record->offset;
    return 0;
}

/* The log. */

struct embedded_log *embedded_log_new(const struct embedded_io *io)
{
    struct embedded_log *log = mem_zalloc(sizeof(*log));

    log->io = *io;
    list_init(&log->sinks);
    return log;
}

void embedded_log_free(struct embedded_log *log)
{
    assert(list_empty(&log->sinks));
    for (size_t i = 0; i < log->topic_count; i++) {
        struct embedded_topic *topic = log->topics[i];
        assert(!topic->source);
        while (!list_empty(&topic->tail))
            drop_first(topic);
        mem_free(topic->name);
        mem_free(topic);
    }
    mem_free(log->topics);
    mem_free(log);
}

int embedded_log_append(struct embedded_log *log, const char *topic, struct bytes payload,
                        const struct topic_header *headers, size_t header_count, int64_t *offset)
{
    struct blob *blob = blob_copy(payload);
    int rv = append(log, topic, blob, headers, header_count, offset);

    if (rv)
        blob_unref(blob);
    return rv;
}

/* What is not stored yet stands at the end: a long backlog is not walked. NULL: nothing. */
static struct list_node *first_unstored(const struct embedded_topic *topic)
{
    struct list_node *first = NULL;

    for (struct list_node *node = list_last(&topic->tail); node && node != &topic->tail.head;
         node = node->prev) {
        if (container_of(node, struct record, node)->stored)
            break;
        first = node;
    }
    return first;
}

static int write_records(struct embedded_log *log, struct embedded_topic *topic)
{
    struct list_node *node = first_unstored(topic);

    for (; node && node != &topic->tail.head; node = node->next) {
        struct record *record = container_of(node, struct record, node);
        int rv = log->io.append(log->io.ctx, topic->name, record->offset,
                                blob_bytes(record->payload), record->headers, record->header_count);
        if (rv)
            return rv;
        record->stored = true;
        topic->tail_bytes += record->payload->len;
    }
    return 0;
}

static int write_topic(struct embedded_log *log, struct embedded_topic *topic)
{
    if (topic->low > topic->stored_low) {
        int rv = log->io.trim(log->io.ctx, topic->name, topic->low);
        if (rv)
            return rv;
        topic->stored_low = topic->low;
    }
    int rv = write_records(log, topic);
    while (!rv && !list_empty(&topic->tail) && (!topic->source || topic->tail_bytes > TAIL_BYTES))
        drop_first(topic);
    return rv;
}

static bool topic_is_dirty(const struct embedded_topic *topic)
{
    struct list_node *last = list_last(&topic->tail);

    return topic->low > topic->stored_low ||
           (last && !container_of(last, struct record, node)->stored);
}

bool embedded_log_is_dirty(const struct embedded_log *log)
{
    for (size_t i = 0; i < log->topic_count; i++) {
        if (topic_is_dirty(log->topics[i]))
            return true;
    }
    return log->failed != 0;
}

/* Moves all of `from` behind `to`. */
static void move_all(struct list *from, struct list *to)
{
    struct list_node *node;

    while ((node = list_pop_front(from)) != NULL)
        list_push_back(to, node);
}

int embedded_log_write(struct embedded_log *log)
{
    for (size_t i = 0; i < log->topic_count && !log->failed; i++)
        log->failed = write_topic(log, log->topics[i]);
    if (log->failed)
        return log->failed;
    list_foreach (&log->sinks, node) {
        struct embedded_sink *sink = container_of(node, struct embedded_sink, node);
        move_all(&sink->fresh, &sink->carried);
    }
    return 0;
}

void embedded_log_committed(struct embedded_log *log)
{
    list_foreach (&log->sinks, node) {
        struct embedded_sink *sink = container_of(node, struct embedded_sink, node);
        move_all(&sink->carried, &sink->durable);
    }
}

static bool source_has_work(const struct embedded_topic *topic)
{
    const struct embedded_source *source = topic->source;

    if (!source || !source->started)
        return false;
    return !source->announced || source->asked.len > 0 ||
           (topic->low < topic->high && !source->blocked);
}

bool embedded_log_has_work(const struct embedded_log *log)
{
    for (size_t i = 0; i < log->topic_count; i++) {
        if (source_has_work(log->topics[i]))
            return true;
    }
    list_foreach (&log->sinks, node) {
        if (!list_empty(&container_of(node, struct embedded_sink, node)->durable))
            return true;
    }
    return false;
}

uint64_t embedded_log_waiting(const struct embedded_log *log)
{
    uint64_t waiting = 0;

    for (size_t i = 0; i < log->topic_count; i++) {
        if (log->topics[i]->source)
            waiting += (uint64_t)(log->topics[i]->high - log->topics[i]->low);
    }
    return waiting;
}

void embedded_log_size(const struct embedded_log *log, uint64_t *records, uint64_t *bytes)
{
    *records = 0;
    for (size_t i = 0; i < log->topic_count; i++)
        *records += (uint64_t)(log->topics[i]->high - log->topics[i]->low);
    *bytes = log->bytes;
}

/* The source. */

static struct embedded_source *source_of(struct topic_source *base)
{
    return container_of(base, struct embedded_source, base);
}

static void position_of(const struct embedded_source *source, struct topic_position *out)
{
    *out = (struct topic_position){
        .assigned = true,
        .start_offset = source->start_offset,
        .committed = source->topic->low,
        .metadata = buf_bytes(&source->metadata),
        .low = source->topic->low,
        .high = source->topic->high,
    };
}

static void delivered_one(struct embedded_source *source, int64_t offset, size_t payload_len)
{
    if (offset >= source->topic->opened_high)
        source->log->bytes -= payload_len;
    source->topic->low = offset + 1;
}

static size_t deliver_tail(struct embedded_source *source, size_t max)
{
    struct topic_record *records = source->records;
    size_t count = 0;

    list_foreach (&source->topic->tail, node) {
        const struct record *record = container_of(node, struct record, node);
        if (count == max)
            break;
        records[count++] = (struct topic_record){.offset = record->offset,
                                                 .timestamp_ms = -1,
                                                 .payload = blob_bytes(record->payload),
                                                 .headers = record->headers,
                                                 .header_count = record->header_count};
    }
    source->events.records(source->events.ctx, records, count);
    for (size_t i = 0; i < count; i++) {
        delivered_one(source, records[i].offset, records[i].payload.len);
        drop_first(source->topic);
    }
    return count;
}

struct reading {
    struct embedded_source *source;
    size_t count;
};

static void deliver_stored_one(void *ctx, int64_t offset, struct bytes payload,
                               const struct topic_header *headers, size_t header_count)
{
    struct reading *reading = ctx;
    struct embedded_source *source = reading->source;
    struct topic_record record = {.offset = offset,
                                  .timestamp_ms = -1,
                                  .payload = payload,
                                  .headers = headers,
                                  .header_count = header_count};

    source->events.records(source->events.ctx, &record, 1);
    delivered_one(source, offset, payload.len);
    reading->count++;
}

static size_t deliver_stored(struct embedded_source *source, int64_t end, size_t max)
{
    struct embedded_log *log = source->log;
    struct reading reading = {.source = source};
    int64_t from = source->topic->low;

    if ((int64_t)max > end - from)
        max = (size_t)(end - from);
    int rv =
        log->io.read(log->io.ctx, source->topic->name, from, max, deliver_stored_one, &reading);
    if (rv)
        log->failed = rv;
    /* Offsets may have gaps; a range without any record is one. */
    else if (reading.count < max && source->topic->low < end)
        source->topic->low = end;
    return reading.count;
}

static size_t deliver(struct embedded_source *source, size_t max)
{
    struct embedded_topic *topic = source->topic;
    const struct record *first = first_record(topic);

    /* After a gap, reading from the storage may have gone on into the part that is in memory too.
     */
    while (first && first->offset < topic->low) {
        drop_first(topic);
        first = first_record(topic);
    }
    int64_t memory = first ? first->offset : topic->high;

    if (topic->low < memory)
        return deliver_stored(source, memory, max);
    return deliver_tail(source, max);
}

/* False when there is no credit. */
static bool deliver_batch(struct embedded_source *source, size_t *delivered)
{
    const struct topic_source_events *events = &source->events;
    int64_t waiting = source->topic->high - source->topic->low;
    size_t wanted = waiting < BATCH ? (size_t)waiting : BATCH;
    size_t credit = events->credit(events->ctx, wanted);

    source->blocked = credit == 0;
    if (credit == 0)
        return false;
    size_t used = deliver(source, credit);
    if (used < credit)
        events->credit_return(events->ctx, credit - used);
    *delivered += used;
    return true;
}

static void answer(struct embedded_source *source)
{
    struct buf asked = source->asked;
    struct topic_position position;

    source->asked = (struct buf){0}; /* whoever is answered may ask again */
    for (size_t at = 0; at < asked.len; at += sizeof(int32_t)) {
        int32_t partition;
        memcpy(&partition, asked.ptr + at, sizeof(partition));
        position_of(source, &position);
        if (partition != 0)
            position = (struct topic_position){.partition = partition};
        source->events.answered(source->events.ctx, &position, partition ? ERR_UNAVAILABLE : 0);
    }
    buf_free(&asked);
}

static void source_poll(struct topic_source *base)
{
    struct embedded_source *source = source_of(base);
    struct embedded_topic *topic = source->topic;
    struct topic_position position;
    size_t delivered = 0;

    if (!source->started)
        return;
    if (!source->announced) {
        source->announced = true;
        position_of(source, &position);
        source->events.assigned(source->events.ctx, &position, 1);
    }
    answer(source);
    while (source->started && topic->low < topic->high && delivered < POLL_RECORDS &&
           !source->log->failed && deliver_batch(source, &delivered)) {
    }
}

static int source_start(struct topic_source *base, const struct topic_source_events *events,
                        struct err_text *why)
{
    struct embedded_source *source = source_of(base);

    if (source->started)
        return err_set(why, ERR_STATE, "source of topic '%s' is started already",
                       source->topic->name);
    source->events = *events;
    source->start_offset = source->topic->low;
    source->started = true;
    return 0;
}

static void source_commit(struct topic_source *base, int32_t partition, int64_t next_offset,
                          struct bytes metadata, bool urgent)
{
    struct embedded_source *source = source_of(base);

    (void)urgent;
    if (!source->started || partition != 0)
        return;
    buf_clear(&source->metadata);
    buf_append(&source->metadata, metadata.ptr, metadata.len);
    source->events.committed(source->events.ctx, partition, next_offset);
}

static void source_ask(struct topic_source *base, int32_t partition)
{
    buf_append(&source_of(base)->asked, &partition, sizeof(partition));
}

static void source_revoke_done(struct topic_source *base, int32_t partition)
{
    (void)base;
    (void)partition; /* nobody takes an embedded partition away */
}

static void source_wake(struct topic_source *base)
{
    source_of(base)->blocked = false;
}

static void source_stop(struct topic_source *base, uint32_t timeout_ms)
{
    (void)timeout_ms;
    source_of(base)->started = false;
}

static void source_destroy(struct topic_source *base)
{
    struct embedded_source *source = source_of(base);

    source->topic->source = NULL;
    buf_free(&source->metadata);
    buf_free(&source->asked);
    mem_free(source->records);
    mem_free(source);
}

static const struct topic_source_ops source_ops = {
    .start = source_start,
    .commit = source_commit,
    .ask = source_ask,
    .revoke_done = source_revoke_done,
    .wake = source_wake,
    .poll = source_poll,
    .stop = source_stop,
    .destroy = source_destroy,
};

int embedded_source_new(struct topic_source **out, struct embedded_log *log, const char *name,
                        struct err_text *why)
{
    struct embedded_topic *topic;
    int rv = open_topic(log, name, &topic);

    if (rv)
        return err_set(why, rv, "embedded topic '%s': %s", name, err_string(rv));
    if (topic->source)
        return err_set(why, ERR_EXISTS, "embedded topic '%s' has a source already", name);
    struct embedded_source *source = mem_zalloc(sizeof(*source));
    source->base.ops = &source_ops;
    source->log = log;
    source->topic = topic;
    source->records = mem_calloc(BATCH, sizeof(*source->records));
    topic->source = source;
    *out = &source->base;
    return 0;
}

/* The sink. */

static struct embedded_sink *sink_of(struct topic_sink *base)
{
    return container_of(base, struct embedded_sink, base);
}

static int sink_produce(struct topic_sink *base, const char *topic, struct blob *payload,
                        const struct topic_header *headers, size_t header_count, void *opaque,
                        const char **why)
{
    struct embedded_sink *sink = sink_of(base);
    struct blob *kept = payload ? blob_ref(payload) : blob_new(0);
    int64_t offset;
    int rv = append(sink->log, topic, kept, headers, header_count, &offset);

    if (rv) {
        blob_unref(kept);
        *why = err_string(rv);
        return rv;
    }
    struct delivery *delivery = mem_zalloc(sizeof(*delivery));
    delivery->opaque = opaque;
    list_push_back(&sink->fresh, &delivery->node);
    return 0;
}

static void report(struct embedded_sink *sink, struct list *list, enum topic_delivery fate,
                   const char *why)
{
    struct list_node *node;

    while ((node = list_pop_front(list)) != NULL) {
        struct delivery *delivery = container_of(node, struct delivery, node);
        void *opaque = delivery->opaque;
        mem_free(delivery);
        sink->events.delivered(sink->events.ctx, opaque, fate, why);
    }
}

static void sink_poll(struct topic_sink *base)
{
    struct embedded_sink *sink = sink_of(base);

    report(sink, &sink->durable, TOPIC_DELIVERED, NULL);
}

/* There is no later commit to wait for: what has not been committed by now is not in the log. */
static void sink_stop(struct topic_sink *base, uint32_t timeout_ms)
{
    struct embedded_sink *sink = sink_of(base);

    (void)timeout_ms;
    report(sink, &sink->durable, TOPIC_DELIVERED, NULL);
    report(sink, &sink->carried, TOPIC_FAILED, "stopped before the commit");
    report(sink, &sink->fresh, TOPIC_FAILED, "stopped before the commit");
}

static void sink_destroy(struct topic_sink *base)
{
    struct embedded_sink *sink = sink_of(base);

    sink_stop(base, 0);
    list_remove(&sink->log->sinks, &sink->node);
    mem_free(sink);
}

static const struct topic_sink_ops sink_ops = {
    .produce = sink_produce,
    .poll = sink_poll,
    .stop = sink_stop,
    .destroy = sink_destroy,
};

int embedded_sink_new(struct topic_sink **out, struct embedded_log *log,
                      const struct topic_sink_events *events, struct err_text *why)
{
    struct embedded_sink *sink = mem_zalloc(sizeof(*sink));

    (void)why;
    sink->base.ops = &sink_ops;
    sink->log = log;
    sink->events = *events;
    list_init(&sink->fresh);
    list_init(&sink->carried);
    list_init(&sink->durable);
    list_push_back(&log->sinks, &sink->node);
    *out = &sink->base;
    return 0;
}
