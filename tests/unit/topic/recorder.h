/* SPDX-License-Identifier: Apache-2.0 */
/* An engine's stand-in for tests of sources: it records every event and lets a test wait for a
 * condition on them. RECORDER_WAIT is the only way in which these tests wait. */
#ifndef TASKMILL_TESTS_TOPIC_RECORDER_H
#define TASKMILL_TESTS_TOPIC_RECORDER_H

#include <pthread.h>
#include <stdbool.h>

#include "topic/topic.h"

#define RECORDER_PARTITIONS 16

struct recorded {
    int32_t partition;
    int64_t offset, timestamp_ms;
    bool tombstone;
    char payload[64]; /* as much as fits */
    size_t payload_len, header_count;
    char header[64]; /* the first, "key=value" */
    int64_t at_ms;
};

struct recorded_position {
    int32_t partition;
    bool assigned;
    int64_t start_offset, committed, low, high;
    char metadata[256];
    size_t metadata_len;
    int code; /* of an answer */
};

struct recorder {
    struct topic_source_events events;
    struct topic_source *source;
    bool auto_revoke;  /* answer revoking() at once */
    bool keep_records; /* else only counts */
    pthread_mutex_t lock;
    pthread_cond_t changed;

    size_t credit, credit_calls, credit_taken; /* taken and not yet used or returned */
    struct recorded *records;
    size_t record_count, record_cap;
    uint64_t total;
    int64_t last_ms, longest_gap_ms;                        /* between calls of records() */
    struct recorded_position assigned[RECORDER_PARTITIONS]; /* the latest of each partition */
    size_t assigned_calls, assigned_now, revoking_calls, answered_count, failed_count;
    bool revoking[RECORDER_PARTITIONS];
    int64_t committed[RECORDER_PARTITIONS]; /* -1: none */
    int64_t next[RECORDER_PARTITIONS];      /* after the last record; -1: none */
    size_t out_of_order, after_revoke;      /* broken rules */
    struct recorded_position answer;        /* the last one */
    int failed_code;
    char failed_why[512];
};

void recorder_init(struct recorder *recorder);
void recorder_free(struct recorder *recorder);
void recorder_set_credit(struct recorder *recorder, size_t credit);

/* Waits until `cond` (over recorder fields) holds; false after timeout_ms. */
#define RECORDER_WAIT(recorder, cond, timeout_ms)                                            \
    ({                                                                                       \
        struct timespec until_ = recorder_deadline(timeout_ms);                              \
        int err_ = 0;                                                                        \
        pthread_mutex_lock(&(recorder)->lock);                                               \
        while (!(cond) && err_ == 0)                                                         \
            err_ = pthread_cond_timedwait(&(recorder)->changed, &(recorder)->lock, &until_); \
        bool held_ = (cond);                                                                 \
        pthread_mutex_unlock(&(recorder)->lock);                                             \
        held_;                                                                               \
    })
/* A field that the source's thread may be writing. */
#define RECORDER_GET(recorder, field)                             \
    ({                                                            \
        pthread_mutex_lock(&(recorder)->lock);                    \
        __typeof__((recorder)->field) value_ = (recorder)->field; \
        pthread_mutex_unlock(&(recorder)->lock);                  \
        value_;                                                   \
    })
struct timespec recorder_deadline(int timeout_ms);

#endif
