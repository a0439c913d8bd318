/* SPDX-License-Identifier: Apache-2.0 */
#include "topic/kafka_source.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

/* What max.poll.interval.ms is at least. It is the rebalance time-out that the group is told: how
 * long all others may have to wait for a member that does not come back to join. librdkafka's
 * default is 300 s. The main queue is served every 100 ms; only the callbacks of a rebalance take
 * longer, each at most one session time-out and 3 s. */
#define MAX_POLL_MIN_MS 10000
#define HEARTBEAT_MS    3000
/* A fetch waits so long at the broker for a first record of *any* of its partitions. Only one fetch
 * is under way per broker, so this is how long a partition with records may wait for one without.
 */
#define FETCH_WAIT_MS 25

static struct kafka_source *self(struct topic_source *base)
{
    return container_of(base, struct kafka_source, base);
}

struct kafka_partition *kafka_source_find(struct kafka_source *source, int32_t id)
{
    for (size_t i = 0; i < source->partition_count; i++) {
        if (source->partitions[i]->id == id)
            return source->partitions[i];
    }
    return NULL;
}

bool kafka_source_ended(struct kafka_source *source)
{
    return atomic_load(&source->stopping) || atomic_load(&source->failed);
}

void kafka_source_fail(struct kafka_source *source, int code, const char *fmt, ...)
{
    struct err_text why;
    va_list ap;

    if (atomic_load(&source->stopping) || atomic_exchange(&source->failed, true))
        return;
    va_start(ap, fmt);
    err_setv(&why, code, fmt, ap);
    va_end(ap);
    source->events.failed(source->events.ctx, code, why.s);
}

void kafka_source_wake_consumer(struct kafka_source *source)
{
    /* The counter of an eventfd cannot overflow in practice, and if it did the thread would be
     * awake. */
    eventfd_write(source->event_fd, 1);
}

void kafka_source_wake_helper(struct kafka_source *source)
{
    eventfd_write(source->helper_fd, 1);
}

void kafka_source_sleep(struct kafka_source *source, int64_t until_ms)
{
    int64_t wait_ms = until_ms - clock_boot_ms();
    struct pollfd fd = {.fd = source->event_fd, .events = POLLIN};
    eventfd_t count;

    if (wait_ms > KAFKA_POLL_EVERY_MS)
        wait_ms = KAFKA_POLL_EVERY_MS;
    if (poll(&fd, 1, wait_ms > 0 ? (int)wait_ms : 0) > 0)
        eventfd_read(source->event_fd, &count);
}

rd_kafka_topic_partition_list_t *kafka_source_list(struct kafka_source *source, const int32_t *ids,
                                                   size_t count)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)count);

    for (size_t i = 0; i < count; i++)
        rd_kafka_topic_partition_list_add(list, source->topic, ids[i]);
    return list;
}

/* The engine's operations. */

static void op_commit(struct topic_source *base, int32_t id, int64_t next_offset,
                      struct bytes metadata, bool urgent)
{
    struct kafka_source *source = self(base);
    bool news = false;

    pthread_mutex_lock(&source->lock);
    struct kafka_partition *p = kafka_source_find(source, id);
    /* Given up meanwhile, or meant for an earlier assignment: a commit would rewind the next owner.
     */
    if (p && next_offset >= p->start) {
        news = !p->dirty || (urgent && !p->urgent);
        p->named = next_offset;
        buf_clear(&p->metadata);
        buf_append(&p->metadata, metadata.ptr, metadata.len);
        p->dirty = true;
        p->urgent |= urgent;
    }
    pthread_mutex_unlock(&source->lock);
    if (news)
        kafka_source_wake_consumer(source);
}

static bool ask_waits(const struct kafka_source *source, int32_t id)
{
    for (size_t i = 0; i < source->ask_count; i++) {
        if (source->asks[i] == id)
            return true;
    }
    return false;
}

static void op_ask(struct topic_source *base, int32_t id)
{
    struct kafka_source *source = self(base);

    pthread_mutex_lock(&source->lock);
    if (!ask_waits(source, id)) {
        if (source->ask_count == source->ask_cap) {
            source->ask_cap = source->ask_cap ? 2 * source->ask_cap : 16;
            source->asks = mem_realloc(source->asks, source->ask_cap * sizeof(*source->asks));
        }
        source->asks[source->ask_count++] = id;
    }
    pthread_mutex_unlock(&source->lock);
    kafka_source_wake_helper(source);
}

static void op_revoke_done(struct topic_source *base, int32_t id)
{
    struct kafka_source *source = self(base);

    pthread_mutex_lock(&source->lock);
    struct kafka_partition *p = kafka_source_find(source, id);
    if (p && p->revoking)
        p->done = true;
    pthread_mutex_unlock(&source->lock);
    kafka_source_wake_consumer(source);
}

static void op_wake(struct topic_source *base)
{
    kafka_source_wake_consumer(self(base));
}

static void join_helper(struct kafka_source *source)
{
    kafka_source_wake_helper(source);
    pthread_join(source->helper, NULL);
}

static int op_start(struct topic_source *base, const struct topic_source_events *events,
                    struct err_text *why)
{
    struct kafka_source *source = self(base);

    if (source->started)
        return err_set(why, ERR_STATE, "source of topic '%s' is started already", source->topic);
    source->events = *events;
    int err = pthread_create(&source->helper, NULL, kafka_helper_main, source);
    if (err)
        return err_set(why, ERR_SYSTEM, "cannot start a thread: %s", strerror(err));
    err = pthread_create(&source->consumer, NULL, kafka_consumer_main, source);
    if (err) {
        atomic_store(&source->stopping, true);
        join_helper(source);
        return err_set(why, ERR_SYSTEM, "cannot start a thread: %s", strerror(err));
    }
    source->started = true;
    return 0;
}

static void op_stop(struct topic_source *base, uint32_t timeout_ms)
{
    struct kafka_source *source = self(base);

    if (!source->started)
        return;
    atomic_store(&source->stop_by_ms, clock_add(clock_boot_ms(), timeout_ms));
    atomic_store(&source->stopping, true);
    kafka_source_wake_consumer(source);
    pthread_join(source->consumer, NULL);
    join_helper(source);
    source->started = false;
}

static void free_clients(struct kafka_source *source)
{
    if (source->commit_queue)
        rd_kafka_queue_destroy(source->commit_queue);
    if (source->main_queue)
        rd_kafka_queue_destroy(source->main_queue);
    if (source->rk)
        rd_kafka_destroy_flags(source->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    kafka_probe_free(source->probe);
    if (source->conf)
        rd_kafka_conf_destroy(source->conf);
}

static void op_destroy(struct topic_source *base)
{
    struct kafka_source *source = self(base);

    op_stop(base, 0);
    free_clients(source);
    if (source->event_fd >= 0)
        close(source->event_fd);
    if (source->helper_fd >= 0)
        close(source->helper_fd);
    pthread_mutex_destroy(&source->lock);
    kafka_cluster_free(&source->cluster);
    mem_free(source->label);
    mem_free(source->topic);
    mem_free(source->group);
    mem_free(source->messages);
    mem_free(source->records);
    mem_free(source->headers);
    mem_free(source->asks);
    mem_free(source);
}

static const struct topic_source_ops ops = {
    .start = op_start,
    .commit = op_commit,
    .ask = op_ask,
    .revoke_done = op_revoke_done,
    .wake = op_wake,
    .stop = op_stop,
    .destroy = op_destroy,
};

/* Making one. */

/* librdkafka accepts several names for each; it rejects all others itself. */
static int parse_reset(struct kafka_source *source, const char *value, struct err_text *why)
{
    static const char *const low[] = {"earliest", "smallest", "beginning"};
    static const char *const high[] = {"latest", "largest", "end"};

    for (size_t i = 0; i < 3; i++) {
        if (!strcmp(value, low[i])) {
            source->reset = KAFKA_RESET_LOW;
            return 0;
        }
        if (!strcmp(value, high[i])) {
            source->reset = KAFKA_RESET_HIGH;
            return 0;
        }
    }
    source->reset = KAFKA_RESET_ERROR;
    if (!strcmp(value, "error"))
        return 0;
    return err_set(why, ERR_INVALID,
                   "Kafka property 'auto.offset.reset': '%s' is none of earliest, latest, error",
                   value);
}

/* What this source relies on comes after the properties of the cluster, so that those cannot undo
 * it. */
static int put_fixed(struct kafka_source *source, rd_kafka_conf_t *conf, const char *reset,
                     struct err_text *why)
{
    int64_t session_ms = source->session_timeout_ms;
    int64_t heartbeat_ms = session_ms / 3 < HEARTBEAT_MS ? session_ms / 3 : HEARTBEAT_MS;
    const struct {
        const char *name, *text; /* text NULL: the number */
        int64_t number;
    } fixed[] = {
        {"group.id", source->group, 0},
        {"auto.offset.reset", reset, 0},
        {"partition.assignment.strategy", "range,roundrobin", 0},
        {"enable.auto.commit", "false", 0},
        {"enable.auto.offset.store", "false", 0},
        {"enable.partition.eof", "false", 0},
        {"session.timeout.ms", NULL, session_ms},
        {"heartbeat.interval.ms", NULL, heartbeat_ms > 0 ? heartbeat_ms : 1},
        {"max.poll.interval.ms", NULL,
         2 * session_ms > MAX_POLL_MIN_MS ? 2 * session_ms : MAX_POLL_MIN_MS},
        {"queued.min.messages", NULL, KAFKA_QUEUE_RECORDS},
    };

    for (size_t i = 0; i < sizeof(fixed) / sizeof(*fixed); i++) {
        int rv = fixed[i].text ? kafka_conf_put(conf, fixed[i].name, fixed[i].text, why)
                               : kafka_conf_put_int(conf, fixed[i].name, fixed[i].number, why);
        if (rv)
            return rv;
    }
    return 0;
}

static void on_error(rd_kafka_t *rk, int err, const char *text, void *opaque)
{
    char fatal[256];

    if (err == RD_KAFKA_RESP_ERR__FATAL) {
        err = rd_kafka_fatal_error(rk, fatal, sizeof(fatal));
        kafka_source_fail(opaque, ERR_UNAVAILABLE, "Kafka consumer: %s (%s)", fatal,
                          rd_kafka_err2name(err));
        return;
    }
    kafka_consumer_error(opaque, err, text);
}

static int make_conf(struct kafka_source *source, const char *reset, struct err_text *why)
{
    rd_kafka_conf_t *conf;
    int rv = kafka_conf_new(&conf, &source->cluster, why);

    if (rv)
        return rv;
    source->conf = conf;
    rd_kafka_conf_set_opaque(conf, source);
    rd_kafka_conf_set_error_cb(conf, on_error);
    rd_kafka_conf_set_rebalance_cb(conf, kafka_group_on_rebalance);
    rv = put_fixed(source, conf, reset, why);
    if (!rv)
        rv = kafka_conf_put_int(conf, "fetch.wait.max.ms", FETCH_WAIT_MS, why);
    if (!rv)
        rv = kafka_conf_put(conf, "fetch.error.backoff.ms", "100", why);
    /* From 2.2 on a full prefetch is looked at again after this time (1 s if not set); 2.0.2 lacks
     * the property and needs the nudge alone (kafka_helper.c). */
    rd_kafka_conf_set(conf, "fetch.queue.backoff.ms", "10", NULL, 0);
    return rv;
}

static void init_state(struct kafka_source *source, const struct kafka_source_options *options)
{
    source->base.ops = &ops;
    kafka_cluster_copy(&source->cluster, &options->cluster);
    source->label = kafka_cluster_label(&options->cluster);
    source->topic = mem_strdup(options->topic);
    source->group = mem_strdup(options->group);
    source->session_timeout_ms = options->session_timeout_ms;
    source->prefetch_bytes = options->prefetch_bytes;
    source->messages = mem_calloc(KAFKA_BATCH_RECORDS, sizeof(*source->messages));
    source->records = mem_calloc(KAFKA_BATCH_RECORDS, sizeof(*source->records));
    pthread_mutex_init(&source->lock, NULL);
    source->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    source->helper_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

int kafka_source_new(struct topic_source **out, const struct kafka_source_options *options,
                     struct err_text *why)
{
    struct kafka_source *source = mem_zalloc(sizeof(*source));
    int rv;

    init_state(source, options);
    if (source->event_fd < 0 || source->helper_fd < 0)
        rv = err_set(why, ERR_SYSTEM, "eventfd: %s", strerror(errno));
    else
        rv = parse_reset(source, options->auto_offset_reset, why);
    if (!rv)
        rv = make_conf(source, options->auto_offset_reset, why);
    if (!rv)
        rv = kafka_probe_new(&source->probe, &source->cluster, why);
    if (rv) {
        op_destroy(&source->base);
        return rv;
    }
    *out = &source->base;
    return 0;
}

/* Under the lock. */
static struct kafka_lag lag_of(struct kafka_source *source, const struct kafka_partition *p)
{
    struct kafka_lag lag = {.partition = p->id,
                            .position = atomic_load(&p->position),
                            .committed = atomic_load(&p->committed),
                            .lag = -1};
    int64_t low, high;

    /* What fetches brought along, or the helper asked for: whichever is newer is greater. */
    if (rd_kafka_get_watermark_offsets(source->rk, source->topic, p->id, &low, &high) ||
        high < p->high)
        high = p->high;
    lag.high = high < 0 ? -1 : high;
    if (high >= 0)
        lag.lag = high > lag.position ? high - lag.position : 0;
    return lag;
}

size_t kafka_source_lags(struct topic_source *base, struct kafka_lag *out, size_t max)
{
    struct kafka_source *source = self(base);

    pthread_mutex_lock(&source->lock);
    size_t count = source->partition_count;
    for (size_t i = 0; i < count && i < max; i++)
        out[i] = lag_of(source, source->partitions[i]);
    pthread_mutex_unlock(&source->lock);
    return count;
}

int64_t kafka_source_lag(struct topic_source *base, int32_t partition)
{
    struct kafka_source *source = self(base);

    pthread_mutex_lock(&source->lock);
    const struct kafka_partition *p = kafka_source_find(source, partition);
    int64_t lag = p ? lag_of(source, p).lag : -1;
    pthread_mutex_unlock(&source->lock);
    return lag;
}
