/* SPDX-License-Identifier: Apache-2.0 */
/* Messages that must reach a topic and are no rows (INV-8: deleted after the delivery report only).
 */
#include <assert.h>

#include "store/sql.h"

static int outbox_each(struct store *store, sqlite3_stmt *stmt,
                       int (*each)(void *ctx, const struct store_outbox *entry), void *ctx)
{
    struct store_outbox entry = {.entry = column_int(stmt, 0),
                                 .topic = column_bytes(stmt, 1),
                                 .payload_len = (uint64_t)sqlite3_column_int64(stmt, 2)};
    int rv = headers_decode(store, column_bytes(stmt, 3), &entry.header_count);

    if (rv)
        return rv;
    entry.has_cluster = sqlite3_column_type(stmt, 4) != SQLITE_NULL;
    entry.cluster = column_bytes(stmt, 4);
    entry.headers = store->headers;
    return each(ctx, &entry);
}

int store_load_outbox(struct store *store, int (*each)(void *ctx, const struct store_outbox *entry),
                      void *ctx)
{
    int rv = store_check(store);
    sqlite3_stmt *stmt = rv ? NULL : sql_stmt(store, STMT_OUTBOX_LOAD);
    bool more;

    if (!stmt)
        return ERR_CLOSED;
    while ((rv = sql_next(store, stmt, "load the outbox", &more)) == 0 && more) {
        rv = outbox_each(store, stmt, each, ctx);
        if (rv)
            break;
    }
    sqlite3_reset(stmt);
    return rv;
}

int store_outbox_add(struct store *store, const struct store_outbox *entry)
{
    int rv = store_check(store);
    sqlite3_stmt *stmt = rv ? NULL : sql_stmt(store, STMT_OUTBOX_ADD);

    if (!stmt)
        return ERR_CLOSED;
    assert(store->in_transaction);
    buf_clear(&store->header_bytes);
    headers_encode(&store->header_bytes, entry->headers, entry->header_count);
    bind_int(stmt, 1, entry->entry);
    bind_text(stmt, 2, entry->topic);
    bind_blob(stmt, 3, buf_bytes(&store->header_bytes));
    bind_blob(stmt, 4, entry->payload);
    if (entry->has_cluster)
        bind_text(stmt, 5, entry->cluster);
    else
        bind_int(stmt, 5, STORE_NULL);
    return sql_run_one(store, stmt, "add to the outbox");
}

int store_outbox_delete(struct store *store, int64_t entry)
{
    int rv = store_check(store);
    sqlite3_stmt *stmt = rv ? NULL : sql_stmt(store, STMT_OUTBOX_DELETE);

    if (!stmt)
        return ERR_CLOSED;
    assert(store->in_transaction);
    bind_int(stmt, 1, entry);
    return sql_run_one(store, stmt, "delete from the outbox");
}

int store_read_outbox(struct store *store, int64_t entry, struct blob **payload)
{
    int rv = store_check(store);
    sqlite3_stmt *stmt = rv ? NULL : sql_stmt(store, STMT_OUTBOX_PAYLOAD);
    bool row;

    if (!stmt)
        return ERR_CLOSED;
    bind_int(stmt, 1, entry);
    rv = sql_next(store, stmt, "read the outbox", &row);
    if (rv)
        return rv;
    if (!row)
        return ERR_NOT_FOUND;
    *payload = blob_copy(column_bytes(stmt, 0));
    sqlite3_reset(stmt);
    return 0;
}
