/* SPDX-License-Identifier: Apache-2.0 */
#include "client/registry.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "client/dispatch.h"
#include "client/retry.h"
#include "client/router.h"
#include "client/test_kit.h"
#include "wire/pb.h"

#define INTERNAL "internal" /* the namespace of tasks that every worker has */

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
    if (!app->broken) {
        app->fault = *error_text();
        app->fault_code = code;
    }
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
    list_init(&app->external_namespaces);
    map_init(&app->tasks, map_seed);
    map_init(&app->external_tasks, map_seed);
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
    app->route_file = copy_or_null(given.route_file);
    app->tls_ca = copy_or_null(given.tls_ca);
    app->tls_cert = copy_or_null(given.tls_cert);
    app->tls_key = copy_or_null(given.tls_key);
    app->tls_name = copy_or_null(given.tls_name);
    if (given.send_timeout_s != 0)
        app->send_timeout_s = given.send_timeout_s;
    return app;
}

static void free_tasks(struct map *tasks)
{
    struct map_node *node = map_first(tasks);

    while (node != NULL) {
        struct task_def *task = container_of(node, struct task_def, by_name);

        node = map_next(tasks, node);
        map_remove(tasks, &task->by_name);
        mem_free(task->key);
        mem_free(task);
    }
    map_free(tasks);
}

static void free_namespaces(struct list *namespaces)
{
    struct list_node *node;

    while ((node = list_pop_front(namespaces)) != NULL) {
        struct taskmill_namespace *ns = container_of(node, struct taskmill_namespace, node);

        mem_free(ns->name);
        mem_free(ns->application);
        mem_free(ns->route);
        mem_free(ns);
    }
}

void registry_app_free(struct taskmill_app *app)
{
    struct child_start *hook;

    dispatch_close(app->dispatcher);
    test_kit_free(app->capture);
    router_free(app->router);
    pthread_mutex_destroy(&app->lock);
    free_tasks(&app->tasks);
    free_tasks(&app->external_tasks);
    free_namespaces(&app->namespaces);
    free_namespaces(&app->external_namespaces);
    while ((hook = app->child_starts) != NULL) {
        app->child_starts = hook->next;
        mem_free(hook);
    }
    mem_free(app->hooks);
    mem_free(app->name);
    mem_free(app->broker);
    mem_free(app->rpc_secret);
    mem_free(app->kafka);
    mem_free(app->topic);
    mem_free(app->route_file);
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

static bool route_exists(const struct list *namespaces, const char *route)
{
    list_foreach (namespaces, node)
        if (strcmp(container_of(node, struct taskmill_namespace, node)->route, route) == 0)
            return true;
    return false;
}

static int check_policy(const char *whose, const struct taskmill_retry_policy *policy)
{
    if (policy->times_exceeded != TASKMILL_DISCARD && policy->times_exceeded != TASKMILL_DEADLETTER)
        return error_set(ERR_INVALID,
                         "%s: retry.times_exceeded is %d; write TASKMILL_DISCARD or "
                         "TASKMILL_DEADLETTER",
                         whose, (int)policy->times_exceeded);
    if ((policy->on & ~(unsigned)(TASKMILL_ON_FAILURE | TASKMILL_ON_DEADLINE)) != 0)
        return error_set(ERR_INVALID,
                         "%s: retry.on is 0x%x; it takes TASKMILL_ON_FAILURE and "
                         "TASKMILL_ON_DEADLINE",
                         whose, policy->on);
    return 0;
}

int registry_check_options(const char *task, const struct taskmill_task_options *options)
{
    if (options->at_most_once && retry_policy_set(&options->retry))
        return error_set(ERR_INVALID, "task %s: at_most_once and retry exclude each other", task);
    return check_policy(task, &options->retry);
}

/* Checked and taken into its list; `application` is NULL for one of the app's own. */
static struct taskmill_namespace *add_namespace(struct taskmill_app *app, const char *name,
                                                const char *application,
                                                const struct taskmill_namespace_options *options)
{
    struct list *list = application ? &app->external_namespaces : &app->namespaces;
    struct taskmill_namespace *ns = mem_zalloc(sizeof *ns);
    struct buf route = {0};
    int rv;

    if (application != NULL)
        buf_printf(&route, "%s:", application);
    buf_append_str(&route, name);
    ns->app = app;
    ns->route = mem_strdup(buf_cstr(&route));
    buf_free(&route);
    ns->name = mem_strdup(name);
    ns->application = copy_or_null(application);
    copy_options(&ns->options, sizeof ns->options, options, options ? options->size : 0);
    if (ns->options.processing_deadline_s == 0)
        ns->options.processing_deadline_s = REGISTRY_DEADLINE_S;
    rv = check_policy(ns->route, &ns->options.retry);
    if (rv == 0 && route_exists(list, ns->route))
        rv = error_set(ERR_EXISTS, "%snamespace %s is declared twice",
                       application ? "external " : "", ns->route);
    list_push_back(list, &ns->node);
    if (rv == 0)
        return ns;
    fault(app, rv);
    list_remove(list, &ns->node);
    mem_free(ns->name);
    mem_free(ns->application);
    mem_free(ns->route);
    mem_free(ns);
    return NULL;
}

struct taskmill_namespace *taskmill_namespace_with(struct taskmill_app *app, const char *name,
                                                   const struct taskmill_namespace_options *options)
{
    int rv = 0;

    if (app == NULL) {
        error_set(ERR_INVALID, "taskmill_namespace: the application is NULL");
        return NULL;
    }
    if (!name_ok(name))
        rv = error_set(ERR_INVALID, "a namespace needs a name in UTF-8");
    else if (strcmp(name, INTERNAL) == 0)
        rv = error_set(ERR_INVALID, "namespace internal is Taskmill's own; take another name");
    if (rv == 0)
        return add_namespace(app, name, NULL, options);
    fault(app, rv);
    return NULL;
}

struct taskmill_namespace *registry_internal_namespace(struct taskmill_app *app)
{
    const struct taskmill_namespace_options defaults = {.size = sizeof defaults};

    return add_namespace(app, INTERNAL, NULL, &defaults);
}

struct taskmill_namespace *
taskmill_external_namespace_with(struct taskmill_app *app, const char *name,
                                 const char *application,
                                 const struct taskmill_namespace_options *options)
{
    if (app == NULL) {
        error_set(ERR_INVALID, "taskmill_external_namespace: the application is NULL");
        return NULL;
    }
    if (name_ok(name) && name_ok(application))
        return add_namespace(app, name, application, options);
    fault(app, error_set(ERR_INVALID, "an external namespace needs its name and the name of its "
                                      "application, in UTF-8"));
    return NULL;
}

static struct map *tasks_of(const struct taskmill_namespace *ns)
{
    return ns->application ? &ns->app->external_tasks : &ns->app->tasks;
}

static int check_task(const struct taskmill_namespace *ns, const char *name,
                      taskmill_handler *handler, const struct taskmill_task_options *options)
{
    if (!name_ok(name))
        return error_set(ERR_INVALID, "namespace %s: a task needs a name in UTF-8", ns->route);
    if (ns->application != NULL && handler != NULL)
        return error_set(ERR_INVALID,
                         "task %s of external namespace %s: application %s runs it, so its handler "
                         "must be NULL here",
                         name, ns->route, ns->application);
    return registry_check_options(name, options);
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

/* route NUL task: neither part holds a NUL when it comes from a declaration. */
static struct bytes make_key(struct bytes route, struct bytes name, char *out)
{
    memcpy(out, route.ptr, route.len);
    out[route.len] = '\0';
    memcpy(out + route.len + 1, name.ptr, name.len);
    return bytes_of(out, route.len + 1 + name.len);
}

static struct task_def *find(const struct map *tasks, struct bytes route, struct bytes name)
{
    char small[256], *space = small;
    struct map_node *node;

    if (route.len == 0 || name.len == 0)
        return NULL;
    if (route.len + name.len + 1 > sizeof small)
        space = mem_alloc(route.len + name.len + 1);
    node = map_find(tasks, make_key(route, name, space));
    if (space != small)
        mem_free(space);
    return node ? container_of(node, struct task_def, by_name) : NULL;
}

int taskmill_task_with(struct taskmill_namespace *ns, const char *name, taskmill_handler *handler,
                       const struct taskmill_task_options *options)
{
    struct taskmill_task_options given;
    struct task_def *task;
    struct bytes route;
    int rv;

    if (ns == NULL)
        return error_set(ERR_INVALID, "task %s: its namespace is NULL", name ? name : "");
    copy_options(&given, sizeof given, options, options ? options->size : 0);
    route = bytes_str(ns->route);
    rv = check_task(ns, name, handler, &given);
    if (rv == 0 && find(tasks_of(ns), route, bytes_str(name)) != NULL)
        rv = error_set(ERR_EXISTS, "task %s of namespace %s is declared twice", name, ns->route);
    if (rv != 0)
        return fault(ns->app, rv);
    fill_defaults(&given, &ns->options);
    task = mem_zalloc(sizeof *task);
    task->ns = ns;
    task->handler = handler;
    task->options = given;
    task->key = mem_zalloc(route.len + strlen(name) + 2);
    task->name = task->key + route.len + 1;
    map_insert(tasks_of(ns), &task->by_name, make_key(route, bytes_str(name), task->key));
    return 0;
}

int taskmill_child_start(struct taskmill_app *app, int (*start)(void *arg), void *arg)
{
    struct child_start *hook;

    if (app == NULL)
        return error_set(ERR_INVALID, "taskmill_child_start: the application is NULL");
    if (start == NULL)
        return fault(app, error_set(ERR_INVALID, "taskmill_child_start needs a function"));
    hook = mem_zalloc(sizeof *hook);
    hook->start = start;
    hook->arg = arg;
    *app->child_starts_end = hook;
    app->child_starts_end = &hook->next;
    return 0;
}

int taskmill_context_hook_with(struct taskmill_app *app,
                               const struct taskmill_context_hook_options *options)
{
    struct taskmill_context_hook_options hook;

    if (app == NULL)
        return error_set(ERR_INVALID, "taskmill_context_hook: the application is NULL");
    copy_options(&hook, sizeof hook, options, options ? options->size : 0);
    if (hook.on_dispatch == NULL && hook.on_execute == NULL && hook.on_leave == NULL)
        return fault(app, error_set(ERR_INVALID, "a context hook needs .on_dispatch, .on_execute "
                                                 "or .on_leave"));
    app->hooks = mem_realloc(app->hooks, (app->hook_count + 1) * sizeof *app->hooks);
    app->hooks[app->hook_count++] = hook;
    return 0;
}

int taskmill_app_check(const struct taskmill_app *app)
{
    if (app == NULL)
        return error_set(ERR_INVALID, "the application is NULL");
    return app->broken ? error_set(app->fault_code, "%s", app->fault.s) : 0;
}

struct task_def *registry_find(const struct taskmill_app *app, struct bytes ns, struct bytes name)
{
    return find(&app->tasks, ns, name);
}

struct task_def *registry_find_external(const struct taskmill_app *app, struct bytes application,
                                        struct bytes ns, struct bytes name)
{
    struct buf route = {0};
    struct task_def *task;

    buf_append(&route, application.ptr, application.len);
    buf_append_byte(&route, ':');
    buf_append(&route, ns.ptr, ns.len);
    task = find(&app->external_tasks, buf_bytes(&route), name);
    buf_free(&route);
    return task;
}

struct router *registry_router(struct taskmill_app *app)
{
    pthread_mutex_lock(&app->lock);
    if (app->router == NULL)
        app->router = router_of_environment(app->topic, app->route_file);
    pthread_mutex_unlock(&app->lock);
    return app->router;
}

size_t registry_task_count(const struct taskmill_app *app)
{
    return app->tasks.count;
}
