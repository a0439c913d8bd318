/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a configuration comes about: read the file and the environment as trees, lay the second over
 * the first, take each row of config_keys.c out of the result, build clusters and topics
 * (kafka_config.c), check what belongs together (config_check.c). Everything a tree holds that no
 * row has taken is an unknown key (config_review.c).
 */
#include "broker/config.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/mem.h"
#include "broker/config_keys.h"

struct origin {
    char *key, *name;
    struct config_origin is;
};

struct config_origins {
    struct origin *items;
    size_t count, cap;
};

void config_origins_record(struct config *cfg, const char *key, struct config_where where,
                           const char *deprecated)
{
    struct config_origins *all = cfg->origins;

    if (all->count == all->cap) {
        all->cap = all->cap ? all->cap * 2 : 32;
        all->items = mem_realloc(all->items, all->cap * sizeof(all->items[0]));
    }
    struct origin *item = &all->items[all->count++];
    item->key = mem_strdup(key);
    item->name = where.name ? mem_strdup(where.name) : NULL;
    item->is = (struct config_origin){where.source, item->name, where.line, deprecated};
}

void config_origins_free(struct config_origins *origins)
{
    for (size_t i = 0; i < origins->count; i++) {
        mem_free(origins->items[i].key);
        mem_free(origins->items[i].name);
    }
    mem_free(origins->items);
    mem_free(origins);
}

struct config_origin config_origin(const struct config *cfg, const char *key)
{
    for (size_t i = cfg->origins->count; i-- > 0;)
        if (strcmp(cfg->origins->items[i].key, key) == 0)
            return cfg->origins->items[i].is;
    return (struct config_origin){.source = CONFIG_FROM_DEFAULT};
}

int config_fail(const struct config *cfg, struct err_text *why, const char *key, const char *fmt,
                ...)
{
    struct config_origin from = config_origin(cfg, key);
    struct buf text = {0};
    struct err_text rest;
    va_list ap;

    va_start(ap, fmt);
    err_setv(&rest, ERR_INVALID, fmt, ap);
    va_end(ap);
    config_where_text((struct config_where){from.source, from.name, from.line}, &text);
    err_set(why, ERR_INVALID, "%s%s", buf_cstr(&text), rest.s);
    buf_free(&text);
    return ERR_INVALID;
}

/* --- taking rows out of the tree -------------------------------------------------------------- */

struct loading {
    struct config *cfg;
    struct config_node *tree;
    struct err_text *why;
};

/* Walks "a.b.c" down from `node`. An empty section counts as absent; one that is no map is an
 * error. */
static int look_up(const struct loading *l, struct config_node *node, const char *path,
                   const char *label, struct config_node **out)
{
    struct buf place = {0};

    *out = NULL;
    for (;;) {
        const char *dot = strchr(path, '.');
        node = config_node_get(node, bytes_of(path, dot ? (size_t)(dot - path) : strlen(path)));
        if (!node || !dot) {
            *out = node;
            return 0;
        }
        if (node->kind == CONFIG_NULL)
            return 0;
        if (node->kind != CONFIG_OBJ)
            break;
        path = dot + 1;
    }
    config_where_text(node->where, &place);
    int rv = err_set(l->why, ERR_INVALID, "%s%s: must be a map of keys where %s stands",
                     buf_cstr(&place), label, config_kind_name(node->kind));
    buf_free(&place);
    return rv;
}

static int take(const struct loading *l, void *base, const struct config_key *key,
                enum config_type type, uint64_t max, struct config_node *node, const char *label,
                const char *deprecated)
{
    int rv = config_value_set(base, key, type, max, node, deprecated ? deprecated : label, l->why);

    if (rv == 0)
        config_origins_record(l->cfg, label, node->where, deprecated);
    return rv;
}

static int load_main_key(const struct loading *l, const struct config_key *key)
{
    const struct config_alias *alias = config_alias_of(key->path);
    struct config_node *node, *old = NULL;
    int rv;

    config_value_default(l->cfg, key);
    rv = look_up(l, l->tree, key->path, key->path, &node);
    if (rv)
        return rv;
    if (alias)
        old = config_node_get(l->tree, bytes_str(alias->name));
    if (old)
        old->used = true;
    if (node) {
        node->used = true;
        return take(l, l->cfg, key, key->type, key->max, node, key->path, NULL);
    }
    if (old && old->kind != CONFIG_NULL)
        return take(l, l->cfg, key, alias->type, alias->max, old, key->path, alias->name);
    return 0;
}

static int load_legacy_key(const struct loading *l, struct config_legacy *legacy,
                           const struct config_key *key)
{
    struct config_node *node = config_node_get(l->tree, bytes_str(key->path));

    config_value_default(legacy, key);
    if (!node)
        return 0;
    node->used = true;
    if (node->kind != CONFIG_NULL && !legacy->first_set) {
        legacy->first_set = key->path;
        legacy->where = node->where;
    }
    return take(l, legacy, key, key->type, key->max, node, key->path, NULL);
}

/* An element of kafka_clusters or kafka_topics; both structs begin with the name. */
static int load_element(const struct loading *l, const struct config_table *table, void *element,
                        const char *prefix, const char *name, struct config_node *map)
{
    struct buf label = {0};
    int rv = 0;

    *(char **)element = mem_strdup(name);
    for (size_t i = 0; i < table->count; i++)
        config_value_default(element, &table->keys[i]);
    for (size_t i = 0; rv == 0 && i < table->count; i++) {
        const struct config_key *key = &table->keys[i];
        struct config_node *node;
        buf_clear(&label);
        buf_printf(&label, "%s.%s.%s", prefix, name, key->path);
        rv = look_up(l, map, key->path, buf_cstr(&label), &node);
        if (rv == 0 && node) {
            node->used = true;
            rv = take(l, element, key, key->type, key->max, node, buf_cstr(&label), NULL);
        }
    }
    buf_free(&label);
    return rv;
}

static int not_a_map(const struct loading *l, const struct config_node *node, const char *what)
{
    struct buf place = {0};

    config_where_text(node->where, &place);
    int rv = err_set(l->why, ERR_INVALID, "%s%s must be a map, not %s", buf_cstr(&place), what,
                     config_kind_name(node->kind));
    buf_free(&place);
    return rv;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int load_elements(const struct loading *l, const char *name,
                         const struct config_table *table, size_t size, void **out, size_t *count)
{
    struct config_node *map = config_node_get(l->tree, bytes_str(name));
    int rv = 0;

    if (!map || map->kind == CONFIG_NULL) {
        if (map)
            map->used = true;
        return 0;
    }
    if (map->kind != CONFIG_OBJ)
        return not_a_map(l, map, name);
    config_origins_record(l->cfg, name, map->where, NULL);
    char *elements = mem_calloc(map->count, size);
    memset(elements, 0, map->count * size);
    *out = elements;
    for (size_t i = 0; rv == 0 && i < map->count; i++) {
        struct config_node *node = map->children[i].node;
        struct buf label = {0};
        buf_printf(&label, "%s.%s", name, map->children[i].key);
        config_origins_record(l->cfg, buf_cstr(&label), node->where, NULL);
        rv = node->kind == CONFIG_OBJ ? 0 : not_a_map(l, node, buf_cstr(&label));
        buf_free(&label);
        if (rv)
            break;
        (*count)++;
        rv = load_element(l, table, elements + i * size, name, map->children[i].key, node);
    }
    qsort(elements, *count, size, by_name);
    return rv;
}

/* A topic is raw as soon as it has the block, even an empty one. */
static void mark_raw(const struct loading *l)
{
    struct config_node *topics = config_node_get(l->tree, bytes_str("kafka_topics"));

    for (size_t i = 0; i < l->cfg->topic_count; i++) {
        struct config_topic *topic = &l->cfg->topics[i];
        struct config_node *node = config_node_get(topics, bytes_str(topic->name));
        node = config_node_get(node, bytes_str("raw"));
        topic->raw.set = node && node->kind == CONFIG_OBJ;
        if (node && node->kind != CONFIG_OBJ)
            node->used = true;
    }
}

static int load_keys(const struct loading *l, struct config_legacy *legacy)
{
    struct config *cfg = l->cfg;
    int rv = 0;

    for (size_t i = 0; rv == 0 && i < config_main_keys.count; i++)
        rv = load_main_key(l, &config_main_keys.keys[i]);
    for (size_t i = 0; rv == 0 && i < config_legacy_keys.count; i++)
        rv = load_legacy_key(l, legacy, &config_legacy_keys.keys[i]);
    if (rv == 0)
        rv = load_elements(l, "kafka_clusters", &config_cluster_keys, sizeof(*cfg->clusters),
                           (void **)&cfg->clusters, &cfg->cluster_count);
    if (rv == 0)
        rv = load_elements(l, "kafka_topics", &config_topic_keys, sizeof(*cfg->topics),
                           (void **)&cfg->topics, &cfg->topic_count);
    if (rv == 0)
        mark_raw(l);
    return rv;
}

/* --- the whole -------------------------------------------------------------------------------- */

static void free_members(void *base, const struct config_table *table)
{
    for (size_t i = 0; i < table->count; i++)
        config_value_free(base, &table->keys[i]);
}

void config_free(struct config *cfg)
{
    if (!cfg)
        return;
    for (size_t i = 0; i < cfg->cluster_count; i++) {
        mem_free(cfg->clusters[i].name);
        free_members(&cfg->clusters[i], &config_cluster_keys);
    }
    for (size_t i = 0; i < cfg->topic_count; i++) {
        mem_free(cfg->topics[i].name);
        free_members(&cfg->topics[i], &config_topic_keys);
    }
    mem_free(cfg->clusters);
    mem_free(cfg->topics);
    free_members(cfg, &config_main_keys);
    config_origins_free(cfg->origins);
    mem_free(cfg);
}

static int unsupported(const struct config *cfg, struct err_text *why)
{
    if (cfg->delivery_mode == CONFIG_DELIVERY_PUSH) {
        config_fail(cfg, why, "delivery_mode",
                    "delivery_mode: push is not supported yet; use pull (the default)");
        return ERR_UNSUPPORTED;
    }
    if (cfg->store.adapter == CONFIG_ADAPTER_POSTGRES) {
        config_fail(cfg, why, "store.adapter",
                    "store.adapter: postgres is not supported yet; use sqlite (the default)");
        return ERR_UNSUPPORTED;
    }
    return 0;
}

/* Takes the tree (used marks change), fills *out. */
static int load_tree(struct config **out, struct config_node *tree,
                     struct config_warnings *warnings, struct err_text *why)
{
    struct config *cfg = mem_zalloc(sizeof(*cfg));
    struct loading l = {cfg, tree, why};
    struct config_legacy legacy = {0};
    int rv;

    cfg->origins = mem_zalloc(sizeof(*cfg->origins));
    rv = load_keys(&l, &legacy);
    if (rv == 0) {
        /* Before the rules: a mistyped key is often why one of them fails. */
        config_review(tree, warnings);
        rv = config_kafka_normalise(cfg, &legacy, warnings, why);
    }
    if (rv == 0)
        rv = config_validate(cfg, warnings, why);
    if (rv == 0)
        rv = unsupported(cfg, why);
    free_members(&legacy, &config_legacy_keys);
    if (rv)
        config_free(cfg);
    else
        *out = cfg;
    return rv;
}

int config_load_text(struct config **out, const char *name, struct bytes text,
                     char *const *environ_, struct config_warnings *warnings, struct err_text *why)
{
    struct config_node *tree = NULL, *env = NULL;
    struct config_names names = {0};
    int rv;

    rv = config_yaml_parse(&tree, name, text, warnings, why);
    if (rv)
        return rv;
    rv = config_env_parse(&env, environ_, &names, why);
    if (rv == 0) {
        tree = config_tree_merge(tree, env);
        rv = load_tree(out, tree, warnings, why);
    }
    config_node_free(tree);
    config_names_free(&names);
    return rv;
}

int config_load(struct config **out, const char *path, char *const *environ_,
                struct config_warnings *warnings, struct err_text *why)
{
    struct buf text = {0};
    char *found = NULL;
    int rv = 0;

    if (path)
        rv = config_file_read(path, &text, &found, why);
    if (rv == 0)
        rv = config_load_text(out, found ? found : "defaults", buf_bytes(&text), environ_, warnings,
                              why);
    buf_free(&text);
    mem_free(found);
    return rv;
}
