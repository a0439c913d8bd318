/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every record belongs to a group: that of the send which waits for it, or the common one of all
 * that do not wait. Delivery reports arrive on the sink's thread and count down their group. A send
 * that gives up waiting leaves its group behind; the last report frees it.
 */
#include "client/dispatch_kafka.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "topic/kafka.h"

#define MESSAGE_MAX_BYTES 50000000 /* what Python producers use; the topic has the last word */

struct group {
    size_t open, failed;
    bool abandoned;
    struct err_text first; /* reason of the first failure */
};

struct kafka_out {
    struct topic_sink *sink;
    uint32_t timeout_s;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t delivered;
    struct group unwatched;
};

static void on_delivered(void *ctx, void *opaque, enum topic_delivery delivery, const char *why)
{
    struct kafka_out *out = (struct kafka_out *)ctx;
    struct group *group = (struct group *)opaque;

    pthread_mutex_lock(&out->lock);
    group->open--;
    if (delivery != TOPIC_DELIVERED && group->failed++ == 0)
        err_set(&group->first, ERR_UNAVAILABLE, "%s", why ? why : "not delivered");
    if (group->abandoned && group->open == 0)
        mem_free(group);
    pthread_cond_broadcast(&out->delivered);
    pthread_mutex_unlock(&out->lock);
}

struct kafka_out *kafka_out_new(const char *bootstrap, uint32_t timeout_s)
{
    struct kafka_out *out = mem_zalloc(sizeof *out);
    struct kafka_sink_options options = {.cluster = {.address = bootstrap},
                                         .message_max_bytes = MESSAGE_MAX_BYTES,
                                         .delivery_timeout_ms = timeout_s * 1000};
    struct topic_sink_events events = {.ctx = out, .delivered = on_delivered};
    pthread_condattr_t clock;

    out->timeout_s = timeout_s;
    pthread_mutex_init(&out->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&out->delivered, &clock);
    pthread_condattr_destroy(&clock);
    if (kafka_sink_new(&out->sink, &options, &events, error_text()) == 0)
        return out;
    kafka_out_free(out);
    return NULL;
}

void kafka_out_free(struct kafka_out *out)
{
    if (out->sink != NULL) {
        out->sink->ops->stop(out->sink, out->timeout_s * 1000);
        out->sink->ops->destroy(out->sink);
    }
    pthread_cond_destroy(&out->delivered);
    pthread_mutex_destroy(&out->lock);
    mem_free(out);
}

/* The clock of the condition variable. */
static struct timespec monotonic(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now); /* tidy: clock_gettime, timedwait wants a timespec */
    return now;
}

static struct timespec after(uint32_t seconds)
{
    struct timespec until = monotonic();

    until.tv_sec += seconds;
    return until;
}

static bool past(const struct timespec *until)
{
    struct timespec now = monotonic();

    return now.tv_sec > until->tv_sec ||
           (now.tv_sec == until->tv_sec && now.tv_nsec >= until->tv_nsec);
}

/* Under the lock: false when the time is over. */
static bool wait_delivery(struct kafka_out *out, const struct timespec *until)
{
    return pthread_cond_timedwait(&out->delivered, &out->lock, until) != ETIMEDOUT;
}

static int produce(struct kafka_out *out, const struct dispatch_item *item, struct group *group,
                   const struct timespec *until)
{
    const char *why = "";
    bool more = true;
    int rv;

    pthread_mutex_lock(&out->lock);
    group->open++;
    pthread_mutex_unlock(&out->lock);
    for (;;) {
        rv =
            out->sink->ops->produce(out->sink, item->topic, item->activation, NULL, 0, group, &why);
        if (rv != ERR_FULL || !more || past(until))
            break;
        pthread_mutex_lock(&out->lock);
        more = wait_delivery(out, until);
        pthread_mutex_unlock(&out->lock);
    }
    if (rv == 0)
        return 0;
    pthread_mutex_lock(&out->lock);
    group->open--;
    pthread_mutex_unlock(&out->lock);
    return error_set(rv, "topic %s: %s", item->topic, why);
}

/* Takes the group over. */
static int await(struct kafka_out *out, struct group *group, const struct timespec *until)
{
    bool more = true;
    int rv = 0;

    pthread_mutex_lock(&out->lock);
    while (group->open > 0 && more)
        more = wait_delivery(out, until);
    if (group->failed > 0)
        rv = error_set(ERR_UNAVAILABLE, "%zu not delivered: %s", group->failed, group->first.s);
    else if (group->open > 0)
        rv = error_set(ERR_TIMEOUT, "Kafka has not confirmed %zu in %u s", group->open,
                       out->timeout_s);
    group->abandoned = true;
    if (group->open == 0)
        mem_free(group);
    pthread_mutex_unlock(&out->lock);
    return rv;
}

int kafka_out_send(struct kafka_out *out, const struct dispatch_item *items, size_t count,
                   bool wait, size_t *accepted)
{
    struct group *group = wait ? mem_zalloc(sizeof *group) : &out->unwatched;
    struct timespec until = after(out->timeout_s);
    struct err_text why;
    size_t i;
    int rv = 0, awaited = 0;

    for (i = 0; i < count && rv == 0; i++)
        rv = produce(out, &items[i], group, &until);
    why = *error_text();
    if (wait)
        awaited = await(out, group, &until);
    *accepted = rv == 0 && awaited == 0 ? count : wait || i == 0 ? 0 : i - 1;
    /* What was refused at once explains more than what followed. */
    return rv != 0 ? error_set(rv, "%s", why.s) : awaited;
}

int kafka_out_flush(struct kafka_out *out, uint32_t timeout_s)
{
    struct timespec until = after(timeout_s);
    bool more = true;
    int rv = 0;

    pthread_mutex_lock(&out->lock);
    while (out->unwatched.open > 0 && more)
        more = wait_delivery(out, &until);
    if (out->unwatched.failed > 0)
        rv = error_set(ERR_UNAVAILABLE, "%zu not delivered: %s", out->unwatched.failed,
                       out->unwatched.first.s);
    else if (out->unwatched.open > 0)
        rv = error_set(ERR_TIMEOUT, "Kafka has not confirmed %zu in %u s", out->unwatched.open,
                       timeout_s);
    out->unwatched.failed = 0;
    pthread_mutex_unlock(&out->lock);
    return rv;
}
