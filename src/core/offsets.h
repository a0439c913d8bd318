/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Offsets of every consumed partition: what was seen, what is durable, what the group has
 * committed, and who owned which stretch (INV-1, INV-4, INV-9). PURE; one thread.
 *
 * A partition's owner list travels as the metadata of each offset commit: the last 8 owners, oldest
 * first, as `store-id@first-offset,...` (store ids are 16 hex digits, offsets decimal), after the
 * mark "tm1:". A message at offset o belongs to the owner with the greatest first-offset <= o.
 * Anything that does not parse, the empty string included, counts as "no list" (an original broker,
 * an operator's reset).
 */
#ifndef TASKMILL_CORE_OFFSETS_H
#define TASKMILL_CORE_OFFSETS_H

#include "base/bytes.h"
#include "base/err.h"

#define OWNERS_MAX      8
#define STORE_ID_LEN    16
#define OWNERS_TEXT_MAX (4 + OWNERS_MAX * (STORE_ID_LEN + 1 + 20 + 1))

struct owner {
    char store_id[STORE_ID_LEN + 1];
    int64_t first_offset;
};

struct owners {
    size_t count; /* 0: no list */
    struct owner list[OWNERS_MAX];
};

/* False (and no list) for text that is not ours; offsets must increase. */
bool owners_parse(struct bytes metadata, struct owners *out);
size_t owners_format(const struct owners *owners, char out[OWNERS_TEXT_MAX]);
/* Adds self@first_offset unless self is last; drops owners whose stretch begins at or after
 * first_offset (they never got a message), then the oldest beyond OWNERS_MAX. */
void owners_append(struct owners *owners, const char *store_id, int64_t first_offset);
/* NULL: not known (no list, or older than its oldest entry). */
const struct owner *owners_of(const struct owners *owners, int64_t offset);

/* What to do with an at-most-once row at `offset` of this store. */
enum ownership {
    OWNERSHIP_CONFIRMED, /* ours, and nobody will read it again: claimable */
    OWNERSHIP_WAIT,      /* ours if we commit past it (assigned), or Kafka has not been asked */
    OWNERSHIP_FOREIGN,   /* another store has it, or will read it: drop our copy */
    OWNERSHIP_UNKNOWN    /* nobody can tell: dead letter */
};

struct ownership_facts {
    int64_t committed;    /* the group's committed offset; -1: none */
    struct owners owners; /* of that commit */
    bool assigned;        /* to us, now */
    int64_t low;          /* first offset the topic still holds; -1: could not be asked (rows wait);
                             INT64_MAX: it holds none, and will not */
    bool legacy;          /* the row was there when Taskmill first opened the file */
};
enum ownership ownership_of(const struct ownership_facts *facts, const char *store_id,
                            int64_t offset);

/* --- tracker --------------------------------------------------------------------------------- */

struct offsets;
struct offsets *offsets_new(const char *store_id);
void offsets_free(struct offsets *offsets);

/* A partition is ours from start_offset on. The owner list of the commit it starts from is extended
 * by us. `committed` -1: none yet. */
void offsets_assign(struct offsets *offsets, int64_t source, int32_t partition,
                    int64_t start_offset, int64_t committed, struct bytes metadata);
bool offsets_assigned(const struct offsets *offsets, int64_t source, int32_t partition);

enum offset_verdict {
    OFFSET_NEXT,   /* process it */
    OFFSET_JUMP,   /* process it; offsets were skipped (compaction, markers): counted */
    OFFSET_BACK,   /* drop it: counted */
    OFFSET_REVOKED /* drop it: the partition is not ours */
};
enum offset_verdict offsets_see(struct offsets *offsets, int64_t source, int32_t partition,
                                int64_t offset);
/* Everything seen so far is in the durable image now. */
void offsets_durable(struct offsets *offsets);
/* An at-most-once row at this offset waits: the next commit past it is urgent. */
void offsets_want(struct offsets *offsets, int64_t source, int32_t partition, int64_t offset);

struct offset_commit {
    int64_t source;
    int32_t partition;
    int64_t next_offset;
    bool urgent;
    struct bytes metadata; /* valid until the partition's next change */
};
/* One partition whose durable offset has not been handed out for commit yet; false: none left. */
bool offsets_next_commit(struct offsets *offsets, struct offset_commit *out);
/* The group's committed offset is next_offset, by us: confirmed for this store from our first
 * offset on. */
void offsets_committed(struct offsets *offsets, int64_t source, int32_t partition,
                       int64_t next_offset);
/* Facts for ownership_of while assigned; false when it is not. */
bool offsets_facts(const struct offsets *offsets, int64_t source, int32_t partition,
                   struct ownership_facts *out);
/* Not ours any more: later offsets_see says OFFSET_REVOKED and no commit is handed out. */
void offsets_revoke(struct offsets *offsets, int64_t source, int32_t partition);

struct offsets_counts {
    size_t assigned;
    uint64_t jumps, backs, revoked;
};
void offsets_get_counts(const struct offsets *offsets, struct offsets_counts *out);

#endif
