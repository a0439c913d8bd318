/* SPDX-License-Identifier: Apache-2.0 */
/* The file of schedules: whatever is read can be asked when it is due. */
#include <stdlib.h>

#include "scheduler/schedules_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ask(const struct schedules_entry *entry)
{
    const int64_t now_s = 1767268800;
    struct schedule_names names = schedules_names(entry);
    struct buf key = {0};

    for (int64_t last_s = now_s - 100000; last_s <= now_s; last_s += 50000) {
        struct schedule_due due = schedule_due(&entry->schedule, last_s, now_s);

        if (due.next_s <= now_s || (due.due && (due.first_s > due.last_s || due.last_s > now_s)))
            abort();
    }
    schedule_storage_key(&names, SCHEDULE_KEY, &key);
    buf_free(&key);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct schedules *schedules = NULL;
    struct err_text why = {{0}};

    if (schedules_parse(&schedules, "fuzz.yml", bytes_of(data, size), NULL, &why)) {
        if (!why.s[0] || schedules)
            abort(); /* an error without a word, or with a result */
        return 0;
    }
    for (size_t i = 0; i < schedules->count; i++)
        ask(&schedules->entries[i]);
    schedules_free(schedules);
    return 0;
}
