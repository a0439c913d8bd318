/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gRPC services of the broker: requests are decoded and checked on the rpc threads, what is
 * sound travels to the engine as events (one hand-over per loop turn and thread), answers come back
 * through the ports. Texts of errors are those of spec/broker.md 5.
 */
#ifndef TASKMILL_BROKER_SERVICE_H
#define TASKMILL_BROKER_SERVICE_H

#include "broker/engine.h"

struct service;

struct service_options {
    const char *address;
    uint16_t port; /* 0: any free one */
    uint32_t threads;
    const struct bytes *secrets;
    size_t secret_count;
    const struct rpc_tls_options *tls; /* NULL: plain text */
    uint32_t max_age_ms, max_idle_ms;  /* of connections; 0: none */
    struct intake_limits intake;
    struct inbox *inbox; /* the engine's */
    struct meters *meters;
};

/* Binds and listens; connections wait in the backlog until service_open. */
int service_create(struct service **out, const struct service_options *options,
                   struct err_text *why);
/* Accepts calls; the engine must be running. */
int service_open(struct service *service, struct err_text *why);
struct rpc_server *service_server(struct service *service);
void service_destroy(struct service *service);

/* The three of struct engine_ports that concern calls; ctx is the service. Engine thread. */
void service_reply(void *ctx, struct engine_call *call, const struct rpc_reply *reply);
void service_release(void *ctx, struct engine_call *call);
void service_flush(void *ctx);

#endif
