/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a broker is doing now, as one JSON object: /status.json of the admin port. The names and
 * units are part of the interface (docs/operations.md lists them): they are added to, never
 * renamed. A number that is not known, or not there, is null.
 */
#ifndef TASKMILL_BROKER_STATUS_H
#define TASKMILL_BROKER_STATUS_H

#include "broker/config.h"
#include "broker/engine.h"
#include "broker/rates.h"

struct status_verdict {
    bool yes;
    const char *why; /* one line, also when yes; constant text */
};

/* One consumed topic. */
struct status_topic {
    const char *topic, *cluster, *group;
    const struct kafka_lag *partitions;
    size_t partition_count;
};

struct status {
    const char *state; /* "starting", "running", "stopping" */
    struct status_verdict healthy, ready;
    int64_t wall_ms; /* now */
    int64_t started_wall_ms, uptime_ms;
    const char *admin_address; /* host:port that was bound */

    /* Below: only once it has started. */
    bool started;
    const char *grpc_address; /* NULL: no gRPC server */
    size_t connections, streams;
    const char *store_path;
    uint64_t store_max_bytes; /* UINT64_MAX: no limit */
    const char *runtime_path; /* NULL: no runtime configuration */
    bool embedded;
    const struct engine_stats *engine;
    const struct status_topic *topics;
    size_t topic_count;
};

/* Totals that rates are made of. */
void status_totals(const struct engine_stats *engine, uint64_t totals[RATES]);

/* Appends the object and a newline. */
void status_write(const struct status *status, const struct rates *rates, struct buf *out);

#endif
