/* SPDX-License-Identifier: Apache-2.0 */
/* One run of a task, as its handler sees it. Belongs to one thread. */
#ifndef TASKMILL_CLIENT_CALL_H
#define TASKMILL_CLIENT_CALL_H

#include <taskmill.h>

#include "client/registry.h"
#include "wire/activation.h"

struct call_string {
    struct call_string *next;
    char s[];
};

struct taskmill_call {
    struct bytes payload; /* the activation; the caller keeps it while the call lives */
    struct activation activation;
    struct taskmill_app *app;
    const struct task_def *task;
    char *id, *application, *namespace, *name;
    struct buf unpacked;       /* parameters that had to be decompressed or translated */
    struct bytes packed;       /* the parameters in msgpack */
    struct bytes args, kwargs; /* packed containers, empty if missing */
    size_t arg_count;
    struct call_string *strings; /* everything that was handed out with a NUL after it */
    struct err_text error;       /* of taskmill_fail and taskmill_retry */
};

/* Parameters are decoded: decompressed when the header compression-type is zstd; the old JSON field
 * is read when there is no msgpack. On failure nothing has to be closed. */
int call_open(struct taskmill_call *call, struct taskmill_app *app, const struct task_def *task,
              struct bytes payload, struct err_text *why);
void call_close(struct taskmill_call *call);

#endif
