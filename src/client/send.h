/* SPDX-License-Identifier: Apache-2.0 */
/* Building a task that is about to be sent; what eager mode and the test kit share with sending. */
#ifndef TASKMILL_CLIENT_SEND_H
#define TASKMILL_CLIENT_SEND_H

#include "client/dispatch.h"

/* Checks everything, runs the on_dispatch hooks and encodes. `options` is whole (its size does not
 * count), `params` stays the caller's. On success the caller unrefs item->activation. */
int send_build(struct taskmill_app *app, const char *ns, const char *task,
               const struct taskmill_params *params, const struct taskmill_send_options *options,
               struct dispatch_item *item);

#endif
