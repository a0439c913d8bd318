/* SPDX-License-Identifier: Apache-2.0 */
/* taskmill_send and the bulk form: look the task up, build the activation, hand it to dispatch. */
#include <string.h>

#include <taskmill.h>

#include "base/clock.h"
#include "base/mem.h"
#include "client/activation_build.h"
#include "client/dispatch.h"
#include "client/ids.h"
#include "client/retry.h"
#include "client/router.h"
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

static int find_options(const struct taskmill_app *app, const char *ns, const char *name,
                        const struct taskmill_send_options *options,
                        struct taskmill_task_options *out)
{
    const struct task_def *task;

    if (ns == NULL || name == NULL || ns[0] == '\0' || name[0] == '\0')
        return error_set(ERR_INVALID, "a task to send needs a namespace and a name");
    task = registry_find(app, bytes_str(ns), bytes_str(name));
    if (task != NULL) {
        *out = task->options;
        return 0;
    }
    if (!options->undeclared)
        return error_set(ERR_NOT_FOUND,
                         "task %s of namespace %s is not declared in application %s: use "
                         "taskmill_task(), or send with .undeclared = true",
                         name, ns, app->name);
    if (!pb_utf8_valid(bytes_str(ns)) || !pb_utf8_valid(bytes_str(name)))
        return error_set(ERR_INVALID, "the name of a task must be UTF-8");
    if (options->task.at_most_once && retry_policy_set(&options->task.retry))
        return error_set(ERR_INVALID, "task %s: at_most_once and retry exclude each other", name);
    *out = options->task;
    if (out->processing_deadline_s == 0)
        out->processing_deadline_s = REGISTRY_DEADLINE_S;
    return 0;
}

/* Without a choice of its own, a broker uses its only topic. */
static char *item_topic(const struct taskmill_app *app, const char *ns)
{
    struct router router = router_of_environment(app->topic);
    bool chosen;
    char *topic = router_topic(&router, ns, &chosen);

    if (chosen || dispatch_to_kafka(app))
        return topic;
    mem_free(topic);
    return NULL;
}

/* Takes params over. */
static int make_item(struct taskmill_app *app, const char *ns, const char *name,
                     struct taskmill_params *params, const struct taskmill_send_options *options,
                     struct dispatch_item *item)
{
    struct taskmill_task_options task;
    char id[TASKMILL_ID_SIZE];
    struct buf payload = {0};
    int rv = find_options(app, ns, name, options, &task);

    if (rv == 0 && app->name[0] == '\0')
        rv = error_set(ERR_STATE, "the application has no name");
    if (rv == 0)
        rv = ids_choose(id, options->send_id);
    if (rv == 0)
        rv = activation_build(&(struct activation_source){.id = id,
                                                          .application = app->name,
                                                          .namespace = ns,
                                                          .name = name,
                                                          .now_us = clock_wall_us(),
                                                          .task = &task,
                                                          .options = options,
                                                          .params = params},
                              &payload);
    taskmill_params_free(params);
    if (rv != 0)
        return rv;
    item->activation = blob_copy(buf_bytes(&payload));
    item->topic = item_topic(app, ns);
    buf_free(&payload);
    if (options->id != NULL)
        memcpy(options->id, id, strlen(id) + 1);
    return 0;
}

static void free_item(struct dispatch_item *item)
{
    blob_unref(item->activation);
    mem_free(item->topic);
}

int taskmill_send_with(struct taskmill_app *app, const char *ns, const char *task,
                       struct taskmill_params *params, const struct taskmill_send_options *options)
{
    struct taskmill_send_options given = read_options(options);
    struct dispatch_item item;
    size_t accepted;
    int rv = make_item(app, ns, task, params, &given, &item);

    if (rv != 0)
        return rv;
    rv = dispatch_items(app, &item, 1, !given.no_wait, &accepted);
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
    rv = make_item(bulk->app, ns, task, params, &given, &bulk->items[bulk->count]);
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

int taskmill_bulk_send(struct taskmill_bulk *bulk)
{
    size_t accepted;
    int rv = dispatch_items(bulk->app, bulk->items, bulk->count, true, &accepted);

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
