/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of the client, shared by its files only.
 *   client.c       calls, their time-outs, the public functions
 *   client_link.c  the connection: socket, nghttp2 session, frames
 *
 * A call waits (`waiting`) until rpc_client_io gives it a stream (`streams`). After its callback it
 * stays in memory until nghttp2 has closed the stream, because the session points to it.
 */
#ifndef TASKMILL_RPC_CLIENT_INTERNAL_H
#define TASKMILL_RPC_CLIENT_INTERNAL_H

#include <nghttp2/nghttp2.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/list.h"
#include "base/lookup.h"
#include "base/mem.h"
#include "rpc/client.h"
#include "rpc/grpc.h"
#include "wire/sign.h"

struct client_call {
    struct list_node node; /* client's waiting or streams */
    struct heap_node deadline;
    uint32_t slot, generation; /* the two halves of its id */
    int32_t stream_id;         /* 0 while waiting, -1 once the link is lost */
    bool is_done;              /* the callback was called */
    rpc_result_fn done;
    void *ctx;
    uint32_t timeout_ms;
    char timeout_text[GRPC_TIMEOUT_TEXT_MAX];
    char signature[SIGN_HEX_LEN + 1];
    struct buf path;
    struct buf request; /* with its gRPC prefix */
    size_t request_sent;
    int http_status, grpc_status; /* grpc_status -1: none came */
    struct grpc_message response;
    struct buf message; /* grpc-message, decoded */
};

struct call_slot {
    struct client_call *call; /* NULL: free */
    uint32_t generation;
    uint32_t next_free;
};

enum link_state { LINK_NONE, LINK_RESOLVING, LINK_CONNECTING, LINK_SECURING, LINK_UP };

struct rpc_client {
    char *host, *authority;
    size_t authority_len;
    uint16_t port;
    uint32_t connect_timeout_ms, message_max, keepalive_ms;
    struct bytes secret;
    struct rpc_tls *tls_config; /* NULL: plain text */

    enum link_state state;
    int fd;
    struct tls_stream *tls; /* NULL: plain text, or not connected */
    nghttp2_session *session;
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *option;
    bool forks_lookups, hold_calls;
    struct lookup *lookup;       /* in LINK_RESOLVING */
    struct lookup_answer *names; /* the addresses; NULL unless one is being tried */
    size_t address;              /* that one */
    int64_t connect_deadline_ms;
    bool has_settings; /* of the server: it speaks HTTP/2 */
    bool is_going;     /* GOAWAY was received */
    int64_t heard_ms,
        ping_ms;    /* last bytes from the peer; PING without answer since, or CLOCK_NEVER */
    struct buf out; /* frames not yet written */
    size_t out_head;
    uint8_t *in;
    char why[640]; /* why the link failed */

    struct list waiting, streams;
    struct heap deadlines;
    size_t open_count; /* calls not done */
    int64_t now_ms;
    struct call_slot *slots;
    uint32_t slot_count, free_slot;
    struct list idle; /* calls for reuse */
};

#define SLOT_NONE UINT32_MAX

/* client.c */
struct client_result {
    int status;
    const char *message;
    bool is_local;
};
void client_finish(struct rpc_client *client, struct client_call *call,
                   const struct client_result *result);
/* The response is complete. */
void client_answer(struct rpc_client *client, struct client_call *call);
/* The stream is closed: the memory goes back. */
void client_recycle(struct rpc_client *client, struct client_call *call);

/* client_link.c */
int client_link_init(struct rpc_client *client);
void client_link_free(struct rpc_client *client);
/* Drops the connection, if any, and ends all calls that had a stream on it. */
void client_link_lose(struct rpc_client *client, const char *why);
/* Connects if calls wait; reads; all may end calls. */
void client_link_io(struct rpc_client *client);
/* Gives waiting calls a stream, makes frames and writes them. */
void client_link_flush(struct rpc_client *client);
void client_link_reset(struct rpc_client *client, struct client_call *call);

#endif
