/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The runtime configuration (runtime_config_path; spec/broker.md 9): what operators change while
 * the broker runs. Which tasks to drop (killswitch) and which namespaces to send elsewhere
 * (demotion):
 *
 *   drop_task_killswitch:              # required
 *     - reports.nightly                # every task of this name
 *     - name: reports.export           # only those with one of these arguments
 *       select_arg: {0: 4711}          # args[0] == 4711
 *       select_kwarg: {region: eu}     # or kwargs["region"] == "eu"
 *   demoted_namespaces: [reports]      # required
 *   demoted_topic: reports-long        # else kafka_long_topic
 *   demoted_topic_cluster: kafka2:9092 # else that of the dead-letter topic
 *
 * Unknown keys are ignored. Bounds: those of a configuration file (config_tree.h): 1 MiB, 16
 * levels, 4,096 entries of one list or map, 20,000 values.
 *
 * A struct runtime never changes; any thread may read it. It is reference counted. Wherever one is
 * taken, NULL stands for a file without any rule.
 */
#ifndef TASKMILL_BROKER_RUNTIME_H
#define TASKMILL_BROKER_RUNTIME_H

#include "broker/config.h"
#include "wire/activation.h"

struct runtime;

/* `name` stands for the file in messages. On failure one line in `why`: file, line, what is wrong,
 * what is allowed. ERR_MALFORMED, ERR_TOO_LARGE, ERR_INVALID. Warnings: keys that are there twice.
 */
int runtime_parse(struct runtime **out, const char *name, struct bytes text,
                  struct config_warnings *warnings, struct err_text *why);
/* The same from a regular file. Also ERR_NOT_FOUND, ERR_DENIED, ERR_IO. */
int runtime_read(struct runtime **out, const char *path, struct config_warnings *warnings,
                 struct err_text *why);

/* Both accept NULL; ref returns its argument. */
struct runtime *runtime_ref(struct runtime *runtime);
void runtime_unref(struct runtime *runtime);
/* Whether both say the same (order of maps and unknown keys aside). */
bool runtime_equal(const struct runtime *a, const struct runtime *b);

size_t runtime_rule_count(const struct runtime *runtime);
size_t runtime_namespace_count(const struct runtime *runtime);
/* NULL: the default. */
const char *runtime_topic(const struct runtime *runtime);
const char *runtime_cluster(const struct runtime *runtime);

/* --- matching -------------------------------------------------------------------------------- */

enum runtime_match {
    RUNTIME_KEEP,
    RUNTIME_WHOLE_TASK, /* dropped by its name */
    RUNTIME_SELECTOR    /* dropped by an argument */
};
/* The metric's tag: "whole_task" or "selector". */
const char *runtime_match_name(enum runtime_match match);

/* What the name alone says. RUNTIME_SELECTOR: its arguments decide, ask runtime_match. */
enum runtime_match runtime_match_taskname(const struct runtime *runtime, struct bytes taskname);

/*
 * The verdict over a whole activation; `parsed` came from `payload`. Any one selector that is equal
 * suffices. Equal means: same type and same value, deep; 123, 123.0 and "123" differ; maps in any
 * order. Floats of a rule are finite; keys of its maps are text. Whatever cannot be decoded is
 * kept: no parameters_bytes, no map with args and kwargs, a bad or too large zstd frame (64 MiB),
 * and parameters that hold bin or ext anywhere (so every raw-mode task).
 * *cost grows by the bytes that were unpacked and read.
 */
enum runtime_match runtime_match(const struct runtime *runtime, const struct activation *parsed,
                                 struct bytes payload, size_t *cost);

bool runtime_demotes(const struct runtime *runtime, struct bytes namespace);

#endif
