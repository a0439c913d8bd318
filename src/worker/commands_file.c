/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tasks that are commands, in YAML; docs/commands.md is the reference.
 *
 *     application: media              # default: the worker's --application
 *     environment: {LANG: C.UTF-8}    # for all commands; any key of commands_keys.h may stand here
 *     namespaces:
 *       thumbs:
 *         processing_deadline: 20     # seconds; default 10
 *         expires: 3600               # seconds; default never
 *         retry: {times: 3, delay: 5, times_exceeded: deadletter, on: [failure, deadline]}
 *         command: [python3, tasks.py]
 *         mode: persistent
 *         tasks:
 *           thumbs.resize: {}
 *           thumbs.email: {command: [./email.sh], mode: process, at_most_once: true}
 *
 * processing_deadline, expires and retry may stand at the file, the namespace and the task, too.
 * Commands run in the folder of the file. Anything unknown is an error: a policy that is not obeyed
 * because of a typing mistake loses tasks.
 */
#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/commands_keys.h"
#include "worker/commands_reader.h"

static int read_on(struct reader *reader, yaml_node_t *value, unsigned *on)
{
    if (value->type != YAML_SEQUENCE_NODE)
        return reader_fault(reader, value, "on must be a list of: failure, deadline");
    for (yaml_node_item_t *item = value->data.sequence.items.start;
         item < value->data.sequence.items.top; item++) {
        yaml_node_t *node = reader_node(reader, *item);
        const char *text = reader_text(node);

        if (text != NULL && strcmp(text, "failure") == 0)
            *on |= TASKMILL_ON_FAILURE;
        else if (text != NULL && strcmp(text, "deadline") == 0)
            *on |= TASKMILL_ON_DEADLINE;
        else
            return reader_fault(reader, node, "on must be a list of: failure, deadline");
    }
    return 0;
}

static int read_retry(struct reader *reader, const char *key, yaml_node_t *value, void *ctx)
{
    struct taskmill_retry_policy *policy = (struct taskmill_retry_policy *)ctx;
    const char *text = reader_text(value);

    if (strcmp(key, "times") == 0)
        return reader_u32(reader, key, value, 0, &policy->times);
    if (strcmp(key, "delay") == 0)
        return reader_u32(reader, key, value, 0, &policy->delay_s);
    if (strcmp(key, "on") == 0)
        return read_on(reader, value, &policy->on);
    if (strcmp(key, "times_exceeded") != 0)
        return reader_fault(reader, reader->key,
                            "retry has no key %s; it has times, delay, times_exceeded, on", key);
    if (text != NULL && strcmp(text, "deadletter") == 0)
        policy->times_exceeded = TASKMILL_DEADLETTER;
    else if (text != NULL && strcmp(text, "discard") == 0)
        policy->times_exceeded = TASKMILL_DISCARD;
    else
        return reader_fault(reader, value, "times_exceeded is deadletter or discard");
    return 0;
}

/* --- what a level may say about its tasks ---------------------------------------------------- */

struct task_policy {
    uint32_t processing_deadline_s, expires_s;
    struct taskmill_retry_policy retry;
};

/* ERR_NOT_FOUND, without a text, if the key is not one of these. */
static int read_policy(struct reader *reader, const char *key, yaml_node_t *value,
                       struct task_policy *policy)
{
    if (strcmp(key, "processing_deadline") == 0)
        return reader_u32(reader, key, value, 1, &policy->processing_deadline_s);
    if (strcmp(key, "expires") == 0)
        return reader_u32(reader, key, value, 0, &policy->expires_s);
    if (strcmp(key, "retry") != 0)
        return ERR_NOT_FOUND;
    policy->retry = (struct taskmill_retry_policy){0};
    return reader_each_entry(reader, value, "retry", read_retry, &policy->retry);
}

/* --- a task ---------------------------------------------------------------------------------- */

struct task_entry {
    struct task_policy policy;
    struct command_level level;
    bool at_most_once;
};

static int read_task_key(struct reader *reader, const char *key, yaml_node_t *value, void *ctx)
{
    struct task_entry *entry = (struct task_entry *)ctx;
    int rv;

    if (commands_key_take(&entry->level, key, value))
        return 0;
    if (strcmp(key, "at_most_once") == 0)
        return reader_bool(reader, key, value, &entry->at_most_once);
    rv = read_policy(reader, key, value, &entry->policy);
    return rv == ERR_NOT_FOUND ? reader_fault(reader, reader->key, "a task has no key %s", key)
                               : rv;
}

struct task_place {
    struct taskmill_namespace *ns;
    const struct command_level *level;
};

static int read_task(struct reader *reader, const char *name, yaml_node_t *value, void *ctx)
{
    const struct task_place *place = (const struct task_place *)ctx;
    struct taskmill_task_options options = {.size = sizeof options};
    struct task_entry entry = {.level.outer = place->level};
    const struct command *command;
    struct err_text why;
    int rv = reader_each_entry(reader, value, name, read_task_key, &entry);

    if (rv == 0)
        rv = commands_key_build(reader, &entry.level, value, &command);
    if (rv != 0) {
        why = *reader->why;
        return err_set(reader->why, rv, "%s (task %s)", why.s, name);
    }
    options.processing_deadline_s = entry.policy.processing_deadline_s;
    options.expires_s = entry.policy.expires_s;
    options.retry = entry.policy.retry;
    options.at_most_once = entry.at_most_once;
    if (taskmill_task_with(place->ns, name, NULL, &options) != 0)
        return reader_fault(reader, value, "%s", taskmill_last_error());
    registry_find(reader->app, bytes_str(place->ns->name), bytes_str(name))->command = command;
    return 0;
}

/* --- a namespace ----------------------------------------------------------------------------- */

struct file_entry {
    struct task_policy policy;
    struct command_level level;
    const char *application;
    yaml_node_t *application_node, *namespaces;
};

struct namespace_entry {
    struct task_policy policy; /* starts with that of the file */
    struct command_level level;
    yaml_node_t *tasks;
};

static int read_namespace_key(struct reader *reader, const char *key, yaml_node_t *value, void *ctx)
{
    struct namespace_entry *entry = (struct namespace_entry *)ctx;
    int rv;

    if (commands_key_take(&entry->level, key, value))
        return 0;
    if (strcmp(key, "tasks") == 0) {
        entry->tasks = value;
        return 0;
    }
    rv = read_policy(reader, key, value, &entry->policy);
    return rv == ERR_NOT_FOUND ? reader_fault(reader, reader->key, "a namespace has no key %s", key)
                               : rv;
}

static int read_namespace(struct reader *reader, const char *name, yaml_node_t *value, void *ctx)
{
    const struct file_entry *file = (const struct file_entry *)ctx;
    struct namespace_entry entry = {.policy = file->policy, .level.outer = &file->level};
    struct taskmill_namespace_options options = {.size = sizeof options};
    struct task_place place = {.level = &entry.level};
    int rv = reader_each_entry(reader, value, name, read_namespace_key, &entry);

    if (rv == 0)
        rv = commands_key_check(reader, &entry.level);
    if (rv != 0)
        return rv;
    options.processing_deadline_s = entry.policy.processing_deadline_s;
    options.expires_s = entry.policy.expires_s;
    options.retry = entry.policy.retry;
    place.ns = taskmill_namespace_with(reader->app, name, &options);
    if (place.ns == NULL)
        return reader_fault(reader, value, "%s", taskmill_last_error());
    return entry.tasks ? reader_each_entry(reader, entry.tasks, "tasks", read_task, &place) : 0;
}

/* --- the file -------------------------------------------------------------------------------- */

static int read_file_key(struct reader *reader, const char *key, yaml_node_t *value, void *ctx)
{
    struct file_entry *file = (struct file_entry *)ctx;
    int rv;

    if (commands_key_take(&file->level, key, value))
        return 0;
    if (strcmp(key, "namespaces") == 0) {
        file->namespaces = value;
        return 0;
    }
    if (strcmp(key, "application") == 0) {
        file->application = reader_text(value);
        file->application_node = value;
        return file->application != NULL
                   ? 0
                   : reader_fault(reader, value, "application must be a text");
    }
    rv = read_policy(reader, key, value, &file->policy);
    return rv == ERR_NOT_FOUND
               ? reader_fault(reader, reader->key, "there is no key %s in a commands file", key)
               : rv;
}

static int read_document(struct reader *reader)
{
    yaml_node_t *root = yaml_document_get_root_node(&reader->document);
    struct file_entry file = {0};
    int rv;

    if (root == NULL)
        return reader_fault(reader, NULL, "the file is empty");
    reader->app = registry_app_new("");
    rv = reader_each_entry(reader, root, "the file", read_file_key, &file);
    if (rv == 0)
        rv = commands_key_check(reader, &file.level);
    if (rv == 0 && file.application != NULL &&
        taskmill_application(reader->app, file.application) != 0)
        rv = reader_fault(reader, file.application_node, "%s", taskmill_last_error());
    tasks_add_app(reader->tasks, reader->app);
    if (rv != 0 || file.namespaces == NULL)
        return rv;
    return reader_each_entry(reader, file.namespaces, "namespaces", read_namespace, &file);
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
