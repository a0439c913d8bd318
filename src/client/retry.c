/* SPDX-License-Identifier: Apache-2.0 */
#include "client/retry.h"

bool retry_attempts_left(const struct taskmill_retry_policy *policy, uint32_t attempts)
{
    /* In 64 bits: attempts comes from the wire and may be UINT32_MAX. */
    return (uint64_t)attempts + 1 < policy->times;
}

enum activation_status retry_decide(const struct taskmill_retry_policy *policy, uint32_t attempts,
                                    enum attempt_end end)
{
    bool wanted = false;

    switch (end) {
    case ATTEMPT_COMPLETE:
        return ACTIVATION_COMPLETE;
    case ATTEMPT_RETRY:
        wanted = true;
        break;
    case ATTEMPT_FAILURE:
        wanted = (policy->on & TASKMILL_ON_FAILURE) != 0;
        break;
    case ATTEMPT_DEADLINE:
        wanted = (policy->on & TASKMILL_ON_DEADLINE) != 0;
        break;
    }
    return wanted && retry_attempts_left(policy, attempts) ? ACTIVATION_RETRY : ACTIVATION_FAILURE;
}

void retry_fill_report(const struct taskmill_retry_policy *policy,
                       struct set_status_request *report)
{
    report->has_max_attempts = true;
    report->max_attempts = policy->times == UINT32_MAX ? UINT32_MAX : policy->times + 1;
    report->has_delay_on_retry = policy->delay_s != 0;
    report->delay_on_retry = policy->delay_s;
}

struct retry_state retry_first_state(const struct taskmill_retry_policy *policy, bool at_most_once)
{
    struct retry_state state = {.present = true};

    if (at_most_once || !retry_policy_set(policy)) {
        state.max_attempts = 1;
        state.on_attempts_exceeded = ON_ATTEMPTS_EXCEEDED_DISCARD;
        state.has_at_most_once = true;
        state.at_most_once = at_most_once;
        return state;
    }
    state.max_attempts = policy->times != 0 ? policy->times : 1;
    state.on_attempts_exceeded = policy->times_exceeded == TASKMILL_DEADLETTER
                                     ? ON_ATTEMPTS_EXCEEDED_DEADLETTER
                                     : ON_ATTEMPTS_EXCEEDED_DISCARD;
    state.has_delay_on_retry = policy->delay_s != 0;
    state.delay_on_retry = policy->delay_s;
    return state;
}
