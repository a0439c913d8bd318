/* SPDX-License-Identifier: Apache-2.0 */
/* Model workers: they claim from any broker, lose replies, report late, twice, differently or
 * never, and give tasks back that they have not started: also late, and again after others have
 * them. */
#include "sim.h"

#include "base/clock.h"
#include "base/mem.h"

static struct sim_call *call_of(struct engine_call *call)
{
    return container_of(call, struct sim_call, call);
}

struct sim_call *sim_worker_call(struct sim_node *node, enum engine_event_kind kind)
{
    struct sim_call *call = mem_zalloc(sizeof *call);
    call->node = node;
    call->call.event.kind = kind;
    call->call.deadline_ms = CLOCK_NEVER;
    list_push_back(&node->calls, &call->link);
    return call;
}

static void call_free_if_done(struct sim_call *call)
{
    if (!call->answered || call->releases)
        return;
    list_remove(&call->node->calls, &call->link);
    buf_free(&call->body);
    mem_free(call);
}

static void choose_filter(struct sim *sim, struct task_filter *filter)
{
    filter->has_application = sim_chance(sim, 50);
    filter->application = bytes_str("sim");
    filter->has_namespace = filter->has_application && sim_chance(sim, 30);
    filter->namespace = bytes_str("a");
    filter->wants_claim = sim_chance(sim, 70);
}

void sim_worker_claim(struct sim_node *node)
{
    struct sim_call *call = sim_worker_call(node, EVENT_CLAIM);
    choose_filter(node->sim, &call->call.filter);
    sim_node_post(node, &call->call.event);
}

void sim_worker_cancel(struct sim_node *node)
{
    list_foreach (&node->calls, it) {
        struct sim_call *call = container_of(it, struct sim_call, link);
        if (call->call.event.kind != EVENT_CLAIM || call->answered || call->releases)
            continue;
        struct engine_call_event *event = engine_event_new(EVENT_CANCEL, sizeof *event);
        event->call = &call->call;
        call->releases++;
        sim_node_post(node, &event->event);
        return;
    }
}

void sim_worker_release(void *ctx, struct engine_call *engine_call)
{
    (void)ctx;
    struct sim_call *call = call_of(engine_call);
    call->releases--;
    call_free_if_done(call);
}

void sim_worker_drop_calls(struct sim_node *node)
{
    struct list_node *it;
    while ((it = list_first(&node->calls))) {
        struct sim_call *call = container_of(it, struct sim_call, link);
        call->answered = true;
        call->releases = 0;
        call_free_if_done(call);
    }
}

/* --- tasks received --------------------------------------------------------------------------- */

static void start_job(struct sim *sim, struct fact *fact, int node, uint64_t claim)
{
    struct sim_job *job = mem_zalloc(sizeof *job);
    job->fact = fact;
    job->node = node;
    job->claim = claim;
    job->gives_back = sim_trouble(sim, FAULT_RETURN, 25) && claim;
    job->due_ms = sim->boot_ms + (int64_t)sim_below(sim, 200);
    if (sim_trouble(sim, FAULT_REPORT, 25)) /* beyond its deadline */
        job->due_ms += 3000 + (int64_t)sim_below(sim, 3000);
    job->repeats = 1 + (unsigned)sim_trouble(sim, FAULT_REPORT, 15);
    if (sim_trouble(sim, FAULT_REPORT, 10))
        job->repeats = 0; /* the worker dies */
    uint64_t dice = sim_below(sim, 10);
    job->verdict = dice < 6 || sim->quiet ? VERDICT_COMPLETE
                   : dice < 8             ? VERDICT_RETRY
                                          : VERDICT_FAILURE;
    if (fact->attempts >= 3)
        job->verdict = VERDICT_COMPLETE;
    list_push_back(&sim->jobs, &job->link);
}

static void check_grant(struct sim *sim, const struct fact *fact, int node)
{
    if (fact->has_delay && sim->wall_ms + sim->error_high_ms < fact->delay_until_ms)
        sim_violation(sim, "task %s handed out %lld ms before its delay is over", fact->id,
                      (long long)(fact->delay_until_ms - sim->wall_ms));
    /* The file keeps the expiry of a row that was not Pending to the second. */
    if (fact->has_expires && sim->wall_ms + sim->error_low_ms >= fact->expires_last_ms + 1000)
        sim_violation(sim, "task %s handed out after it expired", fact->id);
    if (fact->at_most_once && fact->handed)
        sim_violation(sim, "INV-4: at-most-once task %s handed out a second time, by node %d",
                      fact->id, node);
}

static void give_back(struct sim_node *node, struct engine_call *call, struct fact *fact)
{
    GROW(node->undelivered, node->undelivered_count, node->undelivered_cap);
    node->undelivered[node->undelivered_count++] =
        (struct sim_undelivered){.fact = fact, .claim = call->claim_number};
    struct engine_undelivered *event = engine_event_new(EVENT_UNDELIVERED, sizeof *event);
    event->activation = call->granted;
    event->claim_number = call->claim_number;
    call->granted = NULL;
    sim_node_post(node, &event->event);
}

/* What a worker reads of the claim's number: it is told if it asked, and only then. */
static uint64_t read_claim(struct sim *sim, const struct engine_call *call,
                           const struct rpc_reply *reply)
{
    struct buf message = {0};
    struct task_response response;
    const char *why;
    bool asked = call->event.kind == EVENT_CLAIM ? call->filter.wants_claim
                                                 : call->status.fetch_next.wants_claim;
    buf_append(&message, reply->prefix, reply->prefix_len);
    buf_append(&message, reply->blob->data, reply->blob->len);
    if (task_response_decode(buf_bytes(&message), &response, &why) || !response.has_task)
        sim_violation(sim, "a reply with a task does not parse");
    if (response.claim != (asked ? call->claim_number : 0))
        sim_violation(sim, "a reply names a wrong claim");
    buf_free(&message);
    return response.claim;
}

static void receive_task(struct sim_node *node, struct engine_call *call,
                         const struct rpc_reply *reply)
{
    struct sim *sim = node->sim;
    struct activation activation;
    const char *why;
    if (activation_parse(blob_bytes(reply->blob), &activation, &why))
        sim_violation(sim, "a reply's activation does not parse: %s", why);
    struct fact *fact = sim_fact(sim, activation.id);
    fact->kept = sim->embedded;
    if (fact->refused)
        sim_violation(sim, "INV-7: task %s was refused and is handed out", fact->id);
    check_grant(sim, fact, node->index);
    fact->granted++;
    sim_trace(sim, "node %d hands out %s", node->index, fact->id);
    if (sim_trouble(sim, FAULT_STREAM, 15)) { /* no byte left: the broker must take it back */
        give_back(node, call, fact);
        return;
    }
    blob_unref(call->granted);
    call->granted = NULL;
    fact->with_worker[node->index] = true;
    fact->handed++; /* also when the reply is lost on the way: the claim stands */
    sim->result->handed++;
    if (!sim_trouble(sim, FAULT_STREAM, 5))
        start_job(sim, fact, node->index, read_claim(sim, call, reply));
}

/* A claim is given back once: its number takes nothing from whoever has the task since. */
static void check_returned(struct sim *sim, const struct sim_call *call,
                           const struct rpc_reply *reply)
{
    struct give_back_response response;
    const char *why;
    if (reply->status != GRPC_OK)
        return;
    if (give_back_response_decode(blob_bytes(reply->blob), &response, &why))
        sim_violation(sim, "the answer to a give-back does not parse: %s", why);
    if (response.returned > (call->repeated ? 0 : 1))
        sim_violation(sim, "INV-4: task %s was taken from its worker by an old claim number",
                      call->returned->id);
}

void sim_worker_reply(void *ctx, struct engine_call *engine_call, const struct rpc_reply *reply)
{
    struct sim_node *node = ctx;
    struct sim_call *call = call_of(engine_call);
    if (engine_call->granted)
        receive_task(node, engine_call, reply);
    if (call->returned)
        check_returned(node->sim, call, reply);
    sim_embedded_answered(call, reply->status);
    bool twice = call->reported && node->sim->embedded && call->reported->attempts;
    if (reply->status == GRPC_OK && call->reported && call->verdict == VERDICT_COMPLETE && !twice &&
        !inflight_find(node->engine->inflight, bytes_str(call->reported->id))) /* no replay since */
        call->reported->complete_acked[node->index] = true;
    blob_unref(reply->blob);
    call->answered = true;
    call_free_if_done(call);
}

/* --- reports ---------------------------------------------------------------------------------- */

static void note_sent(struct fact *fact, enum sim_verdict verdict)
{
    switch (verdict) {
    case VERDICT_COMPLETE:
        fact->complete_sent = true;
        break;
    case VERDICT_FAILURE:
        fact->failure_sent = true;
        break;
    case VERDICT_RETRY:
        fact->retry_sent = true;
        break;
    }
}

static void post_report(struct sim_node *node, struct fact *fact, enum sim_verdict verdict)
{
    static const int32_t statuses[] = {[VERDICT_COMPLETE] = ACTIVATION_COMPLETE,
                                       [VERDICT_FAILURE] = ACTIVATION_FAILURE,
                                       [VERDICT_RETRY] = ACTIVATION_RETRY};
    struct sim *sim = node->sim;
    struct sim_call *call = sim_worker_call(node, EVENT_STATUS);
    call->reported = fact;
    call->verdict = verdict;
    struct set_status_request *request = &call->call.status;
    request->id = bytes_str(fact->id);
    request->status = statuses[verdict];
    request->has_fetch_next = sim_chance(sim, 50);
    choose_filter(sim, &request->fetch_next);
    if (verdict == VERDICT_RETRY) {
        request->has_max_attempts = true;
        request->max_attempts = 4;
        request->has_delay_on_retry = sim_chance(sim, 50);
        request->delay_on_retry = 1;
    }
    note_sent(fact, verdict);
    sim_trace(sim, "report %d for %s to node %d", verdict, fact->id, node->index);
    sim_node_post(node, &call->call.event);
}

/* INV-6: a Retry for a task whose deadline passed is ignored. The turn that handles the report
 * handles nothing else, so that what it did can be told. */
static void check_fence(struct sim_node *node, struct fact *fact, enum sim_verdict verdict)
{
    struct task *task = inflight_find(node->engine->inflight, bytes_str(fact->id));
    bool fenced = task && verdict == VERDICT_RETRY && !fact->at_most_once &&
                  (task->state == TASK_PENDING || task->state == TASK_DELAY);
    post_report(node, fact, verdict);
    sim_node_turn(node);
    if (!fenced || !node->engine)
        return;
    task = inflight_find(node->engine->inflight, bytes_str(fact->id));
    if (task && task->state == TASK_RETRY)
        sim_violation(node->sim, "INV-6: late Retry for task %s was obeyed", fact->id);
}

static void make_report(struct sim *sim, struct sim_job *job)
{
    struct sim_node *node = &sim->nodes[job->node];
    if (!node->engine)
        return; /* nobody hears it */
    bool alone = !node->events && !engine_has_backlog(node->engine) && sim_chance(sim, 40);
    if (alone)
        check_fence(node, job->fact, job->verdict);
    else
        post_report(node, job->fact, job->verdict);
}

/* --- tasks given back ------------------------------------------------------------------------- */

static void post_give_back(struct sim_node *node, const struct sim_job *job)
{
    struct sim *sim = node->sim;
    struct sim_call *call = sim_worker_call(node, EVENT_GIVE_BACK);
    struct give_back entry = {.id = bytes_str(job->fact->id), .claim = job->claim};
    call->returned = job->fact;
    call->repeated = job->gave_back;
    give_back_encode_one(&entry, &call->body);
    if (sim_chance(sim, 20)) /* named twice in one call */
        give_back_encode_one(&entry, &call->body);
    call->call.body = buf_bytes(&call->body);
    sim_trace(sim, "node %d is given %s back%s", node->index, job->fact->id,
              job->gave_back ? " again" : "");
    sim_node_post(node, &call->call.event);
}

/* From its first word on the worker does not run the task, whether or not the broker hears it. */
static void give_job_back(struct sim *sim, struct sim_job *job)
{
    struct sim_node *node = &sim->nodes[job->node];
    if (!job->gave_back) {
        job->fact->handed--;
        job->fact->with_worker[job->node] = false;
    }
    if (node->engine)
        post_give_back(node, job);
    job->gave_back = true;
    job->due_ms = sim->boot_ms + (int64_t)sim_below(sim, 1500);
    if (sim_trouble(sim, FAULT_RETURN, 60))
        list_push_back(&sim->jobs, &job->link);
    else
        mem_free(job);
}

void sim_worker_report_due(struct sim *sim)
{
    list_foreach_safe (&sim->jobs, it) {
        struct sim_job *job = container_of(it, struct sim_job, link);
        if (job->due_ms > sim->boot_ms)
            continue;
        list_remove(&sim->jobs, it);
        if (job->gives_back) {
            give_job_back(sim, job);
            return;
        }
        for (unsigned i = 0; i < job->repeats; i++) {
            make_report(sim, job);
            if (sim_trouble(sim, FAULT_REPORT, 30))
                job->verdict = (enum sim_verdict)sim_below(sim, 3);
        }
        mem_free(job);
        return; /* the list may have grown: one at a time */
    }
}
