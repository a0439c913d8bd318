/* SPDX-License-Identifier: Apache-2.0 */
#include "client/dispatch.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "client/dispatch_kafka.h"
#include "client/hostport.h"
#include "rpc/client.h"
#include "wire/consumer.h"

/* Requests stay below the servers' usual limit of 4 MiB; a single larger task goes alone. */
#define REQUEST_BYTES_MAX (3u << 20)

struct dispatcher {
    struct kafka_out *kafka; /* or a broker: */
    struct rpc_client *rpc;
    char *broker;
    pthread_mutex_t lock; /* of rpc: one call at a time */
    uint32_t timeout_ms;
};

/* --- where to -------------------------------------------------------------------------------- */

static const char *env_text(const char *name)
{
    const char *value = getenv(name);

    return value != NULL && value[0] != '\0' ? value : NULL;
}

/* Exactly one of the two is set, or none. What the program says beats the environment. */
static void destination(const struct taskmill_app *app, const char **broker, const char **kafka)
{
    *broker = app->broker;
    *kafka = app->kafka;
    if (*broker == NULL && *kafka == NULL)
        *kafka = env_text("TASKMILL_KAFKA");
    if (*broker == NULL && *kafka == NULL)
        *broker = env_text("TASKMILL_BROKER");
}

bool dispatch_to_kafka(const struct taskmill_app *app)
{
    const char *broker, *kafka;

    destination(app, &broker, &kafka);
    return kafka != NULL;
}

static char *copy_or_null(const char *text)
{
    return text != NULL ? mem_strdup(text) : NULL;
}

void dispatch_default_broker(struct taskmill_app *app, const char *broker, const char *secret,
                             const struct rpc_tls_options *tls)
{
    const char *known_broker, *kafka;

    destination(app, &known_broker, &kafka);
    if (known_broker != NULL || kafka != NULL)
        return;
    app->broker = mem_strdup(broker);
    if (secret != NULL && app->rpc_secret == NULL)
        app->rpc_secret = mem_strdup(secret);
    if (tls == NULL || app->tls_ca != NULL || app->tls_cert != NULL || app->tls_name != NULL)
        return;
    app->tls_ca = copy_or_null(tls->ca_path);
    app->tls_cert = copy_or_null(tls->certificate_path);
    app->tls_key = copy_or_null(tls->key_path);
    app->tls_name = copy_or_null(tls->name);
}

int dispatch_tls(const struct rpc_tls_options *given, struct rpc_tls **out, struct err_text *why)
{
    struct rpc_tls_options options = *given;

    if (options.ca_path == NULL)
        options.ca_path = env_text("TASKMILL_TLS_CA");
    if (options.certificate_path == NULL && options.key_path == NULL) {
        options.certificate_path = env_text("TASKMILL_TLS_CERT");
        options.key_path = env_text("TASKMILL_TLS_KEY");
    }
    if (options.name == NULL)
        options.name = env_text("TASKMILL_TLS_NAME");
    *out = NULL;
    if (options.ca_path == NULL && options.certificate_path == NULL && options.key_path == NULL &&
        options.name == NULL)
        return 0;
    return rpc_tls_client_new(out, &options, why);
}

/* The original switches signing off for JSON that is no array. Text that only begins like it is a
 * secret. */
static int refuse_json(const char *text, char **secret)
{
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);

    if (value != NULL) {
        json_decref(value);
        return error_set(ERR_MALFORMED,
                         "the secret is a JSON %s: write it as it is, or a JSON array "
                         "of texts whose first signs",
                         text[0] == '{' ? "object" : "string");
    }
    *secret = mem_strdup(text);
    return 0;
}

int dispatch_secret(const char *text, char **secret)
{
    const char *first;
    json_t *list;

    *secret = NULL;
    if (text == NULL || text[0] == '\0')
        return 0;
    if (text[0] == '"' || text[0] == '{')
        return refuse_json(text, secret);
    if (text[0] != '[') {
        *secret = mem_strdup(text);
        return 0;
    }
    list = json_loads(text, 0, NULL);
    first = json_string_value(json_array_get(list, 0));
    if (!json_is_array(list) || (json_array_size(list) > 0 && first == NULL)) {
        json_decref(list);
        return error_set(ERR_MALFORMED, "the secret starts like a JSON array of texts but is none");
    }
    if (first != NULL && first[0] != '\0')
        *secret = mem_strdup(first);
    json_decref(list);
    return 0;
}

static int open_broker(struct dispatcher *dispatcher, const struct taskmill_app *app,
                       const char *broker)
{
    struct rpc_client_options options = {.connect_timeout_ms = dispatcher->timeout_ms};
    const struct rpc_tls_options tls = {app->tls_ca, app->tls_cert, app->tls_key, app->tls_name};
    struct err_text why;
    const char *text = app->rpc_secret ? app->rpc_secret : getenv("TASKMILL_RPC_SECRET");
    char host[HOSTPORT_HOST_MAX], *secret;
    int rv;

    if (hostport_parse(broker, host, &options.port) != 0)
        return error_set(ERR_INVALID, "broker '%s': write host:port, for example 127.0.0.1:50051",
                         broker);
    if ((rv = dispatch_tls(&tls, &options.tls, &why)) != 0)
        return error_set(rv, "%s", why.s);
    if ((rv = dispatch_secret(text, &secret)) != 0)
        goto out;
    options.host = host;
    if (secret != NULL)
        options.secret = bytes_str(secret);
    dispatcher->rpc = rpc_client_new(&options);
    dispatcher->broker = mem_strdup(broker);
    mem_free(secret);

out:
    rpc_tls_unref(options.tls);
    return rv;
}

static int open_dispatcher(struct taskmill_app *app)
{
    struct dispatcher *dispatcher;
    const char *broker, *kafka;
    int rv = 0;

    destination(app, &broker, &kafka);
    if (broker == NULL && kafka == NULL)
        return error_set(
            ERR_INVALID,
            "application %s does not know where to send: give taskmill_app_new .broker or "
            ".kafka, or set TASKMILL_BROKER or TASKMILL_KAFKA",
            app->name);
    dispatcher = mem_zalloc(sizeof *dispatcher);
    dispatcher->timeout_ms = app->send_timeout_s * 1000;
    pthread_mutex_init(&dispatcher->lock, NULL);
    if (kafka != NULL) {
        dispatcher->kafka = kafka_out_new(kafka, app->send_timeout_s);
        rv = dispatcher->kafka ? 0 : ERR_INVALID;
    } else {
        rv = open_broker(dispatcher, app, broker);
    }
    if (rv != 0) {
        dispatch_close(dispatcher);
        return rv;
    }
    app->dispatcher = dispatcher;
    return 0;
}

void dispatch_close(struct dispatcher *dispatcher)
{
    if (dispatcher == NULL)
        return;
    if (dispatcher->kafka != NULL)
        kafka_out_free(dispatcher->kafka);
    if (dispatcher->rpc != NULL)
        rpc_client_free(dispatcher->rpc);
    pthread_mutex_destroy(&dispatcher->lock);
    mem_free(dispatcher->broker);
    mem_free(dispatcher);
}

/* --- Enqueue --------------------------------------------------------------------------------- */

static int code_of_status(int status)
{
    switch (status) {
    case GRPC_INVALID_ARGUMENT:
    case GRPC_NOT_FOUND:
        return ERR_INVALID;
    case GRPC_OUT_OF_RANGE:
        return ERR_TOO_LARGE;
    case GRPC_RESOURCE_EXHAUSTED:
        return ERR_FULL;
    case GRPC_UNAUTHENTICATED:
    case GRPC_PERMISSION_DENIED:
        return ERR_DENIED;
    case GRPC_UNIMPLEMENTED:
        return ERR_UNSUPPORTED;
    case GRPC_DEADLINE_EXCEEDED:
        return ERR_TIMEOUT;
    default:
        return ERR_UNAVAILABLE;
    }
}

static bool same_topic(const char *a, const char *b)
{
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

/* How many items from the front go into one request; their encoding in `request`. */
static size_t fill_request(const struct dispatch_item *items, size_t count, struct buf *request)
{
    size_t n;

    for (n = 0; n < count; n++) {
        if (n > 0 && (request->len + items[n].activation->len > REQUEST_BYTES_MAX ||
                      !same_topic(items[n].topic, items[0].topic)))
            break;
        enqueue_encode_activation(blob_bytes(items[n].activation), request);
    }
    if (items[0].topic != NULL)
        enqueue_encode_topic(bytes_str(items[0].topic), request);
    return n;
}

static int enqueue(struct dispatcher *dispatcher, struct bytes request)
{
    struct err_text why;
    struct buf body = {0};
    int status = GRPC_UNKNOWN, rv;

    pthread_mutex_lock(&dispatcher->lock);
    rv = rpc_client_call_wait(dispatcher->rpc, PRODUCER_ENQUEUE, request, dispatcher->timeout_ms,
                              &status, &body, &why);
    pthread_mutex_unlock(&dispatcher->lock);
    buf_free(&body);
    if (rv != 0)
        return error_set(rv, "broker %s", why.s);
    if (status == GRPC_OK)
        return 0;
    if (status == GRPC_UNIMPLEMENTED)
        return error_set(ERR_UNSUPPORTED,
                         "broker %s takes no tasks by RPC; send to its Kafka topic",
                         dispatcher->broker);
    return error_set(code_of_status(status), "broker %s: %s: %s", dispatcher->broker,
                     grpc_status_name(status), why.s);
}

static int send_to_broker(struct dispatcher *dispatcher, const struct dispatch_item *items,
                          size_t count, size_t *accepted)
{
    struct buf request = {0};
    int rv = 0;

    *accepted = 0;
    while (*accepted < count && rv == 0) {
        size_t n;

        buf_clear(&request);
        n = fill_request(items + *accepted, count - *accepted, &request);
        rv = enqueue(dispatcher, buf_bytes(&request));
        if (rv == 0)
            *accepted += n;
    }
    buf_free(&request);
    return rv;
}

int dispatch_items(struct taskmill_app *app, const struct dispatch_item *items, size_t count,
                   bool wait, size_t *accepted)
{
    int rv = 0;

    *accepted = 0;
    pthread_mutex_lock(&app->lock);
    if (app->dispatcher == NULL)
        rv = open_dispatcher(app);
    pthread_mutex_unlock(&app->lock);
    if (rv != 0 || count == 0)
        return rv;
    if (app->dispatcher->kafka != NULL)
        return kafka_out_send(app->dispatcher->kafka, items, count, wait, accepted);
    return send_to_broker(app->dispatcher, items, count, accepted);
}

int taskmill_flush(struct taskmill_app *app, uint32_t timeout_s)
{
    struct dispatcher *dispatcher;

    pthread_mutex_lock(&app->lock);
    dispatcher = app->dispatcher;
    pthread_mutex_unlock(&app->lock);
    return dispatcher != NULL && dispatcher->kafka != NULL
               ? kafka_out_flush(dispatcher->kafka, timeout_s)
               : 0;
}
