/* SPDX-License-Identifier: Apache-2.0 */
/* The broker as a process: signals, log, exit code. */
#include "broker/broker.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"

#define TARGET    "taskmill::broker"
#define TICK_MS   500
#define LINGER_MS 1000

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

/* Watches for the second signal while the main thread stops the broker. */
static void *force_exit(void *ctx)
{
    const int *signal_fd = ctx;
    struct pollfd poll_fd = {.fd = *signal_fd, .events = POLLIN};
    int signo = 0;
    while (signo == 0 || signo == SIGHUP)
        signo = poll(&poll_fd, 1, -1) == 1 ? read_signal(*signal_fd) : 0;
    log_error(
        TARGET, NULL,
        "second signal: exit without waiting; the store is consistent, the next start recovers it");
    _exit(1);
}

/* A server that holds the connection and does not answer keeps the Kafka library for a minute, and
 * by then nothing depends on it. */
static void *exit_anyway(void *ctx)
{
    poll(NULL, 0, LINGER_MS);
    log_warn(TARGET, NULL, "the Kafka library still waits for a server; exit without it");
    _exit((int)(intptr_t)ctx);
}

static void run_aside(void *(*run)(void *), void *ctx)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, ctx) == 0)
        pthread_detach(thread);
}

static void print_configuration(const struct config *cfg)
{
    struct buf text = {0};
    config_print(cfg, &text);
    log_info(TARGET, LOG_FIELDS(log_bytes("config", buf_bytes(&text))), "Configuration");
    buf_free(&text);
}

int broker_run(const struct config *cfg)
{
    struct err_text why;
    struct broker *broker = NULL;
    int exit_code = 1;
    int signal_fd = open_signals(&why);
    if (signal_fd < 0) {
        log_error(TARGET, NULL, "%s", why.s);
        return 1;
    }
    print_configuration(cfg);
    if (broker_create(&broker, cfg, &why) || broker_start(broker, &why)) {
        log_error(TARGET, NULL, "%s", why.s);
        goto out;
    }
    bool signalled = serve(broker, signal_fd);
    run_aside(force_exit, &signal_fd);
    broker_stop(broker);
    const char *failure = broker_failure(broker);
    if (failure && signalled)
        log_error(TARGET, NULL, "%s", failure);
    exit_code = failure ? 1 : 0;
    log_info(TARGET, NULL, "stopped");
out:
    run_aside(exit_anyway, (void *)(intptr_t)exit_code);
    broker_destroy(broker);
    return exit_code;
}
