/* SPDX-License-Identifier: Apache-2.0 */
/* taskmill_send and the bulk form: look the task up, build the activation, hand it to dispatch. */
#include <string.h>

#include <taskmill.h>

#include "base/clock.h"
#include "base/mem.h"
#include "client/activation_build.h"
#include "client/dispatch.h"
#include "client/ids.h"
#include "client/router.h"
#include "client/send.h"
#include "client/test_kit.h"
#include "wire/pb.h"

struct taskmill_bulk {
    struct taskmill_app *app;
    struct dispatch_item *items;
    size_t count, cap;
};

static struct taskmill_send_options read_options(const struct taskmill_send_options *given)
{
    struct taskmill_send_options options = {0};

    if (given != NULL)
        memcpy(&options, given, given->size < sizeof options ? given->size : sizeof options);
    return options;
}

/* The names of an undeclared task, and its policy. */
static int check_undeclared(const char *ns, const char *name,
                            const struct taskmill_send_options *options)
{
    if (!pb_utf8_valid(bytes_str(ns)) || !pb_utf8_valid(bytes_str(name)))
        return error_set(ERR_INVALID, "the name of a task must be UTF-8");
    if (options->application != NULL && !pb_utf8_valid(bytes_str(options->application)))
        return error_set(ERR_INVALID, "task %s: .application is not UTF-8", name);
    return registry_check_options(name, &options->task);
}

static int not_declared(const struct taskmill_app *app, const char *ns, const char *name,
                        const char *application)
{
    return error_set(
        ERR_NOT_FOUND,
        "task %s of namespace %s is not declared in application %s%s%s: use %s, or "
        "send with .undeclared = true",
        name, ns, app->name, application ? " as one of " : "", application ? application : "",
        application ? "taskmill_external_namespace() and taskmill_task()" : "taskmill_task()");
}

static int find_options(const struct taskmill_app *app, const char *ns, const char *name,
                        const struct taskmill_send_options *options,
                        struct taskmill_task_options *out)
{
    const struct task_def *task;
    int rv;

    if (ns == NULL || name == NULL || ns[0] == '\0' || name[0] == '\0')
        return error_set(ERR_INVALID, "a task to send needs a namespace and a name");
    if (options->application != NULL && options->application[0] == '\0')
        return error_set(ERR_INVALID, "task %s: .application is empty", name);
    task = options->application ? registry_find_external(app, bytes_str(options->application),
                                                         bytes_str(ns), bytes_str(name))
                                : registry_find(app, bytes_str(ns), bytes_str(name));
    if (task != NULL) {
        *out = task->options;
        return 0;
    }
    if (!options->undeclared)
        return not_declared(app, ns, name, options->application);
    rv = check_undeclared(ns, name, options);
    *out = options->task;
    if (out->processing_deadline_s == 0)
        out->processing_deadline_s = REGISTRY_DEADLINE_S;
    return rv;
}

/* Without a choice of its own, a broker uses its only topic. */
static const char *item_topic(struct taskmill_app *app, const char *ns, const char *application)
{
    struct router *router = registry_router(app);
    struct buf route = {0};
    const char *topic;
    bool chosen;

    if (application != NULL)
        buf_printf(&route, "%s:%s", application, ns);
    topic = router_topic(router, application ? buf_cstr(&route) : ns, &chosen);
    buf_free(&route);
    return chosen || dispatch_to_kafka(app) ? topic : NULL;
}

static int build(struct taskmill_app *app, const struct activation_source *source,
                 struct dispatch_item *item)
{
    const struct taskmill_send_options *options = source->options;
    struct buf payload = {0};
    int rv = activation_build(source, &payload);

    if (rv != 0)
        return rv;
    item->activation = blob_copy(buf_bytes(&payload));
    item->topic = item_topic(app, source->namespace, options->application);
    buf_free(&payload);
    item->on_delivery = options->on_delivery;
    item->arg = options->on_delivery_arg;
    memcpy(item->id, source->id, strlen(source->id) + 1);
    if (options->id != NULL)
        memcpy(options->id, source->id, strlen(source->id) + 1);
    return 0;
}

int send_build(struct taskmill_app *app, const char *ns, const char *name,
               const struct taskmill_params *params, const struct taskmill_send_options *options,
               struct dispatch_item *item)
{
    struct taskmill_task_options task;
    struct taskmill_headers headers = {0};
    char id[TASKMILL_ID_SIZE];
    int rv = find_options(app, ns, name, options, &task);

    if (rv == 0 && app->name[0] == '\0')
        rv = error_set(ERR_STATE, "the application has no name");
    if (rv == 0 && options->header_count != 0 && options->headers == NULL)
        rv = error_set(ERR_INVALID, "task %s: .headers is NULL, .header_count is %zu", name,
                       options->header_count);
    if (rv == 0)
        rv = ids_choose(id, options->send_id);
    if (rv == 0)
        rv = headers_take(&headers, options->headers, options->header_count);
    if (rv == 0)
        rv = headers_finish(&headers, app);
    if (rv == 0)
        rv = build(app,
                   &(struct activation_source){
                       .id = id,
                       .application = options->application ? options->application : app->name,
                       .namespace = ns,
                       .name = name,
                       .now_us = clock_wall_us(),
                       .task = &task,
                       .options = options,
                       .headers = &headers,
                       .params = params},
                   item);
    headers_free(&headers);
    return rv;
}

static void free_item(struct dispatch_item *item)
{
    blob_unref(item->activation);
}

/* Who waited for it is told in his own thread. */
static void tell(const struct dispatch_item *item)
{
    if (item->on_delivery != NULL)
        item->on_delivery(item->arg, item->id, 0, "");
}

int taskmill_send_with(struct taskmill_app *app, const char *ns, const char *task,
                       struct taskmill_params *params, const struct taskmill_send_options *options)
{
    struct taskmill_send_options given = read_options(options);
    struct dispatch_item item = {0};
    size_t accepted;
    int rv = app != NULL ? send_build(app, ns, task, params, &given, &item)
                         : error_set(ERR_INVALID, "taskmill_send: the application is NULL");

    taskmill_params_free(params);
    if (rv != 0)
        return rv;
    if (test_kit_takes(app)) {
        given.no_wait = false;
        rv = test_kit_send(app, ns, task, given.application, &item);
    } else {
        rv = dispatch_items(app, &item, 1, !given.no_wait, &accepted);
    }
    if (rv == 0 && !given.no_wait)
        tell(&item);
    free_item(&item);
    return rv;
}

struct taskmill_bulk *taskmill_bulk_new(struct taskmill_app *app)
{
    struct taskmill_bulk *bulk = mem_zalloc(sizeof *bulk);

    bulk->app = app;
    return bulk;
}

int taskmill_bulk_add_with(struct taskmill_bulk *bulk, const char *ns, const char *task,
                           struct taskmill_params *params,
                           const struct taskmill_send_options *options)
{
    struct taskmill_send_options given = read_options(options);
    int rv;

    if (bulk->count == bulk->cap) {
        bulk->cap = bulk->cap ? bulk->cap * 2 : 64;
        bulk->items = mem_realloc(bulk->items, bulk->cap * sizeof *bulk->items);
    }
    rv = send_build(bulk->app, ns, task, params, &given, &bulk->items[bulk->count]);
    taskmill_params_free(params);
    if (rv == 0)
        bulk->count++;
    return rv;
}

static void drop_front(struct taskmill_bulk *bulk, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free_item(&bulk->items[i]);
    bulk->count -= count;
    if (bulk->count > 0)
        memmove(bulk->items, bulk->items + count, bulk->count * sizeof *bulk->items);
}

/* The names are read again from the message: a bulk keeps nothing else. */
static int send_in_test(struct taskmill_bulk *bulk, size_t *accepted)
{
    int rv = 0;

    for (*accepted = 0; *accepted < bulk->count && rv == 0; *accepted += rv == 0) {
        const struct dispatch_item *item = &bulk->items[*accepted];
        struct activation a;
        const char *fault;
        char *ns, *name, *application;
        bool external;

        rv = activation_parse(blob_bytes(item->activation), &a, &fault);
        if (rv != 0)
            return error_set(rv, "%s", fault);
        external = !bytes_equal_str(a.application, bulk->app->name);
        ns = mem_strndup(a.namespace.ptr, a.namespace.len);
        name = mem_strndup(a.taskname.ptr, a.taskname.len);
        application = mem_strndup(a.application.ptr, a.application.len);
        rv = test_kit_send(bulk->app, ns, name, external ? application : NULL, item);
        mem_free(ns);
        mem_free(name);
        mem_free(application);
    }
    return rv;
}

int taskmill_bulk_send(struct taskmill_bulk *bulk)
{
    size_t accepted;
    int rv = test_kit_takes(bulk->app)
                 ? send_in_test(bulk, &accepted)
                 : dispatch_items(bulk->app, bulk->items, bulk->count, true, &accepted);

    for (size_t i = 0; i < accepted; i++)
        tell(&bulk->items[i]);
    drop_front(bulk, accepted);
    return rv;
}

size_t taskmill_bulk_count(const struct taskmill_bulk *bulk)
{
    return bulk->count;
}

void taskmill_bulk_free(struct taskmill_bulk *bulk)
{
    if (bulk == NULL)
        return;
    drop_front(bulk, bulk->count);
    mem_free(bulk->items);
    mem_free(bulk);
}
