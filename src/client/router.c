/* SPDX-License-Identifier: Apache-2.0 */
#include "client/router.h"

#include <jansson.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"

struct route {
    struct map_node node; /* key: the namespace */
    char *namespace, *topic;
};

struct router {
    char *app_topic, *default_topic; /* NULL: none */
    struct map routes;
};

static char *copy_or_null(const char *text)
{
    return text != NULL && text[0] != '\0' ? mem_strdup(text) : NULL;
}

/* A topic that is no text, or an empty one, is as if it were not there. */
static void add_route(struct router *router, const char *namespace, const char *topic)
{
    struct route *route;

    if (topic == NULL || topic[0] == '\0')
        return;
    route = mem_zalloc(sizeof *route);
    route->namespace = mem_strdup(namespace);
    route->topic = mem_strdup(topic);
    map_insert(&router->routes, &route->node, bytes_str(route->namespace));
}

static void read_routes(struct router *router, const char *text)
{
    json_t *map = json_loads(text, JSON_REJECT_DUPLICATES, NULL), *topic;
    const char *namespace;

    if (!json_is_object(map))
        log_warn("taskmill::client", NULL,
                 "TASKWORKER_ROUTES is ignored: it must be a JSON object of namespace: topic");
    else
        json_object_foreach(map, namespace, topic)
            add_route(router, namespace, json_string_value(topic));
    json_decref(map);
}

struct router *router_new(const struct router_options *options)
{
    static const uint64_t seed[2] = {3, 4}; /* only the operator's own names go in */
    struct router *router = mem_zalloc(sizeof *router);

    router->app_topic = copy_or_null(options->app_topic);
    router->default_topic = copy_or_null(options->default_topic);
    map_init(&router->routes, seed);
    if (options->routes != NULL && options->routes[0] != '\0')
        read_routes(router, options->routes);
    return router;
}

struct router *router_of_environment(const char *app_topic)
{
    return router_new(
        &(struct router_options){.app_topic = app_topic,
                                 .routes = getenv("TASKWORKER_ROUTES"),
                                 .default_topic = getenv("TASKWORKER_DEFAULT_TOPIC")});
}

void router_free(struct router *router)
{
    struct map_node *node;

    if (router == NULL)
        return;
    while ((node = map_first(&router->routes)) != NULL) {
        struct route *route = container_of(node, struct route, node);

        map_remove(&router->routes, node);
        mem_free(route->namespace);
        mem_free(route->topic);
        mem_free(route);
    }
    map_free(&router->routes);
    mem_free(router->app_topic);
    mem_free(router->default_topic);
    mem_free(router);
}

const char *router_topic(struct router *router, const char *route, bool *chosen)
{
    const struct map_node *node;

    *chosen = true;
    if (router->app_topic != NULL)
        return router->app_topic;
    node = map_find(&router->routes, bytes_str(route));
    if (node != NULL)
        return container_of(node, const struct route, node)->topic;
    if (router->default_topic != NULL)
        return router->default_topic;
    *chosen = false;
    return ROUTER_DEFAULT_TOPIC;
}
