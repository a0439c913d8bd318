/* SPDX-License-Identifier: Apache-2.0 */
/* `taskmill send NAMESPACE:TASK ...`: one task from a shell. */
#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <taskmill.h>

#include "base/mem.h"
#include "cli/cli.h"
#include "cli/cli_tls.h"
#include "client/names.h"

static const char help[] =
    "usage: taskmill send NAMESPACE:TASK [VALUE...] [NAME=VALUE...] [OPTIONS]\n"
    "\n"
    "Sends one task and prints its id. A VALUE is JSON if it reads as JSON, else text; write\n"
    "'\"a=b\"' for a text with an equals sign that is no NAME=VALUE.\n"
    "\n"
    "  --application A   default: TASKMILL_APPLICATION, then 'default'\n"
    "  --json TEXT       parameters as {\"args\": [...], \"kwargs\": {...}} instead of VALUEs\n"
    "  --countdown S     start it in S seconds\n"
    "  --expires S       drop it if it has not started in S seconds\n"
    "  --deadline S      kill it when it runs longer; default 10\n"
    "  --header K=V      repeatable\n"
    "  --times N         attempts in all when it asks for a retry\n"
    "  --delay S         between the attempts\n"
    "  --deadletter      dead-letter it when it fails for good; without, it is discarded\n"
    "  --at-most-once    never start it twice\n"
    "  --rpc-host H:P    the broker; default: TASKMILL_BROKER, then 127.0.0.1:50051\n"
    "  --kafka H:P,...   to Kafka instead; also TASKMILL_KAFKA\n"
    "  --topic T         default: TASKWORKER_DEFAULT_TOPIC, then the broker's, in Kafka "
    "'taskworker'\n" CLI_TLS_HELP "\n"
    "TASKMILL_RPC_SECRET signs the call.\n"
    "\n"
    "example: taskmill send billing:billing.send_invoice 42 email=a@b.c --countdown 10\n";

enum {
    OPT_APPLICATION = 1,
    OPT_JSON,
    OPT_COUNTDOWN,
    OPT_EXPIRES,
    OPT_DEADLINE,
    OPT_HEADER,
    OPT_TIMES,
    OPT_DELAY,
    OPT_DEADLETTER,
    OPT_AT_MOST_ONCE,
    OPT_RPC_HOST,
    OPT_KAFKA,
    OPT_TOPIC
};

static const struct cli_option options[] = {{OPT_APPLICATION, "application", 0, true},
                                            {OPT_JSON, "json", 0, true},
                                            {OPT_COUNTDOWN, "countdown", 0, true},
                                            {OPT_EXPIRES, "expires", 0, true},
                                            {OPT_DEADLINE, "deadline", 0, true},
                                            {OPT_HEADER, "header", 0, true},
                                            {OPT_TIMES, "times", 0, true},
                                            {OPT_DELAY, "delay", 0, true},
                                            {OPT_DEADLETTER, "deadletter", 0, false},
                                            {OPT_AT_MOST_ONCE, "at-most-once", 0, false},
                                            {OPT_RPC_HOST, "rpc-host", 0, true},
                                            {OPT_KAFKA, "kafka", 0, true},
                                            {OPT_TOPIC, "topic", 0, true},
                                            CLI_TLS_OPTIONS,
                                            {0}};

struct request {
    const char *application, *json;
    char *namespace, *task;  /* copies of the two halves of the first word */
    struct buf args, kwargs; /* JSON lists without their brackets */
    struct names names;      /* in kwargs */
    struct taskmill_header *headers;
    size_t header_count;
    struct taskmill_app_options app;
    struct rpc_tls_options tls;
    struct taskmill_send_options send;
    char id[TASKMILL_ID_SIZE];
};

/* A whole number is taken as it stands: JSON libraries stop at 64 bits, msgpack's are 64 unsigned.
 */
static bool is_number(const char *text)
{
    text += text[0] == '-';
    return text[0] != '\0' && strspn(text, "0123456789") == strlen(text) &&
           (text[0] != '0' || text[1] == '\0');
}

static void append_value(struct buf *out, const char *text)
{
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    char *quoted;

    if (value != NULL || is_number(text)) {
        buf_append_str(out, text);
        json_decref(value);
        return;
    }
    value = json_string(text);
    quoted = value ? json_dumps(value, JSON_ENCODE_ANY) : NULL;
    /* Not UTF-8: the parser of the parameters refuses it with its own words. */
    buf_append_str(out, quoted ? quoted : text);
    free(quoted); /* tidy: free, jansson allocated it */
    json_decref(value);
}

/* Length of NAME in NAME=VALUE; 0 if the word is a plain value. */
static size_t name_len(const char *word)
{
    size_t len = 0;

    while (isalnum((unsigned char)word[len]) || word[len] == '_')
        len++;
    return word[len] == '=' && !isdigit((unsigned char)word[0]) ? len : 0;
}

static int take_word(const struct cli_args *args, struct request *request)
{
    const char *word = args->value;
    size_t len = name_len(word);
    struct buf *out = len > 0 ? &request->kwargs : &request->args;

    if (len > 0 && names_has(&request->names, buf_bytes(out), bytes_of(word, len)))
        return cli_error(args, CLI_USAGE, "%.*s is given twice", (int)len, word);
    if (out->len > 0)
        buf_append_byte(out, ',');
    if (len > 0) {
        buf_printf(out, "\"%.*s\":", (int)len, word);
        names_add(&request->names, buf_bytes(out), out->len - len - 2, len);
        word += len + 1;
    }
    append_value(out, word);
    return CLI_OK;
}

static int take_target(const struct cli_args *args, struct request *request)
{
    const char *colon = strchr(args->value, ':');

    if (colon == NULL || colon == args->value || colon[1] == '\0')
        return cli_error(args, CLI_USAGE, "'%s': needs NAMESPACE:TASK", args->value);
    request->namespace = mem_strndup(args->value, (size_t)(colon - args->value));
    request->task = mem_strdup(colon + 1);
    return CLI_OK;
}

static int take_header(const struct cli_args *args, struct request *request)
{
    const char *equals = strchr(args->value, '=');

    if (equals == NULL || equals == args->value)
        return cli_error(args, CLI_USAGE, "--header '%s': needs NAME=VALUE", args->value);
    request->headers =
        mem_realloc(request->headers, (request->header_count + 1) * sizeof *request->headers);
    request->headers[request->header_count++] = (struct taskmill_header){
        mem_strndup(args->value, (size_t)(equals - args->value)), equals + 1};
    return CLI_OK;
}

static int take_seconds(const struct cli_args *args, const char *name, uint32_t min, uint32_t *out)
{
    uint64_t value;

    if (!cli_number(args, name, min, UINT32_MAX, &value))
        return CLI_USAGE;
    *out = (uint32_t)value;
    return CLI_OK;
}

static int take_text(const char *value, const char **out)
{
    *out = value;
    return CLI_OK;
}

static int take_option(const struct cli_args *args, int option, struct request *request)
{
    struct taskmill_task_options *task = &request->send.task;

    if (cli_tls_take(args, option, &request->tls))
        return CLI_OK;
    switch (option) {
    case OPT_APPLICATION:
        return take_text(args->value, &request->application);
    case OPT_JSON:
        return take_text(args->value, &request->json);
    case OPT_RPC_HOST:
        return take_text(args->value, &request->app.broker);
    case OPT_KAFKA:
        return take_text(args->value, &request->app.kafka);
    case OPT_TOPIC:
        return take_text(args->value, &request->app.topic);
    case OPT_HEADER:
        return take_header(args, request);
    case OPT_COUNTDOWN:
        return take_seconds(args, "--countdown", 0, &request->send.countdown_s);
    case OPT_EXPIRES:
        return take_seconds(args, "--expires", 1, &request->send.expires_s);
    case OPT_DEADLINE:
        return take_seconds(args, "--deadline", 1, &task->processing_deadline_s);
    case OPT_TIMES:
        return take_seconds(args, "--times", 1, &task->retry.times);
    case OPT_DELAY:
        return take_seconds(args, "--delay", 0, &task->retry.delay_s);
    case OPT_DEADLETTER:
        task->retry.times_exceeded = TASKMILL_DEADLETTER;
        return CLI_OK;
    case OPT_AT_MOST_ONCE:
        task->at_most_once = true;
        return CLI_OK;
    default:
        return CLI_USAGE;
    }
}

static int read_arguments(struct cli_args *args, struct request *request)
{
    int option, code = CLI_OK;

    while (code == CLI_OK && (option = cli_next(args, options)) != CLI_END) {
        if (option == CLI_HELP) {
            fputs(help, stdout);
            return CLI_HELP;
        }
        if (option != CLI_POSITIONAL)
            code = take_option(args, option, request);
        else if (request->task == NULL)
            code = take_target(args, request);
        else
            code = take_word(args, request);
    }
    if (code == CLI_OK && request->task == NULL)
        return cli_error(args, CLI_USAGE, "needs NAMESPACE:TASK; taskmill send --help tells more");
    if (code == CLI_OK && request->json != NULL && (request->args.len || request->kwargs.len))
        return cli_error(args, CLI_USAGE, "--json replaces the VALUEs: give one or the other");
    return code;
}

static struct taskmill_params *make_params(struct request *request)
{
    struct taskmill_params *params;
    struct buf text = {0};

    if (request->json != NULL)
        return taskmill_params_from_json(request->json);
    buf_printf(&text, "{\"args\":[%s],", buf_cstr(&request->args));
    buf_printf(&text, "\"kwargs\":{%s}}", buf_cstr(&request->kwargs));
    params = taskmill_params_from_json(buf_cstr(&text));
    buf_free(&text);
    return params;
}

static const char *env_or(const char *name, const char *otherwise)
{
    const char *value = getenv(name);

    return value != NULL && value[0] != '\0' ? value : otherwise;
}

static int send_task(const struct cli_args *args, struct request *request)
{
    struct taskmill_params *params = make_params(request);
    struct taskmill_app *app;
    int rv = -1;

    if (taskmill_params_check(params) != 0) {
        taskmill_params_free(params);
        return cli_error(args, CLI_USAGE, "%s", taskmill_last_error());
    }
    if (request->app.broker == NULL && request->app.kafka == NULL &&
        env_or("TASKMILL_KAFKA", NULL) == NULL)
        request->app.broker = env_or("TASKMILL_BROKER", "127.0.0.1:50051");
    request->app.size = sizeof request->app;
    request->app.tls_ca = request->tls.ca_path;
    request->app.tls_cert = request->tls.certificate_path;
    request->app.tls_key = request->tls.key_path;
    request->app.tls_name = request->tls.name;
    request->send.size = sizeof request->send;
    request->send.id = request->id;
    request->send.undeclared = true;
    request->send.headers = request->headers;
    request->send.header_count = request->header_count;
    app = taskmill_app_new_with(request->application ? request->application
                                                     : env_or("TASKMILL_APPLICATION", "default"),
                                &request->app);
    if (app != NULL)
        rv = taskmill_send_with(app, request->namespace, request->task, params, &request->send);
    else
        taskmill_params_free(params);
    if (rv != 0)
        cli_error(args, CLI_FAILED, "%s", taskmill_last_error());
    else
        puts(request->id);
    taskmill_app_free(app);
    return rv == 0 ? CLI_OK : CLI_FAILED;
}

int cmd_send(int argc, char **argv)
{
    struct cli_args args = cli_args_init("taskmill send", argc, argv);
    struct request request = {0};
    int code = read_arguments(&args, &request);

    if (code == CLI_OK)
        code = send_task(&args, &request);
    for (size_t i = 0; i < request.header_count; i++)
        mem_free((char *)(uintptr_t)request.headers[i].key);
    mem_free(request.headers);
    mem_free(request.namespace);
    mem_free(request.task);
    buf_free(&request.args);
    buf_free(&request.kwargs);
    names_free(&request.names);
    return code == CLI_HELP ? CLI_OK : code;
}
