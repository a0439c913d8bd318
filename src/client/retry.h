/* SPDX-License-Identifier: Apache-2.0 */
/* Retry policies (spec/client.md 4): what a sender writes into an activation, and what a worker
 * reports after an attempt. Pure. */
#ifndef TASKMILL_CLIENT_RETRY_H
#define TASKMILL_CLIENT_RETRY_H

#include <taskmill.h>

#include "wire/consumer.h"

/* How an attempt ended, as the worker saw it. */
enum attempt_end {
    ATTEMPT_COMPLETE,
    ATTEMPT_FAILURE, /* returned failure, wrong parameters, crashed */
    ATTEMPT_RETRY,   /* asked for another attempt */
    ATTEMPT_DEADLINE /* killed at its processing deadline */
};

static inline bool retry_policy_set(const struct taskmill_retry_policy *policy)
{
    return policy->times || policy->delay_s || policy->times_exceeded || policy->on;
}

/* Is there an attempt left after the one numbered `attempts` (0 is the first)? */
bool retry_attempts_left(const struct taskmill_retry_policy *policy, uint32_t attempts);

/* The report: FAILURE, RETRY or COMPLETE. */
enum activation_status retry_decide(const struct taskmill_retry_policy *policy, uint32_t attempts,
                                    enum attempt_end end);

/* max_attempts and delay_on_retry of a RETRY report. */
void retry_fill_report(const struct taskmill_retry_policy *policy,
                       struct set_status_request *report);

/* retry_state of a new activation. */
struct retry_state retry_first_state(const struct taskmill_retry_policy *policy, bool at_most_once);

#endif
