/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages of sentry_protos.taskbroker.v1.ConsumerService, taskmill.v1.ProducerService,
 * taskmill.v1.WorkerService and grpc.health.v1.Health (proto/). Decoders borrow from the message;
 * encoders append to a buf. Pure, thread-safe. Decode errors: ERR_MALFORMED and *why.
 */
#ifndef TASKMILL_WIRE_CONSUMER_H
#define TASKMILL_WIRE_CONSUMER_H

#include "wire/activation.h"

#define CONSUMER_SERVICE    "sentry_protos.taskbroker.v1.ConsumerService"
#define CONSUMER_GET_TASK   "/" CONSUMER_SERVICE "/GetTask"
#define CONSUMER_SET_STATUS "/" CONSUMER_SERVICE "/SetTaskStatus"
#define CONSUMER_SET_BATCH  "/" CONSUMER_SERVICE "/SetBatchActivationStatus"
#define PRODUCER_SERVICE    "taskmill.v1.ProducerService"
#define PRODUCER_ENQUEUE    "/" PRODUCER_SERVICE "/Enqueue"
#define WORKER_SERVICE      "taskmill.v1.WorkerService"
#define WORKER_GIVE_BACK    "/" WORKER_SERVICE "/GiveBack"
#define HEALTH_SERVICE      "grpc.health.v1.Health"
#define HEALTH_CHECK        "/" HEALTH_SERVICE "/Check"
#define HEALTH_WATCH        "/" HEALTH_SERVICE "/Watch"

enum activation_status {
    ACTIVATION_UNSPECIFIED = 0,
    ACTIVATION_PENDING = 1,
    ACTIVATION_PROCESSING = 2,
    ACTIVATION_FAILURE = 3,
    ACTIVATION_RETRY = 4,
    ACTIVATION_COMPLETE = 5
};

/* Which tasks a worker asks for (GetTaskRequest, FetchNextTask). */
struct task_filter {
    bool has_namespace, has_application;
    bool wants_claim; /* extension: asks for the number of the claim, for GiveBack */
    struct bytes namespace, application;
};

struct set_status_request {
    struct bytes id;
    int32_t status; /* any int32; enum activation_status when known */
    bool has_fetch_next;
    struct task_filter fetch_next;
    bool has_max_attempts, has_delay_on_retry;
    uint32_t max_attempts;
    uint64_t delay_on_retry; /* s */
};

int task_filter_decode(struct bytes message, struct task_filter *out, const char **why);
void task_filter_encode(const struct task_filter *filter, struct buf *out);

int set_status_decode(struct bytes message, struct set_status_request *out, const char **why);
void set_status_encode(const struct set_status_request *request, struct buf *out);

/* SetBatchActivationStatusRequest: calls `each` per update, in order, after the whole message
 * proved well-formed. A non-zero result of `each` stops the walk and is returned. */
typedef int (*set_status_fn)(void *ctx, const struct set_status_request *update);
int set_batch_decode(struct bytes message, set_status_fn each, void *ctx, const char **why);
/* Appends one element of the batch. */
void set_batch_encode_one(const struct set_status_request *update, struct buf *out);

/* GetTaskResponse / SetTaskStatusResponse { task = 1; taskmill_claim = 2001 }: the bytes in front
 * of an activation of `activation_len` bytes (claim, tag and length); claim 0: without it. An empty
 * response has no bytes at all. */
#define TASK_RESPONSE_PREFIX_MAX 21
size_t task_response_prefix(uint8_t out[TASK_RESPONSE_PREFIX_MAX], size_t activation_len,
                            uint64_t claim);
struct task_response {
    bool has_task;
    struct bytes activation;
    uint64_t claim; /* 0: the broker did not say */
};
int task_response_decode(struct bytes message, struct task_response *out, const char **why);

/* GiveBackRequest { repeated GivenBack tasks = 1 }, GivenBack { id = 1; claim = 2 }: calls `each`
 * per entry, in order, after the whole message proved well-formed with at most GIVE_BACK_MAX of
 * them (else ERR_FULL). A non-zero result of `each` stops the walk and is returned. */
#define GIVE_BACK_MAX 10000
struct give_back {
    struct bytes id;
    uint64_t claim; /* 0 matches none */
};
typedef int (*give_back_fn)(void *ctx, const struct give_back *entry);
int give_back_decode(struct bytes message, give_back_fn each, void *ctx, const char **why);
/* Appends one entry. */
void give_back_encode_one(const struct give_back *entry, struct buf *out);

/* GiveBackResponse: how many are claimable again, how many were not the caller's any more. */
struct give_back_response {
    uint32_t returned, ignored;
};
int give_back_response_decode(struct bytes message, struct give_back_response *out,
                              const char **why);
void give_back_response_encode(const struct give_back_response *response, struct buf *out);

/* EnqueueRequest { repeated bytes activations = 1; optional string topic = 2; }
 * EnqueueResponse { repeated string ids = 1; } */
struct enqueue_request {
    bool has_topic;
    struct bytes topic;
    size_t activation_count;
};
typedef int (*enqueue_fn)(void *ctx, struct bytes activation);
/* First the head (may be NULL), then every activation in order (each may be NULL). */
int enqueue_decode(struct bytes message, struct enqueue_request *head, enqueue_fn each, void *ctx,
                   const char **why);
void enqueue_encode_activation(struct bytes activation, struct buf *out);
void enqueue_encode_topic(struct bytes topic, struct buf *out);
void enqueue_response_add(struct bytes id, struct buf *out);
typedef int (*enqueue_id_fn)(void *ctx, struct bytes id);
int enqueue_response_decode(struct bytes message, enqueue_id_fn each, void *ctx, const char **why);

enum health_status {
    HEALTH_UNKNOWN = 0,
    HEALTH_SERVING = 1,
    HEALTH_NOT_SERVING = 2,
    HEALTH_SERVICE_UNKNOWN = 3
};
int health_request_decode(struct bytes message, struct bytes *service, const char **why);
void health_request_encode(struct bytes service, struct buf *out);
void health_response_encode(enum health_status status, struct buf *out);
int health_response_decode(struct bytes message, enum health_status *status, const char **why);

#endif
