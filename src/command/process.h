/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One process of a command: started under the conditions of struct command, in a process group of
 * its own, and ended with all that it has started itself. Belongs to a worker's child, one thread.
 *
 * The number of the group stands in memory that the worker's parent shares, from before the exec
 * until the leader is collected: a child that dies or is killed takes its commands along.
 */
#ifndef TASKMILL_COMMAND_PROCESS_H
#define TASKMILL_COMMAND_PROCESS_H

#include <stdatomic.h>

#include "command/command.h"

#define PROCESS_GROUPS_MAX 12 /* processes of one child at a time */
#define PROCESS_PIPE       (-1)
#define PROCESS_NULL       (-2)
#define PROCESS_INHERIT    (-3)

struct process_groups {
    _Atomic int32_t leaders[PROCESS_GROUPS_MAX]; /* 0: none */
};

/* SIGKILL to all of them. By the parent, before it collects the child. */
void process_groups_kill(const struct process_groups *groups);

struct process {
    pid_t pid;                     /* 0: there is none */
    int pidfd, in, out, err;       /* our ends, or -1. Those of pipes do not block */
    int64_t terminate_ms, kill_ms; /* boot clock; CLOCK_NEVER */
    bool terminated, killed;       /* the signals were sent for a deadline */
    _Atomic int32_t *leader;       /* its entry in the groups */
};

struct process_setup {
    const struct command *command;
    char *const *env; /* the whole environment, ends with NULL */
    int in, out, err; /* a descriptor to give away (stays the caller's), or one of PROCESS_... */
    struct process_groups *groups;
};

/* Returns once the program runs. ERR_FULL: PROCESS_GROUPS_MAX are running; ERR_SYSTEM: `why` says
 * at which step it failed. */
int process_start(struct process *process, const struct process_setup *setup, struct err_text *why);

/* From now on the deadline of a task counts; now_ms + limit_ms, with the soft signal of the command
 * before. limit_ms 0: none. */
void process_set_deadline(struct process *process, const struct command *command, int64_t now_ms,
                          int64_t limit_ms);
void process_clear_deadline(struct process *process);
/* Sends the signals that are due. */
void process_tick(struct process *process, int64_t now_ms);
/* Until the next signal, for poll(2): -1 without one. */
int process_wait_ms(const struct process *process, int64_t now_ms);

bool process_ended(const struct process *process);
/* SIGKILL to its group. */
void process_kill(struct process *process);
/* Waits for its end; closes everything. Returns the status of waitpid(2). */
int process_collect(struct process *process);

void process_close(int *fd); /* if it is open; leaves -1 */

/* The RLIMIT_... of a limit. */
int process_resource(enum command_limit limit);

#endif
