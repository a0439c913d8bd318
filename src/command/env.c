/* SPDX-License-Identifier: Apache-2.0 */
#include "command/env.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "wire/params.h"

uint32_t task_retries_left(const struct taskmill_call *call)
{
    uint32_t done = call->activation.retry_state.attempts, times;

    if (call->task == NULL)
        return 0;
    times = call->task->options.retry.times;
    return times > 1 && times - 1 > done ? times - 1 - done : 0;
}

/* --- headers --------------------------------------------------------------------------------- */

static void add_header(void *ctx, struct bytes key, struct bytes value)
{
    json_t *headers = (json_t *)ctx;

    (void)json_object_setn_new_nocheck(headers, (const char *)key.ptr, key.len,
                                       json_stringn_nocheck((const char *)value.ptr, value.len));
}

static int append_text(const char *text, size_t len, void *out)
{
    buf_append((struct buf *)out, text, len);
    return 0;
}

/* Through an object, so that of equal keys the last one counts. */
void task_headers_json(const struct taskmill_call *call, struct buf *out)
{
    json_t *headers = json_object();

    activation_each_header(call->payload, add_header, headers);
    (void)json_dump_callback(headers, append_text, out, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(headers);
}

/* --- the list -------------------------------------------------------------------------------- */

static void add_entry(struct task_env *env, const char *name, struct bytes value)
{
    struct buf text = {0};

    buf_printf(&text, COMMAND_ENV_PREFIX "%s=", name);
    buf_append(&text, value.ptr, value.len);
    env->all = mem_realloc(env->all, (env->own + 1) * sizeof *env->all);
    env->all[env->own++] = mem_strdup(buf_cstr(&text));
    buf_free(&text);
}

/* Strangers choose these values: a NUL would cut one silently. */
static int add_foreign(struct task_env *env, const char *name, struct bytes value,
                       struct err_text *why)
{
    if (value.len > 0 && memchr(value.ptr, '\0', value.len) != NULL)
        return err_set(why, ERR_INVALID,
                       "the activation's %s holds a NUL, which no environment can", name);
    if (value.len > COMMAND_ENV_VALUE_MAX)
        return err_set(why, ERR_TOO_LARGE,
                       "%s of %zu bytes is too large for the environment; read it from stdin", name,
                       value.len);
    add_entry(env, name, value);
    return 0;
}

static int add_headers(struct task_env *env, const struct taskmill_call *call, struct err_text *why)
{
    struct buf headers = {0};
    int rv;

    task_headers_json(call, &headers);
    rv = add_foreign(env, "HEADERS", buf_bytes(&headers), why);
    buf_free(&headers);
    return rv;
}

static int add_facts(struct task_env *env, const struct taskmill_call *call, struct err_text *why)
{
    const struct activation *a = &call->activation;
    char attempt[16], left[16];
    int rv;

    snprintf(attempt, sizeof attempt, "%" PRIu32, a->retry_state.attempts);
    snprintf(left, sizeof left, "%" PRIu32, task_retries_left(call));
    add_entry(env, "ATTEMPT", bytes_str(attempt));
    add_entry(env, "RETRIES_LEFT", bytes_str(left));
    rv = add_foreign(env, "ID", a->id, why);
    if (rv == 0)
        rv = add_foreign(env, "NAME", a->taskname, why);
    if (rv == 0)
        rv = add_foreign(env, "NAMESPACE", a->namespace, why);
    if (rv == 0)
        rv = add_foreign(env, "APPLICATION", a->application, why);
    return rv == 0 ? add_headers(env, call, why) : rv;
}

/* --- arguments of a shell command ------------------------------------------------------------ */

/* A text is itself, everything else its JSON. */
static int add_argument(struct task_env *env, const char *name, struct msgpack_reader *reader,
                        struct err_text *why)
{
    struct msgpack_reader value = *reader, head = *reader;
    struct msgpack_value type;
    const char *fault = "";
    struct buf json = {0};
    int rv;

    /* call_open has checked the whole. */
    (void)msgpack_skip(reader, &fault);
    (void)msgpack_read(&head, &type, &fault);
    if (type.type == MSGPACK_STR)
        return add_foreign(env, name, type.data, why);
    rv =
        params_value_to_json(bytes_of(value.pos, (size_t)(reader->pos - value.pos)), &json, &fault);
    rv = rv == 0 ? add_foreign(env, name, buf_bytes(&json), why)
                 : err_set(why, rv, "parameters: %s", fault);
    buf_free(&json);
    return rv;
}

static struct msgpack_reader open_container(struct bytes packed, uint32_t *count)
{
    struct msgpack_reader reader = {packed.ptr, packed.ptr + packed.len};
    struct msgpack_value head = {0};
    const char *fault;

    *count = packed.len > 0 && msgpack_read(&reader, &head, &fault) == 0 ? head.count : 0;
    return reader;
}

static bool is_name(struct bytes key)
{
    for (size_t i = 0; i < key.len; i++) {
        uint8_t c = key.ptr[i];

        if (!(c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
              (i > 0 && c >= '0' && c <= '9')))
            return false;
    }
    return key.len > 0 && key.len <= 100;
}

static int add_args(struct task_env *env, const struct taskmill_call *call, struct err_text *why)
{
    uint32_t count;
    struct msgpack_reader reader = open_container(call->args, &count);
    char name[32];
    int rv = 0;

    snprintf(name, sizeof name, "%" PRIu32, count);
    add_entry(env, "ARGS", bytes_str(name));
    for (uint32_t i = 0; i < count && rv == 0; i++) {
        snprintf(name, sizeof name, "ARG_%" PRIu32, i);
        rv = add_argument(env, name, &reader, why);
    }
    return rv;
}

/* A keyword that no shell could name is left to stdin. */
static int add_kwargs(struct task_env *env, const struct taskmill_call *call, struct err_text *why)
{
    uint32_t count;
    struct msgpack_reader reader = open_container(call->kwargs, &count);
    const char *fault;
    int rv = 0;

    for (uint32_t i = 0; i < count && rv == 0; i++) {
        struct msgpack_value key;
        char name[128];

        (void)msgpack_read(&reader, &key, &fault);
        if (!is_name(key.data)) {
            (void)msgpack_skip(&reader, &fault);
            continue;
        }
        snprintf(name, sizeof name, "KWARG_%.*s", BYTES_FMT_ARG(key.data));
        rv = add_argument(env, name, &reader, why);
    }
    return rv;
}

/* --- the whole ------------------------------------------------------------------------------- */

int task_env_make(struct task_env *env, const struct command *command,
                  const struct taskmill_call *call, struct err_text *why)
{
    size_t others = 0;
    int rv;

    *env = (struct task_env){0};
    rv = add_facts(env, call, why);
    if (rv == 0 && command->shell)
        rv = add_args(env, call, why);
    if (rv == 0 && command->shell)
        rv = add_kwargs(env, call, why);
    if (rv != 0) {
        task_env_free(env);
        return rv;
    }
    while (command->env[others] != NULL)
        others++;
    env->all = mem_realloc(env->all, (env->own + others + 1) * sizeof *env->all);
    memcpy(env->all + env->own, command->env, (others + 1) * sizeof *env->all);
    return 0;
}

void task_env_free(struct task_env *env)
{
    for (size_t i = 0; i < env->own; i++)
        mem_free(env->all[i]);
    mem_free(env->all);
    *env = (struct task_env){0};
}
