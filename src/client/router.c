/* SPDX-License-Identifier: Apache-2.0 */
#include "client/router.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "client/routes_file.h"

#define TARGET "taskmill::client"
/* A file may change twice within the grain of its time stamp: one as young as that is read again.
 */
#define STAMP_GRAIN_MS 2000

struct route {
    struct map_node node; /* key: the namespace */
    char *namespace, *topic;
};

/* A topic's name that was once in the file: answers live as long as the router. */
struct topic {
    struct map_node node; /* key: the name */
    char name[];
};

struct overrides {
    char *path; /* NULL: none */
    pthread_mutex_t lock;
    int64_t look_ms; /* when to look again */
    struct stat seen;
    bool trusted; /* `seen` tells whether the file has changed */
    bool failed;  /* a WARN was said for what is there now */
    struct buf text;
    struct routes_file routes;
    struct map by_route; /* struct override */
    struct override *nodes;
    struct map topics;
};

struct override {
    struct map_node node; /* key: the route */
    const char *topic;
};

struct router {
    char *app_topic, *default_topic; /* NULL: none */
    struct map routes;
    struct overrides overrides;
};

static const uint64_t seed[2] = {3, 4}; /* only the operator's own names go in */

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
        log_warn(TARGET, NULL,
                 "TASKWORKER_ROUTES is ignored: it must be a JSON object of namespace: topic");
    else
        json_object_foreach(map, namespace, topic)
            add_route(router, namespace, json_string_value(topic));
    json_decref(map);
}

/* --- the file --------------------------------------------------------------------------------- */

static const char *intern(struct overrides *o, const char *name)
{
    struct map_node *node = map_find(&o->topics, bytes_str(name));
    size_t len = strlen(name);
    struct topic *topic;

    if (node == NULL) {
        topic = mem_zalloc(sizeof *topic + len + 1);
        memcpy(topic->name, name, len);
        map_insert(&o->topics, &topic->node, bytes_str(topic->name));
        node = &topic->node;
    }
    return container_of(node, struct topic, node)->name;
}

static void forget_routes(struct overrides *o)
{
    map_free(&o->by_route);
    mem_free(o->nodes);
    routes_file_free(&o->routes);
}

static void take_routes(struct overrides *o, const struct routes_file *routes)
{
    forget_routes(o);
    o->routes = *routes;
    o->nodes = mem_calloc(routes->count + 1, sizeof *o->nodes);
    map_init(&o->by_route, seed);
    for (size_t i = 0; i < routes->count; i++) {
        o->nodes[i].topic = intern(o, routes->pairs[i].topic);
        map_insert(&o->by_route, &o->nodes[i].node, bytes_str(routes->pairs[i].route));
    }
}

static void warn(struct overrides *o, const char *reason)
{
    if (!o->failed)
        log_warn(TARGET, NULL, "%s; the routes that were read before stay in force (%zu)", reason,
                 o->routes.count);
    o->failed = true;
}

static int read_content(int fd, struct buf *text)
{
    ssize_t got = 1;

    while (got > 0 && text->len <= ROUTES_FILE_MAX) {
        buf_reserve(text, 4096);
        got = read(fd, text->ptr + text->len, text->cap - text->len);
        text->len += got > 0 ? (size_t)got : 0;
    }
    return got < 0 ? ERR_IO : 0;
}

/* What was read, unless it is what was read before. */
static void take_content(struct overrides *o, struct buf *text)
{
    struct routes_file routes;
    struct err_text why;
    struct buf before = o->text;

    if (o->text.ptr != NULL && bytes_equal(buf_bytes(text), buf_bytes(&o->text)))
        return;
    o->text = *text;
    *text = before;
    o->failed = false;
    if (routes_file_parse(&routes, o->path, buf_bytes(&o->text), &why) != 0) {
        warn(o, why.s);
        return;
    }
    take_routes(o, &routes);
    log_info(TARGET, NULL, "%s: %zu routes are in force", o->path, routes.count);
}

static bool unchanged(const struct overrides *o, const struct stat *now)
{
    const struct stat *seen = &o->seen;

    return o->trusted && seen->st_ino == now->st_ino && seen->st_dev == now->st_dev &&
           seen->st_size == now->st_size && seen->st_mtim.tv_sec == now->st_mtim.tv_sec &&
           seen->st_mtim.tv_nsec == now->st_mtim.tv_nsec &&
           seen->st_ctim.tv_sec == now->st_ctim.tv_sec &&
           seen->st_ctim.tv_nsec == now->st_ctim.tv_nsec;
}

/* What cannot be read is warned of once, and read anew when it can be. */
static void cannot_read(struct overrides *o, const char *reason)
{
    struct err_text why;

    err_set(&why, 0, "%s: %s", o->path, reason);
    warn(o, why.s);
    buf_free(&o->text);
    o->trusted = false;
}

static void look(struct overrides *o)
{
    struct buf text = {0};
    struct stat now = {0};
    int fd;

    if (stat(o->path, &now) == 0 && unchanged(o, &now))
        return;
    fd = open(o->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0 && fstat(fd, &now) == 0 && !S_ISREG(now.st_mode)) {
        cannot_read(o, "not a regular file");
    } else if (fd < 0 || read_content(fd, &text) != 0) {
        cannot_read(o, strerror(errno));
    } else {
        o->seen = now;
        o->trusted = clock_wall_ms() - now.st_mtim.tv_sec * 1000 > STAMP_GRAIN_MS;
        take_content(o, &text);
    }
    if (fd >= 0)
        close(fd);
    buf_free(&text);
}

/* NULL: the file does not say. */
static const char *override_of(struct overrides *o, const char *route, int64_t now_ms)
{
    const struct map_node *node;
    const char *topic = NULL;

    pthread_mutex_lock(&o->lock);
    if (now_ms >= o->look_ms) {
        o->look_ms = now_ms + ROUTER_LOOK_EVERY_MS;
        look(o);
    }
    node = map_find(&o->by_route, bytes_str(route));
    if (node != NULL)
        topic = container_of(node, const struct override, node)->topic;
    pthread_mutex_unlock(&o->lock);
    return topic;
}

static void overrides_init(struct overrides *o, const char *path)
{
    o->path = copy_or_null(path);
    o->look_ms = INT64_MIN;
    pthread_mutex_init(&o->lock, NULL);
    map_init(&o->by_route, seed);
    map_init(&o->topics, seed);
}

static void overrides_free(struct overrides *o)
{
    struct map_node *node;

    forget_routes(o);
    while ((node = map_first(&o->topics)) != NULL) {
        map_remove(&o->topics, node);
        mem_free(container_of(node, struct topic, node));
    }
    map_free(&o->topics);
    buf_free(&o->text);
    pthread_mutex_destroy(&o->lock);
    mem_free(o->path);
}

/* --- the router ------------------------------------------------------------------------------- */

struct router *router_new(const struct router_options *options)
{
    struct router *router = mem_zalloc(sizeof *router);

    router->app_topic = copy_or_null(options->app_topic);
    router->default_topic = copy_or_null(options->default_topic);
    overrides_init(&router->overrides, options->overrides);
    map_init(&router->routes, seed);
    if (options->routes != NULL && options->routes[0] != '\0')
        read_routes(router, options->routes);
    return router;
}

struct router *router_of_environment(const char *app_topic, const char *overrides)
{
    bool own = overrides != NULL && overrides[0] != '\0';

    return router_new(
        &(struct router_options){.app_topic = app_topic,
                                 .overrides = own ? overrides : getenv("TASKMILL_ROUTES_FILE"),
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
    overrides_free(&router->overrides);
    mem_free(router->app_topic);
    mem_free(router->default_topic);
    mem_free(router);
}

const char *router_topic_at(struct router *router, const char *route, int64_t now_ms, bool *chosen)
{
    const struct map_node *node;
    const char *topic = NULL;

    *chosen = true;
    if (router->app_topic != NULL)
        return router->app_topic;
    if (router->overrides.path != NULL)
        topic = override_of(&router->overrides, route, now_ms);
    if (topic != NULL)
        return topic;
    node = map_find(&router->routes, bytes_str(route));
    if (node != NULL)
        return container_of(node, const struct route, node)->topic;
    if (router->default_topic != NULL)
        return router->default_topic;
    *chosen = false;
    return ROUTER_DEFAULT_TOPIC;
}

const char *router_topic(struct router *router, const char *route, bool *chosen)
{
    return router_topic_at(router, route, router->overrides.path ? clock_boot_ms() : 0, chosen);
}
