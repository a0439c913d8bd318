/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program with libtaskmill that sends tasks to Python, for test_interchange.py:
 *
 *     interchange_send broker HOST:PORT
 *     interchange_send kafka HOST:PORT TOPIC
 *     interchange_send neighbour HOST:PORT      one task of another application, to Kafka
 *
 * Every task carries the header "case", by which the test knows it, and "hook-c" of our context
 * hook. Prints the id of the first one.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <taskmill.h>

#define BULK      200
#define NO_WAIT   200
#define LARGE_LEN 3500000

static void check(int rv, const char *what)
{
    if (rv == 0)
        return;
    fprintf(stderr, "%s: %s\n", what, taskmill_last_error());
    exit(1);
}

static int on_dispatch(void *arg, struct taskmill_headers *headers)
{
    (void)arg;
    return taskmill_headers_set(headers, "hook-c", "sent");
}

static void declare(struct taskmill_app *app)
{
    const struct taskmill_retry_policy policy = {
        .times = 3, .delay_s = 1, .times_exceeded = TASKMILL_DEADLETTER};
    struct taskmill_namespace *py = taskmill_namespace(app, "py", .processing_deadline_s = 20);

    check(taskmill_context_hook(app, .on_dispatch = on_dispatch), "hook");
    check(taskmill_task(py, "record", NULL), "record");
    check(taskmill_task(py, "zstd", NULL, .compress = true), "zstd");
    check(taskmill_task(py, "once", NULL, .at_most_once = true), "once");
    check(taskmill_task(py, "third", NULL, .retry = policy), "third");
    check(taskmill_task(py, "again", NULL, .retry = policy), "again");
}

static void send(struct taskmill_app *app, const char *task, const char *name,
                 struct taskmill_params *params, uint32_t countdown_s, char *id)
{
    const struct taskmill_header headers[] = {{"case", name}, {"note", "a=b ü"}};

    check(taskmill_send(app, "py", task, params, .countdown_s = countdown_s, .headers = headers,
                        .header_count = 2, .id = id),
          name);
}

/* One of each kind, and at the edges. */
static struct taskmill_params *all_kinds(void)
{
    struct taskmill_params *p = taskmill_params_new();

    taskmill_params_null(p);
    taskmill_params_bool(p, true);
    taskmill_params_bool(p, false);
    taskmill_params_int(p, 0);
    taskmill_params_int(p, -1);
    taskmill_params_int(p, INT64_MIN);
    taskmill_params_int(p, INT64_MAX);
    taskmill_params_uint(p, UINT64_MAX);
    taskmill_params_double(p, 0.1);
    taskmill_params_double(p, -0.0);
    taskmill_params_double(p, 1e308);
    taskmill_params_str(p, "");
    taskmill_params_str(p, "grün 😀");
    taskmill_params_bytes(p, "\0\1\xff", 3);
    taskmill_params_array(p);
    taskmill_params_int(p, 1);
    taskmill_params_array(p);
    taskmill_params_end(p);
    taskmill_params_map(p);
    taskmill_params_kw_str(p, "in", "side");
    taskmill_params_end(p);
    taskmill_params_end(p);
    taskmill_params_kw_null(p, "nothing");
    taskmill_params_kw_bool(p, "yes", true);
    taskmill_params_kw_int(p, "int", -32769);
    taskmill_params_kw_uint(p, "uint", UINT64_MAX);
    taskmill_params_kw_double(p, "double", 2.0);
    taskmill_params_kw_str(p, "schlüssel", "wert");
    taskmill_params_kw_bytes(p, "bytes", "", 0);
    taskmill_params_kw_array(p, "array");
    taskmill_params_null(p);
    taskmill_params_end(p);
    taskmill_params_kw_map(p, "map");
    taskmill_params_kw_map(p, "deeper");
    taskmill_params_end(p);
    taskmill_params_end(p);
    return p;
}

static struct taskmill_params *number(int64_t value)
{
    struct taskmill_params *p = taskmill_params_new();

    taskmill_params_int(p, value);
    return p;
}

static void send_large(struct taskmill_app *app)
{
    struct taskmill_params *p = taskmill_params_new();
    char *text = malloc(LARGE_LEN + 1);

    if (text == NULL)
        exit(1);
    memset(text, 'x', LARGE_LEN);
    text[LARGE_LEN] = '\0';
    taskmill_params_str(p, text);
    send(app, "record", "large", p, 0, NULL);
    free(text);
}

static void send_bulk(struct taskmill_app *app)
{
    const struct taskmill_header header = {"case", "bulk"};
    struct taskmill_bulk *bulk = taskmill_bulk_new(app);

    for (int i = 0; i < BULK; i++)
        check(taskmill_bulk_add(bulk, "py", "record", number(i), .headers = &header,
                                .header_count = 1),
              "bulk");
    check(taskmill_bulk_send(bulk), "bulk");
    taskmill_bulk_free(bulk);
}

static void send_no_wait(struct taskmill_app *app)
{
    const struct taskmill_header header = {"case", "no wait"};

    for (int i = 0; i < NO_WAIT; i++)
        check(taskmill_send(app, "py", "record", number(i), .headers = &header, .header_count = 1,
                            .no_wait = true),
              "no wait");
    check(taskmill_flush(app, 20), "flush");
}

/* To the topic that the environment names for "neighbour:ext". */
static void send_to_neighbour(const char *kafka)
{
    const struct taskmill_header header = {"case", "from c"};
    struct taskmill_app *app = taskmill_app_new("interchange", .kafka = kafka);
    struct taskmill_namespace *ext;

    if (app == NULL)
        check(-1, "application");
    ext = taskmill_external_namespace(app, "ext", "neighbour", .processing_deadline_s = 20);
    check(taskmill_task(ext, "record", NULL), "record");
    check(taskmill_send(app, "ext", "record", number(1), .application = "neighbour",
                        .headers = &header, .header_count = 1),
          "neighbour");
    taskmill_app_free(app);
}

int main(int argc, char **argv)
{
    bool to_kafka = argc == 4 && strcmp(argv[1], "kafka") == 0;
    char id[TASKMILL_ID_SIZE];
    struct taskmill_app *app;

    if (argc == 3 && strcmp(argv[1], "neighbour") == 0) {
        send_to_neighbour(argv[2]);
        return 0;
    }
    if (!to_kafka && (argc != 3 || strcmp(argv[1], "broker") != 0))
        return 2;
    app = to_kafka ? taskmill_app_new("interchange", .kafka = argv[2], .topic = argv[3])
                   : taskmill_app_new("interchange", .broker = argv[2]);
    if (app == NULL)
        check(-1, "application");
    declare(app);
    send(app, "record", "kinds", all_kinds(), 0, id);
    send(app, "record", "nothing", NULL, 0, NULL);
    send(app, "record", "countdown", NULL, 1, NULL);
    send(app, "zstd", "zstd", all_kinds(), 0, NULL);
    send(app, "once", "once", number(1), 0, NULL);
    send(app, "third", "third", number(3), 0, NULL);
    send(app, "again", "again", number(4), 0, NULL);
    send_large(app);
    send_bulk(app);
    send_no_wait(app);
    taskmill_app_free(app);
    puts(id);
    return 0;
}
