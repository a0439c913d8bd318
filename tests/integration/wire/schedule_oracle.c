/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Our answers about crontabs and time zones, for test_schedule_differential.py. A line each:
 *
 *     next FROM ZONE EXPRESSION           first match at or after FROM, or error
 *     last FROM UNTIL ZONE EXPRESSION     last match between both, or error
 *     offset AT ZONE                      local time - UTC
 *
 * Times are Unix seconds; ZONE is - for UTC. After `error` the reason follows.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "base/mem.h"
#include "scheduler/crontab.h"

#include "oracle_io.h"

#define ZONES_MAX 1000

static struct zone *zones[ZONES_MAX];

static const struct zone *zone_of(const char *name, struct err_text *why)
{
    if (strcmp(name, "-") == 0)
        return NULL;
    for (size_t i = 0; i < ZONES_MAX; i++) {
        if (zones[i] == NULL && zone_read(&zones[i], NULL, bytes_str(name), why))
            exit(1);
        if (strcmp(zone_name(zones[i]), name) == 0)
            return zones[i];
    }
    exit(1);
}

static void answer(char *line, struct buf *out)
{
    struct err_text why = {{0}};
    struct crontab crontab;
    char *save = NULL;
    const char *operation = strtok_r(line, " ", &save);
    int64_t first = strtoll(strtok_r(NULL, " ", &save), NULL, 10), until = 0, found = 0;

    if (strcmp(operation, "last") == 0)
        until = strtoll(strtok_r(NULL, " ", &save), NULL, 10);
    const struct zone *zone = zone_of(strtok_r(NULL, " ", &save), &why);
    if (strcmp(operation, "offset") == 0) {
        buf_printf(out, "%d\n", (int)zone_span_at(zone, first).offset_s);
        return;
    }
    if (crontab_parse(&crontab, bytes_str(save), &why)) {
        buf_printf(out, "error %s\n", why.s);
        return;
    }
    found = strcmp(operation, "next") == 0 ? crontab_next(&crontab, zone, first)
                                           : crontab_last(&crontab, zone, first, until);
    if (found == CRONTAB_NEVER)
        buf_append_str(out, "error never\n");
    else
        buf_printf(out, "%" PRId64 "\n", found);
}

int main(void)
{
    struct buf in = read_all(stdin), out = {0};
    char *text, *next;

    buf_append_byte(&in, '\0');
    text = (char *)in.ptr;
    for (; *text != '\0'; text = next) {
        char *end = strchr(text, '\n');

        if (end == NULL)
            return 1;
        *end = '\0';
        next = end + 1;
        answer(text, &out);
    }
    for (size_t i = 0; i < ZONES_MAX; i++)
        zone_free(zones[i]);
    bool written = write_all(stdout, &out);
    buf_free(&in);
    buf_free(&out);
    return written ? 0 : 1;
}
