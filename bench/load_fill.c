/* SPDX-License-Identifier: Apache-2.0 */
/* Producers: through a broker's Enqueue (a few calls open at once) or into a Kafka topic. */
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/mem.h"
#include "load.h"
#include "rpc/client.h"
#include "topic/kafka.h"
#include "wire/consumer.h"

#define CALLS_OPEN 4

struct fill {
    const struct load_options *options;
    struct rpc_client *client;
    uint64_t sent, done, errors;
    uint32_t open;
};

static void on_enqueued(void *ctx, const struct rpc_result *result)
{
    struct fill *fill = ctx;
    fill->open--;
    if (result->status == GRPC_OK)
        return;
    if (fill->errors++ == 0)
        fprintf(stderr, "taskmill-load: Enqueue: %s: %s\n", grpc_status_name(result->status),
                result->message);
}

static void enqueue_batch(struct fill *fill, int64_t now_ms)
{
    struct buf message = {0}, activation = {0};
    for (uint32_t i = 0; i < fill->options->batch && fill->sent < fill->options->tasks; i++) {
        buf_clear(&activation);
        load_activation(&activation, fill->sent++, fill->options->payload_len);
        enqueue_encode_activation(buf_bytes(&activation), &message);
    }
    fill->open++;
    rpc_client_call(fill->client, PRODUCER_ENQUEUE, buf_bytes(&message), 30000, on_enqueued, fill,
                    now_ms, NULL);
    buf_free(&message);
    buf_free(&activation);
}

static void fill_broker(struct fill *fill)
{
    struct rpc_client_options options = {.host = fill->options->host, .port = fill->options->port};
    fill->client = rpc_client_new(&options);
    while (fill->errors == 0 && (fill->sent < fill->options->tasks || fill->open)) {
        int64_t now_ms = clock_boot_ms();
        while (fill->open < CALLS_OPEN && fill->sent < fill->options->tasks)
            enqueue_batch(fill, now_ms);
        rpc_client_io(fill->client, now_ms);
        if (fill->open < CALLS_OPEN && fill->sent < fill->options->tasks)
            continue; /* answers made room */
        struct pollfd poll_fd = {.fd = rpc_client_fd(fill->client),
                                 .events = rpc_client_events(fill->client)};
        poll(&poll_fd, 1, 100);
    }
    rpc_client_free(fill->client);
}

struct deliveries {
    _Atomic uint64_t done, failed;
};

static void on_delivered(void *ctx, void *opaque, enum topic_delivery delivery, const char *why)
{
    struct deliveries *deliveries = ctx;
    (void)opaque;
    if (delivery != TOPIC_DELIVERED && atomic_fetch_add(&deliveries->failed, 1) == 0)
        fprintf(stderr, "taskmill-load: not delivered: %s\n", why);
    atomic_fetch_add(&deliveries->done, 1);
}

static int fill_kafka(struct fill *fill)
{
    struct deliveries deliveries = {0};
    struct topic_sink_events events = {.ctx = &deliveries, .delivered = on_delivered};
    struct kafka_sink_options options = {.cluster = {.address = fill->options->bootstrap},
                                         .message_max_bytes = 5000000,
                                         .delivery_timeout_ms = 60000};
    struct topic_sink *sink;
    struct err_text why;
    if (kafka_sink_new(&sink, &options, &events, &why)) {
        fprintf(stderr, "taskmill-load: %s\n", why.s);
        return -1;
    }
    struct buf activation = {0};
    while (fill->sent < fill->options->tasks) {
        buf_clear(&activation);
        load_activation(&activation, fill->sent, fill->options->payload_len);
        struct blob *blob = blob_copy(buf_bytes(&activation));
        const char *text = NULL;
        int rc = sink->ops->produce(sink, fill->options->topic, blob, NULL, 0, NULL, &text);
        blob_unref(blob);
        if (rc == 0)
            fill->sent++;
        else if (rc == ERR_FULL)
            poll(NULL, 0, 1); /* the client's queue is full: deliveries make room */
        else
            fill->errors++;
        if (fill->errors)
            break;
    }
    while (atomic_load(&deliveries.done) < fill->sent)
        poll(NULL, 0, 1);
    fill->errors += atomic_load(&deliveries.failed);
    sink->ops->stop(sink, 10000);
    sink->ops->destroy(sink);
    buf_free(&activation);
    return 0;
}

int load_fill(const struct load_options *options)
{
    struct fill fill = {.options = options};
    int64_t start_us = clock_boot_us();
    if (options->bootstrap) {
        if (!options->topic || fill_kafka(&fill))
            return 1;
    } else {
        fill_broker(&fill);
    }
    double seconds = (double)(clock_boot_us() - start_us) / 1e6;
    printf("{\"tasks\": %llu, \"seconds\": %.3f, \"tasks_per_s\": %.0f, \"errors\": %llu}\n",
           (unsigned long long)fill.sent, seconds, (double)fill.sent / seconds,
           (unsigned long long)fill.errors);
    return fill.errors ? 1 : 0;
}
