/* SPDX-License-Identifier: Apache-2.0 */
/* Intrusive hash map keyed by bytes. The node lives inside its owner's struct and points to a key
 * that the owner keeps alive and unchanged while inside. Hash: SipHash-1-3 with a key given at
 * creation (ids come from strangers), so a run is reproducible from its seed. Not thread-safe. */
#ifndef TASKMILL_BASE_MAP_H
#define TASKMILL_BASE_MAP_H

#include "base/bytes.h"
#include "base/hash.h"

struct map_node {
    struct map_node *next;
    uint64_t hash;
    struct bytes key;
};

struct map {
    struct map_node **buckets;
    size_t bucket_count; /* power of two, or 0 */
    size_t count;
    uint64_t seed[2];
};

void map_init(struct map *map, const uint64_t seed[2]);
void map_free(struct map *map); /* frees the buckets; nodes are the owners' */
struct map_node *map_find(const struct map *map, struct bytes key);
/* The key must not be inside yet (asserted). */
void map_insert(struct map *map, struct map_node *node, struct bytes key);
void map_remove(struct map *map, struct map_node *node);
/* Iteration in no particular order; NULL at the end. The map must not change meanwhile, except that
 * the node returned last may be removed after the next one was fetched. */
struct map_node *map_first(const struct map *map);
struct map_node *map_next(const struct map *map, const struct map_node *node);

#endif
