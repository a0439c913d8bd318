/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Looking at a database that no broker has open. Nothing is written, and nothing is taken for
 * granted: the file may be anybody's, from any release, damaged. What stops one question is a
 * finding, and the next question is asked.
 */
#include "store/offline.h"

#include <assert.h>

#include "base/mem.h"
#include "store/sql.h"

#define INTEGRITY_LINES 20
#define NAME_LEN_MAX    "65535" /* core/task.h counts names in 16 bits */

static const char *const status_text[] = {"Pending", "Delay",   "Claimed", "Processing",
                                          "Retry",   "Failure", "Complete"};
#define STATUS_LIST "('Pending','Delay','Claimed','Processing','Retry','Failure','Complete')"

/* As broker/engine_load.c judges rows. */
#define ROW_IS_BAD "(namespace IS NULL OR status NOT IN " STATUS_LIST ")"
/* clang-format off */
#define ROW_IS_LONG                                                                          \
    "(length(CAST(id AS BLOB)) > " NAME_LEN_MAX " OR length(CAST(application AS BLOB)) > "       \
    NAME_LEN_MAX " OR length(CAST(namespace AS BLOB)) > " NAME_LEN_MAX                         \
    " OR length(CAST(taskname AS BLOB)) > " NAME_LEN_MAX ")"
/* clang-format on */

const char *survey_status_name(enum store_status status)
{
    return status < STORE_STATUS_UNKNOWN ? status_text[status] : "unknown";
}

const char *survey_migration_name(int version)
{
    assert(version >= 1 && version <= SURVEY_MIGRATIONS);
    return schema_migrations[version - 1].description;
}

static void finding(struct survey *survey, bool problem, const char *remedy, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static void finding(struct survey *survey, bool problem, const char *remedy, const char *fmt, ...)
{
    struct err_text what;
    va_list ap;

    va_start(ap, fmt);
    err_setv(&what, 0, fmt, ap);
    va_end(ap);
    survey->findings = (struct survey_finding *)mem_realloc(
        survey->findings, (survey->finding_count + 1) * sizeof *survey->findings);
    survey->findings[survey->finding_count++] = (struct survey_finding){
        .problem = problem, .what = mem_strdup(what.s), .remedy = mem_strdup(remedy)};
}

#define RESTORE \
    "keep a copy of the file with its -wal; then try: sqlite3 COPY .recover | sqlite3 NEW"

/* --- the file -------------------------------------------------------------------------------- */

static int integrity(struct store *store, struct survey *survey)
{
    sqlite3_stmt *stmt;
    char sql[64];
    bool more;

    sqlite3_snprintf(sizeof sql, sql, "PRAGMA integrity_check(%d)", INTEGRITY_LINES);
    int rv = sql_prepare(store, sql, &stmt);
    while (!rv && (rv = sql_next(store, stmt, "check the file", &more)) == 0 && more)
        if (!bytes_equal_str(column_bytes(stmt, 0), "ok"))
            finding(survey, true, RESTORE, "the file is damaged: %s",
                    (const char *)sqlite3_column_text(stmt, 0));
    sqlite3_finalize(stmt);
    return rv;
}

static int file_facts(struct store *store, struct survey *survey)
{
    int rv = sql_int(store, "PRAGMA page_size", 0, &survey->page_size);

    store->page_size = (uint32_t)survey->page_size;
    if (rv || (rv = sql_int(store, "PRAGMA page_count", 0, &survey->pages)) != 0 ||
        (rv = sql_int(store, "PRAGMA freelist_count", 0, &survey->free_pages)) != 0 ||
        (rv = sql_int(store, "PRAGMA auto_vacuum", 0, &survey->auto_vacuum)) != 0)
        return rv;
    return store_size(store, &survey->size);
}

/* --- the schema ------------------------------------------------------------------------------ */

#define OTHER_RELEASE \
    "use the Taskmill release that knows it, or give the file back to the program that wrote it"

static void migration(struct survey *survey, sqlite3_stmt *stmt)
{
    int64_t version = column_int(stmt, 0);
    uint8_t expected[SCHEMA_CHECKSUM];

    if (version < 1 || version > SURVEY_MIGRATIONS) {
        finding(survey, true, OTHER_RELEASE, "migration %lld of a newer taskbroker",
                (long long)version);
        return;
    }
    enum survey_migration *state = &survey->migrations[version - 1];
    schema_checksum(&schema_migrations[version - 1], expected);
    *state = SURVEY_APPLIED;
    if (!sqlite3_column_int(stmt, 1)) {
        *state = SURVEY_HALF_DONE;
        finding(survey, true, "start the taskbroker that began it, or restore a copy",
                "migration %lld was left half done by taskbroker", (long long)version);
    } else if (!bytes_equal(column_bytes(stmt, 2), bytes_of(expected, sizeof expected))) {
        *state = SURVEY_DIFFERENT;
        finding(survey, true, OTHER_RELEASE,
                "migration %lld is not the one of taskbroker 26.7 (checksum)", (long long)version);
    }
}

static int migrations(struct store *store, struct survey *survey)
{
    sqlite3_stmt *stmt;
    bool more;
    int rv = sql_prepare(
        store, "SELECT version, success, checksum FROM _sqlx_migrations ORDER BY version", &stmt);

    while (!rv && (rv = sql_next(store, stmt, "read the migrations", &more)) == 0 && more)
        migration(survey, stmt);
    sqlite3_finalize(stmt);
    return rv;
}

/* Migrations without a gap from the first on; a file of the original has no other. */
static int migrations_in_a_row(const struct survey *survey)
{
    int count = 0;

    while (count < SURVEY_MIGRATIONS && survey->migrations[count] != SURVEY_MISSING)
        count++;
    return count;
}

static int compare(struct store *store, struct survey *survey)
{
    static const char *const tables[] = {"_sqlx_migrations", ROWS};
    struct err_text why;
    sqlite3 *reference;
    bool same = true;
    int rv = schema_reference(store, migrations_in_a_row(survey), false, &reference);

    for (size_t i = 0; !rv && i < sizeof tables / sizeof *tables; i++) {
        rv = schema_compare_table(store, reference, tables[i], &same, &why);
        if (!rv && !same)
            finding(survey, true, OTHER_RELEASE, "%s", why.s);
    }
    if (!rv && survey->index && (rv = schema_compare_index(store, reference, &same)) == 0 && !same)
        finding(survey, true, "drop it: sqlite3 FILE \"DROP INDEX " SCHEMA_INDEX "\"",
                "the index " SCHEMA_INDEX " has other columns than the original's");
    sqlite3_close(reference);
    return rv;
}

/* Every name that this program gives to its columns and tables. What another release of the same
 * format lacks or has in addition is no problem: a start adds it, nobody reads it. */
static const char own_names_sql[] =
    "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'taskmill_*' UNION "
    "SELECT name FROM pragma_table_info('" ROWS "') WHERE name GLOB 'taskmill_*' ORDER BY name";

static int own_name(struct store *store, struct survey *survey, sqlite3_stmt *here,
                    struct bytes wanted)
{
    bool more, found = false;
    int rv = 0;

    while (!found && (rv = sql_next(store, here, "read the schema", &more)) == 0 && more)
        found = bytes_equal(column_bytes(here, 0), wanted);
    sqlite3_reset(here);
    if (!rv && !found)
        finding(survey, true, RESTORE, "%.*s is missing", BYTES_FMT_ARG(wanted));
    return rv;
}

static int own_names(struct store *store, struct survey *survey)
{
    sqlite3 *reference;
    sqlite3_stmt *here = NULL, *there = NULL;
    int rv = schema_reference(store, SCHEMA_MIGRATIONS, true, &reference);

    if (!rv)
        rv = sql_prepare(store, own_names_sql, &here);
    if (!rv && sqlite3_prepare_v2(reference, own_names_sql, -1, &there, NULL) != SQLITE_OK)
        rv = store_fail(store, ERR_SYSTEM, "cannot compare its tables");
    while (!rv && sqlite3_step(there) == SQLITE_ROW)
        rv = own_name(store, survey, here, column_bytes(there, 0));
    sqlite3_finalize(here);
    sqlite3_finalize(there);
    sqlite3_close(reference);
    return rv;
}

static int own_tables(struct store *store, struct survey *survey)
{
    sqlite3_stmt *stmt;
    bool row;
    int rv =
        sql_int(store, "SELECT value FROM taskmill_meta WHERE key = 'format'", 0, &survey->format);

    if (rv)
        return rv;
    if (survey->format != SCHEMA_FORMAT)
        finding(survey, true, OTHER_RELEASE,
                "Taskmill's tables have format %lld; this program knows %d",
                (long long)survey->format, SCHEMA_FORMAT);
    rv = sql_prepare(store, "SELECT value FROM taskmill_meta WHERE key = 'store_id'", &stmt);
    if (rv)
        return rv;
    rv = sql_next(store, stmt, "read the store's id", &row);
    if (!rv && row && column_bytes(stmt, 0).len == sizeof survey->store_id - 1)
        memcpy(survey->store_id, column_bytes(stmt, 0).ptr, sizeof survey->store_id - 1);
    else if (!rv)
        finding(survey, true, RESTORE, "taskmill_meta has no valid store_id");
    sqlite3_finalize(stmt);
    return rv;
}

static int schema(struct store *store, struct survey *survey)
{
    struct schema_found found;
    int rv = schema_look(store, &found);

    if (rv)
        return rv;
    survey->index = found.index;
    survey->kind = found.meta                                 ? SURVEY_TASKMILL
                   : found.bookkeeping                        ? SURVEY_ORIGINAL
                   : found.rows || found.index || found.other ? SURVEY_FOREIGN
                                                              : SURVEY_EMPTY;
    if (!found.bookkeeping && survey->kind != SURVEY_EMPTY) {
        survey->kind = SURVEY_FOREIGN;
        finding(survey, true, "check the path", "is the database of another program");
    }
    if (!found.bookkeeping)
        return 0;
    rv = migrations(store, survey);
    if (!rv && found.rows)
        rv = compare(store, survey);
    if (!rv && found.meta && (rv = own_tables(store, survey)) == 0 &&
        survey->format == SCHEMA_FORMAT)
        rv = own_names(store, survey);
    return rv;
}

/* --- the content ----------------------------------------------------------------------------- */

static int count_rows(struct store *store, struct survey *survey)
{
    sqlite3_stmt *stmt;
    bool more;
    int rv = sql_prepare(store, "SELECT status, count(*) FROM " ROWS " GROUP BY status", &stmt);

    while (!rv && (rv = sql_next(store, stmt, "count the rows", &more)) == 0 && more) {
        int status = 0;
        while (status < STORE_STATUS_UNKNOWN &&
               !bytes_equal_str(column_bytes(stmt, 0), status_text[status]))
            status++;
        survey->rows[status] += column_int(stmt, 1);
    }
    sqlite3_finalize(stmt);
    return rv;
}

static void add_topic(struct survey *survey, struct bytes name, int64_t records)
{
    survey->topics = (struct survey_topic *)mem_realloc(survey->topics, (survey->topic_count + 1) *
                                                                            sizeof *survey->topics);
    survey->topics[survey->topic_count++] =
        (struct survey_topic){.name = mem_strndup(name.ptr, name.len), .records = records};
}

/* The key of a record is topic number x 2^48 + offset (log.c). */
static int log_topics(struct store *store, struct survey *survey)
{
    sqlite3_stmt *stmt;
    bool more;
    int rv = sql_prepare(store,
                         "SELECT name, (SELECT count(*) FROM taskmill_log WHERE entry >= "
                         "t.topic << 48 AND entry < (t.topic + 1) << 48) AS records "
                         "FROM taskmill_log_topics AS t WHERE records > 0 ORDER BY name",
                         &stmt);

    while (!rv && (rv = sql_next(store, stmt, "read the embedded log", &more)) == 0 && more)
        add_topic(survey, column_bytes(stmt, 0), column_int(stmt, 1));
    sqlite3_finalize(stmt);
    return rv;
}

static void count_one(void *ctx, const struct offline_row *row)
{
    (void)row;
    ++*(int64_t *)ctx;
}

static int content(struct store *store, struct survey *survey)
{
    int rv = count_rows(store, survey);

    if (rv || (rv = sql_int(store, "SELECT count(*) FROM " ROWS " WHERE " ROW_IS_BAD, 0,
                            &survey->bad)) != 0)
        return rv;
    /* Columns of later migrations: an older file has none of them. */
    if (migrations_in_a_row(survey) == SURVEY_MIGRATIONS &&
        ((rv = sql_int(store, "SELECT count(*) FROM " ROWS " WHERE " ROW_IS_LONG, 0,
                       &survey->unserved)) != 0 ||
         (rv = sql_int(store, "SELECT count(*) FROM " ROWS " WHERE " SCHEMA_ROW_UNREADABLE, 0,
                       &survey->unreadable)) != 0))
        return rv;
    rv = offline_unconfirmed(store, count_one, &survey->unconfirmed);
    if (rv || survey->kind != SURVEY_TASKMILL)
        return rv;
    if ((rv = sql_int(store, "SELECT count(*) FROM taskmill_outbox", 0, &survey->outbox)) != 0 ||
        (rv = sql_int(store, "SELECT count(*) FROM taskmill_done", 0, &survey->done)) != 0)
        return rv;
    return log_topics(store, survey);
}

static void judge(struct survey *survey)
{
    if (survey->bad)
        finding(survey, false, "",
                "%lld rows without a namespace or with an unknown status: a broker parks them and "
                "tells the dead-letter topic",
                (long long)survey->bad);
    if (survey->unserved)
        finding(survey, true, "delete them, or shorten the names",
                "%lld rows have an id or a name over " NAME_LEN_MAX " bytes and are never served",
                (long long)survey->unserved);
    if (survey->unreadable)
        finding(survey, false, "",
                "%lld rows have numbers that the original could not read; give-back corrects them",
                (long long)survey->unreadable);
}

void offline_survey(struct store *store, struct survey *out)
{
    *out = (struct survey){0};
    store->doing = "check the file";
    int rv = integrity(store, out);

    store->doing = "read the file";
    if (!rv && (rv = file_facts(store, out)) == 0 && (rv = schema(store, out)) == 0 &&
        (out->kind == SURVEY_ORIGINAL || out->kind == SURVEY_TASKMILL) &&
        migrations_in_a_row(out) > 0 && survey_sound(out))
        rv = content(store, out);
    store->doing = NULL;
    if (rv)
        finding(out, true, RESTORE, "%s", store->failed ? store->why.s : err_string(rv));
    judge(out);
}

bool survey_sound(const struct survey *survey)
{
    for (size_t i = 0; i < survey->finding_count; i++)
        if (survey->findings[i].problem)
            return false;
    return true;
}

void survey_free(struct survey *survey)
{
    for (size_t i = 0; i < survey->finding_count; i++) {
        mem_free(survey->findings[i].what);
        mem_free(survey->findings[i].remedy);
    }
    for (size_t i = 0; i < survey->topic_count; i++)
        mem_free(survey->topics[i].name);
    mem_free(survey->findings);
    mem_free(survey->topics);
    *survey = (struct survey){0};
}

/* --- lists ----------------------------------------------------------------------------------- */

static int list(struct store *store, const char *sql, offline_row_fn each, void *ctx)
{
    sqlite3_stmt *stmt;
    bool more;
    int rv = sql_prepare(store, sql, &stmt);

    while (!rv && (rv = sql_next(store, stmt, "list rows", &more)) == 0 && more) {
        const struct offline_row row = {.id = column_bytes(stmt, 0),
                                        .status = column_bytes(stmt, 1),
                                        .partition = column_int(stmt, 2),
                                        .offset = column_int(stmt, 3),
                                        .cluster = column_bytes(stmt, 4),
                                        .topic = column_bytes(stmt, 5),
                                        .reason = column_bytes(stmt, 6)};
        each(ctx, &row);
    }
    sqlite3_finalize(stmt);
    return rv;
}

static int has_own_columns(struct store *store, bool *out)
{
    struct schema_found found;
    int rv = schema_look(store, &found);

    *out = found.meta;
    return rv;
}

#define WAITING "at_most_once AND status IN ('Pending', 'Delay', 'Claimed')"

int offline_unconfirmed(struct store *store, offline_row_fn each, void *ctx)
{
    bool own;
    int rv = has_own_columns(store, &own);

    if (rv)
        return rv;
    if (!own)
        return list(store,
                    "SELECT id, status, partition, offset, '', '', 'stored by the original' "
                    "FROM " ROWS " WHERE " WAITING " ORDER BY rowid",
                    each, ctx);
    /* Rows of the embedded log are confirmed from the start: nobody else reads it. */
    return list(store,
                "SELECT r.id, r.status, r.partition, r.offset, coalesce(s.cluster, ''), "
                "coalesce(s.topic, ''), iif(s.source IS NULL, 'stored by the original', "
                "'its offset is not confirmed') FROM " ROWS " AS r "
                "LEFT JOIN taskmill_sources AS s ON s.source = r.taskmill_source "
                "LEFT JOIN taskmill_confirmed AS c ON c.source = s.source AND c.partition = "
                "r.partition WHERE r." WAITING " AND r.offset >= coalesce(c.next_offset, "
                "-9223372036854775808) AND NOT (coalesce(s.cluster, '') = 'embedded' AND EXISTS "
                "(SELECT 1 FROM taskmill_log_topics AS t WHERE t.name = s.topic)) ORDER BY r.rowid",
                each, ctx);
}

int offline_bad_rows(struct store *store, offline_row_fn each, void *ctx)
{
    bool own;
    int64_t migrated;
    int rv = has_own_columns(store, &own);

    if (rv || (rv = sql_int(store,
                            "SELECT count(*) FROM pragma_table_info('" ROWS "') WHERE name IN "
                            "('taskname', 'application')",
                            0, &migrated)) != 0)
        return rv;
    return list(
        store,
        migrated == 2
            ? "SELECT id, status, partition, offset, '', '', CASE WHEN namespace IS NULL "
              "THEN 'no namespace' WHEN status NOT IN " STATUS_LIST " THEN 'unknown status' "
              "ELSE 'an id or a name over " NAME_LEN_MAX " bytes' END FROM " ROWS
              " WHERE " ROW_IS_BAD " OR " ROW_IS_LONG " ORDER BY rowid"
            : "SELECT id, status, partition, offset, '', '', iif(namespace IS NULL, "
              "'no namespace', 'unknown status') FROM " ROWS " WHERE " ROW_IS_BAD " ORDER BY rowid",
        each, ctx);
}
