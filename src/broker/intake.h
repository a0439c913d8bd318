/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a record of a log to what the engine does with it: a row, an entry of the outbox with the
 * reason, or nothing. Decoding happens here, on the source's thread; everything that needs state or
 * the clock (known ids, expiry, translation to the boot clock) is the engine's. Pure apart from the
 * copy of the payload.
 */
#ifndef TASKMILL_BROKER_INTAKE_H
#define TASKMILL_BROKER_INTAKE_H

#include "topic/topic.h"
#include "wire/activation.h"

/* Longest id, application, namespace, taskname that becomes a row, in bytes. */
#define INTAKE_NAME_MAX 1024

struct intake_item {
    int32_t partition;
    int64_t offset;
    struct blob *blob; /* the payload; NULL for a tombstone */
    const char
        *reason;     /* not NULL: goes to the dead letter topic with this reason; constant text */
    char detail[96]; /* what was wrong in it, may be empty */
    struct activation parsed; /* slices into blob; only without reason */
    /* Unix ms, derived from parsed: */
    int64_t received_at_ms;
    int64_t expires_at_ms;        /* CLOCK_NEVER: never */
    int64_t delay_until_ms;       /* INT64_MIN: none */
    bool delay_cut;               /* the delay was longer than the cap */
    int64_t duration_s;           /* processing deadline, 0..INT32_MAX */
    uint8_t on_attempts_exceeded; /* of the row: enum on_attempts_exceeded */
};

struct intake_limits {
    uint64_t payload_max; /* bytes of a payload that becomes a row */
    uint64_t delay_max_s; /* max_delayed_task_allowed_sec */
};

/* A topic whose messages are no activations: what the task made of each is called. Nothing is
 * copied; compression_level as params_compress_at() takes it, INTAKE_RAW_PLAIN: not compressed. */
#define INTAKE_RAW_PLAIN (-1)

struct intake_raw {
    const char *cluster, *topic; /* as in the configuration: parts of the id */
    const char *application, *namespace, *taskname;
    uint64_t duration_s;
    int64_t compression_level;
};

/* wall_ms: now, for activations without a usable received_at. Takes over nothing; item->blob is the
 * caller's. */
void intake_record(struct intake_item *item, const struct topic_record *record,
                   const struct intake_limits *limits, int64_t wall_ms);
/* The same for a message of a raw topic: item->blob is the activation made of it
 * (spec/broker.md 3.5), which becomes a row that is discarded at its last attempt. With a reason it
 * is the message. */
void intake_raw_record(struct intake_item *item, const struct topic_record *record,
                       const struct intake_raw *raw, const struct intake_limits *limits,
                       int64_t wall_ms);
/* The same for an activation that came by Enqueue; ERR_MALFORMED or ERR_TOO_LARGE and *why, then
 * nothing is owned. */
int intake_check(struct bytes payload, const struct intake_limits *limits, const char **why);
/* Internal to the intake's files: looks at item->blob and fills the rest. */
void intake_examine(struct intake_item *item, const struct intake_limits *limits, int64_t wall_ms);
struct meter_cache;
struct meters;

/* Counts the sizes of the payload that was read and, of a raw topic, of what it was packed into.
 * The cache belongs to the calling thread. */
struct intake_meter {
    struct meters *meters;
    const char *topic;
    struct meter_cache *cache; /* [2]: one for each family */
};
void intake_measure(const struct intake_meter *meter, const struct intake_item *item,
                    const struct topic_record *record, const struct intake_raw *raw);
void intake_item_clear(struct intake_item *item);

#endif
