/* SPDX-License-Identifier: Apache-2.0 */
#include "load_pool.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"

/* Timers of the clients (connecting, PING) are in seconds; a lost connection is tried again then,
 * too. */
#define TIMERS_EVERY_MS 100
#define EVENTS_MAX      256

struct member {
    struct rpc_client *client;
    int fd;         /* what epoll knows; -1: nothing */
    uint32_t event; /* EPOLLIN, EPOLLOUT */
};

struct load_pool {
    int epoll_fd;
    int64_t timers_ms; /* when all clients are served next */
    uint32_t count;
    struct member members[];
};

/* A client has another descriptor after it connected anew, and the old one left the epoll when it
 * was closed. If the number is the same, the events differ: a client never waits for input while it
 * connects, and always when connected. */
static void watch(struct load_pool *pool, uint32_t index)
{
    struct member *member = &pool->members[index];
    int fd = rpc_client_fd(member->client);
    short events = rpc_client_events(member->client);
    uint32_t wanted =
        (events & POLLIN ? (uint32_t)EPOLLIN : 0) | (events & POLLOUT ? (uint32_t)EPOLLOUT : 0);
    struct epoll_event event = {.events = wanted, .data.u32 = index};

    if (fd == member->fd && wanted == member->event)
        return;
    member->fd = fd;
    member->event = wanted;
    if (fd < 0)
        return;
    if (epoll_ctl(pool->epoll_fd, EPOLL_CTL_MOD, fd, &event) == 0)
        return;
    assert(errno == ENOENT);
    int rv = epoll_ctl(pool->epoll_fd, EPOLL_CTL_ADD, fd, &event);
    assert(rv == 0);
}

static void serve(struct load_pool *pool, uint32_t index, int64_t now_ms)
{
    rpc_client_io(pool->members[index].client, now_ms);
    watch(pool, index);
}

struct load_pool *load_pool_new(const struct rpc_client_options *options, uint32_t count)
{
    struct load_pool *pool = mem_zalloc(sizeof *pool + count * sizeof pool->members[0]);
    pool->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    assert(pool->epoll_fd >= 0);
    pool->count = count;
    for (uint32_t i = 0; i < count; i++)
        pool->members[i] = (struct member){.client = rpc_client_new(options), .fd = -1};
    return pool;
}

void load_pool_free(struct load_pool *pool)
{
    for (uint32_t i = 0; i < pool->count; i++)
        rpc_client_free(pool->members[i].client);
    close(pool->epoll_fd);
    mem_free(pool);
}

struct rpc_client *load_pool_client(const struct load_pool *pool, uint32_t index)
{
    assert(index < pool->count);
    return pool->members[index].client;
}

static void serve_all(struct load_pool *pool, int64_t now_ms)
{
    for (uint32_t i = 0; i < pool->count; i++)
        if (rpc_client_next_ms(pool->members[i].client) <= now_ms)
            serve(pool, i, now_ms);
    pool->timers_ms = now_ms + TIMERS_EVERY_MS;
}

void load_pool_turn(struct load_pool *pool, int wait_ms)
{
    struct epoll_event events[EVENTS_MAX];
    int64_t now_ms = clock_boot_ms();
    if (now_ms >= pool->timers_ms)
        serve_all(pool, now_ms);
    int64_t left_ms = pool->timers_ms - now_ms;
    int ready =
        epoll_wait(pool->epoll_fd, events, EVENTS_MAX, left_ms < wait_ms ? (int)left_ms : wait_ms);
    now_ms = clock_boot_ms();
    for (int i = 0; i < ready; i++)
        serve(pool, events[i].data.u32, now_ms);
}
