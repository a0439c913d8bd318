/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening, closing and transactions. What open guarantees before it returns (INV-11): every byte it
 * read is durable. After a kill the tail of the WAL may live in the page cache only; a broker that
 * served from it and committed offsets would lose rows to a later power cut. The TRUNCATE
 * checkpoint under FULL syncs WAL and file, or, when an outside reader stands in its way, a small
 * commit syncs the WAL.
 */
#include "store/store.h"

#include <assert.h>
#include <errno.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/plant.h"
#include "store/offline.h"
#include "store/sql.h"

#define LOCK_WAIT_MS     10000
#define BUSY_TIMEOUT_MS  5 /* the engine's thread waits here; it has its own back-off */
#define WAL_LIMIT_BYTES  (16u << 20)
#define CACHE_KIB        16384
#define VACUUM_MIN_PAGES 256 /* below, half of the file being free is no reason for a VACUUM */
#define ROWID_LIMIT      (INT64_C(1) << 62)

static int on_wal_commit(void *ctx, sqlite3 *db, const char *schema, int frames)
{
    struct store *store = (struct store *)ctx;

    (void)db;
    (void)schema;
    store->wal_frames = (uint64_t)frames;
    return SQLITE_OK;
}

static int open_file(struct store *store, const struct store_options *options, int mode)
{
    int rc = sqlite3_open_v2(store->path, &store->db,
                             mode | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, options->vfs);

    if (rc != SQLITE_OK)
        return sql_fail(store, rc, "open it");
    if (!store->read_only && sqlite3_db_readonly(store->db, "main"))
        return store_fail(store, ERR_DENIED, "is not writable");
    store->progress = options->progress;
    store->progress_ctx = options->progress_ctx;
    sql_progress(store);
    /* After a failed sync nothing may be synced again, not even by closing. */
    sqlite3_db_config(store->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    sqlite3_busy_timeout(store->db,
                         (int)(options->lock_wait_ms ? options->lock_wait_ms : LOCK_WAIT_MS));
    return 0;
}

static int configure(struct store *store, const struct store_options *options)
{
    char sql[256];
    int64_t pages;
    int rv = sql_int(store, "PRAGMA page_count", 0, &pages);

    /* Both count only before the first page is written, which journal_mode=WAL does. */
    if (!rv && pages == 0)
        rv = sql_exec(store, "PRAGMA page_size=4096; PRAGMA auto_vacuum=INCREMENTAL",
                      "configure a new file");
    if (rv)
        return rv;
    sqlite3_snprintf(sizeof sql, sql,
                     "PRAGMA synchronous=FULL; PRAGMA journal_mode=WAL; "
                     "PRAGMA temp_store=MEMORY; PRAGMA secure_delete=OFF; "
                     "PRAGMA mmap_size=0; PRAGMA cache_size=-%u",
                     options->cache_kib ? options->cache_kib : CACHE_KIB);
    rv = sql_exec(store, sql, "configure it");
    if (rv)
        return rv;
    sqlite3_wal_autocheckpoint(store->db, 0);
    sqlite3_wal_hook(store->db, on_wal_commit, store);
    store->wal_limit_bytes = options->wal_limit_bytes ? options->wal_limit_bytes : WAL_LIMIT_BYTES;
    return 0;
}

/* A commit syncs the whole WAL, also the frames that another process wrote. */
static int sync_by_commit(struct store *store)
{
    return sql_exec(store,
                    "INSERT INTO taskmill_meta (key, value) VALUES ('synced', 1) "
                    "ON CONFLICT (key) DO UPDATE SET value = value + 1",
                    "sync the WAL");
}

static int make_durable(struct store *store)
{
    bool complete = true;
    int rv = 0;

    store->doing = "copy the write-ahead log";
    if (!PLANTED(PLANT_NO_CHECKPOINT_AT_START))
        rv = maintain_checkpoint(store, SQLITE_CHECKPOINT_TRUNCATE, &complete);
    store->doing = "bring the tables up";
    if (rv || (rv = schema_prepare(store)) != 0)
        return rv;
    return complete ? 0 : sync_by_commit(store);
}

static int vacuum(struct store *store)
{
    bool complete;

    store->doing = "vacuum";
    /* Its copy of the file belongs on disk, not in memory. */
    int rv =
        sql_exec(store, "PRAGMA temp_store=FILE; VACUUM; PRAGMA temp_store=MEMORY", "vacuum it");
    store->opening.vacuumed = rv == 0;
    return rv ? rv : maintain_checkpoint(store, SQLITE_CHECKPOINT_TRUNCATE, &complete);
}

int store_vacuum_if_worth(struct store *store, bool wanted)
{
    struct store_size size;
    int rv = store_size(store, &size);

    if (rv)
        return rv;
    if (!wanted && (size.used_bytes > size.file_bytes / 2 ||
                    size.file_bytes < (uint64_t)VACUUM_MIN_PAGES * store->page_size))
        return 0;
    /* The copy and the WAL each hold the used pages once. */
    if (size.disk_free_bytes / 2 < size.used_bytes) {
        log_warn("taskmill::store", NULL, "%s is not vacuumed: %llu bytes free, needs %llu",
                 store->path, (unsigned long long)size.disk_free_bytes,
                 2 * (unsigned long long)size.used_bytes);
        return 0;
    }
    return vacuum(store);
}

static int read_facts(struct store *store)
{
    int64_t max_rowid, page_size, auto_vacuum;
    int rv = sql_int(store, "SELECT max(rowid) FROM " ROWS, 0, &max_rowid);

    if (rv || (rv = sql_int(store, "PRAGMA page_size", 0, &page_size)) != 0 ||
        (rv = sql_int(store, "PRAGMA auto_vacuum", 0, &auto_vacuum)) != 0)
        return rv;
    if (max_rowid >= ROWID_LIMIT)
        return store_fail(store, ERR_CORRUPT, "rowid %lld leaves no room for new rows",
                          (long long)max_rowid);
    store->next_rowid = max_rowid < 0 ? 1 : max_rowid + 1;
    store->page_size = (uint32_t)page_size;
    store->incremental = auto_vacuum == 2;
    return 0;
}

static int prepare_file(struct store *store, const struct store_options *options)
{
    int rv = open_file(store, options, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);

    if (rv || (rv = configure(store, options)) != 0 || (rv = make_durable(store)) != 0 ||
        (rv = read_facts(store)) != 0 ||
        (rv = store_vacuum_if_worth(store, options->full_vacuum)) != 0 ||
        (rv = sql_stmt_int(store, STMT_DATA_VERSION, "open it", &store->data_version)) != 0)
        return rv;
    store->doing = NULL;
    if (options->synchronous_normal)
        rv = sql_exec(store, "PRAGMA synchronous=NORMAL", "configure it");
    sqlite3_busy_timeout(store->db, BUSY_TIMEOUT_MS);
    return rv;
}

static void store_free(struct store *store)
{
    for (int i = 0; i < STMT_COUNT; i++)
        sqlite3_finalize(store->stmts[i]);
    int rc = sqlite3_close(store->db);
    assert(rc == SQLITE_OK); /* no statement is left */
    (void)rc;
    if (store->remove_lock)
        lock_remove(store->path, store->lock_fd);
    else
        lock_release(store->lock_fd);
    log_free(store);
    buf_free(&store->header_bytes);
    mem_free(store->headers);
    mem_free(store->path);
    mem_free(store);
}

/* The end of an open that got as far as the file. */
static int hand_out(struct store *store, int rv, struct store **out, struct err_text *why)
{
    if (rv) {
        err_set(why, rv, "%s", store->failed ? store->why.s : err_string(rv));
        store_free(store);
        return rv;
    }
    *out = store;
    return 0;
}

int store_open(struct store **out, const struct store_options *options, struct err_text *why)
{
    struct store *store = (struct store *)mem_zalloc(sizeof *store);
    int rv = path_parse(options->path, &store->path, why);

    store->lock_fd = -1;
    store->clock_us = options->clock_us;
    if (!rv && !options->no_lock)
        rv = lock_take(store->path, options->lock_wait_ms ? options->lock_wait_ms : LOCK_WAIT_MS,
                       &store->lock_fd, why);
    if (!rv)
        return hand_out(store, prepare_file(store, options), out, why);
    store_free(store);
    return rv;
}

static bool wal_is_empty(const struct store *store)
{
    struct buf name = {0};
    struct stat wal;

    buf_printf(&name, "%s-wal", store->path);
    bool empty = stat(buf_cstr(&name), &wal) != 0 || wal.st_size == 0;
    buf_free(&name);
    return empty;
}

/* Looking takes a connection that may write, and forbids it to: only such a one removes the empty
 * WAL that SQLite makes in order to read. A WAL with content, closing must not copy. */
static int offline_prepare(struct store *store, const struct store_options *options)
{
    bool may_clean = !options->vfs && wal_is_empty(store);
    int rv = open_file(store, options, SQLITE_OPEN_READWRITE);

    if (!rv)
        rv = store->read_only ? sql_exec(store, "PRAGMA query_only=ON", "open it")
                              : configure(store, options);
    if (!rv && (!store->read_only || may_clean))
        sqlite3_db_config(store->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
    return rv;
}

static int file_is_there(const struct store *store, struct err_text *why)
{
    struct stat file;

    if (stat(store->path, &file) != 0)
        return err_set(why, errno == ENOENT ? ERR_NOT_FOUND : ERR_DENIED, "database %s: %s",
                       store->path, strerror(errno));
    if (!S_ISREG(file.st_mode))
        return err_set(why, ERR_INVALID, "database %s: is not a file", store->path);
    return 0;
}

static int offline_lock(struct store *store, struct err_text *why)
{
    bool existed = lock_file_exists(store->path);
    int rv = file_is_there(store, why);

    if (rv || (rv = lock_take(store->path, 1, &store->lock_fd, why)) != 0)
        return rv;
    store->remove_lock = !existed;
    long pid = store->read_only ? 0 : lock_user(store->path);
    if (pid > 0)
        rv = err_set(why, ERR_BUSY, "database %s is open in pid %ld; end that first", store->path,
                     pid);
    return rv;
}

int offline_open(struct store **out, const struct store_options *options, bool read_only,
                 struct err_text *why)
{
    struct store *store = (struct store *)mem_zalloc(sizeof *store);
    int rv = path_parse(options->path, &store->path, why);

    store->lock_fd = -1;
    store->read_only = read_only;
    if (!rv && !options->no_lock)
        rv = offline_lock(store, why);
    if (!rv)
        return hand_out(store, offline_prepare(store, options), out, why);
    store_free(store);
    return rv;
}

void offline_close(struct store *store)
{
    if (!store)
        return;
    if (store->failed) /* no sync is ever repeated */
        sqlite3_db_config(store->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    store_free(store);
}

void store_close(struct store *store)
{
    if (!store)
        return;
    assert(!store->in_transaction || store->failed);
    if (!store->failed && sql_exec(store, "PRAGMA synchronous=FULL", "close it") == 0 &&
        maintain_check_foreign(store) == 0 && schema_restore_index(store) == 0) {
        /* Closing now checkpoints and removes the WAL, if no outside reader is there. */
        sqlite3_db_config(store->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
    }
    store_free(store);
}

void store_abandon(struct store *store)
{
    if (store)
        store_free(store);
}

const char *store_id(const struct store *store)
{
    return store->id;
}

const char *store_path(const struct store *store)
{
    return store->path;
}

bool store_adopted(const struct store *store)
{
    return store->adopted;
}

const struct store_opening *store_opening(const struct store *store)
{
    return &store->opening;
}

const char *store_why(const struct store *store)
{
    return store->why.s;
}

bool store_in_transaction(const struct store *store)
{
    return store->in_transaction;
}

int store_begin(struct store *store)
{
    int rv = store_check(store);
    sqlite3_stmt *stmt = rv ? NULL : sql_stmt(store, STMT_BEGIN);

    if (!stmt)
        return ERR_CLOSED;
    assert(!store->in_transaction);
    rv = sql_run(store, stmt, "begin a transaction");
    if (rv)
        return rv;
    store->in_transaction = true;
    /* Under the write lock: from here to the commit nobody else can change what we know. */
    return maintain_check_foreign(store);
}

int store_commit(struct store *store)
{
    int rv = store_check(store);
    sqlite3_stmt *stmt = rv ? NULL : sql_stmt(store, STMT_COMMIT);

    if (!stmt)
        return ERR_CLOSED;
    assert(store->in_transaction);
    rv = log_flush_bounds(store);
    if (rv || (rv = sql_run(store, stmt, "commit")) != 0)
        return rv;
    store->in_transaction = false;
    return 0;
}
