/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/schedules_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml.h>

#include "base/map.h"
#include "base/mem.h"
#include "scheduler/yaml_json.h"
#include "wire/params.h"

/* 2100-01-01: by then each zone has the rules that it keeps. */
#define LASTING_RULES_S 4102444800

struct reader {
    yaml_document_t *document;
    const char *name;
    const char *zone_folder;
    struct schedules *out;
    struct schedules_entry *entry; /* that is being read, or NULL */
    struct err_text *why;
    /* of the entry, until all of it is known */
    struct buf args, kwargs;
    const yaml_node_t *schedule, *timezone;
};

__attribute__((format(printf, 3, 4))) static int
fault(const struct reader *r, const yaml_node_t *node, const char *fmt, ...)
{
    struct err_text text;
    va_list ap;

    va_start(ap, fmt);
    err_setv(&text, 0, fmt, ap);
    va_end(ap);
    return err_set(r->why, ERR_INVALID, "%s:%zu: %s%s%s%s", r->name,
                   node ? node->start_mark.line + 1 : (size_t)1, r->entry ? "entry " : "",
                   r->entry ? r->entry->key : "", r->entry ? ": " : "", text.s);
}

static yaml_node_t *node_at(const struct reader *r, int index)
{
    return yaml_document_get_node(r->document, index);
}

/* NULL if the node is no scalar or holds a NUL. */
static const char *text_of(const yaml_node_t *node)
{
    const char *text;

    if (node->type != YAML_SCALAR_NODE)
        return NULL;
    text = (const char *)node->data.scalar.value;
    return strlen(text) == node->data.scalar.length ? text : NULL;
}

/* Calls `each` with every pair of a map; a key that is there twice is an error. */
typedef int (*pair_fn)(struct reader *r, const char *key, const yaml_node_t *value);

static int read_pair(struct reader *r, const yaml_node_pair_t *pair, const char *what,
                     struct map *seen, struct map_node *node, pair_fn each)
{
    const yaml_node_t *key = node_at(r, pair->key);
    const char *name = text_of(key);

    if (name == NULL || name[0] == '\0')
        return fault(r, key, "%s: a key must be a text", what);
    if (map_find(seen, bytes_str(name)))
        return fault(r, key, "%s: the key %s is there twice", what, name);
    map_insert(seen, node, bytes_str(name));
    return each(r, name, node_at(r, pair->value));
}

static int each_pair(struct reader *r, const yaml_node_t *map, const char *what, pair_fn each)
{
    static const uint64_t seed[2] = {0, 0}; /* the file is the operator's own */
    struct map_node *nodes;
    struct map seen;
    size_t count;
    int rv = 0;

    if (map->type != YAML_MAPPING_NODE)
        return fault(r, map, "%s must be a map of key: value", what);
    count = (size_t)(map->data.mapping.pairs.top - map->data.mapping.pairs.start);
    nodes = mem_calloc(count + 1, sizeof(*nodes));
    map_init(&seen, seed);
    for (size_t i = 0; rv == 0 && i < count; i++)
        rv = read_pair(r, &map->data.mapping.pairs.start[i], what, &seen, &nodes[i], each);
    map_free(&seen);
    mem_free(nodes);
    return rv;
}

/* --- values ----------------------------------------------------------------------------------- */

static int read_number(const struct reader *r, const char *key, const yaml_node_t *value,
                       uint32_t min, uint32_t max, uint32_t *out)
{
    const char *c = text_of(value);
    uint64_t number = 0;
    bool ok = c != NULL && c[0] != '\0';

    for (; ok && *c != '\0'; c++) {
        ok = *c >= '0' && *c <= '9' && number <= UINT32_MAX;
        number = number * 10 + (uint64_t)(*c - '0');
    }
    if (!ok || number < min || number > max)
        return fault(r, value, "%s must be a whole number from %u to %u", key, min, max);
    *out = (uint32_t)number;
    return 0;
}

static int read_bool(const struct reader *r, const char *key, const yaml_node_t *value, bool *out)
{
    const char *text = text_of(value);

    if (text == NULL || (strcmp(text, "true") != 0 && strcmp(text, "false") != 0))
        return fault(r, value, "%s is true or false", key);
    *out = text[0] == 't';
    return 0;
}

static int64_t unit_s(char unit)
{
    switch (unit) {
    case 's':
        return 1;
    case 'm':
        return 60;
    case 'h':
        return 3600;
    case 'd':
        return 86400;
    case 'w':
        return 7 * 86400;
    default:
        return 0;
    }
}

/* 5m, 1h30m; false if it is none or too long. */
static bool parse_duration(const char *text, int64_t *out)
{
    int64_t total = 0;

    while (*text != '\0') {
        int64_t number = 0;
        const char *start = text;

        for (; *text >= '0' && *text <= '9' && number <= SCHEDULE_INTERVAL_MAX_S; text++)
            number = number * 10 + (*text - '0');
        if (text == start || unit_s(*text) == 0)
            return false;
        total += number * unit_s(*text++);
        if (total > SCHEDULE_INTERVAL_MAX_S)
            return false;
    }
    *out = total;
    return total > 0;
}

static int read_timedelta(struct reader *r, const yaml_node_t *value)
{
    const char *text = text_of(value);

    if (text == NULL || !parse_duration(text, &r->entry->schedule.interval_s))
        return fault(r, value,
                     "timedelta must be whole seconds, at least 1, with units: 30s, 5m, 1h30m, 2d, "
                     "1w");
    return 0;
}

static int read_headers_pair(struct reader *r, const char *key, const yaml_node_t *value)
{
    struct schedules_entry *entry = r->entry;
    const char *text = text_of(value);

    if (text == NULL)
        return fault(r, value, "header %s must be a text", key);
    if (strncmp(key, "sentry-monitor-", 15) == 0 || strcmp(key, "sentry-propagate-traces") == 0 ||
        strcmp(key, "compression-type") == 0)
        return fault(r, value, "header %s is set by the scheduler; remove it", key);
    if (entry->header_count == SCHEDULES_HEADERS_MAX)
        return fault(r, value, "more than %d headers", SCHEDULES_HEADERS_MAX);
    if (entry->headers == NULL)
        entry->headers = mem_calloc(SCHEDULES_HEADERS_MAX, sizeof(*entry->headers));
    entry->headers[entry->header_count++] =
        (struct taskmill_header){.key = mem_strdup(key), .value = mem_strdup(text)};
    return 0;
}

static int read_retry_pair(struct reader *r, const char *key, const yaml_node_t *value)
{
    struct taskmill_retry_policy *policy = &r->entry->retry;
    const char *text = text_of(value);

    if (strcmp(key, "times") == 0)
        return read_number(r, "retry times (attempts in all)", value, 1, INT32_MAX, &policy->times);
    if (strcmp(key, "delay") == 0)
        return read_number(r, "retry delay", value, 0, UINT32_MAX, &policy->delay_s);
    if (strcmp(key, "times_exceeded") != 0)
        return fault(r, value, "retry has no key %s; it has times, delay, times_exceeded", key);
    if (text != NULL && strcmp(text, "deadletter") == 0)
        policy->times_exceeded = TASKMILL_DEADLETTER;
    else if (text == NULL || strcmp(text, "discard") != 0)
        return fault(r, value, "times_exceeded is deadletter or discard");
    return 0;
}

static int read_missed(struct reader *r, const yaml_node_t *value)
{
    static const char *const names[] = {[SCHEDULE_MISSED_ONE] = "one",
                                        [SCHEDULE_MISSED_SKIP] = "skip",
                                        [SCHEDULE_MISSED_ALL] = "all"};
    const char *text = text_of(value);

    for (unsigned i = 0; text != NULL && i < 3; i++)
        if (strcmp(text, names[i]) == 0) {
            r->entry->schedule.missed = (enum schedule_missed)i;
            return 0;
        }
    return fault(r, value, "missed is one, skip or all");
}

static int read_task(struct reader *r, const yaml_node_t *value)
{
    const char *text = text_of(value), *colon = text ? strchr(text, ':') : NULL;

    if (colon == NULL || colon == text || colon[1] == '\0' || strchr(colon + 1, ':'))
        return fault(r, value, "task must be written as namespace:name");
    r->entry->namespace = mem_strndup(text, (size_t)(colon - text));
    r->entry->task = mem_strdup(colon + 1);
    return 0;
}

static int read_parameters(struct reader *r, const char *key, const yaml_node_t *value,
                           yaml_node_type_t type, struct buf *json)
{
    struct err_text text = {{0}};
    size_t line = 0;

    if (value->type != type)
        return fault(r, value, "%s must be a %s", key,
                     type == YAML_SEQUENCE_NODE ? "list" : "map of name: value");
    if (yaml_to_json(r->document, value, json, &line, &text))
        return err_set(r->why, ERR_INVALID, "%s:%zu: entry %s: %s: %s", r->name, line,
                       r->entry->key, key, text.s);
    return 0;
}

/* --- schedules -------------------------------------------------------------------------------- */

struct crontab_reader {
    struct reader reader; /* first, so that a pair_fn finds its way back */
    struct crontab_words words;
};

static int read_crontab_word(struct reader *r, const char *key, const yaml_node_t *value)
{
    struct crontab_words *words = &((struct crontab_reader *)r)->words;
    const struct {
        const char *name;
        struct bytes *word;
    } known[] = {{"minute", &words->minute},
                 {"hour", &words->hour},
                 {"day_of_week", &words->day_of_week},
                 {"day_of_month", &words->day_of_month},
                 {"month_of_year", &words->month_of_year}};
    const char *text = text_of(value);

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (strcmp(key, known[i].name) == 0) {
            if (text == NULL)
                return fault(r, value, "crontab %s must be a text or a number", key);
            *known[i].word = bytes_str(text);
            return 0;
        }
    return fault(r, value,
                 "crontab has no key %s; it has minute, hour, day_of_week, day_of_month, "
                 "month_of_year",
                 key);
}

static int read_crontab(struct reader *r, const yaml_node_t *value)
{
    struct crontab *crontab = &r->entry->schedule.crontab;
    struct crontab_reader words = {.reader = *r};
    struct err_text text = {{0}};
    int rv;

    r->entry->schedule.kind = SCHEDULE_CRONTAB;
    if (value->type == YAML_MAPPING_NODE) {
        rv = each_pair(&words.reader, value, "crontab", read_crontab_word);
        if (rv)
            return rv;
        rv = crontab_of_words(crontab, &words.words, &text);
    } else {
        if (text_of(value) == NULL)
            return fault(r, value, "crontab must be a text like \"30 2 * * 1-5\", or a map");
        rv = crontab_parse(crontab, bytes_str(text_of(value)), &text);
    }
    return rv ? fault(r, value, "%s", text.s) : 0;
}

static int read_schedule_pair(struct reader *r, const char *key, const yaml_node_t *value)
{
    uint32_t seconds = 0;
    int rv;

    if (strcmp(key, "timedelta") == 0)
        return read_timedelta(r, value);
    if (strcmp(key, "crontab") == 0)
        return read_crontab(r, value);
    if (strcmp(key, "seconds") != 0)
        return fault(r, value, "a schedule has no key %s; it has timedelta, seconds or crontab",
                     key);
    rv = read_number(r, "seconds", value, 1, UINT32_MAX, &seconds);
    r->entry->schedule.interval_s = seconds;
    return rv;
}

static int read_schedule(struct reader *r, const yaml_node_t *value)
{
    if (value->type == YAML_MAPPING_NODE &&
        value->data.mapping.pairs.top - value->data.mapping.pairs.start != 1)
        return fault(r, value, "schedule takes one of timedelta, seconds, crontab");
    return each_pair(r, value, "schedule", read_schedule_pair);
}

/* The zone of that name, read once for all entries. */
static int find_zone(struct reader *r, const char *name, const struct zone **out)
{
    struct schedules *s = r->out;
    int rv;

    for (size_t i = 0; i < s->zone_count; i++)
        if (strcmp(zone_name(s->zones[i]), name) == 0) {
            *out = s->zones[i];
            return 0;
        }
    s->zones = mem_realloc(s->zones, (s->zone_count + 1) * sizeof(struct zone *));
    rv = zone_read(&s->zones[s->zone_count], r->zone_folder, bytes_str(name), r->why);
    if (rv)
        return rv;
    *out = s->zones[s->zone_count++];
    return 0;
}

static int apply_timezone(struct reader *r)
{
    struct schedule *schedule = &r->entry->schedule;
    const char *name = text_of(r->timezone);
    int rv;

    if (name == NULL)
        return fault(r, r->timezone, "timezone must be a name like Europe/Berlin");
    if (schedule->kind != SCHEDULE_CRONTAB)
        return fault(r, r->timezone, "timezone is for crontabs; an interval has none");
    if (zone_is_utc(bytes_str(name)))
        return 0;
    rv = find_zone(r, name, &schedule->zone);
    if (rv)
        return err_set(r->why, rv, "%s:%zu: entry %s: %s", r->name,
                       r->timezone->start_mark.line + 1, r->entry->key, r->why ? r->why->s : "");
    if (crontab_next(&schedule->crontab, schedule->zone, LASTING_RULES_S) == CRONTAB_NEVER)
        return fault(r, r->schedule,
                     "crontab \"%s\" never matches in %s: the clocks skip that time",
                     schedule->crontab.text, name);
    return 0;
}

/* --- entries ---------------------------------------------------------------------------------- */

static int read_entry_pair(struct reader *r, const char *key, const yaml_node_t *value)
{
    struct schedules_entry *entry = r->entry;

    if (strcmp(key, "task") == 0)
        return read_task(r, value);
    if (strcmp(key, "schedule") == 0) {
        r->schedule = value;
        return read_schedule(r, value);
    }
    if (strcmp(key, "timezone") == 0) {
        r->timezone = value;
        return 0;
    }
    if (strcmp(key, "missed") == 0)
        return read_missed(r, value);
    if (strcmp(key, "missed_limit") == 0)
        return read_number(r, key, value, 1, SCHEDULE_MISSED_LIMIT_MAX,
                           &entry->schedule.missed_limit);
    if (strcmp(key, "args") == 0)
        return read_parameters(r, key, value, YAML_SEQUENCE_NODE, &r->args);
    if (strcmp(key, "kwargs") == 0)
        return read_parameters(r, key, value, YAML_MAPPING_NODE, &r->kwargs);
    if (strcmp(key, "headers") == 0)
        return each_pair(r, value, key, read_headers_pair);
    if (strcmp(key, "processing_deadline") == 0)
        return read_number(r, key, value, 1, UINT32_MAX, &entry->processing_deadline_s);
    if (strcmp(key, "expires") == 0)
        return read_number(r, key, value, 1, UINT32_MAX, &entry->expires_s);
    if (strcmp(key, "retry") == 0)
        return each_pair(r, value, key, read_retry_pair);
    if (strcmp(key, "at_most_once") == 0)
        return read_bool(r, key, value, &entry->at_most_once);
    return fault(r, value,
                 "unknown key %s; an entry has task, schedule, timezone, missed, missed_limit, "
                 "args, kwargs, headers, processing_deadline, expires, retry, at_most_once",
                 key);
}

/* What no pair alone can tell. */
static int check_entry(struct reader *r, const yaml_node_t *node)
{
    struct schedules_entry *entry = r->entry;

    if (entry->task == NULL)
        return fault(r, node, "it has no task");
    if (r->schedule == NULL)
        return fault(r, node, "it has no schedule");
    if (entry->at_most_once && (entry->retry.times || entry->retry.delay_s))
        return fault(r, node, "at_most_once and retry exclude each other");
    if (entry->retry.times == 0 && (entry->retry.delay_s || entry->retry.times_exceeded))
        return fault(r, node, "retry needs times");
    return r->timezone ? apply_timezone(r) : 0;
}

static int set_params(struct reader *r, const yaml_node_t *node)
{
    struct buf json = {0}, packed = {0};
    const char *reason = "";
    int rv;

    buf_printf(&json, "{\"args\": %s, \"kwargs\": %s}", r->args.len ? buf_cstr(&r->args) : "[]",
               r->kwargs.len ? buf_cstr(&r->kwargs) : "{}");
    rv = params_from_json(buf_bytes(&json), &packed, &reason);
    if (rv)
        rv = fault(r, node, "its args or kwargs cannot be sent: %s", reason);
    else
        r->entry->params = mem_strndup(json.ptr, json.len);
    buf_free(&json);
    buf_free(&packed);
    return rv;
}

static void set_id(struct schedules_entry *entry)
{
    struct buf id = {0};

    schedule_id(&entry->schedule, &id);
    entry->id = mem_strndup(id.ptr, id.len);
    buf_free(&id);
}

static int read_entry(struct reader *r, const char *key, const yaml_node_t *value)
{
    struct schedules *out = r->out;
    int rv;

    if (out->count == SCHEDULES_MAX)
        return fault(r, value, "more than %d entries", SCHEDULES_MAX);
    if (strlen(key) > SCHEDULES_KEY_MAX)
        return fault(r, value, "an entry's key is longer than %d bytes", SCHEDULES_KEY_MAX);
    r->entry = &out->entries[out->count++];
    r->entry->key = mem_strdup(key);
    r->entry->line = (uint32_t)value->start_mark.line + 1;
    r->entry->schedule.missed_limit = SCHEDULE_MISSED_LIMIT_DEFAULT;
    r->schedule = r->timezone = NULL;
    buf_clear(&r->args);
    buf_clear(&r->kwargs);
    rv = each_pair(r, value, "the entry", read_entry_pair);
    rv = rv ? rv : check_entry(r, value);
    rv = rv ? rv : set_params(r, value);
    if (rv == 0)
        set_id(r->entry);
    r->entry = NULL;
    return rv;
}

/* --- the file --------------------------------------------------------------------------------- */

static int read_top_pair(struct reader *r, const char *key, const yaml_node_t *value)
{
    if (strcmp(key, "application") == 0) {
        const char *text = text_of(value);

        if (text == NULL || text[0] == '\0')
            return fault(r, value, "application must be a name");
        r->out->application = mem_strdup(text);
        return 0;
    }
    if (strcmp(key, "schedules") != 0)
        return fault(r, value, "there is no key %s, only application and schedules", key);
    if (value->type == YAML_MAPPING_NODE && r->out->entries == NULL)
        r->out->entries = mem_calloc(
            (size_t)(value->data.mapping.pairs.top - value->data.mapping.pairs.start) + 1,
            sizeof(*r->out->entries));
    return each_pair(r, value, "schedules", read_entry);
}

static int read_document(struct reader *r)
{
    const yaml_node_t *root = yaml_document_get_root_node(r->document);
    int rv;

    if (root == NULL)
        return fault(r, NULL, "the file is empty; it needs application and schedules");
    rv = each_pair(r, root, "the file", read_top_pair);
    if (rv)
        return rv;
    if (r->out->application == NULL)
        return fault(r, root, "application is missing: whose tasks these are");
    if (r->out->count == 0)
        return fault(r, root, "there are no schedules");
    return 0;
}

static int not_yaml(const yaml_parser_t *parser, const char *name, struct err_text *why)
{
    const char *context = parser->context ? parser->context : "";

    return err_set(
        why, ERR_MALFORMED, "%s:%zu: not YAML: %s%s%s%s", name, parser->problem_mark.line + 1,
        parser->problem ? parser->problem : "unreadable", context[0] ? ", " : "", context,
        strstr(context, "alias") ? " (a text that begins with * needs quotes: \"*/5 * * * *\")"
                                 : "");
}

static int load(struct reader *r, struct bytes text)
{
    yaml_document_t document;
    yaml_parser_t parser;
    int rv;

    if (!yaml_parser_initialize(&parser))
        return err_set(r->why, ERR_SYSTEM, "%s: out of memory", r->name);
    yaml_parser_set_input_string(&parser, text.ptr ? text.ptr : (const uint8_t *)"", text.len);
    if (yaml_parser_load(&parser, &document)) {
        r->document = &document;
        rv = read_document(r);
        r->document = NULL;
        yaml_document_delete(&document);
    } else {
        rv = not_yaml(&parser, r->name, r->why);
    }
    yaml_parser_delete(&parser);
    return rv;
}

int schedules_parse(struct schedules **out, const char *name, struct bytes text,
                    const char *zone_folder, struct err_text *why)
{
    struct err_text unwanted;
    struct reader reader = {.name = name, .zone_folder = zone_folder, .why = why ? why : &unwanted};
    int rv;

    if (text.len > SCHEDULES_FILE_MAX)
        return err_set(why, ERR_TOO_LARGE, "%s: larger than %d MiB", name,
                       SCHEDULES_FILE_MAX >> 20);
    reader.out = mem_zalloc(sizeof(*reader.out));
    rv = load(&reader, text);
    buf_free(&reader.args);
    buf_free(&reader.kwargs);
    if (rv)
        schedules_free(reader.out);
    else
        *out = reader.out;
    return rv;
}

static int read_all(int fd, struct buf *text)
{
    ssize_t got = 1;

    while (got > 0 && text->len <= SCHEDULES_FILE_MAX) {
        buf_reserve(text, 65536);
        got = read(fd, text->ptr + text->len, text->cap - text->len);
        text->len += got > 0 ? (size_t)got : 0;
    }
    return got < 0 ? ERR_IO : 0;
}

int schedules_read(struct schedules **out, const char *path, struct err_text *why)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct buf text = {0};
    struct stat about;
    int rv;

    if (fd < 0)
        return err_set(why,
                       errno == ENOENT   ? ERR_NOT_FOUND
                       : errno == EACCES ? ERR_DENIED
                                         : ERR_IO,
                       "schedules %s: %s; give a file by --schedules", path, strerror(errno));
    if (fstat(fd, &about) || !S_ISREG(about.st_mode))
        rv = err_set(why, ERR_INVALID, "%s: not a regular file", path);
    else if (read_all(fd, &text))
        rv = err_set(why, ERR_IO, "%s: %s", path, strerror(errno));
    else
        rv = schedules_parse(out, path, buf_bytes(&text), NULL, why);
    close(fd);
    buf_free(&text);
    return rv;
}

static void free_entry(struct schedules_entry *entry)
{
    for (size_t i = 0; i < entry->header_count; i++) {
        mem_free((char *)(uintptr_t)entry->headers[i].key);
        mem_free((char *)(uintptr_t)entry->headers[i].value);
    }
    mem_free(entry->headers);
    mem_free(entry->key);
    mem_free(entry->namespace);
    mem_free(entry->task);
    mem_free(entry->id);
    mem_free(entry->params);
}

void schedules_free(struct schedules *schedules)
{
    if (schedules == NULL)
        return;
    for (size_t i = 0; i < schedules->count; i++)
        free_entry(&schedules->entries[i]);
    for (size_t i = 0; i < schedules->zone_count; i++)
        zone_free(schedules->zones[i]);
    mem_free(schedules->zones);
    mem_free(schedules->entries);
    mem_free(schedules->application);
    mem_free(schedules);
}
