/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One record for every partition ever assigned, and how far four things have come in it:
 *
 *   committed <= handed <= durable <= seen      (each: the offset after the last one)
 *
 * seen moves as intake reads, durable follows at each commit of the store (INV-1), handed when a
 * commit of the group's offset was given out, committed when the group said so.
 */
#include "core/offsets.h"

#include <assert.h>

#include "base/list.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/plant.h"

/* The map compares bytes: no padding in here. */
struct partition_key {
    int64_t source;
    int64_t partition;
};

struct partition {
    struct map_node by_key;
    struct list_node dirty;  /* seen > durable */
    struct list_node commit; /* durable > handed */
    struct partition_key key;
    bool assigned;
    int64_t seen, durable, handed;
    int64_t committed;              /* -1: none */
    int64_t want_from;              /* at-most-once rows wait in [want_from, want_to]; */
    int64_t want_to;                /* -1: none does */
    struct owners committed_owners; /* what the committed offset carries */
    struct owners owners;           /* the same and us: what our commits carry */
    char metadata[OWNERS_TEXT_MAX];
    size_t metadata_len;
};

struct offsets {
    char store_id[STORE_ID_LEN + 1];
    struct map partitions;
    struct list dirty, commits;
    struct offsets_counts counts;
};

struct offsets *offsets_new(const char *store_id)
{
    static const uint64_t seed[2] = {0, 0}; /* keys are our own numbers, not a stranger's */
    struct offsets *offsets = mem_zalloc(sizeof(*offsets));

    assert(strlen(store_id) == STORE_ID_LEN);
    memcpy(offsets->store_id, store_id, STORE_ID_LEN + 1);
    map_init(&offsets->partitions, seed);
    list_init(&offsets->dirty);
    list_init(&offsets->commits);
    return offsets;
}

void offsets_free(struct offsets *offsets)
{
    if (!offsets)
        return;
    for (struct map_node *node = map_first(&offsets->partitions), *next; node; node = next) {
        next = map_next(&offsets->partitions, node);
        mem_free(container_of(node, struct partition, by_key));
    }
    map_free(&offsets->partitions);
    mem_free(offsets);
}

/* --- assignment ------------------------------------------------------------------------------- */

static struct partition *find(const struct offsets *offsets, int64_t source, int32_t number)
{
    struct partition_key key = {.source = source, .partition = number};
    struct map_node *node = map_find(&offsets->partitions, bytes_of(&key, sizeof(key)));

    return node ? container_of(node, struct partition, by_key) : NULL;
}

static struct partition *find_assigned(const struct offsets *offsets, int64_t source,
                                       int32_t number)
{
    struct partition *partition = find(offsets, source, number);

    return partition && partition->assigned ? partition : NULL;
}

static struct partition *make(struct offsets *offsets, int64_t source, int32_t number)
{
    struct partition *partition = mem_zalloc(sizeof(*partition));

    partition->key = (struct partition_key){.source = source, .partition = number};
    map_insert(&offsets->partitions, &partition->by_key,
               bytes_of(&partition->key, sizeof(partition->key)));
    return partition;
}

static void unlink_partition(struct offsets *offsets, struct partition *partition)
{
    if (list_linked(&partition->dirty))
        list_remove(&offsets->dirty, &partition->dirty);
    if (list_linked(&partition->commit))
        list_remove(&offsets->commits, &partition->commit);
}

static void queue_commit(struct offsets *offsets, struct partition *partition)
{
    if (!list_linked(&partition->commit))
        list_push_back(&offsets->commits, &partition->commit);
}

void offsets_assign(struct offsets *offsets, int64_t source, int32_t number, int64_t start_offset,
                    int64_t committed, struct bytes metadata)
{
    struct partition *partition = find(offsets, source, number);

    assert(start_offset >= 0 && committed >= -1);
    if (!partition)
        partition = make(offsets, source, number);
    unlink_partition(offsets, partition); /* an assignment may follow another without a revoke */
    offsets->counts.assigned += !partition->assigned;
    partition->assigned = true;
    partition->seen = partition->durable = start_offset;
    partition->committed = committed;
    /* Where the log or its policy made us start past the committed offset, nobody owes what lies
     * between; committing that is left until something needs it. */
    partition->handed = committed < start_offset ? committed : start_offset;
    partition->want_from = partition->want_to = -1;
    owners_parse(metadata, &partition->committed_owners);
    partition->owners = partition->committed_owners;
    owners_append(&partition->owners, offsets->store_id, start_offset);
    partition->metadata_len = owners_format(&partition->owners, partition->metadata);
}

bool offsets_assigned(const struct offsets *offsets, int64_t source, int32_t number)
{
    return find_assigned(offsets, source, number) != NULL;
}

void offsets_revoke(struct offsets *offsets, int64_t source, int32_t number)
{
    struct partition *partition = find_assigned(offsets, source, number);

    if (!partition)
        return;
    partition->assigned = false;
    offsets->counts.assigned--;
    unlink_partition(offsets, partition);
    if (PLANTED(PLANT_COMMIT_AFTER_REVOKE) && partition->durable > partition->committed) {
        partition->handed = partition->committed;
        queue_commit(offsets, partition);
    }
}

/* --- reading ---------------------------------------------------------------------------------- */

enum offset_verdict offsets_see(struct offsets *offsets, int64_t source, int32_t number,
                                int64_t offset)
{
    struct partition *partition = find_assigned(offsets, source, number);

    if (!partition) {
        offsets->counts.revoked++;
        return OFFSET_REVOKED;
    }
    if (offset < partition->seen || offset == INT64_MAX) { /* there is no offset after that one */
        offsets->counts.backs++;
        return OFFSET_BACK;
    }
    bool jump = offset > partition->seen;
    offsets->counts.jumps += jump;
    partition->seen = offset + 1;
    if (!list_linked(&partition->dirty))
        list_push_back(&offsets->dirty, &partition->dirty);
    return jump ? OFFSET_JUMP : OFFSET_NEXT;
}

void offsets_durable(struct offsets *offsets)
{
    struct list_node *node;

    while ((node = list_pop_front(&offsets->dirty))) {
        struct partition *partition = container_of(node, struct partition, dirty);
        partition->durable = partition->seen;
        queue_commit(offsets, partition);
    }
}

/* --- committing ------------------------------------------------------------------------------- */

/* Only the ends of what is waited for are kept: what lies between moves along with them, and a
 * commit that is urgent without need costs little. */
void offsets_want(struct offsets *offsets, int64_t source, int32_t number, int64_t offset)
{
    struct partition *partition = find_assigned(offsets, source, number);

    if (!partition || offset < partition->handed) /* on its way, or done */
        return;
    if (partition->want_to == -1 || offset < partition->want_from)
        partition->want_from = offset;
    if (offset > partition->want_to)
        partition->want_to = offset;
    if (partition->durable > offset)
        queue_commit(offsets, partition);
}

static bool take_wants_below(struct partition *partition, int64_t next_offset)
{
    if (partition->want_to == -1 || partition->want_from >= next_offset)
        return false;
    partition->want_from = next_offset;
    if (partition->want_to < next_offset)
        partition->want_from = partition->want_to = -1;
    return true;
}

bool offsets_next_commit(struct offsets *offsets, struct offset_commit *out)
{
    struct list_node *node = list_pop_front(&offsets->commits);

    if (!node)
        return false;
    struct partition *partition = container_of(node, struct partition, commit);
    assert(partition->durable > partition->handed);
    partition->handed = partition->durable;
    *out = (struct offset_commit){
        .source = partition->key.source,
        .partition = (int32_t)partition->key.partition,
        .next_offset = partition->durable,
        .urgent = take_wants_below(partition, partition->durable),
        .metadata = bytes_of(partition->metadata, partition->metadata_len),
    };
    return true;
}

void offsets_committed(struct offsets *offsets, int64_t source, int32_t number, int64_t next_offset)
{
    struct partition *partition = find_assigned(offsets, source, number);

    if (!partition || next_offset <= partition->committed)
        return;
    partition->committed = next_offset;
    partition->committed_owners = partition->owners;
}

bool offsets_facts(const struct offsets *offsets, int64_t source, int32_t number,
                   struct ownership_facts *out)
{
    const struct partition *partition = find_assigned(offsets, source, number);

    if (!partition)
        return false;
    *out = (struct ownership_facts){
        .committed = partition->committed,
        .owners = partition->committed_owners,
        .assigned = true,
        .low = -1,
    };
    return true;
}

void offsets_get_counts(const struct offsets *offsets, struct offsets_counts *out)
{
    *out = offsets->counts;
}
