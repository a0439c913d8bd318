/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A server on loopback with a few methods:
 *   /t.Test/Echo    answered with the request, from another thread, in batches
 *   /t.Test/Inline  answered with the request inside `start`
 *   /t.Test/Fail    NOT_FOUND with the request as its text
 *   /t.Test/Size    answered with as many bytes as the request says (decimal)
 *   /t.Test/Hold    kept until the test takes it with fixture_held and replies itself
 * Counts what handlers are told; tests wait for counts, never for time.
 */
#ifndef TASKMILL_TEST_RPC_FIXTURE_H
#define TASKMILL_TEST_RPC_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>

#include "base/clock.h"
#include "base/inbox.h"
#include "base/mem.h"
#include "rpc/client.h"
#include "rpc/server.h"

#define ECHO_PATH      "/t.Test/Echo"
#define INLINE_PATH    "/t.Test/Inline"
#define FAIL_PATH      "/t.Test/Fail"
#define SIZE_PATH      "/t.Test/Size"
#define HOLD_PATH      "/t.Test/Hold"
#define FIXTURE_WAIT_S 20

struct fixture {
    struct rpc_server *server;
    struct inbox engine; /* echo calls on their way to the other thread */
    pthread_t engine_thread;
    _Atomic bool is_over;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct inbox_node *held; /* newest first; under the lock, as the counts */
    size_t held_count, started, cancelled, sent, unsent;
};

/* Limits and secret may be NULL. */
struct fixture *fixture_new(const struct rpc_limits *limits, const char *secret, uint32_t threads);
/* The same over TLS. */
struct fixture *fixture_new_tls(const struct rpc_limits *limits, const struct rpc_tls_options *tls);
/* Stops and frees; replies to what is still held first. */
void fixture_free(struct fixture *fixture);

/* Waits until *count (one of the above) is at least `value`; fails the test after FIXTURE_WAIT_S.
 */
void fixture_wait(struct fixture *fixture, const size_t *count, size_t value);
size_t fixture_count(struct fixture *fixture, const size_t *count);
/* The newest held call; waits for one. */
struct rpc_call *fixture_held(struct fixture *fixture);
void fixture_reply(struct rpc_call *call, enum grpc_status status, const char *message,
                   const char *body);
void fixture_wait_no_streams(struct fixture *fixture);

struct rpc_client *fixture_client_tls(struct fixture *fixture, const struct rpc_tls_options *tls);
struct rpc_client *fixture_client(struct fixture *fixture, const char *secret);

/* What a client's callback saw. */
struct outcome {
    int calls; /* of the callback */
    int status;
    bool is_local;
    char message[256];
    struct buf body;
};
void outcome_done(void *ctx, const struct rpc_result *result);
void outcome_free(struct outcome *outcome);
/* Starts a call that ends in `outcome`; timeout_ms 0: none. Returns its id. */
uint64_t fixture_call(struct rpc_client *client, const char *path, const char *body,
                      uint32_t timeout_ms, struct outcome *outcome);
/* Runs the client's loop until *calls is at least `value`. */
void fixture_run(struct rpc_client *client, const int *calls, int value);
/* The same until a count of the fixture is at least `value`. */
void fixture_run_until(struct fixture *fixture, struct rpc_client *client, const size_t *count,
                       size_t value);
/* One blocking call; returns the status, body in `body` (may be NULL). The call must be answered.
 */
int fixture_ask(struct rpc_client *client, const char *path, struct bytes request, struct buf *body,
                struct err_text *why);

#endif
