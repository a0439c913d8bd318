/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Giving a database back to the original (INV-15). One transaction takes the file from ours to the
 * original's, so a crash leaves one or the other and the next call carries on. What would be lost
 * is asked about before; what the original cannot read is mended, because it stops, or stops
 * reading a table, at one such row.
 */
#include "store/offline.h"

#include <assert.h>

#include "store/sql.h"

static bool may_discard(const struct give_back_options *options, const char *topic)
{
    for (size_t i = 0; i < options->discard_count; i++)
        if (strcmp(options->discard[i], topic) == 0)
            return true;
    return false;
}

/* Of the facts that somebody must decide about. */
static int refuse(const struct survey *survey, const struct give_back_options *options,
                  struct err_text *why)
{
    if (!survey_sound(survey))
        return err_set(why, ERR_CORRUPT, "the file is not sound: %s",
                       survey->findings[0].what); /* taskmill store check lists all */
    if (survey->kind == SURVEY_EMPTY)
        return err_set(why, ERR_STATE, "the file holds no table: there is nothing to give back");
    if (survey->outbox)
        return err_set(why, ERR_STATE,
                       "the outbox holds %lld messages, which the original would never send; start "
                       "the broker with its Kafka in reach until taskmill store check says 0",
                       (long long)survey->outbox);
    for (size_t i = 0; i < survey->topic_count; i++)
        if (!may_discard(options, survey->topics[i].name))
            return err_set(why, ERR_STATE,
                           "topic %s of the embedded log holds %lld records, which the original "
                           "would never see; let workers empty it, or give them up with --discard "
                           "%s",
                           survey->topics[i].name, (long long)survey->topics[i].records,
                           survey->topics[i].name);
    if (survey->kind == SURVEY_TASKMILL && survey->unconfirmed && !options->accept_unconfirmed)
        return err_set(why, ERR_STATE, "%lld at-most-once rows are not confirmed",
                       (long long)survey->unconfirmed);
    return 0;
}

/* --- rows ------------------------------------------------------------------------------------ */

/* What our broker does with them: never discarded, told to the dead-letter topic. */
static const char to_deadletter_sql[] =
    "UPDATE " ROWS " SET status = 'Failure', on_attempts_exceeded = 2, "
    "namespace = coalesce(namespace, '') WHERE namespace IS NULL OR status NOT IN "
    "('Pending', 'Delay', 'Claimed', 'Processing', 'Retry', 'Failure', 'Complete')";

/* min() and max() of a NULL are NULL: a time that is not set stays so. */
static const char correct_sql[] =
    "UPDATE " ROWS " SET partition = max(-2147483648, min(2147483647, partition)), "
    "processing_attempts = max(-2147483648, min(2147483647, processing_attempts)), "
    "processing_deadline_duration = "
    "max(-2147483648, min(2147483647, processing_deadline_duration)), "
    "on_attempts_exceeded = max(0, min(2, on_attempts_exceeded)), "
    "bucket = max(0, min(255, bucket)), at_most_once = max(0, min(1, at_most_once)), "
    "added_at = max(-62135596800, min(253402300799, added_at)), "
    "received_at = max(-62135596800, min(253402300799, received_at)), "
    "expires_at = max(-62135596800, min(253402300799, expires_at)), "
    "delay_until = max(-62135596800, min(253402300799, delay_until)), "
    "processing_deadline = max(-62135596800, min(253402300799, processing_deadline)), "
    "claim_expires_at = max(-62135596800, min(253402300799, claim_expires_at)) "
    "WHERE " SCHEMA_ROW_UNREADABLE;

static int update(struct store *store, const char *sql, int64_t *changed)
{
    int rv = sql_exec(store, sql, "mend rows");

    *changed = rv ? 0 : sqlite3_changes(store->db);
    return rv;
}

/* --- columns and tables ---------------------------------------------------------------------- */

/* Executes "<verb> <name>" for the names that the query finds, one at a time: a table cannot change
 * while it is being read. */
static int remove_each(struct store *store, const char *names_sql, const char *verb, bool *removed)
{
    for (;;) {
        sqlite3_stmt *stmt;
        bool more;
        char *sql = NULL;
        int rv = sql_prepare(store, names_sql, &stmt);

        if (!rv && (rv = sql_next(store, stmt, "read the schema", &more)) == 0 && more)
            sql = sqlite3_mprintf("%s \"%w\"", verb, (const char *)sqlite3_column_text(stmt, 0));
        sqlite3_finalize(stmt);
        if (rv || !sql)
            return rv;
        rv = sql_exec(store, sql, "remove what is ours");
        sqlite3_free(sql);
        if (rv)
            return rv;
        *removed = true;
    }
}

static int remove_ours(struct store *store, bool *removed)
{
    int rv = remove_each(store,
                         "SELECT name FROM pragma_table_info('" ROWS "') WHERE name GLOB "
                         "'taskmill_*' ORDER BY cid DESC LIMIT 1",
                         "ALTER TABLE " ROWS " DROP COLUMN", removed);

    return rv ? rv
              : remove_each(store,
                            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB "
                            "'taskmill_*' LIMIT 1",
                            "DROP TABLE", removed);
}

static int verify(struct store *store)
{
    static const char *const tables[] = {"_sqlx_migrations", ROWS};
    struct err_text why;
    sqlite3 *reference;
    int64_t left = 0;
    bool same = true;
    int rv = schema_reference(store, SCHEMA_MIGRATIONS, false, &reference);

    for (size_t i = 0; !rv && same && i < sizeof tables / sizeof *tables; i++)
        rv = schema_compare_table(store, reference, tables[i], &same, &why);
    if (!rv && same && (rv = schema_compare_index(store, reference, &same)) == 0 && !same)
        err_set(&why, 0, "its index has other columns");
    sqlite3_close(reference);
    if (!rv)
        rv = sql_int(store,
                     "SELECT count(*) FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' AND "
                     "name NOT IN ('_sqlx_migrations', '" ROWS "', '" SCHEMA_INDEX "')",
                     0, &left);
    if (rv)
        return rv;
    if (!same)
        return store_fail(store, ERR_CORRUPT, "is not what the original expects: %s", why.s);
    if (left)
        return store_fail(store, ERR_CORRUPT, "holds tables of another program");
    return 0;
}

/* --- all of it ------------------------------------------------------------------------------- */

/* A transaction that found nothing to do writes nothing. */
static int transform(struct store *store, struct give_back *out)
{
    struct schema_found found;
    int rv = schema_look(store, &found);

    store->doing = "apply migrations";
    if (rv || (rv = schema_prepare_original(store, &found)) != 0)
        return rv;
    out->migrations_applied = __builtin_popcount(store->opening.migrations);
    store->doing = "mend rows";
    if ((rv = update(store, to_deadletter_sql, &out->rows_to_deadletter)) != 0 ||
        (rv = update(store, correct_sql, &out->rows_corrected)) != 0)
        return rv;
    store->doing = "remove columns and tables";
    if ((rv = remove_ours(store, &out->tables_removed)) != 0)
        return rv;
    store->doing = "restore the index";
    /* The first migration makes it too. */
    if (!found.index && !(store->opening.migrations & 1)) {
        rv = sql_exec(store, schema_index_sql, "restore the original's index");
        out->index_restored = rv == 0;
    }
    return rv ? rv : verify(store);
}

static int settle(struct store *store, struct give_back *out, struct err_text *why)
{
    bool complete;

    store->doing = "vacuum";
    int rv = store_vacuum_if_worth(store, false);
    out->vacuumed = store->opening.vacuumed;
    store->doing = "copy the write-ahead log";
    if (rv || (rv = maintain_checkpoint(store, SQLITE_CHECKPOINT_TRUNCATE, &complete)) != 0)
        return rv;
    if (!complete)
        return err_set(
            why, ERR_BUSY,
            "database %s is given back, but another program reads it and its write-ahead "
            "log stays; end that and give back again",
            store->path);
    store->remove_lock = true;
    return 0;
}

int offline_give_back(struct store *store, const struct give_back_options *options,
                      struct give_back *out, struct err_text *why)
{
    struct survey survey;

    assert(!store->read_only);
    *out = (struct give_back){0};
    offline_survey(store, &survey);
    int rv = refuse(&survey, options, why);
    survey_free(&survey);
    if (rv)
        return rv;
    rv = sql_exec(store, "BEGIN IMMEDIATE", "lock the file");
    if (!rv)
        rv = transform(store, out);
    if (!rv)
        rv = sql_exec(store, "COMMIT", "commit");
    if (!rv)
        rv = settle(store, out, why);
    store->doing = NULL;
    if (rv && store->failed)
        err_set(why, rv, "%s", store->why.s);
    return rv;
}
