/* SPDX-License-Identifier: Apache-2.0 */
/* Runtime configurations and what they are matched with. The input is a YAML text, a NUL, then an
 * activation; without one that parses, all of the rest is the parameters of task "t". */
#include <stdlib.h>

#include "broker/runtime.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static enum runtime_match judge(const struct runtime *runtime, struct bytes payload)
{
    struct activation parsed;
    const char *why;
    size_t cost = 0;

    if (activation_parse(payload, &parsed, &why))
        return RUNTIME_KEEP;
    enum runtime_match by_name = runtime_match_taskname(runtime, parsed.taskname);
    enum runtime_match match = runtime_match(runtime, &parsed, payload, &cost);
    if (by_name != RUNTIME_SELECTOR && match != by_name)
        abort(); /* what the name alone decides is decided */
    if (by_name == RUNTIME_SELECTOR && match == RUNTIME_WHOLE_TASK)
        abort();
    return match;
}

static void judge_parameters(const struct runtime *runtime, struct bytes parameters)
{
    const struct activation_header zstd = {bytes_str("compression-type"), bytes_str("zstd")};
    struct activation activation = {.taskname = bytes_str("t"), .parameters_bytes = parameters};

    for (size_t headers = 0; headers < 2; headers++) {
        struct buf payload = {0};
        activation_encode(&activation, &zstd, headers, &payload);
        judge(runtime, buf_bytes(&payload));
        buf_free(&payload);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    size_t yaml_len = nul ? (size_t)(nul - data) : size;
    struct bytes rest = bytes_of(nul ? nul + 1 : NULL, nul ? size - yaml_len - 1 : 0);
    struct config_warnings warnings = {0};
    struct err_text why = {{0}};
    struct runtime *runtime = NULL;

    if (runtime_parse(&runtime, "fuzz.yml", bytes_of(data, yaml_len), &warnings, &why)) {
        if (!why.s[0] || runtime)
            abort(); /* an error without a word, or with a result */
    } else {
        if (!runtime_equal(runtime, runtime))
            abort();
        runtime_demotes(runtime, rest);
        judge(runtime, rest);
        judge_parameters(runtime, rest);
    }
    runtime_unref(runtime);
    config_warnings_free(&warnings);
    return 0;
}
