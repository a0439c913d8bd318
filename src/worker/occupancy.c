/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/occupancy.h"

/* A reader meets a writer in the middle seldom, and one that was killed there never ends. */
#define READ_TRIES 1000

enum state { NOT_RUNNING, WAITING, BUSY };

static void set_state(struct occupancy_account *account, enum state state, int64_t now_us)
{
    uint32_t version = atomic_load_explicit(&account->version, memory_order_relaxed);
    enum state old = (enum state)atomic_load_explicit(&account->state, memory_order_relaxed);
    int64_t past_us = now_us - atomic_load_explicit(&account->since_us, memory_order_relaxed);
    _Atomic uint64_t *sum = old == BUSY ? &account->busy_us : &account->wait_us;

    /* Whoever sees one of the new values sees the odd version, too. (Release on each value and not
     * one fence: the thread sanitizer does not know fences.) */
    atomic_store_explicit(&account->version, version + 1, memory_order_relaxed);
    if (old != NOT_RUNNING && past_us > 0)
        atomic_store_explicit(sum,
                              atomic_load_explicit(sum, memory_order_relaxed) + (uint64_t)past_us,
                              memory_order_release);
    atomic_store_explicit(&account->state, state, memory_order_release);
    atomic_store_explicit(&account->since_us, now_us, memory_order_release);
    atomic_store_explicit(&account->version, version + 2, memory_order_release);
}

void occupancy_wait(struct occupancy_account *account, int64_t now_us)
{
    set_state(account, WAITING, now_us);
}

void occupancy_busy(struct occupancy_account *account, int64_t now_us)
{
    set_state(account, BUSY, now_us);
}

void occupancy_reset(struct occupancy_account *account)
{
    atomic_store(&account->version, 0);
    atomic_store(&account->state, NOT_RUNNING);
    atomic_store(&account->since_us, 0);
    atomic_store(&account->busy_us, 0);
    atomic_store(&account->wait_us, 0);
}

struct reading {
    enum state state;
    int64_t since_us;
    uint64_t busy_us, wait_us;
};

static struct reading read_account(const struct occupancy_account *account)
{
    struct reading reading;
    uint32_t version;

    for (int i = 0; i < READ_TRIES; i++) {
        version = atomic_load_explicit(&account->version, memory_order_acquire);
        reading.state = (enum state)atomic_load_explicit(&account->state, memory_order_acquire);
        reading.since_us = atomic_load_explicit(&account->since_us, memory_order_acquire);
        reading.busy_us = atomic_load_explicit(&account->busy_us, memory_order_acquire);
        reading.wait_us = atomic_load_explicit(&account->wait_us, memory_order_acquire);
        if (version % 2 == 0 &&
            atomic_load_explicit(&account->version, memory_order_relaxed) == version)
            break;
    }
    return reading;
}

void occupancy_add(const struct occupancy_account *account, int64_t now_us,
                   struct occupancy_time *sum)
{
    struct reading reading = read_account(account);
    uint64_t past_us = now_us > reading.since_us ? (uint64_t)(now_us - reading.since_us) : 0;

    sum->busy_us += reading.busy_us + (reading.state == BUSY ? past_us : 0);
    sum->wait_us += reading.wait_us + (reading.state == WAITING ? past_us : 0);
}

bool occupancy_between(const struct occupancy_time *before, const struct occupancy_time *now,
                       int64_t *millionths)
{
    uint64_t busy_us = now->busy_us > before->busy_us ? now->busy_us - before->busy_us : 0;
    uint64_t wait_us = now->wait_us > before->wait_us ? now->wait_us - before->wait_us : 0;

    if (busy_us + wait_us == 0)
        return false;
    *millionths = (int64_t)((double)busy_us / (double)(busy_us + wait_us) * 1e6 + 0.5);
    return true;
}
