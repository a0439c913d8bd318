/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which topic a namespace's tasks go to (spec/client.md 3). The first that knows one counts:
 *
 *   1. the app's own topic
 *   2. the file of overrides (routes_file.h): the app's, else that of TASKMILL_ROUTES_FILE
 *   3. TASKWORKER_ROUTES, a JSON object; read once
 *   4. TASKWORKER_DEFAULT_TOPIC
 *   5. "taskworker"
 *
 * The file is read again while the program runs: a question looks at most once in
 * ROUTER_LOOK_EVERY_MS whether it has changed. A file that is broken or gone leaves the routes that
 * were read from it last in force, with one WARN that names file and line; so does one that cannot
 * be read in the beginning, when there are none. Every change is said at INFO.
 *
 * An app makes one router at its first send; from then on it is thread-safe.
 */
#ifndef TASKMILL_CLIENT_ROUTER_H
#define TASKMILL_CLIENT_ROUTER_H

#include <stdbool.h>
#include <stdint.h>

#define ROUTER_DEFAULT_TOPIC "taskworker"
#define ROUTER_LOOK_EVERY_MS 1000

struct router;

/* The inputs, so that tests need no environment; each may be NULL, all are copied. */
struct router_options {
    const char *app_topic; /* of the options of the app */
    const char *overrides; /* path of a file */
    const char *routes;    /* JSON object namespace -> topic; bad JSON counts as empty, one WARN */
    const char *default_topic;
};

struct router *router_new(const struct router_options *options);
/* `overrides` NULL: TASKMILL_ROUTES_FILE. */
struct router *router_of_environment(const char *app_topic, const char *overrides);
void router_free(struct router *router);

/* `route`: a namespace, or "application:name" of an external one. The answer lives as long as the
 * router, also when the file says something else later. *chosen: not merely the default of the last
 * resort. */
const char *router_topic(struct router *router, const char *route, bool *chosen);
/* The same at a time of CLOCK_BOOTTIME. */
const char *router_topic_at(struct router *router, const char *route, int64_t now_ms, bool *chosen);

#endif
