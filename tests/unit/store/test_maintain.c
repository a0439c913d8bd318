/* SPDX-License-Identifier: Apache-2.0 */
#include "fixture.h"

#define WAL_LIMIT (256 * 1024)

static int setup(void **state)
{
    fixture_setup(state);
    struct fixture *f = (struct fixture *)*state;
    const struct store_options options = {
        .path = f->path, .lock_wait_ms = 1, .wal_limit_bytes = WAL_LIMIT};

    store_close(f->store);
    assert_int_equal(store_open(&f->store, &options, NULL), 0);
    return 0;
}

static uint8_t big[20000];

static void insert_big(struct store *store, int64_t first, int64_t count)
{
    char id[24];

    assert_int_equal(store_begin(store), 0);
    for (int64_t i = first; i < first + count; i++) {
        snprintf(id, sizeof id, "%lld", (long long)i);
        struct store_row row = fixture_row(i, id);
        row.activation = bytes_of(big, sizeof big);
        assert_int_equal(store_insert(store, &row), 0);
    }
    assert_int_equal(store_commit(store), 0);
}

static void delete_big(struct store *store, int64_t first, int64_t count)
{
    char id[24];

    assert_int_equal(store_begin(store), 0);
    for (int64_t i = first; i < first + count; i++) {
        snprintf(id, sizeof id, "%lld", (long long)i);
        assert_int_equal(store_delete(store, i, bytes_str(id)), 0);
    }
    assert_int_equal(store_commit(store), 0);
}

static struct store_size size_of(struct store *store)
{
    struct store_size size;

    assert_int_equal(store_size(store, &size), 0);
    return size;
}

static void wal_stays_near_its_limit(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    for (int64_t i = 0; i < 40; i++) {
        insert_big(f->store, 1 + 5 * i, 5);
        assert_int_equal(store_maintain(f->store, 5), 0);
        assert_true(size_of(f->store).wal_bytes < 3 * WAL_LIMIT);
    }
    assert_true(size_of(f->store).file_bytes > 200 * sizeof big);
}

static void wal_that_grew_behind_a_reader_shrinks_after_it(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    sqlite3 *reader;

    insert_big(f->store, 1, 1);
    assert_int_equal(sqlite3_open(f->path, &reader), SQLITE_OK);
    assert_int_equal(sqlite3_exec(reader, "BEGIN; SELECT count(*) FROM inflight_taskactivations",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
    for (int64_t i = 0; i < 40; i++) {
        insert_big(f->store, 2 + 5 * i, 5);
        assert_int_equal(store_maintain(f->store, 5), 0);
    }
    assert_true(size_of(f->store).wal_bytes > 8 * WAL_LIMIT);
    assert_int_equal(sqlite3_exec(reader, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(reader);
    for (int64_t i = 0; i < 20; i++) {
        insert_big(f->store, 1000 + 5 * i, 5);
        assert_int_equal(store_maintain(f->store, 5), 0);
    }
    assert_true(size_of(f->store).wal_bytes < 3 * WAL_LIMIT);
}

static void free_pages_are_given_back_in_slices(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    for (int64_t i = 0; i < 40; i++)
        insert_big(f->store, 1 + 50 * i, 50);
    uint64_t full = size_of(f->store).file_bytes;
    for (int64_t i = 0; i < 40; i++)
        delete_big(f->store, 1 + 50 * i, 50);
    struct store_size before = size_of(f->store);
    assert_int_equal(before.file_bytes, full);
    assert_true(before.used_bytes < full / 50);
    assert_int_equal(store_maintain(f->store, 2), 0);
    struct store_size after = size_of(f->store);
    assert_true(after.file_bytes < before.file_bytes);
    /* Two milliseconds are no leave to move ten thousand pages. */
    assert_true(before.file_bytes - after.file_bytes <= 256 * 4096);
    for (int i = 0; i < 200; i++)
        assert_int_equal(store_maintain(f->store, 5), 0);
    after = size_of(f->store);
    assert_true(after.file_bytes < full / 4);
    assert_true(after.file_bytes >= 1024 * 4096); /* kept for the next burst */
    assert_int_equal(store_integrity_check(f->store), 0);
}

static void open_vacuums_a_file_that_is_mostly_free(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    insert_big(f->store, 1, 500);
    delete_big(f->store, 2, 498);
    uint64_t before = size_of(f->store).file_bytes;
    assert_true(before > 400 * sizeof big);
    fixture_reopen(f);
    assert_true(size_of(f->store).file_bytes < before / 20);
    /* Order and numbers of rows stay usable. */
    assert_true(store_next_rowid(f->store) <= 501);
    struct fixture_rows all;
    fixture_load(f->store, &all);
    assert_int_equal(all.count, 2);
    assert_true(bytes_equal_str(all.rows[0].id, "1"));
    assert_true(bytes_equal_str(all.rows[1].id, "500"));
    assert_true(all.rows[1].rowid < store_next_rowid(f->store));
    fixture_rows_free(&all);
    assert_int_equal(fixture_foreign_int(f->path, "PRAGMA auto_vacuum"), 2);
}

static void size_counts_used_pages(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct store_size before = size_of(f->store);

    insert_big(f->store, 1, 10);
    struct store_size full = size_of(f->store);
    assert_true(full.used_bytes >= before.used_bytes + 10 * sizeof big);
    assert_true(full.disk_free_bytes > 0 && full.disk_free_bytes < UINT64_MAX);
    delete_big(f->store, 1, 10);
    assert_true(size_of(f->store).used_bytes < before.used_bytes + 4 * 4096);
}

static void integrity_check_names_the_damage(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    char zeros[4096] = {0};

    insert_big(f->store, 1, 50);
    store_close(f->store);
    FILE *file = fopen(f->path, "r+b");
    assert_non_null(file);
    fseek(file, 60 * 4096, SEEK_SET); /* some page of a payload's chain */
    assert_int_equal(fwrite(zeros, 1, sizeof zeros, file), sizeof zeros);
    fclose(file);
    f->store = fixture_open_path(f->path);
    assert_int_equal(store_integrity_check(f->store), ERR_CORRUPT);
    assert_non_null(strstr(store_why(f->store), "tree"));
    assert_int_equal(store_begin(f->store), ERR_CLOSED);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(wal_stays_near_its_limit),
        TEST(wal_that_grew_behind_a_reader_shrinks_after_it),
        TEST(free_pages_are_given_back_in_slices),
        TEST(open_vacuums_a_file_that_is_mostly_free),
        TEST(size_counts_used_pages),
        TEST(integrity_check_names_the_damage),
    };

    for (size_t i = 0; i < sizeof big; i++)
        big[i] = (uint8_t)(i * 31 + 1);
    return cmocka_run_group_tests_name("store/maintain", tests, NULL, NULL);
}
