/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "client/dispatch.h"
#include "worker/worker_int.h"

#define SHORT_RUN_US      5000
#define VERY_SHORT_RUN_US 500
#define AHEAD_MAX         7 /* tasks for each child besides the one it runs */
#define HOST_FDS          2 /* in worker->fds: its connection, and the one before */
#define IDLE_SAY_MS       60000
#define CHILDREN_GRACE_MS 3000 /* for the 2 s that they give their persistent commands */

uint32_t worker_chance(struct worker *worker)
{
    worker->chance ^= worker->chance << 13;
    worker->chance ^= worker->chance >> 17;
    worker->chance ^= worker->chance << 5;
    return worker->chance;
}

/* With short tasks the way to the broker and back is what a child would wait for. */
static bool runs_are_short(const struct worker *worker)
{
    return worker->average_run_us >= 0 && worker->average_run_us < SHORT_RUN_US;
}

/* While tasks are short, so many for each child are on their way between here and the broker that
 * the last of them would wait for a child no longer than SHORT_RUN_US; none for a child that has
 * met a long one. */
size_t worker_capacity(const struct worker *worker)
{
    size_t ready = pool_ready(worker->pool), quick, ahead;
    int64_t more;

    if (!runs_are_short(worker))
        return ready;
    quick = ready - pool_slow(worker->pool, SHORT_RUN_US / 1000, worker->now_ms);
    more = SHORT_RUN_US / (worker->average_run_us + 1);
    ahead = quick * (size_t)(more < AHEAD_MAX ? more : AHEAD_MAX);
    return ready + (ahead < worker->options.tasks_ahead ? ahead : worker->options.tasks_ahead);
}

/* --- jobs ------------------------------------------------------------------------------------ */

void worker_free_job(struct job *job)
{
    blob_unref(job->payload);
    mem_free(job);
}

static uint32_t app_index(const struct tasks *tasks, const struct taskmill_app *app)
{
    uint32_t i = 0;

    while (tasks->apps[i] != app)
        i++;
    return i;
}

static int64_t limit_ms(uint64_t seconds)
{
    return seconds > INT64_MAX / 1000 ? CLOCK_NEVER : (int64_t)seconds * 1000;
}

/* Wall clock, UTC; what no calendar has becomes the nearest that fits. */
static int64_t received_at_us(const struct activation *a)
{
    static const int64_t max_s = INT64_C(1) << 40;
    int64_t s = a->received_at_s > max_s ? max_s : a->received_at_s < 0 ? 0 : a->received_at_s;

    return s * 1000000 + a->received_at_ns / 1000;
}

static void refuse(struct worker *worker, struct job *job, const struct activation *a)
{
    wmeters_add_task(worker->watch.meters, WM_UNKNOWN_TASK, a->namespace, a->taskname, 1);
    log_error(WORKER_TARGET,
              LOG_FIELDS(log_bytes("id", a->id), log_bytes("namespace", a->namespace),
                         log_bytes("task", a->taskname)),
              "unknown task: no module and no command file of this worker declares it");
    traffic_report(worker, job, ACTIVATION_FAILURE);
}

void worker_take_task(struct worker *worker, struct source *source,
                      const struct task_response *response)
{
    const struct tasks *tasks = worker->options.tasks;
    struct job *job = mem_zalloc(sizeof *job);
    const char *fault = "";
    struct activation a;

    job->payload = blob_copy(response->activation);
    job->source = source;
    job->broker_claim = response->claim;
    job->received_ms = worker->now_ms;
    if (activation_parse(blob_bytes(job->payload), &a, &fault) != 0) {
        /* Without an id there is nothing to report; the broker's deadline ends it. */
        log_error(WORKER_TARGET, LOG_FIELDS(log_str("error", fault)),
                  "a broker handed out an activation that cannot be read");
        worker_free_job(job);
        return;
    }
    source->held++;
    if (worker->watch.is_get_task)
        wmeters_add_task(worker->watch.meters, WM_GET_TASK, a.namespace, a.taskname, 1);
    job->id = a.id;
    job->attempts = a.retry_state.attempts;
    job->has_received_at = a.has_received_at;
    job->received_at_us = received_at_us(&a);
    job->deadline_ms = limit_ms(a.processing_deadline_duration);
    job->task =
        tasks_find(tasks, tasks->applications[source->application], a.namespace, a.taskname);
    if (job->task == NULL) {
        refuse(worker, job, &a);
        return;
    }
    job->app = app_index(tasks, job->task->ns->app);
    if (once_guards(worker, job))
        job->claim = ++worker->claim_number;
    list_push_back(&worker->queue, &job->node);
}

static void log_end(const struct job *job, enum attempt_end end, enum activation_status status,
                    const char *why)
{
    static const char *const said[] = {[ATTEMPT_COMPLETE] = "completed",
                                       [ATTEMPT_FAILURE] = "failed",
                                       [ATTEMPT_RETRY] = "asked for a retry",
                                       [ATTEMPT_DEADLINE] = "ran past its deadline"};

    if (end == ATTEMPT_COMPLETE)
        return;
    log_at(status == ACTIVATION_RETRY ? LOG_INFO : LOG_WARN, WORKER_TARGET,
           LOG_FIELDS(log_bytes("id", job->id), log_str("namespace", job->task->ns->name),
                      log_str("task", job->task->name), log_int("attempt", job->attempts),
                      log_str("error", why)),
           "a task %s%s", said[end],
           status == ACTIVATION_RETRY ? ": it will run again"
           : end == ATTEMPT_RETRY     ? ", but has no attempt left"
                                      : "");
}

static void measure(struct worker *worker, const struct job *job, enum attempt_end end,
                    enum activation_status status, int64_t run_us)
{
    struct meters_run run = {.task = job->task,
                             .host = container_of(job->source->peer, struct host, peer)->name,
                             .end = end,
                             .status = status,
                             .run_us = run_us,
                             .memory_kib = job->memory_kib,
                             .has_received_at = job->has_received_at};

    if (worker->watch.meters == NULL)
        return;
    run.latency_us = clock_wall_us() - job->received_at_us;
    wmeters_task(worker->watch.meters, &run);
    if (job->task->options.at_most_once)
        wmeters_add_task(worker->watch.meters, WM_ONCE_EXECUTED, bytes_str(job->task->ns->name),
                         bytes_str(job->task->name), 1);
}

static void on_done(void *ctx, struct job *job, enum attempt_end end, const char *why,
                    int64_t run_us)
{
    struct worker *worker = (struct worker *)ctx;
    enum activation_status status = retry_decide(&job->task->options.retry, job->attempts, end);

    worker->finished++;
    if (worker->average_run_us < 0)
        worker->average_run_us = run_us;
    worker->average_run_us += (run_us - worker->average_run_us) / 16;
    log_end(job, end, status, why);
    measure(worker, job, end, status, run_us);
    traffic_report(worker, job, status);
}

/* Left to its broker, which gives it to another worker after its deadline. */
static void abandon(struct job *job)
{
    log_error(WORKER_TARGET,
              LOG_FIELDS(log_bytes("id", job->id), log_str("namespace", job->task->ns->name),
                         log_str("task", job->task->name)),
              "--shutdown-timeout is over: a task is killed, or was not started, and has no "
              "result; its broker counts it as late after its deadline");
    job->source->held--;
    worker_free_job(job);
}

static void on_returned(void *ctx, struct job *job)
{
    struct worker *worker = (struct worker *)ctx;

    if (worker->is_abandoning) {
        abandon(job);
        return;
    }
    if (job->claim != 0)
        once_not_asked(&worker->outage);
    list_push_front(&worker->queue, &job->node);
}

static void on_asked(void *ctx, struct job *job, enum once_answer answer, const char *why)
{
    once_asked((struct worker *)ctx, job, answer, why);
}

static void on_child(void *ctx, enum pool_child what)
{
    static const char *const lost[] = {[POOL_CHILD_KILLED] = "deadline",
                                       [POOL_CHILD_SIGNALLED] = "signal",
                                       [POOL_CHILD_EXITED] = "exit"};
    struct worker *worker = (struct worker *)ctx;
    struct worker_meters *meters = worker->watch.meters;
    char count[16];

    switch (what) {
    case POOL_CHILD_STARTED:
        wmeters_add_for(meters, WM_SPAWN_CHILD, "success", 1);
        break;
    case POOL_CHILD_NOT_STARTED:
        wmeters_add_for(meters, WM_SPAWN_FAILED, "failure", 1);
        break;
    case POOL_CHILD_WORN:
        (void)snprintf(count, sizeof count, "%u", worker->options.max_child_task_count);
        wmeters_add_for(meters, WM_MAX_TASKS, count, 1);
        break;
    default:
        wmeters_add_for(meters, WM_CHILDREN_LOST, lost[what], 1);
    }
}

/* In a new child. */
static void on_forked(void *ctx)
{
    struct worker *worker = (struct worker *)ctx;

    close(worker->signal_fd);
    watch_forked(worker);
    traffic_forked(worker);
}

/* Its deadline at the broker ran since the claim: by now another worker may have it. If not, it can
 * have it now. */
static bool waited_too_long(const struct worker *worker, const struct job *job)
{
    return job->deadline_ms != 0 && worker->now_ms - job->received_ms > job->deadline_ms;
}

/* Back to its broker, unless its key may be in Redis: then every other worker would take it for a
 * duplicate, and report it complete. */
static void part_with(struct worker *worker, struct job *job)
{
    if (!job->is_asked) {
        traffic_give_back(worker, job);
        return;
    }
    log_warn(
        WORKER_TARGET, LOG_FIELDS(log_bytes("id", job->id), log_str("task", job->task->name)),
        "an at-most-once task that may have its key in Redis is not started; it is left to the "
        "broker");
    job->source->held--;
    worker_free_job(job);
}

static void give_back_unstarted(struct worker *worker)
{
    struct list_node *node;

    once_release(worker);
    while ((node = list_pop_front(&worker->queue)) != NULL)
        part_with(worker, container_of(node, struct job, node));
}

/* How many jobs a child may have at once. The shorter they are, the more of its time goes into
 * waking it: four at a time cost a third less than two. The last of them must not wait long behind
 * the others. */
static uint32_t jobs_each(const struct worker *worker)
{
    if (!runs_are_short(worker))
        return 1;
    return worker->average_run_us < VERY_SHORT_RUN_US ? 4 : 2;
}

static void assign_jobs(struct worker *worker)
{
    struct list_node *node;

    once_release(worker);
    if (worker->draining)
        give_back_unstarted(worker);
    while ((node = list_first(&worker->queue)) != NULL) {
        struct job *job = container_of(node, struct job, node);

        list_remove(&worker->queue, node);
        if (waited_too_long(worker, job)) {
            log_warn(WORKER_TARGET,
                     LOG_FIELDS(log_bytes("id", job->id), log_str("task", job->task->name)),
                     "a claimed task could not be started in time");
            wmeters_add(worker->watch.meters, WM_TASKS_LEFT, 1);
            part_with(worker, job);
            continue;
        }
        if (once_hold(worker, job))
            continue;
        if (!pool_assign(worker->pool, job, jobs_each(worker), worker->now_ms)) {
            if (job->claim != 0)
                once_not_asked(&worker->outage);
            list_push_front(&worker->queue, node);
            break;
        }
    }
    pool_flush(worker->pool);
}

/* --- health ---------------------------------------------------------------------------------- */

static void touch_health(struct worker *worker)
{
    if (health_file_tick(&worker->health, worker->now_ms))
        wmeters_add(worker->watch.meters, WM_HEALTH_TOUCHED, 1);
}

static void say_idle(struct worker *worker)
{
    if (worker->options.tasks->application_count > 0 || worker->now_ms < worker->idle_said_ms)
        return;
    worker->idle_said_ms = worker->now_ms + IDLE_SAY_MS;
    log_warn(
        WORKER_TARGET, NULL,
        "no task is declared: nothing is claimed; give --module or --commands, or put files into "
        "TASKMILL_MODULES, TASKMILL_COMMANDS or /etc/taskmill/worker.d");
}

/* --- the loop -------------------------------------------------------------------------------- */

static void begin_drain(struct worker *worker, uint32_t signal_number)
{
    if (worker->draining) {
        worker->killed = true;
        return;
    }
    worker->draining = true;
    watch_draining(worker);
    if (worker->options.has_shutdown_timeout)
        worker->shutdown_end_ms = clock_add(worker->now_ms, worker->options.shutdown_timeout_ms);
    traffic_hurry_reports(worker);
    log_info(WORKER_TARGET,
             LOG_FIELDS(log_int("running", (int64_t)pool_jobs(worker->pool)),
                        log_int("waiting", (int64_t)worker->queue.count)),
             "%s: no new tasks; what is running goes on to its end, the rest goes back",
             strsignal((int)signal_number));
    pool_revoke(worker->pool);
    give_back_unstarted(worker); /* before a --shutdown-timeout of 0 */
}

static void take_signals(struct worker *worker)
{
    struct signalfd_siginfo info;

    while (read(worker->signal_fd, &info, sizeof info) == (ssize_t)sizeof info)
        if (info.ssi_signo == SIGCHLD)
            pool_reap(worker->pool, worker->now_ms);
        else
            begin_drain(worker, info.ssi_signo);
}

static bool all_idle(const struct worker *worker)
{
    return list_empty(&worker->queue) && list_empty(&worker->held) && pool_jobs(worker->pool) == 0;
}

/* --shutdown-timeout: what has not ended by now is not waited for. */
static void end_shutdown(struct worker *worker)
{
    struct list_node *node;

    if (worker->now_ms < worker->shutdown_end_ms)
        return;
    worker->shutdown_end_ms = CLOCK_NEVER;
    worker->is_abandoning = true;
    pool_kill(worker->pool, worker->now_ms);
    while ((node = list_pop_front(&worker->queue)) != NULL ||
           (node = list_pop_front(&worker->held)) != NULL)
        abandon(container_of(node, struct job, node));
}

/* True when a draining worker has nothing left to do, or gives up on its reports. */
static bool drained(struct worker *worker)
{
    if (!worker->draining || !all_idle(worker))
        return false;
    watch_reporting(worker);
    if (worker->sent == 0 && worker->returning == 0 && list_empty(&worker->reports) &&
        list_empty(&worker->open_claims))
        return true;
    if (worker->drain_end_ms == CLOCK_NEVER) {
        worker->drain_end_ms = clock_add(worker->now_ms, worker->options.drain_timeout_ms);
        worker->drain_gone_ms = clock_add(worker->now_ms, worker->options.drain_gone_ms);
    }
    if (worker->now_ms >= worker->drain_end_ms)
        return true;
    return worker->now_ms >= worker->drain_gone_ms &&
           traffic_all_gone(worker, worker->now_ms - worker->options.drain_gone_ms);
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int wait_ms(const struct worker *worker)
{
    int64_t next = earlier(pool_next_ms(worker->pool), traffic_next_ms(worker)), left;

    for (size_t i = 0; i < worker->options.hosts->count; i++) {
        next = earlier(next, rpc_client_next_ms(worker->hosts[i].rpc));
        if (worker->hosts[i].leaving != NULL)
            next = earlier(next, rpc_client_next_ms(worker->hosts[i].leaving));
    }
    next = earlier(next, worker->health.next_ms);
    if (worker->options.tasks->application_count == 0)
        next = earlier(next, worker->idle_said_ms);
    next = earlier(next, once_next_ms(worker));
    next = earlier(next, watch_next_ms(worker));
    next = earlier(next, worker->drain_end_ms);
    next = earlier(next, worker->shutdown_end_ms);
    left = next - clock_boot_ms();
    return left <= 0 ? 0 : left > 60000 ? 60000 : (int)left;
}

static struct pollfd pollfd_of(const struct rpc_client *rpc)
{
    if (rpc == NULL)
        return (struct pollfd){.fd = -1};
    return (struct pollfd){.fd = rpc_client_fd(rpc), .events = rpc_client_events(rpc)};
}

static void wait_events(struct worker *worker)
{
    size_t n = 1;

    worker->fds[0] = (struct pollfd){.fd = worker->signal_fd, .events = POLLIN};
    for (size_t i = 0; i < worker->options.hosts->count; i++) {
        worker->fds[n++] = pollfd_of(worker->hosts[i].rpc);
        worker->fds[n++] = pollfd_of(worker->hosts[i].leaving);
    }
    n += pool_poll(worker->pool, worker->fds + n);
    watch_poll(worker, worker->fds + n);
    n += WATCH_FDS;
    if (poll(worker->fds, n, wait_ms(worker)) < 0)
        for (size_t i = 0; i < n; i++)
            worker->fds[i].revents = 0;
    worker->now_ms = clock_boot_ms();
}

static void serve_ready(struct rpc_client *rpc, const struct pollfd *fd, int64_t now_ms)
{
    if (rpc != NULL && (fd->revents != 0 || rpc_client_next_ms(rpc) <= now_ms))
        rpc_client_io(rpc, now_ms);
}

static void serve_hosts(struct worker *worker)
{
    for (size_t i = 0; i < worker->options.hosts->count; i++) {
        const struct pollfd *fds = worker->fds + 1 + HOST_FDS * i;

        serve_ready(worker->hosts[i].rpc, &fds[0], worker->now_ms);
        serve_ready(worker->hosts[i].leaving, &fds[1], worker->now_ms);
    }
    traffic_replace_leaving(worker);
}

/* Sends what this turn has to say. */
static void serve_dirty_hosts(struct worker *worker)
{
    for (size_t i = 0; i < worker->options.hosts->count; i++) {
        struct host *host = &worker->hosts[i];

        if (!host->dirty)
            continue;
        host->dirty = false;
        rpc_client_io(host->rpc, worker->now_ms);
        if (host->leaving != NULL)
            rpc_client_io(host->leaving, worker->now_ms);
    }
    traffic_replace_leaving(worker);
}

static void turn(struct worker *worker)
{
    wait_events(worker);
    serve_hosts(worker);
    pool_io(worker->pool, worker->fds + 1 + HOST_FDS * worker->options.hosts->count,
            worker->now_ms);
    if (worker->fds[0].revents != 0)
        take_signals(worker);
    end_shutdown(worker);
    pool_tick(worker->pool, worker->now_ms);
    traffic_send_reports(worker);
    assign_jobs(worker);
    traffic_send_returns(worker);
    traffic_claim(worker);
    serve_dirty_hosts(worker);
    touch_health(worker);
    say_idle(worker);
    watch_turn(worker, worker->fds + 1 + HOST_FDS * worker->options.hosts->count +
                           worker->options.concurrency);
}

static int open_signals(struct worker *worker, sigset_t *before, struct err_text *why)
{
    sigset_t ours;

    sigemptyset(&ours);
    sigaddset(&ours, SIGTERM);
    sigaddset(&ours, SIGINT);
    sigaddset(&ours, SIGCHLD);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)sigprocmask(SIG_BLOCK, &ours, before);
    worker->signal_fd = signalfd(-1, &ours, SFD_CLOEXEC | SFD_NONBLOCK);
    return worker->signal_fd >= 0 ? 0 : err_set(why, ERR_SYSTEM, "signalfd: %s", strerror(errno));
}

static int open_all(struct worker *worker, struct err_text *why)
{
    struct pool_options pool = {.tasks = worker->options.tasks,
                                .size = worker->options.concurrency,
                                .min_ready = worker->options.min_concurrency,
                                .max_tasks = worker->options.max_child_task_count,
                                .max_memory_bytes = worker->options.max_child_memory_bytes,
                                .start_timeout_ms = worker->options.start_timeout_ms,
                                .child = {.measures = watch_is_wanted(&worker->options.watch),
                                          .once = worker->options.once,
                                          .await_sends = worker->options.await_sends},
                                .events = {.ctx = worker,
                                           .done = on_done,
                                           .returned = on_returned,
                                           .asked = on_asked,
                                           .child = on_child,
                                           .forked = on_forked}};
    int rv;

    if (getrandom(&pool.child.once.worker, sizeof pool.child.once.worker, 0) < 0)
        return err_set(why, ERR_SYSTEM, "getrandom: %s", strerror(errno));
    while (worker->chance == 0)
        if (getrandom(&worker->chance, sizeof worker->chance, 0) < 0 && errno != EINTR)
            return err_set(why, ERR_SYSTEM, "getrandom: %s", strerror(errno));
    rv = health_file_open(&worker->health, worker->options.health_path,
                          worker->options.health_every_ms, WORKER_TARGET, clock_boot_ms(), why);
    if (rv == 0)
        rv = watch_open(worker, why);
    if (rv == 0)
        rv = traffic_open(worker, why);
    if (rv == 0)
        rv = pool_new(&worker->pool, &pool, why);
    if (rv == 0)
        worker->fds =
            mem_calloc(1 + HOST_FDS * worker->options.hosts->count + pool.size + WATCH_FDS,
                       sizeof *worker->fds);
    return rv;
}

static void free_jobs(struct list *jobs)
{
    struct list_node *node;

    while ((node = list_pop_front(jobs)) != NULL)
        worker_free_job(container_of(node, struct job, node));
}

/* Calls under way end here, and put their jobs back among the reports. */
static void close_all(struct worker *worker)
{
    watch_close(worker);
    traffic_close(worker);
    if (worker->pool != NULL)
        pool_free(worker->pool);
    free_jobs(&worker->reports);
    free_jobs(&worker->queue);
    free_jobs(&worker->held);
    mem_free(worker->fds);
    if (worker->signal_fd >= 0)
        close(worker->signal_fd);
}

static int finish(struct worker *worker)
{
    size_t unreported = worker->sent + worker->reports.count;

    watch_ended(worker, worker->queue.count + worker->held.count + pool_jobs(worker->pool),
                unreported);

    if (worker->killed)
        log_error(WORKER_TARGET, LOG_FIELDS(log_int("running", (int64_t)pool_jobs(worker->pool))),
                  "second signal: running tasks are killed");
    else if (unreported > 0)
        log_error(
            WORKER_TARGET, LOG_FIELDS(log_int("reports", (int64_t)unreported)),
            "reports could not be delivered: their tasks will run again after their deadline");
    else
        log_info(WORKER_TARGET, LOG_FIELDS(log_int("tasks", (int64_t)worker->finished)), "stopped");
    return worker->killed || unreported > 0;
}

static void say_start(const struct worker *worker)
{
    const struct worker_options *o = &worker->options;

    log_info(WORKER_TARGET,
             LOG_FIELDS(log_int("concurrency", o->concurrency),
                        log_int("tasks", (int64_t)tasks_count(o->tasks)),
                        log_int("applications", (int64_t)o->tasks->application_count),
                        log_int("brokers", (int64_t)o->hosts->count),
                        log_str("broker", o->hosts->items[0])),
             "worker started");
}

int worker_run(const struct worker_options *options)
{
    struct worker worker = {.options = *options,
                            .signal_fd = -1,
                            .average_run_us = -1,
                            .shutdown_end_ms = CLOCK_NEVER,
                            .drain_end_ms = CLOCK_NEVER,
                            .drain_gone_ms = CLOCK_NEVER,
                            .now_ms = clock_boot_ms()};
    struct err_text why;
    sigset_t before;
    int code = 1;

    list_init(&worker.open_claims);
    list_init(&worker.reports);
    list_init(&worker.queue);
    list_init(&worker.held);
    for (size_t i = 0; i < options->tasks->app_count; i++)
        dispatch_default_broker(options->tasks->apps[i], options->hosts->items[0], options->secret,
                                &options->tls);
    if (open_signals(&worker, &before, &why) != 0 || open_all(&worker, &why) != 0) {
        log_error(WORKER_TARGET, NULL, "%s", why.s);
    } else {
        say_start(&worker);
        while (!worker.killed && !drained(&worker))
            turn(&worker);
        if (!worker.killed)
            pool_stop(worker.pool, CHILDREN_GRACE_MS);
        code = finish(&worker);
    }
    close_all(&worker);
    (void)sigprocmask(SIG_SETMASK, &before, NULL);
    return code;
}
