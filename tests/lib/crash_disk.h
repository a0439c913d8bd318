/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the crash disk: the folder, its files and their un-synced changes (crash_disk.c), which
 * the methods that SQLite calls (crash_vfs.c) read and change. */
#ifndef TASKMILL_TESTS_LIB_CRASH_DISK_H
#define TASKMILL_TESTS_LIB_CRASH_DISK_H

#include <sqlite3.h>

#include "base/list.h"
#include "base/mem.h"
#include "crash_vfs.h"

#define SHM_LOCKS SQLITE_SHM_NLOCK

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

static inline struct file *file_of(struct list_node *node)
{
    return container_of(node, struct file, node);
}

uint64_t disk_random(uint64_t *state);
/* NULL: no such name. */
struct file *disk_find(const struct crash_vfs *vfs, const char *name);
struct file *disk_file_new(struct crash_vfs *vfs, const char *name);
void disk_file_free(struct crash_vfs *vfs, struct file *file);
/* Frees it when neither a name, a handle nor a power cut can bring it back. */
void disk_file_release(struct crash_vfs *vfs, struct file *file);
void disk_write(struct file *file, int64_t offset, const void *data, size_t len);
void disk_truncate(struct file *file, int64_t size);
void disk_sync(struct crash_vfs *vfs, struct file *file);
/* A random part of the changes reaches the disk, the rest never will: the kernel tells of a failed
 * write-back once, then takes the pages for clean. */
void disk_fail_sync(struct crash_vfs *vfs, struct file *file);

#endif
