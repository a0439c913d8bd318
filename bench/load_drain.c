/* SPDX-License-Identifier: Apache-2.0 */
/* Workers: each stream claims, completes and fetches the next in one call, as the Python worker
 * does. Every id is ticked off, so a task that comes twice or from elsewhere is seen. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/mem.h"
#include "load.h"
#include "load_pool.h"
#include "wire/consumer.h"

/* Nothing arrived for so long: the queue is empty, or the broker is stuck. */
#define QUIET_MS 5000
/* How long to look for more after the last task: there must be none. */
#define AFTER_MS   50
#define ERRORS_MAX 1000

struct drain {
    uint64_t wanted, warmup;
    uint64_t done, errors, doubled, strange, asked;
    uint8_t *seen; /* a byte a task */
    int64_t start_us, last_us;
    uint32_t server_pid;
    int64_t server_cpu_us, own_cpu_us; /* at the start, then of the measured part */
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
    worker->drain->asked++;
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

static int64_t own_cpu_us(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 + usage.ru_utime.tv_usec +
           usage.ru_stime.tv_usec;
}

static void start_clock(struct drain *drain, int64_t now_us)
{
    drain->start_us = now_us;
    drain->own_cpu_us = own_cpu_us();
    drain->server_cpu_us = load_process_cpu_us(drain->server_pid);
}

static void stop_clock(struct drain *drain)
{
    drain->own_cpu_us = own_cpu_us() - drain->own_cpu_us;
    drain->server_cpu_us = load_process_cpu_us(drain->server_pid) - drain->server_cpu_us;
}

static void count_done(struct drain *drain, int64_t now_us, int64_t sent_us)
{
    drain->done++;
    drain->last_us = now_us;
    if (drain->done == drain->warmup)
        start_clock(drain, now_us);
    else if (drain->done > drain->warmup)
        samples_add(&drain->call_us, now_us - sent_us);
    if (drain->done == drain->wanted)
        stop_clock(drain);
}

static void tick_off(struct drain *drain, struct bytes id)
{
    uint64_t number = load_number_of(id);
    if (number >= drain->wanted)
        drain->strange++;
    else if (drain->seen[number]++)
        drain->doubled++;
}

static void on_result(void *ctx, const struct rpc_result *result)
{
    struct worker *worker = ctx;
    struct drain *drain = worker->drain;
    if (result->status == GRPC_CANCELLED)
        return; /* the end */
    int64_t now_us = clock_boot_us();
    if (result->status == GRPC_OK && worker->reporting)
        count_done(drain, now_us, worker->sent_us);
    else if (result->status != GRPC_OK && result->status != GRPC_NOT_FOUND && drain->errors++ == 0)
        fprintf(stderr, "taskmill-load: %s: %s\n", grpc_status_name(result->status),
                result->message);
    struct task_response response;
    const char *why;
    struct activation activation;
    if (result->status == GRPC_OK && task_response_decode(result->body, &response, &why) == 0 &&
        response.has_task && activation_parse(response.activation, &activation, &why) == 0) {
        tick_off(drain, activation.id);
        report(worker, activation.id);
    } else if (drain->errors < ERRORS_MAX) {
        ask(worker);
    }
}

static void run(struct drain *drain, struct load_pool *pool)
{
    int64_t started_us = clock_boot_us();
    if (drain->warmup == 0)
        start_clock(drain, started_us);
    while (drain->done < drain->wanted && drain->errors < ERRORS_MAX) {
        int64_t quiet_since_us = drain->last_us ? drain->last_us : started_us;
        if (clock_boot_us() - quiet_since_us > (int64_t)QUIET_MS * 1000)
            break;
        load_pool_turn(pool, 100);
    }
    int64_t until_ms = clock_boot_ms() + AFTER_MS;
    while (clock_boot_ms() < until_ms)
        load_pool_turn(pool, AFTER_MS);
}

static bool complete(const struct drain *drain)
{
    return drain->done == drain->wanted && !drain->errors && !drain->doubled && !drain->strange;
}

static void print(struct drain *drain)
{
    double seconds = (double)(drain->last_us - drain->start_us) / 1e6;
    double measured = (double)(drain->wanted - drain->warmup);
    bool whole = drain->done >= drain->wanted && seconds > 0;
    printf("{\"tasks\": %llu, \"seconds\": %.3f, \"tasks_per_s\": %.0f, \"errors\": %llu, "
           "\"doubled\": %llu, \"strange\": %llu, \"claims_per_task\": %.3f, "
           "\"call_p50_us\": %u, \"call_p99_us\": %u, "
           "\"server_cpu_us\": %.2f, \"load_cpu_us\": %.2f}\n",
           (unsigned long long)drain->done, whole ? seconds : 0, whole ? measured / seconds : 0,
           (unsigned long long)drain->errors, (unsigned long long)drain->doubled,
           (unsigned long long)drain->strange,
           drain->done ? (double)drain->asked / (double)drain->done : 0,
           samples_percentile(&drain->call_us, 50), samples_percentile(&drain->call_us, 99),
           whole ? (double)drain->server_cpu_us / measured : 0,
           whole ? (double)drain->own_cpu_us / measured : 0);
}

int load_drain(const struct load_options *options)
{
    struct drain drain = {.wanted = options->tasks,
                          .warmup = options->warmup,
                          .server_pid = options->server_pid,
                          .seen = mem_calloc(options->tasks, 1)};
    struct rpc_client_options client = {.host = options->host, .port = options->port};
    struct load_pool *pool = load_pool_new(&client, options->connections);
    uint32_t count = options->connections * options->streams;
    struct worker *workers = mem_calloc(count, sizeof *workers);
    for (uint32_t i = 0; i < count; i++) {
        workers[i] = (struct worker){.drain = &drain,
                                     .client = load_pool_client(pool, i / options->streams)};
        ask(&workers[i]);
    }
    run(&drain, pool);
    print(&drain);
    load_pool_free(pool);
    mem_free(workers);
    mem_free(drain.seen);
    samples_free(&drain.call_us);
    return complete(&drain) ? 0 : 1;
}
