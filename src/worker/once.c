/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/once.h"

#include <inttypes.h>

#include "base/mem.h"

#define TRIES 3 /* a key may end between SET and GET, but not again and again */

struct once {
    struct once_options options;
    struct redis *redis;
    struct buf key, value;
};

struct once *once_new(const struct once_options *options)
{
    struct once *once = mem_zalloc(sizeof *once);

    once->options = *options;
    once->redis = redis_new(options->redis, 0);
    return once;
}

void once_free(struct once *once)
{
    if (once == NULL)
        return;
    redis_free(once->redis);
    buf_free(&once->key);
    buf_free(&once->value);
    mem_free(once);
}

/* Whether the key, which is there, is ours; *there turns false if it is not any more. */
static int look(struct once *once, bool *there, bool *ours, struct err_text *why)
{
    struct bytes words[] = {bytes_str("GET"), buf_bytes(&once->key)};
    struct redis_reply reply;
    int rv = redis_call(once->redis, words, 2, &reply, why);

    if (rv != 0)
        return rv;
    *there = reply.kind != REDIS_NIL;
    *ours = reply.kind == REDIS_TEXT && bytes_equal(reply.text, buf_bytes(&once->value));
    redis_reply_free(&reply);
    return 0;
}

/* The worker makes the pauses: one that this connection makes by itself, too, would only fail the
 * next question. */
static enum once_answer give_up(struct once *once)
{
    redis_free(once->redis);
    once->redis = redis_new(once->options.redis, 0);
    return ONCE_UNASKED;
}

enum once_answer once_ask(struct once *once, struct bytes ns, struct bytes name, struct bytes id,
                          uint64_t claim, struct err_text *why)
{
    bool set = false, there = false, ours = false;

    buf_clear(&once->key);
    buf_clear(&once->value);
    buf_printf(&once->key, "tw:amo:%.*s:%.*s:%.*s", BYTES_FMT_ARG(ns), BYTES_FMT_ARG(name),
               BYTES_FMT_ARG(id));
    buf_printf(&once->value, "%016" PRIx64 "-%" PRIu64, once->options.worker, claim);
    for (int i = 0; i < TRIES; i++) {
        if (redis_set_nx(once->redis, buf_bytes(&once->key), buf_bytes(&once->value),
                         once->options.timeout_s, &set, why) != 0)
            return give_up(once);
        if (set)
            return ONCE_RUN;
        if (look(once, &there, &ours, why) != 0)
            return give_up(once);
        if (there)
            return ours ? ONCE_RUN : ONCE_DUPLICATE;
    }
    err_set(why, ERR_STATE, "the key is refused, and then it is not there: does it live for 0 s?");
    return ONCE_UNASKED;
}

/* --- outages --------------------------------------------------------------------------------- */

bool once_may_ask(struct once_outage *outage, int64_t now_ms)
{
    if (outage->failures == 0)
        return true;
    if (outage->probing || now_ms < outage->again_ms)
        return false;
    outage->probing = true;
    return true;
}

bool once_answered(struct once_outage *outage)
{
    bool ends = outage->failures > 0;

    *outage = (struct once_outage){0};
    return ends;
}

bool once_failed(struct once_outage *outage, uint32_t chance, int64_t now_ms)
{
    int64_t pause_ms = ONCE_PAUSE_MS;

    /* Those that were on their way when it began do not make the pause longer. */
    if (outage->failures > 0 && !outage->probing)
        return false;
    for (uint32_t i = 0; i < outage->failures && pause_ms < ONCE_PAUSE_MAX_MS; i++)
        pause_ms *= 2;
    if (pause_ms > ONCE_PAUSE_MAX_MS)
        pause_ms = ONCE_PAUSE_MAX_MS;
    pause_ms += pause_ms * (chance % 256) / 1024;
    outage->again_ms = now_ms + pause_ms;
    outage->probing = false;
    if (outage->failures < UINT32_MAX)
        outage->failures++;
    return outage->failures == 1;
}

void once_not_asked(struct once_outage *outage)
{
    outage->probing = false;
}
