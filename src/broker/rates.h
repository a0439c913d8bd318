/* SPDX-License-Identifier: Apache-2.0 */
/* Events a second over the last 1, 10 and 60 s, from totals that are looked at about once a second.
 * One thread; time is an input. */
#ifndef TASKMILL_BROKER_RATES_H
#define TASKMILL_BROKER_RATES_H

#include <stddef.h>
#include <stdint.h>

/* X(id, name in /status.json) */
#define RATES_MAP(X)               \
    X(RATE_TAKEN_IN, "taken_in")   \
    X(RATE_CLAIMED, "claimed")     \
    X(RATE_COMPLETED, "completed") \
    X(RATE_RETRIED, "retried")     \
    X(RATE_FAILED, "failed")       \
    X(RATE_DEAD_LETTERED, "dead_lettered")

enum rate {
#define X(id, name) id,
    RATES_MAP(X)
#undef X
        RATES
};
const char *rate_name(enum rate rate);

#define RATES_INTERVAL_MS 1000
#define RATES_SAMPLES     62 /* 60 s, both ends, and one to spare for late looks */

struct rates {
    size_t count; /* samples since the start: the newest is at (count - 1) % RATES_SAMPLES */
    struct {
        int64_t at_ms;
        uint64_t totals[RATES];
    } samples[RATES_SAMPLES];
};

/* Kept if the last one is at least about RATES_INTERVAL_MS old. Start with a zeroed object. */
void rates_sample(struct rates *rates, int64_t now_ms, const uint64_t totals[RATES]);
/* Over the last window_ms before the newest sample, or since the first one when that is less; 0
 * before the second. */
double rates_per_s(const struct rates *rates, enum rate rate, int64_t window_ms);

#endif
