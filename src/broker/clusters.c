/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/clusters.h"

#include <assert.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "broker/topic_ports.h"

#define DELIVERY_TIMEOUT_MS 30000
#define STOP_MIN_MS         500

struct clusters {
    const struct config *cfg;
    struct inbox *inbox;
    struct place {
        size_t cluster; /* the first of those that lead there */
        struct topic_sink *sink;
    } * places;
    size_t place_count;
    struct kafka_check **checks;
    size_t check_count;
};

struct clusters *clusters_new(const struct config *cfg, struct inbox *inbox)
{
    struct clusters *clusters = mem_zalloc(sizeof *clusters);
    clusters->cfg = cfg;
    clusters->inbox = inbox;
    clusters->places = mem_calloc(cfg->cluster_count, sizeof *clusters->places);
    clusters->checks = mem_calloc(cfg->cluster_count, sizeof *clusters->checks);
    return clusters;
}

static void end_checks(struct clusters *clusters)
{
    while (clusters->check_count)
        kafka_check_end(clusters->checks[--clusters->check_count]);
}

void clusters_free(struct clusters *clusters)
{
    if (!clusters)
        return;
    end_checks(clusters);
    for (size_t i = 0; i < clusters->place_count; i++)
        clusters->places[i].sink->ops->destroy(clusters->places[i].sink);
    mem_free(clusters->places);
    mem_free(clusters->checks);
    mem_free(clusters);
}

size_t clusters_of_topic(const struct config *cfg, const char *topic)
{
    const struct config_topic *found = config_topic_find(cfg, topic);
    assert(found); /* config_load checked */
    return found->cluster;
}

struct kafka_cluster clusters_connection(const struct config *cfg, size_t cluster,
                                         struct kafka_property properties[])
{
    const struct config_cluster *from = &cfg->clusters[cluster];
    return (struct kafka_cluster){.name = from->name,
                                  .address = from->address,
                                  .properties = properties,
                                  .property_count = config_kafka_properties(from, properties)};
}

/* --- topics that are missing ----------------------------------------------------------------- */

int clusters_create_topics(const struct config *cfg, struct err_text *why)
{
    if (!cfg->create_missing_topics || cfg->embedded)
        return 0;
    const char **names = mem_calloc(cfg->topic_count, sizeof *names);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < cfg->cluster_count; i++) {
        size_t count = 0;
        for (size_t j = 0; j < cfg->topic_count; j++)
            if (cfg->topics[j].cluster == i)
                names[count++] = cfg->topics[j].name;
        struct kafka_property properties[CONFIG_KAFKA_PROPERTIES_MAX];
        struct kafka_cluster cluster = clusters_connection(cfg, i, properties);
        if (count)
            rc = kafka_create_topics(&cluster, names, count, cfg->default_topic_partitions, why);
    }
    mem_free(names);
    return rc;
}

/* --- producers ------------------------------------------------------------------------------- */

static bool same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static bool same_place(const struct config_cluster *a, const struct config_cluster *b)
{
    struct kafka_property left[CONFIG_KAFKA_PROPERTIES_MAX], right[CONFIG_KAFKA_PROPERTIES_MAX];
    size_t count = config_kafka_properties(a, left);
    if (!same_text(a->address, b->address) || config_kafka_properties(b, right) != count)
        return false;
    for (size_t i = 0; i < count; i++)
        if (!same_text(left[i].name, right[i].name) || !same_text(left[i].value, right[i].value))
            return false;
    return true;
}

int clusters_sink(struct clusters *clusters, size_t cluster, struct topic_sink **out,
                  struct err_text *why)
{
    const struct config *cfg = clusters->cfg;
    for (size_t i = 0; i < clusters->place_count; i++) {
        if (same_place(&cfg->clusters[clusters->places[i].cluster], &cfg->clusters[cluster])) {
            *out = clusters->places[i].sink;
            return 0;
        }
    }
    struct kafka_property properties[CONFIG_KAFKA_PROPERTIES_MAX];
    struct kafka_sink_options options = {
        .cluster = clusters_connection(cfg, cluster, properties),
        .message_max_bytes = (uint32_t)cfg->max_message_size,
        .delivery_timeout_ms = DELIVERY_TIMEOUT_MS,
    };
    struct topic_sink_events events;
    sink_port_events(clusters->inbox, &events);
    int rc = kafka_sink_new(out, &options, &events, why);
    if (rc == 0)
        clusters->places[clusters->place_count++] = (struct place){cluster, *out};
    return rc;
}

/* --- looks at the start ---------------------------------------------------------------------- */

/* Written to, and nobody who consumes from there would notice. */
static bool is_unseen(const struct clusters *clusters, size_t cluster)
{
    const struct config *cfg = clusters->cfg;
    bool written = false;
    for (size_t i = 0; i < clusters->place_count; i++)
        written = written || clusters->places[i].cluster == cluster;
    for (size_t i = 0; written && i < cfg->topic_count; i++)
        if (config_topic_is_consumed(&cfg->topics[i]) &&
            same_place(&cfg->clusters[cluster], &cfg->clusters[cfg->topics[i].cluster]))
            return false;
    return written;
}

int clusters_start_checks(struct clusters *clusters, void *ctx,
                          void (*failed)(void *ctx, int code, const char *why),
                          struct err_text *why)
{
    const struct config *cfg = clusters->cfg;
    const char **topics = mem_calloc(cfg->topic_count, sizeof *topics);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < cfg->cluster_count; i++) {
        size_t count = 0;
        for (size_t j = 0; j < cfg->topic_count; j++)
            if (cfg->topics[j].cluster == i && cfg->topics[j].consumer_disabled &&
                !cfg->topics[j].produce_only)
                topics[count++] = cfg->topics[j].name;
        if (count == 0 && !is_unseen(clusters, i))
            continue;
        struct kafka_property properties[CONFIG_KAFKA_PROPERTIES_MAX];
        struct kafka_check_options options = {.cluster = clusters_connection(cfg, i, properties),
                                              .topics = topics,
                                              .topic_count = count,
                                              .ctx = ctx,
                                              .failed = failed};
        rc = kafka_check_start(&clusters->checks[clusters->check_count], &options, why);
        clusters->check_count += rc == 0;
    }
    mem_free(topics);
    return rc;
}

void clusters_stop(struct clusters *clusters, int64_t until_ms)
{
    end_checks(clusters);
    for (size_t i = 0; i < clusters->place_count; i++) {
        struct topic_sink *sink = clusters->places[i].sink;
        int64_t left_ms = until_ms - clock_boot_ms();
        sink->ops->stop(sink, left_ms > STOP_MIN_MS ? (uint32_t)left_ms : STOP_MIN_MS);
    }
}
