/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is a table what it should be? The answer compares what SQLite understood, not the text of CREATE
 * TABLE: the original's spells the same columns over several lines, ours in one.
 */
#include "store/sql.h"

/* The only difference in writing that means nothing: DEFAULT "" and DEFAULT ''. */
static bool same_default(struct bytes a, struct bytes b)
{
    bool empty_a = bytes_equal_str(a, "''") || bytes_equal_str(a, "\"\"");
    bool empty_b = bytes_equal_str(b, "''") || bytes_equal_str(b, "\"\"");

    return bytes_equal(a, b) || (empty_a && empty_b);
}

/* Columns of the query in `columns_sql`: name, type, notnull, default, place in the key. */
static bool same_column(sqlite3_stmt *a, sqlite3_stmt *b)
{
    return bytes_equal(column_bytes(a, 0), column_bytes(b, 0)) &&
           bytes_equal(column_bytes(a, 1), column_bytes(b, 1)) &&
           sqlite3_column_int(a, 2) == sqlite3_column_int(b, 2) &&
           same_default(column_bytes(a, 3), column_bytes(b, 3)) &&
           sqlite3_column_int(a, 4) == sqlite3_column_int(b, 4);
}

static const char columns_sql[] =
    "SELECT name, type, \"notnull\", coalesce(dflt_value, ''), pk FROM pragma_table_info(?1) "
    "ORDER BY cid";
static const char index_sql[] =
    "SELECT x.name, '', 0, '', l.\"unique\" FROM pragma_index_list(?1) AS l, "
    "pragma_index_info(?2) AS x WHERE l.name = ?2 ORDER BY x.seqno";
static const char strict_sql[] = "SELECT strict, wr FROM pragma_table_list(?1) WHERE schema = "
                                 "'main'";

static int prepare_both(struct store *store, sqlite3 *reference, const char *sql, const char *table,
                        sqlite3_stmt *both[2])
{
    both[0] = both[1] = NULL;
    int rv = sql_prepare(store, sql, &both[0]);
    if (rv)
        return rv;
    if (sqlite3_prepare_v2(reference, sql, -1, &both[1], NULL) != SQLITE_OK)
        rv = store_fail(store, ERR_SYSTEM, "cannot compare its tables: %s",
                        sqlite3_errmsg(reference));
    for (int i = 0; !rv && i < 2; i++) {
        bind_text(both[i], 1, bytes_str(table));
        if (sqlite3_bind_parameter_count(both[i]) == 2)
            bind_text(both[i], 2, bytes_str(SCHEMA_INDEX));
    }
    return rv;
}

static void finalize_both(sqlite3_stmt *both[2])
{
    sqlite3_finalize(both[0]);
    sqlite3_finalize(both[1]);
}

static bool is_ours(struct bytes column)
{
    static const char prefix[] = "taskmill_";

    return column.len >= sizeof prefix - 1 && memcmp(column.ptr, prefix, sizeof prefix - 1) == 0;
}

/* The next column of the file that is not ours. */
static int next_column(struct store *store, sqlite3_stmt *stmt, bool *more)
{
    int rv;

    do
        rv = sql_next(store, stmt, "read the schema", more);
    while (!rv && *more && is_ours(column_bytes(stmt, 0)));
    return rv;
}

static void difference(const char *table, sqlite3_stmt *both[2], bool here, bool there,
                       struct err_text *why)
{
    if (here && there)
        err_set(why, 0, "table %s: column %s stands where %s should, or has another definition",
                table, (const char *)sqlite3_column_text(both[0], 0),
                (const char *)sqlite3_column_text(both[1], 0));
    else if (here)
        err_set(why, 0, "table %s: column %s is not known", table,
                (const char *)sqlite3_column_text(both[0], 0));
    else
        err_set(why, 0, "table %s: column %s is missing", table,
                (const char *)sqlite3_column_text(both[1], 0));
}

static int compare_columns(struct store *store, sqlite3 *reference, const char *table, bool *same,
                           struct err_text *why)
{
    sqlite3_stmt *both[2];
    bool here = true, there = true;
    int rv = prepare_both(store, reference, columns_sql, table, both);

    *same = true;
    while (!rv && *same && here) {
        rv = next_column(store, both[0], &here);
        if (rv)
            break;
        there = sqlite3_step(both[1]) == SQLITE_ROW;
        if (here != there || (here && !same_column(both[0], both[1]))) {
            *same = false;
            difference(table, both, here, there, why);
        }
    }
    finalize_both(both);
    return rv;
}

static int compare_kind(struct store *store, sqlite3 *reference, const char *table, bool *same,
                        struct err_text *why)
{
    sqlite3_stmt *both[2];
    bool here;
    int rv = prepare_both(store, reference, strict_sql, table, both);

    if (!rv)
        rv = sql_next(store, both[0], "read the schema", &here);
    if (!rv) {
        bool there = sqlite3_step(both[1]) == SQLITE_ROW;
        *same = here && there && column_int(both[0], 0) == column_int(both[1], 0) &&
                column_int(both[0], 1) == column_int(both[1], 1);
        if (!*same)
            err_set(why, 0, "table %s: is missing, or is not STRICT where it should", table);
    }
    finalize_both(both);
    return rv;
}

int schema_compare_table(struct store *store, sqlite3 *reference, const char *table, bool *same,
                         struct err_text *why)
{
    int rv = compare_kind(store, reference, table, same, why);

    return rv || !*same ? rv : compare_columns(store, reference, table, same, why);
}

int schema_compare_index(struct store *store, sqlite3 *reference, bool *same)
{
    sqlite3_stmt *both[2];
    bool here = true;
    int rv = prepare_both(store, reference, index_sql, ROWS, both);

    *same = true;
    while (!rv && *same && here) {
        rv = sql_next(store, both[0], "read the schema", &here);
        bool there = sqlite3_step(both[1]) == SQLITE_ROW;
        *same = here == there && (!here || same_column(both[0], both[1]));
    }
    finalize_both(both);
    return rv;
}
