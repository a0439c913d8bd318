/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that exports to a statsd server. */
#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/statsd_port.h"

#define STOP_WAIT_S 1

struct statsd {
    uint64_t interval_ms;
    struct metrics *metrics;
    struct statsd_format *format;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stopping, ended; /* under the lock */
    bool exporting;       /* under the lock: reads the registry now */
    bool abandoned;       /* under the lock: nobody joins the thread, it frees everything */

    /* the thread's own */
    struct statsd_port port;
};

/* May take long: a name server that says nothing. */
static void resolve(struct statsd *statsd)
{
    struct lookup_answer answer;

    if (!statsd_port_may_resolve(&statsd->port, clock_boot_ms()))
        return;
    (void)lookup_now(statsd->port.host, statsd->port.port, SOCK_DGRAM, &answer);
    statsd_port_resolved(&statsd->port, &answer, clock_boot_ms());
}

/* --- the thread ------------------------------------------------------------------------------ */

static void destroy(struct statsd *statsd)
{
    statsd_port_close(&statsd->port);
    statsd_format_free(statsd->format);
    pthread_cond_destroy(&statsd->changed);
    pthread_mutex_destroy(&statsd->lock);
    mem_free(statsd);
}

static struct timespec time_after(struct timespec from, uint64_t ms)
{
    from.tv_sec += (time_t)(ms / 1000);
    from.tv_nsec += (long)(ms % 1000) * 1000000;
    if (from.tv_nsec >= 1000000000) {
        from.tv_sec++;
        from.tv_nsec -= 1000000000;
    }
    return from;
}

static struct timespec time_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now); /* tidy: clock_gettime, that of `changed` */
    return now;
}

/* True when it is time to end. */
static bool wait_until(struct statsd *statsd, const struct timespec *until)
{
    pthread_mutex_lock(&statsd->lock);
    while (!statsd->stopping &&
           pthread_cond_timedwait(&statsd->changed, &statsd->lock, until) != ETIMEDOUT)
        ;
    bool stopping = statsd->stopping;
    pthread_mutex_unlock(&statsd->lock);
    return stopping;
}

/* False when the registry may be gone. */
static bool begin_export(struct statsd *statsd)
{
    pthread_mutex_lock(&statsd->lock);
    statsd->exporting = !statsd->abandoned;
    bool may = statsd->exporting;
    pthread_mutex_unlock(&statsd->lock);
    return may;
}

static void end_export(struct statsd *statsd)
{
    pthread_mutex_lock(&statsd->lock);
    statsd->exporting = false;
    pthread_mutex_unlock(&statsd->lock);
}

static void *run(void *ctx)
{
    struct statsd *statsd = ctx;

    for (bool stopping = false; !stopping;) {
        struct timespec next = time_after(time_now(), statsd->interval_ms);
        if (statsd->port.fd < 0)
            resolve(statsd);
        stopping = wait_until(statsd, &next);
        if (!begin_export(statsd))
            break;
        statsd_port_export(&statsd->port, statsd->format, statsd->metrics, clock_boot_ms());
        end_export(statsd);
    }
    pthread_mutex_lock(&statsd->lock);
    statsd->ended = true;
    bool abandoned = statsd->abandoned;
    pthread_cond_signal(&statsd->changed);
    pthread_mutex_unlock(&statsd->lock);
    if (abandoned)
        destroy(statsd);
    return NULL;
}

static void init_sync(struct statsd *statsd)
{
    pthread_condattr_t attr;

    pthread_mutex_init(&statsd->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&statsd->changed, &attr);
    pthread_condattr_destroy(&attr);
}

int statsd_start(struct statsd **out, const struct statsd_options *options, struct err_text *why)
{
    struct statsd *statsd = mem_zalloc(sizeof *statsd);

    init_sync(statsd);
    statsd->interval_ms = options->interval_ms ? options->interval_ms : 1;
    statsd->metrics = options->metrics;
    statsd->format = statsd_format_new(options->prefix, options->tags, options->tag_count);
    int rv = statsd_port_init(&statsd->port, options->address, why);
    int rc = rv ? 0 : pthread_create(&statsd->thread, NULL, run, statsd);
    if (rc)
        rv = err_set(why, ERR_SYSTEM, "statsd thread: %s", strerror(rc));
    if (rv)
        destroy(statsd);
    else
        *out = statsd;
    return rv;
}

void statsd_stop(struct statsd *statsd)
{
    if (!statsd)
        return;
    struct timespec until = time_after(time_now(), STOP_WAIT_S * 1000);
    pthread_mutex_lock(&statsd->lock);
    statsd->stopping = true;
    pthread_cond_signal(&statsd->changed);
    /* An export never blocks, so it is waited for; a look-up may. */
    while (!statsd->ended) {
        int rc = pthread_cond_timedwait(&statsd->changed, &statsd->lock, &until);
        if (rc == ETIMEDOUT && !statsd->exporting)
            break;
        if (rc == ETIMEDOUT)
            until = time_after(time_now(), STOP_WAIT_S * 1000);
    }
    statsd->abandoned = !statsd->ended;
    bool abandoned = statsd->abandoned;
    if (abandoned)
        pthread_detach(statsd->thread);
    pthread_mutex_unlock(&statsd->lock);
    if (abandoned)
        return;
    pthread_join(statsd->thread, NULL);
    destroy(statsd);
}
