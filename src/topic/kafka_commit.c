/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Offset commits. One is in flight at a time, naming every partition that has news; what the engine
 * names meanwhile waits for its answer. A partition is dirty from commit() until it is sent, and
 * again if the answer was an error, so nothing is forgotten: a commit is repeated with back-off
 * until Kafka confirms it, a newer one replaces it, or the partition is given up. While the topic
 * is gone nothing is sent: one that is made anew under the same name must not be passed over up to
 * there.
 */
#include "topic/kafka_source.h"

#include "base/clock.h"
#include "base/log.h"

#define BACKOFF_MIN_MS 50
#define BACKOFF_MAX_MS 5000

/* The result of one partition; true if Kafka confirmed it. */
static bool take_result(struct kafka_source *source, struct kafka_partition *p,
                        rd_kafka_resp_err_t err)
{
    int64_t offset = p->flying;

    p->flying = -1;
    if (err) {
        pthread_mutex_lock(&source->lock);
        p->dirty = true;
        pthread_mutex_unlock(&source->lock);
        return false;
    }
    atomic_store(&p->committed, offset);
    source->events.committed(source->events.ctx, p->id, offset);
    return true;
}

static bool is_fenced(rd_kafka_resp_err_t err)
{
    return err == RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION ||
           err == RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID ||
           err == RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID;
}

static void back_off(struct kafka_source *source, rd_kafka_resp_err_t err)
{
    int64_t ms = source->backoff_ms * 2;

    ms = ms < BACKOFF_MIN_MS ? BACKOFF_MIN_MS : ms > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : ms;
    source->backoff_ms = ms;
    source->retry_ms = clock_boot_ms() + ms;
    if (kafka_warn_due(&source->commit_warned_ms))
        log_warn(KAFKA_LOG, LOG_FIELDS(log_str("topic", source->topic)),
                 "commit of offsets failed, will be repeated: %s", rd_kafka_err2str(err));
}

static void on_commit(rd_kafka_t *rk, rd_kafka_resp_err_t err,
                      rd_kafka_topic_partition_list_t *list, void *opaque)
{
    struct kafka_source *source = opaque;
    rd_kafka_resp_err_t first = err;

    (void)rk;
    source->in_flight = false;
    for (size_t i = 0; i < source->partition_count; i++) {
        struct kafka_partition *p = source->partitions[i];
        if (p->flying < 0)
            continue; /* not in it, or of an assignment after the one it was sent for */
        const rd_kafka_topic_partition_t *found =
            list ? rd_kafka_topic_partition_list_find(list, source->topic, p->id) : NULL;
        rd_kafka_resp_err_t own = err ? err : found ? found->err : RD_KAFKA_RESP_ERR__NO_OFFSET;
        if (!take_result(source, p, own) && !first)
            first = own;
    }
    source->fenced = is_fenced(first);
    if (first)
        back_off(source, first);
    else
        source->backoff_ms = 0;
}

/* Moves what waits into a list; NULL when nothing does. */
static rd_kafka_topic_partition_list_t *gather(struct kafka_source *source)
{
    rd_kafka_topic_partition_list_t *list = NULL;

    pthread_mutex_lock(&source->lock);
    for (size_t i = 0; i < source->partition_count; i++) {
        struct kafka_partition *p = source->partitions[i];
        if (!p->dirty)
            continue;
        if (!list)
            list = rd_kafka_topic_partition_list_new((int)source->partition_count);
        rd_kafka_topic_partition_t *element =
            rd_kafka_topic_partition_list_add(list, source->topic, p->id);
        element->offset = p->named;
        /* Freed with the list, by librdkafka: hence from its allocator. */
        if (p->metadata.len > 0) {
            element->metadata = rd_kafka_mem_malloc(source->rk, p->metadata.len);
            memcpy(element->metadata, p->metadata.ptr, p->metadata.len);
            element->metadata_size = p->metadata.len;
        }
        p->flying = p->named;
        p->dirty = p->urgent = false;
    }
    pthread_mutex_unlock(&source->lock);
    return list;
}

static void send_commit(struct kafka_source *source)
{
    rd_kafka_topic_partition_list_t *list = gather(source);

    if (!list)
        return;
    source->in_flight = true;
    source->committed_ms = clock_boot_ms();
    rd_kafka_resp_err_t err =
        rd_kafka_commit_queue(source->rk, list, source->commit_queue, on_commit, source);
    if (err)
        on_commit(source->rk, err, NULL, source);
    rd_kafka_topic_partition_list_destroy(list);
}

static int64_t due_ms(struct kafka_source *source)
{
    int64_t due = CLOCK_NEVER;

    pthread_mutex_lock(&source->lock);
    bool gone = source->missing || atomic_load(&source->returned);
    for (size_t i = 0; i < source->partition_count && !gone; i++) {
        const struct kafka_partition *p = source->partitions[i];
        int64_t own = !p->dirty                  ? CLOCK_NEVER
                      : p->urgent || p->revoking ? 0
                                                 : source->committed_ms + KAFKA_COMMIT_EVERY_MS;
        due = own < due ? own : due;
    }
    pthread_mutex_unlock(&source->lock);
    return due < source->retry_ms ? source->retry_ms : due;
}

int64_t kafka_commit_serve(struct kafka_source *source)
{
    rd_kafka_queue_poll_callback(source->commit_queue, 0);
    if (source->in_flight)
        return CLOCK_NEVER;
    int64_t due = due_ms(source);
    if (due > clock_boot_ms())
        return due;
    /* The loss is known here before the rebalance is: a commit now could go out without a
     * generation, and a group that has become empty would accept that. */
    if (rd_kafka_assignment_lost(source->rk))
        return CLOCK_NEVER;
    send_commit(source);
    return CLOCK_NEVER;
}

bool kafka_commit_settled(struct kafka_source *source)
{
    bool settled = !source->in_flight;

    pthread_mutex_lock(&source->lock);
    for (size_t i = 0; i < source->partition_count; i++)
        settled &=
            !source->partitions[i]->dirty || !source->partitions[i]->revoking || source->missing;
    pthread_mutex_unlock(&source->lock);
    return settled;
}

void kafka_commit_forget(struct kafka_source *source)
{
    pthread_mutex_lock(&source->lock);
    for (size_t i = 0; i < source->partition_count; i++)
        source->partitions[i]->dirty = source->partitions[i]->urgent = false;
    pthread_mutex_unlock(&source->lock);
}
