/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection to one Redis server, shared in style by the worker (at-most-once keys) and the
 * scheduler (who fires a run): blocking calls with a limit of time, connected at the first call,
 * connected again after a failure.
 *
 * Addresses: redis://[user:password@]host[:port][/db], redis://:password@host, unix:///path/to.sock
 * or redis+unix:///path (both with [user:password@] before the path and ?db=N after it). Port 6379,
 * database 0; user, password and path may be %-encoded. No TLS (rediss:// is refused).
 *
 * Back-off: after a connection failed, calls fail at once, without trying, until a pause is over
 * that doubles from 100 ms to 5 s, with jitter. So a caller may call as often as it likes.
 *
 * A connection that ended while nobody used it (the server was restarted) is replaced without an
 * error.
 *
 * Outcome: ERR_UNAVAILABLE means that the server did not do it; ERR_TIMEOUT that nobody knows (the
 * request was sent, and no answer came in time or the connection broke). Nothing is repeated here.
 *
 * Threads and processes: one thread at a time. After fork(), the child must not use the parent's
 * connection: it makes its own, and may redis_free() the inherited one only to close the file.
 * The process ignores SIGPIPE. A password never appears in a text for people.
 */
#ifndef TASKMILL_REDIS_REDIS_H
#define TASKMILL_REDIS_REDIS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"

#define REDIS_PORT           6379
#define REDIS_TIMEOUT_MS     2000 /* of a connect, and of a call */
#define REDIS_RETRY_MIN_MS   100
#define REDIS_RETRY_MAX_MS   5000
#define REDIS_CALL_WORDS_MAX 4096 /* words of one call */

/* --- addresses, pure ------------------------------------------------------------------------- */

struct redis_address {
    char *host; /* NULL with a path */
    char *path; /* unix socket; NULL with a host */
    uint16_t port;
    char *user, *password; /* NULL: none */
    uint32_t db;
};

/* ERR_INVALID, and the text says what is wrong without repeating a password. */
int redis_address_parse(struct redis_address *out, const char *url, struct err_text *why);
void redis_address_free(struct redis_address *address);
/* Appends it as people may see it: "127.0.0.1:6379/0", "/run/redis.sock/0". */
void redis_address_print(const struct redis_address *address, struct buf *out);

/* --- the connection -------------------------------------------------------------------------- */

struct redis;

/* Copies the address; connects later. timeout_ms 0: REDIS_TIMEOUT_MS. Never fails. */
struct redis *redis_new(const struct redis_address *address, uint32_t timeout_ms);
void redis_free(struct redis *redis); /* NULL is fine */
/* For messages, as redis_address_print; lives as long as the connection. */
const char *redis_name(const struct redis *redis);

enum redis_kind { REDIS_NIL, REDIS_TEXT, REDIS_INTEGER, REDIS_LIST };

/* A reply; what it points to lives until redis_reply_free. */
struct redis_reply {
    enum redis_kind kind;
    struct bytes text; /* of REDIS_TEXT: a string or a status such as "OK" */
    int64_t integer;   /* of REDIS_INTEGER */
    size_t count;      /* of REDIS_LIST: use redis_reply_at */
    void *whole;       /* the library's object; private */
};

/*
 * Sends one command (its name and arguments, any bytes) and waits for the answer.
 *   0                *reply is filled; the caller frees it
 *   ERR_UNAVAILABLE  not done: cannot connect, or the server takes no writes now (LOADING,
 *                    READONLY, OOM, MISCONF, MASTERDOWN, CLUSTERDOWN, ...)
 *   ERR_TIMEOUT      not known whether it was done
 *   ERR_DENIED       not done: password or ACL
 *   ERR_NOT_FOUND    not done: EVALSHA of a script that the server does not have
 *   ERR_STATE        not done: any other error the server answers; its text is in why
 */
int redis_call(struct redis *redis, const struct bytes *words, size_t count,
               struct redis_reply *reply, struct err_text *why);
void redis_reply_free(struct redis_reply *reply);
/* Element of a list; it belongs to the list. Out of range or no list: REDIS_NIL. */
struct redis_reply redis_reply_at(const struct redis_reply *reply, size_t index);

/* SET key value NX EX ttl_s: *set tells whether the key was free. Errors as above. */
int redis_set_nx(struct redis *redis, struct bytes key, struct bytes value, uint64_t ttl_s,
                 bool *set, struct err_text *why);

#endif
