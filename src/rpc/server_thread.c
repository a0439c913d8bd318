/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One turn of an rpc thread: replies that came home become frames; what is due by time is done;
 * every connection with frames to send is flushed once; then the thread sleeps; every ready
 * connection is read once; what the handlers were given is flushed to where it goes (turn_end). So
 * under load batches grow by themselves and each connection costs one read and one write a turn.
 */
#include <assert.h>
#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "rpc/server_internal.h"

enum {
    EVENTS_PER_TURN = 256,
    MESSAGES_PER_TURN = 8192,
    LOG_EVERY_MS = 1000,
    /* A step of a handshake costs up to a few ms of cryptography: calls may not wait for many. */
    HANDSHAKES_PER_TURN = 4,
    HANDSHAKE_FAIR_MS = 1000 /* what an honest peer needs at most */
};

int server_thread_init(struct server_thread *thread, struct rpc_server *server, uint32_t index,
                       struct err_text *why)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &thread->inbox};

    thread->server = server;
    thread->index = index;
    list_init(&thread->conns);
    list_init(&thread->dirty);
    list_init(&thread->streams);
    list_init(&thread->handshakes);
    heap_init(&thread->deadlines);
    thread->local_tail = &thread->local_first;
    server_thread_tick(thread);
    thread->sweep_ms = thread->now_ms;
    thread->log_ms = INT64_MIN;
    thread->chance = (uint32_t)thread->now_ms | 1;
    if (inbox_init(&thread->inbox) != 0)
        return err_set(why, ERR_SYSTEM, "rpc thread: eventfd: %s", strerror(errno));
    thread->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (thread->epoll_fd < 0 ||
        epoll_ctl(thread->epoll_fd, EPOLL_CTL_ADD, thread->inbox.event_fd, &event) != 0) {
        err_set(why, ERR_SYSTEM, "rpc thread: epoll: %s", strerror(errno));
        goto fail_inbox;
    }
    thread->in = (uint8_t *)mem_alloc(SERVER_READ_LEN);
    return 0;

fail_inbox:
    if (thread->epoll_fd >= 0)
        close(thread->epoll_fd);
    inbox_destroy(&thread->inbox);
    return ERR_SYSTEM;
}

bool server_thread_may_log(struct server_thread *thread)
{
    if (thread->log_ms != INT64_MIN && thread->now_ms - thread->log_ms < LOG_EVERY_MS) {
        thread->log_skipped++;
        return false;
    }
    if (thread->log_skipped)
        log_warn(RPC_LOG, LOG_FIELDS(log_int("records", (int64_t)thread->log_skipped)),
                 "similar records were left out");
    thread->log_skipped = 0;
    thread->log_ms = thread->now_ms;
    return true;
}

/* --- messages -------------------------------------------------------------------------------- */

/* Each handshake under way holds some 50 KB: their number is limited. Those that take long make
 * room; when all are young, honest peers come in a crowd, and they will come again. */
static void limit_handshakes(struct server_thread *thread)
{
    const struct rpc_server *server = thread->server;
    size_t limit = server->limits.handshakes / server->thread_count;

    if (thread->handshakes.count <= (limit ? limit : 1))
        return;
    struct conn *conn = container_of(list_first(&thread->handshakes), struct conn, in_handshakes);
    if (thread->now_ms - conn->accepted_ms < HANDSHAKE_FAIR_MS)
        conn = container_of(list_last(&thread->handshakes), struct conn, in_handshakes);
    if (server_thread_may_log(thread))
        log_warn(RPC_LOG, LOG_FIELDS(log_int("limit", server->limits.handshakes)),
                 "connection closed: too many TLS handshakes are under way");
    conn_close(conn, "too many TLS handshakes are under way");
}

static void take_conn(struct conn *conn)
{
    struct server_thread *thread = conn->thread;

    if (conn_start(conn) != 0)
        return;
    if (thread->is_draining || thread->server->is_stopping)
        conn_close(conn, "server is shutting down");
    else
        limit_handshakes(thread); /* may close it */
}

static void take_message(struct thread_msg *msg)
{
    switch (msg->kind) {
    case MSG_REPLY:
        call_replied(container_of(msg, struct rpc_call, msg));
        break;
    case MSG_CONN:
        take_conn(container_of(msg, struct conn, msg));
        break;
    }
}

static void take_inbox(struct server_thread *thread, size_t max)
{
    struct inbox_node *node = inbox_take(&thread->inbox, max);

    while (node) {
        struct inbox_node *next = node->next;
        /* The next call's memory was last written by another thread: fetch it meanwhile. */
        __builtin_prefetch(next);
        take_message(container_of(node, struct thread_msg, node));
        node = next;
    }
}

void server_thread_free(struct server_thread *thread)
{
    take_inbox(thread, SIZE_MAX); /* replies that came too late */
    calls_free(thread);
    inbox_destroy(&thread->inbox);
    close(thread->epoll_fd);
    heap_free(&thread->deadlines);
    buf_free(&thread->out);
    mem_free(thread->in);
}

/* Replies that handlers gave on this thread: later than at once, so that nghttp2 is not entered
 * twice. */
static void take_local(struct server_thread *thread)
{
    while (thread->local_first) {
        struct inbox_node *node = thread->local_first;

        thread->local_first = NULL;
        thread->local_tail = &thread->local_first;
        while (node) {
            struct inbox_node *next = node->next;
            take_message(container_of(node, struct thread_msg, node));
            node = next;
        }
    }
}

/* --- time ------------------------------------------------------------------------------------ */

static void expire_calls(struct server_thread *thread)
{
    struct heap_node *node;

    while ((node = heap_min(&thread->deadlines)) && node->key <= thread->now_ms)
        call_expire(container_of(node, struct rpc_call, deadline));
}

/* Connections are looked over in steps that are short against every time-out: nothing else need be
 * kept up to date while bytes flow. */
static void sweep(struct server_thread *thread)
{
    if (thread->now_ms < thread->sweep_ms)
        return;
    thread->sweep_ms = thread->now_ms + thread->server->sweep_step_ms;
    list_foreach (&thread->conns, node)
        conn_check(container_of(node, struct conn, in_thread));
}

static void start_drain(struct server_thread *thread)
{
    thread->is_draining = true;
    list_foreach (&thread->conns, node)
        conn_drain(container_of(node, struct conn, in_thread));
    streams_end(thread);
}

static bool owns_listener(const struct server_thread *thread)
{
    return thread->index == 0 && thread->server->listen_fd >= 0;
}

/* Stops listening; the kernel refuses whoever comes from now on. */
static void close_listener(struct server_thread *thread)
{
    if (!owns_listener(thread))
        return;
    close(thread->server->listen_fd);
    thread->server->listen_fd = -1;
}

static int64_t next_due_ms(const struct server_thread *thread)
{
    const struct heap_node *node = heap_min(&thread->deadlines);
    int64_t due_ms = node ? node->key : CLOCK_NEVER;

    if (!list_empty(&thread->conns) && thread->sweep_ms < due_ms)
        due_ms = thread->sweep_ms;
    if (owns_listener(thread) && thread->server->accept_again_ms != 0 &&
        thread->server->accept_again_ms < due_ms)
        due_ms = thread->server->accept_again_ms;
    return due_ms;
}

/* --- the loop -------------------------------------------------------------------------------- */

static void flush_dirty(struct server_thread *thread)
{
    /* Those that become dirty meanwhile have their turn next time. */
    for (size_t n = thread->dirty.count; n > 0 && !list_empty(&thread->dirty); n--)
        conn_flush(container_of(list_pop_front(&thread->dirty), struct conn, in_dirty));
}

static int wait_ms(struct server_thread *thread)
{
    if (thread->local_first || !list_empty(&thread->dirty) || !inbox_prepare_sleep(&thread->inbox))
        return 0;
    int64_t due_ms = next_due_ms(thread);
    if (due_ms == CLOCK_NEVER)
        return -1;
    int64_t left_ms = due_ms - thread->now_ms;
    return left_ms < 0 ? 0 : left_ms > INT32_MAX ? INT32_MAX : (int)left_ms;
}

static void take_event(struct server_thread *thread, const struct epoll_event *event)
{
    if (event->data.ptr == &thread->inbox) {
        inbox_woken(&thread->inbox);
        return;
    }
    if (event->data.ptr == thread->server) {
        server_accept(thread->server);
        return;
    }
    struct conn *conn = (struct conn *)event->data.ptr;
    if (event->events & EPOLLOUT)
        conn_mark_dirty(conn);
    if (event->events & (EPOLLIN | EPOLLHUP | EPOLLERR) || conn->tls) /* TLS writes to read */
        conn_read(conn);
}

void server_thread_tick(struct server_thread *thread)
{
    thread->now_us = clock_boot_us();
    thread->now_ms = thread->now_us / 1000;
}

static void poll_events(struct server_thread *thread)
{
    struct epoll_event events[EVENTS_PER_TURN];
    int count = epoll_wait(thread->epoll_fd, events, EVENTS_PER_TURN, wait_ms(thread));

    assert(count >= 0 || errno == EINTR);
    server_thread_tick(thread);
    thread->handshakes_left = HANDSHAKES_PER_TURN;
    for (int i = 0; i < count; i++)
        take_event(thread, &events[i]);
}

void server_thread_work(struct server_thread *thread)
{
    take_inbox(thread, MESSAGES_PER_TURN);
    take_local(thread);
    if (!thread->is_draining && atomic_load(&thread->server->is_draining)) {
        close_listener(thread);
        start_drain(thread);
    }
    health_notify(thread);
    expire_calls(thread);
    sweep(thread);
    if (owns_listener(thread))
        server_accept_again(thread->server);
    flush_dirty(thread);
}

static void end_turn(struct server_thread *thread)
{
    if (thread->server->turn_end)
        thread->server->turn_end(thread->server->ctx, thread->index);
}

static void close_all(struct server_thread *thread)
{
    close_listener(thread);
    take_inbox(thread, SIZE_MAX); /* the last replies that came */
    take_local(thread);
    /* Nobody had an open call, so the end followed the drain at once: the GOAWAY is still owed. */
    if (!thread->is_draining && atomic_load(&thread->server->is_draining))
        start_drain(thread);
    flush_dirty(thread);
    while (!list_empty(&thread->conns))
        conn_close(container_of(list_first(&thread->conns), struct conn, in_thread),
                   "server stops");
    take_local(thread); /* what `cancelled` handlers replied at once */
    end_turn(thread);
}

void *server_thread_main(void *arg)
{
    struct server_thread *thread = (struct server_thread *)arg;

    server_thread_enter(thread);
    while (!atomic_load(&thread->server->is_stopping)) {
        server_thread_tick(thread);
        server_thread_work(thread);
        poll_events(thread);
        end_turn(thread);
    }
    close_all(thread);
    server_thread_enter(NULL);
    return NULL;
}
