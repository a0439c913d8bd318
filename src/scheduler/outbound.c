/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/outbound.h"

#include <string.h>

#include "base/mem.h"
#include "scheduler/scheduler.h"

#define OWN_HEADERS 3

struct outbound {
    struct taskmill_app *app;
    struct taskmill_header headers[SCHEDULES_HEADERS_MAX + OWN_HEADERS];
};

int outbound_new(struct outbound **out, const char *application,
                 const struct taskmill_app_options *options, struct err_text *why)
{
    struct taskmill_app *app = taskmill_app_new_with(application, options);

    if (app == NULL)
        return err_set(why, ERR_INVALID, "%s", taskmill_last_error());
    *out = mem_zalloc(sizeof **out);
    (*out)->app = app;
    return 0;
}

void outbound_free(struct outbound *outbound)
{
    if (outbound == NULL)
        return;
    taskmill_app_free(outbound->app);
    mem_free(outbound);
}

/* --- messages -------------------------------------------------------------------------------- */

static void add_header(struct outbound *outbound, size_t *count, const char *key, const char *value)
{
    for (size_t i = 0; i < *count; i++)
        if (strcmp(outbound->headers[i].key, key) == 0)
            return; /* the entry says otherwise */
    outbound->headers[(*count)++] = (struct taskmill_header){key, value};
}

/* Those that the original watches as monitors. */
static bool is_monitored(const struct schedule *schedule)
{
    return schedule->kind == SCHEDULE_CRONTAB || schedule->interval_s >= SCHEDULER_MONITOR_MIN_S;
}

static size_t fill_headers(struct outbound *outbound, const struct schedules_entry *entry,
                           const char *id)
{
    size_t count = entry->header_count;

    if (count > 0)
        memcpy(outbound->headers, entry->headers, count * sizeof *entry->headers);
    add_header(outbound, &count, "sentry-propagate-traces", "False");
    if (is_monitored(&entry->schedule)) {
        add_header(outbound, &count, "sentry-monitor-slug", entry->key);
        add_header(outbound, &count, "sentry-monitor-check-in-id", id);
    }
    return count;
}

static int add_run(struct outbound *outbound, struct taskmill_bulk *bulk,
                   const struct schedules_entry *entry, const char *id, struct err_text *why)
{
    struct taskmill_send_options options = {
        .size = sizeof options,
        .expires_s = entry->expires_s,
        .headers = outbound->headers,
        .header_count = fill_headers(outbound, entry, id),
        .undeclared = true,
        .task = {.size = sizeof options.task,
                 .retry = entry->retry,
                 .processing_deadline_s = entry->processing_deadline_s,
                 .expires_s = entry->expires_s,
                 .at_most_once = entry->at_most_once},
        .send_id = id};
    struct taskmill_params *params = NULL;
    int rv;

    if (entry->params != NULL)
        params = taskmill_params_from_json(entry->params);
    rv = taskmill_bulk_add_with(bulk, entry->namespace, entry->task, params, &options);
    return rv == 0 ? 0 : err_set(why, rv, "%s", taskmill_last_error());
}

int outbound_check(struct outbound *outbound, const struct schedules *schedules,
                   struct err_text *why)
{
    struct taskmill_bulk *bulk = taskmill_bulk_new(outbound->app);
    int rv = 0;

    for (size_t i = 0; i < schedules->count && rv == 0; i++) {
        const struct schedules_entry *entry = &schedules->entries[i];
        struct schedule_names names = schedules_names(entry);
        char id[SCHEDULE_RUN_ID_SIZE];

        schedule_run_id(id, &names, 0);
        rv = add_run(outbound, bulk, entry, id, why);
        if (rv != 0)
            rv = err_set(why, ERR_INVALID, "line %u: entry %s: %s", entry->line, entry->key,
                         why != NULL ? why->s : "");
    }
    taskmill_bulk_free(bulk);
    return rv;
}

/* --- sending --------------------------------------------------------------------------------- */

static void set_result(struct tick_run *run, int rv, const char *why)
{
    run->result = rv;
    run->refused = rv == ERR_TOO_LARGE;
    if (rv != 0)
        err_set(&run->why, rv, "%s", why);
}

/* Several: what was accepted is in front. */
static int send_built(struct taskmill_bulk *bulk, struct tick_run **built, size_t count)
{
    int rv = taskmill_bulk_send(bulk);
    size_t accepted = rv == 0 ? count : count - taskmill_bulk_count(bulk);

    for (size_t i = 0; i < count; i++)
        set_result(built[i], i < accepted ? 0 : rv, i < accepted ? "" : taskmill_last_error());
    return rv;
}

static int send_together(struct outbound *outbound, struct tick_run *runs, size_t count)
{
    struct taskmill_bulk *bulk = taskmill_bulk_new(outbound->app);
    struct tick_run *built[TICK_BATCH];
    size_t built_count = 0;
    int rv = 0;

    for (size_t i = 0; i < count; i++) {
        runs[i].result = add_run(outbound, bulk, runs[i].entry, runs[i].id, &runs[i].why);
        runs[i].refused = runs[i].result != 0;
        if (!runs[i].refused)
            built[built_count++] = &runs[i];
    }
    if (built_count > 0)
        rv = send_built(bulk, built, built_count);
    taskmill_bulk_free(bulk);
    return rv;
}

/* Errors that may be the fault of one message among many: its topic, its size. Where nobody
 * answers, one try is enough. */
static bool may_be_one(int rv)
{
    return rv != ERR_UNAVAILABLE && rv != ERR_TIMEOUT && rv != ERR_FULL && rv != ERR_DENIED;
}

void outbound_send(struct outbound *outbound, struct tick_run *runs, size_t count)
{
    int rv = send_together(outbound, runs, count);

    if (rv == 0 || count == 1 || !may_be_one(rv))
        return;
    for (size_t i = 0; i < count; i++)
        if (runs[i].result != 0 && (!runs[i].refused || runs[i].result == ERR_TOO_LARGE))
            (void)send_together(outbound, &runs[i], 1);
}
