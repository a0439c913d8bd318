/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of core/ share: an inflight with round numbers, tasks by short names, turns. */
#ifndef TESTS_UNIT_CORE_HELP_H
#define TESTS_UNIT_CORE_HELP_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/inflight.h"

#define T0       1000000 /* the first time in every test */
#define GRACE    3000
#define DURATION 10000
#define BACKOFF  100
#define PARKED   300000

static inline struct inflight *new_inflight(void)
{
    return inflight_new(&(struct inflight_config){
        .seed = {1, 2},
        .max_processing_attempts = 3,
        .grace_ms = GRACE,
        .publish_backoff_ms = BACKOFF,
        .publish_backoff_max_ms = 30000,
        .parked_retry_ms = PARKED,
        .claims_max = 100,
        .queues_max = 20,
    });
}

static inline struct task_spec spec_of(const char *id, int64_t rowid)
{
    return (struct task_spec){
        .id = bytes_str(id),
        .application = bytes_str("app"),
        .namespace = bytes_str("ns"),
        .taskname = bytes_str("task"),
        .rowid = rowid,
        .origin = {.source = 1, .partition = 0, .offset = rowid},
        .expires_at_ms = CLOCK_NEVER,
        .duration_ms = DURATION,
        .on_attempts_exceeded = 2,
    };
}

static inline struct task *add(struct inflight *inflight, const struct task_spec *spec,
                               int64_t now_ms)
{
    struct task *task = NULL;
    assert_int_equal(inflight_add(inflight, spec, now_ms, &task), 0);
    assert_non_null(task);
    return task;
}

static inline struct task *add_plain(struct inflight *inflight, const char *id, int64_t rowid,
                                     int64_t now_ms)
{
    struct task_spec spec = spec_of(id, rowid);
    return add(inflight, &spec, now_ms);
}

static inline struct claim_filter any_task(void)
{
    return (struct claim_filter){0};
}

static inline struct claim_filter of_application(const char *application)
{
    return (struct claim_filter){.has_application = true, .application = bytes_str(application)};
}

static inline struct claim_filter of_namespace(const char *application, const char *namespace)
{
    return (struct claim_filter){.has_application = true,
                                 .has_namespace = true,
                                 .application = bytes_str(application),
                                 .namespace = bytes_str(namespace)};
}

static inline struct task *claim_now(struct inflight *inflight, struct claim_filter filter,
                                     int64_t now_ms)
{
    struct task *task;
    inflight_claim(inflight, NULL, &filter, 0, now_ms, &task);
    return task;
}

/* True: held. */
static inline bool claim_held(struct inflight *inflight, struct claim *claim,
                              struct claim_filter filter, int64_t until_ms, int64_t now_ms)
{
    struct task *task;
    *claim = (struct claim){0};
    inflight_claim(inflight, claim, &filter, until_ms, now_ms, &task);
    assert_null(task);
    return claim->queue != NULL;
}

static inline enum report_result report(struct inflight *inflight, const char *id,
                                        enum report_status status, int64_t now_ms)
{
    return inflight_report(inflight, bytes_str(id), status, NULL, now_ms);
}

static inline const struct effect *commit(struct inflight *inflight, size_t *count)
{
    inflight_check(inflight);
    inflight_committed(inflight);
    inflight_check(inflight);
    return inflight_effects(inflight, count);
}

static inline void finish(struct inflight *inflight)
{
    inflight_effects_done(inflight);
    inflight_check(inflight);
}

/* A whole turn whose effects must be this many. */
static inline void turn(struct inflight *inflight, size_t expected)
{
    size_t count;
    commit(inflight, &count);
    assert_int_equal(count, expected);
    finish(inflight);
}

/* A whole turn that asks for exactly one record. */
static inline void turn_publishes(struct inflight *inflight, const struct task *task,
                                  enum publish_kind kind)
{
    size_t count;
    const struct effect *effects = commit(inflight, &count);
    assert_int_equal(count, 1);
    assert_int_equal(effects[0].kind, EFFECT_PUBLISH);
    assert_int_equal(effects[0].publish, kind);
    assert_ptr_equal(effects[0].task, task);
    assert_true(task->handed);
    finish(inflight);
}

static inline struct inflight_counts counts_of(const struct inflight *inflight)
{
    struct inflight_counts counts;
    inflight_get_counts(inflight, &counts);
    return counts;
}

#endif
