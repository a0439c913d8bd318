/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One script reads records, one swaps: each is atomic in Redis, in its append-only file and on its
 * replicas. Keys are read with pcall: one of another type counts as absent and is overwritten,
 * instead of making every later load fail.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "scheduler/run_storage.h"

/* Entries of one load: each has five keys. */
#define LOAD_CHUNK 500
#define LOAD_KEYS  5

struct redis_storage {
    struct run_storage storage;
    struct redis *redis;
    size_t values; /* the original's keys that are compared and written */
    struct buf name;
    struct buf keys; /* of the call at hand */
    bool told_unreadable;
};

/* KEYS: for each entry state, lease and the three forms of the original's key. */
static const char load_script[] = "local out = {} "
                                  "for i = 1, #KEYS do "
                                  "  local v "
                                  "  if i % 5 == 2 then v = tostring(redis.call('PTTL', KEYS[i])) "
                                  "  else v = redis.pcall('GET', KEYS[i]) end "
                                  "  out[i] = type(v) == 'string' and v or '' "
                                  "end "
                                  "return out";

/* KEYS: state, lease, the original's keys. ARGV: believed state, new state, its life in ms, step,
 * owner, lease in ms (0: it ends), value ('' leaves the original's keys alone), its life in ms,
 * then the believed values. Answers won, state, lease left, values. */
static const char swap_script[] =
    "local function get(key) "
    "  local v = redis.pcall('GET', key) "
    "  return type(v) == 'string' and string.sub(v, 1, 95) or '' "
    "end "
    "local function old(key) return string.sub(get(key), 1, 47) end "
    "local function answer(won) "
    "  local out = {tostring(won), get(KEYS[1]), tostring(redis.call('PTTL', KEYS[2]))} "
    "  for i = 3, #KEYS do out[#out + 1] = old(KEYS[i]) end "
    "  return out "
    "end "
    "if get(KEYS[1]) ~= ARGV[1] then return answer(0) end "
    "if ARGV[4] == 'take' and redis.call('EXISTS', KEYS[2]) == 1 then return answer(0) end "
    "if ARGV[7] ~= '' then "
    "  for i = 3, #KEYS do "
    "    local v = old(KEYS[i]) "
    "    if v ~= '' and v ~= ARGV[6 + i] then return answer(0) end "
    "  end "
    "  for i = 3, #KEYS do redis.call('SET', KEYS[i], ARGV[7], 'PX', ARGV[8]) end "
    "end "
    "redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) "
    "if ARGV[6] == '0' then redis.call('DEL', KEYS[2]) "
    "else redis.call('SET', KEYS[2], ARGV[5], 'PX', ARGV[6]) end "
    "return answer(1)";

static struct redis_storage *of(struct run_storage *storage)
{
    return container_of(storage, struct redis_storage, storage);
}

/* --- keys ------------------------------------------------------------------------------------ */

/* tw:scheduler:REST gives tm:scheduler:REST and tm:scheduler-lease:REST. Texts are collected in
 * `keys` and become slices when all are there, because the buffer moves. */
static void add_own_key(struct buf *keys, size_t *lens, const char *prefix, const char *form)
{
    const char *rest = form + strlen("tw:scheduler:");
    size_t before = keys->len;

    buf_append_str(keys, prefix);
    buf_append_str(keys, rest);
    *lens = keys->len - before;
}

static void own_keys(struct buf *keys, const struct run_key *key, size_t lens[2])
{
    add_own_key(keys, &lens[0], "tm:scheduler:", key->forms[SCHEDULE_KEY]);
    add_own_key(keys, &lens[1], "tm:scheduler-lease:", key->forms[SCHEDULE_KEY]);
}

/* --- records --------------------------------------------------------------------------------- */

static void copy_text(char *out, size_t size, struct bytes text)
{
    size_t len = text.len < size ? text.len : size - 1;

    if (len > 0)
        memcpy(out, text.ptr, len);
    out[len] = '\0';
}

/* The time in a key of the original; what cannot be read is no run, and is said once. */
static void count_value(struct redis_storage *storage, struct bytes text, const char *ours,
                        int64_t *foreign_s)
{
    char value[RUN_VALUE_SIZE];
    int64_t time_s;

    copy_text(value, sizeof value, text);
    if (text.len == 0 || strcmp(value, ours) == 0)
        return;
    if (run_value_parse(value, &time_s) == 0) {
        *foreign_s = time_s > *foreign_s ? time_s : *foreign_s;
    } else if (!storage->told_unreadable) {
        storage->told_unreadable = true;
        log_warn("taskmill::scheduler", LOG_FIELDS(log_str("value", value)),
                 "a tw:scheduler: key in Redis holds no ISO 8601 time; such keys are ignored");
    }
}

static void read_state(struct run_record *record, struct bytes state, struct bytes lease)
{
    char text[RUN_STATE_SIZE];
    long long left;

    copy_text(text, sizeof text, state);
    run_state_parse(&record->state, text);
    copy_text(text, sizeof text, lease);
    left = strtoll(text, NULL, 10);
    record->lease_ms = left > 0 ? left : 0; /* -2: no such key */
    record->foreign_s = SCHEDULE_NEVER_RAN;
}

static void our_value(char out[RUN_VALUE_SIZE], const struct run_state *state)
{
    out[0] = '\0';
    if (state->known)
        run_value_print(out, state->last_s);
}

/* --- load ------------------------------------------------------------------------------------ */

static struct bytes text_at(const struct redis_reply *reply, size_t index)
{
    return redis_reply_at(reply, index).text;
}

static void read_record(struct redis_storage *storage, const struct redis_reply *reply, size_t at,
                        struct run_record *record)
{
    char ours[RUN_VALUE_SIZE];
    struct bytes first = bytes_of(NULL, 0);

    *record = (struct run_record){0};
    read_state(record, text_at(reply, at), text_at(reply, at + 1));
    our_value(ours, &record->state);
    for (size_t i = 0; i < SCHEDULE_KEY_COUNT; i++) {
        struct bytes text = text_at(reply, at + 2 + i);

        if (i < storage->values) {
            copy_text(record->values[i], RUN_VALUE_SIZE, text);
            count_value(storage, text, ours, &record->foreign_s);
        }
        if (first.len == 0)
            first = text;
    }
    /* As the original: the first form that is there tells the last run. */
    count_value(storage, first, ours, &record->foreign_s);
}

static int load_chunk(struct redis_storage *storage, const struct run_key *const *keys,
                      size_t count, struct run_record *out, struct err_text *why)
{
    struct bytes words[3 + LOAD_CHUNK * LOAD_KEYS];
    struct redis_reply reply;
    size_t lens[LOAD_CHUNK][2], at = 0;
    char number[16];
    int rv;

    (void)snprintf(number, sizeof number, "%zu", count * LOAD_KEYS);
    words[0] = bytes_str("EVAL");
    words[1] = bytes_str(load_script);
    words[2] = bytes_str(number);
    buf_clear(&storage->keys);
    for (size_t i = 0; i < count; i++)
        own_keys(&storage->keys, keys[i], lens[i]);
    for (size_t i = 0; i < count; i++) {
        struct bytes *entry = words + 3 + i * LOAD_KEYS;

        for (size_t k = 0; k < 2; at += lens[i][k], k++)
            entry[k] = bytes_of(storage->keys.ptr + at, lens[i][k]);
        for (size_t form = 0; form < SCHEDULE_KEY_COUNT; form++)
            entry[2 + form] = bytes_str(keys[i]->forms[form]);
    }
    rv = redis_call(storage->redis, words, 3 + count * LOAD_KEYS, &reply, why);
    if (rv != 0)
        return rv;
    if (reply.kind == REDIS_LIST && reply.count == count * LOAD_KEYS)
        for (size_t i = 0; i < count; i++)
            read_record(storage, &reply, i * LOAD_KEYS, &out[i]);
    else
        rv = err_set(why, ERR_CORRUPT, "Redis %s: an answer of another shape",
                     redis_name(storage->redis));
    redis_reply_free(&reply);
    return rv;
}

static int load(struct run_storage *base, const struct run_key *const *keys, size_t count,
                struct run_record *out, struct err_text *why)
{
    struct run_record *read = mem_calloc(count ? count : 1, sizeof *read);
    int rv = 0;

    for (size_t at = 0; at < count && rv == 0; at += LOAD_CHUNK)
        rv = load_chunk(of(base), keys + at, count - at < LOAD_CHUNK ? count - at : LOAD_CHUNK,
                        read + at, why);
    if (rv == 0 && count > 0)
        memcpy(out, read, count * sizeof *read);
    mem_free(read);
    return rv;
}

/* --- swap ------------------------------------------------------------------------------------ */

#define SWAP_ARGS 8

struct swap_texts {
    char keys[8], believed[RUN_STATE_SIZE], next[RUN_STATE_SIZE], keep[24], lease[16];
    char value[RUN_VALUE_SIZE], ttl[24];
};

static bool holds_lease(enum run_step step)
{
    return step == RUN_CLAIM || step == RUN_TAKE || step == RUN_RENEW;
}

static void print_texts(const struct run_swap *swap, size_t values, struct swap_texts *t)
{
    int64_t keep_ms = swap->keep_ms > RUN_KEEP_MS ? swap->keep_ms : RUN_KEEP_MS;

    (void)snprintf(t->keys, sizeof t->keys, "%zu", 2 + values);
    run_state_print(t->believed, &swap->record->state);
    run_state_print(t->next, &swap->next);
    (void)snprintf(t->keep, sizeof t->keep, "%" PRId64, keep_ms);
    (void)snprintf(t->lease, sizeof t->lease, "%u", holds_lease(swap->step) ? swap->lease_ms : 0);
    (void)snprintf(t->ttl, sizeof t->ttl, "%" PRId64,
                   swap->value_ttl_ms > 0 ? swap->value_ttl_ms : 1);
    t->value[0] = '\0';
    if (swap->step == RUN_CLAIM)
        run_value_print(t->value, swap->next.last_s);
}

static void read_answer(struct redis_storage *storage, const struct redis_reply *reply,
                        struct run_swap *swap)
{
    struct run_record *record = swap->record;
    char ours[RUN_VALUE_SIZE];

    swap->won = bytes_equal_str(text_at(reply, 0), "1");
    read_state(record, text_at(reply, 1), text_at(reply, 2));
    our_value(ours, &record->state);
    for (size_t i = 0; i < storage->values; i++) {
        copy_text(record->values[i], RUN_VALUE_SIZE, text_at(reply, 3 + i));
        count_value(storage, text_at(reply, 3 + i), ours, &record->foreign_s);
    }
    swap->settled = true;
}

static int swap_one(struct redis_storage *storage, struct run_swap *swap, struct err_text *why)
{
    struct bytes words[3 + 2 + RUN_VALUES + SWAP_ARGS + RUN_VALUES];
    struct redis_reply reply;
    struct swap_texts t;
    size_t lens[2], at = 0;
    int rv;

    print_texts(swap, storage->values, &t);
    buf_clear(&storage->keys);
    own_keys(&storage->keys, swap->key, lens);
    words[at++] = bytes_str("EVAL");
    words[at++] = bytes_str(swap_script);
    words[at++] = bytes_str(t.keys);
    words[at++] = bytes_of(storage->keys.ptr, lens[0]);
    words[at++] = bytes_of(storage->keys.ptr + lens[0], lens[1]);
    for (size_t i = 0; i < storage->values; i++)
        words[at++] = bytes_str(swap->key->forms[SCHEDULE_KEY + i]);
    words[at++] = bytes_str(t.believed);
    words[at++] = bytes_str(t.next);
    words[at++] = bytes_str(t.keep);
    words[at++] = bytes_str(swap->step == RUN_TAKE ? "take" : "");
    words[at++] = bytes_str(swap->next.owner);
    words[at++] = bytes_str(t.lease);
    words[at++] = bytes_str(t.value);
    words[at++] = bytes_str(t.ttl);
    for (size_t i = 0; i < storage->values; i++)
        words[at++] = bytes_str(swap->record->values[i]);
    rv = redis_call(storage->redis, words, at, &reply, why);
    if (rv != 0)
        return rv;
    if (reply.kind == REDIS_LIST && reply.count == 3 + storage->values)
        read_answer(storage, &reply, swap);
    else
        rv = err_set(why, ERR_CORRUPT, "Redis %s: an answer of another shape",
                     redis_name(storage->redis));
    redis_reply_free(&reply);
    return rv;
}

static int swap_all(struct run_storage *base, struct run_swap *swaps, size_t count,
                    struct err_text *why)
{
    int rv = 0;

    for (size_t i = 0; i < count; i++)
        swaps[i].settled = swaps[i].won = false;
    for (size_t i = 0; i < count && rv == 0; i++)
        rv = swap_one(of(base), &swaps[i], why);
    return rv;
}

/* --- the storage ----------------------------------------------------------------------------- */

static const char *name(const struct run_storage *base)
{
    return buf_cstr(&of((struct run_storage *)(uintptr_t)base)->name);
}

static void close_storage(struct run_storage *base)
{
    struct redis_storage *storage = of(base);

    redis_free(storage->redis);
    buf_free(&storage->name);
    buf_free(&storage->keys);
    mem_free(storage);
}

struct run_storage *run_storage_redis(const struct redis_address *address, uint32_t timeout_ms,
                                      bool old_keys)
{
    static const struct run_storage_ops ops = {load, swap_all, name, close_storage};
    struct redis_storage *storage = mem_zalloc(sizeof *storage);

    storage->storage.ops = &ops;
    storage->redis = redis_new(address, timeout_ms);
    storage->values = old_keys ? 2 : 1;
    buf_printf(&storage->name, "Redis %s", redis_name(storage->redis));
    return &storage->storage;
}
