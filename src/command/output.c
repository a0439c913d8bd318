/* SPDX-License-Identifier: Apache-2.0 */
#include "command/output.h"

void output_begin(struct output *output, size_t limit, output_line_fn line, void *ctx)
{
    output->line = line;
    output->ctx = ctx;
    output->left = limit;
    output->dropped = 0;
    buf_clear(&output->part);
    buf_clear(&output->tail);
}

void output_free(struct output *output)
{
    buf_free(&output->part);
    buf_free(&output->tail);
}

static void hand_on(struct output *output)
{
    size_t len = output->part.len;

    if (len > 0 && output->part.ptr[len - 1] == '\r')
        len--;
    if (len > 0)
        output->line(output->ctx, bytes_of(output->part.ptr, len));
    buf_clear(&output->part);
}

static void add_tail(struct output *output, struct bytes bytes)
{
    if (bytes.len > OUTPUT_TAIL_MAX)
        bytes = bytes_of(bytes.ptr + bytes.len - OUTPUT_TAIL_MAX, OUTPUT_TAIL_MAX);
    buf_append(&output->tail, bytes.ptr, bytes.len);
    if (output->tail.len > OUTPUT_TAIL_MAX)
        buf_consume(&output->tail, output->tail.len - OUTPUT_TAIL_MAX);
}

void output_feed(struct output *output, struct bytes bytes)
{
    size_t taken = bytes.len < output->left ? bytes.len : output->left;
    const uint8_t *at = bytes.ptr, *end = bytes.ptr + taken;

    add_tail(output, bytes);
    output->left -= taken;
    output->dropped += bytes.len - taken;
    while (at < end) {
        size_t room = OUTPUT_LINE_MAX - output->part.len;
        size_t piece = (size_t)(end - at) < room ? (size_t)(end - at) : room;
        const uint8_t *stop = (const uint8_t *)memchr(at, '\n', piece);

        if (stop != NULL)
            piece = (size_t)(stop - at);
        buf_append(&output->part, at, piece);
        at += piece + (stop != NULL);
        if (stop != NULL || output->part.len == OUTPUT_LINE_MAX)
            hand_on(output);
    }
}

uint64_t output_end(struct output *output)
{
    hand_on(output);
    return output->dropped;
}

static bool is_blank(uint8_t c)
{
    return c == '\n' || c == '\r' || c == ' ' || c == '\t';
}

struct bytes output_last_line(const struct output *output)
{
    const uint8_t *text = output->tail.ptr;
    size_t end = output->tail.len, start;

    while (end > 0 && is_blank(text[end - 1]))
        end--;
    start = end;
    while (start > 0 && text[start - 1] != '\n')
        start--;
    return bytes_of(end > 0 ? text + start : NULL, end - start);
}
