/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records on their way out (INV-8): retries and dead letters of tasks, and the outbox. A task's
 * record is produced after the commit that made its state durable; its row goes with the first
 * commit after the delivery report. An outbox entry is a row of taskmill_outbox, written by the
 * commit that frees its offset, produced after it, deleted by the first commit after the report.
 *
 * A crash between report and commit publishes again: a retry under the same derived id, a dead
 * letter and an outbox record with the same bytes.
 */
#include <assert.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/plant.h"
#include "broker/engine_int.h"
#include "wire/ident.h"

#define TARGET "taskmill::publisher"

/* --- records of tasks ------------------------------------------------------------------------ */

static enum publish_outcome outcome_of(enum topic_delivery delivery)
{
    switch (delivery) {
    case TOPIC_DELIVERED:
        return PUBLISH_DELIVERED;
    case TOPIC_FAILED:
        return PUBLISH_FAILED;
    case TOPIC_IMPOSSIBLE:
        break;
    }
    return PUBLISH_IMPOSSIBLE;
}

static enum topic_delivery delivery_of(int code)
{
    return code == ERR_TOO_LARGE || code == ERR_INVALID ? TOPIC_IMPOSSIBLE : TOPIC_FAILED;
}

/* Reports the fate of a record in the next turn, as a delivery report would. */
static void defer_fate(struct engine *engine, struct publication *publication,
                       enum topic_delivery delivery, const char *why)
{
    struct engine_delivered *event = engine_event_new(EVENT_DELIVERED, sizeof *event);
    event->opaque = publication;
    event->delivery = delivery;
    snprintf(event->why, sizeof event->why, "%s", why ? why : "");
    engine_defer(engine, &event->event);
}

static void produce(struct engine *engine, struct topic_sink *sink, struct publication *publication,
                    const char *topic, struct blob *payload, const struct topic_header *headers,
                    size_t header_count)
{
    const char *why = "its cluster cannot be used now";
    engine->publishing++;
    int rc =
        sink ? sink->ops->produce(sink, topic, payload, headers, header_count, publication, &why)
             : ERR_UNAVAILABLE;
    if (rc)
        defer_fate(engine, publication, delivery_of(rc), why ? why : err_string(rc));
}

/* The record of a retry (spec/broker.md 3.7): a new id, now as received_at, one attempt more, and
 * the policy's delay. NULL when the stored activation does not parse. */
static struct blob *retry_payload(struct engine *engine, struct bytes payload)
{
    struct activation parsed;
    const char *why;
    if (activation_parse(payload, &parsed, &why))
        return NULL;
    const struct retry_state *state = &parsed.retry_state;
    char id[IDENT_DASHED_LEN + 1];
    ident_retry(id, parsed.id, state->attempts);
    struct activation_edit edit = {
        .set_id = true,
        .id = bytes_str(id),
        .set_received_at = true,
        .received_at_s = engine->wall_ms / 1000,
        .received_at_ns = (int32_t)(engine->wall_ms % 1000) * 1000000,
        .set_delay = state->has_delay_on_retry,
        .clear_delay = !state->has_delay_on_retry,
        .delay = state->delay_on_retry,
        .attempts_add = 1,
    };
    buf_clear(&engine->scratch);
    int rc = activation_splice(payload, &edit, &engine->scratch, &why);
    assert(rc == 0); /* it parsed a moment ago */
    return blob_copy(buf_bytes(&engine->scratch));
}

static int task_record(struct engine *engine, struct task *task, enum publish_kind kind,
                       struct blob **record)
{
    *record = NULL;
    if (kind == PUBLISH_NOTICE) {
        *record = blob_new(0);
        return 0;
    }
    struct blob *stored;
    int rc = engine_payload(engine, task, &stored);
    if (rc || kind == PUBLISH_DEADLETTER) {
        *record = rc ? NULL : stored;
        return rc;
    }
    *record = retry_payload(engine, blob_bytes(stored));
    blob_unref(stored);
    return 0;
}

static int publish_task(struct engine *engine, const struct effect *effect)
{
    struct task *task = effect->task;
    struct blob *record;
    bool retry = effect->publish == PUBLISH_RETRY;
    engine_begin_work(engine, retry ? WORK_RETRIES : WORK_FAILED);
    int rc = task_record(engine, task, effect->publish, &record);
    if (rc)
        return rc;
    struct publication *publication = mem_zalloc(sizeof *publication);
    publication->kind = PUBLICATION_TASK;
    publication->task = task;
    publication->publish = effect->publish;
    if (!record) {
        engine->publishing++;
        defer_fate(engine, publication, TOPIC_IMPOSSIBLE, "the stored activation does not parse");
        return 0;
    }
    if (!retry)
        meter_observe(engine->meters, METER_DLQ_SIZE, record->len);
    char reason[64];
    snprintf(reason, sizeof reason, "%s", task_failure_name((enum task_failure)task->failure));
    struct topic_header notice[] = {
        {.key = bytes_str("taskmill-id"), .value = task_id(task)},
        {.key = bytes_str("taskmill-reason"),
         .value = bytes_str("payload too large for the topic")},
        {.key = bytes_str("taskmill-failure"), .value = bytes_str(reason)},
    };
    bool is_notice = effect->publish == PUBLISH_NOTICE;
    produce(engine, engine->sink, publication,
            retry ? engine->retry_topic : engine->deadletter_topic, record,
            is_notice ? notice : NULL, is_notice ? sizeof notice / sizeof *notice : 0);
    blob_unref(record);
    if (PLANTED(PLANT_DELETE_BEFORE_DELIVERY)) {
        struct publication *early = mem_alloc(sizeof *early);
        *early = *publication;
        publication->task = NULL;
        engine->publishing++;
        defer_fate(engine, early, TOPIC_DELIVERED, NULL);
    }
    return 0;
}

static void task_delivered(struct engine *engine, const struct publication *publication,
                           enum topic_delivery delivery, const char *why)
{
    struct task *task = publication->task;
    if (PLANTED(PLANT_DELETE_BEFORE_DELIVERY) && !task)
        return;
    uint64_t unsaid;
    if (delivery != TOPIC_DELIVERED && engine_may_warn(engine, WARNING_PUBLISH, &unsaid))
        log_warn(TARGET,
                 LOG_FIELDS(log_bytes("id", task_id(task)), log_bytes("taskname", task_name(task)),
                            log_int("unsaid", (int64_t)unsaid)),
                 "%s not published: %s; the row stays%s",
                 publication->publish == PUBLISH_RETRY ? "retry.publish.failure: retry"
                                                       : "deadletter.publish.failure: dead letter",
                 why, delivery == TOPIC_FAILED ? " and is tried again" : "");
    inflight_published(engine->inflight, task, publication->publish, outcome_of(delivery),
                       engine->now_ms);
    if (task->end == TASK_LIVE)
        engine_rules_look_again(engine, task);
}

/* --- the outbox ------------------------------------------------------------------------------ */

static struct outbox_entry *entry_new(const char *topic, const struct topic_header *headers,
                                      size_t header_count)
{
    struct outbox_entry *entry = mem_zalloc(sizeof *entry);
    entry->topic = mem_strdup(topic);
    size_t size = header_count * sizeof *headers;
    for (size_t i = 0; i < header_count; i++)
        size += headers[i].key.len + headers[i].value.len;
    entry->headers = mem_alloc(size);
    entry->header_count = header_count;
    uint8_t *at = (uint8_t *)(entry->headers + header_count);
    for (size_t i = 0; i < header_count; i++) {
        const struct bytes from[2] = {headers[i].key, headers[i].value};
        struct bytes to[2];
        for (int j = 0; j < 2; j++) {
            if (from[j].len)
                memcpy(at, from[j].ptr, from[j].len);
            to[j] = bytes_of(at, from[j].len);
            at += from[j].len;
        }
        entry->headers[i] = (struct topic_header){.key = to[0], .value = to[1]};
    }
    return entry;
}

static void entry_free(struct outbox_entry *entry)
{
    mem_free(entry->topic);
    mem_free(entry->cluster);
    mem_free(entry->headers);
    blob_unref(entry->payload);
    mem_free(entry);
}

void publisher_outbox_add(struct engine *engine, uint32_t source, const struct intake_item *item)
{
    const struct engine_source *from = &engine->sources[source];
    char partition[16], offset[24];
    snprintf(partition, sizeof partition, "%d", item->partition);
    snprintf(offset, sizeof offset, "%lld", (long long)item->offset);
    const struct topic_header headers[] = {
        {.key = bytes_str("taskmill-reason"), .value = bytes_str(item->reason)},
        {.key = bytes_str("taskmill-detail"), .value = bytes_str(item->detail)},
        {.key = bytes_str("taskmill-cluster"), .value = bytes_str(from->cluster)},
        {.key = bytes_str("taskmill-topic"), .value = bytes_str(from->topic)},
        {.key = bytes_str("taskmill-partition"), .value = bytes_str(partition)},
        {.key = bytes_str("taskmill-offset"), .value = bytes_str(offset)},
    };
    uint64_t unsaid;
    if (engine_may_warn(engine, WARNING_BAD_MESSAGE, &unsaid))
        log_warn(TARGET,
                 LOG_FIELDS(log_str("topic", from->topic), log_int("partition", item->partition),
                            log_int("offset", item->offset), log_int("unsaid", (int64_t)unsaid)),
                 "Failed to map message: message cannot become a task: %s%s%s; it goes to %s",
                 item->reason, item->detail[0] ? ": " : "", item->detail, engine->deadletter_topic);
    engine->stats.outboxed++;
    struct outbox_entry *entry =
        entry_new(engine->deadletter_topic, headers, sizeof headers / sizeof *headers);
    entry->entry = engine->next_outbox++;
    entry->payload = item->blob ? blob_ref(item->blob) : blob_new(0);
    entry->fresh = true;
    list_push_back(&engine->outbox_new, &entry->link);
}

void publisher_forward(struct engine *engine, struct blob *payload)
{
    struct outbox_entry *entry = entry_new(engine->forward_topic, NULL, 0);
    if (engine->forward_cluster)
        entry->cluster = mem_strdup(engine->forward_cluster);
    entry->entry = engine->next_outbox++;
    entry->payload = blob_ref(payload);
    entry->fresh = true;
    list_push_back(&engine->outbox_new, &entry->link);
}

void publisher_outbox_load(struct engine *engine, const struct store_outbox *stored)
{
    struct topic_header *headers = mem_calloc(stored->header_count, sizeof *headers);
    for (size_t i = 0; i < stored->header_count; i++)
        headers[i] =
            (struct topic_header){.key = stored->headers[i].key, .value = stored->headers[i].value};
    char *topic = mem_strndup(stored->topic.ptr, stored->topic.len);
    struct outbox_entry *entry = entry_new(topic, headers, stored->header_count);
    mem_free(topic);
    mem_free(headers);
    if (stored->has_cluster)
        entry->cluster = mem_strndup(stored->cluster.ptr, stored->cluster.len);
    entry->entry = stored->entry;
    list_push_back(&engine->outbox, &entry->link);
    heap_insert(&engine->outbox_due, &entry->due, engine->now_ms);
    if (engine->next_outbox <= stored->entry)
        engine->next_outbox = stored->entry + 1;
}

static int write_entry(struct engine *engine, const struct outbox_entry *entry)
{
    struct store_header *headers = mem_calloc(entry->header_count, sizeof *headers);
    for (size_t i = 0; i < entry->header_count; i++)
        headers[i] =
            (struct store_header){.key = entry->headers[i].key, .value = entry->headers[i].value};
    struct store_outbox row = {.entry = entry->entry,
                               .topic = bytes_str(entry->topic),
                               .has_cluster = entry->cluster != NULL,
                               .cluster = bytes_str(entry->cluster ? entry->cluster : ""),
                               .payload = blob_bytes(entry->payload),
                               .headers = headers,
                               .header_count = entry->header_count};
    int rc = store_outbox_add(engine->store, &row);
    mem_free(headers);
    return rc;
}

static bool only_in_memory(const struct outbox_entry *entry)
{
    return PLANTED(PLANT_FORWARD_IN_MEMORY) && entry->header_count == 0;
}

int publisher_write(struct engine *engine)
{
    if (list_empty(&engine->outbox_new) && list_empty(&engine->outbox_gone))
        return 0;
    int rc = engine_begin(engine);
    list_foreach (&engine->outbox_new, node) {
        const struct outbox_entry *entry = container_of(node, struct outbox_entry, link);
        if (rc == 0 && !only_in_memory(entry))
            rc = write_entry(engine, entry);
    }
    list_foreach (&engine->outbox_gone, node) {
        const struct outbox_entry *entry = container_of(node, struct outbox_entry, link);
        if (rc == 0 && !only_in_memory(entry))
            rc = store_outbox_delete(engine->store, entry->entry);
    }
    return rc;
}

void publisher_committed(struct engine *engine)
{
    struct list_node *node;
    while ((node = list_pop_front(&engine->outbox_gone)))
        entry_free(container_of(node, struct outbox_entry, link));
    while ((node = list_pop_front(&engine->outbox_new))) {
        struct outbox_entry *entry = container_of(node, struct outbox_entry, link);
        entry->fresh = false;
        if (engine->outbox.count >= engine->limits.outbox_inflight && !only_in_memory(entry)) {
            blob_unref(entry->payload); /* a slow topic must not fill the memory */
            entry->payload = NULL;
        }
        list_push_back(&engine->outbox, &entry->link);
        heap_insert(&engine->outbox_due, &entry->due, engine->now_ms);
    }
}

static struct topic_sink *sink_of(const struct engine *engine, const struct outbox_entry *entry)
{
    if (!entry->cluster)
        return engine->sink;
    return engine->ports.forward_sink
               ? engine->ports.forward_sink(engine->ports.ctx, entry->cluster)
               : NULL;
}

static int publish_entry(struct engine *engine, struct outbox_entry *entry)
{
    struct blob *payload = entry->payload;
    entry->payload = NULL; /* from now on it is read back: a slow topic must not fill the memory */
    if (entry->notice) {
        blob_unref(payload);
        payload = blob_new(0);
    } else if (!payload) {
        unsigned attempts = 0;
        int rc;
        do
            rc = store_read_outbox(engine->store, entry->entry, &payload);
        while (engine_try_again(engine, rc, &attempts));
        if (rc)
            return rc;
    }
    struct publication *publication = mem_zalloc(sizeof *publication);
    publication->kind = PUBLICATION_OUTBOX;
    publication->entry = entry;
    engine->outbox_inflight++;
    produce(engine, sink_of(engine, entry), publication, entry->topic, payload, entry->headers,
            entry->header_count);
    blob_unref(payload);
    return 0;
}

static int64_t entry_backoff(const struct engine *engine, const struct outbox_entry *entry)
{
    int64_t wait_ms = engine->publish_backoff_ms;
    for (uint32_t i = 1; i < entry->failures && wait_ms < engine->publish_backoff_max_ms; i++)
        wait_ms *= 2;
    return wait_ms < engine->publish_backoff_max_ms ? wait_ms : engine->publish_backoff_max_ms;
}

static void retry_entry(struct engine *engine, struct outbox_entry *entry, int64_t wait_ms)
{
    heap_insert(&engine->outbox_due, &entry->due, clock_add(engine->now_ms, wait_ms));
}

/* An entry the topic refuses for its size: say so once without its payload, keep it, try rarely. A
 * forwarded activation has nothing to say without its payload. */
static void outbox_delivered(struct engine *engine, struct outbox_entry *entry,
                             enum topic_delivery delivery, const char *why)
{
    engine->outbox_inflight--;
    bool was_notice = entry->notice;
    if (delivery == TOPIC_DELIVERED && !was_notice) {
        list_remove(&engine->outbox, &entry->link);
        list_push_back(&engine->outbox_gone, &entry->link);
        return;
    }
    entry->failures++;
    if (delivery != TOPIC_DELIVERED)
        meter_add(engine->meters, METER_PUBLISH_FAILURES, 1);
    uint64_t unsaid;
    if (delivery != TOPIC_DELIVERED && engine_may_warn(engine, WARNING_OUTBOX, &unsaid))
        log_warn(TARGET,
                 LOG_FIELDS(log_str("topic", entry->topic), log_int("unsaid", (int64_t)unsaid)),
                 "outbox record not published: %s; it stays and is tried again", why);
    bool forwarded = entry->header_count == 0, impossible = delivery == TOPIC_IMPOSSIBLE;
    entry->notice = impossible && !was_notice && !forwarded;
    if (entry->notice)
        retry_entry(engine, entry, 0);
    else if (was_notice || impossible)
        retry_entry(engine, entry, engine->parked_retry_ms);
    else
        retry_entry(engine, entry, entry_backoff(engine, entry));
}

/* --- both ------------------------------------------------------------------------------------ */

void publisher_delivered(struct engine *engine, struct publication *publication,
                         enum topic_delivery delivery, const char *why)
{
    assert(engine->publishing > 0);
    engine->publishing--;
    switch (publication->kind) {
    case PUBLICATION_TASK: {
        bool retry = publication->publish == PUBLISH_RETRY;
        enum engine_work work = engine_begin_work(engine, retry ? WORK_RETRIES : WORK_FAILED);
        task_delivered(engine, publication, delivery, why);
        engine_begin_work(engine, work);
        break;
    }
    case PUBLICATION_OUTBOX:
        outbox_delivered(engine, publication->entry, delivery, why);
        break;
    case PUBLICATION_ENQUEUE:
        engine_enqueue_delivered(engine, publication->call, delivery == TOPIC_DELIVERED);
        break;
    }
    mem_free(publication);
}

int publisher_release(struct engine *engine)
{
    size_t count;
    const struct effect *effects = inflight_effects(engine->inflight, &count);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < count; i++)
        if (effects[i].kind == EFFECT_PUBLISH)
            rc = publish_task(engine, &effects[i]);
    engine_begin_work(engine, WORK_OTHER);
    struct heap_node *node;
    while (rc == 0 && engine->outbox_inflight < engine->limits.outbox_inflight &&
           (node = heap_min(&engine->outbox_due)) && node->key <= engine->now_ms) {
        heap_remove(&engine->outbox_due, node);
        rc = publish_entry(engine, container_of(node, struct outbox_entry, due));
    }
    return rc;
}

int64_t publisher_next_ms(const struct engine *engine)
{
    if (!list_empty(&engine->outbox_gone))
        return engine->now_ms;
    const struct heap_node *node = heap_min(&engine->outbox_due);
    if (!node || engine->outbox_inflight >= engine->limits.outbox_inflight)
        return CLOCK_NEVER;
    return node->key;
}

static void free_entries(struct list *list)
{
    struct list_node *node;
    while ((node = list_pop_front(list)))
        entry_free(container_of(node, struct outbox_entry, link));
}

void publisher_free(struct engine *engine)
{
    heap_free(&engine->outbox_due); /* which touches the nodes inside the entries */
    free_entries(&engine->outbox_new);
    free_entries(&engine->outbox_gone);
    free_entries(&engine->outbox);
}
