/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Publishing. One poll thread serves delivery reports; produce() only hands a record to librdkafka,
 * which keeps a pointer into the blob until its report.
 *
 * Two things librdkafka does not do by itself:
 *   - A client that has met a fatal error (idempotence broken or not allowed) is of no more use.
 *     The poll thread purges it, so that everything open is reported as failed, and makes a new
 *     one; without idempotence if that was refused.
 *   - A broker refuses a whole batch as too large, though its topic's limit may only be exceeded by
 *     the batch. Such records go once more through a second client that sends each alone; only what
 *     is refused there is impossible.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "base/mem.h"
#include "topic/kafka_conf.h"

#define LINGER_MS         "1"
#define QUEUE_RECORDS_MAX 100000
#define QUEUE_KBYTES_MAX  131072 /* payloads are the engine's blobs; this bounds what they pin */
#define POLL_MS           100
#define PURGE_MS          5000

struct sent {
    struct list_node node; /* in `refused` */
    struct kafka_sink *sink;
    struct blob *payload;
    void *opaque;
    rd_kafka_resp_err_t err; /* of a refused one */
};

struct kafka_sink {
    struct topic_sink base;
    struct kafka_cluster cluster;
    char *label; /* of the cluster, in messages */
    uint32_t message_max_bytes, delivery_timeout_ms;
    struct topic_sink_events events;
    pthread_t thread;
    bool started;
    atomic_bool stopping;
    int64_t error_warned_ms;
    int fate; /* of the record that is reported now; of the reporting thread */

    /* rk and alone change under the lock, on the poll thread; produce() uses rk under it. */
    pthread_mutex_t lock;
    rd_kafka_t *rk;
    rd_kafka_t *alone; /* one record a batch; made when first needed */
    bool idempotent;
    struct list
        refused; /* accepted, but librdkafka would not take them now: reported by the thread */
};

static struct kafka_sink *self(struct topic_sink *base)
{
    return container_of(base, struct kafka_sink, base);
}

/* The fate of a record. */

static enum topic_delivery classify(rd_kafka_resp_err_t err)
{
    switch (err) {
    case RD_KAFKA_RESP_ERR_NO_ERROR:
        return TOPIC_DELIVERED;
    case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
    case RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE:
    case RD_KAFKA_RESP_ERR_INVALID_MSG:
    case RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE:
    case RD_KAFKA_RESP_ERR_INVALID_RECORD:
    case RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP:
    case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION: /* no valid name of a topic */
    case RD_KAFKA_RESP_ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT:
    case RD_KAFKA_RESP_ERR__INVALID_ARG:
        return TOPIC_IMPOSSIBLE;
    default: /* a missing topic may be made, an access granted */
        return TOPIC_FAILED;
    }
}

static bool is_too_large(rd_kafka_resp_err_t err)
{
    return err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE ||
           err == RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE;
}

/* What a sender that waits is told. */
static int fate_of(rd_kafka_resp_err_t err, rd_kafka_msg_status_t status)
{
    if (!err)
        return 0;
    if (is_too_large(err))
        return ERR_TOO_LARGE;
    if (kafka_error_denied(err))
        return ERR_DENIED;
    if (err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || err == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC ||
        err == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION)
        return ERR_NOT_FOUND;
    if (classify(err) == TOPIC_IMPOSSIBLE)
        return ERR_INVALID;
    return status == RD_KAFKA_MSG_STATUS_NOT_PERSISTED ? ERR_UNAVAILABLE : ERR_TIMEOUT;
}

static void report(struct sent *sent, rd_kafka_resp_err_t err, rd_kafka_msg_status_t status)
{
    const struct topic_sink_events *events = &sent->sink->events;

    sent->sink->fate = fate_of(err, status);
    events->delivered(events->ctx, sent->opaque, classify(err), err ? rd_kafka_err2str(err) : NULL);
    blob_unref(sent->payload);
    mem_free(sent);
}

static rd_kafka_resp_err_t hand_to(rd_kafka_t *rk, const char *topic, struct sent *sent,
                                   rd_kafka_headers_t *headers)
{
    /* An empty payload is not a null one: librdkafka tells them apart by the pointer. */
    void *value = sent->payload ? sent->payload->data : NULL;
    size_t len = sent->payload ? sent->payload->len : 0;

    if (headers)
        return rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_VALUE(value, len),
                                 RD_KAFKA_V_HEADERS(headers), RD_KAFKA_V_OPAQUE(sent),
                                 RD_KAFKA_V_END);
    return rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_VALUE(value, len),
                             RD_KAFKA_V_OPAQUE(sent), RD_KAFKA_V_END);
}

static int make_client(struct kafka_sink *sink, bool alone, rd_kafka_t **out, struct err_text *why);

/* Poll thread: once more, without company. False: it cannot be tried now. */
static bool send_alone(struct kafka_sink *sink, const rd_kafka_message_t *message)
{
    struct sent *sent = message->_private;
    rd_kafka_headers_t *headers = NULL;
    rd_kafka_t *rk;

    if (!sink->alone) {
        if (make_client(sink, true, &rk, NULL))
            return false;
        pthread_mutex_lock(&sink->lock);
        sink->alone = rk;
        pthread_mutex_unlock(&sink->lock);
    }
    rd_kafka_message_detach_headers((rd_kafka_message_t *)(uintptr_t)message, &headers);
    if (!hand_to(sink->alone, rd_kafka_topic_name(message->rkt), sent, headers))
        return true;
    if (headers)
        rd_kafka_headers_destroy(headers);
    return false;
}

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
    struct kafka_sink *sink = opaque;
    rd_kafka_resp_err_t err = message->err;

    if (is_too_large(err) && rk != sink->alone) {
        if (send_alone(sink, message))
            return;
        err = RD_KAFKA_RESP_ERR__FAIL;
    }
    report(message->_private, err, rd_kafka_message_status(message));
}

/* The client. */

static void on_error(rd_kafka_t *rk, int err, const char *text, void *opaque)
{
    struct kafka_sink *sink = opaque;

    (void)rk;
    if (kafka_warn_due(&sink->error_warned_ms))
        log_warn(KAFKA_LOG, LOG_FIELDS(log_str("error", rd_kafka_err2name(err))),
                 "Kafka producer, cluster %s: %s", sink->label, text);
}

static int put_settings(struct kafka_sink *sink, rd_kafka_conf_t *conf, bool alone,
                        struct err_text *why)
{
    int rv = kafka_conf_put(conf, "enable.idempotence", sink->idempotent ? "true" : "false", why);

    if (!rv)
        rv = kafka_conf_put(conf, "acks", "all", why);
    if (!rv)
        rv = kafka_conf_put(conf, "linger.ms", alone ? "0" : LINGER_MS, why);
    if (!rv && alone)
        rv = kafka_conf_put(conf, "batch.num.messages", "1", why);
    if (!rv)
        rv = kafka_conf_put_int(conf, "message.max.bytes", sink->message_max_bytes, why);
    if (!rv)
        rv = kafka_conf_put_int(conf, "message.timeout.ms", sink->delivery_timeout_ms, why);
    if (!rv)
        rv = kafka_conf_put_int(conf, "queue.buffering.max.messages", QUEUE_RECORDS_MAX, why);
    if (!rv)
        rv = kafka_conf_put_int(conf, "queue.buffering.max.kbytes", QUEUE_KBYTES_MAX, why);
    return rv;
}

static int make_client(struct kafka_sink *sink, bool alone, rd_kafka_t **out, struct err_text *why)
{
    rd_kafka_conf_t *conf;
    int rv = kafka_conf_new(&conf, &sink->cluster, why);

    if (rv)
        return rv;
    rd_kafka_conf_set_opaque(conf, sink);
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    rd_kafka_conf_set_error_cb(conf, on_error);
    rv = put_settings(sink, conf, alone, why);
    if (rv) {
        rd_kafka_conf_destroy(conf);
        return rv;
    }
    return kafka_client_new(out, RD_KAFKA_PRODUCER, conf, why);
}

/* Idempotence needs a right, and a broker, that not every cluster has. */
static bool refuses_idempotence(rd_kafka_resp_err_t err)
{
    return err == RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED ||
           err == RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED ||
           err == RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE ||
           err == RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION;
}

/* Reports everything open as failed. */
static void purge(rd_kafka_t *rk)
{
    int64_t until_ms = clock_boot_ms() + PURGE_MS;

    rd_kafka_purge(rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
    while (rd_kafka_outq_len(rk) > 0 && clock_boot_ms() < until_ms)
        rd_kafka_poll(rk, 10);
}

static void replace_client(struct kafka_sink *sink, rd_kafka_t **slot, rd_kafka_resp_err_t err,
                           const char *text)
{
    rd_kafka_t *old = *slot;
    struct err_text why;

    if (sink->idempotent && refuses_idempotence(err)) {
        sink->idempotent = false;
        log_warn(KAFKA_LOG, LOG_FIELDS(log_str("cluster", sink->cluster.address)),
                 "the cluster refuses an idempotent producer, going on without: %s", text);
    } else {
        log_warn(KAFKA_LOG, LOG_FIELDS(log_str("cluster", sink->cluster.address)),
                 "making a new producer after a fatal error: %s", text);
    }
    pthread_mutex_lock(&sink->lock);
    *slot = NULL;
    pthread_mutex_unlock(&sink->lock);
    purge(old);
    rd_kafka_destroy(old);
    if (slot == &sink->alone)
        return;
    rd_kafka_t *fresh = NULL;
    if (make_client(sink, false, &fresh, &why))
        log_error(KAFKA_LOG, NULL, "%s", why.s); /* tried again at the next turn */
    pthread_mutex_lock(&sink->lock);
    *slot = fresh;
    pthread_mutex_unlock(&sink->lock);
}

static void check_client(struct kafka_sink *sink, rd_kafka_t **slot)
{
    char text[256];

    if (!*slot)
        return;
    rd_kafka_resp_err_t err = rd_kafka_fatal_error(*slot, text, sizeof(text));
    if (err)
        replace_client(sink, slot, err, text);
}

static void ensure_client(struct kafka_sink *sink)
{
    rd_kafka_t *fresh;

    if (sink->rk || make_client(sink, false, &fresh, NULL))
        return;
    pthread_mutex_lock(&sink->lock);
    sink->rk = fresh;
    pthread_mutex_unlock(&sink->lock);
}

static void report_refused(struct kafka_sink *sink)
{
    struct list_node *node;

    for (;;) {
        pthread_mutex_lock(&sink->lock);
        node = list_pop_front(&sink->refused);
        pthread_mutex_unlock(&sink->lock);
        if (!node)
            return;
        struct sent *sent = container_of(node, struct sent, node);
        report(sent, sent->err, RD_KAFKA_MSG_STATUS_NOT_PERSISTED);
    }
}

static void *poll_main(void *arg)
{
    struct kafka_sink *sink = arg;

    while (!atomic_load(&sink->stopping)) {
        ensure_client(sink);
        if (sink->alone)
            rd_kafka_poll(sink->alone, 0);
        if (sink->rk)
            rd_kafka_poll(sink->rk, sink->alone && rd_kafka_outq_len(sink->alone) ? 5 : POLL_MS);
        report_refused(sink);
        check_client(sink, &sink->rk);
        check_client(sink, &sink->alone);
    }
    return NULL;
}

/* The engine's operations. */

static rd_kafka_headers_t *copy_headers(const struct topic_header *headers, size_t count)
{
    rd_kafka_headers_t *copy = count ? rd_kafka_headers_new(count) : NULL;

    for (size_t i = 0; i < count; i++) {
        const struct topic_header *h = &headers[i];
        rd_kafka_header_add(copy, (const char *)h->key.ptr, (ssize_t)h->key.len,
                            h->value.ptr ? (const void *)h->value.ptr : "", (ssize_t)h->value.len);
    }
    return copy;
}

/* librdkafka's answer to a record, under the lock. */
static int take_answer(struct kafka_sink *sink, struct sent *sent, rd_kafka_resp_err_t err,
                       const char **why)
{
    if (!err)
        return 0;
    *why = rd_kafka_err2str(err);
    if (err == RD_KAFKA_RESP_ERR__QUEUE_FULL)
        return ERR_FULL;
    if (classify(err) == TOPIC_IMPOSSIBLE)
        return is_too_large(err) ? ERR_TOO_LARGE : ERR_INVALID;
    /* A topic known to be missing, a client about to be replaced: as if it had failed on the way.
     */
    sent->err = err;
    list_push_back(&sink->refused, &sent->node);
    return 0;
}

static int op_produce(struct topic_sink *base, const char *topic, struct blob *payload,
                      const struct topic_header *headers, size_t header_count, void *opaque,
                      const char **why)
{
    struct kafka_sink *sink = self(base);
    rd_kafka_headers_t *copy = copy_headers(headers, header_count);
    struct sent *sent = mem_zalloc(sizeof(*sent));

    sent->sink = sink;
    sent->payload = blob_ref(payload);
    sent->opaque = opaque;
    pthread_mutex_lock(&sink->lock);
    rd_kafka_resp_err_t err =
        sink->rk ? hand_to(sink->rk, topic, sent, copy) : RD_KAFKA_RESP_ERR__STATE;
    int rv = take_answer(sink, sent, err, why);
    pthread_mutex_unlock(&sink->lock);
    if (err && copy)
        rd_kafka_headers_destroy(copy);
    if (rv) {
        blob_unref(sent->payload);
        mem_free(sent);
    }
    return rv;
}

/* Delivers what it can until then; the rest is reported as failed. */
static void flush(rd_kafka_t *rk, int64_t until_ms)
{
    int64_t left_ms = until_ms - clock_boot_ms();

    rd_kafka_flush(rk, left_ms > 0 ? (int)left_ms : 0);
    if (rd_kafka_outq_len(rk) > 0)
        purge(rk);
}

static void op_stop(struct topic_sink *base, uint32_t timeout_ms)
{
    struct kafka_sink *sink = self(base);
    int64_t until_ms = clock_add(clock_boot_ms(), timeout_ms);

    if (!sink->started)
        return;
    atomic_store(&sink->stopping, true);
    pthread_join(sink->thread, NULL);
    sink->started = false;
    if (sink->rk)
        flush(sink->rk, until_ms); /* may pass records on to `alone` */
    if (sink->alone)
        flush(sink->alone, until_ms);
    report_refused(sink);
}

static void op_destroy(struct topic_sink *base)
{
    struct kafka_sink *sink = self(base);

    op_stop(base, 0);
    if (sink->rk)
        rd_kafka_destroy(sink->rk);
    if (sink->alone)
        rd_kafka_destroy(sink->alone);
    pthread_mutex_destroy(&sink->lock);
    kafka_cluster_free(&sink->cluster);
    mem_free(sink->label);
    mem_free(sink);
}

int kafka_sink_fate(const struct topic_sink *base)
{
    return container_of(base, const struct kafka_sink, base)->fate;
}

static const struct topic_sink_ops ops = {
    .produce = op_produce,
    .stop = op_stop,
    .destroy = op_destroy,
};

int kafka_sink_new(struct topic_sink **out, const struct kafka_sink_options *options,
                   const struct topic_sink_events *events, struct err_text *why)
{
    struct kafka_sink *sink = mem_zalloc(sizeof(*sink));
    int rv;

    sink->base.ops = &ops;
    kafka_cluster_copy(&sink->cluster, &options->cluster);
    sink->label = kafka_cluster_label(&options->cluster);
    sink->message_max_bytes = options->message_max_bytes;
    sink->delivery_timeout_ms = options->delivery_timeout_ms;
    sink->events = *events;
    sink->idempotent = true;
    pthread_mutex_init(&sink->lock, NULL);
    list_init(&sink->refused);
    rv = make_client(sink, false, &sink->rk, why);
    if (!rv) {
        int err = pthread_create(&sink->thread, NULL, poll_main, sink);
        if (err)
            rv = err_set(why, ERR_SYSTEM, "cannot start a thread: %s", strerror(err));
    }
    if (rv) {
        op_destroy(&sink->base);
        return rv;
    }
    sink->started = true;
    *out = &sink->base;
    return 0;
}
