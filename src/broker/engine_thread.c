/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/engine_thread.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "base/latch.h"
#include "base/mem.h"

#define STATS_INTERVAL_MS 100

struct engine_thread {
    struct engine *engine;
    struct inbox *inbox;
    void (*failed)(void *ctx, int code, const char *why);
    void *failed_ctx;
    pthread_t thread;
    bool started;
    struct latch ended;
    _Atomic bool stopping;
    _Atomic int64_t turn_end_ms;
    _Atomic bool sleeping;
    pthread_mutex_t stats_lock;
    struct engine_stats stats;
    int64_t stats_at_ms;
};

struct engine_thread *engine_thread_new(struct engine *engine, struct inbox *inbox,
                                        void (*failed)(void *ctx, int code, const char *why),
                                        void *ctx)
{
    struct engine_thread *thread = mem_zalloc(sizeof *thread);
    thread->engine = engine;
    thread->inbox = inbox;
    thread->failed = failed;
    thread->failed_ctx = ctx;
    pthread_mutex_init(&thread->stats_lock, NULL);
    latch_init(&thread->ended);
    return thread;
}

static void publish_stats(struct engine_thread *thread, int64_t now_ms)
{
    if (now_ms - thread->stats_at_ms < STATS_INTERVAL_MS &&
        now_ms < engine_next_measure_ms(thread->engine))
        return;
    thread->stats_at_ms = now_ms;
    engine_measure(thread->engine, now_ms, clock_wall_ms());
    pthread_mutex_lock(&thread->stats_lock);
    engine_get_stats(thread->engine, &thread->stats);
    pthread_mutex_unlock(&thread->stats_lock);
}

/* Until an event arrives or the engine's nearest timer is due. The last numbers before a long sleep
 * must not stay unseen: then it wakes once more for them. */
static void sleep_until_due(struct engine_thread *thread, int64_t now_ms)
{
    int64_t wait_ms = engine_next_ms(thread->engine) - now_ms;
    int64_t measure_ms = engine_next_measure_ms(thread->engine) - now_ms;
    if (measure_ms < wait_ms)
        wait_ms = measure_ms;
    if (wait_ms <= 0 || !inbox_prepare_sleep(thread->inbox))
        return;
    bool stats_due = thread->stats_at_ms + STATS_INTERVAL_MS > now_ms;
    if (stats_due && wait_ms > STATS_INTERVAL_MS)
        wait_ms = STATS_INTERVAL_MS;
    struct pollfd poll_fd = {.fd = thread->inbox->event_fd, .events = POLLIN};
    atomic_store(&thread->sleeping, true);
    poll(&poll_fd, 1, wait_ms > 60000 ? 60000 : (int)wait_ms);
    atomic_store(&thread->sleeping, false);
    inbox_woken(thread->inbox);
}

static void turn_until_stopped(struct engine_thread *thread)
{
    for (;;) {
        bool stopping = atomic_load(&thread->stopping);
        struct inbox_node *events = inbox_take(thread->inbox, SIZE_MAX);
        int64_t now_ms = clock_boot_ms();
        bool work = events != NULL || engine_next_ms(thread->engine) <= now_ms;
        if (work) {
            int rc = engine_turn(thread->engine, events, now_ms, clock_wall_ms());
            now_ms = clock_boot_ms();
            atomic_store(&thread->turn_end_ms, now_ms);
            if (rc) {
                thread->failed(thread->failed_ctx, rc, engine_failure(thread->engine));
                return;
            }
        }
        publish_stats(thread, now_ms);
        if (stopping && !events && !engine_has_backlog(thread->engine)) {
            engine_measure(thread->engine, now_ms, clock_wall_ms());
            return;
        }
        if (!stopping)
            sleep_until_due(thread, now_ms);
    }
}

static void *run(void *ctx)
{
    struct engine_thread *thread = ctx;
    turn_until_stopped(thread);
    latch_open(&thread->ended);
    return NULL;
}

int engine_thread_start(struct engine_thread *thread, struct err_text *why)
{
    atomic_store(&thread->turn_end_ms, clock_boot_ms());
    int rc = pthread_create(&thread->thread, NULL, run, thread);
    if (rc)
        return err_set(why, ERR_SYSTEM, "engine thread: %s", strerror(rc));
    thread->started = true;
    return 0;
}

bool engine_thread_stop(struct engine_thread *thread, int64_t until_ms)
{
    if (!thread->started)
        return true;
    atomic_store(&thread->stopping, true);
    inbox_wake(thread->inbox);
    if (!latch_wait(&thread->ended, until_ms))
        return false;
    pthread_join(thread->thread, NULL);
    thread->started = false;
    return true;
}

void engine_thread_free(struct engine_thread *thread)
{
    if (!thread)
        return;
    pthread_mutex_destroy(&thread->stats_lock);
    latch_destroy(&thread->ended);
    mem_free(thread);
}

bool engine_thread_healthy(const struct engine_thread *thread, int64_t within_ms, int64_t boot_ms)
{
    return atomic_load(&thread->sleeping) ||
           boot_ms - atomic_load(&thread->turn_end_ms) <= within_ms;
}

void engine_thread_stats(struct engine_thread *thread, struct engine_stats *out)
{
    pthread_mutex_lock(&thread->stats_lock);
    *out = thread->stats;
    pthread_mutex_unlock(&thread->stats_lock);
}
