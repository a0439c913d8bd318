/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gRPC client over nghttp2, in plain text or TLS: unary calls on one connection, driven by the
 * caller's event loop, plus a blocking form for tools. Never blocks except where said; one
 * connection belongs to one thread.
 *
 *   struct rpc_client *c = rpc_client_new(&options);
 *   loop:
 *     poll(rpc_client_fd(c), rpc_client_events(c), until rpc_client_next_ms(c));
 *     rpc_client_io(c, now_ms);
 *
 * rpc_client_call only queues, so that many calls leave in one write: whoever called must call
 * rpc_client_io before sleeping (rpc_client_events and rpc_client_next_ms say so, too).
 *
 * Connects lazily at the first call and again after a loss; calls open at a loss end with
 * UNAVAILABLE. There is no pause between attempts: back off, or go to another server, when calls
 * fail at once. While a server that said GOAWAY still has calls of ours open, new ones end with
 * UNAVAILABLE, or wait (hold_calls); after that a new connection is made.
 */
#ifndef TASKMILL_RPC_CLIENT_H
#define TASKMILL_RPC_CLIENT_H

#include "base/bytes.h"
#include "base/err.h"
#include "rpc/status.h"
#include "rpc/tls.h"

struct rpc_client;

struct rpc_client_options {
    const char *host; /* name or IP literal; resolved at connect, blocking without forks_lookups */
    uint16_t port;
    uint32_t connect_timeout_ms; /* 0: 5000 */
    uint32_t message_max;        /* bytes of a response; 0: 10485760. Above: RESOURCE_EXHAUSTED */
    bool forks_lookups; /* names are looked up by a process of their own: for callers that must not
                           block and have one thread (base/lookup.h) */
    bool hold_calls; /* new calls wait while a server that said GOAWAY has calls of ours open: for
                        callers that see it (rpc_client_is_leaving) and make another client */
    struct bytes secret;   /* signs every request when not empty; copied */
    struct rpc_tls *tls;   /* of rpc_tls_client_new; takes a reference of its own. NULL: plain
                              text. connect_timeout_ms covers the handshake */
    uint32_t keepalive_ms; /* PING after so much silence with calls open, loss after as much again;
                              0: 20000 */
};

struct rpc_result {
    int status;          /* enum grpc_status */
    const char *message; /* NUL-terminated, decoded; "" if none */
    struct bytes body;   /* the response message; valid during the callback */
    bool is_local;       /* made up here (time-out, loss, cancel): the server gave no status */
    bool is_unsent;      /* the server cannot have acted on it: it never got the whole request, or
                            refused the stream unread. Repeating the call is safe */
};

/* Called exactly once per call, from inside rpc_client_io, _cancel or _free. May start and cancel
 * calls, but not free the client. */
typedef void (*rpc_result_fn)(void *ctx, const struct rpc_result *result);

struct rpc_client *rpc_client_new(const struct rpc_client_options *options);
/* Ends all open calls with CANCELLED. */
void rpc_client_free(struct rpc_client *client);

/* Starts a call; timeout_ms 0: none (else sent as grpc-timeout, and enforced here:
 * DEADLINE_EXCEEDED). *id (may be NULL) names it for rpc_client_cancel. now_ms: boot clock. */
void rpc_client_call(struct rpc_client *client, const char *path, struct bytes message,
                     uint32_t timeout_ms, rpc_result_fn done, void *ctx, int64_t now_ms,
                     uint64_t *id);
/* RST_STREAM(CANCEL); done is called with CANCELLED. Unknown or finished ids are ignored. */
void rpc_client_cancel(struct rpc_client *client, uint64_t id);
size_t rpc_client_open_calls(const struct rpc_client *client);

/* The server has said GOAWAY, and calls are still open. */
bool rpc_client_is_leaving(const struct rpc_client *client);

int rpc_client_fd(const struct rpc_client *client);          /* -1 while not connected */
short rpc_client_events(const struct rpc_client *client);    /* POLLIN, POLLOUT */
int64_t rpc_client_next_ms(const struct rpc_client *client); /* CLOCK_NEVER if nothing is due */
/* Reads, writes, times out. */
void rpc_client_io(struct rpc_client *client, int64_t now_ms);

/* Blocking: one call from start to end. 0 when an answer arrived (whatever its status), else
 * ERR_UNAVAILABLE or ERR_TIMEOUT with `why`. The body is appended to `body`. */
int rpc_client_call_wait(struct rpc_client *client, const char *path, struct bytes message,
                         uint32_t timeout_ms, int *status, struct buf *body, struct err_text *why);

#endif
