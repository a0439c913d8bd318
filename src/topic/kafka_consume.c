/* SPDX-License-Identifier: Apache-2.0 */
#include "topic/kafka_source.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#define PREFETCH_MIN_BYTES (UINT64_C(1) << 20)
#define PREFETCH_MAX_KB    2097151 /* librdkafka's limit */

/* Before the consumer exists. */

static void pause_ms(struct kafka_source *source, int64_t ms)
{
    int64_t until_ms = clock_boot_ms() + ms;

    while (!kafka_source_ended(source) && clock_boot_ms() < until_ms)
        kafka_source_sleep(source, until_ms);
}

/* The topic's number of partitions once the cluster answers; 0 after a failure or stop(). */
static int await_cluster(struct kafka_source *source)
{
    struct err_text why;

    while (!kafka_source_ended(source)) {
        int rv = kafka_probe_look(source->probe, source->topic, &why);
        if (rv > 0)
            return rv;
        if (rv != ERR_UNAVAILABLE)
            kafka_source_fail(source, rv, "%s", why.s);
        pause_ms(source, KAFKA_PROBE_PAUSE_MS);
    }
    return 0;
}

/* librdkafka's budget is per partition and fixed when the client is made, before it is known how
 * many partitions this member gets: so it is shared out over all partitions that the topic has. */
static int put_prefetch(struct kafka_source *source, int partitions, struct err_text *why)
{
    uint64_t bytes = source->prefetch_bytes / (uint64_t)partitions;

    if (bytes < PREFETCH_MIN_BYTES)
        bytes = PREFETCH_MIN_BYTES;
    if (bytes / 1024 > PREFETCH_MAX_KB)
        bytes = UINT64_C(1024) * PREFETCH_MAX_KB;
    source->prefetch_partition_bytes = bytes;
    return kafka_conf_put_int(source->conf, "queued.max.messages.kbytes", (int64_t)(bytes / 1024),
                              why);
}

static int subscribe(struct kafka_source *source)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);

    rd_kafka_topic_partition_list_add(list, source->topic, RD_KAFKA_PARTITION_UA);
    rd_kafka_resp_err_t err = rd_kafka_subscribe(source->rk, list);
    rd_kafka_topic_partition_list_destroy(list);
    if (err)
        kafka_source_fail(source, ERR_INVALID, "cannot subscribe to topic '%s': %s", source->topic,
                          rd_kafka_err2str(err));
    return err ? ERR_INVALID : 0;
}

static int connect_consumer(struct kafka_source *source, int partitions)
{
    static const uint64_t one = 1;
    struct err_text why;
    rd_kafka_t *rk;
    int rv = put_prefetch(source, partitions, &why);

    if (!rv) {
        rv = kafka_client_new(&rk, RD_KAFKA_CONSUMER, source->conf, &why);
        source->conf = NULL; /* consumed either way */
    }
    if (rv) {
        kafka_source_fail(source, rv, "%s", why.s);
        return rv;
    }
    rd_kafka_poll_set_consumer(rk);
    source->main_queue = rd_kafka_queue_get_consumer(rk);
    source->commit_queue = rd_kafka_queue_new(rk);
    rd_kafka_queue_io_event_enable(source->main_queue, source->event_fd, &one, sizeof(one));
    rd_kafka_queue_io_event_enable(source->commit_queue, source->event_fd, &one, sizeof(one));
    pthread_mutex_lock(&source->lock);
    source->rk = rk;
    pthread_mutex_unlock(&source->lock);
    kafka_source_wake_helper(source);
    kafka_probe_free(source->probe);
    source->probe = NULL;
    return subscribe(source);
}

/* Errors. */

static void note_missing(struct kafka_source *source)
{
    pthread_mutex_lock(&source->lock);
    source->missing = true;
    pthread_mutex_unlock(&source->lock);
    kafka_source_wake_helper(source); /* which says so, now and every 30 s */
}

void kafka_consumer_error(struct kafka_source *source, rd_kafka_resp_err_t err, const char *text)
{
    switch (err) {
    case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
        kafka_source_fail(source, ERR_DENIED, "topic '%s', group '%s', cluster %s: %s",
                          source->topic, source->group, source->label, text);
        return;
    case RD_KAFKA_RESP_ERR_INVALID_SESSION_TIMEOUT:
    case RD_KAFKA_RESP_ERR_INCONSISTENT_GROUP_PROTOCOL:
    case RD_KAFKA_RESP_ERR_INVALID_GROUP_ID:
    case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
        kafka_source_fail(source, ERR_INVALID, "topic '%s', group '%s': %s", source->topic,
                          source->group, text);
        return;
    case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
    case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
    case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
        note_missing(source);
        return;
    default:
        /* Everything else passes, or is worth a look: librdkafka goes on by itself. */
        if (kafka_warn_due(&source->error_warned_ms))
            log_warn(KAFKA_LOG,
                     LOG_FIELDS(log_str("topic", source->topic),
                                log_str("error", rd_kafka_err2name(err))),
                     "Kafka consumer, cluster %s: %s", source->label, text);
    }
}

/* Records. */

static void add_headers(struct kafka_source *source, const rd_kafka_message_t *message,
                        struct topic_record *record)
{
    rd_kafka_headers_t *headers;
    const char *key;
    const void *value;
    size_t len;

    record->header_count = 0;
    if (rd_kafka_message_headers(message, &headers))
        return;
    while (!rd_kafka_header_get_all(headers, record->header_count, &key, &value, &len)) {
        if (source->header_count == source->header_cap) {
            source->header_cap = source->header_cap ? 2 * source->header_cap : 64;
            source->headers =
                mem_realloc(source->headers, source->header_cap * sizeof(*source->headers));
        }
        source->headers[source->header_count++] =
            (struct topic_header){.key = bytes_str(key), .value = bytes_of(value, len)};
        record->header_count++;
    }
}

static void fill_record(struct kafka_source *source, const rd_kafka_message_t *message,
                        struct topic_record *record)
{
    rd_kafka_timestamp_type_t type;

    record->partition = message->partition;
    record->offset = message->offset;
    record->timestamp_ms = rd_kafka_message_timestamp(message, &type);
    if (type == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE)
        record->timestamp_ms = -1;
    record->tombstone = message->payload == NULL;
    record->payload = bytes_of(message->payload, message->payload ? message->len : 0);
    add_headers(source, message, record);
}

/* The headers moved while they were collected: only now their addresses are final. */
static void hand_over(struct kafka_source *source, struct kafka_partition *p, size_t count)
{
    size_t at = 0;

    if (count == 0)
        return;
    for (size_t i = 0; i < count; i++) {
        source->records[i].headers = source->header_count ? source->headers + at : NULL;
        at += source->records[i].header_count;
    }
    source->events.records(source->events.ctx, source->records, count);
    atomic_store(&p->position, source->records[count - 1].offset + 1);
    source->header_count = 0;
}

/* Returns how many of the messages were records. */
static size_t deliver(struct kafka_source *source, struct kafka_partition *p, size_t message_count)
{
    int64_t next = atomic_load(&p->position);
    size_t used = 0, count = 0;

    for (size_t i = 0; i < message_count; i++) {
        const rd_kafka_message_t *message = source->messages[i];
        if (message->err) {
            kafka_consumer_error(source, message->err, rd_kafka_message_errstr(message));
            continue;
        }
        if (message->offset < next) {
            hand_over(source, p, count);
            used += count;
            count = 0;
            kafka_group_step_back(source, p, message->offset);
        }
        p->taken_bytes += message->len + message->key_len;
        fill_record(source, message, &source->records[count++]);
        next = message->offset + 1;
    }
    hand_over(source, p, count);
    return used + count;
}

/* See kafka_helper.c. */
static void nudge_if_half(struct kafka_source *source, struct kafka_partition *p, size_t count,
                          bool emptied)
{
    p->taken_records += count;
    if (p->taken_bytes >= source->prefetch_partition_bytes / 2 ||
        p->taken_records >= KAFKA_QUEUE_RECORDS / 2) {
        pthread_mutex_lock(&source->lock);
        p->nudge = true;
        pthread_mutex_unlock(&source->lock);
        kafka_source_wake_helper(source);
    } else if (!emptied) {
        return;
    }
    p->taken_bytes = p->taken_records = 0;
}

/* One batch of one partition; false when there is no credit. */
static bool fetch(struct kafka_source *source, struct kafka_partition *p)
{
    const struct topic_source_events *events = &source->events;
    size_t credit = events->credit(events->ctx, KAFKA_BATCH_RECORDS);

    if (credit == 0)
        return false;
    ssize_t got = rd_kafka_consume_batch_queue(p->queue, 0, source->messages, credit);
    size_t count = got > 0 ? (size_t)got : 0;
    size_t used = deliver(source, p, count);
    for (size_t i = 0; i < count; i++)
        rd_kafka_message_destroy(source->messages[i]);
    if (used < credit)
        events->credit_return(events->ctx, credit - used);
    nudge_if_half(source, p, count, count < credit);
    return true;
}

/* One batch from each partition that has records, beginning with another one each time. True if
 * there may be more and credit for it. */
static bool serve_partitions(struct kafka_source *source)
{
    size_t count = source->partition_count;
    bool more = false;

    for (size_t i = 0; i < count; i++) {
        struct kafka_partition *p = source->partitions[(source->turn + i) % count];
        if (rd_kafka_queue_length(p->queue) == 0)
            continue;
        if (!fetch(source, p)) {
            source->turn = (source->turn + i) % count; /* its turn comes first next time */
            return false;
        }
        more = true;
    }
    source->turn = count ? (source->turn + 1) % count : 0;
    return more;
}

/* Rebalance and error callbacks run in here. */
static void serve_main_queue(struct kafka_source *source)
{
    rd_kafka_message_t *message;

    while ((message = rd_kafka_consumer_poll(source->rk, 0)) != NULL) {
        if (message->err)
            kafka_consumer_error(source, message->err, rd_kafka_message_errstr(message));
        rd_kafka_message_destroy(message);
    }
    if (atomic_exchange(&source->returned, false)) {
        kafka_commit_forget(source);
        source->resubscribe = true;
    }
    if (source->resubscribe) {
        source->resubscribe = false;
        rd_kafka_unsubscribe(source->rk);
        subscribe(source);
    }
}

void *kafka_consumer_main(void *arg)
{
    struct kafka_source *source = arg;
    int partitions = await_cluster(source);

    if (partitions == 0 || connect_consumer(source, partitions))
        return NULL;
    while (!kafka_source_ended(source)) {
        serve_main_queue(source);
        int64_t commit_due_ms = kafka_commit_serve(source);
        if (!serve_partitions(source) && rd_kafka_queue_length(source->main_queue) == 0)
            kafka_source_sleep(source, commit_due_ms);
    }
    kafka_group_leave(source);
    return NULL;
}
