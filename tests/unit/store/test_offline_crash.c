/* SPDX-License-Identifier: Apache-2.0 */
/*
 * INV-11, INV-15: a kill or a power cut at any write, sync or truncation of a migration or of a
 * give-back leaves a file that opens, is sound, holds the same rows, and can be migrated or given
 * back after all. Every event is tried, after a kill and after a power cut.
 */
#include "original.h"

#include "crash_vfs.h"
#include "store/offline.h"

#define PATH "crash.sqlite"

struct life {
    struct crash_vfs *vfs;
    struct buf rows, schema; /* as they must be: rows always, the schema after giving back */
    uint64_t images, events;
    char fault[600];
};

static const struct give_back_options yes = {.accept_unconfirmed = true};

static struct store_options options_for(const struct crash_vfs *vfs)
{
    return (struct store_options){.path = PATH, .vfs = crash_vfs_name(vfs), .no_lock = true};
}

static sqlite3 *open_plain(const char *path, const char *vfs)
{
    sqlite3 *db;

    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, vfs), SQLITE_OK);
    return db;
}

static void print_rows(sqlite3 *db, struct buf *out)
{
    original_query(db,
                   "SELECT id, hex(activation), partition, offset, added_at, processing_attempts, "
                   "expires_at, processing_deadline_duration, processing_deadline, status, "
                   "at_most_once, namespace FROM inflight_taskactivations ORDER BY rowid",
                   out);
}

static void fault(struct life *life, const char *what, const char *why)
{
    if (!life->fault[0])
        snprintf(life->fault, sizeof life->fault, "event %llu: %s: %.400s",
                 (unsigned long long)life->events, what, why);
}

static void compare(struct life *life, const char *what, struct buf *wanted, struct buf *got)
{
    if (!bytes_equal(buf_bytes(wanted), buf_bytes(got)))
        fault(life, what, buf_cstr(got));
}

static void assert_sound(struct life *life, struct crash_vfs *image)
{
    const struct store_options options = options_for(image);
    struct err_text why = {""};
    struct store *store;
    struct survey survey;

    if (offline_open(&store, &options, true, &why) != 0) {
        fault(life, "the image does not open", why.s);
        return;
    }
    offline_survey(store, &survey);
    if (!survey_sound(&survey))
        fault(life, "the image is not sound", survey.findings[0].what);
    survey_free(&survey);
    offline_close(store);
}

static void assert_migrates(struct life *life, struct crash_vfs *image)
{
    const struct store_options options = options_for(image);
    struct err_text why = {""};
    struct store *store;

    if (store_open(&store, &options, &why) != 0)
        fault(life, "the image does not migrate", why.s);
    else
        store_close(store);
}

static void assert_goes_back(struct life *life, struct crash_vfs *image)
{
    const struct store_options options = options_for(image);
    struct err_text why = {""};
    struct give_back result;
    struct store *store;

    if (offline_open(&store, &options, false, &why) != 0) {
        fault(life, "the image does not open to be given back", why.s);
        return;
    }
    if (offline_give_back(store, &yes, &result, &why) != 0)
        fault(life, "the image is not given back", why.s);
    offline_close(store);
}

static void check_image(struct life *life, enum crash_mode mode)
{
    struct crash_vfs *image = crash_vfs_image(life->vfs, mode, life->events * 2 + mode);
    struct buf rows = {0}, schema = {0};

    life->images++;
    assert_sound(life, image);
    if (life->events % 2)
        assert_migrates(life, image);
    assert_goes_back(life, image);
    if (!life->fault[0]) {
        sqlite3 *db = open_plain(PATH, crash_vfs_name(image));
        print_rows(db, &rows);
        original_schema(db, &schema);
        sqlite3_close(db);
        compare(life, "rows", &life->rows, &rows);
        compare(life, "schema", &life->schema, &schema);
    }
    buf_free(&rows);
    buf_free(&schema);
    crash_vfs_free(image);
}

static void on_event(void *ctx, enum crash_event event, const char *name)
{
    struct life *life = (struct life *)ctx;

    (void)event;
    (void)name;
    life->events++;
    if (life->fault[0])
        return;
    check_image(life, CRASH_KILL);
    check_image(life, CRASH_POWER);
}

static void put_file(struct crash_vfs *vfs, const char *path, const char *name)
{
    struct buf content = {0};
    uint8_t block[4096];
    size_t len;
    FILE *in = fopen(path, "rb");

    if (!in)
        return;
    while ((len = fread(block, 1, sizeof block, in)) > 0)
        buf_append(&content, block, len);
    fclose(in);
    crash_vfs_put(vfs, name, buf_bytes(&content));
    buf_free(&content);
}

/* A disk with the file at `path`, and what it must hold in the end. */
static void life_begin(struct life *life, const char *path)
{
    char wal[400];
    sqlite3 *db;

    *life = (struct life){.vfs = crash_vfs_new(1)};
    crash_vfs_seed_sqlite(1);
    snprintf(wal, sizeof wal, "%s-wal", path);
    put_file(life->vfs, path, PATH);
    put_file(life->vfs, wal, PATH "-wal");
    db = open_plain(path, NULL);
    print_rows(db, &life->rows);
    sqlite3_close(db);
    snprintf(wal, sizeof wal, "%s.ref", path);
    original_copy("clean.sqlite", wal);
    db = open_plain(wal, NULL);
    original_schema(db, &life->schema);
    sqlite3_close(db);
    unlink(wal);
}

static void life_end(struct life *life, uint64_t images_at_least)
{
    crash_vfs_set_hook(life->vfs, 0, NULL, NULL);
    crash_vfs_free(life->vfs);
    buf_free(&life->rows);
    buf_free(&life->schema);
    if (life->fault[0])
        fail_msg("%s", life->fault);
    assert_true(life->images >= images_at_least);
}

static void source_file(struct fixture *f, const char *name, int migrations)
{
    store_close(f->store);
    f->store = NULL;
    original_copy(name, f->path);
    if (migrations < 6)
        original_older(f->path, migrations);
}

static void a_crash_while_migrating(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    for (int migrations = 1; migrations <= 6; migrations++) {
        struct life life;
        source_file(f, "clean.sqlite", migrations);
        life_begin(&life, f->path);
        crash_vfs_set_hook(life.vfs, CRASH_ALL_EVENTS, on_event, &life);
        assert_migrates(&life, life.vfs);
        life_end(&life, 40);
    }
}

static void a_crash_while_giving_back(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    for (int migrations = 1; migrations <= 6; migrations += 5) {
        struct life life;
        source_file(f, "clean.sqlite", migrations);
        life_begin(&life, f->path);
        assert_migrates(&life, life.vfs);
        crash_vfs_set_hook(life.vfs, CRASH_ALL_EVENTS, on_event, &life);
        assert_goes_back(&life, life.vfs);
        life_end(&life, 40);
    }
}

static void a_crash_with_a_hot_wal(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct life life;

    source_file(f, "hot/hot.sqlite", 6);
    life_begin(&life, f->path);
    crash_vfs_set_hook(life.vfs, CRASH_ALL_EVENTS, on_event, &life);
    assert_migrates(&life, life.vfs);
    assert_goes_back(&life, life.vfs);
    life_end(&life, 80);
}

/* The disk fills up, or fails, at any write of a give-back: it says so, and nothing is lost. */
static void a_failing_disk_while_giving_back(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    bool completed = false;

    source_file(f, "clean.sqlite", 6);
    for (uint64_t nth = 1; !completed; nth++) {
        struct life life;
        struct err_text why = {""};
        struct give_back result;
        struct store *store;
        life_begin(&life, f->path);
        const struct store_options options = options_for(life.vfs);
        assert_migrates(&life, life.vfs);
        crash_vfs_fail(life.vfs, CRASH_OP_WRITE, nth, SQLITE_FULL, false);
        int rv = offline_open(&store, &options, false, &why);
        if (!rv) {
            rv = offline_give_back(store, &yes, &result, &why);
            offline_close(store);
        }
        completed = !crash_vfs_fault_hit(life.vfs);
        crash_vfs_fail(life.vfs, CRASH_OP_WRITE, 0, 0, false);
        if (completed)
            assert_int_equal(rv, 0);
        else if (rv) /* some of SQLite's writes may fail without harm */
            assert_non_null(strstr(why.s, PATH));
        life.events = nth;
        check_image(&life, CRASH_KILL);
        check_image(&life, CRASH_POWER);
        life_end(&life, 2);
    }
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_crash_while_migrating),
        TEST(a_crash_while_giving_back),
        TEST(a_crash_with_a_hot_wal),
        TEST(a_failing_disk_while_giving_back),
    };

    return cmocka_run_group_tests_name("store/offline_crash", tests, NULL, NULL);
}
