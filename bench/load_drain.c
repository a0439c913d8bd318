/* SPDX-License-Identifier: Apache-2.0 */
/* Workers: each stream claims, completes and fetches the next in one call, as the Python worker
 * does. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/mem.h"
#include "load.h"
#include "rpc/client.h"
#include "wire/consumer.h"

/* Nothing arrived for so long: the queue is empty, or the broker is stuck. */
#define QUIET_MS 5000

struct drain {
    uint64_t wanted, done, errors;
    int64_t first_us, last_us;
    struct samples call_us;
};

struct worker {
    struct drain *drain;
    struct rpc_client *client;
    int64_t sent_us;
    bool reporting; /* the open call reports a task */
};

static void on_result(void *ctx, const struct rpc_result *result);

static void ask(struct worker *worker)
{
    worker->reporting = false;
    worker->sent_us = clock_boot_us();
    rpc_client_call(worker->client, CONSUMER_GET_TASK, bytes_of(NULL, 0), 0, on_result, worker,
                    worker->sent_us / 1000, NULL);
}

static void report(struct worker *worker, struct bytes id)
{
    struct set_status_request request = {
        .id = id, .status = ACTIVATION_COMPLETE, .has_fetch_next = true};
    struct buf message = {0};
    set_status_encode(&request, &message);
    worker->reporting = true;
    worker->sent_us = clock_boot_us();
    rpc_client_call(worker->client, CONSUMER_SET_STATUS, buf_bytes(&message), 0, on_result, worker,
                    worker->sent_us / 1000, NULL);
    buf_free(&message);
}

static void count_done(struct drain *drain, int64_t now_us, int64_t sent_us)
{
    drain->done++;
    drain->last_us = now_us;
    samples_add(&drain->call_us, now_us - sent_us);
}

static void on_result(void *ctx, const struct rpc_result *result)
{
    struct worker *worker = ctx;
    struct drain *drain = worker->drain;
    if (result->status == GRPC_CANCELLED)
        return; /* the end */
    int64_t now_us = clock_boot_us();
    if (!drain->first_us)
        drain->first_us = now_us;
    if (result->status == GRPC_OK && worker->reporting)
        count_done(drain, now_us, worker->sent_us);
    else if (result->status != GRPC_OK && result->status != GRPC_NOT_FOUND)
        drain->errors++;
    bool has_task = false;
    struct bytes payload;
    const char *why;
    struct activation activation;
    if (result->status == GRPC_OK &&
        task_response_decode(result->body, &has_task, &payload, &why) == 0 && has_task &&
        activation_parse(payload, &activation, &why) == 0)
        report(worker, activation.id);
    else if (drain->errors < 1000)
        ask(worker);
}

static void run(struct drain *drain, struct rpc_client **clients, uint32_t count)
{
    struct pollfd *fds = mem_calloc(count, sizeof *fds);
    int64_t started_ms = clock_boot_ms();
    while (drain->done < drain->wanted && drain->errors < 1000) {
        int64_t now_ms = clock_boot_ms();
        int64_t quiet_since = drain->last_us ? drain->last_us / 1000 : started_ms;
        if (now_ms - quiet_since > QUIET_MS)
            break;
        for (uint32_t i = 0; i < count; i++)
            fds[i] = (struct pollfd){.fd = rpc_client_fd(clients[i]),
                                     .events = rpc_client_events(clients[i])};
        if (poll(fds, count, 100) < 0 && errno != EINTR)
            break;
        now_ms = clock_boot_ms();
        for (uint32_t i = 0; i < count; i++)
            if (fds[i].revents || rpc_client_next_ms(clients[i]) <= now_ms)
                rpc_client_io(clients[i], now_ms);
    }
    mem_free(fds);
}

int load_drain(const struct load_options *options)
{
    struct drain drain = {.wanted = options->tasks};
    struct rpc_client **clients = mem_calloc(options->connections, sizeof *clients);
    struct worker *workers =
        mem_calloc((size_t)options->connections * options->streams, sizeof *workers);
    int64_t now_ms = clock_boot_ms();
    for (uint32_t i = 0; i < options->connections; i++) {
        struct rpc_client_options client = {.host = options->host, .port = options->port};
        clients[i] = rpc_client_new(&client);
        for (uint32_t j = 0; j < options->streams; j++) {
            struct worker *worker = &workers[i * options->streams + j];
            *worker = (struct worker){.drain = &drain, .client = clients[i]};
            ask(worker);
        }
        rpc_client_io(clients[i], now_ms);
    }
    run(&drain, clients, options->connections);
    double seconds = (double)(drain.last_us - drain.first_us) / 1e6;
    printf("{\"tasks\": %llu, \"seconds\": %.3f, \"tasks_per_s\": %.0f, \"errors\": %llu, "
           "\"call_p50_us\": %u, \"call_p99_us\": %u}\n",
           (unsigned long long)drain.done, seconds, seconds > 0 ? (double)drain.done / seconds : 0,
           (unsigned long long)drain.errors, samples_percentile(&drain.call_us, 50),
           samples_percentile(&drain.call_us, 99));
    for (uint32_t i = 0; i < options->connections; i++)
        rpc_client_free(clients[i]);
    mem_free(clients);
    mem_free(workers);
    samples_free(&drain.call_us);
    return drain.done >= drain.wanted ? 0 : 1;
}
