/* SPDX-License-Identifier: Apache-2.0 */
#include "command/run.h"

#include <errno.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

#define READ_SIZE   65536
#define READ_ROUNDS 16 /* a process that never stops writing must not keep us from its deadline */

void runner_init(struct runner *runner, struct process_groups *groups)
{
    *runner = (struct runner){.groups = groups};
}

enum attempt_end runner_run(struct runner *runner, const struct command *command,
                            struct taskmill_call *call, struct err_text *why)
{
    return command->mode == COMMAND_PERSISTENT ? persistent_run(runner, command, call, why)
                                               : once_run(runner, command, call, why);
}

int64_t runner_limit_ms(const struct taskmill_call *call)
{
    uint64_t seconds = call->activation.processing_deadline_duration;

    return seconds > INT64_MAX / 1000 ? CLOCK_NEVER : (int64_t)seconds * 1000;
}

/* --- output ---------------------------------------------------------------------------------- */

static void log_line(const struct taskmill_call *call, const char *stream, struct bytes line)
{
    log_info(COMMAND_LOG_TARGET,
             LOG_FIELDS(log_str("id", call->id), log_str("namespace", call->namespace),
                        log_str("task", call->name), log_str("stream", stream)),
             "%.*s", BYTES_FMT_ARG(line));
}

static void log_out(void *ctx, struct bytes line)
{
    log_line((const struct taskmill_call *)ctx, "stdout", line);
}

static void log_err(void *ctx, struct bytes line)
{
    log_line((const struct taskmill_call *)ctx, "stderr", line);
}

void runner_begin_output(struct runner *runner, const struct command *command,
                         const struct taskmill_call *call)
{
    output_begin(&runner->out, command->output_limit, log_out, (void *)call);
    output_begin(&runner->err, command->output_limit, log_err, (void *)call);
}

void runner_end_output(struct runner *runner, const struct taskmill_call *call)
{
    uint64_t dropped = output_end(&runner->out) + output_end(&runner->err);

    if (dropped > 0)
        log_warn(COMMAND_LOG_TARGET,
                 LOG_FIELDS(log_str("id", call->id), log_str("namespace", call->namespace),
                            log_str("task", call->name), log_int("bytes", (int64_t)dropped)),
                 "the task wrote more than its output limit; the rest is not logged");
}

bool runner_read(int fd, struct output *output)
{
    uint8_t chunk[READ_SIZE];

    for (int round = 0; round < READ_ROUNDS; round++) {
        ssize_t n = read(fd, chunk, sizeof chunk);

        if (n == 0)
            return false;
        if (n < 0)
            return errno == EAGAIN || errno == EINTR;
        output_feed(output, bytes_of(chunk, (size_t)n));
        if (n < (ssize_t)sizeof chunk)
            break; /* nothing more for now; the next poll tells of an end */
    }
    return true;
}

void runner_describe(const struct runner *runner, int status, struct err_text *why)
{
    struct bytes line = output_last_line(&runner->err);

    if (line.len == 0)
        line = output_last_line(&runner->out);
    if (WIFSIGNALED(status))
        err_set(why, 0, "the command was killed by signal %d (%s)%s%.*s", WTERMSIG(status),
                strsignal(WTERMSIG(status)), line.len > 0 ? ": " : "", BYTES_FMT_ARG(line));
    else
        err_set(why, 0, "exit code %d%s%.*s", WEXITSTATUS(status), line.len > 0 ? ": " : "",
                BYTES_FMT_ARG(line));
}
