/* SPDX-License-Identifier: Apache-2.0 */
/* INV-15: a stopped broker's file is looked at without a change and given back whole. */
#include "original.h"

#include <sys/wait.h>

#include "store/offline.h"

static void close_store(struct fixture *f)
{
    store_close(f->store);
    f->store = NULL;
}

static void use_original(struct fixture *f, const char *name)
{
    close_store(f);
    original_copy(name, f->path);
}

static struct store *open_offline(struct fixture *f, bool read_only)
{
    const struct store_options options = {.path = f->path};
    struct err_text why = {""};
    struct store *store;

    if (offline_open(&store, &options, read_only, &why) != 0)
        fail_msg("%s", why.s);
    return store;
}

static void survey(struct fixture *f, struct survey *out)
{
    struct store *store = open_offline(f, true);

    offline_survey(store, out);
    offline_close(store);
}

static void assert_problem(struct fixture *f, const char *text)
{
    struct survey all;
    bool found = false;

    survey(f, &all);
    assert_false(survey_sound(&all));
    for (size_t i = 0; i < all.finding_count; i++) {
        found |= strstr(all.findings[i].what, text) && *all.findings[i].remedy;
        if (!found && i + 1 == all.finding_count)
            fail_msg("\"%s\" is not \"%s\"", all.findings[i].what, text);
    }
    assert_true(found);
    survey_free(&all);
}

static int give_back(struct fixture *f, const struct give_back_options *options,
                     struct give_back *result, struct err_text *why)
{
    static const struct give_back_options none = {0};
    struct store *store = open_offline(f, false);
    int rv = offline_give_back(store, options ? options : &none, result, why);

    offline_close(store);
    return rv;
}

static void assert_given_back(struct fixture *f, const struct give_back_options *options,
                              struct give_back *result)
{
    struct err_text why = {""};

    if (give_back(f, options, result, &why) != 0)
        fail_msg("%s", why.s);
}

static void assert_refused(struct fixture *f, const char *text)
{
    struct give_back result;
    struct err_text why = {""};

    assert_int_equal(give_back(f, NULL, &result, &why), ERR_STATE);
    if (!strstr(why.s, text))
        fail_msg("\"%s\" does not say \"%s\"", why.s, text);
}

static bool exists(const struct fixture *f, const char *ending)
{
    char name[400];

    snprintf(name, sizeof name, "%s%s", f->path, ending);
    return access(name, F_OK) == 0;
}

static void read_whole(const struct fixture *f, const char *ending, struct buf *out)
{
    char name[400], block[4096];
    size_t len;

    snprintf(name, sizeof name, "%s%s", f->path, ending);
    FILE *in = fopen(name, "rb");
    buf_clear(out);
    if (!in)
        return;
    while ((len = fread(block, 1, sizeof block, in)) > 0)
        buf_append(out, block, len);
    fclose(in);
}

/* The columns of the original, in order of arrival. */
static void print_rows(const char *path, struct buf *out)
{
    sqlite3 *db;

    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    original_query(db,
                   "SELECT rowid, id, hex(activation), partition, offset, added_at, "
                   "processing_attempts, expires_at, processing_deadline_duration, "
                   "processing_deadline, status, at_most_once, namespace FROM "
                   "inflight_taskactivations ORDER BY rowid",
                   out);
    sqlite3_close(db);
}

static void print_schema(const char *path, struct buf *out)
{
    sqlite3 *db;

    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    original_schema(db, out);
    sqlite3_close(db);
}

/* Compared with a file that the original wrote. */
static void assert_is_the_originals(const struct fixture *f)
{
    struct fixture other = *f;
    struct buf here = {0}, there = {0};

    assert_false(exists(f, "-wal"));
    assert_false(exists(f, "-shm"));
    assert_false(exists(f, ".lock"));
    snprintf(other.path, sizeof other.path, "%s/original.sqlite", f->folder);
    original_copy("clean.sqlite", other.path);
    print_schema(f->path, &here);
    print_schema(other.path, &there);
    assert_string_equal(buf_cstr(&here), buf_cstr(&there));
    assert_int_equal(unlink(other.path), 0);
    buf_free(&here);
    buf_free(&there);
}

/* --- looking --------------------------------------------------------------------------------- */

static void looking_changes_nothing(void **state)
{
    static const char *const names[] = {"clean.sqlite", "hot/hot.sqlite"};
    struct fixture *f = (struct fixture *)*state;
    struct buf file = {0}, wal = {0}, file_after = {0}, wal_after = {0};

    for (int i = 0; i < 2; i++) {
        struct survey all;
        use_original(f, names[i]);
        unlink(f->path); /* with the lock file of the fixture's own store */
        original_copy(names[i], f->path);
        char lock[400];
        snprintf(lock, sizeof lock, "%s.lock", f->path);
        unlink(lock);
        read_whole(f, "", &file);
        read_whole(f, "-wal", &wal);
        survey(f, &all);
        assert_true(survey_sound(&all));
        assert_int_equal(all.kind, SURVEY_ORIGINAL);
        assert_int_equal(all.rows[STORE_PENDING], 15);
        assert_int_equal(all.rows[STORE_PROCESSING], 2);
        assert_int_equal(all.unconfirmed, 1);
        assert_int_equal(all.page_size, 4096);
        assert_true(all.index);
        survey_free(&all);
        read_whole(f, "", &file_after);
        read_whole(f, "-wal", &wal_after);
        assert_true(bytes_equal(buf_bytes(&file), buf_bytes(&file_after)));
        assert_true(bytes_equal(buf_bytes(&wal), buf_bytes(&wal_after)));
        assert_false(exists(f, ".lock"));
        assert_true(exists(f, "-wal") == (i == 1));
    }
    buf_free(&file);
    buf_free(&wal);
    buf_free(&file_after);
    buf_free(&wal_after);
}

static void every_release_is_recognised(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    for (int migrations = 0; migrations <= 6; migrations++) {
        struct survey all;
        use_original(f, "clean.sqlite");
        original_older(f->path, migrations);
        survey(f, &all);
        assert_true(survey_sound(&all));
        for (int i = 0; i < 6; i++)
            assert_int_equal(all.migrations[i], i < migrations ? SURVEY_APPLIED : SURVEY_MISSING);
        assert_int_equal(all.rows[STORE_PENDING], migrations ? 15 : 0);
        survey_free(&all);
    }
}

static void our_own_file_is_sound(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct survey all;

    assert_int_equal(store_begin(f->store), 0);
    struct store_row row = fixture_row(1, "a");
    assert_int_equal(store_insert(f->store, &row), 0);
    assert_int_equal(store_commit(f->store), 0);
    close_store(f);
    survey(f, &all);
    assert_true(survey_sound(&all));
    assert_int_equal(all.kind, SURVEY_TASKMILL);
    assert_int_equal(all.format, 1);
    assert_int_equal(strlen(all.store_id), 16);
    assert_int_equal(all.auto_vacuum, 2);
    assert_int_equal(all.rows[STORE_PENDING], 1);
    survey_free(&all);
}

static void empty_and_foreign_files_are_told_apart(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct survey all;

    close_store(f);
    assert_int_equal(truncate(f->path, 0), 0);
    survey(f, &all);
    assert_int_equal(all.kind, SURVEY_EMPTY);
    assert_true(survey_sound(&all));
    survey_free(&all);
    assert_refused(f, "no table");
    fixture_foreign_sql(f->path, "CREATE TABLE photos (id)");
    assert_problem(f, "another program");
    FILE *file = fopen(f->path, "wb");
    assert_non_null(file);
    for (int i = 0; i < 1000; i++)
        fputs("not a database, ", file);
    fclose(file);
    assert_problem(f, "not a database");
}

static void damage_is_told(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    static const char *const sql[][2] = {
        {"INSERT INTO _sqlx_migrations VALUES (7, 'new', 'now', 1, x'00', 1)", "newer taskbroker"},
        {"UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 3", "migration 3"},
        {"UPDATE _sqlx_migrations SET success = 0 WHERE version = 6", "half done"},
        {"DROP TABLE _sqlx_migrations", "another program"},
        {"ALTER TABLE inflight_taskactivations RENAME COLUMN bucket TO pail", "pail"},
        {"ALTER TABLE inflight_taskactivations DROP COLUMN bucket", "claim_expires_at stands"},
        {"ALTER TABLE inflight_taskactivations DROP COLUMN claim_expires_at", "is missing"},
        {"ALTER TABLE inflight_taskactivations ADD COLUMN colour TEXT", "colour is not known"},
        {"DROP INDEX idx_pending_activation; CREATE INDEX idx_pending_activation ON "
         "inflight_taskactivations (id)",
         "other columns"},
        {"UPDATE inflight_taskactivations SET id = hex(zeroblob(40000)) WHERE rowid = 1",
         "never served"},
    };
    static const char *const ours[][2] = {
        {"UPDATE taskmill_meta SET value = 2 WHERE key = 'format'", "format 2"},
        {"DELETE FROM taskmill_meta WHERE key = 'store_id'", "store_id"},
        {"DROP TABLE taskmill_done", "taskmill_done"},
        {"ALTER TABLE inflight_taskactivations DROP COLUMN taskmill_times", "taskmill_times"},
    };

    for (size_t i = 0; i < sizeof sql / sizeof *sql; i++) {
        use_original(f, "clean.sqlite");
        assert_int_equal(fixture_foreign_sql(f->path, sql[i][0]), SQLITE_OK);
        assert_problem(f, sql[i][1]);
    }
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) {
        use_original(f, "clean.sqlite");
        f->store = fixture_open_path(f->path);
        close_store(f);
        assert_int_equal(fixture_foreign_sql(f->path, ours[i][0]), SQLITE_OK);
        assert_problem(f, ours[i][1]);
    }
}

static void torn_pages_are_told(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    static const char zeros[2000];

    use_original(f, "clean.sqlite");
    for (long page = 3; page <= 8; page++) {
        FILE *file = fopen(f->path, "r+b");
        assert_non_null(file);
        assert_int_equal(fseek(file, page * 4096 + 100, SEEK_SET), 0);
        assert_int_equal(fwrite(zeros, 1, sizeof zeros, file), sizeof zeros);
        fclose(file);
    }
    assert_problem(f, "damaged");
}

static void on_row(void *ctx, const struct offline_row *row)
{
    buf_printf((struct buf *)ctx, "%.*s %.*s %.*s/%.*s %lld %lld: %.*s\n", BYTES_FMT_ARG(row->id),
               BYTES_FMT_ARG(row->status), BYTES_FMT_ARG(row->cluster), BYTES_FMT_ARG(row->topic),
               (long long)row->partition, (long long)row->offset, BYTES_FMT_ARG(row->reason));
}

static void insert_at_most_once(struct store *store, int64_t rowid, const char *id, int64_t source,
                                enum store_status status)
{
    struct store_row row = fixture_row(rowid, id);

    row.at_most_once = true;
    row.source = source;
    row.status = status;
    assert_int_equal(store_insert(store, &row), 0);
}

static int64_t add_source(struct store *store, const char *cluster, const char *topic)
{
    const struct store_source source = {
        .cluster = bytes_str(cluster), .topic = bytes_str(topic), .group = bytes_str("g")};
    int64_t number;

    assert_int_equal(store_add_source(store, &source, &number), 0);
    return number;
}

static void fill_at_most_once(struct store *store)
{
    int64_t kafka = add_source(store, "main", "orders"), log = add_source(store, "embedded", "e");

    assert_int_equal(store_begin(store), 0);
    insert_at_most_once(store, 1, "confirmed", kafka, STORE_PENDING); /* offset 1000 + rowid */
    insert_at_most_once(store, 2, "not yet", kafka, STORE_PENDING);
    insert_at_most_once(store, 3, "delayed", kafka, STORE_DELAY);
    insert_at_most_once(store, 4, "running", kafka, STORE_PROCESSING);
    insert_at_most_once(store, 5, "embedded", log, STORE_PENDING);
    insert_at_most_once(store, 6, "theirs", STORE_NULL, STORE_PENDING);
    const struct store_confirmed confirmed = {.source = kafka, .partition = 3, .next_offset = 1002};
    assert_int_equal(store_set_confirmed(store, &confirmed), 0);
    assert_int_equal(store_log_append(store, "e", 0, bytes_str("x"), NULL, 0), 0);
    assert_int_equal(store_log_trim(store, "e", 1), 0);
    assert_int_equal(store_commit(store), 0);
}

static void unconfirmed_rows_are_listed(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct buf text = {0};

    fill_at_most_once(f->store);
    close_store(f);
    struct store *store = open_offline(f, true);
    assert_int_equal(offline_unconfirmed(store, on_row, &text), 0);
    offline_close(store);
    assert_string_equal(buf_cstr(&text),
                        "not yet Pending main/orders 3 1002: its offset is not confirmed\n"
                        "delayed Delay main/orders 3 1003: its offset is not confirmed\n"
                        "theirs Pending / 3 1006: stored by the original\n");
    buf_free(&text);
}

static void bad_rows_are_listed_with_reasons(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct buf text = {0};
    struct survey all;

    use_original(f, "clean.sqlite");
    fixture_foreign_sql(
        f->path, "UPDATE inflight_taskactivations SET id = 'a', namespace = NULL WHERE rowid = 1;"
                 "UPDATE inflight_taskactivations SET id = 'b', status = 'Asleep' WHERE rowid = 2");
    survey(f, &all);
    assert_true(survey_sound(&all)); /* a broker serves the file, and tells about these two */
    assert_int_equal(all.bad, 2);
    assert_int_equal(all.rows[STORE_STATUS_UNKNOWN], 1);
    survey_free(&all);
    struct store *store = open_offline(f, true);
    assert_int_equal(offline_bad_rows(store, on_row, &text), 0);
    offline_close(store);
    assert_non_null(strstr(buf_cstr(&text), ": no namespace\n"));
    assert_non_null(strstr(buf_cstr(&text), "b Asleep "));
    assert_non_null(strstr(buf_cstr(&text), ": unknown status\n"));
    buf_free(&text);
}

/* --- locks ----------------------------------------------------------------------------------- */

static void assert_busy(struct fixture *f, bool read_only, long pid)
{
    const struct store_options options = {.path = f->path};
    struct err_text why = {""};
    struct store *store;
    char text[40];

    assert_int_equal(offline_open(&store, &options, read_only, &why), ERR_BUSY);
    snprintf(text, sizeof text, "pid %ld", pid);
    if (!strstr(why.s, text))
        fail_msg("\"%s\" does not say \"%s\"", why.s, text);
}

static void a_running_broker_keeps_it(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    assert_busy(f, true, (long)getpid());
    assert_busy(f, false, (long)getpid());
}

/* The original takes no lock of ours; SQLite's shows it. */
static void another_program_keeps_it(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    int ready[2], done[2], status;
    char byte;

    use_original(f, "clean.sqlite");
    assert_int_equal(pipe(ready) | pipe(done), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        sqlite3 *db;
        int rc = sqlite3_open(f->path, &db);
        if (rc == SQLITE_OK)
            rc =
                sqlite3_exec(db, "SELECT count(*) FROM inflight_taskactivations", NULL, NULL, NULL);
        close(done[1]);
        if (write(ready[1], "", 1) != 1 || read(done[0], &byte, 1) < 0)
            rc = 1;
        sqlite3_close(db);
        _exit(rc);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_busy(f, false, (long)pid);
    struct survey all;
    survey(f, &all); /* looking is possible */
    assert_true(survey_sound(&all));
    survey_free(&all);
    close(done[1]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    close(done[0]);
    close(ready[0]);
    close(ready[1]);
    struct give_back result;
    assert_given_back(f, NULL, &result);
}

static void a_missing_file_stays_missing(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct fixture other = *f;
    const struct store_options options = {.path = other.path};
    struct err_text why = {""};
    struct store *store;

    snprintf(other.path, sizeof other.path, "%s/typo.sqlite", f->folder);
    assert_int_equal(offline_open(&store, &options, false, &why), ERR_NOT_FOUND);
    assert_non_null(strstr(why.s, "typo.sqlite"));
    assert_false(exists(&other, ""));
    assert_false(exists(&other, ".lock"));
}

/* --- giving back ----------------------------------------------------------------------------- */

static void every_release_goes_there_and_back(void **state)
{
    static const struct give_back_options yes = {.accept_unconfirmed = true};
    struct fixture *f = (struct fixture *)*state;
    struct give_back result;

    for (int migrations = 0; migrations <= 6; migrations++) {
        struct buf before = {0}, after = {0};
        use_original(f, "clean.sqlite");
        original_older(f->path, migrations);
        if (migrations)
            print_rows(f->path, &before);
        f->store = fixture_open_path(f->path);
        close_store(f);
        assert_given_back(f, &yes, &result);
        assert_true(result.tables_removed);
        assert_int_equal(result.rows_to_deadletter + result.rows_corrected, 0);
        assert_is_the_originals(f);
        print_rows(f->path, &after);
        assert_string_equal(buf_cstr(&before), buf_cstr(&after));
        buf_free(&before);
        buf_free(&after);
        assert_given_back(f, NULL, &result); /* again: nothing to do, nothing to ask */
        assert_false(result.tables_removed || result.index_restored || result.migrations_applied);
        f->store = fixture_open_path(f->path); /* and forward again */
        assert_true(store_adopted(f->store));
    }
}

static void hot_and_unopened_files_are_given_back(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct give_back result;

    use_original(f, "hot/hot.sqlite");
    assert_given_back(f, NULL, &result);
    assert_false(result.tables_removed);
    assert_is_the_originals(f);
    assert_int_equal(fixture_foreign_int(f->path, "SELECT count(*) FROM inflight_taskactivations"),
                     ORIGINAL_ROWS);
    use_original(f, "clean.sqlite");
    original_older(f->path, 2);
    assert_given_back(f, NULL, &result);
    assert_int_equal(result.migrations_applied, 4);
    assert_is_the_originals(f);
}

/* As a killed broker leaves it: the index is gone, all is in the WAL. */
static void a_killed_brokers_file_is_given_back(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct give_back result;

    assert_int_equal(store_begin(f->store), 0);
    struct store_row row = fixture_row(1, "a");
    assert_int_equal(store_insert(f->store, &row), 0);
    assert_int_equal(store_commit(f->store), 0);
    store_abandon(f->store);
    f->store = NULL;
    assert_given_back(f, NULL, &result);
    assert_true(result.index_restored);
    assert_is_the_originals(f);
    assert_int_equal(fixture_foreign_int(f->path, "SELECT count(*) FROM inflight_taskactivations"),
                     1);
    assert_int_equal(fixture_foreign_int(f->path, "PRAGMA auto_vacuum"), 2);
}

static void undelivered_messages_forbid_it(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    const struct store_outbox entry = {
        .entry = 1, .topic = bytes_str("dlq"), .payload = bytes_str("x")};
    const char *const discard[] = {"left"};
    const struct give_back_options options = {.discard = discard, .discard_count = 1};
    struct give_back result;
    struct buf before = {0}, after = {0};

    assert_int_equal(store_begin(f->store), 0);
    assert_int_equal(store_outbox_add(f->store, &entry), 0);
    assert_int_equal(store_log_append(f->store, "left", 0, bytes_str("x"), NULL, 0), 0);
    assert_int_equal(store_commit(f->store), 0);
    close_store(f);
    print_schema(f->path, &before);
    assert_refused(f, "outbox holds 1 messages");
    print_schema(f->path, &after);
    assert_string_equal(buf_cstr(&before), buf_cstr(&after));
    f->store = fixture_open_path(f->path);
    assert_int_equal(store_begin(f->store), 0);
    assert_int_equal(store_outbox_delete(f->store, 1), 0);
    assert_int_equal(store_commit(f->store), 0);
    close_store(f);
    assert_refused(f, "topic left of the embedded log holds 1 records");
    assert_given_back(f, &options, &result);
    assert_is_the_originals(f);
    buf_free(&before);
    buf_free(&after);
}

static void unconfirmed_rows_need_a_yes(void **state)
{
    static const struct give_back_options yes = {.accept_unconfirmed = true};
    struct fixture *f = (struct fixture *)*state;
    struct give_back result;

    fill_at_most_once(f->store);
    close_store(f);
    assert_refused(f, "3 at-most-once rows");
    assert_given_back(f, &yes, &result);
    assert_is_the_originals(f);
}

static void what_the_original_cannot_read_is_mended(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct give_back result;

    use_original(f, "clean.sqlite");
    fixture_foreign_sql(
        f->path,
        "UPDATE inflight_taskactivations SET namespace = NULL WHERE rowid = 1;"
        "UPDATE inflight_taskactivations SET status = 'Asleep', on_attempts_exceeded = 0 WHERE "
        "rowid = 2;"
        "UPDATE inflight_taskactivations SET on_attempts_exceeded = 77 WHERE rowid = 3;"
        "UPDATE inflight_taskactivations SET processing_deadline_duration = 4294967296, "
        "expires_at = 9223372036854775807, delay_until = -9223372036854775807 WHERE rowid = 4;"
        "UPDATE inflight_taskactivations SET processing_attempts = -9999999999, bucket = 999 WHERE "
        "rowid = 5");
    assert_given_back(f, NULL, &result);
    assert_int_equal(result.rows_to_deadletter, 2);
    assert_int_equal(result.rows_corrected, 3);
    assert_is_the_originals(f);
    assert_int_equal(fixture_foreign_int(f->path,
                                         "SELECT count(*) FROM inflight_taskactivations WHERE "
                                         "rowid IN (1, 2) AND status = 'Failure' AND "
                                         "on_attempts_exceeded = 2 AND namespace IS NOT NULL"),
                     2);
    assert_int_equal(
        fixture_foreign_int(f->path, "SELECT count(*) FROM inflight_taskactivations WHERE "
                                     "(rowid = 3 AND on_attempts_exceeded = 2) OR (rowid = 4 AND "
                                     "processing_deadline_duration = 2147483647 AND expires_at = "
                                     "253402300799 AND delay_until = -62135596800) OR (rowid = 5 "
                                     "AND processing_attempts = -2147483648 AND bucket = 255)"),
        3);
    /* Times that are not set stay so. */
    assert_int_equal(fixture_foreign_int(f->path, "SELECT expires_at IS NULL FROM "
                                                  "inflight_taskactivations WHERE rowid = 5"),
                     1);
}

static void unsound_files_are_not_touched(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct buf before = {0}, after = {0};
    struct give_back result;
    struct err_text why = {""};

    use_original(f, "clean.sqlite");
    fixture_foreign_sql(f->path, "UPDATE _sqlx_migrations SET success = 0 WHERE version = 6");
    read_whole(f, "", &before);
    assert_int_equal(give_back(f, NULL, &result, &why), ERR_CORRUPT);
    assert_non_null(strstr(why.s, "half done"));
    read_whole(f, "", &after);
    assert_true(bytes_equal(buf_bytes(&before), buf_bytes(&after)));
    use_original(f, "clean.sqlite");
    fixture_foreign_sql(f->path, "CREATE TABLE theirs (id)");
    assert_int_equal(give_back(f, NULL, &result, &why), ERR_CORRUPT);
    assert_non_null(strstr(why.s, "another program"));
    assert_int_equal(fixture_foreign_int(f->path, "SELECT count(*) FROM theirs"), 0);
    buf_free(&before);
    buf_free(&after);
}

/* Spec 13: 31: a full VACUUM and a checkpoint for each insert stopped the original again and again.
 * Ours has the whole WAL to go before it copies it, in slices, and VACUUM only at an open. */
static void test_weakness_31_no_vacuum_and_no_checkpoint_in_between(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct store_size size;
    static uint8_t payload[4000];
    char id[24];

    for (int64_t i = 1; i <= 400; i++) {
        snprintf(id, sizeof id, "%lld", (long long)i);
        struct store_row row = fixture_row(i, id);
        row.activation = bytes_of(payload, sizeof payload);
        assert_int_equal(store_begin(f->store), 0);
        assert_int_equal(store_insert(f->store, &row), 0);
        assert_int_equal(store_commit(f->store), 0);
        assert_int_equal(store_maintain(f->store, 2), 0);
    }
    assert_int_equal(store_size(f->store, &size), 0);
    struct buf file = {0};
    read_whole(f, "", &file);
    /* 400 commits later the rows are still in the WAL alone, below its limit of 16 MiB. */
    assert_true(file.len < 200000);
    assert_true(size.wal_bytes > 400 * 4096 && size.wal_bytes < 17u << 20);
    for (int64_t i = 1; i <= 400; i++) {
        snprintf(id, sizeof id, "%lld", (long long)i);
        assert_int_equal(store_begin(f->store), 0);
        assert_int_equal(store_delete(f->store, i, bytes_str(id)), 0);
        assert_int_equal(store_commit(f->store), 0);
        assert_int_equal(store_maintain(f->store, 2), 0);
    }
    assert_false(store_opening(f->store)->vacuumed);
    buf_free(&file);
}

/* Spec 13: 32: the original bound all values of a batch to one statement and had a limit of 32,766:
 * 1,927 rows, or that many ids. */
static void test_weakness_32_batches_of_any_size(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    enum { ROW_COUNT = 40000 };
    char id[24];

    assert_int_equal(store_begin(f->store), 0);
    for (int64_t i = 1; i <= ROW_COUNT; i++) {
        snprintf(id, sizeof id, "%lld", (long long)i);
        struct store_row row = fixture_row(i, id);
        row.status = STORE_RETRY;
        assert_int_equal(store_insert(f->store, &row), 0);
    }
    assert_int_equal(store_commit(f->store), 0);
    assert_int_equal(fixture_foreign_int(f->path, "SELECT count(*) FROM inflight_taskactivations"),
                     ROW_COUNT);
    assert_int_equal(store_begin(f->store), 0);
    for (int64_t i = 1; i <= ROW_COUNT; i++) {
        snprintf(id, sizeof id, "%lld", (long long)i);
        assert_int_equal(store_delete(f->store, i, bytes_str(id)), 0);
    }
    assert_int_equal(store_commit(f->store), 0);
    assert_int_equal(fixture_foreign_int(f->path, "SELECT count(*) FROM inflight_taskactivations"),
                     0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(looking_changes_nothing),
        TEST(every_release_is_recognised),
        TEST(our_own_file_is_sound),
        TEST(empty_and_foreign_files_are_told_apart),
        TEST(damage_is_told),
        TEST(torn_pages_are_told),
        TEST(unconfirmed_rows_are_listed),
        TEST(bad_rows_are_listed_with_reasons),
        TEST(a_running_broker_keeps_it),
        TEST(another_program_keeps_it),
        TEST(a_missing_file_stays_missing),
        TEST(every_release_goes_there_and_back),
        TEST(hot_and_unopened_files_are_given_back),
        TEST(a_killed_brokers_file_is_given_back),
        TEST(undelivered_messages_forbid_it),
        TEST(unconfirmed_rows_need_a_yes),
        TEST(what_the_original_cannot_read_is_mended),
        TEST(unsound_files_are_not_touched),
        TEST(test_weakness_31_no_vacuum_and_no_checkpoint_in_between),
        TEST(test_weakness_32_batches_of_any_size),
    };

    return cmocka_run_group_tests_name("store/offline", tests, NULL, NULL);
}
