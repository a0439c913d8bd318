/* SPDX-License-Identifier: Apache-2.0 */
#include "topic/kafka_probe.h"

#include "base/log.h"
#include "base/mem.h"

#define REQUEST_MS    1000
#define MISSING_LOOKS 10
#define REFUSED_LOOKS 5

struct kafka_probe {
    rd_kafka_t *rk;
    char *label;
    int missing, refused;    /* looks in a row */
    rd_kafka_resp_err_t err; /* the last one that librdkafka met by itself */
    struct err_text text;
    int64_t warned_ms;
};

/* In TLS 1.3 a server refuses a client's certificate only after the handshake: for librdkafka the
 * connection just broke, and nothing but the text tells. */
static bool is_tls_alert(int err, const char *text)
{
    return err == RD_KAFKA_RESP_ERR__TRANSPORT && strstr(text, "SSL alert");
}

/* Runs inside rd_kafka_poll(). That all brokers are down says less than why they are. */
static void on_error(rd_kafka_t *rk, int err, const char *text, void *opaque)
{
    struct kafka_probe *probe = opaque;

    (void)rk;
    if (err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN && probe->err)
        return;
    probe->err = is_tls_alert(err, text) ? RD_KAFKA_RESP_ERR__SSL : err;
    err_set(&probe->text, ERR_UNAVAILABLE, "%s", text);
}

int kafka_probe_new(struct kafka_probe **out, const struct kafka_cluster *cluster,
                    struct err_text *why)
{
    struct kafka_probe *probe = mem_zalloc(sizeof(*probe));
    rd_kafka_conf_t *conf;
    int rv = kafka_conf_new(&conf, cluster, why);

    probe->label = kafka_cluster_label(cluster);
    err_set(&probe->text, ERR_UNAVAILABLE, "no answer yet");
    if (!rv) {
        rd_kafka_conf_set_opaque(conf, probe);
        rd_kafka_conf_set_error_cb(conf, on_error);
        /* A consumer's request for metadata does not create the topic; a producer's might. */
        rv = kafka_client_new(&probe->rk, RD_KAFKA_CONSUMER, conf, why);
    }
    if (rv) {
        kafka_probe_free(probe);
        return rv;
    }
    *out = probe;
    return 0;
}

void kafka_probe_free(struct kafka_probe *probe)
{
    if (!probe)
        return;
    if (probe->rk)
        rd_kafka_destroy(probe->rk);
    mem_free(probe->label);
    mem_free(probe);
}

/* The topic's partitions, or 1 for the cluster alone. */
static rd_kafka_resp_err_t ask(struct kafka_probe *probe, const char *name, int *count)
{
    rd_kafka_topic_t *topic = name ? rd_kafka_topic_new(probe->rk, name, NULL) : NULL;
    const struct rd_kafka_metadata *metadata;
    rd_kafka_resp_err_t err;

    *count = 1;
    if (name && !topic)
        return RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION;
    err = rd_kafka_metadata(probe->rk, 0, topic, &metadata, REQUEST_MS);
    if (!err) {
        if (topic && metadata->topic_cnt == 1) {
            err = metadata->topics[0].err;
            *count = metadata->topics[0].partition_cnt;
        }
        rd_kafka_metadata_destroy(metadata);
    }
    if (topic)
        rd_kafka_topic_destroy(topic);
    rd_kafka_poll(probe->rk, 0);
    return err;
}

static int not_there(struct kafka_probe *probe, const char *topic, struct err_text *why)
{
    if (++probe->missing < MISSING_LOOKS)
        return err_set(why, ERR_UNAVAILABLE, "topic '%s' is not there yet", topic);
    return err_set(why, ERR_NOT_FOUND,
                   "topic '%s' does not exist on cluster %s: create it or set "
                   "create_missing_topics",
                   topic, probe->label);
}

/* librdkafka goes on trying to connect: why it has not succeeded is what on_error() heard. */
static int no_answer(struct kafka_probe *probe, struct err_text *why)
{
    if (!kafka_error_credentials(probe->err))
        probe->refused = 0;
    else if (++probe->refused == REFUSED_LOOKS)
        return err_set(why, ERR_DENIED, "Kafka cluster %s refuses the connection: %s", probe->label,
                       probe->text.s);
    if (kafka_warn_due(&probe->warned_ms))
        log_warn(KAFKA_LOG, NULL, "waiting for Kafka cluster %s: %s", probe->label, probe->text.s);
    return err_set(why, ERR_UNAVAILABLE, "%s", probe->text.s);
}

int kafka_probe_look(struct kafka_probe *probe, const char *topic, struct err_text *why)
{
    int count;
    rd_kafka_resp_err_t err = ask(probe, topic, &count);

    if (!err && count > 0) {
        probe->missing = probe->refused = 0;
        return count;
    }
    if (!err || err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
        return not_there(probe, topic, why);
    if (kafka_error_denied(err) && !kafka_error_credentials(err))
        return err_set(why, ERR_DENIED, "topic '%s' on cluster %s: %s", topic ? topic : "",
                       probe->label, rd_kafka_err2str(err));
    if (err == RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION)
        return err_set(why, ERR_INVALID, "'%s' is no valid name of a topic", topic);
    return no_answer(probe, why);
}
