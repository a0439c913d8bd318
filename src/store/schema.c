/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables (docs/storage.md). A database belongs to both brokers: the original's table with its
 * 19 columns first, its bookkeeping of migrations 1 to 6 as its library wrote it, and everything of
 * ours in nullable columns and tables named taskmill_*, which it never looks at (INV-15).
 *
 * Everything is looked up before it is written: a start on a file that is as it should be must not
 * commit anything, because the only thing that makes a killed process's last WAL frames durable is
 * then the checkpoint of store.c, and tests must be able to see it missing.
 */
#include <assert.h>

#include "base/clock.h"
#include "store/sql.h"

#define INDEX_SQL                                                   \
    "CREATE INDEX " SCHEMA_INDEX " ON " ROWS " (status, added_at, " \
    "namespace, id)"
#define INDEX_RESTORE_MS 1000

const char schema_index_sql[] = INDEX_SQL;

/* The checksums are those of the original's migration files: its library compares them and refuses
 * a file that has others. */
const struct schema_migration schema_migrations[SCHEMA_MIGRATIONS] = {
    {"create inflight taskactivations",
     "CREATE TABLE " ROWS " (id TEXT NOT NULL PRIMARY KEY, activation BLOB NOT NULL, "
     "partition INTEGER NOT NULL, offset INTEGER NOT NULL, added_at INTEGER NOT NULL, "
     "processing_attempts INTEGER NOT NULL, expires_at INTEGER, "
     "processing_deadline_duration INTEGER NOT NULL, processing_deadline INTEGER, "
     "status TEXT NOT NULL, at_most_once INTEGER NOT NULL DEFAULT 0, namespace TEXT) "
     "STRICT;" INDEX_SQL,
     "0098ec0357575e700b4388a951736b9598d3379ab8cb1db8c6276e1a99f84ecb"
     "2243155f10bde700a546094bd15486cc"},
    {"add delay", "ALTER TABLE " ROWS " ADD COLUMN delay_until INTEGER",
     "03c22fde8411c57d97fc9d83e5b2245204fb55d3f7dd51f7b3f0c5f58d6433d9"
     "d7104789d4feb08b68fabee991264ce9"},
    {"update activations table",
     "ALTER TABLE " ROWS " ADD COLUMN on_attempts_exceeded INTEGER NOT NULL DEFAULT 1;"
     "ALTER TABLE " ROWS " ADD COLUMN received_at INTEGER NOT NULL DEFAULT 0;"
     "ALTER TABLE " ROWS " ADD COLUMN taskname TEXT NOT NULL DEFAULT \"\"",
     "012fd5cab96406284d29966bab499fe89309d97d377a601ac00621eddac47b46"
     "702a964ef98c27d0842a373cf517cb76"},
    {"add application", "ALTER TABLE " ROWS " ADD COLUMN application TEXT NOT NULL DEFAULT ''",
     "f0546b1eaba8545eab2eb69f89bd48b873a983fb356792600a38ff70eac279af"
     "b4c242c9f78b4b444dd6ecabf8e75090"},
    {"add bucket", "ALTER TABLE " ROWS " ADD COLUMN bucket INTEGER NOT NULL DEFAULT 0",
     "144e04dbb515d48f5a0c7dd9c6c8c4b2ce89edf0761f57a5c69f3a19a74978ed"
     "f8bab83b680b434427d9b285c45c25d9"},
    {"add claim expires at", "ALTER TABLE " ROWS " ADD COLUMN claim_expires_at INTEGER",
     "54c2f44fc6907f5f87684bc36b81553c6347837359523671c245a72f115acb37"
     "a6e0191ce68a8a8efdc488ffab592a25"},
};

static const char bookkeeping_sql[] =
    "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, "
    "installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, "
    "checksum BLOB NOT NULL, execution_time BIGINT NOT NULL)";

static const char own_sql[] =
    "ALTER TABLE " ROWS " ADD COLUMN taskmill_source INTEGER;"
    "ALTER TABLE " ROWS " ADD COLUMN taskmill_times INTEGER;"
    "CREATE TABLE taskmill_meta (key TEXT NOT NULL PRIMARY KEY, value ANY NOT NULL) "
    "STRICT, WITHOUT ROWID;"
    "CREATE TABLE taskmill_sources (source INTEGER PRIMARY KEY, cluster TEXT NOT NULL, "
    "topic TEXT NOT NULL, \"group\" TEXT NOT NULL, UNIQUE (cluster, topic, \"group\")) STRICT;"
    "CREATE TABLE taskmill_confirmed (source INTEGER NOT NULL, partition INTEGER NOT NULL, "
    "next_offset INTEGER NOT NULL, PRIMARY KEY (source, partition)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE taskmill_done (id TEXT NOT NULL PRIMARY KEY, ended_at INTEGER NOT NULL) "
    "STRICT, WITHOUT ROWID;"
    "CREATE TABLE taskmill_outbox (entry INTEGER PRIMARY KEY, topic TEXT NOT NULL, "
    "headers BLOB NOT NULL, payload BLOB NOT NULL, cluster TEXT) STRICT;"
    "CREATE TABLE taskmill_log_topics (topic INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, "
    "low INTEGER NOT NULL, high INTEGER NOT NULL) STRICT;"
    "CREATE TABLE taskmill_log (entry INTEGER PRIMARY KEY, headers BLOB NOT NULL, "
    "payload BLOB NOT NULL) STRICT";

void schema_checksum(const struct schema_migration *migration, uint8_t out[SCHEMA_CHECKSUM])
{
    const char *hex = migration->sha384;

    for (int i = 0; i < SCHEMA_CHECKSUM; i++) {
        int high = hex[2 * i] <= '9' ? hex[2 * i] - '0' : hex[2 * i] - 'a' + 10;
        int low = hex[2 * i + 1] <= '9' ? hex[2 * i + 1] - '0' : hex[2 * i + 1] - 'a' + 10;
        out[i] = (uint8_t)(high << 4 | low);
    }
}

static int prepare(struct store *store, const char *sql, sqlite3_stmt **stmt)
{
    int rc = sqlite3_prepare_v2(store->db, sql, -1, stmt, NULL);

    return rc == SQLITE_OK ? 0 : sql_fail(store, rc, "read the schema");
}

int schema_look(struct store *store, struct schema_found *found)
{
    sqlite3_stmt *stmt;
    bool more;
    int rv = prepare(store, "SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'", &stmt);

    *found = (struct schema_found){0};
    if (rv)
        return rv;
    while ((rv = sql_next(store, stmt, "read the schema", &more)) == 0 && more) {
        struct bytes name = column_bytes(stmt, 0);
        if (bytes_equal_str(name, "_sqlx_migrations"))
            found->bookkeeping = true;
        else if (bytes_equal_str(name, ROWS))
            found->rows = true;
        else if (bytes_equal_str(name, SCHEMA_INDEX))
            found->index = true;
        else if (bytes_equal_str(name, "taskmill_meta"))
            found->meta = true;
        else
            found->other = true;
    }
    sqlite3_finalize(stmt);
    return rv;
}

/* One row of the original's bookkeeping, judged as the original judges it. */
static int migration_check(struct store *store, sqlite3_stmt *stmt, bool applied[SCHEMA_MIGRATIONS])
{
    int64_t version = column_int(stmt, 0);
    uint8_t expected[SCHEMA_CHECKSUM];

    if (sqlite3_column_int64(stmt, 1) == 0)
        return store_fail(store, ERR_CORRUPT, "migration %lld was left half done by taskbroker",
                          (long long)version);
    if (version < 1 || version > SCHEMA_MIGRATIONS)
        return store_fail(store, ERR_UNSUPPORTED,
                          "was written by a newer taskbroker (migration %lld; known: 1 to %d)",
                          (long long)version, SCHEMA_MIGRATIONS);
    schema_checksum(&schema_migrations[version - 1], expected);
    if (!bytes_equal(column_bytes(stmt, 2), bytes_of(expected, sizeof expected)))
        return store_fail(store, ERR_UNSUPPORTED,
                          "migration %lld is not the one that taskbroker 26.7 has (checksum)",
                          (long long)version);
    applied[version - 1] = true;
    return 0;
}

static int migrations_read(struct store *store, bool applied[SCHEMA_MIGRATIONS])
{
    sqlite3_stmt *stmt;
    bool more;
    int rv = prepare(store, "SELECT version, success, checksum FROM _sqlx_migrations", &stmt);

    if (rv)
        return rv;
    while ((rv = sql_next(store, stmt, "read the migrations", &more)) == 0 && more) {
        rv = migration_check(store, stmt, applied);
        if (rv)
            break;
    }
    sqlite3_finalize(stmt);
    return rv;
}

static int migration_apply(struct store *store, int index)
{
    const struct schema_migration *migration = &schema_migrations[index];
    uint8_t checksum[SCHEMA_CHECKSUM];
    sqlite3_stmt *stmt;
    int rv = sql_exec(store, migration->sql, "apply a migration");

    if (rv || (rv = prepare(store,
                            "INSERT INTO _sqlx_migrations (version, description, success, "
                            "checksum, execution_time) VALUES (?1, ?2, 1, ?3, 0)",
                            &stmt)) != 0)
        return rv;
    schema_checksum(migration, checksum);
    bind_int(stmt, 1, index + 1);
    bind_text(stmt, 2, bytes_str(migration->description));
    bind_blob(stmt, 3, bytes_of(checksum, sizeof checksum));
    rv = sql_run_one(store, stmt, "record a migration");
    sqlite3_finalize(stmt);
    store->opening.migrations |= 1u << index;
    return rv;
}

int schema_prepare_original(struct store *store, const struct schema_found *found)
{
    bool applied[SCHEMA_MIGRATIONS] = {false};
    int rv;

    if (!found->bookkeeping && (found->rows || found->index || found->other))
        return store_fail(store, ERR_INVALID, "is the database of another program");
    rv = found->bookkeeping ? migrations_read(store, applied)
                            : sql_exec(store, bookkeeping_sql, "create the table of migrations");
    for (int i = 0; !rv && i < SCHEMA_MIGRATIONS; i++)
        if (!applied[i])
            rv = migration_apply(store, i);
    return rv;
}

int schema_reference(struct store *store, int migrations, bool own, sqlite3 **out)
{
    int rc = sqlite3_open_v2(
        ":memory:", out, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);

    if (rc == SQLITE_OK)
        rc = sqlite3_exec(*out, bookkeeping_sql, NULL, NULL, NULL);
    for (int i = 0; rc == SQLITE_OK && i < migrations; i++)
        rc = sqlite3_exec(*out, schema_migrations[i].sql, NULL, NULL, NULL);
    if (rc == SQLITE_OK && own)
        rc = sqlite3_exec(*out, own_sql, NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        return 0;
    sqlite3_close(*out);
    *out = NULL;
    return store_fail(store, ERR_SYSTEM, "no memory for the tables to compare with");
}

/* From the VFS, so that a simulated disk gives a reproducible one. */
static void make_id(struct store *store)
{
    sqlite3_vfs *vfs = NULL;
    uint8_t bytes[8] = {0};

    sqlite3_file_control(store->db, "main", SQLITE_FCNTL_VFS_POINTER, &vfs);
    assert(vfs);
    vfs->xRandomness(vfs, sizeof bytes, (char *)bytes);
    for (size_t i = 0; i < sizeof bytes; i++) {
        store->id[2 * i] = "0123456789abcdef"[bytes[i] >> 4];
        store->id[2 * i + 1] = "0123456789abcdef"[bytes[i] & 15];
    }
}

static int own_create(struct store *store)
{
    sqlite3_stmt *stmt;
    int rv = sql_exec(store, own_sql, "create the tables");

    if (rv || (rv = prepare(store,
                            "INSERT INTO taskmill_meta (key, value) VALUES ('format', ?1), "
                            "('store_id', ?2)",
                            &stmt)) != 0)
        return rv;
    make_id(store);
    bind_int(stmt, 1, SCHEMA_FORMAT);
    bind_text(stmt, 2, bytes_str(store->id));
    rv = sql_run(store, stmt, "name the store");
    sqlite3_finalize(stmt);
    return rv;
}

static bool id_valid(struct bytes id)
{
    if (id.len != sizeof((struct store *)NULL)->id - 1)
        return false;
    for (size_t i = 0; i < id.len; i++)
        if (!id.ptr[i] || !strchr("0123456789abcdef", id.ptr[i]))
            return false;
    return true;
}

static int id_read(struct store *store)
{
    sqlite3_stmt *stmt;
    bool row;
    int rv = prepare(store, "SELECT value FROM taskmill_meta WHERE key = 'store_id'", &stmt);

    if (rv)
        return rv;
    rv = sql_next(store, stmt, "read the store's id", &row);
    if (!rv && row && id_valid(column_bytes(stmt, 0)))
        memcpy(store->id, column_bytes(stmt, 0).ptr, sizeof store->id - 1);
    else if (!rv)
        rv = store_fail(store, ERR_CORRUPT, "taskmill_meta has no valid store_id");
    sqlite3_finalize(stmt);
    return rv;
}

int schema_check_format(struct store *store)
{
    int64_t format;
    int rv = sql_int(store, "SELECT value FROM taskmill_meta WHERE key = 'format'", 0, &format);

    if (rv || format == SCHEMA_FORMAT)
        return rv;
    return store_fail(store, ERR_UNSUPPORTED,
                      "its taskmill tables have format %lld; this program knows %d",
                      (long long)format, SCHEMA_FORMAT);
}

/* Files of format 1 from before outbox entries named a cluster. */
static int outbox_migrate(struct store *store)
{
    int64_t columns;
    int rv = sql_int(store,
                     "SELECT count(*) FROM pragma_table_info('taskmill_outbox') "
                     "WHERE name = 'cluster'",
                     0, &columns);

    if (rv || columns)
        return rv;
    store->opening.tables_made = true;
    return sql_exec(store, "ALTER TABLE taskmill_outbox ADD COLUMN cluster TEXT",
                    "add a column to the outbox");
}

static int own_prepare(struct store *store, const struct schema_found *found)
{
    if (!found->meta) {
        store->opening.tables_made = true;
        return own_create(store);
    }
    int rv = schema_check_format(store);
    if (rv || (rv = id_read(store)) != 0)
        return rv;
    return outbox_migrate(store);
}

int schema_prepare(struct store *store)
{
    struct schema_found found;
    int rv = sql_exec(store, "BEGIN IMMEDIATE", "lock the file");

    if (rv || (rv = schema_look(store, &found)) != 0)
        return rv;
    store->adopted = found.bookkeeping && !found.meta;
    rv = schema_prepare_original(store, &found);
    if (rv || (rv = own_prepare(store, &found)) != 0)
        return rv;
    /* Every order that claims need is kept in memory; the index would cost half of the speed. */
    store->opening.index_dropped = found.index;
    rv = found.index || !found.rows
             ? sql_exec(store, "DROP INDEX " SCHEMA_INDEX, "drop the original's index")
             : 0;
    return rv ? rv : sql_exec(store, "COMMIT", "commit the schema");
}

static int out_of_time(void *end_ms)
{
    return clock_boot_ms() > *(const int64_t *)end_ms;
}

int schema_restore_index(struct store *store)
{
    int64_t end_ms = clock_boot_ms() + INDEX_RESTORE_MS;

    sqlite3_progress_handler(store->db, 10000, out_of_time, &end_ms);
    int rc = sqlite3_exec(store->db, INDEX_SQL, NULL, NULL, NULL);
    sql_progress(store);
    /* Without it the original works too, only slower: nothing to fail for. */
    return rc == SQLITE_OK || rc == SQLITE_INTERRUPT || (rc & 0xff) == SQLITE_BUSY
               ? 0
               : sql_fail(store, rc, "restore the original's index");
}
