/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/config_tree.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"

struct config_node *config_node_new(enum config_kind kind, struct config_where where)
{
    struct config_node *node = mem_zalloc(sizeof(*node));
    node->kind = kind;
    node->where = where;
    return node;
}

struct config_node *config_node_str(struct bytes text, struct config_where where)
{
    struct config_node *node = config_node_new(CONFIG_STR, where);
    node->text = mem_strndup(text.ptr, text.len);
    return node;
}

void config_node_free(struct config_node *node)
{
    if (!node)
        return;
    for (size_t i = 0; i < node->count; i++) {
        mem_free(node->children[i].key);
        config_node_free(node->children[i].node);
    }
    mem_free(node->children);
    mem_free(node->text);
    mem_free(node);
}

const char *config_kind_name(enum config_kind kind)
{
    static const char *const names[] = {
        [CONFIG_NULL] = "null",        [CONFIG_BOOL] = "the boolean", [CONFIG_INT] = "the number",
        [CONFIG_FLOAT] = "the number", [CONFIG_STR] = "the text",     [CONFIG_SEQ] = "a list",
        [CONFIG_OBJ] = "a map",
    };
    return names[kind];
}

static int digit_value(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return 16;
}

static bool parse_magnitude(struct bytes digits, unsigned base, uint64_t *out)
{
    uint64_t sum = 0;

    if (digits.len == 0)
        return false;
    for (size_t i = 0; i < digits.len; i++) {
        unsigned digit = (unsigned)digit_value(digits.ptr[i]);
        if (digit >= base || __builtin_mul_overflow(sum, (uint64_t)base, &sum) ||
            __builtin_add_overflow(sum, (uint64_t)digit, &sum))
            return false;
    }
    *out = sum;
    return true;
}

static unsigned yaml_base(struct bytes *digits)
{
    if (digits->len < 3 || digits->ptr[0] != '0')
        return 10;
    unsigned base = digits->ptr[1] == 'x'   ? 16
                    : digits->ptr[1] == 'o' ? 8
                    : digits->ptr[1] == 'b' ? 2
                                            : 10;
    if (base != 10)
        *digits = bytes_of(digits->ptr + 2, digits->len - 2);
    return base;
}

bool config_node_set_int(struct config_node *node, struct bytes word, bool yaml)
{
    struct bytes digits = word;
    bool negative = false;
    uint64_t magnitude;

    if (digits.len && (digits.ptr[0] == '-' || digits.ptr[0] == '+')) {
        negative = digits.ptr[0] == '-';
        digits = bytes_of(digits.ptr + 1, digits.len - 1);
    }
    unsigned base = yaml ? yaml_base(&digits) : 10;
    /* YAML 1.2 readers take 0123 as text: some mean octal by it. */
    if (yaml && base == 10 && digits.len > 1 && digits.ptr[0] == '0')
        return false;
    if (!parse_magnitude(digits, base, &magnitude) || (negative && magnitude > (uint64_t)1 << 63))
        return false;
    node->kind = CONFIG_INT;
    node->negative = negative && magnitude != 0;
    node->magnitude = magnitude;
    node->text = mem_strndup(word.ptr, word.len);
    return true;
}

bool config_node_set_float(struct config_node *node, struct bytes word)
{
    bool digit = false, fraction = false;

    for (size_t i = 0; i < word.len; i++) {
        uint8_t c = word.ptr[i];
        digit = digit || (c >= '0' && c <= '9');
        fraction = fraction || c == '.' || c == 'e' || c == 'E';
        /* strtod takes more than we want: hexadecimal, "infinity", leading blanks. */
        if (!((c >= '0' && c <= '9') || (c && strchr("+-.eE", c))))
            return false;
    }
    /* Digits alone get here when they overflow an integer, or as 0123, which is text. */
    if (!digit || (!fraction && word.ptr[0] == '0'))
        return false;
    char *text = mem_strndup(word.ptr, word.len);
    char *end;
    double real = strtod(text, &end);
    if (*end) {
        mem_free(text);
        return false;
    }
    node->kind = CONFIG_FLOAT;
    node->real = real;
    node->text = text;
    return true;
}

struct config_node *config_node_get(const struct config_node *map, struct bytes key)
{
    if (!map || map->kind != CONFIG_OBJ)
        return NULL;
    for (size_t i = 0; i < map->count; i++)
        if (bytes_equal_str(key, map->children[i].key))
            return map->children[i].node;
    return NULL;
}

static void add_child(struct config_node *parent, char *key, struct config_node *child)
{
    if (parent->count == parent->cap) {
        parent->cap = parent->cap ? parent->cap * 2 : 4;
        parent->children = mem_realloc(parent->children, parent->cap * sizeof(parent->children[0]));
    }
    parent->children[parent->count++] = (struct config_child){.key = key, .node = child};
}

int config_node_put(struct config_node *map, struct bytes key, struct config_node *child,
                    bool *replaced)
{
    for (size_t i = 0; i < map->count; i++) {
        if (!bytes_equal_str(key, map->children[i].key))
            continue;
        config_node_free(map->children[i].node);
        map->children[i].node = child;
        if (replaced)
            *replaced = true;
        return 0;
    }
    if (map->count == CONFIG_CHILDREN_MAX)
        return ERR_TOO_LARGE;
    add_child(map, mem_strndup(key.ptr, key.len), child);
    return 0;
}

int config_node_append(struct config_node *seq, struct config_node *child)
{
    if (seq->count == CONFIG_CHILDREN_MAX)
        return ERR_TOO_LARGE;
    add_child(seq, NULL, child);
    return 0;
}

static struct config_child *find_child(struct config_node *map, const char *key)
{
    for (size_t i = 0; i < map->count; i++)
        if (strcmp(map->children[i].key, key) == 0)
            return &map->children[i];
    return NULL;
}

struct config_node *config_tree_merge(struct config_node *base, struct config_node *over)
{
    if (!base || base->kind != CONFIG_OBJ || over->kind != CONFIG_OBJ) {
        config_node_free(base);
        return over;
    }
    base->where = over->where;
    for (size_t i = 0; i < over->count; i++) {
        struct config_child *theirs = &over->children[i];
        struct config_child *ours = find_child(base, theirs->key);
        if (ours)
            ours->node = config_tree_merge(ours->node, theirs->node);
        else
            add_child(base, mem_strdup(theirs->key), theirs->node);
        theirs->node = NULL;
    }
    config_node_free(over);
    return base;
}

const char *config_names_add(struct config_names *names, struct bytes name)
{
    names->items = mem_realloc(names->items, (names->count + 1) * sizeof(char *));
    names->items[names->count] = mem_strndup(name.ptr, name.len);
    return names->items[names->count++];
}

void config_names_free(struct config_names *names)
{
    for (size_t i = 0; i < names->count; i++)
        mem_free(names->items[i]);
    mem_free(names->items);
    *names = (struct config_names){0};
}

static char *format_line(const char *fmt, va_list ap) __attribute__((format(printf, 1, 0)));

static char *format_line(const char *fmt, va_list ap)
{
    struct buf line = {0};

    buf_vprintf(&line, fmt, ap);
    for (size_t i = 0; i < line.len; i++)
        if (line.ptr[i] < ' ' || line.ptr[i] == 0x7f)
            line.ptr[i] = ' ';
    buf_append_byte(&line, '\0');
    return (char *)line.ptr;
}

void config_warn(struct config_warnings *warnings, const char *fmt, ...)
{
    char rest[80];
    va_list ap;

    if (warnings->count == CONFIG_WARNINGS_MAX) {
        warnings->dropped++;
        snprintf(rest, sizeof(rest), "and %zu more warnings about the configuration",
                 warnings->dropped + 1);
        mem_free(warnings->lines[warnings->count - 1]);
        warnings->lines[warnings->count - 1] = mem_strdup(rest);
        return;
    }
    va_start(ap, fmt);
    char *line = format_line(fmt, ap);
    va_end(ap);
    warnings->lines = mem_realloc(warnings->lines, (warnings->count + 1) * sizeof(char *));
    warnings->lines[warnings->count++] = line;
}

void config_warnings_free(struct config_warnings *warnings)
{
    for (size_t i = 0; i < warnings->count; i++)
        mem_free(warnings->lines[i]);
    mem_free(warnings->lines);
    *warnings = (struct config_warnings){0};
}
