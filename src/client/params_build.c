/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Positional and named values are packed into two buffers as they come; what is not known yet is
 * how many there are. So every open container has a buffer of its own, and closing it writes its
 * head and content into the one below. args and kwargs are the two containers that are always open.
 */
#include "client/params_build.h"

#include <stdarg.h>
#include <string.h>

#include "base/mem.h"
#include "client/error.h"
#include "client/names.h"
#include "wire/params.h"
#include "wire/pb.h"

struct container {
    bool is_map;
    bool named; /* where it goes when it is closed: a value of kwargs, or of args */
    uint32_t count;
    struct buf content;
    struct names names; /* of a map */
};

struct taskmill_params {
    struct container args, kwargs;
    struct container *open; /* a stack */
    size_t open_count, open_cap;
    bool from_json;
    struct buf packed;    /* from JSON: the whole, and the rest is unused */
    int code;             /* the first mistake */
    struct err_text *why; /* of that; it is large, and seldom needed */
};

struct taskmill_params *taskmill_params_new(void)
{
    struct taskmill_params *p = mem_zalloc(sizeof *p);

    p->kwargs.is_map = true;
    return p;
}

static void free_container(struct container *container)
{
    buf_free(&container->content);
    names_free(&container->names);
}

void taskmill_params_free(struct taskmill_params *p)
{
    if (p == NULL)
        return;
    for (size_t i = 0; i < p->open_count; i++)
        free_container(&p->open[i]);
    mem_free(p->open);
    free_container(&p->args);
    free_container(&p->kwargs);
    buf_free(&p->packed);
    mem_free(p->why);
    mem_free(p);
}

__attribute__((format(printf, 3, 4))) static void mistake(struct taskmill_params *p, int code,
                                                          const char *fmt, ...)
{
    va_list ap;

    if (p->code != 0)
        return;
    p->code = code;
    p->why = mem_alloc(sizeof *p->why);
    va_start(ap, fmt);
    err_setv(p->why, code, fmt, ap);
    va_end(ap);
}

struct taskmill_params *taskmill_params_from_json(const char *json)
{
    struct taskmill_params *p = taskmill_params_new();
    const char *why = "";
    int rv;

    p->from_json = true;
    if (json == NULL) {
        mistake(p, ERR_INVALID, "the JSON text is NULL");
        return p;
    }
    rv = params_from_json(bytes_str(json), &p->packed, &why);
    if (rv != 0)
        mistake(p, rv, "%s", why);
    return p;
}

static struct container *target(struct taskmill_params *p, const char *key)
{
    if (p->open_count > 0)
        return &p->open[p->open_count - 1];
    return key != NULL ? &p->kwargs : &p->args;
}

/* Where the next value goes, its key written; NULL after a mistake. */
static struct container *place(struct taskmill_params *p, const char *key)
{
    struct container *to = target(p, key);

    if (p->code == 0 && p->from_json)
        mistake(p, ERR_STATE, "parameters from JSON take no more values");
    if (p->code == 0 && to->is_map != (key != NULL))
        mistake(p, ERR_INVALID, "%s%s: %s", key ? "value " : "a value without a name",
                key ? key : "",
                key ? "the open container is an array and takes no names"
                    : "the open container is a map and needs one");
    if (p->code == 0 && to->count == UINT32_MAX)
        mistake(p, ERR_TOO_LARGE, "too many values");
    if (p->code == 0 && key != NULL && !pb_utf8_valid(bytes_str(key)))
        mistake(p, ERR_INVALID, "the name of a value is not UTF-8");
    if (p->code == 0 && key != NULL &&
        names_has(&to->names, buf_bytes(&to->content), bytes_str(key)))
        mistake(p, ERR_EXISTS, "value %s is given twice", key);
    if (p->code != 0)
        return NULL;
    to->count++;
    if (key != NULL) {
        msgpack_put_str(&to->content, bytes_str(key));
        names_add(&to->names, buf_bytes(&to->content), to->content.len - strlen(key), strlen(key));
    }
    return to;
}

static void put_null(struct taskmill_params *p, const char *key)
{
    struct container *to = place(p, key);

    if (to != NULL)
        msgpack_put_nil(&to->content);
}

static void put_bool(struct taskmill_params *p, const char *key, bool value)
{
    struct container *to = place(p, key);

    if (to != NULL)
        msgpack_put_bool(&to->content, value);
}

static void put_int(struct taskmill_params *p, const char *key, int64_t value)
{
    struct container *to = place(p, key);

    if (to != NULL)
        msgpack_put_int(&to->content, value);
}

static void put_uint(struct taskmill_params *p, const char *key, uint64_t value)
{
    struct container *to = place(p, key);

    if (to != NULL)
        msgpack_put_uint(&to->content, value);
}

static void put_double(struct taskmill_params *p, const char *key, double value)
{
    struct container *to = place(p, key);

    if (to != NULL)
        msgpack_put_double(&to->content, value);
}

static void put_str(struct taskmill_params *p, const char *key, const char *value)
{
    struct container *to;

    if (value == NULL || !pb_utf8_valid(bytes_str(value))) {
        mistake(p, ERR_INVALID, "value %s: a string must be UTF-8 (use _bytes for other bytes)",
                key ? key : "");
        return;
    }
    to = place(p, key);
    if (to != NULL)
        msgpack_put_str(&to->content, bytes_str(value));
}

static void put_bytes(struct taskmill_params *p, const char *key, const void *value, size_t len)
{
    struct container *to;

    if (len > UINT32_MAX)
        mistake(p, ERR_TOO_LARGE, "value %s: longer than 4 GiB", key ? key : "");
    to = place(p, key);
    if (to != NULL)
        msgpack_put_bin(&to->content, bytes_of(value, len));
}

/* The containers around the next value: the outer map and args or kwargs are two. */
static int depth(const struct taskmill_params *p)
{
    return 2 + (int)p->open_count;
}

static void too_deep(struct taskmill_params *p)
{
    mistake(p, ERR_TOO_LARGE, "they nest deeper than %d, the outer two included", PARAMS_DEPTH_MAX);
}

static void open_container(struct taskmill_params *p, const char *key, bool is_map)
{
    if (depth(p) == PARAMS_DEPTH_MAX)
        too_deep(p);
    if (place(p, key) == NULL)
        return;
    if (p->open_count == p->open_cap) {
        p->open_cap = p->open_cap ? p->open_cap * 2 : 8;
        p->open = mem_realloc(p->open, p->open_cap * sizeof *p->open);
    }
    p->open[p->open_count++] = (struct container){.is_map = is_map, .named = key != NULL};
}

void taskmill_params_end(struct taskmill_params *p)
{
    struct container closed, *to;

    if (p->open_count == 0)
        mistake(p, ERR_STATE, "taskmill_params_end without an open array or map");
    if (p->code != 0)
        return;
    closed = p->open[--p->open_count];
    if (p->open_count > 0)
        to = &p->open[p->open_count - 1];
    else
        to = closed.named ? &p->kwargs : &p->args;
    if (closed.is_map)
        msgpack_put_map(&to->content, closed.count);
    else
        msgpack_put_array(&to->content, closed.count);
    buf_append(&to->content, closed.content.ptr, closed.content.len);
    free_container(&closed);
}

int params_pack(const struct taskmill_params *p, struct buf *out)
{
    static const struct taskmill_params none = {.kwargs = {.is_map = true}};

    if (p == NULL)
        p = &none;
    if (p->code != 0)
        return error_set(p->code, "parameters: %s", p->why->s);
    if (p->open_count != 0)
        return error_set(ERR_STATE, "parameters: taskmill_params_end is missing (%zu open)",
                         p->open_count);
    if (p->from_json) {
        buf_append(out, p->packed.ptr, p->packed.len);
        return 0;
    }
    msgpack_put_map(out, 2);
    msgpack_put_str(out, bytes_str("args"));
    msgpack_put_array(out, p->args.count);
    buf_append(out, p->args.content.ptr, p->args.content.len);
    msgpack_put_str(out, bytes_str("kwargs"));
    msgpack_put_map(out, p->kwargs.count);
    buf_append(out, p->kwargs.content.ptr, p->kwargs.content.len);
    return 0;
}

static void put_value(struct taskmill_params *p, const char *key,
                      const struct taskmill_value *value)
{
    struct msgpack_reader reader = {value->ptr, value->ptr + value->len};
    struct container *to;
    const char *why;

    /* A value out of a call is whole: only its depth can be wrong. */
    if (msgpack_skip_inside(&reader, depth(p), &why) != 0)
        too_deep(p);
    to = place(p, key);
    if (to != NULL)
        buf_append(&to->content, value->ptr, value->len);
}

void taskmill_params_value(struct taskmill_params *p, const struct taskmill_value *value)
{
    put_value(p, NULL, value);
}

void taskmill_params_kw_value(struct taskmill_params *p, const char *key,
                              const struct taskmill_value *value)
{
    put_value(p, key, value);
}

int taskmill_params_check(const struct taskmill_params *p)
{
    return p->code != 0 ? error_set(p->code, "parameters: %s", p->why->s) : 0;
}

void taskmill_params_null(struct taskmill_params *p)
{
    put_null(p, NULL);
}

void taskmill_params_bool(struct taskmill_params *p, bool value)
{
    put_bool(p, NULL, value);
}

void taskmill_params_int(struct taskmill_params *p, int64_t value)
{
    put_int(p, NULL, value);
}

void taskmill_params_uint(struct taskmill_params *p, uint64_t value)
{
    put_uint(p, NULL, value);
}

void taskmill_params_double(struct taskmill_params *p, double value)
{
    put_double(p, NULL, value);
}

void taskmill_params_str(struct taskmill_params *p, const char *value)
{
    put_str(p, NULL, value);
}

void taskmill_params_bytes(struct taskmill_params *p, const void *value, size_t len)
{
    put_bytes(p, NULL, value, len);
}

void taskmill_params_array(struct taskmill_params *p)
{
    open_container(p, NULL, false);
}

void taskmill_params_map(struct taskmill_params *p)
{
    open_container(p, NULL, true);
}

void taskmill_params_kw_null(struct taskmill_params *p, const char *key)
{
    put_null(p, key);
}

void taskmill_params_kw_bool(struct taskmill_params *p, const char *key, bool value)
{
    put_bool(p, key, value);
}

void taskmill_params_kw_int(struct taskmill_params *p, const char *key, int64_t value)
{
    put_int(p, key, value);
}

void taskmill_params_kw_uint(struct taskmill_params *p, const char *key, uint64_t value)
{
    put_uint(p, key, value);
}

void taskmill_params_kw_double(struct taskmill_params *p, const char *key, double value)
{
    put_double(p, key, value);
}

void taskmill_params_kw_str(struct taskmill_params *p, const char *key, const char *value)
{
    put_str(p, key, value);
}

void taskmill_params_kw_bytes(struct taskmill_params *p, const char *key, const void *value,
                              size_t len)
{
    put_bytes(p, key, value, len);
}

void taskmill_params_kw_array(struct taskmill_params *p, const char *key)
{
    open_container(p, key, false);
}

void taskmill_params_kw_map(struct taskmill_params *p, const char *key)
{
    open_container(p, key, true);
}
