/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gRPC server over nghttp2: unary methods, health, signatures, TLS; epoll, a few threads.
 *
 * Life of a call
 *   1. An rpc thread has read and, when secrets are set, verified a whole request. It calls the
 *      method's `start` with the call. The handler decodes the body, fills its own part of the call
 *      (rpc_call_user) and either replies at once or passes the call to another thread.
 *   2. From then on the holder owes exactly one rpc_reply*(), from any thread, whatever happens to
 *      the peer.
 *   3. If the stream or the connection dies before a reply was queued, the rpc thread calls
 *      `cancelled` once. The call's memory stays: the holder still replies, and the reply goes
 *      nowhere.
 *   4. After the reply, `delivered` is called once on the rpc thread when the method asks for it:
 *      sent is true as soon as the kernel took at least one byte of the reply's DATA, false when
 *      the stream died before. A claim that was not sent is given back by the broker (INV-5).
 *
 * Calls are reference counted: the server drops its reference after (4); a handler that keeps a
 * pointer beyond its reply (an event on its way to another thread) takes one with rpc_call_ref.
 *
 * Threads: create, start, drain, stop and destroy belong to one thread; handlers run on rpc
 * threads; rpc_reply, rpc_call_ref/unref and rpc_server_set_health may be called from any thread.
 *
 * Limits (INV-10, INV-13): see struct rpc_limits; all are enforced before a handler sees anything.
 */
#ifndef TASKMILL_RPC_SERVER_H
#define TASKMILL_RPC_SERVER_H

#include "base/bytes.h"
#include "base/err.h"
#include "rpc/status.h"
#include "rpc/tls.h"

struct rpc_server;
struct rpc_call;

struct rpc_method {
    const char *path; /* "/package.Service/Method" */
    void (*start)(void *ctx, struct rpc_call *call);
    void (*cancelled)(void *ctx, struct rpc_call *call);            /* may be NULL */
    void (*delivered)(void *ctx, struct rpc_call *call, bool sent); /* may be NULL */
};

/* Each 0 means its default, in brackets. */
struct rpc_limits {
    uint32_t connections;            /* open at once [10000]; above, the newest is closed */
    uint32_t streams_per_connection; /* SETTINGS_MAX_CONCURRENT_STREAMS [1024] */
    uint32_t message_bytes;          /* request message [4194304]; above: OUT_OF_RANGE */
    uint32_t connection_bytes;       /* request bytes buffered per connection [16777216]; above:
                                        RESOURCE_EXHAUSTED */
    uint32_t total_bytes;            /* the same of all connections [268435456] */
    uint32_t outbound_bytes;     /* reply bytes queued for a slow peer [67108864]; above: closed */
    uint32_t header_bytes;       /* request header list [16384] */
    uint32_t preface_timeout_ms; /* from accept to the first SETTINGS [10000] */
    uint32_t body_timeout_ms;    /* from HEADERS to END_STREAM [30000] */
    uint32_t write_timeout_ms;   /* peer takes no byte of what is queued [20000] */
    uint32_t idle_timeout_ms;    /* no stream open: GOAWAY [0 = never] */
    uint32_t age_ms;             /* a connection's age, 10 % more or less so that not all go at
                                    once: GOAWAY, open streams may finish [0 = never] */
    uint32_t age_grace_ms;       /* ... for so long, then it is closed [30000] */
    uint32_t handshakes;         /* TLS handshakes under way [256]; above, the oldest is closed if
                                    it had HANDSHAKE_FAIR_MS, else the newest */
    uint32_t resets_per_s;       /* sustained stream resets, by the peer or forced on us [100],
                                    burst ten times that; above: GOAWAY ENHANCE_YOUR_CALM */
};

struct rpc_server_options {
    const char *address; /* IP literal, e.g. "0.0.0.0" or "::1" */
    uint16_t port;       /* 0: any free one, see rpc_server_port */
    uint32_t threads;    /* 1..64 */
    const struct rpc_method *methods;
    size_t method_count;
    void *ctx;        /* for the handlers */
    size_t user_size; /* bytes of handler data inside each call, zeroed at start */
    /* Called on an rpc thread after it has handed over all calls of one loop turn (cancelled and
     * delivered included); handlers that batch flush here. May be NULL. */
    void (*turn_end)(void *ctx, uint32_t thread);
    /* Called on an rpc thread once for each request, refused ones too, when nothing is owed any
     * more: its reply was made or its stream died (one that is answered with a stream: when that
     * begins). path is the constant text of a method that the server knows, NULL for every other
     * one. May be NULL. */
    void (*finished)(void *ctx, const char *path, uint64_t duration_us);
    const struct bytes *secrets; /* copied; none: no authentication. Health is always exempt. */
    size_t secret_count;
    /* NULL: plain text. Else the port speaks TLS only; with ca_path clients must show a certificate
     * of those authorities. The paths are copied, the files read by create and by reload_tls. */
    const struct rpc_tls_options *tls;
    struct rpc_limits limits;
};

/* Binds and listens, starts no thread. ERR_SYSTEM with the address, the cause and what to do in
 * why; a code of rpc_tls_server_new with the file. Health of service "" is SERVING; other services
 * are unknown until set. */
int rpc_server_create(struct rpc_server **out, const struct rpc_server_options *options,
                      struct err_text *why);
int rpc_server_start(struct rpc_server *server, struct err_text *why);
uint16_t rpc_server_port(const struct rpc_server *server);

/* Reads the files of options.tls again, for connections that come from now on; those that are open
 * keep what they have. On failure (why names the file) nothing changes. Does nothing without TLS.
 * Any thread, before rpc_server_destroy. */
int rpc_server_reload_tls(struct rpc_server *server, struct err_text *why);

/* Stops accepting, sends GOAWAY on every connection, lets open streams finish. */
void rpc_server_drain(struct rpc_server *server);
/* Streams that are open now; 0 after a drain means that nothing is owed any more. Any thread. */
size_t rpc_server_open_streams(const struct rpc_server *server);
/* Connections that are open now. Any thread. */
size_t rpc_server_connections(const struct rpc_server *server);
/* Closes everything and joins the threads. Calls still held elsewhere stay valid until replied to
 * (nobody is told about the delivery of such replies). */
void rpc_server_stop(struct rpc_server *server);
/* After rpc_server_stop, and when every call was replied to and every reference dropped (asserted).
 */
void rpc_server_destroy(struct rpc_server *server);

/* grpc.health.v1: status is a wire value of enum health_status (1 SERVING, 2 NOT_SERVING).
 * Watchers are told. Check of an unknown service: NOT_FOUND "service not registered". Any thread.
 */
void rpc_server_set_health(struct rpc_server *server, const char *service, int status);

/* --- calls ----------------------------------------------------------------------------------- */

/* The request message without its gRPC prefix; valid until the reply. */
struct bytes rpc_call_body(const struct rpc_call *call);
/* Boot-clock ms at which the caller's grpc-timeout ends; CLOCK_NEVER without one. */
int64_t rpc_call_deadline_ms(const struct rpc_call *call);
/* Boot clock at the turn of the loop in which the request began to arrive. */
int64_t rpc_call_started_us(const struct rpc_call *call);
uint32_t rpc_call_thread(const struct rpc_call *call);
void *rpc_call_user(struct rpc_call *call);
struct rpc_call *rpc_call_of_user(void *user); /* the way back */
struct rpc_call *rpc_call_ref(struct rpc_call *call);
void rpc_call_unref(struct rpc_call *call);

/* The reply message is prefix followed by blob; both may be empty. Used only with GRPC_OK. */
struct rpc_reply {
    enum grpc_status status;
    const char *message; /* grpc-message, copied and percent-encoded; may be NULL */
    uint8_t prefix[24];
    size_t prefix_len;
    struct blob *blob; /* the reply takes over one reference; may be NULL */
};

/* Sends one reply from any thread. */
void rpc_reply(struct rpc_call *call, const struct rpc_reply *reply);

/* Many replies at once: collects per rpc thread, one hand-over each at flush. Owned by one thread.
 */
struct rpc_batch;
struct rpc_batch *rpc_batch_new(struct rpc_server *server);
void rpc_batch_free(struct rpc_batch *batch);
void rpc_batch_reply(struct rpc_batch *batch, struct rpc_call *call, const struct rpc_reply *reply);
void rpc_batch_flush(struct rpc_batch *batch);

#endif
