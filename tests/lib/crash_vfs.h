/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk in memory that can be stopped at any moment: an SQLite VFS for crash tests.
 *
 * Every file has what programs see (live), what a power cut leaves for certain (durable), and the
 * list of writes and truncations between the two. A sync of the file applies the list to the
 * durable content. At any moment, above all from the hook, crash_vfs_image() makes a new disk that
 * looks as after
 *
 *   CRASH_KILL   the process died (kill -9): all that was written is there, and still not synced,
 *                so that a power cut after it can lose it
 *   CRASH_POWER  a power cut: durable content plus a random choice of the un-synced changes, each
 *                of them dropped, applied, torn at 512-byte sectors, or applied in another order. A
 *                dropped write may still have made the file longer (zeros, or stale bytes).
 *
 * Folders: a new file's name is durable after the first sync of that file (SQLite's unix VFS syncs
 * the folder then); before, a power cut may leave the file or not. A deletion is durable at once
 * when SQLite asks for it (syncDir), else at the next sync of a new file in it; before, a power cut
 * may bring the file back. There is one folder.
 *
 * Faults: the n-th operation of a kind fails; the disk can have a capacity. A failed sync leaves
 * its un-synced changes in doubt and then forgets them, as Linux does: a second sync would report
 * success for data that is lost. Whoever repeats an fsync loses data here.
 *
 * Nothing depends on the time or on chance: randomness comes from the seed, the clock stands still
 * but for xSleep. Locks and shared memory work between connections of one process. One thread per
 * disk.
 */
#ifndef TASKMILL_TESTS_LIB_CRASH_VFS_H
#define TASKMILL_TESTS_LIB_CRASH_VFS_H

#include "base/bytes.h"

struct crash_vfs;

enum crash_mode { CRASH_KILL, CRASH_POWER };

/* Moments at which the hook is called; a mask of them. */
enum crash_event {
    CRASH_BEFORE_SYNC = 1, /* most is un-synced */
    CRASH_AFTER_SYNC = 2,
    CRASH_AFTER_WRITE = 4,
    CRASH_AFTER_TRUNCATE = 8,
    CRASH_AFTER_DELETE = 16,
    CRASH_ALL_EVENTS = 31
};

enum crash_op { CRASH_OP_READ, CRASH_OP_WRITE, CRASH_OP_SYNC, CRASH_OP_TRUNCATE, CRASH_OP_COUNT };

/* An empty disk, registered as an SQLite VFS under a name of its own. All connections must be
 * closed before it is freed. */
struct crash_vfs *crash_vfs_new(uint64_t seed);
void crash_vfs_free(struct crash_vfs *vfs);
/* For store_options.vfs or sqlite3_open_v2. */
const char *crash_vfs_name(const struct crash_vfs *vfs);

/* A disk of its own, as after the crash; hooks, faults and capacity do not come along. `vfs` is
 * unchanged and may have open connections. */
struct crash_vfs *crash_vfs_image(const struct crash_vfs *vfs, enum crash_mode mode, uint64_t seed);

/* The hook may take images; it must not use the disk itself. `name` is the file's. */
typedef void (*crash_hook_fn)(void *ctx, enum crash_event event, const char *name);
void crash_vfs_set_hook(struct crash_vfs *vfs, unsigned events, crash_hook_fn hook, void *ctx);

/* The nth operation of this kind from now (1: the next) fails with `rc`, e.g. SQLITE_IOERR_WRITE or
 * SQLITE_FULL; with `for_ever` all later ones too. nth 0 takes the fault back. */
void crash_vfs_fail(struct crash_vfs *vfs, enum crash_op op, uint64_t nth, int rc, bool for_ever);
/* Operations of this kind so far, temporary files not counted. */
uint64_t crash_vfs_op_count(const struct crash_vfs *vfs, enum crash_op op);
/* True once an injected fault has been hit. */
bool crash_vfs_fault_hit(const struct crash_vfs *vfs);
/* Bytes for all named files; a write that would need more fails with SQLITE_FULL. 0: no limit. */
void crash_vfs_set_capacity(struct crash_vfs *vfs, uint64_t capacity_bytes);

/* A durable file, replacing one of that name that nobody has open. */
void crash_vfs_put(struct crash_vfs *vfs, const char *name, struct bytes content);
/* What programs see; false: no such file. Valid until the next change. */
bool crash_vfs_get(const struct crash_vfs *vfs, const char *name, struct bytes *content);
/* Un-synced writes and truncations on this disk. */
size_t crash_vfs_unsynced(const struct crash_vfs *vfs);

/* Makes SQLite's own random numbers (WAL salts), which are one sequence per process, start again
 * here. */
void crash_vfs_seed_sqlite(uint32_t seed);

#endif
