/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clusters and topics out of either spelling (spec/broker.md 2.5): `kafka_clusters` and
 * `kafka_topics`, or the deprecated flat keys, which are also what runs when nothing is configured.
 * The rules keep their numbers from there. Afterwards nobody needs to know which spelling it was.
 *
 * With `embedded` there is one cluster without address, every topic is on it, and whatever
 * describes Kafka itself is ignored with a warning.
 */
#include <stdlib.h>

#include "base/mem.h"
#include "broker/config_keys.h"

#define DEFAULT_ADDRESS "127.0.0.1:9092"
#define DEFAULT_TOPIC   "taskworker"
#define DEFAULT_GROUP   "taskworker"

struct normal {
    struct config *cfg;
    const struct config_legacy *legacy;
    struct config_warnings *warnings;
    struct err_text *why;
};

const struct config_topic *config_topic_find(const struct config *cfg, const char *name)
{
    for (size_t i = 0; i < cfg->topic_count; i++)
        if (strcmp(cfg->topics[i].name, name) == 0)
            return &cfg->topics[i];
    return NULL;
}

bool config_topic_is_consumed(const struct config_topic *topic)
{
    return !topic->produce_only && !topic->consumer_disabled;
}

size_t config_kafka_properties(const struct config_cluster *cluster,
                               struct kafka_property out[CONFIG_KAFKA_PROPERTIES_MAX])
{
    const struct kafka_property all[CONFIG_KAFKA_PROPERTIES_MAX] = {
        {"security.protocol", cluster->security_protocol},
        {"sasl.mechanism", cluster->sasl_mechanism},
        {"sasl.username", cluster->sasl_username},
        {"sasl.password", cluster->sasl_password},
        {"ssl.ca.location", cluster->ssl_ca_location},
        {"ssl.certificate.location", cluster->ssl_certificate_location},
        {"ssl.key.location", cluster->ssl_key_location},
    };
    size_t count = 0;

    for (size_t i = 0; i < CONFIG_KAFKA_PROPERTIES_MAX; i++)
        if (all[i].value)
            out[count++] = all[i];
    return count;
}

/* --- building --------------------------------------------------------------------------------- */

static char *copy(const char *text, const char *otherwise)
{
    return text ? mem_strdup(text) : otherwise ? mem_strdup(otherwise) : NULL;
}

static void add_cluster(struct config *cfg, const char *name, const char *address,
                        const struct config_cluster *security)
{
    size_t count = cfg->cluster_count;

    cfg->clusters = mem_realloc(cfg->clusters, (count + 1) * sizeof(cfg->clusters[0]));
    cfg->cluster_count++;
    cfg->clusters[count] = (struct config_cluster){
        .name = mem_strdup(name),
        .address = mem_strdup(address),
        .security_protocol = copy(security->security_protocol, NULL),
        .sasl_mechanism = copy(security->sasl_mechanism, NULL),
        .sasl_username = copy(security->sasl_username, NULL),
        .sasl_password = copy(security->sasl_password, NULL),
        .ssl_ca_location = copy(security->ssl_ca_location, NULL),
        .ssl_certificate_location = copy(security->ssl_certificate_location, NULL),
        .ssl_key_location = copy(security->ssl_key_location, NULL),
    };
}

/* The pointer is good until the next topic is added. */
static struct config_topic *add_topic(struct config *cfg, const char *name, const char *cluster,
                                      const char *group, bool produce_only)
{
    size_t count = cfg->topic_count;

    cfg->topics = mem_realloc(cfg->topics, (count + 1) * sizeof(cfg->topics[0]));
    cfg->topic_count++;
    struct config_topic *topic = &cfg->topics[count];
    memset(topic, 0, sizeof(*topic));
    for (size_t i = 0; i < config_topic_keys.count; i++)
        config_value_default(topic, &config_topic_keys.keys[i]);
    topic->name = mem_strdup(name);
    topic->cluster_name = mem_strdup(cluster);
    topic->consumer_group = mem_strdup(group);
    topic->produce_only = produce_only;
    return topic;
}

static void fill_legacy_raw(struct config *cfg, struct config_topic *topic)
{
    topic->raw.set = true;
    topic->raw.namespace = copy(cfg->raw_namespace, NULL);
    topic->raw.application = copy(cfg->raw_application, NULL);
    topic->raw.taskname = copy(cfg->raw_taskname, NULL);
    topic->raw.processing_deadline_duration = cfg->raw_processing_deadline_duration;
}

/* Tells config_origin() that the new key's value is the deprecated one's. */
static void inherit_origin(struct config *cfg, const char *from, const char *map, const char *name,
                           const char *path)
{
    const struct config_key *old = config_key_find(&config_legacy_keys, from);
    struct config_origin is = config_origin(cfg, from);
    struct buf key = {0};

    if (is.source == CONFIG_FROM_DEFAULT || !old)
        return;
    buf_printf(&key, "%s.%s.%s", map, name, path);
    config_origins_record(cfg, buf_cstr(&key), (struct config_where){is.source, is.name, is.line},
                          old->path);
    buf_free(&key);
}

static void inherit_cluster_origins(struct config *cfg, const char *prefix, const char *cluster)
{
    struct buf from = {0};

    for (size_t i = 0; i < config_cluster_keys.count; i++) {
        const char *path = config_cluster_keys.keys[i].path;
        buf_clear(&from);
        buf_printf(&from, "%s%s", prefix, strcmp(path, "address") == 0 ? "cluster" : path);
        inherit_origin(cfg, buf_cstr(&from), "kafka_clusters", cluster, path);
    }
    buf_free(&from);
}

/* Rule 3. */
static int build_legacy_topics(const struct normal *n, const char *main_cluster,
                               const char *deadletter_cluster)
{
    const char *name = n->legacy->topic ? n->legacy->topic : DEFAULT_TOPIC;
    const char *group = n->legacy->consumer_group ? n->legacy->consumer_group : DEFAULT_GROUP;
    struct config *cfg = n->cfg;
    const char *dead = cfg->kafka_deadletter_topic;
    const char *retry = cfg->kafka_retry_topic;

    if (strcmp(name, dead) == 0)
        return config_fail(cfg, n->why, "kafka_deadletter_topic",
                           "kafka_deadletter_topic and kafka_topic must differ, both are '%s'",
                           name);
    if (retry && strcmp(retry, dead) == 0)
        return config_fail(
            cfg, n->why, "kafka_retry_topic",
            "kafka_retry_topic and kafka_deadletter_topic must differ, both are '%s'", retry);
    struct config_topic *topic = add_topic(cfg, name, main_cluster, group, false);
    inherit_origin(cfg, "kafka_consumer_group", "kafka_topics", name, "consumer_group");
    if (n->legacy->raw_mode)
        fill_legacy_raw(cfg, topic);
    add_topic(cfg, dead, deadletter_cluster, group, true);
    if (retry && !config_topic_find(cfg, retry))
        add_topic(cfg, retry, deadletter_cluster, group, true);
    return 0;
}

static int build_legacy(const struct normal *n)
{
    const struct config_legacy *legacy = n->legacy;
    const char *address = legacy->cluster ? legacy->cluster : DEFAULT_ADDRESS;

    /* The dead-letter cluster has its own security settings only: the main ones are not inherited.
     */
    add_cluster(n->cfg, "default", address, &legacy->main);
    add_cluster(n->cfg, "deadletter",
                legacy->deadletter_cluster ? legacy->deadletter_cluster : address,
                &legacy->deadletter);
    inherit_cluster_origins(n->cfg, "kafka_", "default");
    if (!legacy->deadletter_cluster)
        inherit_origin(n->cfg, "kafka_cluster", "kafka_clusters", "deadletter", "address");
    inherit_cluster_origins(n->cfg, "kafka_deadletter_", "deadletter");
    return build_legacy_topics(n, "default", "deadletter");
}

static void forget_clusters(struct config *cfg)
{
    for (size_t i = 0; i < cfg->cluster_count; i++) {
        mem_free(cfg->clusters[i].name);
        for (size_t k = 0; k < config_cluster_keys.count; k++)
            config_value_free(&cfg->clusters[i], &config_cluster_keys.keys[k]);
    }
    cfg->cluster_count = 0;
}

static int build_embedded(const struct normal *n)
{
    struct config *cfg = n->cfg;
    int rv = 0;

    if (cfg->cluster_count || n->legacy->cluster || n->legacy->deadletter_cluster)
        config_warn(n->warnings, "Kafka clusters are ignored because embedded is true");
    forget_clusters(cfg);
    add_cluster(cfg, "embedded", "", &(struct config_cluster){0});
    for (size_t i = 0; i < cfg->topic_count; i++) {
        struct config_topic *topic = &cfg->topics[i];
        mem_free(topic->cluster_name);
        topic->cluster_name = mem_strdup("embedded");
        if (!topic->consumer_group)
            topic->consumer_group = mem_strdup(DEFAULT_GROUP);
    }
    if (cfg->topic_count == 0)
        rv = build_legacy_topics(n, "embedded", "embedded");
    return rv;
}

/* Rules 1 and 2, then whichever way it is. */
static int build(const struct normal *n)
{
    struct config *cfg = n->cfg;
    bool modern = cfg->topic_count || (cfg->cluster_count && !cfg->embedded);

    if (modern && n->legacy->first_set)
        return config_fail(cfg, n->why, n->legacy->first_set,
                           "cannot mix the deprecated key %s with kafka_topics and kafka_clusters; "
                           "move it there",
                           n->legacy->first_set);
    if (cfg->embedded)
        return build_embedded(n);
    if (!modern)
        return build_legacy(n);
    if (cfg->topic_count == 0)
        return config_fail(cfg, n->why, "kafka_clusters",
                           "kafka_clusters is set but kafka_topics is empty; name the topics");
    if (cfg->cluster_count == 0)
        return config_fail(cfg, n->why, "kafka_topics",
                           "kafka_topics is set but kafka_clusters is empty; name the clusters");
    return 0;
}

/* --- rules ------------------------------------------------------------------------------------ */

static int fail_in(const struct normal *n, const char *map, const char *name, const char *text)
{
    struct buf key = {0};

    buf_printf(&key, "%s.%s", map, name);
    int rv = config_fail(n->cfg, n->why, buf_cstr(&key), "%s %s", buf_cstr(&key), text);
    buf_free(&key);
    return rv;
}

static bool is_topic_name(const char *name)
{
    size_t len = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");

    return len && len <= 249 && !name[len] && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static int check_present(const struct normal *n)
{
    const struct config *cfg = n->cfg;

    for (size_t i = 0; i < cfg->cluster_count; i++)
        if (!cfg->clusters[i].address || (!cfg->embedded && !*cfg->clusters[i].address))
            return fail_in(n, "kafka_clusters", cfg->clusters[i].name,
                           "needs an address: a comma list of host:port");
    for (size_t i = 0; i < cfg->topic_count; i++) {
        const struct config_topic *topic = &cfg->topics[i];
        if (!is_topic_name(topic->name))
            return fail_in(n, "kafka_topics", topic->name,
                           "is no name for a topic: 1 to 249 of letters, digits, . _ -");
        if (!topic->cluster_name)
            return fail_in(n, "kafka_topics", topic->name,
                           "needs a cluster: one of kafka_clusters");
        if (!topic->consumer_group || !*topic->consumer_group)
            return fail_in(n, "kafka_topics", topic->name, "needs a consumer_group");
    }
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Rule 4. */
static int resolve_clusters(const struct normal *n)
{
    struct config *cfg = n->cfg;

    qsort(cfg->clusters, cfg->cluster_count, sizeof(cfg->clusters[0]), by_name);
    qsort(cfg->topics, cfg->topic_count, sizeof(cfg->topics[0]), by_name);
    for (size_t i = 0; i < cfg->topic_count; i++) {
        struct config_topic *topic = &cfg->topics[i];
        size_t c = 0;
        while (c < cfg->cluster_count && strcmp(cfg->clusters[c].name, topic->cluster_name) != 0)
            c++;
        topic->cluster = c;
        if (c < cfg->cluster_count)
            continue;
        struct buf key = {0};
        buf_printf(&key, "kafka_topics.%s.cluster", topic->name);
        int rv = config_fail(cfg, n->why, buf_cstr(&key),
                             "topic '%s' references unknown cluster '%s'; kafka_clusters does not "
                             "have it",
                             topic->name, topic->cluster_name);
        buf_free(&key);
        return rv;
    }
    return 0;
}

/* Rules 5 to 7: what is consumed, and where retries go. */
static int choose_retry_topic(const struct normal *n)
{
    struct config *cfg = n->cfg;
    const struct config_topic *only = NULL;
    size_t consumable = 0;
    bool raw = false;

    for (size_t i = 0; i < cfg->topic_count; i++) {
        if (cfg->topics[i].produce_only)
            continue;
        only = &cfg->topics[i];
        consumable++;
        raw = raw || only->raw.set;
    }
    if (!only)
        return config_fail(cfg, n->why, "kafka_topics",
                           "no consumable topic configured: every one of kafka_topics is "
                           "produce_only");
    if (!config_topic_find(cfg, cfg->kafka_deadletter_topic))
        return config_fail(cfg, n->why, "kafka_deadletter_topic",
                           "kafka_deadletter_topic '%s' is not one of kafka_topics",
                           cfg->kafka_deadletter_topic);
    if (cfg->kafka_retry_topic)
        return 0;
    if (raw)
        return config_fail(cfg, n->why, "kafka_topics",
                           "kafka_retry_topic is required when consuming a raw topic");
    if (consumable > 1)
        return config_fail(cfg, n->why, "kafka_topics",
                           "kafka_retry_topic is required when consuming from multiple topics (%zu "
                           "are consumable)",
                           consumable);
    cfg->kafka_retry_topic = mem_strdup(only->name);
    config_origins_record(cfg, "kafka_retry_topic",
                          (struct config_where){CONFIG_FROM_DERIVED, NULL, 0}, NULL);
    return 0;
}

/* Rule 8. */
static int check_retry_cluster(const struct normal *n)
{
    const struct config *cfg = n->cfg;
    const struct config_topic *retry = config_topic_find(cfg, cfg->kafka_retry_topic);
    const struct config_topic *dead = config_topic_find(cfg, cfg->kafka_deadletter_topic);

    if (!retry)
        return config_fail(cfg, n->why, "kafka_retry_topic",
                           "kafka_retry_topic '%s' is not one of kafka_topics",
                           cfg->kafka_retry_topic);
    const char *here = cfg->clusters[retry->cluster].address;
    const char *there = cfg->clusters[dead->cluster].address;
    if (strcmp(here, there) != 0)
        return config_fail(
            cfg, n->why, "kafka_retry_topic",
            "retry topic '%s' (%s) and dead-letter topic '%s' (%s) must be on the same "
            "cluster: they share a single producer",
            retry->name, here, dead->name, there);
    return 0;
}

/* Rule 9. */
static int check_raw_topic(const struct normal *n, const struct config_topic *topic)
{
    const struct config *cfg = n->cfg;
    bool known = false;

    if (cfg->embedded && config_topic_is_consumed(topic))
        return fail_in(n, "kafka_topics", topic->name,
                       "is raw and needs Kafka: with embedded: true nobody can write to it");
    if (!topic->raw.application)
        return fail_in(n, "kafka_topics", topic->name, "is raw and needs raw.application");
    for (size_t i = 0; i < cfg->worker_map.count; i++)
        known = known || strcmp(cfg->worker_map.pairs[i].key, topic->raw.application) == 0;
    if (!known)
        return fail_in(n, "kafka_topics", topic->name,
                       "is raw and its raw.application is not a key of worker_map");
    if (!topic->raw.namespace)
        return fail_in(n, "kafka_topics", topic->name, "is raw and needs raw.namespace");
    if (!topic->raw.taskname)
        return fail_in(n, "kafka_topics", topic->name, "is raw and needs raw.taskname");
    if (topic->raw.processing_deadline_duration == CONFIG_NONE)
        return fail_in(n, "kafka_topics", topic->name,
                       "is raw and needs raw.processing_deadline_duration");
    if (strcmp(topic->name, cfg->kafka_retry_topic) == 0)
        return fail_in(n, "kafka_topics", topic->name,
                       "is raw and cannot be the kafka_retry_topic, too");
    return 0;
}

/* Fills what a topic leaves to the global keys. */
static void fill_topics(struct config *cfg)
{
    for (size_t i = 0; i < cfg->topic_count; i++) {
        struct config_topic *topic = &cfg->topics[i];
        if (topic->session_timeout_ms == CONFIG_NONE)
            topic->session_timeout_ms = cfg->kafka_session_timeout_ms;
        if (topic->auto_commit_interval_ms == CONFIG_NONE)
            topic->auto_commit_interval_ms = cfg->kafka_auto_commit_interval_ms;
        if (!topic->auto_offset_reset)
            topic->auto_offset_reset = mem_strdup(cfg->kafka_auto_offset_reset);
    }
}

int config_kafka_normalise(struct config *cfg, const struct config_legacy *legacy,
                           struct config_warnings *warnings, struct err_text *why)
{
    const struct normal n = {cfg, legacy, warnings, why};
    int rv;

    if ((rv = build(&n)) || (rv = check_present(&n)) || (rv = resolve_clusters(&n)) ||
        (rv = choose_retry_topic(&n)) || (rv = check_retry_cluster(&n)))
        return rv;
    for (size_t i = 0; i < cfg->topic_count; i++)
        if (cfg->topics[i].raw.set && (rv = check_raw_topic(&n, &cfg->topics[i])))
            return rv;
    fill_topics(cfg);
    return 0;
}
