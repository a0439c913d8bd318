/* SPDX-License-Identifier: Apache-2.0 */
/*
 * grpc.health.v1: Check and Watch (List stays UNIMPLEMENTED, as the original).
 * The table is shared; a watcher belongs to the thread of its connection. rpc_server_set_health
 * raises the version and wakes the threads, each of which then looks up the services of its own
 * watchers.
 */
#include "rpc/server_internal.h"
#include "wire/consumer.h"

struct health_service {
    struct health_service *next;
    int status;
    size_t name_len;
    char name[];
};

void health_init(struct health *health)
{
    pthread_mutex_init(&health->lock, NULL);
    health->services = NULL;
    atomic_init(&health->version, 0);
}

void health_free(struct health *health)
{
    while (health->services) {
        struct health_service *service = health->services;
        health->services = service->next;
        mem_free(service);
    }
    pthread_mutex_destroy(&health->lock);
}

/* Under the lock. */
static struct health_service *find(const struct health *health, struct bytes name)
{
    struct health_service *service = health->services;

    while (service && !bytes_equal(bytes_of(service->name, service->name_len), name))
        service = service->next;
    return service;
}

void health_set(struct health *health, struct bytes name, int status)
{
    pthread_mutex_lock(&health->lock);
    struct health_service *service = find(health, name);
    if (!service) {
        service = (struct health_service *)mem_alloc(sizeof(*service) + name.len);
        service->name_len = name.len;
        if (name.len)
            memcpy(service->name, name.ptr, name.len);
        service->next = health->services;
        health->services = service;
    }
    service->status = status;
    atomic_fetch_add_explicit(&health->version, 1, memory_order_release);
    pthread_mutex_unlock(&health->lock);
}

/* SERVICE_UNKNOWN when it was never set. */
static int look_up(struct health *health, struct bytes name)
{
    pthread_mutex_lock(&health->lock);
    const struct health_service *service = find(health, name);
    int status = service ? service->status : HEALTH_SERVICE_UNKNOWN;
    pthread_mutex_unlock(&health->lock);
    return status;
}

void health_check(void *ctx, struct rpc_call *call)
{
    (void)ctx;
    struct rpc_reply reply = {.status = GRPC_OK};
    struct buf message = {0};
    struct bytes service;
    const char *why;

    if (health_request_decode(rpc_call_body(call), &service, &why) != 0) {
        reply.status = GRPC_INTERNAL;
        reply.message = why;
        rpc_reply(call, &reply);
        return;
    }
    int status = look_up(&call->thread->server->health, service);
    if (status == HEALTH_SERVICE_UNKNOWN) {
        reply.status = GRPC_NOT_FOUND;
        reply.message = "service not registered";
    } else {
        health_response_encode((enum health_status)status, &message);
        memcpy(reply.prefix, message.ptr, message.len);
        reply.prefix_len = message.len;
    }
    rpc_reply(call, &reply);
    buf_free(&message);
}

void health_watch(void *ctx, struct rpc_call *call)
{
    (void)ctx;
    struct server_thread *thread = call->thread;
    struct bytes service;
    const char *why;

    if (health_request_decode(rpc_call_body(call), &service, &why) != 0) {
        struct rpc_reply reply = {.status = GRPC_INTERNAL, .message = why};
        rpc_reply(call, &reply);
        return;
    }
    call->watch_sent = -1; /* no status: the first is sent at once */
    call->watch_status = look_up(&thread->server->health, service);
    stream_start(call);
}

bool health_next(struct rpc_call *call)
{
    if (call->watch_status == call->watch_sent)
        return false;
    call->watch_sent = call->watch_status;
    call->reply.prefix[0] = 0x08; /* field 1, varint */
    call->reply.prefix[1] = (uint8_t)call->watch_status;
    call->reply.prefix_len = 2;
    return true;
}

void health_notify(struct server_thread *thread)
{
    struct health *health = &thread->server->health;
    uint64_t version = atomic_load_explicit(&health->version, memory_order_acquire);

    if (version == thread->health_seen)
        return;
    thread->health_seen = version;
    list_foreach (&thread->streams, node) {
        struct rpc_call *call = container_of(node, struct rpc_call, in_streams);
        struct bytes service;
        const char *why;

        if (call->is_reflection)
            continue;
        if (health_request_decode(rpc_call_body(call), &service, &why) != 0)
            continue; /* cannot be: it was decoded before */
        call->watch_status = look_up(health, service);
        if (call->watch_status != call->watch_sent)
            stream_resume(call);
    }
}
