/* SPDX-License-Identifier: Apache-2.0 */
#include "client/registry.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "client/dispatch.h"
#include "client/retry.h"
#include "wire/pb.h"

/* Only our own declarations are inserted, so the hash key needs no secret. */
static const uint64_t map_seed[2] = {1, 2};

/* An older program passes a shorter struct: what it does not know is zero. */
static void copy_options(void *to, size_t to_size, const void *from, size_t from_size)
{
    memset(to, 0, to_size);
    if (from != NULL)
        memcpy(to, from, from_size < to_size ? from_size : to_size);
}

/* Remembers the first mistake: a module's entry returns nothing. */
static int fault(struct taskmill_app *app, int code)
{
    if (!app->broken)
        app->fault = *error_text();
    app->broken = true;
    return code;
}

static char *copy_or_null(const char *s)
{
    return s != NULL && s[0] != '\0' ? mem_strdup(s) : NULL;
}

struct taskmill_app *registry_app_new(const char *name)
{
    struct taskmill_app *app = mem_zalloc(sizeof *app);

    app->name = mem_strdup(name);
    app->send_timeout_s = 10;
    pthread_mutex_init(&app->lock, NULL);
    list_init(&app->namespaces);
    map_init(&app->tasks, map_seed);
    app->child_starts_end = &app->child_starts;
    return app;
}

static bool name_ok(const char *name)
{
    return name != NULL && name[0] != '\0' && pb_utf8_valid(bytes_str(name));
}

struct taskmill_app *taskmill_app_new_with(const char *name,
                                           const struct taskmill_app_options *options)
{
    struct taskmill_app_options given;
    struct taskmill_app *app;

    copy_options(&given, sizeof given, options, options ? options->size : 0);
    if (!name_ok(name)) {
        error_set(ERR_INVALID, "an application needs a name in UTF-8");
        return NULL;
    }
    if (given.broker != NULL && given.kafka != NULL) {
        error_set(ERR_INVALID, "application %s: give .broker or .kafka, not both", name);
        return NULL;
    }
    app = registry_app_new(name);
    app->name_fixed = true;
    app->broker = copy_or_null(given.broker);
    app->kafka = copy_or_null(given.kafka);
    app->rpc_secret = copy_or_null(given.rpc_secret);
    app->topic = copy_or_null(given.topic);
    app->tls_ca = copy_or_null(given.tls_ca);
    app->tls_cert = copy_or_null(given.tls_cert);
    app->tls_key = copy_or_null(given.tls_key);
    app->tls_name = copy_or_null(given.tls_name);
    if (given.send_timeout_s != 0)
        app->send_timeout_s = given.send_timeout_s;
    return app;
}

static void free_tasks(struct taskmill_app *app)
{
    struct map_node *node = map_first(&app->tasks);

    while (node != NULL) {
        struct task_def *task = container_of(node, struct task_def, by_name);

        node = map_next(&app->tasks, node);
        map_remove(&app->tasks, &task->by_name);
        mem_free(task->key);
        mem_free(task);
    }
    map_free(&app->tasks);
}

void registry_app_free(struct taskmill_app *app)
{
    struct list_node *node;
    struct child_start *hook;

    dispatch_close(app->dispatcher);
    pthread_mutex_destroy(&app->lock);
    free_tasks(app);
    while ((node = list_pop_front(&app->namespaces)) != NULL) {
        struct taskmill_namespace *ns = container_of(node, struct taskmill_namespace, node);

        mem_free(ns->name);
        mem_free(ns);
    }
    while ((hook = app->child_starts) != NULL) {
        app->child_starts = hook->next;
        mem_free(hook);
    }
    mem_free(app->name);
    mem_free(app->broker);
    mem_free(app->rpc_secret);
    mem_free(app->kafka);
    mem_free(app->topic);
    mem_free(app->tls_ca);
    mem_free(app->tls_cert);
    mem_free(app->tls_key);
    mem_free(app->tls_name);
    mem_free(app);
}

void taskmill_app_free(struct taskmill_app *app)
{
    if (app != NULL)
        registry_app_free(app);
}

int taskmill_application(struct taskmill_app *app, const char *name)
{
    if (!name_ok(name))
        return fault(app, error_set(ERR_INVALID, "an application needs a name in UTF-8"));
    if (!list_empty(&app->namespaces) || app->name_fixed)
        return fault(app, error_set(ERR_STATE,
                                    "taskmill_application(\"%s\"): say it once, before the first "
                                    "namespace",
                                    name));
    mem_free(app->name);
    app->name = mem_strdup(name);
    app->name_fixed = true;
    return 0;
}

static bool namespace_exists(const struct taskmill_app *app, const char *name)
{
    list_foreach (&app->namespaces, node)
        if (strcmp(container_of(node, struct taskmill_namespace, node)->name, name) == 0)
            return true;
    return false;
}

struct taskmill_namespace *taskmill_namespace_with(struct taskmill_app *app, const char *name,
                                                   const struct taskmill_namespace_options *options)
{
    struct taskmill_namespace *ns;
    int rv = 0;

    if (app == NULL) {
        error_set(ERR_INVALID, "taskmill_namespace: the application is NULL");
        return NULL;
    }
    if (!name_ok(name))
        rv = error_set(ERR_INVALID, "a namespace needs a name in UTF-8");
    else if (strcmp(name, "internal") == 0)
        rv = error_set(ERR_INVALID, "namespace internal is Taskmill's own; take another name");
    else if (namespace_exists(app, name))
        rv = error_set(ERR_EXISTS, "namespace %s is declared twice", name);
    if (rv != 0) {
        fault(app, rv);
        return NULL;
    }
    ns = mem_zalloc(sizeof *ns);
    ns->app = app;
    ns->name = mem_strdup(name);
    copy_options(&ns->options, sizeof ns->options, options, options ? options->size : 0);
    if (ns->options.processing_deadline_s == 0)
        ns->options.processing_deadline_s = REGISTRY_DEADLINE_S;
    list_push_back(&app->namespaces, &ns->node);
    return ns;
}

static int check_task(const struct taskmill_namespace *ns, const char *name,
                      const struct taskmill_task_options *options)
{
    if (!name_ok(name))
        return error_set(ERR_INVALID, "namespace %s: a task needs a name in UTF-8", ns->name);
    if (options->at_most_once && retry_policy_set(&options->retry))
        return error_set(ERR_INVALID, "task %s: at_most_once and retry exclude each other", name);
    if (registry_find(ns->app, bytes_str(ns->name), bytes_str(name)) != NULL)
        return error_set(ERR_EXISTS, "task %s of namespace %s is declared twice", name, ns->name);
    return 0;
}

static void fill_defaults(struct taskmill_task_options *options,
                          const struct taskmill_namespace_options *defaults)
{
    if (!options->at_most_once && !retry_policy_set(&options->retry))
        options->retry = defaults->retry;
    if (options->processing_deadline_s == 0)
        options->processing_deadline_s = defaults->processing_deadline_s;
    if (options->expires_s == 0)
        options->expires_s = defaults->expires_s;
}

/* namespace NUL task: neither part holds a NUL when it comes from a declaration. */
static struct bytes make_key(struct bytes ns, struct bytes name, char *out)
{
    memcpy(out, ns.ptr, ns.len);
    out[ns.len] = '\0';
    memcpy(out + ns.len + 1, name.ptr, name.len);
    return bytes_of(out, ns.len + 1 + name.len);
}

int taskmill_task_with(struct taskmill_namespace *ns, const char *name, taskmill_handler *handler,
                       const struct taskmill_task_options *options)
{
    struct taskmill_task_options given;
    struct task_def *task;
    struct bytes key;
    int rv;

    if (ns == NULL)
        return error_set(ERR_INVALID, "task %s: its namespace is NULL", name ? name : "");
    copy_options(&given, sizeof given, options, options ? options->size : 0);
    rv = check_task(ns, name, &given);
    if (rv != 0)
        return fault(ns->app, rv);
    fill_defaults(&given, &ns->options);
    task = mem_zalloc(sizeof *task);
    task->ns = ns;
    task->handler = handler;
    task->options = given;
    task->key = mem_zalloc(strlen(ns->name) + strlen(name) + 2);
    key = make_key(bytes_str(ns->name), bytes_str(name), task->key);
    task->name = task->key + strlen(ns->name) + 1;
    map_insert(&ns->app->tasks, &task->by_name, key);
    return 0;
}

int taskmill_child_start(struct taskmill_app *app, int (*start)(void *arg), void *arg)
{
    struct child_start *hook = mem_zalloc(sizeof *hook);

    hook->start = start;
    hook->arg = arg;
    *app->child_starts_end = hook;
    app->child_starts_end = &hook->next;
    return 0;
}

struct task_def *registry_find(const struct taskmill_app *app, struct bytes ns, struct bytes name)
{
    char small[256], *space = small;
    struct map_node *node;

    if (ns.len == 0 || name.len == 0)
        return NULL;
    if (ns.len + name.len + 1 > sizeof small)
        space = mem_alloc(ns.len + name.len + 1);
    node = map_find(&app->tasks, make_key(ns, name, space));
    if (space != small)
        mem_free(space);
    return node ? container_of(node, struct task_def, by_name) : NULL;
}

size_t registry_task_count(const struct taskmill_app *app)
{
    return app->tasks.count;
}
