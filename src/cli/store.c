/* SPDX-License-Identifier: Apache-2.0 */
/* `taskmill store check|migrate|give-back DB`: a database whose broker is stopped. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "store/offline.h"

#define LIST_LINES  20 /* of a list as text; --json has all */
#define DISCARD_MAX 64

static const char help[] =
    "usage: taskmill store check DB [--json]\n"
    "       taskmill store migrate DB [--json] [--vacuum]\n"
    "       taskmill store give-back DB [--json] [--yes] [--discard TOPIC]...\n"
    "\n"
    "Works on the database of a broker that is stopped.\n"
    "\n"
    "  check       reads all of it and changes nothing: is it sound, what does it hold\n"
    "  migrate     does what the broker does at its start: the original's migrations 1 to 6, our\n"
    "              columns and tables; files of the original and of older releases are brought up\n"
    "  give-back   makes it the original's again: our columns and tables go, its index comes "
    "back.\n"
    "              Refused while the outbox or the embedded log holds messages\n"
    "\n"
    "  --json            the result as JSON, with complete lists\n"
    "  --vacuum          migrate: also rewrite the file without its free pages\n"
    "  --yes             give-back: also with at-most-once rows whose offset is not confirmed\n"
    "  --discard TOPIC   give-back: the records of this topic of the embedded log may be lost\n"
    "\n"
    "example: taskmill store check taskbroker-inflight.sqlite\n"
    "exit: 0 sound, or done; 1 not, and why; 2 usage\n";

enum { OPT_JSON = 1, OPT_VACUUM, OPT_YES, OPT_DISCARD };

static const struct cli_option options[] = {{OPT_JSON, "json", 0, false},
                                            {OPT_VACUUM, "vacuum", 0, false},
                                            {OPT_YES, "yes", 'y', false},
                                            {OPT_DISCARD, "discard", 0, true},
                                            {0}};

struct request {
    struct cli_args args;
    const char *verb, *path;
    bool json, vacuum;
    struct give_back_options give_back;
    const char *discard[DISCARD_MAX];
    /* progress */
    bool terminal, shown;
    int64_t start_ms, next_ms;
};

/* --- progress -------------------------------------------------------------------------------- */

static void show_progress(void *ctx, const char *doing)
{
    struct request *request = (struct request *)ctx;
    int64_t now_ms = clock_boot_ms();

    if (!request->terminal || now_ms < request->next_ms)
        return;
    request->next_ms = now_ms + 200;
    request->shown = true;
    (void)fprintf(stderr, "\r\033[K%s: %s ... %lld s", request->args.command, doing,
                  (long long)(now_ms - request->start_ms) / 1000);
    (void)fflush(stderr);
}

static void clear_progress(struct request *request)
{
    if (request->shown)
        fputs("\r\033[K", stderr);
    request->shown = false;
}

static struct store_options store_options_of(struct request *request)
{
    request->terminal = isatty(STDERR_FILENO);
    request->start_ms = clock_boot_ms();
    request->next_ms = request->start_ms + 500;
    return (struct store_options){.path = request->path,
                                  .lock_wait_ms = 1,
                                  .full_vacuum = request->vacuum,
                                  .progress = show_progress,
                                  .progress_ctx = request};
}

/* --- rows ------------------------------------------------------------------------------------ */

struct rows {
    json_t *json; /* NULL: as text */
    const char *title;
    int64_t count;
};

/* Ids come from anywhere: nothing of them may act on a terminal, and JSON is UTF-8. */
static void print_plain(struct bytes text)
{
    for (size_t i = 0; i < text.len; i++)
        putchar(text.ptr[i] < 0x20 || text.ptr[i] == 0x7f ? '?' : text.ptr[i]);
}

static json_t *json_text(struct bytes text)
{
    json_t *value = json_stringn(text.len ? (const char *)text.ptr : "", text.len);
    struct buf hex = {0};

    if (value)
        return value;
    buf_append_str(&hex, "hex:");
    for (size_t i = 0; i < text.len; i++)
        buf_printf(&hex, "%02x", text.ptr[i]);
    value = json_stringn((const char *)hex.ptr, hex.len);
    buf_free(&hex);
    return value;
}

static json_t *json_row(const struct offline_row *row)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:I, s:I, s:o}", "id", json_text(row->id), "status",
                     json_text(row->status), "cluster", json_text(row->cluster), "topic",
                     json_text(row->topic), "partition", (json_int_t)row->partition, "offset",
                     (json_int_t)row->offset, "reason", json_text(row->reason));
}

static void print_row(const struct offline_row *row)
{
    fputs("    ", stdout);
    print_plain(row->id);
    fputs("  ", stdout);
    print_plain(row->status);
    fputs("  topic ", stdout);
    print_plain(row->topic.len ? row->topic : bytes_str("not known"));
    printf("  partition %lld  offset %lld  ", (long long)row->partition, (long long)row->offset);
    print_plain(row->reason);
    putchar('\n');
}

static void on_row(void *ctx, const struct offline_row *row)
{
    struct rows *rows = (struct rows *)ctx;

    if (rows->json) {
        json_array_append_new(rows->json, json_row(row));
    } else if (rows->count < LIST_LINES) {
        if (rows->count == 0)
            printf("\n  %s\n", rows->title);
        print_row(row);
    }
    rows->count++;
}

typedef int (*list_fn)(struct store *store, offline_row_fn each, void *ctx);

/* As an array, or as text when `json` is false (then NULL is returned). */
static json_t *list_rows(struct store *store, list_fn list, const char *title, bool json)
{
    struct rows rows = {.json = json ? json_array() : NULL, .title = title};

    if (list(store, on_row, &rows) != 0 && !json)
        printf("    the list ends here: %s\n", store_why(store));
    if (!json && rows.count > LIST_LINES)
        printf("    and %lld more; --json lists all\n", (long long)(rows.count - LIST_LINES));
    return rows.json;
}

static const char unconfirmed_title[] = "at-most-once rows that wait for their offset:";

/* --- check ----------------------------------------------------------------------------------- */

static const char *const kinds[] = {[SURVEY_EMPTY] = "nobody",
                                    [SURVEY_ORIGINAL] = "taskbroker",
                                    [SURVEY_TASKMILL] = "taskmill",
                                    [SURVEY_FOREIGN] = "another program"};
static const char *const migration_states[] = {[SURVEY_MISSING] = "missing",
                                               [SURVEY_APPLIED] = "applied",
                                               [SURVEY_DIFFERENT] = "different",
                                               [SURVEY_HALF_DONE] = "half done"};

static const char *auto_vacuum_name(int64_t mode)
{
    return mode == 0 ? "none" : mode == 1 ? "full" : "incremental";
}

static json_t *json_migrations(const struct survey *survey)
{
    json_t *all = json_array();

    for (int i = 0; i < SURVEY_MIGRATIONS; i++)
        json_array_append_new(all, json_pack("{s:i, s:s, s:s}", "version", i + 1, "description",
                                             survey_migration_name(i + 1), "state",
                                             migration_states[survey->migrations[i]]));
    return all;
}

static json_t *json_counts(const struct survey *survey)
{
    json_t *rows = json_object();

    for (int i = 0; i <= STORE_STATUS_UNKNOWN; i++)
        json_object_set_new(rows, survey_status_name((enum store_status)i),
                            json_integer(survey->rows[i]));
    return rows;
}

static json_t *json_topics(const struct survey *survey)
{
    json_t *topics = json_array();

    for (size_t i = 0; i < survey->topic_count; i++)
        json_array_append_new(topics, json_pack("{s:o, s:I}", "topic",
                                                json_text(bytes_str(survey->topics[i].name)),
                                                "records", (json_int_t)survey->topics[i].records));
    return topics;
}

static json_t *json_findings(const struct survey *survey)
{
    json_t *all = json_array();

    for (size_t i = 0; i < survey->finding_count; i++)
        json_array_append_new(all,
                              json_pack("{s:b, s:o, s:s}", "problem", survey->findings[i].problem,
                                        "what", json_text(bytes_str(survey->findings[i].what)),
                                        "do", survey->findings[i].remedy));
    return all;
}

static json_t *json_size(const struct survey *survey)
{
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "file_bytes", (json_int_t)survey->size.file_bytes,
        "used_bytes", (json_int_t)survey->size.used_bytes, "wal_bytes",
        (json_int_t)survey->size.wal_bytes, "page_size", (json_int_t)survey->page_size, "pages",
        (json_int_t)survey->pages, "free_pages", (json_int_t)survey->free_pages, "auto_vacuum",
        auto_vacuum_name(survey->auto_vacuum));
}

static void print_json(json_t *json)
{
    char *text = json_dumps(json, JSON_INDENT(2));

    puts(text);
    free(text); /* tidy: free, json_dumps allocated it */
    json_decref(json);
}

static void check_json(const struct request *request, struct store *store,
                       const struct survey *survey)
{
    json_t *unconfirmed = list_rows(store, offline_unconfirmed, "", true);
    json_t *bad = list_rows(store, offline_bad_rows, "", true);

    print_json(
        json_pack("{s:o, s:b, s:s, s:o, s:I, s:s, s:b, s:o, s:I, s:I, s:o, s:o, s:o, s:o, s:o}",
                  "file", json_text(bytes_str(request->path)), "sound", survey_sound(survey),
                  "written_by", kinds[survey->kind], "migrations", json_migrations(survey),
                  "taskmill_format", (json_int_t)survey->format, "store_id", survey->store_id,
                  "original_index", survey->index, "rows", json_counts(survey), "outbox",
                  (json_int_t)survey->outbox, "remembered_ids", (json_int_t)survey->done,
                  "embedded_log", json_topics(survey), "at_most_once_unconfirmed", unconfirmed,
                  "bad_rows", bad, "size", json_size(survey), "findings", json_findings(survey)));
}

static void print_schema(const struct survey *survey)
{
    int applied = 0;

    for (int i = 0; i < SURVEY_MIGRATIONS; i++)
        applied += survey->migrations[i] != SURVEY_MISSING;
    printf("  written by   %s", kinds[survey->kind]);
    if (survey->kind == SURVEY_TASKMILL)
        printf(", store %s, format %lld", survey->store_id, (long long)survey->format);
    printf("\n  migrations   %d of %d%s\n", applied, SURVEY_MIGRATIONS,
           applied == SURVEY_MIGRATIONS     ? ", with taskbroker's checksums"
           : survey->kind == SURVEY_FOREIGN ? ""
                                            : "; the next start applies the others");
    for (int i = 0; applied && i < SURVEY_MIGRATIONS; i++)
        if (survey->migrations[i] != SURVEY_APPLIED)
            printf("               %d, %s: %s\n", i + 1, survey_migration_name(i + 1),
                   migration_states[survey->migrations[i]]);
    if (applied)
        printf("  its index    %s\n", survey->index ? "there" : "not there");
}

static void print_content(const struct survey *survey)
{
    int64_t rows = 0;
    const char *between = ": ";

    for (int i = 0; i <= STORE_STATUS_UNKNOWN; i++)
        rows += survey->rows[i];
    printf("  rows         %lld", (long long)rows);
    for (int i = 0; i <= STORE_STATUS_UNKNOWN; i++)
        if (survey->rows[i]) {
            printf("%s%lld %s", between, (long long)survey->rows[i],
                   survey_status_name((enum store_status)i));
            between = ", ";
        }
    printf("\n  at most once %lld rows wait for their offset, %lld ended ids are remembered\n",
           (long long)survey->unconfirmed, (long long)survey->done);
    printf("  outbox       %lld messages\n", (long long)survey->outbox);
    for (size_t i = 0; i < survey->topic_count; i++)
        printf("  embedded log topic %s: %lld records\n", survey->topics[i].name,
               (long long)survey->topics[i].records);
}

static void print_size(const struct survey *survey)
{
    printf("  size         %llu bytes, %lld pages of %lld, %lld free; auto_vacuum %s; WAL %llu "
           "bytes\n",
           (unsigned long long)survey->size.file_bytes, (long long)survey->pages,
           (long long)survey->page_size, (long long)survey->free_pages,
           auto_vacuum_name(survey->auto_vacuum), (unsigned long long)survey->size.wal_bytes);
}

static void print_findings(const struct survey *survey)
{
    for (size_t i = 0; i < survey->finding_count; i++) {
        const struct survey_finding *finding = &survey->findings[i];
        printf("\n  %s: ", finding->problem ? "PROBLEM" : "note");
        print_plain(bytes_str(finding->what));
        if (*finding->remedy)
            printf("\n           do: %s", finding->remedy);
        putchar('\n');
    }
}

static void check_text(const struct request *request, struct store *store,
                       const struct survey *survey)
{
    printf("%s: %s\n", request->path, survey_sound(survey) ? "sound" : "NOT SOUND");
    print_schema(survey);
    print_content(survey);
    print_size(survey);
    print_findings(survey);
    if (survey->unconfirmed)
        list_rows(store, offline_unconfirmed, unconfirmed_title, false);
    if (survey->bad || survey->unserved)
        list_rows(store, offline_bad_rows, "rows that cannot run:", false);
}

static int check(struct request *request)
{
    struct store_options store_options = store_options_of(request);
    struct err_text why = {""};
    struct store *store;
    struct survey survey;

    if (offline_open(&store, &store_options, true, &why) != 0)
        return cli_error(&request->args, CLI_FAILED, "%s", why.s);
    offline_survey(store, &survey);
    clear_progress(request);
    if (request->json)
        check_json(request, store, &survey);
    else
        check_text(request, store, &survey);
    bool sound = survey_sound(&survey);
    survey_free(&survey);
    offline_close(store);
    return sound ? CLI_OK : CLI_FAILED;
}

/* --- migrate --------------------------------------------------------------------------------- */

static json_t *json_applied(unsigned migrations)
{
    json_t *applied = json_array();

    for (int i = 0; i < SURVEY_MIGRATIONS; i++)
        if (migrations & 1u << i)
            json_array_append_new(applied, json_integer(i + 1));
    return applied;
}

static void print_opening(const struct request *request, const struct store_opening *opening)
{
    if (request->json) {
        print_json(json_pack("{s:o, s:o, s:b, s:b}", "file", json_text(bytes_str(request->path)),
                             "migrations_applied", json_applied(opening->migrations), "tables_made",
                             opening->tables_made, "vacuumed", opening->vacuumed));
        return;
    }
    if (!opening->migrations && !opening->tables_made && !opening->vacuumed)
        printf("%s: is as it should be\n", request->path);
    for (int i = 0; i < SURVEY_MIGRATIONS; i++)
        if (opening->migrations & 1u << i)
            printf("%s: applied migration %d, %s\n", request->path, i + 1,
                   survey_migration_name(i + 1));
    if (opening->tables_made)
        printf("%s: made Taskmill's columns and tables\n", request->path);
    if (opening->vacuumed)
        printf("%s: vacuumed\n", request->path);
}

/* A path with a typing error must not become a new database. */
static int must_exist(const struct request *request, const struct store_options *store_options)
{
    struct err_text why = {""};
    struct store *store;

    if (offline_open(&store, store_options, false, &why) != 0)
        return cli_error(&request->args, CLI_FAILED, "%s", why.s);
    offline_close(store);
    return CLI_OK;
}

static int migrate(struct request *request)
{
    struct store_options store_options = store_options_of(request);
    struct err_text why = {""};
    struct store *store;
    int code = must_exist(request, &store_options);

    if (code != CLI_OK)
        return code;
    int rv = store_open(&store, &store_options, &why);
    clear_progress(request);
    if (rv)
        return cli_error(&request->args, CLI_FAILED, "%s", why.s);
    print_opening(request, store_opening(store));
    store_close(store);
    return CLI_OK;
}

/* --- give-back ------------------------------------------------------------------------------- */

static const char unconfirmed_meaning[] =
    "\nNo broker is known to have committed their offsets. If the group's committed offset is\n"
    "before them, the original reads them again: it drops the second copy while the first is\n"
    "stored, and runs the task a second time once the first has ended. Start the broker with its\n"
    "Kafka in reach until taskmill store check lists none, or go on with --yes.\n";

static void print_given_back(const char *path, const struct give_back *done)
{
    printf("%s: is the original's again\n", path);
    if (done->migrations_applied)
        printf("  %d migrations applied\n", done->migrations_applied);
    if (done->tables_removed)
        puts("  Taskmill's columns and tables removed");
    if (done->index_restored)
        puts("  its index restored");
    if (done->rows_to_deadletter)
        printf("  %lld rows that it could not read will go to the dead-letter topic\n",
               (long long)done->rows_to_deadletter);
    if (done->rows_corrected)
        printf("  %lld rows with numbers that it could not read corrected\n",
               (long long)done->rows_corrected);
    if (done->vacuumed)
        puts("  vacuumed");
}

static void give_back_json(const struct request *request, bool done, const char *reason,
                           const struct give_back *result, json_t *unconfirmed)
{
    print_json(json_pack("{s:o, s:b, s:s, s:i, s:b, s:b, s:I, s:I, s:b, s:o}", "file",
                         json_text(bytes_str(request->path)), "given_back", done, "reason", reason,
                         "migrations_applied", result->migrations_applied, "tables_removed",
                         result->tables_removed, "index_restored", result->index_restored,
                         "rows_to_deadletter", (json_int_t)result->rows_to_deadletter,
                         "rows_corrected", (json_int_t)result->rows_corrected, "vacuumed",
                         result->vacuumed, "at_most_once_unconfirmed", unconfirmed));
}

static int give_back(struct request *request)
{
    struct store_options store_options = store_options_of(request);
    struct err_text why = {""};
    struct give_back result;
    struct store *store;

    request->give_back.discard = request->discard;
    if (offline_open(&store, &store_options, false, &why) != 0)
        return cli_error(&request->args, CLI_FAILED, "%s", why.s);
    /* Asked before anything changes: afterwards nobody knows where they came from. */
    struct rows count = {.json = json_array()};
    bool listed = offline_unconfirmed(store, on_row, &count) == 0;
    int rv = offline_give_back(store, &request->give_back, &result, &why);
    clear_progress(request);
    bool undecided = rv == ERR_STATE && count.count && !request->give_back.accept_unconfirmed;
    if (!request->json && listed && undecided)
        list_rows(store, offline_unconfirmed, unconfirmed_title, false);
    if (!request->json && listed && undecided)
        fputs(unconfirmed_meaning, stdout);
    if (request->json)
        give_back_json(request, rv == 0, why.s, &result, json_incref(count.json));
    else if (rv == 0)
        print_given_back(request->path, &result);
    json_decref(count.json);
    offline_close(store);
    if (rv == 0)
        return CLI_OK;
    bool named = strncmp(why.s, "database ", strlen("database ")) == 0; /* the store's own errors */
    return named ? cli_error(&request->args, CLI_FAILED, "%s", why.s)
                 : cli_error(&request->args, CLI_FAILED, "%s: %s", request->path, why.s);
}

/* --- command line ---------------------------------------------------------------------------- */

static const struct verb {
    const char *name, *command;
    int (*run)(struct request *request);
} verbs[] = {
    {"check", "taskmill store check", check},
    {"migrate", "taskmill store migrate", migrate},
    {"give-back", "taskmill store give-back", give_back},
};

static int take_positional(struct request *request)
{
    const char *value = request->args.value;

    if (!request->verb)
        request->verb = value;
    else if (!request->path)
        request->path = value;
    else
        return cli_error(&request->args, CLI_USAGE, "one database, please; '%s' is too many",
                         value);
    return CLI_OK;
}

static int take_discard(struct request *request)
{
    if (request->give_back.discard_count == DISCARD_MAX)
        return cli_error(&request->args, CLI_USAGE, "at most %d topics can be discarded",
                         DISCARD_MAX);
    request->discard[request->give_back.discard_count++] = request->args.value;
    return CLI_OK;
}

static int run_verb(struct request *request)
{
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        if (!request->verb || strcmp(request->verb, verbs[i].name) != 0)
            continue;
        request->args.command = verbs[i].command;
        if (!request->path)
            return cli_error(&request->args, CLI_USAGE, "needs the path of a database");
        if (verbs[i].run != give_back &&
            (request->give_back.accept_unconfirmed || request->give_back.discard_count))
            return cli_error(&request->args, CLI_USAGE, "--yes and --discard belong to give-back");
        if (verbs[i].run != migrate && request->vacuum)
            return cli_error(&request->args, CLI_USAGE, "--vacuum belongs to migrate");
        return verbs[i].run(request);
    }
    return cli_error(&request->args, CLI_USAGE, "knows check, migrate and give-back%s%s",
                     request->verb ? ", not " : "", request->verb ? request->verb : "");
}

int cmd_store(int argc, char **argv)
{
    struct request request = {.args = cli_args_init("taskmill store", argc, argv)};
    int option, code = CLI_OK;

    while (code == CLI_OK && (option = cli_next(&request.args, options)) != CLI_END) {
        if (option == CLI_HELP)
            return fputs(help, stdout) < 0 ? CLI_FAILED : CLI_OK;
        if (option == CLI_BAD)
            return CLI_USAGE;
        if (option == OPT_JSON)
            request.json = true;
        else if (option == OPT_VACUUM)
            request.vacuum = true;
        else if (option == OPT_YES)
            request.give_back.accept_unconfirmed = true;
        else
            code = option == OPT_DISCARD ? take_discard(&request) : take_positional(&request);
    }
    return code == CLI_OK ? run_verb(&request) : code;
}
