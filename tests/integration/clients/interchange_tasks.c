/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tasks that Taskmill runs for test_interchange.py: the C half of interchange_app.py, whose comment
 * tells what a line of $INTERCHANGE_RESULTS holds. Here the headers are those called "case" and
 * "note"; "hook" is what our context hook found in the header "hook-python".
 */
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <taskmill.h>

/* --- values as JSON -------------------------------------------------------------------------- */

static void put_text(FILE *out, const unsigned char *text, size_t len)
{
    fputc('"', out);
    for (size_t i = 0; i < len; i++) {
        if (text[i] < 0x20 || text[i] == '"' || text[i] == '\\')
            fprintf(out, "\\u%04x", text[i]);
        else
            fputc(text[i], out);
    }
    fputc('"', out);
}

static void put_bytes(FILE *out, const unsigned char *data, size_t len)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    fputs("{\"$bytes\":\"", out);
    for (size_t i = 0; i < len; i += 3) {
        uint32_t bits = (uint32_t)data[i] << 16;

        if (i + 1 < len)
            bits |= (uint32_t)data[i + 1] << 8;
        if (i + 2 < len)
            bits |= data[i + 2];
        fputc(digits[bits >> 18], out);
        fputc(digits[bits >> 12 & 63], out);
        fputc(i + 1 < len ? digits[bits >> 6 & 63] : '=', out);
        fputc(i + 2 < len ? digits[bits & 63] : '=', out);
    }
    fputs("\"}", out);
}

static void put_double(FILE *out, double value)
{
    if (isnan(value))
        fputs("{\"$float\":\"nan\"}", out);
    else if (isinf(value))
        fprintf(out, "{\"$float\":\"%s\"}", value < 0 ? "-inf" : "inf");
    else
        fprintf(out, "%.16e", value);
}

static void put_int(FILE *out, const struct taskmill_value *value)
{
    uint64_t large;
    int64_t number;

    if (taskmill_value_int(value, &number) == 0)
        fprintf(out, "%" PRId64, number);
    else if (taskmill_value_uint(value, &large) == 0)
        fprintf(out, "%" PRIu64, large);
}

static void put_raw(FILE *out, const struct taskmill_value *value,
                    void (*put)(FILE *out, const unsigned char *data, size_t len))
{
    const void *data;
    size_t len;

    if (taskmill_value_bytes(value, &data, &len) == 0)
        put(out, (const unsigned char *)data, len);
}

static void put_value(FILE *out, const struct taskmill_value *value);

static void put_container(FILE *out, const struct taskmill_value *value, bool map)
{
    struct taskmill_value item;

    fputc(map ? '{' : '[', out);
    for (size_t i = 0; i < taskmill_value_count(value); i++) {
        if (i > 0)
            fputc(',', out);
        if (map && taskmill_value_key(value, i, &item) == 0) {
            put_raw(out, &item, put_text);
            fputc(':', out);
        }
        if (taskmill_value_at(value, i, &item) == 0)
            put_value(out, &item);
    }
    fputc(map ? '}' : ']', out);
}

/* What cannot be read leaves a gap, and the line is then no JSON: the test tells. */
static void put_value(FILE *out, const struct taskmill_value *value)
{
    double number;
    bool truth;

    switch (taskmill_value_type(value)) {
    case TASKMILL_NULL:
        fputs("null", out);
        break;
    case TASKMILL_BOOL:
        if (taskmill_value_bool(value, &truth) == 0)
            fputs(truth ? "true" : "false", out);
        break;
    case TASKMILL_INT:
        put_int(out, value);
        break;
    case TASKMILL_DOUBLE:
        if (taskmill_value_double(value, &number) == 0)
            put_double(out, number);
        break;
    case TASKMILL_STR:
        put_raw(out, value, put_text);
        break;
    case TASKMILL_BYTES:
        put_raw(out, value, put_bytes);
        break;
    case TASKMILL_ARRAY:
        put_container(out, value, false);
        break;
    case TASKMILL_MAP:
        put_container(out, value, true);
        break;
    case TASKMILL_EXT:
        break;
    }
}

/* --- the line -------------------------------------------------------------------------------- */

static void put_header(FILE *out, struct taskmill_call *call, const char *key)
{
    const char *value = taskmill_call_header(call, key);

    fprintf(out, "\"%s\":", key);
    if (value == NULL)
        fputs("null", out);
    else
        put_text(out, (const unsigned char *)value, strlen(value));
}

static char hook_saw[16]; /* while a task runs */

static void put_line(FILE *out, struct taskmill_call *call)
{
    struct taskmill_value args = taskmill_args(call), kwargs = taskmill_kwargs(call);
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    fprintf(out, "{\"runner\":\"c\",\"task\":\"%s:%s\",\"id\":\"%s\",\"attempt\":%" PRIu32,
            taskmill_call_namespace(call), taskmill_call_task(call), taskmill_call_id(call),
            taskmill_call_attempt(call));
    fprintf(out, ",\"left\":%s,\"at\":%lld.%09ld,\"headers\":{",
            taskmill_call_retries_left(call) ? "true" : "false", (long long)now.tv_sec,
            now.tv_nsec);
    put_header(out, call, "case");
    fputc(',', out);
    put_header(out, call, "note");
    fprintf(out, "},\"hook\":\"%s\",\"call\":{\"args\":", hook_saw);
    put_value(out, &args);
    fputs(",\"kwargs\":", out);
    put_value(out, &kwargs);
    fputs("}}\n", out);
}

/* In one write(2), because several processes write to the file. */
static int append(const char *line, size_t len)
{
    const char *path = getenv("INTERCHANGE_RESULTS");
    int fd = path ? open(path, O_WRONLY | O_APPEND | O_CLOEXEC) : -1;
    bool written = fd >= 0 && write(fd, line, len) == (ssize_t)len;

    if (fd >= 0)
        close(fd);
    return written ? 0 : -1;
}

static enum taskmill_status record(struct taskmill_call *call)
{
    char *line = NULL;
    size_t len;
    FILE *out = open_memstream(&line, &len);
    int rv = -1;

    if (out != NULL) {
        put_line(out, call);
        if (fclose(out) == 0)
            rv = append(line, len);
    }
    free(line);
    return rv == 0 ? TASKMILL_COMPLETE : taskmill_fail(call, "cannot write $INTERCHANGE_RESULTS");
}

/* --- tasks ----------------------------------------------------------------------------------- */

static enum taskmill_status again(struct taskmill_call *call)
{
    enum taskmill_status status = record(call);

    return status == TASKMILL_COMPLETE ? taskmill_retry(call, "as it should") : status;
}

/* Python's turn is the attempt between. */
static enum taskmill_status third(struct taskmill_call *call)
{
    return taskmill_call_attempt(call) < 2 ? again(call) : record(call);
}

/* Sends the first argument on, as a task for Python. */
static enum taskmill_status relay(struct taskmill_call *call)
{
    struct taskmill_params *params = taskmill_params_new();
    const struct taskmill_header header = {"case", "relayed"};
    int64_t number;

    if (taskmill_arg_int(call, 0, &number) != 0) {
        taskmill_params_free(params);
        return taskmill_fail(call, "needs a number");
    }
    taskmill_params_int(params, number);
    if (taskmill_send(taskmill_call_app(call), "py", "record", params, .undeclared = true,
                      .headers = &header, .header_count = 1) != 0)
        return taskmill_fail(call, "%s", taskmill_last_error());
    return record(call);
}

/* Its first attempt runs past its deadline. */
static enum taskmill_status slow(struct taskmill_call *call)
{
    enum taskmill_status status = record(call);

    if (taskmill_call_attempt(call) == 0)
        sleep(60);
    return status;
}

static enum taskmill_status late(struct taskmill_call *call)
{
    (void)record(call);
    sleep(60);
    return TASKMILL_COMPLETE;
}

/* --- what surrounds a task -------------------------------------------------------------------- */

static int on_dispatch(void *arg, struct taskmill_headers *headers)
{
    (void)arg;
    return taskmill_headers_set(headers, "hook-c", "sent");
}

static enum taskmill_status on_execute(void *arg, struct taskmill_call *call)
{
    const char *value = taskmill_call_header(call, "hook-python");

    (void)arg;
    snprintf(hook_saw, sizeof hook_saw, "%s", value ? value : "nothing");
    return TASKMILL_COMPLETE;
}

static void on_leave(void *arg, struct taskmill_call *call, enum taskmill_status status)
{
    (void)arg;
    (void)call;
    (void)status;
    hook_saw[0] = '\0';
}

/* The policy of the worker decides about the next attempt: the senders of these have others. */
static void declare_policies(struct taskmill_namespace *c)
{
    taskmill_task(c, "short", again, .retry = {.times = 2, .delay_s = 1});
    taskmill_task(c, "drop", again, .retry = {.times = 2, .delay_s = 1});
    taskmill_task(c, "none", again);
    taskmill_task(c, "slow", slow, .retry = {.times = 2, .on = TASKMILL_ON_DEADLINE});
    taskmill_task(c, "late", late);
}

TASKMILL_MODULE(app)
{
    const struct taskmill_retry_policy policy = {.times = 3, .delay_s = 1};
    struct taskmill_namespace *c, *hop, *both;

    taskmill_application(app, "interchange");
    taskmill_context_hook(app, .on_dispatch = on_dispatch, .on_execute = on_execute,
                          .on_leave = on_leave);
    c = taskmill_namespace(app, "c");
    declare_policies(c);
    taskmill_task(c, "record", record);
    taskmill_task(c, "waited", record);
    taskmill_task(c, "zstd", record);
    taskmill_task(c, "once", record, .at_most_once = true);
    taskmill_task(c, "again", again, .retry = policy);
    taskmill_task(c, "third", third, .retry = policy);
    taskmill_task(c, "relay", relay);
    hop = taskmill_namespace(app, "hop", .retry = {.times = 4, .delay_s = 2});
    taskmill_task(hop, "hop", third);
    both = taskmill_namespace(app, "both");
    taskmill_task(both, "record", record);
    taskmill_task(both, "once", record, .at_most_once = true);
}
