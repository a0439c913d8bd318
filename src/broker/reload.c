/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/reload.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "broker/clusters.h"

#define TARGET "taskmill::runtime"

struct reload {
    const struct config *cfg;
    struct runtime *last; /* what the engine has; NULL: nothing */
    bool read_before;
    int64_t next_ms;
};

struct reload *reload_new(const struct config *cfg)
{
    struct reload *reload = mem_zalloc(sizeof *reload);
    reload->cfg = cfg;
    return reload;
}

void reload_free(struct reload *reload)
{
    if (!reload)
        return;
    runtime_unref(reload->last);
    mem_free(reload);
}

/* --- where demoted tasks go ------------------------------------------------------------------ */

static bool is_consumed(const struct config *cfg, const char *topic, const char *address)
{
    const struct config_topic *found = config_topic_find(cfg, topic);
    return found && config_topic_is_consumed(found) &&
           strcmp(cfg->clusters[found->cluster].address, address) == 0;
}

static void tell_cluster(const struct config *cfg, const struct config_cluster *own,
                         const char *address)
{
    struct kafka_property properties[CONFIG_KAFKA_PROPERTIES_MAX];
    if (cfg->embedded)
        log_warn(TARGET, NULL, "demoted_topic_cluster %s: no effect with embedded", address);
    else if (strcmp(address, own->address) != 0 && config_kafka_properties(own, properties) > 0)
        log_warn(TARGET, LOG_FIELDS(log_str("cluster", own->name)),
                 "demoted_topic_cluster %s is used with the credentials of the dead-letter "
                 "topic's cluster",
                 address);
}

static void find_target(const struct config *cfg, struct engine_rules *rules)
{
    const struct config_cluster *own =
        &cfg->clusters[clusters_of_topic(cfg, cfg->kafka_deadletter_topic)];
    const char *topic = runtime_topic(rules->runtime), *address = runtime_cluster(rules->runtime);
    if (address)
        tell_cluster(cfg, own, address);
    if (!address || cfg->embedded)
        address = own->address;
    if (!topic)
        topic = cfg->kafka_long_topic;
    rules->forwards = !is_consumed(cfg, topic, address);
    rules->forward_topic = mem_strdup(topic);
    if (strcmp(address, own->address) != 0)
        rules->forward_cluster = mem_strdup(address);
    if (!rules->forwards && runtime_namespace_count(rules->runtime))
        log_warn(TARGET, LOG_FIELDS(log_str("topic", topic)),
                 "demoted namespaces stay here: their topic is one that this broker consumes");
}

/* --- reading --------------------------------------------------------------------------------- */

static struct runtime *read_file(const char *path)
{
    struct config_warnings warnings = {0};
    struct runtime *runtime = NULL;
    struct err_text why;
    if (runtime_read(&runtime, path, &warnings, &why))
        log_error(TARGET, NULL, "runtime config: %s; what was in force stays", why.s);
    for (size_t i = 0; i < warnings.count; i++)
        log_warn(TARGET, NULL, "runtime config: %s", warnings.lines[i]);
    config_warnings_free(&warnings);
    return runtime;
}

static void tell_change(const struct reload *reload)
{
    log_info(
        TARGET,
        LOG_FIELDS(log_int("killswitch_rules", (int64_t)runtime_rule_count(reload->last)),
                   log_int("demoted_namespaces", (int64_t)runtime_namespace_count(reload->last))),
        "%s runtime config from %s", reload->read_before ? "Reloaded new" : "Loaded",
        reload->cfg->runtime_config_path);
}

struct engine_rules *reload_read(struct reload *reload, int64_t boot_ms)
{
    const char *path = reload->cfg->runtime_config_path;
    reload->next_ms = clock_add(boot_ms, RELOAD_INTERVAL_MS);
    struct runtime *runtime = path ? read_file(path) : NULL;
    bool is_news = runtime && !runtime_equal(runtime, reload->last);
    struct engine_rules *rules = NULL;
    if (is_news) {
        runtime_unref(reload->last);
        reload->last = runtime_ref(runtime);
        tell_change(reload);
        rules = engine_event_new(EVENT_RULES, sizeof *rules);
        rules->runtime = runtime_ref(runtime);
        find_target(reload->cfg, rules);
    }
    reload->read_before = true;
    runtime_unref(runtime);
    return rules;
}

struct engine_rules *reload_poll(struct reload *reload, int64_t boot_ms)
{
    return boot_ms < reload->next_ms ? NULL : reload_read(reload, boot_ms);
}
