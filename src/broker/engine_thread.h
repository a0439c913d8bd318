/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thread that drives an engine: sleeps until an event or the nearest timer, runs turns,
 * remembers when it last finished one (health). All functions may be called from any thread, except
 * create and destroy.
 */
#ifndef TASKMILL_BROKER_ENGINE_THREAD_H
#define TASKMILL_BROKER_ENGINE_THREAD_H

#include "broker/engine.h"

struct engine_thread;

/* failed: called once on the engine's thread when a turn failed (fail-stop); the thread then ends.
 */
struct engine_thread *engine_thread_new(struct engine *engine, struct inbox *inbox,
                                        void (*failed)(void *ctx, int code, const char *why),
                                        void *ctx);
int engine_thread_start(struct engine_thread *thread, struct err_text *why);
/* Finishes what is queued and joins. False if that is not done by until_ms (boot clock,
 * CLOCK_NEVER: as long as it takes): the thread goes on, and nothing that it uses may be freed any
 * more. */
bool engine_thread_stop(struct engine_thread *thread, int64_t until_ms);
void engine_thread_free(struct engine_thread *thread);

/* True while the engine sleeps with nothing due, or finished a turn within the last `within_ms`. */
bool engine_thread_healthy(const struct engine_thread *thread, int64_t within_ms, int64_t boot_ms);
/* A copy made by the engine's thread at most about 100 ms ago. */
void engine_thread_stats(struct engine_thread *thread, struct engine_stats *out);

#endif
