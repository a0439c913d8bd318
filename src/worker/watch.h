/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the outside sees of a worker: once a period (1 s) the gauges are set, and everything counted
 * (meters.h) goes to a statsd server; and a port (http/http.h) has
 *
 *   /metrics   the same for Prometheus; every series has the label processing_pool
 *   /healthz   200: the worker's loop turns, else there would be no answer
 *   /readyz    200 while a child is ready and the worker does not drain, else 503 and why
 *
 * All of it runs in the worker's one thread, so that no lock is
 * held by anybody when a child is forked, and nothing here waits.
 */
#ifndef TASKMILL_WORKER_WATCH_H
#define TASKMILL_WORKER_WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <poll.h>

#include "base/err.h"
#include "worker/occupancy.h"

#define WATCH_PERIOD_MS 1000

struct watch_options {
    const char *statsd_addr;   /* host:port; NULL: none */
    const char *statsd_prefix; /* before each name */
    const char *http_addr;     /* 127.0.0.1:9465, http_check says so; NULL: no port */
};

struct worker;
struct worker_meters;
struct statsd_loop;
struct http;

struct watch {
    struct worker_meters *meters; /* NULL: nobody watches */
    struct statsd_loop *statsd;   /* NULL: none */
    struct http *http;            /* NULL: none */
    int64_t next_ms;
    struct occupancy_time before; /* at the last period */
    uint64_t overflows;
    int64_t stage_ms; /* when the current stage of the shutdown began */
    bool had_task, is_reporting;
    bool is_get_task; /* the task that is taken came by GetTask */
};

bool watch_is_wanted(const struct watch_options *options);
int watch_open(struct worker *worker, struct err_text *why);
/* After the last task and report; sends the last numbers. */
void watch_close(struct worker *worker);

/* Of the loop. */
#define WATCH_FDS 2
void watch_poll(const struct worker *worker, struct pollfd fds[WATCH_FDS]);
void watch_turn(struct worker *worker, const struct pollfd fds[WATCH_FDS]);
int64_t watch_next_ms(const struct worker *worker);
/* In a new child. */
void watch_forked(struct worker *worker);

/* The drain begins; all tasks have ended; the worker ends and drops so many tasks and reports. */
void watch_draining(struct worker *worker);
void watch_reporting(struct worker *worker);
void watch_ended(struct worker *worker, size_t tasks, size_t reports);

#endif
