/* SPDX-License-Identifier: Apache-2.0 */
#include <poll.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "topic/kafka_probe.h"

#define CREATE_TIMEOUT_MS 30000

static int check_results(const rd_kafka_CreateTopics_result_t *result, const char *label,
                         struct err_text *why)
{
    size_t count;
    const rd_kafka_topic_result_t **topics = rd_kafka_CreateTopics_result_topics(result, &count);

    for (size_t i = 0; i < count; i++) {
        rd_kafka_resp_err_t err = rd_kafka_topic_result_error(topics[i]);
        const char *name = rd_kafka_topic_result_name(topics[i]);
        if (err && err != RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS)
            return err_set(why, kafka_error_denied(err) ? ERR_DENIED : ERR_UNAVAILABLE,
                           "cannot create topic '%s' on cluster %s: %s", name, label,
                           rd_kafka_topic_result_error_string(topics[i])
                               ? rd_kafka_topic_result_error_string(topics[i])
                               : rd_kafka_err2str(err));
        log_info(KAFKA_LOG, LOG_FIELDS(log_str("topic", name)), "%s",
                 err ? "topic exists already" : "topic created");
    }
    return 0;
}

static int await_result(rd_kafka_queue_t *queue, const char *label, struct err_text *why)
{
    /* A little longer than librdkafka itself waits, so that the reason comes from it. */
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, CREATE_TIMEOUT_MS + 5000);
    int rv;

    if (!event)
        return err_set(why, ERR_TIMEOUT, "cluster %s does not answer", label);
    if (rd_kafka_event_error(event))
        rv = err_set(why, ERR_UNAVAILABLE, "cannot create topics on cluster %s: %s", label,
                     rd_kafka_event_error_string(event));
    else
        rv = check_results(rd_kafka_event_CreateTopics_result(event), label, why);
    rd_kafka_event_destroy(event);
    return rv;
}

static int new_topics(rd_kafka_NewTopic_t **out, const char *const *topics, size_t count,
                      int32_t partitions, struct err_text *why)
{
    char reason[256];

    for (size_t i = 0; i < count; i++) {
        out[i] = rd_kafka_NewTopic_new(topics[i], partitions, 1, reason, sizeof(reason));
        if (!out[i])
            return err_set(why, ERR_INVALID, "topic '%s': %s", topics[i], reason);
    }
    return 0;
}

/* librdkafka would only say that it timed out: the probe knows why, and when waiting is of no use.
 */
static int await_cluster(const struct kafka_cluster *cluster, const char *label,
                         struct err_text *why)
{
    int64_t until_ms = clock_boot_ms() + CREATE_TIMEOUT_MS;
    struct kafka_probe *probe;
    struct err_text cause;
    int rv = kafka_probe_new(&probe, cluster, why);

    if (rv)
        return rv;
    while ((rv = kafka_probe_look(probe, NULL, &cause)) == ERR_UNAVAILABLE &&
           clock_boot_ms() < until_ms)
        poll(NULL, 0, KAFKA_PROBE_PAUSE_MS);
    kafka_probe_free(probe);
    if (rv > 0)
        return 0;
    return err_set(why, rv, "cannot create topics on cluster %s: %s", label, cause.s);
}

static int create(rd_kafka_t *rk, rd_kafka_NewTopic_t **fresh, size_t count, const char *label,
                  struct err_text *why)
{
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_AdminOptions_t *options =
        rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_CREATETOPICS);

    rd_kafka_AdminOptions_set_request_timeout(options, CREATE_TIMEOUT_MS, NULL, 0);
    rd_kafka_CreateTopics(rk, fresh, count, options, queue);
    int rv = await_result(queue, label, why);
    rd_kafka_AdminOptions_destroy(options);
    rd_kafka_queue_destroy(queue);
    return rv;
}

int kafka_create_topics(const struct kafka_cluster *cluster, const char *const *topics,
                        size_t count, int32_t partitions, struct err_text *why)
{
    if (count == 0)
        return 0;
    rd_kafka_NewTopic_t **fresh = mem_calloc(count, sizeof(rd_kafka_NewTopic_t *));
    char *label = kafka_cluster_label(cluster);
    rd_kafka_conf_t *conf;
    rd_kafka_t *rk = NULL;

    int rv = new_topics(fresh, topics, count, partitions, why);
    if (!rv)
        rv = await_cluster(cluster, label, why);
    if (!rv)
        rv = kafka_conf_new(&conf, cluster, why);
    if (!rv)
        rv = kafka_client_new(&rk, RD_KAFKA_PRODUCER, conf, why);
    if (!rv)
        rv = create(rk, fresh, count, label, why);
    for (size_t i = 0; i < count; i++) {
        if (fresh[i])
            rd_kafka_NewTopic_destroy(fresh[i]);
    }
    mem_free(fresh);
    mem_free(label);
    if (rk)
        rd_kafka_destroy(rk);
    return rv;
}
