/* SPDX-License-Identifier: Apache-2.0 */
/* The Kafka side of dispatching: a sink, and who waits for which delivery. Thread-safe. */
#ifndef TASKMILL_CLIENT_DISPATCH_KAFKA_H
#define TASKMILL_CLIENT_DISPATCH_KAFKA_H

#include "client/delivery.h"
#include "client/dispatch.h"

struct kafka_out;

/* NULL: taskmill_last_error() says why. Nothing is connected yet. `deliveries` outlives it. */
struct kafka_out *kafka_out_new(const char *bootstrap, uint32_t timeout_s,
                                struct deliveries *deliveries);
/* Waits for open deliveries, at most the timeout; then every one has been reported. */
void kafka_out_free(struct kafka_out *out);
/* As dispatch_items. With wait, `accepted` is all or nothing known: 0 unless all were delivered. */
int kafka_out_send(struct kafka_out *out, const struct dispatch_item *items, size_t count,
                   bool wait, size_t *accepted);

#endif
