/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/child.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "client/dispatch.h"
#include "client/hooks.h"
#include "command/run.h"
#include "worker/frame.h"

#define TARGET      "taskmill::worker"
#define SHORT_US    100
#define SHORT_EACH  16
#define AWAIT_MAX_S 86400

struct child {
    int fd;
    struct child_shared *shared;
    const struct tasks *tasks;
    struct once *once; /* NULL: nobody is asked */
    const struct child_options *options;
    struct runner runner; /* of commands */
    struct buf in, out;
    size_t pos;           /* of the next frame in `in` */
    uint64_t started_seq; /* as the shared one, but for CHILD_REVOKED */
    uint64_t peak_kib;    /* of memory, when it was looked at last */
    uint32_t short_tasks;
};

static void ignore(int number)
{
    (void)number;
}

/* The parent decides when to stop: a terminal or a supervisor that signals everybody must not end a
 * running task. A handler instead of SIG_IGN, so that commands start with the standard action. */
static void set_signals(void)
{
    struct sigaction deaf = {.sa_handler = ignore, .sa_flags = SA_RESTART};
    sigset_t none;

    (void)sigaction(SIGTERM, &deaf, NULL);
    (void)sigaction(SIGINT, &deaf, NULL);
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static enum attempt_end run_handler(struct taskmill_call *call, struct err_text *why)
{
    enum taskmill_status status = hooks_run(call);

    *why = call->error;
    if (status == TASKMILL_COMPLETE)
        return ATTEMPT_COMPLETE;
    return status == TASKMILL_RETRY ? ATTEMPT_RETRY : ATTEMPT_FAILURE;
}

/* Waits until what the handler sent with no_wait is delivered; the deadline goes on. A task that
 * completed but whose sends failed did not do its work: as with the original, it runs again if the
 * policy has an attempt left. */
static enum attempt_end await_sends(const struct taskmill_call *call, enum attempt_end end,
                                    struct err_text *why)
{
    if (taskmill_flush(call->app, AWAIT_MAX_S) == 0 || end != ATTEMPT_COMPLETE)
        return end;
    err_set(why, 0, "what the task sent was not delivered: %s", error_text()->s);
    return ATTEMPT_RETRY;
}

static enum attempt_end run_task(struct child *child, struct taskmill_app *app,
                                 struct bytes payload, struct err_text *why)
{
    struct taskmill_call call;
    struct activation a;
    const struct task_def *task = NULL;
    const char *fault;
    enum attempt_end end;

    why->s[0] = '\0';
    if (activation_parse(payload, &a, &fault) == 0)
        task = tasks_find(child->tasks, app->name, a.namespace, a.taskname);
    if (task == NULL) {
        err_set(why, ERR_NOT_FOUND, "the task is not known here");
        return ATTEMPT_FAILURE;
    }
    if (call_open(&call, task->ns->app, task, payload, why) != 0)
        return ATTEMPT_FAILURE;
    if (task->command != NULL)
        end = runner_run(&child->runner, (const struct command *)task->command, &call, why);
    else
        end = run_handler(&call, why);
    if (task->command == NULL && child->options->await_sends)
        end = await_sends(&call, end, why);
    call_close(&call);
    return end;
}

static int answer(struct child *child, const struct frame_head *head, const char *why)
{
    size_t done = 0;

    frame_put(&child->out, head, bytes_str(why));
    return frame_write(child->fd, &child->out, &done);
}

static uint64_t peak_kib(void)
{
    struct rusage usage;

    return getrusage(RUSAGE_SELF, &usage) == 0 ? (uint64_t)usage.ru_maxrss : 0;
}

/* An activation that cannot be read fails when it is run. */
static enum once_answer ask(struct child *child, uint64_t claim, struct bytes payload,
                            struct err_text *why)
{
    struct activation a;
    const char *fault;

    if (child->once == NULL || activation_parse(payload, &a, &fault) != 0)
        return ONCE_RUN;
    return once_ask(child->once, a.namespace, a.taskname, a.id, claim, why);
}

/* The job of this number, with CHILD_ASKING or started at once. False if the parent has it back. */
static bool reach(struct child *child, uint64_t seq)
{
    uint64_t before = child->started_seq;

    atomic_store_explicit(&child->shared->started_ms, clock_boot_ms(), memory_order_relaxed);
    if (!atomic_compare_exchange_strong_explicit(&child->shared->started_seq, &before, seq,
                                                 memory_order_acq_rel, memory_order_relaxed))
        return false;
    child->started_seq = seq;
    return true;
}

/* A job that was asked for is started: the parent cannot have it back any more. */
static void start_asked(struct child *child, uint64_t seq)
{
    atomic_store_explicit(&child->shared->started_ms, clock_boot_ms(), memory_order_relaxed);
    (void)atomic_fetch_and_explicit(&child->shared->started_seq, ~CHILD_ASKING,
                                    memory_order_release);
    child->started_seq = seq;
}

/* Whether it may start now; *rv is not 0 if the parent is gone. */
static bool ask_first(struct child *child, const struct frame_head *head, struct bytes payload,
                      int *rv)
{
    struct err_text why = {{0}};
    enum once_answer said = ask(child, head->value, payload, &why);
    struct frame_head asked = {.kind = FRAME_ASKED, .seq = head->seq, .value = said};

    *rv = answer(child, &asked, why.s);
    if (*rv != 0 || said != ONCE_RUN)
        return false;
    start_asked(child, head->seq);
    return true;
}

/* By how much the peak of memory has grown since it was looked at last. That costs as much as a
 * tiny task: of those, one in SHORT_EACH is looked at for all. */
static uint64_t grown_kib(struct child *child, int64_t run_us)
{
    uint64_t before = child->peak_kib;

    if (!child->options->measures || (run_us < SHORT_US && ++child->short_tasks % SHORT_EACH != 0))
        return 0;
    child->peak_kib = peak_kib();
    return child->peak_kib > before ? child->peak_kib - before : 0;
}

static int take_job(struct child *child, const struct frame_head *head, struct bytes payload)
{
    bool asks = head->value != 0;
    struct frame_head result = {.seq = head->seq};
    struct err_text why;
    int64_t start_us, end_us;
    int rv = 0;

    if (!reach(child, asks ? head->seq | CHILD_ASKING : head->seq))
        return 0; /* the parent has it back */
    if (asks && !ask_first(child, head, payload, &rv))
        return rv;
    start_us = clock_boot_us();
    occupancy_busy(&child->shared->account, start_us);
    result.kind = run_task(child, child->tasks->apps[head->kind], payload, &why);
    end_us = clock_boot_us();
    occupancy_wait(&child->shared->account, end_us);
    result.value = (uint64_t)(end_us - start_us);
    result.memory_kib = grown_kib(child, end_us - start_us);
    return answer(child, &result, why.s);
}

/* Until the parent closes its end. */
static void serve(struct child *child)
{
    struct frame_head head;
    struct bytes payload;

    for (;;) {
        while (frame_take(&child->in, &child->pos, &head, &payload))
            if (take_job(child, &head, payload) != 0)
                return;
        buf_consume(&child->in, child->pos);
        child->pos = 0;
        runner_wait(&child->runner, child->fd);
        if (frame_read(child->fd, &child->in) != 0)
            return;
    }
}

static int start_hooks(const struct tasks *tasks)
{
    for (size_t i = 0; i < tasks->app_count; i++) {
        for (struct child_start *hook = tasks->apps[i]->child_starts; hook; hook = hook->next) {
            int rv = hook->start(hook->arg);

            if (rv != 0) {
                log_error(TARGET, LOG_FIELDS(log_str("application", tasks->apps[i]->name)),
                          "taskmill_child_start's function returned %d; the child ends", rv);
                return rv;
            }
        }
    }
    return 0;
}

void child_main(int fd, struct child_shared *shared, const struct tasks *tasks,
                const struct child_options *options)
{
    struct child child = {.fd = fd, .shared = shared, .tasks = tasks, .options = options};

    if (options->once.redis != NULL)
        child.once = once_new(&options->once);
    set_signals();
    runner_init(&child.runner, &shared->groups);
    if (start_hooks(tasks) != 0)
        _exit(1);
    child.peak_kib = peak_kib();
    occupancy_wait(&shared->account, clock_boot_us());
    if (answer(&child, &(struct frame_head){.kind = FRAME_READY}, "") == 0)
        serve(&child);
    runner_free(&child.runner);
    (void)fflush(NULL);
    _exit(0);
}
