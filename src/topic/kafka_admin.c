/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"
#include "base/mem.h"
#include "topic/kafka_conf.h"

#define CREATE_TIMEOUT_MS 30000

static int check_results(const rd_kafka_CreateTopics_result_t *result, const char *address,
                         struct err_text *why)
{
    size_t count;
    const rd_kafka_topic_result_t **topics = rd_kafka_CreateTopics_result_topics(result, &count);

    for (size_t i = 0; i < count; i++) {
        rd_kafka_resp_err_t err = rd_kafka_topic_result_error(topics[i]);
        const char *name = rd_kafka_topic_result_name(topics[i]);
        if (err && err != RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS)
            return err_set(why, kafka_error_denied(err) ? ERR_DENIED : ERR_UNAVAILABLE,
                           "cannot create topic '%s' on cluster '%s': %s", name, address,
                           rd_kafka_topic_result_error_string(topics[i])
                               ? rd_kafka_topic_result_error_string(topics[i])
                               : rd_kafka_err2str(err));
        log_info(KAFKA_LOG, LOG_FIELDS(log_str("topic", name)), "%s",
                 err ? "topic exists already" : "topic created");
    }
    return 0;
}

static int await_result(rd_kafka_queue_t *queue, const char *address, struct err_text *why)
{
    /* A little longer than librdkafka itself waits, so that the reason comes from it. */
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, CREATE_TIMEOUT_MS + 5000);
    int rv;

    if (!event)
        return err_set(why, ERR_TIMEOUT, "cluster '%s' does not answer", address);
    if (rd_kafka_event_error(event))
        rv = err_set(why, ERR_UNAVAILABLE, "cannot create topics on cluster '%s': %s", address,
                     rd_kafka_event_error_string(event));
    else
        rv = check_results(rd_kafka_event_CreateTopics_result(event), address, why);
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

int kafka_create_topics(const struct kafka_cluster *cluster, const char *const *topics,
                        size_t count, int32_t partitions, struct err_text *why)
{
    rd_kafka_NewTopic_t **fresh = mem_calloc(count, sizeof(rd_kafka_NewTopic_t *));
    rd_kafka_conf_t *conf;
    rd_kafka_t *rk = NULL;

    if (count == 0) {
        mem_free(fresh);
        return 0;
    }
    int rv = new_topics(fresh, topics, count, partitions, why);
    if (!rv)
        rv = kafka_conf_new(&conf, cluster, why);
    if (!rv)
        rv = kafka_client_new(&rk, RD_KAFKA_PRODUCER, conf, why);
    if (!rv) {
        rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
        rd_kafka_AdminOptions_t *options =
            rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_CREATETOPICS);
        rd_kafka_AdminOptions_set_request_timeout(options, CREATE_TIMEOUT_MS, NULL, 0);
        rd_kafka_CreateTopics(rk, fresh, count, options, queue);
        rv = await_result(queue, cluster->address, why);
        rd_kafka_AdminOptions_destroy(options);
        rd_kafka_queue_destroy(queue);
    }
    for (size_t i = 0; i < count; i++) {
        if (fresh[i])
            rd_kafka_NewTopic_destroy(fresh[i]);
    }
    mem_free(fresh);
    if (rk)
        rd_kafka_destroy(rk);
    return rv;
}
