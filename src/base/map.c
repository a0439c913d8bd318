/* SPDX-License-Identifier: Apache-2.0 */
#include "base/map.h"

#include <assert.h>

#include "base/mem.h"

#define MAP_BUCKETS_MIN 16

void map_init(struct map *map, const uint64_t seed[2])
{
    *map = (struct map){.seed = {seed[0], seed[1]}};
}

void map_free(struct map *map)
{
    mem_free(map->buckets);
    map->buckets = NULL;
    map->bucket_count = map->count = 0;
}

static struct map_node **bucket_of(const struct map *map, uint64_t hash)
{
    return &map->buckets[hash & (map->bucket_count - 1)];
}

static struct map_node *find_hashed(const struct map *map, struct bytes key, uint64_t hash)
{
    if (map->count == 0)
        return NULL;
    struct map_node *node = *bucket_of(map, hash);
    while (node && (node->hash != hash || !bytes_equal(node->key, key)))
        node = node->next;
    return node;
}

struct map_node *map_find(const struct map *map, struct bytes key)
{
    return find_hashed(map, key, hash_bytes(map->seed, key));
}

static void chain(struct map *map, struct map_node *node)
{
    struct map_node **bucket = bucket_of(map, node->hash);

    node->next = *bucket;
    *bucket = node;
}

static void grow(struct map *map)
{
    struct map_node **old = map->buckets;
    size_t old_count = map->bucket_count;

    map->bucket_count = old_count ? old_count * 2 : MAP_BUCKETS_MIN;
    map->buckets = (struct map_node **)mem_calloc(map->bucket_count, sizeof(*map->buckets));
    for (size_t i = 0; i < old_count; i++) {
        for (struct map_node *node = old[i], *next; node; node = next) {
            next = node->next;
            chain(map, node);
        }
    }
    mem_free(old);
}

void map_insert(struct map *map, struct map_node *node, struct bytes key)
{
    node->key = key;
    node->hash = hash_bytes(map->seed, key);
    assert(!find_hashed(map, key, node->hash));
    if (map->count == map->bucket_count)
        grow(map);
    chain(map, node);
    map->count++;
}

/* Never shrinks the table: that would break the promise to iterators. */
void map_remove(struct map *map, struct map_node *node)
{
    assert(map->count > 0);
    struct map_node **link = bucket_of(map, node->hash);
    while (*link && *link != node)
        link = &(*link)->next;
    assert(*link == node);
    *link = node->next;
    node->next = NULL;
    map->count--;
}

static struct map_node *first_from(const struct map *map, size_t bucket)
{
    for (; bucket < map->bucket_count; bucket++)
        if (map->buckets[bucket])
            return map->buckets[bucket];
    return NULL;
}

struct map_node *map_first(const struct map *map)
{
    return first_from(map, 0);
}

struct map_node *map_next(const struct map *map, const struct map_node *node)
{
    if (node->next)
        return node->next;
    return first_from(map, (size_t)(node->hash & (map->bucket_count - 1)) + 1);
}
