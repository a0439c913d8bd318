/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kafka through librdkafka (2.0.2 and newer) as topic_source and topic_sink; kafka_helper.c,
 * kafka_group.c and kafka_sink.c explain the traps of that version. Threads: one consumer thread
 * per source (it serves the main queue at least every 100 ms for ever), one helper thread per
 * source for watermarks and asks, one poll thread per sink.
 */
#ifndef TASKMILL_TOPIC_KAFKA_H
#define TASKMILL_TOPIC_KAFKA_H

#include "topic/topic.h"

struct kafka_property {
    const char *name, *value;
};

/* Connection of one cluster: bootstrap servers and security, as librdkafka properties. */
struct kafka_cluster {
    const char *name;    /* in the configuration, for messages; NULL: none */
    const char *address; /* comma list of host:port */
    const struct kafka_property *properties;
    size_t property_count;
};

struct kafka_source_options {
    struct kafka_cluster cluster;
    const char *topic;
    const char *group;
    const char *auto_offset_reset; /* "earliest", "latest" */
    uint32_t session_timeout_ms;
    uint64_t prefetch_bytes; /* kafka_prefetch_bytes, over all partitions */
};

/* Checks the properties; connects at start(). Strings are copied. ERR_INVALID names the property.
 * A topic that does not exist at start is reported by failed(), and so are credentials that the
 * cluster refuses five times in a row; a cluster that cannot be reached is waited for, with a WARN.
 * Credentials that are refused later are tried again for ever, with a WARN. */
int kafka_source_new(struct topic_source **out, const struct kafka_source_options *options,
                     struct err_text *why);

/* Where one assigned partition stands. */
struct kafka_lag {
    int32_t partition;
    int64_t position;  /* the next offset that will be delivered */
    int64_t committed; /* the group's committed offset, as far as this source knows; -1: none */
    int64_t high;      /* high watermark; -1: not known */
    int64_t lag;       /* high - position; -1: not known */
};

/* Fills out[max] with the assigned partitions, in order of assignment; returns how many there are.
 * Any thread; no request is made, so `high` may be some seconds old. */
size_t kafka_source_lags(struct topic_source *source, struct kafka_lag *out, size_t max);
/* The lag of one partition; any thread. -1: not known. */
int64_t kafka_source_lag(struct topic_source *source, int32_t partition);

struct kafka_sink_options {
    struct kafka_cluster cluster;
    uint32_t message_max_bytes;   /* message.max.bytes */
    uint32_t delivery_timeout_ms; /* of one record before TOPIC_FAILED */
};

/* Idempotent, acks=all; falls back to non-idempotent with a WARN where the cluster refuses; the
 * client is recreated after a fatal error (what was open is reported TOPIC_FAILED). */
int kafka_sink_new(struct topic_sink **out, const struct kafka_sink_options *options,
                   const struct topic_sink_events *events, struct err_text *why);

/* Inside delivered(), about its record; for one that was not delivered: ERR_TOO_LARGE,
 * ERR_NOT_FOUND (no such topic), ERR_DENIED, ERR_INVALID, ERR_UNAVAILABLE (it was not written),
 * ERR_TIMEOUT (it may have been written). */
int kafka_sink_fate(const struct topic_sink *sink);

/* A look at the start at a cluster that is not (or not only) consumed from: it must take our
 * credentials and have these topics. A thread of its own waits for the cluster as a source does.
 * failed() comes from it, at most once; the line names cluster and cause. */
struct kafka_check;
struct kafka_check_options {
    struct kafka_cluster cluster;
    const char *const *topics;
    size_t topic_count;
    void *ctx;
    void (*failed)(void *ctx, int code, const char *why);
};
int kafka_check_start(struct kafka_check **out, const struct kafka_check_options *options,
                      struct err_text *why);
/* Waits for a request under way, at most 1 s. NULL is fine. */
void kafka_check_end(struct kafka_check *check);

/* Creates topics (partitions each, replication factor 1); "already exists" is success. Blocks
 * for up to 65 s, 30 of them for a cluster that does not answer. */
int kafka_create_topics(const struct kafka_cluster *cluster, const char *const *topics,
                        size_t count, int32_t partitions, struct err_text *why);

#endif
