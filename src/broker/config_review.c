/* SPDX-License-Identifier: Apache-2.0 */
/* Warnings about what is written but does not count: unknown keys with the nearest known one,
 * deprecated keys, keys without effect. */
#include <stdio.h>

#include "base/mem.h"
#include "broker/config_keys.h"

#define NAME_MAX_LEN 64 /* no key is longer; what exceeds it is nobody's slip of the pen */

struct review {
    struct config_warnings *warnings;
    struct buf deprecated, idle;
};

static unsigned min3(unsigned a, unsigned b, unsigned c)
{
    unsigned ab = a < b ? a : b;
    return ab < c ? ab : c;
}

/* Levenshtein. */
static unsigned distance(const char *a, const char *b, size_t b_len)
{
    unsigned row[NAME_MAX_LEN + 1];

    for (size_t j = 0; j <= b_len; j++)
        row[j] = (unsigned)j;
    for (size_t i = 0; a[i]; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i + 1;
        for (size_t j = 0; j < b_len; j++) {
            unsigned above = row[j + 1];
            row[j + 1] = min3(above + 1, row[j] + 1, diagonal + (a[i] != b[j]));
            diagonal = above;
        }
    }
    return row[b_len];
}

struct nearest {
    const char *name;
    size_t len;
    unsigned distance;
};

static void compare(struct nearest *best, const char *unknown, const char *name, size_t len)
{
    unsigned d;

    if (len > NAME_MAX_LEN)
        return;
    d = distance(unknown, name, len);
    if (d < best->distance)
        *best = (struct nearest){name, len, d};
}

/* Every key and every section that leads to it. */
static void compare_table(struct nearest *best, const char *unknown,
                          const struct config_table *table)
{
    for (size_t i = 0; i < table->count; i++) {
        const char *path = table->keys[i].path;
        for (const char *dot = strchr(path, '.'); dot; dot = strchr(dot + 1, '.'))
            compare(best, unknown, path, (size_t)(dot - path));
        compare(best, unknown, path, strlen(path));
    }
}

/* The part of a path that the tables know: "kafka_topics.x.clutser" -> the topics' table,
 * "clutser". */
static const struct config_table *table_of(const char *path, const char **rest)
{
    const struct config_table *table = NULL;

    *rest = path;
    if (strncmp(path, "kafka_clusters.", 15) == 0)
        table = &config_cluster_keys;
    else if (strncmp(path, "kafka_topics.", 13) == 0)
        table = &config_topic_keys;
    if (!table)
        return &config_main_keys;
    /* Names of topics hold dots, too; keys do not, apart from raw.*. */
    const char *last = strrchr(path, '.');
    if (last - path >= 4 && strncmp(last - 4, ".raw", 4) == 0)
        last -= 4;
    *rest = last + 1;
    return table;
}

static struct nearest find_nearest(const char *path)
{
    struct nearest best = {NULL, 0, 1 + NAME_MAX_LEN};
    const char *rest;
    const struct config_table *table = table_of(path, &rest);

    if (strlen(rest) > NAME_MAX_LEN)
        return best;
    compare_table(&best, rest, table);
    if (table == &config_main_keys) {
        compare_table(&best, rest, &config_legacy_keys);
        for (size_t i = 0; i < config_alias_count; i++)
            compare(&best, rest, config_aliases[i].name, strlen(config_aliases[i].name));
        compare(&best, rest, "kafka_topics", 12);
        compare(&best, rest, "kafka_clusters", 14);
    }
    if (best.distance > 1 + strlen(rest) / 5)
        best.name = NULL;
    return best;
}

static void warn_unknown(struct review *r, const struct config_node *node, const char *path)
{
    struct buf place = {0};

    if (r->warnings->count == CONFIG_WARNINGS_MAX) {
        config_warn(r->warnings, "unknown key");
        return;
    }
    struct nearest near = find_nearest(path);
    config_where_text(node->where, &place);
    if (near.name && near.distance == 0)
        config_warn(r->warnings,
                    "%sunknown key %s is ignored; each of its levels is a map of its own",
                    buf_cstr(&place), path);
    else if (near.name)
        config_warn(r->warnings, "%sunknown key %s is ignored; did you mean %.*s?",
                    buf_cstr(&place), path, (int)near.len, near.name);
    else
        config_warn(r->warnings, "%sunknown key %s is ignored", buf_cstr(&place), path);
    buf_free(&place);
}

/* A Kubernetes service called taskbroker and the worker's own settings put names with our prefix
 * into every container; nobody meant them for us. */
static bool is_foreign_variable(const struct config_node *node)
{
    static const char *const parts[] = {"_SERVICE_HOST", "_SERVICE_PORT", "_PORT_", "_TCP_",
                                        "TASKBROKER_CLIENT_"};
    const char *name = node->where.name;
    size_t len = strlen(name);

    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        if (strcasestr(name, parts[i]))
            return true;
    return len > 5 && strcasecmp(name + len - 5, "_PORT") == 0;
}

static bool is_section(const struct config_table *table, const char *path)
{
    size_t len = strlen(path);

    for (size_t i = 0; i < table->count; i++)
        if (strncmp(table->keys[i].path, path, len) == 0 && table->keys[i].path[len] == '.')
            return true;
    return false;
}

/* Maps whose keys are for the tables (or for the user: names of clusters and topics) to judge. */
static bool leads_to_keys(const char *path, size_t depth)
{
    bool clusters = strncmp(path, "kafka_clusters.", 15) == 0;
    bool topics = strncmp(path, "kafka_topics.", 13) == 0;

    if (depth == 1)
        return strcmp(path, "kafka_clusters") == 0 || strcmp(path, "kafka_topics") == 0 ||
               is_section(&config_main_keys, path);
    if (clusters || topics)
        return depth == 2 || (topics && depth == 3 && strcmp(strrchr(path, '.'), ".raw") == 0);
    return is_section(&config_main_keys, path);
}

static void visit(struct review *r, const struct config_node *node, struct buf *path, size_t depth)
{
    if (node->used)
        return;
    if (leads_to_keys(buf_cstr(path), depth)) {
        if (node->kind == CONFIG_OBJ)
            for (size_t i = 0; i < node->count; i++) {
                size_t len = path->len;
                buf_printf(path, ".%s", node->children[i].key);
                visit(r, node->children[i].node, path, depth + 1);
                path->len = len;
            }
        return;
    }
    if (node->where.source == CONFIG_FROM_ENV && is_foreign_variable(node))
        return;
    warn_unknown(r, node, buf_cstr(path));
}

static void list_name(struct buf *out, const char *name, const char *now)
{
    buf_printf(out, "%s%s", out->len ? ", " : "", name);
    if (now)
        buf_printf(out, " (now %s)", now);
}

static const struct config_node *node_at(const struct config_node *node, const char *path)
{
    for (const char *dot = strchr(path, '.'); dot; dot = strchr(path, '.')) {
        node = config_node_get(node, bytes_of(path, (size_t)(dot - path)));
        path = dot + 1;
    }
    return config_node_get(node, bytes_str(path));
}

static void review_alias(struct review *r, const struct config_node *tree,
                         const struct config_alias *alias)
{
    const struct config_node *old = config_node_get(tree, bytes_str(alias->name));
    struct buf place = {0};

    if (!old || old->kind == CONFIG_NULL)
        return;
    if (!node_at(tree, alias->path)) {
        list_name(&r->deprecated, alias->name, alias->path);
        return;
    }
    config_where_text(old->where, &place);
    config_warn(r->warnings, "%s%s is ignored because %s is set, too", buf_cstr(&place),
                alias->name, alias->path);
    buf_free(&place);
}

static void review_known(struct review *r, const struct config_node *tree)
{
    for (size_t i = 0; i < config_alias_count; i++)
        review_alias(r, tree, &config_aliases[i]);
    for (size_t i = 0; i < config_main_keys.count; i++) {
        const struct config_key *key = &config_main_keys.keys[i];
        const struct config_alias *alias = config_alias_of(key->path);
        const struct config_node *node = node_at(tree, key->path);
        if (!node && alias)
            node = config_node_get(tree, bytes_str(alias->name));
        if (node && node->kind != CONFIG_NULL && (key->flags & CONFIG_F_NO_EFFECT))
            list_name(&r->idle, key->path, NULL);
    }
}

void config_review(const struct config_node *tree, struct config_warnings *warnings)
{
    struct review r = {.warnings = warnings};
    struct buf path = {0};

    for (size_t i = 0; i < tree->count; i++) {
        buf_clear(&path);
        buf_append_str(&path, tree->children[i].key);
        visit(&r, tree->children[i].node, &path, 1);
    }
    review_known(&r, tree);
    if (r.deprecated.len)
        config_warn(warnings, "deprecated keys: %s", buf_cstr(&r.deprecated));
    if (r.idle.len)
        config_warn(warnings, "keys without effect here (docs/configuration.md says why): %s",
                    buf_cstr(&r.idle));
    buf_free(&path);
    buf_free(&r.deprecated);
    buf_free(&r.idle);
}
