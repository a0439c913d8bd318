/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Durable rows: one exclusively owned SQLite file (docs/storage.md has the tables and what a crash
 * leaves).
 *
 *   open -> load_* -> { begin -> insert/update/delete/... -> commit } ... -> close
 *
 * Everything between begin and commit becomes durable together or not at all; commit returns 0 only
 * when a power cut can no longer take it back (synchronous=FULL). One thread owns a store. Exactly
 * one connection writes and checkpoints.
 *
 * Errors: ERR_BUSY from begin, commit or a read outside a transaction means that another process
 * holds a lock: nothing happened, the caller may try the same call again. Every other failure is
 * fail-stop (INV-12): store_why() has the line (path, cause, free bytes), the store refuses all
 * later calls with ERR_CLOSED, and an fsync is never retried; store_close() is then the only thing
 * left to do, and leaves the file as it is. Writes by rowid and id must change exactly one row:
 * anything else fails the store with ERR_CORRUPT.
 *
 * Rowids: the caller numbers new rows (store_next_rowid() at load, then its own counter), so that
 * order of arrival is order of rowid. A full VACUUM renumbers rows; it therefore happens only
 * inside store_open.
 */
#ifndef TASKMILL_STORE_STORE_H
#define TASKMILL_STORE_STORE_H

#include "base/bytes.h"
#include "base/err.h"

struct store;

/* SQL NULL in the integer fields below. */
#define STORE_NULL INT64_MIN

enum store_status {
    STORE_PENDING,
    STORE_DELAY,
    STORE_CLAIMED,
    STORE_PROCESSING,
    STORE_RETRY,
    STORE_FAILURE,
    STORE_COMPLETE,
    STORE_STATUS_UNKNOWN /* load only: text that is none of the above */
};

/* A row of inflight_taskactivations: the original's 19 columns (spec/broker.md 4.1) and ours. Unix
 * times. */
struct store_row {
    int64_t rowid;
    struct bytes id;
    struct bytes activation; /* load: empty; see activation_len */
    uint64_t activation_len; /* load only */
    int64_t partition, offset;
    int64_t added_at_s, received_at_s;
    int64_t processing_attempts;
    int64_t expires_at_s, delay_until_s, processing_deadline_s,
        claim_expires_at_s; /* or STORE_NULL */
    int64_t processing_deadline_duration_s;
    enum store_status status;
    bool at_most_once;
    bool has_namespace; /* a foreign file may hold NULL */
    struct bytes namespace, taskname, application;
    int64_t on_attempts_exceeded;
    int64_t bucket;
    int64_t source; /* taskmill_source -> taskmill_sources.source; STORE_NULL: not known (foreign
                       row) */
    /* taskmill_times: Unix ms of the time that counts in this status (Pending: expires_at, Delay:
     * delay_until, Processing: processing_deadline); STORE_NULL: none. At load it is STORE_NULL
     * unless it agrees with that column's seconds. */
    int64_t due_ms;
};

/* What changes when a row moves between states. claim_expires_at always becomes NULL. */
struct store_change {
    enum store_status status;
    int64_t processing_attempts;
    int64_t processing_deadline_s; /* or STORE_NULL */
    int64_t due_ms;                /* or STORE_NULL */
    int64_t on_attempts_exceeded;
};

struct store_options {
    const char *path;         /* may carry "sqlite:" and "?..." as the original's (stripped) */
    bool synchronous_normal;  /* default FULL */
    const char *vfs;          /* SQLite VFS name; NULL: the default one */
    bool no_lock;             /* no flock on <path>.lock (tests with a VFS of their own) */
    uint32_t lock_wait_ms;    /* wait for another broker's lock; default (0) 10000 */
    uint64_t wal_limit_bytes; /* checkpoint when the WAL is larger; 0: 16 MiB */
    bool full_vacuum;   /* VACUUM at open; also done when more than half of the file is free */
    uint32_t cache_kib; /* page cache; 0: 16384 */
    /* Called now and then while a long piece of work runs (migrations, an index, VACUUM); `doing`
     * names it. May be NULL. */
    void (*progress)(void *ctx, const char *doing);
    void *progress_ctx;
    /* Measures how long upkeep takes; nothing depends on it. NULL: not measured. */
    int64_t (*clock_us)(void);
};

/* Creates or adopts the file: takes the lock (ERR_BUSY names the pid that holds it), recovers,
 * checkpoints (TRUNCATE, under FULL), applies the original's migrations 1 to 6 where missing, adds
 * our columns and tables, drops idx_pending_activation. ERR_NO_SPACE, ERR_IO, ERR_CORRUPT,
 * ERR_DENIED: one line in why. */
int store_open(struct store **out, const struct store_options *options, struct err_text *why);
/* Restores the original's index when that takes under a second, checkpoints, closes, unlocks. */
void store_close(struct store *store);
/* Closes as a kill would: nothing is written or synced, an open transaction is gone. */
void store_abandon(struct store *store);
/* The 16 lower-case hex digits that name this file in lists of owners (core/offsets.h): made at the
 * first open from random bytes and kept in the file. */
const char *store_id(const struct store *store);
const char *store_path(const struct store *store);
/* True when this open adopted a file that Taskmill had never opened. */
bool store_adopted(const struct store *store);
/* What this open found and did. */
struct store_opening {
    unsigned migrations; /* of the original applied now: bit 0 is migration 1 */
    bool tables_made;    /* ours */
    bool index_dropped;  /* idx_pending_activation */
    bool vacuumed;
};
const struct store_opening *store_opening(const struct store *store);
/* The failure that closed the store, one line; "" if none. */
const char *store_why(const struct store *store);

/* --- load ------------------------------------------------------------------------------------ */

/* Once, after open, rows in rowid order; slices are valid during the callback. A non-zero result of
 * the callback stops and is returned. */

typedef int (*store_row_fn)(void *ctx, const struct store_row *row);
int store_load_rows(struct store *store, store_row_fn each, void *ctx);
int64_t store_next_rowid(const struct store *store); /* greater than every rowid in use */

/* Sources: (cluster, topic, group) of rows; `source` numbers are never reused. */
struct store_source {
    int64_t source;
    struct bytes cluster, topic, group;
};
int store_load_sources(struct store *store,
                       int (*each)(void *ctx, const struct store_source *source), void *ctx);
/* Outside a transaction: finds or durably adds the source. */
int store_add_source(struct store *store, const struct store_source *source, int64_t *number);

/* Highest offset + 1 that is confirmed for this store, per source and partition (INV-4). */
struct store_confirmed {
    int64_t source, partition, next_offset;
};
int store_load_confirmed(struct store *store,
                         int (*each)(void *ctx, const struct store_confirmed *confirmed),
                         void *ctx);

/* Ids of ended at-most-once tasks, oldest first. */
int store_load_done(struct store *store,
                    int (*each)(void *ctx, struct bytes id, int64_t ended_at_s), void *ctx);

/* Outbox: messages that must reach a topic and are no rows, oldest first. Payloads stay on disk. */
struct store_header {
    struct bytes key, value;
};
struct store_outbox {
    int64_t entry; /* chosen by the caller, increasing */
    struct bytes topic;
    bool has_cluster;     /* else: of the dead-letter topic */
    struct bytes cluster; /* its bootstrap address */
    struct bytes payload; /* load: empty */
    uint64_t payload_len; /* load only */
    const struct store_header *headers;
    size_t header_count;
};
int store_load_outbox(struct store *store, int (*each)(void *ctx, const struct store_outbox *entry),
                      void *ctx);

/* --- transaction ----------------------------------------------------------------------------- */

int store_begin(struct store *store);
int store_commit(struct store *store);
bool store_in_transaction(const struct store *store);

int store_insert(struct store *store, const struct store_row *row);
int store_update(struct store *store, int64_t rowid, struct bytes id,
                 const struct store_change *change);
int store_set_activation(struct store *store, int64_t rowid, struct bytes id,
                         struct bytes activation);
int store_delete(struct store *store, int64_t rowid, struct bytes id);

int store_outbox_add(struct store *store, const struct store_outbox *entry);
int store_outbox_delete(struct store *store, int64_t entry);
int store_done_add(struct store *store, struct bytes id, int64_t ended_at_s);
int store_done_delete(struct store *store, struct bytes id);
int store_set_confirmed(struct store *store, const struct store_confirmed *confirmed);

/* Embedded log (table taskmill_log). Offsets of a topic must grow; a trim past the end moves the
 * end. */
int store_log_append(struct store *store, const char *topic, int64_t offset, struct bytes payload,
                     const struct store_header *headers, size_t header_count);
int store_log_trim(struct store *store, const char *topic, int64_t next_offset);
typedef void (*store_log_fn)(void *ctx, int64_t offset, struct bytes payload,
                             const struct store_header *headers, size_t header_count);
/* Sees the open transaction's own writes. */
int store_log_read(struct store *store, const char *topic, int64_t from, size_t max,
                   store_log_fn each, void *ctx);
/* low: first kept, high: next to append; high survives an empty log and a restart. */
int store_log_bounds(struct store *store, const char *topic, int64_t *low, int64_t *high);

/* --- reads at any time ----------------------------------------------------------------------- */

/* One reference in *out. ERR_NOT_FOUND is impossible for a live row (asserted by the caller). */
int store_read_activation(struct store *store, int64_t rowid, struct bytes id, struct blob **out);
int store_read_outbox(struct store *store, int64_t entry, struct blob **payload);

struct store_size {
    uint64_t used_bytes; /* pages in use x page size: what store.max_size limits */
    uint64_t file_bytes;
    uint64_t wal_bytes;
    uint64_t disk_free_bytes; /* of the file system, for this user */
};
int store_size(struct store *store, struct store_size *out);

/* Between transactions: checkpoints by WAL size and gives free pages back in slices, for at most
 * about budget_ms. Also notices a foreign writer (PRAGMA data_version) and fails the store. */
int store_maintain(struct store *store, uint32_t budget_ms);

/* What the last store_maintain() did; all 0 when it had nothing to do. */
struct store_upkeep {
    bool checkpointed;      /* it tried */
    bool checkpoint_busy;   /* a reader held a part of it back */
    bool checkpoint_failed; /* it could not run: another process held a lock */
    int64_t wal_pages;      /* in the WAL then, and of these */
    int64_t file_pages;     /* in the file afterwards */
    int64_t checkpoint_us;
    bool vacuumed;
    int64_t vacuum_us;
    int64_t free_pages; /* of the file, before */
};
const struct store_upkeep *store_last_upkeep(const struct store *store);

/* SQLite's counters of the connection (sqlite3_db_status). ERR_UNSUPPORTED: it lacks one. */
struct store_counters {
    int64_t cache_used_bytes, cache_used_shared_bytes;
    int64_t cache_hits, cache_misses, cache_writes, cache_spills; /* since the start */
    int64_t schema_used_bytes, stmt_used_bytes;
    int64_t lookaside_used, lookaside_hits, lookaside_misses_size, lookaside_misses_full;
    int64_t deferred_fks;
};
int store_get_counters(struct store *store, struct store_counters *out);

/* Reads the whole file (PRAGMA integrity_check): for tests and operators. A finding fails the
 * store. */
int store_integrity_check(struct store *store);

#endif
