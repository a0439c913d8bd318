/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parameters written in YAML as the JSON of wire/params.h. Plain words are typed by YAML 1.2's core
 * rules: null, true, false, whole numbers (also 0x1f, 0o17), floats (.inf, .nan); everything else,
 * yes and no included, is text. A number with a leading zero is an error, because YAML 1.1 takes it
 * for octal: nobody can tell what was meant. Quotes make text, !!binary bytes.
 */
#ifndef TASKMILL_SCHEDULER_YAML_JSON_H
#define TASKMILL_SCHEDULER_YAML_JSON_H

#include <yaml.h>

#include "base/bytes.h"
#include "base/err.h"

/* Bounds also documents whose aliases multiply or contain themselves. */
#define YAML_JSON_DEPTH_MAX 64
#define YAML_JSON_NODES_MAX 10000

/* Appends to `out`. ERR_INVALID or ERR_TOO_LARGE, with the line and the reason. */
int yaml_to_json(yaml_document_t *document, const yaml_node_t *node, struct buf *out, size_t *line,
                 struct err_text *why);

#endif
