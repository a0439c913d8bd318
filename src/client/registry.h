/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a program declares: applications, namespaces, tasks, hooks. Declared once at start by one
 * thread, then only read. The app owns everything below it.
 *
 * External namespaces, those of another application, live in a table of their own: looking up the
 * app's own tasks never finds one of theirs.
 */
#ifndef TASKMILL_CLIENT_REGISTRY_H
#define TASKMILL_CLIENT_REGISTRY_H

#include <pthread.h>

#include <taskmill.h>

#include "base/list.h"
#include "base/map.h"
#include "client/error.h"

#define REGISTRY_DEADLINE_S 10 /* default processing deadline */

struct dispatcher;
struct router;
struct capture;

struct task_def {
    struct map_node by_name; /* key: the namespace's route NUL task */
    struct taskmill_namespace *ns;
    char *key; /* the key's bytes; the task's name is its second part */
    const char *name;
    taskmill_handler *handler;            /* NULL: only sent here, or a command */
    const void *command;                  /* of the worker room, which owns it; or NULL */
    struct taskmill_task_options options; /* with the namespace's defaults filled in */
};

struct taskmill_namespace {
    struct list_node node;
    struct taskmill_app *app;
    char *name;
    char *application; /* external: whose it is; else NULL, the app's */
    char *route;       /* what the router is asked for: the name, external "application:name" */
    struct taskmill_namespace_options options;
};

struct child_start {
    struct child_start *next;
    int (*start)(void *arg);
    void *arg;
};

struct taskmill_app {
    char *name; /* "" until known */
    bool name_fixed;
    char *broker, *rpc_secret, *kafka, *topic, *route_file; /* NULL: not given */
    char *tls_ca, *tls_cert, *tls_key, *tls_name;
    uint32_t send_timeout_s;
    struct list namespaces, external_namespaces;
    struct map tasks, external_tasks;
    struct taskmill_context_hook_options *hooks; /* in the order of their declaration */
    size_t hook_count;
    struct child_start *child_starts, **child_starts_end;
    bool eager;              /* for tests: run tasks instead of sending them, */
    struct capture *capture; /* or keep them; NULL: never asked for */
    bool broken;             /* a declaration failed; fault says why */
    struct err_text fault;
    int fault_code;
    pthread_mutex_t lock; /* of what is made at the first send: */
    struct dispatcher *dispatcher;
    struct router *router;
};

/* Without a destination and perhaps without a name; never fails. */
struct taskmill_app *registry_app_new(const char *name);
void registry_app_free(struct taskmill_app *app);

/* Do the options of a task go together? The text names `task`. */
int registry_check_options(const char *task, const struct taskmill_task_options *options);

/* The namespace "internal", which programs may not declare: of tasks that every worker has. Once
 * for an app. */
struct taskmill_namespace *registry_internal_namespace(struct taskmill_app *app);

/* NULL when there is none. */
struct task_def *registry_find(const struct taskmill_app *app, struct bytes ns, struct bytes name);
struct task_def *registry_find_external(const struct taskmill_app *app, struct bytes application,
                                        struct bytes ns, struct bytes name);
/* The app's router, made at the first call. Any thread. */
struct router *registry_router(struct taskmill_app *app);
size_t registry_task_count(const struct taskmill_app *app);

#endif
