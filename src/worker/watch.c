/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/watch.h"

#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/prometheus.h"
#include "base/statsd.h"
#include "http/http.h"
#include "worker/meters.h"
#include "worker/worker_int.h"

#define POD_MAX 256

/* In a container this is the pod's name. */
static void find_pod(char *pod, size_t room)
{
    if (gethostname(pod, room) != 0 || pod[0] == '\0')
        (void)snprintf(pod, room, "unknown");
    pod[room - 1] = '\0';
}

/* "a" or "a+b": a worker may serve several. */
static void name_applications(const struct tasks *tasks, struct buf *out)
{
    for (size_t i = 0; i < tasks->application_count; i++)
        buf_printf(out, "%s%s", i ? "+" : "", tasks->applications[i]);
}

static const char *pool_name(const struct worker *worker)
{
    return worker->options.processing_pool ? worker->options.processing_pool : "unknown";
}

static int open_statsd(struct worker *worker, struct err_text *why)
{
    const struct watch_options *o = &worker->options.watch;
    struct buf applications = {0};
    struct statsd_options options = {.address = o->statsd_addr,
                                     .prefix = o->statsd_prefix ? o->statsd_prefix : "",
                                     .interval_ms = WATCH_PERIOD_MS,
                                     .metrics = wmeters_registry(worker->watch.meters)};
    int rv;

    name_applications(worker->options.tasks, &applications);
    const struct statsd_tag tags[] = {{"application", buf_cstr(&applications)},
                                      {"processing_pool", pool_name(worker)}};
    options.tags = tags;
    options.tag_count = 2;
    rv = statsd_loop_open(&worker->watch.statsd, &options, why);
    buf_free(&applications);
    return rv;
}

/* --- the port -------------------------------------------------------------------------------- */

static unsigned tell_metrics(void *ctx, struct buf *out)
{
    struct worker *worker = (struct worker *)ctx;
    const struct prometheus_label label = {"processing_pool", pool_name(worker)};

    prometheus_write_labelled(wmeters_registry(worker->watch.meters), &label, 1, out);
    return HTTP_OK;
}

static unsigned tell_health(void *ctx, struct buf *out)
{
    (void)ctx;
    buf_append_str(out, "ok\n");
    return HTTP_OK;
}

static unsigned tell_readiness(void *ctx, struct buf *out)
{
    const struct worker *worker = (const struct worker *)ctx;

    if (worker->draining) {
        buf_append_str(out, "stopping\n");
        return HTTP_UNAVAILABLE;
    }
    if (pool_ready(worker->pool) == 0) {
        buf_append_str(out, "no child is ready\n");
        return HTTP_UNAVAILABLE;
    }
    buf_append_str(out, "ready\n");
    return HTTP_OK;
}

static const struct http_page pages[] = {
    {"/metrics", PROMETHEUS_CONTENT_TYPE, tell_metrics, true},
    {"/healthz", "text/plain; charset=utf-8", tell_health, false},
    {"/readyz", "text/plain; charset=utf-8", tell_readiness, false},
};

static int open_http(struct worker *worker, struct err_text *why)
{
    const struct http_options options = {.address = worker->options.watch.http_addr,
                                         .ports = 1,
                                         .setting = "--prometheus-port",
                                         .advice = "choose another one, or another "
                                                   "--prometheus-host",
                                         .pages = pages,
                                         .page_count = sizeof pages / sizeof pages[0],
                                         .ctx = worker};

    return http_open(&worker->watch.http, &options, why);
}

bool watch_is_wanted(const struct watch_options *options)
{
    return options->statsd_addr != NULL || options->http_addr != NULL;
}

int watch_open(struct worker *worker, struct err_text *why)
{
    const struct watch_options *o = &worker->options.watch;
    char pod[POD_MAX];
    int rv = 0;

    worker->watch.next_ms = worker->now_ms;
    if (!watch_is_wanted(o))
        return 0;
    find_pod(pod, sizeof pod);
    worker->watch.meters = wmeters_new(pod);
    if (o->statsd_addr != NULL)
        rv = open_statsd(worker, why);
    if (rv == 0 && o->http_addr != NULL)
        rv = open_http(worker, why);
    return rv;
}

void watch_close(struct worker *worker)
{
    http_close(worker->watch.http);
    worker->watch.http = NULL;
    statsd_loop_close(worker->watch.statsd);
    wmeters_free(worker->watch.meters);
    worker->watch.statsd = NULL;
    worker->watch.meters = NULL;
}

/* --- gauges ---------------------------------------------------------------------------------- */

static size_t blocked_brokers(const struct worker *worker)
{
    size_t blocked = 0;

    for (size_t i = 0; i < worker->options.hosts->count; i++)
        blocked += worker->hosts[i].peer.blocked_until_ms > worker->now_ms;
    return blocked;
}

static void set_gauges(struct worker *worker, const struct pool_counts *counts)
{
    struct worker_meters *meters = worker->watch.meters;

    wmeters_set(meters, WM_CHILD_TASKS, NULL,
                (int64_t)(worker->queue.count + worker->held.count + counts->waiting));
    wmeters_set(meters, WM_PROCESSED_TASKS, NULL, (int64_t)(worker->sent + worker->reports.count));
    wmeters_set(meters, WM_CONCURRENCY, NULL, worker->options.concurrency);
    wmeters_set(meters, WM_EXITING, NULL, (int64_t)counts->exiting);
    wmeters_set(meters, WM_CHILDREN, "pending", (int64_t)counts->pending);
    wmeters_set(meters, WM_CHILDREN, "running", (int64_t)counts->running);
    wmeters_set(meters, WM_CHILDREN, "exiting", (int64_t)counts->exiting);
    wmeters_set(meters, WM_ONCE_HELD, NULL, (int64_t)worker->held.count);
    wmeters_set(meters, WM_BROKERS_BLOCKED, NULL, (int64_t)blocked_brokers(worker));
}

/* Nothing is said before the first task: a worker that starts looks idle, and scaling down would
 * remove it; nor while it drains: its idle children are no spare room. */
static void set_occupancy(struct worker *worker, const struct pool_counts *counts)
{
    struct watch *watch = &worker->watch;
    struct occupancy_time before = watch->before;
    int64_t millionths;

    watch->before = counts->time;
    watch->had_task = watch->had_task || counts->time.busy_us > 0;
    if (worker->draining) {
        wmeters_set_occupancy(watch->meters, -1);
        return;
    }
    if (watch->had_task && occupancy_between(&before, &counts->time, &millionths))
        wmeters_set_occupancy(watch->meters, millionths);
}

static uint64_t grown(uint64_t before, uint64_t now)
{
    return now > before ? now - before : 0;
}

static void count_time(struct watch *watch, const struct occupancy_time *now)
{
    uint64_t busy_us = grown(watch->before.busy_us, now->busy_us);
    uint64_t wait_us = grown(watch->before.wait_us, now->wait_us);

    if (busy_us + wait_us == 0)
        return;
    wmeters_observe(watch->meters, WM_CHILD_BUSY, busy_us);
    wmeters_observe(watch->meters, WM_CHILD_WAIT, wait_us);
    wmeters_add(watch->meters, WM_PROMETHEUS_BUSY, busy_us);
    wmeters_add(watch->meters, WM_PROMETHEUS_WAIT, wait_us);
}

static void measure(struct worker *worker)
{
    struct watch *watch = &worker->watch;
    uint64_t overflows = metrics_overflows(wmeters_registry(watch->meters));
    struct pool_counts counts;

    pool_count(worker->pool, clock_boot_us(), &counts);
    count_time(watch, &counts.time);
    set_occupancy(worker, &counts);
    set_gauges(worker, &counts);
    wmeters_add(watch->meters, WM_OVERFLOWS, overflows - watch->overflows);
    watch->overflows = overflows;
}

/* --- the loop -------------------------------------------------------------------------------- */

void watch_poll(const struct worker *worker, struct pollfd fds[WATCH_FDS])
{
    const struct watch *watch = &worker->watch;

    fds[0] =
        (struct pollfd){.fd = watch->statsd ? statsd_loop_fd(watch->statsd) : -1, .events = POLLIN};
    fds[1] = (struct pollfd){.fd = watch->http ? http_fd(watch->http) : -1, .events = POLLIN};
}

static void serve_http(struct worker *worker)
{
    if (http_run(worker->watch.http, worker->now_ms) == 0)
        return;
    log_error(WORKER_TARGET, NULL, "the HTTP server of --prometheus-port has failed; it is closed");
    http_close(worker->watch.http);
    worker->watch.http = NULL;
}

void watch_turn(struct worker *worker, const struct pollfd fds[WATCH_FDS])
{
    bool readable = fds[0].fd >= 0 && fds[0].revents != 0, asked = fds[1].revents != 0;
    struct watch *watch = &worker->watch;

    if (watch->meters == NULL)
        return;
    if (worker->now_ms >= watch->next_ms) {
        watch->next_ms = worker->now_ms + WATCH_PERIOD_MS;
        measure(worker);
        asked = true; /* slow connections are cut */
    }
    if (watch->http != NULL && asked)
        serve_http(worker);
    if (watch->statsd != NULL)
        statsd_loop_run(watch->statsd, readable, worker->now_ms);
}

int64_t watch_next_ms(const struct worker *worker)
{
    return worker->watch.meters ? worker->watch.next_ms : CLOCK_NEVER;
}

void watch_forked(struct worker *worker)
{
    if (worker->watch.http != NULL)
        http_forked(worker->watch.http);
    if (worker->watch.statsd != NULL)
        statsd_loop_forked(worker->watch.statsd);
}

/* --- the shutdown ---------------------------------------------------------------------------- */

void watch_draining(struct worker *worker)
{
    worker->watch.stage_ms = worker->now_ms;
    wmeters_set_occupancy(worker->watch.meters, -1);
}

static void end_stage(struct worker *worker, const char *stage)
{
    struct watch *watch = &worker->watch;

    wmeters_observe_for(watch->meters, WM_STAGE, stage,
                        (uint64_t)(worker->now_ms - watch->stage_ms));
    watch->stage_ms = worker->now_ms;
}

void watch_reporting(struct worker *worker)
{
    if (worker->watch.is_reporting)
        return;
    worker->watch.is_reporting = true;
    end_stage(worker, "tasks");
}

void watch_ended(struct worker *worker, size_t tasks, size_t reports)
{
    if (worker->watch.meters == NULL)
        return;
    end_stage(worker, worker->watch.is_reporting ? "reports" : "tasks");
    wmeters_add(worker->watch.meters, WM_TASKS_DISCARDED, tasks);
    wmeters_add(worker->watch.meters, WM_RESULTS_DROPPED, reports);
    measure(worker);
}
