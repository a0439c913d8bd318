/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the store: its state, its statements and the one way in which an SQLite result becomes
 * a result of ours. Nobody outside src/store and its tests includes this.
 */
#ifndef TASKMILL_STORE_SQL_H
#define TASKMILL_STORE_SQL_H

#include <sqlite3.h>

#include "store/store.h"

#define ROWS "inflight_taskactivations"

/* X(name, SQL): statements of the running store, each prepared at its first use. */
#define STMT_MAP(X)                                                                                \
    X(STMT_BEGIN, "BEGIN IMMEDIATE")                                                               \
    X(STMT_COMMIT, "COMMIT")                                                                       \
    X(STMT_DATA_VERSION, "PRAGMA data_version")                                                    \
    X(STMT_PAGE_COUNT, "PRAGMA page_count")                                                        \
    X(STMT_FREE_COUNT, "PRAGMA freelist_count")                                                    \
    X(STMT_ROW_LOAD,                                                                               \
      "SELECT rowid, id, length(activation), partition, \"offset\", added_at, received_at, "       \
      "processing_attempts, expires_at, delay_until, processing_deadline, claim_expires_at, "      \
      "processing_deadline_duration, status, at_most_once, namespace, taskname, application, "     \
      "on_attempts_exceeded, bucket, taskmill_source, taskmill_times FROM " ROWS                   \
      " ORDER BY rowid")                                                                           \
    X(STMT_ROW_INSERT,                                                                             \
      "INSERT INTO " ROWS " (rowid, id, activation, partition, \"offset\", added_at, "             \
      "received_at, processing_attempts, expires_at, delay_until, processing_deadline, "           \
      "claim_expires_at, processing_deadline_duration, status, at_most_once, namespace, "          \
      "taskname, application, on_attempts_exceeded, bucket, taskmill_source, taskmill_times) "     \
      "VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)")                                      \
    X(STMT_ROW_UPDATE,                                                                             \
      "UPDATE " ROWS " SET status = ?3, processing_attempts = ?4, processing_deadline = ?5, "      \
      "claim_expires_at = NULL, taskmill_times = ?6, on_attempts_exceeded = ?7 "                   \
      "WHERE rowid = ?1 AND id = ?2")                                                              \
    X(STMT_ROW_SET_ACTIVATION, "UPDATE " ROWS " SET activation = ?3 WHERE rowid = ?1 AND id = ?2") \
    X(STMT_ROW_DELETE, "DELETE FROM " ROWS " WHERE rowid = ?1 AND id = ?2")                        \
    X(STMT_ROW_ACTIVATION, "SELECT activation FROM " ROWS " WHERE rowid = ?1 AND id = ?2")         \
    X(STMT_SOURCE_LOAD,                                                                            \
      "SELECT source, cluster, topic, \"group\" FROM taskmill_sources ORDER BY source")            \
    X(STMT_SOURCE_FIND,                                                                            \
      "SELECT source FROM taskmill_sources WHERE cluster = ?1 AND topic = ?2 AND \"group\" = ?3")  \
    X(STMT_SOURCE_INSERT,                                                                          \
      "INSERT INTO taskmill_sources (cluster, topic, \"group\") VALUES (?1, ?2, ?3)")              \
    X(STMT_CONFIRMED_LOAD,                                                                         \
      "SELECT source, partition, next_offset FROM taskmill_confirmed ORDER BY source, partition")  \
    X(STMT_CONFIRMED_SET,                                                                          \
      "INSERT INTO taskmill_confirmed (source, partition, next_offset) VALUES (?1, ?2, ?3) "       \
      "ON CONFLICT (source, partition) DO UPDATE SET next_offset = excluded.next_offset")          \
    X(STMT_DONE_LOAD, "SELECT id, ended_at FROM taskmill_done ORDER BY ended_at, id")              \
    X(STMT_DONE_ADD, "INSERT INTO taskmill_done (id, ended_at) VALUES (?1, ?2) "                   \
                     "ON CONFLICT (id) DO UPDATE SET ended_at = excluded.ended_at")                \
    X(STMT_DONE_DELETE, "DELETE FROM taskmill_done WHERE id = ?1")                                 \
    X(STMT_OUTBOX_LOAD, "SELECT entry, topic, length(payload), headers, cluster FROM "             \
                        "taskmill_outbox ORDER BY entry")                                          \
    X(STMT_OUTBOX_ADD, "INSERT INTO taskmill_outbox (entry, topic, headers, payload, cluster) "    \
                       "VALUES (?1, ?2, ?3, ?4, ?5)")                                              \
    X(STMT_OUTBOX_DELETE, "DELETE FROM taskmill_outbox WHERE entry = ?1")                          \
    X(STMT_OUTBOX_PAYLOAD, "SELECT payload FROM taskmill_outbox WHERE entry = ?1")                 \
    X(STMT_LOG_TOPIC_FIND, "SELECT topic, low, high FROM taskmill_log_topics WHERE name = ?1")     \
    X(STMT_LOG_TOPIC_ADD, "INSERT INTO taskmill_log_topics (name, low, high) VALUES (?1, 0, 0)")   \
    X(STMT_LOG_TOPIC_SET, "UPDATE taskmill_log_topics SET low = ?2, high = ?3 WHERE topic = ?1")   \
    X(STMT_LOG_APPEND, "INSERT INTO taskmill_log (entry, headers, payload) VALUES (?1, ?2, ?3)")   \
    X(STMT_LOG_TRIM, "DELETE FROM taskmill_log WHERE entry >= ?1 AND entry < ?2")                  \
    X(STMT_LOG_READ,                                                                               \
      "SELECT entry, headers, payload FROM taskmill_log WHERE entry >= ?1 AND entry < ?2 "         \
      "ORDER BY entry LIMIT ?3")

enum stmt {
#define X(name, sql) name,
    STMT_MAP(X)
#undef X
        STMT_COUNT
};

/* Bounds of one embedded topic, written back at commit (log.c). */
struct log_topic {
    char *name;
    int64_t number;
    int64_t low, high;
    bool dirty;
};

struct store {
    sqlite3 *db;
    char *path;
    int lock_fd; /* -1: none */
    sqlite3_stmt *stmts[STMT_COUNT];
    char id[17];
    bool adopted;
    struct store_opening opening;
    bool read_only;    /* offline.h */
    bool remove_lock;  /* the lock file goes when the lock is released */
    const char *doing; /* for progress: the long work at hand; NULL: none */
    void (*progress)(void *ctx, const char *doing);
    void *progress_ctx;
    bool synchronous_normal;
    bool in_transaction;
    bool failed; /* fail-stop: set once, never cleared */
    bool incremental;
    struct err_text why;
    int64_t next_rowid;
    int64_t data_version; /* the value that means "nobody but us" */
    uint32_t page_size;
    uint64_t wal_limit_bytes;
    uint64_t wal_frames;        /* in the WAL after our last commit and not yet in the file */
    uint64_t wal_checkpoint_at; /* next checkpoint when this many */
    int64_t (*clock_us)(void);  /* NULL: upkeep is not measured */
    struct store_upkeep upkeep;
    struct log_topic *topics;
    size_t topic_count;
    struct buf header_bytes;
    struct store_header *headers;
    size_t header_cap;
};

/* The prepared statement, reset and ready for binding; NULL after a failure (the store has failed).
 */
sqlite3_stmt *sql_stmt(struct store *store, enum stmt which);
/* Steps a statement that returns no rows, resets it. SQLITE_BUSY becomes ERR_BUSY and is no
 * failure; any other error fails the store. `doing` completes "cannot ...". */
int sql_run(struct store *store, sqlite3_stmt *stmt, const char *doing);
/* As sql_run, and exactly one row must have changed: anything else means that somebody else wrote.
 */
int sql_run_one(struct store *store, sqlite3_stmt *stmt, const char *doing);
/* One step of a query: *row tells whether there is one. When there is none, or an error, it is
 * reset. */
int sql_next(struct store *store, sqlite3_stmt *stmt, const char *doing, bool *row);
/* SQL text without results, for opening and maintenance. */
int sql_exec(struct store *store, const char *sql, const char *doing);
/* Text of its own for one statement without prepared form; the caller finalizes *stmt. */
int sql_prepare(struct store *store, const char *sql, sqlite3_stmt **stmt);
/* Installs the progress callback of the options again, after another handler was in its place. */
void sql_progress(struct store *store);
/* First column of the only row as an integer; `fallback` when there is no row. */
int sql_int(struct store *store, const char *sql, int64_t fallback, int64_t *out);
int sql_stmt_int(struct store *store, enum stmt which, const char *doing, int64_t *out);

/* Records the failure of an SQLite call and closes the store for good. Returns the code. */
int sql_fail(struct store *store, int rc, const char *doing);
/* The same for a cause that is not SQLite's. */
int store_fail(struct store *store, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* ERR_CLOSED once the store has failed, else 0. */
int store_check(const struct store *store);
/* Free bytes for this user where the file lives; UINT64_MAX when that cannot be known. */
uint64_t store_disk_free(const struct store *store);

/* Binding. The memory must live until the statement is reset: all callers step before they return.
 */
void bind_text(sqlite3_stmt *stmt, int index, struct bytes text);
void bind_blob(sqlite3_stmt *stmt, int index, struct bytes blob);
void bind_int(sqlite3_stmt *stmt, int index, int64_t value); /* STORE_NULL: NULL */
/* Valid until the next step or reset. */
struct bytes column_bytes(sqlite3_stmt *stmt, int index);
int64_t column_int(sqlite3_stmt *stmt, int index); /* NULL: STORE_NULL */

/* lock.c: the file beside the database that says who owns it. ERR_BUSY names the pid. */
int lock_take(const char *path, uint32_t wait_ms, int *fd, struct err_text *why);
void lock_release(int fd);
bool lock_file_exists(const char *path);
/* Removes the lock file and releases the lock. */
void lock_remove(const char *path, int fd);
/* Pid of a process that has the database open through SQLite, 0: none is seen. Only before this
 * process opens it: closing any descriptor of a file drops all POSIX locks that SQLite holds on it.
 */
long lock_user(const char *path);

/* path.c: the file name in the original's spelling of a database. The caller frees *path. */
int path_parse(const char *text, char **path, struct err_text *why);

/* schema.c: brings the tables to what both brokers expect; one transaction. */
int schema_prepare(struct store *store);
int schema_restore_index(struct store *store);

#define SCHEMA_INDEX      "idx_pending_activation"
#define SCHEMA_FORMAT     1 /* of the taskmill_* tables */
#define SCHEMA_MIGRATIONS 6
#define SCHEMA_CHECKSUM   48

/* Rows of a file with all migrations that hold numbers which the original has no room for: beyond
 * 32 bits, or Unix seconds outside the years 1 to 9999, which its calendar has for certain. */
#define SCHEMA_ROW_UNREADABLE                                                             \
    "(on_attempts_exceeded NOT BETWEEN 0 AND 2 OR bucket NOT BETWEEN 0 AND 255 OR "       \
    "at_most_once NOT BETWEEN 0 AND 1 OR "                                                \
    "max(partition, processing_attempts, processing_deadline_duration) > 2147483647 OR "  \
    "min(partition, processing_attempts, processing_deadline_duration) < -2147483648 OR " \
    "max(added_at, received_at, coalesce(expires_at, 0), coalesce(delay_until, 0), "      \
    "coalesce(processing_deadline, 0), coalesce(claim_expires_at, 0)) > 253402300799 OR " \
    "min(added_at, received_at, coalesce(expires_at, 0), coalesce(delay_until, 0), "      \
    "coalesce(processing_deadline, 0), coalesce(claim_expires_at, 0)) < -62135596800)"

struct schema_migration {
    const char *description, *sql, *sha384;
};
/* Index + 1 is the version. */
extern const struct schema_migration schema_migrations[SCHEMA_MIGRATIONS];
extern const char schema_index_sql[];

void schema_checksum(const struct schema_migration *migration, uint8_t out[SCHEMA_CHECKSUM]);
/* What sqlite_schema says, in one reading. */
struct schema_found {
    bool bookkeeping, rows, index, meta, other;
};
int schema_look(struct store *store, struct schema_found *found);
/* In the open transaction: the original's tables, with all migrations. */
int schema_prepare_original(struct store *store, const struct schema_found *found);
/* 0 when our tables (if there are any) have the format that this program knows; else the store has
 * failed. */
int schema_check_format(struct store *store);

/* A database in memory made by the statements that make real ones: the original's after that many
 * migrations, with or without our columns and tables. The caller closes it. */
int schema_reference(struct store *store, int migrations, bool own, sqlite3 **out);
/* schema_compare.c. Compares a table with the reference: names, types, order, defaults, keys of its
 * columns, STRICT. In the file, columns named taskmill_* may follow. *same is false and `why` says
 * what differs. */
int schema_compare_table(struct store *store, sqlite3 *reference, const char *table, bool *same,
                         struct err_text *why);
int schema_compare_index(struct store *store, sqlite3 *reference, bool *same);

/* maintain.c */
int maintain_checkpoint(struct store *store, int mode, bool *complete);
int maintain_check_foreign(struct store *store);

/* store.c: a full VACUUM when wanted or worth it, and the disk has room. */
int store_vacuum_if_worth(struct store *store, bool wanted);

/* headers.c: record headers as one blob. */
void headers_encode(struct buf *out, const struct store_header *headers, size_t count);
/* Into store->headers, pointing into `encoded`; a malformed blob fails the store. */
int headers_decode(struct store *store, struct bytes encoded, size_t *count);

/* log.c: writes back the bounds that this transaction changed. */
int log_flush_bounds(struct store *store);
void log_free(struct store *store);

#endif
