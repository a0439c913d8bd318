/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/service.h"

#include <stdio.h>

#include "base/mem.h"

#define THREADS_MAX 64

/* Events of one rpc thread's loop turn, handed over together. */
struct chain {
    struct inbox_node *first, **tail;
    size_t count;
};

/* Series of one path. */
struct path_meter {
    struct metric *requests, *duration;
};

enum { METHOD_COUNT = 5 };

struct service {
    struct rpc_server *server;
    struct rpc_batch *batch; /* engine thread */
    struct inbox *inbox;
    struct intake_limits intake;
    struct meters *meters;
    struct path_meter paths[METHOD_COUNT]; /* of `methods`, same order */
    struct chain chains[THREADS_MAX];
};

static void hand_over(struct service *service, struct rpc_call *call, struct engine_event *event)
{
    struct chain *chain = &service->chains[rpc_call_thread(call)];
    event->node.next = NULL;
    *(chain->count ? chain->tail : &chain->first) = &event->node;
    chain->tail = &event->node.next;
    chain->count++;
}

static void turn_end(void *ctx, uint32_t thread)
{
    struct service *service = ctx;
    struct chain *chain = &service->chains[thread];
    if (!chain->count)
        return;
    inbox_push_chain(service->inbox, chain->first, chain->count);
    chain->count = 0;
}

static void refuse(struct rpc_call *call, enum grpc_status status, const char *message)
{
    struct rpc_reply reply = {.status = status, .message = message};
    rpc_reply(call, &reply);
}

static void refuse_undecodable(struct rpc_call *call, const char *why)
{
    char text[256];
    snprintf(text, sizeof text, "failed to decode Protobuf message: %s", why);
    refuse(call, GRPC_INTERNAL, text);
}

static struct engine_call *begin(struct rpc_call *call, enum engine_event_kind kind)
{
    struct engine_call *own = rpc_call_user(call);
    own->event.kind = kind;
    own->body = rpc_call_body(call);
    own->started_us = rpc_call_started_us(call);
    return own;
}

/* --- methods --------------------------------------------------------------------------------- */

static void get_task(void *ctx, struct rpc_call *call)
{
    struct engine_call *own = begin(call, EVENT_CLAIM);
    const char *why = NULL;
    if (task_filter_decode(own->body, &own->filter, &why)) {
        refuse_undecodable(call, why);
        return;
    }
    own->deadline_ms = rpc_call_deadline_ms(call);
    hand_over(ctx, call, &own->event);
}

/* True when the status is one that a worker may report; else `text` says what is wrong. */
static bool status_allowed(int32_t status, char *text, size_t size)
{
    static const char *const refused[] = {"Unspecified", "Pending", "Processing"};
    switch (status) {
    case ACTIVATION_FAILURE:
    case ACTIVATION_RETRY:
    case ACTIVATION_COMPLETE:
        return true;
    case ACTIVATION_UNSPECIFIED:
    case ACTIVATION_PENDING:
    case ACTIVATION_PROCESSING:
        snprintf(text, size,
                 "Invalid status, expects 3 (Failure), 4 (Retry), or 5 (Complete), but got: %s",
                 refused[status]);
        return false;
    default:
        snprintf(text, size, "Unable to deserialize status: UnknownEnumValue(%d)", status);
        return false;
    }
}

static void set_task_status(void *ctx, struct rpc_call *call)
{
    struct engine_call *own = begin(call, EVENT_STATUS);
    const char *why = NULL;
    char text[128];
    if (set_status_decode(own->body, &own->status, &why))
        refuse_undecodable(call, why);
    else if (!status_allowed(own->status.status, text, sizeof text))
        refuse(call, GRPC_INVALID_ARGUMENT, text);
    else
        hand_over(ctx, call, &own->event);
}

struct batch_check {
    char text[128];
};

static int check_update(void *ctx, const struct set_status_request *update)
{
    struct batch_check *check = ctx;
    return status_allowed(update->status, check->text, sizeof check->text) ? 0 : ERR_INVALID;
}

static void set_batch_status(void *ctx, struct rpc_call *call)
{
    struct engine_call *own = begin(call, EVENT_BATCH);
    const char *why = NULL;
    struct batch_check check;
    int rc = set_batch_decode(own->body, check_update, &check, &why);
    if (rc == ERR_INVALID)
        refuse(call, GRPC_INVALID_ARGUMENT, check.text);
    else if (rc)
        refuse_undecodable(call, why);
    else
        hand_over(ctx, call, &own->event);
}

struct enqueue_check {
    const struct intake_limits *limits;
    size_t index;
    const char *why;
};

static int check_activation(void *ctx, struct bytes activation)
{
    struct enqueue_check *check = ctx;
    int rc = intake_check(activation, check->limits, &check->why);
    if (rc == 0)
        check->index++;
    return rc ? ERR_INVALID : 0;
}

static void enqueue(void *ctx, struct rpc_call *call)
{
    struct service *service = ctx;
    struct engine_call *own = begin(call, EVENT_ENQUEUE);
    struct enqueue_check check = {.limits = &service->intake};
    const char *why = NULL;
    int rc = enqueue_decode(own->body, NULL, check_activation, &check, &why);
    if (rc == ERR_INVALID) {
        char text[160];
        snprintf(text, sizeof text, "activation %zu: %s", check.index, check.why);
        refuse(call, GRPC_INVALID_ARGUMENT, text);
    } else if (rc) {
        refuse_undecodable(call, why);
    } else {
        hand_over(ctx, call, &own->event);
    }
}

static void give_back(void *ctx, struct rpc_call *call)
{
    struct engine_call *own = begin(call, EVENT_GIVE_BACK);
    const char *why = NULL;
    int rc = give_back_decode(own->body, NULL, NULL, &why);
    if (rc == ERR_FULL) {
        char text[96];
        snprintf(text, sizeof text, "%s: at most %d in one call", why, GIVE_BACK_MAX);
        refuse(call, GRPC_INVALID_ARGUMENT, text);
    } else if (rc) {
        refuse_undecodable(call, why);
    } else {
        hand_over(ctx, call, &own->event);
    }
}

/* --- streams that end early ------------------------------------------------------------------ */

static void cancelled(void *ctx, struct rpc_call *call)
{
    struct engine_call_event *event = engine_event_new(EVENT_CANCEL, sizeof *event);
    rpc_call_ref(call);
    event->call = rpc_call_user(call);
    hand_over(ctx, call, &event->event);
}

static void delivered(void *ctx, struct rpc_call *call, bool sent)
{
    struct engine_call *own = rpc_call_user(call);
    if (!own->granted)
        return;
    if (sent) {
        blob_unref(own->granted);
    } else {
        struct engine_undelivered *event = engine_event_new(EVENT_UNDELIVERED, sizeof *event);
        event->activation = own->granted;
        event->claim_number = own->claim_number;
        hand_over(ctx, call, &event->event);
    }
    own->granted = NULL;
}

/* --- ports ----------------------------------------------------------------------------------- */

void service_reply(void *ctx, struct engine_call *call, const struct rpc_reply *reply)
{
    struct service *service = ctx;
    rpc_batch_reply(service->batch, rpc_call_of_user(call), reply);
}

void service_release(void *ctx, struct engine_call *call)
{
    (void)ctx;
    rpc_call_unref(rpc_call_of_user(call));
}

void service_flush(void *ctx)
{
    struct service *service = ctx;
    rpc_batch_flush(service->batch);
}

/* --- life ------------------------------------------------------------------------------------ */

static const struct rpc_method methods[METHOD_COUNT] = {
    {CONSUMER_GET_TASK, get_task, cancelled, delivered},
    {CONSUMER_SET_STATUS, set_task_status, NULL, delivered},
    {CONSUMER_SET_BATCH, set_batch_status, NULL, NULL},
    {PRODUCER_ENQUEUE, enqueue, NULL, NULL},
    {WORKER_GIVE_BACK, give_back, NULL, NULL},
};

static struct path_meter path_meter(struct service *service, const char *path)
{
    const struct bytes *tags = METER_TAGS(bytes_str(path));
    return (struct path_meter){
        .requests = meter_series(service->meters, METER_REQUESTS, tags),
        .duration = meter_series(service->meters, METER_REQUEST_TIME, tags),
    };
}

/* Paths that the server does not know come from strangers: they are one. */
static void finished(void *ctx, const char *path, uint64_t duration_us)
{
    struct service *service = ctx;
    size_t i = 0;
    while (i < METHOD_COUNT && methods[i].path != path)
        i++;
    struct path_meter meter =
        i < METHOD_COUNT ? service->paths[i] : path_meter(service, path ? path : "other");
    metric_add(meter.requests, 1);
    metric_observe(meter.duration, duration_us);
}

int service_create(struct service **out, const struct service_options *options,
                   struct err_text *why)
{
    struct service *service = mem_zalloc(sizeof *service);
    service->inbox = options->inbox;
    service->intake = options->intake;
    service->meters = options->meters;
    for (size_t i = 0; i < METHOD_COUNT; i++)
        service->paths[i] = path_meter(service, methods[i].path);
    struct rpc_server_options server = {
        .address = options->address,
        .port = options->port,
        .threads = options->threads < THREADS_MAX ? options->threads : THREADS_MAX,
        .methods = methods,
        .method_count = METHOD_COUNT,
        .ctx = service,
        .user_size = sizeof(struct engine_call),
        .turn_end = turn_end,
        .finished = finished,
        .secrets = options->secrets,
        .secret_count = options->secret_count,
        .tls = options->tls,
        .limits = {.age_ms = options->max_age_ms, .idle_timeout_ms = options->max_idle_ms},
    };
    int rc = rpc_server_create(&service->server, &server, why);
    if (rc) {
        mem_free(service);
        return rc;
    }
    service->batch = rpc_batch_new(service->server);
    *out = service;
    return 0;
}

int service_open(struct service *service, struct err_text *why)
{
    return rpc_server_start(service->server, why);
}

struct rpc_server *service_server(struct service *service)
{
    return service->server;
}

void service_destroy(struct service *service)
{
    if (!service)
        return;
    rpc_batch_free(service->batch);
    rpc_server_destroy(service->server);
    mem_free(service);
}
