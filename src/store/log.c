/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The embedded log. taskmill_log_topics gives each topic a number and its bounds; a record's key in
 * taskmill_log is number * 2^48 + offset, so that a topic is one dense range of one b-tree:
 * appending, reading on and trimming touch neighbouring pages, and there is no second index to
 * keep.
 *
 * Bounds are cached here and written back once a commit, not once a record. They are part of the
 * same transaction as the records, so a crash cannot leave them apart.
 */
#include <assert.h>

#include "base/mem.h"
#include "store/sql.h"

#define OFFSET_BITS 48
#define OFFSET_END  (INT64_C(1) << OFFSET_BITS)
#define TOPIC_MAX   32767 /* the key stays positive */

static int64_t entry_key(const struct log_topic *topic, int64_t offset)
{
    assert(offset >= 0 && offset <= OFFSET_END);
    return topic->number * OFFSET_END + offset;
}

static struct log_topic *cached(struct store *store, const char *name)
{
    for (size_t i = 0; i < store->topic_count; i++)
        if (strcmp(store->topics[i].name, name) == 0)
            return &store->topics[i];
    return NULL;
}

static struct log_topic *cache(struct store *store, const char *name, int64_t number, int64_t low,
                               int64_t high)
{
    store->topics = (struct log_topic *)mem_realloc(store->topics, (store->topic_count + 1) *
                                                                       sizeof *store->topics);
    struct log_topic *topic = &store->topics[store->topic_count++];
    *topic =
        (struct log_topic){.name = mem_strdup(name), .number = number, .low = low, .high = high};
    return topic;
}

/* *out is NULL for a topic that was never appended to. */
static int topic_find(struct store *store, const char *name, struct log_topic **out)
{
    bool row;

    *out = cached(store, name);
    if (*out)
        return 0;
    sqlite3_stmt *stmt = sql_stmt(store, STMT_LOG_TOPIC_FIND);
    if (!stmt)
        return ERR_CLOSED;
    bind_text(stmt, 1, bytes_str(name));
    int rv = sql_next(store, stmt, "find a topic of the log", &row);
    if (rv || !row)
        return rv;
    *out = cache(store, name, column_int(stmt, 0), column_int(stmt, 1), column_int(stmt, 2));
    sqlite3_reset(stmt);
    return 0;
}

static int topic_add(struct store *store, const char *name, struct log_topic **out)
{
    sqlite3_stmt *stmt = sql_stmt(store, STMT_LOG_TOPIC_ADD);

    if (!stmt)
        return ERR_CLOSED;
    bind_text(stmt, 1, bytes_str(name));
    int rv = sql_run_one(store, stmt, "add a topic to the log");
    if (rv)
        return rv;
    int64_t number = sqlite3_last_insert_rowid(store->db);
    if (number > TOPIC_MAX)
        return store_fail(store, ERR_FULL, "the log has more than %d topics", TOPIC_MAX);
    *out = cache(store, name, number, 0, 0);
    return 0;
}

int store_log_append(struct store *store, const char *name, int64_t offset, struct bytes payload,
                     const struct store_header *headers, size_t header_count)
{
    struct log_topic *topic;
    int rv = store_check(store);

    assert(store->in_transaction || rv);
    if (rv || (rv = topic_find(store, name, &topic)) != 0)
        return rv;
    if (!topic && (rv = topic_add(store, name, &topic)) != 0)
        return rv;
    assert(offset >= topic->high && offset < OFFSET_END);
    sqlite3_stmt *stmt = sql_stmt(store, STMT_LOG_APPEND);
    if (!stmt)
        return ERR_CLOSED;
    buf_clear(&store->header_bytes);
    headers_encode(&store->header_bytes, headers, header_count);
    bind_int(stmt, 1, entry_key(topic, offset));
    bind_blob(stmt, 2, buf_bytes(&store->header_bytes));
    bind_blob(stmt, 3, payload);
    rv = sql_run_one(store, stmt, "append to the log");
    topic->high = offset + 1;
    topic->dirty = true;
    return rv;
}

static int records_delete(struct store *store, const struct log_topic *topic, int64_t end)
{
    sqlite3_stmt *stmt = sql_stmt(store, STMT_LOG_TRIM);

    if (!stmt)
        return ERR_CLOSED;
    bind_int(stmt, 1, entry_key(topic, topic->low));
    bind_int(stmt, 2, entry_key(topic, end));
    return sql_run(store, stmt, "trim the log");
}

int store_log_trim(struct store *store, const char *name, int64_t next_offset)
{
    struct log_topic *topic;
    int rv = store_check(store);

    assert(store->in_transaction || rv);
    if (rv || (rv = topic_find(store, name, &topic)) != 0)
        return rv;
    if (!topic && (next_offset <= 0 || (rv = topic_add(store, name, &topic)) != 0))
        return rv;
    if (next_offset <= topic->low)
        return 0;
    rv = records_delete(store, topic, next_offset < topic->high ? next_offset : topic->high);
    if (rv)
        return rv;
    topic->low = next_offset;
    if (topic->high < next_offset)
        topic->high = next_offset;
    topic->dirty = true;
    return 0;
}

int store_log_read(struct store *store, const char *name, int64_t from, size_t max,
                   store_log_fn each, void *ctx)
{
    struct log_topic *topic;
    size_t header_count;
    bool more;
    int rv = store_check(store);

    if (rv || (rv = topic_find(store, name, &topic)) != 0 || !topic || from >= topic->high)
        return rv;
    sqlite3_stmt *stmt = sql_stmt(store, STMT_LOG_READ);
    if (!stmt)
        return ERR_CLOSED;
    /* `each` may append and thereby move the cache: nothing of `topic` is used after this. */
    const int64_t base = entry_key(topic, 0);
    bind_int(stmt, 1, entry_key(topic, from < topic->low ? topic->low : from));
    bind_int(stmt, 2, entry_key(topic, topic->high));
    bind_int(stmt, 3, max > INT64_MAX ? INT64_MAX : (int64_t)max);
    while ((rv = sql_next(store, stmt, "read the log", &more)) == 0 && more) {
        rv = headers_decode(store, column_bytes(stmt, 1), &header_count);
        if (rv)
            break;
        each(ctx, column_int(stmt, 0) - base, column_bytes(stmt, 2), store->headers, header_count);
    }
    sqlite3_reset(stmt);
    return rv;
}

int store_log_bounds(struct store *store, const char *name, int64_t *low, int64_t *high)
{
    struct log_topic *topic;
    int rv = store_check(store);

    if (rv || (rv = topic_find(store, name, &topic)) != 0)
        return rv;
    *low = topic ? topic->low : 0;
    *high = topic ? topic->high : 0;
    return 0;
}

int log_flush_bounds(struct store *store)
{
    for (size_t i = 0; i < store->topic_count; i++) {
        struct log_topic *topic = &store->topics[i];
        if (!topic->dirty)
            continue;
        sqlite3_stmt *stmt = sql_stmt(store, STMT_LOG_TOPIC_SET);
        if (!stmt)
            return ERR_CLOSED;
        bind_int(stmt, 1, topic->number);
        bind_int(stmt, 2, topic->low);
        bind_int(stmt, 3, topic->high);
        int rv = sql_run_one(store, stmt, "move the bounds of the log");
        if (rv)
            return rv;
        topic->dirty = false;
    }
    return 0;
}

void log_free(struct store *store)
{
    for (size_t i = 0; i < store->topic_count; i++)
        mem_free(store->topics[i].name);
    mem_free(store->topics);
}
