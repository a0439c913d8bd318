/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The running scheduler: reads schedules.yml, opens the run storage, and does what tick.h says
 * until SIGTERM or SIGINT (exit 0). One thread besides those of libtaskmill and statsd.
 *
 *   SIGHUP reads the file of schedules again; one that cannot be used is an ERROR, and the old
 *   schedules go on. Sleeps end at the very millisecond of the next due time, and at once when the
 *   wall clock is set or the machine wakes up.
 *
 * Each run has the header `sentry-propagate-traces` = False, as the original's runs have; runs of
 * crontabs and of intervals from a minute on also `sentry-monitor-slug` (the entry's key) and
 * `sentry-monitor-check-in-id` (the run's id), with which workers that have Sentry report how the
 * run ended. That a run begins is not reported to Sentry.
 */
#ifndef TASKMILL_SCHEDULER_SCHEDULER_H
#define TASKMILL_SCHEDULER_SCHEDULER_H

#include <taskmill.h>

#include "scheduler/run_storage.h"

#define SCHEDULER_LEASE_S       15 /* of an unfinished run, until another scheduler takes it over */
#define SCHEDULER_SEND_LIMIT_S  5
#define SCHEDULER_MONITOR_MIN_S 60

struct scheduler_options {
    const char *schedules_path;
    struct run_storage *storage;     /* not owned */
    struct taskmill_app_options app; /* where to send; send_timeout_s is set here */
    uint32_t lease_s;                /* more than twice the send limit; 0: SCHEDULER_LEASE_S */
    const char *health_path;         /* touched while it runs; NULL: none */
    uint32_t health_every_ms;
    const char *statsd_address, *statsd_prefix; /* NULL: no statsd; no prefix */
};

/* 0 after a signal. Else the reason why it could not start: what schedules_read and statsd_start
 * return, ERR_INVALID for an entry that cannot be sent as it is, ERR_SYSTEM. */
int scheduler_run(const struct scheduler_options *options, struct err_text *why);

struct schedules;

/* Is every entry fit to be sent? Builds each message, sends nothing. ERR_INVALID names the first
 * that is not. */
int scheduler_check(const struct schedules *schedules, struct err_text *why);

#endif
