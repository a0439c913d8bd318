/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One process for many tasks, one after the other: a line in, a line out (line.h).
 *
 * A process belongs to one child of the worker and is started when the first of its tasks comes.
 * What happens when it misbehaves:
 *
 *   it dies while it has a task      that task fails; the next one gets a new process
 *   it dies while it has none        a new one is started for the next task, nothing is lost
 *   it dies before it has answered   the new one is started after a pause that doubles, 100 ms to
 *   anything                         5 s; the pause counts toward the deadline of the waiting task
 *   it is late                       its group is killed, the task ends as its policy says
 *   its line is no answer            the task fails; the process is replaced, for nobody knows what
 *                                    it is doing
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "command/line.h"
#include "command/run.h"

#define BACKOFF_MS     100
#define BACKOFF_MAX_MS 5000
#define STOP_GRACE_MS  2000
#define READ_SIZE      65536

struct persistent {
    struct persistent *next; /* the one that ran last comes first */
    const struct command *command;
    struct process process;
    bool ready;         /* its first line has come, or is not asked for */
    struct buf lines;   /* of its stdout, not looked at yet */
    uint32_t tasks;     /* that this process has answered */
    uint32_t deaths;    /* in a row, of processes that had answered nothing */
    int64_t start_ms;   /* not before */
    struct output idle; /* what it writes to stderr between tasks */
};

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* --- its end --------------------------------------------------------------------------------- */

static void log_idle_line(void *ctx, struct bytes line)
{
    const struct persistent *it = (const struct persistent *)ctx;

    log_info(COMMAND_LOG_TARGET,
             LOG_FIELDS(log_str("command", command_name(it->command)), log_str("stream", "stderr")),
             "%.*s", BYTES_FMT_ARG(line));
}

static void begin_idle(struct persistent *it)
{
    output_begin(&it->idle, it->command->output_limit, log_idle_line, it);
}

static void read_idle(struct persistent *it)
{
    if (it->process.err >= 0 && !runner_read(it->process.err, &it->idle))
        process_close(&it->process.err);
}

static int64_t pause_ms(uint32_t deaths)
{
    int64_t pause = BACKOFF_MS << (deaths < 7 ? deaths : 7) >> 1;

    return deaths == 0 ? 0 : pause < BACKOFF_MAX_MS ? pause : BACKOFF_MAX_MS;
}

/* Whatever it has started goes with it. */
static int collect(struct persistent *it)
{
    int status;

    process_kill(&it->process);
    status = process_collect(&it->process);
    if (it->tasks == 0 && !it->process.killed)
        it->deaths++;
    else
        it->deaths = 0;
    it->start_ms = clock_add(clock_boot_ms(), pause_ms(it->deaths));
    buf_clear(&it->lines);
    return status;
}

static void describe_status(int status, struct err_text *why)
{
    if (WIFSIGNALED(status))
        err_set(why, 0, "killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        err_set(why, 0, "exit code %d", WEXITSTATUS(status));
}

/* The end of its stdin asks it to go. */
static void dismiss(struct persistent *it)
{
    process_close(&it->process.in);
    it->process.kill_ms = clock_add(clock_boot_ms(), STOP_GRACE_MS);
}

static bool is_dismissed(const struct persistent *it)
{
    return it->process.pid > 0 && it->process.in < 0;
}

/* Between tasks it should neither end nor say anything on stdout. */
static void on_idle_end(struct persistent *it)
{
    bool expected = is_dismissed(it), killed = it->process.killed;
    struct err_text how;
    int status;

    read_idle(it);
    (void)output_end(&it->idle);
    status = collect(it);
    describe_status(status, &how);
    if (!expected)
        log_warn(COMMAND_LOG_TARGET,
                 LOG_FIELDS(log_str("command", command_name(it->command)), log_str("end", how.s)),
                 "a persistent command ended between two tasks; the next one starts it anew");
    else if (killed)
        log_warn(COMMAND_LOG_TARGET, LOG_FIELDS(log_str("command", command_name(it->command))),
                 "a persistent command did not end within %d ms after its stdin had: killed",
                 STOP_GRACE_MS);
}

/* Waits for a dismissed one. A task that waits meanwhile gives it half of its own time. */
static void see_off(struct persistent *it, int64_t end_ms)
{
    int64_t begin_ms = clock_boot_ms();

    if (end_ms != CLOCK_NEVER)
        it->process.kill_ms =
            earlier(it->process.kill_ms, clock_add(begin_ms, (end_ms - begin_ms) / 2));
    while (!process_ended(&it->process)) {
        struct pollfd fds[2] = {{.fd = it->process.pidfd, .events = POLLIN},
                                {.fd = it->process.err, .events = POLLIN}};
        int64_t now_ms = clock_boot_ms();

        process_tick(&it->process, now_ms);
        (void)poll(fds, 2, process_wait_ms(&it->process, now_ms));
        if (fds[1].revents != 0)
            read_idle(it);
    }
    on_idle_end(it);
}

static void free_one(struct persistent *it)
{
    output_free(&it->idle);
    buf_free(&it->lines);
    mem_free(it);
}

void runner_free(struct runner *runner)
{
    struct persistent *next;

    for (struct persistent *it = runner->first; it != NULL; it = it->next)
        if (it->process.pid > 0)
            dismiss(it);
    for (struct persistent *it = runner->first; it != NULL; it = next) {
        next = it->next;
        if (it->process.pid > 0)
            see_off(it, CLOCK_NEVER);
        free_one(it);
    }
    runner->first = NULL;
    output_free(&runner->out);
    output_free(&runner->err);
}

/* --- its start ------------------------------------------------------------------------------- */

/* Moves it to the front. */
static struct persistent *find(struct runner *runner, const struct command *command)
{
    struct persistent **link = &runner->first, *it;

    while (*link != NULL && (*link)->command != command)
        link = &(*link)->next;
    it = *link;
    if (it == NULL) {
        it = mem_zalloc(sizeof *it);
        it->command = command;
    } else {
        *link = it->next;
    }
    it->next = runner->first;
    runner->first = it;
    return it;
}

/* One entry of the groups stays free for tasks with a process of their own. */
static void make_room(struct runner *runner, int64_t end_ms)
{
    struct persistent *oldest = NULL;
    size_t running = 0;

    for (struct persistent *it = runner->first; it != NULL; it = it->next)
        if (it->process.pid > 0) {
            running++;
            oldest = it;
        }
    if (running + 1 < PROCESS_GROUPS_MAX)
        return;
    if (!is_dismissed(oldest))
        dismiss(oldest);
    see_off(oldest, end_ms);
}

static int start(struct runner *runner, struct persistent *it, int64_t end_ms, struct err_text *why)
{
    struct process_setup setup = {.command = it->command,
                                  .env = it->command->env,
                                  .in = PROCESS_PIPE,
                                  .out = PROCESS_PIPE,
                                  .err = it->command->err == COMMAND_OUTPUT_LOG ? PROCESS_PIPE
                                         : it->command->err == COMMAND_OUTPUT_DISCARD
                                             ? PROCESS_NULL
                                             : PROCESS_INHERIT,
                                  .groups = runner->groups};
    int rv;

    make_room(runner, end_ms);
    rv = process_start(&it->process, &setup, why);
    if (rv != 0)
        return rv;
    it->tasks = 0;
    it->ready = !it->command->wait_ready;
    buf_clear(&it->lines);
    begin_idle(it);
    return 0;
}

/* --- between tasks --------------------------------------------------------------------------- */

static bool has_talked(const struct persistent *it)
{
    struct pollfd fd = {.fd = it->process.out, .events = POLLIN};

    return !is_dismissed(it) && poll(&fd, 1, 0) > 0 && (fd.revents & POLLIN) != 0;
}

static void on_idle_talk(struct persistent *it)
{
    char said[80];
    ssize_t n = read(it->process.out, said, sizeof said);

    log_error(COMMAND_LOG_TARGET,
              LOG_FIELDS(log_str("command", command_name(it->command)),
                         log_bytes("stdout", bytes_of(said, n > 0 ? (size_t)n : 0))),
              "a persistent command wrote to stdout between two tasks, which breaks the protocol: "
              "the process is replaced (stdout is for answers, stderr for everything else)");
    process_kill(&it->process);
    (void)collect(it);
}

/* A process that has gone wrong since its last task is found here, before it gets the next one. */
static void look_at_idle(struct persistent *it)
{
    read_idle(it);
    if (process_ended(&it->process))
        on_idle_end(it);
    else if (has_talked(it))
        on_idle_talk(it);
}

static size_t watch(const struct runner *runner, struct pollfd *fds, int *time_out_ms)
{
    int64_t now_ms = clock_boot_ms();
    size_t n = 0;

    *time_out_ms = -1;
    for (struct persistent *it = runner->first; it != NULL; it = it->next) {
        int wait_ms;

        if (it->process.pid == 0)
            continue;
        process_tick(&it->process, now_ms);
        wait_ms = process_wait_ms(&it->process, now_ms);
        if (wait_ms >= 0 && (*time_out_ms < 0 || wait_ms < *time_out_ms))
            *time_out_ms = wait_ms;
        fds[n++] = (struct pollfd){.fd = it->process.pidfd, .events = POLLIN};
        fds[n++] = (struct pollfd){.fd = it->process.err, .events = POLLIN};
        /* What one says that is on its way out is nobody's. */
        fds[n++] = (struct pollfd){.fd = is_dismissed(it) ? -1 : it->process.out, .events = POLLIN};
    }
    return n;
}

void runner_wait(struct runner *runner, int fd)
{
    for (;;) {
        struct pollfd fds[1 + 3 * PROCESS_GROUPS_MAX] = {{.fd = fd, .events = POLLIN}};
        int time_out_ms;
        size_t n = watch(runner, fds + 1, &time_out_ms);

        if (n == 0)
            return;
        if (poll(fds, 1 + n, time_out_ms) <= 0)
            continue;
        if (fds[0].revents != 0)
            return;
        for (struct persistent *it = runner->first; it != NULL; it = it->next)
            if (it->process.pid > 0)
                look_at_idle(it);
    }
}

/* --- one task -------------------------------------------------------------------------------- */

struct exchange {
    struct runner *runner;
    struct persistent *it;
    struct bytes id;
    struct bytes unsent; /* of the task's line */
    size_t line_len;
    int64_t ready_by_ms;
    int64_t mute_ms; /* its stdout has ended, it should be gone by then; CLOCK_NEVER */
    bool answered, broken;
    enum attempt_end end;
    struct err_text *why;
};

static void send_some(struct exchange *x)
{
    struct process *process = &x->it->process;
    ssize_t n;

    if (!x->it->ready || x->unsent.len == 0 || process->in < 0)
        return;
    n = write(process->in, x->unsent.ptr, x->unsent.len);
    if (n > 0) {
        x->unsent.ptr += n;
        x->unsent.len -= (size_t)n;
    } else if (errno != EAGAIN && errno != EINTR) {
        process_close(&process->in); /* it does not read: its answer or its end tells more */
    }
}

static void take_line(struct exchange *x, struct bytes line)
{
    int rv;

    if (line.len > COMMAND_ANSWER_MAX) {
        rv = err_set(x->why, ERR_TOO_LARGE,
                     "it wrote a line of more than %u bytes to stdout: \"%.80s...\"",
                     COMMAND_ANSWER_MAX, (const char *)line.ptr);
    } else if (!x->it->ready) {
        rv = command_line_ready(line, x->why);
        x->it->ready = rv == 0;
    } else {
        rv = command_line_answer(line, x->id, &x->end, x->why);
        x->answered = rv == 0;
    }
    x->broken = rv != 0;
}

static void take_lines(struct exchange *x)
{
    struct buf *lines = &x->it->lines;
    size_t at = 0;

    while (!x->answered && !x->broken) {
        const uint8_t *stop = lines->len > at
                                  ? (const uint8_t *)memchr(lines->ptr + at, '\n', lines->len - at)
                                  : NULL;

        if (stop == NULL)
            break;
        take_line(x, bytes_of(lines->ptr + at, (size_t)(stop - lines->ptr) - at));
        at = (size_t)(stop - lines->ptr) + 1;
    }
    buf_consume(lines, at);
    if (!x->broken && !x->answered && lines->len > COMMAND_ANSWER_MAX)
        take_line(x, buf_bytes(lines));
}

/* False at the end of its stdout. */
static bool read_lines(struct exchange *x)
{
    struct buf *lines = &x->it->lines;
    ssize_t n;

    buf_reserve(lines, READ_SIZE);
    n = read(x->it->process.out, lines->ptr + lines->len, READ_SIZE);
    if (n < 0)
        return true;
    lines->len += (size_t)n;
    take_lines(x);
    return n > 0;
}

static int time_out(const struct exchange *x, int64_t now_ms)
{
    int signals = process_wait_ms(&x->it->process, now_ms);
    int64_t next = x->it->ready ? x->mute_ms : earlier(x->ready_by_ms, x->mute_ms);
    int64_t left = next == CLOCK_NEVER ? CLOCK_NEVER : next - now_ms;

    if (signals >= 0)
        left = earlier(left, signals);
    return left == CLOCK_NEVER ? -1 : left < 0 ? 0 : (int)earlier(left, 60000);
}

static void check_times(struct exchange *x, int64_t now_ms)
{
    if (now_ms >= x->mute_ms) {
        x->broken = true;
        err_set(x->why, 0, "it closed its stdout without an answer");
    } else if (!x->it->ready && now_ms >= x->ready_by_ms) {
        x->broken = true;
        err_set(x->why, 0, "it did not write {\"ready\": true} within %u s",
                x->it->command->start_time_s);
    }
}

/* Until there is an answer, or there will be none. False if the process has ended. */
static bool talk(struct exchange *x)
{
    struct process *process = &x->it->process;
    bool ended = false;

    while (!x->answered && !x->broken && !ended) {
        struct pollfd fds[4] = {{.fd = process->out, .events = POLLIN},
                                {.fd = process->err, .events = POLLIN},
                                {.fd = process->pidfd, .events = POLLIN},
                                {.fd = -1, .events = POLLOUT}};
        int64_t now_ms = clock_boot_ms();

        send_some(x);
        process_tick(process, now_ms);
        check_times(x, now_ms);
        if (x->it->ready && x->unsent.len > 0)
            fds[3].fd = process->in;
        if (poll(fds, 4, time_out(x, now_ms)) < 0)
            continue;
        if (fds[1].revents != 0 && !runner_read(process->err, &x->runner->err))
            process_close(&process->err);
        if (fds[0].revents != 0 && !read_lines(x)) {
            process_close(&process->out);
            x->mute_ms = clock_add(clock_boot_ms(), STOP_GRACE_MS);
        }
        ended = fds[2].revents != 0;
    }
    if (process->err >= 0)
        (void)runner_read(process->err, &x->runner->err);
    /* Its last words may be the answer. */
    while (ended && process->out >= 0 && !x->answered && !x->broken)
        if (!read_lines(x))
            break;
    return !ended;
}

static enum attempt_end on_death(struct exchange *x)
{
    struct persistent *it = x->it;
    bool killed = it->process.killed, terminated = it->process.terminated;
    int status = collect(it);
    struct err_text how;

    if (killed || (terminated && WIFSIGNALED(status))) {
        err_set(x->why, 0, "killed: the processing deadline passed");
        return ATTEMPT_DEADLINE;
    }
    runner_describe(x->runner, status, &how);
    err_set(x->why, 0, "the persistent command ended without an answer: %s", how.s);
    return ATTEMPT_FAILURE;
}

static void replace(struct exchange *x, const struct taskmill_call *call, const char *error)
{
    log_error(COMMAND_LOG_TARGET,
              LOG_FIELDS(log_str("id", call->id), log_str("namespace", call->namespace),
                         log_str("task", call->name),
                         log_str("command", command_name(x->it->command)), log_str("error", error)),
              "a persistent command broke the protocol: the process is replaced");
    process_kill(&x->it->process);
    (void)collect(x->it);
}

static enum attempt_end on_broken(struct exchange *x, const struct taskmill_call *call)
{
    bool late = x->it->process.killed;

    replace(x, call, x->why->s);
    return late ? ATTEMPT_DEADLINE : ATTEMPT_FAILURE;
}

/* The answer stands, but the process cannot be trusted with the next task. */
static void on_more(struct exchange *x, const struct taskmill_call *call)
{
    struct err_text error;
    struct bytes more = buf_bytes(&x->it->lines);

    if (more.len > 80)
        more.len = 80;
    err_set(&error, 0, "it wrote more to stdout than its answer: \"%.*s\"", BYTES_FMT_ARG(more));
    replace(x, call, error.s);
}

static enum attempt_end finish(struct exchange *x, const struct taskmill_call *call, bool alive)
{
    struct persistent *it = x->it;

    if (x->broken)
        return on_broken(x, call);
    if (!x->answered)
        return on_death(x);
    it->tasks++;
    process_clear_deadline(&it->process);
    it->process.terminated = false;
    if (!alive) {
        (void)collect(it);
    } else if (it->lines.len > 0) {
        on_more(x, call);
    } else if (it->process.in < 0 || it->process.out < 0 || x->unsent.len > 0 ||
               (it->command->max_tasks != 0 && it->tasks >= it->command->max_tasks)) {
        dismiss(it);
    }
    begin_idle(it);
    if (x->end != ATTEMPT_COMPLETE && x->why->s[0] == '\0')
        err_set(x->why, 0, "the command answered %s",
                x->end == ATTEMPT_RETRY ? "retry" : "failure");
    return x->end;
}

/* Waits for the end of the pause, or of the task. */
static bool may_start(const struct persistent *it, int64_t end_ms)
{
    for (;;) {
        int64_t now_ms = clock_boot_ms();

        if (now_ms >= end_ms)
            return false;
        if (now_ms >= it->start_ms)
            return true;
        (void)poll(NULL, 0, (int)(earlier(it->start_ms, end_ms) - now_ms));
    }
}

/* A process that can take a task. 0, ERR_TIMEOUT, or why it cannot be started. */
static int have_process(struct runner *runner, struct persistent *it, int64_t end_ms,
                        struct err_text *why)
{
    int rv;

    if (it->process.pid > 0)
        look_at_idle(it);
    if (is_dismissed(it))
        see_off(it, end_ms);
    if (it->process.pid > 0)
        return 0;
    if (!may_start(it, end_ms))
        return err_set(why, ERR_TIMEOUT,
                       "the processing deadline passed before %s, which keeps dying, could be "
                       "started again",
                       command_name(it->command));
    rv = start(runner, it, end_ms, why);
    if (rv != 0) {
        it->deaths++;
        it->start_ms = clock_add(clock_boot_ms(), BACKOFF_MS);
    }
    return rv;
}

/* A process that had worked before and died before it could take any byte of the task. */
static bool was_not_given(const struct exchange *x)
{
    return !x->answered && !x->broken && x->it->tasks > 0 && x->unsent.len == x->line_len &&
           !x->it->process.killed && !x->it->process.terminated;
}

static enum attempt_end run_line(struct runner *runner, struct persistent *it,
                                 const struct taskmill_call *call, struct bytes line,
                                 int64_t end_ms, struct err_text *why)
{
    int64_t now_ms = clock_boot_ms();
    struct exchange x = {.runner = runner,
                         .it = it,
                         .id = call->activation.id,
                         .unsent = line,
                         .line_len = line.len,
                         .ready_by_ms = now_ms + (int64_t)it->command->start_time_s * 1000,
                         .mute_ms = CLOCK_NEVER,
                         .why = why};
    bool alive;

    if (end_ms != CLOCK_NEVER)
        process_set_deadline(&it->process, it->command, now_ms,
                             end_ms > now_ms ? end_ms - now_ms : 1);
    alive = talk(&x);
    if (!alive && was_not_given(&x)) {
        on_idle_end(it);
        if (have_process(runner, it, end_ms, why) == 0)
            return run_line(runner, it, call, line, end_ms, why); /* once: it has no tasks yet */
        return ATTEMPT_FAILURE;
    }
    return finish(&x, call, alive);
}

enum attempt_end persistent_run(struct runner *runner, const struct command *command,
                                struct taskmill_call *call, struct err_text *why)
{
    struct persistent *it = find(runner, command);
    int64_t limit_ms = runner_limit_ms(call), now_ms = clock_boot_ms();
    int64_t end_ms = limit_ms == 0 ? CLOCK_NEVER : clock_add(now_ms, limit_ms);
    enum attempt_end end = ATTEMPT_FAILURE;
    struct buf line = {0};
    int rv = have_process(runner, it, end_ms, why);

    if (rv == ERR_TIMEOUT)
        return ATTEMPT_DEADLINE;
    if (rv != 0)
        return ATTEMPT_FAILURE;
    if (limit_ms != 0) {
        now_ms = clock_boot_ms();
        limit_ms = end_ms > now_ms ? end_ms - now_ms : 1;
    }
    if (command_line_task(call, limit_ms, &line, why) == 0) {
        runner_begin_output(runner, command, call);
        end = run_line(runner, it, call, buf_bytes(&line), end_ms, why);
        runner_end_output(runner, call);
    }
    buf_free(&line);
    return end;
}
