/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/meters.h"

#include <assert.h>

#include "base/map.h"
#include "base/mem.h"
#include "rpc/status.h"

#define C_ROW(id, text, unit, keys, line) \
    [id] = {                              \
        .name = (text), .help = (line), .kind = METRIC_COUNTER, .scale = (unit), .labels = keys},
#define G_ROW(id, text, unit, keys, line) \
    [id] = {.name = (text), .help = (line), .kind = METRIC_GAUGE, .scale = (unit), .labels = keys},
#define D_ROW(id, text, unit, keys, line) \
    [id] = {.name = (text),               \
            .help = (line),               \
            .kind = METRIC_HISTOGRAM,     \
            .scale = (unit),              \
            .labels = keys,               \
            .statsd = "d"},
#define T_ROW(id, text, unit, keys, line) \
    [id] = {.name = (text),               \
            .help = (line),               \
            .kind = METRIC_HISTOGRAM,     \
            .scale = (unit),              \
            .labels = keys,               \
            .statsd = "ms"},
#define P_ROW(id, text, of_kind, line) \
    [id] = {.name = (text),            \
            .help = (line),            \
            .kind = (of_kind),         \
            .scale = WORKER_US,        \
            .statsd = METRIC_HIDDEN,   \
            .prometheus = (text)},

static const struct metric_def defs[WORKER_METERS] = {WORKER_METERS_MAP(C_ROW, G_ROW, D_ROW, T_ROW)
                                                          WORKER_PROMETHEUS_MAP(P_ROW)};

/* The series of one task from one broker, looked up once. */
struct run_series {
    struct map_node node;
    struct {
        const struct task_def *task;
        const char *host;
    } key;
    struct metric *statuses[ACTIVATION_COMPLETE + 1]; /* NULL: not reported yet */
    struct metric *duration, *latency, *e2e, *memory, *cogs;
    uint64_t cogs_rest_us; /* below a millisecond */
};

/* Series with one label that were used lately, found without a lock or an allocation. */
#define RECENT 64

struct recent {
    enum worker_meter meter;
    struct metric *metric; /* NULL: free */
};

struct worker_meters {
    struct metrics *registry;
    struct metric_family *families[WORKER_METERS];
    struct metric *singles[WORKER_METERS]; /* of families without labels */
    struct map runs;
    struct recent recent[RECENT];
    char *pod;
};

const struct metric_def *wmeters_def(enum worker_meter meter)
{
    assert(meter < WORKER_METERS);
    return &defs[meter];
}

struct worker_meters *wmeters_new(const char *pod)
{
    static const uint64_t seed[2] = {0x776f726b6572, 0x6d6574657273}; /* keys are our pointers */
    struct worker_meters *meters = mem_zalloc(sizeof *meters);

    meters->registry = metrics_new(WORKER_SERIES_MAX);
    meters->pod = mem_strdup(pod);
    map_init(&meters->runs, seed);
    for (int i = 0; i < WORKER_METERS; i++) {
        meters->families[i] = metrics_family(meters->registry, &defs[i]);
        if (defs[i].labels[0] == NULL)
            meters->singles[i] = metrics_series(meters->families[i], NULL);
    }
    return meters;
}

void wmeters_free(struct worker_meters *meters)
{
    struct map_node *node;

    if (meters == NULL)
        return;
    while ((node = map_first(&meters->runs)) != NULL) {
        struct run_series *series = container_of(node, struct run_series, node);

        map_remove(&meters->runs, node);
        mem_free(series);
    }
    map_free(&meters->runs);
    metrics_free(meters->registry);
    mem_free(meters->pod);
    mem_free(meters);
}

struct metrics *wmeters_registry(const struct worker_meters *meters)
{
    return meters->registry;
}

/* --- counting -------------------------------------------------------------------------------- */

#define VALUES(...) ((const struct bytes[]){__VA_ARGS__})

static struct metric *series(struct worker_meters *meters, enum worker_meter meter,
                             const struct bytes *values)
{
    return metrics_series(meters->families[meter], values);
}

static struct metric *recent_series(struct worker_meters *meters, enum worker_meter meter,
                                    const char *value)
{
    struct recent *slot = &meters->recent[(((uintptr_t)value >> 3) + 7 * meter) % RECENT];
    struct bytes text = bytes_str(value);

    if (slot->metric == NULL || slot->meter != meter || !metric_has_values(slot->metric, &text))
        *slot = (struct recent){meter, series(meters, meter, &text)};
    return slot->metric;
}

void wmeters_add(struct worker_meters *meters, enum worker_meter meter, uint64_t n)
{
    if (meters != NULL)
        metric_add(meters->singles[meter], n);
}

void wmeters_observe(struct worker_meters *meters, enum worker_meter meter, uint64_t value)
{
    if (meters != NULL)
        metric_observe(meters->singles[meter], value);
}

void wmeters_add_for(struct worker_meters *meters, enum worker_meter meter, const char *value,
                     uint64_t n)
{
    if (meters != NULL)
        metric_add(recent_series(meters, meter, value), n);
}

void wmeters_observe_for(struct worker_meters *meters, enum worker_meter meter, const char *value,
                         uint64_t observed)
{
    if (meters != NULL)
        metric_observe(recent_series(meters, meter, value), observed);
}

void wmeters_add_task(struct worker_meters *meters, enum worker_meter meter, struct bytes ns,
                      struct bytes name, uint64_t n)
{
    if (meters != NULL)
        metric_add(series(meters, meter, VALUES(ns, name)), n);
}

void wmeters_set(struct worker_meters *meters, enum worker_meter meter, const char *state,
                 int64_t value)
{
    if (meters != NULL)
        metric_set(
            series(meters, meter, VALUES(bytes_str(meters->pod), bytes_str(state ? state : ""))),
            value);
}

void wmeters_set_occupancy(struct worker_meters *meters, int64_t millionths)
{
    struct metric *metric;

    if (meters == NULL)
        return;
    metric = series(meters, WM_OCCUPANCY, VALUES(bytes_str(meters->pod)));
    if (millionths < 0) {
        metric_unset(metric);
        metric_unset(meters->singles[WM_PROMETHEUS_OCCUPANCY]);
        return;
    }
    metric_set(metric, millionths);
    metric_set(meters->singles[WM_PROMETHEUS_OCCUPANCY], millionths);
}

void wmeters_rpc(struct worker_meters *meters, enum worker_meter timer, const char *method,
                 const char *host, int64_t took_us, int status)
{
    if (meters == NULL)
        return;
    metric_observe(recent_series(meters, timer, host), took_us > 0 ? (uint64_t)took_us : 0);
    if (status != GRPC_OK)
        metric_add(series(meters, WM_RPC_ERROR,
                          VALUES(bytes_str(method), bytes_str(grpc_status_name(status)))),
                   1);
}

/* --- tasks ----------------------------------------------------------------------------------- */

static struct run_series *new_run(struct worker_meters *meters, const struct meters_run *run)
{
    struct run_series *it = mem_zalloc(sizeof *it);
    struct bytes ns = bytes_str(run->task->ns->name), name = bytes_str(run->task->name);
    struct bytes host = bytes_str(run->host);

    it->key.task = run->task;
    it->key.host = run->host;
    it->duration = series(meters, WM_EXECUTION_DURATION, VALUES(ns, name, host));
    it->latency = series(meters, WM_EXECUTION_LATENCY, VALUES(ns, name, host));
    it->e2e = series(meters, WM_E2E_LATENCY, VALUES(ns, name, host));
    it->memory = series(meters, WM_MEMORY_CHANGE, VALUES(ns, name));
    it->cogs = series(meters, WM_COGS, VALUES(ns));
    map_insert(&meters->runs, &it->node, bytes_of((const uint8_t *)&it->key, sizeof it->key));
    return it;
}

static struct run_series *find_run(struct worker_meters *meters, const struct meters_run *run)
{
    struct run_series probe = {.key = {run->task, run->host}};
    struct map_node *found =
        map_find(&meters->runs, bytes_of((const uint8_t *)&probe.key, sizeof probe.key));

    return found ? container_of(found, struct run_series, node) : new_run(meters, run);
}

static struct metric *status_series(struct worker_meters *meters, struct run_series *it,
                                    const struct meters_run *run)
{
    const char *word = run->status == ACTIVATION_COMPLETE ? "complete"
                       : run->status == ACTIVATION_RETRY  ? "retry"
                                                          : "failure";

    if (it->statuses[run->status] == NULL)
        it->statuses[run->status] =
            series(meters, WM_EXECUTE_TASK,
                   VALUES(bytes_str(run->task->ns->name), bytes_str(run->task->name),
                          bytes_str(word), bytes_str(run->host)));
    return it->statuses[run->status];
}

void wmeters_task(struct worker_meters *meters, const struct meters_run *run)
{
    uint64_t run_us = run->run_us > 0 ? (uint64_t)run->run_us : 0;
    uint64_t latency_us = run->latency_us > 0 ? (uint64_t)run->latency_us : 0;
    struct run_series *it;

    if (meters == NULL)
        return;
    it = find_run(meters, run);
    metric_add(status_series(meters, it, run), 1);
    metric_observe(it->duration, run_us);
    metric_observe(it->memory, run->memory_kib);
    if (run->has_received_at) {
        metric_observe(it->latency, latency_us);
        metric_observe(it->e2e, latency_us);
    }
    it->cogs_rest_us += run_us;
    metric_add(it->cogs, it->cogs_rest_us / 1000);
    it->cogs_rest_us %= 1000;
    if (run->end == ATTEMPT_DEADLINE)
        wmeters_add_task(meters, WM_DEADLINE, bytes_str(run->task->ns->name),
                         bytes_str(run->task->name), 1);
}
