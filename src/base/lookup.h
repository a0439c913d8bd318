/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Addresses of a name, without waiting for a name server that says nothing.
 *
 * lookup_start asks in a process of its own, whose answer comes through a pipe. It is for processes
 * that fork children and therefore have one thread: a thread inside getaddrinfo() would hold libc's
 * locks at a fork, and the child could never look up a name again. A process with threads calls
 * lookup_now in one of them.
 *
 * Cost: one fork; meant for what happens seldom. SIGCHLD of the process is the caller's to ignore:
 * lookup_end collects it.
 */
#ifndef TASKMILL_BASE_LOOKUP_H
#define TASKMILL_BASE_LOOKUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/err.h"

#define LOOKUP_ADDRESSES_MAX 16 /* of a name; more are left out */

struct lookup_address {
    socklen_t len;
    struct sockaddr_storage address;
};

struct lookup_answer {
    size_t count; /* 0: `why` says why there is none */
    struct lookup_address addresses[LOOKUP_ADDRESSES_MAX];
    char why[128];
};

/* Waits. `type`: SOCK_STREAM or SOCK_DGRAM. True if there is an address. */
bool lookup_now(const char *host, const char *port, int type, struct lookup_answer *answer);
/* True if `host` is an address itself: then the answer is there, without asking anybody. */
bool lookup_numeric(const char *host, const char *port, int type, struct lookup_answer *answer);

struct lookup;

/* ERR_SYSTEM: no process. */
int lookup_start(struct lookup **out, const char *host, const char *port, int type,
                 struct err_text *why);
/* To be polled for reading: then lookup_end does not wait. */
int lookup_fd(const struct lookup *lookup);
/* The answer, and frees the lookup. One that is not ready yet ends here: `count` is 0. */
void lookup_end(struct lookup *lookup, struct lookup_answer *answer);

#endif
