/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One process a task.
 *
 *   stdin    the parameters: {"args": [...], "kwargs": {...}} as JSON or msgpack, or nothing
 *   env      TASKMILL_TASK_ID, _NAME, _NAMESPACE, _APPLICATION, _ATTEMPT (0 is the first),
 *            _RETRIES_LEFT, _HEADERS (JSON); for `shell: true` the arguments, too
 *   exit     0: complete, 75: another attempt, anything else: a failure, unless exit_codes says so
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "command/env.h"
#include "command/run.h"
#include "wire/params.h"

/* --- stdin ----------------------------------------------------------------------------------- */

static int write_all(int fd, struct bytes content)
{
    while (content.len > 0) {
        ssize_t n = write(fd, content.ptr, content.len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        content.ptr += n;
        content.len -= (size_t)n;
    }
    return 0;
}

/* A file in memory: any size, and no dead-lock with a process that reads late or never. */
static int memory_file(struct bytes content, int *out, struct err_text *why)
{
    int fd = memfd_create("parameters", MFD_CLOEXEC);

    if (fd < 0 || write_all(fd, content) != 0 || lseek(fd, 0, SEEK_SET) != 0) {
        err_set(why, ERR_SYSTEM, "parameters: %s", strerror(errno));
        process_close(&fd);
        return ERR_SYSTEM;
    }
    *out = fd;
    return 0;
}

static int make_stdin(const struct command *command, const struct taskmill_call *call, int *out,
                      struct err_text *why)
{
    const char *fault = "";
    struct buf json = {0};
    int rv;

    *out = PROCESS_NULL;
    if (command->in == COMMAND_STDIN_NONE)
        return 0;
    if (command->in == COMMAND_STDIN_MSGPACK)
        return memory_file(call->packed, out, why);
    rv = params_to_json(call->packed, &json, &fault);
    if (rv != 0)
        err_set(why, rv, "parameters: %s", fault);
    else
        rv = memory_file(buf_bytes(&json), out, why);
    buf_free(&json);
    return rv;
}

/* --- the process ----------------------------------------------------------------------------- */

static int stream_of(enum command_output output)
{
    switch (output) {
    case COMMAND_OUTPUT_LOG:
        return PROCESS_PIPE;
    case COMMAND_OUTPUT_DISCARD:
        return PROCESS_NULL;
    case COMMAND_OUTPUT_INHERIT:
        break;
    }
    return PROCESS_INHERIT;
}

static void read_stream(const struct pollfd *ready, int *fd, struct output *output)
{
    if (*fd >= 0 && ready->revents != 0 && !runner_read(*fd, output))
        process_close(fd);
}

/* Until the process ends. Its own children may hold its streams open for longer: they are not
 * waited for. */
static void attend(struct runner *runner, struct process *process)
{
    for (;;) {
        struct pollfd fds[3] = {{.fd = process->pidfd, .events = POLLIN},
                                {.fd = process->out, .events = POLLIN},
                                {.fd = process->err, .events = POLLIN}};
        int64_t now_ms = clock_boot_ms();

        process_tick(process, now_ms);
        if (poll(fds, 3, process_wait_ms(process, now_ms)) < 0 && errno != EINTR)
            break;
        read_stream(&fds[1], &process->out, &runner->out);
        read_stream(&fds[2], &process->err, &runner->err);
        if (fds[0].revents != 0)
            break;
    }
    /* What it has written is in the pipes. */
    if (process->out >= 0)
        (void)runner_read(process->out, &runner->out);
    if (process->err >= 0)
        (void)runner_read(process->err, &runner->err);
}

static enum attempt_end judge(const struct runner *runner, const struct command *command,
                              const struct process *process, int status, struct err_text *why)
{
    enum attempt_end end = ATTEMPT_FAILURE;

    /* One that ended by itself in the last moment has said how. */
    if ((process->killed || process->terminated) && WIFSIGNALED(status)) {
        err_set(why, 0, "killed: the processing deadline passed");
        return ATTEMPT_DEADLINE;
    }
    if (WIFEXITED(status))
        end = (enum attempt_end)command->exit_codes[WEXITSTATUS(status)];
    if (end != ATTEMPT_COMPLETE)
        runner_describe(runner, status, why);
    return end;
}

static enum attempt_end run_process(struct runner *runner, const struct command *command,
                                    const struct taskmill_call *call, int in, char *const *env,
                                    struct err_text *why)
{
    struct process process;
    struct process_setup setup = {.command = command,
                                  .env = env,
                                  .in = in,
                                  .out = stream_of(command->out),
                                  .err = stream_of(command->err),
                                  .groups = runner->groups};
    int64_t start_ms = clock_boot_ms();
    int status;

    if (process_start(&process, &setup, why) != 0)
        return ATTEMPT_FAILURE;
    process_set_deadline(&process, command, start_ms, runner_limit_ms(call));
    attend(runner, &process);
    status = process_collect(&process);
    return judge(runner, command, &process, status, why);
}

enum attempt_end once_run(struct runner *runner, const struct command *command,
                          struct taskmill_call *call, struct err_text *why)
{
    enum attempt_end end = ATTEMPT_FAILURE;
    struct task_env env;
    int in;

    if (make_stdin(command, call, &in, why) != 0)
        return ATTEMPT_FAILURE;
    if (task_env_make(&env, command, call, why) == 0) {
        runner_begin_output(runner, command, call);
        end = run_process(runner, command, call, in, env.all, why);
        runner_end_output(runner, call);
        task_env_free(&env);
    }
    process_close(&in);
    return end;
}
