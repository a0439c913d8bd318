/* SPDX-License-Identifier: Apache-2.0 */
/* Files of the original (tests/fixtures), for the tests of opening and of giving back. */
#ifndef TASKMILL_TESTS_STORE_ORIGINAL_H
#define TASKMILL_TESTS_STORE_ORIGINAL_H

#include "fixture.h"

#define ORIGINAL_ROWS 23 /* of the fixtures */

static inline const char *original_path(const char *name)
{
    static char path[512];

    snprintf(path, sizeof path, "%s/original-26.7/%s", FIXTURES, name); /* folder: meson.build */
    return path;
}

static inline void original_copy_file(const char *from, const char *to)
{
    uint8_t block[4096];
    size_t len;
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");

    assert_non_null(in);
    assert_non_null(out);
    while ((len = fread(block, 1, sizeof block, in)) > 0)
        assert_int_equal(fwrite(block, 1, len, out), len);
    fclose(in);
    assert_int_equal(fclose(out), 0);
}

/* Copies a fixture, with its WAL, over `to`. */
static inline void original_copy(const char *name, const char *to)
{
    char from[600], target[400];
    static const char *const endings[] = {"-wal", "-shm"};

    original_copy_file(original_path(name), to);
    for (int i = 0; i < 2; i++) {
        snprintf(target, sizeof target, "%s%s", to, endings[i]);
        unlink(target);
        snprintf(from, sizeof from, "%s%s", original_path(name), endings[i]);
        if (access(from, R_OK) == 0)
            original_copy_file(from, target);
    }
}

/* Makes of a file with migration 6 one as the release with fewer migrations left it. */
static inline void original_older(const char *path, int migrations)
{
    static const char *const undo[] = {
        "DROP TABLE inflight_taskactivations",
        "ALTER TABLE inflight_taskactivations DROP COLUMN delay_until",
        /* NOLINTNEXTLINE(bugprone-suspicious-missing-comma): one migration added all three */
        "ALTER TABLE inflight_taskactivations DROP COLUMN on_attempts_exceeded;"
        "ALTER TABLE inflight_taskactivations DROP COLUMN received_at;"
        "ALTER TABLE inflight_taskactivations DROP COLUMN taskname",
        "ALTER TABLE inflight_taskactivations DROP COLUMN application",
        "ALTER TABLE inflight_taskactivations DROP COLUMN bucket",
        "ALTER TABLE inflight_taskactivations DROP COLUMN claim_expires_at",
    };
    char sql[100];

    for (int version = 6; version > migrations; version--) {
        assert_int_equal(fixture_foreign_sql(path, undo[version - 1]), SQLITE_OK);
        snprintf(sql, sizeof sql, "DELETE FROM _sqlx_migrations WHERE version = %d", version);
        assert_int_equal(fixture_foreign_sql(path, sql), SQLITE_OK);
    }
}

/* All rows of a query as text, asked for by a connection of its own. */
static inline void original_query(sqlite3 *db, const char *sql, struct buf *out)
{
    sqlite3_stmt *stmt;

    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL), SQLITE_OK);
    while (sqlite3_step(stmt) == SQLITE_ROW) {
        for (int i = 0; i < sqlite3_column_count(stmt); i++) {
            const char *text = (const char *)sqlite3_column_text(stmt, i);
            buf_printf(out, "%s|", text ? text : "NULL");
        }
        buf_append_byte(out, '\n');
    }
    sqlite3_finalize(stmt);
}

/* The names, columns (with their defaults as written), keys and migrations of a file: what must be
 * the same in a file of the original and in one that is given back. */
static inline void original_schema(sqlite3 *db, struct buf *out)
{
    original_query(db, "SELECT type, name, tbl_name FROM sqlite_schema ORDER BY name", out);
    original_query(db,
                   "SELECT name, strict, wr FROM pragma_table_list WHERE schema = 'main' "
                   "AND name NOT LIKE 'sqlite_%' ORDER BY name",
                   out);
    original_query(db, "SELECT * FROM pragma_table_info('inflight_taskactivations')", out);
    original_query(db, "SELECT * FROM pragma_table_info('_sqlx_migrations')", out);
    original_query(db, "SELECT * FROM pragma_index_xinfo('idx_pending_activation')", out);
    original_query(db,
                   "SELECT version, description, success, hex(checksum), "
                   "typeof(installed_on), typeof(success), typeof(execution_time) FROM "
                   "_sqlx_migrations ORDER BY version",
                   out);
}

#endif
