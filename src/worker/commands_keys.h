/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keys of a commands file that say how a command runs. Each may stand at the file, at a
 * namespace and at a task; the inner one counts, and of environment, limits, output and exit_codes
 * each entry by itself.
 */
#ifndef TASKMILL_WORKER_COMMANDS_KEYS_H
#define TASKMILL_WORKER_COMMANDS_KEYS_H

#include "command/command.h"
#include "worker/commands_reader.h"

#define COMMANDS_KEYS 17

/* Those of one level: values by the index of their key, NULL where there is none. */
struct command_level {
    const struct command_level *outer;
    yaml_node_t *values[COMMANDS_KEYS];
};

/* Takes the value if the key is one of these. */
bool commands_key_take(struct command_level *level, const char *key, yaml_node_t *value);

/* The command of a task whose own level this is, outer ones first; `node` is for messages. The
 * command is the tasks', which share one where all settings are equal. */
int commands_key_build(struct reader *reader, const struct command_level *level, yaml_node_t *node,
                       const struct command **out);
/* Reads all values of this level and those around it, and makes nothing of them: a mistake is found
 * though no task needs the value. */
int commands_key_check(struct reader *reader, const struct command_level *level);

#endif
