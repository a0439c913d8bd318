/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/stops.h"

#include <stdatomic.h>

#include "base/latch.h"
#include "base/log.h"
#include "base/mem.h"

#define TARGET "taskmill::broker"

struct stop {
    struct stop_job job;
    char *what;
    int64_t until_ms;
    pthread_t thread;
    struct latch done;
    atomic_int users; /* its thread, and stops_run */
};

static void let_go(struct stop *stop)
{
    if (atomic_fetch_sub(&stop->users, 1) > 1)
        return;
    latch_destroy(&stop->done);
    mem_free(stop->what);
    mem_free(stop);
}

static void *run(void *arg)
{
    struct stop *stop = arg;
    stop->job.stop(stop->job.arg, stop->until_ms);
    latch_open(&stop->done);
    let_go(stop);
    return NULL;
}

static struct stop *begin(const struct stop_job *job, int64_t until_ms)
{
    struct stop *stop = mem_zalloc(sizeof *stop);
    stop->job = *job;
    stop->what = mem_strdup(job->what);
    stop->until_ms = until_ms;
    latch_init(&stop->done);
    atomic_init(&stop->users, 2);
    if (pthread_create(&stop->thread, NULL, run, stop) == 0)
        return stop;
    run(stop); /* no thread to be had: one after the other, then */
    stop->thread = pthread_self();
    return stop;
}

/* True if it was left behind. */
static bool end(struct stop *stop, int64_t leave_ms)
{
    bool late = !latch_wait(&stop->done, leave_ms);
    if (late)
        log_warn(TARGET, NULL, "%s does not stop in time: the end does not wait for it",
                 stop->what);
    if (late)
        pthread_detach(stop->thread);
    else if (!pthread_equal(stop->thread, pthread_self()))
        pthread_join(stop->thread, NULL);
    let_go(stop);
    return late;
}

size_t stops_run(const struct stop_job *jobs, size_t count, int64_t until_ms, int64_t leave_ms)
{
    struct stop **stops = mem_calloc(count, sizeof *stops);
    size_t late = 0;
    for (size_t i = 0; i < count; i++)
        stops[i] = begin(&jobs[i], until_ms);
    for (size_t i = 0; i < count; i++)
        late += end(stops[i], leave_ms);
    mem_free(stops);
    return late;
}
