/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/tasks.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "command/command.h"

#define TARGET "taskmill::worker"

void tasks_init(struct tasks *tasks, const char *default_application)
{
    *tasks = (struct tasks){.default_application = default_application};
}

void tasks_free(struct tasks *tasks)
{
    for (size_t i = 0; i < tasks->app_count; i++)
        registry_app_free(tasks->apps[i]);
    for (size_t i = 0; i < tasks->app_count; i++)
        mem_free(tasks->origins[i]);
    for (size_t i = 0; i < tasks->command_count; i++)
        command_free(tasks->commands[i]);
    for (size_t i = 0; i < tasks->library_count; i++)
        (void)dlclose(tasks->libraries[i]);
    mem_free(tasks->apps);
    mem_free(tasks->origins);
    mem_free(tasks->commands);
    mem_free(tasks->libraries);
    mem_free(tasks->applications);
    *tasks = (struct tasks){0};
}

void tasks_add_app(struct tasks *tasks, struct taskmill_app *app)
{
    tasks->apps = mem_realloc(tasks->apps, (tasks->app_count + 1) * sizeof *tasks->apps);
    tasks->origins = mem_realloc(tasks->origins, (tasks->app_count + 1) * sizeof *tasks->origins);
    tasks->origins[tasks->app_count] = NULL;
    tasks->apps[tasks->app_count++] = app;
    if (app->name[0] == '\0') {
        mem_free(app->name);
        app->name = mem_strdup(tasks->default_application);
    }
}

void tasks_add_command(struct tasks *tasks, struct command *command)
{
    tasks->commands =
        mem_realloc(tasks->commands, (tasks->command_count + 1) * sizeof *tasks->commands);
    tasks->commands[tasks->command_count++] = command;
}

static int call_entry(struct tasks *tasks, void *library, const char *path, struct err_text *why)
{
    void *symbol = dlsym(library, "taskmill_module_init");
    const int *abi = (const int *)dlsym(library, "taskmill_module_abi");
    void (*init)(struct taskmill_app * app);
    struct taskmill_app *app;

    if (symbol == NULL || abi == NULL)
        return err_set(why, ERR_INVALID, "module %s has no TASKMILL_MODULE", path);
    if (*abi != TASKMILL_ABI)
        return err_set(why, ERR_UNSUPPORTED,
                       "module %s is built for version %d of the interface, this worker has %d: "
                       "compile it again",
                       path, *abi, TASKMILL_ABI);
    memcpy(&init, &symbol, sizeof init); /* ISO C has no cast from object to function */
    app = registry_app_new("");
    init(app);
    tasks_add_app(tasks, app);
    return app->broken ? err_set(why, ERR_INVALID, "module %s: %s", path, app->fault.s) : 0;
}

int tasks_load_module(struct tasks *tasks, const char *path, struct err_text *why)
{
    /* A bare file name would be searched in the library path. */
    char *full = realpath(path, NULL);
    void *library;

    if (full == NULL)
        return err_set(why, ERR_NOT_FOUND, "module %s: %s", path, strerror(errno));
    library = dlopen(full, RTLD_NOW | RTLD_LOCAL);
    free(full); /* tidy: free, realpath allocated it */
    if (library == NULL)
        return err_set(why, ERR_INVALID, "module %s: %s", path, dlerror());
    tasks->libraries =
        mem_realloc(tasks->libraries, (tasks->library_count + 1) * sizeof *tasks->libraries);
    tasks->libraries[tasks->library_count++] = library;
    return call_entry(tasks, library, path, why);
}

static bool known_application(const struct tasks *tasks, const char *name)
{
    for (size_t i = 0; i < tasks->application_count; i++)
        if (strcmp(tasks->applications[i], name) == 0)
            return true;
    return false;
}

void tasks_set_origin(struct tasks *tasks, const char *path, const char *from)
{
    struct buf text = {0};

    buf_printf(&text, "%s (%s)", path, from);
    for (size_t i = 0; i < tasks->app_count; i++)
        if (tasks->origins[i] == NULL)
            tasks->origins[i] = mem_strdup(buf_cstr(&text));
    buf_free(&text);
}

static const char *origin(const struct tasks *tasks, size_t i)
{
    return tasks->origins[i] != NULL ? tasks->origins[i] : "the program";
}

/* A task that the j-th app, which is before the i-th, declares, too. */
static const struct task_def *find_double(const struct tasks *tasks, size_t i, size_t *before)
{
    const struct map *map = &tasks->apps[i]->tasks;

    for (size_t j = 0; j < i; j++) {
        *before = j;
        if (strcmp(tasks->apps[i]->name, tasks->apps[j]->name) != 0)
            continue;
        for (struct map_node *node = map_first(map); node != NULL; node = map_next(map, node))
            if (map_find(&tasks->apps[j]->tasks, node->key) != NULL)
                return container_of(node, struct task_def, by_name);
    }
    return NULL;
}

static enum taskmill_status run_canary(struct taskmill_call *call)
{
    log_info(TARGET,
             LOG_FIELDS(log_str("id", taskmill_call_id(call)),
                        log_str("application", taskmill_call_application(call))),
             "a canary task ran");
    return TASKMILL_COMPLETE;
}

static void add_canary(struct tasks *tasks, const char *application)
{
    struct taskmill_app *app = registry_app_new(application);

    (void)taskmill_task(registry_internal_namespace(app), "canary_task", run_canary);
    tasks_add_app(tasks, app);
    tasks->canary_count++;
}

int tasks_finish(struct tasks *tasks, struct err_text *why)
{
    tasks->applications = mem_calloc(tasks->app_count + 1, sizeof *tasks->applications);
    for (size_t i = 0; i < tasks->app_count; i++) {
        const char *name = tasks->apps[i]->name;
        size_t before;
        const struct task_def *twice = find_double(tasks, i, &before);

        if (twice != NULL)
            return err_set(why, ERR_EXISTS,
                           "task %s of namespace %s, application %s, is declared twice: by %s and "
                           "by %s",
                           twice->name, twice->ns->name, name, origin(tasks, before),
                           origin(tasks, i));
        if (registry_task_count(tasks->apps[i]) > 0 && !known_application(tasks, name))
            tasks->applications[tasks->application_count++] = name;
    }
    for (size_t i = 0; i < tasks->application_count; i++)
        add_canary(tasks, tasks->applications[i]);
    return 0;
}

struct task_def *tasks_find(const struct tasks *tasks, const char *application, struct bytes ns,
                            struct bytes name)
{
    for (size_t i = 0; i < tasks->app_count; i++) {
        struct task_def *found;

        if (strcmp(tasks->apps[i]->name, application) != 0)
            continue;
        found = registry_find(tasks->apps[i], ns, name);
        /* A module may declare tasks of its application that it only sends. */
        if (found != NULL && (found->handler != NULL || found->command != NULL))
            return found;
    }
    return NULL;
}

size_t tasks_count(const struct tasks *tasks)
{
    size_t count = 0;

    for (size_t i = 0; i < tasks->app_count - tasks->canary_count; i++)
        count += registry_task_count(tasks->apps[i]);
    return count;
}
