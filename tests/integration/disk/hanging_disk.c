/* SPDX-License-Identifier: Apache-2.0 */
/* For LD_PRELOAD: as long as the file $HANG_FILE exists, no sync returns, as on a disk that has
 * gone away. */
#include <dlfcn.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

static int hang_then(const char *name, int fd)
{
    const char *file = getenv("HANG_FILE");
    int (*real)(int) = (int (*)(int))(long)dlsym(RTLD_NEXT, name);

    while (file && access(file, F_OK) == 0)
        poll(NULL, 0, 20);
    return real(fd);
}

int fsync(int fd)
{
    return hang_then("fsync", fd);
}

int fdatasync(int fd)
{
    return hang_then("fdatasync", fd);
}
