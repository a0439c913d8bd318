/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file of runtime_config_path, read at start, every 60 s and on demand, and what it means for
 * this broker: where tasks of demoted namespaces go, and that they stay when that place is one this
 * broker consumes (the topic and its cluster's address; the same for records and stored rows).
 * Everything is called from the thread that owns the broker; `cfg` must outlive it.
 *
 * Told in the log: each change (INFO `Reloaded new runtime config from PATH`), and each time that
 * the file cannot be used (ERROR; what was read before stays in force, at start: no rules).
 */
#ifndef TASKMILL_BROKER_RELOAD_H
#define TASKMILL_BROKER_RELOAD_H

#include "broker/engine.h"

#define RELOAD_INTERVAL_MS 60000

struct reload;

struct reload *reload_new(const struct config *cfg);
/* NULL is fine. */
void reload_free(struct reload *reload);

/* Reads the file: the event that brings the engine what is new in it; NULL when nothing is, or
 * there is no file. */
struct engine_rules *reload_read(struct reload *reload, int64_t boot_ms);
/* The same, once RELOAD_INTERVAL_MS have passed since it was last read. */
struct engine_rules *reload_poll(struct reload *reload, int64_t boot_ms);

#endif
