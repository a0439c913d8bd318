/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything a worker can run: the apps of its modules and command files, looked up by application,
 * namespace and task name. Loaded once at start, before any child is forked, so that every child
 * has it.
 */
#ifndef TASKMILL_WORKER_TASKS_H
#define TASKMILL_WORKER_TASKS_H

#include "client/registry.h"

struct tasks {
    struct taskmill_app **apps; /* one for each module and file */
    char **origins;             /* of each app, for messages: "./x.so (--module)"; NULL: none */
    size_t app_count;
    size_t canary_count;       /* of those apps, the last ones: see tasks_finish */
    const char **applications; /* their names, each once; those without tasks are left out */
    size_t application_count;
    void **libraries; /* of dlopen */
    size_t library_count;
    struct command **commands; /* owned */
    size_t command_count;
    const char *default_application;
};

void tasks_init(struct tasks *tasks, const char *default_application);
void tasks_free(struct tasks *tasks);

/* A shared object with TASKMILL_MODULE. */
int tasks_load_module(struct tasks *tasks, const char *path, struct err_text *why);
/* A YAML file of commands; see commands_file.c for its form. */
int tasks_load_commands(struct tasks *tasks, const char *path, struct err_text *why);
/* Says where the apps came from that were added since the last call. */
void tasks_set_origin(struct tasks *tasks, const char *path, const char *from);
/* After all were loaded: fills `applications`, and gives each of them the task
 * `internal:canary_task` (spec/client.md 10), which brokers may hold from their start and which
 * only shows that workers run. ERR_EXISTS, with both origins, if two declare the same task. */
int tasks_finish(struct tasks *tasks, struct err_text *why);

struct task_def *tasks_find(const struct tasks *tasks, const char *application, struct bytes ns,
                            struct bytes name);
/* Those that were loaded. */
size_t tasks_count(const struct tasks *tasks);

/* Used by the loaders: the tasks take both over. */
void tasks_add_app(struct tasks *tasks, struct taskmill_app *app);
void tasks_add_command(struct tasks *tasks, struct command *command);

#endif
