/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who owns a database: flock(2) on "<database>.lock", with the owner's pid inside. The kernel drops
 * the lock with the process, so nothing stale stays after a kill. The file itself stays too, but
 * for a database that is given back. So whoever gets the lock must look whether the name still
 * leads to the file that was locked: between somebody's open and flock a removal would let two
 * owners in.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "store/sql.h"

#define LOCK_POLL_MS 20

/* One lock for one file, whatever link led to it. */
static char *lock_name(const char *path)
{
    char *real = realpath(path, NULL);
    struct buf name = {0};

    buf_printf(&name, "%s.lock", real ? real : path);
    free(real); /* tidy: free, realpath allocated it */
    buf_append_byte(&name, '\0');
    return (char *)name.ptr;
}

static int lock_wait(int fd, uint32_t wait_ms)
{
    int64_t end_ms = clock_add(clock_boot_ms(), wait_ms);

    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EINTR)
            continue;
        if (errno != EWOULDBLOCK)
            return ERR_SYSTEM;
        if (clock_boot_ms() >= end_ms)
            return ERR_BUSY;
        nanosleep(&(struct timespec){.tv_nsec = LOCK_POLL_MS * 1000000L}, NULL);
    }
    return 0;
}

static int busy_text(const char *path, int fd, struct err_text *why)
{
    char text[32] = "";
    ssize_t len = pread(fd, text, sizeof text - 1, 0);
    long pid = len > 0 ? strtol(text, NULL, 10) : 0;

    if (pid <= 0)
        return err_set(why, ERR_BUSY, "database %s is in use by another process", path);
    return err_set(why, ERR_BUSY,
                   "database %s is in use by pid %ld; stop it or take a file of its own", path,
                   pid);
}

static int write_pid(int fd)
{
    char text[32];
    int len = snprintf(text, sizeof text, "%ld\n", (long)getpid());

    if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)len, 0) != len)
        return ERR_IO;
    return 0;
}

static bool leads_to(const char *name, int fd)
{
    struct stat named, opened;

    return stat(name, &named) == 0 && fstat(fd, &opened) == 0 && named.st_ino == opened.st_ino &&
           named.st_dev == opened.st_dev;
}

/* One try: *out stays -1 with result 0 when the file was removed meanwhile. */
static int lock_try(const char *path, const char *name, uint32_t wait_ms, int *out,
                    struct err_text *why)
{
    int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0644);

    if (fd < 0)
        return err_set(why, errno == EACCES || errno == EROFS ? ERR_DENIED : ERR_IO,
                       "cannot open the lock file %s: %s", name, strerror(errno));
    int rv = lock_wait(fd, wait_ms);
    if (rv == ERR_BUSY)
        busy_text(path, fd, why);
    else if (rv)
        err_set(why, rv, "cannot lock %s: %s", name, strerror(errno));
    else if (leads_to(name, fd)) {
        rv = write_pid(fd);
        if (rv)
            err_set(why, rv, "cannot write the lock file %s: %s", name, strerror(errno));
        else
            *out = fd;
    }
    if (*out != fd)
        close(fd);
    return rv;
}

int lock_take(const char *path, uint32_t wait_ms, int *out, struct err_text *why)
{
    char *name = lock_name(path);
    int rv;

    *out = -1;
    do
        rv = lock_try(path, name, wait_ms, out, why);
    while (rv == 0 && *out < 0);
    mem_free(name);
    return rv;
}

void lock_release(int fd)
{
    if (fd >= 0)
        close(fd);
}

bool lock_file_exists(const char *path)
{
    char *name = lock_name(path);
    bool exists = access(name, F_OK) == 0;

    mem_free(name);
    return exists;
}

void lock_remove(const char *path, int fd)
{
    char *name = lock_name(path);

    if (fd >= 0)
        unlink(name);
    mem_free(name);
    lock_release(fd);
}

/* The bytes on which SQLite's unix files are locked (its "pending byte" page). */
#define SQLITE_LOCK_START 0x40000000
#define SQLITE_LOCK_LEN   512

long lock_user(const char *path)
{
    struct flock lock = {.l_type = F_WRLCK,
                         .l_whence = SEEK_SET,
                         .l_start = SQLITE_LOCK_START,
                         .l_len = SQLITE_LOCK_LEN};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    long pid = 0;

    if (fd < 0)
        return 0;
    if (fcntl(fd, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK)
        pid = lock.l_pid;
    close(fd);
    return pid;
}
