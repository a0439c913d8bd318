/* SPDX-License-Identifier: Apache-2.0 */
/* librdkafka's mock cluster: real sockets and the real protocol on loopback, inside the test. */
#ifndef TASKMILL_TESTS_TOPIC_MOCK_H
#define TASKMILL_TESTS_TOPIC_MOCK_H

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

#include "recorder.h"
#include "topic/kafka.h"

/* Numbers of the Kafka protocol's requests, for injected errors. */
enum mock_request {
    MOCK_PRODUCE = 0,
    MOCK_LIST_OFFSETS = 2,
    MOCK_OFFSET_COMMIT = 8,
    MOCK_OFFSET_FETCH = 9,
    MOCK_FIND_COORDINATOR = 10,
    MOCK_INIT_PRODUCER_ID = 22
};

struct mock {
    rd_kafka_t *producer;
    rd_kafka_mock_cluster_t *cluster;
    struct kafka_cluster address;
};

void mock_start(struct mock *mock, int brokers);
void mock_stop(struct mock *mock);
/* Produces `count` records "<first + i>" and waits until they are there. */
void mock_produce(struct mock *mock, const char *topic, int32_t partition, int first, int count);
struct kafka_source_options mock_source_options(const struct mock *mock, const char *topic);
/* A started source whose events `recorder` takes. */
struct topic_source *mock_source(const struct mock *mock, const char *topic,
                                 struct recorder *recorder);
void mock_source_end(struct topic_source *source);

#endif
