/* SPDX-License-Identifier: Apache-2.0 */
/* The broker as a process: signals, log, exit code. */
#include "broker/broker.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/statsd.h"

#define TARGET        "taskmill::broker"
#define TICK_MS       500
#define LINGER_MS     1000
#define LINGER_MIN_MS 100

static const int signals[] = {SIGINT, SIGTERM, SIGQUIT, SIGHUP};

/* All threads inherit the mask; only the signalfd sees these signals. */
static int open_signals(struct err_text *why)
{
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        sigaddset(&set, signals[i]);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return fd >= 0 ? fd : err_set(why, ERR_SYSTEM, "signalfd: %s", strerror(errno));
}

static int read_signal(int fd)
{
    struct signalfd_siginfo info;
    return read(fd, &info, sizeof info) == (ssize_t)sizeof info ? (int)info.ssi_signo : 0;
}

/* Until a signal that stops arrives or a component fails; true: a signal. */
static bool serve(struct broker *broker, int signal_fd)
{
    for (;;) {
        struct pollfd fds[] = {{.fd = signal_fd, .events = POLLIN},
                               {.fd = broker_fd(broker), .events = POLLIN}};
        poll(fds, 2, TICK_MS);
        broker_tick(broker);
        const char *failure = broker_failure(broker);
        if (failure) {
            log_error(TARGET, NULL, "%s", failure);
            return false;
        }
        int signo = read_signal(signal_fd);
        if (signo == SIGHUP) {
            broker_reload(broker);
        } else if (signo) {
            log_info(TARGET, NULL, "received %s", strsignal(signo));
            return true;
        }
    }
}

/* --- the watch ------------------------------------------------------------------------------- */

enum stage {
    STARTING, /* a signal ends it at once: nothing has been acknowledged */
    SERVING,  /* the main thread looks after signals */
    STOPPING, /* a signal, or the end of shutdown_timeout_ms, ends it at once */
    ENDING,   /* everything is closed; only memory is given back */
    GONE
};

/* A thread that does what the main thread cannot while it blocks: ending the process. */
struct watch {
    int signal_fd, wake_fd;
    pthread_t thread;
    _Atomic int stage;
    _Atomic int64_t until_ms;
    uint64_t timeout_ms;
    struct broker *broker; /* from STOPPING on */
    int exit_code;         /* from ENDING on */
};

static void on_signal(enum stage stage, int signo)
{
    if (stage == STARTING) {
        log_info(TARGET, NULL, "received %s during the start: exit", strsignal(signo));
        _exit(0);
    }
    log_error(
        TARGET, NULL,
        "second signal: exit without waiting; the store is consistent, the next start recovers it");
    _exit(1);
}

static void on_timeout(const struct watch *watch, enum stage stage)
{
    if (stage == ENDING) {
        /* A server that holds the connection and does not answer keeps the library for a minute,
         * and by then nothing depends on it. */
        log_warn(TARGET, NULL, "the Kafka library still waits for a server; exit without it");
        _exit(watch->exit_code);
    }
    const char *phase = broker_stopping(watch->broker);
    /* The last ERROR is the cause. */
    log_at(broker_failure(watch->broker) ? LOG_WARN : LOG_ERROR, TARGET, NULL,
           "shutdown_timeout_ms (%llu) has passed and the broker still waits %s: exit without it; "
           "what was acknowledged is in the store, the next start recovers it",
           (unsigned long long)watch->timeout_ms, phase ? phase : "to end");
    _exit(1);
}

static int wait_ms(const struct watch *watch)
{
    int64_t until_ms = atomic_load(&watch->until_ms);
    if (until_ms == CLOCK_NEVER)
        return -1;
    int64_t left_ms = until_ms - clock_boot_ms();
    return left_ms < 0 ? 0 : left_ms < INT32_MAX ? (int)left_ms : INT32_MAX;
}

static void *keep_watch(void *ctx)
{
    struct watch *watch = ctx;
    enum stage stage;
    while ((stage = (enum stage)atomic_load(&watch->stage)) != GONE) {
        struct pollfd fds[] = {{.fd = watch->wake_fd, .events = POLLIN},
                               {.fd = watch->signal_fd, .events = POLLIN}};
        eventfd_t count;
        poll(fds, stage == SERVING ? 1 : 2, wait_ms(watch));
        if (eventfd_read(watch->wake_fd, &count) == 0 || stage == SERVING)
            continue;
        int signo = read_signal(watch->signal_fd);
        if (signo && signo != SIGHUP) /* that asks for a reload: there is nothing to reload now */
            on_signal(stage, signo);
        if (wait_ms(watch) == 0)
            on_timeout(watch, stage);
    }
    return NULL;
}

static void enter(struct watch *watch, enum stage stage, int64_t until_ms)
{
    atomic_store(&watch->until_ms, until_ms);
    atomic_store(&watch->stage, stage);
    eventfd_write(watch->wake_fd, 1);
}

static int watch_begin(struct watch *watch, const struct config *cfg, int signal_fd)
{
    *watch = (struct watch){.signal_fd = signal_fd,
                            .wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                            .timeout_ms = cfg->shutdown_timeout_ms};
    atomic_init(&watch->stage, STARTING);
    atomic_init(&watch->until_ms, CLOCK_NEVER);
    return watch->wake_fd < 0 || pthread_create(&watch->thread, NULL, keep_watch, watch)
               ? ERR_SYSTEM
               : 0;
}

static void watch_end(struct watch *watch)
{
    enter(watch, GONE, CLOCK_NEVER);
    pthread_join(watch->thread, NULL);
    close(watch->wake_fd);
}

/* --- the command ----------------------------------------------------------------------------- */

static void print_configuration(const struct config *cfg)
{
    struct buf text = {0};
    config_print(cfg, &text);
    log_info(TARGET, LOG_FIELDS(log_bytes("config", buf_bytes(&text))), "Configuration");
    buf_free(&text);
}

static int start_statsd(struct statsd **out, const struct config *cfg, const struct broker *broker,
                        struct err_text *why)
{
    const struct config_map *map = &cfg->default_metrics_tags;
    struct statsd_tag *tags = mem_calloc(map->count, sizeof *tags);
    for (size_t i = 0; i < map->count; i++)
        tags[i] = (struct statsd_tag){.key = map->pairs[i].key, .value = map->pairs[i].value};
    const struct statsd_options options = {.address = cfg->statsd_addr,
                                           .prefix = "taskbroker.",
                                           .tags = tags,
                                           .tag_count = map->count,
                                           .interval_ms = cfg->runtime_metrics_interval_ms,
                                           .metrics = broker_metrics(broker)};
    int rc = statsd_start(out, &options, why);
    mem_free(tags);
    return rc;
}

/* The broker, from its start to its end: the exit code. */
static int live(struct broker **out, const struct config *cfg, struct watch *watch)
{
    struct err_text why;
    struct statsd *statsd = NULL;
    if (broker_create(out, cfg, &why) || start_statsd(&statsd, cfg, *out, &why) ||
        broker_start(*out, &why)) {
        log_error(TARGET, NULL, "%s", why.s);
        statsd_stop(statsd);
        return 1;
    }
    struct broker *broker = *out;
    enter(watch, SERVING, CLOCK_NEVER);
    bool signalled = serve(broker, watch->signal_fd);
    watch->broker = broker;
    enter(watch, STOPPING, clock_boot_ms() + (int64_t)cfg->shutdown_timeout_ms);
    broker_stop(broker);
    const char *failure = broker_failure(broker);
    if (failure && signalled)
        log_error(TARGET, NULL, "%s", failure);
    statsd_stop(statsd); /* sends what the drain has counted */
    log_info(TARGET, NULL, "stopped");
    return failure ? 1 : 0;
}

static void free_broker(struct broker *broker, struct watch *watch, int exit_code)
{
    if (broker && broker_abandoned(broker))
        _exit(exit_code);
    /* Within the limit of the whole, but a moment in any case. */
    int64_t now_ms = clock_boot_ms(), until_ms = atomic_load(&watch->until_ms);
    if (until_ms > now_ms + LINGER_MS)
        until_ms = now_ms + LINGER_MS;
    if (until_ms < now_ms + LINGER_MIN_MS)
        until_ms = now_ms + LINGER_MIN_MS;
    watch->exit_code = exit_code;
    enter(watch, ENDING, until_ms);
    broker_destroy(broker);
}

int broker_run(const struct config *cfg)
{
    struct err_text why;
    struct broker *broker = NULL;
    struct watch watch;
    int signal_fd = open_signals(&why);
    if (signal_fd < 0) {
        log_error(TARGET, NULL, "%s", why.s);
        return 1;
    }
    if (watch_begin(&watch, cfg, signal_fd)) {
        log_error(TARGET, NULL,
                  "cannot start a thread: raise the limits of threads and open files");
        return 1;
    }
    print_configuration(cfg);
    int exit_code = live(&broker, cfg, &watch);
    free_broker(broker, &watch, exit_code);
    watch_end(&watch);
    return exit_code;
}
