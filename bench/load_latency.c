/* SPDX-License-Identifier: Apache-2.0 */
/* One worker waits, one task at a time arrives: from the call that enqueues to the reply that hands
 * it out. */
#include <poll.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/mem.h"
#include "load.h"
#include "rpc/client.h"
#include "topic/kafka.h"
#include "wire/consumer.h"

#define LOST_MS 10000

struct latency {
    struct rpc_client *worker, *producer;
    int64_t sent_us;
    bool waiting, received, stopped;
    uint64_t skip; /* answers that are not measured */
    struct samples us;
};

static void on_task(void *ctx, const struct rpc_result *result);

static void on_reported(void *ctx, const struct rpc_result *result)
{
    (void)ctx;
    (void)result;
}

static void claim(struct latency *latency)
{
    latency->waiting = true;
    rpc_client_call(latency->worker, CONSUMER_GET_TASK, bytes_of(NULL, 0), 0, on_task, latency,
                    clock_boot_ms(), NULL);
}

static void complete(struct latency *latency, struct bytes id)
{
    struct set_status_request request = {.id = id, .status = ACTIVATION_COMPLETE};
    struct buf message = {0};
    set_status_encode(&request, &message);
    rpc_client_call(latency->worker, CONSUMER_SET_STATUS, buf_bytes(&message), 0, on_reported,
                    latency, clock_boot_ms(), NULL);
    buf_free(&message);
}

static void on_task(void *ctx, const struct rpc_result *result)
{
    struct latency *latency = ctx;
    latency->waiting = false;
    if (latency->stopped)
        return;
    struct task_response response;
    const char *why;
    struct activation activation;
    if (result->status == GRPC_OK && task_response_decode(result->body, &response, &why) == 0 &&
        response.has_task && activation_parse(response.activation, &activation, &why) == 0) {
        if (latency->skip)
            latency->skip--;
        else
            samples_add(&latency->us, clock_boot_us() - latency->sent_us);
        latency->received = true;
        complete(latency, activation.id);
    }
    claim(latency);
}

static void serve(struct latency *latency, int64_t until_ms, bool stop_at_task)
{
    for (;;) {
        int64_t now_ms = clock_boot_ms();
        rpc_client_io(latency->worker, now_ms);
        if (latency->producer)
            rpc_client_io(latency->producer, now_ms);
        if ((stop_at_task && latency->received) || now_ms >= until_ms)
            return;
        struct pollfd fds[2] = {{.fd = rpc_client_fd(latency->worker),
                                 .events = (short)rpc_client_events(latency->worker)},
                                {.fd = -1}};
        if (latency->producer) {
            fds[1].fd = rpc_client_fd(latency->producer);
            fds[1].events = (short)rpc_client_events(latency->producer);
        }
        poll(fds, 2, (int)(until_ms - now_ms < 100 ? until_ms - now_ms : 100));
    }
}

static void on_delivered(void *ctx, void *opaque, enum topic_delivery delivery, const char *why)
{
    (void)ctx;
    (void)opaque;
    if (delivery != TOPIC_DELIVERED)
        fprintf(stderr, "taskmill-load: not delivered: %s\n", why);
}

static int send_one(struct latency *latency, const struct load_options *options,
                    struct topic_sink *sink, uint64_t number)
{
    struct buf activation = {0}, message = {0};
    int rc = 0;
    load_activation(&activation, number, options->payload_len);
    latency->received = false;
    latency->sent_us = clock_boot_us();
    if (sink) {
        const char *why = NULL;
        struct blob *blob = blob_copy(buf_bytes(&activation));
        rc = sink->ops->produce(sink, options->topic, blob, NULL, 0, NULL, &why);
        blob_unref(blob);
    } else {
        enqueue_encode_activation(buf_bytes(&activation), &message);
        rpc_client_call(latency->producer, PRODUCER_ENQUEUE, buf_bytes(&message), LOST_MS,
                        on_reported, latency, clock_boot_ms(), NULL);
    }
    buf_free(&activation);
    buf_free(&message);
    return rc;
}

int load_latency(const struct load_options *options)
{
    struct latency latency = {.skip = options->warmup};
    struct rpc_client_options client = {.host = options->host, .port = options->port};
    struct topic_sink *sink = NULL;
    if (options->bootstrap) {
        struct topic_sink_events events = {.delivered = on_delivered};
        struct kafka_sink_options kafka = {.cluster = {.address = options->bootstrap},
                                           .message_max_bytes = 5000000,
                                           .delivery_timeout_ms = LOST_MS};
        struct err_text why;
        if (kafka_sink_new(&sink, &kafka, &events, &why)) {
            fprintf(stderr, "taskmill-load: %s\n", why.s);
            return 1;
        }
    } else {
        latency.producer = rpc_client_new(&client);
    }
    latency.worker = rpc_client_new(&client);
    claim(&latency);
    uint64_t lost = 0;
    for (uint64_t i = 0; i < options->tasks && !lost; i++) {
        serve(&latency, clock_boot_ms() + options->interval_ms, false);
        if (send_one(&latency, options, sink, i))
            lost++;
        serve(&latency, clock_boot_ms() + LOST_MS, true);
        lost += !latency.received;
    }
    latency.stopped = true;
    printf("{\"tasks\": %zu, \"lost\": %llu, \"p50_us\": %u, \"p99_us\": %u, \"max_us\": %u}\n",
           latency.us.count, (unsigned long long)lost, samples_percentile(&latency.us, 50),
           samples_percentile(&latency.us, 99), samples_percentile(&latency.us, 100));
    rpc_client_free(latency.worker);
    if (latency.producer)
        rpc_client_free(latency.producer);
    if (sink) {
        sink->ops->stop(sink, 5000);
        sink->ops->destroy(sink);
    }
    samples_free(&latency.us);
    return lost ? 1 : 0;
}
