/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file of route overrides (spec/client.md 3), in the shape in which the original's options are
 * written; the map may also stand below a key `options:`. Other keys are ignored, since such a file
 * holds other options, too.
 *
 *     taskworker.route.overrides:
 *       ingest.errors: taskworker-ingest     # namespace: topic
 *       "billing:invoices": billing-tasks    # an external namespace: application:name
 */
#ifndef TASKMILL_CLIENT_ROUTES_FILE_H
#define TASKMILL_CLIENT_ROUTES_FILE_H

#include "base/bytes.h"
#include "base/err.h"

#define ROUTES_FILE_KEY  "taskworker.route.overrides"
#define ROUTES_FILE_MAX  (1 << 20) /* bytes */
#define ROUTES_TOPIC_MAX 249       /* Kafka's limit for a topic's name */

struct routes_file_pair {
    char *route, *topic;
};

struct routes_file {
    struct routes_file_pair *pairs; /* each route once */
    size_t count;
};

/* `name` stands for the file in messages: file, line, what is wrong. ERR_MALFORMED, ERR_INVALID,
 * ERR_TOO_LARGE. Without the key there are no pairs. Free with routes_file_free, also a zeroed one.
 */
int routes_file_parse(struct routes_file *out, const char *name, struct bytes text,
                      struct err_text *why);
void routes_file_free(struct routes_file *routes);

#endif
