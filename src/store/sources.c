/* SPDX-License-Identifier: Apache-2.0 */
/* Where rows came from (cluster, topic, group), and how far each source is confirmed. */
#include <assert.h>

#include "store/sql.h"

int store_load_sources(struct store *store,
                       int (*each)(void *ctx, const struct store_source *source), void *ctx)
{
    int rv = store_check(store);
    sqlite3_stmt *stmt = rv ? NULL : sql_stmt(store, STMT_SOURCE_LOAD);
    bool more;

    if (!stmt)
        return ERR_CLOSED;
    while ((rv = sql_next(store, stmt, "load the sources", &more)) == 0 && more) {
        const struct store_source source = {.source = column_int(stmt, 0),
                                            .cluster = column_bytes(stmt, 1),
                                            .topic = column_bytes(stmt, 2),
                                            .group = column_bytes(stmt, 3)};
        rv = each(ctx, &source);
        if (rv)
            break;
    }
    sqlite3_reset(stmt);
    return rv;
}

static void bind_source(sqlite3_stmt *stmt, const struct store_source *source)
{
    bind_text(stmt, 1, source->cluster);
    bind_text(stmt, 2, source->topic);
    bind_text(stmt, 3, source->group);
}

static int source_find(struct store *store, const struct store_source *source, bool *found,
                       int64_t *number)
{
    sqlite3_stmt *stmt = sql_stmt(store, STMT_SOURCE_FIND);

    if (!stmt)
        return ERR_CLOSED;
    bind_source(stmt, source);
    int rv = sql_next(store, stmt, "find a source", found);
    if (rv || !*found)
        return rv;
    *number = column_int(stmt, 0);
    sqlite3_reset(stmt);
    return 0;
}

/* Rows of this table are never deleted, so the number after the greatest one was never used. */
static int source_insert(struct store *store, const struct store_source *source, int64_t *number)
{
    sqlite3_stmt *stmt = sql_stmt(store, STMT_SOURCE_INSERT);

    if (!stmt)
        return ERR_CLOSED;
    bind_source(stmt, source);
    int rv = sql_run_one(store, stmt, "add a source");
    if (!rv)
        *number = sqlite3_last_insert_rowid(store->db);
    return rv;
}

int store_add_source(struct store *store, const struct store_source *source, int64_t *number)
{
    bool found;
    int rv = store_check(store);

    assert(!store->in_transaction);
    if (rv || (rv = source_find(store, source, &found, number)) != 0 || found)
        return rv;
    rv = store_begin(store);
    if (rv)
        return rv;
    rv = source_insert(store, source, number);
    return rv ? rv : store_commit(store);
}

int store_load_confirmed(struct store *store,
                         int (*each)(void *ctx, const struct store_confirmed *confirmed), void *ctx)
{
    int rv = store_check(store);
    sqlite3_stmt *stmt = rv ? NULL : sql_stmt(store, STMT_CONFIRMED_LOAD);
    bool more;

    if (!stmt)
        return ERR_CLOSED;
    while ((rv = sql_next(store, stmt, "load confirmed offsets", &more)) == 0 && more) {
        const struct store_confirmed confirmed = {.source = column_int(stmt, 0),
                                                  .partition = column_int(stmt, 1),
                                                  .next_offset = column_int(stmt, 2)};
        rv = each(ctx, &confirmed);
        if (rv)
            break;
    }
    sqlite3_reset(stmt);
    return rv;
}

int store_set_confirmed(struct store *store, const struct store_confirmed *confirmed)
{
    int rv = store_check(store);
    sqlite3_stmt *stmt = rv ? NULL : sql_stmt(store, STMT_CONFIRMED_SET);

    if (!stmt)
        return ERR_CLOSED;
    assert(store->in_transaction);
    bind_int(stmt, 1, confirmed->source);
    bind_int(stmt, 2, confirmed->partition);
    bind_int(stmt, 3, confirmed->next_offset);
    return sql_run_one(store, stmt, "set a confirmed offset");
}
