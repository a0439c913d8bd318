/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checkpoints and free pages, both only when asked and only between transactions.
 *
 * A PASSIVE checkpoint that copies the whole WAL is enough: the next commit starts the WAL from its
 * beginning again, overwriting blocks the file system has allocated already, which syncs faster
 * than growing it. Only a WAL that grew far beyond its limit (an outside reader held a snapshot) is
 * truncated.
 */
#include <assert.h>

#include "store/sql.h"

#define WAL_FRAME_HEADER 24
#define WAL_SHRINK       4 /* truncate when the file is this many times its limit */
/* Free pages that stay for the next burst: a quarter of the file, at least this many. */
#define FREE_KEEP_PAGES 1024
/* Pages that an incremental vacuum moves in a millisecond on a slow disk. A count, not a clock,
 * bounds the slice, so that a simulated run can be repeated. */
#define FREE_PAGES_PER_MS 32

int maintain_check_foreign(struct store *store)
{
    int64_t version;
    int rv = sql_stmt_int(store, STMT_DATA_VERSION, "look for foreign writers", &version);

    if (rv || version == store->data_version)
        return rv;
    return store_fail(store, ERR_STATE, "another program has written to it");
}

static int64_t now_us(const struct store *store)
{
    return store->clock_us ? store->clock_us() : 0;
}

int maintain_checkpoint(struct store *store, int mode, bool *complete)
{
    int log, copied;
    int64_t begin_us = now_us(store);
    int rc = sqlite3_wal_checkpoint_v2(store->db, "main", mode, &log, &copied);

    *complete = rc == SQLITE_OK && log == copied;
    struct store_upkeep *upkeep = &store->upkeep;
    upkeep->checkpointed = true;
    upkeep->checkpoint_failed = rc != SQLITE_OK;
    upkeep->checkpoint_busy = rc == SQLITE_OK && log != copied;
    upkeep->wal_pages = log;
    upkeep->file_pages = copied;
    upkeep->checkpoint_us = now_us(store) - begin_us;
    if (rc != SQLITE_OK && (rc & 0xff) != SQLITE_BUSY)
        return sql_fail(store, rc, "checkpoint");
    return 0;
}

static uint64_t wal_file_bytes(struct store *store)
{
    sqlite3_file *file = NULL;
    sqlite3_int64 size = 0;

    sqlite3_file_control(store->db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &file);
    if (!file || !file->pMethods || file->pMethods->xFileSize(file, &size) != SQLITE_OK)
        return 0;
    return (uint64_t)size;
}

static int checkpoint_by_size(struct store *store)
{
    uint64_t frame_bytes = store->page_size + WAL_FRAME_HEADER;
    uint64_t limit_frames = store->wal_limit_bytes / frame_bytes + 1;
    bool complete;

    if (store->wal_checkpoint_at < limit_frames)
        store->wal_checkpoint_at = limit_frames;
    if (store->wal_frames < store->wal_checkpoint_at)
        return 0;
    bool shrink = wal_file_bytes(store) > WAL_SHRINK * store->wal_limit_bytes;
    int mode = shrink ? SQLITE_CHECKPOINT_TRUNCATE : SQLITE_CHECKPOINT_PASSIVE;
    int rv = maintain_checkpoint(store, mode, &complete);
    if (rv)
        return rv;
    /* A reader's snapshot holds the rest back: try again only after as much growth. */
    store->wal_checkpoint_at = complete ? limit_frames : store->wal_frames + limit_frames;
    if (complete)
        store->wal_frames = 0;
    return 0;
}

static int page_counts(struct store *store, int64_t *pages, int64_t *free_pages)
{
    int rv = sql_stmt_int(store, STMT_PAGE_COUNT, "count pages", pages);

    return rv ? rv : sql_stmt_int(store, STMT_FREE_COUNT, "count free pages", free_pages);
}

static int give_back_pages(struct store *store, uint32_t budget_ms)
{
    int64_t pages, free_pages;
    char sql[64];
    int rv = page_counts(store, &pages, &free_pages);

    if (rv || !store->incremental)
        return rv;
    int64_t keep = pages / 4 > FREE_KEEP_PAGES ? pages / 4 : FREE_KEEP_PAGES;
    int64_t slice = (int64_t)budget_ms * FREE_PAGES_PER_MS;
    if (slice > free_pages - keep)
        slice = free_pages - keep;
    if (slice <= 0)
        return 0;
    sqlite3_snprintf(sizeof sql, sql, "PRAGMA incremental_vacuum(%lld)", (long long)slice);
    int64_t begin_us = now_us(store);
    int rc = sqlite3_exec(store->db, sql, NULL, NULL, NULL);
    store->upkeep.vacuumed = true;
    store->upkeep.free_pages = free_pages;
    store->upkeep.vacuum_us = now_us(store) - begin_us;
    return rc == SQLITE_OK || (rc & 0xff) == SQLITE_BUSY
               ? 0
               : sql_fail(store, rc, "give free pages back");
}

int store_maintain(struct store *store, uint32_t budget_ms)
{
    int rv = store_check(store);

    store->upkeep = (struct store_upkeep){0};
    assert(!store->in_transaction || rv);
    if (rv || (rv = maintain_check_foreign(store)) != 0 || (rv = checkpoint_by_size(store)) != 0)
        return rv == ERR_BUSY ? 0 : rv;
    rv = give_back_pages(store, budget_ms);
    return rv == ERR_BUSY ? 0 : rv;
}

int store_size(struct store *store, struct store_size *out)
{
    int64_t pages, free_pages;
    int rv = store_check(store);

    if (rv || (rv = page_counts(store, &pages, &free_pages)) != 0)
        return rv;
    *out = (struct store_size){
        .used_bytes = (uint64_t)(pages - free_pages) * store->page_size,
        .file_bytes = (uint64_t)pages * store->page_size,
        .wal_bytes = wal_file_bytes(store),
        .disk_free_bytes = store_disk_free(store),
    };
    return 0;
}

int store_integrity_check(struct store *store)
{
    sqlite3_stmt *stmt;
    bool row;
    int rv = store_check(store);

    if (rv)
        return rv;
    int rc = sqlite3_prepare_v2(store->db, "PRAGMA integrity_check(1)", -1, &stmt, NULL);
    if (rc != SQLITE_OK)
        return sql_fail(store, rc, "check the file");
    rv = sql_next(store, stmt, "check the file", &row);
    if (!rv && (!row || !bytes_equal_str(column_bytes(stmt, 0), "ok")))
        rv = store_fail(store, ERR_CORRUPT, "%s",
                        row ? (const char *)sqlite3_column_text(stmt, 0) : "no result");
    sqlite3_finalize(stmt);
    return rv;
}
