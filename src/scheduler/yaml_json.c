/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/yaml_json.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

struct writer {
    yaml_document_t *document;
    struct buf *out;
    size_t nodes;
    size_t *line;
    struct err_text *why;
};

static int fault(struct writer *w, const yaml_node_t *node, int code, const char *what)
{
    *w->line = node->start_mark.line + 1;
    return err_set(w->why, code, "%s", what);
}

static void put(struct writer *w, json_t *value)
{
    char *text = json_dumps(value, JSON_ENCODE_ANY);

    buf_append_str(w->out, text ? text : "null");
    free(text); /* tidy: free, jansson allocated it */
    json_decref(value);
}

static int put_text(struct writer *w, const yaml_node_t *node)
{
    json_t *text = json_stringn((const char *)node->data.scalar.value, node->data.scalar.length);

    if (text == NULL)
        return fault(w, node, ERR_INVALID, "a text that is not UTF-8");
    put(w, text);
    return 0;
}

static bool one_of(const char *word, const char *const *words)
{
    for (; *words; words++)
        if (strcmp(word, *words) == 0)
            return true;
    return false;
}

static const char *skip_digits(const char *c)
{
    while (*c >= '0' && *c <= '9')
        c++;
    return c;
}

/* [-+]? digits, or 0x and 0o without a sign. */
static bool is_integer(const char *word)
{
    const char *digits = word + (*word == '-' || *word == '+');

    if (strncmp(word, "0x", 2) == 0)
        return word[2] && word[2 + strspn(word + 2, "0123456789abcdefABCDEF")] == '\0';
    if (strncmp(word, "0o", 2) == 0)
        return word[2] && word[2 + strspn(word + 2, "01234567")] == '\0';
    return *digits && *skip_digits(digits) == '\0';
}

static bool is_float(const char *word)
{
    const char *c = word + (*word == '-' || *word == '+');
    const char *whole = skip_digits(c), *rest = whole;

    if (*rest == '.')
        rest = skip_digits(rest + 1);
    if (rest == c || (rest == c + 1 && *c == '.'))
        return false;
    if (*rest == 'e' || *rest == 'E') {
        const char *exponent = rest + 1 + (rest[1] == '-' || rest[1] == '+');

        rest = skip_digits(exponent);
        if (rest == exponent)
            return false;
    }
    return *rest == '\0';
}

static int put_integer(struct writer *w, const yaml_node_t *node, const char *word)
{
    const char *digits = word + (*word == '-' || *word == '+');
    bool prefixed = digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'o');
    unsigned long long value;

    if (digits[0] == '0' && digits[1] != '\0' && !prefixed)
        return fault(
            w, node, ERR_INVALID,
            "a number with a leading zero: quote it if it is a text, else remove the zero");
    errno = 0;
    value = strtoull(prefixed ? digits + 2 : digits, NULL,
                     !prefixed          ? 10
                     : digits[1] == 'x' ? 16
                                        : 8);
    if (errno != 0 || (*word == '-' && value > (unsigned long long)INT64_MAX + 1))
        return fault(w, node, ERR_INVALID, "a whole number must be from -2^63 to 2^64-1");
    buf_printf(w->out, "%s%llu", *word == '-' && value != 0 ? "-" : "", value);
    return 0;
}

static int put_float(struct writer *w, const yaml_node_t *node, const char *word)
{
    double value = strtod(word, NULL);

    if (!isfinite(value))
        return fault(w, node, ERR_INVALID, "a number too large for a double");
    put(w, json_real(value));
    return 0;
}

static int put_plain(struct writer *w, const yaml_node_t *node)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
    static const char *const trues[] = {"true", "True", "TRUE", NULL};
    static const char *const falses[] = {"false", "False", "FALSE", NULL};
    static const char *const infinities[] = {".inf",  ".Inf",  ".INF", "+.inf",
                                             "+.Inf", "+.INF", NULL};
    static const char *const negatives[] = {"-.inf", "-.Inf", "-.INF", NULL};
    static const char *const nans[] = {".nan", ".NaN", ".NAN", NULL};
    const char *word = (const char *)node->data.scalar.value;

    if (one_of(word, nulls))
        buf_append_str(w->out, "null");
    else if (one_of(word, trues))
        buf_append_str(w->out, "true");
    else if (one_of(word, falses))
        buf_append_str(w->out, "false");
    else if (one_of(word, infinities))
        buf_append_str(w->out, "{\"$float\": \"inf\"}");
    else if (one_of(word, negatives))
        buf_append_str(w->out, "{\"$float\": \"-inf\"}");
    else if (one_of(word, nans))
        buf_append_str(w->out, "{\"$float\": \"nan\"}");
    else if (is_integer(word))
        return put_integer(w, node, word);
    else if (is_float(word))
        return put_float(w, node, word);
    else
        return put_text(w, node);
    return 0;
}

/* Base64, perhaps broken over lines. */
static int put_binary(struct writer *w, const yaml_node_t *node)
{
    buf_append_str(w->out, "{\"$bytes\": \"");
    for (size_t i = 0; i < node->data.scalar.length; i++) {
        uint8_t c = node->data.scalar.value[i];

        if (c == ' ' || c == '\n' || c == '\t' || c == '\r')
            continue;
        if (c < '+' || c > 'z' || c == '\\')
            return fault(w, node, ERR_INVALID, "!!binary must be base64");
        buf_append_byte(w->out, c);
    }
    buf_append_str(w->out, "\"}");
    return 0;
}

static int put_scalar(struct writer *w, const yaml_node_t *node)
{
    const char *tag = node->tag ? (const char *)node->tag : YAML_STR_TAG;

    if (memchr(node->data.scalar.value, '\0', node->data.scalar.length))
        return fault(w, node, ERR_INVALID, "a text with a NUL character");
    if (strcmp(tag, "tag:yaml.org,2002:binary") == 0)
        return put_binary(w, node);
    if (strcmp(tag, YAML_STR_TAG) != 0)
        return fault(w, node, ERR_INVALID, "a tag other than !!str and !!binary");
    return node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE ? put_plain(w, node)
                                                              : put_text(w, node);
}

static int put_node(struct writer *w, int index, size_t depth);

static int put_sequence(struct writer *w, const yaml_node_t *node, size_t depth)
{
    int rv = 0;

    buf_append_str(w->out, "[");
    for (const yaml_node_item_t *item = node->data.sequence.items.start;
         rv == 0 && item < node->data.sequence.items.top; item++) {
        buf_append_str(w->out, item > node->data.sequence.items.start ? ", " : "");
        rv = put_node(w, *item, depth + 1);
    }
    buf_append_str(w->out, "]");
    return rv;
}

static int put_mapping(struct writer *w, const yaml_node_t *node, size_t depth)
{
    int rv = 0;

    buf_append_str(w->out, "{");
    for (const yaml_node_pair_t *pair = node->data.mapping.pairs.start;
         rv == 0 && pair < node->data.mapping.pairs.top; pair++) {
        const yaml_node_t *key = yaml_document_get_node(w->document, pair->key);

        if (key->type != YAML_SCALAR_NODE)
            return fault(w, key, ERR_INVALID, "a key must be a text");
        for (const yaml_node_pair_t *before = node->data.mapping.pairs.start; before < pair;
             before++) {
            const yaml_node_t *other = yaml_document_get_node(w->document, before->key);

            if (bytes_equal(bytes_of(key->data.scalar.value, key->data.scalar.length),
                            bytes_of(other->data.scalar.value, other->data.scalar.length)))
                return fault(w, key, ERR_INVALID, "a key is there twice");
        }
        buf_append_str(w->out, pair > node->data.mapping.pairs.start ? ", " : "");
        rv = put_text(w, key);
        buf_append_str(w->out, ": ");
        rv = rv ? rv : put_node(w, pair->value, depth + 1);
    }
    buf_append_str(w->out, "}");
    return rv;
}

static int put_this(struct writer *w, const yaml_node_t *node, size_t depth)
{
    if (depth > YAML_JSON_DEPTH_MAX || ++w->nodes > YAML_JSON_NODES_MAX)
        return fault(w, node, ERR_TOO_LARGE, "too deep, or too many values");
    if (node->type == YAML_SEQUENCE_NODE)
        return put_sequence(w, node, depth);
    return node->type == YAML_MAPPING_NODE ? put_mapping(w, node, depth) : put_scalar(w, node);
}

static int put_node(struct writer *w, int index, size_t depth)
{
    return put_this(w, yaml_document_get_node(w->document, index), depth);
}

int yaml_to_json(yaml_document_t *document, const yaml_node_t *node, struct buf *out, size_t *line,
                 struct err_text *why)
{
    struct writer writer = {.document = document, .out = out, .line = line, .why = why};

    return put_this(&writer, node, 0);
}
