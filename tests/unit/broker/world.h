/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the tests of the engine share: a world in which a test says when everything happens. The
 * core and the store are the real ones, the file is on a disk that can fail and crash
 * (tests/lib/crash_vfs.h); the topic source and sink are scripted here, replies are written down.
 * Time stands still until the test moves it.
 */
#ifndef TESTS_UNIT_BROKER_WORLD_H
#define TESTS_UNIT_BROKER_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "broker/engine_int.h"
#include "crash_vfs.h"

#define BOOT0 1000000
#define WALL0 1700000000000
#define GRACE 3000
#define HOLD  5000

struct test_call {
    struct engine_call call;
    struct buf body;
    bool replied, released;
    enum grpc_status status;
    char message[128];
    char id[64];       /* of the task it got; "" if none */
    struct buf answer; /* the reply's blob */
    uint64_t commits;  /* of the engine when the reply left */
};

struct test_commit {
    int32_t partition;
    int64_t next_offset;
    bool urgent;
    char metadata[512];
    uint64_t commits;
};

struct test_record {
    char topic[32];
    char cluster[32]; /* "": the one of the dead-letter topic */
    struct buf payload;
    char headers[512]; /* "key=value;" each */
    void *opaque;
    uint64_t commits;
};

#define WORLD_CALLS   64
#define WORLD_RECORDS 64

struct world {
    struct crash_vfs *disk;
    struct store *store;
    struct engine *engine;
    struct embedded_log *log; /* embedded worlds only */
    struct engine_options options;
    struct engine_source_options source_options;
    int64_t now_ms, wall_ms;
    struct inbox_node *events, **events_tail;
    struct test_call calls[WORLD_CALLS];
    size_t call_count;

    struct topic_source source;       /* scripted */
    struct topic_source *used_source; /* this one, or the embedded log's */
    struct test_commit commits[WORLD_RECORDS];
    size_t commit_count, ask_count, wake_count, revoke_done_count;
    int32_t asked, revoked;

    struct topic_sink sink;
    struct topic_sink *used_sink;
    struct test_record records[WORLD_RECORDS];
    size_t record_count;
    struct topic_sink forward_sink; /* of every other cluster */
    char forward_cluster[32];       /* that it was last asked for */
    bool no_forward_sink;
    int produce_code; /* not 0: the sink refuses */

    unsigned busy_calls, busy_until; /* store_busy says go on while calls < until, then unlocks */
    void (*unlock)(struct world *world);
    void *locker;
    unsigned flushes, source_failures;
};

/* cmocka set-up and tear-down: a world that is not started yet, options may be changed. */
int world_setup(void **state);
int world_setup_embedded(void **state);
int world_teardown(void **state);
/* Opens the store and creates the engine, runs a first turn, and assigns partition 0 from offset 0
 * (not when embedded). */
void world_start(struct world *world);
/* The engine alone, without a turn. */
int world_open(struct world *world, struct err_text *why);
/* The engine and its topics end; the store stays open. */
void world_close_engine(struct world *world);
/* The process dies (the disk as after `mode`) and starts again, without an assignment. */
void world_crash(struct world *world, enum crash_mode mode);
void world_pass(struct world *world, int64_t ms);

void world_post(struct world *world, struct engine_event *event);
/* Hands what was posted to a turn. */
int world_turn(struct world *world);
/* Turns until the engine has nothing due. */
void world_settle(struct world *world);
struct inflight_counts world_counts(const struct world *world);
struct engine_stats world_stats(const struct world *world);
struct task *world_task(const struct world *world, const char *id);

/* An activation with round numbers, to be changed and encoded. */
struct activation world_activation(const char *id);
struct blob *world_payload(const struct activation *activation);
/* Records as a source would hand them in; they are posted, not handled. The payload's reference is
 * taken over; NULL: a tombstone. */
void world_record_at(struct world *world, int32_t partition, int64_t offset, struct blob *payload);
void world_record(struct world *world, int64_t offset, const struct activation *activation);
/* A message of a raw topic at this offset of partition 0, read as a task of app, ns, ns.task. */
void world_raw_record(struct world *world, int64_t offset, const char *payload);
/* A plain task at this offset of partition 0, posted. */
void world_task_at(struct world *world, int64_t offset, const char *id);
void world_assign(struct world *world, int32_t partition, int64_t start, int64_t committed,
                  const char *metadata);
void world_revoke(struct world *world, int32_t partition);
void world_committed(struct world *world, int32_t partition, int64_t next_offset);
void world_answer(struct world *world, int32_t partition, int64_t committed, int64_t low,
                  const char *metadata, int code);
void world_deliver(struct world *world, size_t record, enum topic_delivery delivery);

/* Calls; posted, not handled. */
struct test_call *world_claim(struct world *world);
struct test_call *world_claim_of(struct world *world, const char *application,
                                 const char *namespace);
struct test_call *world_report(struct world *world, const char *id, enum activation_status status);
struct test_call *world_batch(struct world *world, const char *const *ids, size_t count,
                              enum activation_status status);
struct test_call *world_enqueue(struct world *world, const char *topic, const char *const *ids,
                                size_t count);
/* What each of these calls got is given back. */
struct test_call *world_give_back(struct world *world, struct test_call *const *got, size_t count);
void world_cancel(struct world *world, struct test_call *call);
/* The reply's task reached nobody. */
void world_undelivered(struct world *world, struct test_call *call);
/* A claim and a turn that gives it this task. */
void world_expect_claim(struct world *world, const char *id);
/* Claims, turns: nothing is there. */
void world_expect_no_task(struct world *world);

/* One value of the file, by a connection of its own. */
int64_t world_sql_int(struct world *world, const char *sql);
void world_sql(struct world *world, const char *sql);
/* Locks the file against writers; store_busy unlocks it at its busy_until-th call. */
void world_lock_file(struct world *world, unsigned busy_until);

/* "key=value" is among the record's headers. */
bool world_has_header(const struct test_record *record, const char *key, const char *value);

#define WORLD(state) ((struct world *)*(state))

#endif
