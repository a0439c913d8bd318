/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Producers for clusters that only the runtime configuration names (demoted_topic_cluster), by
 * bootstrap address: the connection of the dead-letter topic's cluster with the address replaced.
 * One that was made stays until the end, because entries of the outbox name it. Any thread.
 */
#ifndef TASKMILL_BROKER_FORWARD_SINKS_H
#define TASKMILL_BROKER_FORWARD_SINKS_H

#include "base/inbox.h"
#include "broker/config.h"
#include "topic/topic.h"

/* A broker that was shown more addresses than these must be restarted to take another one. */
#define FORWARD_SINKS_MAX 16

struct forward_sinks;

/* Delivery reports go to the inbox as EVENT_DELIVERED. `cfg` and the inbox must outlive it. */
struct forward_sinks *forward_sinks_new(const struct config *cfg, struct inbox *inbox);
/* After forward_sinks_stop(), or when nothing was produced. NULL is fine. */
void forward_sinks_free(struct forward_sinks *sinks);

/* NULL: it cannot be made (the log says why, at most every 30 s), or all are stopped. */
struct topic_sink *forward_sinks_get(struct forward_sinks *sinks, const char *address);
/* Nothing can be had any more; everything accepted is reported, at the latest about until_ms. */
void forward_sinks_stop(struct forward_sinks *sinks, int64_t until_ms);

#endif
