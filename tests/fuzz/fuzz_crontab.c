/* SPDX-License-Identifier: Apache-2.0 */
/* Crontab expressions on the clocks of hostile time zone files. The input: a number of 8 bytes (the
 * time), an expression, a NUL, a TZif file; without one that parses, UTC. */
#include <stdlib.h>

#include "scheduler/civil.h"
#include "scheduler/crontab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_zone(const struct zone *zone, int64_t at_s)
{
    struct zone_span span = zone_span_at(zone, at_s);

    if (span.from_s > at_s || (span.until_s <= at_s && at_s < INT64_MAX) ||
        abs(span.offset_s) > ZONE_OFFSET_MAX)
        abort(); /* a span that its own moment is not in */
}

static void check_crontab(const struct crontab *crontab, const struct zone *zone, int64_t at_s)
{
    int64_t next_s = crontab_next(crontab, zone, at_s);
    int64_t last_s;

    if (next_s < at_s)
        abort();
    if (next_s == CRONTAB_NEVER)
        return;
    if (crontab_next(crontab, zone, next_s) != next_s)
        abort(); /* a match that does not match */
    last_s = crontab_last(crontab, zone, at_s, next_s);
    if (last_s != next_s)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes text, file;
    struct err_text why = {{0}};
    struct crontab crontab;
    struct zone *zone = NULL;
    int64_t at_s = 0;

    if (size < 8)
        return 0;
    memcpy(&at_s, data, 8);
    text = bytes_of(data + 8, size - 8);
    const uint8_t *nul = text.len ? memchr(text.ptr, 0, text.len) : NULL;
    if (nul) {
        file = bytes_of(nul + 1, text.len - (size_t)(nul - text.ptr) - 1);
        text.len = (size_t)(nul - text.ptr);
        if (zone_parse(&zone, "fuzz", file, &why) && !why.s[0])
            abort(); /* an error without a word */
    }
    check_zone(zone, at_s);
    at_s %= CIVIL_MAX_S / 2; /* far from the years at which the search ends */
    check_zone(zone, at_s);
    why.s[0] = '\0';
    if (crontab_parse(&crontab, text, &why) == 0)
        check_crontab(&crontab, zone, at_s);
    else if (!why.s[0])
        abort();
    zone_free(zone);
    return 0;
}
