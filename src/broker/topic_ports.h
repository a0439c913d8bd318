/* SPDX-License-Identifier: Apache-2.0 */
/* What Kafka's threads report, as events in the engine's inbox. Records are decoded here, on the
 * consumer's thread. A port must outlive its source or sink. */
#ifndef TASKMILL_BROKER_TOPIC_PORTS_H
#define TASKMILL_BROKER_TOPIC_PORTS_H

#include "broker/engine.h"

struct source_port {
    struct inbox *inbox;
    struct gate *gate;
    struct intake_limits intake;
    const struct intake_raw *raw; /* NULL: the topic holds activations */
    uint32_t index;               /* of the source in engine_options.sources */
    const char *topic;
    struct meters *meters;
    struct meter_cache sizes[2]; /* of the source's thread */
};

void source_port_events(struct source_port *port, struct topic_source_events *events);
/* Any number of sinks may share the inbox. */
void sink_port_events(struct inbox *inbox, struct topic_sink_events *events);

#endif
