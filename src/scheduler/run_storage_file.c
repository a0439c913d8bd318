/* SPDX-License-Identifier: Apache-2.0 */
/* The table has one row an entry; the header says why the journal is what it is. */
#include <sqlite3.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/mem.h"
#include "scheduler/run_storage.h"

#define BUSY_MS        2000
#define APPLICATION_ID 0x746d7363 /* "tmsc" */

enum stmt { STMT_BEGIN, STMT_COMMIT, STMT_ROLLBACK, STMT_READ, STMT_WRITE, STMT_COUNT };

static const char *const texts[STMT_COUNT] = {
    [STMT_BEGIN] = "BEGIN IMMEDIATE",
    [STMT_COMMIT] = "COMMIT",
    [STMT_ROLLBACK] = "ROLLBACK",
    [STMT_READ] = "SELECT first_due, last_due, open, owner, lease_until_ms FROM runs WHERE key = ?",
    [STMT_WRITE] = "INSERT INTO runs (key, first_due, last_due, open, owner, lease_until_ms) "
                   "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
                   "first_due = excluded.first_due, last_due = excluded.last_due, "
                   "open = excluded.open, owner = excluded.owner, "
                   "lease_until_ms = excluded.lease_until_ms"};

struct file_storage {
    struct run_storage storage;
    sqlite3 *db;
    sqlite3_stmt *stmts[STMT_COUNT];
    struct buf name;
    const char *path; /* inside name */
};

static struct file_storage *of(struct run_storage *storage)
{
    return container_of(storage, struct file_storage, storage);
}

static int fault(const struct file_storage *storage, struct err_text *why)
{
    int code = sqlite3_errcode(storage->db) & 0xff, rv = ERR_IO;

    if (code == SQLITE_BUSY || code == SQLITE_LOCKED)
        rv = ERR_BUSY;
    else if (code == SQLITE_CORRUPT || code == SQLITE_NOTADB)
        rv = ERR_CORRUPT;
    else if (code == SQLITE_FULL)
        rv = ERR_NO_SPACE;
    else if (code == SQLITE_PERM || code == SQLITE_READONLY || code == SQLITE_AUTH ||
             code == SQLITE_CANTOPEN)
        rv = ERR_DENIED;
    return err_set(why, rv, "state file %s: %s", storage->path, sqlite3_errmsg(storage->db));
}

static int run(struct file_storage *storage, enum stmt which, struct err_text *why)
{
    int code = sqlite3_step(storage->stmts[which]), rv = 0;

    if (code != SQLITE_DONE)
        rv = fault(storage, why);
    (void)sqlite3_reset(storage->stmts[which]);
    return rv;
}

static void roll_back(struct file_storage *storage)
{
    if (sqlite3_get_autocommit(storage->db) == 0)
        (void)run(storage, STMT_ROLLBACK, NULL);
}

/* --- rows ------------------------------------------------------------------------------------ */

/* A lease that ends later than the longest one from now was given before the clock was put back. */
#define LEASE_MAX_MS (15LL * 60 * 1000)

static void read_columns(sqlite3_stmt *row, struct run_record *out)
{
    const unsigned char *owner = sqlite3_column_text(row, 3);
    int64_t left = sqlite3_column_int64(row, 4) - clock_wall_ms();

    out->state = (struct run_state){.known = true,
                                    .open = sqlite3_column_int(row, 2) != 0,
                                    .first_s = sqlite3_column_int64(row, 0),
                                    .last_s = sqlite3_column_int64(row, 1)};
    if (owner != NULL)
        memcpy(out->state.owner, owner, strnlen((const char *)owner, sizeof out->state.owner - 1));
    out->lease_ms = left > 0 && left <= LEASE_MAX_MS ? left : 0;
}

static int read_row(struct file_storage *storage, const struct run_key *key, struct run_record *out,
                    struct err_text *why)
{
    sqlite3_stmt *row = storage->stmts[STMT_READ];
    int code, rv = 0;

    *out = (struct run_record){.foreign_s = SCHEDULE_NEVER_RAN};
    (void)sqlite3_bind_text(row, 1, key->forms[SCHEDULE_KEY], -1, SQLITE_STATIC);
    code = sqlite3_step(row);
    if (code == SQLITE_ROW)
        read_columns(row, out);
    else if (code != SQLITE_DONE)
        rv = fault(storage, why);
    (void)sqlite3_reset(row);
    return rv;
}

static int write_row(struct file_storage *storage, const struct run_swap *swap,
                     struct err_text *why)
{
    sqlite3_stmt *row = storage->stmts[STMT_WRITE];
    bool leased = swap->step == RUN_CLAIM || swap->step == RUN_TAKE || swap->step == RUN_RENEW;
    int64_t until_ms = leased ? clock_wall_ms() + swap->lease_ms : 0;

    (void)sqlite3_bind_text(row, 1, swap->key->forms[SCHEDULE_KEY], -1, SQLITE_STATIC);
    (void)sqlite3_bind_int64(row, 2, swap->next.first_s);
    (void)sqlite3_bind_int64(row, 3, swap->next.last_s);
    (void)sqlite3_bind_int(row, 4, swap->next.open);
    (void)sqlite3_bind_text(row, 5, swap->next.owner, -1, SQLITE_STATIC);
    (void)sqlite3_bind_int64(row, 6, until_ms);
    return run(storage, STMT_WRITE, why);
}

/* --- load and swap ---------------------------------------------------------------------------- */

static int load(struct run_storage *base, const struct run_key *const *keys, size_t count,
                struct run_record *out, struct err_text *why)
{
    struct run_record *read = mem_calloc(count ? count : 1, sizeof *read);
    int rv = 0;

    for (size_t i = 0; i < count && rv == 0; i++)
        rv = read_row(of(base), keys[i], &read[i], why);
    if (rv == 0 && count > 0)
        memcpy(out, read, count * sizeof *read);
    mem_free(read);
    return rv;
}

/* Inside the transaction: *stored gets what the row is afterwards. */
static int swap_one(struct file_storage *storage, struct run_swap *swap, struct run_record *stored,
                    struct err_text *why)
{
    int rv = read_row(storage, swap->key, stored, why);

    if (rv != 0 || !run_step_allowed(swap->step, swap->record, stored))
        return rv;
    rv = write_row(storage, swap, why);
    if (rv == 0)
        rv = read_row(storage, swap->key, stored, why);
    swap->won = rv == 0;
    return rv;
}

/* All in one transaction: either each is settled, or none was done. */
static int swap_all(struct run_storage *base, struct run_swap *swaps, size_t count,
                    struct err_text *why)
{
    struct file_storage *storage = of(base);
    struct run_record *stored = mem_calloc(count ? count : 1, sizeof *stored);
    int rv;

    for (size_t i = 0; i < count; i++)
        swaps[i].settled = swaps[i].won = false;
    rv = run(storage, STMT_BEGIN, why);
    for (size_t i = 0; i < count && rv == 0; i++)
        rv = swap_one(storage, &swaps[i], &stored[i], why);
    if (rv == 0)
        rv = run(storage, STMT_COMMIT, why);
    if (rv != 0)
        roll_back(storage);
    for (size_t i = 0; i < count; i++) {
        swaps[i].settled = rv == 0;
        swaps[i].won = rv == 0 && swaps[i].won;
        if (rv == 0)
            *swaps[i].record = stored[i];
    }
    mem_free(stored);
    return rv;
}

/* --- opening --------------------------------------------------------------------------------- */

static const char *name(const struct run_storage *base)
{
    return buf_cstr(&of((struct run_storage *)(uintptr_t)base)->name);
}

static void close_storage(struct run_storage *base)
{
    struct file_storage *storage = of(base);

    for (int i = 0; i < STMT_COUNT; i++)
        (void)sqlite3_finalize(storage->stmts[i]);
    (void)sqlite3_close(storage->db);
    buf_free(&storage->name);
    mem_free(storage);
}

static int exec(struct file_storage *storage, const char *sql, struct err_text *why)
{
    return sqlite3_exec(storage->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : fault(storage, why);
}

static int pragma(struct file_storage *storage, const char *sql, int64_t *out, struct err_text *why)
{
    sqlite3_stmt *stmt = NULL;
    int rv = 0;

    if (sqlite3_prepare_v2(storage->db, sql, -1, &stmt, NULL) != SQLITE_OK ||
        sqlite3_step(stmt) != SQLITE_ROW)
        rv = fault(storage, why);
    else
        *out = sqlite3_column_int64(stmt, 0);
    (void)sqlite3_finalize(stmt);
    return rv;
}

/* A new file is empty; a file of ours has our number. Anything else is not touched. */
static int check_owner(struct file_storage *storage, struct err_text *why)
{
    int64_t id = 0, objects = 0;
    int rv = pragma(storage, "SELECT count(*) FROM sqlite_master", &objects, why);

    /* In this order: another process may be making the file, in one transaction. */
    if (rv == 0)
        rv = pragma(storage, "PRAGMA application_id", &id, why);
    if (rv == 0 && id != APPLICATION_ID && objects > 0)
        rv = err_set(why, ERR_INVALID,
                     "state file %s: it is a database of something else; give another path",
                     storage->path);
    return rv;
}

static int set_up(struct file_storage *storage, struct err_text *why)
{
    int rv;

    (void)sqlite3_busy_timeout(storage->db, BUSY_MS);
    rv = check_owner(storage, why);
    if (rv == 0)
        rv = exec(storage, "PRAGMA journal_mode = DELETE; PRAGMA synchronous = EXTRA", why);
    if (rv == 0)
        rv = exec(storage,
                  "BEGIN IMMEDIATE; PRAGMA application_id = 0x746d7363; "
                  "CREATE TABLE IF NOT EXISTS runs (key TEXT PRIMARY KEY, first_due INTEGER "
                  "NOT NULL, last_due INTEGER NOT NULL, open INTEGER NOT NULL, owner TEXT NOT "
                  "NULL, lease_until_ms INTEGER NOT NULL) WITHOUT ROWID; COMMIT",
                  why);
    for (int i = 0; i < STMT_COUNT && rv == 0; i++)
        if (sqlite3_prepare_v3(storage->db, texts[i], -1, SQLITE_PREPARE_PERSISTENT,
                               &storage->stmts[i], NULL) != SQLITE_OK)
            rv = fault(storage, why);
    return rv;
}

int run_storage_file(struct run_storage **out, const char *path, struct err_text *why)
{
    static const struct run_storage_ops ops = {load, swap_all, name, close_storage};
    struct file_storage *storage = mem_zalloc(sizeof *storage);
    int rv = 0;

    storage->storage.ops = &ops;
    buf_printf(&storage->name, "file %s", path);
    storage->path = buf_cstr(&storage->name) + strlen("file ");
    if (sqlite3_open_v2(path, &storage->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) !=
        SQLITE_OK)
        rv = storage->db != NULL ? fault(storage, why) : ERR_IO;
    if (rv == 0)
        rv = set_up(storage, why);
    if (rv == 0)
        *out = &storage->storage;
    else
        close_storage(&storage->storage);
    return rv;
}
