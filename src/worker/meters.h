/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a worker counts, declared in one place: the table WORKER_METERS_MAP. Names, types and tags
 * are those of spec/client.md 8 and 14; docs/metrics.md says what each means and why the others are
 * not sent, and a test compares the two. The tag processing_pool is on all of them: the exporters
 * add it.
 *
 * Only the worker's process counts, in its one thread: children say what they measured in the
 * frames that end their tasks. So no fork can meet a lock that is held.
 *
 * A worker that nobody watches has no meters: every function takes NULL, and does nothing.
 *
 * Bounds (INV-10): tags are names of tasks that the worker has, its brokers, and fixed words; names
 * of unknown tasks come from strangers, and beyond WORKER_SERIES_MAX series are counted as "other".
 */
#ifndef TASKMILL_WORKER_METERS_H
#define TASKMILL_WORKER_METERS_H

#include "base/metrics.h"
#include "client/registry.h"
#include "client/retry.h"

#define WORKER_SERIES_MAX 4096

#define WORKER_US 1e-6 /* counted in microseconds, shown in seconds */
#define WORKER_MS 1e-3

#define WORKER_LABELS(...) \
    {                      \
        __VA_ARGS__        \
    }
#define WORKER_NO_LABELS \
    {                    \
        NULL             \
    }

#define WORKER_POD  WORKER_LABELS("pod_name")
#define WORKER_TASK WORKER_LABELS("namespace", "taskname")
#define WORKER_RUN  WORKER_LABELS("namespace", "taskname", "taskbroker_host")

/* C counter, G gauge, D distribution, T timer: X(id, name, scale, labels, help) */
#define WORKER_METERS_MAP(C, G, D, T)                                                              \
    T(WM_GET_TASK_RPC, "taskworker.get_task.rpc", WORKER_US, WORKER_LABELS("host"),                \
      "Time of a GetTask, waiting at the broker included")                                         \
    T(WM_UPDATE_TASK_RPC, "taskworker.update_task.rpc", WORKER_US, WORKER_LABELS("host"),          \
      "Time of a SetTaskStatus")                                                                   \
    C(WM_RPC_ERROR, "taskworker.client.rpc_error", 1, WORKER_LABELS("method", "status"),           \
      "Calls that did not end with OK")                                                            \
    C(WM_GET_TASK, "taskworker.client.get_task", 1, WORKER_LABELS("namespace"),                    \
      "Tasks that came by GetTask")                                                                \
    C(WM_FETCH_NEXT, "taskworker.client.fetch_next", 1, WORKER_LABELS("next"),                     \
      "Reports, by whether they asked for the next task")                                          \
    C(WM_HEALTH_TOUCHED, "taskworker.client.health_check.touched", 1, WORKER_NO_LABELS,            \
      "Touches of the health-check file")                                                          \
    C(WM_REBALANCE, "taskworker.client.loadbalancer.rebalance", 1, WORKER_LABELS("reason"),        \
      "Times that a broker was not asked for the next task, for the sake of the others")           \
    C(WM_HOST_SKIPPED, "taskworker.client.skipping_set_task_due_to_unavailable_host", 1,           \
      WORKER_LABELS("broker_host"), "Reports that wait because their broker failed")               \
    C(WM_NOT_FOUND, "taskworker.worker.fetch_task.not_found", 1, WORKER_NO_LABELS,                 \
      "GetTasks that brought no task")                                                             \
    D(WM_COMPLETE_DURATION, "taskworker.worker.complete_duration", WORKER_US, WORKER_NO_LABELS,    \
      "From a task's arrival in the worker to its report")                                         \
    C(WM_SPAWN_CHILD, "taskworker.worker.spawn_child", 1, WORKER_LABELS("result"),                 \
      "Children that were started")                                                                \
    C(WM_SPAWN_FAILED, "taskworker.worker.child.spawn", 1, WORKER_LABELS("result"),                \
      "Children that could not be started")                                                        \
    G(WM_CHILD_TASKS, "taskworker.child_tasks.size", 1, WORKER_POD, "Tasks that wait for a child") \
    G(WM_PROCESSED_TASKS, "taskworker.processed_tasks.size", 1, WORKER_POD,                        \
      "Reports that are not delivered yet")                                                        \
    G(WM_OCCUPANCY, "taskworker.worker.occupancy", WORKER_US, WORKER_POD,                          \
      "Share of their time in which children were busy, 0 to 1")                                   \
    G(WM_CONCURRENCY, "taskworker.worker.concurrency", 1, WORKER_POD, "Children wanted")           \
    G(WM_EXITING, "taskworker.worker.exiting_children.size", 1, WORKER_POD,                        \
      "Children that are about to leave")                                                          \
    G(WM_CHILDREN, "taskworker.worker.children", 1, WORKER_LABELS("pod_name", "state"),            \
      "Children by state: pending, running, exiting")                                              \
    C(WM_MAX_TASKS, "taskworker.worker.max_task_count_reached", 1, WORKER_LABELS("count"),         \
      "Children that were replaced because they were worn out")                                    \
    C(WM_UNKNOWN_TASK, "taskworker.worker.unknown_task", 1, WORKER_TASK,                           \
      "Tasks that nothing here declares")                                                          \
    C(WM_ONCE_SKIPPED, "taskworker.worker.at_most_once.skipped", 1, WORKER_TASK,                   \
      "At-most-once tasks that were begun elsewhere")                                              \
    C(WM_ONCE_EXECUTED, "taskworker.task.at_most_once.executed", 1, WORKER_TASK,                   \
      "At-most-once tasks that were begun here")                                                   \
    C(WM_DEADLINE, "taskworker.worker.processing_deadline_exceeded", 1, WORKER_TASK,               \
      "Tasks killed at their deadline")                                                            \
    D(WM_MEMORY_CHANGE, "taskworker.worker.memory_change", 1024, WORKER_TASK,                      \
      "Growth of the child's peak resident memory by a task, in bytes")                            \
    C(WM_EXECUTE_TASK, "taskworker.worker.execute_task", 1,                                        \
      WORKER_LABELS("namespace", "taskname", "status", "taskbroker_host"),                         \
      "Tasks that were run, by what was reported")                                                 \
    D(WM_EXECUTION_DURATION, "taskworker.worker.execution_duration", WORKER_US, WORKER_RUN,        \
      "Time that a task ran")                                                                      \
    D(WM_EXECUTION_LATENCY, "taskworker.worker.execution_latency", WORKER_US, WORKER_RUN,          \
      "From received_at to the task's end")                                                        \
    D(WM_E2E_LATENCY, "taskworker.worker.e2e_latency", WORKER_US, WORKER_RUN,                      \
      "From received_at to the task's end, and to the delivery of what it sent if that is "        \
      "awaited")                                                                                   \
    C(WM_COGS, "taskworker.cogs.usage", 1, WORKER_LABELS("feature"),                               \
      "Milliseconds that tasks ran")                                                               \
    D(WM_CHILD_BUSY, "taskworker.worker.child_busy_seconds", WORKER_US, WORKER_NO_LABELS,          \
      "Busy time of all children in a period")                                                     \
    D(WM_CHILD_WAIT, "taskworker.worker.child_wait_seconds", WORKER_US, WORKER_NO_LABELS,          \
      "Waiting time of all children in a period")                                                  \
    D(WM_STAGE, "taskworker.worker.shutdown.stage_duration", WORKER_MS, WORKER_LABELS("stage"),    \
      "Time of a stage of the shutdown: tasks, reports")                                           \
    C(WM_RESULTS_DROPPED, "taskworker.worker.shutdown.results_dropped", 1, WORKER_NO_LABELS,       \
      "Reports that were not delivered when the worker ended")                                     \
    C(WM_TASKS_DISCARDED, "taskworker.worker.shutdown.child_tasks_discarded", 1, WORKER_NO_LABELS, \
      "Claimed tasks that were not run when the worker ended")                                     \
    /* Not in the original. */                                                                     \
    C(WM_CHILDREN_LOST, "taskworker.worker.children_lost", 1, WORKER_LABELS("reason"),             \
      "Children that died: deadline (killed for it), signal, exit")                                \
    C(WM_TASKS_LEFT, "taskworker.worker.tasks_left", 1, WORKER_NO_LABELS,                          \
      "Claimed tasks that were not started in time and left to the broker")                        \
    C(WM_ONCE_UNASKED, "taskworker.worker.at_most_once.unasked", 1, WORKER_NO_LABELS,              \
      "Times that Redis could not be asked about an at-most-once task")                            \
    G(WM_ONCE_HELD, "taskworker.worker.at_most_once.held", 1, WORKER_POD,                          \
      "At-most-once tasks that wait for Redis")                                                    \
    G(WM_BROKERS_BLOCKED, "taskworker.worker.brokers_blocked", 1, WORKER_POD,                      \
      "Brokers that failed and are left alone for a while")                                        \
    C(WM_OVERFLOWS, "metrics.overflows", 1, WORKER_NO_LABELS,                                      \
      "Values counted under the name other because there were too many names")

/* For Prometheus alone, with the original's names. */
#define WORKER_PROMETHEUS_MAP(X)                                                        \
    X(WM_PROMETHEUS_OCCUPANCY, "taskworker_worker_occupancy", METRIC_GAUGE,             \
      "Share of their time in which children were busy, 0 to 1")                        \
    X(WM_PROMETHEUS_BUSY, "taskworker_worker_child_busy_seconds_total", METRIC_COUNTER, \
      "Busy time of all children")                                                      \
    X(WM_PROMETHEUS_WAIT, "taskworker_worker_child_wait_seconds_total", METRIC_COUNTER, \
      "Waiting time of all children")

enum worker_meter {
#define X(id, ...) id,
    WORKER_METERS_MAP(X, X, X, X) WORKER_PROMETHEUS_MAP(X)
#undef X
        WORKER_METERS
};

struct worker_meters;

/* `pod`: the value of pod_name; copied. */
struct worker_meters *wmeters_new(const char *pod);
void wmeters_free(struct worker_meters *meters);
struct metrics *wmeters_registry(const struct worker_meters *meters);
const struct metric_def *wmeters_def(enum worker_meter meter);

/* --- counting: each takes NULL for `meters` --------------------------------------------------- */

/* Families without labels. */
void wmeters_add(struct worker_meters *meters, enum worker_meter meter, uint64_t n);
void wmeters_observe(struct worker_meters *meters, enum worker_meter meter, uint64_t value);
/* One label. */
void wmeters_add_for(struct worker_meters *meters, enum worker_meter meter, const char *value,
                     uint64_t n);
void wmeters_observe_for(struct worker_meters *meters, enum worker_meter meter, const char *value,
                         uint64_t observed);
/* Labels namespace and taskname, or namespace alone. */
void wmeters_add_task(struct worker_meters *meters, enum worker_meter meter, struct bytes ns,
                      struct bytes name, uint64_t n);
/* Labels pod_name, and `state` if it is not NULL. */
void wmeters_set(struct worker_meters *meters, enum worker_meter meter, const char *state,
                 int64_t value);
/* WM_OCCUPANCY and its like for Prometheus; < 0: nobody knows. */
void wmeters_set_occupancy(struct worker_meters *meters, int64_t millionths);

/* A call to a broker has ended. */
void wmeters_rpc(struct worker_meters *meters, enum worker_meter timer, const char *method,
                 const char *host, int64_t took_us, int status);

/* How a task ended. */
struct meters_run {
    const struct task_def *task;
    const char *host; /* its broker; the same pointer for the same broker */
    enum attempt_end end;
    enum activation_status status; /* what is reported */
    int64_t run_us;
    uint64_t memory_kib;
    bool has_received_at;
    int64_t latency_us; /* from received_at to the end; < 0 (clocks differ): counts as 0 */
};
void wmeters_task(struct worker_meters *meters, const struct meters_run *run);

#endif
