/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/command.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "wire/params.h"

extern char **environ;

#define ENV_PREFIX "TASKMILL_TASK_"
#define ENV_OURS   6

/* --- declaration ----------------------------------------------------------------------------- */

struct command *command_new(const char *folder)
{
    struct command *command = mem_zalloc(sizeof *command);

    command->folder = mem_strdup(folder);
    command->argv = mem_zalloc(sizeof *command->argv);
    return command;
}

void command_add_word(struct command *command, const char *word)
{
    size_t n = 0;

    while (command->argv[n] != NULL)
        n++;
    command->argv = mem_realloc(command->argv, (n + 2) * sizeof *command->argv);
    command->argv[n] = mem_strdup(word);
    command->argv[n + 1] = NULL;
}

void command_free(struct command *command)
{
    for (size_t n = 0; command->argv[n] != NULL; n++)
        mem_free(command->argv[n]);
    mem_free(command->argv);
    mem_free(command->folder);
    mem_free(command);
}

/* --- what the process is given --------------------------------------------------------------- */

static void add_header(void *ctx, struct bytes key, struct bytes value)
{
    json_t *headers = (json_t *)ctx;

    (void)json_object_setn_new_nocheck(headers, (const char *)key.ptr, key.len,
                                       json_stringn_nocheck((const char *)value.ptr, value.len));
}

static char *headers_json(struct bytes payload)
{
    json_t *headers = json_object();
    char *text;

    activation_each_header(payload, add_header, headers);
    text = json_dumps(headers, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(headers);
    return text;
}

/* Strangers choose these values: a NUL would cut one silently. */
static int env_entry(char **out, const char *name, struct bytes value, struct err_text *why)
{
    struct buf text = {0};

    if (value.len > 0 && memchr(value.ptr, '\0', value.len) != NULL)
        return err_set(why, ERR_INVALID, "the activation's %s holds a NUL", name);
    buf_printf(&text, ENV_PREFIX "%s=", name);
    buf_append(&text, value.ptr, value.len);
    *out = mem_strdup(buf_cstr(&text));
    buf_free(&text);
    return 0;
}

static void free_ours(char **env, size_t count)
{
    for (size_t i = 0; i < count; i++)
        mem_free(env[i]);
    mem_free(env);
}

/* Our entries first (owned), then those of the worker (borrowed). */
static int make_env(const struct taskmill_call *call, char ***out, struct err_text *why)
{
    const struct activation *a = &call->activation;
    char *headers = headers_json(call->payload), attempt[16];
    char **env;
    size_t count = 0, n = 0;
    int rv;

    while (environ[count] != NULL)
        count++;
    env = mem_calloc(count + ENV_OURS + 1, sizeof *env);
    snprintf(attempt, sizeof attempt, "%u", a->retry_state.attempts);
    rv = env_entry(&env[n++], "ID", a->id, why);
    if (rv == 0)
        rv = env_entry(&env[n++], "NAME", a->taskname, why);
    if (rv == 0)
        rv = env_entry(&env[n++], "NAMESPACE", a->namespace, why);
    if (rv == 0)
        rv = env_entry(&env[n++], "APPLICATION", a->application, why);
    if (rv == 0)
        rv = env_entry(&env[n++], "ATTEMPT", bytes_str(attempt), why);
    if (rv == 0)
        rv = env_entry(&env[n++], "HEADERS", bytes_str(headers ? headers : "{}"), why);
    free(headers); /* tidy: free, jansson allocated it */
    if (rv != 0) {
        free_ours(env, n);
        return rv;
    }
    for (size_t i = 0; i < count; i++)
        if (strncmp(environ[i], ENV_PREFIX, strlen(ENV_PREFIX)) != 0)
            env[n++] = environ[i];
    *out = env;
    return 0;
}

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
static int make_stdin(const struct taskmill_call *call, int *out, struct err_text *why)
{
    const char *fault = "";
    struct buf json = {0};
    int rv = params_to_json(call->packed, &json, &fault), fd;

    if (rv != 0)
        return err_set(why, rv, "parameters: %s", fault);
    fd = memfd_create("parameters", MFD_CLOEXEC);
    if (fd < 0 || write_all(fd, buf_bytes(&json)) != 0 || lseek(fd, 0, SEEK_SET) != 0) {
        rv = err_set(why, ERR_SYSTEM, "parameters: %s", strerror(errno));
        if (fd >= 0)
            close(fd);
    }
    buf_free(&json);
    if (rv == 0)
        *out = fd;
    return rv;
}

/* --- the process ----------------------------------------------------------------------------- */

/* In the new process: only what is safe after fork. Never returns. */
static void become(const struct command *command, char **env, int in, int err, int fault)
{
    struct sigaction standard = {.sa_handler = SIG_DFL};
    sigset_t none;
    int code;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)sigaction(SIGPIPE, &standard, NULL);
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    if (dup2(in, STDIN_FILENO) >= 0 && dup2(err, STDERR_FILENO) >= 0 && chdir(command->folder) == 0)
        execvpe(command->argv[0], command->argv, env);
    code = errno;
    (void)!write(fault, &code, sizeof code);
    _exit(127);
}

static void keep_tail(struct buf *tail, size_t max)
{
    if (tail->len > max)
        buf_consume(tail, tail->len - max);
}

/* Bytes read; 0: the end; < 0: nothing now. */
static ssize_t read_some(int fd, struct buf *tail)
{
    char chunk[4096];
    ssize_t n = read(fd, chunk, sizeof chunk);

    if (n > 0) {
        buf_append(tail, chunk, (size_t)n);
        keep_tail(tail, COMMAND_STDERR_TAIL_MAX);
    }
    return n;
}

/* Until the process ends. Its own children may hold stderr open for longer: they are not waited
 * for. */
static int wait_process(pid_t pid, int err, struct buf *tail)
{
    int pidfd = pidfd_open(pid, 0), status = 0;
    struct pollfd fds[2] = {{.fd = err, .events = POLLIN}, {.fd = pidfd, .events = POLLIN}};

    while (pidfd >= 0 && !(fds[1].revents & POLLIN)) {
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            break;
        if (fds[0].fd >= 0 && fds[0].revents != 0 && read_some(err, tail) == 0)
            fds[0].fd = -1;
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    (void)fcntl(err, F_SETFL, O_NONBLOCK);
    while (read_some(err, tail) > 0)
        continue;
    if (pidfd >= 0)
        close(pidfd);
    return status;
}

static void last_line(const struct buf *tail, const char **line, size_t *len)
{
    size_t end = tail->len, start;

    while (end > 0 && (tail->ptr[end - 1] == '\n' || tail->ptr[end - 1] == ' '))
        end--;
    start = end;
    while (start > 0 && tail->ptr[start - 1] != '\n')
        start--;
    *line = (const char *)tail->ptr + start;
    *len = end - start;
}

static enum attempt_end judge(int status, const struct buf *tail, struct err_text *why)
{
    const char *line = "";
    size_t len = 0;

    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return ATTEMPT_COMPLETE;
    if (tail->len > 0)
        last_line(tail, &line, &len);
    if (WIFSIGNALED(status))
        err_set(why, 0, "the command was killed by signal %d%s%.*s", WTERMSIG(status),
                len ? ": " : "", (int)len, line);
    else
        err_set(why, 0, "exit code %d%s%.*s", WEXITSTATUS(status), len ? ": " : "", (int)len, line);
    return WIFEXITED(status) && WEXITSTATUS(status) == COMMAND_EXIT_RETRY ? ATTEMPT_RETRY
                                                                          : ATTEMPT_FAILURE;
}

struct pipes {
    int err[2];   /* the command's stderr */
    int fault[2]; /* errno of a failed exec; closed by a successful one */
};

static int open_pipes(struct pipes *pipes, struct err_text *why)
{
    if (pipe2(pipes->err, O_CLOEXEC) != 0)
        return err_set(why, ERR_SYSTEM, "pipe: %s", strerror(errno));
    if (pipe2(pipes->fault, O_CLOEXEC) != 0) {
        close(pipes->err[0]);
        close(pipes->err[1]);
        return err_set(why, ERR_SYSTEM, "pipe: %s", strerror(errno));
    }
    return 0;
}

static enum attempt_end start(const struct command *command, char **env, int in, struct buf *tail,
                              struct err_text *why)
{
    struct pipes pipes;
    int code = 0, status;
    pid_t pid;

    if (open_pipes(&pipes, why) != 0)
        return ATTEMPT_FAILURE;
    pid = fork();
    if (pid == 0)
        become(command, env, in, pipes.err[1], pipes.fault[1]);
    close(pipes.err[1]);
    close(pipes.fault[1]);
    if (pid < 0) {
        err_set(why, ERR_SYSTEM, "fork: %s", strerror(errno));
    } else if (read(pipes.fault[0], &code, sizeof code) == (ssize_t)sizeof code) {
        (void)waitpid(pid, &status, 0);
        err_set(why, ERR_SYSTEM, "cannot run %s in %s: %s", command->argv[0], command->folder,
                strerror(code));
        pid = -1;
    } else {
        status = wait_process(pid, pipes.err[0], tail);
    }
    close(pipes.err[0]);
    close(pipes.fault[0]);
    return pid < 0 ? ATTEMPT_FAILURE : judge(status, tail, why);
}

enum attempt_end command_run(const struct command *command, struct taskmill_call *call,
                             struct buf *tail, struct err_text *why)
{
    enum attempt_end end = ATTEMPT_FAILURE;
    char **env;
    int in = -1;

    if (make_stdin(call, &in, why) != 0)
        return ATTEMPT_FAILURE;
    if (make_env(call, &env, why) == 0) {
        end = start(command, env, in, tail, why);
        for (size_t i = 0; i < ENV_OURS; i++)
            mem_free(env[i]);
        mem_free(env);
    }
    close(in);
    return end;
}
