/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a program declares: applications, namespaces, tasks. Declared once at start by one thread,
 * then only read. The app owns everything below it.
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

struct task_def {
    struct map_node by_name; /* key: namespace NUL task */
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
    char *broker, *rpc_secret, *kafka, *topic; /* NULL: not given */
    char *tls_ca, *tls_cert, *tls_key, *tls_name;
    uint32_t send_timeout_s;
    struct list namespaces;
    struct map tasks;
    struct child_start *child_starts, **child_starts_end;
    bool broken; /* a declaration failed; fault says why */
    struct err_text fault;
    pthread_mutex_t lock; /* of the dispatcher's creation */
    struct dispatcher *dispatcher;
};

/* Without a destination and perhaps without a name; never fails. */
struct taskmill_app *registry_app_new(const char *name);
void registry_app_free(struct taskmill_app *app);

/* NULL when there is none. */
struct task_def *registry_find(const struct taskmill_app *app, struct bytes ns, struct bytes name);
size_t registry_task_count(const struct taskmill_app *app);

#endif
