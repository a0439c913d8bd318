/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/rates.h"

#include <string.h>

/* A look that comes a little early counts; a window reaches a little further back than its name:
 * looks are never exactly a second apart. */
#define SLACK_MS 50

const char *rate_name(enum rate rate)
{
    static const char *const names[] = {
#define X(id, name) name,
        RATES_MAP(X)
#undef X
    };
    return names[rate];
}

void rates_sample(struct rates *rates, int64_t now_ms, const uint64_t totals[RATES])
{
    size_t last = (rates->count + RATES_SAMPLES - 1) % RATES_SAMPLES;
    if (rates->count && now_ms - rates->samples[last].at_ms < RATES_INTERVAL_MS - SLACK_MS)
        return;
    size_t next = rates->count++ % RATES_SAMPLES;
    rates->samples[next].at_ms = now_ms;
    memcpy(rates->samples[next].totals, totals, sizeof rates->samples[next].totals);
}

double rates_per_s(const struct rates *rates, enum rate rate, int64_t window_ms)
{
    size_t kept = rates->count < RATES_SAMPLES ? rates->count : RATES_SAMPLES;
    if (kept < 2)
        return 0;
    size_t newest = (rates->count - 1) % RATES_SAMPLES, oldest = newest;
    int64_t from_ms = rates->samples[newest].at_ms - window_ms - SLACK_MS;
    for (size_t back = 1; back < kept; back++) {
        size_t at = (newest + RATES_SAMPLES - back) % RATES_SAMPLES;
        if (back > 1 && rates->samples[at].at_ms < from_ms)
            break;
        oldest = at;
    }
    uint64_t events = rates->samples[newest].totals[rate] - rates->samples[oldest].totals[rate];
    int64_t ms = rates->samples[newest].at_ms - rates->samples[oldest].at_ms;
    return (double)events * 1000 / (double)ms;
}
