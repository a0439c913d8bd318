/* SPDX-License-Identifier: Apache-2.0 */
/* One thread sends through the library, then the same number of the same bytes through librdkafka
 * alone, with the settings that the library uses; both start on a warm connection. */
#include <librdkafka/rdkafka.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <taskmill.h>
#include <time.h>

#include "base/clock.h"
#include "base/err.h"
#include "client/send.h"
#include "load.h"

#define NAMESPACE "bench"
#define TASK      "bench.mail"
#define TIMEOUT_S 60

struct rate {
    double seconds;  /* until everything was confirmed */
    int64_t call_us; /* CPU time of the sending thread */
};

static int64_t thread_cpu_us(void)
{
    struct timespec at;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at); /* tidy: clock_gettime, no clock of base */
    return (int64_t)at.tv_sec * 1000000 + at.tv_nsec / 1000;
}

static void start(struct rate *rate)
{
    rate->seconds = (double)clock_boot_us();
    rate->call_us = thread_cpu_us();
}

static void end(struct rate *rate)
{
    rate->seconds = ((double)clock_boot_us() - rate->seconds) / 1e6;
    rate->call_us = thread_cpu_us() - rate->call_us;
}

/* --- through the library --------------------------------------------------------------------- */

static struct taskmill_params *parameters(uint64_t number)
{
    struct taskmill_params *params = taskmill_params_new();

    taskmill_params_int(params, (int64_t)(number + 1000000)); /* all of one length */
    taskmill_params_kw_str(params, "email", "a@b.c");
    return params;
}

static int send_all(struct taskmill_app *app, uint64_t tasks, struct rate *rate)
{
    int rv = taskmill_send(app, NAMESPACE, TASK, parameters(0));

    start(rate);
    for (uint64_t i = 1; i < tasks && rv == 0; i++)
        rv = taskmill_send(app, NAMESPACE, TASK, parameters(i), .no_wait = true);
    if (rv == 0)
        rv = taskmill_flush(app, TIMEOUT_S);
    end(rate);
    return rv;
}

/* --- through librdkafka alone ---------------------------------------------------------------- */

struct raw {
    rd_kafka_t *rk;
    _Atomic uint64_t done, failed;
};

static void on_delivered(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
    struct raw *raw = opaque;

    (void)rk;
    if (message->err)
        atomic_fetch_add(&raw->failed, 1);
    atomic_fetch_add(&raw->done, 1);
}

static int raw_open(struct raw *raw, const char *bootstrap)
{
    const char *const settings[][2] = {{"bootstrap.servers", bootstrap},
                                       {"enable.idempotence", "true"},
                                       {"acks", "all"},
                                       {"linger.ms", "1"},
                                       {"message.max.bytes", "50000000"},
                                       {"queue.buffering.max.messages", "100000"},
                                       {"queue.buffering.max.kbytes", "131072"}};
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    char why[256];

    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        if (rd_kafka_conf_set(conf, settings[i][0], settings[i][1], why, sizeof why) !=
            RD_KAFKA_CONF_OK) {
            rd_kafka_conf_destroy(conf);
            return ERR_INVALID;
        }
    rd_kafka_conf_set_opaque(conf, raw);
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivered);
    raw->rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
    return raw->rk ? 0 : ERR_INVALID;
}

static void raw_produce(struct raw *raw, const char *topic, struct bytes payload)
{
    rd_kafka_resp_err_t err;

    do {
        err = rd_kafka_producev(
            raw->rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
            RD_KAFKA_V_VALUE((void *)(uintptr_t)payload.ptr, payload.len), RD_KAFKA_V_END);
        rd_kafka_poll(raw->rk, err == RD_KAFKA_RESP_ERR__QUEUE_FULL ? 10 : 0);
    } while (err == RD_KAFKA_RESP_ERR__QUEUE_FULL);
    if (err)
        atomic_fetch_add(&raw->failed, 1);
}

static int raw_all(const struct load_options *options, struct bytes payload, struct rate *rate)
{
    struct raw raw = {0};

    if (raw_open(&raw, options->bootstrap))
        return -1;
    raw_produce(&raw, options->topic, payload);
    rd_kafka_flush(raw.rk, TIMEOUT_S * 1000);
    start(rate);
    for (uint64_t i = 1; i < options->tasks; i++)
        raw_produce(&raw, options->topic, payload);
    rd_kafka_flush(raw.rk, TIMEOUT_S * 1000);
    end(rate);
    rd_kafka_destroy(raw.rk);
    return atomic_load(&raw.done) == options->tasks && atomic_load(&raw.failed) == 0 ? 0 : -1;
}

/* --- both ------------------------------------------------------------------------------------ */

static int run(struct taskmill_app *app, const struct load_options *options)
{
    const struct taskmill_send_options plain = {0};
    struct taskmill_params *params = parameters(0);
    struct dispatch_item item = {0};
    struct rate library, raw;
    int rv = send_build(app, NAMESPACE, TASK, params, &plain, &item);

    taskmill_params_free(params);
    if (rv == 0)
        rv = send_all(app, options->tasks, &library);
    if (rv != 0) {
        fprintf(stderr, "taskmill-load: %s\n", taskmill_last_error());
    } else if ((rv = raw_all(options, blob_bytes(item.activation), &raw)) != 0) {
        fputs("taskmill-load: librdkafka alone: not everything was delivered\n", stderr);
    } else {
        double tasks = (double)options->tasks - 1;

        printf("{\"tasks\": %llu, \"bytes\": %u, \"dispatch_per_s\": %.0f, \"raw_per_s\": %.0f, "
               "\"call_us\": %.3f, \"raw_call_us\": %.3f}\n",
               (unsigned long long)options->tasks, (unsigned)item.activation->len,
               tasks / library.seconds, tasks / raw.seconds, (double)library.call_us / tasks,
               (double)raw.call_us / tasks);
    }
    blob_unref(item.activation);
    return rv;
}

int load_dispatch(const struct load_options *options)
{
    struct taskmill_app *app = NULL;
    int rv = -1;

    if (options->bootstrap)
        app = taskmill_app_new("shop", .kafka = options->bootstrap, .topic = options->topic,
                               .send_timeout_s = TIMEOUT_S);
    else
        fputs("taskmill-load: dispatch needs --bootstrap and --topic\n", stderr);
    if (app != NULL)
        rv = taskmill_task(taskmill_namespace(app, NAMESPACE), TASK, NULL);
    if (rv == 0)
        rv = run(app, options);
    taskmill_app_free(app);
    return rv == 0 ? 0 : 1;
}
