/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/pool.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "worker/frame.h"
#include "worker/memory.h"

#define TARGET         "taskmill::worker"
#define RESPAWN_MS     100
#define RESPAWN_MAX_MS 5000
#define WEIGH_EVERY_MS 200 /* a look at a child's memory costs more than a short task */

enum slot_state {
    SLOT_EMPTY,    /* no process; one is started at spawn_ms */
    SLOT_STARTING, /* forked, not ready */
    SLOT_READY,
    SLOT_LEAVING, /* we have shut its socket: it ends */
    SLOT_DYING    /* it has closed its socket unasked */
};

struct slot {
    enum slot_state state;
    pid_t pid;
    int fd;
    struct child_shared *shared;
    struct buf in, out;
    size_t out_done;
    struct list jobs;      /* in the order they were given */
    int64_t head_given_ms; /* when the first of them was given, or became first */
    uint32_t given;        /* in the life of this process */
    bool killed;           /* by us: a missed deadline, too slow a start, the end */
    bool is_heavy;         /* has too much memory */
    bool is_released;      /* worn out, and gets no more jobs */
    int64_t spawned_ms, weighed_ms;
    bool finished_any;
    uint32_t failures; /* deaths in a row without a finished job */
    int64_t spawn_ms;
};

/* Cache lines of its own for each: children write them. */
union shared_cell {
    struct child_shared shared;
    char line[64];
} __attribute__((aligned(64)));

struct pool {
    struct pool_options options;
    struct slot *slots;
    union shared_cell *cells;
    size_t ready; /* in SLOT_READY and not released */
    size_t jobs;
    uint64_t next_seq;
    bool is_stopped;
    bool is_revoked;            /* no more jobs */
    struct occupancy_time past; /* of children that have ended */
};

int pool_new(struct pool **out, const struct pool_options *options, struct err_text *why)
{
    size_t bytes = options->size * sizeof(union shared_cell);
    void *cells = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct pool *pool;

    if (cells == MAP_FAILED)
        return err_set(why, ERR_SYSTEM, "memory for %u children: %s", options->size,
                       strerror(errno));
    pool = mem_zalloc(sizeof *pool);
    pool->options = *options;
    pool->cells = (union shared_cell *)cells;
    pool->slots = mem_calloc(options->size, sizeof *pool->slots);
    pool->next_seq = 1;
    for (uint32_t i = 0; i < options->size; i++) {
        pool->slots[i].fd = -1;
        pool->slots[i].shared = &pool->cells[i].shared;
        list_init(&pool->slots[i].jobs);
    }
    *out = pool;
    return 0;
}

static void tell(const struct pool *pool, enum pool_child what)
{
    if (pool->options.events.child != NULL)
        pool->options.events.child(pool->options.events.ctx, what);
}

static bool takes_jobs(const struct slot *slot)
{
    return slot->state == SLOT_READY && !slot->is_released;
}

static void set_state(struct pool *pool, struct slot *slot, enum slot_state state)
{
    pool->ready -= takes_jobs(slot);
    slot->state = state;
    pool->ready += takes_jobs(slot);
}

/* --- start ----------------------------------------------------------------------------------- */

static void in_child(struct pool *pool, struct slot *slot, int fd, pid_t parent)
{
    (void)setpgid(0, 0);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    /* The parent's ends: a child that kept one would hide the parent's death from its brother. */
    for (uint32_t i = 0; i < pool->options.size; i++)
        if (pool->slots[i].fd >= 0)
            close(pool->slots[i].fd);
    pool->options.events.forked(pool->options.events.ctx);
    child_main(fd, slot->shared, pool->options.tasks, &pool->options.child);
}

static int spawn(struct pool *pool, struct slot *slot, int64_t now_ms)
{
    int ends[2];
    pid_t parent = getpid(), pid;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        return ERR_SYSTEM;
    atomic_store(&slot->shared->started_seq, 0);
    for (size_t i = 0; i < PROCESS_GROUPS_MAX; i++)
        atomic_store(&slot->shared->groups.leaders[i], 0);
    occupancy_reset(&slot->shared->account);
    (void)fflush(NULL);
    pid = fork();
    if (pid == 0) {
        close(ends[0]);
        in_child(pool, slot, ends[1], parent);
    }
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return ERR_SYSTEM;
    }
    /* Both sides do it, so that neither has to wait for the other. */
    (void)setpgid(pid, pid);
    (void)fcntl(ends[0], F_SETFL, O_NONBLOCK);
    slot->fd = ends[0];
    slot->pid = pid;
    slot->given = 0;
    slot->spawned_ms = now_ms;
    slot->weighed_ms = 0;
    slot->killed = slot->finished_any = slot->is_heavy = slot->is_released = false;
    set_state(pool, slot, SLOT_STARTING);
    return 0;
}

static void try_spawn(struct pool *pool, struct slot *slot, int64_t now_ms)
{
    if (spawn(pool, slot, now_ms) == 0) {
        tell(pool, POOL_CHILD_STARTED);
        return;
    }
    tell(pool, POOL_CHILD_NOT_STARTED);
    log_error(TARGET, LOG_FIELDS(log_str("error", strerror(errno))), "cannot start a child");
    slot->spawn_ms = now_ms + RESPAWN_MAX_MS;
}

/* --- end ------------------------------------------------------------------------------------- */

/* Its commands have groups of their own. They go first: a dead child's would be collected by
 * somebody else, and their numbers be free for others. */
static void kill_slot(const struct slot *slot)
{
    (void)kill(-slot->pid, SIGSTOP); /* it is not to see them die, and report that */
    process_groups_kill(&slot->shared->groups);
    (void)kill(-slot->pid, SIGKILL);
}

static void end_account(struct pool *pool, struct slot *slot)
{
    occupancy_add(&slot->shared->account, clock_boot_us(), &pool->past);
    occupancy_reset(&slot->shared->account);
}

static void drop_buffers(struct slot *slot)
{
    buf_free(&slot->in);
    buf_free(&slot->out);
    slot->out_done = 0;
}

static struct job *take_first(struct pool *pool, struct slot *slot, int64_t now_ms)
{
    struct list_node *node = list_pop_front(&slot->jobs);

    if (node == NULL)
        return NULL;
    pool->jobs--;
    slot->head_given_ms = now_ms;
    return container_of(node, struct job, node);
}

/* The job stays with the child if the answer is yes. */
static void on_asked(struct pool *pool, struct slot *slot, enum once_answer answer,
                     struct bytes body, int64_t now_ms)
{
    struct list_node *node = list_first(&slot->jobs);
    struct err_text why;

    if (node == NULL)
        return;
    container_of(node, struct job, node)->is_asked = true;
    if (answer != ONCE_RUN)
        (void)take_first(pool, slot, now_ms);
    slot->finished_any = true;
    slot->failures = 0;
    err_set(&why, 0, "%.*s", BYTES_FMT_ARG(body));
    pool->options.events.asked(pool->options.events.ctx, container_of(node, struct job, node),
                               answer, why.s);
}

static bool worn_out(const struct pool *pool, const struct slot *slot)
{
    return slot->is_heavy ||
           (pool->options.max_tasks != 0 && slot->given >= pool->options.max_tasks);
}

/* A worn-out child gets no more jobs once enough others do. */
static void release_worn_out(struct pool *pool, struct slot *slot)
{
    if (!takes_jobs(slot) || !worn_out(pool, slot) || pool->ready <= pool->options.min_ready)
        return;
    pool->ready--;
    slot->is_released = true;
}

/* Looks, now and then, whether the child has grown too large. */
static void weigh(const struct pool *pool, struct slot *slot, int64_t now_ms)
{
    uint64_t bytes;

    if (pool->options.max_memory_bytes == 0 || slot->is_heavy ||
        now_ms - slot->weighed_ms < WEIGH_EVERY_MS)
        return;
    slot->weighed_ms = now_ms;
    bytes = memory_resident(slot->pid);
    slot->is_heavy = bytes > pool->options.max_memory_bytes;
    if (slot->is_heavy)
        log_info(TARGET,
                 LOG_FIELDS(log_int("pid", slot->pid), log_int("mb", (int64_t)(bytes >> 20)),
                            log_int("limit_mb", (int64_t)(pool->options.max_memory_bytes >> 20))),
                 "a child has grown too large: it is replaced");
}

static void on_frame(struct pool *pool, struct slot *slot, const struct frame_head *head,
                     struct bytes body, int64_t now_ms)
{
    struct err_text why;
    struct job *job;

    if (head->kind == FRAME_READY) {
        if (slot->state == SLOT_STARTING)
            set_state(pool, slot, SLOT_READY);
        return;
    }
    if (head->kind == FRAME_ASKED) {
        on_asked(pool, slot, (enum once_answer)head->value, body, now_ms);
        return;
    }
    /* That it failed may be our doing; that it completed is not. */
    if (slot->killed && head->kind != ATTEMPT_COMPLETE)
        return;
    job = take_first(pool, slot, now_ms);
    if (job == NULL)
        return;
    slot->finished_any = true;
    slot->failures = 0;
    err_set(&why, 0, "%.*s", BYTES_FMT_ARG(body));
    job->memory_kib = head->memory_kib;
    pool->options.events.done(pool->options.events.ctx, job, (enum attempt_end)head->kind, why.s,
                              (int64_t)head->value);
    weigh(pool, slot, now_ms);
    release_worn_out(pool, slot);
}

static void take_frames(struct pool *pool, struct slot *slot, int64_t now_ms)
{
    struct frame_head head;
    struct bytes body;
    size_t pos = 0;

    while (frame_take(&slot->in, &pos, &head, &body))
        on_frame(pool, slot, &head, body, now_ms);
    buf_consume(&slot->in, pos);
}

/* Everything the dead child has said. */
static void read_rest(struct pool *pool, struct slot *slot, int64_t now_ms)
{
    size_t before;

    do {
        before = slot->in.len;
    } while (frame_read(slot->fd, &slot->in) == 0 && slot->in.len > before);
    take_frames(pool, slot, now_ms);
}

static void describe(struct err_text *why, const struct slot *slot, const siginfo_t *info)
{
    if (slot->killed)
        err_set(why, 0, "killed: the processing deadline passed");
    else if (info->si_code == CLD_EXITED)
        err_set(why, 0, "the child called exit(%d)", info->si_status);
    else
        err_set(why, 0, "the child was killed by signal %d (%s)", info->si_status,
                strsignal(info->si_status));
}

/* The first job was running if the child has said so; those behind it were not. */
static void settle_jobs(struct pool *pool, struct slot *slot, const siginfo_t *info, int64_t now_ms)
{
    uint64_t started = child_started(slot->shared), reached = child_reached(slot->shared);
    struct err_text why;
    struct job *job;

    describe(&why, slot, info);
    while ((job = take_first(pool, slot, now_ms)) != NULL) {
        int64_t run_ms = now_ms - atomic_load(&slot->shared->started_ms);

        if (job->seq <= started)
            pool->options.events.done(pool->options.events.ctx, job,
                                      slot->killed ? ATTEMPT_DEADLINE : ATTEMPT_FAILURE, why.s,
                                      run_ms * 1000);
        else {
            job->is_asked |= job->seq <= reached;
            pool->options.events.returned(pool->options.events.ctx, job);
        }
    }
}

static void bury(struct pool *pool, struct slot *slot, const siginfo_t *info, int64_t now_ms)
{
    bool expected = slot->state == SLOT_LEAVING;
    uint32_t shift;

    /* Before the process is collected, so that its group's number is still its own. */
    if (!expected)
        kill_slot(slot);
    (void)waitpid(slot->pid, NULL, 0);
    read_rest(pool, slot, now_ms);
    if (!expected && !slot->killed && list_empty(&slot->jobs))
        log_warn(TARGET, LOG_FIELDS(log_int("pid", slot->pid)), "a child ended unasked");
    if (!expected)
        tell(pool, slot->killed                  ? POOL_CHILD_KILLED
                   : info->si_code == CLD_EXITED ? POOL_CHILD_EXITED
                                                 : POOL_CHILD_SIGNALLED);
    end_account(pool, slot);
    settle_jobs(pool, slot, info, now_ms);
    close(slot->fd);
    slot->fd = -1;
    drop_buffers(slot);
    if (!slot->finished_any && !expected)
        slot->failures++;
    shift = slot->failures < 10 ? slot->failures : 10;
    slot->spawn_ms = now_ms;
    if (slot->failures > 0)
        slot->spawn_ms +=
            RESPAWN_MS << shift < RESPAWN_MAX_MS ? RESPAWN_MS << shift : RESPAWN_MAX_MS;
    set_state(pool, slot, SLOT_EMPTY);
}

void pool_reap(struct pool *pool, int64_t now_ms)
{
    for (uint32_t i = 0; i < pool->options.size; i++) {
        struct slot *slot = &pool->slots[i];
        siginfo_t info = {0};

        if (slot->state != SLOT_EMPTY &&
            waitid(P_PID, (id_t)slot->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
            info.si_pid == slot->pid)
            bury(pool, slot, &info, now_ms);
    }
}

/* Until the child has closed its socket, which it does by ending. */
static void await_end(struct slot *slot, int64_t end_ms)
{
    int64_t left;

    while ((left = end_ms - clock_boot_ms()) > 0) {
        struct pollfd fd = {.fd = slot->fd, .events = POLLIN};

        if (poll(&fd, 1, (int)left) > 0 && frame_read(slot->fd, &slot->in) != 0)
            return;
    }
}

void pool_stop(struct pool *pool, int64_t grace_ms)
{
    int64_t end_ms = clock_add(clock_boot_ms(), grace_ms);

    for (uint32_t i = 0; i < pool->options.size; i++)
        if (pool->slots[i].state != SLOT_EMPTY)
            (void)shutdown(pool->slots[i].fd, SHUT_WR);
    for (uint32_t i = 0; i < pool->options.size; i++)
        if (pool->slots[i].state != SLOT_EMPTY && list_empty(&pool->slots[i].jobs))
            await_end(&pool->slots[i], end_ms);
}

static void end_slot(struct pool *pool, struct slot *slot, int64_t now_ms)
{
    struct job *job;

    if (slot->state != SLOT_EMPTY) {
        close(slot->fd);
        end_account(pool, slot);
    }
    slot->fd = -1;
    drop_buffers(slot);
    set_state(pool, slot, SLOT_EMPTY);
    while ((job = take_first(pool, slot, now_ms)) != NULL)
        pool->options.events.returned(pool->options.events.ctx, job);
}

static void kill_and_collect(const struct slot *slot)
{
    if (slot->state == SLOT_EMPTY)
        return;
    kill_slot(slot);
    (void)waitpid(slot->pid, NULL, 0);
}

void pool_kill(struct pool *pool, int64_t now_ms)
{
    pool->is_stopped = true;
    for (uint32_t i = 0; i < pool->options.size; i++) {
        struct slot *slot = &pool->slots[i];

        slot->killed = true;
        kill_and_collect(slot);
        if (slot->state != SLOT_EMPTY)
            read_rest(pool, slot, now_ms);
        end_slot(pool, slot, now_ms);
    }
}

void pool_free(struct pool *pool)
{
    for (uint32_t i = 0; i < pool->options.size; i++) {
        kill_and_collect(&pool->slots[i]);
        end_slot(pool, &pool->slots[i], 0);
    }
    (void)munmap(pool->cells, pool->options.size * sizeof(union shared_cell));
    mem_free(pool->slots);
    mem_free(pool);
}

/* --- deadlines ------------------------------------------------------------------------------- */

/* When the first job of the child must be looked at. Its clock runs from its start, which the child
 * has written down; until then, from when it was given. */
static int64_t slot_due(const struct slot *slot)
{
    const struct list_node *node = list_first(&slot->jobs);
    const struct job *job;
    int64_t from = slot->head_given_ms;

    if (node == NULL || slot->killed)
        return CLOCK_NEVER;
    job = container_of(node, const struct job, node);
    if (job->deadline_ms == 0)
        return CLOCK_NEVER;
    if (child_started(slot->shared) == job->seq)
        from = atomic_load(&slot->shared->started_ms);
    /* A command is ended by the child, which lives on; this is for a child that did not. */
    if (job->task != NULL && job->task->command != NULL)
        from += COMMAND_DEADLINE_GRACE_MS;
    return clock_add(from, job->deadline_ms);
}

static bool has_started(const struct slot *slot)
{
    const struct job *job = container_of(list_first(&slot->jobs), const struct job, node);

    return child_started(slot->shared) == job->seq;
}

static int64_t start_due(const struct pool *pool, const struct slot *slot)
{
    if (slot->state != SLOT_STARTING || slot->killed || pool->options.start_timeout_ms == 0)
        return CLOCK_NEVER;
    return clock_add(slot->spawned_ms, pool->options.start_timeout_ms);
}

static void check_start(const struct pool *pool, struct slot *slot, int64_t now_ms)
{
    if (start_due(pool, slot) > now_ms)
        return;
    log_error(TARGET,
              LOG_FIELDS(log_int("pid", slot->pid),
                         log_int("start_timeout_ms", pool->options.start_timeout_ms)),
              "a child is not ready in time: does a function of taskmill_child_start hang? It is "
              "killed, and another one started");
    slot->killed = true;
    kill_slot(slot);
}

static void check_deadline(struct slot *slot, int64_t now_ms)
{
    if (slot_due(slot) > now_ms)
        return;
    if (!has_started(slot)) {
        /* Its result may be on the way, or the machine is slow: look again soon. */
        slot->head_given_ms += 100;
        return;
    }
    slot->killed = true;
    kill_slot(slot);
}

void pool_tick(struct pool *pool, int64_t now_ms)
{
    for (uint32_t i = 0; i < pool->options.size; i++) {
        struct slot *slot = &pool->slots[i];

        if (slot->state == SLOT_EMPTY) {
            if (slot->spawn_ms <= now_ms && !pool->is_stopped)
                try_spawn(pool, slot, now_ms);
            continue;
        }
        check_start(pool, slot, now_ms);
        check_deadline(slot, now_ms);
    }
}

static int64_t slot_next_ms(const struct pool *pool, const struct slot *slot)
{
    int64_t start = start_due(pool, slot), deadline = slot_due(slot);

    if (slot->state == SLOT_EMPTY)
        return pool->is_stopped ? CLOCK_NEVER : slot->spawn_ms;
    return start < deadline ? start : deadline;
}

int64_t pool_next_ms(const struct pool *pool)
{
    int64_t next = CLOCK_NEVER;

    for (uint32_t i = 0; i < pool->options.size; i++) {
        int64_t due = slot_next_ms(pool, &pool->slots[i]);

        next = due < next ? due : next;
    }
    return next;
}

/* --- jobs ------------------------------------------------------------------------------------ */

size_t pool_ready(const struct pool *pool)
{
    return pool->ready;
}

size_t pool_jobs(const struct pool *pool)
{
    return pool->jobs;
}

void pool_count(const struct pool *pool, int64_t now_us, struct pool_counts *out)
{
    *out = (struct pool_counts){.time = pool->past};
    for (uint32_t i = 0; i < pool->options.size; i++) {
        const struct slot *slot = &pool->slots[i];

        out->pending += slot->state == SLOT_STARTING;
        out->running += slot->state == SLOT_READY;
        out->exiting += slot->state == SLOT_LEAVING || slot->state == SLOT_DYING;
        out->waiting += slot->jobs.count > 0 ? slot->jobs.count - 1 : 0;
        occupancy_add(&slot->shared->account, now_us, &out->time);
    }
}

size_t pool_slow(const struct pool *pool, int64_t than_ms, int64_t now_ms)
{
    size_t slow = 0;

    for (uint32_t i = 0; i < pool->options.size; i++) {
        const struct slot *slot = &pool->slots[i];

        slow +=
            takes_jobs(slot) && !list_empty(&slot->jobs) && now_ms - slot->head_given_ms > than_ms;
    }
    return slow;
}

bool pool_assign(struct pool *pool, struct job *job, uint32_t max_each, int64_t now_ms)
{
    struct slot *best = NULL;

    if (pool->is_revoked)
        return false;
    for (uint32_t i = 0; i < pool->options.size; i++) {
        struct slot *slot = &pool->slots[i];

        if (!takes_jobs(slot) || slot->killed || slot->jobs.count >= max_each)
            continue;
        if (best == NULL || slot->jobs.count < best->jobs.count)
            best = slot;
    }
    if (best == NULL)
        return false;
    if (list_empty(&best->jobs))
        best->head_given_ms = now_ms;
    job->seq = pool->next_seq++;
    list_push_back(&best->jobs, &job->node);
    pool->jobs++;
    best->given++;
    release_worn_out(pool, best);
    frame_put(&best->out,
              &(struct frame_head){.kind = job->app, .seq = job->seq, .value = job->claim},
              blob_bytes(job->payload));
    return true;
}

static void flush_slot(struct slot *slot)
{
    /* A closed socket means a dying child: SIGCHLD brings the rest. */
    if (slot->out.len > slot->out_done)
        (void)frame_write(slot->fd, &slot->out, &slot->out_done);
}

void pool_flush(struct pool *pool)
{
    for (uint32_t i = 0; i < pool->options.size; i++) {
        struct slot *slot = &pool->slots[i];

        if (slot->state == SLOT_EMPTY)
            continue;
        flush_slot(slot);
        release_worn_out(pool, slot);
        if (slot->state == SLOT_READY && slot->is_released && list_empty(&slot->jobs)) {
            (void)shutdown(slot->fd, SHUT_WR);
            set_state(pool, slot, SLOT_LEAVING);
            tell(pool, POOL_CHILD_WORN);
        }
    }
}

/* The frames of these jobs may be with the child, half written or not sent: it drops them all. */
static void revoke_slot(struct pool *pool, struct slot *slot)
{
    uint64_t reached = child_revoke(slot->shared);
    struct list_node *node;

    while ((node = list_last(&slot->jobs)) != NULL) {
        struct job *job = container_of(node, struct job, node);

        if (job->seq <= reached)
            break;
        list_remove(&slot->jobs, node);
        pool->jobs--;
        pool->options.events.returned(pool->options.events.ctx, job);
    }
}

void pool_revoke(struct pool *pool)
{
    pool->is_revoked = true;
    for (uint32_t i = 0; i < pool->options.size; i++)
        if (!list_empty(&pool->slots[i].jobs))
            revoke_slot(pool, &pool->slots[i]);
}

size_t pool_poll(struct pool *pool, struct pollfd *fds)
{
    for (uint32_t i = 0; i < pool->options.size; i++) {
        const struct slot *slot = &pool->slots[i];

        fds[i] = (struct pollfd){.fd = slot->fd, .events = POLLIN};
        if (slot->out.len > slot->out_done)
            fds[i].events |= POLLOUT;
        /* It will be collected; until then the end of its stream would wake us in vain. */
        if (slot->state == SLOT_LEAVING || slot->state == SLOT_DYING)
            fds[i].fd = -1;
    }
    return pool->options.size;
}

void pool_io(struct pool *pool, const struct pollfd *fds, int64_t now_ms)
{
    for (uint32_t i = 0; i < pool->options.size; i++) {
        struct slot *slot = &pool->slots[i];

        if (fds[i].fd < 0 || fds[i].fd != slot->fd || fds[i].revents == 0)
            continue;
        if (frame_read(slot->fd, &slot->in) != 0) {
            /* Dead or dying; without this the loop would spin until SIGCHLD. */
            take_frames(pool, slot, now_ms);
            set_state(pool, slot, SLOT_DYING);
            continue;
        }
        take_frames(pool, slot, now_ms);
    }
}
