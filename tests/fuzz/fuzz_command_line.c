/* SPDX-License-Identifier: Apache-2.0 */
/* What a persistent command writes to its stdout, and the cutting of its stderr into lines. The
 * first byte says where the id ends; an answer that is taken must name exactly that task. */
#include <stdlib.h>

#include "command/line.h"
#include "command/output.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
    size_t bytes;
};

static void see(void *ctx, struct bytes line)
{
    struct seen *seen = ctx;

    if (line.len == 0 || line.len > OUTPUT_LINE_MAX || memchr(line.ptr, '\n', line.len) != NULL)
        abort();
    seen->bytes += line.len;
}

static void cut_lines(struct bytes all, size_t piece)
{
    struct output output = {0};
    struct seen seen = {0};

    output_begin(&output, all.len / 2 + 1, see, &seen);
    for (size_t at = 0; at < all.len; at += piece)
        output_feed(&output, bytes_of(all.ptr + at, all.len - at < piece ? all.len - at : piece));
    if (output_end(&output) + seen.bytes > all.len || output.tail.len > OUTPUT_TAIL_MAX ||
        output_last_line(&output).len > output.tail.len)
        abort();
    output_free(&output);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum attempt_end end = ATTEMPT_DEADLINE;
    struct err_text why = {{0}};
    struct bytes id, line;
    size_t cut;

    if (size == 0)
        return 0;
    cut = data[0] < size - 1 ? data[0] : size - 1;
    id = bytes_of(data + 1, cut);
    line = bytes_of(data + 1 + cut, size - 1 - cut);
    if (command_line_answer(line, id, &end, &why) == 0) {
        if (end != ATTEMPT_COMPLETE && end != ATTEMPT_RETRY && end != ATTEMPT_FAILURE)
            abort();
    } else if (why.s[0] == '\0') {
        abort();
    }
    if (command_line_ready(line, &why) != 0 && why.s[0] == '\0')
        abort();
    cut_lines(line, cut + 1);
    return 0;
}
