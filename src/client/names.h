/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The names given so far in one map of parameters, so that a second one of a kind is found at once,
 * in small maps by comparison and in large ones by a keyed hash (names may come from strangers).
 * Zeroed: none. Not thread-safe.
 */
#ifndef TASKMILL_CLIENT_NAMES_H
#define TASKMILL_CLIENT_NAMES_H

#include <stdbool.h>

#include "base/bytes.h"

struct name {
    size_t at, len; /* in the map's content, whose memory moves as it grows */
    uint64_t hash;  /* of large maps */
};

struct names {
    struct name *list;
    size_t count, cap;
    uint32_t *slots; /* 1 + index in `list`; 0: free */
    size_t slot_count;
    uint64_t seed[2];
};

bool names_has(const struct names *names, struct bytes content, struct bytes name);
/* A new one, which stands in `content` from `at` on. */
void names_add(struct names *names, struct bytes content, size_t at, size_t len);
void names_free(struct names *names);

#endif
