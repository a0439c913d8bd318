/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine: one owner of all task state. It joins the pure core, the store, the topics and
 * whoever waits for an answer. It has no thread, socket or clock of its own: events and two
 * readings of the clock go in, replies leave through `struct engine_ports`, records and commits
 * through the topic interfaces. The broker's engine thread (engine_thread.h) drives it, and so does
 * the simulator.
 *
 * One turn (engine_turn): handle events -> advance time -> write every changed row in one
 * transaction -> commit -> only then release replies (INV-7), publish records (INV-8), hand out
 * offset commits (INV-1) and acknowledge revokes (INV-9). Under load a turn grows by itself; when
 * idle it is one commit long.
 *
 * Errors: a store failure is fail-stop (INV-12). engine_turn returns it, nothing of that turn is
 * released, and the engine must not be used again except to be destroyed.
 */
#ifndef TASKMILL_BROKER_ENGINE_H
#define TASKMILL_BROKER_ENGINE_H

#include "base/inbox.h"
#include "base/metrics.h"
#include "broker/gate.h"
#include "broker/intake.h"
#include "broker/meters.h"
#include "broker/runtime.h"
#include "core/inflight.h"
#include "rpc/server.h"
#include "store/store.h"
#include "topic/embedded.h"
#include "topic/topic.h"
#include "wire/consumer.h"

struct engine;

/* --- events ---------------------------------------------------------------------------------- */

enum engine_event_kind {
    /* Calls: the event is the first member of a struct engine_call. */
    EVENT_CLAIM,     /* GetTask */
    EVENT_STATUS,    /* SetTaskStatus */
    EVENT_BATCH,     /* SetBatchActivationStatus */
    EVENT_ENQUEUE,   /* Enqueue */
    EVENT_GIVE_BACK, /* GiveBack */
    /* Events of their own, allocated with engine_event_new and freed by the engine. */
    EVENT_CANCEL,      /* the caller of a held claim is gone */
    EVENT_UNDELIVERED, /* a reply with a task reached nobody */
    EVENT_RECORDS,
    EVENT_ASSIGNED,
    EVENT_REVOKING,
    EVENT_COMMITTED,
    EVENT_ANSWERED,
    EVENT_DELIVERED,
    EVENT_SOURCE_FAILED,
    EVENT_RULES,
    EVENT_DRAIN /* no new claims from now on; held ones are answered */
};

struct engine_event {
    struct inbox_node node;
    enum engine_event_kind kind;
};

/* A request on its way through the engine. Lives in the service's memory (rpc_call_user), belongs
 * to the engine from hand-over until ports->reply. Request slices borrow from the call's body. */
struct engine_call {
    struct engine_event event;
    struct list_node link; /* engine: calls that are owed an answer */
    struct bytes body;
    struct task_filter filter;        /* CLAIM */
    struct set_status_request status; /* STATUS */
    int64_t deadline_ms;              /* CLAIM: boot ms by which the caller wants an answer */
    int64_t started_us;   /* when the request came, on the clock of the meters; 0: not measured */
    struct claim claim;   /* engine: while held */
    size_t awaiting;      /* engine: ENQUEUE with deliveries outstanding */
    bool failed;          /* engine: one of them failed */
    bool held;            /* engine: waits in the core or for deliveries */
    bool replied;         /* engine: ports->reply was called */
    struct blob *granted; /* of a reply with a task: names it in EVENT_UNDELIVERED */
    uint64_t claim_number;
};

struct engine_call_event { /* CANCEL */
    struct engine_event event;
    struct engine_call *call; /* kept alive by its sender until ports->release */
};

struct engine_undelivered { /* UNDELIVERED */
    struct engine_event event;
    struct blob *activation; /* one reference */
    uint64_t claim_number;
};

/* Everything about sources names them by index in engine_options.sources. */
struct engine_records { /* RECORDS */
    struct engine_event event;
    uint32_t source;
    size_t count, next; /* next: engine */
    struct intake_item items[];
};

struct engine_positions { /* ASSIGNED (count >= 1), ANSWERED (one) */
    struct engine_event event;
    uint32_t source;
    int code; /* ANSWERED: 0 or ERR_UNAVAILABLE */
    size_t count;
    struct engine_position {
        struct topic_position position; /* metadata unused; see below */
        char metadata[512];             /* cut metadata does not parse and counts as "no list" */
        size_t metadata_len;
    } positions[];
};

struct engine_partitions { /* REVOKING; COMMITTED (one, next_offset set) */
    struct engine_event event;
    uint32_t source;
    int64_t next_offset;
    size_t count;
    int32_t partitions[];
};

struct engine_delivered { /* DELIVERED */
    struct engine_event event;
    void *opaque;
    enum topic_delivery delivery;
    char why[128];
};

struct engine_source_failed { /* SOURCE_FAILED */
    struct engine_event event;
    uint32_t source;
    int code;
    char why[256];
};

/* RULES: the whole runtime configuration, in place of the one before. It counts for every record
 * taken in later, and for stored rows from this turn on, some in each turn. */
struct engine_rules {
    struct engine_event event;
    struct runtime *runtime; /* one reference; NULL: no rules */
    /* Where tasks of demoted namespaces go; copies of their own (mem_free). */
    bool forwards;         /* false: the target is consumed here, they are kept */
    char *forward_topic;   /* not NULL when forwards */
    char *forward_cluster; /* bootstrap address; NULL: the dead-letter topic's cluster */
};

/* size: sizeof the event's struct plus its flexible array. */
void *engine_event_new(enum engine_event_kind kind, size_t size);

/* Helpers that turn what a topic reports into events; used by the broker's adapters and the
 * simulator. */
struct engine_positions *engine_positions_event(enum engine_event_kind kind, uint32_t source,
                                                const struct topic_position *positions,
                                                size_t count);

/* --- the engine ------------------------------------------------------------------------------ */

struct engine_source_options {
    struct topic_source *source;
    const char *cluster, *topic, *group; /* the name of its rows in taskmill_sources */
    bool embedded;                       /* offsets need no confirmation */
    bool raw;                            /* holds no activations: Enqueue refuses it */
};

struct engine_limits {
    size_t pending_max; /* without tasks of unserved applications (core/served.h) */
    size_t processing_max, delay_warn;
    uint64_t store_max_bytes; /* UINT64_MAX: no limit */
    uint64_t blob_cache_bytes;
    uint32_t blob_cache_item_bytes;   /* larger payloads are never cached [65536] */
    uint32_t turn_events, turn_bytes; /* [4096], [8 MiB] */
    size_t outbox_inflight;           /* outbox records with the producer at once [256] */
    size_t outbox_max;                /* above, intake waits: each is some memory [1000000] */
    size_t enqueue_backlog;           /* embedded: records waiting in the log [100000] */
    size_t done_max;                  /* ids of ended at-most-once tasks [1000000] */
    int64_t done_memory_ms;
};

/* What the engine asks of its surroundings. All called from the thread that runs engine_turn. */
struct engine_ports {
    void *ctx;
    /* The one answer to a call; the engine forgets the call. With a task, call->granted holds a
     * reference to the activation that the receiver drops, and reply->blob is another one. */
    void (*reply)(void *ctx, struct engine_call *call, const struct rpc_reply *reply);
    /* The engine is done with the CANCEL event of this call. */
    void (*release)(void *ctx, struct engine_call *call);
    /* All replies of the turn have been made. */
    void (*flush)(void *ctx);
    /* Another process locks the file; called before each new try (attempt 1, 2, ...). Returns false
     * to give up. Sleeps. */
    bool (*store_busy)(void *ctx, unsigned attempt);
    /* The sink of another cluster than the dead-letter topic's, by its bootstrap address; NULL: not
     * to be had now. It stays the surroundings' and lives as long as the engine. */
    struct topic_sink *(*forward_sink)(void *ctx, const char *cluster);
    /* A source cannot go on. */
    void (*source_failed)(void *ctx, uint32_t source, int code, const char *why);
};

/* What is measured, and nothing else depends on. */
struct engine_meter_options {
    meter_clock_us *clock_us; /* NULL: no times */
    int64_t period_ms;        /* of the upkeep.* metrics [1000] */
    bool store_status;        /* sqlite.db.* */
};

struct engine_options {
    struct inflight_config inflight; /* `due` is the engine's */
    struct engine_limits limits;
    struct intake_limits intake;
    int64_t hold_ms;          /* grpc_long_poll_ms */
    int64_t startup_grace_ms; /* loaded deadlines do not fire within this time after start */
    struct store *store;      /* open, not loaded; stays the caller's */
    const struct engine_source_options *sources;
    size_t source_count;
    struct embedded_log *log; /* NULL: Kafka mode */
    const char *retry_topic, *deadletter_topic;
    struct engine_ports ports;
    struct meters *meters; /* stay the caller's; NULL: the engine counts for itself (tests) */
    struct engine_meter_options meter;
};

/* Loads the store. ERR_* with why; the store's failure text when it failed. Strings are copied. */
int engine_create(struct engine **out, const struct engine_options *options, int64_t boot_ms,
                  int64_t wall_ms, struct err_text *why);
/* Before the first turn: the sink of the retry and dead letter topics' cluster, and the one that
 * Enqueue uses in Kafka mode (may be the same; unused with a log) for every source that gets no
 * other by the second call: that of its own cluster. Only the first one may be an in-thread sink.
 */
void engine_attach_sinks(struct engine *engine, struct topic_sink *sink,
                         struct topic_sink *enqueue_sink);
void engine_attach_enqueue_sink(struct engine *engine, uint32_t source, struct topic_sink *sink);
/* Between turns: a task of this activation, which must parse, as if it had come from the first
 * source at this offset of partition 0, whatever back-pressure says; stored by the next turn.
 * Nothing is done without a source. */
void engine_add_task(struct engine *engine, struct blob *payload, int64_t offset);
/* Every call that is owed an answer gets UNAVAILABLE. Events still queued inside are freed, and so
 * is the chain: what nobody will hand to a turn any more (may be NULL). After the sinks' and
 * sources' last events. */
void engine_destroy(struct engine *engine, struct inbox_node *events);

/* Adapters give these to topic_source start and to sink constructors when source and sink run on
 * the engine's thread (embedded, model). Threaded ones go through the inbox (engine_thread.h). */
void engine_source_events(struct engine *engine, uint32_t source,
                          struct topic_source_events *events);
void engine_sink_delivered(struct engine *engine, void *opaque, enum topic_delivery delivery,
                           const char *why);

/* Storage of the embedded log: in the transaction of the engine's turn. */
void engine_embedded_io(struct store *store, struct embedded_io *io);

/* Handles the chain (may be NULL), in order, over one or several turns; takes ownership of it. One
 * turn per call; engine_next_ms() is boot_ms or earlier while work is left. 0, or a store failure:
 * fail-stop. */
int engine_turn(struct engine *engine, struct inbox_node *events, int64_t boot_ms, int64_t wall_ms);
int64_t engine_next_ms(const struct engine *engine);

/* Events were handed in that no turn has handled yet. */
bool engine_has_backlog(const struct engine *engine);
/* After a failed turn: the line that says what, where and what to do. */
const char *engine_failure(const struct engine *engine);

/* Sources take credit from here (any thread). */
struct gate *engine_gate(struct engine *engine);

/* Why intake stands still; the first that holds, in the original's order. */
#define ENGINE_BLOCK_MAP(X)                 \
    X(BLOCK_NONE, "none")                   \
    X(BLOCK_PROCESSING, "processing_limit") \
    X(BLOCK_SIZE, "db_size_limit")          \
    X(BLOCK_DISK, "disk")                   \
    X(BLOCK_OUTBOX, "outbox_limit")         \
    X(BLOCK_PENDING, "pending_limit")       \
    X(BLOCK_DRAIN, "drain")

enum engine_block {
#define X(name, text) name,
    ENGINE_BLOCK_MAP(X)
#undef X
};
#define ENGINE_BLOCKS 6
const char *engine_block_name(enum engine_block block);

struct engine_stats {
    struct inflight_counts inflight;
    enum engine_block block;
    size_t outbox, publishing;
    size_t rules, demoted_namespaces; /* of the runtime configuration in force */
    bool sweeping;                    /* it is still being applied to stored rows */
    uint64_t turns, commits, events, rows_written;
    uint64_t records, outboxed, expired_at_intake, done_dropped, delays_cut, offsets_back,
        offsets_jumped;
    uint64_t killed_at_intake, forwarded_at_intake, kept_demoted; /* kept: counted as skipped */
    uint64_t enqueued, undelivered, cancelled;
    uint64_t returned, not_returned;   /* entries of GiveBack calls; not: no claim of that number */
    uint64_t log_records, log_waiting; /* embedded: kept; not yet taken in */
    struct store_size store;           /* as last looked at */
    int64_t oldest_pending_ms;         /* age of the oldest claimable task at the last turn */
    int64_t oldest_pending_wall_ms;    /* its received_at; 0: there is none */
    /* From received_at to the reply that hands the task out, ms; first claims, no delayed ones. */
    struct metric_histogram start_latency_ms;
};
/* From the engine's thread. */
void engine_get_stats(const struct engine *engine, struct engine_stats *out);

/* Brings the meters up to date; from the engine's thread, every 100 ms or so while turns are run,
 * and at engine_next_measure_ms() at the latest, when a period of the upkeep.* metrics ends. */
void engine_measure(struct engine *engine, int64_t boot_ms, int64_t wall_ms);
int64_t engine_next_measure_ms(const struct engine *engine);

/* Publishing and deliveries outstanding: 0 when a stop loses nothing but time. */
size_t engine_publishing(const struct engine *engine);

#endif
