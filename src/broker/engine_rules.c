/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the runtime configuration (runtime.h) does to tasks.
 *
 * Killswitch: a record is dropped at intake, which frees its offset. A stored row is deleted in
 * whatever state, with one exception: while its retry or dead letter is with the producer it waits
 * for the delivery report, which ends it or hands it back to the rules. A retried copy meets the
 * rules when it comes back through intake.
 *
 * Demotion: a record becomes an entry of the outbox instead of a row. A stored row that waits
 * (PENDING, DELAY) is deleted by the transaction that writes its entry. One that comes back to
 * PENDING later goes the same way: the core gives such tasks to no worker (inflight_set_bar).
 *
 * At-most-once tasks of demoted namespaces stay here. What leaves through the outbox may be
 * published twice (a crash between the delivery report and its commit, a report that was lost), and
 * the two copies may be read by two brokers that know nothing of each other: INV-4 could not be
 * kept by anybody.
 *
 * Stored rows are looked at in order of arrival, some in each turn, so that a turn stays short
 * however many there are; a change of the rules begins anew.
 */
#include "base/log.h"
#include "base/mem.h"
#include "broker/engine_int.h"

/* A turn's share of a sweep: rows looked at, rows that leave, bytes of payload read. */
#define SWEEP_LOOKS 4096
#define SWEEP_ENDS  256
#define SWEEP_BYTES ((size_t)2 << 20)

static bool is_demoted(void *ctx, const struct task *task)
{
    const struct engine *engine = ctx;
    return !task->at_most_once && runtime_demotes(engine->rules, task_namespace(task));
}

void engine_on_rules(struct engine *engine, struct engine_rules *event)
{
    engine_rules_free(engine);
    engine->rules = event->runtime;
    engine->forwards = event->forwards;
    engine->forward_topic = event->forward_topic;
    engine->forward_cluster = event->forward_cluster;
    event->runtime = NULL;
    event->forward_topic = event->forward_cluster = NULL;
    bool bars = engine->forwards && runtime_namespace_count(engine->rules) > 0;
    inflight_set_bar(engine->inflight, bars ? is_demoted : NULL, engine);
    engine->sweeping = true; /* without rules, too: what was barred goes back to its place */
    engine->sweep_again = false;
    inflight_walk_start(engine->inflight);
}

void engine_rules_free(struct engine *engine)
{
    runtime_unref(engine->rules);
    mem_free(engine->forward_topic);
    mem_free(engine->forward_cluster);
    engine->rules = NULL;
    engine->forward_topic = engine->forward_cluster = NULL;
}

/* --- intake ---------------------------------------------------------------------------------- */

bool engine_kills(struct engine *engine, uint32_t source, const struct intake_item *item)
{
    if (!engine->rules)
        return false;
    size_t cost = 0;
    struct batch_meter *turn = &engine->sources[source].meter.turn;
    int64_t begin_us = engine_meter_now_us(engine);
    enum runtime_match match =
        runtime_match(engine->rules, &item->parsed, blob_bytes(item->blob), &cost);
    turn->matched++;
    turn->match_us += engine_meter_now_us(engine) - begin_us;
    engine->turn_bytes += cost;
    if (match == RUNTIME_KEEP)
        return false;
    engine->stats.killed_at_intake++;
    meter_add_tagged(engine->meters, METER_KILLED,
                     METER_TAGS(bytes_str(engine->sources[source].topic), item->parsed.taskname,
                                bytes_str(runtime_match_name(match))),
                     1);
    return true;
}

static void warn_of_kept(struct engine *engine, const struct intake_item *item)
{
    uint64_t unsaid;
    if (engine->forwards && engine_may_warn(engine, WARNING_KEPT, &unsaid))
        log_warn(ENGINE_TARGET,
                 LOG_FIELDS(log_bytes("namespace", item->parsed.namespace),
                            log_bytes("taskname", item->parsed.taskname),
                            log_int("unsaid", (int64_t)unsaid)),
                 "at-most-once task of a demoted namespace stays here: forwarded, it could run "
                 "twice");
}

bool engine_forwards(struct engine *engine, uint32_t source, const struct intake_item *item)
{
    const struct activation *parsed = &item->parsed;
    if (!runtime_demotes(engine->rules, parsed->namespace))
        return false;
    const struct bytes *tags =
        METER_TAGS(bytes_str(engine->sources[source].topic), parsed->namespace, parsed->taskname);
    bool at_most_once = parsed->retry_state.present && parsed->retry_state.at_most_once;
    if (!engine->forwards || at_most_once) {
        engine->stats.kept_demoted++;
        meter_add_tagged(engine->meters, METER_DEMOTED_SKIPPED, tags, 1);
        warn_of_kept(engine, item);
        return false;
    }
    if (inflight_find(engine->inflight, parsed->id))
        return false; /* a copy of one that lives here */
    publisher_forward(engine, item->blob);
    engine->stats.forwarded_at_intake++;
    engine->sources[source].meter.turn.forwarded++;
    meter_add_tagged(engine->meters, METER_DEMOTED, tags, 1);
    return true;
}

/* --- stored rows ----------------------------------------------------------------------------- */

struct sweep {
    size_t looks, ends, bytes;
};

static bool has_room(const struct sweep *sweep)
{
    return sweep->looks < SWEEP_LOOKS && sweep->ends < SWEEP_ENDS && sweep->bytes < SWEEP_BYTES;
}

/* A row whose payload does not parse is kept: its arguments cannot be known. */
static int match_payload(struct engine *engine, struct task *task, struct sweep *sweep,
                         enum runtime_match *match)
{
    struct blob *payload;
    int rc = engine_payload(engine, task, &payload);
    if (rc)
        return rc;
    struct activation parsed;
    const char *why;
    sweep->bytes += payload->len;
    *match = RUNTIME_KEEP;
    if (activation_parse(blob_bytes(payload), &parsed, &why) == 0)
        *match = runtime_match(engine->rules, &parsed, blob_bytes(payload), &sweep->bytes);
    blob_unref(payload);
    return 0;
}

static int look_at(struct engine *engine, struct task *task, struct sweep *sweep)
{
    enum runtime_match match = RUNTIME_KEEP;
    sweep->looks++;
    if (!task->handed)
        match = runtime_match_taskname(engine->rules, task_name(task));
    int rc = match == RUNTIME_SELECTOR ? match_payload(engine, task, sweep, &match) : 0;
    if (rc)
        return rc;
    if (match == RUNTIME_KEEP) {
        inflight_reconsider(engine->inflight, task, engine->now_ms);
        return 0;
    }
    sweep->ends++;
    inflight_kill(engine->inflight, task, engine->now_ms);
    return 0;
}

static int walk(struct engine *engine, struct sweep *sweep)
{
    if (!engine->sweeping && engine->sweep_again) {
        engine->sweeping = true;
        engine->sweep_again = false;
        inflight_walk_start(engine->inflight);
    }
    int rc = 0;
    while (rc == 0 && engine->sweeping && has_room(sweep)) {
        struct task *task = inflight_walk_next(engine->inflight);
        if (task)
            rc = look_at(engine, task, sweep);
        else
            engine->sweeping = false;
    }
    return rc;
}

static int forward(struct engine *engine, struct task *task, struct sweep *sweep)
{
    struct blob *payload;
    int rc = engine_payload(engine, task, &payload);
    if (rc)
        return rc;
    sweep->ends++;
    sweep->bytes += payload->len;
    publisher_forward(engine, payload);
    blob_unref(payload);
    meter_add(engine->meters, METER_FORWARDED, 1);
    meter_add_tagged(engine->meters, METER_FORWARDED_TASK,
                     METER_TAGS(task_namespace(task), task_name(task)), 1);
    inflight_forward(engine->inflight, task, engine->now_ms);
    return 0;
}

bool engine_sweep_is_due(const struct engine *engine)
{
    return engine->sweeping || engine->sweep_again || inflight_first_barred(engine->inflight);
}

/* A walk that is not over leaves no room for forwarding: by then everything that was gathered under
 * other rules has been looked at again. */
int engine_sweep(struct engine *engine)
{
    struct sweep sweep = {0};
    if (!engine_sweep_is_due(engine))
        return 0;
    engine_begin_work(engine, WORK_KILLED);
    int rc = walk(engine, &sweep);
    engine_begin_work(engine, WORK_FORWARDS);
    struct task *task;
    while (rc == 0 && has_room(&sweep) && (task = inflight_first_barred(engine->inflight)))
        rc = forward(engine, task, &sweep);
    engine_begin_work(engine, WORK_OTHER);
    return rc;
}

void engine_rules_look_again(struct engine *engine, const struct task *task)
{
    if (runtime_match_taskname(engine->rules, task_name(task)) != RUNTIME_KEEP)
        engine->sweep_again = true;
}
