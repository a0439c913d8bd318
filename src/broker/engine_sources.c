/* SPDX-License-Identifier: Apache-2.0 */
/* Records in, offsets out, and who may run an at-most-once task (INV-1, INV-4, INV-9). */
#include <assert.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "broker/engine_int.h"

/* --- records --------------------------------------------------------------------------------- */

/* Not a moment before received_at + delay: received_at has lost its part of a millisecond, too. */
static int64_t delay_end_ms(const struct engine *engine, const struct intake_item *item)
{
    if (item->delay_until_ms == INT64_MIN)
        return INT64_MIN;
    return clock_add(engine_boot_of_wall(engine, item->delay_until_ms), 1 + TRANSLATED_EARLY_MS);
}

static struct task_spec spec_of(struct engine *engine, uint32_t source,
                                const struct intake_item *item)
{
    assert(!item->reason && item->blob); /* a tombstone has a reason */
    const struct activation *parsed = &item->parsed;
    const struct retry_state *retry = &parsed->retry_state;
    bool embedded = engine->sources[source].embedded;
    return (struct task_spec){
        .id = parsed->id,
        .application = parsed->application,
        .namespace = parsed->namespace,
        .taskname = parsed->taskname,
        .rowid = engine->next_rowid,
        .origin = {.source = engine->sources[source].number,
                   .partition = item->partition,
                   .offset = item->offset},
        .received_at_wall_ms = item->received_at_ms,
        .added_at_wall_ms = engine->wall_ms,
        .expires_at_ms = item->expires_at_ms == CLOCK_NEVER
                             ? CLOCK_NEVER
                             : engine_boot_of_wall(engine, item->expires_at_ms),
        .delay_until_ms = delay_end_ms(engine, item),
        .duration_ms = item->duration_s * 1000,
        .at_most_once = retry->present && retry->at_most_once,
        .confirmed = embedded,
        .on_attempts_exceeded = item->on_attempts_exceeded,
        .blob = blob_ref(item->blob),
        .payload_len = item->blob->len,
    };
}

/* A delay counts from received_at, which the producer wrote; it may lie in the future of this
 * clock. The task still waits no longer than the cap from now (INV-14). */
static void clamp_delay(struct engine *engine, struct task_spec *spec)
{
    int64_t latest = clock_add(engine->now_ms, (int64_t)engine->intake.delay_max_s * 1000);
    if (spec->delay_until_ms > latest)
        spec->delay_until_ms = latest;
}

static void count_cut_delay(struct engine *engine, const struct intake_item *item)
{
    uint64_t unsaid;
    engine->stats.delays_cut++;
    if (engine_may_warn(engine, WARNING_DELAY_CUT, &unsaid))
        log_warn(ENGINE_TARGET,
                 LOG_FIELDS(log_bytes("taskname", item->parsed.taskname),
                            log_int("unsaid", (int64_t)unsaid)),
                 "a delay of %llu s was cut to max_delayed_task_allowed_sec",
                 (unsigned long long)item->parsed.delay);
}

static void add_task(struct engine *engine, uint32_t source, const struct intake_item *item)
{
    if (engine_kills(engine, source, item))
        return;
    struct task_spec spec = spec_of(engine, source, item);
    clamp_delay(engine, &spec);
    if (item->delay_cut)
        count_cut_delay(engine, item);
    bool drop = false;
    if (spec.expires_at_ms <= engine->now_ms) {
        engine->stats.expired_at_intake++;
        metric_add(engine->sources[source].meter.expired, 1);
        drop = true;
    } else if (spec.at_most_once && done_contains(engine->done, spec.id)) {
        engine->stats.done_dropped++;
        drop = true;
    } else if (engine_forwards(engine, source, item)) {
        drop = true;
    }
    struct task *task;
    if (drop || inflight_add(engine->inflight, &spec, engine->now_ms, &task)) {
        blob_unref(spec.blob);
        return;
    }
    engine->next_rowid++;
    engine_meter_stored(engine, source, item);
    task->latency_known = task->state == TASK_DELAY;
    if (spec.at_most_once && !spec.confirmed)
        offsets_want(engine->offsets, spec.origin.source, spec.origin.partition,
                     spec.origin.offset);
}

void engine_add_task(struct engine *engine, struct blob *payload, int64_t offset)
{
    if (engine->source_count == 0)
        return;
    struct intake_item item = {.offset = offset, .blob = blob_ref(payload)};
    intake_examine(&item, &engine->intake, engine->wall_ms);
    assert(!item.reason);
    if (!item.parsed.retry_state.present) /* in so many words, as the original's canaries */
        item.on_attempts_exceeded = ON_ATTEMPTS_EXCEEDED_DISCARD;
    add_task(engine, 0, &item);
    intake_item_clear(&item);
}

static bool accept_offset(struct engine *engine, uint32_t source, const struct intake_item *item)
{
    if (engine->sources[source].embedded)
        return true;
    switch (offsets_see(engine->offsets, engine->sources[source].number, item->partition,
                        item->offset)) {
    case OFFSET_NEXT:
    case OFFSET_JUMP:
        return true;
    case OFFSET_BACK:
    case OFFSET_REVOKED:
        break;
    }
    return false;
}

static void take_item(struct engine *engine, uint32_t source, struct intake_item *item)
{
    gate_accept(&engine->gate, 1);
    engine_meter_took(engine, source, item);
    engine->stats.records++;
    engine->turn_rows++;
    engine->turn_bytes += item->blob ? item->blob->len : 0;
    if (accept_offset(engine, source, item)) {
        if (item->reason)
            publisher_outbox_add(engine, source, item);
        else
            add_task(engine, source, item);
    }
    intake_item_clear(item);
}

void engine_on_records(struct engine *engine, struct engine_records *records)
{
    while (records->next < records->count) {
        if (engine->turn_rows >= engine->limits.turn_events ||
            engine->turn_bytes >= engine->limits.turn_bytes)
            return;
        take_item(engine, records->source, &records->items[records->next++]);
    }
}

/* --- ownership of at-most-once tasks --------------------------------------------------------- */

static int source_index(const struct engine *engine, int64_t number)
{
    for (size_t i = 0; i < engine->source_count; i++)
        if (engine->sources[i].number == number)
            return (int)i;
    return -1;
}

static void keep_confirmed(struct engine *engine, const struct task_origin *origin,
                           int64_t next_offset)
{
    struct confirmed *kept = engine_find_confirmed(engine, origin->source, origin->partition);
    if (!kept)
        kept = engine_add_confirmed(engine, origin->source, origin->partition);
    if (kept->value.next_offset >= next_offset)
        return;
    kept->value.next_offset = next_offset;
    kept->changed = true;
}

/* The group stands lower than it did: somebody reset its offsets. What is read again is not
 * confirmed by what was true before. */
static void unconfirm_from(struct engine *engine, int64_t source, int32_t partition,
                           int64_t start_offset)
{
    struct confirmed *kept = engine_find_confirmed(engine, source, partition);
    if (!kept || kept->value.next_offset <= start_offset)
        return;
    kept->value.next_offset = start_offset;
    kept->changed = true;
}

static void warn_of_owner(struct engine *engine, const struct task *task)
{
    uint64_t unsaid;
    if (!engine_may_warn(engine, WARNING_OWNER, &unsaid))
        return;
    log_warn(
        ENGINE_TARGET,
        LOG_FIELDS(log_bytes("id", task_id(task)), log_int("unsaid", (int64_t)unsaid)),
        "at-most-once task fails: nobody can tell who owns offset %lld of partition %d (offsets "
        "reset, topic gone, or committed by another kind of broker)",
        (long long)task->origin.offset, task->origin.partition);
}

static void judge(struct engine *engine, struct task *task, const struct ownership_facts *facts)
{
    struct ownership_facts own = *facts;
    own.legacy = task->legacy;
    switch (ownership_of(&own, store_id(engine->store), task->origin.offset)) {
    case OWNERSHIP_CONFIRMED:
        keep_confirmed(engine, &task->origin, own.committed);
        inflight_confirm(engine->inflight, task, engine->now_ms);
        break;
    case OWNERSHIP_WAIT:
        break;
    case OWNERSHIP_FOREIGN:
        inflight_refuse(engine->inflight, task, true, engine->now_ms);
        break;
    case OWNERSHIP_UNKNOWN:
        warn_of_owner(engine, task);
        inflight_refuse(engine->inflight, task, false, engine->now_ms);
        break;
    }
}

static void settle_task(void *ctx, struct task *task)
{
    struct engine *engine = ctx;
    struct ownership_facts facts;
    if (offsets_facts(engine->offsets, task->origin.source, task->origin.partition, &facts))
        judge(engine, task, &facts);
}

void engine_settle(struct engine *engine)
{
    engine->settle = false;
    inflight_each_unconfirmed(engine->inflight, settle_task, engine);
}

struct ask {
    struct engine *engine;
    struct partition_ref *refs;
    size_t count, cap;
    size_t orphans; /* tasks of topics that this broker does not consume */
};

static void collect_ask(void *ctx, struct task *task)
{
    struct ask *ask = ctx;
    struct engine *engine = ask->engine;
    int source = source_index(engine, task->origin.source);
    ask->orphans += source < 0;
    if (source < 0 ||
        offsets_assigned(engine->offsets, task->origin.source, task->origin.partition))
        return;
    for (size_t i = 0; i < ask->count; i++)
        if (ask->refs[i].source == (uint32_t)source &&
            ask->refs[i].partition == task->origin.partition)
            return;
    GROW(ask->refs, ask->count, ask->cap);
    ask->refs[ask->count++] =
        (struct partition_ref){.source = (uint32_t)source, .partition = task->origin.partition};
}

void engine_ask(struct engine *engine)
{
    engine->next_ask_ms = engine->now_ms + ASK_INTERVAL_MS;
    if (!inflight_unconfirmed(engine->inflight))
        return;
    struct ask ask = {.engine = engine};
    inflight_each_unconfirmed(engine->inflight, collect_ask, &ask);
    for (size_t i = 0; i < ask.count; i++) {
        struct topic_source *source = engine->sources[ask.refs[i].source].source;
        source->ops->ask(source, ask.refs[i].partition);
    }
    mem_free(ask.refs);
    uint64_t unsaid;
    if (ask.orphans && engine_may_warn(engine, WARNING_ORPHANS, &unsaid))
        log_warn(ENGINE_TARGET, LOG_FIELDS(log_int("tasks", (int64_t)ask.orphans)),
                 "at-most-once tasks wait for the offsets of a topic that this broker does not "
                 "consume");
}

struct answer {
    struct engine *engine;
    int64_t source;
    int32_t partition;
    struct ownership_facts facts;
};

static void judge_by_answer(void *ctx, struct task *task)
{
    struct answer *answer = ctx;
    if (task->origin.source == answer->source && task->origin.partition == answer->partition)
        judge(answer->engine, task, &answer->facts);
}

void engine_on_answered(struct engine *engine, const struct engine_positions *event)
{
    const struct engine_position *answered = &event->positions[0];
    int64_t number = engine->sources[event->source].number;
    int32_t partition = answered->position.partition;
    bool gone = event->code == ERR_NOT_FOUND;
    /* Assigned meanwhile: our own tracker knows better, and the answer may be older. */
    if ((event->code && !gone) || offsets_assigned(engine->offsets, number, partition))
        return;
    struct answer answer = {.engine = engine, .source = number, .partition = partition};
    answer.facts.committed = answered->position.committed;
    answer.facts.low = gone ? INT64_MAX : answered->position.low;
    owners_parse(bytes_of(answered->metadata, answered->metadata_len), &answer.facts.owners);
    inflight_each_unconfirmed(engine->inflight, judge_by_answer, &answer);
}

/* --- assignments and commits ----------------------------------------------------------------- */

/* A source waits for the answer to its revoke only as long as its session lasts. Once it has the
 * partition again, an answer that is still owed would take the new assignment away. */
static void forget_revoke(struct engine *engine, uint32_t source, int32_t partition)
{
    for (size_t i = engine->revoke_count; i-- > 0;) {
        const struct partition_ref *ref = &engine->revokes[i];
        if (ref->source == source && ref->partition == partition)
            engine->revokes[i] = engine->revokes[--engine->revoke_count];
    }
}

void engine_on_assigned(struct engine *engine, const struct engine_positions *event)
{
    const struct engine_source *source = &engine->sources[event->source];
    for (size_t i = 0; i < event->count; i++) {
        const struct engine_position *assigned = &event->positions[i];
        metric_add(source->meter.assigned, 1);
        if (!offsets_assigned(engine->offsets, source->number, assigned->position.partition))
            metric_change(source->meter.partitions, 1);
        forget_revoke(engine, event->source, assigned->position.partition);
        unconfirm_from(engine, source->number, assigned->position.partition,
                       assigned->position.start_offset);
        offsets_assign(engine->offsets, source->number, assigned->position.partition,
                       assigned->position.start_offset, assigned->position.committed,
                       bytes_of(assigned->metadata, assigned->metadata_len));
    }
    engine->settle = true;
}

void engine_on_revoking(struct engine *engine, const struct engine_partitions *event)
{
    metric_add(engine->sources[event->source].meter.revoked, event->count);
    for (size_t i = 0; i < event->count; i++) {
        GROW(engine->revokes, engine->revoke_count, engine->revoke_cap);
        engine->revokes[engine->revoke_count++] =
            (struct partition_ref){.source = event->source, .partition = event->partitions[i]};
    }
}

void engine_on_committed(struct engine *engine, const struct engine_partitions *event)
{
    offsets_committed(engine->offsets, engine->sources[event->source].number, event->partitions[0],
                      event->next_offset);
    if (inflight_unconfirmed(engine->inflight))
        engine->settle = true;
}

void engine_hand_out_commits(struct engine *engine)
{
    struct offset_commit commit;
    while (offsets_next_commit(engine->offsets, &commit)) {
        int index = source_index(engine, commit.source);
        assert(index >= 0);
        struct topic_source *source = engine->sources[index].source;
        source->ops->commit(source, commit.partition, commit.next_offset, commit.metadata,
                            commit.urgent);
    }
}

/* After the turn's commit and the hand-out of its offsets: nothing of these partitions is on its
 * way. */
void engine_finish_revokes(struct engine *engine)
{
    for (size_t i = 0; i < engine->revoke_count; i++) {
        const struct partition_ref *ref = &engine->revokes[i];
        struct engine_source *source = &engine->sources[ref->source];
        if (offsets_assigned(engine->offsets, source->number, ref->partition))
            metric_change(source->meter.partitions, -1);
        offsets_revoke(engine->offsets, source->number, ref->partition);
        source->source->ops->revoke_done(source->source, ref->partition);
    }
    engine->revoke_count = 0;
}

/* --- sources on the engine's own thread ------------------------------------------------------ */

static size_t inline_credit(void *ctx, size_t wanted)
{
    const struct inline_source *source = ctx;
    return gate_take(&source->engine->gate, wanted);
}

static void inline_credit_return(void *ctx, size_t unused)
{
    const struct inline_source *source = ctx;
    gate_return(&source->engine->gate, unused);
}

static void inline_records(void *ctx, const struct topic_record *records, size_t count)
{
    const struct inline_source *source = ctx;
    struct engine *engine = source->engine;
    struct engine_source *from = &engine->sources[source->index];
    const struct intake_meter meter = {
        .meters = engine->meters, .topic = from->topic, .cache = from->meter.sizes};
    for (size_t i = 0; i < count; i++) {
        struct intake_item item;
        intake_record(&item, &records[i], &engine->intake, engine->wall_ms);
        intake_measure(&meter, &item, &records[i], NULL);
        take_item(engine, source->index, &item);
    }
}

static void inline_assigned(void *ctx, const struct topic_position *positions, size_t count)
{
    const struct inline_source *source = ctx;
    struct engine_positions *event =
        engine_positions_event(EVENT_ASSIGNED, source->index, positions, count);
    engine_on_assigned(source->engine, event);
    mem_free(event);
}

static void inline_revoking(void *ctx, const int32_t *partitions, size_t count)
{
    const struct inline_source *source = ctx;
    struct engine_partitions *event =
        engine_event_new(EVENT_REVOKING, sizeof *event + count * sizeof event->partitions[0]);
    event->source = source->index;
    event->count = count;
    memcpy(event->partitions, partitions, count * sizeof *partitions);
    engine_on_revoking(source->engine, event);
    mem_free(event);
}

static void inline_committed(void *ctx, int32_t partition, int64_t next_offset)
{
    const struct inline_source *source = ctx;
    struct engine *engine = source->engine;
    offsets_committed(engine->offsets, engine->sources[source->index].number, partition,
                      next_offset);
    if (inflight_unconfirmed(engine->inflight))
        engine->settle = true;
}

static void inline_answered(void *ctx, const struct topic_position *position, int code)
{
    const struct inline_source *source = ctx;
    struct engine_positions *event =
        engine_positions_event(EVENT_ANSWERED, source->index, position, 1);
    event->code = code;
    engine_on_answered(source->engine, event);
    mem_free(event);
}

static void inline_failed(void *ctx, int code, const char *why)
{
    const struct inline_source *source = ctx;
    struct engine *engine = source->engine;
    engine->ports.source_failed(engine->ports.ctx, source->index, code, why);
}

void engine_source_events(struct engine *engine, uint32_t source,
                          struct topic_source_events *events)
{
    assert(source < engine->source_count);
    struct inline_source *ctx = &engine->inline_sources[source];
    *ctx = (struct inline_source){.engine = engine, .index = source};
    *events = (struct topic_source_events){
        .ctx = ctx,
        .credit = inline_credit,
        .credit_return = inline_credit_return,
        .records = inline_records,
        .assigned = inline_assigned,
        .revoking = inline_revoking,
        .committed = inline_committed,
        .answered = inline_answered,
        .failed = inline_failed,
    };
}
