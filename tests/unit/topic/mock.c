/* SPDX-License-Identifier: Apache-2.0 */
#include "mock.h"

#include <stdio.h>
#include <stdlib.h>

static void check(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "mock cluster: %s\n", what);
    abort();
}

void mock_start(struct mock *mock, int brokers)
{
    char reason[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();

    rd_kafka_conf_set(conf, "client.id", "mock", reason, sizeof(reason));
    mock->producer = rd_kafka_new(RD_KAFKA_PRODUCER, conf, reason, sizeof(reason));
    check(mock->producer != NULL, reason);
    mock->cluster = rd_kafka_mock_cluster_new(mock->producer, brokers);
    check(mock->cluster != NULL, "cannot start");
    mock->address =
        (struct kafka_cluster){.address = rd_kafka_mock_cluster_bootstraps(mock->cluster)};
    check(rd_kafka_brokers_add(mock->producer, mock->address.address) > 0, "no brokers");
}

void mock_stop(struct mock *mock)
{
    rd_kafka_mock_cluster_destroy(mock->cluster);
    rd_kafka_destroy(mock->producer);
}

void mock_produce(struct mock *mock, const char *topic, int32_t partition, int first, int count)
{
    for (int i = first; i < first + count; i++) {
        char payload[16];
        int len = snprintf(payload, sizeof(payload), "%d", i);
        rd_kafka_resp_err_t err = rd_kafka_producev(
            mock->producer, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(partition),
            RD_KAFKA_V_VALUE(payload, (size_t)len), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
            RD_KAFKA_V_HEADER("number", payload, len), RD_KAFKA_V_END);
        check(!err, rd_kafka_err2str(err));
    }
    check(!rd_kafka_flush(mock->producer, 10000), "records were not delivered");
}

struct kafka_source_options mock_source_options(const struct mock *mock, const char *topic)
{
    return (struct kafka_source_options){.cluster = mock->address,
                                         .topic = topic,
                                         .group = "group",
                                         .auto_offset_reset = "earliest",
                                         .session_timeout_ms = 6000,
                                         .prefetch_bytes = 64 << 20};
}

struct topic_source *mock_source(const struct mock *mock, const char *topic,
                                 struct recorder *recorder)
{
    struct kafka_source_options options = mock_source_options(mock, topic);
    struct err_text why;
    struct topic_source *source;

    check(kafka_source_new(&source, &options, &why) == 0, "no source");
    recorder->source = source;
    check(source->ops->start(source, &recorder->events, &why) == 0, "source does not start");
    return source;
}

void mock_source_end(struct topic_source *source)
{
    source->ops->stop(source, 5000);
    source->ops->destroy(source);
}
