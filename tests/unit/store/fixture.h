/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the store share: a folder of their own, a store in it, rows to put inside. */
#ifndef TASKMILL_TESTS_STORE_FIXTURE_H
#define TASKMILL_TESTS_STORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "store/sql.h"

struct fixture {
    char folder[256];
    char path[300];
    struct store *store;
};

static inline struct store *fixture_open_path(const char *path)
{
    struct store *store = NULL;
    struct err_text why = {""};
    const struct store_options options = {.path = path, .lock_wait_ms = 1};

    if (store_open(&store, &options, &why) != 0)
        fail_msg("store_open: %s", why.s);
    return store;
}

static inline void fixture_reopen(struct fixture *f)
{
    store_close(f->store);
    f->store = fixture_open_path(f->path);
}

static inline int fixture_setup(void **state)
{
    struct fixture *f = (struct fixture *)mem_zalloc(sizeof *f);
    const char *tmp = getenv("TMPDIR");

    snprintf(f->folder, sizeof f->folder, "%s/taskmill-store-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(f->folder));
    snprintf(f->path, sizeof f->path, "%s/db.sqlite", f->folder);
    f->store = fixture_open_path(f->path);
    *state = f;
    return 0;
}

static inline void fixture_remove(const struct fixture *f)
{
    static const char *const endings[] = {"", "-wal", "-shm", "-journal", ".lock"};
    char name[320];

    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        snprintf(name, sizeof name, "%s%s", f->path, endings[i]);
        unlink(name);
    }
    assert_int_equal(rmdir(f->folder), 0);
}

static inline int fixture_teardown(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    store_close(f->store);
    fixture_remove(f);
    mem_free(f);
    return 0;
}

static inline struct store_row fixture_row(int64_t rowid, const char *id)
{
    return (struct store_row){
        .rowid = rowid,
        .id = bytes_str(id),
        .activation = bytes_str("payload"),
        .partition = 3,
        .offset = 1000 + rowid,
        .added_at_s = 1790000000,
        .received_at_s = 1789999999,
        .expires_at_s = STORE_NULL,
        .delay_until_s = STORE_NULL,
        .processing_deadline_s = STORE_NULL,
        .claim_expires_at_s = STORE_NULL,
        .processing_deadline_duration_s = 30,
        .status = STORE_PENDING,
        .has_namespace = true,
        .namespace = bytes_str("billing"),
        .taskname = bytes_str("billing.send"),
        .application = bytes_str("shop"),
        .on_attempts_exceeded = 1,
        .source = STORE_NULL,
        .due_ms = STORE_NULL,
    };
}

/* Rows as loaded, copied so that they outlive the callback. */
struct fixture_rows {
    struct store_row rows[64];
    size_t count;
};

static inline struct bytes fixture_keep(struct bytes b)
{
    return bytes_of(mem_strndup(b.ptr ? (const void *)b.ptr : "", b.len), b.len);
}

static inline int fixture_collect(void *ctx, const struct store_row *row)
{
    struct fixture_rows *all = (struct fixture_rows *)ctx;

    assert_true(all->count < 64);
    struct store_row *copy = &all->rows[all->count++];
    *copy = *row;
    copy->id = fixture_keep(row->id);
    copy->namespace = fixture_keep(row->namespace);
    copy->taskname = fixture_keep(row->taskname);
    copy->application = fixture_keep(row->application);
    return 0;
}

static inline void fixture_load(struct store *store, struct fixture_rows *all)
{
    all->count = 0;
    assert_int_equal(store_load_rows(store, fixture_collect, all), 0);
}

static inline void fixture_rows_free(struct fixture_rows *all)
{
    for (size_t i = 0; i < all->count; i++) {
        mem_free((void *)(uintptr_t)all->rows[i].id.ptr);
        mem_free((void *)(uintptr_t)all->rows[i].namespace.ptr);
        mem_free((void *)(uintptr_t)all->rows[i].taskname.ptr);
        mem_free((void *)(uintptr_t)all->rows[i].application.ptr);
    }
    all->count = 0;
}

/* SQL by a connection of its own, as another program would. */
static inline int fixture_foreign_sql(const char *path, const char *sql)
{
    sqlite3 *db;

    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    int rc = sqlite3_exec(db, sql, NULL, NULL, NULL);
    sqlite3_close(db);
    return rc;
}

/* First column of the first row, asked for by a connection of its own. */
static inline int64_t fixture_foreign_int(const char *path, const char *sql)
{
    sqlite3 *db;
    sqlite3_stmt *stmt;

    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
    int64_t value = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    return value;
}

#endif
