/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inflight table: all live tasks, who may have them next, and what time does to them. PURE:
 * events and a time go in, effects come out; no I/O, no clock, no randomness. One thread owns an
 * inflight.
 *
 * A turn, as its owner (the engine, or the simulator) runs it:
 *   1. feed events (inflight_add, _claim, _report, _published, ...) and inflight_advance(now) once;
 *   2. write every changed task in one transaction (inflight_next_change; INV-2, INV-7);
 *   3. commit; then inflight_committed();
 *   4. carry out the effects in order (inflight_effects), then inflight_effects_done().
 * `now_ms` never goes back. Functions that take `now_ms` treat anything due at or before it as due
 * when they look at a task, also before inflight_advance has reached it.
 *
 * Order: first come, first served by rowid among claimable tasks that match the filter; a task that
 * comes back (missed deadline, undelivered claim) keeps its rowid and thus its place. Among held
 * claims that match a task the newest wins.
 *
 * Cost: O(log n) per event, O(1) in the usual case; nothing scans tasks, except where said.
 */
#ifndef TASKMILL_CORE_INFLIGHT_H
#define TASKMILL_CORE_INFLIGHT_H

#include "base/err.h"
#include "core/task.h"

struct inflight;

struct inflight_config {
    uint64_t seed[2]; /* of the hash maps */
    /* Claims are numbered from here on. To be different in each run of a broker, so that a number
     * from before a restart names no claim of later; the highest bit does not count. */
    uint64_t claims_from;
    uint32_t max_processing_attempts; /* missed deadlines before FAILURE; 0 behaves as 1 */
    int64_t grace_ms;                 /* added to every deadline */
    int64_t publish_backoff_ms;       /* first wait after a failed publish, doubling [100] */
    int64_t publish_backoff_max_ms;   /* [30000] */
    int64_t parked_retry_ms;          /* [300000] */
    int64_t unserved_after_ms; /* core/served.h; 0: tasks of every application count [60000] */
    uint32_t claims_max;       /* held at once; above: answered at once [100000] */
    /* Told what kind of timer fires next, for whoever measures how long that takes: the task's
     * state, or -1 for the end of a hold. May be NULL. Must not touch the table. */
    void (*due)(void *ctx, int state);
    void *due_ctx;
    uint32_t queues_max; /* applications and namespaces that only held claims know; above, and for
                            names over 512 bytes: answered at once [10000] */
};

struct inflight *inflight_new(const struct inflight_config *config);
void inflight_free(struct inflight *inflight);

/* --- tasks in -------------------------------------------------------------------------------- */

/* Everything intake or load knows of a task. Slices are copied. */
struct task_spec {
    struct bytes id, application, namespace,
        taskname; /* each at most UINT16_MAX bytes (asserted) */
    int64_t rowid;
    struct task_origin origin;
    int64_t received_at_wall_ms, added_at_wall_ms;
    int64_t expires_at_ms;  /* or CLOCK_NEVER */
    int64_t delay_until_ms; /* at or before now: none */
    int64_t duration_ms;
    bool at_most_once;
    bool confirmed; /* at most once: claimable at once (embedded log, rows below the confirmed
                       offset) */
    uint8_t on_attempts_exceeded;
    struct blob *blob; /* one reference is taken over on success; may be NULL */
    uint32_t payload_len;
};

/* A new activation. 0 and *task; ERR_EXISTS: a live task has this id (nothing is owed: INV-2 is
 * kept by the first one). A task that has expired already is the caller's to drop (it knows before
 * asking). */
int inflight_add(struct inflight *inflight, const struct task_spec *spec, int64_t now_ms,
                 struct task **task);

/* A row of the file at start. state is the row's; due_ms its delay end or deadline, clamped by the
 * caller (INV-14); attempts its processing_attempts. Same result as inflight_add. bad_row: parked
 * as FAILURE. */
struct task_load {
    struct task_spec spec;
    enum task_state state;
    int64_t due_ms;
    uint32_t attempts;
    bool legacy, bad_row;
};
int inflight_load(struct inflight *inflight, const struct task_load *load, int64_t now_ms,
                  struct task **task);

/* NULL when no live task has this id. */
struct task *inflight_find(const struct inflight *inflight, struct bytes id);

/* --- claims ---------------------------------------------------------------------------------- */

struct claim_filter {
    bool has_application, has_namespace; /* a namespace without application matches nothing */
    struct bytes application, namespace;
};

/* A held claim lives in its owner's memory; zeroed before first use. */
struct claim {
    struct list_node link;
    struct heap_node timer;
    struct claim_queue *queue; /* NULL: not held */
    uint64_t seq;
    size_t effect; /* 1 + index of its effect in this turn; 0: none */
};

/* Takes the first matching task: it is PROCESSING now, *task is set, and the reply may leave after
 * the next commit. Without one: *task is NULL and, when hold_until_ms > now_ms and limits allow,
 * the claim is held (claim->queue is set) until EFFECT_GRANT, EFFECT_NONE or inflight_cancel.
 * `claim` may be NULL with hold_until_ms 0. */
void inflight_claim(struct inflight *inflight, struct claim *claim,
                    const struct claim_filter *filter, int64_t hold_until_ms, int64_t now_ms,
                    struct task **task);
/* Forgets a held claim without an effect; does nothing when it is not held. When this turn has an
 * answer for it already, the answer is undone: a granted task goes back to its place. */
void inflight_cancel(struct inflight *inflight, struct claim *claim);
/* Ends all holds now with EFFECT_NONE (drain). */
void inflight_release_claims(struct inflight *inflight);
/* Claim number `claim` of this id is over without anybody having started the task (the reply
 * reached nobody, or its worker gives it back): back to its place, at-most-once too, and it costs
 * no attempt. Ignored (false) when the task has moved on since, also to another claim: the number
 * is what keeps a late or repeated word from taking the task away from who has it now (INV-4). */
bool inflight_give_back(struct inflight *inflight, struct bytes id, uint64_t claim, int64_t now_ms);

/* --- reports (INV-6) ------------------------------------------------------------------------- */

enum report_status { REPORT_COMPLETE, REPORT_RETRY, REPORT_FAILURE };

#define REPORT_RESULT_MAP(X)                               \
    X(REPORT_APPLIED, "applied")                           \
    X(REPORT_UNKNOWN_ID, "unknown id")                     \
    X(REPORT_NOT_CLAIMED, "not claimed (deadline missed)") \
    X(REPORT_ENDING, "already ending")

enum report_result {
#define X(name, text) name,
    REPORT_RESULT_MAP(X)
#undef X
};
#define REPORT_RESULTS 4
const char *report_result_name(enum report_result result);

enum report_result inflight_report(struct inflight *inflight, struct bytes id,
                                   enum report_status status, const struct task_rewrite *rewrite,
                                   int64_t now_ms);

/* --- publishing (INV-8) ---------------------------------------------------------------------- */

enum publish_kind {
    PUBLISH_RETRY,
    PUBLISH_DEADLETTER,
    PUBLISH_NOTICE /* a dead letter that cannot be sent whole: without payload; the row stays parked
                    */
};

enum publish_outcome { PUBLISH_DELIVERED, PUBLISH_FAILED, PUBLISH_IMPOSSIBLE };

/* The fate of the record that an EFFECT_PUBLISH of this task asked for (the task is live until
 * then). DELIVERED ends the task (a notice parks it); FAILED asks again after a back-off;
 * IMPOSSIBLE turns a retry into a dead letter, a dead letter into a notice, and parks after a
 * notice. */
void inflight_published(struct inflight *inflight, struct task *task, enum publish_kind kind,
                        enum publish_outcome outcome, int64_t now_ms);

/* --- at most once (INV-4) -------------------------------------------------------------------- */

/* Tasks that wait for the confirmation of their offset, in no order; the callback may call
 * inflight_confirm or inflight_refuse for the task it is given. Scans the waiting tasks of all
 * partitions. */
void inflight_each_unconfirmed(struct inflight *inflight,
                               void (*each)(void *ctx, struct task *task), void *ctx);
size_t inflight_unconfirmed(const struct inflight *inflight);
void inflight_confirm(struct inflight *inflight, struct task *task, int64_t now_ms);
/* foreign: another store has it, our copy is dropped; else it fails with FAILURE_OWNER_UNKNOWN. */
void inflight_refuse(struct inflight *inflight, struct task *task, bool foreign, int64_t now_ms);

/* --- from outside: killswitch, demotion ------------------------------------------------------ */

/* Every live task once, in order of arrival, a few at a time: anything may happen to tasks between
 * two steps; one that is added meanwhile may be seen too. One walk at a time; starting begins a new
 * one. NULL: the end. */
void inflight_walk_start(struct inflight *inflight);
struct task *inflight_walk_next(struct inflight *inflight);

/* Tasks of which `barred` is true are given to no worker: PENDING and DELAY ones are gathered
 * instead, for inflight_forward. It is asked when a task may become claimable; about those that are
 * there already ask by inflight_reconsider, in a walk. It must give the same answer until it is set
 * anew. NULL: none is barred. */
typedef bool inflight_bar_fn(void *ctx, const struct task *task);
void inflight_set_bar(struct inflight *inflight, inflight_bar_fn *barred, void *ctx);
void inflight_reconsider(struct inflight *inflight, struct task *task, int64_t now_ms);
/* The first of those gathered; NULL: none. */
struct task *inflight_first_barred(const struct inflight *inflight);

/* Ends it: its activation leaves by another way, which must be durable with the same commit.
 * PENDING and DELAY only. */
void inflight_forward(struct inflight *inflight, struct task *task, int64_t now_ms);
/* Ends it in whatever state; not while its record is with the producer (task->handed). */
void inflight_kill(struct inflight *inflight, struct task *task, int64_t now_ms);

/* --- time ------------------------------------------------------------------------------------ */

/* Fires everything due at or before now_ms, at most `max` tasks (0: all); true when more is due. */
bool inflight_advance(struct inflight *inflight, int64_t now_ms, size_t max);
/* When inflight_advance has something to do next; CLOCK_NEVER: no timer. */
int64_t inflight_next_ms(const struct inflight *inflight);

/* --- what came out --------------------------------------------------------------------------- */

/*
 * Changed tasks, each once, whatever happened to it in this turn. Start with NULL. The writer
 * derives the row effect:
 *
 *                         !stored                              stored
 *   end == TASK_LIVE      insert                               update
 *   end != TASK_LIVE      nothing: came and went in one turn   delete
 */
struct task *inflight_next_change(const struct inflight *inflight, const struct task *after);
size_t inflight_change_count(const struct inflight *inflight);

/* Whether the claim of this number still has the task. A claim that was answered at once must be
 * asked again after the commit, before its reply leaves: a report of the same turn may have ended
 * the task. */
static inline bool inflight_claim_stands(const struct task *task, uint64_t claim)
{
    return task->end == TASK_LIVE && task->state == TASK_PROCESSING && task->claim == claim;
}

enum effect_kind {
    EFFECT_GRANT,  /* held claim gets task; its claim stands */
    EFFECT_NONE,   /* held claim ends without a task */
    EFFECT_PUBLISH /* task's record goes to the retry or dead letter topic; answer:
                      inflight_published */
};

struct effect {
    enum effect_kind kind;
    enum publish_kind publish;
    struct claim *claim;
    struct task *task;
    uint64_t claim_number; /* of the grant: for inflight_give_back */
};

/* The transaction is durable: stored flags are set, the effects are let go, publishes count as
 * handed. Ended tasks stay readable until effects_done. */
void inflight_committed(struct inflight *inflight);
/* What the last commit let go, in order; valid until inflight_effects_done. Events may be fed
 * meanwhile: what comes of them belongs to the next turn. EFFECT_PUBLISH of a task that ended in
 * the same turn is never here; a grant whose claim no longer stands has become EFFECT_NONE. */
const struct effect *inflight_effects(const struct inflight *inflight, size_t *count);
/* Forgets the effects, frees ended tasks. */
void inflight_effects_done(struct inflight *inflight);

/* --- numbers --------------------------------------------------------------------------------- */

struct inflight_counts {
    size_t tasks;
    size_t by_state[TASK_STATES];
    size_t unconfirmed, parked, held_claims;
    size_t unserved_applications, unserved_pending; /* core/served.h */
    uint64_t payload_bytes_cached;
    /* since start */
    uint64_t added, duplicates, claimed, given_back, completed, retried, deadlettered, discarded,
        expired, foreign, killed, forwarded, deadlines_missed, attempts_exceeded, delays_elapsed,
        publish_failures;
    uint64_t reports[REPORT_RESULTS];
};
void inflight_get_counts(const struct inflight *inflight, struct inflight_counts *out);
/* PENDING tasks that count toward the limit of intake: without those of unserved applications
 * (core/served.h). */
size_t inflight_pending_served(const struct inflight *inflight, int64_t now_ms);
/* The application that has been unserved for longest, with the number of its PENDING tasks; 0:
 * there is none. The name is valid until the next event. */
struct bytes inflight_first_unserved(const struct inflight *inflight, size_t *pending);
/* For the engine's blob cache: sets or drops the cached payload and keeps the byte count. Takes
 * over one reference; NULL drops. */
void inflight_set_blob(struct inflight *inflight, struct task *task, struct blob *blob);
/* Oldest arrival among claimable tasks; NULL: none. */
const struct task *inflight_oldest_ready(const struct inflight *inflight);

/* Walks all invariants of the structure (heaps, maps, counters); O(n); for tests: aborts on a
 * fault. */
void inflight_check(const struct inflight *inflight);

#endif
