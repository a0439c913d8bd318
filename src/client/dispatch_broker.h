/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The broker's side of dispatching. A thread owns the connection; senders leave what they have in a
 * queue. While one Enqueue is on its way, everything that arrives waits for the next, which takes
 * all of it: so many threads share a request, and a commit of the broker's. Thread-safe.
 *
 * One request is all or nothing. When a broker refuses one that several senders share, the next
 * requests take ever fewer of them, down to one: a task that is wrong fails alone.
 */
#ifndef TASKMILL_CLIENT_DISPATCH_BROKER_H
#define TASKMILL_CLIENT_DISPATCH_BROKER_H

#include "client/delivery.h"
#include "client/dispatch.h"
#include "rpc/client.h"

/* What waits in the queue, all senders together; more of it is ERR_FULL. */
#define BROKER_QUEUE_BYTES_MAX (64u << 20)

struct broker_out;

struct broker_out_options {
    struct rpc_client_options rpc;
    const char *name; /* of the broker, in messages */
    uint32_t timeout_s;
    struct deliveries *deliveries; /* outlives it */
};

/* NULL: taskmill_last_error() says why. Nothing is connected yet. */
struct broker_out *broker_out_new(const struct broker_out_options *options);
/* Waits for what is open, at most the timeout; then every item has been reported. */
void broker_out_free(struct broker_out *out);
/* As dispatch_items. */
int broker_out_send(struct broker_out *out, const struct dispatch_item *items, size_t count,
                    bool wait, size_t *accepted);

#endif
