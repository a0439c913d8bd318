/* SPDX-License-Identifier: Apache-2.0 */
#include "base/lookup.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"

struct lookup {
    pid_t pid;
    int fd;
};

/* The answer goes through a pipe in one write, which is one piece. */
_Static_assert(sizeof(struct lookup_answer) <= 4096, "an answer fits in PIPE_BUF");

static bool ask(const char *host, const char *port, int type, int flags,
                struct lookup_answer *answer)
{
    const struct addrinfo hints = {.ai_socktype = type, .ai_flags = flags};
    struct addrinfo *found;
    int rc = getaddrinfo(host, port, &hints, &found);

    *answer = (struct lookup_answer){0};
    if (rc != 0) {
        snprintf(answer->why, sizeof answer->why, "%s",
                 rc == EAI_SYSTEM ? strerror(errno) : gai_strerror(rc));
        return false;
    }
    for (const struct addrinfo *it = found; it && answer->count < LOOKUP_ADDRESSES_MAX;
         it = it->ai_next) {
        struct lookup_address *to = &answer->addresses[answer->count++];

        to->len = it->ai_addrlen;
        memcpy(&to->address, it->ai_addr, it->ai_addrlen);
    }
    freeaddrinfo(found);
    return answer->count > 0;
}

bool lookup_now(const char *host, const char *port, int type, struct lookup_answer *answer)
{
    return ask(host, port, type, 0, answer);
}

bool lookup_numeric(const char *host, const char *port, int type, struct lookup_answer *answer)
{
    return ask(host, port, type, AI_NUMERICHOST | AI_NUMERICSERV, answer);
}

static void answer_in_child(int fd, const char *host, const char *port, int type)
{
    struct lookup_answer answer;
    sigset_t none;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)lookup_now(host, port, type, &answer);
    _exit(write(fd, &answer, sizeof answer) == (ssize_t)sizeof answer ? 0 : 1);
}

int lookup_start(struct lookup **out, const char *host, const char *port, int type,
                 struct err_text *why)
{
    int ends[2];
    pid_t pid;

    if (pipe2(ends, O_CLOEXEC) != 0)
        return err_set(why, ERR_SYSTEM, "a pipe: %s", strerror(errno));
    pid = fork();
    if (pid == 0)
        answer_in_child(ends[1], host, port, type);
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return err_set(why, ERR_SYSTEM, "a process for a look-up: %s", strerror(errno));
    }
    (void)fcntl(ends[0], F_SETFL, O_NONBLOCK);
    *out = mem_alloc(sizeof **out);
    **out = (struct lookup){.pid = pid, .fd = ends[0]};
    return 0;
}

int lookup_fd(const struct lookup *lookup)
{
    return lookup->fd;
}

void lookup_end(struct lookup *lookup, struct lookup_answer *answer)
{
    ssize_t n = read(lookup->fd, answer, sizeof *answer);

    if (n != (ssize_t)sizeof *answer) {
        *answer = (struct lookup_answer){0};
        snprintf(answer->why, sizeof answer->why, "the look-up did not end");
    }
    (void)kill(lookup->pid, SIGKILL);
    (void)waitpid(lookup->pid, NULL, 0);
    close(lookup->fd);
    mem_free(lookup);
}
