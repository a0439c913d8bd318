/* SPDX-License-Identifier: Apache-2.0 */
/* Between the two files of `taskmill scheduler`. */
#ifndef TASKMILL_CLI_SCHEDULER_CLI_H
#define TASKMILL_CLI_SCHEDULER_CLI_H

#include "cli/cli.h"
#include "scheduler/run_storage.h"

/* What was asked for, with defaults filled in: one of redis_url and state_path is set. */
struct scheduler_cli {
    const char *schedules_path, *redis_url, *state_path;
    struct buf state_default;
    bool old_keys, json;
    uint64_t count;
};

/* Opens the storage; the caller closes it. ERR_INVALID for a wrong URL, else as run_storage_file.
 */
int scheduler_cli_storage(const struct scheduler_cli *at, struct run_storage **out,
                          struct err_text *why);

/* `taskmill scheduler list`: its exit code. */
int scheduler_list(const struct cli_args *args, const struct scheduler_cli *at);

#endif
