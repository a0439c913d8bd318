/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The admin port: plain HTTP/1.1 for people and machines that watch a broker. GET and HEAD only.
 *
 *   /metrics      all counters, for Prometheus (base/prometheus.h)
 *   /healthz      200 while the process lives and its engine turns, else 503; like gRPC health,
 *                 except that it is 200 during start and drain: nothing is wrong then
 *   /readyz       200 while the broker takes calls: from the end of the start until the drain
 *                 begins
 *   /status.json  what it is doing (status.h)
 *
 * A 503 is one line that says why. The port has one thread and never waits for the engine: it reads
 * copies and counters. http/http.h has the bounds. Nothing is authenticated or encrypted: bind it
 * to loopback, or to a network that may see it.
 */
#ifndef TASKMILL_BROKER_ADMIN_H
#define TASKMILL_BROKER_ADMIN_H

#include "broker/config.h"
#include "broker/engine_thread.h"
#include "broker/meters.h"
#include "broker/service.h"

struct admin;

struct admin_options {
    const struct config *cfg; /* admin_addr is set; outlives the admin */
    struct meters *meters;
    /* Once, on the admin's thread: it cannot go on. */
    void (*failed)(void *ctx, int code, const char *why);
    void *ctx;
};

/* Binds, listens and answers from now on: "starting". When cfg->admin_addr is the default and
 * taken, the next free port is bound, up to ADMIN_PORTS of them, with a WARN. ERR_* and one line:
 * ERR_EXISTS if none of the default ones is free, ERR_SYSTEM if an explicit one cannot be bound. */
#define ADMIN_PORTS 10
int admin_create(struct admin **out, const struct admin_options *options, struct err_text *why);
/* "127.0.0.1:9464" */
const char *admin_address(const struct admin *admin);

/* What there is to tell of a broker that has started; all of it stays until admin_destroy. */
struct admin_view {
    struct engine_thread *thread;
    struct service *service; /* NULL: no gRPC server */
    struct topic_source *const *sources;
    const struct config_topic *const *topics; /* of the sources */
    size_t source_count;
    const char *store_path; /* copied */
};
/* The broker is ready; once. Any thread, as the next. */
void admin_started(struct admin *admin, const struct admin_view *view);
/* Not ready any more. */
void admin_draining(struct admin *admin);
/* Closes the port and every connection, joins. */
void admin_destroy(struct admin *admin);

#endif
