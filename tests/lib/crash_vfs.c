/* SPDX-License-Identifier: Apache-2.0 */
/* The methods that SQLite calls, locks, shared memory, hooks and faults; crash_disk.c has the disk.
 */
#include "crash_vfs.h"

#include <assert.h>
#include <malloc.h>
#include <stdio.h>

#include "crash_disk.h"

#define SECTOR        512
#define DISK_SECTOR   4096 /* what SQLite's unix VFS reports */
#define START_TIME_MS INT64_C(1790000000000)

/* --- hooks and faults ------------------------------------------------------------------------- */

void crash_vfs_set_hook(struct crash_vfs *vfs, unsigned events, crash_hook_fn hook, void *ctx)
{
    vfs->hook_events = events;
    vfs->hook = hook;
    vfs->hook_ctx = ctx;
}

static void call_hook(struct crash_vfs *vfs, enum crash_event event, const struct file *file)
{
    if (file->name && vfs->hook && vfs->hook_events & event)
        vfs->hook(vfs->hook_ctx, event, file->name);
}

void crash_vfs_fail(struct crash_vfs *vfs, enum crash_op op, uint64_t nth, int rc, bool for_ever)
{
    vfs->faults[op] = (struct fault){.countdown = nth, .rc = rc, .for_ever = for_ever};
}

uint64_t crash_vfs_op_count(const struct crash_vfs *vfs, enum crash_op op)
{
    return vfs->op_counts[op];
}

bool crash_vfs_fault_hit(const struct crash_vfs *vfs)
{
    return vfs->fault_hit;
}

void crash_vfs_set_capacity(struct crash_vfs *vfs, uint64_t capacity_bytes)
{
    vfs->capacity_bytes = capacity_bytes;
}

/* Counts an operation on a named file; SQLITE_OK or the fault that is due. */
static int operation(struct crash_vfs *vfs, const struct file *file, enum crash_op op)
{
    struct fault *fault = &vfs->faults[op];

    if (!file->name)
        return SQLITE_OK;
    vfs->op_counts[op]++;
    if (fault->countdown == 0 || --fault->countdown > 0)
        return SQLITE_OK;
    fault->countdown = fault->for_ever ? 1 : 0;
    vfs->fault_hit = true;
    return fault->rc;
}

static bool disk_is_full(const struct crash_vfs *vfs, const struct file *file, int64_t end)
{
    uint64_t used = 0;

    if (!vfs->capacity_bytes || !file->name || end <= (int64_t)file->live.len)
        return false;
    list_foreach (&vfs->files, it)
        if (file_of(it)->name)
            used += file_of(it)->live.len;
    return used + ((uint64_t)end - file->live.len) > vfs->capacity_bytes;
}

/* --- SQLite's file methods -------------------------------------------------------------------- */

static struct handle *handle_of(sqlite3_file *base)
{
    return container_of(base, struct handle, base);
}

static int on_read(sqlite3_file *base, void *to, int len, sqlite3_int64 offset)
{
    struct handle *h = handle_of(base);
    const struct buf *live = &h->file->live;
    int rc = operation(h->vfs, h->file, CRASH_OP_READ);

    if (rc != SQLITE_OK)
        return rc;
    size_t there = (size_t)offset < live->len ? live->len - (size_t)offset : 0;
    if (there > (size_t)len)
        there = (size_t)len;
    if (there)
        memcpy(to, live->ptr + offset, there);
    if (there == (size_t)len)
        return SQLITE_OK;
    memset((char *)to + there, 0, (size_t)len - there);
    return SQLITE_IOERR_SHORT_READ;
}

static int on_write(sqlite3_file *base, const void *data, int len, sqlite3_int64 offset)
{
    struct handle *h = handle_of(base);
    int rc = operation(h->vfs, h->file, CRASH_OP_WRITE);

    if (rc == SQLITE_OK && disk_is_full(h->vfs, h->file, offset + len)) {
        h->vfs->fault_hit = true;
        rc = SQLITE_FULL;
    }
    if (rc != SQLITE_OK) { /* a part may have been written all the same */
        int part = (int)(disk_random(&h->vfs->random) % (unsigned)(len / SECTOR + 1)) * SECTOR;
        if (part && !disk_is_full(h->vfs, h->file, offset + part))
            disk_write(h->file, offset, data, (size_t)part);
        return rc;
    }
    disk_write(h->file, offset, data, (size_t)len);
    call_hook(h->vfs, CRASH_AFTER_WRITE, h->file);
    return SQLITE_OK;
}

static int on_truncate(sqlite3_file *base, sqlite3_int64 size)
{
    struct handle *h = handle_of(base);
    int rc = operation(h->vfs, h->file, CRASH_OP_TRUNCATE);

    if (rc != SQLITE_OK)
        return rc;
    disk_truncate(h->file, size);
    call_hook(h->vfs, CRASH_AFTER_TRUNCATE, h->file);
    return SQLITE_OK;
}

static int on_sync(sqlite3_file *base, int flags)
{
    struct handle *h = handle_of(base);

    (void)flags;
    call_hook(h->vfs, CRASH_BEFORE_SYNC, h->file); /* first: a hook may make this very sync fail */
    int rc = operation(h->vfs, h->file, CRASH_OP_SYNC);
    if (rc != SQLITE_OK) {
        disk_fail_sync(h->vfs, h->file);
        return rc;
    }
    disk_sync(h->vfs, h->file);
    call_hook(h->vfs, CRASH_AFTER_SYNC, h->file);
    return SQLITE_OK;
}

static int on_file_size(sqlite3_file *base, sqlite3_int64 *size)
{
    *size = (sqlite3_int64)handle_of(base)->file->live.len;
    return SQLITE_OK;
}

static int on_lock(sqlite3_file *base, int level)
{
    struct handle *h = handle_of(base);
    struct file *file = h->file;

    if (h->lock >= level)
        return SQLITE_OK;
    if (level == SQLITE_LOCK_SHARED) {
        if (file->pending)
            return SQLITE_BUSY;
        file->shared++;
    } else if (level == SQLITE_LOCK_RESERVED) {
        if (file->reserved)
            return SQLITE_BUSY;
        file->reserved = h;
    } else {
        if ((file->pending && file->pending != h) || (file->reserved && file->reserved != h))
            return SQLITE_BUSY;
        file->pending = h;
        if (file->shared > 1) {
            h->lock = SQLITE_LOCK_PENDING;
            return SQLITE_BUSY;
        }
    }
    h->lock = level;
    return SQLITE_OK;
}

static int on_unlock(sqlite3_file *base, int level)
{
    struct handle *h = handle_of(base);
    struct file *file = h->file;

    if (h->lock <= level)
        return SQLITE_OK;
    if (file->pending == h)
        file->pending = NULL;
    if (file->reserved == h)
        file->reserved = NULL;
    if (level == SQLITE_LOCK_NONE)
        file->shared--;
    h->lock = level;
    return SQLITE_OK;
}

static int on_check_reserved(sqlite3_file *base, int *reserved)
{
    const struct file *file = handle_of(base)->file;

    *reserved = file->reserved || file->pending;
    return SQLITE_OK;
}

static int on_file_control(sqlite3_file *base, int op, void *arg)
{
    if (op == SQLITE_FCNTL_LOCKSTATE) {
        *(int *)arg = handle_of(base)->lock;
        return SQLITE_OK;
    }
    return SQLITE_NOTFOUND;
}

static int on_sector_size(sqlite3_file *base)
{
    (void)base;
    return DISK_SECTOR;
}

/* As the unix VFS: a torn write harms no byte outside its range. */
static int on_device(sqlite3_file *base)
{
    (void)base;
    return SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

static int on_shm_map(sqlite3_file *base, int region, int size, int extend, void volatile **out)
{
    struct handle *h = handle_of(base);
    struct file *file = h->file;

    if (!h->has_shm) {
        h->has_shm = true;
        file->shm_users++;
    }
    *out = NULL;
    if (region >= file->shm_count && !extend)
        return SQLITE_OK;
    while (region >= file->shm_count) {
        file->shm =
            (void **)mem_realloc(file->shm, ((size_t)file->shm_count + 1) * sizeof *file->shm);
        file->shm[file->shm_count++] = mem_zalloc((size_t)size);
    }
    *out = file->shm[region];
    return SQLITE_OK;
}

static void shm_release(struct handle *h, int lock)
{
    unsigned bit = 1u << lock;

    if (h->shm_shared & bit)
        h->file->shm_shared[lock]--;
    if (h->shm_exclusive & bit)
        h->file->shm_exclusive[lock] = NULL;
    h->shm_shared &= ~bit;
    h->shm_exclusive &= ~bit;
}

static bool shm_is_free(const struct handle *h, int lock, bool exclusive)
{
    const struct file *file = h->file;
    int others = file->shm_shared[lock] - (h->shm_shared >> lock & 1 ? 1 : 0);

    if (file->shm_exclusive[lock] && file->shm_exclusive[lock] != h)
        return false;
    return !exclusive || others == 0;
}

static int on_shm_lock(sqlite3_file *base, int first, int count, int flags)
{
    struct handle *h = handle_of(base);
    bool exclusive = (flags & SQLITE_SHM_EXCLUSIVE) != 0;

    for (int i = first; i < first + count; i++)
        if (flags & SQLITE_SHM_LOCK && !shm_is_free(h, i, exclusive))
            return SQLITE_BUSY;
    for (int i = first; i < first + count; i++) {
        shm_release(h, i);
        if (!(flags & SQLITE_SHM_LOCK))
            continue;
        if (exclusive) {
            h->file->shm_exclusive[i] = h;
            h->shm_exclusive |= 1u << i;
        } else {
            h->file->shm_shared[i]++;
            h->shm_shared |= 1u << i;
        }
    }
    return SQLITE_OK;
}

static void on_shm_barrier(sqlite3_file *base)
{
    (void)base;
}

static int on_shm_unmap(sqlite3_file *base, int delete)
{
    struct handle *h = handle_of(base);

    (void)delete; /* it never outlives its users here */
    for (int i = 0; i < SHM_LOCKS; i++)
        shm_release(h, i);
    if (!h->has_shm)
        return SQLITE_OK;
    h->has_shm = false;
    if (--h->file->shm_users > 0)
        return SQLITE_OK;
    for (int i = 0; i < h->file->shm_count; i++)
        mem_free(h->file->shm[i]);
    mem_free(h->file->shm);
    h->file->shm = NULL;
    h->file->shm_count = 0;
    return SQLITE_OK;
}

static int on_close(sqlite3_file *base)
{
    struct handle *h = handle_of(base);

    on_shm_unmap(base, 0);
    on_unlock(base, SQLITE_LOCK_NONE);
    h->file->handles--;
    if (h->delete_on_close)
        h->file->linked = h->file->linked_durably = false;
    disk_file_release(h->vfs, h->file);
    return SQLITE_OK;
}

static const sqlite3_io_methods io_methods = {
    .iVersion = 2, /* shared memory, no mapped files */
    .xClose = on_close,
    .xRead = on_read,
    .xWrite = on_write,
    .xTruncate = on_truncate,
    .xSync = on_sync,
    .xFileSize = on_file_size,
    .xLock = on_lock,
    .xUnlock = on_unlock,
    .xCheckReservedLock = on_check_reserved,
    .xFileControl = on_file_control,
    .xSectorSize = on_sector_size,
    .xDeviceCharacteristics = on_device,
    .xShmMap = on_shm_map,
    .xShmLock = on_shm_lock,
    .xShmBarrier = on_shm_barrier,
    .xShmUnmap = on_shm_unmap,
};

/* --- SQLite's VFS methods --------------------------------------------------------------------- */

static struct crash_vfs *vfs_of(sqlite3_vfs *base)
{
    return container_of(base, struct crash_vfs, base);
}

static int on_open(sqlite3_vfs *base, const char *name, sqlite3_file *out, int flags,
                   int *out_flags)
{
    struct crash_vfs *vfs = vfs_of(base);
    struct handle *h = handle_of(out);
    struct file *file = name ? disk_find(vfs, name) : NULL;

    h->base.pMethods = NULL; /* SQLite then does not close it */
    if (!file && name && !(flags & SQLITE_OPEN_CREATE))
        return SQLITE_CANTOPEN;
    if (!file)
        file = disk_file_new(vfs, name);
    file->handles++;
    *h = (struct handle){.base.pMethods = &io_methods,
                         .vfs = vfs,
                         .file = file,
                         .delete_on_close = (flags & SQLITE_OPEN_DELETEONCLOSE) != 0};
    if (out_flags)
        *out_flags = flags;
    return SQLITE_OK;
}

static int on_delete(sqlite3_vfs *base, const char *name, int sync_dir)
{
    struct crash_vfs *vfs = vfs_of(base);
    struct file *file = disk_find(vfs, name);

    if (!file)
        return SQLITE_IOERR_DELETE_NOENT;
    file->linked = false;
    if (sync_dir)
        file->linked_durably = false;
    call_hook(vfs, CRASH_AFTER_DELETE, file);
    disk_file_release(vfs, file);
    return SQLITE_OK;
}

static int on_access(sqlite3_vfs *base, const char *name, int flags, int *result)
{
    const struct file *file = disk_find(vfs_of(base), name);

    /* An empty file is as good as none, as in the unix VFS. */
    *result = file && (flags != SQLITE_ACCESS_EXISTS || file->live.len > 0);
    return SQLITE_OK;
}

static int on_full_path(sqlite3_vfs *base, const char *name, int size, char *out)
{
    (void)base;
    sqlite3_snprintf(size, out, "%s", name);
    return SQLITE_OK;
}

static int on_randomness(sqlite3_vfs *base, int len, char *out)
{
    for (int i = 0; i < len; i++)
        out[i] = (char)disk_random(&vfs_of(base)->random);
    return len;
}

static int on_sleep(sqlite3_vfs *base, int us)
{
    vfs_of(base)->now_us += us;
    return us;
}

static int on_time(sqlite3_vfs *base, sqlite3_int64 *julian_ms)
{
    *julian_ms = INT64_C(210866760000000) + vfs_of(base)->now_us / 1000;
    return SQLITE_OK;
}

static int on_time_double(sqlite3_vfs *base, double *julian_days)
{
    sqlite3_int64 ms;

    on_time(base, &ms);
    *julian_days = (double)ms / 86400000.0;
    return SQLITE_OK;
}

static int on_last_error(sqlite3_vfs *base, int len, char *out)
{
    (void)base;
    (void)len;
    (void)out;
    return 0;
}

struct crash_vfs *crash_vfs_new(uint64_t seed)
{
    struct crash_vfs *vfs = (struct crash_vfs *)mem_zalloc(sizeof *vfs);

    snprintf(vfs->name, sizeof vfs->name, "crash-%p", (void *)vfs);
    list_init(&vfs->files);
    vfs->random = seed;
    vfs->now_us = START_TIME_MS * 1000;
    vfs->base = (sqlite3_vfs){
        .iVersion = 2,
        .szOsFile = sizeof(struct handle),
        .mxPathname = 512,
        .zName = vfs->name,
        .xOpen = on_open,
        .xDelete = on_delete,
        .xAccess = on_access,
        .xFullPathname = on_full_path,
        .xRandomness = on_randomness,
        .xSleep = on_sleep,
        .xCurrentTime = on_time_double,
        .xGetLastError = on_last_error,
        .xCurrentTimeInt64 = on_time,
    };
    /* Disks are large blocks that come and go by the thousand: glibc shall not give their memory
     * back to the kernel and ask for it again each time (a third of the time of a crash test). */
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    int rc = sqlite3_vfs_register(&vfs->base, 0);
    assert(rc == SQLITE_OK);
    (void)rc;
    return vfs;
}

void crash_vfs_free(struct crash_vfs *vfs)
{
    if (!vfs)
        return;
    sqlite3_vfs_unregister(&vfs->base);
    list_foreach_safe (&vfs->files, it) {
        assert(file_of(it)->handles == 0);
        disk_file_free(vfs, file_of(it));
    }
    mem_free(vfs);
}

const char *crash_vfs_name(const struct crash_vfs *vfs)
{
    return vfs->name;
}

void crash_vfs_seed_sqlite(uint32_t seed)
{
    sqlite3_initialize();
    sqlite3_test_control(SQLITE_TESTCTRL_PRNG_SEED, (int)(seed | 1), NULL);
    sqlite3_randomness(0, NULL); /* the next use starts from the seed */
}
