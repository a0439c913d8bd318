/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Membership in the group. Assignors are eager: a rebalance takes all partitions away, then gives
 * some. Both callbacks run inside rd_kafka_consumer_poll() on the consumer thread and may block
 * there, since the heartbeats come from librdkafka's own thread; each is bounded by the session
 * timeout.
 *
 * Taking over. The start offset is always made explicit, so that the engine knows the first record
 * it can get before it gets one. Giving up. The order is: no more records, the engine's word that
 * all is durable, the commit in flight, a last commit, then the partitions leave the list (from
 * then on commit() ignores them), and only then the group hears of it. After a *loss* no last
 * commit is sent: this member may have no generation any more, and Kafka takes a commit without one
 * from anybody while a group is empty.
 */
#include "topic/kafka_source.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#define ASK_AGAIN_MS 200
/* librdkafka answers a commit that it held back for want of a coordinator one scan after the
 * session's. */
#define IN_FLIGHT_EXTRA_MS 2000

/* Giving up. */

static bool all_done(struct kafka_source *source)
{
    bool done = true;

    pthread_mutex_lock(&source->lock);
    for (size_t i = 0; i < source->partition_count; i++)
        done &= source->partitions[i]->done || !source->partitions[i]->revoking;
    pthread_mutex_unlock(&source->lock);
    return done;
}

/* stop() may cut any wait short. */
static bool time_left(struct kafka_source *source, int64_t until_ms)
{
    int64_t now_ms = clock_boot_ms();

    return now_ms < until_ms &&
           (!atomic_load(&source->stopping) || now_ms < atomic_load(&source->stop_by_ms));
}

static void sleep_for_commit(struct kafka_source *source, int64_t due_ms, int64_t until_ms)
{
    kafka_source_sleep(source, due_ms < until_ms ? due_ms : until_ms);
}

static void await_done(struct kafka_source *source, int64_t until_ms)
{
    while (!all_done(source) && !atomic_load(&source->stopping)) {
        if (!time_left(source, until_ms)) {
            log_warn(
                KAFKA_LOG, LOG_FIELDS(log_str("topic", source->topic)),
                "partitions are given up before their last records are stored: no answer within "
                "the session timeout");
            return;
        }
        sleep_for_commit(source, kafka_commit_serve(source), until_ms);
    }
}

static void await_commits(struct kafka_source *source, int64_t until_ms)
{
    while (!kafka_commit_settled(source) && time_left(source, until_ms) && !source->fenced &&
           !rd_kafka_assignment_lost(source->rk))
        sleep_for_commit(source, kafka_commit_serve(source), until_ms);
}

/* Also after a loss: librdkafka may hold the commit back and send it under the next generation. */
static void await_in_flight(struct kafka_source *source, int64_t until_ms)
{
    while (source->in_flight && time_left(source, until_ms)) {
        rd_kafka_queue_poll_callback(source->commit_queue, 0);
        if (source->in_flight)
            kafka_source_sleep(source, until_ms);
    }
}

/* The partitions marked as revoking: until nothing of them is on its way any more. */
static void settle(struct kafka_source *source)
{
    int64_t until_ms = clock_boot_ms() + source->session_timeout_ms;

    await_done(source, until_ms);
    source->retry_ms = 0; /* the last chance: no back-off before it */
    source->fenced = false;
    await_commits(source, until_ms);
    await_in_flight(source, until_ms + IN_FLIGHT_EXTRA_MS);
}

static void mark_revoking(struct kafka_source *source, struct kafka_partition **partitions,
                          size_t count)
{
    int32_t *ids = mem_calloc(count, sizeof(*ids));

    pthread_mutex_lock(&source->lock);
    for (size_t i = 0; i < count; i++) {
        ids[i] = partitions[i]->id;
        partitions[i]->revoking = true;
        partitions[i]->done = false;
    }
    pthread_mutex_unlock(&source->lock);
    /* The engine that stops this source waits for it and answers nothing. */
    if (!atomic_load(&source->stopping))
        source->events.revoking(source->events.ctx, ids, count);
    mem_free(ids);
}

static void free_partition(struct kafka_partition *p)
{
    rd_kafka_queue_io_event_enable(p->queue, -1, NULL, 0);
    rd_kafka_queue_destroy(p->queue);
    buf_free(&p->metadata);
    mem_free(p);
}

static void drop_partitions(struct kafka_source *source)
{
    pthread_mutex_lock(&source->lock);
    struct kafka_partition **partitions = source->partitions;
    size_t count = source->partition_count;
    source->partitions = NULL;
    source->partition_count = 0;
    pthread_mutex_unlock(&source->lock);
    for (size_t i = 0; i < count; i++)
        free_partition(partitions[i]);
    mem_free(partitions);
}

static void give_up(struct kafka_source *source)
{
    if (source->partition_count == 0)
        return;
    log_info(KAFKA_LOG,
             LOG_FIELDS(log_str("topic", source->topic),
                        log_int("partitions", (int64_t)source->partition_count),
                        log_bool("lost", rd_kafka_assignment_lost(source->rk))),
             "partitions revoked");
    mark_revoking(source, source->partitions, source->partition_count);
    settle(source);
    drop_partitions(source);
}

/* Taking over. */

/* Where reading starts; -1 if that cannot be told yet. */
static int64_t start_offset(struct kafka_source *source, const struct kafka_offsets *offsets,
                            int32_t id)
{
    if (offsets->committed >= 0 && offsets->committed >= offsets->low)
        return offsets->committed;
    if (source->reset == KAFKA_RESET_ERROR) {
        kafka_source_fail(
            source, ERR_NOT_FOUND,
            "topic '%s', partition %d: group '%s' has no committed offset that is still "
            "kept, and kafka_auto_offset_reset is 'error'",
            source->topic, (int)id, source->group);
        return -1;
    }
    if (offsets->committed >= 0)
        log_warn(KAFKA_LOG,
                 LOG_FIELDS(log_str("topic", source->topic), log_int("partition", id),
                            log_int("committed", offsets->committed), log_int("low", offsets->low)),
                 "records between the committed offset and the oldest kept one are gone");
    if (source->reset == KAFKA_RESET_HIGH)
        return offsets->high;
    /* A partition without a leader now does not hold up the others: from 0, librdkafka itself goes
     * to the earliest once there is one, which is a step forward. */
    return offsets->low >= 0 ? offsets->low : 0;
}

static bool find_starts(struct kafka_source *source, const int32_t *ids, size_t count,
                        struct kafka_offsets *offsets, int64_t *starts)
{
    struct err_text why;
    int rv = kafka_offsets_ask(source, ids, count, offsets, &why);

    for (size_t i = 0; i < count && !rv; i++) {
        starts[i] = start_offset(source, &offsets[i], ids[i]);
        if (starts[i] < 0)
            rv = err_set(&why, ERR_UNAVAILABLE, "end of partition %d is not known", (int)ids[i]);
    }
    if (!rv)
        return true;
    if (kafka_warn_due(&source->offsets_warned_ms))
        log_warn(KAFKA_LOG, LOG_FIELDS(log_str("topic", source->topic)),
                 "asking again where the group stands: %s", why.s);
    return false;
}

/* The coordinator may still be loading the group's offsets: again, with a pause. */
static bool await_starts(struct kafka_source *source, const int32_t *ids, size_t count,
                         struct kafka_offsets *offsets, int64_t *starts)
{
    int64_t until_ms = clock_boot_ms() + source->session_timeout_ms;

    while (!find_starts(source, ids, count, offsets, starts)) {
        int64_t again_ms = clock_boot_ms() + ASK_AGAIN_MS;
        if (again_ms >= until_ms || kafka_source_ended(source))
            return false;
        while (clock_boot_ms() < again_ms && !kafka_source_ended(source))
            kafka_source_sleep(source, again_ms);
    }
    return true;
}

static void announce(struct kafka_source *source, const int32_t *ids, size_t count,
                     const struct kafka_offsets *offsets, const int64_t *starts)
{
    struct topic_position *positions = mem_calloc(count, sizeof(*positions));

    for (size_t i = 0; i < count; i++) {
        positions[i] = (struct topic_position){
            .partition = ids[i],
            .assigned = true,
            .start_offset = starts[i],
            .committed = offsets[i].committed,
            .metadata = buf_bytes(&offsets[i].metadata),
            .low = offsets[i].low,
            .high = offsets[i].high,
        };
    }
    source->events.assigned(source->events.ctx, positions, count);
    mem_free(positions);
}

static struct kafka_partition *new_partition(struct kafka_source *source, int32_t id, int64_t start,
                                             const struct kafka_offsets *offsets)
{
    static const uint64_t one = 1;
    struct kafka_partition *p = mem_zalloc(sizeof(*p));

    p->id = id;
    p->flying = p->named = -1;
    p->start = start;
    p->high = offsets->high;
    atomic_init(&p->position, start);
    atomic_init(&p->committed, offsets->committed);
    p->queue = rd_kafka_queue_get_partition(source->rk, source->topic, id);
    /* By default partitions feed the main queue: there, one that is blocked would block all. */
    rd_kafka_queue_forward(p->queue, NULL);
    rd_kafka_queue_io_event_enable(p->queue, source->event_fd, &one, sizeof(one));
    return p;
}

static void add_partitions(struct kafka_source *source, const int32_t *ids, size_t count,
                           const struct kafka_offsets *offsets, const int64_t *starts)
{
    struct kafka_partition **partitions = mem_calloc(count, sizeof(struct kafka_partition *));

    for (size_t i = 0; i < count; i++)
        partitions[i] = new_partition(source, ids[i], starts[i], &offsets[i]);
    pthread_mutex_lock(&source->lock);
    source->partitions = partitions;
    source->partition_count = count;
    pthread_mutex_unlock(&source->lock);
    source->backoff_ms = source->retry_ms = 0;
}

static void free_offsets(struct kafka_offsets *offsets, size_t count)
{
    for (size_t i = 0; i < count; i++)
        buf_free(&offsets[i].metadata);
    mem_free(offsets);
}

static void assign(struct kafka_source *source, rd_kafka_topic_partition_list_t *list)
{
    rd_kafka_resp_err_t err = rd_kafka_assign(source->rk, list);

    if (err)
        log_error(KAFKA_LOG, LOG_FIELDS(log_str("topic", source->topic)),
                  "librdkafka refused an assignment: %s", rd_kafka_err2str(err));
}

static void take_over(struct kafka_source *source, rd_kafka_topic_partition_list_t *list)
{
    size_t count = (size_t)list->cnt;
    int32_t *ids = mem_calloc(count, sizeof(*ids));
    int64_t *starts = mem_calloc(count, sizeof(*starts));
    struct kafka_offsets *offsets = mem_calloc(count, sizeof(*offsets));

    for (size_t i = 0; i < count; i++)
        ids[i] = list->elems[i].partition;
    if (await_starts(source, ids, count, offsets, starts)) {
        for (size_t i = 0; i < count; i++)
            list->elems[i].offset = starts[i];
        add_partitions(source, ids, count, offsets, starts);
        announce(source, ids, count, offsets, starts);
        assign(source, list);
        log_info(KAFKA_LOG,
                 LOG_FIELDS(log_str("topic", source->topic), log_int("partitions", (int64_t)count)),
                 "partitions assigned");
    } else {
        assign(source, NULL);
        source->resubscribe = true;
    }
    free_offsets(offsets, count);
    mem_free(starts);
    mem_free(ids);
}

static void note_reshared(struct kafka_source *source)
{
    pthread_mutex_lock(&source->lock);
    source->reshared = true;
    pthread_mutex_unlock(&source->lock);
    kafka_source_wake_helper(source);
}

void kafka_group_on_rebalance(rd_kafka_t *rk, rd_kafka_resp_err_t err,
                              rd_kafka_topic_partition_list_t *list, void *opaque)
{
    struct kafka_source *source = opaque;

    (void)rk;
    if (err == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS)
        note_reshared(source);
    if (err == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS && list->cnt > 0 &&
        !kafka_source_ended(source)) {
        take_over(source, list);
        return;
    }
    if (err != RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS)
        give_up(source);
    assign(source, NULL);
}

void kafka_group_step_back(struct kafka_source *source, struct kafka_partition *p, int64_t offset)
{
    struct kafka_offsets *offsets = mem_zalloc(sizeof(*offsets));
    struct err_text why;

    log_warn(KAFKA_LOG,
             LOG_FIELDS(log_str("topic", source->topic), log_int("partition", p->id),
                        log_int("expected", atomic_load(&p->position)), log_int("offset", offset)),
             "the partition goes on at an earlier offset: its log was cut or made anew");
    mark_revoking(source, &p, 1);
    settle(source);
    if (kafka_offsets_ask(source, &p->id, 1, offsets, &why))
        offsets->committed = offsets->low = offsets->high = -1;
    pthread_mutex_lock(&source->lock);
    p->revoking = p->dirty = p->urgent = false;
    p->named = -1;
    p->start = offset;
    p->high = offsets->high;
    pthread_mutex_unlock(&source->lock);
    atomic_store(&p->position, offset);
    atomic_store(&p->committed, offsets->committed);
    announce(source, &p->id, 1, offsets, &offset);
    free_offsets(offsets, 1);
}

/* Leaving runs the rebalance callback once more if partitions are still assigned. */
void kafka_group_leave(struct kafka_source *source)
{
    rd_kafka_queue_t *queue = rd_kafka_queue_new(source->rk);
    int64_t until_ms = clock_boot_ms() + source->session_timeout_ms;

    mark_revoking(source, source->partitions, source->partition_count);
    settle(source);
    drop_partitions(source);
    rd_kafka_error_t *error = rd_kafka_consumer_close_queue(source->rk, queue);
    while (!error && !rd_kafka_consumer_closed(source->rk) && time_left(source, until_ms))
        rd_kafka_queue_poll_callback(queue, 10);
    if (error || !rd_kafka_consumer_closed(source->rk))
        log_warn(KAFKA_LOG, LOG_FIELDS(log_str("topic", source->topic)),
                 "did not leave the group in time: its other members wait for the session timeout");
    if (error)
        rd_kafka_error_destroy(error);
    rd_kafka_queue_destroy(queue);
}
