/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Kafka clusters of the configuration, apart from what consumes from them: one producer for
 * each place that is written to, and the topics that are to be made at start. Two clusters that
 * lead to the same address with the same security settings (the legacy keys always make two) are
 * one place. Everything is called from the thread that builds and ends the broker; `cfg` and the
 * inbox must outlive it.
 */
#ifndef TASKMILL_BROKER_CLUSTERS_H
#define TASKMILL_BROKER_CLUSTERS_H

#include "base/inbox.h"
#include "broker/config.h"
#include "topic/topic.h"

struct clusters;

/* Delivery reports go to the inbox as EVENT_DELIVERED. */
struct clusters *clusters_new(const struct config *cfg, struct inbox *inbox);
/* After clusters_stop(), or when nothing was produced. NULL is fine. */
void clusters_free(struct clusters *clusters);

/* Index in cfg->clusters of a declared topic. */
size_t clusters_of_topic(const struct config *cfg, const char *topic);
/* How to connect to a cluster; points into cfg and `properties`. */
struct kafka_cluster clusters_connection(const struct config *cfg, size_t cluster,
                                         struct kafka_property properties[]);

/* Creates what is missing of all declared topics if create_missing_topics says so. ERR_* and the
 * line that names topic, cluster and cause. */
int clusters_create_topics(const struct config *cfg, struct err_text *why);

/* Looks at every place that is written to and not consumed from (sources look at theirs), and for
 * topics with consumer_disabled; what speaks against them (a missing topic, refused credentials) is
 * told by `failed`, from other threads. After the producers are made. */
int clusters_start_checks(struct clusters *clusters, void *ctx,
                          void (*failed)(void *ctx, int code, const char *why),
                          struct err_text *why);

/* The producer of a cluster's place, made when it is first asked for; stays ours. */
int clusters_sink(struct clusters *clusters, size_t cluster, struct topic_sink **out,
                  struct err_text *why);

/* Ends the looks and all producers: everything accepted is reported, at the latest about until_ms.
 */
void clusters_stop(struct clusters *clusters, int64_t until_ms);

#endif
