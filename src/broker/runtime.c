/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "broker/runtime_int.h"

#define KILLSWITCH "drop_task_killswitch"
#define NAMESPACES "demoted_namespaces"
#define CLUSTER    "demoted_topic_cluster"
#define TOPIC      "demoted_topic"

/* --- the tree, checked ----------------------------------------------------------------------- */

static const struct config_node *get(const struct config_node *map, const char *key)
{
    return config_node_get(map, bytes_str(key));
}

static int wrong(const struct config_node *node, const char *key, const char *wanted,
                 struct err_text *why)
{
    return err_set(why, ERR_INVALID, "%s:%u: %s must be %s, not %s%s%s", node->where.name,
                   node->where.line, key, wanted, config_kind_name(node->kind),
                   node->text ? " " : "", node->text ? node->text : "");
}

static int required_list(const struct config_node *root, const char *key,
                         const struct config_node **out, struct err_text *why)
{
    *out = get(root, key);
    if (!*out)
        return err_set(why, ERR_INVALID, "%s: %s is missing; write `%s: []` for none",
                       root->where.name, key, key);
    return (*out)->kind == CONFIG_SEQ ? 0 : wrong(*out, key, "a list", why);
}

static int optional_map(const struct config_node *rule, const char *key,
                        const struct config_node **out, struct err_text *why)
{
    *out = get(rule, key);
    if (*out && (*out)->kind == CONFIG_NULL)
        *out = NULL;
    return !*out || (*out)->kind == CONFIG_OBJ ? 0 : wrong(*out, key, "a map", why);
}

/* Any scalar counts as its text, and nothing at all as "". */
static const char *text_of(const struct config_node *node)
{
    if (node->kind == CONFIG_NULL)
        return "";
    return node->kind == CONFIG_SEQ || node->kind == CONFIG_OBJ ? NULL : node->text;
}

static int optional_text(const struct config_node *root, const char *key, const char **out,
                         struct err_text *why)
{
    const struct config_node *node = get(root, key);
    if (!node || node->kind == CONFIG_NULL)
        return 0;
    *out = text_of(node);
    if (!*out)
        return wrong(node, key, "text", why);
    if (!**out)
        return err_set(why, ERR_INVALID, "%s:%u: %s is empty; leave it out for the default",
                       node->where.name, node->where.line, key);
    return 0;
}

/* --- rules ----------------------------------------------------------------------------------- */

static int read_index(const struct config_child *child, uint64_t *index, struct err_text *why)
{
    struct config_node number = {0};
    bool ok = config_node_set_int(&number, bytes_str(child->key), true);
    mem_free(number.text);
    *index = number.magnitude;
    if (ok && !number.negative)
        return 0;
    return err_set(why, ERR_INVALID,
                   "%s:%u: a key of select_arg must be the position of an argument (0, 1, ...), "
                   "not %s",
                   child->node->where.name, child->node->where.line, child->key);
}

static int read_args(const struct config_node *args, struct runtime_rule *rule,
                     struct err_text *why)
{
    if (!args)
        return 0;
    rule->args = mem_calloc(args->count, sizeof *rule->args);
    for (size_t i = 0; i < args->count; i++) {
        int rc = read_index(&args->children[i], &rule->args[i].index, why);
        if (rc)
            return rc;
        rule->args[i].value = args->children[i].node;
        rule->arg_count++;
    }
    return 0;
}

static int read_selectors(const struct config_node *node, struct runtime_rule *rule,
                          struct err_text *why)
{
    const struct config_node *name = get(node, "name"), *args;
    if (!name)
        return err_set(why, ERR_INVALID, "%s:%u: a rule of " KILLSWITCH " needs a name",
                       node->where.name, node->where.line);
    if (name->kind != CONFIG_STR)
        return wrong(name, "name", "text", why);
    rule->name = name->text;
    int rc = optional_map(node, "select_arg", &args, why);
    if (rc == 0)
        rc = optional_map(node, "select_kwarg", &rule->kwargs, why);
    return rc ? rc : read_args(args, rule, why);
}

static int read_rule(const struct config_node *node, struct runtime_rule *rule,
                     struct err_text *why)
{
    rule->line = node->where.line;
    rule->whole = node->kind == CONFIG_STR;
    if (rule->whole) {
        rule->name = node->text;
        return 0;
    }
    if (node->kind == CONFIG_OBJ)
        return read_selectors(node, rule, why);
    return wrong(node, "a rule of " KILLSWITCH,
                 "the name of a task or a map {name, select_arg, select_kwarg}", why);
}

static int by_name(const void *left, const void *right)
{
    const struct runtime_rule *a = left, *b = right;
    int order = strcmp(a->name, b->name);
    if (order == 0 && a->whole != b->whole)
        order = a->whole ? -1 : 1;
    if (order == 0)
        order = (a->line > b->line) - (a->line < b->line);
    return order;
}

static int read_rules(struct runtime *runtime, struct err_text *why)
{
    const struct config_node *list;
    int rc = required_list(runtime->root, KILLSWITCH, &list, why);
    if (rc)
        return rc;
    runtime->rules = mem_calloc(list->count, sizeof *runtime->rules);
    for (size_t i = 0; rc == 0 && i < list->count; i++)
        rc = read_rule(list->children[i].node, &runtime->rules[runtime->rule_count++], why);
    if (rc == 0 && runtime->rule_count)
        qsort(runtime->rules, runtime->rule_count, sizeof *runtime->rules, by_name);
    return rc;
}

static int by_text(const void *left, const void *right)
{
    const char *const *a = left, *const *b = right;
    return strcmp(*a, *b);
}

static int read_namespaces(struct runtime *runtime, struct err_text *why)
{
    const struct config_node *list;
    int rc = required_list(runtime->root, NAMESPACES, &list, why);
    if (rc)
        return rc;
    runtime->namespaces = mem_calloc(list->count, sizeof *runtime->namespaces);
    for (size_t i = 0; i < list->count; i++) {
        const struct config_node *item = list->children[i].node;
        const char *text = text_of(item);
        if (!text)
            return wrong(item, "an item of " NAMESPACES, "text", why);
        runtime->namespaces[runtime->namespace_count++] = text;
    }
    if (runtime->namespace_count)
        qsort(runtime->namespaces, runtime->namespace_count, sizeof *runtime->namespaces, by_text);
    return 0;
}

int runtime_parse(struct runtime **out, const char *name, struct bytes text,
                  struct config_warnings *warnings, struct err_text *why)
{
    struct runtime *runtime = mem_zalloc(sizeof *runtime);
    atomic_init(&runtime->refs, 1);
    int rc = config_yaml_parse(&runtime->root, name, text, warnings, why);
    if (rc == 0)
        rc = read_rules(runtime, why);
    if (rc == 0)
        rc = read_namespaces(runtime, why);
    if (rc == 0)
        rc = optional_text(runtime->root, TOPIC, &runtime->topic, why);
    if (rc == 0)
        rc = optional_text(runtime->root, CLUSTER, &runtime->cluster, why);
    if (rc)
        runtime_unref(runtime);
    else
        *out = runtime;
    return rc;
}

/* --- the file -------------------------------------------------------------------------------- */

static int no_file(const char *path, struct err_text *why)
{
    int code = errno == ENOENT ? ERR_NOT_FOUND : errno == EACCES ? ERR_DENIED : ERR_IO;
    return err_set(why, code, "%s: %s", path, strerror(errno));
}

int runtime_read(struct runtime **out, const char *path, struct config_warnings *warnings,
                 struct err_text *why)
{
    /* A pipe without a writer must not stop the broker. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return no_file(path, why);
    struct buf text = {0};
    struct stat st;
    int rc;
    if (fstat(fd, &st) != 0)
        rc = no_file(path, why);
    else if (!S_ISREG(st.st_mode))
        rc = err_set(why, ERR_INVALID, "%s: not a regular file", path);
    else
        rc = config_read_text(fd, path, &text, why);
    close(fd);
    if (rc == 0)
        rc = runtime_parse(out, path, buf_bytes(&text), warnings, why);
    buf_free(&text);
    return rc;
}

/* --- life ------------------------------------------------------------------------------------ */

struct runtime *runtime_ref(struct runtime *runtime)
{
    if (runtime)
        atomic_fetch_add(&runtime->refs, 1);
    return runtime;
}

void runtime_unref(struct runtime *runtime)
{
    if (!runtime || atomic_fetch_sub(&runtime->refs, 1) > 1)
        return;
    for (size_t i = 0; i < runtime->rule_count; i++)
        mem_free(runtime->rules[i].args);
    mem_free(runtime->rules);
    mem_free(runtime->namespaces);
    config_node_free(runtime->root);
    mem_free(runtime);
}

static bool same_node(const struct config_node *a, const struct config_node *b);

static bool same_children(const struct config_node *a, const struct config_node *b)
{
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++) {
        const struct config_node *other =
            a->kind == CONFIG_SEQ ? b->children[i].node : get(b, a->children[i].key);
        if (!other || !same_node(a->children[i].node, other))
            return false;
    }
    return true;
}

static bool same_node(const struct config_node *a, const struct config_node *b)
{
    if (!a || !b || a->kind != b->kind)
        return a == b;
    if (a->kind == CONFIG_SEQ || a->kind == CONFIG_OBJ)
        return same_children(a, b);
    return a->kind == CONFIG_NULL || strcmp(a->text, b->text) == 0;
}

bool runtime_equal(const struct runtime *a, const struct runtime *b)
{
    static const char *const keys[] = {KILLSWITCH, NAMESPACES, TOPIC, CLUSTER};
    if (!a || !b)
        return a == b;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!same_node(get(a->root, keys[i]), get(b->root, keys[i])))
            return false;
    return true;
}

size_t runtime_rule_count(const struct runtime *runtime)
{
    return runtime ? runtime->rule_count : 0;
}

size_t runtime_namespace_count(const struct runtime *runtime)
{
    return runtime ? runtime->namespace_count : 0;
}

const char *runtime_topic(const struct runtime *runtime)
{
    return runtime ? runtime->topic : NULL;
}

const char *runtime_cluster(const struct runtime *runtime)
{
    return runtime ? runtime->cluster : NULL;
}
