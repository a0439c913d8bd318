/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine's inside, shared by its files and by nobody else:
 *   engine.c          creation, the turn, numbers
 *   engine_load.c     rows of the file -> core
 *   engine_write.c    changed tasks -> one transaction
 *   engine_meter.c    what it counts
 *   engine_calls.c    claims, reports, Enqueue, GiveBack, replies
 *   engine_sources.c  records, assignments, commits, at-most-once ownership
 *   engine_rules.c    killswitch and demotion, at intake and over stored rows
 *   publisher.c       retry, dead letter and outbox records on their way to a topic
 */
#ifndef TASKMILL_BROKER_ENGINE_INT_H
#define TASKMILL_BROKER_ENGINE_INT_H

#include "broker/engine.h"
#include "core/done.h"
#include "core/offsets.h"

#define ENGINE_TARGET       "taskmill::engine"
#define ASK_INTERVAL_MS     1000
#define SIZE_INTERVAL_MS    200
#define WARNING_INTERVAL_MS 30000
/* Both clocks are read in whole milliseconds, so a wall time that is translated to boot time may
 * come out early by less than this. A delay, which must not end early, gets it added. */
#define TRANSLATED_EARLY_MS 1

/* Conditions that may hold for thousands of tasks: each is told at most every 30 s. */
enum engine_warning {
    WARNING_FULL,
    WARNING_DELAYED,
    WARNING_UNSERVED,
    WARNING_DELAY_CUT,
    WARNING_BAD_MESSAGE,
    WARNING_OWNER,
    WARNING_ORPHANS,
    WARNING_REWRITE,
    WARNING_PUBLISH,
    WARNING_OUTBOX,
    WARNING_KEPT,
    WARNINGS
};

/* What a turn took in of one topic. */
struct batch_meter {
    uint64_t rows, bytes, stored, forwarded;
    int64_t oldest_ms; /* received_at of the stored ones */
    uint64_t matched;  /* against the killswitch, and how long that took */
    int64_t match_us;
};

struct source_meter {
    struct metric *partitions, *assigned, *revoked, *expired, *stored, *write_failed;
    struct metric *batch_rows, *batch_bytes, *write_time, *insert_lag;
    struct metric *backpressure[ENGINE_BLOCKS];
    struct batch_meter turn;
    struct meter_cache sizes[2]; /* of messages that the engine's own thread reads */
};

struct engine_source {
    struct topic_source *source;
    struct source_meter meter;
    int64_t number; /* in taskmill_sources */
    bool embedded, raw;
    char *cluster, *topic;
    struct topic_sink *enqueue_sink; /* Kafka mode: of its cluster */
};

/* Context of the events of a source that runs on the engine's own thread. */
struct inline_source {
    struct engine *engine;
    uint32_t index;
};

/* A reply that leaves after the commit. */
struct reply {
    struct engine_call *call;
    struct task *task; /* NULL: none */
    uint64_t claim_number;
    enum grpc_status status;
    const char *message; /* constant text or NULL */
    struct blob *body;   /* the response of Enqueue and GiveBack */
};

/* A message that must reach a topic and is no row (table taskmill_outbox): a dead letter of intake,
 * which says why in its headers, or a forwarded activation, which has none. */
struct outbox_entry {
    struct heap_node due; /* while not with the producer */
    struct list_node link;
    int64_t entry;
    char *topic;
    char *cluster;                /* bootstrap address; NULL: that of the dead-letter topic */
    struct topic_header *headers; /* one allocation, values behind the array */
    size_t header_count;
    struct blob *payload; /* until first published, while few wait; else read back */
    uint32_t failures;
    bool notice;    /* goes without payload: the broker refused it as too large */
    bool delivered; /* leaves with the next commit */
    bool fresh;     /* not in the file yet */
};

enum publication_kind { PUBLICATION_TASK, PUBLICATION_OUTBOX, PUBLICATION_ENQUEUE };

/* The opaque of one record with a sink. */
struct publication {
    enum publication_kind kind;
    struct task *task;
    enum publish_kind publish;
    struct outbox_entry *entry;
    struct engine_call *call;
};

/* Kinds of work that time is charged to; all but the first are upkeep. */
enum engine_work {
    WORK_OTHER,
    WORK_RETRIES,
    WORK_DEADLINES,
    WORK_EXPIRY,
    WORK_DELAYS,
    WORK_FAILED,
    WORK_COMPLETED,
    WORK_KILLED,
    WORK_FORWARDS,
    WORKS
};

#define REPORT_STATUSES 3
enum report_outcome { OUTCOME_OK, OUTCOME_NOT_FOUND, OUTCOME_IGNORED, OUTCOMES };

/* What became of a SetBatchActivationStatus, by enum report_status. */
struct report_batch {
    struct engine *engine;
    size_t counts[REPORT_STATUSES], applied[REPORT_STATUSES];
};

struct engine_meter {
    struct engine_meter_options options;
    struct metric *reports[OUTCOMES][REPORT_STATUSES];
    struct meter_cache latencies;
    /* copied to the meters so far */
    struct inflight_counts counts;
    struct engine_stats stats;
    uint64_t series_lost;
    /* times, by the clock of the options */
    enum engine_work work;
    int64_t since_us; /* when that began */
    int64_t turn_us, write_us, reply_us;
    int64_t period_us;
    uint64_t spent_us[WORKS], busy_us; /* in this period */
    int64_t next_period_ms;
};

struct partition_ref {
    uint32_t source;
    int32_t partition;
};

/* Below this offset every row of the partition is confirmed for this store. */
struct confirmed {
    struct store_confirmed value;
    bool changed; /* since the file has it */
};

struct engine {
    struct engine_limits limits;
    struct intake_limits intake;
    int64_t hold_ms, startup_grace_ms, grace_ms;
    int64_t publish_backoff_ms, publish_backoff_max_ms, parked_retry_ms;
    struct engine_ports ports;
    struct meters *meters, *own_meters; /* own: NULL when they are the caller's */
    struct engine_meter meter;
    char *retry_topic, *deadletter_topic;
    struct store *store;
    struct embedded_log *log;
    struct topic_sink *sink;
    struct engine_source *sources;
    struct inline_source *inline_sources; /* as many */
    size_t source_count;

    struct inflight *inflight;
    struct offsets *offsets;
    struct done *done;
    struct gate gate;

    /* the clock of this turn */
    int64_t now_ms, wall_ms;

    struct list calls; /* not answered yet */

    /* events not yet handled */
    struct inbox_node *backlog, **backlog_tail;
    size_t turn_rows, turn_bytes;
    bool more_due; /* timers were cut short */

    /* collected in this turn */
    struct reply *replies;
    size_t reply_count, reply_cap;
    struct partition_ref *revokes;
    size_t revoke_count, revoke_cap;
    struct task **uncache;
    size_t uncache_count, uncache_cap;
    struct buf done_dropped; /* ids to delete: 32-bit length, bytes */
    struct buf scratch;
    bool settle; /* look at the unconfirmed tasks */

    struct confirmed *confirmed;
    size_t confirmed_count, confirmed_cap;

    /* runtime configuration */
    struct runtime *rules; /* NULL: none */
    bool forwards;
    char *forward_topic, *forward_cluster;
    bool sweeping;    /* a walk over the stored rows is under way */
    bool sweep_again; /* and another one must follow it */

    /* outbox */
    struct list outbox_new, outbox_gone,
        outbox; /* not in the file; to delete; waiting or in flight */
    struct heap outbox_due;
    size_t outbox_inflight;
    int64_t next_outbox;

    int64_t next_rowid;
    int64_t next_ask_ms, next_size_ms;
    struct store_size size;
    uint64_t unmeasured_bytes; /* of payloads committed since */
    enum engine_block block;
    struct {
        int64_t next_ms;
        uint64_t unsaid;
    } warnings[WARNINGS];
    bool draining;
    int failed;
    size_t publishing;
    struct engine_stats stats;
};

/* engine.c */
int64_t engine_boot_of_wall(const struct engine *engine, int64_t wall_ms);
int64_t engine_wall_of_boot(const struct engine *engine, int64_t boot_ms);
void engine_defer(struct engine *engine, struct engine_event *event);
/* True when it may be said now; *unsaid: how often it was not since. */
bool engine_may_warn(struct engine *engine, enum engine_warning which, uint64_t *unsaid);
/* Whether a store operation with this result is to be repeated, after a wait: another process locks
 * the file. attempts: 0 at first. */
bool engine_try_again(struct engine *engine, int rc, unsigned *attempts);

/* engine_load.c */
int engine_load(struct engine *engine, struct err_text *why);
/* The partition's entry; NULL: none. */
struct confirmed *engine_find_confirmed(const struct engine *engine, int64_t source,
                                        int64_t partition);
struct confirmed *engine_add_confirmed(struct engine *engine, int64_t source, int64_t partition);

/* engine_write.c: opens the transaction when there is something to write. */
int engine_write(struct engine *engine);
int engine_begin(struct engine *engine);
/* The payload of a live task: one reference in *out. */
int engine_payload(struct engine *engine, struct task *task, struct blob **out);

/* engine_calls.c */
void engine_on_claim(struct engine *engine, struct engine_call *call);
void engine_on_status(struct engine *engine, struct engine_call *call);
void engine_on_batch(struct engine *engine, struct engine_call *call);
int engine_on_enqueue(struct engine *engine, struct engine_call *call);
void engine_on_give_back(struct engine *engine, struct engine_call *call);
void engine_on_cancel(struct engine *engine, struct engine_call_event *event);
void engine_on_undelivered(struct engine *engine, struct engine_undelivered *event);
void engine_enqueue_delivered(struct engine *engine, struct engine_call *call, bool ok);
struct reply *engine_add_reply(struct engine *engine, struct engine_call *call);
/* Sends everything collected; store failures while reading payloads are fail-stop. */
int engine_release_replies(struct engine *engine);
/* The end: whoever still waits is told so. */
void engine_refuse_calls(struct engine *engine);

/* engine_sources.c */
void engine_on_records(struct engine *engine, struct engine_records *records);
void engine_on_assigned(struct engine *engine, const struct engine_positions *event);
void engine_on_revoking(struct engine *engine, const struct engine_partitions *event);
void engine_on_committed(struct engine *engine, const struct engine_partitions *event);
void engine_on_answered(struct engine *engine, const struct engine_positions *event);
void engine_settle(struct engine *engine);
void engine_ask(struct engine *engine);
void engine_hand_out_commits(struct engine *engine);
void engine_finish_revokes(struct engine *engine);

/* engine_rules.c */
void engine_on_rules(struct engine *engine, struct engine_rules *event);
/* True when a rule drops the record. */
bool engine_kills(struct engine *engine, uint32_t source, const struct intake_item *item);
/* True when it was put into the outbox instead of becoming a row. */
bool engine_forwards(struct engine *engine, uint32_t source, const struct intake_item *item);
/* A record of this task is back from the producer, undelivered: a rule may have waited for it. */
void engine_rules_look_again(struct engine *engine, const struct task *task);
/* A slice of what the rules do to stored rows; before engine_write. */
int engine_sweep(struct engine *engine);
bool engine_sweep_is_due(const struct engine *engine);
void engine_rules_free(struct engine *engine);

/* engine_meter.c */
void engine_meter_init(struct engine *engine, const struct engine_options *options);
int64_t engine_meter_now_us(const struct engine *engine);
/* From here to the next call time is charged to this kind of work; returns the one before. */
enum engine_work engine_begin_work(struct engine *engine, enum engine_work work);
/* What writing this changed task is. */
enum engine_work engine_work_of(const struct task *task);
void engine_meter_due(void *ctx, int state); /* inflight_config.due */
void engine_meter_turn_begin(struct engine *engine);
void engine_meter_turn_end(struct engine *engine, enum engine_block block_before);
/* The turn's rows are durable, or (rc) the write failed. Since meter.write_us. */
void engine_meter_wrote(struct engine *engine, int rc);
void engine_meter_maintained(struct engine *engine);
void engine_meter_took(struct engine *engine, uint32_t source, const struct intake_item *item);
void engine_meter_stored(struct engine *engine, uint32_t source, const struct intake_item *item);
void engine_meter_report(struct engine *engine, enum report_status status,
                         enum report_result result);
void engine_meter_batch(struct engine *engine, const struct report_batch *batch);
/* At meter.reply_us. */
void engine_meter_reply(struct engine *engine, const struct engine_call *call, bool with_task);
void engine_meter_latency(struct engine *engine, const struct task *task, uint64_t latency_ms);

/* publisher.c */
int publisher_release(struct engine *engine); /* effects and due outbox entries, after the commit */
void publisher_delivered(struct engine *engine, struct publication *publication,
                         enum topic_delivery delivery, const char *why);
void publisher_outbox_add(struct engine *engine, uint32_t source, const struct intake_item *item);
/* An activation to another topic, byte for byte. Takes a reference of its own. */
void publisher_forward(struct engine *engine, struct blob *payload);
void publisher_outbox_load(struct engine *engine, const struct store_outbox *entry);
int publisher_write(struct engine *engine); /* outbox rows, inside the transaction */
void publisher_committed(struct engine *engine);
int64_t publisher_next_ms(const struct engine *engine);
void publisher_free(struct engine *engine);

#define GROW(array, count, cap)                                      \
    do {                                                             \
        if ((count) == (cap)) {                                      \
            (cap) = (cap) ? (cap)*2 : 64;                            \
            (array) = mem_realloc((array), (cap) * sizeof *(array)); \
        }                                                            \
    } while (0)

#endif
