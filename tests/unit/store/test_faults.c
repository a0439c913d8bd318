/* SPDX-License-Identifier: Apache-2.0 */
/*
 * INV-12: whichever read, write, sync or truncation of the disk fails, the store says so, never
 * succeeds again, never syncs again (not even by closing), and the file still holds what was
 * acknowledged.
 */
#include "fixture.h"

#include "crash_model.h"
#include "crash_vfs.h"

#define PATH  "faults.sqlite"
#define STEPS 60

struct faulty {
    struct crash_vfs *vfs;
    struct store *store;
    struct model model;
    struct buf acked, committing;
};

static struct store_options options_for(const struct crash_vfs *vfs)
{
    return (struct store_options){.path = PATH,
                                  .vfs = crash_vfs_name(vfs),
                                  .no_lock = true,
                                  .wal_limit_bytes = 64 * 1024,
                                  .cache_kib = 64};
}

/* 0, or the first error; the texts tell what is promised and what was about to be. */
static int transaction(struct faulty *f)
{
    uint64_t writes = 1 + model_random(&f->model) % 8;
    int rv = store_begin(f->store);

    buf_clear(&f->committing);
    for (uint64_t i = 0; !rv && i < writes; i++)
        rv = model_write(&f->model, f->store);
    if (rv)
        return rv;
    model_print(&f->model, &f->committing);
    rv = store_commit(f->store);
    if (rv)
        return rv;
    buf_clear(&f->acked);
    buf_append(&f->acked, f->committing.ptr, f->committing.len);
    return 0;
}

/* Works until something fails or STEPS transactions are done. */
static int work(struct faulty *f, struct err_text *why)
{
    const struct store_options options = options_for(f->vfs);
    int rv = store_open(&f->store, &options, why);

    for (int i = 0; !rv && i < STEPS; i++) {
        rv = transaction(f);
        if (!rv && i % 4 == 3)
            rv = store_maintain(f->store, 1);
    }
    return rv;
}

static void assert_dead(struct faulty *f)
{
    uint64_t syncs = crash_vfs_op_count(f->vfs, CRASH_OP_SYNC);
    uint64_t writes = crash_vfs_op_count(f->vfs, CRASH_OP_WRITE);
    struct store_row row = fixture_row(1000000, "after the end");
    struct store_size size;

    assert_non_null(strstr(store_why(f->store), PATH));
    assert_int_equal(store_begin(f->store), ERR_CLOSED);
    assert_int_equal(store_insert(f->store, &row), ERR_CLOSED);
    assert_int_equal(store_commit(f->store), ERR_CLOSED);
    assert_int_equal(store_maintain(f->store, 5), ERR_CLOSED);
    assert_int_equal(store_size(f->store, &size), ERR_CLOSED);
    assert_int_equal(store_log_append(f->store, "log-a", 1 << 20, bytes_str(""), NULL, 0),
                     ERR_CLOSED);
    store_close(f->store);
    f->store = NULL;
    assert_int_equal(crash_vfs_op_count(f->vfs, CRASH_OP_SYNC), syncs);
    assert_int_equal(crash_vfs_op_count(f->vfs, CRASH_OP_WRITE), writes);
}

static void assert_content(struct faulty *f, uint64_t seed)
{
    struct crash_vfs *image = crash_vfs_image(f->vfs, CRASH_POWER, seed);
    const struct store_options options = options_for(image);
    struct buf content = {0};
    struct err_text why = {""};
    struct store *store;

    if (store_open(&store, &options, &why) != 0)
        fail_msg("after the fault: %s", why.s);
    assert_int_equal(store_integrity_check(store), 0);
    assert_int_equal(model_print_store(store, &content), 0);
    if (!bytes_equal(buf_bytes(&content), buf_bytes(&f->acked)) &&
        !bytes_equal(buf_bytes(&content), buf_bytes(&f->committing)))
        fail_msg("the file holds something else:\n%s\ninstead of\n%s", buf_cstr(&content),
                 buf_cstr(&f->acked));
    store_close(store);
    crash_vfs_free(image);
    buf_free(&content);
}

static void faulty_init(struct faulty *f, uint64_t seed)
{
    *f = (struct faulty){.vfs = crash_vfs_new(seed)};
    model_init(&f->model, 7); /* the same work each time, so that every operation gets its turn */
    model_print(&f->model, &f->acked);
}

static void faulty_free(struct faulty *f)
{
    store_close(f->store);
    crash_vfs_free(f->vfs);
    buf_free(&f->acked);
    buf_free(&f->committing);
}

/* The nth operation of this kind fails. False: there are not so many. */
static bool fail_nth(enum crash_op op, uint64_t nth, int rc, bool for_ever, int expected)
{
    struct faulty f;
    struct err_text why = {""};

    faulty_init(&f, nth);
    crash_vfs_fail(f.vfs, op, nth, rc, for_ever);
    int rv = work(&f, &why);
    bool hit = crash_vfs_fault_hit(f.vfs);
    /* A TRUNCATE that fails after a complete checkpoint is no loss, and SQLite may not tell of it.
     */
    if (hit && op != CRASH_OP_TRUNCATE)
        assert_int_equal(rv, expected);
    if (rv) {
        assert_true(hit);
        if (f.store)
            assert_dead(&f);
        else
            assert_non_null(strstr(why.s, PATH));
    }
    crash_vfs_fail(f.vfs, op, 0, 0, false);
    assert_content(&f, nth);
    faulty_free(&f);
    return hit;
}

static void every_nth(enum crash_op op, int rc, bool for_ever, int expected)
{
    uint64_t nth = 1;

    while (fail_nth(op, nth, rc, for_ever, expected))
        nth += 1 + nth / 40;
    assert_true(nth > 2);
}

static void failed_writes_stop_the_store(void **state)
{
    (void)state;
    every_nth(CRASH_OP_WRITE, SQLITE_IOERR_WRITE, false, ERR_IO);
    every_nth(CRASH_OP_WRITE, SQLITE_IOERR_WRITE, true, ERR_IO);
}

static void failed_syncs_stop_the_store(void **state)
{
    (void)state;
    every_nth(CRASH_OP_SYNC, SQLITE_IOERR_FSYNC, false, ERR_IO);
}

static void failed_truncations_lose_nothing(void **state)
{
    (void)state;
    every_nth(CRASH_OP_TRUNCATE, SQLITE_IOERR_TRUNCATE, false, ERR_IO);
}

static void failed_reads_stop_the_store(void **state)
{
    (void)state;
    every_nth(CRASH_OP_READ, SQLITE_IOERR_READ, true, ERR_IO);
}

static void a_full_disk_stops_the_store(void **state)
{
    (void)state;
    every_nth(CRASH_OP_WRITE, SQLITE_FULL, true, ERR_NO_SPACE);
    for (uint64_t capacity = 4096; capacity < 200 * 1024; capacity += 7 * 4096) {
        struct faulty f;
        struct err_text why = {""};
        faulty_init(&f, capacity);
        crash_vfs_set_capacity(f.vfs, capacity);
        assert_int_equal(work(&f, &why), ERR_NO_SPACE);
        if (f.store)
            assert_dead(&f);
        assert_content(&f, capacity);
        faulty_free(&f);
    }
}

static void damaged_files_are_named(void **state)
{
    static const char garbage[8192] = "this is no database, but it is long enough to be asked";
    struct crash_vfs *vfs = crash_vfs_new(1);
    const struct store_options options = options_for(vfs);
    struct err_text why = {""};
    struct store *store;

    (void)state;
    crash_vfs_put(vfs, PATH, bytes_of(garbage, sizeof garbage));
    assert_int_equal(store_open(&store, &options, &why), ERR_CORRUPT);
    assert_non_null(strstr(why.s, PATH));
    assert_non_null(strstr(why.s, "not a database"));
    crash_vfs_free(vfs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(failed_writes_stop_the_store),
        cmocka_unit_test(failed_syncs_stop_the_store),
        cmocka_unit_test(failed_truncations_lose_nothing),
        cmocka_unit_test(failed_reads_stop_the_store),
        cmocka_unit_test(a_full_disk_stops_the_store),
        cmocka_unit_test(damaged_files_are_named),
    };

    return cmocka_run_group_tests_name("store/faults", tests, NULL, NULL);
}
