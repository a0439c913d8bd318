/* SPDX-License-Identifier: Apache-2.0 */
#include "client/call.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "client/retry.h"
#include "wire/params.h"

/* --- opening --------------------------------------------------------------------------------- */

static char *keep_string(struct taskmill_call *call, struct bytes text)
{
    struct call_string *kept = mem_alloc(sizeof *kept + text.len + 1);

    if (text.len != 0)
        memcpy(kept->s, text.ptr, text.len);
    kept->s[text.len] = '\0';
    kept->next = call->strings;
    call->strings = kept;
    return kept->s;
}

static int unpack_json(struct taskmill_call *call, bool zstd, const char **fault)
{
    struct bytes json = call->activation.parameters;
    struct buf text = {0};
    int rv = 0;

    if (zstd) {
        rv = params_decompress_text(json, PARAMS_UNCOMPRESSED_MAX, &text, fault);
        json = buf_bytes(&text);
    }
    if (rv == 0)
        rv = params_from_json(json, &call->unpacked, fault);
    buf_free(&text);
    return rv;
}

/* Sets call->packed. */
static int unpack(struct taskmill_call *call, struct err_text *why)
{
    const struct activation *a = &call->activation;
    struct bytes compression;
    const char *fault = "";
    bool zstd = activation_header(call->payload, "compression-type", &compression) &&
                bytes_equal_str(compression, "zstd");
    bool json = a->parameters_bytes.len == 0 && a->parameters.len != 0;
    int rv = 0;

    if (json)
        rv = unpack_json(call, zstd, &fault);
    else if (zstd)
        rv = params_decompress(a->parameters_bytes, PARAMS_UNCOMPRESSED_MAX, &call->unpacked,
                               &fault);
    call->packed = json || zstd ? buf_bytes(&call->unpacked) : a->parameters_bytes;
    return rv == 0 ? 0 : err_set(why, rv, "parameters: %s", fault);
}

static int count_args(struct taskmill_call *call)
{
    struct msgpack_reader reader;
    struct msgpack_value head;
    const char *fault;
    int rv;

    call->arg_count = 0;
    if (call->args.len == 0)
        return 0;
    reader = (struct msgpack_reader){call->args.ptr, call->args.ptr + call->args.len};
    rv = msgpack_read(&reader, &head, &fault);
    if (rv == 0)
        call->arg_count = head.count;
    return rv;
}

int call_open(struct taskmill_call *call, struct taskmill_app *app, const struct task_def *task,
              struct bytes payload, struct err_text *why)
{
    const char *fault = "";
    int rv;

    memset(call, 0, sizeof *call);
    call->payload = payload;
    call->app = app;
    call->task = task;
    rv = activation_parse(payload, &call->activation, &fault);
    if (rv != 0)
        return err_set(why, rv, "activation: %s", fault);
    rv = unpack(call, why);
    if (rv != 0)
        goto fail;
    rv = params_open(call->packed, &call->args, &call->kwargs, &fault);
    if (rv == 0)
        rv = count_args(call);
    if (rv != 0) {
        err_set(why, rv, "parameters: %s", fault);
        goto fail;
    }
    call->id = keep_string(call, call->activation.id);
    call->application = keep_string(call, call->activation.application);
    call->namespace = keep_string(call, call->activation.namespace);
    call->name = keep_string(call, call->activation.taskname);
    return 0;
fail:
    buf_free(&call->unpacked);
    return rv;
}

void call_close(struct taskmill_call *call)
{
    struct call_string *kept;

    while ((kept = call->strings) != NULL) {
        call->strings = kept->next;
        mem_free(kept);
    }
    buf_free(&call->unpacked);
}

/* --- what a handler returns and asks --------------------------------------------------------- */

enum taskmill_status taskmill_fail(struct taskmill_call *call, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    err_setv(&call->error, 0, fmt, ap);
    va_end(ap);
    return TASKMILL_FAILURE;
}

enum taskmill_status taskmill_retry(struct taskmill_call *call, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    err_setv(&call->error, 0, fmt, ap);
    va_end(ap);
    return TASKMILL_RETRY;
}

const char *taskmill_call_id(const struct taskmill_call *call)
{
    return call->id;
}

const char *taskmill_call_application(const struct taskmill_call *call)
{
    return call->application;
}

const char *taskmill_call_namespace(const struct taskmill_call *call)
{
    return call->namespace;
}

const char *taskmill_call_task(const struct taskmill_call *call)
{
    return call->name;
}

uint32_t taskmill_call_attempt(const struct taskmill_call *call)
{
    return call->activation.retry_state.attempts;
}

bool taskmill_call_retries_left(const struct taskmill_call *call)
{
    return retry_attempts_left(&call->task->options.retry, taskmill_call_attempt(call));
}

int64_t taskmill_call_sent_us(const struct taskmill_call *call)
{
    const struct activation *a = &call->activation;
    int64_t us;

    if (!a->has_received_at || __builtin_mul_overflow(a->received_at_s, INT64_C(1000000), &us) ||
        __builtin_add_overflow(us, a->received_at_ns / 1000, &us))
        return 0;
    return us;
}

const char *taskmill_call_header(struct taskmill_call *call, const char *key)
{
    struct bytes value;

    if (!activation_header(call->payload, key, &value))
        return NULL;
    return keep_string(call, value);
}

struct header_search {
    size_t left;
    bool found;
    struct bytes key, value;
};

static void pick_header(void *ctx, struct bytes key, struct bytes value)
{
    struct header_search *search = (struct header_search *)ctx;

    if (!search->found && search->left-- == 0)
        *search = (struct header_search){.found = true, .key = key, .value = value};
}

bool taskmill_call_header_at(struct taskmill_call *call, size_t index, struct taskmill_header *out)
{
    struct header_search search = {.left = index};

    activation_each_header(call->payload, pick_header, &search);
    if (search.found)
        *out = (struct taskmill_header){keep_string(call, search.key),
                                        keep_string(call, search.value)};
    return search.found;
}

uint64_t taskmill_call_deadline_s(const struct taskmill_call *call)
{
    return call->activation.processing_deadline_duration;
}

void *taskmill_call_data(const struct taskmill_call *call)
{
    return call->task->options.data;
}

struct taskmill_app *taskmill_call_app(const struct taskmill_call *call)
{
    return call->app;
}

size_t taskmill_arg_count(const struct taskmill_call *call)
{
    return call->arg_count;
}

/* --- values ---------------------------------------------------------------------------------- */

/* params_open has checked every byte, so reading cannot fail from here on; an error is passed on
 * all the same. */
static int read_head(const struct taskmill_value *value, struct msgpack_value *head,
                     struct msgpack_reader *rest)
{
    const char *fault;

    *rest = (struct msgpack_reader){value->ptr, value->ptr + value->len};
    return msgpack_read(rest, head, &fault);
}

/* The value at the reader's position. */
static int take_value(struct taskmill_call *call, struct msgpack_reader *reader,
                      struct taskmill_value *out)
{
    const uint8_t *start = reader->pos;
    const char *fault;
    int rv = msgpack_skip(reader, &fault);

    if (rv == 0)
        *out = (struct taskmill_value){call, start, (size_t)(reader->pos - start)};
    return rv;
}

static const char *type_name(enum msgpack_type type)
{
    static const char *const names[] = {
        [MSGPACK_NIL] = "null",        [MSGPACK_BOOL] = "a bool",    [MSGPACK_INT] = "an integer",
        [MSGPACK_UINT] = "an integer", [MSGPACK_FLOAT] = "a double", [MSGPACK_STR] = "a string",
        [MSGPACK_BIN] = "bytes",       [MSGPACK_ARRAY] = "an array", [MSGPACK_MAP] = "a map",
        [MSGPACK_EXT] = "an extension"};
    return names[type];
}

static int wrong_type(const struct msgpack_value *head, const char *wanted)
{
    error_set(ERR_INVALID, "the value is %s, not %s", type_name(head->type), wanted);
    return ERR_INVALID;
}

enum taskmill_type taskmill_value_type(const struct taskmill_value *value)
{
    static const enum taskmill_type types[] = {
        [MSGPACK_NIL] = TASKMILL_NULL,     [MSGPACK_BOOL] = TASKMILL_BOOL,
        [MSGPACK_INT] = TASKMILL_INT,      [MSGPACK_UINT] = TASKMILL_INT,
        [MSGPACK_FLOAT] = TASKMILL_DOUBLE, [MSGPACK_STR] = TASKMILL_STR,
        [MSGPACK_BIN] = TASKMILL_BYTES,    [MSGPACK_ARRAY] = TASKMILL_ARRAY,
        [MSGPACK_MAP] = TASKMILL_MAP,      [MSGPACK_EXT] = TASKMILL_EXT};
    struct msgpack_value head;
    struct msgpack_reader rest;

    return read_head(value, &head, &rest) == 0 ? types[head.type] : TASKMILL_NULL;
}

int taskmill_value_int(const struct taskmill_value *value, int64_t *out)
{
    struct msgpack_value head;
    struct msgpack_reader rest;
    int rv = read_head(value, &head, &rest);

    if (rv != 0)
        return rv;
    if (head.type == MSGPACK_INT)
        *out = head.i;
    else if (head.type == MSGPACK_UINT && head.u <= INT64_MAX)
        *out = (int64_t)head.u;
    else
        return wrong_type(&head, "an integer of 64 bits with sign");
    return 0;
}

int taskmill_value_uint(const struct taskmill_value *value, uint64_t *out)
{
    struct msgpack_value head;
    struct msgpack_reader rest;
    int rv = read_head(value, &head, &rest);

    if (rv != 0)
        return rv;
    if (head.type != MSGPACK_UINT)
        return wrong_type(&head, "an integer without sign");
    *out = head.u;
    return 0;
}

int taskmill_value_double(const struct taskmill_value *value, double *out)
{
    struct msgpack_value head;
    struct msgpack_reader rest;
    int rv = read_head(value, &head, &rest);

    if (rv != 0)
        return rv;
    if (head.type == MSGPACK_FLOAT)
        *out = head.d;
    else if (head.type == MSGPACK_INT)
        *out = (double)head.i;
    else if (head.type == MSGPACK_UINT)
        *out = (double)head.u;
    else
        return wrong_type(&head, "a number");
    return 0;
}

int taskmill_value_bool(const struct taskmill_value *value, bool *out)
{
    struct msgpack_value head;
    struct msgpack_reader rest;
    int rv = read_head(value, &head, &rest);

    if (rv != 0)
        return rv;
    if (head.type != MSGPACK_BOOL)
        return wrong_type(&head, "a bool");
    *out = head.b;
    return 0;
}

int taskmill_value_str(const struct taskmill_value *value, const char **out)
{
    struct msgpack_value head;
    struct msgpack_reader rest;
    int rv = read_head(value, &head, &rest);

    if (rv != 0)
        return rv;
    if (head.type != MSGPACK_STR)
        return wrong_type(&head, "a string");
    if (head.data.len != 0 && memchr(head.data.ptr, '\0', head.data.len) != NULL)
        return error_set(ERR_INVALID, "the string holds a NUL; read it as bytes");
    *out = keep_string(value->call, head.data);
    return 0;
}

int taskmill_value_bytes(const struct taskmill_value *value, const void **out, size_t *len)
{
    struct msgpack_value head;
    struct msgpack_reader rest;
    int rv = read_head(value, &head, &rest);

    if (rv != 0)
        return rv;
    if (head.type != MSGPACK_STR && head.type != MSGPACK_BIN)
        return wrong_type(&head, "bytes");
    *out = head.data.ptr;
    *len = head.data.len;
    return 0;
}

size_t taskmill_value_count(const struct taskmill_value *value)
{
    struct msgpack_value head;
    struct msgpack_reader rest;

    if (read_head(value, &head, &rest) != 0 ||
        (head.type != MSGPACK_ARRAY && head.type != MSGPACK_MAP))
        return 0;
    return head.count;
}

/* The one that is in this container, or one at its front in place of the one that was used longest
 * ago. It becomes the first. */
static struct call_cursor *cursor_of(const struct taskmill_value *container,
                                     struct msgpack_reader first)
{
    struct call_cursor *cursors = container->call->cursors;
    struct call_cursor found = {.container = container->ptr, .reader = first};
    size_t i = 0;

    while (i < CALL_CURSORS - 1 && cursors[i].container != container->ptr)
        i++;
    if (cursors[i].container == container->ptr)
        found = cursors[i];
    memmove(&cursors[1], &cursors[0], i * sizeof *cursors);
    cursors[0] = found;
    return &cursors[0];
}

/* Value number `index` of those that a container's encoding lists: a map has its keys among them.
 */
static int nth_value(const struct taskmill_value *container, struct msgpack_reader first,
                     size_t index, struct taskmill_value *out)
{
    struct call_cursor *cursor = cursor_of(container, first);
    struct taskmill_value item = {0};
    int rv = 0;

    if (cursor->index > index) {
        cursor->reader = first;
        cursor->index = 0;
    }
    while (rv == 0 && cursor->index <= index) {
        rv = take_value(container->call, &cursor->reader, &item);
        cursor->index++;
    }
    if (rv == 0)
        *out = item;
    else
        cursor->container = NULL;
    return rv;
}

static int no_such_value(size_t index, uint32_t count)
{
    error_set(ERR_NOT_FOUND, "there is no value %zu, only %u", index, count);
    return ERR_NOT_FOUND;
}

int taskmill_value_at(const struct taskmill_value *value, size_t index, struct taskmill_value *out)
{
    struct msgpack_value head;
    struct msgpack_reader reader;
    int rv = read_head(value, &head, &reader);

    if (rv != 0)
        return rv;
    if (head.type != MSGPACK_ARRAY && head.type != MSGPACK_MAP)
        return wrong_type(&head, "an array or a map");
    if (index >= head.count)
        return no_such_value(index, head.count);
    return nth_value(value, reader, head.type == MSGPACK_MAP ? 2 * index + 1 : index, out);
}

int taskmill_value_key(const struct taskmill_value *value, size_t index, struct taskmill_value *out)
{
    struct msgpack_value head;
    struct msgpack_reader reader;
    int rv = read_head(value, &head, &reader);

    if (rv != 0)
        return rv;
    if (head.type != MSGPACK_MAP)
        return wrong_type(&head, "a map");
    if (index >= head.count)
        return no_such_value(index, head.count);
    return nth_value(value, reader, 2 * index, out);
}

/* As taskmill_value_get, without a message. */
static int find_key(const struct taskmill_value *map, const char *key, struct taskmill_value *out)
{
    struct msgpack_value head, name;
    struct msgpack_reader reader;
    struct taskmill_value item;
    const char *fault;
    int found = ERR_NOT_FOUND, rv = read_head(map, &head, &reader);

    if (rv != 0)
        return rv;
    if (head.type != MSGPACK_MAP)
        return wrong_type(&head, "a map");
    for (uint32_t i = 0; i < head.count; i++) {
        rv = msgpack_read(&reader, &name, &fault);
        if (rv == 0)
            rv = take_value(map->call, &reader, &item);
        if (rv != 0)
            return rv;
        if (name.type == MSGPACK_STR && bytes_equal_str(name.data, key)) {
            *out = item;
            found = 0;
        }
    }
    return found;
}

int taskmill_value_get(const struct taskmill_value *value, const char *key,
                       struct taskmill_value *out)
{
    int rv = find_key(value, key, out);

    return rv == ERR_NOT_FOUND ? error_set(rv, "there is no value named %s", key) : rv;
}

int taskmill_value_json(const struct taskmill_value *value, const char **out)
{
    struct buf json = {0};
    const char *fault = "";
    int rv = params_value_to_json(bytes_of(value->ptr, value->len), &json, &fault);

    if (rv == 0)
        *out = keep_string(value->call, buf_bytes(&json));
    else
        error_set(rv, "the value as JSON: %s", fault);
    buf_free(&json);
    return rv;
}

/* --- arguments ------------------------------------------------------------------------------- */

/* The container may be missing in the parameters: then it is an empty one. */
static struct taskmill_value container(struct taskmill_call *call, struct bytes packed,
                                       const char *empty)
{
    struct bytes bytes = packed.len > 0 ? packed : bytes_of(empty, 1);

    return (struct taskmill_value){call, bytes.ptr, bytes.len};
}

struct taskmill_value taskmill_args(struct taskmill_call *call)
{
    return container(call, call->args, "\x90");
}

struct taskmill_value taskmill_kwargs(struct taskmill_call *call)
{
    return container(call, call->kwargs, "\x80");
}

int taskmill_arg(struct taskmill_call *call, size_t index, struct taskmill_value *out)
{
    struct taskmill_value args = taskmill_args(call);

    if (index < call->arg_count)
        return taskmill_value_at(&args, index, out);
    error_set(ERR_NOT_FOUND, "there is no argument %zu, only %zu", index, call->arg_count);
    return ERR_NOT_FOUND;
}

int taskmill_kwarg(struct taskmill_call *call, const char *key, struct taskmill_value *out)
{
    struct taskmill_value kwargs = taskmill_kwargs(call);
    int rv = find_key(&kwargs, key, out);

    if (rv == ERR_NOT_FOUND)
        error_set(rv, "there is no argument named %s", key);
    return rv;
}

int taskmill_arg_int(struct taskmill_call *call, size_t index, int64_t *out)
{
    struct taskmill_value value;
    int rv = taskmill_arg(call, index, &value);

    return rv ? rv : taskmill_value_int(&value, out);
}

int taskmill_arg_uint(struct taskmill_call *call, size_t index, uint64_t *out)
{
    struct taskmill_value value;
    int rv = taskmill_arg(call, index, &value);

    return rv ? rv : taskmill_value_uint(&value, out);
}

int taskmill_arg_double(struct taskmill_call *call, size_t index, double *out)
{
    struct taskmill_value value;
    int rv = taskmill_arg(call, index, &value);

    return rv ? rv : taskmill_value_double(&value, out);
}

int taskmill_arg_bool(struct taskmill_call *call, size_t index, bool *out)
{
    struct taskmill_value value;
    int rv = taskmill_arg(call, index, &value);

    return rv ? rv : taskmill_value_bool(&value, out);
}

int taskmill_arg_str(struct taskmill_call *call, size_t index, const char **out)
{
    struct taskmill_value value;
    int rv = taskmill_arg(call, index, &value);

    return rv ? rv : taskmill_value_str(&value, out);
}

int taskmill_arg_bytes(struct taskmill_call *call, size_t index, const void **out, size_t *len)
{
    struct taskmill_value value;
    int rv = taskmill_arg(call, index, &value);

    return rv ? rv : taskmill_value_bytes(&value, out, len);
}

int taskmill_kwarg_int(struct taskmill_call *call, const char *key, int64_t *out)
{
    struct taskmill_value value;
    int rv = taskmill_kwarg(call, key, &value);

    return rv ? rv : taskmill_value_int(&value, out);
}

int taskmill_kwarg_uint(struct taskmill_call *call, const char *key, uint64_t *out)
{
    struct taskmill_value value;
    int rv = taskmill_kwarg(call, key, &value);

    return rv ? rv : taskmill_value_uint(&value, out);
}

int taskmill_kwarg_double(struct taskmill_call *call, const char *key, double *out)
{
    struct taskmill_value value;
    int rv = taskmill_kwarg(call, key, &value);

    return rv ? rv : taskmill_value_double(&value, out);
}

int taskmill_kwarg_bool(struct taskmill_call *call, const char *key, bool *out)
{
    struct taskmill_value value;
    int rv = taskmill_kwarg(call, key, &value);

    return rv ? rv : taskmill_value_bool(&value, out);
}

int taskmill_kwarg_str(struct taskmill_call *call, const char *key, const char **out)
{
    struct taskmill_value value;
    int rv = taskmill_kwarg(call, key, &value);

    return rv ? rv : taskmill_value_str(&value, out);
}

int taskmill_kwarg_bytes(struct taskmill_call *call, const char *key, const void **out, size_t *len)
{
    struct taskmill_value value;
    int rv = taskmill_kwarg(call, key, &value);

    return rv ? rv : taskmill_value_bytes(&value, out, len);
}
