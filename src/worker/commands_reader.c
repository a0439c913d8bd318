/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/commands_reader.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

int reader_fault(struct reader *reader, const yaml_node_t *node, const char *fmt, ...)
{
    struct err_text text;
    va_list ap;

    va_start(ap, fmt);
    err_setv(&text, 0, fmt, ap);
    va_end(ap);
    return err_set(reader->why, ERR_INVALID, "%s line %zu: %s", reader->path,
                   node ? node->start_mark.line + 1 : (size_t)1, text.s);
}

yaml_node_t *reader_node(struct reader *reader, int index)
{
    return yaml_document_get_node(&reader->document, index);
}

const char *reader_text(const yaml_node_t *node)
{
    const char *text;

    if (node->type != YAML_SCALAR_NODE)
        return NULL;
    text = (const char *)node->data.scalar.value;
    return strlen(text) == node->data.scalar.length ? text : NULL;
}

/* --- maps and lists -------------------------------------------------------------------------- */

static bool stands_before(struct reader *reader, const yaml_node_t *map,
                          const yaml_node_pair_t *pair, const char *name)
{
    for (yaml_node_pair_t *before = map->data.mapping.pairs.start; before < pair; before++) {
        const char *other = reader_text(reader_node(reader, before->key));

        if (other != NULL && strcmp(other, name) == 0)
            return true;
    }
    return false;
}

int reader_each_entry(struct reader *reader, yaml_node_t *map, const char *what,
                      reader_entry_fn each, void *ctx)
{
    if (map->type != YAML_MAPPING_NODE)
        return reader_fault(reader, map, "%s must be a map", what);
    for (yaml_node_pair_t *pair = map->data.mapping.pairs.start; pair < map->data.mapping.pairs.top;
         pair++) {
        yaml_node_t *key = reader_node(reader, pair->key);
        const char *name = reader_text(key);
        int rv;

        if (name == NULL || name[0] == '\0')
            return reader_fault(reader, key, "%s: a key must be a text", what);
        reader->key = key;
        if (stands_before(reader, map, pair, name))
            return reader_fault(reader, key, "%s stands twice in %s", name, what);
        rv = each(reader, name, reader_node(reader, pair->value), ctx);
        if (rv != 0)
            return rv;
    }
    return 0;
}

int reader_each_item(struct reader *reader, yaml_node_t *list, const char *what,
                     reader_item_fn each, void *ctx)
{
    if (list->type != YAML_SEQUENCE_NODE)
        return reader_fault(reader, list, "%s must be a list", what);
    for (yaml_node_item_t *item = list->data.sequence.items.start;
         item < list->data.sequence.items.top; item++) {
        yaml_node_t *node = reader_node(reader, *item);
        const char *text = reader_text(node);
        int rv;

        if (text == NULL)
            return reader_fault(reader, node, "what stands in %s must be texts", what);
        rv = each(reader, text, node, ctx);
        if (rv != 0)
            return rv;
    }
    return 0;
}

/* --- values ---------------------------------------------------------------------------------- */

/* Digits, and where they end. */
static bool take_digits(const char *text, uint64_t *out, const char **end)
{
    char *stop;

    if (text == NULL || text[0] < '0' || text[0] > '9')
        return false;
    errno = 0;
    *out = strtoull(text, &stop, 10);
    *end = stop;
    return errno == 0;
}

int reader_number(struct reader *reader, const char *key, yaml_node_t *value, uint64_t min,
                  uint64_t max, uint64_t *out)
{
    const char *end;

    if (!take_digits(reader_text(value), out, &end) || *end != '\0' || *out < min || *out > max)
        return reader_fault(reader, value, "%s must be a whole number from %llu to %llu", key,
                            (unsigned long long)min, (unsigned long long)max);
    return 0;
}

int reader_u32(struct reader *reader, const char *key, yaml_node_t *value, uint32_t min,
               uint32_t *out)
{
    uint64_t number = 0;
    int rv = reader_number(reader, key, value, min, UINT32_MAX, &number);

    if (rv == 0)
        *out = (uint32_t)number;
    return rv;
}

int reader_size(struct reader *reader, const char *key, yaml_node_t *value, uint64_t *out)
{
    static const char units[] = "kMG";
    const char *end = "", *unit;
    unsigned shift = 0;
    bool good = take_digits(reader_text(value), out, &end);

    if (good && *end != '\0') {
        unit = strchr(units, *end);
        good = unit != NULL && end[1] == '\0';
        shift = good ? 10 * (unsigned)(unit - units + 1) : 0;
    }
    if (!good || *out > (UINT64_MAX >> 1) >> shift)
        return reader_fault(reader, value,
                            "%s must be a number of bytes, perhaps with k, M or G: 64k, 512M", key);
    *out <<= shift;
    return 0;
}

int reader_bool(struct reader *reader, const char *key, yaml_node_t *value, bool *out)
{
    static const char *const names[] = {"false", "true", NULL};
    int chosen = 0;
    int rv = reader_choice(reader, key, value, names, &chosen);

    if (rv == 0)
        *out = chosen == 1;
    return rv;
}

int reader_choice(struct reader *reader, const char *key, yaml_node_t *value,
                  const char *const *names, int *out)
{
    const char *text = reader_text(value);
    struct buf all = {0};
    int rv;

    for (int i = 0; text != NULL && names[i] != NULL; i++)
        if (strcmp(text, names[i]) == 0) {
            *out = i;
            return 0;
        }
    for (int i = 0; names[i] != NULL; i++)
        buf_printf(&all, "%s%s", i == 0 ? "" : names[i + 1] ? ", " : " or ", names[i]);
    rv = reader_fault(reader, value, "%s is %s", key, buf_cstr(&all));
    buf_free(&all);
    return rv;
}
