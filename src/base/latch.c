/* SPDX-License-Identifier: Apache-2.0 */
#include "base/latch.h"

#include <assert.h>
#include <time.h>

#include "base/clock.h"

/* Condition variables know no CLOCK_BOOTTIME: a wait is cut into pieces, so that time during which
 * the machine slept counts, too. */
#define PIECE_MS 1000

void latch_init(struct latch *latch)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    int rv = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    assert(rv == 0);
    pthread_mutex_init(&latch->lock, NULL);
    pthread_cond_init(&latch->opened, &attr);
    pthread_condattr_destroy(&attr);
    latch->open = false;
}

void latch_destroy(struct latch *latch)
{
    pthread_cond_destroy(&latch->opened);
    pthread_mutex_destroy(&latch->lock);
}

void latch_open(struct latch *latch)
{
    pthread_mutex_lock(&latch->lock);
    latch->open = true;
    pthread_cond_broadcast(&latch->opened);
    pthread_mutex_unlock(&latch->lock);
}

static struct timespec monotonic_in(int64_t ms)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at); /* tidy: clock_gettime, what the variable waits by */
    at.tv_sec += ms / 1000;
    at.tv_nsec += ms % 1000 * 1000000;
    if (at.tv_nsec >= 1000000000) {
        at.tv_nsec -= 1000000000;
        at.tv_sec++;
    }
    return at;
}

bool latch_wait(struct latch *latch, int64_t until_ms)
{
    pthread_mutex_lock(&latch->lock);
    while (!latch->open) {
        int64_t left_ms = until_ms == CLOCK_NEVER ? PIECE_MS : until_ms - clock_boot_ms();
        if (left_ms <= 0)
            break;
        struct timespec at = monotonic_in(left_ms < PIECE_MS ? left_ms : PIECE_MS);
        pthread_cond_timedwait(&latch->opened, &latch->lock, &at);
    }
    bool open = latch->open;
    pthread_mutex_unlock(&latch->lock);
    return open;
}
