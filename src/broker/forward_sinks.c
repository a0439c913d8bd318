/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/forward_sinks.h"

#include <pthread.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "broker/clusters.h"
#include "broker/topic_ports.h"

#define TARGET              "taskmill::runtime"
#define DELIVERY_TIMEOUT_MS 30000
#define STOP_MIN_MS         500
#define WARN_INTERVAL_MS    30000

struct forward_sinks {
    const struct config *cfg;
    struct inbox *inbox;
    pthread_mutex_t lock;
    bool stopped;
    int64_t next_warning_ms;
    size_t count;
    struct {
        char *address;
        struct topic_sink *sink;
    } items[FORWARD_SINKS_MAX]; /* never change once they count */
};

struct forward_sinks *forward_sinks_new(const struct config *cfg, struct inbox *inbox)
{
    struct forward_sinks *sinks = mem_zalloc(sizeof *sinks);
    sinks->cfg = cfg;
    sinks->inbox = inbox;
    pthread_mutex_init(&sinks->lock, NULL);
    return sinks;
}

void forward_sinks_free(struct forward_sinks *sinks)
{
    if (!sinks)
        return;
    for (size_t i = 0; i < sinks->count; i++) {
        sinks->items[i].sink->ops->destroy(sinks->items[i].sink);
        mem_free(sinks->items[i].address);
    }
    pthread_mutex_destroy(&sinks->lock);
    mem_free(sinks);
}

static int make(struct forward_sinks *sinks, const char *address, struct topic_sink **out,
                struct err_text *why)
{
    const struct config *cfg = sinks->cfg;
    if (cfg->embedded)
        return err_set(why, ERR_UNSUPPORTED, "an embedded broker has no other clusters");
    if (sinks->count == FORWARD_SINKS_MAX)
        return err_set(why, ERR_FULL, "%d others were used since the start; restart the broker",
                       FORWARD_SINKS_MAX);
    struct kafka_property properties[CONFIG_KAFKA_PROPERTIES_MAX];
    struct kafka_sink_options options = {
        .cluster = clusters_connection(cfg, clusters_of_topic(cfg, cfg->kafka_deadletter_topic),
                                       properties),
        .message_max_bytes = (uint32_t)cfg->max_message_size,
        .delivery_timeout_ms = DELIVERY_TIMEOUT_MS,
    };
    options.cluster.address = address;
    struct topic_sink_events events;
    sink_port_events(sinks->inbox, &events);
    return kafka_sink_new(out, &options, &events, why);
}

static struct topic_sink *add(struct forward_sinks *sinks, const char *address)
{
    struct topic_sink *sink = NULL;
    struct err_text why;
    if (make(sinks, address, &sink, &why) == 0) {
        sinks->items[sinks->count].address = mem_strdup(address);
        sinks->items[sinks->count++].sink = sink;
        return sink;
    }
    int64_t now_ms = clock_boot_ms();
    if (now_ms >= sinks->next_warning_ms)
        log_error(TARGET, NULL, "cluster %s cannot be used for demoted namespaces: %s", address,
                  why.s);
    if (now_ms >= sinks->next_warning_ms)
        sinks->next_warning_ms = now_ms + WARN_INTERVAL_MS;
    return NULL;
}

static struct topic_sink *find(const struct forward_sinks *sinks, const char *address)
{
    for (size_t i = 0; i < sinks->count; i++)
        if (strcmp(sinks->items[i].address, address) == 0)
            return sinks->items[i].sink;
    return NULL;
}

struct topic_sink *forward_sinks_get(struct forward_sinks *sinks, const char *address)
{
    struct topic_sink *sink = NULL;
    pthread_mutex_lock(&sinks->lock);
    if (!sinks->stopped)
        sink = find(sinks, address);
    if (!sinks->stopped && !sink)
        sink = add(sinks, address);
    pthread_mutex_unlock(&sinks->lock);
    return sink;
}

void forward_sinks_stop(struct forward_sinks *sinks, int64_t until_ms)
{
    pthread_mutex_lock(&sinks->lock);
    sinks->stopped = true;
    pthread_mutex_unlock(&sinks->lock);
    for (size_t i = 0; i < sinks->count; i++) {
        struct topic_sink *sink = sinks->items[i].sink;
        int64_t left_ms = until_ms - clock_boot_ms();
        sink->ops->stop(sink, left_ms > STOP_MIN_MS ? (uint32_t)left_ms : STOP_MIN_MS);
    }
}
