/* SPDX-License-Identifier: Apache-2.0 */
/* Changed tasks become row effects of one transaction. Each task is written once a turn, in its
 * last state, however often it moved; one that came and went within a turn is never written. */
#include <assert.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "broker/engine_int.h"
#include "wire/ident.h"

int engine_begin(struct engine *engine)
{
    if (store_in_transaction(engine->store))
        return 0;
    unsigned attempts = 0;
    int rc;
    do
        rc = store_begin(engine->store);
    while (engine_try_again(engine, rc, &attempts));
    return rc;
}

int engine_payload(struct engine *engine, struct task *task, struct blob **out)
{
    if (task->blob) {
        *out = blob_ref(task->blob);
        return 0;
    }
    assert(task->stored);
    unsigned attempts = 0;
    int rc;
    do
        rc = store_read_activation(engine->store, task->rowid, task_id(task), out);
    while (engine_try_again(engine, rc, &attempts));
    return rc;
}

static enum store_status store_status(const struct task *task)
{
    static const enum store_status statuses[TASK_STATES] = {
        [TASK_PENDING] = STORE_PENDING,       [TASK_DELAY] = STORE_DELAY,
        [TASK_PROCESSING] = STORE_PROCESSING, [TASK_RETRY] = STORE_RETRY,
        [TASK_FAILURE] = STORE_FAILURE,
    };
    return statuses[task->state];
}

static int64_t floor_s(int64_t ms)
{
    return ms >= 0 ? ms / 1000 : -((-ms + 999) / 1000);
}

static int64_t wall_s(const struct engine *engine, int64_t boot_ms)
{
    return boot_ms == CLOCK_NEVER ? STORE_NULL : floor_s(engine_wall_of_boot(engine, boot_ms));
}

/* The one time that counts in this state, to the millisecond. */
static int64_t due_wall_ms(const struct engine *engine, const struct task *task)
{
    int64_t due_ms = task->state == TASK_PENDING ? task->expires_at_ms : task->due_ms;
    return due_ms == CLOCK_NEVER ? STORE_NULL : engine_wall_of_boot(engine, due_ms);
}

/* After the commit the payload leaves the memory if it is too large or there is too much of all. */
static void limit_cache(struct engine *engine, struct task *task)
{
    struct inflight_counts counts;
    inflight_get_counts(engine->inflight, &counts);
    if (task->blob->len <= engine->limits.blob_cache_item_bytes &&
        counts.payload_bytes_cached <= engine->limits.blob_cache_bytes)
        return;
    GROW(engine->uncache, engine->uncache_count, engine->uncache_cap);
    engine->uncache[engine->uncache_count++] = task;
}

static int insert_row(struct engine *engine, struct task *task)
{
    assert(task->blob);
    bool delay = task->state == TASK_DELAY, processing = task->state == TASK_PROCESSING;
    struct store_row row = {
        .rowid = task->rowid,
        .id = task_id(task),
        .activation = blob_bytes(task->blob),
        .partition = task->origin.partition,
        .offset = task->origin.offset,
        .added_at_s = floor_s(task->added_at_wall_ms),
        .received_at_s = floor_s(task->received_at_wall_ms),
        .processing_attempts = task->attempts,
        .expires_at_s = wall_s(engine, task->expires_at_ms),
        .delay_until_s = delay ? wall_s(engine, task->due_ms) : STORE_NULL,
        .processing_deadline_s = processing ? wall_s(engine, task->due_ms) : STORE_NULL,
        .claim_expires_at_s = STORE_NULL,
        .processing_deadline_duration_s = task->duration_ms / 1000,
        .status = store_status(task),
        .at_most_once = task->at_most_once,
        .has_namespace = true,
        .namespace = task_namespace(task),
        .taskname = task_name(task),
        .application = task_application(task),
        .on_attempts_exceeded = task->on_attempts_exceeded,
        .bucket = ident_bucket(task_id(task)),
        .source = task->origin.source,
        .due_ms = due_wall_ms(engine, task),
    };
    limit_cache(engine, task);
    return store_insert(engine->store, &row);
}

/* The payload with what a Retry report wants changed (spec/broker.md 4.3), in memory; written by
 * the caller. */
static int splice(struct engine *engine, struct task *task)
{
    const struct task_rewrite *rewrite = &task->rewrite;
    struct activation_edit edit = {.set_max_attempts = rewrite->has_max_attempts,
                                   .max_attempts = rewrite->max_attempts,
                                   .set_delay_on_retry = rewrite->has_delay_on_retry,
                                   .delay_on_retry = rewrite->delay_on_retry};
    struct blob *old;
    int rc = engine_payload(engine, task, &old);
    if (rc)
        return rc;
    const char *why = NULL;
    buf_clear(&engine->scratch);
    if (activation_splice(blob_bytes(old), &edit, &engine->scratch, &why)) {
        uint64_t unsaid;
        if (engine_may_warn(engine, WARNING_REWRITE, &unsaid))
            log_warn(ENGINE_TARGET,
                     LOG_FIELDS(log_bytes("id", task_id(task)), log_int("unsaid", (int64_t)unsaid)),
                     "stored activation cannot be rewritten for its retry: %s", why);
        blob_unref(old);
        return 0;
    }
    blob_unref(old);
    inflight_set_blob(engine->inflight, task, blob_copy(buf_bytes(&engine->scratch)));
    return 0;
}

static int update_row(struct engine *engine, struct task *task)
{
    struct store_change change = {
        .status = store_status(task),
        .processing_attempts = task->attempts,
        .processing_deadline_s =
            task->state == TASK_PROCESSING ? wall_s(engine, task->due_ms) : STORE_NULL,
        .due_ms = due_wall_ms(engine, task),
        .on_attempts_exceeded = task->on_attempts_exceeded,
    };
    return store_update(engine->store, task->rowid, task_id(task), &change);
}

/* A killed one, too: the worker that had it may have run it, and a replay must not run. */
static bool is_remembered(const struct task *task)
{
    return task->at_most_once && task->end != TASK_LIVE && task->end != TASK_FOREIGN;
}

static int remember_done(struct engine *engine, const struct task *task)
{
    if (!is_remembered(task))
        return 0;
    if (!done_add(engine->done, task_id(task), engine->now_ms))
        return 0;
    return store_done_add(engine->store, task_id(task), floor_s(engine->wall_ms));
}

static int write_change(struct engine *engine, struct task *task)
{
    int rc = 0;
    engine->stats.rows_written++;
    if (task->end != TASK_LIVE) {
        if (task->stored)
            rc = store_delete(engine->store, task->rowid, task_id(task));
        return rc ? rc : remember_done(engine, task);
    }
    if (task->rewritten && (rc = splice(engine, task)))
        return rc;
    if (!task->stored)
        return insert_row(engine, task);
    if (task->rewritten && task->blob) {
        limit_cache(engine, task);
        rc =
            store_set_activation(engine->store, task->rowid, task_id(task), blob_bytes(task->blob));
    }
    return rc ? rc : update_row(engine, task);
}

/* Came and went within this turn. */
static bool leaves_no_trace(const struct task *task)
{
    return task->end != TASK_LIVE && !task->stored && !is_remembered(task);
}

static int write_tasks(struct engine *engine)
{
    struct task *task = NULL;
    int rc = 0;
    while (rc == 0 && (task = inflight_next_change(engine->inflight, task))) {
        if (leaves_no_trace(task))
            continue;
        if ((rc = engine_begin(engine)))
            break;
        engine_begin_work(engine, engine_work_of(task));
        rc = write_change(engine, task);
    }
    engine_begin_work(engine, WORK_OTHER);
    return rc;
}

static int write_confirmed(struct engine *engine)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < engine->confirmed_count; i++) {
        struct confirmed *confirmed = &engine->confirmed[i];
        if (!confirmed->changed)
            continue;
        if ((rc = engine_begin(engine)) == 0)
            rc = store_set_confirmed(engine->store, &confirmed->value);
        confirmed->changed = false;
    }
    return rc;
}

static int write_done_dropped(struct engine *engine)
{
    int rc = engine->done_dropped.len ? engine_begin(engine) : 0;
    for (size_t at = 0; rc == 0 && at < engine->done_dropped.len;) {
        uint32_t len;
        memcpy(&len, engine->done_dropped.ptr + at, sizeof len);
        at += sizeof len;
        rc = store_done_delete(engine->store, bytes_of(engine->done_dropped.ptr + at, len));
        at += len;
    }
    buf_clear(&engine->done_dropped);
    return rc;
}

static int write_log(struct engine *engine)
{
    if (!engine->log || !embedded_log_is_dirty(engine->log))
        return 0;
    int rc = engine_begin(engine);
    return rc ? rc : embedded_log_write(engine->log);
}

int engine_write(struct engine *engine)
{
    int rc = write_tasks(engine);
    if (rc == 0)
        rc = write_done_dropped(engine);
    if (rc == 0)
        rc = write_confirmed(engine);
    if (rc == 0)
        rc = publisher_write(engine);
    return rc ? rc : write_log(engine);
}
