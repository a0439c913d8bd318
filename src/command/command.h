/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a command is: the program, and under which conditions it runs. docs/commands.md tells users;
 * commands_keys.c reads it from a file. Built once at start by one thread (new, the setters,
 * finish), then only read, by every child of the worker.
 *
 * Everything that a new process needs is worked out here, before any fork: numbers of users and
 * groups, the environment, the paths at which the program may be. Between fork and exec there is
 * nothing left to look up (process.c).
 */
#ifndef TASKMILL_COMMAND_COMMAND_H
#define TASKMILL_COMMAND_COMMAND_H

#include <sys/types.h>

#include "base/bytes.h"
#include "base/err.h"
#include "client/retry.h"

#define COMMAND_EXIT_RETRY    75 /* EX_TEMPFAIL */
#define COMMAND_EXIT_CODES    256
#define COMMAND_OUTPUT_LIMIT  (64u << 10)
#define COMMAND_START_TIME_S  30
#define COMMAND_ENV_PREFIX    "TASKMILL_TASK_" /* ours: what a task is about */
#define COMMAND_PATH_DEFAULT  "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define COMMAND_LIMIT_NONE    UINT64_MAX
#define COMMAND_ENV_VALUE_MAX (100u << 10) /* Linux takes 128 KiB for each */
/* The child ends a command at its deadline; the parent ends a child that did not, so much later. */
#define COMMAND_DEADLINE_GRACE_MS 1000

enum command_mode {
    COMMAND_PROCESS,   /* one process a task (once.c) */
    COMMAND_PERSISTENT /* one process for many (persistent.c) */
};
enum command_stdin { COMMAND_STDIN_JSON, COMMAND_STDIN_MSGPACK, COMMAND_STDIN_NONE };
enum command_output { COMMAND_OUTPUT_LOG, COMMAND_OUTPUT_DISCARD, COMMAND_OUTPUT_INHERIT };
enum command_limit {
    COMMAND_LIMIT_MEMORY, /* RLIMIT_DATA: RLIMIT_AS would count what Node, Go or Java only reserve
                           */
    COMMAND_LIMIT_CPU,    /* s */
    COMMAND_LIMIT_OPEN_FILES,
    COMMAND_LIMIT_FILE_SIZE,
    COMMAND_LIMIT_CORE,
    COMMAND_LIMIT_COUNT
};

struct command {
    enum command_mode mode;
    char **argv; /* ends with NULL */
    bool shell;  /* argv is /bin/sh -c TEXT, and the arguments are in the environment */
    char *folder;
    enum command_stdin in;
    enum command_output out, err;
    size_t output_limit; /* bytes of a stream that one task may log */
    uint64_t limits[COMMAND_LIMIT_COUNT];
    uint8_t exit_codes[COMMAND_EXIT_CODES]; /* enum attempt_end */
    uint32_t terminate_before_s;            /* SIGTERM so long before the deadline; 0: none */

    bool change_ids; /* the next four count */
    uid_t uid;
    gid_t gid;
    gid_t *groups;
    size_t group_count;

    /* Of a persistent process. */
    bool wait_ready;
    uint32_t start_time_s; /* for the line that says so */
    uint32_t max_tasks;    /* 0: any number */

    /* Made by command_finish. */
    char **env;   /* complete but for COMMAND_ENV_PREFIX...; ends with NULL */
    char **paths; /* where argv[0] may be, in order; ends with NULL */

    /* While it is being declared. */
    char *user, *home; /* of the password file, or NULL */
    bool has_user, has_gid, has_groups;
    bool clear_environment, has_exit_default;
    bool named_codes[COMMAND_EXIT_CODES];
    char **own_env; /* K=V of the file; ends with NULL */
};

struct command *command_new(const char *folder);
void command_free(struct command *command);

void command_add_word(struct command *command, const char *word);
void command_clear_words(struct command *command);
/* A relative one lies in `base`. */
void command_set_folder(struct command *command, const char *base, const char *folder);
/* ERR_INVALID for a name that no environment can hold or that is ours. The last value counts. */
int command_set_env(struct command *command, const char *name, const char *value,
                    struct err_text *why);
/* By name or number. The primary group, supplementary groups, HOME, USER and LOGNAME follow the
 * user unless they are set. */
int command_set_user(struct command *command, const char *user, struct err_text *why);
int command_set_group(struct command *command, const char *group, struct err_text *why);
int command_clear_groups(struct command *command, struct err_text *why);
int command_add_group(struct command *command, const char *group, struct err_text *why);
/* ERR_DENIED if this process may not set it. COMMAND_LIMIT_NONE: as the worker has it. */
int command_set_limit(struct command *command, enum command_limit limit, uint64_t value,
                      struct err_text *why);
/* code < 0: every code that is not named, 0 and 75 aside. */
void command_set_exit_code(struct command *command, int code, enum attempt_end end);

/* Checks what depends on several settings and fills env and paths. */
int command_finish(struct command *command, struct err_text *why);

/* Would one process do for both? */
bool command_same(const struct command *a, const struct command *b);

/* What the program is called in messages. */
const char *command_name(const struct command *command);

#endif
