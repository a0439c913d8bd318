/* SPDX-License-Identifier: Apache-2.0 */
/* Which topic a namespace's tasks go to (spec/client.md 3): the app's own topic, then
 * TASKWORKER_ROUTES, then TASKWORKER_DEFAULT_TOPIC, then "taskworker". An app makes one router at
 * its first send; from then on it is thread-safe. */
#ifndef TASKMILL_CLIENT_ROUTER_H
#define TASKMILL_CLIENT_ROUTER_H

#include <stdbool.h>

#define ROUTER_DEFAULT_TOPIC "taskworker"

struct router;

/* The inputs, so that tests need no environment; each may be NULL, all are copied. */
struct router_options {
    const char *app_topic; /* of the options of the app */
    const char *routes;    /* JSON object namespace -> topic; bad JSON counts as empty, one WARN */
    const char *default_topic;
};

struct router *router_new(const struct router_options *options);
struct router *router_of_environment(const char *app_topic);
void router_free(struct router *router);

/* `route`: a namespace, or "application:name" of an external one. The answer lives as long as the
 * router. *chosen: not merely the default of the last resort. */
const char *router_topic(struct router *router, const char *route, bool *chosen);

#endif
