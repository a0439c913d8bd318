/* SPDX-License-Identifier: Apache-2.0 */
/*
 * At-most-once tasks across workers: before such a task runs, its child asks a store that all
 * workers share whether anybody has begun it before. The task's own definition decides (option
 * at_most_once), as with the Python worker, not the flag in the activation.
 *
 *   SET tw:amo:{namespace}:{taskname}:{id} {claim} NX EX {timeout}
 *
 * Key and life-time are those of the Python client, so that workers of both kinds guard each other
 * on one Redis. Python's store only looks whether the key is there; our value names the *claim*:
 * one hand-over of the task by a broker to one worker.
 *
 * Why the claim: a SET whose answer is lost may have been executed, or will be (a stopped server
 * executes what waits in its socket when it goes on). So such a SET is repeated, by whichever child
 * the worker gives the same claim to, and "the key is there" with our own claim in it means "ours":
 * nothing has run for this claim, because a child says that it has started a task
 * (child_shared.started_seq) only after the store has said yes, and a claim that was started is
 * never given to a child again.
 *
 *   the answer         what happens
 *   yes                the task runs
 *   no, someone else's it does not run. It is reported COMPLETE: it was begun elsewhere, and who
 *                      began it reports how that ended. The original worker reports nothing, so
 *                      that the broker keeps the task until its deadline, counts it as overrun and
 *                      may dead-letter a task that was done (spec/client.md 13.6)
 *   none               the store cannot be asked: the task must not run unguarded. The worker keeps
 *                      the claim and asks again, with pauses that grow (struct once_outage), while
 *                      other tasks go on; once_hold.c
 *
 * A claim that was asked for is not given back to its broker when the worker stops: whoever gets
 * the task next would find a key that is not his.
 *
 * What is left: a worker that dies between yes and the start of the task has used the key up; the
 * task never runs, which "at most once" allows.
 */
#ifndef TASKMILL_WORKER_ONCE_H
#define TASKMILL_WORKER_ONCE_H

#include "redis/redis.h"

/* As Sentry's `run taskworker`; the Python library alone has 60 s, which is shorter than many a
 * deadline. */
#define ONCE_TIMEOUT_S 86400

#define ONCE_PAUSE_MS     100
#define ONCE_PAUSE_MAX_MS 2000

struct once_options {
    const struct redis_address *redis;
    uint64_t timeout_s; /* how long a key lives */
    uint64_t worker;    /* random: tells this worker's claims from those of others */
};

enum once_answer {
    ONCE_RUN,
    ONCE_DUPLICATE,
    ONCE_UNASKED /* the store cannot be asked; the text says why */
};

/* --- in a child ------------------------------------------------------------------------------ */

struct once;

/* Connects when it is asked for the first time, and anew after a failure. */
struct once *once_new(const struct once_options *options);
void once_free(struct once *once);

/* `claim`: a number that this worker never gives to two claims. Waits at most some seconds. */
enum once_answer once_ask(struct once *once, struct bytes ns, struct bytes name, struct bytes id,
                          uint64_t claim, struct err_text *why);

/* --- in the worker: when to ask again. Pure --------------------------------------------------- */

struct once_outage {
    uint32_t failures; /* in a row; 0: the store answers, as far as anybody knows */
    bool probing;      /* one task is on its way to ask */
    int64_t again_ms;
};

/* Whether a task may be sent to ask now. During an outage one at a time may, at the end of each
 * pause: then the outage is `probing` until one of the functions below is called. */
bool once_may_ask(struct once_outage *outage, int64_t now_ms);
/* The store has answered. True if that ends an outage. */
bool once_answered(struct once_outage *outage);
/* It has not; `chance` is any number and spreads the pause by up to a quarter. True if that begins
 * an outage. */
bool once_failed(struct once_outage *outage, uint32_t chance, int64_t now_ms);
/* The task that was to ask has not got that far. */
void once_not_asked(struct once_outage *outage);

#endif
