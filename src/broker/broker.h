/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A whole broker, put together from its configuration: store, topics, engine and service. Used by
 * the command (broker_run) and, in-process, by `taskmill demo`. One thread creates, starts, stops
 * and destroys it.
 *
 * Shutdown: readiness down, GOAWAY, no new claims, held ones answered; statuses are accepted until
 * no stream is open or 5 s have passed; then the topics stop beside each other (final commits),
 * then the engine, then the store closes. Each step has its share of shutdown_timeout_ms (of 9 s:
 * 5, 2 and 2), and what an earlier step leaves over: a cluster that does not answer takes no time
 * from the store. Kafka left behind costs repeated messages and is a WARN; an engine that cannot
 * end its turn is a failure.
 */
#ifndef TASKMILL_BROKER_BROKER_H
#define TASKMILL_BROKER_BROKER_H

#include "broker/config.h"
#include "broker/engine.h"

struct broker;

/* Opens the store, loads it, binds the port. Nothing moves yet. ERR_* and one line in why. The
 * configuration must outlive the broker. */
int broker_create(struct broker **out, const struct config *cfg, struct err_text *why);
int broker_start(struct broker *broker, struct err_text *why);
/* The gRPC port that was bound; 0 when grpc_port is 0. */
uint16_t broker_port(const struct broker *broker);
/* Becomes readable when a component failed (then broker_failure says why) or a timer of the broker
 * is due; broker_tick must be called then, and at least every 500 ms. */
int broker_fd(const struct broker *broker);
void broker_tick(struct broker *broker);
/* Reads the file of runtime_config_path now (it is read every 60 s, too), and the files of
 * grpc_tls_*, for new connections. */
void broker_reload(struct broker *broker);
/* NULL while all is well. */
const char *broker_failure(struct broker *broker);
/* For exporters; until broker_destroy. */
struct metrics *broker_metrics(const struct broker *broker);
void broker_stats(struct broker *broker, struct engine_stats *out);
/* Drains, stops and closes the store. At most about shutdown_timeout_ms, unless the disk hangs
 * while the store is closed. broker_failure then says whether all went well. */
void broker_stop(struct broker *broker);
/* What broker_stop does now, for whoever loses patience; NULL before and after. Any thread. */
const char *broker_stopping(const struct broker *broker);
/* True when broker_stop left threads behind: broker_destroy then frees nothing, and the process
 * should end. */
bool broker_abandoned(const struct broker *broker);
/* May wait up to a minute for the Kafka library, which ends only when its requests do. */
void broker_destroy(struct broker *broker);

/* The command's main part: runs until SIGINT, SIGTERM or SIGQUIT (0) or a failure (1, with one line
 * on the log). SIGHUP reads the runtime configuration again. A second signal, or the end of
 * shutdown_timeout_ms, ends the process at once with 1; a signal during the start with 0. */
int broker_run(const struct config *cfg);

#endif
