/* SPDX-License-Identifier: Apache-2.0 */
/* The headers of one task on its way out (spec/client.md 2.3): checked, unique, bounded; what hooks
 * change. Belongs to one thread. */
#ifndef TASKMILL_CLIENT_HEADERS_H
#define TASKMILL_CLIENT_HEADERS_H

#include <taskmill.h>

#include "wire/activation.h"

#define HEADERS_COMPRESSION "compression-type"

struct headers_text;

/* A zeroed one is empty and valid. */
struct taskmill_headers {
    struct taskmill_header *items;
    size_t count, cap;
    size_t bytes;             /* of all keys and values */
    struct headers_text *own; /* copies that hooks had made */
};

/* The caller's headers, borrowed. On failure taskmill_last_error() names the header. */
int headers_take(struct taskmill_headers *headers, const struct taskmill_header *given,
                 size_t count);
/* Runs the app's on_dispatch hooks, then drops what is never sent. */
struct taskmill_app;
int headers_finish(struct taskmill_headers *headers, const struct taskmill_app *app);
void headers_free(struct taskmill_headers *headers);

#endif
