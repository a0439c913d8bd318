/* SPDX-License-Identifier: Apache-2.0 */
/* The environment of one task's process: that of the command, and what is special to the task. */
#ifndef TASKMILL_COMMAND_ENV_H
#define TASKMILL_COMMAND_ENV_H

#include "client/call.h"
#include "command/command.h"

struct task_env {
    char **all; /* ends with NULL; the first `own` entries are the task's, the others borrowed */
    size_t own;
};

/* Everything in it that strangers choose is checked: a NUL, or more than COMMAND_ENV_VALUE_MAX in
 * an argument of a shell command, is ERR_INVALID. */
int task_env_make(struct task_env *env, const struct command *command,
                  const struct taskmill_call *call, struct err_text *why);
void task_env_free(struct task_env *env);

/* How many attempts the worker's policy leaves after this one. */
uint32_t task_retries_left(const struct taskmill_call *call);
/* The headers as a JSON object, appended. */
void task_headers_json(const struct taskmill_call *call, struct buf *out);

#endif
