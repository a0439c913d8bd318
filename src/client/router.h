/* SPDX-License-Identifier: Apache-2.0 */
/* Which topic a namespace's tasks go to (spec/client.md 3): the app's own topic, then
 * TASKWORKER_ROUTES, then TASKWORKER_DEFAULT_TOPIC, then "taskworker". */
#ifndef TASKMILL_CLIENT_ROUTER_H
#define TASKMILL_CLIENT_ROUTER_H

#include <stdbool.h>

#define ROUTER_DEFAULT_TOPIC "taskworker"

/* The inputs, so that tests need no environment; each may be NULL. */
struct router {
    const char *app_topic; /* of the options of the app */
    const char *routes; /* JSON object namespace -> topic; bad JSON counts as empty, with a WARN */
    const char *default_topic;
};

struct router router_of_environment(const char *app_topic);
/* The topic, owned by the caller (mem_free). *chosen: not merely the default of the last resort. */
char *router_topic(const struct router *router, const char *namespace, bool *chosen);

#endif
