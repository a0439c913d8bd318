/* SPDX-License-Identifier: Apache-2.0 */
#include "client/ids.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/error.h"
#include "wire/ident.h"

_Static_assert(TASKMILL_ID_SIZE > IDENT_DASHED_LEN, "an id of either spelling fits");

/*
 * Random bytes are fetched for some ids at once and kept by each thread, because a system call for
 * each is a sixth of what a send costs. What is kept must never be used twice:
 *   - A forked child throws it away. It knows by a page that the kernel wipes in a child, however
 *     it was forked; a page of a process that is not wiped holds the number of its life.
 *   - A machine that is frozen and started several times would repeat it. So it is used for a few
 *     milliseconds only, and an idle program has none.
 * A kernel that does not wipe pages (before Linux 4.14): one call for each id.
 */
#define KEPT_BYTES  256 /* what getrandom gives without being interrupted */
#define KEPT_AGE_MS 5

struct kept {
    uint8_t bytes[KEPT_BYTES];
    size_t used;
    uint64_t life; /* 0: never filled */
    int64_t since_ms;
};

static _Thread_local struct kept kept;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Atomic uint64_t *page; /* NULL: pages are not wiped */
static _Atomic uint64_t lives; /* in a child: how many its ancestors had, too */

static void map_page(void)
{
    size_t len = (size_t)sysconf(_SC_PAGESIZE);
    void *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        return;
    if (madvise(memory, len, MADV_WIPEONFORK) == 0)
        page = memory;
    else
        munmap(memory, len);
}

/* Never 0, and another one after each fork. */
static uint64_t current_life(void)
{
    uint64_t life = atomic_load_explicit(page, memory_order_relaxed);

    if (life != 0)
        return life;
    life = atomic_fetch_add(&lives, 1) + 1;
    return atomic_compare_exchange_strong(page, &(uint64_t){0}, life) ? life : atomic_load(page);
}

static int fetch(uint8_t *out, size_t len)
{
    while (getrandom(out, len, 0) != (ssize_t)len)
        if (errno != EINTR)
            return error_set(ERR_SYSTEM, "getrandom: %s", strerror(errno));
    return 0;
}

static int refill(uint64_t life, int64_t now_ms)
{
    int rv = fetch(kept.bytes, sizeof kept.bytes);

    kept.life = rv == 0 ? life : 0;
    kept.used = 0;
    kept.since_ms = now_ms;
    return rv;
}

static int random_bytes(uint8_t out[16])
{
    int64_t now_ms = clock_boot_ms();
    uint64_t life;
    int rv = 0;

    pthread_once(&once, map_page);
    if (page == NULL)
        return fetch(out, 16);
    life = current_life();
    if (kept.life != life || kept.used == sizeof kept.bytes || now_ms - kept.since_ms > KEPT_AGE_MS)
        rv = refill(life, now_ms);
    if (rv != 0)
        return rv;
    memcpy(out, kept.bytes + kept.used, 16);
    kept.used += 16;
    return 0;
}

static int random_id(char id[IDENT_HEX_LEN + 1])
{
    uint8_t random[16];
    int rv = random_bytes(random);

    if (rv == 0)
        ident_random(id, random);
    return rv;
}

static bool is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

/* Lower case only: brokers compare ids byte by byte. */
static bool well_spelled(const char *id, size_t len)
{
    bool dashed = len == IDENT_DASHED_LEN;

    if (!dashed && len != IDENT_HEX_LEN)
        return false;
    for (size_t i = 0; i < len; i++) {
        bool dash = dashed && (i == 8 || i == 13 || i == 18 || i == 23);

        if (dash ? id[i] != '-' : !is_hex(id[i]))
            return false;
    }
    return true;
}

int ids_choose(char id[TASKMILL_ID_SIZE], const char *given)
{
    size_t len;

    if (given == NULL)
        return random_id(id);
    len = strnlen(given, TASKMILL_ID_SIZE);
    if (!well_spelled(given, len))
        return error_set(ERR_INVALID,
                         "send_id '%.*s': write 32 lower-case hexadecimal digits, or 36 characters "
                         "with dashes as in 01234567-89ab-cdef-0123-456789abcdef",
                         TASKMILL_ID_SIZE, given);
    memcpy(id, given, len + 1);
    return 0;
}
