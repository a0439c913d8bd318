/* SPDX-License-Identifier: Apache-2.0 */
/* Configuration files and environments. The input is a YAML text, then variables without their
 * prefix, separated by NULs. What loads must print, load again and print the same. */
#include <stdlib.h>

#include "base/mem.h"
#include "broker/config.h"

#define VARIABLES_MAX 32

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Splits off the variables; returns the YAML text. */
static struct bytes split(struct bytes input, char *env[VARIABLES_MAX + 1])
{
    const uint8_t *nul = input.len ? memchr(input.ptr, 0, input.len) : NULL;
    struct bytes yaml = bytes_of(input.ptr, nul ? (size_t)(nul - input.ptr) : input.len);
    size_t count = 0;

    while (nul && count < VARIABLES_MAX) {
        const uint8_t *start = nul + 1;
        size_t left = input.len - (size_t)(start - input.ptr);
        nul = left ? memchr(start, 0, left) : NULL;
        struct buf variable = {0};
        buf_append_str(&variable, "TASKBROKER_");
        buf_append(&variable, start, nul ? (size_t)(nul - start) : left);
        env[count++] = mem_strdup(buf_cstr(&variable));
        buf_free(&variable);
    }
    env[count] = NULL;
    return yaml;
}

static int load(struct bytes yaml, char **env, struct buf *printed)
{
    struct config_warnings warnings = {0};
    struct err_text why = {{0}};
    struct config *cfg = NULL;
    int rv = config_load_text(&cfg, "fuzz.yml", yaml, env, &warnings, &why);

    if (rv == 0) {
        config_print(cfg, printed);
        config_free(cfg);
    } else if (!why.s[0] || cfg) {
        abort(); /* an error without a word, or with a result */
    }
    config_warnings_free(&warnings);
    return rv;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *env[VARIABLES_MAX + 1], *no_env[] = {NULL};
    struct buf first = {0}, second = {0};
    struct bytes yaml = split(bytes_of(data, size), env);

    /* Thousands of topics print more values than one file may hold. */
    if (load(yaml, env, &first) == 0 && first.len < 65536) {
        if (load(buf_bytes(&first), no_env, &second))
            abort();
        if (!bytes_equal(buf_bytes(&first), buf_bytes(&second)))
            abort();
    }
    for (size_t i = 0; env[i]; i++)
        mem_free(env[i]);
    buf_free(&first);
    buf_free(&second);
    return 0;
}
