/* SPDX-License-Identifier: Apache-2.0 */
/* `taskmill scheduler list`: the entries with their last and next runs, for people and as JSON. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/scheduler_cli.h"
#include "scheduler/schedules_file.h"

struct listing {
    struct schedules *schedules;
    struct run_record *records; /* NULL: the storage could not be read */
    int64_t now_s;
};

/* The records of all entries. A file that is not there yet is not made. */
static int read_records(const struct scheduler_cli *at, struct listing *listing,
                        struct err_text *why)
{
    size_t count = listing->schedules->count;
    struct run_key *keys;
    const struct run_key **pointers;
    struct run_storage *storage;
    int rv;

    if (at->redis_url == NULL && access(at->state_path, F_OK) != 0) {
        listing->records = mem_calloc(count + 1, sizeof *listing->records);
        for (size_t i = 0; i < count; i++)
            listing->records[i].foreign_s = SCHEDULE_NEVER_RAN;
        return 0;
    }
    rv = scheduler_cli_storage(at, &storage, why);
    if (rv != 0)
        return rv;
    listing->records = mem_calloc(count + 1, sizeof *listing->records);
    keys = mem_calloc(count + 1, sizeof *keys);
    pointers = mem_calloc(count + 1, sizeof(void *));
    for (size_t i = 0; i < count; i++) {
        struct schedule_names names = schedules_names(&listing->schedules->entries[i]);

        run_key_make(&keys[i], &names);
        pointers[i] = &keys[i];
    }
    rv = storage->ops->load(storage, pointers, count, listing->records, why);
    for (size_t i = 0; i < count; i++)
        run_key_free(&keys[i]);
    mem_free(keys);
    mem_free(pointers);
    storage->ops->close(storage);
    return rv;
}

static int64_t last_run(const struct listing *listing, size_t index)
{
    const struct run_record *record = &listing->records[index];
    int64_t last_s = record->state.known ? record->state.last_s : SCHEDULE_NEVER_RAN;

    return record->foreign_s > last_s ? record->foreign_s : last_s;
}

/* Does the storage know of a run at last_run? A crontab is noted before its first one. */
static bool has_run(const struct listing *listing, size_t index)
{
    const struct run_record *record = &listing->records[index];

    return record->foreign_s != SCHEDULE_NEVER_RAN ||
           (record->state.known && (record->state.open || record->state.owner[0] != '\0'));
}

/* The next `count` due times; what is due already comes first. */
static size_t next_runs(const struct listing *listing, size_t index, size_t count, int64_t *out)
{
    const struct schedule *schedule = &listing->schedules->entries[index].schedule;
    int64_t last_s = listing->records ? last_run(listing, index) : SCHEDULE_NEVER_RAN;
    struct schedule_due due = schedule_due(schedule, last_s, listing->now_s);
    int64_t at_s = due.due ? due.first_s : due.next_s;

    for (size_t i = 0; i < count; i++) {
        if (at_s >= CRONTAB_NEVER)
            return i;
        out[i] = at_s;
        at_s = due.due && at_s < due.last_s ? schedule_after(schedule, at_s)
               : at_s < due.next_s          ? due.next_s
                                            : schedule_after(schedule, at_s);
    }
    return count;
}

static const char *zone_of(const struct schedule *schedule)
{
    return schedule->zone != NULL ? zone_name(schedule->zone) : "UTC";
}

static const char *text_of(const struct schedule *schedule, char *out, size_t size)
{
    if (schedule->kind == SCHEDULE_CRONTAB)
        return schedule->crontab.text;
    (void)snprintf(out, size, "every %lld s", (long long)schedule->interval_s);
    return out;
}

/* --- JSON ------------------------------------------------------------------------------------ */

static json_t *time_json(int64_t time_s)
{
    char text[RUN_VALUE_SIZE];

    run_value_print(text, time_s);
    return json_string(text);
}

static json_t *entry_json(const struct listing *listing, size_t index, size_t count)
{
    const struct schedules_entry *entry = &listing->schedules->entries[index];
    int64_t *times = mem_calloc(count, sizeof *times);
    size_t found = next_runs(listing, index, count, times);
    json_t *object = json_object(), *next = json_array();
    char text[40];
    bool known = listing->records != NULL && has_run(listing, index);

    for (size_t i = 0; i < found; i++)
        json_array_append_new(next, time_json(times[i]));
    json_object_set_new(object, "key", json_string(entry->key));
    json_object_set_new(object, "namespace", json_string(entry->namespace));
    json_object_set_new(object, "task", json_string(entry->task));
    json_object_set_new(object, "schedule",
                        json_string(text_of(&entry->schedule, text, sizeof text)));
    json_object_set_new(object, "schedule_id", json_string(entry->id));
    json_object_set_new(object, "timezone", json_string(zone_of(&entry->schedule)));
    json_object_set_new(object, "last_run",
                        known ? time_json(last_run(listing, index)) : json_null());
    json_object_set_new(object, "unfinished",
                        json_boolean(known && listing->records[index].state.open));
    json_object_set_new(object, "next_runs", next);
    mem_free(times);
    return object;
}

static int print_json(const struct listing *listing, size_t count)
{
    json_t *list = json_array();
    int rv;

    for (size_t i = 0; i < listing->schedules->count; i++)
        json_array_append_new(list, entry_json(listing, i, count));
    rv = json_dumpf(list, stdout, JSON_INDENT(2));
    json_decref(list);
    return rv == 0 && putchar('\n') != EOF ? CLI_OK : CLI_FAILED;
}

/* --- for people ------------------------------------------------------------------------------ */

/* "2026-01-01 12:00:00 +01:00", on the clocks of the entry's zone. */
static void print_time(const struct schedule *schedule, int64_t time_s)
{
    int32_t offset_s = zone_span_at(schedule->zone, time_s).offset_s;
    int32_t minutes = (offset_s < 0 ? -offset_s : offset_s) / 60;
    char text[RUN_VALUE_SIZE];

    run_value_print(text, time_s + offset_s);
    printf("%.10s %.8s %c%02d:%02d", text, text + 11, offset_s < 0 ? '-' : '+', minutes / 60,
           minutes % 60);
}

static void print_entry(const struct listing *listing, size_t index, size_t count)
{
    const struct schedules_entry *entry = &listing->schedules->entries[index];
    int64_t *times = mem_calloc(count, sizeof *times);
    size_t found = next_runs(listing, index, count, times);
    char text[40];

    printf("%s  %s:%s\n  schedule  %s  (%s)\n  last run  ", entry->key, entry->namespace,
           entry->task, text_of(&entry->schedule, text, sizeof text), zone_of(&entry->schedule));
    if (listing->records == NULL)
        fputs("not known", stdout);
    else if (has_run(listing, index))
        print_time(&entry->schedule, last_run(listing, index));
    else
        fputs("never", stdout);
    if (listing->records != NULL && listing->records[index].state.open)
        fputs("  (not sent yet)", stdout);
    for (size_t i = 0; i < found; i++) {
        fputs(i == 0 ? "\n  next run  " : "\n            ", stdout);
        print_time(&entry->schedule, times[i]);
        if (times[i] <= listing->now_s)
            fputs("  (due)", stdout);
    }
    putchar('\n');
    mem_free(times);
}

int scheduler_list(const struct cli_args *args, const struct scheduler_cli *at)
{
    struct listing listing = {.now_s = clock_wall_ms() / 1000};
    struct err_text why = {{0}};
    int code = CLI_OK;

    if (schedules_read(&listing.schedules, at->schedules_path, &why) != 0)
        return cli_error(args, CLI_FAILED, "%s", why.s);
    if (read_records(at, &listing, &why) != 0) {
        mem_free(listing.records);
        listing.records = NULL;
        /* What comes next can be told all the same. */
        (void)cli_error(args, CLI_OK, "%s; last runs are not known", why.s);
    }
    if (at->json)
        code = print_json(&listing, at->count);
    else
        for (size_t i = 0; i < listing.schedules->count; i++)
            print_entry(&listing, i, at->count);
    mem_free(listing.records);
    schedules_free(listing.schedules);
    return code;
}
