/* SPDX-License-Identifier: Apache-2.0 */
#include "command/line.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#include "command/env.h"
#include "wire/params.h"

#define SHOWN_MAX 80 /* bytes of a wrong line in a message */

/* --- to the command -------------------------------------------------------------------------- */

static void put_text(struct buf *out, const char *key, struct bytes text)
{
    buf_printf(out, "\"%s\":", key);
    params_put_json_string(text, out);
    buf_append_byte(out, ',');
}

static void put_facts(const struct taskmill_call *call, int64_t limit_ms, struct buf *out)
{
    const struct activation *a = &call->activation;

    put_text(out, "id", a->id);
    put_text(out, "task", a->taskname);
    put_text(out, "namespace", a->namespace);
    put_text(out, "application", a->application);
    buf_printf(out, "\"attempt\":%" PRIu32 ",\"retries_left\":%" PRIu32 ",",
               a->retry_state.attempts, task_retries_left(call));
    if (limit_ms > 0)
        buf_printf(out, "\"deadline\":%" PRId64 ".%03" PRId64 ",", limit_ms / 1000,
                   limit_ms % 1000);
    else
        buf_append_str(out, "\"deadline\":null,");
    if (a->has_received_at && a->received_at_ns >= 0 && a->received_at_ns < 1000000000)
        buf_printf(out, "\"sent\":%" PRId64 ".%06" PRId32 ",", a->received_at_s,
                   a->received_at_ns / 1000);
    else
        buf_append_str(out, "\"sent\":null,");
    buf_append_str(out, "\"headers\":");
    task_headers_json(call, out);
}

int command_line_task(const struct taskmill_call *call, int64_t limit_ms, struct buf *out,
                      struct err_text *why)
{
    size_t start = out->len, params;
    const char *fault = "";
    int rv;

    buf_append_byte(out, '{');
    put_facts(call, limit_ms, out);
    params = out->len;
    rv = params_to_json(call->packed, out, &fault);
    if (rv != 0) {
        out->len = start;
        return err_set(why, rv, "parameters: %s", fault);
    }
    out->ptr[params] = ','; /* its own {: one object */
    buf_append_byte(out, '\n');
    return 0;
}

/* --- from the command ------------------------------------------------------------------------ */

static int wrong(struct bytes line, const char *what, struct err_text *why)
{
    struct bytes shown = bytes_of(line.ptr, line.len < SHOWN_MAX ? line.len : SHOWN_MAX);

    return err_set(why, ERR_MALFORMED, "%s: \"%.*s%s\"", what, BYTES_FMT_ARG(shown),
                   shown.len < line.len ? "..." : "");
}

static json_t *parse(struct bytes line)
{
    json_error_t fault;

    return json_loadb(line.len > 0 ? (const char *)line.ptr : "", line.len,
                      JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &fault);
}

static bool is_text(const json_t *value, struct bytes text)
{
    return json_is_string(value) &&
           bytes_equal(bytes_of(json_string_value(value), json_string_length(value)), text);
}

static bool take_status(const json_t *value, enum attempt_end *end)
{
    static const struct {
        const char *name;
        enum attempt_end end;
    } all[] = {
        {"complete", ATTEMPT_COMPLETE}, {"retry", ATTEMPT_RETRY}, {"failure", ATTEMPT_FAILURE}};

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (is_text(value, bytes_str(all[i].name))) {
            *end = all[i].end;
            return true;
        }
    return false;
}

static int take_answer(const json_t *answer, struct bytes line, struct bytes id,
                       enum attempt_end *end, struct err_text *why)
{
    const json_t *error = json_object_get(answer, "error");

    if (!json_is_object(answer) || json_object_get(answer, "id") == NULL)
        return wrong(line,
                     "it wrote a line to stdout that is no answer (stdout is for answers, "
                     "stderr for everything else)",
                     why);
    if (!is_text(json_object_get(answer, "id"), id))
        return wrong(line, "it answered another task than the one it was given", why);
    if (!take_status(json_object_get(answer, "status"), end))
        return wrong(line, "the status of an answer is complete, retry or failure", why);
    if (error != NULL && !json_is_string(error) && !json_is_null(error))
        return wrong(line, "the error of an answer is a text", why);
    why->s[0] = '\0';
    if (json_is_string(error))
        err_set(why, 0, "%.*s",
                BYTES_FMT_ARG(bytes_of(json_string_value(error), json_string_length(error))));
    return 0;
}

int command_line_answer(struct bytes line, struct bytes id, enum attempt_end *end,
                        struct err_text *why)
{
    json_t *answer = parse(line);
    int rv = take_answer(answer, line, id, end, why);

    json_decref(answer);
    return rv;
}

int command_line_ready(struct bytes line, struct err_text *why)
{
    json_t *said = parse(line);
    int rv = 0;

    if (!json_is_true(json_object_get(said, "ready")))
        rv = wrong(line, "its first line should be {\"ready\": true}", why);
    json_decref(said);
    return rv;
}
