/* SPDX-License-Identifier: Apache-2.0 */
/* From untyped nodes to typed members, strictly: a number is never read from text nor text from a
 * number, as in the original, so that a slip is an error and not a surprise. */
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "broker/config_keys.h"

/* What a node says, before it is stored; which members count depends on the type. */
struct scalar {
    bool none;
    bool boolean;
    uint64_t u;
    int64_t i;
    double real;
};

struct task {
    const struct config_key *key;
    enum config_type type;
    uint64_t max;
    const struct config_node *node;
    const char *label;
    struct err_text *why;
};

void config_where_text(struct config_where where, struct buf *out)
{
    if (where.source == CONFIG_FROM_FILE)
        buf_printf(out, "%s:%u: ", where.name, where.line);
    else if (where.source == CONFIG_FROM_ENV)
        buf_printf(out, "environment %s: ", where.name);
}

/* What is there, for messages: secrets and long texts are not repeated. */
static void describe(const struct task *t, struct buf *out)
{
    const struct config_node *node = t->node;

    buf_append_str(out, config_kind_name(node->kind));
    if (!node->text || (t->key->flags & CONFIG_F_SECRET))
        return;
    size_t len = strlen(node->text);
    bool quote = node->kind == CONFIG_STR;
    buf_printf(out, " %s%.*s%s%s", quote ? "\"" : "", (int)(len > 60 ? 60 : len), node->text,
               len > 60 ? "..." : "", quote ? "\"" : "");
}

static int refuse(const struct task *t, int code, const char *wanted)
{
    struct buf text = {0};

    config_where_text(t->node->where, &text);
    buf_printf(&text, "%s must be %s, not ", t->label, wanted);
    describe(t, &text);
    err_set(t->why, code, "%s", buf_cstr(&text));
    buf_free(&text);
    return code;
}

static int refuse_range(const struct task *t, int64_t min, uint64_t max)
{
    char wanted[80];

    snprintf(wanted, sizeof(wanted), "a whole number from %lld to %llu", (long long)min,
             (unsigned long long)max);
    return refuse(t, ERR_INVALID, wanted);
}

static int64_t signed_of(const struct config_node *node)
{
    return node->negative ? (int64_t)(0 - node->magnitude) : (int64_t)node->magnitude;
}

static uint64_t type_max(enum config_type type)
{
    switch (type) {
    case CONFIG_T_U32:
        return UINT32_MAX;
    case CONFIG_T_I32:
        return INT32_MAX;
    case CONFIG_T_I64:
        return INT64_MAX;
    default:
        return UINT64_MAX;
    }
}

static int read_number(const struct task *t, struct scalar *out)
{
    const struct config_node *node = t->node;
    uint64_t max = t->max ? t->max : type_max(t->type);
    int64_t min = t->key->min;

    if (node->kind != CONFIG_INT)
        return refuse_range(t, min, max);
    bool below =
        node->negative ? signed_of(node) < min : min > 0 && node->magnitude < (uint64_t)min;
    if (below || (!node->negative && node->magnitude > max))
        return refuse_range(t, min, max);
    out->u = node->magnitude;
    out->i = signed_of(node);
    return 0;
}

/* Digits followed at once by ms or s. */
static bool parse_duration(const char *text, uint64_t *ms)
{
    uint64_t sum = 0;
    const char *p = text;

    for (; *p >= '0' && *p <= '9'; p++)
        if (__builtin_mul_overflow(sum, UINT64_C(10), &sum) ||
            __builtin_add_overflow(sum, (uint64_t)(*p - '0'), &sum))
            return false;
    if (p == text)
        return false;
    if (strcmp(p, "s") == 0)
        return !__builtin_mul_overflow(sum, UINT64_C(1000), ms);
    *ms = sum;
    return strcmp(p, "ms") == 0;
}

static int read_duration(const struct task *t, struct scalar *out)
{
    if (t->node->kind != CONFIG_STR || !parse_duration(t->node->text, &out->u))
        return refuse(t, ERR_INVALID, "a duration such as 500ms or 5s");
    if (out->u < (uint64_t)t->key->min)
        return refuse(t, ERR_INVALID, "longer than 0ms");
    return 0;
}

static int read_choice(const struct task *t, struct scalar *out)
{
    size_t len = t->node->kind == CONFIG_STR ? strlen(t->node->text) : 0;
    struct buf wanted = {0};
    unsigned index = 0;

    for (const char *p = t->key->choices; *p; index++) {
        size_t n = strcspn(p, "|");
        if (len && n == len && memcmp(p, t->node->text, n) == 0) {
            buf_free(&wanted);
            out->u = index;
            return 0;
        }
        buf_printf(&wanted, "%s%.*s", index ? " or " : "", (int)n, p);
        p += n + (p[n] == '|');
    }
    int rv = refuse(t, ERR_INVALID, buf_cstr(&wanted));
    buf_free(&wanted);
    return rv;
}

static int read_real(const struct task *t, struct scalar *out)
{
    const struct config_node *node = t->node;

    if (node->kind != CONFIG_FLOAT && node->kind != CONFIG_INT)
        return refuse(t, ERR_INVALID, "a number");
    out->real = node->kind == CONFIG_FLOAT ? node->real
                : node->negative           ? -(double)node->magnitude
                                           : (double)node->magnitude;
    return 0;
}

/* Members that are several values: built aside, then put in place of the old ones. */
static int set_list(struct config_list *list, const struct task *t)
{
    static const char wanted[] = "a list of texts such as [\"a\", \"b\"]";

    if (t->node->kind != CONFIG_SEQ)
        return refuse(t, ERR_INVALID, wanted);
    for (size_t i = 0; i < t->node->count; i++) {
        struct task item = *t;
        item.node = t->node->children[i].node;
        if (item.node->kind != CONFIG_STR)
            return refuse(&item, ERR_INVALID, wanted);
    }
    list->count = t->node->count;
    list->items = mem_calloc(list->count, sizeof(char *));
    for (size_t i = 0; i < list->count; i++)
        list->items[i] = mem_strdup(t->node->children[i].node->text);
    return 0;
}

static int by_key(const void *a, const void *b)
{
    const struct config_pair *x = a, *y = b;
    return strcmp(x->key, y->key);
}

static int set_map(struct config_map *map, const struct task *t)
{
    if (t->node->kind != CONFIG_OBJ)
        return refuse(t, ERR_INVALID, "a map from text to text");
    for (size_t i = 0; i < t->node->count; i++) {
        struct task item = *t;
        struct buf label = {0};
        item.node = t->node->children[i].node;
        if (item.node->kind == CONFIG_STR)
            continue;
        buf_printf(&label, "%s.%s", t->label, t->node->children[i].key);
        item.label = buf_cstr(&label);
        int rv = refuse(&item, ERR_INVALID, "text");
        buf_free(&label);
        return rv;
    }
    map->count = t->node->count;
    map->pairs = mem_calloc(map->count, sizeof(map->pairs[0]));
    for (size_t i = 0; i < map->count; i++) {
        map->pairs[i].key = mem_strdup(t->node->children[i].key);
        map->pairs[i].value = mem_strdup(t->node->children[i].node->text);
    }
    qsort(map->pairs, map->count, sizeof(map->pairs[0]), by_key);
    return 0;
}

static int set_text(char **member, const struct task *t)
{
    if (t->node->kind != CONFIG_STR)
        return refuse(t, ERR_INVALID,
                      t->node->where.source == CONFIG_FROM_ENV ? "text (in quotes: '\"123\"')"
                                                               : "text (in quotes)");
    if ((t->key->flags & CONFIG_F_NOT_EMPTY) && !*t->node->text)
        return refuse(t, ERR_INVALID, "a text that is not empty");
    *member = mem_strdup(t->node->text);
    return 0;
}

static int read_scalar(const struct task *t, struct scalar *out)
{
    switch (t->type) {
    case CONFIG_T_BOOL:
        out->boolean = t->node->boolean;
        return t->node->kind == CONFIG_BOOL ? 0 : refuse(t, ERR_INVALID, "true or false");
    case CONFIG_T_DUR:
        return read_duration(t, out);
    case CONFIG_T_ENUM:
        return read_choice(t, out);
    case CONFIG_T_F64:
        return read_real(t, out);
    default:
        return read_number(t, out);
    }
}

/* An absent value stays CONFIG_NONE, the same number written by somebody does not. */
static uint64_t cut(const struct scalar *v, uint64_t max)
{
    return v->none || v->u <= max ? v->u : max;
}

/* `type` is the row's: it names the member. */
static void store_scalar(void *member, enum config_type type, const struct scalar *v)
{
    switch (type) {
    case CONFIG_T_BOOL:
        *(bool *)member = v->boolean;
        break;
    case CONFIG_T_U32:
        *(uint32_t *)member = (uint32_t)v->u;
        break;
    case CONFIG_T_I32:
        *(int32_t *)member = (int32_t)v->i;
        break;
    case CONFIG_T_I64:
        *(int64_t *)member = v->i;
        break;
    case CONFIG_T_F64:
        *(double *)member = v->real;
        break;
    case CONFIG_T_ENUM:
        /* All enums of struct config are of the size of an unsigned int, whatever their name. */
        memcpy(member, &(unsigned){(unsigned)v->u}, sizeof(unsigned));
        break;
    case CONFIG_T_SEC:
        *(uint64_t *)member = cut(v, CONFIG_TIME_MAX_MS / 1000);
        break;
    case CONFIG_T_MS:
    case CONFIG_T_DUR:
        *(uint64_t *)member = cut(v, CONFIG_TIME_MAX_MS);
        break;
    default:
        *(uint64_t *)member = v->u;
    }
}

_Static_assert(sizeof(enum config_adapter) == sizeof(unsigned) &&
                   sizeof(enum config_delivery) == sizeof(unsigned) &&
                   sizeof(enum config_synchronous) == sizeof(unsigned) &&
                   sizeof(enum log_format) == sizeof(unsigned),
               "CONFIG_T_ENUM members are unsigned ints");

void config_value_free(void *base, const struct config_key *key)
{
    void *member = (char *)base + key->offset;

    if (key->type == CONFIG_T_STR) {
        mem_free(*(char **)member);
        *(char **)member = NULL;
    } else if (key->type == CONFIG_T_LIST) {
        struct config_list *list = member;
        for (size_t i = 0; i < list->count; i++)
            mem_free(list->items[i]);
        mem_free(list->items);
        *list = (struct config_list){0};
    } else if (key->type == CONFIG_T_MAP) {
        struct config_map *map = member;
        for (size_t i = 0; i < map->count; i++) {
            mem_free(map->pairs[i].key);
            mem_free(map->pairs[i].value);
        }
        mem_free(map->pairs);
        *map = (struct config_map){0};
    }
}

static void store_nothing(void *base, const struct config_key *key)
{
    struct scalar none = {.none = true, .u = key->type == CONFIG_T_U32 ? 0 : CONFIG_NONE};

    config_value_free(base, key);
    if (key->type != CONFIG_T_STR && key->type != CONFIG_T_LIST && key->type != CONFIG_T_MAP)
        store_scalar((char *)base + key->offset, key->type, &none);
}

int config_value_set(void *base, const struct config_key *key, enum config_type type, uint64_t max,
                     const struct config_node *node, const char *label, struct err_text *why)
{
    struct task t = {key, type, max, node, label, why};
    void *member = (char *)base + key->offset;
    struct scalar v = {0};
    int rv;

    if (node->kind == CONFIG_NULL) {
        if (!(key->flags & CONFIG_F_OPTIONAL))
            return refuse(&t, ERR_INVALID, "set (leave the line out for the default)");
        if (key->flags & CONFIG_F_NULL_IS_DEF)
            config_value_default(base, key);
        else
            store_nothing(base, key);
        return 0;
    }
    if (type == CONFIG_T_STR || type == CONFIG_T_LIST || type == CONFIG_T_MAP) {
        struct config_list fresh_list = {0};
        struct config_map fresh_map = {0};
        char *fresh_text = NULL;
        rv = type == CONFIG_T_STR    ? set_text(&fresh_text, &t)
             : type == CONFIG_T_LIST ? set_list(&fresh_list, &t)
                                     : set_map(&fresh_map, &t);
        if (rv)
            return rv;
        config_value_free(base, key);
        if (type == CONFIG_T_STR)
            *(char **)member = fresh_text;
        else if (type == CONFIG_T_LIST)
            *(struct config_list *)member = fresh_list;
        else
            *(struct config_map *)member = fresh_map;
        return 0;
    }
    rv = read_scalar(&t, &v);
    if (rv == 0)
        store_scalar(member, key->type, &v);
    return rv;
}

void config_value_default(void *base, const struct config_key *key)
{
    if (!key->def) {
        store_nothing(base, key);
        return;
    }
    struct config_node *node =
        config_env_value(bytes_str(key->def), (struct config_where){CONFIG_FROM_DEFAULT, NULL, 0});
    /* A default that its own row refuses is a slip in the table; the unit tests load every one. */
    struct err_text why;
    int rv = config_value_set(base, key, key->type, key->max, node, key->path, &why);
    if (rv) {
        fprintf(stderr, "configuration table: %s\n", why.s);
        abort();
    }
    config_node_free(node);
}
