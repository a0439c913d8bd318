/* SPDX-License-Identifier: Apache-2.0 */
#include "client/routes_file.h"

#include <yaml.h>

#include "base/map.h"
#include "base/mem.h"

struct reader {
    yaml_document_t *document;
    const char *name;
    struct err_text *why;
};

__attribute__((format(printf, 3, 4))) static int
fault(const struct reader *r, const yaml_node_t *node, const char *fmt, ...)
{
    struct err_text text;
    va_list ap;

    va_start(ap, fmt);
    err_setv(&text, 0, fmt, ap);
    va_end(ap);
    return err_set(r->why, ERR_INVALID, "%s:%zu: %s", r->name, node->start_mark.line + 1, text.s);
}

/* NULL if the node is no scalar, is empty or holds a NUL. */
static const char *text_of(const yaml_node_t *node)
{
    const char *text;

    if (node->type != YAML_SCALAR_NODE)
        return NULL;
    text = (const char *)node->data.scalar.value;
    return text[0] != '\0' && strlen(text) == node->data.scalar.length ? text : NULL;
}

/* The value of a key in a map, NULL if it is not there; *count: how often it is. */
static yaml_node_t *value_of(const struct reader *r, const yaml_node_t *map, const char *key,
                             size_t *count)
{
    yaml_node_t *value = NULL;

    for (const yaml_node_pair_t *pair = map->data.mapping.pairs.start;
         pair < map->data.mapping.pairs.top; pair++) {
        const char *text = text_of(yaml_document_get_node(r->document, pair->key));

        if (text != NULL && strcmp(text, key) == 0) {
            value = yaml_document_get_node(r->document, pair->value);
            ++*count;
        }
    }
    return value;
}

static bool is_topic(const char *text)
{
    size_t len = strlen(text);

    return len <= ROUTES_TOPIC_MAX &&
           len == strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");
}

static int read_pair(const struct reader *r, const yaml_node_pair_t *pair, struct map *seen,
                     struct map_node *node, struct routes_file_pair *out)
{
    const yaml_node_t *key = yaml_document_get_node(r->document, pair->key);
    const yaml_node_t *value = yaml_document_get_node(r->document, pair->value);
    const char *route = text_of(key), *topic = text_of(value);

    if (route == NULL)
        return fault(r, key, ROUTES_FILE_KEY ": a namespace must be a text");
    if (topic == NULL || !is_topic(topic))
        return fault(r, value,
                     ROUTES_FILE_KEY ": the topic of %s must be a text of at most %d letters, "
                                     "digits, dots, dashes and underscores",
                     route, ROUTES_TOPIC_MAX);
    if (map_find(seen, bytes_str(route)))
        return fault(r, key, ROUTES_FILE_KEY ": %s is there twice", route);
    map_insert(seen, node, bytes_str(route));
    *out = (struct routes_file_pair){.route = mem_strdup(route), .topic = mem_strdup(topic)};
    return 0;
}

static int read_pairs(const struct reader *r, const yaml_node_t *map, struct routes_file *out)
{
    static const uint64_t seed[2] = {0, 0}; /* the file is the operator's own */
    const yaml_node_pair_t *pairs = map->data.mapping.pairs.start;
    struct map_node *nodes;
    struct map seen;
    size_t count;
    int rv = 0;

    if (map->type == YAML_SCALAR_NODE && map->data.scalar.length == 0)
        return 0; /* nothing after the colon */
    if (map->type != YAML_MAPPING_NODE)
        return fault(r, map, ROUTES_FILE_KEY " must be a map of namespace: topic");
    count = (size_t)(map->data.mapping.pairs.top - pairs);
    out->pairs = mem_calloc(count + 1, sizeof(*out->pairs));
    nodes = mem_calloc(count + 1, sizeof(*nodes));
    map_init(&seen, seed);
    while (rv == 0 && out->count < count) {
        rv = read_pair(r, &pairs[out->count], &seen, &nodes[out->count], &out->pairs[out->count]);
        out->count += rv == 0;
    }
    map_free(&seen);
    mem_free(nodes);
    return rv;
}

static int read_document(const struct reader *r, struct routes_file *out)
{
    const yaml_node_t *root = yaml_document_get_root_node(r->document), *options, *below = NULL;
    const yaml_node_t *map;
    size_t count = 0, options_count = 0;

    if (root == NULL)
        return 0;
    if (root->type != YAML_MAPPING_NODE)
        return fault(r, root, "the file must be a map with the key " ROUTES_FILE_KEY);
    map = value_of(r, root, ROUTES_FILE_KEY, &count);
    options = value_of(r, root, "options", &options_count);
    if (options != NULL && options->type == YAML_MAPPING_NODE)
        below = value_of(r, options, ROUTES_FILE_KEY, &count);
    if (count > 1 || options_count > 1)
        return fault(r, below ? below : map ? map : options, ROUTES_FILE_KEY " is there twice");
    map = map ? map : below;
    return map ? read_pairs(r, map, out) : 0;
}

int routes_file_parse(struct routes_file *out, const char *name, struct bytes text,
                      struct err_text *why)
{
    struct reader reader = {.name = name, .why = why};
    yaml_document_t document;
    yaml_parser_t parser;
    int rv;

    *out = (struct routes_file){0};
    if (text.len > ROUTES_FILE_MAX)
        return err_set(why, ERR_TOO_LARGE, "%s: larger than %d bytes", name, ROUTES_FILE_MAX);
    if (!yaml_parser_initialize(&parser))
        return err_set(why, ERR_SYSTEM, "%s: out of memory", name);
    yaml_parser_set_input_string(&parser, text.ptr ? text.ptr : (const uint8_t *)"", text.len);
    if (yaml_parser_load(&parser, &document)) {
        reader.document = &document;
        rv = read_document(&reader, out);
        yaml_document_delete(&document);
    } else {
        rv = err_set(why, ERR_MALFORMED, "%s:%zu: not YAML: %s", name, parser.problem_mark.line + 1,
                     parser.problem ? parser.problem : "unreadable");
    }
    yaml_parser_delete(&parser);
    if (rv)
        routes_file_free(out);
    return rv;
}

void routes_file_free(struct routes_file *routes)
{
    for (size_t i = 0; i < routes->count; i++) {
        mem_free(routes->pairs[i].route);
        mem_free(routes->pairs[i].topic);
    }
    mem_free(routes->pairs);
    *routes = (struct routes_file){0};
}
