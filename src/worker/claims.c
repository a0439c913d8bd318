/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/claims.h"

#include "base/clock.h"

#define REPORT_PAUSE_MS     100
#define REPORT_PAUSE_MAX_MS 10000
#define DRAIN_PAUSE_MAX_MS  1000

static int64_t doubled(int64_t start_ms, uint32_t times, int64_t max_ms)
{
    int64_t value = times < 20 ? start_ms << times : max_ms;

    return value < max_ms ? value : max_ms;
}

static int64_t spread(int64_t pause_ms, uint32_t chance)
{
    return pause_ms - (int64_t)(chance % (uint32_t)(pause_ms / 4 + 1));
}

static int64_t available_ms(const struct claims *claims, const struct source *source)
{
    const struct peer *peer = source->peer;

    if (peer->unreported >= claims->unreported_max)
        return CLOCK_NEVER;
    return peer->blocked_until_ms > source->not_before_ms ? peer->blocked_until_ms
                                                          : source->not_before_ms;
}

static uint32_t load_of(const struct source *source)
{
    return source->open + source->held;
}

struct source *claims_pick(struct claims *claims, bool idle_only, int64_t now_ms)
{
    struct source *best = NULL;

    for (size_t i = 0; i < claims->count; i++) {
        struct source *source = &claims->sources[(claims->next + i) % claims->count];

        if (available_ms(claims, source) > now_ms || (idle_only && source->open > 0))
            continue;
        if (best == NULL || load_of(source) < load_of(best))
            best = source;
    }
    if (best != NULL)
        claims->next = ((size_t)(best - claims->sources) + 1) % claims->count;
    return best;
}

int64_t claims_next_ms(const struct claims *claims, int64_t now_ms)
{
    int64_t next = CLOCK_NEVER;

    for (size_t i = 0; i < claims->count; i++) {
        int64_t at = available_ms(claims, &claims->sources[i]);

        if (at > now_ms && at < next)
            next = at;
    }
    return next;
}

void claims_opened(struct claims *claims, struct source *source)
{
    source->open++;
    source->in_row = 0;
    claims->open++;
}

void claims_closed(struct claims *claims, struct source *source)
{
    source->open--;
    claims->open--;
}

void claims_got_task(struct source *source)
{
    source->empties = 0;
    source->not_before_ms = 0;
}

void claims_got_nothing(struct source *source, int64_t took_ms, int64_t now_ms)
{
    if (took_ms >= CLAIMS_HELD_MS) {
        claims_got_task(source);
        return;
    }
    source->not_before_ms = now_ms + doubled(CLAIMS_EMPTY_MS, source->empties, CLAIMS_EMPTY_MAX_MS);
    source->empties++;
}

bool claims_peer_failed(struct peer *peer, uint32_t chance, int64_t now_ms)
{
    if (peer->blocked_until_ms > now_ms)
        return false;
    peer->blocked_until_ms =
        now_ms + spread(doubled(CLAIMS_BLOCK_MS, peer->failures, CLAIMS_BLOCK_MAX_MS), chance);
    peer->failures++;
    return true;
}

bool claims_peer_ok(struct peer *peer)
{
    bool had_failed = peer->failures > 0;

    peer->failures = 0;
    peer->blocked_until_ms = 0;
    return had_failed;
}

bool claims_fetch_next(struct claims *claims, struct source *source, uint32_t rebalance_after)
{
    if (source->peer->unreported >= claims->unreported_max)
        return false;
    if (claims->count > 1 && ++source->in_row >= rebalance_after) {
        source->in_row = 0;
        return false;
    }
    return true;
}

int64_t claims_report_pause_ms(uint32_t tries, uint32_t chance, bool draining)
{
    int64_t max_ms = draining ? DRAIN_PAUSE_MAX_MS : REPORT_PAUSE_MAX_MS;

    return spread(doubled(REPORT_PAUSE_MS, tries > 0 ? tries - 1 : 0, max_ms), chance);
}

int64_t claims_report_due_ms(const struct peer *peer, int64_t next_try_ms, bool unheard)
{
    return unheard && peer->failures == 0 ? 0 : next_try_ms;
}
