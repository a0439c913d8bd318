/* SPDX-License-Identifier: Apache-2.0 */
#include "store/sql.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <sys/statvfs.h>

#include "base/mem.h"

static const char *const stmt_sql[STMT_COUNT] = {
#define X(name, sql) [name] = (sql),
    STMT_MAP(X)
#undef X
};

int store_check(const struct store *store)
{
    return store->failed ? ERR_CLOSED : 0;
}

static int free_of_folder(const char *path, struct statvfs *fs)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash ? mem_strndup(path, slash == path ? 1 : (size_t)(slash - path)) : NULL;
    int rv = statvfs(folder ? folder : ".", fs);

    mem_free(folder);
    return rv;
}

uint64_t store_disk_free(const struct store *store)
{
    struct statvfs fs;

    if (free_of_folder(store->path, &fs) != 0)
        return UINT64_MAX;
    return (uint64_t)fs.f_bavail * fs.f_frsize;
}

static int code_of(int rc, int os_errno)
{
    switch (rc & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return ERR_BUSY;
    case SQLITE_FULL:
        return ERR_NO_SPACE;
    case SQLITE_IOERR:
        return os_errno == ENOSPC || os_errno == EDQUOT ? ERR_NO_SPACE : ERR_IO;
    case SQLITE_CANTOPEN:
        return os_errno == EACCES || os_errno == EROFS ? ERR_DENIED : ERR_IO;
    case SQLITE_PERM:
    case SQLITE_READONLY:
    case SQLITE_AUTH:
        return ERR_DENIED;
    case SQLITE_TOOBIG:
        return ERR_TOO_LARGE;
    case SQLITE_NOMEM:
        return ERR_SYSTEM;
    default: /* CORRUPT, NOTADB, a constraint or a table that is not as we left it */
        return ERR_CORRUPT;
    }
}

static int fail_with(struct store *store, int code, const char *text)
{
    uint64_t disk_free = store_disk_free(store);
    char free_text[48] = "";

    if (disk_free != UINT64_MAX)
        snprintf(free_text, sizeof free_text, "; %llu bytes free", (unsigned long long)disk_free);
    if (store->failed) /* the first cause is the one to tell */
        return ERR_CLOSED;
    store->failed = true;
    return err_set(&store->why, code, "database %s: %s%s", store->path, text, free_text);
}

int store_fail(struct store *store, int code, const char *fmt, ...)
{
    struct err_text text;
    va_list ap;

    va_start(ap, fmt);
    err_setv(&text, code, fmt, ap);
    va_end(ap);
    return fail_with(store, code, text.s);
}

int sql_fail(struct store *store, int rc, const char *doing)
{
    int os_errno = sqlite3_system_errno(store->db);
    const char *os_text = os_errno ? strerror(os_errno) : NULL;
    struct err_text text;

    err_set(&text, 0, "cannot %s: %s (SQLite %d%s%s)", doing, sqlite3_errmsg(store->db),
            sqlite3_extended_errcode(store->db), os_text ? ", " : "", os_text ? os_text : "");
    return fail_with(store, code_of(rc, os_errno), text.s);
}

sqlite3_stmt *sql_stmt(struct store *store, enum stmt which)
{
    sqlite3_stmt *stmt = store->stmts[which];

    if (stmt)
        return stmt;
    int rc =
        sqlite3_prepare_v3(store->db, stmt_sql[which], -1, SQLITE_PREPARE_PERSISTENT, &stmt, NULL);
    if (rc != SQLITE_OK) {
        sql_fail(store, rc, "prepare a statement");
        return NULL;
    }
    store->stmts[which] = stmt;
    return stmt;
}

int sql_next(struct store *store, sqlite3_stmt *stmt, const char *doing, bool *row)
{
    int rc = sqlite3_step(stmt);

    *row = rc == SQLITE_ROW;
    if (rc == SQLITE_ROW)
        return 0;
    int rv = 0;
    if (rc != SQLITE_DONE)
        rv = (rc & 0xff) == SQLITE_BUSY ? ERR_BUSY : sql_fail(store, rc, doing);
    sqlite3_reset(stmt);
    return rv;
}

int sql_run(struct store *store, sqlite3_stmt *stmt, const char *doing)
{
    bool row;
    int rv = sql_next(store, stmt, doing, &row);

    assert(rv || !row);
    return rv;
}

int sql_run_one(struct store *store, sqlite3_stmt *stmt, const char *doing)
{
    int rv = sql_run(store, stmt, doing);

    if (rv)
        return rv;
    int changes = sqlite3_changes(store->db);
    if (changes == 1)
        return 0;
    return store_fail(store, ERR_CORRUPT,
                      "cannot %s: %d rows changed instead of one (did another program write?)",
                      doing, changes);
}

int sql_exec(struct store *store, const char *sql, const char *doing)
{
    int rc = sqlite3_exec(store->db, sql, NULL, NULL, NULL);

    return rc == SQLITE_OK ? 0 : sql_fail(store, rc, doing);
}

int sql_prepare(struct store *store, const char *sql, sqlite3_stmt **stmt)
{
    int rc = sqlite3_prepare_v2(store->db, sql, -1, stmt, NULL);

    return rc == SQLITE_OK ? 0 : sql_fail(store, rc, "read the file");
}

#define PROGRESS_STEPS 100000 /* of SQLite's virtual machine: some milliseconds */

static int on_progress(void *ctx)
{
    struct store *store = (struct store *)ctx;

    if (store->doing)
        store->progress(store->progress_ctx, store->doing);
    return 0;
}

void sql_progress(struct store *store)
{
    sqlite3_progress_handler(store->db, store->progress ? PROGRESS_STEPS : 0,
                             store->progress ? on_progress : NULL, store);
}

int sql_int(struct store *store, const char *sql, int64_t fallback, int64_t *out)
{
    sqlite3_stmt *stmt;
    int rc = sqlite3_prepare_v2(store->db, sql, -1, &stmt, NULL);

    if (rc != SQLITE_OK)
        return sql_fail(store, rc, "read the file");
    rc = sqlite3_step(stmt);
    *out = rc == SQLITE_ROW ? sqlite3_column_int64(stmt, 0) : fallback;
    int rv = rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : sql_fail(store, rc, "read the file");
    sqlite3_finalize(stmt);
    return rv;
}

int sql_stmt_int(struct store *store, enum stmt which, const char *doing, int64_t *out)
{
    sqlite3_stmt *stmt = sql_stmt(store, which);
    bool row;

    if (!stmt)
        return ERR_CLOSED;
    int rv = sql_next(store, stmt, doing, &row);
    if (rv)
        return rv;
    if (!row)
        return store_fail(store, ERR_CORRUPT, "cannot %s: no answer", doing);
    *out = sqlite3_column_int64(stmt, 0);
    sqlite3_reset(stmt);
    return 0;
}

/* SQLite takes a NULL pointer for SQL NULL, also with length 0. */
static const void *not_null(struct bytes b)
{
    return b.ptr ? (const void *)b.ptr : "";
}

static void bound(int rc)
{
    /* Only a wrong index or a value above 1 GB, which all callers bound long before, can fail. */
    assert(rc == SQLITE_OK);
    (void)rc;
}

void bind_text(sqlite3_stmt *stmt, int index, struct bytes text)
{
    bound(sqlite3_bind_text64(stmt, index, (const char *)not_null(text), text.len, SQLITE_STATIC,
                              SQLITE_UTF8));
}

void bind_blob(sqlite3_stmt *stmt, int index, struct bytes blob)
{
    bound(sqlite3_bind_blob64(stmt, index, not_null(blob), blob.len, SQLITE_STATIC));
}

void bind_int(sqlite3_stmt *stmt, int index, int64_t value)
{
    bound(value == STORE_NULL ? sqlite3_bind_null(stmt, index)
                              : sqlite3_bind_int64(stmt, index, value));
}

struct bytes column_bytes(sqlite3_stmt *stmt, int index)
{
    const void *ptr = sqlite3_column_blob(stmt, index);

    return bytes_of(ptr, (size_t)sqlite3_column_bytes(stmt, index));
}

int64_t column_int(sqlite3_stmt *stmt, int index)
{
    if (sqlite3_column_type(stmt, index) == SQLITE_NULL)
        return STORE_NULL;
    return sqlite3_column_int64(stmt, index);
}
