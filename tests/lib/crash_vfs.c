/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two layers: a disk (struct file and its changes; what a crash makes of them) and, below it, the
 * VFS methods that SQLite calls. Contents are flat arrays: the databases of crash tests are small,
 * and copying some hundred kilobytes is the cheapest image there is.
 */
#include "crash_vfs.h"

#include <assert.h>
#include <malloc.h>
#include <sqlite3.h>
#include <stdio.h>

#include "base/list.h"
#include "base/mem.h"

#define SECTOR        512
#define STALE         0xd7 /* what free blocks hold */
#define DISK_SECTOR   4096 /* what SQLite's unix VFS reports */
#define SHM_LOCKS     SQLITE_SHM_NLOCK
#define START_TIME_MS INT64_C(1790000000000)

/* A write or a truncation that is not synced yet. */
struct change {
    bool truncation;
    int64_t offset; /* truncation: the new size */
    size_t data_at; /* in file->change_data */
    size_t len;
};

struct handle;

/* An inode. Its name is in the folder as programs see it (linked), as a power cut leaves it for
 * certain (linked_durably), in both, or, once deleted and open, in neither. */
struct file {
    struct list_node node;
    char *name; /* NULL: temporary, belongs to one handle */
    bool linked, linked_durably;
    int handles;
    struct buf live, durable;
    struct change *changes;
    size_t change_count, change_cap;
    struct buf change_data;
    /* Locks of SQLite's rollback mode. */
    int shared;
    struct handle *reserved, *pending;
    /* Shared memory and its locks. */
    int shm_users;
    void **shm;
    int shm_count;
    int shm_shared[SHM_LOCKS];
    struct handle *shm_exclusive[SHM_LOCKS];
};

struct fault {
    uint64_t countdown; /* 0: none */
    int rc;
    bool for_ever;
};

struct crash_vfs {
    sqlite3_vfs base;
    char name[32];
    struct list files;
    uint64_t random;
    int64_t now_us;
    unsigned hook_events;
    crash_hook_fn hook;
    void *hook_ctx;
    struct fault faults[CRASH_OP_COUNT];
    uint64_t op_counts[CRASH_OP_COUNT];
    bool fault_hit;
    uint64_t capacity_bytes;
};

struct handle {
    sqlite3_file base;
    struct crash_vfs *vfs;
    struct file *file;
    int lock;
    bool has_shm, delete_on_close;
    unsigned shm_shared, shm_exclusive; /* bit per lock */
};

/* --- randomness ----------------------------------------------------------------------------------- */

/* SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static bool chance(uint64_t *state, unsigned of_8)
{
    return next_random(state) % 8 < of_8;
}

/* --- files and their changes ------------------------------------------------------------------------ */

static struct file *file_new(struct crash_vfs *vfs, const char *name)
{
    struct file *file = (struct file *)mem_zalloc(sizeof *file);

    file->name = name ? mem_strdup(name) : NULL;
    file->linked = name != NULL;
    list_push_back(&vfs->files, &file->node);
    return file;
}

static void file_free(struct crash_vfs *vfs, struct file *file)
{
    list_remove(&vfs->files, &file->node);
    for (int i = 0; i < file->shm_count; i++)
        mem_free(file->shm[i]);
    mem_free(file->shm);
    buf_free(&file->live);
    buf_free(&file->durable);
    buf_free(&file->change_data);
    mem_free(file->changes);
    mem_free(file->name);
    mem_free(file);
}

static void free_if_unreachable(struct crash_vfs *vfs, struct file *file)
{
    if (!file->linked && !file->linked_durably && file->handles == 0)
        file_free(vfs, file);
}

static struct file *file_of(struct list_node *node)
{
    return container_of(node, struct file, node);
}

static struct file *find(const struct crash_vfs *vfs, const char *name)
{
    list_foreach (&vfs->files, it)
        if (file_of(it)->linked && strcmp(file_of(it)->name, name) == 0)
            return file_of(it);
    return NULL;
}

static void resize(struct buf *content, int64_t size)
{
    size_t len = (size_t)size;

    if (len > content->len) {
        buf_reserve(content, len - content->len);
        memset(content->ptr + content->len, 0, len - content->len);
    }
    content->len = len;
}

static void overwrite(struct buf *content, int64_t offset, const void *data, size_t len)
{
    if (content->len < (size_t)offset + len)
        resize(content, offset + (int64_t)len);
    if (len)
        memcpy(content->ptr + offset, data, len);
}

static void remember(struct file *file, const struct change *change, const void *data)
{
    if (file->change_count == file->change_cap) {
        file->change_cap = file->change_cap ? 2 * file->change_cap : 32;
        file->changes =
            (struct change *)mem_realloc(file->changes, file->change_cap * sizeof *file->changes);
    }
    struct change *copy = &file->changes[file->change_count++];
    *copy = *change;
    copy->data_at = file->change_data.len;
    buf_append(&file->change_data, data, change->truncation ? 0 : change->len);
}

static void file_write(struct file *file, int64_t offset, const void *data, size_t len)
{
    overwrite(&file->live, offset, data, len);
    if (file->name)
        remember(file, &(struct change){.offset = offset, .len = len}, data);
}

static void file_truncate(struct file *file, int64_t size)
{
    resize(&file->live, size);
    if (file->name)
        remember(file, &(struct change){.truncation = true, .offset = size}, NULL);
}

static void forget_changes(struct file *file)
{
    file->change_count = 0;
    buf_clear(&file->change_data);
}

static void apply(const struct file *file, const struct change *change, struct buf *to)
{
    if (change->truncation)
        resize(to, change->offset);
    else
        overwrite(to, change->offset, file->change_data.ptr + change->data_at, change->len);
}

/* The file's name and, with the folder's sync, all deletions so far become durable. */
static void sync_folder(struct crash_vfs *vfs, struct file *file)
{
    if (!file->linked || file->linked_durably)
        return;
    file->linked_durably = true;
    list_foreach_safe (&vfs->files, it) {
        if (!file_of(it)->linked && file_of(it)->linked_durably) {
            file_of(it)->linked_durably = false;
            free_if_unreachable(vfs, file_of(it));
        }
    }
}

static void file_sync(struct crash_vfs *vfs, struct file *file)
{
    for (size_t i = 0; i < file->change_count; i++)
        apply(file, &file->changes[i], &file->durable);
    forget_changes(file);
    sync_folder(vfs, file);
}

/* --- what a power cut makes of un-synced changes -------------------------------------------------------- */

enum fate {
    FATE_NOTHING,     /* none reached the disk */
    FATE_ALL,         /* all did */
    FATE_PREFIX,      /* the first ones, the next torn */
    FATE_ALL_BUT_ONE, /* any one is missing */
    FATE_SUBSET,      /* each or not */
    FATE_SHUFFLED,    /* the same, in another order */
    FATE_TORN,        /* each sector or not */
    FATE_COUNT
};

/* The data is lost, the new length may be there, with zeros or with what the blocks held before. */
static void lengthen_only(const struct change *change, struct buf *to, uint64_t *random)
{
    size_t end = (size_t)change->offset + change->len, old = to->len;

    if (change->truncation || end <= old || chance(random, 4))
        return;
    resize(to, (int64_t)end);
    if (chance(random, 2))
        memset(to->ptr + old, STALE, end - old);
}

/* Each 512-byte sector of the file that the write touches reaches the disk with chance of_8 / 8. */
static void apply_torn(const struct file *file, const struct change *change, struct buf *to,
                       uint64_t *random, unsigned of_8)
{
    if (change->truncation) {
        if (chance(random, of_8))
            apply(file, change, to);
        return;
    }
    lengthen_only(change, to, random);
    for (size_t done = 0; done < change->len;) {
        int64_t at = change->offset + (int64_t)done;
        size_t part = SECTOR - (size_t)(at % SECTOR);
        if (part > change->len - done)
            part = change->len - done;
        if (chance(random, of_8))
            overwrite(to, at, file->change_data.ptr + change->data_at + done, part);
        done += part;
    }
}

static void apply_or_drop(const struct file *file, const struct change *change, struct buf *to,
                          uint64_t *random, bool applied)
{
    if (applied)
        apply(file, change, to);
    else
        lengthen_only(change, to, random);
}

static void apply_shuffled(const struct file *file, struct buf *to, uint64_t *random)
{
    size_t n = file->change_count;
    size_t *order = (size_t *)mem_calloc(n, sizeof *order);

    for (size_t i = 0; i < n; i++) {
        size_t j = (size_t)(next_random(random) % (i + 1));
        order[i] = order[j];
        order[j] = i;
    }
    for (size_t i = 0; i < n; i++)
        apply_or_drop(file, &file->changes[order[i]], to, random, chance(random, 4));
    mem_free(order);
}

static void apply_prefix(const struct file *file, struct buf *to, uint64_t *random)
{
    size_t cut = (size_t)(next_random(random) % file->change_count);

    for (size_t i = 0; i < cut; i++)
        apply(file, &file->changes[i], to);
    apply_torn(file, &file->changes[cut], to, random, 4);
}

/* `to` holds the durable content and becomes what the power cut left. */
static void apply_fate(const struct file *file, struct buf *to, uint64_t *random)
{
    size_t n = file->change_count;
    enum fate fate = (enum fate)(next_random(random) % FATE_COUNT);
    size_t missing = fate == FATE_ALL_BUT_ONE && n ? (size_t)(next_random(random) % n) : n;
    unsigned of_8 = fate == FATE_TORN ? 1 + (unsigned)(next_random(random) % 7) : 4;

    if (fate == FATE_NOTHING || n == 0)
        return;
    if (fate == FATE_PREFIX) {
        apply_prefix(file, to, random);
        return;
    }
    if (fate == FATE_SHUFFLED) {
        apply_shuffled(file, to, random);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        if (fate == FATE_TORN)
            apply_torn(file, &file->changes[i], to, random, of_8);
        else if (fate == FATE_SUBSET)
            apply_or_drop(file, &file->changes[i], to, random, chance(random, 4));
        else
            apply_or_drop(file, &file->changes[i], to, random, i != missing);
    }
}

/* --- images ------------------------------------------------------------------------------------------- */

static void copy_buf(struct buf *to, const struct buf *from)
{
    buf_append(to, from->ptr, from->len);
}

static void copy_killed(struct crash_vfs *image, const struct file *from)
{
    if (!from->name || (!from->linked && !from->linked_durably))
        return;
    struct file *file = file_new(image, from->name);
    file->linked = from->linked;
    file->linked_durably = from->linked_durably;
    copy_buf(&file->live, &from->live);
    copy_buf(&file->durable, &from->durable);
    copy_buf(&file->change_data, &from->change_data);
    if (!from->change_count)
        return;
    file->change_count = file->change_cap = from->change_count;
    file->changes = (struct change *)mem_calloc(from->change_count, sizeof *file->changes);
    memcpy(file->changes, from->changes, from->change_count * sizeof *file->changes);
}

static bool name_survives(const struct file *file, uint64_t *random)
{
    if (file->linked && file->linked_durably)
        return true;
    return (file->linked || file->linked_durably) && chance(random, 4);
}

static void copy_cut(struct crash_vfs *image, const struct file *from, uint64_t *random)
{
    if (!from->name || !name_survives(from, random))
        return;
    struct file *older = find(image, from->name);
    if (older) /* deleted, and its name was given to the new file */
        file_free(image, older);
    struct file *file = file_new(image, from->name);
    file->linked_durably = true;
    copy_buf(&file->durable, &from->durable);
    apply_fate(from, &file->durable, random);
    copy_buf(&file->live, &file->durable);
}

struct crash_vfs *crash_vfs_image(const struct crash_vfs *vfs, enum crash_mode mode, uint64_t seed)
{
    struct crash_vfs *image = crash_vfs_new(seed);
    uint64_t random = seed ^ 0x5bd1e995;

    image->now_us = vfs->now_us;
    list_foreach (&vfs->files, it) {
        if (mode == CRASH_KILL)
            copy_killed(image, file_of(it));
        else
            copy_cut(image, file_of(it), &random);
    }
    return image;
}

void crash_vfs_put(struct crash_vfs *vfs, const char *name, struct bytes content)
{
    struct file *file = find(vfs, name);

    if (file) {
        assert(file->handles == 0);
        file_free(vfs, file);
    }
    file = file_new(vfs, name);
    file_write(file, 0, content.ptr, content.len);
    file_sync(vfs, file);
}

bool crash_vfs_get(const struct crash_vfs *vfs, const char *name, struct bytes *content)
{
    const struct file *file = find(vfs, name);

    if (!file)
        return false;
    *content = buf_bytes(&file->live);
    return true;
}

size_t crash_vfs_unsynced(const struct crash_vfs *vfs)
{
    size_t count = 0;

    list_foreach (&vfs->files, it)
        count += file_of(it)->change_count;
    return count;
}

/* --- hooks and faults ----------------------------------------------------------------------------------- */

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

/* --- SQLite's file methods -------------------------------------------------------------------------------- */

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
        int part = (int)(next_random(&h->vfs->random) % (unsigned)(len / SECTOR + 1)) * SECTOR;
        if (part && !disk_is_full(h->vfs, h->file, offset + part))
            file_write(h->file, offset, data, (size_t)part);
        return rc;
    }
    file_write(h->file, offset, data, (size_t)len);
    call_hook(h->vfs, CRASH_AFTER_WRITE, h->file);
    return SQLITE_OK;
}

static int on_truncate(sqlite3_file *base, sqlite3_int64 size)
{
    struct handle *h = handle_of(base);
    int rc = operation(h->vfs, h->file, CRASH_OP_TRUNCATE);

    if (rc != SQLITE_OK)
        return rc;
    file_truncate(h->file, size);
    call_hook(h->vfs, CRASH_AFTER_TRUNCATE, h->file);
    return SQLITE_OK;
}

static int on_sync(sqlite3_file *base, int flags)
{
    struct handle *h = handle_of(base);

    (void)flags;
    call_hook(h->vfs, CRASH_BEFORE_SYNC, h->file); /* first: a hook may make this very sync fail */
    int rc = operation(h->vfs, h->file, CRASH_OP_SYNC);
    if (rc != SQLITE_OK) { /* the kernel tells once, then takes the pages for clean */
        apply_fate(h->file, &h->file->durable, &h->vfs->random);
        forget_changes(h->file);
        return rc;
    }
    file_sync(h->vfs, h->file);
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
    free_if_unreachable(h->vfs, h->file);
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

/* --- SQLite's VFS methods ----------------------------------------------------------------------------------- */

static struct crash_vfs *vfs_of(sqlite3_vfs *base)
{
    return container_of(base, struct crash_vfs, base);
}

static int on_open(sqlite3_vfs *base, const char *name, sqlite3_file *out, int flags,
                   int *out_flags)
{
    struct crash_vfs *vfs = vfs_of(base);
    struct handle *h = handle_of(out);
    struct file *file = name ? find(vfs, name) : NULL;

    h->base.pMethods = NULL; /* SQLite then does not close it */
    if (!file && name && !(flags & SQLITE_OPEN_CREATE))
        return SQLITE_CANTOPEN;
    if (!file)
        file = file_new(vfs, name);
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
    struct file *file = find(vfs, name);

    if (!file)
        return SQLITE_IOERR_DELETE_NOENT;
    file->linked = false;
    if (sync_dir)
        file->linked_durably = false;
    call_hook(vfs, CRASH_AFTER_DELETE, file);
    free_if_unreachable(vfs, file);
    return SQLITE_OK;
}

static int on_access(sqlite3_vfs *base, const char *name, int flags, int *result)
{
    const struct file *file = find(vfs_of(base), name);

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
        out[i] = (char)next_random(&vfs_of(base)->random);
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
        file_free(vfs, file_of(it));
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
