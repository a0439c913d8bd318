/* SPDX-License-Identifier: Apache-2.0 */
/* What workers and producers ask of the engine, and how they are answered. Request bodies were
 * checked on the rpc thread (service.c); a body that does not decode here is a bug. */
#include <assert.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/plant.h"
#include "broker/engine_int.h"

#define NO_TASK "No pending activations"

static_assert(TASK_RESPONSE_PREFIX_MAX <= sizeof(((struct rpc_reply *)NULL)->prefix),
              "a reply has room for what precedes its task");

/* A held claim is answered this long before the caller's own deadline. */
#define HOLD_MARGIN_MS 100

struct reply *engine_add_reply(struct engine *engine, struct engine_call *call)
{
    GROW(engine->replies, engine->reply_count, engine->reply_cap);
    struct reply *reply = &engine->replies[engine->reply_count++];
    *reply = (struct reply){.call = call, .status = GRPC_OK};
    return reply;
}

static void reply_status(struct engine *engine, struct engine_call *call, enum grpc_status status,
                         const char *message)
{
    struct reply *reply = engine_add_reply(engine, call);
    reply->status = status;
    reply->message = message;
}

/* --- claims and reports ---------------------------------------------------------------------- */

static struct claim_filter claim_filter(const struct task_filter *filter)
{
    return (struct claim_filter){.has_application = filter->has_application,
                                 .has_namespace = filter->has_namespace,
                                 .application = filter->application,
                                 .namespace = filter->namespace};
}

static int64_t hold_until(const struct engine *engine, const struct engine_call *call)
{
    if (engine->draining || (call->filter.has_namespace && !call->filter.has_application))
        return 0;
    int64_t until = clock_add(engine->now_ms, engine->hold_ms);
    int64_t limit = call->deadline_ms == CLOCK_NEVER ? until : call->deadline_ms - HOLD_MARGIN_MS;
    return until < limit ? until : limit;
}

void engine_on_claim(struct engine *engine, struct engine_call *call)
{
    struct claim_filter filter = claim_filter(&call->filter);
    struct task *task = NULL;
    if (!engine->draining)
        inflight_claim(engine->inflight, &call->claim, &filter, hold_until(engine, call),
                       engine->now_ms, &task);
    call->held = call->claim.queue != NULL;
    if (call->held)
        return;
    if (!task) {
        reply_status(engine, call, GRPC_NOT_FOUND, NO_TASK);
        return;
    }
    struct reply *reply = engine_add_reply(engine, call);
    reply->task = task;
    reply->claim_number = task->claim;
}

static enum report_status report_status(int32_t status)
{
    switch (status) {
    case ACTIVATION_FAILURE:
        return REPORT_FAILURE;
    case ACTIVATION_RETRY:
        return REPORT_RETRY;
    default:
        assert(status == ACTIVATION_COMPLETE);
        return REPORT_COMPLETE;
    }
}

static enum report_result apply_report(struct engine *engine,
                                       const struct set_status_request *request)
{
    struct task_rewrite rewrite = {.has_max_attempts = request->has_max_attempts,
                                   .max_attempts = request->max_attempts,
                                   .has_delay_on_retry = request->has_delay_on_retry,
                                   .delay_on_retry = request->delay_on_retry};
    enum report_result result = inflight_report(
        engine->inflight, request->id, report_status(request->status), &rewrite, engine->now_ms);
    if (result != REPORT_APPLIED)
        log_debug(ENGINE_TARGET, LOG_FIELDS(log_bytes("id", request->id)), "report ignored: %s",
                  report_result_name(result));
    return result;
}

void engine_on_status(struct engine *engine, struct engine_call *call)
{
    enum report_result result = apply_report(engine, &call->status);
    engine_meter_report(engine, report_status(call->status.status), result);
    struct task *next = NULL;
    if (call->status.has_fetch_next && !engine->draining) {
        struct claim_filter filter = claim_filter(&call->status.fetch_next);
        inflight_claim(engine->inflight, NULL, &filter, 0, engine->now_ms, &next);
    }
    struct reply *reply = engine_add_reply(engine, call);
    reply->task = next;
    reply->claim_number = next ? next->claim : 0;
}

static int apply_batched(void *ctx, const struct set_status_request *update)
{
    struct report_batch *batch = ctx;
    enum report_status status = report_status(update->status);
    batch->counts[status]++;
    batch->applied[status] += apply_report(batch->engine, update) == REPORT_APPLIED;
    return 0;
}

void engine_on_batch(struct engine *engine, struct engine_call *call)
{
    struct report_batch batch = {.engine = engine};
    const char *why = NULL;
    int rc = set_batch_decode(call->body, apply_batched, &batch, &why);
    assert(rc == 0);
    engine_meter_batch(engine, &batch);
    engine_add_reply(engine, call);
}

void engine_on_cancel(struct engine *engine, struct engine_call_event *event)
{
    struct engine_call *call = event->call;
    if (call->held && call->event.kind == EVENT_CLAIM) {
        inflight_cancel(engine->inflight, &call->claim);
        call->held = false;
        reply_status(engine, call, GRPC_CANCELLED, NULL);
        engine->stats.cancelled++;
    }
    engine->ports.release(engine->ports.ctx, call);
}

void engine_on_undelivered(struct engine *engine, struct engine_undelivered *event)
{
    struct activation activation;
    const char *why;
    if (activation_parse(blob_bytes(event->activation), &activation, &why))
        return; /* a bad row of a foreign file: waits for its deadline */
    if (inflight_give_back(engine->inflight, activation.id, event->claim_number, engine->now_ms))
        engine->stats.undelivered++;
}

/* --- GiveBack -------------------------------------------------------------------------------- */

struct giving {
    struct engine *engine;
    struct give_back_response response;
};

static int give_back_one(void *ctx, const struct give_back *entry)
{
    struct giving *giving = ctx;
    struct engine *engine = giving->engine;
    if (inflight_give_back(engine->inflight, entry->id, entry->claim, engine->now_ms))
        giving->response.returned++;
    else
        giving->response.ignored++;
    return 0;
}

void engine_on_give_back(struct engine *engine, struct engine_call *call)
{
    struct giving giving = {.engine = engine};
    struct buf body = {0};
    const char *why = NULL;
    int rc = give_back_decode(call->body, give_back_one, &giving, &why);
    assert(rc == 0);
    engine->stats.returned += giving.response.returned;
    engine->stats.not_returned += giving.response.ignored;
    give_back_response_encode(&giving.response, &body);
    engine_add_reply(engine, call)->body = blob_copy(buf_bytes(&body));
    buf_free(&body);
}

/* --- Enqueue --------------------------------------------------------------------------------- */

struct enqueue {
    struct engine *engine;
    struct engine_call *call;
    const struct engine_source *source;
    const char *why;
    struct buf ids;
};

static bool enqueue_blocked(const struct engine *engine)
{
    if (engine->block == BLOCK_SIZE || engine->block == BLOCK_DISK)
        return true;
    return embedded_log_waiting(engine->log) >= engine->limits.enqueue_backlog;
}

static int append_to_log(void *ctx, struct bytes payload)
{
    struct enqueue *enqueue = ctx;
    int64_t offset;
    enqueue->engine->stats.enqueued++;
    return embedded_log_append(enqueue->engine->log, enqueue->source->topic, payload, NULL, 0,
                               &offset);
}

static int produce_to_topic(void *ctx, struct bytes payload)
{
    struct enqueue *enqueue = ctx;
    struct engine *engine = enqueue->engine;
    struct publication *publication = mem_zalloc(sizeof *publication);
    publication->kind = PUBLICATION_ENQUEUE;
    publication->call = enqueue->call;
    struct blob *blob = blob_copy(payload);
    struct topic_sink *sink = enqueue->source->enqueue_sink;
    int rc =
        sink->ops->produce(sink, enqueue->source->topic, blob, NULL, 0, publication, &enqueue->why);
    blob_unref(blob);
    if (rc) {
        mem_free(publication);
        return rc;
    }
    enqueue->call->awaiting++;
    engine->publishing++;
    engine->stats.enqueued++;
    return 0;
}

static int add_id(void *ctx, struct bytes payload)
{
    struct activation activation;
    const char *why;
    int rc = activation_parse(payload, &activation, &why);
    assert(rc == 0);
    enqueue_response_add(activation.id, ctx);
    return 0;
}

static void reply_ids(struct engine *engine, struct engine_call *call)
{
    struct buf ids = {0};
    const char *why;
    int rc = enqueue_decode(call->body, NULL, add_id, &ids, &why);
    assert(rc == 0);
    engine_add_reply(engine, call)->body = blob_copy(buf_bytes(&ids));
    buf_free(&ids);
}

static void finish_produced(struct engine *engine, struct engine_call *call)
{
    call->held = false;
    if (call->failed)
        reply_status(engine, call, GRPC_UNAVAILABLE,
                     "not all activations reached the topic; send the same ids again");
    else
        reply_ids(engine, call);
}

/* The only consumed topic that holds activations, or the one the request names. */
static const struct engine_source *enqueue_source(const struct engine *engine,
                                                  const struct enqueue_request *head)
{
    const struct engine_source *found = NULL;
    for (size_t i = 0; i < engine->source_count; i++) {
        const struct engine_source *source = &engine->sources[i];
        if (source->raw || (head->has_topic && !bytes_equal_str(head->topic, source->topic)))
            continue;
        if (found)
            return NULL;
        found = source;
    }
    return found;
}

static int enqueue_embedded(struct enqueue *enqueue)
{
    struct engine *engine = enqueue->engine;
    if (enqueue_blocked(engine)) {
        reply_status(engine, enqueue->call, GRPC_RESOURCE_EXHAUSTED,
                     "the broker's store is full; send the same ids again later");
        return 0;
    }
    int rc = enqueue_decode(enqueue->call->body, NULL, append_to_log, enqueue, &enqueue->why);
    if (rc)
        return rc;
    reply_ids(engine, enqueue->call);
    return 0;
}

int engine_on_enqueue(struct engine *engine, struct engine_call *call)
{
    struct enqueue_request head;
    struct enqueue enqueue = {.engine = engine, .call = call};
    int rc = enqueue_decode(call->body, &head, NULL, NULL, &enqueue.why);
    assert(rc == 0);
    enqueue.source = enqueue_source(engine, &head);
    if (!enqueue.source) {
        reply_status(engine, call, GRPC_INVALID_ARGUMENT,
                     "topic is not one that this broker consumes activations from (or name one of "
                     "several)");
        return 0;
    }
    if (engine->log)
        return enqueue_embedded(&enqueue);
    call->held = true;
    call->awaiting = 1; /* so that deliveries do not finish the call before all are handed over */
    if (enqueue_decode(call->body, NULL, produce_to_topic, &enqueue, &enqueue.why))
        call->failed = true;
    engine_enqueue_delivered(engine, call, true);
    return 0;
}

void engine_enqueue_delivered(struct engine *engine, struct engine_call *call, bool ok)
{
    assert(call->awaiting > 0);
    call->failed = call->failed || !ok;
    if (--call->awaiting == 0)
        finish_produced(engine, call);
}

/* --- replies --------------------------------------------------------------------------------- */

static void send(struct engine *engine, struct engine_call *call, const struct rpc_reply *reply)
{
    assert(!call->replied);
    call->replied = true;
    call->held = false;
    list_remove(&engine->calls, &call->link);
    engine_meter_reply(engine, call, reply->blob && call->granted);
    engine->ports.reply(engine->ports.ctx, call, reply);
}

/* received_at is the producer's clock: what seems to come from the future counts as 0. */
static void measure_latency(struct engine *engine, struct task *task)
{
    if (task->latency_known)
        return;
    task->latency_known = true;
    int64_t latency_ms = engine->wall_ms - task->received_at_wall_ms;
    struct metric_histogram *histogram = &engine->stats.start_latency_ms;
    uint64_t value = latency_ms > 0 ? (uint64_t)latency_ms : 0;
    histogram->count++;
    histogram->sum += value;
    histogram->buckets[metric_bucket(value)]++;
    engine_meter_latency(engine, task, value);
}

static bool wants_claim(const struct engine_call *call)
{
    return call->event.kind == EVENT_CLAIM ? call->filter.wants_claim
                                           : call->status.fetch_next.wants_claim;
}

static int send_task(struct engine *engine, struct engine_call *call, struct task *task,
                     uint64_t claim_number)
{
    struct rpc_reply reply = {.status = GRPC_OK};
    int rc = engine_payload(engine, task, &reply.blob);
    if (rc)
        return rc;
    measure_latency(engine, task);
    reply.prefix_len =
        task_response_prefix(reply.prefix, reply.blob->len, wants_claim(call) ? claim_number : 0);
    call->granted = blob_ref(reply.blob);
    call->claim_number = claim_number;
    send(engine, call, &reply);
    return 0;
}

static void send_nothing(struct engine *engine, struct engine_call *call)
{
    struct rpc_reply reply = {.status = GRPC_OK};
    if (call->event.kind == EVENT_CLAIM) {
        reply.status = GRPC_NOT_FOUND;
        reply.message = NO_TASK;
    }
    send(engine, call, &reply);
}

static int send_collected(struct engine *engine, struct reply *collected)
{
    struct task *task = collected->task;
    if (task && inflight_claim_stands(task, collected->claim_number))
        return send_task(engine, collected->call, task, collected->claim_number);
    if (task) {
        send_nothing(engine, collected->call);
        return 0;
    }
    struct rpc_reply reply = {
        .status = collected->status, .message = collected->message, .blob = collected->body};
    collected->body = NULL;
    send(engine, collected->call, &reply);
    return 0;
}

static int send_effect(struct engine *engine, const struct effect *effect)
{
    if (effect->kind == EFFECT_PUBLISH)
        return 0;
    struct engine_call *call = container_of(effect->claim, struct engine_call, claim);
    if (call->started_us) /* it waited because there was nothing to do, not because of us */
        call->started_us = engine->meter.turn_us;
    if (effect->kind == EFFECT_GRANT && inflight_claim_stands(effect->task, effect->claim_number))
        return send_task(engine, call, effect->task, effect->claim_number);
    send_nothing(engine, call);
    return 0;
}

int engine_release_replies(struct engine *engine)
{
    int rc = 0;
    engine->meter.reply_us = engine_meter_now_us(engine);
    for (size_t i = 0; rc == 0 && i < engine->reply_count; i++)
        rc = send_collected(engine, &engine->replies[i]);
    if (rc)
        return rc;
    engine->reply_count = 0;
    size_t count;
    const struct effect *effects = inflight_effects(engine->inflight, &count);
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = send_effect(engine, &effects[i]);
    return rc;
}

void engine_refuse_calls(struct engine *engine)
{
    const struct rpc_reply reply = {.status = GRPC_UNAVAILABLE,
                                    .message = "the broker has stopped"};
    for (size_t i = 0; i < engine->reply_count; i++)
        blob_unref(engine->replies[i].body);
    engine->reply_count = 0;
    if (list_empty(&engine->calls))
        return;
    struct list_node *node;
    while ((node = list_first(&engine->calls)))
        send(engine, container_of(node, struct engine_call, link), &reply);
    engine->ports.flush(engine->ports.ctx);
}
