/* SPDX-License-Identifier: Apache-2.0 */
/* One run of a task, as its handler sees it. Belongs to one thread. */
#ifndef TASKMILL_CLIENT_CALL_H
#define TASKMILL_CLIENT_CALL_H

#include <taskmill.h>

#include "client/registry.h"
#include "wire/activation.h"
#include "wire/params.h"

struct call_string {
    struct call_string *next;
    char s[];
};

/* Where a walk over a container by index has got to, so that the next step need not begin at the
 * front: reading n values takes n steps, also in a few containers in turn (one inside another). */
struct call_cursor {
    const unsigned char *container; /* where its encoding begins; NULL: unused */
    size_t index;                   /* of the value that `reader` is at */
    struct msgpack_reader reader;
};
#define CALL_CURSORS 8

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
    struct call_cursor cursors[CALL_CURSORS]; /* the one that was used last comes first */
};

/* Parameters are decoded: decompressed when the header compression-type is zstd; the old JSON field
 * is read when there is no msgpack. On failure nothing has to be closed. */
int call_open(struct taskmill_call *call, struct taskmill_app *app, const struct task_def *task,
              struct bytes payload, struct err_text *why);
void call_close(struct taskmill_call *call);

#endif
