/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is told what became of a task that a transport (Kafka, a broker) has in its hands. Every item
 * belongs to a group: that of the send which waits for it, or the common one of all that do not
 * wait. A send that gives up waiting leaves its group behind; the last report frees it.
 *
 * Callbacks run on a thread of their own, the notifier: one that sends and waits does not hold up
 * the reports it waits for. Thread-safe.
 */
#ifndef TASKMILL_CLIENT_DELIVERY_H
#define TASKMILL_CLIENT_DELIVERY_H

#include <taskmill.h>

#include "client/error.h"

/* Items with a callback that are not yet through with it, delivered or not. */
#define DELIVERY_WATCHED_MAX 100000

struct deliveries;
struct delivery; /* one item, or what stands for all items of a group that have no callback */
struct delivery_group;

struct delivery_watch {
    taskmill_delivery *on_delivery;
    void *arg;
    const char *id;
};

struct deliveries *deliveries_new(void);
/* After the transport has reported everything: runs the callbacks that are left, then ends. */
void deliveries_free(struct deliveries *deliveries);

struct delivery_group *delivery_group_new(void);

/* Before an item is handed over. `group` NULL: nobody waits; then `watch` (NULL: none) is called
 * when it is done. ERR_FULL: too many are watched (waits for room until until_ms, boot clock,
 * except in a callback). */
int delivery_begin(struct deliveries *deliveries, struct delivery_group *group,
                   const struct delivery_watch *watch, int64_t until_ms, struct delivery **out);
/* The transport did not take it after all. */
void delivery_cancel(struct deliveries *deliveries, struct delivery *delivery);
/* Its fate: 0 or an enum taskmill_error, and the reason (copied). Exactly once after a begin. */
void delivery_done(struct deliveries *deliveries, struct delivery *delivery, int code,
                   const char *reason);
/* How many were done so far, and waiting for one more than that; false: the time is over. */
uint64_t delivery_count(struct deliveries *deliveries);
bool delivery_wait_more(struct deliveries *deliveries, uint64_t count, int64_t until_ms);

/* Waits for a group, and takes it over. 0, the code of its first failure with its reason in `why`,
 * or ERR_TIMEOUT: *open were not reported. *failed counts. */
struct delivery_summary {
    size_t failed, open;
    struct err_text why;
};
int delivery_await(struct deliveries *deliveries, struct delivery_group *group, int64_t until_ms,
                   struct delivery_summary *summary);
/* The same for all that nobody waits for, and for their callbacks; the failures are then forgotten.
 * ERR_STATE in a callback. */
int delivery_flush(struct deliveries *deliveries, int64_t until_ms,
                   struct delivery_summary *summary);

#endif
