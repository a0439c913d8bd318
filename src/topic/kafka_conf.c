/* SPDX-License-Identifier: Apache-2.0 */
#include "topic/kafka_conf.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

void kafka_cluster_copy(struct kafka_cluster *out, const struct kafka_cluster *cluster)
{
    struct kafka_property *properties = mem_calloc(cluster->property_count, sizeof(*properties));

    for (size_t i = 0; i < cluster->property_count; i++) {
        properties[i].name = mem_strdup(cluster->properties[i].name);
        properties[i].value = mem_strdup(cluster->properties[i].value);
    }
    out->name = cluster->name ? mem_strdup(cluster->name) : NULL;
    out->address = mem_strdup(cluster->address);
    out->properties = properties;
    out->property_count = cluster->property_count;
}

void kafka_cluster_free(struct kafka_cluster *cluster)
{
    for (size_t i = 0; i < cluster->property_count; i++) {
        mem_free((void *)(uintptr_t)cluster->properties[i].name);
        mem_free((void *)(uintptr_t)cluster->properties[i].value);
    }
    mem_free((void *)(uintptr_t)cluster->properties);
    mem_free((void *)(uintptr_t)cluster->name);
    mem_free((void *)(uintptr_t)cluster->address);
    *cluster = (struct kafka_cluster){0};
}

char *kafka_cluster_label(const struct kafka_cluster *cluster)
{
    struct buf label = {0};

    if (cluster->name)
        buf_printf(&label, "'%s' (%s)", cluster->name, cluster->address);
    else
        buf_printf(&label, "'%s'", cluster->address);
    char *copy = mem_strdup(buf_cstr(&label));
    buf_free(&label);
    return copy;
}

/* librdkafka speaks syslog levels. Runs on its internal threads. */
static void on_log(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
    enum log_level ours = level <= 3   ? LOG_ERROR
                          : level == 4 ? LOG_WARN
                          : level <= 6 ? LOG_INFO
                                       : LOG_DEBUG;

    log_at(ours, "librdkafka", LOG_FIELDS(log_str("client", rk ? rd_kafka_name(rk) : "")), "%s: %s",
           facility, text);
}

int kafka_conf_put(rd_kafka_conf_t *conf, const char *name, const char *value, struct err_text *why)
{
    char reason[256];

    if (rd_kafka_conf_set(conf, name, value, reason, sizeof(reason)) == RD_KAFKA_CONF_OK)
        return 0;
    return err_set(why, ERR_INVALID, "Kafka property '%s': %s", name, reason);
}

int kafka_conf_put_int(rd_kafka_conf_t *conf, const char *name, int64_t value, struct err_text *why)
{
    char text[32];

    snprintf(text, sizeof(text), "%" PRId64, value);
    return kafka_conf_put(conf, name, text, why);
}

int kafka_conf_new(rd_kafka_conf_t **out, const struct kafka_cluster *cluster, struct err_text *why)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    int rv;

    rd_kafka_conf_set_log_cb(conf, on_log);
    rv = kafka_conf_put(conf, "client.id", "taskmill", why);
    /* The default lets a client sleep 10 s after the cluster is back. */
    if (!rv)
        rv = kafka_conf_put(conf, "reconnect.backoff.max.ms", "1000", why);
    if (!rv)
        rv = kafka_conf_put(conf, "bootstrap.servers", cluster->address, why);
    for (size_t i = 0; i < cluster->property_count && !rv; i++)
        rv = kafka_conf_put(conf, cluster->properties[i].name, cluster->properties[i].value, why);
    if (rv) {
        rd_kafka_conf_destroy(conf);
        return rv;
    }
    *out = conf;
    return 0;
}

int kafka_client_new(rd_kafka_t **out, rd_kafka_type_t type, rd_kafka_conf_t *conf,
                     struct err_text *why)
{
    char reason[256];
    rd_kafka_t *rk = rd_kafka_new(type, conf, reason, sizeof(reason));

    if (!rk) {
        rd_kafka_conf_destroy(conf);
        return err_set(why, ERR_INVALID, "Kafka client: %s", reason);
    }
    *out = rk;
    return 0;
}

bool kafka_error_denied(rd_kafka_resp_err_t err)
{
    switch (err) {
    case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
    case RD_KAFKA_RESP_ERR__AUTHENTICATION:
        return true;
    default:
        return false;
    }
}

bool kafka_error_credentials(rd_kafka_resp_err_t err)
{
    return err == RD_KAFKA_RESP_ERR__AUTHENTICATION ||
           err == RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED || err == RD_KAFKA_RESP_ERR__SSL;
}

bool kafka_warn_due(int64_t *next_ms)
{
    int64_t now_ms = clock_boot_ms();

    if (now_ms < *next_ms)
        return false;
    *next_ms = now_ms + KAFKA_WARN_EVERY_MS;
    return true;
}
