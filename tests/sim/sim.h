/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Deterministic simulation: the shipped core, engine turn, store and SQLite (on a disk that
 * crashes, tests/lib/crash_vfs.h), with a model Kafka, model workers and a model clock. Everything
 * that happens follows from one seed. Every third seed is a run without Kafka, with the embedded
 * log.
 *
 *   sim.c           the world's steps, command line, search over seeds, shrinking
 *   sim_kafka.c     topics, one consumer group, offset commits with unknown outcome, rebalances,
 *                   lost sessions, producers with failed and misreported deliveries
 *   sim_embedded.c  a broker with the embedded log, and its producers
 *   sim_node.c      a broker: disk, store, engine; starts, turns, crashes in the middle of a commit
 *   sim_rules.c     killswitches and demotions, and who must be gone by them
 *   sim_worker.c    claims, broken streams, late, repeated and lost reports
 *   sim_check.c     what was promised: a ledger of all messages, checked after each turn and in
 *                   every crash image (INV-1, 2, 4, 5, 6, 7, 11)
 *
 * A run is one process: a violated promise prints one line and ends it.
 */
#ifndef TASKMILL_TESTS_SIM_H
#define TASKMILL_TESTS_SIM_H

#include <stdio.h>

#include "base/list.h"
#include "base/map.h"
#include "broker/engine_int.h"
#include "crash_vfs.h"
#include "wire/ident.h"

#define SIM_NODES        2
#define SIM_PARTITIONS   3
#define SIM_ENQUEUE_MAX  3
#define SIM_MAX_ATTEMPTS 2
#define SIM_GRACE_MS     500
#define SIM_BOOT_START   1000000
#define SIM_WALL_START   1700000000000

/* Classes of trouble; shrinking switches them off one by one. */
enum sim_fault {
    FAULT_CRASH = 1,     /* kill -9 and power cuts, between turns and inside commits */
    FAULT_COMMIT = 2,    /* offset commits that fail, or succeed without saying so */
    FAULT_REBALANCE = 4, /* partitions move between brokers */
    FAULT_SESSION = 8,   /* a broker loses its session and learns of it later */
    FAULT_STREAM = 16,   /* replies that reach nobody, cancelled claims */
    FAULT_REPORT = 32,   /* late, repeated, lost and changed reports */
    FAULT_PRODUCE = 64,  /* deliveries that fail, or succeed without saying so */
    FAULT_GARBAGE = 128, /* messages that are no activations */
    FAULT_RULES = 256,   /* operators change killswitches and demotions (every other seed) */
    FAULT_CLOCK = 512,   /* wall clocks that are set (every third seed) */
    FAULT_RETURN =
        1024, /* workers give tasks back: also late, repeated, with an old claim number */
    FAULT_ALL = 2047
};

struct sim;

/* --- ledger: every message ever produced, and what became of it ------------------------------- */

struct fact {
    struct map_node by_id;
    char id[IDENT_DASHED_LEN + 1];
    bool at_most_once;
    uint8_t on_attempts_exceeded;
    bool second_name, second_namespace;
    uint8_t arg;       /* its one argument */
    uint32_t attempts; /* of its retry_state */
    bool has_expires, has_delay;
    /* Several brokers may publish the same retry at different times: the span over all copies. */
    int64_t expires_first_ms, expires_last_ms, delay_until_ms;
    /* what the world saw */
    unsigned handed;             /* replies with it that a worker received and may have started */
    unsigned granted;            /* replies with it that left a broker */
    bool with_worker[SIM_NODES]; /* left this broker and was not given back */
    bool complete_sent, failure_sent, retry_sent;
    bool complete_acked[SIM_NODES];
    unsigned claimed_at_crash; /* disks after a crash that had it as Processing */
    bool deadlettered, forwarded;
    bool killable;             /* since it was produced, some broker had a rule that kills it */
    bool in_outbox[SIM_NODES]; /* forwarded by this broker, not delivered */
    bool kept, refused;        /* embedded: a broker said so */
    /* scratch of one image check */
    uint64_t stamp, deadletter_stamp, outbox_stamp, long_stamp;
    enum store_status status;
    bool on_disk[SIM_NODES]; /* of a broker that is down */
};

struct garbage {
    int32_t partition;
    int64_t offset;
    bool deadlettered;
    uint64_t stamp;
    bool on_disk[SIM_NODES];
};

/* --- model Kafka ------------------------------------------------------------------------------ */

struct sim_record {
    struct blob *payload; /* NULL: tombstone */
    struct fact *fact;    /* NULL: garbage */
    struct garbage *garbage;
};

struct sim_partition {
    struct sim_record *records;
    size_t count, cap;
    int64_t committed; /* -1: none */
    char metadata[512];
    size_t metadata_len;
    int owner; /* node, or -1 */
};

struct sim_source {
    struct topic_source base;
    struct sim *sim;
    int node;
    struct topic_source_events events;
    bool started, zombie; /* zombie: lost its session, does not know yet */
    struct {
        bool assigned, revoking, assign_due, ask;
        int64_t position;
        int64_t wanted; /* offset to commit; -1: none */
        char metadata[512];
        size_t metadata_len;
    } partitions[SIM_PARTITIONS];
};

struct sim_publication {
    struct list_node link;
    bool to_deadletter, to_long;
    struct blob *payload;
    int32_t partition; /* garbage: its source, from the headers */
    int64_t offset;
    bool garbage;
    void *opaque;
};

struct sim_sink {
    struct topic_sink base;
    struct sim *sim;
    int node;
    struct list open;
};

/* --- nodes and workers ------------------------------------------------------------------------ */

/* The embedded log of a node; `sink` stands between the engine and the log's own. */
struct sim_log {
    struct sim_node *node;
    struct embedded_log *log;
    struct topic_source *source;
    struct topic_sink sink, *inner;
};

struct sim_node {
    struct sim *sim;
    int index;
    struct crash_vfs *disk;
    struct store *store;   /* NULL: down */
    struct engine *engine; /* NULL: down */
    struct sim_source source;
    struct sim_sink sink;
    struct sim_log log; /* embedded runs */
    struct inbox_node *events, **events_tail;
    struct list calls; /* open, of workers */
    /* claims whose reply reached nobody: the next turn must take them back */
    struct sim_undelivered {
        struct fact *fact;
        uint64_t claim;
    } * undelivered;
    size_t undelivered_count, undelivered_cap;
    /* the crash being prepared: at the n-th disk event from now */
    uint64_t crash_in;
    bool crash_at_sync; /* or at the next sync: all of a commit is written, none of it synced */
    enum crash_mode crash_mode;
    struct crash_vfs *crash_image;
    bool checking;
    size_t rule_set;       /* index of the runtime configuration that was posted last */
    unsigned rule_sets;    /* bits: it, and those that may still be in force */
    int64_t wall_error_ms; /* its wall clock minus the world's */
};

enum sim_verdict { VERDICT_COMPLETE, VERDICT_FAILURE, VERDICT_RETRY };

struct sim_call {
    struct engine_call call;
    struct list_node link;
    struct sim_node *node;
    struct buf body;
    struct fact *reported;                  /* STATUS */
    struct fact *enqueued[SIM_ENQUEUE_MAX]; /* ENQUEUE */
    size_t enqueued_count;
    struct fact *returned; /* GIVE_BACK */
    bool repeated;         /* it was given back under this claim before */
    enum sim_verdict verdict;
    unsigned releases; /* cancel events on their way */
    bool answered;
};

/* A task that a worker runs, and the report it will make; or one that it gives back unstarted. */
struct sim_job {
    struct list_node link;
    struct fact *fact;
    int node;
    int64_t due_ms;
    uint64_t claim; /* 0: the worker did not ask */
    bool gives_back, gave_back;
    enum sim_verdict verdict;
    unsigned repeats;
};

struct sim_result { /* shared with the parent process */
    uint64_t images, crashes, turns, steps, messages, handed;
    char violation[512];
};

struct sim {
    uint64_t seed, rng;
    unsigned faults;
    uint64_t steps;
    int64_t boot_ms, wall_ms;
    int64_t error_low_ms, error_high_ms; /* of all wall clocks so far; 0 is between them */
    struct sim_partition tasks[SIM_PARTITIONS];
    struct sim_node nodes[SIM_NODES];
    int node_count; /* in use */
    bool embedded;
    bool rules; /* operators change them */
    struct list jobs;
    struct map facts;
    struct garbage **garbage;
    size_t garbage_count, garbage_cap;
    uint64_t next_id, stamp;
    int again;  /* node that a power cut hits soon after its restart, or -1 */
    bool quiet; /* the end: no more trouble */
    bool trace; /* say on stderr what happens */
    unsigned image_percent;
    struct sim_result *result;
};

/* sim.c */
uint64_t sim_next(struct sim *sim);
uint64_t sim_below(struct sim *sim, uint64_t limit);
bool sim_chance(struct sim *sim, unsigned percent);
/* True with that chance, while this class of trouble is on. */
bool sim_trouble(struct sim *sim, enum sim_fault fault, unsigned percent);
/* One line on stderr, with --trace. */
void sim_trace(const struct sim *sim, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void sim_violation(struct sim *sim, const char *fmt, ...)
    __attribute__((format(printf, 2, 3), noreturn));

/* sim_kafka.c */
void sim_kafka_init(struct sim *sim);
/* A new task, or garbage, at the end of a random partition. */
void sim_kafka_produce(struct sim *sim);
void sim_kafka_produce_garbage(struct sim *sim);
/* What producers send; the id is written to `id`, which the result borrows. */
struct activation sim_kafka_activation(struct sim *sim, char id[]);
void sim_kafka_append(struct sim *sim, struct blob *payload, struct fact *fact,
                      struct garbage *garbage);
void sim_source_init(struct sim_source *source, struct sim *sim, int node);
void sim_sink_init(struct sim_sink *sink, struct sim *sim, int node);
/* The client is gone with its process: records on their way may or may not have arrived. */
void sim_sink_abandon(struct sim_sink *sink);
void sim_kafka_leave(struct sim *sim, int node);
void sim_kafka_rebalance(struct sim *sim);
void sim_kafka_lose_session(struct sim *sim, int node);

/* sim_embedded.c */
/* Before the engine is created: the source of its log. */
struct topic_source *sim_embedded_open(struct sim_node *node);
void sim_embedded_start(struct sim_node *node);
/* Before and after the engine is destroyed. */
void sim_embedded_close_topics(struct sim_node *node);
void sim_embedded_close(struct sim_node *node);
void sim_embedded_enqueue(struct sim_node *node);
void sim_embedded_answered(struct sim_call *call, enum grpc_status status);
/* Marks what the log of an image holds, after its rows. */
void sim_embedded_note_log(struct sim *sim, struct store *store, uint64_t stamp);
void sim_embedded_check(struct sim *sim, uint64_t stamp);

/* sim_node.c */
void sim_node_init(struct sim_node *node, struct sim *sim, int index);
void sim_node_start(struct sim_node *node);
/* Hands the waiting events to a turn; the node may be down after it. */
void sim_node_turn(struct sim_node *node);
void sim_node_post(struct sim_node *node, struct engine_event *event);
/* kill -9 when the next commit is written and not yet synced. */
void sim_node_kill_at_sync(struct sim_node *node);
/* Now (in == 0) or at the in-th disk event of the next turns. */
void sim_node_crash(struct sim_node *node, enum crash_mode mode, uint64_t in);
void sim_node_stop(struct sim_node *node);
void sim_node_free(struct sim_node *node);

/* sim_rules.c */
void sim_rules_change(struct sim_node *node);
/* At a start: what was posted last. */
void sim_rules_post(struct sim_node *node);
/* Notes whether some broker's rules kill it. */
void sim_rules_see(const struct sim *sim, struct fact *fact);
/* After a turn: which rules are in force, who must be gone by them, what its outbox holds. */
void sim_rules_check(struct sim_node *node);

/* sim_worker.c */
struct sim_call *sim_worker_call(struct sim_node *node, enum engine_event_kind kind);
void sim_worker_claim(struct sim_node *node);
void sim_worker_cancel(struct sim_node *node);

/* sim_clock.c: sets the wall clock of a running broker and checks that nothing moves by it. */
void sim_clock_set(struct sim_node *node);
void sim_worker_report_due(struct sim *sim);
void sim_worker_reply(void *ctx, struct engine_call *call, const struct rpc_reply *reply);
void sim_worker_release(void *ctx, struct engine_call *call);
void sim_worker_drop_calls(struct sim_node *node);

/* sim_check.c */
struct fact *sim_fact(const struct sim *sim, struct bytes id);
/* A message with this activation arrived in the topic: finds or makes its fact. */
struct fact *sim_fact_arrived(struct sim *sim, const struct activation *activation);
/* A task has arrived in the topic of demoted ones. */
void sim_forwarded(struct sim *sim, struct fact *fact);
struct garbage *sim_garbage_at(const struct sim *sim, int32_t partition, int64_t offset);
/* INV-3: whether an ending explains that no broker has it. */
bool sim_check_may_be_gone(const struct sim *sim, const struct fact *fact);
/* Takes an image of the node's disk and checks it; returns nothing but the truth. */
void sim_check_image(struct sim_node *node, enum crash_mode mode);
/* Notes what the disk of a node that went down holds. */
void sim_check_note_disk(struct sim_node *node);
/* The end of a quiet run. True when nothing is left to do. */
bool sim_check_settled(const struct sim *sim);
void sim_check_final(struct sim *sim);

#endif
