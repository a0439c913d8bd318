/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The environment as configuration: TASKBROKER_STORE__PG__PORT=5433 is `store: {pg: {port: 5433}}`.
 * Names are lower-cased as a whole, `__` and `.` separate levels. Values have a small grammar of
 * their own, after which a text that did not parse to its end is simply that text, so that
 * `a:9092,b:9092` needs no quotes:
 *
 *   value  = "true" | "false" | string | char | list | map | word
 *   string = '"' ... '"' with the escapes of TOML      char = "'" any "'"
 *   list   = "[" value, ... "]"                        map  = "{" key "=" value, ... "}"
 *   key    = string | [A-Za-z0-9_-]+                   word = run of anything but , [ ] { }
 *   a word with a point that reads as a number is a float, one of digits an integer, else text
 */
#include <stdlib.h>

#include "base/mem.h"
#include "broker/config_tree.h"
#include "wire/pb.h"

#define PREFIX "taskbroker_"

struct scan {
    struct bytes rest;
    struct config_where where;
    size_t nodes;
};

static int peek(const struct scan *s)
{
    return s->rest.len ? s->rest.ptr[0] : -1;
}

static void skip(struct scan *s, size_t len)
{
    s->rest = bytes_of(s->rest.ptr + len, s->rest.len - len);
}

static bool eat(struct scan *s, const char *word)
{
    size_t len = strlen(word);

    if (s->rest.len < len || memcmp(s->rest.ptr, word, len) != 0)
        return false;
    skip(s, len);
    return true;
}

static bool is_blank(int c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void skip_blanks(struct scan *s)
{
    while (is_blank(peek(s)))
        skip(s, 1);
}

static struct bytes trim(struct bytes b)
{
    while (b.len && is_blank(b.ptr[0]))
        b = bytes_of(b.ptr + 1, b.len - 1);
    while (b.len && is_blank(b.ptr[b.len - 1]))
        b.len--;
    return b;
}

static size_t utf8_len(uint8_t lead)
{
    return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

static void append_utf8(struct buf *out, uint32_t code)
{
    if (code < 0x80) {
        buf_append_byte(out, (uint8_t)code);
    } else if (code < 0x800) {
        buf_append_byte(out, (uint8_t)(0xc0 | code >> 6));
        buf_append_byte(out, (uint8_t)(0x80 | (code & 0x3f)));
    } else if (code < 0x10000) {
        buf_append_byte(out, (uint8_t)(0xe0 | code >> 12));
        buf_append_byte(out, (uint8_t)(0x80 | (code >> 6 & 0x3f)));
        buf_append_byte(out, (uint8_t)(0x80 | (code & 0x3f)));
    } else {
        buf_append_byte(out, (uint8_t)(0xf0 | code >> 18));
        buf_append_byte(out, (uint8_t)(0x80 | (code >> 12 & 0x3f)));
        buf_append_byte(out, (uint8_t)(0x80 | (code >> 6 & 0x3f)));
        buf_append_byte(out, (uint8_t)(0x80 | (code & 0x3f)));
    }
}

/* The digits of \uXXXX or \UXXXXXXXX; NUL is refused because configuration texts are C strings. */
static bool unicode_escape(struct scan *s, size_t digits, struct buf *out)
{
    char hex[9] = {0};
    char *end;

    if (s->rest.len < digits)
        return false;
    memcpy(hex, s->rest.ptr, digits);
    for (size_t i = 0; i < digits; i++)
        if (!hex[i] || !strchr("0123456789abcdefABCDEF", hex[i]))
            return false;
    unsigned long code = strtoul(hex, &end, 16);
    if (code == 0 || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
        return false;
    skip(s, digits);
    append_utf8(out, (uint32_t)code);
    return true;
}

static bool escape(struct scan *s, struct buf *out)
{
    static const char names[] = "btnfr\"\\", values[] = "\b\t\n\f\r\"\\";
    int c = peek(s);
    const char *at = c > 0 ? strchr(names, c) : NULL;

    if (c < 0)
        return false;
    skip(s, 1);
    if (at) {
        buf_append_byte(out, (uint8_t)values[at - names]);
        return true;
    }
    return (c == 'u' && unicode_escape(s, 4, out)) || (c == 'U' && unicode_escape(s, 8, out));
}

static bool quoted(struct scan *s, struct buf *out)
{
    skip(s, 1);
    for (;;) {
        int c = peek(s);
        if (c < 0)
            return false;
        skip(s, 1);
        if (c == '"')
            return true;
        if (c != '\\')
            buf_append_byte(out, (uint8_t)c);
        else if (!escape(s, out))
            return false;
    }
}

static struct config_node *string_value(struct scan *s)
{
    struct buf text = {0};
    struct config_node *node = NULL;

    if (quoted(s, &text))
        node = config_node_str(buf_bytes(&text), s->where);
    buf_free(&text);
    return node;
}

static struct config_node *char_value(struct scan *s)
{
    skip(s, 1);
    size_t len = s->rest.len ? utf8_len(s->rest.ptr[0]) : 0;
    if (len == 0 || s->rest.len <= len || s->rest.ptr[len] != '\'')
        return NULL;
    struct config_node *node = config_node_str(bytes_of(s->rest.ptr, len), s->where);
    skip(s, len + 1);
    return node;
}

static struct config_node *word_value(struct scan *s)
{
    size_t len = 0;

    while (len < s->rest.len && !strchr(",[]{}", s->rest.ptr[len]))
        len++;
    struct bytes word = trim(bytes_of(s->rest.ptr, len));
    skip(s, len);
    struct config_node *node = config_node_new(CONFIG_STR, s->where);
    bool point = word.len && memchr(word.ptr, '.', word.len);
    if (!(point && config_node_set_float(node, word)) && !config_node_set_int(node, word, false))
        node->text = mem_strndup(word.ptr, word.len);
    return node;
}

static struct config_node *value(struct scan *s, size_t depth);

static struct config_node *seq_value(struct scan *s, size_t depth)
{
    struct config_node *seq = config_node_new(CONFIG_SEQ, s->where);

    skip(s, 1);
    skip_blanks(s);
    while (!eat(s, "]")) {
        struct config_node *child = value(s, depth + 1);
        if (!child)
            goto fail;
        if (config_node_append(seq, child)) {
            config_node_free(child);
            goto fail;
        }
        if (!eat(s, ",") && peek(s) != ']')
            goto fail;
        skip_blanks(s);
    }
    return seq;
fail:
    config_node_free(seq);
    return NULL;
}

static bool key_text(struct scan *s, struct buf *key)
{
    skip_blanks(s);
    if (peek(s) == '"')
        return quoted(s, key);
    for (int c = peek(s); c > 0; c = peek(s)) {
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!letter && !(c >= '0' && c <= '9') && c != '_' && c != '-')
            break;
        buf_append_byte(key, (uint8_t)c);
        skip(s, 1);
    }
    return key->len > 0;
}

static bool map_entry(struct scan *s, size_t depth, struct config_node *map)
{
    struct buf key = {0};
    bool ok = false;

    if (!key_text(s, &key))
        goto out;
    skip_blanks(s);
    if (!eat(s, "="))
        goto out;
    struct config_node *child = value(s, depth + 1);
    if (!child)
        goto out;
    ok = config_node_put(map, buf_bytes(&key), child, NULL) == 0;
    if (!ok)
        config_node_free(child);
out:
    buf_free(&key);
    return ok;
}

static struct config_node *map_value(struct scan *s, size_t depth)
{
    struct config_node *map = config_node_new(CONFIG_OBJ, s->where);

    skip(s, 1);
    skip_blanks(s);
    while (!eat(s, "}")) {
        if (!map_entry(s, depth, map) || (!eat(s, ",") && peek(s) != '}')) {
            config_node_free(map);
            return NULL;
        }
        skip_blanks(s);
    }
    return map;
}

static struct config_node *bool_value(struct scan *s, bool yes)
{
    struct config_node *node = config_node_new(CONFIG_BOOL, s->where);
    node->boolean = yes;
    node->text = mem_strdup(yes ? "true" : "false");
    return node;
}

static struct config_node *value(struct scan *s, size_t depth)
{
    struct config_node *node;

    if (depth > CONFIG_DEPTH_MAX || ++s->nodes > CONFIG_NODES_MAX)
        return NULL;
    skip_blanks(s);
    if (eat(s, "true"))
        node = bool_value(s, true);
    else if (eat(s, "false"))
        node = bool_value(s, false);
    else if (peek(s) == '{')
        node = map_value(s, depth);
    else if (peek(s) == '[')
        node = seq_value(s, depth);
    else if (peek(s) == '"')
        node = string_value(s);
    else if (peek(s) == '\'')
        node = char_value(s);
    else
        node = word_value(s);
    skip_blanks(s);
    return node;
}

struct config_node *config_env_value(struct bytes text, struct config_where where)
{
    struct scan s = {.rest = trim(text), .where = where};
    struct config_node *node = value(&s, 0);

    if (node && s.rest.len == 0)
        return node;
    config_node_free(node);
    return config_node_str(trim(text), where);
}

/* --- names ----------------------------------------------------------------------------------- */

static bool has_prefix(const char *name)
{
    return strncasecmp(name, PREFIX, sizeof(PREFIX) - 1) == 0;
}

/* "store__pg.port" -> "store.pg.port"; false when a level is empty: such a variable is not ours. */
static bool path_of(struct bytes name, struct buf *path)
{
    for (size_t i = 0; i < name.len; i++) {
        uint8_t c = name.ptr[i];
        bool separator = c == '.';
        if (c == '_' && i + 1 < name.len && name.ptr[i + 1] == '_') {
            separator = true;
            i++;
        }
        if (separator && (path->len == 0 || path->ptr[path->len - 1] == '.'))
            return false;
        buf_append_byte(path, separator ? '.' : c >= 'A' && c <= 'Z' ? c + 32 : c);
    }
    return path->len > 0 && path->ptr[path->len - 1] != '.';
}

/* Wraps the value in one map per level. Takes over `node`. */
static struct config_node *nest(const char *path, struct config_node *node)
{
    struct config_node *map = config_node_new(CONFIG_OBJ, node->where);
    const char *dot = strchr(path, '.');
    struct bytes key = bytes_of(path, dot ? (size_t)(dot - path) : strlen(path));

    (void)config_node_put(map, key, dot ? nest(dot + 1, node) : node, NULL); /* the first: fits */
    return map;
}

static size_t levels(const struct buf *path)
{
    size_t n = 1;

    for (size_t i = 0; i < path->len; i++)
        n += path->ptr[i] == '.';
    return n;
}

static int add_variable(struct config_node **tree, const char *variable, struct config_names *names,
                        struct err_text *why)
{
    const char *equals = strchr(variable, '=');
    struct buf path = {0};
    int rv = 0;

    if (!equals || !has_prefix(variable))
        return 0;
    struct bytes name = bytes_of(variable, (size_t)(equals - variable));
    struct bytes key = bytes_of(name.ptr + sizeof(PREFIX) - 1, name.len - (sizeof(PREFIX) - 1));
    struct bytes text = bytes_str(equals + 1);
    if (!pb_utf8_valid(name) || !pb_utf8_valid(text)) {
        rv = err_set(why, ERR_INVALID, "environment %.*s: not UTF-8", BYTES_FMT_ARG(name));
    } else if (text.len > CONFIG_FILE_MAX) {
        rv =
            err_set(why, ERR_TOO_LARGE, "environment %.*s: larger than 1 MiB", BYTES_FMT_ARG(name));
    } else if (path_of(key, &path) && levels(&path) <= CONFIG_DEPTH_MAX) {
        struct config_where where = {CONFIG_FROM_ENV, config_names_add(names, name), 0};
        struct config_node *node = config_env_value(text, where);
        *tree = config_tree_merge(*tree, nest(buf_cstr(&path), node));
    }
    buf_free(&path);
    return rv;
}

int config_env_parse(struct config_node **out, char *const *environ_, struct config_names *names,
                     struct err_text *why)
{
    struct config_node *tree =
        config_node_new(CONFIG_OBJ, (struct config_where){CONFIG_FROM_ENV, "environment", 0});

    for (; environ_ && *environ_; environ_++) {
        int rv = add_variable(&tree, *environ_, names, why);
        if (rv) {
            config_node_free(tree);
            return rv;
        }
    }
    *out = tree;
    return 0;
}
