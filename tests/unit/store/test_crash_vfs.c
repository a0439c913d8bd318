/* SPDX-License-Identifier: Apache-2.0 */
/* The disk of the crash tests itself: it must lose what a real one may lose, and keep what it must
 * keep. */
#include "fixture.h"

#include "crash_vfs.h"

struct disk {
    struct crash_vfs *vfs;
    sqlite3_vfs *methods;
    sqlite3_file *file;
};

static sqlite3_file *open_file(struct disk *disk, const char *name)
{
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_MAIN_DB;
    sqlite3_file *file = (sqlite3_file *)mem_zalloc((size_t)disk->methods->szOsFile);

    assert_int_equal(disk->methods->xOpen(disk->methods, name, file, flags, NULL), SQLITE_OK);
    return file;
}

static void close_file(sqlite3_file *file)
{
    file->pMethods->xClose(file);
    mem_free(file);
}

static int disk_setup(void **state)
{
    struct disk *disk = (struct disk *)mem_zalloc(sizeof *disk);

    disk->vfs = crash_vfs_new(1);
    disk->methods = sqlite3_vfs_find(crash_vfs_name(disk->vfs));
    assert_non_null(disk->methods);
    disk->file = open_file(disk, "f");
    *state = disk;
    return 0;
}

static int disk_teardown(void **state)
{
    struct disk *disk = (struct disk *)*state;

    close_file(disk->file);
    crash_vfs_free(disk->vfs);
    mem_free(disk);
    return 0;
}

static int write_at(struct disk *disk, int64_t offset, char fill, int len)
{
    char data[4096];

    memset(data, fill, sizeof data);
    return disk->file->pMethods->xWrite(disk->file, data, len, offset);
}

static int sync_file(struct disk *disk)
{
    return disk->file->pMethods->xSync(disk->file, SQLITE_SYNC_NORMAL);
}

/* -1: not there; else how many bytes of `fill` the image has in the file. */
static int count_in_image(struct disk *disk, enum crash_mode mode, uint64_t seed, const char *name,
                          char fill)
{
    struct crash_vfs *image = crash_vfs_image(disk->vfs, mode, seed);
    struct bytes content;
    int count = -1;

    if (crash_vfs_get(image, name, &content)) {
        count = 0;
        for (size_t i = 0; i < content.len; i++)
            count += content.ptr[i] == (uint8_t)fill;
    }
    crash_vfs_free(image);
    return count;
}

static void synced_bytes_survive_everything(void **state)
{
    struct disk *disk = (struct disk *)*state;

    assert_int_equal(write_at(disk, 0, 'a', 4096), SQLITE_OK);
    assert_int_equal(sync_file(disk), SQLITE_OK);
    assert_int_equal(crash_vfs_unsynced(disk->vfs), 0);
    for (uint64_t seed = 0; seed < 100; seed++) {
        assert_int_equal(count_in_image(disk, CRASH_POWER, seed, "f", 'a'), 4096);
        assert_int_equal(count_in_image(disk, CRASH_KILL, seed, "f", 'a'), 4096);
    }
}

/* Un-synced writes: all there after a kill; after a power cut none, all, or sectors of them. */
static void unsynced_bytes_may_be_lost_or_torn(void **state)
{
    struct disk *disk = (struct disk *)*state;
    int none = 0, all = 0, torn = 0;

    assert_int_equal(sync_file(disk), SQLITE_OK);
    assert_int_equal(write_at(disk, 0, 'a', 4096), SQLITE_OK);
    assert_int_equal(write_at(disk, 4096, 'a', 4096), SQLITE_OK);
    assert_int_equal(crash_vfs_unsynced(disk->vfs), 2);
    for (uint64_t seed = 0; seed < 200; seed++) {
        int count = count_in_image(disk, CRASH_POWER, seed, "f", 'a');
        assert_int_equal(count_in_image(disk, CRASH_KILL, seed, "f", 'a'), 8192);
        assert_int_equal(count_in_image(disk, CRASH_POWER, seed, "f", 'a'), count);
        assert_int_equal(count % 512, 0);
        none += count == 0;
        all += count == 8192;
        torn += count % 4096 != 0;
    }
    assert_true(none > 10 && all > 10 && torn > 10);
}

/* A kill, then a power cut: the second may take what the first had left. */
static void kill_leaves_writes_unsynced(void **state)
{
    struct disk *disk = (struct disk *)*state;
    int lost = 0;

    assert_int_equal(sync_file(disk), SQLITE_OK);
    assert_int_equal(write_at(disk, 0, 'a', 4096), SQLITE_OK);
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct crash_vfs *killed = crash_vfs_image(disk->vfs, CRASH_KILL, seed);
        struct disk second = {.vfs = killed};
        lost += count_in_image(&second, CRASH_POWER, seed, "f", 'a') < 4096;
        crash_vfs_free(killed);
    }
    assert_true(lost > 5);
}

static void new_names_need_a_sync(void **state)
{
    struct disk *disk = (struct disk *)*state;
    int missing = 0;

    for (uint64_t seed = 0; seed < 50; seed++)
        missing += count_in_image(disk, CRASH_POWER, seed, "f", 'a') == -1;
    assert_true(missing > 5 && missing < 45);
    assert_int_equal(sync_file(disk), SQLITE_OK);
    for (uint64_t seed = 0; seed < 50; seed++)
        assert_int_equal(count_in_image(disk, CRASH_POWER, seed, "f", 'a'), 0);
}

static void deleted_files_may_come_back(void **state)
{
    struct disk *disk = (struct disk *)*state;
    int back = 0;

    assert_int_equal(write_at(disk, 0, 'a', 512), SQLITE_OK);
    assert_int_equal(sync_file(disk), SQLITE_OK);
    assert_int_equal(disk->methods->xDelete(disk->methods, "f", 0), SQLITE_OK);
    for (uint64_t seed = 0; seed < 50; seed++) {
        assert_int_equal(count_in_image(disk, CRASH_KILL, seed, "f", 'a'), -1);
        back += count_in_image(disk, CRASH_POWER, seed, "f", 'a') == 512;
    }
    assert_true(back > 5 && back < 45);
    /* The sync of a new file is one of the folder, too. */
    sqlite3_file *other = open_file(disk, "g");
    assert_int_equal(other->pMethods->xSync(other, SQLITE_SYNC_NORMAL), SQLITE_OK);
    for (uint64_t seed = 0; seed < 50; seed++)
        assert_int_equal(count_in_image(disk, CRASH_POWER, seed, "f", 'a'), -1);
    assert_int_equal(disk->methods->xDelete(disk->methods, "g", 1), SQLITE_OK);
    for (uint64_t seed = 0; seed < 50; seed++)
        assert_int_equal(count_in_image(disk, CRASH_POWER, seed, "g", 'a'), -1);
    close_file(other);
}

/* As on Linux: after a failed sync the next one reports success for data that is lost. */
static void failed_sync_forgets(void **state)
{
    struct disk *disk = (struct disk *)*state;
    int lost = 0;

    for (uint64_t seed = 0; seed < 40; seed++) {
        assert_int_equal(write_at(disk, 0, 'b', 4096), SQLITE_OK);
        assert_int_equal(sync_file(disk), SQLITE_OK);
        assert_int_equal(write_at(disk, 0, 'a', 4096), SQLITE_OK);
        crash_vfs_fail(disk->vfs, CRASH_OP_SYNC, 1, SQLITE_IOERR_FSYNC, false);
        assert_int_equal(sync_file(disk), SQLITE_IOERR_FSYNC);
        assert_int_equal(sync_file(disk), SQLITE_OK);
        assert_int_equal(count_in_image(disk, CRASH_KILL, seed, "f", 'a'), 4096);
        lost += count_in_image(disk, CRASH_POWER, seed, "f", 'a') < 4096;
    }
    assert_true(lost > 5);
}

static void faults_hit_the_nth(void **state)
{
    struct disk *disk = (struct disk *)*state;

    crash_vfs_fail(disk->vfs, CRASH_OP_WRITE, 2, SQLITE_IOERR_WRITE, false);
    assert_int_equal(write_at(disk, 0, 'a', 512), SQLITE_OK);
    assert_false(crash_vfs_fault_hit(disk->vfs));
    assert_int_equal(write_at(disk, 0, 'a', 512), SQLITE_IOERR_WRITE);
    assert_true(crash_vfs_fault_hit(disk->vfs));
    assert_int_equal(write_at(disk, 0, 'a', 512), SQLITE_OK);
    assert_int_equal(crash_vfs_op_count(disk->vfs, CRASH_OP_WRITE), 3);
    crash_vfs_set_capacity(disk->vfs, 1024);
    assert_int_equal(write_at(disk, 512, 'a', 512), SQLITE_OK);
    assert_int_equal(write_at(disk, 1024, 'a', 512), SQLITE_FULL);
    assert_int_equal(write_at(disk, 0, 'b', 1024), SQLITE_OK);
}

static void locks_exclude(void **state)
{
    struct disk *disk = (struct disk *)*state;
    sqlite3_file *a = disk->file, *b = open_file(disk, "f");
    const sqlite3_io_methods *m = a->pMethods;

    assert_int_equal(m->xLock(a, SQLITE_LOCK_SHARED), SQLITE_OK);
    assert_int_equal(m->xLock(b, SQLITE_LOCK_SHARED), SQLITE_OK);
    assert_int_equal(m->xLock(a, SQLITE_LOCK_RESERVED), SQLITE_OK);
    assert_int_equal(m->xLock(b, SQLITE_LOCK_RESERVED), SQLITE_BUSY);
    assert_int_equal(m->xLock(a, SQLITE_LOCK_EXCLUSIVE), SQLITE_BUSY);
    assert_int_equal(m->xUnlock(b, SQLITE_LOCK_NONE), SQLITE_OK);
    assert_int_equal(m->xLock(b, SQLITE_LOCK_SHARED), SQLITE_BUSY); /* pending */
    assert_int_equal(m->xLock(a, SQLITE_LOCK_EXCLUSIVE), SQLITE_OK);
    assert_int_equal(m->xUnlock(a, SQLITE_LOCK_NONE), SQLITE_OK);
    assert_int_equal(m->xLock(b, SQLITE_LOCK_SHARED), SQLITE_OK);

    const int take = SQLITE_SHM_LOCK, drop = SQLITE_SHM_UNLOCK;
    const int shared = SQLITE_SHM_SHARED, exclusive = SQLITE_SHM_EXCLUSIVE;
    assert_int_equal(m->xShmLock(a, 3, 1, take | shared), SQLITE_OK);
    assert_int_equal(m->xShmLock(b, 3, 1, take | shared), SQLITE_OK);
    assert_int_equal(m->xShmLock(b, 0, 8, take | exclusive), SQLITE_BUSY);
    assert_int_equal(m->xShmLock(a, 3, 1, drop | shared), SQLITE_OK);
    assert_int_equal(m->xShmLock(b, 3, 1, drop | shared), SQLITE_OK);
    assert_int_equal(m->xShmLock(b, 0, 8, take | exclusive), SQLITE_OK);
    assert_int_equal(m->xShmLock(a, 7, 1, take | shared), SQLITE_BUSY);
    close_file(b);
    assert_int_equal(m->xShmLock(a, 7, 1, take | exclusive), SQLITE_OK);
}

/* The same seed makes the same disk, byte for byte. */
static void images_follow_from_the_seed(void **state)
{
    struct disk *disk = (struct disk *)*state;

    for (int i = 0; i < 20; i++)
        assert_int_equal(write_at(disk, i * 777, (char)('a' + i), 3000), SQLITE_OK);
    for (uint64_t seed = 0; seed < 100; seed++) {
        struct crash_vfs *a = crash_vfs_image(disk->vfs, CRASH_POWER, seed);
        struct crash_vfs *b = crash_vfs_image(disk->vfs, CRASH_POWER, seed);
        struct bytes in_a = {0}, in_b = {0};
        assert_int_equal(crash_vfs_get(a, "f", &in_a), crash_vfs_get(b, "f", &in_b));
        assert_true(bytes_equal(in_a, in_b));
        crash_vfs_free(a);
        crash_vfs_free(b);
    }
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, disk_setup, disk_teardown)
    const struct CMUnitTest tests[] = {
        TEST(synced_bytes_survive_everything),
        TEST(unsynced_bytes_may_be_lost_or_torn),
        TEST(kill_leaves_writes_unsynced),
        TEST(new_names_need_a_sync),
        TEST(deleted_files_may_come_back),
        TEST(failed_sync_forgets),
        TEST(faults_hit_the_nth),
        TEST(locks_exclude),
        TEST(images_follow_from_the_seed),
    };

    return cmocka_run_group_tests_name("store/crash_vfs", tests, NULL, NULL);
}
