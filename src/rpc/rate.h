/* SPDX-License-Identifier: Apache-2.0 */
/* Token bucket: `per_s` a second in the long run, `burst` at once. Pure; a zeroed one refuses all.
 */
#ifndef TASKMILL_RPC_RATE_H
#define TASKMILL_RPC_RATE_H

#include <stdbool.h>
#include <stdint.h>

struct rate {
    int64_t tokens_milli; /* thousandths of a token: exact at millisecond steps */
    int64_t last_ms;
    uint32_t per_s, burst;
};

static inline struct rate rate_new(uint32_t per_s, uint32_t burst, int64_t now_ms)
{
    return (struct rate){(int64_t)burst * 1000, now_ms, per_s, burst};
}

/* Takes one token; false when there is none. */
static inline bool rate_take(struct rate *rate, int64_t now_ms)
{
    int64_t full = (int64_t)rate->burst * 1000;
    int64_t passed_ms = now_ms - rate->last_ms;

    if (passed_ms > 0) {
        /* After this long any bucket is full; the cut keeps the product below far from overflow. */
        if (passed_ms > INT32_MAX)
            passed_ms = INT32_MAX;
        rate->tokens_milli += passed_ms * rate->per_s;
        rate->last_ms = now_ms;
        if (rate->tokens_milli > full)
            rate->tokens_milli = full;
    }
    if (rate->tokens_milli < 1000)
        return false;
    rate->tokens_milli -= 1000;
    return true;
}

#endif
