/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all Kafka clients of this room share: their configuration, librdkafka's log lines on our
 * log, and which errors pass by themselves. Internal to the room. Thread-safe.
 */
#ifndef TASKMILL_TOPIC_KAFKA_CONF_H
#define TASKMILL_TOPIC_KAFKA_CONF_H

#include <librdkafka/rdkafka.h>

#include "topic/kafka.h"

#define KAFKA_LOG "taskmill::kafka"

/* A repeated warning is logged at most this often. */
#define KAFKA_WARN_EVERY_MS 5000

/* Owned copy; free with kafka_cluster_free. */
void kafka_cluster_copy(struct kafka_cluster *out, const struct kafka_cluster *cluster);
void kafka_cluster_free(struct kafka_cluster *cluster);
/* The cluster in messages: 'name' (address), or only 'address'. For mem_free. */
char *kafka_cluster_label(const struct kafka_cluster *cluster);

/* Address and properties of the cluster, log callback, reconnect times. The caller's properties win
 * over the defaults set here. rd_kafka_new() takes the result over, or rd_kafka_conf_destroy()
 * frees it. */
int kafka_conf_new(rd_kafka_conf_t **out, const struct kafka_cluster *cluster,
                   struct err_text *why);
/* ERR_INVALID names the property. */
int kafka_conf_put(rd_kafka_conf_t *conf, const char *name, const char *value,
                   struct err_text *why);
int kafka_conf_put_int(rd_kafka_conf_t *conf, const char *name, int64_t value,
                       struct err_text *why);
/* rd_kafka_new() that consumes `conf` in any case. */
int kafka_client_new(rd_kafka_t **out, rd_kafka_type_t type, rd_kafka_conf_t *conf,
                     struct err_text *why);

/* The cluster refuses these credentials or this access: waiting does not help. */
bool kafka_error_denied(rd_kafka_resp_err_t err);
/* Who we are is not believed, or who they are is not: SASL or TLS failed. A cluster that is about
 * to start or whose users are about to be made may say so too. */
bool kafka_error_credentials(rd_kafka_resp_err_t err);

/* True once per KAFKA_WARN_EVERY_MS; *next_ms starts as 0. */
bool kafka_warn_due(int64_t *next_ms);

#endif
