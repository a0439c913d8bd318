/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ids of activations. New ones are UUIDs: random (version 4, 32 hex digits without dashes, as
 * producers write them) or derived (version 8, dashed, RFC 9562 5.8): the first 128 bits of SHA-256
 * over the inputs named below, so that a replay after a crash is recognisable by its id.
 */
#ifndef TASKMILL_WIRE_IDENT_H
#define TASKMILL_WIRE_IDENT_H

#include "base/bytes.h"

#define IDENT_DASHED_LEN 36
#define IDENT_HEX_LEN    32

/* SHA-256("taskmill retry" NUL parent_id NUL attempts as 4 bytes big-endian). */
void ident_retry(char out[IDENT_DASHED_LEN + 1], struct bytes parent_id, uint32_t attempts);
/* Where a message that is no activation was read (spec/broker.md 3.5): reading it again gives the
 * same id. SHA-256("taskmill raw" NUL cluster NUL topic NUL partition as 4 bytes, offset and
 * timestamp_ms as 8 bytes each, big-endian, two's complement). */
struct ident_place {
    const char *cluster, *topic;
    int32_t partition;
    int64_t offset;
    int64_t timestamp_ms; /* as the log says; -1: none */
};
void ident_raw(char out[IDENT_DASHED_LEN + 1], const struct ident_place *place);
/* One run of a schedule, 32 hex digits as producers write them, so that sending it again is
 * recognised. SHA-256("taskmill schedule" NUL entry NUL schedule NUL due_s as 8 bytes big-endian,
 * two's complement). */
void ident_scheduled(char out[IDENT_HEX_LEN + 1], const char *entry, const char *schedule,
                     int64_t due_s);
/* From 16 random bytes (of the caller, so that callers stay reproducible). */
void ident_random(char out[IDENT_HEX_LEN + 1], const uint8_t random[16]);
/* The original's bucket (spec/broker.md 4.4): last byte of a UUID in any of its spellings, else 0.
 */
uint8_t ident_bucket(struct bytes id);

#endif
