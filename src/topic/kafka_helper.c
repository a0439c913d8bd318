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

#define LAG_EVERY_MS    5000
#define MISSING_LOOK_MS 1000

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
    int count = kafka_offsets_partitions(source);

    return count == 0 || (count > 0 && id >= count);
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

/* A topic that was made anew may be as long as the old one was read: nothing but asking the group
 * for its offsets, which Kafka deleted with the topic, tells the consumer to begin again. Called
 * and returns with the lock held; returns when to look again. */
static int64_t look_for_topic(struct kafka_source *source)
{
    pthread_mutex_unlock(&source->lock);
    int count = kafka_offsets_partitions(source);
    if (count == 0 && clock_boot_ms() >= source->missing_warned_ms) {
        source->missing_warned_ms = clock_boot_ms() + KAFKA_MISSING_EVERY_MS;
        log_warn(KAFKA_LOG, LOG_FIELDS(log_str("topic", source->topic)),
                 "topic '%s' is gone from cluster %s: its consumer waits for it", source->topic,
                 source->label);
    }
    source->gone |= count == 0;
    if (count > 0 && source->gone) {
        log_info(KAFKA_LOG, LOG_FIELDS(log_str("topic", source->topic)),
                 "topic is back: joining its group anew");
        source->gone = false;
        source->missing_warned_ms = 0;
        atomic_store(&source->returned, true); /* before commits are sent again */
        kafka_source_wake_consumer(source);
    }
    pthread_mutex_lock(&source->lock);
    source->missing = count <= 0;
    return clock_boot_ms() + MISSING_LOOK_MS;
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

/* Called and returns with the lock held. */
static int64_t look_at_balance(struct kafka_source *source)
{
    if (source->reshared)
        source->balance_tries = 0;
    source->reshared = false;
    pthread_mutex_unlock(&source->lock);
    int64_t again_ms = kafka_balance_look(source);
    pthread_mutex_lock(&source->lock);
    return again_ms;
}

void *kafka_helper_main(void *arg)
{
    struct kafka_source *source = arg;
    int64_t lag_ms = 0, missing_ms = 0, balance_ms = CLOCK_NEVER;

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
        if (source->missing && now_ms >= missing_ms)
            missing_ms = look_for_topic(source);
        if (source->reshared || now_ms >= balance_ms)
            balance_ms = look_at_balance(source);
        if (ask_ends(source, all) || answer_next(source) || source->reshared)
            continue;
        int64_t next_ms = balance_ms < lag_ms ? balance_ms : lag_ms;
        wait_until(source, source->missing && missing_ms < next_ms ? missing_ms : next_ms);
    }
    pthread_mutex_unlock(&source->lock);
    return NULL;
}
