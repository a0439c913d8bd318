/* SPDX-License-Identifier: Apache-2.0 */
#include "base/health_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

static int touch(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_NOCTTY | O_CLOEXEC, 0644), rv, code;

    if (fd < 0)
        return -1;
    rv = futimens(fd, NULL);
    code = errno;
    close(fd);
    errno = code;
    return rv;
}

int health_file_open(struct health_file *file, const char *path, uint32_t every_ms,
                     const char *log_target, int64_t now_ms, struct err_text *why)
{
    *file = (struct health_file){.path = path,
                                 .every_ms = every_ms,
                                 .log_target = log_target,
                                 .next_ms = path ? now_ms + every_ms : CLOCK_NEVER,
                                 .told_ms = INT64_MIN};
    if (path == NULL || touch(path) == 0)
        return 0;
    return err_set(why, ERR_INVALID, "health-check file %s: %s", path, strerror(errno));
}

bool health_file_tick(struct health_file *file, int64_t now_ms)
{
    if (file->path == NULL || now_ms < file->next_ms)
        return false;
    file->next_ms = now_ms + file->every_ms;
    if (touch(file->path) == 0)
        return true;
    if (file->told_ms == INT64_MIN || now_ms - file->told_ms >= HEALTH_FILE_RETELL_MS) {
        file->told_ms = now_ms;
        log_error(file->log_target,
                  LOG_FIELDS(log_str("path", file->path), log_str("error", strerror(errno))),
                  "the health-check file cannot be touched");
    }
    return false;
}
