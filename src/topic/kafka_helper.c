/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The helper thread: everything that must block in a request to Kafka while the consumer thread
 * goes on.
 *
 * The nudge. librdkafka 2.0.2 stops fetching a partition whose prefetch is full and then looks
 * again only when its broker thread wakes for another reason, which may take 1 s. Any request to
 * that broker wakes it, so when half of a full prefetch has been taken the helper asks for the end
 * of the partition: the fetch starts before the other half is gone. The answers feed the lag gauge.
 */
#include "topic/kafka_source.h"

#include <poll.h>
#include <sys/eventfd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#define LAG_EVERY_MS 5000

/* Partitions whose end is asked for now: the nudged ones, or all. */
static size_t gather(struct kafka_source *source, bool all, int32_t **out)
{
    size_t count = 0;

    *out = mem_calloc(source->partition_count, sizeof(**out));
    for (size_t i = 0; i < source->partition_count; i++) {
        struct kafka_partition *p = source->partitions[i];
        if (all || p->nudge)
            (*out)[count++] = p->id;
        p->nudge = false;
    }
    return count;
}

/* Called and returns with the lock held. */
static bool ask_ends(struct kafka_source *source, bool all)
{
    int32_t *ids;
    size_t count = gather(source, all, &ids);
    int64_t *highs = mem_calloc(count, sizeof(*highs));

    if (count > 0) {
        pthread_mutex_unlock(&source->lock);
        kafka_offsets_mark(source, ids, count, RD_KAFKA_OFFSET_END, highs);
        pthread_mutex_lock(&source->lock);
    }
    for (size_t i = 0; i < count; i++) {
        struct kafka_partition *p = kafka_source_find(source, ids[i]);
        if (p && highs[i] >= 0)
            p->high = highs[i];
    }
    mem_free(highs);
    mem_free(ids);
    return count > 0;
}

/* What the cluster says of this partition, or with id -1 of the topic: true when it is not there.
 */
static bool is_missing(struct kafka_source *source, int32_t id)
{
    rd_kafka_topic_t *topic = rd_kafka_topic_new(source->rk, source->topic, NULL);
    const struct rd_kafka_metadata *metadata;
    bool missing = false;

    if (!topic)
        return false;
    if (!rd_kafka_metadata(source->rk, 0, topic, &metadata, KAFKA_REQUEST_MS)) {
        const struct rd_kafka_metadata_topic *found = metadata->topics;
        if (metadata->topic_cnt == 1)
            missing = found->err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
                      (!found->err && id >= found->partition_cnt);
        rd_kafka_metadata_destroy(metadata);
    }
    rd_kafka_topic_destroy(topic);
    return missing;
}

/* 0, ERR_UNAVAILABLE, or ERR_NOT_FOUND. Without the ends nobody could tell whether a record is
 * still there. */
static int ask_position(struct kafka_source *source, int32_t id, struct kafka_offsets *offsets,
                        struct err_text *why)
{
    int rv = kafka_offsets_ask(source, &id, 1, offsets, why);

    if (rv)
        offsets->committed = -1;
    else if (offsets->low < 0 || offsets->high < 0)
        rv = err_set(why, ERR_UNAVAILABLE, "ends of partition %d are not known", (int)id);
    return rv && is_missing(source, id) ? ERR_NOT_FOUND : rv;
}

static void answer(struct kafka_source *source, int32_t id)
{
    struct kafka_offsets offsets = {0};
    struct err_text why;
    struct topic_position position = {.partition = id};
    int rv = ask_position(source, id, &offsets, &why);

    if (rv)
        log_debug(KAFKA_LOG, LOG_FIELDS(log_str("topic", source->topic)), "%s", why.s);
    if (rv != ERR_UNAVAILABLE) {
        position.committed = offsets.committed;
        position.metadata = buf_bytes(&offsets.metadata);
        position.low = offsets.low;
        position.high = offsets.high;
        pthread_mutex_lock(&source->lock);
        const struct kafka_partition *p = kafka_source_find(source, id);
        position.assigned = p && !p->revoking;
        position.start_offset = p ? p->start : 0;
        pthread_mutex_unlock(&source->lock);
    }
    if (!kafka_source_ended(source))
        source->events.answered(source->events.ctx, &position, rv);
    buf_free(&offsets.metadata);
}

/* Called and returns with the lock held; false if nobody asks. */
static bool answer_next(struct kafka_source *source)
{
    if (source->ask_count == 0)
        return false;
    int32_t id = source->asks[0];
    source->ask_count--;
    memmove(source->asks, source->asks + 1, source->ask_count * sizeof(*source->asks));
    pthread_mutex_unlock(&source->lock);
    answer(source, id);
    pthread_mutex_lock(&source->lock);
    return true;
}

/* Called and returns with the lock held. */
static void look_for_topic(struct kafka_source *source)
{
    pthread_mutex_unlock(&source->lock);
    bool missing = is_missing(source, -1);
    if (missing)
        log_warn(KAFKA_LOG, LOG_FIELDS(log_str("topic", source->topic)),
                 "topic '%s' is gone from cluster '%s': its consumer waits for it", source->topic,
                 source->cluster.address);
    pthread_mutex_lock(&source->lock);
    source->missing = missing;
}

/* Called and returns with the lock held. */
static void wait_until(struct kafka_source *source, int64_t until_ms)
{
    struct pollfd fd = {.fd = source->helper_fd, .events = POLLIN};
    int64_t wait_ms = until_ms - clock_boot_ms();
    eventfd_t count;

    pthread_mutex_unlock(&source->lock);
    if (poll(&fd, 1, wait_ms > 0 ? (int)wait_ms : 0) > 0)
        eventfd_read(source->helper_fd, &count);
    pthread_mutex_lock(&source->lock);
}

void *kafka_helper_main(void *arg)
{
    struct kafka_source *source = arg;
    int64_t lag_ms = 0, missing_ms = 0;

    pthread_mutex_lock(&source->lock);
    while (!kafka_source_ended(source)) {
        int64_t now_ms = clock_boot_ms();
        if (!source->rk) { /* not connected yet: asks wait */
            wait_until(source, now_ms + LAG_EVERY_MS);
            continue;
        }
        bool all = now_ms >= lag_ms;
        if (all)
            lag_ms = now_ms + LAG_EVERY_MS;
        if (source->missing && now_ms >= missing_ms) {
            look_for_topic(source);
            missing_ms = now_ms + KAFKA_MISSING_EVERY_MS;
        }
        if (!ask_ends(source, all) && !answer_next(source))
            wait_until(source, lag_ms);
    }
    pthread_mutex_unlock(&source->lock);
    return NULL;
}
