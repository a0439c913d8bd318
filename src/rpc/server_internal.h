/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of the server, shared by its files only.
 *
 *   server.c         create, bind, accept, threads, drain, stop
 *   server_thread.c  the loop of one rpc thread and its timers
 *   server_conn.c    a connection's life; what the peer sends (nghttp2 callbacks)
 *   server_send.c    what goes to the peer: replies as frames, writing, delivery
 *   server_call.c    a call's life: memory, references, replies from other threads
 *   server_health.c  grpc.health.v1
 *   server_reflection.c  grpc.reflection
 *
 * Everything of a connection and of a call, except what is marked, belongs to the one rpc thread
 * that serves the connection. Replies come home through the thread's inbox, with a node inside the
 * call.
 *
 * Ends of a call. The rpc thread's reference is dropped (call_settle) when three things have
 * happened, in whatever order: the stream is closed; the reply has come (or there was never a
 * handler); the handler knows about delivery. A call that is `gone` has lost its stream, or had it
 * answered by the server itself (deadline): the handler was told by `cancelled` and its reply goes
 * nowhere. A connection whose socket is closed stays in memory while calls point to it.
 */
#ifndef TASKMILL_RPC_SERVER_INTERNAL_H
#define TASKMILL_RPC_SERVER_INTERNAL_H

#include <nghttp2/nghttp2.h>
#include <pthread.h>
#include <stdalign.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/inbox.h"
#include "base/list.h"
#include "base/log.h"
#include "base/mem.h"
#include "rpc/grpc.h"
#include "rpc/rate.h"
#include "rpc/server.h"
#include "wire/sign.h"

#define RPC_LOG "taskmill::rpc"

enum {
    SERVER_READ_LEN = 128 * 1024,   /* one read(2) of a ready connection */
    SERVER_WRITE_LEN = 256 * 1024,  /* frames collected for one write(2) */
    SERVER_WINDOW_LEN = 1024 * 1024 /* SETTINGS_INITIAL_WINDOW_SIZE, as the original */
};

/* --- grpc.health.v1 (server_health.c) -------------------------------------------------------- */

struct health_service;

struct health {
    pthread_mutex_t lock;
    struct health_service *services; /* under the lock */
    _Atomic uint64_t version;        /* rises with every change */
};

void health_init(struct health *health);
void health_free(struct health *health);
/* Any thread. */
void health_set(struct health *health, struct bytes service, int status);
/* rpc thread: handlers of Check and Watch; tells watchers what changed since the last look. */
void health_check(void *ctx, struct rpc_call *call);
void health_watch(void *ctx, struct rpc_call *call);
struct server_thread;
void health_notify(struct server_thread *thread);
/* The next message of a watch, if the peer does not know the latest status: into call->reply. */
bool health_next(struct rpc_call *call);

/* --- grpc.reflection (server_reflection.c) ---------------------------------------------------- */

/* The first request is complete: the handler of the method. */
void reflection_start(void *ctx, struct rpc_call *call);
/* True while requests are taken: reflection_take for their bytes, reflection_half_closed at their
 * end. */
bool reflection_is_open(const struct rpc_call *call);
void reflection_take(struct rpc_call *call, struct bytes chunk);
void reflection_half_closed(struct rpc_call *call);
/* The next answer, if a request waits: into call->reply. Ends the stream after the last. */
bool reflection_next(struct rpc_call *call);

/* --- threads --------------------------------------------------------------------------------- */

enum msg_kind { MSG_REPLY, MSG_CONN };

/* What travels in a thread's inbox. */
struct thread_msg {
    struct inbox_node node;
    enum msg_kind kind;
};

enum method_kind { METHOD_UNARY, METHOD_WATCH, METHOD_REFLECTION };

struct server_method {
    struct rpc_method method;
    size_t path_len;
    enum method_kind kind;
};

struct server_thread {
    struct rpc_server *server;
    uint32_t index;
    pthread_t id;
    bool is_running;
    int epoll_fd;
    struct inbox inbox; /* any thread may push */
    int64_t now_ms;     /* boot clock, read once or twice a turn */
    int64_t now_us;     /* the same reading */

    struct list conns;
    struct list dirty;                            /* connections that may have frames to send */
    struct inbox_node *local_first, **local_tail; /* replies given on this thread, see rpc_reply */
    struct heap deadlines;                        /* of calls with a grpc-timeout */
    int64_t sweep_ms;                             /* when connections are next looked over */
    struct list handshakes;                       /* connections in a TLS handshake, oldest first */
    uint32_t handshakes_left; /* steps of handshakes that this turn may still take */
    uint32_t chance;          /* xorshift state, for jitter */
    struct list streams;      /* calls that are answered with a stream */
    uint64_t health_seen;     /* version that the watchers know */
    bool is_draining;

    uint8_t *in;          /* SERVER_READ_LEN */
    struct buf out;       /* frames of the connection that is being flushed */
    size_t request_bytes; /* buffered, of all connections */
    int64_t log_ms; /* last record about a stranger's doings; the others since are only counted */
    uint64_t log_skipped;

    /* Calls for reuse. Freed on this thread: `idle`; by others: `returned`, a stack of which only
     * this thread takes, always all of it (hence no ABA). */
    struct rpc_call *idle;
    size_t idle_count;
    size_t call_count; /* all that exist */
    _Atomic(struct rpc_call *) returned;

    /* Written by this thread, read by all: open streams, and connections with bytes still to write.
     */
    _Atomic size_t open_streams;
};

struct rpc_server {
    struct server_method *methods;
    size_t method_count;
    struct bytes *services; /* names, parts of the methods' paths */
    size_t service_count;
    void *ctx;
    size_t user_size;
    void (*turn_end)(void *ctx, uint32_t thread);
    void (*finished)(void *ctx, const char *path, uint64_t duration_us);
    struct bytes *secrets;
    size_t secret_count;
    struct rpc_limits limits;
    int sweep_step_ms;

    struct rpc_tls *tls; /* NULL: plain text; under the lock, see server_tls */
    struct rpc_tls_options tls_options;
    pthread_mutex_t tls_lock;

    int listen_fd; /* thread 0's once started */
    uint16_t port;
    int64_t accept_again_ms; /* thread 0: out of descriptors until then; 0: accepting */
    uint32_t next_thread;    /* thread 0: round robin */
    _Atomic uint32_t conn_count;
    _Atomic bool is_draining, is_stopping;

    struct server_thread *threads;
    uint32_t thread_count;
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *option;
    struct health health;
};

/* The loop; returns after rpc_server_stop with all connections closed. */
void *server_thread_main(void *arg);
int server_thread_init(struct server_thread *thread, struct rpc_server *server, uint32_t index,
                       struct err_text *why);
/* After the thread has ended and every call was replied to. */
void server_thread_free(struct server_thread *thread);
/* True if a record about what a stranger did may be written now: one a second and thread. */
bool server_thread_may_log(struct server_thread *thread);
/* Reads the clock. */
void server_thread_tick(struct server_thread *thread);
/* A turn's work between two looks at the sockets, at thread->now_ms. */
void server_thread_work(struct server_thread *thread);
/* The certificates that are good now, a reference of the caller's; NULL: plain text. Any thread. */
struct rpc_tls *server_tls(struct rpc_server *server);
/* Thread 0: takes what waits on the listening socket. */
void server_accept(struct rpc_server *server);
/* Thread 0: takes up listening again when a pause is over. */
void server_accept_again(struct rpc_server *server);

/* --- connections ----------------------------------------------------------------------------- */

struct conn {
    struct thread_msg msg; /* carries a new connection to its thread */
    struct server_thread *thread;
    struct list_node in_thread, in_dirty;
    struct list_node in_handshakes;
    nghttp2_session *session; /* NULL once closed */
    struct tls_stream *tls;   /* NULL: plain text */
    int fd;
    bool is_secure;    /* the handshake is done, or there is none */
    bool is_blocked;   /* the socket takes no more: EPOLLOUT is on */
    bool is_failed;    /* to be closed as soon as no nghttp2 call is on the stack */
    bool has_preface;  /* first SETTINGS seen */
    bool is_calm;      /* GOAWAY(ENHANCE_YOUR_CALM) was sent */
    bool has_answered; /* HEADERS or DATA were sent since the last PING of the peer */
    bool is_aged;      /* told to go because of its age */
    bool has_notice;   /* drain, step 1: GOAWAY with the highest stream id, and a PING */
    bool has_goaway;   /* drain, step 2: GOAWAY with the last stream id */
    const char *why;   /* reason of the end, for the log */

    struct list calls;            /* streams that are open */
    struct list receiving;        /* calls whose request is not complete, oldest first */
    struct list unsent;           /* calls whose DATA is in the socket's queue, oldest first */
    size_t call_count;            /* calls that point here, streams closed or not */
    struct rpc_call *header_call; /* request headers are being read for it */
    size_t header_bytes;          /* of the block that is being read */

    struct buf backlog; /* frames that the socket did not take */
    size_t backlog_head;
    uint64_t queued, written; /* bytes of frames made, and taken by the kernel */
    size_t request_bytes;     /* buffered in calls */
    size_t reply_bytes;       /* of replies that are not yet frames */
    int64_t accepted_ms;
    int64_t idle_since_ms; /* CLOCK_NEVER while streams are open */
    int64_t progress_ms;   /* last time the kernel took bytes of the backlog, or it was empty */
    int64_t reply_ms;      /* last time replies became frames, or there were none */
    int64_t notice_ms;
    int64_t age_due_ms; /* CLOCK_NEVER: without limit */
    struct rate resets, nuisances;
};

/* Owns fd from here. Any thread; conn_start on the thread that is to serve it. */
struct conn *conn_new(struct server_thread *thread, int fd);
int conn_start(struct conn *conn);
/* Reads once and feeds it; may close and free the connection. */
void conn_read(struct conn *conn);
/* Goes on with the TLS handshake; false while it is not done, or the connection was closed and may
 * be freed. */
bool conn_secure(struct conn *conn);
/* Plain bytes from the peer; false when the connection was closed and may be freed. */
bool conn_feed(struct conn *conn, struct bytes bytes);
/* Closes the socket; streams die; freed when no call points to it any more. */
void conn_close(struct conn *conn, const char *why);
void conn_release_call(struct conn *conn); /* one call less points here */
/* Looks at the time-outs; may close and free. */
void conn_check(struct conn *conn);
void conn_drain(struct conn *conn);
/* May be called inside nghttp2 callbacks. */
void conn_fail(struct conn *conn, const char *why);
void conn_mark_dirty(struct conn *conn);
void conn_callbacks(nghttp2_session_callbacks *callbacks);

/* --- calls ----------------------------------------------------------------------------------- */

enum call_state {
    CALL_RECEIVING, /* the request is not complete */
    CALL_HELD,      /* a handler owes the reply */
    CALL_REPLIED    /* nothing is owed: the reply has come, or the server answers alone */
};

struct rpc_call {
    struct thread_msg msg; /* carries the reply home */
    _Atomic uint32_t refs; /* any thread */
    enum call_state state;
    int32_t stream_id;
    bool is_open;         /* the stream is */
    bool is_request_end;  /* END_STREAM was received */
    bool is_gone;         /* see above */
    bool is_reset_after;  /* RST_STREAM(NO_ERROR) follows the reply: the request is not wanted */
    bool is_delivery_due; /* the handler has yet to be told */
    bool has_post, has_content_type, has_encoding;
    bool is_stream;     /* answered with many messages: a watch, reflection */
    bool is_stream_end; /* ... and no more of them */
    bool is_reflection;
    bool is_exempt;  /* needs no signature */
    int http_status; /* 0, or the refusal that the headers earned */
    struct server_thread *thread;
    struct conn *conn;
    const struct server_method *method; /* NULL: unknown path */
    struct list_node in_conn;
    struct list_node in_phase; /* conn's receiving or unsent */
    struct list_node in_streams;
    struct heap_node deadline;
    int64_t deadline_ms, started_ms, started_us;
    struct grpc_message request;
    size_t request_bytes; /* counted in conn and thread */
    struct buf waiting;   /* reflection: requests not yet answered */
    struct buf path;      /* only for a signed call of an unknown path */
    uint8_t signature[SIGN_HEX_LEN];
    size_t signature_len;
    /* Set by whoever replies, before the hand-over. message is ours and encoded. */
    struct rpc_reply reply;
    size_t reply_len, reply_sent; /* of prefixes and message, as DATA */
    uint64_t data_at;             /* conn->queued where the DATA's payload begins */
    int watch_status, watch_sent; /* latest, and the last that was made a frame */
    struct rpc_call *next_idle;
    alignas(max_align_t) uint8_t user[];
};

struct rpc_call *call_new(struct conn *conn, int32_t stream_id);
/* Frees all idle calls; asserts that there are no others. */
void calls_free(struct server_thread *thread);
void call_set_state(struct rpc_call *call, enum call_state state);
/* The request is complete: hands it to its handler. */
void call_start(struct rpc_call *call);
/* The stream is gone (reset, or finished: has_failed false). */
void call_closed(struct rpc_call *call, bool has_failed);
/* The reply that came home. */
void call_replied(struct rpc_call *call);
/* grpc-timeout is over. */
void call_expire(struct rpc_call *call);
void call_drop_request(struct rpc_call *call);
void call_count_request(struct rpc_call *call, size_t more);
void call_uncount_request(struct rpc_call *call, size_t less);
/* NULL, or what to say because too many request bytes are buffered. */
const char *call_over_limit(const struct rpc_call *call);
void call_tell_delivery(struct rpc_call *call, bool sent);
/* The server's own answer in place of a handler's. */
void call_refuse(struct rpc_call *call, enum grpc_status status, const char *message);
/* Drops the thread's reference if all is over; the call must not be used afterwards. */
void call_settle(struct rpc_call *call);
/* The thread that runs now, NULL on foreign ones. */
void server_thread_enter(struct server_thread *thread);

/* --- sending --------------------------------------------------------------------------------- */

void send_reply(struct rpc_call *call); /* call->reply */
void send_status(struct rpc_call *call, enum grpc_status status, struct bytes encoded_message);
void send_http_refusal(struct rpc_call *call);
/* A call that is answered with a stream: begins it; says that there is something to send. */
void stream_start(struct rpc_call *call);
void stream_resume(struct rpc_call *call);
/* Ends it with that status after the message that is under way. */
void stream_stop(struct rpc_call *call, enum grpc_status status);
/* All of the thread end, because the server does. */
void streams_end(struct server_thread *thread);
/* Makes frames and writes them; false when the connection was closed and may be freed. */
bool conn_flush(struct conn *conn);
int send_data_frame(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *head, size_t len,
                    nghttp2_data_source *source, void *user);

#endif
