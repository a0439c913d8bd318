/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/schedule.h"

#include <inttypes.h>

#include "wire/ident.h"

/* All due times after the last run and up to now. */
struct backlog {
    int64_t first_s, last_s; /* if any: first_s <= now */
    int64_t next_s;          /* the first one after now */
};

static struct backlog interval_backlog(int64_t interval_s, int64_t last_run_s, int64_t now_s)
{
    int64_t passed = last_run_s > now_s ? 0 : (now_s - last_run_s) / interval_s;

    return (struct backlog){.first_s = last_run_s + interval_s,
                            .last_s = last_run_s + passed * interval_s,
                            .next_s = last_run_s + (passed + 1) * interval_s};
}

static struct backlog crontab_backlog(const struct schedule *s, int64_t last_run_s, int64_t now_s)
{
    struct backlog backlog = {.first_s = crontab_next(&s->crontab, s->zone, last_run_s + 1)};

    backlog.next_s = backlog.first_s;
    if (backlog.first_s <= now_s) {
        backlog.last_s = crontab_last(&s->crontab, s->zone, backlog.first_s, now_s);
        backlog.next_s = crontab_next(&s->crontab, s->zone, now_s + 1);
    }
    return backlog;
}

static struct backlog backlog_of(const struct schedule *s, int64_t last_run_s, int64_t now_s)
{
    if (last_run_s == SCHEDULE_NEVER_RAN && s->kind == SCHEDULE_INTERVAL)
        return (struct backlog){now_s, now_s, now_s + s->interval_s};
    if (last_run_s == SCHEDULE_NEVER_RAN)
        last_run_s = now_s - now_s % 60 - 1; /* this minute counts */
    return s->kind == SCHEDULE_INTERVAL ? interval_backlog(s->interval_s, last_run_s, now_s)
                                        : crontab_backlog(s, last_run_s, now_s);
}

/* The oldest due time of a backlog that is among its newest missed_limit ones. */
static int64_t first_within_limit(const struct schedule *s, const struct backlog *backlog)
{
    int64_t first_s = backlog->first_s;

    if (s->kind == SCHEDULE_INTERVAL) {
        int64_t oldest_s = backlog->last_s - (int64_t)(s->missed_limit - 1) * s->interval_s;

        return oldest_s > first_s ? oldest_s : first_s;
    }
    for (uint32_t count = 1; first_s < backlog->last_s; count++) {
        if (count == s->missed_limit) { /* more than that: count from the other end */
            first_s = backlog->last_s;
            for (count = 1; count < s->missed_limit; count++)
                first_s = crontab_last(&s->crontab, s->zone, backlog->first_s, first_s - 1);
            return first_s;
        }
        first_s = schedule_after(s, first_s);
    }
    return backlog->first_s;
}

struct schedule_due schedule_due(const struct schedule *schedule, int64_t last_run_s, int64_t now_s)
{
    struct schedule_due due = {.from_future = last_run_s > now_s + SCHEDULE_FUTURE_MAX_S};
    bool none = last_run_s < 0 || due.from_future;
    struct backlog backlog = backlog_of(schedule, none ? SCHEDULE_NEVER_RAN : last_run_s, now_s);

    due.next_s = backlog.next_s;
    if (backlog.first_s > now_s)
        return due;
    due.last_s = due.first_s = backlog.last_s;
    due.due = schedule->missed != SCHEDULE_MISSED_SKIP || now_s - due.last_s <= SCHEDULE_GRACE_S;
    if (schedule->missed == SCHEDULE_MISSED_ALL)
        due.first_s = first_within_limit(schedule, &backlog);
    due.dropped = !due.due || due.first_s > backlog.first_s;
    return due;
}

int64_t schedule_after(const struct schedule *schedule, int64_t due_s)
{
    return schedule->kind == SCHEDULE_INTERVAL
               ? due_s + schedule->interval_s
               : crontab_next(&schedule->crontab, schedule->zone, due_s + 1);
}

int64_t schedule_ttl_ms(int64_t next_s, int64_t now_ms)
{
    int64_t farthest_s = now_ms / 1000 + SCHEDULE_INTERVAL_MAX_S; /* for CRONTAB_NEVER */
    int64_t ttl_ms = (next_s < farthest_s ? next_s : farthest_s) * 1000 - now_ms;

    return ttl_ms > 1 ? ttl_ms : 1;
}

void schedule_id(const struct schedule *schedule, struct buf *out)
{
    if (schedule->kind == SCHEDULE_INTERVAL) {
        buf_printf(out, "%" PRId64, schedule->interval_s);
        return;
    }
    for (const char *c = schedule->crontab.text; *c != '\0'; c++)
        buf_append_byte(out, *c == ' ' ? '_' : (uint8_t)*c);
    if (schedule->zone != NULL)
        buf_printf(out, "@%s", zone_name(schedule->zone));
}

void schedule_storage_key(const struct schedule_names *names, enum schedule_key form,
                          struct buf *out)
{
    buf_append_str(out, "tw:scheduler:");
    if (form == SCHEDULE_KEY)
        buf_printf(out, "%s:", names->entry);
    buf_printf(out, "%s:%s", names->namespace, names->task);
    if (form != SCHEDULE_KEY_NO_ID)
        buf_printf(out, ":%s", names->id);
}

void schedule_run_id(char out[SCHEDULE_RUN_ID_SIZE], const struct schedule_names *names,
                     int64_t due_s)
{
    _Static_assert(SCHEDULE_RUN_ID_SIZE == IDENT_HEX_LEN + 1, "the same ids");
    ident_scheduled(out, names->entry, names->id, due_s);
}
