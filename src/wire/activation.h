/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TaskActivation (proto/taskbroker.proto; spec/broker.md 14): the one message whose bytes travel
 * untouched from the producer to the worker. Parsing only looks at it; a retry rewrites four things
 * by splicing.
 *
 * activation_parse accepts exactly what Python's protobuf (upb) accepts for this message: UTF-8 in
 * every string and map entry, any wire type on unknown fields, known field numbers with a foreign
 * wire type are unknown fields, the last duplicate of a scalar wins, duplicate messages merge,
 * unknown enum values are kept (they are for the caller to refuse). Tested differentially in both
 * directions.
 */
#ifndef TASKMILL_WIRE_ACTIVATION_H
#define TASKMILL_WIRE_ACTIVATION_H

#include "base/bytes.h"
#include "base/err.h"

enum on_attempts_exceeded {
    ON_ATTEMPTS_EXCEEDED_UNSPECIFIED = 0, /* treated as DISCARD */
    ON_ATTEMPTS_EXCEEDED_DISCARD = 1,
    ON_ATTEMPTS_EXCEEDED_DEADLETTER = 2
};

struct retry_state {
    bool present;
    uint32_t attempts;
    uint32_t max_attempts;
    int32_t on_attempts_exceeded; /* any int32: not checked here */
    bool has_at_most_once, at_most_once;
    bool has_delay_on_retry;
    uint64_t delay_on_retry; /* s */
};

/* All slices point into the parsed payload. Absent strings are empty. */
struct activation {
    struct bytes id, namespace, taskname, application;
    bool has_application;
    struct bytes parameters;       /* deprecated JSON text */
    struct bytes parameters_bytes; /* msgpack, perhaps zstd */
    bool has_received_at;
    int64_t received_at_s; /* as sent: range not checked */
    int32_t received_at_ns;
    struct retry_state retry_state;
    uint64_t processing_deadline_duration; /* s */
    bool has_expires, has_delay;
    uint64_t expires, delay; /* s */
};

/* 0 or ERR_MALFORMED; *why then names the field and the fault. `out` is valid while payload lives.
 */
int activation_parse(struct bytes payload, struct activation *out, const char **why);

/* Header lookup in a payload that activation_parse accepted: the last entry with that key wins.
 * False when there is none. */
bool activation_header(struct bytes payload, const char *key, struct bytes *value);

/* Calls `each` for every header of an accepted payload (duplicates too, in wire order). */
typedef void (*activation_header_fn)(void *ctx, struct bytes key, struct bytes value);
void activation_each_header(struct bytes payload, activation_header_fn each, void *ctx);

/* What a rewrite changes; everything else, unknown fields included, is kept byte for byte.
 * Reading the result = parse the original, modify these, serialise. */
struct activation_edit {
    bool set_id;
    struct bytes id;
    bool set_received_at;
    int64_t received_at_s;
    int32_t received_at_ns;
    bool set_delay, clear_delay;
    uint64_t delay;
    /* The next four touch retry_state and create it when absent, except attempts_add. */
    bool set_max_attempts;
    uint32_t max_attempts;
    bool set_delay_on_retry;
    uint64_t delay_on_retry;
    uint32_t attempts_add; /* ignored when there is no retry_state; wraps like uint32 */
};

/* Appends the rewritten payload to `out`. ERR_MALFORMED if the payload does not parse. */
int activation_splice(struct bytes payload, const struct activation_edit *edit, struct buf *out,
                      const char **why);

/* Builds a payload from scratch, fields in number order (libtaskmill, canaries, tests).
 * Presence follows the has_/present flags; zero scalars without presence are left out. */
struct activation_header {
    struct bytes key, value;
};
void activation_encode(const struct activation *activation, const struct activation_header *headers,
                       size_t header_count, struct buf *out);

#endif
