/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Message logs behind one interface: a source is one consumed topic in one group, a sink
 * publishes. Kafka (kafka.h), the embedded log (embedded.h) and the simulator's model are such.
 *
 * Who calls whom
 *   The engine owns both objects and calls their operations from the engine thread. A source
 *   answers through `struct topic_source_events`: inside poll() on the engine thread (embedded,
 *   model), or on its own threads (Kafka: answered() comes from another one than the rest).
 *
 * Rules a source keeps
 *   - Records of a partition arrive in increasing offset order between its assignment and its
 *     revoke. If the log itself steps back (cut, made anew), the partition is revoked and
 *     assigned again.
 *   - It takes no more records than credit() allows: back-pressure is not polling.
 *   - Before it gives a partition up it calls revoking(), waits for revoke_done() for all of
 *     them (at most the session timeout), waits for the commit in flight, commits synchronously
 *     what commit() named last, and then never names that partition again until it is assigned
 *     again. After a loss (the group went on without this member) the last commit is left out:
 *     it could rewind another member's. During stop() there is no revoking(): the engine waits
 *     in there and has named all it will.
 *   - Commits: at most one per 20 ms with one in flight, at once when `urgent`, repeated with
 *     back-off until confirmed or revoked even when idle.
 */
#ifndef TASKMILL_TOPIC_TOPIC_H
#define TASKMILL_TOPIC_TOPIC_H

#include "base/bytes.h"
#include "base/err.h"

struct topic_header {
    struct bytes key, value;
};

struct topic_record {
    int32_t partition;
    int64_t offset;
    int64_t timestamp_ms;               /* Unix; -1: none */
    bool tombstone;                     /* null payload */
    struct bytes payload;               /* borrowed until records() returns */
    const struct topic_header *headers; /* borrowed likewise */
    size_t header_count;
};

/* Where a partition stands, as the log's keeper answers. */
struct topic_position {
    int32_t partition;
    bool assigned;         /* to this source, now */
    int64_t start_offset;  /* assigned(): the first offset that will be delivered */
    int64_t committed;     /* the group's committed offset (next to read); -1: none */
    struct bytes metadata; /* of that commit; borrowed; empty: none */
    int64_t low, high;     /* watermarks; -1: not known */
};

struct topic_source_events {
    void *ctx;
    /* How many records may be delivered now; they count as taken. Called before a fetch from a
     * queue. */
    size_t (*credit)(void *ctx, size_t wanted);
    /* Gives back what was taken and not used. */
    void (*credit_return)(void *ctx, size_t unused);
    void (*records)(void *ctx, const struct topic_record *records, size_t count);
    void (*assigned)(void *ctx, const struct topic_position *positions, size_t count);
    /* The partitions are being taken away; nothing more of them will be delivered. */
    void (*revoking)(void *ctx, const int32_t *partitions, size_t count);
    /* The group's committed offset of this partition is now `next_offset`, by a commit of ours. */
    void (*committed)(void *ctx, int32_t partition, int64_t next_offset);
    /* Answer to ask(); code 0, ERR_UNAVAILABLE (then only position->partition is set), or
     * ERR_NOT_FOUND: the topic or the partition is gone; partition, committed and metadata are set.
     */
    void (*answered)(void *ctx, const struct topic_position *position, int code);
    /* The source cannot go on (topic missing at start, authorisation). The process ends, exit 1. */
    void (*failed)(void *ctx, int code, const char *why);
};

struct topic_source;

struct topic_source_ops {
    int (*start)(struct topic_source *source, const struct topic_source_events *events,
                 struct err_text *why);
    /* Everything below next_offset is durable here; the commit carries `metadata` (copied). A later
     * call replaces an earlier one. urgent: an at-most-once row waits for this commit. */
    void (*commit)(struct topic_source *source, int32_t partition, int64_t next_offset,
                   struct bytes metadata, bool urgent);
    /* Asks where a partition stands, assigned or not; answered() follows, later, once (asking again
     * before that is the same question). */
    void (*ask)(struct topic_source *source, int32_t partition);
    /* The engine has made durable (or dropped) everything it got of this partition. */
    void (*revoke_done)(struct topic_source *source, int32_t partition);
    /* Credit may be available again. */
    void (*wake)(struct topic_source *source);
    /* In-thread sources only (else NULL): deliver what is due; called once per engine turn. */
    void (*poll)(struct topic_source *source);
    /* Leaves the group after final commits (at most timeout_ms, and up to 3 s more for a request
     * that is under way while Kafka does not answer), joins its threads. No event after it. */
    void (*stop)(struct topic_source *source, uint32_t timeout_ms);
    void (*destroy)(struct topic_source *source);
};

struct topic_source {
    const struct topic_source_ops *ops;
};

/* The fate of one published record. */
enum topic_delivery {
    TOPIC_DELIVERED,
    TOPIC_FAILED,    /* may succeed later: publish it again */
    TOPIC_IMPOSSIBLE /* will never succeed: too large, topic or authorisation wrong */
};

struct topic_sink_events {
    void *ctx;
    /* Once per accepted produce(), from the sink's thread (Kafka) or inside poll(). */
    void (*delivered)(void *ctx, void *opaque, enum topic_delivery delivery, const char *why);
};

struct topic_sink;

struct topic_sink_ops {
    /* Takes its own copy (or a reference to `payload`; NULL: a null payload, which the embedded log
     * keeps as an empty one). 0: delivered() will follow. ERR_FULL: the local queue is full, try
     * after the next delivery; ERR_TOO_LARGE and others: this record is never accepted.
     */
    int (*produce)(struct topic_sink *sink, const char *topic, struct blob *payload,
                   const struct topic_header *headers, size_t header_count, void *opaque,
                   const char **why);
    /* In-thread sinks only (else NULL): reports deliveries whose transaction has committed. */
    void (*poll)(struct topic_sink *sink);
    /* Waits until everything accepted is reported, at most timeout_ms; joins its threads. */
    void (*stop)(struct topic_sink *sink, uint32_t timeout_ms);
    void (*destroy)(struct topic_sink *sink);
};

struct topic_sink {
    const struct topic_sink_ops *ops;
};

#endif
