/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A task that is a command of any language, one process a task.
 *
 *   stdin    the parameters: {"args": [...], "kwargs": {...}}
 *   env      TASKMILL_TASK_ID, _NAME, _NAMESPACE, _APPLICATION, _ATTEMPT (0 is the first),
 *            _HEADERS (JSON)
 *   folder   that of the file which declares it; argv never passes through a shell
 *   exit     0: complete, 75 (EX_TEMPFAIL): another attempt, anything else: a failure
 *   stderr   its tail goes to the worker's log; stdout is the worker's
 */
#ifndef TASKMILL_WORKER_COMMAND_H
#define TASKMILL_WORKER_COMMAND_H

#include "client/call.h"
#include "client/retry.h"

#define COMMAND_EXIT_RETRY      75
#define COMMAND_STDERR_TAIL_MAX 4096

struct command {
    char **argv; /* ends with NULL */
    char *folder;
};

struct command *command_new(const char *folder);
void command_add_word(struct command *command, const char *word);
void command_free(struct command *command);

/* Runs to the end; in a worker's child. `why` gets one line when it is not complete, and `tail` the
 * end of what was written to stderr. The parent enforces the deadline. */
enum attempt_end command_run(const struct command *command, struct taskmill_call *call,
                             struct buf *tail, struct err_text *why);

#endif
