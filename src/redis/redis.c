/* SPDX-License-Identifier: Apache-2.0 */
#include "redis/redis.h"

#include <assert.h>
#include <errno.h>
#include <hiredis/hiredis.h>
#include <poll.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/mem.h"

struct redis {
    struct redis_address address;
    struct buf name;
    uint32_t timeout_ms;
    redisContext *link; /* NULL: not connected */
    uint32_t pause_ms;  /* after the last failure; 0: the last connect worked */
    int64_t retry_ms;   /* boot clock: no connect before */
    uint32_t random;
    struct err_text last; /* why there is no connection */
};

static char *copy(const char *text)
{
    return text != NULL ? mem_strdup(text) : NULL;
}

struct redis *redis_new(const struct redis_address *address, uint32_t timeout_ms)
{
    struct redis *redis = mem_zalloc(sizeof *redis);

    redis->address = *address;
    redis->address.host = copy(address->host);
    redis->address.path = copy(address->path);
    redis->address.user = copy(address->user);
    redis->address.password = copy(address->password);
    redis->timeout_ms = timeout_ms != 0 ? timeout_ms : REDIS_TIMEOUT_MS;
    redis_address_print(&redis->address, &redis->name);
    if (getrandom(&redis->random, sizeof redis->random, 0) < 0)
        redis->random = (uint32_t)clock_boot_us();
    return redis;
}

static void hang_up(struct redis *redis)
{
    if (redis->link != NULL)
        redisFree(redis->link);
    redis->link = NULL;
}

void redis_free(struct redis *redis)
{
    if (redis == NULL)
        return;
    hang_up(redis);
    redis_address_free(&redis->address);
    buf_free(&redis->name);
    mem_free(redis);
}

const char *redis_name(const struct redis *redis)
{
    return buf_cstr((struct buf *)(uintptr_t)&redis->name);
}

/* --- connecting ------------------------------------------------------------------------------ */

/* From half of the pause to all of it, so that clients of a returning server do not come at once.
 */
static void pause_connects(struct redis *redis)
{
    uint32_t half;

    redis->pause_ms = redis->pause_ms == 0 ? REDIS_RETRY_MIN_MS : redis->pause_ms * 2;
    if (redis->pause_ms > REDIS_RETRY_MAX_MS)
        redis->pause_ms = REDIS_RETRY_MAX_MS;
    half = redis->pause_ms / 2;
    redis->random = redis->random * 1664525 + 1013904223;
    redis->retry_ms = clock_boot_ms() + half + (redis->random >> 8) % (half + 1);
}

static bool starts_with(const char *text, const char *word)
{
    return strncmp(text, word, strlen(word)) == 0;
}

/* What an error reply means; its first word is a code. */
static int code_of(const char *text)
{
    static const char *const refused[] = {"NOAUTH",   "WRONGPASS",
                                          "NOPERM",   "ERR invalid password",
                                          "ERR AUTH", "ERR Client sent AUTH"};
    static const char *const later[] = {"LOADING",    "READONLY",
                                        "OOM",        "MISCONF",
                                        "MASTERDOWN", "CLUSTERDOWN",
                                        "BUSY ",      "TRYAGAIN",
                                        "UNBLOCKED",  "NOREPLICAS",
                                        "MOVED ",     "ASK ",
                                        "-LOADING",   "ERR max number of clients"};

    if (starts_with(text, "NOSCRIPT"))
        return ERR_NOT_FOUND;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (starts_with(text, refused[i]))
            return ERR_DENIED;
    for (size_t i = 0; i < sizeof later / sizeof later[0]; i++)
        if (starts_with(text, later[i]))
            return ERR_UNAVAILABLE;
    return ERR_STATE;
}

static int broken(struct redis *redis, int code, struct err_text *why)
{
    const char *text =
        redis->link != NULL && redis->link->errstr[0] != '\0' ? redis->link->errstr : "no answer";

    /* A timed out read is EAGAIN to hiredis, with "Resource temporarily unavailable". */
    if (redis->link != NULL && redis->link->err == REDIS_ERR_IO &&
        (errno == EAGAIN || errno == EWOULDBLOCK))
        text = "no answer in time";
    err_set(&redis->last, code, "Redis %s: %s", redis_name(redis), text);
    hang_up(redis);
    pause_connects(redis);
    return err_set(why, code, "%s", redis->last.s);
}

/* One command of the greeting; the reply says no more than whether it worked. */
static int greet(struct redis *redis, int argc, const char **argv, struct err_text *why)
{
    redisReply *reply = redisCommandArgv(redis->link, argc, argv, NULL);
    int rv;

    if (reply == NULL)
        return broken(redis, ERR_UNAVAILABLE, why);
    if (reply->type != REDIS_REPLY_ERROR) {
        freeReplyObject(reply);
        return 0;
    }
    rv = code_of(reply->str);
    err_set(&redis->last, rv, "Redis %s: %s: %s", redis_name(redis), argv[0], reply->str);
    freeReplyObject(reply);
    hang_up(redis);
    pause_connects(redis);
    return err_set(why, rv, "%s", redis->last.s);
}

static int log_in(struct redis *redis, struct err_text *why)
{
    const struct redis_address *address = &redis->address;
    char db[16];
    const char *select[] = {"SELECT", db};
    int rv = 0;

    if (address->user != NULL)
        rv = greet(redis, 3, (const char *[]){"AUTH", address->user, address->password}, why);
    else if (address->password != NULL)
        rv = greet(redis, 2, (const char *[]){"AUTH", address->password}, why);
    (void)snprintf(db, sizeof db, "%u", address->db);
    if (rv == 0 && address->db != 0)
        rv = greet(redis, 2, select, why);
    return rv;
}

static int connect_now(struct redis *redis, struct err_text *why)
{
    const struct redis_address *address = &redis->address;
    struct timeval limit = {redis->timeout_ms / 1000,
                            (suseconds_t)(redis->timeout_ms % 1000) * 1000};
    int rv;

    if (clock_boot_ms() < redis->retry_ms)
        return err_set(why, ERR_UNAVAILABLE, "%s", redis->last.s);
    redis->link = address->path != NULL
                      ? redisConnectUnixWithTimeout(address->path, limit)
                      : redisConnectWithTimeout(address->host, address->port, limit);
    if (redis->link == NULL || redis->link->err != 0)
        return broken(redis, ERR_UNAVAILABLE, why);
    (void)redisSetTimeout(redis->link, limit);
    rv = log_in(redis, why);
    if (rv == 0)
        redis->pause_ms = 0;
    return rv;
}

/* --- calls ----------------------------------------------------------------------------------- */

static struct redis_reply view(redisReply *whole)
{
    struct redis_reply reply = {.kind = REDIS_NIL, .whole = whole};

    switch (whole->type) {
    case REDIS_REPLY_STRING:
    case REDIS_REPLY_STATUS:
        reply.kind = REDIS_TEXT;
        reply.text = bytes_of(whole->str, (size_t)whole->len);
        break;
    case REDIS_REPLY_INTEGER:
        reply.kind = REDIS_INTEGER;
        reply.integer = whole->integer;
        break;
    case REDIS_REPLY_ARRAY:
        reply.kind = REDIS_LIST;
        reply.count = whole->elements;
        break;
    default:
        break;
    }
    return reply;
}

static redisReply *exchange(struct redis *redis, const struct bytes *words, size_t count)
{
    const char **argv = mem_calloc(count, sizeof *argv);
    size_t *lens = mem_calloc(count, sizeof *lens);
    redisReply *whole;

    for (size_t i = 0; i < count; i++) {
        argv[i] = words[i].len > 0 ? (const char *)words[i].ptr : "";
        lens[i] = words[i].len;
    }
    errno = 0;
    whole = redisCommandArgv(redis->link, (int)count, argv, lens);
    mem_free(argv);
    mem_free(lens);
    return whole;
}

/* An idle connection has nothing to read but its end: the server was restarted, or closes what is
 * idle. Found before a command is sent, that is no failure and leaves no outcome unknown. */
static void drop_if_ended(struct redis *redis)
{
    struct pollfd fd = {.fd = redis->link->fd, .events = POLLIN};

    if (poll(&fd, 1, 0) != 0)
        hang_up(redis);
}

int redis_call(struct redis *redis, const struct bytes *words, size_t count,
               struct redis_reply *reply, struct err_text *why)
{
    redisReply *whole;
    int rv;

    assert(count > 0 && count <= REDIS_CALL_WORDS_MAX);
    if (redis->link != NULL)
        drop_if_ended(redis);
    if (redis->link == NULL && (rv = connect_now(redis, why)) != 0)
        return rv;
    whole = exchange(redis, words, count);
    if (whole == NULL)
        return broken(redis, ERR_TIMEOUT, why);
    if (whole->type != REDIS_REPLY_ERROR) {
        *reply = view(whole);
        return 0;
    }
    rv = err_set(why, code_of(whole->str), "Redis %s: %.*s: %s", redis_name(redis),
                 BYTES_FMT_ARG(words[0]), whole->str);
    freeReplyObject(whole);
    return rv;
}

void redis_reply_free(struct redis_reply *reply)
{
    if (reply->whole != NULL)
        freeReplyObject(reply->whole);
    *reply = (struct redis_reply){0};
}

struct redis_reply redis_reply_at(const struct redis_reply *reply, size_t index)
{
    const redisReply *whole = reply->whole;
    struct redis_reply element = {.kind = REDIS_NIL};

    if (reply->kind == REDIS_LIST && index < reply->count)
        element = view(whole->element[index]);
    element.whole = element.kind == REDIS_LIST ? element.whole : NULL;
    return element;
}

int redis_set_nx(struct redis *redis, struct bytes key, struct bytes value, uint64_t ttl_s,
                 bool *set, struct err_text *why)
{
    char ttl[24];
    struct bytes words[6] = {bytes_str("SET"), key, value, bytes_str("NX"), bytes_str("EX")};
    struct redis_reply reply = {.kind = REDIS_NIL};
    int rv;

    (void)snprintf(ttl, sizeof ttl, "%llu", (unsigned long long)ttl_s);
    words[5] = bytes_str(ttl);
    rv = redis_call(redis, words, 6, &reply, why);
    if (rv != 0)
        return rv;
    *set = reply.kind == REDIS_TEXT;
    redis_reply_free(&reply);
    return 0;
}
