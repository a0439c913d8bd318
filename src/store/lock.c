/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who owns a database: flock(2) on "<database>.lock", with the owner's pid inside. The kernel drops
 * the lock with the process, so nothing stale stays after a kill. The file itself is never removed:
 * between somebody's open and flock that would let two owners in.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
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
    return err_set(
        why, ERR_BUSY,
        "database %s is in use by pid %ld; stop it or give this broker a file of its own", path,
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

int lock_take(const char *path, uint32_t wait_ms, int *out, struct err_text *why)
{
    char *name = lock_name(path);
    int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    int rv;

    if (fd < 0) {
        rv = err_set(why, errno == EACCES || errno == EROFS ? ERR_DENIED : ERR_IO,
                     "cannot open the lock file %s: %s", name, strerror(errno));
        goto out;
    }
    rv = lock_wait(fd, wait_ms);
    if (rv == ERR_BUSY)
        busy_text(path, fd, why);
    else if (rv || (rv = write_pid(fd)) != 0)
        err_set(why, rv, "cannot lock %s: %s", name, strerror(errno));
    if (rv)
        close(fd);
    else
        *out = fd;
out:
    mem_free(name);
    return rv;
}

void lock_release(int fd)
{
    if (fd >= 0)
        close(fd);
}
