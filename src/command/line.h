/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lines of a persistent command, each one JSON object and a line feed (docs/commands.md). Pure.
 *
 *   to it    {"id","task","namespace","application","attempt","retries_left","deadline","sent",
 *             "headers","args","kwargs"}
 *   from it  {"id","status","error"}; once before, if it was asked to: {"ready": true}
 *
 * What comes back was written by anybody's program: it is bounded and checked.
 */
#ifndef TASKMILL_COMMAND_LINE_H
#define TASKMILL_COMMAND_LINE_H

#include "client/call.h"
#include "client/retry.h"

#define COMMAND_ANSWER_MAX (64u << 10) /* bytes of a line from the command */

/* The task as a line, its line feed included, appended to `out`. `limit_ms`: how long it may run
 * from now on, 0: no limit. ERR_UNSUPPORTED if its parameters cannot be told in JSON; then nothing
 * is appended. */
int command_line_task(const struct taskmill_call *call, int64_t limit_ms, struct buf *out,
                      struct err_text *why);

/* A line without its line feed. ERR_MALFORMED if it is no answer to the task `id`; `why` says what
 * it is instead, with its beginning. On success `why` has the line's "error", or stays empty. */
int command_line_answer(struct bytes line, struct bytes id, enum attempt_end *end,
                        struct err_text *why);

/* Is it {"ready": true}? */
int command_line_ready(struct bytes line, struct err_text *why);

#endif
