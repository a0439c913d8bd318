/* SPDX-License-Identifier: Apache-2.0 */
#include "core/done.h"

#include "base/clock.h"
#include "base/list.h"
#include "base/map.h"
#include "base/mem.h"

struct entry {
    struct map_node by_id;
    struct list_node by_age;
    int64_t ended_ms;
    char id[];
};

struct done {
    struct map ids;
    struct list entries; /* oldest first */
    size_t count_max;
    int64_t memory_ms;
};

struct done *done_new(const uint64_t seed[2], size_t count_max, int64_t memory_ms)
{
    struct done *done = mem_zalloc(sizeof(*done));

    map_init(&done->ids, seed);
    list_init(&done->entries);
    done->count_max = count_max;
    done->memory_ms = memory_ms;
    return done;
}

static struct entry *oldest(const struct done *done)
{
    struct list_node *node = list_first(&done->entries);

    return node ? container_of(node, struct entry, by_age) : NULL;
}

static void unlink_entry(struct done *done, struct entry *entry)
{
    map_remove(&done->ids, &entry->by_id);
    list_remove(&done->entries, &entry->by_age);
}

void done_free(struct done *done)
{
    struct entry *entry;

    if (!done)
        return;
    while ((entry = oldest(done))) {
        unlink_entry(done, entry);
        mem_free(entry);
    }
    map_free(&done->ids);
    mem_free(done);
}

bool done_contains(const struct done *done, struct bytes id)
{
    return map_find(&done->ids, id) != NULL;
}

static int64_t newest_ms(const struct done *done)
{
    struct list_node *node = list_last(&done->entries);

    return node ? container_of(node, struct entry, by_age)->ended_ms : INT64_MIN;
}

bool done_add(struct done *done, struct bytes id, int64_t ended_ms)
{
    if (done_contains(done, id))
        return false;
    struct entry *entry = mem_alloc(sizeof(*entry) + id.len);
    *entry = (struct entry){.ended_ms = ended_ms};
    if (entry->ended_ms < newest_ms(done))
        entry->ended_ms = newest_ms(done);
    if (id.len)
        memcpy(entry->id, id.ptr, id.len);
    map_insert(&done->ids, &entry->by_id, bytes_of(entry->id, id.len));
    list_push_back(&done->entries, &entry->by_age);
    return true;
}

size_t done_count(const struct done *done)
{
    return done->entries.count;
}

int64_t done_next_ms(const struct done *done)
{
    const struct entry *entry = oldest(done);

    if (!entry)
        return CLOCK_NEVER;
    if (done->entries.count > done->count_max)
        return 0; /* long ago */
    return clock_add(entry->ended_ms, done->memory_ms);
}

void done_expire(struct done *done, int64_t now_ms, size_t max,
                 void (*each)(void *ctx, struct bytes id), void *ctx)
{
    for (size_t i = 0; i < max && done_next_ms(done) <= now_ms; i++) {
        struct entry *entry = oldest(done);
        if (!entry) /* now_ms is CLOCK_NEVER */
            return;
        unlink_entry(done, entry);
        each(ctx, entry->by_id.key);
        mem_free(entry);
    }
}
