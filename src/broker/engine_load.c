/* SPDX-License-Identifier: Apache-2.0 */
/* The file's rows become tasks. Wall times are translated to the boot clock here, once, and clamped
 * to what a row may have at most (INV-14). No row makes a file unusable: what cannot be a task is
 * parked with its reason. */
#include <assert.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "broker/engine_int.h"

struct load {
    struct engine *engine;
    struct buf ended; /* rows the file left as Complete: struct ended_row, id bytes */
    uint64_t rows, bad, skipped;
};

struct ended_row {
    int64_t rowid;
    size_t id_len;
};

static int64_t clamp(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

/* Later and earlier seconds than any calendar has: a file may hold every number, and sums must not
 * overflow. */
#define WALL_MAX_S (INT64_C(1) << 40)

/* The exact time when the file has it, else the last millisecond of the column's second. */
static int64_t column_ms(int64_t due_ms, int64_t column_s)
{
    if (due_ms != STORE_NULL)
        return clamp(due_ms, -WALL_MAX_S * 1000, WALL_MAX_S * 1000);
    return clamp(column_s, -WALL_MAX_S, WALL_MAX_S) * 1000 + 999;
}

static int64_t duration_s(const struct store_row *row)
{
    return clamp(row->processing_deadline_duration_s, 0, INT32_MAX);
}

static int64_t load_deadline(const struct engine *engine, const struct store_row *row)
{
    int64_t longest = duration_s(row) * 1000 + engine->grace_ms;
    int64_t left = longest;
    if (row->processing_deadline_s != STORE_NULL)
        left =
            clamp(column_ms(row->due_ms, row->processing_deadline_s) - engine->wall_ms, 0, longest);
    if (left < engine->startup_grace_ms)
        left = engine->startup_grace_ms;
    return engine->now_ms + left;
}

static int64_t load_delay(const struct engine *engine, const struct store_row *row)
{
    if (row->delay_until_s == STORE_NULL)
        return engine->now_ms;
    int64_t longest = (int64_t)engine->intake.delay_max_s * 1000;
    int64_t until = column_ms(row->due_ms, row->delay_until_s);
    return engine->now_ms + clamp(until + TRANSLATED_EARLY_MS - engine->wall_ms, 0, longest);
}

static int64_t load_expiry(const struct engine *engine, const struct store_row *row)
{
    if (row->expires_at_s == STORE_NULL)
        return CLOCK_NEVER;
    bool exact = row->status == STORE_PENDING;
    return engine_boot_of_wall(engine,
                               column_ms(exact ? row->due_ms : STORE_NULL, row->expires_at_s));
}

static bool load_state(const struct store_row *row, enum task_state *state)
{
    switch (row->status) {
    case STORE_PENDING:
    case STORE_CLAIMED: /* push mode of the original: nobody has it now */
        *state = TASK_PENDING;
        return true;
    case STORE_DELAY:
        *state = TASK_DELAY;
        return true;
    case STORE_PROCESSING:
        *state = TASK_PROCESSING;
        return true;
    case STORE_RETRY:
        *state = TASK_RETRY;
        return true;
    case STORE_FAILURE:
        *state = TASK_FAILURE;
        return true;
    case STORE_COMPLETE:
    case STORE_STATUS_UNKNOWN:
        break;
    }
    return false;
}

/* Rows of a file that Taskmill never wrote have no source. With one consumed topic there is no
 * doubt. */
static int64_t row_source(const struct engine *engine, const struct store_row *row)
{
    if (row->source != STORE_NULL)
        return row->source;
    return engine->source_count == 1 ? engine->sources[0].number : 0;
}

struct confirmed *engine_find_confirmed(const struct engine *engine, int64_t source,
                                        int64_t partition)
{
    for (size_t i = 0; i < engine->confirmed_count; i++) {
        struct confirmed *confirmed = &engine->confirmed[i];
        if (confirmed->value.source == source && confirmed->value.partition == partition)
            return confirmed;
    }
    return NULL;
}

struct confirmed *engine_add_confirmed(struct engine *engine, int64_t source, int64_t partition)
{
    GROW(engine->confirmed, engine->confirmed_count, engine->confirmed_cap);
    struct confirmed *confirmed = &engine->confirmed[engine->confirmed_count++];
    *confirmed = (struct confirmed){.value = {.source = source, .partition = partition}};
    return confirmed;
}

static bool row_confirmed(const struct engine *engine, int64_t source, const struct store_row *row)
{
    for (size_t i = 0; i < engine->source_count; i++)
        if (engine->sources[i].number == source && engine->sources[i].embedded)
            return true;
    const struct confirmed *confirmed = engine_find_confirmed(engine, source, row->partition);
    return confirmed && row->offset < confirmed->value.next_offset;
}

static bool names_fit(const struct store_row *row)
{
    return row->id.len <= UINT16_MAX && row->application.len <= UINT16_MAX &&
           row->namespace.len <= UINT16_MAX && row->taskname.len <= UINT16_MAX;
}

static void note_ended(struct load *load, const struct store_row *row)
{
    struct ended_row ended = {.rowid = row->rowid, .id_len = row->id.len};
    buf_append(&load->ended, &ended, sizeof ended);
    buf_append(&load->ended, row->id.ptr, row->id.len);
}

static struct task_load task_load_of(const struct engine *engine, const struct store_row *row)
{
    struct task_load task = {
        .spec = {.id = row->id,
                 .application = row->application,
                 .namespace = row->namespace,
                 .taskname = row->taskname,
                 .rowid = row->rowid,
                 .origin = {.source = row_source(engine, row),
                            .partition = (int32_t)clamp(row->partition, -1, INT32_MAX),
                            .offset = row->offset},
                 .received_at_wall_ms = clamp(row->received_at_s, 0, WALL_MAX_S) * 1000,
                 .added_at_wall_ms = clamp(row->added_at_s, 0, WALL_MAX_S) * 1000,
                 .expires_at_ms = load_expiry(engine, row),
                 .delay_until_ms = INT64_MIN,
                 .duration_ms = duration_s(row) * 1000,
                 .at_most_once = row->at_most_once,
                 .on_attempts_exceeded = (uint8_t)clamp(row->on_attempts_exceeded, 0, 2),
                 .payload_len = (uint32_t)row->activation_len},
        .due_ms = CLOCK_NEVER,
        .attempts = (uint32_t)clamp(row->processing_attempts, 0, UINT32_MAX),
        .legacy = row->source == STORE_NULL,
    };
    task.bad_row = !row->has_namespace || !load_state(row, &task.state);
    if (task.bad_row)
        task.state = TASK_FAILURE;
    else if (task.state == TASK_DELAY)
        task.due_ms = load_delay(engine, row);
    else if (task.state == TASK_PROCESSING)
        task.due_ms = load_deadline(engine, row);
    task.spec.confirmed = row_confirmed(engine, task.spec.origin.source, row);
    return task;
}

static int load_row(void *ctx, const struct store_row *row)
{
    struct load *load = ctx;
    load->rows++;
    if (row->status == STORE_COMPLETE) {
        note_ended(load, row);
        return 0;
    }
    if (!names_fit(row) || row->activation_len > UINT32_MAX) {
        load->skipped++; /* stays in the file, untouched */
        return 0;
    }
    struct task_load task = task_load_of(load->engine, row);
    struct task *added;
    if (inflight_load(load->engine->inflight, &task, load->engine->now_ms, &added)) {
        load->skipped++; /* two ids that SQLite tells apart, a text and a blob of the same bytes */
        return 0;
    }
    load->bad += task.bad_row;
    added->latency_known = true;
    return 0;
}

static int delete_ended(struct load *load)
{
    struct engine *engine = load->engine;
    int rc = load->ended.len ? engine_begin(engine) : 0;
    for (size_t at = 0; rc == 0 && at < load->ended.len;) {
        struct ended_row ended;
        memcpy(&ended, load->ended.ptr + at, sizeof ended);
        at += sizeof ended;
        rc = store_delete(engine->store, ended.rowid, bytes_of(load->ended.ptr + at, ended.id_len));
        at += ended.id_len;
    }
    if (rc == 0 && store_in_transaction(engine->store))
        rc = store_commit(engine->store);
    return rc;
}

static int load_confirmed(void *ctx, const struct store_confirmed *confirmed)
{
    engine_add_confirmed(ctx, confirmed->source, confirmed->partition)->value = *confirmed;
    return 0;
}

static int load_done(void *ctx, struct bytes id, int64_t ended_at_s)
{
    struct engine *engine = ctx;
    int64_t age_ms =
        clamp(engine->wall_ms / 1000 - clamp(ended_at_s, 0, WALL_MAX_S), 0, INT32_MAX) * 1000;
    done_add(engine->done, id, engine->now_ms - age_ms);
    return 0;
}

static int load_outbox(void *ctx, const struct store_outbox *entry)
{
    publisher_outbox_load(ctx, entry);
    return 0;
}

static void report(const struct load *load)
{
    if (load->bad)
        log_warn(ENGINE_TARGET, LOG_FIELDS(log_int("rows", (int64_t)load->bad)),
                 "rows without a namespace or with an unknown status are parked as Failure");
    if (load->skipped)
        log_warn(
            ENGINE_TARGET, LOG_FIELDS(log_int("rows", (int64_t)load->skipped)),
            "rows with names over 65535 bytes, a huge payload or an id that is no text stay in the "
            "file unserved");
    log_info(ENGINE_TARGET,
             LOG_FIELDS(log_int("rows", (int64_t)load->rows),
                        log_int("outbox", (int64_t)load->engine->outbox.count)),
             "loaded %s", store_path(load->engine->store));
}

int engine_load(struct engine *engine, struct err_text *why)
{
    struct load load = {.engine = engine};
    int rc = store_load_confirmed(engine->store, load_confirmed, engine);
    if (rc == 0)
        rc = store_load_done(engine->store, load_done, engine);
    if (rc == 0)
        rc = store_load_outbox(engine->store, load_outbox, engine);
    if (rc == 0)
        rc = store_load_rows(engine->store, load_row, &load);
    engine->next_rowid = store_next_rowid(engine->store);
    if (rc == 0)
        rc = delete_ended(&load);
    if (rc == 0)
        report(&load);
    else
        err_set(why, rc, "%s",
                *store_why(engine->store) ? store_why(engine->store) : err_string(rc));
    buf_free(&load.ended);
    return rc;
}
