/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What programs see, what is durable, what is between, and what a crash makes of it. Contents are
 * flat arrays: the databases of crash tests are small, and copying some hundred kilobytes is the
 * cheapest image there is.
 */
#include "crash_disk.h"

#include <assert.h>

#define SECTOR 512
#define STALE  0xd7 /* what free blocks hold */

/* --- randomness ------------------------------------------------------------------------------- */

/* SplitMix64 (Steele, Lea, Flood 2014). */
uint64_t disk_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static bool chance(uint64_t *state, unsigned of_8)
{
    return disk_random(state) % 8 < of_8;
}

/* --- files and their changes ------------------------------------------------------------------ */

struct file *disk_file_new(struct crash_vfs *vfs, const char *name)
{
    struct file *file = (struct file *)mem_zalloc(sizeof *file);

    file->name = name ? mem_strdup(name) : NULL;
    file->linked = name != NULL;
    list_push_back(&vfs->files, &file->node);
    return file;
}

void disk_file_free(struct crash_vfs *vfs, struct file *file)
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

void disk_file_release(struct crash_vfs *vfs, struct file *file)
{
    if (!file->linked && !file->linked_durably && file->handles == 0)
        disk_file_free(vfs, file);
}

struct file *disk_find(const struct crash_vfs *vfs, const char *name)
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

void disk_write(struct file *file, int64_t offset, const void *data, size_t len)
{
    overwrite(&file->live, offset, data, len);
    if (file->name)
        remember(file, &(struct change){.offset = offset, .len = len}, data);
}

void disk_truncate(struct file *file, int64_t size)
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
            disk_file_release(vfs, file_of(it));
        }
    }
}

void disk_sync(struct crash_vfs *vfs, struct file *file)
{
    for (size_t i = 0; i < file->change_count; i++)
        apply(file, &file->changes[i], &file->durable);
    forget_changes(file);
    sync_folder(vfs, file);
}

/* --- what a power cut makes of un-synced changes ---------------------------------------------- */

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
        size_t j = (size_t)(disk_random(random) % (i + 1));
        order[i] = order[j];
        order[j] = i;
    }
    for (size_t i = 0; i < n; i++)
        apply_or_drop(file, &file->changes[order[i]], to, random, chance(random, 4));
    mem_free(order);
}

static void apply_prefix(const struct file *file, struct buf *to, uint64_t *random)
{
    size_t cut = (size_t)(disk_random(random) % file->change_count);

    for (size_t i = 0; i < cut; i++)
        apply(file, &file->changes[i], to);
    apply_torn(file, &file->changes[cut], to, random, 4);
}

/* `to` holds the durable content and becomes what the power cut left. */
static void apply_fate(const struct file *file, struct buf *to, uint64_t *random)
{
    size_t n = file->change_count;
    enum fate fate = (enum fate)(disk_random(random) % FATE_COUNT);
    size_t missing = fate == FATE_ALL_BUT_ONE && n ? (size_t)(disk_random(random) % n) : n;
    unsigned of_8 = fate == FATE_TORN ? 1 + (unsigned)(disk_random(random) % 7) : 4;

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

void disk_fail_sync(struct crash_vfs *vfs, struct file *file)
{
    apply_fate(file, &file->durable, &vfs->random);
    forget_changes(file);
}

/* --- images ----------------------------------------------------------------------------------- */

static void copy_buf(struct buf *to, const struct buf *from)
{
    buf_append(to, from->ptr, from->len);
}

static void copy_killed(struct crash_vfs *image, const struct file *from)
{
    if (!from->name || (!from->linked && !from->linked_durably))
        return;
    struct file *file = disk_file_new(image, from->name);
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
    struct file *older = disk_find(image, from->name);
    if (older) /* deleted, and its name was given to the new file */
        disk_file_free(image, older);
    struct file *file = disk_file_new(image, from->name);
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
    struct file *file = disk_find(vfs, name);

    if (file) {
        assert(file->handles == 0);
        disk_file_free(vfs, file);
    }
    file = disk_file_new(vfs, name);
    disk_write(file, 0, content.ptr, content.len);
    disk_sync(vfs, file);
}

bool crash_vfs_get(const struct crash_vfs *vfs, const char *name, struct bytes *content)
{
    const struct file *file = disk_find(vfs, name);

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
