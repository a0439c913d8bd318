/* SPDX-License-Identifier: Apache-2.0 */
/* INV-15: files of the original open, load, and can be given back; ours look like its own. */
#include "original.h"

#include <jansson.h>

/* Closes the store of the fixture and puts a file of the original in its place. */
static void use_original(struct fixture *f, const char *name)
{
    store_close(f->store);
    f->store = NULL;
    original_copy(name, f->path);
}

static void assert_optional(json_t *row, const char *key, int64_t actual)
{
    json_t *value = json_object_get(row, key);

    if (json_is_null(value))
        assert_int_equal(actual, STORE_NULL);
    else
        assert_int_equal(actual, json_integer_value(value));
}

static void assert_text(json_t *row, const char *key, struct bytes actual)
{
    assert_true(bytes_equal_str(actual, json_string_value(json_object_get(row, key))));
}

static void assert_row(json_t *expected, const struct store_row *row)
{
    static const char *const names[] = {"Pending", "Delay",   "Claimed", "Processing",
                                        "Retry",   "Failure", "Complete"};

    assert_text(expected, "id", row->id);
    assert_text(expected, "status", bytes_str(names[row->status]));
    assert_true(row->has_namespace);
    assert_text(expected, "namespace", row->namespace);
    assert_text(expected, "application", row->application);
    assert_optional(expected, "processing_attempts", row->processing_attempts);
    assert_optional(expected, "expires_at", row->expires_at_s);
    assert_optional(expected, "delay_until", row->delay_until_s);
    assert_optional(expected, "processing_deadline", row->processing_deadline_s);
    assert_optional(expected, "at_most_once", row->at_most_once);
    assert_optional(expected, "on_attempts_exceeded", row->on_attempts_exceeded);
    assert_optional(expected, "bucket", row->bucket);
    assert_int_equal(row->source, STORE_NULL);
    assert_int_equal(row->due_ms, STORE_NULL);
    assert_true(row->activation_len > 0);
}

static void assert_expected_rows(struct store *store)
{
    struct fixture_rows all;
    json_t *expected = json_load_file(original_path("rows.json"), 0, NULL);

    fixture_load(store, &all);
    assert_int_equal(all.count, json_array_size(expected));
    for (size_t i = 0; i < all.count; i++)
        assert_row(json_array_get(expected, i), &all.rows[i]);
    json_decref(expected);
    fixture_rows_free(&all);
}

/* What the original's library wants to see before it uses a file. */
static void assert_is_the_originals(const char *path)
{
    assert_int_equal(fixture_foreign_int(path,
                                         "SELECT count(*) FROM _sqlx_migrations WHERE success "
                                         "AND length(checksum) = 48 AND version BETWEEN 1 "
                                         "AND 6"),
                     6);
    assert_int_equal(
        fixture_foreign_int(path, "SELECT count(*) FROM _sqlx_migrations WHERE version = 6 AND "
                                  "description = 'add claim expires at' AND hex(checksum) LIKE "
                                  "'54C2F44F%592A25' AND typeof(installed_on) = 'text'"),
        1);
    /* Its 19 columns come first and in order. */
    assert_int_equal(
        fixture_foreign_int(path, "SELECT group_concat(name) = 'id,activation,partition,offset,"
                                  "added_at,processing_attempts,expires_at,"
                                  "processing_deadline_duration,processing_deadline,status,"
                                  "at_most_once,namespace,delay_until,on_attempts_exceeded,"
                                  "received_at,taskname,application,bucket,claim_expires_at' "
                                  "FROM (SELECT name FROM pragma_table_info("
                                  "'inflight_taskactivations') WHERE cid < 19 ORDER BY cid)"),
        1);
    assert_int_equal(fixture_foreign_int(path, "SELECT count(*) FROM sqlite_schema WHERE name = "
                                               "'idx_pending_activation'"),
                     1);
    /* It never names our columns: a row must be complete without them. */
    assert_int_equal(fixture_foreign_int(path, "SELECT count(*) FROM pragma_table_info("
                                               "'inflight_taskactivations') WHERE cid >= 19 AND "
                                               "\"notnull\""),
                     0);
}

static void clean_file_of_the_original_opens(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    use_original(f, "clean.sqlite");
    f->store = fixture_open_path(f->path);
    assert_true(store_adopted(f->store));
    assert_expected_rows(f->store);
    assert_int_equal(store_integrity_check(f->store), 0);
    fixture_reopen(f);
    assert_false(store_adopted(f->store));
    assert_expected_rows(f->store);
    store_close(f->store);
    f->store = NULL;
    assert_is_the_originals(f->path);
}

static void file_with_a_hot_wal_opens(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    use_original(f, "hot/hot.sqlite");
    f->store = fixture_open_path(f->path);
    assert_true(store_adopted(f->store));
    assert_expected_rows(f->store);
    assert_int_equal(store_integrity_check(f->store), 0);
}

static void new_file_looks_like_the_originals(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    assert_false(store_adopted(f->store));
    assert_int_equal(fixture_foreign_int(f->path, "PRAGMA auto_vacuum"), 2);
    assert_int_equal(fixture_foreign_int(f->path, "PRAGMA page_size"), 4096);
    assert_int_equal(fixture_foreign_int(f->path, "SELECT count(*) FROM sqlite_schema WHERE name = "
                                                  "'idx_pending_activation'"),
                     0);
    store_close(f->store);
    f->store = NULL;
    assert_is_the_originals(f->path);
    /* What the original writes next. */
    assert_int_equal(fixture_foreign_sql(f->path, "INSERT INTO inflight_taskactivations (id, "
                                                  "activation, partition, offset, added_at, "
                                                  "processing_attempts, "
                                                  "processing_deadline_duration, status) VALUES "
                                                  "('x', x'00', 0, 0, 1, 0, 30, 'Pending')"),
                     SQLITE_OK);
    f->store = fixture_open_path(f->path);
    assert_int_equal(store_next_rowid(f->store), 2);
}

static void files_of_older_releases_are_brought_up(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    for (int migrations = 0; migrations <= 6; migrations++) {
        use_original(f, "clean.sqlite");
        original_older(f->path, migrations);
        f->store = fixture_open_path(f->path);
        assert_true(store_adopted(f->store));
        assert_int_equal(store_next_rowid(f->store), migrations ? 24 : 1);
        store_close(f->store);
        f->store = NULL;
        assert_is_the_originals(f->path);
        assert_int_equal(fixture_foreign_int(f->path,
                                             "SELECT count(*) FROM inflight_taskactivations WHERE "
                                             "bucket IS NOT NULL AND application IS NOT NULL"),
                         migrations ? 23 : 0);
    }
}

static void assert_refused(struct fixture *f, int code, const char *text)
{
    struct err_text why = {""};
    const struct store_options options = {.path = f->path, .lock_wait_ms = 1};

    assert_int_equal(store_open(&f->store, &options, &why), code);
    f->store = NULL;
    assert_non_null(strstr(why.s, f->path));
    if (!strstr(why.s, text))
        fail_msg("\"%s\" does not say \"%s\"", why.s, text);
}

static void foreign_migrations_are_refused(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    use_original(f, "clean.sqlite");
    fixture_foreign_sql(f->path,
                        "INSERT INTO _sqlx_migrations VALUES (7, 'new', 'now', 1, x'00', 1)");
    assert_refused(f, ERR_UNSUPPORTED, "newer taskbroker");
    use_original(f, "clean.sqlite");
    fixture_foreign_sql(f->path, "UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 3");
    assert_refused(f, ERR_UNSUPPORTED, "migration 3");
    use_original(f, "clean.sqlite");
    fixture_foreign_sql(f->path, "UPDATE _sqlx_migrations SET success = 0 WHERE version = 6");
    assert_refused(f, ERR_CORRUPT, "half done");
    use_original(f, "clean.sqlite");
    fixture_foreign_sql(f->path, "DROP TABLE _sqlx_migrations");
    assert_refused(f, ERR_INVALID, "another program");
}

static int count_entry(void *ctx, const struct store_outbox *entry)
{
    assert_false(entry->has_cluster);
    assert_true(bytes_equal_str(entry->topic, "dlq"));
    ++*(int *)ctx;
    return 0;
}

/* As versions made it whose outbox had one cluster only. */
static void an_outbox_without_clusters_is_migrated(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    int entries = 0;

    store_close(f->store);
    f->store = NULL;
    fixture_foreign_sql(f->path,
                        "DROP TABLE taskmill_outbox; CREATE TABLE taskmill_outbox (entry INTEGER "
                        "PRIMARY KEY, topic TEXT NOT NULL, headers BLOB NOT NULL, payload BLOB NOT "
                        "NULL) STRICT; INSERT INTO taskmill_outbox VALUES (3, 'dlq', x'', x'01')");
    fixture_reopen(f);
    assert_int_equal(store_load_outbox(f->store, count_entry, &entries), 0);
    assert_int_equal(entries, 1);
    const struct store_outbox entry = {.entry = 4, .topic = bytes_str("long")};
    assert_int_equal(store_begin(f->store), 0);
    assert_int_equal(store_outbox_add(f->store, &entry), 0);
    assert_int_equal(store_commit(f->store), 0);
}

static void newer_format_of_ours_is_refused(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    store_close(f->store);
    fixture_foreign_sql(f->path, "UPDATE taskmill_meta SET value = 2 WHERE key = 'format'");
    assert_refused(f, ERR_UNSUPPORTED, "format 2");
    fixture_foreign_sql(f->path, "UPDATE taskmill_meta SET value = 1 WHERE key = 'format';"
                                 "UPDATE taskmill_meta SET value = 'xyz' WHERE key = 'store_id'");
    assert_refused(f, ERR_CORRUPT, "store_id");
}

static void store_id_is_made_once(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    char id[17];

    assert_int_equal(strlen(store_id(f->store)), 16);
    assert_int_equal(strspn(store_id(f->store), "0123456789abcdef"), 16);
    memcpy(id, store_id(f->store), sizeof id);
    fixture_reopen(f);
    assert_string_equal(store_id(f->store), id);
}

/* A foreign file is never refused for one row. */
static void bad_rows_are_delivered(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct fixture_rows all;

    use_original(f, "clean.sqlite");
    fixture_foreign_sql(f->path, "DELETE FROM inflight_taskactivations WHERE rowid > 3;"
                                 "UPDATE inflight_taskactivations SET namespace = NULL WHERE rowid "
                                 "= 1;"
                                 "UPDATE inflight_taskactivations SET status = 'pending' WHERE "
                                 "rowid = 2;"
                                 "UPDATE inflight_taskactivations SET status = '', id = '' WHERE "
                                 "rowid = 3");
    f->store = fixture_open_path(f->path);
    fixture_load(f->store, &all);
    assert_int_equal(all.count, 3);
    assert_false(all.rows[0].has_namespace);
    assert_int_equal(all.rows[0].status, STORE_PENDING);
    assert_true(all.rows[1].has_namespace);
    assert_int_equal(all.rows[1].status, STORE_STATUS_UNKNOWN);
    assert_int_equal(all.rows[2].status, STORE_STATUS_UNKNOWN);
    assert_int_equal(all.rows[2].id.len, 0);
    fixture_rows_free(&all);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(clean_file_of_the_original_opens),
        TEST(file_with_a_hot_wal_opens),
        TEST(new_file_looks_like_the_originals),
        TEST(files_of_older_releases_are_brought_up),
        TEST(foreign_migrations_are_refused),
        TEST(an_outbox_without_clusters_is_migrated),
        TEST(newer_format_of_ours_is_refused),
        TEST(store_id_is_made_once),
        TEST(bad_rows_are_delivered),
    };

    return cmocka_run_group_tests_name("store/schema", tests, NULL, NULL);
}
