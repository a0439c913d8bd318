/* SPDX-License-Identifier: Apache-2.0 */
/* Ids of ended at-most-once tasks. */
#include <assert.h>

#include "store/sql.h"

int store_load_done(struct store *store,
                    int (*each)(void *ctx, struct bytes id, int64_t ended_at_s), void *ctx)
{
    int rv = store_check(store);
    sqlite3_stmt *stmt = rv ? NULL : sql_stmt(store, STMT_DONE_LOAD);
    bool more;

    if (!stmt)
        return ERR_CLOSED;
    while ((rv = sql_next(store, stmt, "load ended ids", &more)) == 0 && more) {
        rv = each(ctx, column_bytes(stmt, 0), column_int(stmt, 1));
        if (rv)
            break;
    }
    sqlite3_reset(stmt);
    return rv;
}

int store_done_add(struct store *store, struct bytes id, int64_t ended_at_s)
{
    int rv = store_check(store);
    sqlite3_stmt *stmt = rv ? NULL : sql_stmt(store, STMT_DONE_ADD);

    if (!stmt)
        return ERR_CLOSED;
    assert(store->in_transaction);
    bind_text(stmt, 1, id);
    bind_int(stmt, 2, ended_at_s);
    return sql_run_one(store, stmt, "remember an ended id");
}

int store_done_delete(struct store *store, struct bytes id)
{
    int rv = store_check(store);
    sqlite3_stmt *stmt = rv ? NULL : sql_stmt(store, STMT_DONE_DELETE);

    if (!stmt)
        return ERR_CLOSED;
    assert(store->in_transaction);
    bind_text(stmt, 1, id);
    return sql_run_one(store, stmt, "forget an ended id");
}
