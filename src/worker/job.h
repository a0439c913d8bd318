/* SPDX-License-Identifier: Apache-2.0 */
/* One claimed task on its way through the worker: queue, child, report. Owned by the worker; the
 * pool has it between pool_assign and the event that ends it. */
#ifndef TASKMILL_WORKER_JOB_H
#define TASKMILL_WORKER_JOB_H

#include "base/bytes.h"
#include "base/list.h"
#include "client/registry.h"
#include "wire/consumer.h"

struct job {
    struct list_node node; /* of the queue, the child's jobs, or the reports */
    uint64_t seq;          /* 1, 2, ... in the order of assignment */
    struct source *source; /* who gave it and gets the report */
    const struct task_def *task;
    uint32_t app; /* index in struct tasks */
    struct blob *payload;
    struct bytes id;       /* inside payload */
    uint64_t broker_claim; /* names it in a give-back; 0: the broker did not say */
    uint32_t attempts;
    uint64_t claim;      /* its number, if it must be asked for (once.h); else 0 */
    bool is_asked;       /* its key may be in Redis: no other worker would run it */
    int64_t deadline_ms; /* how long it may run; 0: no limit */
    int64_t received_ms; /* boot clock */
    bool has_received_at;
    int64_t received_at_us; /* wall clock: what the sender wrote */
    uint64_t memory_kib;    /* growth of the child's peak by it; set by the pool */

    /* The report. */
    struct worker *worker;
    enum activation_status status;
    bool fetch_next;
    uint32_t tries;
    int64_t next_try_ms;
    int64_t sent_us; /* boot clock */
    bool unheard;    /* the last try met a lost or refused connection */
};

#endif
