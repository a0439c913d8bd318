/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rules against activations. Names are found by bisection. Only a task that a selector names has
 * its parameters unpacked: packed bytes are compared with the values of the file where they lie,
 * and nothing is built from them.
 */
#include "base/mem.h"
#include "broker/runtime_int.h"
#include "wire/params.h"

const char *runtime_match_name(enum runtime_match match)
{
    static const char *const names[] = {
        [RUNTIME_KEEP] = "keep",
        [RUNTIME_WHOLE_TASK] = "whole_task",
        [RUNTIME_SELECTOR] = "selector",
    };
    return names[match];
}

/* As strcmp of the text and the bytes, which need not be text. */
static int order(const char *text, struct bytes bytes)
{
    size_t len = strlen(text);
    size_t shorter = len < bytes.len ? len : bytes.len;
    int rv = shorter ? memcmp(text, bytes.ptr, shorter) : 0;
    return rv ? rv : (len > bytes.len) - (len < bytes.len);
}

/* --- values ---------------------------------------------------------------------------------- */

static bool equals(const struct config_node *node, struct msgpack_reader *reader);

static bool equals_int(const struct config_node *node, const struct msgpack_value *value)
{
    if (node->negative)
        return value->type == MSGPACK_INT && (uint64_t)value->i == 0 - node->magnitude;
    return value->type == MSGPACK_UINT && value->u == node->magnitude;
}

static bool equals_list(const struct config_node *node, struct msgpack_reader *reader)
{
    for (size_t i = 0; i < node->count; i++)
        if (!equals(node->children[i].node, reader))
            return false;
    return true;
}

static size_t child_index(const struct config_node *node, struct bytes key)
{
    size_t i = 0;
    while (i < node->count && !bytes_equal_str(key, node->children[i].key))
        i++;
    return i;
}

/* As many pairs as children; each key is one of them, and none is there twice. */
static bool equals_map(const struct config_node *node, struct msgpack_reader *reader)
{
    bool *seen = mem_calloc(node->count, sizeof *seen);
    bool equal = true;
    const char *why;
    for (size_t pair = 0; equal && pair < node->count; pair++) {
        struct msgpack_value key;
        equal = msgpack_read(reader, &key, &why) == 0 && key.type == MSGPACK_STR;
        size_t i = equal ? child_index(node, key.data) : node->count;
        equal = i < node->count && !seen[i] && equals(node->children[i].node, reader);
        if (equal)
            seen[i] = true;
    }
    mem_free(seen);
    return equal;
}

/* Reads one value; where it is equal, the reader stands behind it. As deep as the file is. */
static bool equals(const struct config_node *node, struct msgpack_reader *reader)
{
    struct msgpack_value value;
    const char *why;
    if (msgpack_read(reader, &value, &why))
        return false;
    switch (node->kind) {
    case CONFIG_NULL:
        return value.type == MSGPACK_NIL;
    case CONFIG_BOOL:
        return value.type == MSGPACK_BOOL && value.b == node->boolean;
    case CONFIG_INT:
        return equals_int(node, &value);
    case CONFIG_FLOAT:
        return value.type == MSGPACK_FLOAT && value.d == node->real;
    case CONFIG_STR:
        return value.type == MSGPACK_STR && bytes_equal_str(value.data, node->text);
    case CONFIG_SEQ:
        return value.type == MSGPACK_ARRAY && value.count == node->count &&
               equals_list(node, reader);
    case CONFIG_OBJ:
        return value.type == MSGPACK_MAP && value.count == node->count && equals_map(node, reader);
    }
    return false;
}

/* --- parameters ------------------------------------------------------------------------------ */

/* The rules of one task name that have selectors. */
struct candidates {
    const struct runtime_rule *rules;
    size_t count;
};

static struct msgpack_reader reader_of(struct bytes packed)
{
    return (struct msgpack_reader){.pos = packed.ptr,
                                   .end = packed.len ? packed.ptr + packed.len : packed.ptr};
}

static bool is_open(const struct msgpack_value *value)
{
    return value->type != MSGPACK_BIN && value->type != MSGPACK_EXT;
}

/* Heads follow each other, whatever contains what: one loop sees every value. */
static bool without_binary(struct bytes packed)
{
    struct msgpack_reader reader = reader_of(packed);
    struct msgpack_value value;
    const char *why;
    while (reader.pos != reader.end)
        if (msgpack_read(&reader, &value, &why) || !is_open(&value))
            return false;
    return true;
}

static bool arg_selected(const struct candidates *candidates, uint64_t index,
                         struct msgpack_reader at)
{
    for (size_t i = 0; i < candidates->count; i++) {
        const struct runtime_rule *rule = &candidates->rules[i];
        for (size_t j = 0; j < rule->arg_count; j++) {
            struct msgpack_reader reader = at;
            if (rule->args[j].index == index && equals(rule->args[j].value, &reader))
                return true;
        }
    }
    return false;
}

static bool args_selected(const struct candidates *candidates, struct bytes args)
{
    struct msgpack_reader reader = reader_of(args);
    struct msgpack_value list;
    const char *why;
    if (!args.len || msgpack_read(&reader, &list, &why))
        return false;
    for (uint32_t i = 0; i < list.count; i++) {
        if (arg_selected(candidates, i, reader))
            return true;
        if (msgpack_skip(&reader, &why))
            return false;
    }
    return false;
}

/* Where the value of this key stands; of a key that is there twice, the last. */
static bool find_kwarg(struct bytes kwargs, const char *name, struct msgpack_reader *found)
{
    struct msgpack_reader reader = reader_of(kwargs);
    struct msgpack_value map, key;
    const char *why;
    bool any = false;
    if (!kwargs.len || msgpack_read(&reader, &map, &why))
        return false;
    for (uint32_t i = 0; i < map.count; i++) {
        if (msgpack_read(&reader, &key, &why))
            return false;
        if (bytes_equal_str(key.data, name)) {
            *found = reader;
            any = true;
        }
        if (msgpack_skip(&reader, &why))
            return false;
    }
    return any;
}

static bool kwargs_selected(const struct candidates *candidates, struct bytes kwargs, size_t *cost)
{
    for (size_t i = 0; i < candidates->count; i++) {
        const struct config_node *selectors = candidates->rules[i].kwargs;
        for (size_t j = 0; selectors && j < selectors->count; j++) {
            struct msgpack_reader at;
            *cost += kwargs.len;
            if (find_kwarg(kwargs, selectors->children[j].key, &at) &&
                equals(selectors->children[j].node, &at))
                return true;
        }
    }
    return false;
}

static bool packed_selected(const struct candidates *candidates, struct bytes packed, size_t *cost)
{
    struct bytes args, kwargs;
    const char *why;
    *cost += packed.len;
    if (params_open(packed, &args, &kwargs, &why) || !without_binary(args) ||
        !without_binary(kwargs))
        return false;
    return args_selected(candidates, args) || kwargs_selected(candidates, kwargs, cost);
}

static bool selected(const struct candidates *candidates, const struct activation *parsed,
                     struct bytes payload, size_t *cost)
{
    struct bytes encoding;
    if (!activation_header(payload, "compression-type", &encoding) ||
        !bytes_equal_str(encoding, "zstd"))
        return packed_selected(candidates, parsed->parameters_bytes, cost);
    struct buf packed = {0};
    const char *why;
    bool result =
        params_decompress(parsed->parameters_bytes, PARAMS_UNCOMPRESSED_MAX, &packed, &why) == 0 &&
        packed_selected(candidates, buf_bytes(&packed), cost);
    buf_free(&packed);
    return result;
}

/* --- verdicts -------------------------------------------------------------------------------- */

/* The first rule whose name is not below this one. */
static size_t lower_bound(const struct runtime *runtime, struct bytes taskname)
{
    size_t low = 0, high = runtime->rule_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (order(runtime->rules[middle].name, taskname) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct candidates find_rules(const struct runtime *runtime, struct bytes taskname)
{
    struct candidates found = {0};
    if (!runtime)
        return found;
    size_t first = lower_bound(runtime, taskname);
    found.rules = runtime->rules + first;
    while (first + found.count < runtime->rule_count &&
           bytes_equal_str(taskname, found.rules[found.count].name))
        found.count++;
    return found;
}

enum runtime_match runtime_match_taskname(const struct runtime *runtime, struct bytes taskname)
{
    struct candidates found = find_rules(runtime, taskname);
    if (found.count == 0)
        return RUNTIME_KEEP;
    return found.rules[0].whole ? RUNTIME_WHOLE_TASK : RUNTIME_SELECTOR;
}

enum runtime_match runtime_match(const struct runtime *runtime, const struct activation *parsed,
                                 struct bytes payload, size_t *cost)
{
    struct candidates found = find_rules(runtime, parsed->taskname);
    if (found.count == 0)
        return RUNTIME_KEEP;
    if (found.rules[0].whole)
        return RUNTIME_WHOLE_TASK;
    return selected(&found, parsed, payload, cost) ? RUNTIME_SELECTOR : RUNTIME_KEEP;
}

bool runtime_demotes(const struct runtime *runtime, struct bytes namespace)
{
    size_t low = 0, high = runtime ? runtime->namespace_count : 0;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int rv = order(runtime->namespaces[middle], namespace);
        if (rv == 0)
            return true;
        if (rv < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}
