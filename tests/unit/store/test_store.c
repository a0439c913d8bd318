/* SPDX-License-Identifier: Apache-2.0 */
/* Opening, owning, transactions, other programs at the same file. */
#include "fixture.h"

#include <dirent.h>
#include <sys/stat.h>
#include <sys/wait.h>

static void insert(struct store *store, int64_t rowid, const char *id)
{
    struct store_row row = fixture_row(rowid, id);

    assert_int_equal(store_begin(store), 0);
    assert_int_equal(store_insert(store, &row), 0);
    assert_int_equal(store_commit(store), 0);
}

static void second_owner_is_told_the_pid(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct store *second = NULL;
    struct err_text why = {""};
    char link[320], pid[32];
    struct store_options options = {.path = f->path, .lock_wait_ms = 1};

    snprintf(pid, sizeof pid, "in use by pid %ld", (long)getpid());
    assert_int_equal(store_open(&second, &options, &why), ERR_BUSY);
    assert_non_null(strstr(why.s, pid));
    assert_non_null(strstr(why.s, f->path));
    /* Another name of the same file is no way around. */
    snprintf(link, sizeof link, "%s/link", f->folder);
    assert_int_equal(symlink(f->path, link), 0);
    options.path = link;
    assert_int_equal(store_open(&second, &options, &why), ERR_BUSY);
    unlink(link);
    /* The first one is none the worse. */
    insert(f->store, 1, "a");
}

/* A killed owner leaves its pid, but no lock. */
static void lock_ends_with_its_process(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    int status;

    store_close(f->store);
    f->store = NULL;
    pid_t child = fork();
    if (child == 0) {
        struct store *store;
        const struct store_options options = {.path = f->path, .lock_wait_ms = 1};
        int rv = store_open(&store, &options, NULL);
        if (!rv && (rv = store_begin(store)) == 0) {
            struct store_row row = fixture_row(1, "never committed");
            rv = store_insert(store, &row);
        }
        _exit(rv ? 1 : 0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    f->store = fixture_open_path(f->path);
    assert_int_equal(store_next_rowid(f->store), 1);
}

/* How many descriptors of this process lead to a file of that name, removed or not. */
static int opened_by(pid_t pid, const char *name)
{
    char folder[64], link[400], target[400];
    int found = 0;

    snprintf(folder, sizeof folder, "/proc/%ld/fd", (long)pid);
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    for (const struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        snprintf(link, sizeof link, "%s/%s", folder, entry->d_name);
        ssize_t len = readlink(link, target, sizeof target - 1);
        found += len > 0 && (size_t)len >= strlen(name) && memcmp(target, name, strlen(name)) == 0;
    }
    closedir(dir);
    return found;
}

static void wait_for_the_lock(const char *path, const char *name, int go)
{
    struct stat named, held;
    char byte;
    int fd;

    if (read(go, &byte, 1) != 1 || lock_take(path, 60000, &fd, NULL) != 0)
        _exit(2);
    if (stat(name, &named) != 0 || fstat(fd, &held) != 0)
        _exit(3);
    _exit(named.st_ino != held.st_ino);
}

/* Whoever waited for a lock file that was removed must not think that it owns the database. */
static void a_removed_lock_file_has_one_owner(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    char name[400];
    int fd, again, go[2], status;

    store_close(f->store);
    f->store = NULL;
    snprintf(name, sizeof name, "%s.lock", f->path);
    assert_int_equal(pipe(go), 0);
    pid_t child = fork();
    if (child == 0)
        wait_for_the_lock(f->path, name, go[0]);
    assert_int_equal(lock_take(f->path, 1, &fd, NULL), 0);
    assert_int_equal(write(go[1], "", 1), 1);
    while (opened_by(child, name) == 0)
        assert_int_equal(waitpid(child, &status, WNOHANG), 0);
    /* It waits for the old file. A new one is made and locked before the old one's lock ends. */
    assert_int_equal(unlink(name), 0);
    assert_int_equal(lock_take(f->path, 1, &again, NULL), 0);
    lock_release(fd);
    lock_release(again);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    close(go[0]);
    close(go[1]);
    f->store = fixture_open_path(f->path);
}

static void path_may_be_a_url(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    char url[400];

    store_close(f->store);
    snprintf(url, sizeof url, "sqlite:%s?mode=rwc", f->path);
    f->store = fixture_open_path(url);
    assert_string_equal(store_path(f->store), f->path);
}

static void a_folder_that_is_not_there_is_named(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    char path[400];
    struct err_text why = {""};
    struct store *store;
    struct store_options options = {.path = path, .lock_wait_ms = 1};

    snprintf(path, sizeof path, "%s/missing/db.sqlite", f->folder);
    assert_int_equal(store_open(&store, &options, &why), ERR_IO);
    assert_non_null(strstr(why.s, path));
    assert_non_null(strstr(why.s, "No such file"));
    options.no_lock = true;
    assert_int_equal(store_open(&store, &options, &why), ERR_IO);
    assert_non_null(strstr(why.s, path));
}

static void abandoned_transaction_is_gone(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct store_row row = fixture_row(2, "b");

    insert(f->store, 1, "a");
    assert_int_equal(store_begin(f->store), 0);
    assert_true(store_in_transaction(f->store));
    assert_int_equal(store_insert(f->store, &row), 0);
    store_abandon(f->store);
    f->store = fixture_open_path(f->path);
    assert_false(store_in_transaction(f->store));
    assert_int_equal(store_next_rowid(f->store), 2);
}

static void foreign_lock_is_busy_and_passes(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    sqlite3 *other;

    assert_int_equal(sqlite3_open(f->path, &other), SQLITE_OK);
    assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(store_begin(f->store), ERR_BUSY);
    assert_false(store_in_transaction(f->store));
    assert_string_equal(store_why(f->store), "");
    assert_int_equal(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(other);
    insert(f->store, 1, "a");
}

static void foreign_reader_harms_nothing(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    for (int64_t i = 1; i < 20; i++) {
        char id[8];
        snprintf(id, sizeof id, "%lld", (long long)i);
        insert(f->store, i, id);
        assert_int_equal(
            fixture_foreign_int(f->path, "SELECT count(*) FROM inflight_taskactivations"), i);
        assert_int_equal(store_maintain(f->store, 5), 0);
    }
}

static void foreign_write_fails_the_next_transaction(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    insert(f->store, 1, "a");
    assert_int_equal(fixture_foreign_sql(f->path, "DELETE FROM inflight_taskactivations"),
                     SQLITE_OK);
    assert_int_equal(store_begin(f->store), ERR_STATE);
    assert_non_null(strstr(store_why(f->store), "another program has written"));
    assert_int_equal(store_begin(f->store), ERR_CLOSED);
}

static void foreign_write_is_found_by_maintenance(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    insert(f->store, 1, "a");
    assert_int_equal(store_maintain(f->store, 5), 0);
    assert_int_equal(fixture_foreign_sql(f->path, "DELETE FROM inflight_taskactivations"),
                     SQLITE_OK);
    assert_int_equal(store_maintain(f->store, 5), ERR_STATE);
}

/* With an outside reader in the way of the checkpoint, opening must still make durable what it
 * read. */
static void open_beside_a_reader_works(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    sqlite3 *reader;

    insert(f->store, 1, "a");
    assert_int_equal(sqlite3_open(f->path, &reader), SQLITE_OK);
    assert_int_equal(sqlite3_exec(reader, "BEGIN; SELECT count(*) FROM inflight_taskactivations",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
    insert(f->store, 2, "b");
    store_abandon(f->store);
    f->store = fixture_open_path(f->path);
    assert_int_equal(store_next_rowid(f->store), 3);
    assert_int_equal(
        fixture_foreign_int(f->path, "SELECT value FROM taskmill_meta WHERE key = 'synced'"), 1);
    assert_int_equal(sqlite3_exec(reader, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(reader);
}

static void normal_synchronous_is_only_for_running(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct err_text why = {""};
    const struct store_options options = {
        .path = f->path, .lock_wait_ms = 1, .synchronous_normal = true};

    store_close(f->store);
    assert_int_equal(store_open(&f->store, &options, &why), 0);
    insert(f->store, 1, "a");
    fixture_reopen(f);
    assert_int_equal(store_next_rowid(f->store), 2);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(second_owner_is_told_the_pid),
        TEST(lock_ends_with_its_process),
        TEST(a_removed_lock_file_has_one_owner),
        TEST(path_may_be_a_url),
        TEST(a_folder_that_is_not_there_is_named),
        TEST(abandoned_transaction_is_gone),
        TEST(foreign_lock_is_busy_and_passes),
        TEST(foreign_reader_harms_nothing),
        TEST(foreign_write_fails_the_next_transaction),
        TEST(foreign_write_is_found_by_maintenance),
        TEST(open_beside_a_reader_works),
        TEST(normal_synchronous_is_only_for_running),
    };

    return cmocka_run_group_tests_name("store/store", tests, NULL, NULL);
}
