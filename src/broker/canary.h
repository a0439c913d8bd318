/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Canary tasks (spec/broker.md 11): `canary_tasks` tasks `internal:canary_task` for each
 * application of worker_map, made at start, so that a new installation shows whether its workers
 * run anything.
 */
#ifndef TASKMILL_BROKER_CANARY_H
#define TASKMILL_BROKER_CANARY_H

#include "broker/engine.h"

#define CANARY_NAMESPACE  "internal"
#define CANARY_TASKNAME   "canary_task"
#define CANARY_DEADLINE_S 10
/* Rows of one transaction. */
#define CANARY_BATCH 4096

/* Before the engine's thread runs: stores them, past all back-pressure, by turns of the engine;
 * they are durable when it returns. Nothing is done when there are none, or no source. ERR_* and
 * the line. */
int canary_store(struct engine *engine, const struct config *cfg, struct err_text *why);

#endif
