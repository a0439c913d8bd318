/* SPDX-License-Identifier: Apache-2.0 */
/* One attempt of a handler with the context hooks of its app around it. */
#ifndef TASKMILL_CLIENT_HOOKS_H
#define TASKMILL_CLIENT_HOOKS_H

#include "client/call.h"

/* What the handler returned, or the hook that ended the attempt; call->error has the text. A value
 * that is no status is FAILURE, and the text says so. */
enum taskmill_status hooks_run(struct taskmill_call *call);
/* The handler alone. */
enum taskmill_status hooks_run_bare(struct taskmill_call *call);

#endif
