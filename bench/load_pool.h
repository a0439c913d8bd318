/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many gRPC connections in one epoll. A turn costs by what happened, not by how many connections
 * there are: the generator shares the machine with the server it measures.
 */
#ifndef TASKMILL_BENCH_LOAD_POOL_H
#define TASKMILL_BENCH_LOAD_POOL_H

#include <stdint.h>

#include "rpc/client.h"

struct load_pool;

struct load_pool *load_pool_new(const struct rpc_client_options *options, uint32_t count);
void load_pool_free(struct load_pool *pool);
struct rpc_client *load_pool_client(const struct load_pool *pool, uint32_t index);
/* Sends what was queued, waits up to wait_ms for events and serves them. Queued calls leave at the
 * first turn after them; calls made by callbacks leave with the turn that called back. */
void load_pool_turn(struct load_pool *pool, int wait_ms);

#endif
