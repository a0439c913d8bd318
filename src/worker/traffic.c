/* SPDX-License-Identifier: Apache-2.0 */
/* The calls to brokers: GetTask for claims, SetTaskStatus for reports, which may bring the next
 * task, GiveBack for what was claimed and is not started. */
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "client/dispatch.h"
#include "client/hostport.h"
#include "worker/worker_int.h"

/* A broker that has a task, or that never holds a call, has answered by then: who cancels earlier
 * may throw a task away that is on its way, and which then waits for its deadline. */
#define CLAIM_YOUNG_MS    100
#define CLAIM_TIMEOUT_MS  30000 /* brokers end their hold before it */
#define REPORT_TIMEOUT_MS 10000
#define RETURN_TIMEOUT_MS 5000
#define RETURN_BYTES      (1u << 20) /* of a call, or little more: a broker takes 4 MiB */
#define RETURN_TRIES      3          /* a call may meet a connection that is just being replaced */
#define MESSAGE_MAX       (64u << 20)

static struct host *host_of(const struct source *source)
{
    return container_of(source->peer, struct host, peer);
}

static struct rpc_client *new_client(struct worker *worker, const char *address)
{
    struct rpc_client_options options = {
        .message_max = MESSAGE_MAX, .forks_lookups = true, .hold_calls = true, .tls = worker->tls};
    char name[HOSTPORT_HOST_MAX];

    if (hostport_parse(address, name, &options.port) != 0)
        return NULL;
    options.host = name;
    if (worker->options.secret != NULL)
        options.secret = bytes_str(worker->options.secret);
    return rpc_client_new(&options);
}

int traffic_open(struct worker *worker, struct err_text *why)
{
    const struct host_list *list = worker->options.hosts;
    size_t applications = worker->options.tasks->application_count;
    int rv = dispatch_tls(&worker->options.tls, &worker->tls, why);

    if (rv != 0)
        return rv;

    worker->hosts = mem_calloc(list->count, sizeof *worker->hosts);
    worker->claims.count = list->count * applications;
    worker->claims.unreported_max = worker->options.unreported_max;
    worker->claims.sources = mem_calloc(worker->claims.count, sizeof *worker->claims.sources);
    for (size_t i = 0; i < list->count; i++) {
        worker->hosts[i].rpc = new_client(worker, list->items[i]);
        if (worker->hosts[i].rpc == NULL)
            return err_set(why, ERR_INVALID, "broker '%s' is not host:port", list->items[i]);
        worker->hosts[i].name = list->items[i];
        worker->hosts[i].gone_since_ms = CLOCK_NEVER;
        list_init(&worker->hosts[i].returns);
        for (size_t j = 0; j < applications; j++)
            worker->claims.sources[i * applications + j] =
                (struct source){.peer = &worker->hosts[i].peer, .application = (uint32_t)j};
    }
    /* Not every worker of a fleet starts with the first broker. */
    if (worker->claims.count > 0)
        worker->claims.next = worker_chance(worker) % worker->claims.count;
    return 0;
}

static void free_returns(struct worker *worker, struct list *jobs)
{
    struct list_node *node;

    while ((node = list_pop_front(jobs)) != NULL) {
        worker->returning--;
        worker_free_job(container_of(node, struct job, node));
    }
}

void traffic_close(struct worker *worker)
{
    rpc_tls_unref(worker->tls);
    if (worker->hosts == NULL)
        return;
    for (size_t i = 0; i < worker->options.hosts->count; i++) {
        rpc_client_free(worker->hosts[i].leaving);
        rpc_client_free(worker->hosts[i].rpc);
        free_returns(worker, &worker->hosts[i].returns);
    }
    mem_free(worker->hosts);
    mem_free(worker->claims.sources);
}

void traffic_replace_leaving(struct worker *worker)
{
    for (size_t i = 0; i < worker->options.hosts->count; i++) {
        struct host *host = &worker->hosts[i];

        if (host->leaving != NULL && rpc_client_open_calls(host->leaving) == 0) {
            rpc_client_free(host->leaving);
            host->leaving = NULL;
        }
        /* One at a time: a second one's new calls wait until the first is done. */
        if (host->leaving == NULL && rpc_client_is_leaving(host->rpc)) {
            host->leaving = host->rpc;
            host->rpc = new_client(worker, host->name);
        }
    }
}

static void close_socket(const struct rpc_client *rpc)
{
    if (rpc != NULL && rpc_client_fd(rpc) >= 0)
        close(rpc_client_fd(rpc));
}

void traffic_forked(const struct worker *worker)
{
    for (size_t i = 0; i < worker->options.hosts->count; i++) {
        close_socket(worker->hosts[i].rpc);
        close_socket(worker->hosts[i].leaving);
    }
}

/* --- what a call says about its broker ------------------------------------------------------- */

/* No connection: lost, refused, or the name does not resolve. */
static bool is_gone(const struct rpc_result *result)
{
    return result->is_local && result->status == GRPC_UNAVAILABLE;
}

static void host_failed(struct worker *worker, struct host *host, const char *call,
                        const struct rpc_result *result)
{
    /* Our own doing, at the end. */
    if (worker->draining && result->status == GRPC_CANCELLED)
        return;
    if (!is_gone(result))
        host->gone_since_ms = CLOCK_NEVER;
    else if (host->gone_since_ms == CLOCK_NEVER)
        host->gone_since_ms = worker->now_ms;
    if (worker->options.hosts->count > 1 && host->peer.failures == 0)
        wmeters_add_for(worker->watch.meters, WM_REBALANCE, "unavailable_count_reached", 1);
    if (!claims_peer_failed(&host->peer, worker_chance(worker), worker->now_ms))
        return;
    log_at(host->peer.failures == 1 || host->peer.failures % 8 == 0 ? LOG_WARN : LOG_DEBUG,
           WORKER_TARGET,
           LOG_FIELDS(log_str("broker", host->name),
                      log_str("status", grpc_status_name(result->status)),
                      log_str("error", result->message)),
           "%s failed; the broker is left alone for %lld ms", call,
           (long long)(host->peer.blocked_until_ms - worker->now_ms));
}

static void host_ok(struct host *host)
{
    host->gone_since_ms = CLOCK_NEVER;
    if (claims_peer_ok(&host->peer))
        log_info(WORKER_TARGET, LOG_FIELDS(log_str("broker", host->name)),
                 "the broker answers again");
}

/* True if the response brought a task, which is then on its way. */
static bool take_response(struct worker *worker, struct source *source, struct bytes body)
{
    struct task_response response;
    const char *fault = "";

    if (task_response_decode(body, &response, &fault) != 0) {
        log_error(WORKER_TARGET,
                  LOG_FIELDS(log_str("broker", host_of(source)->name), log_str("error", fault)),
                  "a broker's response cannot be read");
        return false;
    }
    if (response.has_task)
        worker_take_task(worker, source, &response);
    return response.has_task;
}

static struct task_filter filter_of(const struct worker *worker, const struct source *source)
{
    struct task_filter filter = {
        .has_application = true,
        .wants_claim = true,
        .application = bytes_str(worker->options.tasks->applications[source->application])};

    if (worker->options.namespace != NULL) {
        filter.has_namespace = true;
        filter.namespace = bytes_str(worker->options.namespace);
    }
    return filter;
}

/* --- claims ---------------------------------------------------------------------------------- */

static void got_nothing(struct worker *worker, struct source *source, int64_t took_ms)
{
    wmeters_add(worker->watch.meters, WM_NOT_FOUND, 1);
    claims_got_nothing(source, took_ms, worker->now_ms);
}

static bool got_task(struct worker *worker, struct source *source, struct bytes body)
{
    bool has_task;

    worker->watch.is_get_task = true;
    has_task = take_response(worker, source, body);
    worker->watch.is_get_task = false;
    return has_task;
}

static void claim_done(void *ctx, const struct rpc_result *result)
{
    struct claim *claim = (struct claim *)ctx;
    struct worker *worker = claim->worker;
    struct source *source = claim->source;
    int64_t took_ms = worker->now_ms - claim->sent_ms;
    bool cancelled = claim->cancelled;

    if (!cancelled)
        wmeters_rpc(worker->watch.meters, WM_GET_TASK_RPC, "GetTask", host_of(source)->name,
                    clock_boot_us() - claim->sent_us, result->status);
    list_remove(&worker->open_claims, &claim->node);
    claims_closed(&worker->claims, source);
    mem_free(claim);
    if (cancelled && result->status == GRPC_CANCELLED)
        return;
    if (result->status == GRPC_OK || result->status == GRPC_NOT_FOUND) {
        host_ok(host_of(source));
        if (result->status == GRPC_OK && got_task(worker, source, result->body))
            claims_got_task(source);
        else
            got_nothing(worker, source, took_ms);
        return;
    }
    host_failed(worker, host_of(source), "GetTask", result);
}

static void open_claim(struct worker *worker, struct source *source)
{
    struct claim *claim = mem_zalloc(sizeof *claim);
    struct task_filter filter = filter_of(worker, source);
    struct host *host = host_of(source);
    struct buf message = {0};

    claim->worker = worker;
    claim->source = source;
    claim->rpc = host->rpc;
    claim->sent_ms = worker->now_ms;
    claim->sent_us = clock_boot_us();
    list_push_back(&worker->open_claims, &claim->node);
    claims_opened(&worker->claims, source);
    task_filter_encode(&filter, &message);
    host->dirty = true;
    rpc_client_call(host->rpc, CONSUMER_GET_TASK, buf_bytes(&message), CLAIM_TIMEOUT_MS, claim_done,
                    claim, worker->now_ms, &claim->call);
    buf_free(&message);
}

/* Ends the claim inside the call: who walks the list starts anew each time. */
static void cancel_claim(struct claim *claim)
{
    struct host *host = host_of(claim->source);

    claim->cancelled = true;
    host->dirty = true;
    rpc_client_cancel(claim->rpc, claim->call);
}

/* The calls that a broker holds: a task for them would wait here while others are idle. At the end,
 * too: a young call is waited for, and what it brings is given back. */
static void cancel_held_claims(struct worker *worker)
{
    struct list_node *node;

    while ((node = list_first(&worker->open_claims)) != NULL) {
        struct claim *claim = container_of(node, struct claim, node);

        if (claim->sent_ms > worker->now_ms - CLAIM_YOUNG_MS)
            return;
        cancel_claim(claim);
    }
}

static size_t in_hand(const struct worker *worker)
{
    return worker->queue.count + once_in_hand(worker) + pool_jobs(worker->pool) + worker->hopeful;
}

static int64_t oldest_claim_ms(const struct worker *worker)
{
    const struct list_node *node = list_first(&worker->open_claims);

    return node ? container_of(node, const struct claim, node)->sent_ms : CLOCK_NEVER;
}

/* A free child whose call is being held: ask the other sources, too. */
static void widen(struct worker *worker)
{
    struct source *source;

    if (oldest_claim_ms(worker) > worker->now_ms - CLAIMS_WIDEN_MS)
        return;
    while ((source = claims_pick(&worker->claims, true, worker->now_ms)) != NULL)
        open_claim(worker, source);
}

void traffic_claim(struct worker *worker)
{
    size_t capacity = worker_capacity(worker), hand = in_hand(worker), free_places, wanted;
    struct source *source;

    if (worker->draining || hand >= capacity) {
        cancel_held_claims(worker);
        return;
    }
    free_places = capacity - hand;
    wanted = free_places < pool_ready(worker->pool) ? free_places : pool_ready(worker->pool);
    while (worker->claims.open < wanted &&
           (source = claims_pick(&worker->claims, false, worker->now_ms)) != NULL)
        open_claim(worker, source);
    if (worker->claims.count > 1)
        widen(worker);
}

/* --- reports --------------------------------------------------------------------------------- */

static void report_again(struct worker *worker, struct job *job, bool unheard)
{
    struct peer *peer = job->source->peer;
    int64_t at = worker->now_ms +
                 claims_report_pause_ms(++job->tries, worker_chance(worker), worker->draining);

    job->unheard = unheard;
    job->next_try_ms = at;
    if (!worker->draining && peer->blocked_until_ms > at) {
        job->next_try_ms = peer->blocked_until_ms;
        wmeters_add_for(worker->watch.meters, WM_HOST_SKIPPED, host_of(job->source)->name, 1);
    }
    peer->unreported++;
    list_push_back(&worker->reports, &job->node);
}

/* Trying again cannot help: the broker understood the call and refuses its content. */
static bool refused_for_good(int status)
{
    return status == GRPC_INVALID_ARGUMENT || status == GRPC_UNIMPLEMENTED;
}

static void report_done(void *ctx, const struct rpc_result *result)
{
    struct job *job = (struct job *)ctx;
    struct worker *worker = job->worker;
    struct host *host = host_of(job->source);

    wmeters_rpc(worker->watch.meters, WM_UPDATE_TASK_RPC, "SetTaskStatus", host->name,
                clock_boot_us() - job->sent_us, result->status);
    worker->sent--;
    worker->hopeful -= job->fetch_next;
    job->source->held -= job->fetch_next;
    if (result->status == GRPC_OK || result->status == GRPC_NOT_FOUND) {
        host_ok(host);
        if (result->status == GRPC_OK && job->fetch_next)
            (void)take_response(worker, job->source, result->body);
    } else if (refused_for_good(result->status)) {
        log_error(WORKER_TARGET,
                  LOG_FIELDS(log_bytes("id", job->id), log_str("broker", host->name),
                             log_str("error", result->message)),
                  "the broker refuses a report: it will not hear how this task ended");
    } else {
        host_failed(worker, host, "SetTaskStatus", result);
        report_again(worker, job, is_gone(result));
        return;
    }
    host->reporting--;
    worker_free_job(job);
}

static bool wants_next(struct worker *worker, struct source *source)
{
    if (worker->draining || in_hand(worker) + worker->claims.open >= worker_capacity(worker))
        return false;
    if (claims_fetch_next(&worker->claims, source, worker->options.rebalance_after))
        return true;
    if (worker->claims.count > 1 && source->in_row == 0)
        wmeters_add_for(worker->watch.meters, WM_REBALANCE, "max_tasks_reached", 1);
    return false;
}

static void send_report(struct worker *worker, struct job *job)
{
    struct host *host = host_of(job->source);
    struct set_status_request request = {.id = job->id, .status = job->status};
    struct buf message = {0};

    job->fetch_next = wants_next(worker, job->source);
    if (job->fetch_next) {
        request.has_fetch_next = true;
        request.fetch_next = filter_of(worker, job->source);
    }
    if (job->status == ACTIVATION_RETRY)
        retry_fill_report(&job->task->options.retry, &request);
    wmeters_add_for(worker->watch.meters, WM_FETCH_NEXT, job->fetch_next ? "True" : "False", 1);
    set_status_encode(&request, &message);
    worker->hopeful += job->fetch_next;
    job->source->held += job->fetch_next;
    worker->sent++;
    job->sent_us = clock_boot_us();
    host->dirty = true;
    rpc_client_call(host->rpc, CONSUMER_SET_STATUS, buf_bytes(&message), REPORT_TIMEOUT_MS,
                    report_done, job, worker->now_ms, NULL);
    buf_free(&message);
}

void traffic_report(struct worker *worker, struct job *job, enum activation_status status)
{
    wmeters_observe(worker->watch.meters, WM_COMPLETE_DURATION,
                    (uint64_t)(worker->now_ms - job->received_ms) * 1000);
    job->status = status;
    job->worker = worker;
    job->source->held--;
    host_of(job->source)->reporting++;
    send_report(worker, job);
}

bool traffic_all_gone(const struct worker *worker, int64_t since_ms)
{
    for (size_t i = 0; i < worker->options.hosts->count; i++)
        if (worker->hosts[i].reporting > 0 && worker->hosts[i].gone_since_ms > since_ms)
            return false;
    return true;
}

static int64_t report_due_ms(const struct job *job)
{
    return claims_report_due_ms(job->source->peer, job->next_try_ms, job->unheard);
}

void traffic_hurry_reports(struct worker *worker)
{
    list_foreach (&worker->reports, node)
        container_of(node, struct job, node)->next_try_ms = worker->now_ms;
}

void traffic_send_reports(struct worker *worker)
{
    list_foreach_safe (&worker->reports, node) {
        struct job *job = container_of(node, struct job, node);

        if (report_due_ms(job) > worker->now_ms)
            continue;
        list_remove(&worker->reports, node);
        job->source->peer->unreported--;
        send_report(worker, job);
    }
}

/* --- what goes back unstarted ---------------------------------------------------------------- */

/* One GiveBack under way. */
struct giving {
    struct worker *worker;
    struct host *host;
    struct list jobs;
};

static void leave(struct host *host, size_t count, const char *why)
{
    log_at(host->has_left ? LOG_DEBUG : LOG_INFO, WORKER_TARGET,
           LOG_FIELDS(log_str("broker", host->name), log_int("tasks", (int64_t)count),
                      log_str("error", why)),
           "the broker takes no unstarted tasks back: they wait there for their deadline");
    host->has_left = true;
}

static void move_back(struct giving *giving)
{
    struct list_node *node;

    while ((node = list_pop_front(&giving->jobs)) != NULL)
        list_push_back(&giving->host->returns, node);
}

/* A repeated call is harmless: each claim is given back once. */
static bool give_again(const struct giving *giving, const struct rpc_result *result)
{
    return result->status == GRPC_UNAVAILABLE && giving->host->return_tries < RETURN_TRIES;
}

static void give_back_done(void *ctx, const struct rpc_result *result)
{
    struct giving *giving = (struct giving *)ctx;
    struct worker *worker = giving->worker;
    struct host *host = giving->host;
    struct give_back_response response = {0};
    const char *fault = "";

    if (give_again(giving, result)) {
        move_back(giving);
        host->returns_due_ms = worker->now_ms + claims_report_pause_ms(host->return_tries,
                                                                       worker_chance(worker), true);
    } else if (result->status != GRPC_OK) {
        leave(host, giving->jobs.count,
              *result->message ? result->message : grpc_status_name(result->status));
    } else if (give_back_response_decode(result->body, &response, &fault) == 0) {
        host->return_tries = 0;
        log_info(WORKER_TARGET,
                 LOG_FIELDS(log_str("broker", host->name), log_int("tasks", response.returned),
                            log_int("too_late", response.ignored)),
                 "unstarted tasks were given back");
    } else {
        leave(host, giving->jobs.count, fault);
    }
    free_returns(worker, &giving->jobs);
    mem_free(giving);
}

/* Moves to the call what can be named; the rest is left. False if nothing can. */
static bool fill_return(struct giving *giving, struct buf *message)
{
    struct worker *worker = giving->worker;
    struct list_node *node;
    size_t nameless = 0;

    while (giving->jobs.count < GIVE_BACK_MAX && message->len < RETURN_BYTES &&
           (node = list_pop_front(&giving->host->returns)) != NULL) {
        struct job *job = container_of(node, struct job, node);

        if (job->broker_claim == 0) {
            nameless++;
            worker->returning--;
            worker_free_job(job);
            continue;
        }
        list_push_back(&giving->jobs, node);
        give_back_encode_one(&(struct give_back){.id = job->id, .claim = job->broker_claim},
                             message);
    }
    if (nameless > 0)
        leave(giving->host, nameless, "it names no claims");
    return !list_empty(&giving->jobs);
}

static void send_returns(struct worker *worker, struct host *host)
{
    struct giving *giving = mem_zalloc(sizeof *giving);
    struct buf message = {0};

    giving->worker = worker;
    giving->host = host;
    list_init(&giving->jobs);
    if (fill_return(giving, &message)) {
        host->return_tries++;
        host->dirty = true;
        rpc_client_call(host->rpc, WORKER_GIVE_BACK, buf_bytes(&message), RETURN_TIMEOUT_MS,
                        give_back_done, giving, worker->now_ms, NULL);
    } else {
        mem_free(giving);
    }
    buf_free(&message);
}

void traffic_give_back(struct worker *worker, struct job *job)
{
    job->source->held--;
    worker->returning++;
    list_push_back(&host_of(job->source)->returns, &job->node);
}

void traffic_send_returns(struct worker *worker)
{
    for (size_t i = 0; worker->returning > 0 && i < worker->options.hosts->count; i++) {
        struct host *host = &worker->hosts[i];

        while (!list_empty(&host->returns) && host->returns_due_ms <= worker->now_ms)
            send_returns(worker, host);
    }
}

static int64_t returns_next_ms(const struct worker *worker)
{
    int64_t next = CLOCK_NEVER;

    for (size_t i = 0; worker->returning > 0 && i < worker->options.hosts->count; i++) {
        const struct host *host = &worker->hosts[i];

        if (!list_empty(&host->returns) && host->returns_due_ms < next)
            next = host->returns_due_ms;
    }
    return next;
}

int64_t traffic_next_ms(const struct worker *worker)
{
    int64_t next = returns_next_ms(worker);

    list_foreach (&worker->reports, node) {
        int64_t at = report_due_ms(container_of(node, const struct job, node));

        next = at < next ? at : next;
    }
    if (worker->draining || in_hand(worker) >= worker_capacity(worker)) {
        int64_t at = clock_add(oldest_claim_ms(worker), CLAIM_YOUNG_MS);

        next = at < next ? at : next;
    }
    if (!worker->draining) {
        int64_t at = claims_next_ms(&worker->claims, worker->now_ms);

        next = at < next ? at : next;
        /* Time to widen: only while a source without a call could be asked. */
        if (worker->claims.count > 1 && worker->claims.open > 0 &&
            worker->claims.open < worker->claims.count) {
            at = clock_add(oldest_claim_ms(worker), CLAIMS_WIDEN_MS);
            if (at > worker->now_ms && at < next)
                next = at;
        }
    }
    return next;
}
