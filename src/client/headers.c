/* SPDX-License-Identifier: Apache-2.0 */
#include "client/headers.h"

#include <string.h>

#include "base/mem.h"
#include "client/registry.h"
#include "wire/pb.h"

#define MONITOR_CONFIG "sentry-monitor-config"

struct headers_text {
    struct headers_text *next;
    char s[];
};

static struct taskmill_header *find(const struct taskmill_headers *headers, const char *key)
{
    for (size_t i = 0; i < headers->count; i++)
        if (strcmp(headers->items[i].key, key) == 0)
            return &headers->items[i];
    return NULL;
}

static int check(const char *key, const char *value)
{
    if (key == NULL || key[0] == '\0')
        return error_set(ERR_INVALID, "a header needs a key");
    if (!pb_utf8_valid(bytes_str(key)))
        return error_set(ERR_INVALID, "the key of a header is not UTF-8");
    if (value == NULL)
        return error_set(ERR_INVALID, "header %s needs a value; leave it out or write \"\"", key);
    if (!pb_utf8_valid(bytes_str(value)))
        return error_set(ERR_INVALID, "header %s: its value is not UTF-8", key);
    if (strcmp(key, HEADERS_COMPRESSION) == 0)
        return error_set(ERR_INVALID, "header " HEADERS_COMPRESSION
                                      " is set by the library; use .compress of the task");
    return 0;
}

/* Room for one more that takes the place of `old` bytes; checks the limits. */
static int make_room(struct taskmill_headers *headers, bool is_new, size_t old, size_t bytes,
                     const char *key)
{
    if (is_new && headers->count == TASKMILL_HEADERS_MAX)
        return error_set(ERR_TOO_LARGE, "header %s: a task has at most %d headers", key,
                         TASKMILL_HEADERS_MAX);
    if (headers->bytes - old + bytes > TASKMILL_HEADERS_BYTES_MAX)
        return error_set(ERR_TOO_LARGE,
                         "header %s: the headers of a task have at most %d bytes; move data to the "
                         "parameters",
                         key, TASKMILL_HEADERS_BYTES_MAX);
    if (is_new && headers->count == headers->cap) {
        headers->cap = headers->cap ? headers->cap * 2 : 8;
        headers->items = mem_realloc(headers->items, headers->cap * sizeof *headers->items);
    }
    return 0;
}

static size_t size_of(const char *key, const char *value)
{
    return strlen(key) + strlen(value);
}

int headers_take(struct taskmill_headers *headers, const struct taskmill_header *given,
                 size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int rv = check(given[i].key, given[i].value);

        if (rv == 0 && find(headers, given[i].key) != NULL)
            rv = error_set(ERR_EXISTS, "header %s is given twice", given[i].key);
        if (rv == 0)
            rv = make_room(headers, true, 0, size_of(given[i].key, given[i].value), given[i].key);
        if (rv != 0)
            return rv;
        headers->items[headers->count++] = given[i];
        headers->bytes += size_of(given[i].key, given[i].value);
    }
    return 0;
}

static const char *keep(struct taskmill_headers *headers, const char *text)
{
    size_t len = strlen(text);
    struct headers_text *copy = mem_alloc(sizeof *copy + len + 1);

    memcpy(copy->s, text, len + 1);
    copy->next = headers->own;
    headers->own = copy;
    return copy->s;
}

const char *taskmill_headers_get(const struct taskmill_headers *headers, const char *key)
{
    const struct taskmill_header *found = find(headers, key);

    return found != NULL ? found->value : NULL;
}

int taskmill_headers_set(struct taskmill_headers *headers, const char *key, const char *value)
{
    struct taskmill_header *found;
    size_t old;
    int rv = check(key, value);

    if (rv != 0)
        return rv;
    found = find(headers, key);
    old = found != NULL ? size_of(found->key, found->value) : 0;
    rv = make_room(headers, found == NULL, old, size_of(key, value), key);
    if (rv != 0)
        return rv;
    headers->bytes += size_of(key, value) - old;
    if (found == NULL) {
        found = &headers->items[headers->count++];
        found->key = keep(headers, key);
    }
    found->value = keep(headers, value);
    return 0;
}

void taskmill_headers_remove(struct taskmill_headers *headers, const char *key)
{
    struct taskmill_header *found = find(headers, key);

    if (found == NULL)
        return;
    headers->bytes -= size_of(found->key, found->value);
    headers->count--;
    memmove(found, found + 1, (size_t)(headers->items + headers->count - found) * sizeof *found);
}

size_t taskmill_headers_count(const struct taskmill_headers *headers)
{
    return headers->count;
}

const struct taskmill_header *taskmill_headers_at(const struct taskmill_headers *headers,
                                                  size_t index)
{
    return index < headers->count ? &headers->items[index] : NULL;
}

static bool is_public_code(int code)
{
    return code < 0 && code >= ERR_STATE;
}

static int run_hook(const struct taskmill_context_hook_options *hook, size_t index,
                    struct taskmill_headers *headers)
{
    int rv;

    error_text()->s[0] = '\0';
    rv = hook->on_dispatch(hook->arg, headers);
    if (rv == 0)
        return 0;
    /* A function of ours that the hook called may have said more. */
    if (error_text()->s[0] != '\0')
        return is_public_code(rv) ? rv : ERR_INVALID;
    return error_set(is_public_code(rv) ? rv : ERR_INVALID,
                     "context hook %zu refused the task: its on_dispatch returned %d", index, rv);
}

int headers_finish(struct taskmill_headers *headers, const struct taskmill_app *app)
{
    for (size_t i = 0; i < app->hook_count; i++) {
        int rv = app->hooks[i].on_dispatch ? run_hook(&app->hooks[i], i, headers) : 0;

        if (rv != 0)
            return rv;
    }
    if (headers->count != 0)
        taskmill_headers_remove(headers, MONITOR_CONFIG);
    return 0;
}

void headers_free(struct taskmill_headers *headers)
{
    struct headers_text *text;

    while ((text = headers->own) != NULL) {
        headers->own = text->next;
        mem_free(text);
    }
    mem_free(headers->items);
}
