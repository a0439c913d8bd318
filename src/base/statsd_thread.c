/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that exports to a statsd server, and its socket. */
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/statsd.h"

#define TARGET "taskmill::statsd"
#define RESOLVE_AGAIN_S \
    10                   /* after a failure; also how often a failing address is looked up again */
#define WARN_EVERY_S 300 /* of a name that goes on not to resolve */
#define STOP_WAIT_S  1

struct statsd {
    char *host, *port;
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
    int fd;           /* -1: no address yet */
    size_t attempt;   /* which of several addresses */
    bool send_failed; /* since the last export */
    int64_t resolve_ms, warn_ms;
    bool several_told, refused_told;
};

/* --- address --------------------------------------------------------------------------------- */

/* "host:port" or "[host]:port". */
static int split_address(struct statsd *statsd, const char *address, struct err_text *why)
{
    const char *colon = strrchr(address, ':');

    if (!colon || colon == address || !colon[1])
        return err_set(why, ERR_INVALID, "statsd address \"%.60s\" is not host:port", address);
    const char *host = address;
    size_t len = (size_t)(colon - address);
    if (len > 2 && host[0] == '[' && host[len - 1] == ']') {
        host++;
        len -= 2;
    }
    statsd->host = mem_strndup(host, len);
    statsd->port = mem_strdup(colon + 1);
    return 0;
}

static int connect_to(const struct addrinfo *address)
{
    int fd = socket(address->ai_family, address->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd >= 0 && connect(fd, address->ai_addr, address->ai_addrlen) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

static void warn_unresolved(struct statsd *statsd, const char *why)
{
    int64_t now_ms = clock_boot_ms();

    if (now_ms < statsd->warn_ms)
        return;
    statsd->warn_ms = now_ms + WARN_EVERY_S * 1000;
    log_warn(TARGET, NULL,
             "statsd_addr %s:%s cannot be used: %s; metrics are not sent, it is tried again every "
             "%d s",
             statsd->host, statsd->port, why, RESOLVE_AGAIN_S);
}

static void use_one(struct statsd *statsd, const struct addrinfo *found)
{
    size_t count = 1;

    for (const struct addrinfo *it = found->ai_next; it; it = it->ai_next)
        count++;
    for (size_t i = statsd->attempt % count; i > 0; i--)
        found = found->ai_next;
    statsd->fd = connect_to(found);
    if (statsd->fd < 0)
        warn_unresolved(statsd, strerror(errno));
    if (count == 1 || statsd->several_told)
        return;
    statsd->several_told = true;
    char text[64] = "?";
    getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST);
    log_warn(TARGET, LOG_FIELDS(log_int("addresses", (int64_t)count)),
             "statsd_addr %s:%s has several addresses; metrics go to %s, and to the next one when "
             "sending fails",
             statsd->host, statsd->port, text);
}

/* May take long: a name server that says nothing. */
static void resolve(struct statsd *statsd)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_DGRAM};
    struct addrinfo *found;

    if (clock_boot_ms() < statsd->resolve_ms)
        return;
    int rc = getaddrinfo(statsd->host, statsd->port, &hints, &found);
    statsd->resolve_ms = clock_boot_ms() + RESOLVE_AGAIN_S * 1000;
    if (rc) {
        warn_unresolved(statsd, rc == EAI_SYSTEM ? strerror(errno) : gai_strerror(rc));
        return;
    }
    use_one(statsd, found);
    freeaddrinfo(found);
}

/* --- sending --------------------------------------------------------------------------------- */

static void send_datagram(void *ctx, struct bytes datagram)
{
    struct statsd *statsd = ctx;
    ssize_t sent = send(statsd->fd, datagram.ptr, datagram.len, MSG_NOSIGNAL);

    if (sent < 0 && errno == ECONNREFUSED) {
        /* That was the fate of an earlier datagram; this one has not left yet. */
        statsd->send_failed = true;
        sent = send(statsd->fd, datagram.ptr, datagram.len, MSG_NOSIGNAL);
    }
    /* A full socket buffer loses metrics, as UDP does anyway. */
    if (sent < 0 && errno != EAGAIN && errno != EINTR)
        statsd->send_failed = true;
}

/* Refused: nobody listens there, at the moment or at all. The next address may be the right one. */
static void look_elsewhere(struct statsd *statsd)
{
    if (!statsd->refused_told)
        log_info(TARGET, NULL, "nobody takes metrics at %s:%s; they are lost until somebody does",
                 statsd->host, statsd->port);
    statsd->refused_told = true;
    if (clock_boot_ms() < statsd->resolve_ms)
        return;
    close(statsd->fd);
    statsd->fd = -1;
    statsd->attempt++;
}

/* Without a server the numbers wait in the registry. */
static void export_once(struct statsd *statsd)
{
    statsd->send_failed = false;
    statsd_format_export(statsd->format, statsd->metrics, send_datagram, statsd);
    if (statsd->send_failed)
        look_elsewhere(statsd);
}

/* --- the thread ------------------------------------------------------------------------------ */

static void destroy(struct statsd *statsd)
{
    if (statsd->fd >= 0)
        close(statsd->fd);
    statsd_format_free(statsd->format);
    pthread_cond_destroy(&statsd->changed);
    pthread_mutex_destroy(&statsd->lock);
    mem_free(statsd->host);
    mem_free(statsd->port);
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
        if (statsd->fd < 0)
            resolve(statsd);
        stopping = wait_until(statsd, &next);
        if (!begin_export(statsd))
            break;
        if (statsd->fd >= 0)
            export_once(statsd);
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
    statsd->fd = -1;
    statsd->interval_ms = options->interval_ms ? options->interval_ms : 1;
    statsd->metrics = options->metrics;
    statsd->format = statsd_format_new(options->prefix, options->tags, options->tag_count);
    int rv = split_address(statsd, options->address, why);
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
