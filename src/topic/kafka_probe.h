/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A look at a cluster before anything else is done with it: does it answer, does it take our
 * credentials, is the topic there? Internal to the room. One thread at a time.
 */
#ifndef TASKMILL_TOPIC_KAFKA_PROBE_H
#define TASKMILL_TOPIC_KAFKA_PROBE_H

#include "topic/kafka_conf.h"

/* Between two looks. */
#define KAFKA_PROBE_PAUSE_MS 300

struct kafka_probe;

int kafka_probe_new(struct kafka_probe **out, const struct kafka_cluster *cluster,
                    struct err_text *why);
/* NULL is fine. */
void kafka_probe_free(struct kafka_probe *probe);
/* How many partitions the topic has; without a topic (NULL) 1 once the cluster answers. Blocks for
 * up to one request (1 s). ERR_UNAVAILABLE: not known yet, look again after a pause; why and a WARN
 * now and then say what it waits for. Anything else is final, and why is the line for the user: the
 * topic is not there (found missing ten times, since one made a moment ago is not known to every
 * broker yet), or access was refused (credentials that were refused in five looks in a row). */
int kafka_probe_look(struct kafka_probe *probe, const char *topic, struct err_text *why);

#endif
