/* SPDX-License-Identifier: Apache-2.0 */
#include "core/inflight.h"

#include <assert.h>

#include "base/mem.h"
#include "base/plant.h"
#include "core/state.h"

const char *report_result_name(enum report_result result)
{
    static const char *const names[] = {
#define X(name, text) text,
        REPORT_RESULT_MAP(X)
#undef X
    };
    return (size_t)result < REPORT_RESULTS ? names[result] : "unknown result";
}

/* --- the table ----------------------------------------------------------------------------------
 */

static void at_least(int64_t *value, int64_t least)
{
    if (*value < least)
        *value = least;
}

struct inflight *inflight_new(const struct inflight_config *config)
{
    struct inflight *inflight = mem_zalloc(sizeof(*inflight));

    inflight->config = *config;
    if (inflight->config.max_processing_attempts == 0)
        inflight->config.max_processing_attempts = 1;
    at_least(&inflight->config.grace_ms, 0);
    /* Time must pass between two tries, else one turn would try for ever. */
    at_least(&inflight->config.publish_backoff_ms, 1);
    at_least(&inflight->config.publish_backoff_max_ms, inflight->config.publish_backoff_ms);
    at_least(&inflight->config.parked_retry_ms, 1);
    inflight->last_claim = config->claims_from & INT64_MAX; /* 0 is never reached again */
    inflight->now_ms = INT64_MIN;
    map_init(&inflight->tasks, config->seed);
    heap_init(&inflight->timers);
    queues_init(&inflight->queues, config->seed);
    claims_init(&inflight->claims);
    served_init(&inflight->served, config->unserved_after_ms);
    list_init(&inflight->changed);
    list_init(&inflight->ended);
    list_init(&inflight->unconfirmed);
    list_init(&inflight->barred);
    list_init(&inflight->live);
    return inflight;
}

static void free_task(struct inflight *inflight, struct task *task)
{
    inflight_set_blob(inflight, task, NULL);
    queues_leave(&inflight->queues, task->queue);
    mem_free(task);
}

static void free_ended(struct inflight *inflight)
{
    struct list_node *node;

    while ((node = list_pop_front(&inflight->ended)))
        free_task(inflight, container_of(node, struct task, changed));
}

/* Moves every task to `ended`, live or not. */
static void gather_tasks(struct inflight *inflight)
{
    struct list_node *changed;

    while ((changed = list_pop_front(&inflight->changed)))
        if (container_of(changed, struct task, changed)->end != TASK_LIVE)
            list_push_back(&inflight->ended, changed);
    for (struct map_node *node = map_first(&inflight->tasks), *next; node; node = next) {
        struct task *task = container_of(node, struct task, by_id);
        next = map_next(&inflight->tasks, node);
        state_unlink(inflight, task);
        list_push_back(&inflight->ended, &task->changed);
    }
}

void inflight_free(struct inflight *inflight)
{
    if (!inflight)
        return;
    inflight_release_claims(inflight);
    gather_tasks(inflight);
    free_ended(inflight);
    map_free(&inflight->tasks);
    heap_free(&inflight->timers);
    queues_free(&inflight->queues);
    claims_free(&inflight->claims);
    served_free(&inflight->served);
    mem_free(inflight->next.effects);
    mem_free(inflight->released.effects);
    mem_free(inflight);
}

void inflight_effects_done(struct inflight *inflight)
{
    inflight->released.count = 0;
    free_ended(inflight);
}

static void see_time(struct inflight *inflight, int64_t now_ms)
{
    assert(now_ms >= inflight->now_ms);
    inflight->now_ms = now_ms;
}

/* --- tasks in -----------------------------------------------------------------------------------
 */

static void check_spec(const struct task_spec *spec)
{
    assert(spec->id.len <= UINT16_MAX && spec->taskname.len <= UINT16_MAX);
    assert(spec->application.len <= UINT16_MAX && spec->namespace.len <= UINT16_MAX);
}

static void copy_text(char *to, struct bytes from)
{
    if (from.len)
        memcpy(to, from.ptr, from.len);
}

static struct task *make_task(struct inflight *inflight, const struct task_spec *spec)
{
    struct task *task = mem_alloc(sizeof(*task) + spec->id.len + spec->taskname.len);

    *task = (struct task){
        .queue = queues_enter(&inflight->queues, spec->application, spec->namespace),
        .rowid = spec->rowid,
        .origin = spec->origin,
        .expires_at_ms = spec->expires_at_ms,
        .due_ms = CLOCK_NEVER,
        .received_at_wall_ms = spec->received_at_wall_ms,
        .added_at_wall_ms = spec->added_at_wall_ms,
        .duration_ms = spec->duration_ms,
        .payload_len = spec->payload_len,
        .state = TASK_UNBORN,
        .on_attempts_exceeded = spec->on_attempts_exceeded,
        .at_most_once = spec->at_most_once,
        .confirmed = spec->confirmed,
        .id_len = (uint16_t)spec->id.len,
        .taskname_len = (uint16_t)spec->taskname.len,
    };
    copy_text(task->text, spec->id);
    copy_text(task->text + spec->id.len, spec->taskname);
    inflight_set_blob(inflight, task, spec->blob);
    map_insert(&inflight->tasks, &task->by_id, task_id(task));
    list_push_back(&inflight->live, &task->live);
    return task;
}

int inflight_add(struct inflight *inflight, const struct task_spec *spec, int64_t now_ms,
                 struct task **task)
{
    check_spec(spec);
    see_time(inflight, now_ms);
    if (inflight_find(inflight, spec->id)) {
        inflight->counts.duplicates++;
        return ERR_EXISTS;
    }
    *task = make_task(inflight, spec);
    inflight->counts.added++;
    if (spec->delay_until_ms > now_ms) {
        state_set(inflight, *task, TASK_DELAY, spec->delay_until_ms);
    } else {
        state_set(inflight, *task, TASK_PENDING, CLOCK_NEVER);
        state_offer(inflight, *task);
    }
    return 0;
}

static void load_pending(struct inflight *inflight, struct task *task)
{
    state_set(inflight, task, TASK_PENDING, CLOCK_NEVER);
    if (task->attempts >= inflight->config.max_processing_attempts)
        state_fail(inflight, task, FAILURE_ATTEMPTS); /* the limit may be lower than it was */
    else
        state_offer(inflight, task);
}

static void load_retry(struct inflight *inflight, struct task *task)
{
    state_set(inflight, task, TASK_RETRY, CLOCK_NEVER);
    if (task->at_most_once) /* the original let such a report pass */
        state_fail(inflight, task, FAILURE_RETRY_AT_MOST_ONCE);
    else
        publish_want(inflight, task, PUBLISH_RETRY);
}

static void load_failure(struct inflight *inflight, struct task *task, bool bad_row)
{
    state_set(inflight, task, TASK_FAILURE, CLOCK_NEVER);
    if (bad_row) {
        /* Never discarded: the row's own policy is as doubtful as the rest of it. */
        task->failure = FAILURE_BAD_ROW;
        publish_park(inflight, task);
    } else {
        state_fail(inflight, task, FAILURE_NONE);
    }
}

static void load_state(struct inflight *inflight, struct task *task, const struct task_load *load)
{
    switch (load->bad_row ? TASK_FAILURE : load->state) {
    case TASK_PENDING:
        load_pending(inflight, task);
        break;
    case TASK_DELAY:
        if (PLANTED(PLANT_DELAY_LOST_AT_LOAD))
            load_pending(inflight, task);
        else
            state_set(inflight, task, TASK_DELAY, load->due_ms);
        break;
    case TASK_PROCESSING:
        state_set(inflight, task, TASK_PROCESSING, load->due_ms);
        break;
    case TASK_RETRY:
        load_retry(inflight, task);
        break;
    case TASK_FAILURE:
        load_failure(inflight, task, load->bad_row);
        break;
    }
}

int inflight_load(struct inflight *inflight, const struct task_load *load, int64_t now_ms,
                  struct task **task)
{
    check_spec(&load->spec);
    see_time(inflight, now_ms);
    if (inflight_find(inflight, load->spec.id)) {
        inflight->counts.duplicates++;
        return ERR_EXISTS;
    }
    *task = make_task(inflight, &load->spec);
    (*task)->stored = true;
    (*task)->legacy = load->legacy;
    (*task)->attempts = load->attempts;
    load_state(inflight, *task, load);
    return 0;
}

struct task *inflight_find(const struct inflight *inflight, struct bytes id)
{
    struct map_node *node = map_find(&inflight->tasks, id);

    return node ? container_of(node, struct task, by_id) : NULL;
}

/* --- claims -------------------------------------------------------------------------------------
 */

static struct task *first_unexpired(struct inflight *inflight, const struct claim_filter *filter)
{
    struct task *task;

    while ((task = queues_first(&inflight->queues, filter)) &&
           task->expires_at_ms <= inflight->now_ms)
        state_end(inflight, task, TASK_EXPIRED);
    return task;
}

static void hold(struct inflight *inflight, struct claim *claim, const struct claim_filter *filter,
                 int64_t until_ms)
{
    if (inflight->claims.timers.count >= inflight->config.claims_max)
        return;
    struct claim_queue *queue =
        queues_claims(&inflight->queues, filter, inflight->config.queues_max);
    if (queue)
        claims_hold(&inflight->claims, claim, queue, until_ms);
}

static void note_demand(struct inflight *inflight, const struct claim_filter *filter)
{
    if (filter->has_application) {
        struct application *application =
            queues_application(&inflight->queues, filter->application);
        served_ask(&inflight->served, application ? &application->served : NULL, inflight->now_ms);
    } else if (!filter->has_namespace) {
        served_ask_all(&inflight->served, inflight->now_ms);
    }
}

void inflight_claim(struct inflight *inflight, struct claim *claim,
                    const struct claim_filter *filter, int64_t hold_until_ms, int64_t now_ms,
                    struct task **task)
{
    assert(!claim || (!claim->queue && !claim->effect));
    see_time(inflight, now_ms);
    note_demand(inflight, filter);
    *task = first_unexpired(inflight, filter);
    if (*task)
        state_grant(inflight, *task);
    else if (claim && hold_until_ms > now_ms)
        hold(inflight, claim, filter, hold_until_ms);
}

static void forget_claim(struct inflight *inflight, struct claim *claim)
{
    queues_tidy(&inflight->queues, claims_remove(&inflight->claims, claim));
}

void inflight_cancel(struct inflight *inflight, struct claim *claim)
{
    if (claim->queue)
        forget_claim(inflight, claim);
    else
        effects_cancel(inflight, claim);
}

static void end_hold(struct inflight *inflight, struct claim *claim)
{
    forget_claim(inflight, claim);
    effects_push(inflight, (struct effect){.kind = EFFECT_NONE, .claim = claim});
}

void inflight_release_claims(struct inflight *inflight)
{
    struct claim *claim;

    while ((claim = claims_first_due(&inflight->claims)))
        end_hold(inflight, claim);
}

bool inflight_give_back(struct inflight *inflight, struct bytes id, uint64_t claim, int64_t now_ms)
{
    see_time(inflight, now_ms);
    struct task *task = inflight_find(inflight, id);
    if (PLANTED(PLANT_CLAIM_TO_DEAD_STREAM) || !task)
        return false;
    state_fire_if_due(inflight, task);
    bool stands = claim != 0 && inflight_claim_stands(task, claim);
    if (PLANTED(PLANT_GIVE_BACK_UNNAMED))
        stands = task->end == TASK_LIVE && task->state == TASK_PROCESSING;
    if (!stands)
        return false;
    state_undo_grant(inflight, task);
    return true;
}

/* --- reports ------------------------------------------------------------------------------------
 */

static void retry(struct inflight *inflight, struct task *task, const struct task_rewrite *rewrite)
{
    if (rewrite && (rewrite->has_max_attempts || rewrite->has_delay_on_retry)) {
        task->rewrite = *rewrite;
        task->rewritten = true;
    }
    state_set(inflight, task, TASK_RETRY, CLOCK_NEVER);
    publish_want(inflight, task, PUBLISH_RETRY);
}

static void obey(struct inflight *inflight, struct task *task, enum report_status status,
                 const struct task_rewrite *rewrite)
{
    if (status == REPORT_COMPLETE)
        state_end(inflight, task, TASK_COMPLETED);
    else if (status == REPORT_FAILURE)
        state_fail(inflight, task, FAILURE_REPORTED);
    else if (task->at_most_once)
        state_fail(inflight, task, FAILURE_RETRY_AT_MOST_ONCE);
    else
        retry(inflight, task, rewrite);
}

/* INV-6. The wire does not say which claim a report is for, so the state decides. Complete is
 * believed even late: the work is done, and running it again can only hurt. */
static enum report_result judge(const struct task *task, enum report_status status)
{
    switch ((enum task_state)task->state) {
    case TASK_PROCESSING:
        return REPORT_APPLIED;
    case TASK_PENDING:
    case TASK_DELAY:
        if (PLANTED(PLANT_UNFENCED_RETRY) && status == REPORT_RETRY)
            return REPORT_APPLIED;
        return status == REPORT_COMPLETE ? REPORT_APPLIED : REPORT_NOT_CLAIMED;
    case TASK_RETRY:
    case TASK_FAILURE:
        return status == REPORT_COMPLETE && !task->handed ? REPORT_APPLIED : REPORT_ENDING;
    }
    return REPORT_UNKNOWN_ID;
}

enum report_result inflight_report(struct inflight *inflight, struct bytes id,
                                   enum report_status status, const struct task_rewrite *rewrite,
                                   int64_t now_ms)
{
    see_time(inflight, now_ms);
    struct task *task = inflight_find(inflight, id);
    if (task)
        state_fire_if_due(inflight, task);
    enum report_result result =
        task && task->end == TASK_LIVE ? judge(task, status) : REPORT_UNKNOWN_ID;
    if (result == REPORT_APPLIED)
        obey(inflight, task, status, rewrite);
    inflight->counts.reports[result]++;
    return result;
}

/* --- at most once -------------------------------------------------------------------------------
 */

void inflight_each_unconfirmed(struct inflight *inflight,
                               void (*each)(void *ctx, struct task *task), void *ctx)
{
    list_foreach_safe (&inflight->unconfirmed, node)
        each(ctx, container_of(node, struct task, waiting));
}

size_t inflight_unconfirmed(const struct inflight *inflight)
{
    return inflight->unconfirmed.count;
}

void inflight_confirm(struct inflight *inflight, struct task *task, int64_t now_ms)
{
    see_time(inflight, now_ms);
    state_fire_if_due(inflight, task);
    if (!list_linked(&task->waiting))
        return;
    list_remove(&inflight->unconfirmed, &task->waiting);
    task->confirmed = true;
    state_offer(inflight, task);
}

void inflight_refuse(struct inflight *inflight, struct task *task, bool foreign, int64_t now_ms)
{
    see_time(inflight, now_ms);
    state_fire_if_due(inflight, task);
    if (!list_linked(&task->waiting))
        return;
    if (foreign)
        state_end(inflight, task, TASK_FOREIGN);
    else
        state_fail(inflight, task, FAILURE_OWNER_UNKNOWN);
}

/* --- from outside -------------------------------------------------------------------------------
 */

void inflight_walk_start(struct inflight *inflight)
{
    inflight->walk = list_first(&inflight->live);
}

struct task *inflight_walk_next(struct inflight *inflight)
{
    struct list_node *node = inflight->walk;

    if (!node || node == &inflight->live.head) {
        inflight->walk = NULL;
        return NULL;
    }
    inflight->walk = node->next;
    return container_of(node, struct task, live);
}

void inflight_set_bar(struct inflight *inflight, inflight_bar_fn *barred, void *ctx)
{
    inflight->is_barred = barred;
    inflight->bar_ctx = ctx;
}

void inflight_reconsider(struct inflight *inflight, struct task *task, int64_t now_ms)
{
    see_time(inflight, now_ms);
    state_fire_if_due(inflight, task);
    if (task->end != TASK_LIVE || (task->state != TASK_PENDING && task->state != TASK_DELAY))
        return;
    if (list_linked(&task->barred))
        list_remove(&inflight->barred, &task->barred);
    if (state_bar(inflight, task) && queues_is_ready(task))
        queues_remove_ready(&inflight->queues, task);
    if (task->state == TASK_PENDING)
        state_offer(inflight, task);
}

struct task *inflight_first_barred(const struct inflight *inflight)
{
    struct list_node *node = list_first(&inflight->barred);

    return node ? container_of(node, struct task, barred) : NULL;
}

void inflight_forward(struct inflight *inflight, struct task *task, int64_t now_ms)
{
    see_time(inflight, now_ms);
    assert(task->state == TASK_PENDING || task->state == TASK_DELAY);
    state_end(inflight, task, TASK_FORWARDED);
}

void inflight_kill(struct inflight *inflight, struct task *task, int64_t now_ms)
{
    see_time(inflight, now_ms);
    assert(!task->handed);
    state_end(inflight, task, TASK_KILLED);
}

/* --- time ---------------------------------------------------------------------------------------
 */

static void tell_due(const struct inflight *inflight, int state)
{
    if (inflight->config.due)
        inflight->config.due(inflight->config.due_ctx, state);
}

static bool fire_next_task(struct inflight *inflight)
{
    struct heap_node *node = heap_min(&inflight->timers);

    if (!node || node->key > inflight->now_ms)
        return false;
    struct task *task = container_of(node, struct task, timer);
    tell_due(inflight, task->state);
    state_fire_if_due(inflight, task);
    return true;
}

static bool end_next_hold(struct inflight *inflight)
{
    struct claim *claim = claims_first_due(&inflight->claims);

    if (!claim || claim->timer.key > inflight->now_ms)
        return false;
    tell_due(inflight, -1);
    end_hold(inflight, claim);
    return true;
}

/* Tasks first: one that comes back now may be what a hold that ends now has waited for. */
bool inflight_advance(struct inflight *inflight, int64_t now_ms, size_t max)
{
    see_time(inflight, now_ms);
    served_advance(&inflight->served, now_ms);
    for (size_t done = 0; max == 0 || done < max; done++)
        if (!fire_next_task(inflight) && !end_next_hold(inflight))
            return false;
    return inflight_next_ms(inflight) <= now_ms;
}

int64_t inflight_next_ms(const struct inflight *inflight)
{
    const struct heap_node *task = heap_min(&inflight->timers);
    const struct heap_node *claim = heap_min(&inflight->claims.timers);
    int64_t task_ms = task ? task->key : CLOCK_NEVER;
    int64_t claim_ms = claim ? claim->key : CLOCK_NEVER;
    int64_t served_ms = served_next_ms(&inflight->served);
    int64_t next_ms = task_ms < claim_ms ? task_ms : claim_ms;

    return next_ms < served_ms ? next_ms : served_ms;
}

/* --- numbers ------------------------------------------------------------------------------------
 */

void inflight_get_counts(const struct inflight *inflight, struct inflight_counts *out)
{
    *out = inflight->counts;
    out->tasks = inflight->tasks.count;
    out->unconfirmed = inflight->unconfirmed.count;
    out->held_claims = inflight->claims.timers.count;
    out->unserved_applications = inflight->served.unserved.count;
    out->unserved_pending = inflight->served.unserved_pending;
    out->completed = inflight->ended_as[TASK_COMPLETED];
    out->retried = inflight->ended_as[TASK_RETRIED];
    out->deadlettered = inflight->ended_as[TASK_DEADLETTERED];
    out->discarded = inflight->ended_as[TASK_DISCARDED];
    out->expired = inflight->ended_as[TASK_EXPIRED];
    out->foreign = inflight->ended_as[TASK_FOREIGN];
    out->killed = inflight->ended_as[TASK_KILLED];
    out->forwarded = inflight->ended_as[TASK_FORWARDED];
}

size_t inflight_pending_served(const struct inflight *inflight, int64_t now_ms)
{
    size_t pending = inflight->counts.by_state[TASK_PENDING];

    if (!served_applies(&inflight->served, now_ms))
        return pending;
    return pending - inflight->served.unserved_pending;
}

struct bytes inflight_first_unserved(const struct inflight *inflight, size_t *pending)
{
    const struct list_node *node = list_first(&inflight->served.unserved);

    *pending = 0;
    if (!node)
        return bytes_of(NULL, 0);
    const struct served_entry *entry = container_of(node, struct served_entry, link);
    const struct application *application = container_of(entry, struct application, served);
    *pending = entry->pending;
    return bytes_of(application->name, application->name_len);
}

void inflight_set_blob(struct inflight *inflight, struct task *task, struct blob *blob)
{
    uint64_t *cached = &inflight->counts.payload_bytes_cached;

    *cached -= task->blob ? task->blob->len : 0;
    *cached += blob ? blob->len : 0;
    blob_unref(task->blob);
    task->blob = blob;
}

const struct task *inflight_oldest_ready(const struct inflight *inflight)
{
    static const struct claim_filter any = {0};

    return queues_first(&inflight->queues, &any);
}
