/* SPDX-License-Identifier: Apache-2.0 */
#include "client/router.h"

#include <jansson.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/mem.h"

struct router router_of_environment(const char *app_topic)
{
    return (struct router){.app_topic = app_topic,
                           .routes = getenv("TASKWORKER_ROUTES"),
                           .default_topic = getenv("TASKWORKER_DEFAULT_TOPIC")};
}

/* NULL when the map has no such namespace. */
static char *route(const char *routes, const char *namespace)
{
    json_error_t fault;
    json_t *map = json_loads(routes, JSON_REJECT_DUPLICATES, &fault);
    const char *found;
    char *topic;

    if (!json_is_object(map)) {
        log_warn("taskmill::client", NULL,
                 "TASKWORKER_ROUTES is ignored: it must be a JSON object of namespace: topic");
        json_decref(map);
        return NULL;
    }
    found = json_string_value(json_object_get(map, namespace));
    topic = found != NULL && found[0] != '\0' ? mem_strdup(found) : NULL;
    json_decref(map);
    return topic;
}

char *router_topic(const struct router *router, const char *namespace, bool *chosen)
{
    char *topic;

    *chosen = true;
    if (router->app_topic != NULL && router->app_topic[0] != '\0')
        return mem_strdup(router->app_topic);
    if (router->routes != NULL && router->routes[0] != '\0') {
        topic = route(router->routes, namespace);
        if (topic != NULL)
            return topic;
    }
    if (router->default_topic != NULL && router->default_topic[0] != '\0')
        return mem_strdup(router->default_topic);
    *chosen = false;
    return mem_strdup(ROUTER_DEFAULT_TOPIC);
}
