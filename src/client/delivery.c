/* SPDX-License-Identifier: Apache-2.0 */
#include "client/delivery.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/mem.h"

struct delivery {
    struct delivery_group *group;
    /* With a callback only: */
    taskmill_delivery *on_delivery;
    void *arg;
    char id[TASKMILL_ID_SIZE];
    struct list_node node; /* in `due` */
    int code;
    struct err_text *why; /* NULL: delivered */
};

struct delivery_group {
    struct delivery plain; /* stands for all items without a callback */
    size_t open, failed;
    bool abandoned;
    int code; /* of the first failure */
    struct err_text first;
};

struct deliveries {
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t changed, work;
    size_t waiting; /* threads that wait for `changed` */
    struct delivery_group unwatched;
    uint64_t done;   /* ever */
    size_t watched;  /* items with a callback, until it has returned */
    struct list due; /* callbacks to run */
    bool ending, started;
    pthread_t notifier;
};

/* Set in the notifier's thread: whose it is. */
static _Thread_local const struct deliveries *notifies;

struct deliveries *deliveries_new(void)
{
    struct deliveries *d = mem_zalloc(sizeof *d);
    pthread_condattr_t attributes;

    pthread_mutex_init(&d->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&d->changed, &attributes);
    pthread_cond_init(&d->work, &attributes);
    pthread_condattr_destroy(&attributes);
    list_init(&d->due);
    d->unwatched.plain.group = &d->unwatched;
    return d;
}

struct delivery_group *delivery_group_new(void)
{
    struct delivery_group *group = mem_zalloc(sizeof *group);

    group->plain.group = group;
    return group;
}

/* Under the lock: false when the time is over. The condition's clock stops while the machine
 * sleeps, ours does not; so each wait is made from what is left now. */
static bool wait_changed(struct deliveries *d, int64_t until_ms)
{
    int64_t left_ms = until_ms - clock_boot_ms();
    struct timespec until;
    int rv;

    if (left_ms <= 0)
        return false;
    clock_gettime(CLOCK_MONOTONIC, &until); /* tidy: clock_gettime, timedwait wants a timespec */
    until.tv_sec += left_ms / 1000;
    until.tv_nsec += left_ms % 1000 * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    d->waiting++;
    rv = pthread_cond_timedwait(&d->changed, &d->lock, &until);
    d->waiting--;
    return rv != ETIMEDOUT;
}

static void tell(struct deliveries *d)
{
    if (d->waiting > 0)
        pthread_cond_broadcast(&d->changed);
}

/* --- the notifier ---------------------------------------------------------------------------- */

static void free_delivery(struct delivery *delivery)
{
    mem_free(delivery->why);
    mem_free(delivery);
}

static void *notify(void *arg)
{
    struct deliveries *d = (struct deliveries *)arg;
    struct list_node *node;

    notifies = d;
    pthread_mutex_lock(&d->lock);
    for (;;) {
        while ((node = list_pop_front(&d->due)) != NULL) {
            struct delivery *delivery = container_of(node, struct delivery, node);

            pthread_mutex_unlock(&d->lock);
            delivery->on_delivery(delivery->arg, delivery->id, delivery->code,
                                  delivery->why ? delivery->why->s : "");
            free_delivery(delivery);
            pthread_mutex_lock(&d->lock);
            d->watched--;
            tell(d);
        }
        if (d->ending)
            break;
        pthread_cond_wait(&d->work, &d->lock);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

/* Under the lock. The program's signals are for its own threads. */
static int start_notifier(struct deliveries *d)
{
    sigset_t all, before;
    int err;

    if (d->started)
        return 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    err = pthread_create(&d->notifier, NULL, notify, d);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err != 0)
        return error_set(ERR_SYSTEM, "cannot start a thread: %s", strerror(err));
    d->started = true;
    return 0;
}

void deliveries_free(struct deliveries *d)
{
    if (d == NULL)
        return;
    pthread_mutex_lock(&d->lock);
    assert(d->unwatched.open == 0);
    d->ending = true;
    pthread_cond_signal(&d->work);
    pthread_mutex_unlock(&d->lock);
    if (d->started)
        pthread_join(d->notifier, NULL);
    pthread_cond_destroy(&d->changed);
    pthread_cond_destroy(&d->work);
    pthread_mutex_destroy(&d->lock);
    mem_free(d);
}

/* --- items ----------------------------------------------------------------------------------- */

/* Under the lock. */
static int begin_watched(struct deliveries *d, const struct delivery_watch *watch, int64_t until_ms,
                         struct delivery **out)
{
    struct delivery *delivery;
    int rv = start_notifier(d);

    while (rv == 0 && d->watched >= DELIVERY_WATCHED_MAX)
        if (notifies == d || !wait_changed(d, until_ms))
            rv = error_set(ERR_FULL, "%d sends with .on_delivery are open: wait for some of them",
                           DELIVERY_WATCHED_MAX);
    if (rv != 0)
        return rv;
    delivery = mem_zalloc(sizeof *delivery);
    delivery->group = &d->unwatched;
    delivery->on_delivery = watch->on_delivery;
    delivery->arg = watch->arg;
    memcpy(delivery->id, watch->id, strlen(watch->id) + 1);
    d->watched++;
    *out = delivery;
    return 0;
}

int delivery_begin(struct deliveries *d, struct delivery_group *group,
                   const struct delivery_watch *watch, int64_t until_ms, struct delivery **out)
{
    int rv = 0;

    assert(group == NULL || watch == NULL);
    pthread_mutex_lock(&d->lock);
    if (watch != NULL)
        rv = begin_watched(d, watch, until_ms, out);
    else
        *out = group ? &group->plain : &d->unwatched.plain;
    if (rv == 0)
        (*out)->group->open++;
    pthread_mutex_unlock(&d->lock);
    return rv;
}

void delivery_cancel(struct deliveries *d, struct delivery *delivery)
{
    pthread_mutex_lock(&d->lock);
    delivery->group->open--;
    if (delivery->on_delivery != NULL) {
        d->watched--;
        free_delivery(delivery);
    }
    tell(d);
    pthread_mutex_unlock(&d->lock);
}

static void count_failure(struct delivery_group *group, int code, const char *reason)
{
    if (group->failed++ > 0)
        return;
    group->code = code;
    err_set(&group->first, code, "%s", reason);
}

void delivery_done(struct deliveries *d, struct delivery *delivery, int code, const char *reason)
{
    struct delivery_group *group = delivery->group;

    pthread_mutex_lock(&d->lock);
    assert(group->open > 0);
    group->open--;
    d->done++;
    if (code != 0)
        count_failure(group, code, reason);
    if (delivery->on_delivery != NULL) {
        delivery->code = code;
        if (code != 0) {
            delivery->why = mem_zalloc(sizeof *delivery->why);
            err_set(delivery->why, code, "%s", reason);
        }
        list_push_back(&d->due, &delivery->node);
        pthread_cond_signal(&d->work);
    }
    if (group->abandoned && group->open == 0)
        mem_free(group);
    tell(d);
    pthread_mutex_unlock(&d->lock);
}

uint64_t delivery_count(struct deliveries *d)
{
    uint64_t count;

    pthread_mutex_lock(&d->lock);
    count = d->done;
    pthread_mutex_unlock(&d->lock);
    return count;
}

bool delivery_wait_more(struct deliveries *d, uint64_t count, int64_t until_ms)
{
    bool more = true;

    pthread_mutex_lock(&d->lock);
    while (d->done == count && more)
        more = wait_changed(d, until_ms);
    pthread_mutex_unlock(&d->lock);
    return more;
}

/* --- waiting --------------------------------------------------------------------------------- */

/* Under the lock. */
static int summarise(const struct delivery_group *group, struct delivery_summary *summary)
{
    *summary = (struct delivery_summary){.failed = group->failed, .open = group->open};
    if (group->failed > 0) {
        summary->why = group->first;
        return group->code;
    }
    return group->open > 0 ? ERR_TIMEOUT : 0;
}

int delivery_await(struct deliveries *d, struct delivery_group *group, int64_t until_ms,
                   struct delivery_summary *summary)
{
    bool more = true;
    int rv;

    pthread_mutex_lock(&d->lock);
    while (group->open > 0 && more)
        more = wait_changed(d, until_ms);
    rv = summarise(group, summary);
    group->abandoned = true;
    if (group->open == 0)
        mem_free(group);
    pthread_mutex_unlock(&d->lock);
    return rv;
}

int delivery_flush(struct deliveries *d, int64_t until_ms, struct delivery_summary *summary)
{
    bool more = true;
    int rv;

    if (notifies == d)
        return error_set(ERR_STATE, "taskmill_flush: not in a delivery callback");
    pthread_mutex_lock(&d->lock);
    while ((d->unwatched.open > 0 || d->watched > 0) && more)
        more = wait_changed(d, until_ms);
    rv = summarise(&d->unwatched, summary);
    if (rv == 0 && d->watched > 0) {
        summary->open = d->watched;
        rv = ERR_TIMEOUT;
    }
    d->unwatched.failed = 0;
    pthread_mutex_unlock(&d->lock);
    return rv;
}
