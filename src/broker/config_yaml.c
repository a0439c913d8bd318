/* SPDX-License-Identifier: Apache-2.0 */
/*
 * YAML files. Plain scalars are typed by the YAML 1.2 core rules that the original's reader
 * follows: `yes` and `no` are text, so is 0123. Aliases are followed, with the node limit of
 * config_tree.h against documents that multiply themselves.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <yaml.h>

#include "base/mem.h"
#include "broker/config_tree.h"

struct reader {
    const char *name;
    yaml_document_t *document;
    struct config_warnings *warnings;
    struct err_text *why;
    int code; /* why a read_... function returned NULL */
    size_t nodes;
};

static uint32_t line_of(const yaml_node_t *node)
{
    return (uint32_t)node->start_mark.line + 1;
}

static bool one_of(struct bytes word, const char *const *words)
{
    for (; *words; words++)
        if (bytes_equal_str(word, *words))
            return true;
    return false;
}

static struct config_node *plain_scalar(struct bytes word, struct config_where where)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
    static const char *const trues[] = {"true", "True", "TRUE", NULL};
    static const char *const falses[] = {"false", "False", "FALSE", NULL};

    if (one_of(word, nulls))
        return config_node_new(CONFIG_NULL, where);
    struct config_node *node = config_node_str(word, where);
    node->boolean = one_of(word, trues);
    if (node->boolean || one_of(word, falses)) {
        node->kind = CONFIG_BOOL;
        return node;
    }
    char *text = node->text;
    if (config_node_set_int(node, word, true) || config_node_set_float(node, word))
        mem_free(text);
    return node;
}

static struct config_node *read_scalar(struct reader *r, const yaml_node_t *from,
                                       struct config_where where)
{
    struct bytes word = bytes_of(from->data.scalar.value, from->data.scalar.length);

    if (word.len && memchr(word.ptr, 0, word.len)) {
        r->code =
            err_set(r->why, ERR_INVALID, "%s:%u: text with a NUL character", r->name, where.line);
        return NULL;
    }
    if (from->data.scalar.style == YAML_PLAIN_SCALAR_STYLE)
        return plain_scalar(word, where);
    return config_node_str(word, where);
}

static struct config_node *read_node(struct reader *r, int index, size_t depth);

static bool read_item(struct reader *r, int index, size_t depth, struct config_node *seq)
{
    struct config_node *child = read_node(r, index, depth + 1);

    if (!child)
        return false;
    r->code = config_node_append(seq, child);
    if (r->code == 0)
        return true;
    config_node_free(child);
    err_set(r->why, r->code, "%s:%u: a list of more than %d items", r->name, seq->where.line,
            CONFIG_CHILDREN_MAX);
    return false;
}

static bool read_key(struct reader *r, const yaml_node_t *from, struct bytes *key)
{
    if (from->type != YAML_SCALAR_NODE) {
        r->code =
            err_set(r->why, ERR_MALFORMED, "%s:%u: a key must be text", r->name, line_of(from));
        return false;
    }
    *key = bytes_of(from->data.scalar.value, from->data.scalar.length);
    if (key->len && memchr(key->ptr, 0, key->len)) {
        r->code = err_set(r->why, ERR_INVALID, "%s:%u: a key with a NUL character", r->name,
                          line_of(from));
        return false;
    }
    return true;
}

static bool read_pair(struct reader *r, const yaml_node_pair_t *pair, size_t depth,
                      struct config_node *map)
{
    const yaml_node_t *name = yaml_document_get_node(r->document, pair->key);
    bool replaced = false;
    struct bytes key;

    if (!read_key(r, name, &key))
        return false;
    struct config_node *child = read_node(r, pair->value, depth + 1);
    if (!child)
        return false;
    /* Where the key stands reads better in messages than where a block below it starts. */
    child->where.line = line_of(name);
    r->code = config_node_put(map, key, child, &replaced);
    if (r->code) {
        config_node_free(child);
        err_set(r->why, r->code, "%s:%u: a map of more than %d keys", r->name, map->where.line,
                CONFIG_CHILDREN_MAX);
        return false;
    }
    if (replaced)
        config_warn(r->warnings, "%s:%u: key %.*s is there twice; this one counts", r->name,
                    line_of(name), BYTES_FMT_ARG(key));
    return true;
}

static bool read_children(struct reader *r, const yaml_node_t *from, size_t depth,
                          struct config_node *node)
{
    bool ok = true;

    if (from->type == YAML_MAPPING_NODE)
        for (const yaml_node_pair_t *pair = from->data.mapping.pairs.start;
             ok && pair < from->data.mapping.pairs.top; pair++)
            ok = read_pair(r, pair, depth, node);
    else
        for (const yaml_node_item_t *item = from->data.sequence.items.start;
             ok && item < from->data.sequence.items.top; item++)
            ok = read_item(r, *item, depth, node);
    return ok;
}

static bool is_core_tag(const yaml_node_t *node)
{
    const char *tag = (const char *)node->tag;

    return !tag || strncmp(tag, "tag:yaml.org,2002:", 18) == 0;
}

/* NULL on failure: see r->code. */
static struct config_node *read_node(struct reader *r, int index, size_t depth)
{
    const yaml_node_t *from = yaml_document_get_node(r->document, index);
    struct config_where where = {CONFIG_FROM_FILE, r->name, line_of(from)};

    if (depth > CONFIG_DEPTH_MAX || ++r->nodes > CONFIG_NODES_MAX) {
        r->code = err_set(r->why, ERR_TOO_LARGE, "%s:%u: more than %d levels or %d values", r->name,
                          where.line, CONFIG_DEPTH_MAX, CONFIG_NODES_MAX);
        return NULL;
    }
    if (!is_core_tag(from)) {
        r->code = err_set(r->why, ERR_MALFORMED, "%s:%u: unknown tag %s", r->name, where.line,
                          (const char *)from->tag);
        return NULL;
    }
    if (from->type == YAML_SCALAR_NODE)
        return read_scalar(r, from, where);
    struct config_node *node =
        config_node_new(from->type == YAML_MAPPING_NODE ? CONFIG_OBJ : CONFIG_SEQ, where);
    if (read_children(r, from, depth, node))
        return node;
    config_node_free(node);
    return NULL;
}

static int syntax_error(const yaml_parser_t *parser, const char *name, struct err_text *why)
{
    return err_set(why, ERR_MALFORMED, "%s:%zu:%zu: not YAML: %s%s%s", name,
                   parser->problem_mark.line + 1, parser->problem_mark.column + 1,
                   parser->problem ? parser->problem : "unreadable", parser->context ? ", " : "",
                   parser->context ? parser->context : "");
}

static int read_root(struct reader *r, struct config_node **out)
{
    if (!yaml_document_get_root_node(r->document)) {
        *out = config_node_new(CONFIG_OBJ, (struct config_where){CONFIG_FROM_FILE, r->name, 1});
        return 0;
    }
    struct config_node *root = read_node(r, 1, 0);
    if (!root)
        return r->code;
    if (root->kind == CONFIG_NULL)
        root->kind = CONFIG_OBJ;
    if (root->kind != CONFIG_OBJ) {
        config_node_free(root);
        return err_set(r->why, ERR_MALFORMED,
                       "%s: must be a map of `key: value` lines at the top, not a list or a value",
                       r->name);
    }
    *out = root;
    return 0;
}

/* The original refuses a stream of several documents, too. */
static int check_end(yaml_parser_t *parser, const char *name, struct err_text *why)
{
    yaml_document_t document;

    if (!yaml_parser_load(parser, &document))
        return syntax_error(parser, name, why);
    bool more = yaml_document_get_root_node(&document) != NULL;
    yaml_document_delete(&document);
    return more ? err_set(why, ERR_MALFORMED, "%s: more than one YAML document", name) : 0;
}

int config_yaml_parse(struct config_node **out, const char *name, struct bytes text,
                      struct config_warnings *warnings, struct err_text *why)
{
    struct config_node *root = NULL;
    yaml_document_t document;
    yaml_parser_t parser;
    int rv;

    if (text.len > CONFIG_FILE_MAX)
        return err_set(why, ERR_TOO_LARGE, "%s: larger than 1 MiB", name);
    if (!yaml_parser_initialize(&parser))
        abort();
    yaml_parser_set_input_string(&parser, text.ptr ? text.ptr : (const uint8_t *)"", text.len);
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    if (!yaml_parser_load(&parser, &document)) {
        rv = syntax_error(&parser, name, why);
        goto out_parser;
    }
    struct reader r = {.name = name, .document = &document, .warnings = warnings, .why = why};
    rv = read_root(&r, &root);
    yaml_document_delete(&document);
    if (rv == 0)
        rv = check_end(&parser, name, why);
    if (rv)
        config_node_free(root);
    else
        *out = root;
out_parser:
    yaml_parser_delete(&parser);
    return rv;
}

/* --- files ----------------------------------------------------------------------------------- */

/* A relative path is tried in the working directory and then in each parent, as the original does.
 */
static int open_upwards(const char *path, char **found)
{
    char dir[PATH_MAX];
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    *found = mem_strdup(path);
    if (fd >= 0 || errno != ENOENT || path[0] == '/' || !getcwd(dir, sizeof(dir)))
        return fd;
    for (char *slash = strrchr(dir, '/'); slash; slash = strrchr(dir, '/')) {
        struct buf candidate = {0};
        *slash = 0;
        buf_printf(&candidate, "%s/%s", dir, path);
        fd = open(buf_cstr(&candidate), O_RDONLY | O_CLOEXEC);
        if (fd >= 0 || errno != ENOENT) {
            mem_free(*found);
            *found = mem_strdup(buf_cstr(&candidate));
            buf_free(&candidate);
            return fd;
        }
        buf_free(&candidate);
    }
    return fd;
}

int config_read_text(int fd, const char *name, struct buf *text, struct err_text *why)
{
    while (text->len <= CONFIG_FILE_MAX) {
        buf_reserve(text, 65536);
        ssize_t n = read(fd, text->ptr + text->len, 65536);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(why, ERR_IO, "%s: %s", name, strerror(errno));
        if (n == 0)
            return 0;
        text->len += (size_t)n;
    }
    return err_set(why, ERR_TOO_LARGE, "%s: larger than 1 MiB", name);
}

int config_file_read(const char *path, struct buf *text, char **found, struct err_text *why)
{
    int fd = open_upwards(path, found);
    int rv;

    if (fd >= 0) {
        rv = config_read_text(fd, *found, text, why);
        close(fd);
    } else if (errno == ENOENT) {
        rv = err_set(
            why, ERR_NOT_FOUND,
            "%s: no such configuration file%s; create it, name another one with -c, or leave "
            "-c out to run on defaults and environment",
            path, path[0] == '/' ? "" : " here or in a parent directory");
    } else {
        rv = err_set(why, errno == EACCES ? ERR_DENIED : ERR_IO, "%s: %s", *found, strerror(errno));
    }
    if (rv) {
        mem_free(*found);
        *found = NULL;
    }
    return rv;
}
