/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/child.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "client/dispatch.h"
#include "client/hooks.h"
#include "worker/command_run.h"
#include "worker/frame.h"

#define TARGET      "taskmill::worker"
#define AWAIT_MAX_S 86400

struct child {
    int fd;
    struct child_shared *shared;
    const struct tasks *tasks;
    struct once *once; /* NULL: nobody is asked */
    const struct child_options *options;
    struct runner runner; /* of commands */
    struct buf in, out;
    size_t pos; /* of the next frame in `in` */
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

static int answer_frame(struct child *child, uint32_t kind, uint64_t seq, uint64_t value,
                        const char *why)
{
    size_t done = 0;

    frame_put(&child->out, kind, seq, value, bytes_str(why));
    return frame_write(child->fd, &child->out, &done);
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

static int take_job(struct child *child, const struct frame_head *head, struct bytes payload)
{
    struct err_text why = {{0}};
    enum attempt_end end;
    int64_t start_us;

    if (head->value != 0) {
        enum once_answer answer = ask(child, head->value, payload, &why);
        int rv = answer_frame(child, FRAME_ASKED, head->seq, answer, why.s);

        if (rv != 0 || answer != ONCE_RUN)
            return rv;
    }
    start_us = clock_boot_us();

    atomic_store_explicit(&child->shared->started_ms, start_us / 1000, memory_order_relaxed);
    atomic_store_explicit(&child->shared->started_seq, head->seq, memory_order_release);
    end = run_task(child, child->tasks->apps[head->kind], payload, &why);
    return answer_frame(child, end, head->seq, (uint64_t)(clock_boot_us() - start_us), why.s);
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
    if (answer_frame(&child, FRAME_READY, 0, 0, "") == 0)
        serve(&child);
    runner_free(&child.runner);
    (void)fflush(NULL);
    _exit(0);
}
