/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a command writes to stdout or stderr, cut into lines for the worker's log. A task may log so
 * many bytes of a stream; what goes beyond is read and counted, not kept. The end of the stream is
 * kept in any case: it says why a command failed.
 */
#ifndef TASKMILL_COMMAND_OUTPUT_H
#define TASKMILL_COMMAND_OUTPUT_H

#include "base/bytes.h"

#define OUTPUT_LINE_MAX 4096u /* bytes; a longer line is cut into several */
#define OUTPUT_TAIL_MAX 2048u

/* Without its line break, never empty. */
typedef void (*output_line_fn)(void *ctx, struct bytes line);

struct output {
    output_line_fn line;
    void *ctx;
    size_t left; /* bytes of this task that are still handed on */
    uint64_t dropped;
    struct buf part; /* a line without its end */
    struct buf tail;
};

/* For the next task; forgets what the last one wrote. Zeroed or used before. */
void output_begin(struct output *output, size_t limit, output_line_fn line, void *ctx);
void output_feed(struct output *output, struct bytes bytes);
/* Hands on a last line without an end. Returns how many bytes were not handed on. */
uint64_t output_end(struct output *output);
void output_free(struct output *output);

/* The last line that is not blank, of what is kept; empty if there is none. */
struct bytes output_last_line(const struct output *output);

#endif
