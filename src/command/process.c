/* SPDX-License-Identifier: Apache-2.0 */
#include "command/process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

int process_resource(enum command_limit limit)
{
    static const int resources[COMMAND_LIMIT_COUNT] = {
        [COMMAND_LIMIT_MEMORY] = RLIMIT_DATA,       [COMMAND_LIMIT_CPU] = RLIMIT_CPU,
        [COMMAND_LIMIT_OPEN_FILES] = RLIMIT_NOFILE, [COMMAND_LIMIT_FILE_SIZE] = RLIMIT_FSIZE,
        [COMMAND_LIMIT_CORE] = RLIMIT_CORE,
    };

    return resources[limit];
}

void process_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* --- in the new process: async-signal-safe calls only ---------------------------------------- */

enum step { STEP_LIMITS, STEP_GROUPS, STEP_GROUP, STEP_USER, STEP_FOLDER, STEP_STREAMS, STEP_RUN };

struct fault {
    int step, code;
};

struct birth {
    const struct process_setup *setup;
    _Atomic int32_t *leader;
    pid_t parent;
    int in, out, err; /* 3 or more, or -1: as they are */
    int fault;
};

static int set_limits(const struct command *command)
{
    for (int i = 0; i < COMMAND_LIMIT_COUNT; i++) {
        uint64_t value = command->limits[i];
        struct rlimit limit = {value, value};

        if (value == COMMAND_LIMIT_NONE)
            continue;
        /* A second between SIGXCPU, which can be handled, and SIGKILL. */
        if (i == COMMAND_LIMIT_CPU)
            limit.rlim_max = value + 1;
        if (setrlimit(process_resource((enum command_limit)i), &limit) != 0)
            return -1;
    }
    return 0;
}

/* The plain system calls: those of libc change all threads of the process and take locks for it,
 * which a thread that does not exist here may have held. Groups first: without root's rights they
 * could not be changed any more. */
static int set_ids(const struct command *command, int *step)
{
    *step = STEP_GROUPS;
    if (syscall(SYS_setgroups, command->group_count, command->groups) != 0)
        return -1;
    *step = STEP_GROUP;
    if (syscall(SYS_setresgid, command->gid, command->gid, command->gid) != 0)
        return -1;
    *step = STEP_USER;
    return (int)syscall(SYS_setresuid, command->uid, command->uid, command->uid);
}

static int set_streams(const struct birth *birth)
{
    if ((birth->in >= 0 && dup2(birth->in, STDIN_FILENO) < 0) ||
        (birth->out >= 0 && dup2(birth->out, STDOUT_FILENO) < 0) ||
        (birth->err >= 0 && dup2(birth->err, STDERR_FILENO) < 0))
        return -1;
    /* What a module has opened without care. */
    (void)close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    return 0;
}

static void reset_signals(void)
{
    struct sigaction standard = {.sa_handler = SIG_DFL};
    sigset_t none;

    (void)sigaction(SIGPIPE, &standard, NULL);
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

/* The first path that can be run; a file that may not be read hides no later one, as in a shell. */
static void run_program(const struct process_setup *setup)
{
    int code = ENOENT;

    for (char **path = setup->command->paths; *path != NULL; path++) {
        (void)execve(*path, setup->command->argv, setup->env);
        if (errno != ENOENT && errno != ENOTDIR && errno != EACCES)
            return;
        if (errno == EACCES)
            code = EACCES;
    }
    errno = code;
}

static void become(const struct birth *birth)
{
    const struct command *command = birth->setup->command;
    struct fault fault = {.step = STEP_LIMITS};

    (void)setpgid(0, 0);
    atomic_store(birth->leader, getpid());
    reset_signals();
    if (set_limits(command) != 0)
        goto out;
    if (command->change_ids && set_ids(command, &fault.step) != 0)
        goto out;
    /* After the change of user, which resets it. */
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != birth->parent)
        _exit(127);
    fault.step = STEP_FOLDER; /* with the rights of the user */
    if (chdir(command->folder) != 0)
        goto out;
    fault.step = STEP_STREAMS;
    if (set_streams(birth) != 0)
        goto out;
    fault.step = STEP_RUN;
    run_program(birth->setup);
out:
    fault.code = errno;
    (void)!write(birth->fault, &fault, sizeof fault);
    _exit(127);
}

/* --- start ----------------------------------------------------------------------------------- */

static int describe(const struct command *command, const struct fault *fault, struct err_text *why)
{
    static const char *const what[] = {
        [STEP_LIMITS] = "setting its limits",  [STEP_GROUPS] = "setting its groups",
        [STEP_GROUP] = "setting its group",    [STEP_USER] = "setting its user",
        [STEP_FOLDER] = "entering its folder", [STEP_STREAMS] = "its stdin, stdout and stderr"};

    if (fault->step == STEP_RUN)
        return err_set(why, ERR_SYSTEM, "cannot run %s in %s: %s", command->argv[0],
                       command->folder, strerror(fault->code));
    return err_set(why, ERR_SYSTEM, "cannot run %s in %s: %s: %s", command->argv[0],
                   command->folder, what[fault->step], strerror(fault->code));
}

/* A worker may have been started without stdin: a descriptor below 3 would be overwritten by the
 * dup2 of another. */
static int lifted(int fd)
{
    int high;

    if (fd < 0 || fd > STDERR_FILENO)
        return fd;
    high = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    close(fd);
    return high;
}

static int open_pipe(int ends[2])
{
    if (pipe2(ends, O_CLOEXEC) != 0)
        return -1;
    ends[0] = lifted(ends[0]);
    ends[1] = lifted(ends[1]);
    return ends[0] >= 0 && ends[1] >= 0 ? 0 : -1;
}

/* Its end in *theirs (to be closed here after the fork), ours in *ours. */
static int open_stream(int wish, bool we_write, int *theirs, int *ours)
{
    int ends[2];

    *ours = *theirs = -1;
    if (wish == PROCESS_INHERIT)
        return 0;
    if (wish == PROCESS_NULL)
        *theirs = lifted(open("/dev/null", O_RDWR | O_CLOEXEC));
    else if (wish >= 0)
        *theirs = fcntl(wish, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    if (wish != PROCESS_PIPE)
        return *theirs >= 0 ? 0 : -1;
    if (open_pipe(ends) != 0)
        return -1;
    *ours = we_write ? ends[1] : ends[0];
    *theirs = we_write ? ends[0] : ends[1];
    return fcntl(*ours, F_SETFL, O_NONBLOCK);
}

static void close_theirs(struct birth *birth)
{
    process_close(&birth->in);
    process_close(&birth->out);
    process_close(&birth->err);
    process_close(&birth->fault);
}

static void close_ours(struct process *process)
{
    process_close(&process->pidfd);
    process_close(&process->in);
    process_close(&process->out);
    process_close(&process->err);
}

static int open_streams(struct process *process, const struct process_setup *setup,
                        struct birth *birth, int *fault)
{
    int ends[2];

    if (open_stream(setup->in, true, &birth->in, &process->in) != 0 ||
        open_stream(setup->out, false, &birth->out, &process->out) != 0 ||
        open_stream(setup->err, false, &birth->err, &process->err) != 0 || open_pipe(ends) != 0)
        return -1;
    *fault = ends[0];
    birth->fault = ends[1];
    return 0;
}

static _Atomic int32_t *free_leader(struct process_groups *groups)
{
    for (size_t i = 0; i < PROCESS_GROUPS_MAX; i++)
        if (atomic_load(&groups->leaders[i]) == 0)
            return &groups->leaders[i];
    return NULL;
}

static int give_birth(struct process *process, struct birth *birth, int fault_fd,
                      struct err_text *why)
{
    struct fault fault;
    ssize_t n;

    process->pid = fork();
    if (process->pid == 0)
        become(birth);
    process_close(&birth->fault);
    if (process->pid < 0) {
        process->pid = 0;
        return err_set(why, ERR_SYSTEM, "fork: %s", strerror(errno));
    }
    /* Both sides do both, so that neither has to wait for the other. */
    (void)setpgid(process->pid, process->pid);
    atomic_store(birth->leader, process->pid);
    process->pidfd = pidfd_open(process->pid, 0);
    do {
        n = read(fault_fd, &fault, sizeof fault);
    } while (n < 0 && errno == EINTR);
    if (n == (ssize_t)sizeof fault) {
        (void)process_collect(process);
        return describe(birth->setup->command, &fault, why);
    }
    if (process->pidfd < 0) {
        int code = errno;

        process_kill(process);
        (void)process_collect(process);
        return err_set(why, ERR_SYSTEM, "pidfd_open: %s", strerror(code));
    }
    return 0;
}

int process_start(struct process *process, const struct process_setup *setup, struct err_text *why)
{
    struct birth birth = {
        .setup = setup, .parent = getpid(), .in = -1, .out = -1, .err = -1, .fault = -1};
    int fault = -1, rv;

    *process = (struct process){.pidfd = -1, .in = -1, .out = -1, .err = -1};
    process_clear_deadline(process);
    process->leader = birth.leader = free_leader(setup->groups);
    if (process->leader == NULL)
        return err_set(why, ERR_FULL, "a child runs at most %d commands", PROCESS_GROUPS_MAX);
    if (open_streams(process, setup, &birth, &fault) != 0)
        rv = err_set(why, ERR_SYSTEM, "pipes for %s: %s", setup->command->argv[0], strerror(errno));
    else
        rv = give_birth(process, &birth, fault, why);
    close_theirs(&birth);
    process_close(&fault);
    if (rv != 0) {
        close_ours(process);
        atomic_store(process->leader, 0);
    }
    return rv;
}

/* --- end ------------------------------------------------------------------------------------- */

void process_clear_deadline(struct process *process)
{
    process->terminate_ms = process->kill_ms = CLOCK_NEVER;
}

void process_set_deadline(struct process *process, const struct command *command, int64_t now_ms,
                          int64_t limit_ms)
{
    int64_t before_ms = (int64_t)command->terminate_before_s * 1000;

    process_clear_deadline(process);
    if (limit_ms == 0)
        return;
    process->kill_ms = clock_add(now_ms, limit_ms);
    if (before_ms > 0)
        process->terminate_ms =
            before_ms < limit_ms ? clock_add(now_ms, limit_ms - before_ms) : now_ms;
}

void process_kill(struct process *process)
{
    if (process->pid > 0)
        (void)kill(-process->pid, SIGKILL);
}

void process_tick(struct process *process, int64_t now_ms)
{
    if (now_ms >= process->kill_ms) {
        process->killed = true;
        process_clear_deadline(process);
        process_kill(process);
    } else if (now_ms >= process->terminate_ms) {
        process->terminated = true;
        process->terminate_ms = CLOCK_NEVER;
        (void)kill(-process->pid, SIGTERM);
    }
}

int process_wait_ms(const struct process *process, int64_t now_ms)
{
    int64_t next =
        process->terminate_ms < process->kill_ms ? process->terminate_ms : process->kill_ms;

    if (next == CLOCK_NEVER)
        return -1;
    return next <= now_ms ? 0 : next - now_ms > 60000 ? 60000 : (int)(next - now_ms);
}

bool process_ended(const struct process *process)
{
    struct pollfd fd = {.fd = process->pidfd, .events = POLLIN};

    return process->pid == 0 || (poll(&fd, 1, 0) > 0 && (fd.revents & POLLIN) != 0);
}

int process_collect(struct process *process)
{
    int status = 0;

    if (process->pid == 0)
        return 0;
    /* A number that is no longer ours must not be killed by the parent. */
    atomic_store(process->leader, 0);
    while (waitpid(process->pid, &status, 0) < 0 && errno == EINTR)
        continue;
    process->pid = 0;
    close_ours(process);
    return status;
}

void process_groups_kill(const struct process_groups *groups)
{
    for (size_t i = 0; i < PROCESS_GROUPS_MAX; i++) {
        int32_t leader = atomic_load(&groups->leaders[i]);

        if (leader > 1)
            (void)kill(-leader, SIGKILL);
    }
}
