/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of the Kafka source, shared by its files; nobody else includes this.
 *
 *   kafka_source.c   making, starting and stopping one; the operations that the engine calls
 *   kafka_consume.c  the consumer thread: wait for the cluster, the loop, records
 *   kafka_group.c    rebalances: taking partitions over, giving them up
 *   kafka_commit.c   the commit in flight and the ones that wait
 *   kafka_offsets.c  asking Kafka where partitions stand
 *   kafka_helper.c   the helper thread: asks, watermarks, nudges
 *   kafka_balance.c  do the partitions divide evenly among the group's members?
 *
 * Threads. The consumer thread alone changes the list of partitions and talks to the group. The
 * engine thread leaves commits, asks and answers in fields under `lock`; the helper thread blocks
 * in requests so that the consumer thread need not. `lock` is never held across a call out of this
 * room.
 */
#ifndef TASKMILL_TOPIC_KAFKA_SOURCE_H
#define TASKMILL_TOPIC_KAFKA_SOURCE_H

#include <pthread.h>
#include <stdatomic.h>

#include "topic/kafka_probe.h"

#define KAFKA_BATCH_RECORDS   512
#define KAFKA_POLL_EVERY_MS   100 /* of the main queue, whatever happens */
#define KAFKA_COMMIT_EVERY_MS 20
/* One blocking request; also bounds how long stop() waits for one. */
#define KAFKA_REQUEST_MS       1000
#define KAFKA_MISSING_EVERY_MS 30000
/* librdkafka's default of queued.min.messages: with so many prefetched it stops fetching. */
#define KAFKA_QUEUE_RECORDS 100000

struct kafka_partition {
    int32_t id;
    rd_kafka_queue_t *queue;
    _Atomic int64_t position;  /* next offset to deliver; written by the consumer thread */
    _Atomic int64_t committed; /* of the group; -1: none; written by the consumer thread */

    /* Consumer thread only. */
    size_t taken_bytes, taken_records; /* since the queue was empty, or the last nudge */
    int64_t flying;                    /* offset in the commit in flight; -1: not in it */

    /* Under the source's lock. */
    int64_t start;       /* first offset of this assignment; commits below it are refused */
    int64_t high;        /* as last answered; -1: not known */
    int64_t named;       /* by commit(); -1: none yet */
    struct buf metadata; /* that goes with it */
    bool dirty, urgent;  /* named, not sent yet */
    bool revoking, done;
    bool nudge;
};

struct kafka_source {
    struct topic_source base;
    struct kafka_cluster cluster;
    char *label; /* of the cluster, in messages */
    char *topic, *group;
    enum { KAFKA_RESET_LOW, KAFKA_RESET_HIGH, KAFKA_RESET_ERROR } reset;
    uint32_t session_timeout_ms;
    uint64_t prefetch_bytes;
    rd_kafka_conf_t *conf; /* of the consumer, until it is made */
    struct kafka_probe
        *probe; /* answers what the consumer's configuration depends on; then freed */
    struct topic_source_events events;

    bool started;
    pthread_t consumer, helper;
    atomic_bool stopping, failed;
    atomic_bool returned; /* the topic was gone and is there again */
    _Atomic int64_t stop_by_ms;
    int event_fd;  /* all queues and the engine wake the consumer thread by it */
    int helper_fd; /* wakes the helper thread */

    /* Consumer thread; rk is set once, under the lock. */
    rd_kafka_t *rk;
    rd_kafka_queue_t *main_queue, *commit_queue;
    size_t prefetch_partition_bytes;
    size_t turn; /* partition that is served first */
    bool resubscribe;
    bool in_flight;
    bool fenced; /* the last commit was refused: this member is not of the group's generation */
    int64_t committed_ms; /* when the last commit was sent */
    int64_t retry_ms;     /* no commit before */
    int64_t backoff_ms;
    int64_t error_warned_ms, commit_warned_ms, offsets_warned_ms;
    rd_kafka_message_t **messages;
    struct topic_record *records;
    struct topic_header *headers; /* of the batch's records, one after the other */
    size_t header_count, header_cap;

    pthread_mutex_t lock;
    struct kafka_partition **partitions;
    size_t partition_count;
    int32_t *asks; /* oldest first, each partition once: their number bounds it */
    size_t ask_count, ask_cap;
    bool missing;  /* the topic is gone */
    bool reshared; /* partitions were assigned: look how they divide */

    /* Helper thread only. */
    int told_partitions, told_members; /* the last division that was looked at */
    int balance_tries;
    bool gone; /* the cluster said that the topic is not there */
    int64_t missing_warned_ms;
};

/* kafka_source.c */
/* The partition with this id, or NULL. Under the lock, or on the consumer thread. */
struct kafka_partition *kafka_source_find(struct kafka_source *source, int32_t id);
/* Reports once that the source cannot go on; its threads end. */
void kafka_source_fail(struct kafka_source *source, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void kafka_source_wake_helper(struct kafka_source *source);
void kafka_source_wake_consumer(struct kafka_source *source);
/* Consumer thread: waits for anything, at most until `until_ms`. */
void kafka_source_sleep(struct kafka_source *source, int64_t until_ms);
/* No more work: stopped, or failed. */
bool kafka_source_ended(struct kafka_source *source);
/* The same partitions as librdkafka's calls want them. */
rd_kafka_topic_partition_list_t *kafka_source_list(struct kafka_source *source, const int32_t *ids,
                                                   size_t count);

/* kafka_consume.c */
void *kafka_consumer_main(void *source);
/* An error of the consumer or of one of its partitions: warns, or fails the source. */
void kafka_consumer_error(struct kafka_source *source, rd_kafka_resp_err_t err, const char *text);

/* kafka_group.c; consumer thread */
void kafka_group_on_rebalance(rd_kafka_t *rk, rd_kafka_resp_err_t err,
                              rd_kafka_topic_partition_list_t *list, void *opaque);
/* The log was cut or its offset reset: the partition starts again at `offset`. */
void kafka_group_step_back(struct kafka_source *source, struct kafka_partition *partition,
                           int64_t offset);
/* Final commits, then out of the group, at most until stop_by_ms. */
void kafka_group_leave(struct kafka_source *source);

/* kafka_commit.c; consumer thread */
/* Takes results, sends what is due. Returns when the next commit will be due. */
int64_t kafka_commit_serve(struct kafka_source *source);
/* Nothing of partitions that are being revoked is in flight or waits. */
bool kafka_commit_settled(struct kafka_source *source);
/* What waits is not sent any more: it was meant for a topic that is gone. */
void kafka_commit_forget(struct kafka_source *source);

/* kafka_offsets.c; any thread */
struct kafka_offsets {
    int64_t committed; /* -1: none */
    struct buf metadata;
    int64_t low, high; /* -1: not known */
};
/* Fills out[count], whose buffers are zeroed or from an earlier call. ERR_UNAVAILABLE: the
 * committed offsets could not be had; watermarks that could not be had are -1. Blocks for up to
 * three requests. */
int kafka_offsets_ask(struct kafka_source *source, const int32_t *ids, size_t count,
                      struct kafka_offsets *out, struct err_text *why);
/* One ListOffsets request a leader: timestamp RD_KAFKA_OFFSET_BEGINNING or _END. -1: not known. */
void kafka_offsets_mark(struct kafka_source *source, const int32_t *ids, size_t count,
                        int64_t timestamp, int64_t *out);

/* Number of partitions of the topic; 0: not there; ERR_UNAVAILABLE: not known. Blocks. */
int kafka_offsets_partitions(struct kafka_source *source);

/* kafka_balance.c; helper thread */
/* Warns if the topic's partitions do not divide evenly among those who consume it, once per change.
 * Blocks in up to two requests. Returns when to look again: CLOCK_NEVER, or soon if it could not be
 * told. */
int64_t kafka_balance_look(struct kafka_source *source);

/* kafka_helper.c */
void *kafka_helper_main(void *source);

#endif
