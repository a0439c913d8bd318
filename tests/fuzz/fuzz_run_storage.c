/* SPDX-License-Identifier: Apache-2.0 */
/* What a scheduler reads from others: times in the original's keys, states in ours, the URL of
 * Redis. What was read and is written again must read the same. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "scheduler/run_storage.h"

static void values(const char *text)
{
    char printed[RUN_VALUE_SIZE];
    int64_t time_s, again;

    if (run_value_parse(text, &time_s) != 0)
        return;
    run_value_print(printed, time_s);
    /* An offset may lead out of the years that have four digits. */
    if (time_s >= -62135596800 && time_s <= 253402300799 &&
        (run_value_parse(printed, &again) != 0 || again != time_s))
        abort();
}

static void states(const char *text)
{
    char printed[RUN_STATE_SIZE];
    struct run_state state;

    run_state_parse(&state, text);
    run_state_print(printed, &state);
    if (strcmp(printed, state.known ? text : "") != 0)
        abort();
}

static void addresses(const char *text)
{
    struct redis_address address;
    struct buf printed = {0};
    struct err_text why;

    if (redis_address_parse(&address, text, &why) != 0)
        return;
    if ((address.host == NULL) == (address.path == NULL))
        abort();
    redis_address_print(&address, &printed);
    redis_address_free(&address);
    buf_free(&printed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = mem_strndup(data, size);

    values(text);
    states(text);
    addresses(text);
    mem_free(text);
    return 0;
}
