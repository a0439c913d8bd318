/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything that the broker counts, declared in one place: the table METERS_MAP. The names are
 * those of spec/broker.md 10.2 (statsd adds "taskbroker.", Prometheus "taskmill_"); names of our
 * own are in the last part of the table. docs/metrics.md says what each means, also those of 10.2
 * that are not sent, and a test compares the three.
 *
 * How to count
 *   1. Give the family a row in the table and in docs/metrics.md.
 *   2. Without labels:             meter_add(meters, METER_FORWARDED, 1);
 *                                  meter_set(...) for a gauge, meter_observe(...) for a histogram.
 *   3. With labels, seldom:        meter_add_tagged(meters, METER_KILLED,
 *                                      METER_TAGS(bytes_str(topic), taskname, bytes_str(match)),
 *                                      1); values in the order of the table. Costs a lock and a
 *                                  look-up.
 *   4. With labels, a hot path:    keep the series. One with values known at start: look it up
 *                                  once with meter_series() and use metric_add(). One with names
 *                                  from strangers: a struct meter_cache that belongs to one thread,
 *                                  and meter_cached().
 *   5. Things that somebody counts anyway (inflight_counts, engine_stats): no line at all on the
 *      hot path; engine_meter.c copies the difference every 100 ms.
 *
 * Units are in the table's scale: METER_US families count microseconds and are exported as
 * seconds. No event on a hot path may cost more than an atomic add or two.
 *
 * Counters with a fixed set of values exist from the start, so that they are exported as 0.
 *
 * Threads: any; meters_new and meters_free belong to the owner (the broker; an engine without one
 * makes its own). A meter_cache has one user.
 */
#ifndef TASKMILL_BROKER_METERS_H
#define TASKMILL_BROKER_METERS_H

#include <assert.h>

#include "base/metrics.h"

/* Series over all families (INV-10): namespaces, task names and topics come from strangers. A
 * histogram takes 4 KiB here and as much in an exporter. */
#define METERS_SERIES_MAX 4096

#define METER_US 1e-6 /* counted in microseconds, shown in seconds */
#define METER_MS 1e-3

#define LABELS(...) \
    {               \
        __VA_ARGS__ \
    }
#define NO_LABELS \
    {             \
        NULL      \
    }

/* X(id, name, kind, scale, labels, help) */
#define METERS_MAP(X)     \
    METERS_INTAKE_MAP(X)  \
    METERS_GRPC_MAP(X)    \
    METERS_STORE_MAP(X)   \
    METERS_UPKEEP_MAP(X)  \
    METERS_RUNTIME_MAP(X) \
    METERS_OWN_MAP(X)

#define TASK_LABELS  LABELS("topic", "namespace", "taskname")
#define TOPIC_LABEL  LABELS("topic")
#define STATUS_LABEL LABELS("status")

#define METERS_INTAKE_MAP(X)                                                                       \
    X(METER_PARTITIONS, "arroyo.consumer.current_partitions", METRIC_GAUGE, 1, TOPIC_LABEL,        \
      "Partitions of the topic that this broker has")                                              \
    X(METER_ASSIGNED, "arroyo.consumer.partitions_assigned.count", METRIC_COUNTER, 1, TOPIC_LABEL, \
      "Partitions given to this broker")                                                           \
    X(METER_REVOKED, "arroyo.consumer.partitions_revoked.count", METRIC_COUNTER, 1, TOPIC_LABEL,   \
      "Partitions taken from this broker")                                                         \
    X(METER_PAYLOAD_SIZE, "consumer.message.payload_size_bytes", METRIC_HISTOGRAM, 1, TASK_LABELS, \
      "Size of an activation as it came from the topic")                                           \
    X(METER_RAW_SIZE, "consumer.raw.payload_size_bytes", METRIC_HISTOGRAM, 1, TASK_LABELS,         \
      "Size of a raw message as it came from the topic")                                           \
    X(METER_RAW_COMPRESSED_SIZE, "consumer.raw.compressed_payload_size_bytes", METRIC_HISTOGRAM,   \
      1, TASK_LABELS, "Size of a raw message after compression")                                   \
    X(METER_KILL_TIME, "filter.drop_task_killswitch.duration", METRIC_HISTOGRAM, METER_US,         \
      TOPIC_LABEL, "Time to match a batch of messages against the killswitch")                     \
    X(METER_KILLED, "filter.drop_task_killswitch", METRIC_COUNTER, 1,                              \
      LABELS("topic", "taskname", "match"), "Messages dropped by the killswitch")                  \
    X(METER_EXPIRED_AT_INTAKE, "filter.expired_at_consumer", METRIC_COUNTER, 1, TOPIC_LABEL,       \
      "Messages that had expired when they were read")                                             \
    X(METER_DEMOTED, "filter.forward_task_demoted_namespace", METRIC_COUNTER, 1, TASK_LABELS,      \
      "Messages of demoted namespaces sent on instead of stored")                                  \
    X(METER_DEMOTED_SKIPPED, "filter.forward_task_demoted_namespace.skipped", METRIC_COUNTER, 1,   \
      TASK_LABELS, "Messages of demoted namespaces kept: the target is consumed here")             \
    X(METER_BATCH_ROWS, "consumer.batch_rows", METRIC_HISTOGRAM, 1, TOPIC_LABEL,                   \
      "Messages of the topic that one turn took in")                                               \
    X(METER_BATCH_BYTES, "consumer.batch_bytes", METRIC_HISTOGRAM, 1, TOPIC_LABEL,                 \
      "Payload bytes of the topic that one turn took in")                                          \
    X(METER_FORWARD_ATTEMPTS, "consumer.forward_attempts", METRIC_HISTOGRAM, 1, TOPIC_LABEL,       \
      "Messages of a batch to be sent on")                                                         \
    X(METER_FORWARD_SUCCESSES, "consumer.forward_successes", METRIC_HISTOGRAM, 1, TOPIC_LABEL,     \
      "Messages of a batch durable on their way to the other topic")                               \
    X(METER_FORWARD_FAILURES, "consumer.forward_failures", METRIC_HISTOGRAM, 1, TOPIC_LABEL,       \
      "Messages of a batch that could not be sent on")                                             \
    X(METER_BACKPRESSURE, "consumer.inflight_activation_writer.backpressure", METRIC_COUNTER, 1,   \
      LABELS("topic", "reason"), "Intake stopped, and once a period while it stands still")        \
    X(METER_WRITE_TIME, "consumer.inflight_activation_writer.write_to_store", METRIC_HISTOGRAM,    \
      METER_US, TOPIC_LABEL, "Time of a transaction that stored rows of the topic")                \
    X(METER_INSERT_LAG, "consumer.inflight_activation_writer.insert_lag", METRIC_HISTOGRAM, 1,     \
      TOPIC_LABEL, "Seconds from the oldest received_at of a batch to its commit")                 \
    X(METER_ROWS_STORED, "consumer.inflight_activation_writer.stored", METRIC_COUNTER, 1,          \
      TOPIC_LABEL, "Rows stored")                                                                  \
    X(METER_WRITE_FAILED, "consumer.inflight_activation_writer.write_failed", METRIC_COUNTER, 1,   \
      TOPIC_LABEL, "Transactions with rows of the topic that failed")

#define SET_STATUS "grpc_server.set_status"
#define SET_BATCH  "grpc_server.set_batch_activation_status"

#define METERS_GRPC_MAP(X)                                                                         \
    X(METER_REQUESTS, "grpc.request", METRIC_COUNTER, 1, LABELS("path"),                           \
      "gRPC requests, rejected ones too")                                                          \
    X(METER_REQUEST_TIME, "grpc.request.duration", METRIC_HISTOGRAM, METER_US, LABELS("path"),     \
      "From a gRPC request to its reply, waiting for a task included")                             \
    X(METER_START_LATENCY, "grpc_server.received_to_gettask.latency", METRIC_HISTOGRAM, 1,         \
      LABELS("namespace", "taskname"),                                                             \
      "Milliseconds from received_at until the task is handed out for the first time")             \
    X(METER_GET_TASK_TIME, "grpc_server.get_task.duration", METRIC_HISTOGRAM, METER_US, NO_LABELS, \
      "Time to hand out a task, waiting for one not included")                                     \
    X(METER_SET_STATUS_TIME, SET_STATUS ".duration", METRIC_HISTOGRAM, METER_US, NO_LABELS,        \
      "From a report to its answer")                                                               \
    X(METER_FETCH_NEXT_TIME, "grpc_server.fetch_next.duration", METRIC_HISTOGRAM, METER_US,        \
      NO_LABELS, "From a report that asks for the next task to its answer")                        \
    X(METER_SET_BATCH_TIME, SET_BATCH ".duration", METRIC_HISTOGRAM, METER_US, NO_LABELS,          \
      "From a batch of reports to its answer")                                                     \
    X(METER_FAILURES_REPORTED, SET_STATUS ".failure", METRIC_COUNTER, 1, NO_LABELS,                \
      "Reports with the status Failure")                                                           \
    X(METER_SET_STATUS, SET_STATUS, METRIC_COUNTER, 1, LABELS("result", "status"),                 \
      "Reports by what became of them")                                                            \
    X(METER_BATCH_UPDATES, SET_BATCH ".total_updates_received", METRIC_COUNTER, 1, NO_LABELS,      \
      "Reports that came in batches")                                                              \
    X(METER_BATCH_COUNT, SET_BATCH ".num_batches", METRIC_HISTOGRAM, 1, NO_LABELS,                 \
      "1 for a request with Complete or Failure reports, else 0")                                  \
    X(METER_BATCH_RETRIES, SET_BATCH ".retry_updates", METRIC_HISTOGRAM, 1, NO_LABELS,             \
      "Retry reports of a batch")                                                                  \
    X(METER_BATCH_SIZE, SET_BATCH ".batch_size", METRIC_HISTOGRAM, 1, STATUS_LABEL,                \
      "Reports of this status in a batch")                                                         \
    X(METER_BATCH_DIFF, SET_BATCH ".affected_diff", METRIC_HISTOGRAM, 1, STATUS_LABEL,             \
      "Reports of this status in a batch that changed nothing")                                    \
    X(METER_BATCH_PARTIAL, SET_BATCH ".partial", METRIC_HISTOGRAM, 1, STATUS_LABEL,                \
      "1 for a batch with such reports, else 0")

#define METERS_STORE_MAP(X)                                                                      \
    X(METER_CACHE_USED, "sqlite.db.cache_used_bytes", METRIC_GAUGE, 1, NO_LABELS,                \
      "Memory of SQLite's page cache")                                                           \
    X(METER_CACHE_USED_SHARED, "sqlite.db.cache_used_shared_bytes", METRIC_GAUGE, 1, NO_LABELS,  \
      "The same, shared caches divided among their users")                                       \
    X(METER_CACHE_HIT, "sqlite.db.cache_hit_total", METRIC_GAUGE, 1, NO_LABELS,                  \
      "Pages found in the cache since the start")                                                \
    X(METER_CACHE_MISS, "sqlite.db.cache_miss_total", METRIC_GAUGE, 1, NO_LABELS,                \
      "Pages read from the file since the start")                                                \
    X(METER_CACHE_WRITE, "sqlite.db.cache_write_total", METRIC_GAUGE, 1, NO_LABELS,              \
      "Pages written since the start")                                                           \
    X(METER_CACHE_SPILL, "sqlite.db.cache_spill_total", METRIC_GAUGE, 1, NO_LABELS,              \
      "Pages written in the middle of a transaction since the start")                            \
    X(METER_SCHEMA_USED, "sqlite.db.schema_used_bytes", METRIC_GAUGE, 1, NO_LABELS,              \
      "Memory of SQLite's schema")                                                               \
    X(METER_STMT_USED, "sqlite.db.stmt_used_bytes", METRIC_GAUGE, 1, NO_LABELS,                  \
      "Memory of prepared statements")                                                           \
    X(METER_LOOKASIDE_USED, "sqlite.db.lookaside_used", METRIC_GAUGE, 1, NO_LABELS,              \
      "Lookaside slots in use")                                                                  \
    X(METER_LOOKASIDE_HIT, "sqlite.db.lookaside_hit_highwater", METRIC_GAUGE, 1, NO_LABELS,      \
      "Allocations that lookaside served")                                                       \
    X(METER_LOOKASIDE_MISS_SIZE, "sqlite.db.lookaside_miss_size_highwater", METRIC_GAUGE, 1,     \
      NO_LABELS, "Allocations too large for lookaside")                                          \
    X(METER_LOOKASIDE_MISS_FULL, "sqlite.db.lookaside_miss_full_highwater", METRIC_GAUGE, 1,     \
      NO_LABELS, "Allocations that found lookaside full")                                        \
    X(METER_DEFERRED_FKS, "sqlite.db.deferred_fks_unresolved", METRIC_GAUGE, 1, NO_LABELS,       \
      "1 while deferred foreign keys are unresolved")                                            \
    X(METER_CHECKPOINT_BUSY, "store.passive_checkpoint_busy", METRIC_GAUGE, 1, NO_LABELS,        \
      "1 when the last checkpoint was held back by a reader")                                    \
    X(METER_WAL_PAGES, "store.pages_written_to_wal", METRIC_GAUGE, 1, NO_LABELS,                 \
      "Pages in the WAL at the last checkpoint")                                                 \
    X(METER_CHECKPOINT_PAGES, "store.pages_committed_to_db", METRIC_GAUGE, 1, NO_LABELS,         \
      "Pages of the WAL that are in the file since the last checkpoint")                         \
    X(METER_CHECKPOINT_FAILED, "store.checkpoint.failed", METRIC_GAUGE, 1, NO_LABELS,            \
      "1 when the last checkpoint could not run")                                                \
    X(METER_CHECKPOINT_TIME, "store.checkpoint.duration", METRIC_HISTOGRAM, METER_US, NO_LABELS, \
      "Time of a checkpoint")                                                                    \
    X(METER_VACUUM_TIME, "store.vacuum", METRIC_HISTOGRAM, METER_US, LABELS("database"),         \
      "Time of a slice of incremental vacuum")                                                   \
    X(METER_VACUUM_FREE, "store.vacuum.freelist", METRIC_GAUGE, 1, LABELS("database"),           \
      "Free pages of the file")

/* As the original with SQLite: its file does not know the topics apart. */
#define METER_DEPTH_TOPIC     "taskworker"
#define METER_DEPTH_PARTITION "-1"
#define DEPTH_LABELS          LABELS("topic", "partition")

#define METERS_UPKEEP_MAP(X)                                                                       \
    X(METER_RETRIES_TIME, "upkeep.handle_retries", METRIC_HISTOGRAM, METER_US, NO_LABELS,          \
      "Time spent on retries in a period")                                                         \
    X(METER_DEADLINES_TIME, "upkeep.handle_processing_deadline", METRIC_HISTOGRAM, METER_US,       \
      NO_LABELS, "Time spent on missed deadlines in a period")                                     \
    X(METER_EXPIRY_TIME, "upkeep.handle_expires_at", METRIC_HISTOGRAM, METER_US, NO_LABELS,        \
      "Time spent on expired tasks in a period")                                                   \
    X(METER_DELAYS_TIME, "upkeep.handle_delay_until", METRIC_HISTOGRAM, METER_US, NO_LABELS,       \
      "Time spent on delays that ended in a period")                                               \
    X(METER_FAILED_TIME, "upkeep.handle_failed_tasks", METRIC_HISTOGRAM, METER_US, NO_LABELS,      \
      "Time spent on dead letters and discards in a period")                                       \
    X(METER_COMPLETED_TIME, "upkeep.remove_completed", METRIC_HISTOGRAM, METER_US, NO_LABELS,      \
      "Time spent on deleting completed tasks in a period")                                        \
    X(METER_KILLED_TIME, "upkeep.remove_killswitched", METRIC_HISTOGRAM, METER_US, NO_LABELS,      \
      "Time spent on purging killed tasks in a period")                                            \
    X(METER_FORWARD_TIME, "upkeep.forward_task_demoted_namespaces", METRIC_HISTOGRAM, METER_US,    \
      NO_LABELS, "Time spent on forwarding demoted tasks in a period")                             \
    X(METER_UPKEEP_TIME, "upkeep.duration", METRIC_HISTOGRAM, METER_US, NO_LABELS,                 \
      "Sum of the upkeep times of a period")                                                       \
    X(METER_DLQ_SIZE, "upkeep.dlq.message_size", METRIC_HISTOGRAM, 1, NO_LABELS,                   \
      "Size of a dead letter")                                                                     \
    X(METER_FORWARDED_TASK, "upkeep.forward_task_demoted_namespace", METRIC_COUNTER, 1,            \
      LABELS("namespace", "taskname"), "Stored tasks of demoted namespaces sent on")               \
    X(METER_FORWARDED, "upkeep.forwarded_tasks", METRIC_COUNTER, 1, NO_LABELS,                     \
      "Stored tasks sent on, of all namespaces")                                                   \
    X(METER_TRANSITIONS, "upkeep.task.state_transition", METRIC_COUNTER, 1, LABELS("state"),       \
      "Tasks that ended, by how")                                                                  \
    X(METER_CLEANUP, "upkeep.cleanup_action", METRIC_COUNTER, 1, LABELS("kind"),                   \
      "What time and policies did to tasks")                                                       \
    X(METER_PENDING, "upkeep.current_pending_tasks", METRIC_GAUGE, 1, DEPTH_LABELS,                \
      "Tasks that wait for a worker")                                                              \
    X(METER_CLAIMED, "upkeep.current_claimed_tasks", METRIC_GAUGE, 1, DEPTH_LABELS,                \
      "Tasks claimed but not yet running: 0 in pull mode")                                         \
    X(METER_PROCESSING, "upkeep.current_processing_tasks", METRIC_GAUGE, 1, DEPTH_LABELS,          \
      "Tasks that workers have")                                                                   \
    X(METER_DELAYED, "upkeep.current_delayed_tasks", METRIC_GAUGE, 1, DEPTH_LABELS,                \
      "Tasks whose delay has not ended")                                                           \
    X(METER_MAX_LAG, "upkeep.pending_activation.max_lag.sec", METRIC_GAUGE, METER_MS, NO_LABELS,   \
      "Age of the oldest task that waits for a worker")                                            \
    X(METER_FILE_SIZE, "upkeep.db_file_size.bytes", METRIC_GAUGE, 1, NO_LABELS,                    \
      "Size of the database file")                                                                 \
    X(METER_WAL_SIZE, "upkeep.wal_file_size.bytes", METRIC_GAUGE, 1, NO_LABELS, "Size of the WAL") \
    X(METER_HEALTH, "upkeep.health", METRIC_COUNTER, 1, STATUS_LABEL,                              \
      "Looks at the engine's health, once a period")

#define METERS_RUNTIME_MAP(X)                                                             \
    X(METER_WORKERS, "runtime.num_workers", METRIC_GAUGE, 1, NO_LABELS,                   \
      "Threads that run the service: grpc_threads and the engine")                        \
    X(METER_UTILIZATION, "runtime.worker_utilization", METRIC_GAUGE, METER_US, NO_LABELS, \
      "Share of the last period in which the engine was busy, 0 to 1")                    \
    X(METER_QUEUE_DEPTH, "runtime.global_queue_depth", METRIC_GAUGE, 1, NO_LABELS,        \
      "Events that wait for the engine")

/* Not in the original. */
#define METERS_OWN_MAP(X)                                                                  \
    X(METER_OUTBOX, "outbox.entries", METRIC_GAUGE, 1, NO_LABELS,                          \
      "Messages in the outbox: on their way to another topic, and no rows")                \
    X(METER_PUBLISHING, "publish.in_flight", METRIC_GAUGE, 1, NO_LABELS,                   \
      "Records with the producer, without a delivery report yet")                          \
    X(METER_PUBLISH_FAILURES, "publish.failures", METRIC_COUNTER, 1, NO_LABELS,            \
      "Records that a topic did not take; they are tried again")                           \
    X(METER_PARKED, "tasks.parked", METRIC_GAUGE, 1, NO_LABELS,                            \
      "Failed tasks whose dead letter cannot be published; tried every few minutes")       \
    X(METER_UNCONFIRMED, "tasks.unconfirmed", METRIC_GAUGE, 1, NO_LABELS,                  \
      "At-most-once tasks that wait for the confirmation of their offset")                 \
    X(METER_UNSERVED, "tasks.unserved", METRIC_GAUGE, 1, NO_LABELS,                        \
      "Pending tasks of applications that no worker asks for")                             \
    X(METER_HELD, "claims.held", METRIC_GAUGE, 1, NO_LABELS, "Calls that wait for a task") \
    X(METER_GIVEN_BACK, "claims.given_back", METRIC_COUNTER, 1, NO_LABELS,                 \
      "Tasks back in their place: nobody got them, or their worker gave them back")        \
    X(METER_RETURNED, "claims.returned", METRIC_COUNTER, 1, LABELS("result"),              \
      "Tasks in GiveBack calls, by whether the claim still stood")                         \
    X(METER_REPORTS_IGNORED, "reports.ignored", METRIC_COUNTER, 1, LABELS("reason"),       \
      "Reports that changed nothing, of all calls")                                        \
    X(METER_DROPPED, "intake.dropped", METRIC_COUNTER, 1, LABELS("reason"),                \
      "Messages that became no task and need not")                                         \
    X(METER_BAD_MESSAGES, "intake.dead_lettered", METRIC_COUNTER, 1, NO_LABELS,            \
      "Messages that cannot become a task and went to the dead letter topic")              \
    X(METER_DELAYS_CUT, "intake.delays_cut", METRIC_COUNTER, 1, NO_LABELS,                 \
      "Delays cut to max_delayed_task_allowed_sec")                                        \
    X(METER_ENQUEUED, "enqueue.activations", METRIC_COUNTER, 1, NO_LABELS,                 \
      "Activations that came by Enqueue")                                                  \
    X(METER_COMMITS, "store.commits", METRIC_COUNTER, 1, NO_LABELS, "Transactions")        \
    X(METER_SERIES_LOST, "metrics.overflows", METRIC_COUNTER, 1, NO_LABELS,                \
      "Values counted under the name other because there were too many names")

enum meter {
#define X(id, name, kind, scale, labels, help) id,
    METERS_MAP(X)
#undef X
        METERS
};

struct meters;

struct meters *meters_new(void);
void meters_free(struct meters *meters);
/* For exporters. */
struct metrics *meters_registry(const struct meters *meters);
const struct metric_def *meter_def(enum meter meter);

/* values: one for each label, in the table's order; NULL for a family without. Never NULL, good
 * until meters_free. */
struct metric *meter_series(struct meters *meters, enum meter meter, const struct bytes *values);

#define METER_TAGS(...) ((const struct bytes[]){__VA_ARGS__})

/* Families without labels; asserted, as the kind is. */
void meter_add(struct meters *meters, enum meter meter, uint64_t n);
void meter_set(struct meters *meters, enum meter meter, int64_t value);
void meter_observe(struct meters *meters, enum meter meter, uint64_t value);

static inline void meter_add_tagged(struct meters *meters, enum meter meter,
                                    const struct bytes *values, uint64_t n)
{
    metric_add(meter_series(meters, meter, values), n);
}

/* Recently used series of one family, in the hands of one thread: finds one without a lock. Zeroed
 * before first use. */
#define METER_CACHE_SLOTS 256

struct meter_cache {
    struct metric *slots[METER_CACHE_SLOTS];
};

struct metric *meter_cached(struct meter_cache *cache, struct meters *meters, enum meter meter,
                            const struct bytes *values);

/* For code that runs on the clock of a test or a simulation: what nothing depends on may still be
 * measured, by a clock that is given from outside. NULL: nothing is measured. */
typedef int64_t meter_clock_us(void);

#endif
