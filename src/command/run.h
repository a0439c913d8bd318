/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs tasks that are commands, in a worker's child, one after the other. The child is one of the
 * worker's, so one thread.
 */
#ifndef TASKMILL_COMMAND_RUN_H
#define TASKMILL_COMMAND_RUN_H

#include "client/call.h"
#include "command/output.h"
#include "command/process.h"

#define COMMAND_LOG_TARGET "taskmill::command"

struct persistent;

/* Everything a child has for its commands. SIGPIPE must be ignored. */
struct runner {
    struct process_groups *groups;
    struct output out, err;   /* of the task that runs */
    struct persistent *first; /* persistent processes */
};

/* `groups` is shared with the parent, which kills what stands in it after the child's death. */
void runner_init(struct runner *runner, struct process_groups *groups);
/* Ends the persistent processes: the end of their stdin, 2 s, SIGKILL. */
void runner_free(struct runner *runner);

/* Runs the task to its end, which is its deadline at the latest: the processing deadline of the
 * activation, from now on. `why` gets one line unless it is complete. */
enum attempt_end runner_run(struct runner *runner, const struct command *command,
                            struct taskmill_call *call, struct err_text *why);

/* Between tasks: returns when `fd` can be read. Logs meanwhile what idle processes write, and
 * collects those that end. */
void runner_wait(struct runner *runner, int fd);

/* --- inside ---------------------------------------------------------------------------------- */

/* once.c, persistent.c */
enum attempt_end once_run(struct runner *runner, const struct command *command,
                          struct taskmill_call *call, struct err_text *why);
enum attempt_end persistent_run(struct runner *runner, const struct command *command,
                                struct taskmill_call *call, struct err_text *why);

/* run.c: the output of the task, from begin to end. */
void runner_begin_output(struct runner *runner, const struct command *command,
                         const struct taskmill_call *call);
void runner_end_output(struct runner *runner, const struct taskmill_call *call);
/* Reads what there is. False when the stream has ended. */
bool runner_read(int fd, struct output *output);
/* "exit code 3: last line", "killed by signal 9 (Killed): last line". */
void runner_describe(const struct runner *runner, int status, struct err_text *why);
/* The limit of the task in ms; 0: none. */
int64_t runner_limit_ms(const struct taskmill_call *call);

#endif
