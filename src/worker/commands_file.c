/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tasks that are commands, in YAML:
 *
 *     application: media              # default: the worker's --application
 *     namespaces:
 *       thumbs:
 *         processing_deadline: 20     # seconds; default 10
 *         expires: 3600               # seconds; default never
 *         retry: {times: 3, delay: 5, times_exceeded: deadletter, on: [failure, deadline]}
 *         tasks:
 *           thumbs.resize: {command: [python3, resize.py]}
 *           thumbs.email: {command: [./email.sh], at_most_once: true}
 *
 * A task may have processing_deadline, expires and retry of its own. Commands run in the folder of
 * the file. Anything unknown is an error: a policy that is not obeyed because of a typing mistake
 * loses tasks.
 */
#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/mem.h"
#include "worker/command.h"
#include "worker/tasks.h"

struct reader {
    yaml_document_t document;
    const char *path;
    char *folder;
    struct tasks *tasks;
    struct taskmill_app *app;
    struct err_text *why;
};

__attribute__((format(printf, 3, 4))) static int
fault(struct reader *reader, const yaml_node_t *node, const char *fmt, ...)
{
    struct err_text text;
    va_list ap;

    va_start(ap, fmt);
    err_setv(&text, 0, fmt, ap);
    va_end(ap);
    return err_set(reader->why, ERR_INVALID, "%s line %zu: %s", reader->path,
                   node ? node->start_mark.line + 1 : (size_t)1, text.s);
}

static yaml_node_t *node_at(struct reader *reader, int index)
{
    return yaml_document_get_node(&reader->document, index);
}

/* NULL if the node is no scalar or holds a NUL. */
static const char *text_of(const yaml_node_t *node)
{
    const char *text;

    if (node->type != YAML_SCALAR_NODE)
        return NULL;
    text = (const char *)node->data.scalar.value;
    return strlen(text) == node->data.scalar.length ? text : NULL;
}

/* Calls `each` with every key and value of a map. */
typedef int (*entry_fn)(struct reader *reader, const char *key, yaml_node_t *value, void *ctx);

static int each_entry(struct reader *reader, yaml_node_t *map, const char *what, entry_fn each,
                      void *ctx)
{
    if (map->type != YAML_MAPPING_NODE)
        return fault(reader, map, "%s must be a map", what);
    for (yaml_node_pair_t *pair = map->data.mapping.pairs.start; pair < map->data.mapping.pairs.top;
         pair++) {
        yaml_node_t *key = node_at(reader, pair->key);
        const char *name = text_of(key);
        int rv;

        if (name == NULL || name[0] == '\0')
            return fault(reader, key, "%s: a key must be a text", what);
        rv = each(reader, name, node_at(reader, pair->value), ctx);
        if (rv != 0)
            return rv;
    }
    return 0;
}

static int read_seconds(struct reader *reader, const char *key, yaml_node_t *value, uint32_t *out)
{
    const char *text = text_of(value);
    unsigned long long number;
    char *end;

    errno = 0;
    number = text && text[0] >= '0' && text[0] <= '9' ? strtoull(text, &end, 10) : 0;
    if (text == NULL || text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 ||
        number > UINT32_MAX)
        return fault(reader, value, "%s must be a whole number", key);
    *out = (uint32_t)number;
    return 0;
}

static int read_on(struct reader *reader, yaml_node_t *value, unsigned *on)
{
    if (value->type != YAML_SEQUENCE_NODE)
        return fault(reader, value, "on must be a list of: failure, deadline");
    for (yaml_node_item_t *item = value->data.sequence.items.start;
         item < value->data.sequence.items.top; item++) {
        yaml_node_t *node = node_at(reader, *item);
        const char *text = text_of(node);

        if (text != NULL && strcmp(text, "failure") == 0)
            *on |= TASKMILL_ON_FAILURE;
        else if (text != NULL && strcmp(text, "deadline") == 0)
            *on |= TASKMILL_ON_DEADLINE;
        else
            return fault(reader, node, "on must be a list of: failure, deadline");
    }
    return 0;
}

static int read_retry(struct reader *reader, const char *key, yaml_node_t *value, void *ctx)
{
    struct taskmill_retry_policy *policy = (struct taskmill_retry_policy *)ctx;
    const char *text = text_of(value);

    if (strcmp(key, "times") == 0)
        return read_seconds(reader, key, value, &policy->times);
    if (strcmp(key, "delay") == 0)
        return read_seconds(reader, key, value, &policy->delay_s);
    if (strcmp(key, "on") == 0)
        return read_on(reader, value, &policy->on);
    if (strcmp(key, "times_exceeded") != 0)
        return fault(reader, value, "retry has no key %s; it has times, delay, times_exceeded, on",
                     key);
    if (text != NULL && strcmp(text, "deadletter") == 0)
        policy->times_exceeded = TASKMILL_DEADLETTER;
    else if (text != NULL && strcmp(text, "discard") == 0)
        policy->times_exceeded = TASKMILL_DISCARD;
    else
        return fault(reader, value, "times_exceeded is deadletter or discard");
    return 0;
}

static int read_command(struct reader *reader, yaml_node_t *value, struct command **out)
{
    struct command *command = command_new(reader->folder);

    tasks_add_command(reader->tasks, command);
    if (value->type != YAML_SEQUENCE_NODE ||
        value->data.sequence.items.start == value->data.sequence.items.top)
        return fault(reader, value,
                     "command must be a list: the program and its arguments; no shell is involved");
    for (yaml_node_item_t *item = value->data.sequence.items.start;
         item < value->data.sequence.items.top; item++) {
        yaml_node_t *node = node_at(reader, *item);
        const char *word = text_of(node);

        if (word == NULL)
            return fault(reader, node, "the words of a command must be texts");
        command_add_word(command, word);
    }
    *out = command;
    return 0;
}

struct task_entry {
    struct taskmill_task_options options;
    struct command *command;
};

static int read_task_key(struct reader *reader, const char *key, yaml_node_t *value, void *ctx)
{
    struct task_entry *entry = (struct task_entry *)ctx;
    const char *text = text_of(value);

    if (strcmp(key, "command") == 0)
        return read_command(reader, value, &entry->command);
    if (strcmp(key, "processing_deadline") == 0)
        return read_seconds(reader, key, value, &entry->options.processing_deadline_s);
    if (strcmp(key, "expires") == 0)
        return read_seconds(reader, key, value, &entry->options.expires_s);
    if (strcmp(key, "retry") == 0)
        return each_entry(reader, value, "retry", read_retry, &entry->options.retry);
    if (strcmp(key, "mode") == 0)
        return text != NULL && strcmp(text, "process") == 0
                   ? 0
                   : fault(reader, value,
                           "mode %s is not supported yet; leave mode out for one process a task",
                           text ? text : "");
    if (strcmp(key, "at_most_once") != 0)
        return fault(reader, value, "a task has no key %s", key);
    entry->options.at_most_once = text != NULL && strcmp(text, "true") == 0;
    if (text == NULL || (!entry->options.at_most_once && strcmp(text, "false") != 0))
        return fault(reader, value, "at_most_once is true or false");
    return 0;
}

static int read_task(struct reader *reader, const char *name, yaml_node_t *value, void *ctx)
{
    struct taskmill_namespace *ns = (struct taskmill_namespace *)ctx;
    struct task_entry entry = {.options = {.size = sizeof entry.options}};
    int rv = each_entry(reader, value, name, read_task_key, &entry);

    if (rv != 0)
        return rv;
    if (entry.command == NULL)
        return fault(reader, value, "task %s has no command", name);
    if (taskmill_task_with(ns, name, NULL, &entry.options) != 0)
        return fault(reader, value, "%s", taskmill_last_error());
    registry_find(reader->app, bytes_str(ns->name), bytes_str(name))->command = entry.command;
    return 0;
}

struct namespace_entry {
    struct taskmill_namespace_options options;
    yaml_node_t *tasks;
};

static int read_namespace_key(struct reader *reader, const char *key, yaml_node_t *value, void *ctx)
{
    struct namespace_entry *entry = (struct namespace_entry *)ctx;

    if (strcmp(key, "processing_deadline") == 0)
        return read_seconds(reader, key, value, &entry->options.processing_deadline_s);
    if (strcmp(key, "expires") == 0)
        return read_seconds(reader, key, value, &entry->options.expires_s);
    if (strcmp(key, "retry") == 0)
        return each_entry(reader, value, "retry", read_retry, &entry->options.retry);
    if (strcmp(key, "tasks") != 0)
        return fault(reader, value, "a namespace has no key %s", key);
    entry->tasks = value;
    return 0;
}

static int read_namespace(struct reader *reader, const char *name, yaml_node_t *value, void *ctx)
{
    struct namespace_entry entry = {.options = {.size = sizeof entry.options}};
    struct taskmill_namespace *ns;
    int rv = each_entry(reader, value, name, read_namespace_key, &entry);

    (void)ctx;
    if (rv != 0)
        return rv;
    ns = taskmill_namespace_with(reader->app, name, &entry.options);
    if (ns == NULL)
        return fault(reader, value, "%s", taskmill_last_error());
    return entry.tasks ? each_entry(reader, entry.tasks, "tasks", read_task, ns) : 0;
}

/* The application first: it may stand after the namespaces. */
static int read_application(struct reader *reader, const char *key, yaml_node_t *value, void *ctx)
{
    const char *text = text_of(value);

    (void)ctx;
    if (strcmp(key, "namespaces") == 0)
        return 0;
    if (strcmp(key, "application") != 0)
        return fault(reader, value, "there is no key %s, only application and namespaces", key);
    if (taskmill_application(reader->app, text) != 0)
        return fault(reader, value, "%s", taskmill_last_error());
    return 0;
}

static int read_namespaces(struct reader *reader, const char *key, yaml_node_t *value, void *ctx)
{
    (void)ctx;
    return strcmp(key, "namespaces") == 0
               ? each_entry(reader, value, "namespaces", read_namespace, NULL)
               : 0;
}

static int read_document(struct reader *reader)
{
    yaml_node_t *root = yaml_document_get_root_node(&reader->document);
    int rv;

    if (root == NULL)
        return fault(reader, NULL, "the file is empty");
    reader->app = registry_app_new("");
    rv = each_entry(reader, root, "the file", read_application, NULL);
    tasks_add_app(reader->tasks, reader->app);
    return rv == 0 ? each_entry(reader, root, "the file", read_namespaces, NULL) : rv;
}

static int load(struct reader *reader, FILE *file)
{
    yaml_parser_t parser;
    int rv;

    if (!yaml_parser_initialize(&parser))
        return err_set(reader->why, ERR_SYSTEM, "%s: out of memory", reader->path);
    yaml_parser_set_input_file(&parser, file);
    if (yaml_parser_load(&parser, &reader->document)) {
        rv = read_document(reader);
        yaml_document_delete(&reader->document);
    } else {
        rv = err_set(reader->why, ERR_MALFORMED, "%s line %zu: %s", reader->path,
                     parser.problem_mark.line + 1, parser.problem ? parser.problem : "not YAML");
    }
    yaml_parser_delete(&parser);
    return rv;
}

int tasks_load_commands(struct tasks *tasks, const char *path, struct err_text *why)
{
    struct reader reader = {.path = path, .tasks = tasks, .why = why};
    char *full = realpath(path, NULL);
    FILE *file = full ? fopen(full, "re") : NULL;
    int rv;

    if (file == NULL) {
        rv = err_set(why, ERR_NOT_FOUND, "%s: %s", path, strerror(errno));
    } else {
        reader.folder = dirname(full);
        rv = load(&reader, file);
        (void)fclose(file);
    }
    free(full); /* tidy: free, realpath allocated it */
    return rv;
}
