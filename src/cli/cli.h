/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the subcommands share. A subcommand is one file with `int cmd_NAME(int argc, char **argv)`,
 * argv[0] being its name; it returns the exit code: 0 done, 1 failed, 2 wrong usage. main.c has the
 * table.
 *
 * Command lines: options are --name VALUE, --name=VALUE or a letter (-c VALUE) and may stand
 * anywhere; "--" ends them; "-5" is a number, not an option.
 */
#ifndef TASKMILL_CLI_CLI_H
#define TASKMILL_CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"

#define CLI_OK     0
#define CLI_FAILED 1
#define CLI_USAGE  2

int cmd_broker(int argc, char **argv);
int cmd_config(int argc, char **argv);
int cmd_demo(int argc, char **argv);
int cmd_health(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_scheduler(int argc, char **argv);
int cmd_send(int argc, char **argv);
int cmd_store(int argc, char **argv);
int cmd_worker(int argc, char **argv);

struct cli_option {
    int id; /* > 0 */
    const char *name;
    char letter; /* 0: none */
    bool has_value;
};

struct cli_args {
    const char *command; /* for messages: "taskmill send" */
    int argc;
    char **argv;
    int next;
    bool only_positional; /* "--" was seen */
    const char *word;     /* the option just read, as it was spelled: "--name" or "--name=VALUE" */
    const char *value;    /* of the option or the positional argument just read */
};

#define CLI_END        0
#define CLI_POSITIONAL (-1)
#define CLI_HELP       (-2)
#define CLI_BAD        (-3) /* the reason was printed */

struct cli_args cli_args_init(const char *command, int argc, char **argv);
/* The id of the next option, or one of the above. Every command has --help and -h. The options end
 * with a zeroed one. */
int cli_next(struct cli_args *args, const struct cli_option *options);

/* Prints "taskmill send: TEXT" to stderr and returns `code`. */
int cli_error(const struct cli_args *args, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Value of the option just read as a whole number from min to max; prints and returns false if not.
 */
bool cli_number(const struct cli_args *args, const char *option, uint64_t min, uint64_t max,
                uint64_t *out);

#endif
