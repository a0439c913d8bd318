/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whom to ask for the next task. A source is one application at one broker; asking it may be held
 * there for seconds (a long poll), so with several sources the worker keeps a call open at each of
 * them while it has a free child. A broker that fails is left alone for a time that doubles; one
 * that answers "nothing" at once (it does not hold calls) is asked again after a short time that
 * doubles.
 *
 * Pure: times and chance come in.
 */
#ifndef TASKMILL_WORKER_CLAIMS_H
#define TASKMILL_WORKER_CLAIMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CLAIMS_BLOCK_MS     100 /* after the first failure of a broker */
#define CLAIMS_BLOCK_MAX_MS 20000
#define CLAIMS_HELD_MS      100 /* an empty answer after less was not held */
#define CLAIMS_EMPTY_MS     50
#define CLAIMS_EMPTY_MAX_MS 1000
#define CLAIMS_WIDEN_MS     10   /* a call unanswered for so long: ask the other sources, too */
#define CLAIMS_UNREPORTED   1000 /* the default of unreported_max */

struct peer {
    uint32_t failures; /* in a row */
    int64_t blocked_until_ms;
    size_t unreported; /* reports that wait for another try */
};

struct source {
    struct peer *peer;
    uint32_t application; /* index */
    uint32_t open;        /* calls under way */
    uint32_t held;        /* its tasks that wait or run here, or may come with a report's answer */
    uint32_t in_row;      /* tasks taken with reports since it was picked last */
    uint32_t empties;     /* answers "nothing" in a row that were not held */
    int64_t not_before_ms;
};

struct claims {
    struct source *sources;
    size_t count, next;
    size_t open;           /* over all sources */
    size_t unreported_max; /* undelivered reports of a broker that stop new claims from it */
};

/* The available source with the fewest calls and held tasks, taking turns among equals; NULL if
 * there is none. With `idle_only`, only sources without any call. Counting both keeps a busy worker
 * from drifting to one broker: where a task was taken, the next ones come with the reports. */
struct source *claims_pick(struct claims *claims, bool idle_only, int64_t now_ms);
/* When an unavailable source becomes available; CLOCK_NEVER if none will by time alone. */
int64_t claims_next_ms(const struct claims *claims, int64_t now_ms);

void claims_opened(struct claims *claims, struct source *source);
void claims_closed(struct claims *claims, struct source *source);

/* What a call that took `took_ms` brought. */
void claims_got_task(struct source *source);
void claims_got_nothing(struct source *source, int64_t took_ms, int64_t now_ms);

/* A failed call; `chance` is any number and spreads the pause by up to a quarter. False if the peer
 * was blocked already: one loss of a connection fails many calls. */
bool claims_peer_failed(struct peer *peer, uint32_t chance, int64_t now_ms);
/* True if it had failed before. */
bool claims_peer_ok(struct peer *peer);

/* Whether the report of a task should bring the next one from the same source. */
bool claims_fetch_next(struct claims *claims, struct source *source, uint32_t rebalance_after);

/* Pause before try number `tries` (1, 2, ...) of a report; a short one at the end (`draining`),
 * when everybody waits for it. */
int64_t claims_report_pause_ms(uint32_t tries, uint32_t chance, bool draining);
/* When a report may go out whose pause lasts until `next_try_ms`. One that the broker never
 * answered
 * (`unheard`) goes as soon as that broker answers anything: later its task may have run again. */
int64_t claims_report_due_ms(const struct peer *peer, int64_t next_try_ms, bool unheard);

#endif
