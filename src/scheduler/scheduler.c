/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/scheduler.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/health_file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "base/statsd.h"
#include "scheduler/outbound.h"
#include "scheduler/tick.h"

#define TARGET          "taskmill::scheduler"
#define SERIES_MAX      10000
#define STATSD_EVERY_MS 10000

enum meter { METER_DELAY, METER_SYNC, METER_MISS, METER_COUNT };

static const struct metric_def meters[METER_COUNT] = {
    [METER_DELAY] = {.name = "taskworker.scheduler.delay_task",
                     .help = "runs sent",
                     .kind = METRIC_COUNTER,
                     .labels = {"taskname", "namespace"}},
    [METER_SYNC] = {.name = "taskworker.scheduler.sync_with_storage",
                    .help = "runs that another scheduler had claimed",
                    .kind = METRIC_COUNTER,
                    .labels = {"taskname", "namespace"}},
    [METER_MISS] = {.name = "taskworker.scheduler.run_storage.read.miss",
                    .help = "entries of which the storage knew no run",
                    .kind = METRIC_COUNTER,
                    .labels = {"taskname"}},
};

struct scheduler {
    const struct scheduler_options *options;
    struct schedules *schedules;
    struct outbound *outbound;
    struct tick *tick;
    struct metrics *metrics;
    struct metric_family *families[METER_COUNT];
    struct statsd *statsd;
    int signal_fd, timer_fd;
    bool stopping;
    struct health_file health;
};

/* --- what the ticks need --------------------------------------------------------------------- */

static void now(void *ctx, int64_t *wall_ms, int64_t *boot_ms)
{
    (void)ctx;
    *wall_ms = clock_wall_ms();
    *boot_ms = clock_boot_ms();
}

static void send_runs(void *ctx, struct tick_run *runs, size_t count)
{
    outbound_send(((struct scheduler *)ctx)->outbound, runs, count);
}

static void count_event(struct scheduler *scheduler, enum meter meter, const char *task,
                        const char *namespace)
{
    const struct bytes values[] = {bytes_str(task), bytes_str(namespace)};

    metric_add(metrics_series(scheduler->families[meter], values), 1);
}

/* The original counts a miss under the whole key. */
static void count_miss(struct scheduler *scheduler, const struct schedules_entry *entry)
{
    struct schedule_names names = schedules_names(entry);
    struct buf key = {0};

    schedule_storage_key(&names, SCHEDULE_KEY, &key);
    count_event(scheduler, METER_MISS, buf_cstr(&key), "");
    buf_free(&key);
}

static void on_event(void *ctx, enum tick_event event, const struct schedules_entry *entry,
                     const struct tick_run *run, int64_t late_ms)
{
    struct scheduler *scheduler = (struct scheduler *)ctx;

    switch (event) {
    case TICK_SENT:
        count_event(scheduler, METER_DELAY, entry->task, entry->namespace);
        log_info(TARGET,
                 LOG_FIELDS(log_str("entry", entry->key), log_str("namespace", entry->namespace),
                            log_str("task", entry->task), log_str("id", run->id),
                            log_int("due", run->due_s), log_int("late_ms", late_ms)),
                 "sent a run");
        break;
    case TICK_SYNCED:
        count_event(scheduler, METER_SYNC, entry->task, entry->namespace);
        log_debug(TARGET, LOG_FIELDS(log_str("entry", entry->key)),
                  "another scheduler has this run");
        break;
    case TICK_UNKNOWN:
        count_miss(scheduler, entry);
        log_debug(TARGET, LOG_FIELDS(log_str("entry", entry->key)),
                  "the storage knows no run of this entry");
        break;
    }
}

/* --- schedules ------------------------------------------------------------------------------- */

/* Everything that a file of schedules brings, or nothing. */
static int read_schedules(const struct scheduler_options *options, struct schedules **schedules,
                          struct outbound **outbound, struct err_text *why)
{
    struct taskmill_app_options app = options->app;
    struct schedules *read = NULL;
    struct outbound *opened = NULL;
    int rv = schedules_read(&read, options->schedules_path, why);

    if (rv != 0)
        return rv;
    app.send_timeout_s = SCHEDULER_SEND_LIMIT_S;
    rv = outbound_new(&opened, read->application, &app, why);
    if (rv == 0 && (rv = outbound_check(opened, read, why)) != 0)
        rv = err_set(why, rv, "%s: %s", options->schedules_path, why->s);
    if (rv == 0) {
        *schedules = read;
        *outbound = opened;
        return 0;
    }
    outbound_free(opened);
    schedules_free(read);
    return rv;
}

int scheduler_check(const struct schedules *schedules, struct err_text *why)
{
    const struct taskmill_app_options app = {.size = sizeof app, .broker = "127.0.0.1:1"};
    struct outbound *outbound = NULL;
    int rv = outbound_new(&outbound, schedules->application, &app, why);

    if (rv == 0)
        rv = outbound_check(outbound, schedules, why);
    outbound_free(outbound);
    return rv;
}

static void reload(struct scheduler *scheduler)
{
    struct schedules *schedules, *old = scheduler->schedules;
    struct outbound *outbound;
    struct err_text why = {{0}};

    if (read_schedules(scheduler->options, &schedules, &outbound, &why) != 0) {
        log_error(TARGET, LOG_FIELDS(log_str("error", why.s)),
                  "the schedules cannot be used; the old ones go on");
        return;
    }
    tick_replace(scheduler->tick, schedules);
    scheduler->schedules = schedules;
    schedules_free(old);
    outbound_free(scheduler->outbound);
    scheduler->outbound = outbound;
    log_info(TARGET, LOG_FIELDS(log_int("entries", (int64_t)schedules->count)),
             "read the schedules again");
}

/* --- the loop -------------------------------------------------------------------------------- */

static void read_signals(struct scheduler *scheduler)
{
    struct signalfd_siginfo info;

    while (read(scheduler->signal_fd, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo == SIGHUP)
            reload(scheduler);
        else
            scheduler->stopping = true;
    }
}

/* A timer of the wall clock, to be at the due time to the millisecond; it also ends when the clock
 * is set. */
static void set_timer(struct scheduler *scheduler, int64_t wait_ms)
{
    int64_t at_ms = clock_wall_ms() + wait_ms;
    const struct itimerspec at = {
        .it_value = {.tv_sec = at_ms / 1000, .tv_nsec = at_ms % 1000 * 1000000}};

    (void)timerfd_settime(scheduler->timer_fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &at,
                          NULL);
}

static void sleep_until_due(struct scheduler *scheduler, int64_t wait_ms)
{
    struct pollfd fds[] = {{.fd = scheduler->signal_fd, .events = POLLIN},
                           {.fd = scheduler->timer_fd, .events = POLLIN}};
    int64_t health_ms = scheduler->options->health_path == NULL
                            ? TICK_SLEEP_MAX_MS
                            : scheduler->health.next_ms - clock_boot_ms();
    uint64_t expirations;

    set_timer(scheduler, wait_ms);
    (void)poll(fds, 2, wait_ms == 0 || health_ms < 0 ? 0 : (int)health_ms);
    if (fds[1].revents != 0)
        (void)!read(scheduler->timer_fd, &expirations, sizeof expirations);
}

static void loop(struct scheduler *scheduler)
{
    while (!scheduler->stopping) {
        int64_t wait_ms = tick_turn(scheduler->tick);

        (void)health_file_tick(&scheduler->health, clock_boot_ms());
        sleep_until_due(scheduler, wait_ms);
        read_signals(scheduler);
    }
    tick_release(scheduler->tick);
}

/* --- start ----------------------------------------------------------------------------------- */

static int open_fds(struct scheduler *scheduler, struct err_text *why)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    (void)signal(SIGPIPE, SIG_IGN);
    if (pthread_sigmask(SIG_BLOCK, &set, NULL) != 0)
        return err_set(why, ERR_SYSTEM, "pthread_sigmask failed");
    scheduler->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    scheduler->timer_fd = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    if (scheduler->signal_fd < 0 || scheduler->timer_fd < 0)
        return err_set(why, ERR_SYSTEM, "signalfd or timerfd: %s", strerror(errno));
    return 0;
}

static int open_meters(struct scheduler *scheduler, struct err_text *why)
{
    const struct scheduler_options *options = scheduler->options;
    const struct statsd_tag tag = {"application", scheduler->schedules->application};
    const struct statsd_options statsd = {
        .address = options->statsd_address,
        .prefix = options->statsd_prefix != NULL ? options->statsd_prefix : "",
        .tags = &tag,
        .tag_count = 1,
        .interval_ms = STATSD_EVERY_MS,
        .metrics = scheduler->metrics};

    for (int i = 0; i < METER_COUNT; i++)
        scheduler->families[i] = metrics_family(scheduler->metrics, &meters[i]);
    return options->statsd_address != NULL ? statsd_start(&scheduler->statsd, &statsd, why) : 0;
}

static int make_tick(struct scheduler *scheduler, struct err_text *why)
{
    uint32_t lease_s = scheduler->options->lease_s;
    struct tick_options options = {.storage = scheduler->options->storage,
                                   .now = now,
                                   .send = send_runs,
                                   .event = on_event,
                                   .ctx = scheduler,
                                   .lease_ms = (lease_s != 0 ? lease_s : SCHEDULER_LEASE_S) * 1000,
                                   .send_limit_ms = SCHEDULER_SEND_LIMIT_S * 1000};
    uint8_t random[(RUN_OWNER_SIZE - 1) / 2 + sizeof options.seed];

    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return err_set(why, ERR_SYSTEM, "getrandom: %s", strerror(errno));
    for (size_t i = 0; i < (RUN_OWNER_SIZE - 1) / 2; i++)
        (void)snprintf(options.owner + 2 * i, 3, "%02x", random[i]);
    memcpy(&options.seed, random + (RUN_OWNER_SIZE - 1) / 2, sizeof options.seed);
    scheduler->tick = tick_new(&options, scheduler->schedules);
    return 0;
}

static void shut_down(struct scheduler *scheduler)
{
    tick_free(scheduler->tick);
    statsd_stop(scheduler->statsd);
    outbound_free(scheduler->outbound);
    schedules_free(scheduler->schedules);
    metrics_free(scheduler->metrics);
    if (scheduler->signal_fd >= 0)
        close(scheduler->signal_fd);
    if (scheduler->timer_fd >= 0)
        close(scheduler->timer_fd);
}

int scheduler_run(const struct scheduler_options *options, struct err_text *why)
{
    struct scheduler scheduler = {.options = options, .signal_fd = -1, .timer_fd = -1};
    int rv;

    scheduler.metrics = metrics_new(SERIES_MAX);
    rv = open_fds(&scheduler, why);
    if (rv == 0)
        rv = read_schedules(options, &scheduler.schedules, &scheduler.outbound, why);
    if (rv == 0)
        rv = open_meters(&scheduler, why);
    if (rv == 0)
        rv = make_tick(&scheduler, why);
    if (rv == 0)
        rv = health_file_open(&scheduler.health, options->health_path, options->health_every_ms,
                              TARGET, clock_boot_ms(), why);
    if (rv == 0) {
        log_info(TARGET,
                 LOG_FIELDS(log_str("application", scheduler.schedules->application),
                            log_int("entries", (int64_t)scheduler.schedules->count),
                            log_str("storage", options->storage->ops->name(options->storage))),
                 "the scheduler runs");
        loop(&scheduler);
        log_info(TARGET, NULL, "the scheduler ends");
    }
    shut_down(&scheduler);
    return rv;
}
