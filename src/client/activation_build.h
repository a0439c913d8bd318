/* SPDX-License-Identifier: Apache-2.0 */
/* A new activation from a task's options (spec/client.md 2.2 to 2.4). Pure: id and time come in. */
#ifndef TASKMILL_CLIENT_ACTIVATION_BUILD_H
#define TASKMILL_CLIENT_ACTIVATION_BUILD_H

#include <taskmill.h>

#include "client/headers.h"

struct activation_source {
    const char *id, *application, *namespace, *name;
    int64_t now_us;                              /* Unix */
    const struct taskmill_task_options *task;    /* all defaults filled in */
    const struct taskmill_send_options *options; /* times */
    const struct taskmill_headers *headers;
    const struct taskmill_params *params; /* may be NULL */
};

/* Appends the serialised activation. On failure taskmill_last_error() says why, and `out` is as
 * before. */
int activation_build(const struct activation_source *source, struct buf *out);

#endif
