/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>

#include "store/sql.h"

static const char *const status_text[] = {
    [STORE_PENDING] = "Pending",       [STORE_DELAY] = "Delay", [STORE_CLAIMED] = "Claimed",
    [STORE_PROCESSING] = "Processing", [STORE_RETRY] = "Retry", [STORE_FAILURE] = "Failure",
    [STORE_COMPLETE] = "Complete",
};

static struct bytes status_bytes(enum store_status status)
{
    assert(status < STORE_STATUS_UNKNOWN);
    return bytes_str(status_text[status]);
}

static enum store_status status_parse(struct bytes text)
{
    for (int i = 0; i < STORE_STATUS_UNKNOWN; i++)
        if (bytes_equal_str(text, status_text[i]))
            return (enum store_status)i;
    return STORE_STATUS_UNKNOWN;
}

static int64_t floor_s(int64_t ms)
{
    return ms / 1000 - (ms % 1000 < 0);
}

/* The original may have changed the seconds since: then the milliseconds say nothing. */
static int64_t due_if_agreed(const struct store_row *row, int64_t due_ms)
{
    int64_t seconds = STORE_NULL;

    if (row->status == STORE_PENDING)
        seconds = row->expires_at_s;
    else if (row->status == STORE_DELAY)
        seconds = row->delay_until_s;
    else if (row->status == STORE_PROCESSING)
        seconds = row->processing_deadline_s;
    if (due_ms == STORE_NULL || seconds == STORE_NULL || floor_s(due_ms) != seconds)
        return STORE_NULL;
    return due_ms;
}

static void row_read(sqlite3_stmt *stmt, struct store_row *row)
{
    *row = (struct store_row){
        .rowid = column_int(stmt, 0),
        .id = column_bytes(stmt, 1),
        .activation_len = (uint64_t)sqlite3_column_int64(stmt, 2),
        .partition = column_int(stmt, 3),
        .offset = column_int(stmt, 4),
        .added_at_s = column_int(stmt, 5),
        .received_at_s = column_int(stmt, 6),
        .processing_attempts = column_int(stmt, 7),
        .expires_at_s = column_int(stmt, 8),
        .delay_until_s = column_int(stmt, 9),
        .processing_deadline_s = column_int(stmt, 10),
        .claim_expires_at_s = column_int(stmt, 11),
        .processing_deadline_duration_s = column_int(stmt, 12),
        .status = status_parse(column_bytes(stmt, 13)),
        .at_most_once = sqlite3_column_int64(stmt, 14) != 0,
        .has_namespace = sqlite3_column_type(stmt, 15) != SQLITE_NULL,
        .namespace = column_bytes(stmt, 15),
        .taskname = column_bytes(stmt, 16),
        .application = column_bytes(stmt, 17),
        .on_attempts_exceeded = column_int(stmt, 18),
        .bucket = column_int(stmt, 19),
        .source = column_int(stmt, 20),
    };
    row->due_ms = due_if_agreed(row, column_int(stmt, 21));
}

int store_load_rows(struct store *store, store_row_fn each, void *ctx)
{
    int rv = store_check(store);
    sqlite3_stmt *stmt = rv ? NULL : sql_stmt(store, STMT_ROW_LOAD);
    struct store_row row;
    bool more;

    if (!stmt)
        return ERR_CLOSED;
    while ((rv = sql_next(store, stmt, "load the rows", &more)) == 0 && more) {
        row_read(stmt, &row);
        rv = each(ctx, &row);
        if (rv)
            break;
    }
    sqlite3_reset(stmt);
    return rv;
}

int64_t store_next_rowid(const struct store *store)
{
    return store->next_rowid;
}

int store_insert(struct store *store, const struct store_row *row)
{
    int rv = store_check(store);
    sqlite3_stmt *stmt = rv ? NULL : sql_stmt(store, STMT_ROW_INSERT);

    if (!stmt)
        return ERR_CLOSED;
    assert(store->in_transaction && row->rowid > 0);
    bind_int(stmt, 1, row->rowid);
    bind_text(stmt, 2, row->id);
    bind_blob(stmt, 3, row->activation);
    bind_int(stmt, 4, row->partition);
    bind_int(stmt, 5, row->offset);
    bind_int(stmt, 6, row->added_at_s);
    bind_int(stmt, 7, row->received_at_s);
    bind_int(stmt, 8, row->processing_attempts);
    bind_int(stmt, 9, row->expires_at_s);
    bind_int(stmt, 10, row->delay_until_s);
    bind_int(stmt, 11, row->processing_deadline_s);
    bind_int(stmt, 12, row->claim_expires_at_s);
    bind_int(stmt, 13, row->processing_deadline_duration_s);
    bind_text(stmt, 14, status_bytes(row->status));
    bind_int(stmt, 15, row->at_most_once);
    if (row->has_namespace)
        bind_text(stmt, 16, row->namespace);
    else
        bind_int(stmt, 16, STORE_NULL);
    bind_text(stmt, 17, row->taskname);
    bind_text(stmt, 18, row->application);
    bind_int(stmt, 19, row->on_attempts_exceeded);
    bind_int(stmt, 20, row->bucket);
    bind_int(stmt, 21, row->source);
    bind_int(stmt, 22, row->due_ms);
    rv = sql_run_one(store, stmt, "insert a row");
    if (!rv && row->rowid >= store->next_rowid)
        store->next_rowid = row->rowid + 1;
    return rv;
}

/* The statement for one row with ?1 and ?2 bound; NULL: the store has failed. */
static sqlite3_stmt *for_row(struct store *store, enum stmt which, int64_t rowid, struct bytes id)
{
    sqlite3_stmt *stmt = store->failed ? NULL : sql_stmt(store, which);

    if (!stmt)
        return NULL;
    bind_int(stmt, 1, rowid);
    bind_text(stmt, 2, id);
    return stmt;
}

int store_update(struct store *store, int64_t rowid, struct bytes id,
                 const struct store_change *change)
{
    sqlite3_stmt *stmt = for_row(store, STMT_ROW_UPDATE, rowid, id);

    if (!stmt)
        return ERR_CLOSED;
    assert(store->in_transaction);
    bind_text(stmt, 3, status_bytes(change->status));
    bind_int(stmt, 4, change->processing_attempts);
    bind_int(stmt, 5, change->processing_deadline_s);
    bind_int(stmt, 6, change->due_ms);
    bind_int(stmt, 7, change->on_attempts_exceeded);
    return sql_run_one(store, stmt, "update a row");
}

int store_set_activation(struct store *store, int64_t rowid, struct bytes id,
                         struct bytes activation)
{
    sqlite3_stmt *stmt = for_row(store, STMT_ROW_SET_ACTIVATION, rowid, id);

    if (!stmt)
        return ERR_CLOSED;
    assert(store->in_transaction);
    bind_blob(stmt, 3, activation);
    return sql_run_one(store, stmt, "rewrite an activation");
}

int store_delete(struct store *store, int64_t rowid, struct bytes id)
{
    sqlite3_stmt *stmt = for_row(store, STMT_ROW_DELETE, rowid, id);

    if (!stmt)
        return ERR_CLOSED;
    assert(store->in_transaction);
    return sql_run_one(store, stmt, "delete a row");
}

int store_read_activation(struct store *store, int64_t rowid, struct bytes id, struct blob **out)
{
    sqlite3_stmt *stmt = for_row(store, STMT_ROW_ACTIVATION, rowid, id);
    bool row;

    if (!stmt)
        return ERR_CLOSED;
    int rv = sql_next(store, stmt, "read an activation", &row);
    if (rv)
        return rv;
    if (!row)
        return ERR_NOT_FOUND;
    *out = blob_copy(column_bytes(stmt, 0));
    sqlite3_reset(stmt);
    return 0;
}
