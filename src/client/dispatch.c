/* SPDX-License-Identifier: Apache-2.0 */
#include "client/dispatch.h"

#include <jansson.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "client/delivery.h"
#include "client/dispatch_broker.h"
#include "client/dispatch_kafka.h"
#include "client/hostport.h"

struct dispatcher {
    struct deliveries *deliveries;
    struct kafka_out *kafka; /* or: */
    struct broker_out *broker;
    atomic_bool closing; /* callbacks may still run, but send no more */
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
    const struct rpc_tls_options tls = {app->tls_ca, app->tls_cert, app->tls_key, app->tls_name};
    struct broker_out_options options = {
        .name = broker, .timeout_s = app->send_timeout_s, .deliveries = dispatcher->deliveries};
    struct err_text why;
    const char *text = app->rpc_secret ? app->rpc_secret : getenv("TASKMILL_RPC_SECRET");
    char host[HOSTPORT_HOST_MAX], *secret;
    int rv;

    if (hostport_parse(broker, host, &options.rpc.port) != 0)
        return error_set(ERR_INVALID, "broker '%s': write host:port, for example 127.0.0.1:50051",
                         broker);
    if ((rv = dispatch_tls(&tls, &options.rpc.tls, &why)) != 0)
        return error_set(rv, "%s", why.s);
    if ((rv = dispatch_secret(text, &secret)) != 0)
        goto out;
    options.rpc.host = host;
    if (secret != NULL)
        options.rpc.secret = bytes_str(secret);
    dispatcher->broker = broker_out_new(&options);
    rv = dispatcher->broker != NULL ? 0 : ERR_SYSTEM;
    mem_free(secret);

out:
    rpc_tls_unref(options.rpc.tls);
    return rv;
}

/* Under the app's lock. */
static int open_dispatcher(struct taskmill_app *app, struct dispatcher **out)
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
    dispatcher->deliveries = deliveries_new();
    if (kafka != NULL) {
        dispatcher->kafka = kafka_out_new(kafka, app->send_timeout_s, dispatcher->deliveries);
        rv = dispatcher->kafka ? 0 : ERR_INVALID;
    } else {
        rv = open_broker(dispatcher, app, broker);
    }
    if (rv != 0) {
        dispatch_close(dispatcher);
        return rv;
    }
    *out = dispatcher;
    return 0;
}

void dispatch_close(struct dispatcher *dispatcher)
{
    if (dispatcher == NULL)
        return;
    atomic_store(&dispatcher->closing, true);
    if (dispatcher->kafka != NULL)
        kafka_out_free(dispatcher->kafka);
    if (dispatcher->broker != NULL)
        broker_out_free(dispatcher->broker);
    deliveries_free(dispatcher->deliveries);
    mem_free(dispatcher);
}

int dispatch_items(struct taskmill_app *app, const struct dispatch_item *items, size_t count,
                   bool wait, size_t *accepted)
{
    struct dispatcher *dispatcher;
    int rv = 0;

    *accepted = 0;
    pthread_mutex_lock(&app->lock);
    dispatcher = app->dispatcher;
    if (dispatcher == NULL)
        rv = open_dispatcher(app, &dispatcher);
    app->dispatcher = dispatcher;
    pthread_mutex_unlock(&app->lock);
    if (dispatcher == NULL || count == 0)
        return rv;
    if (atomic_load(&dispatcher->closing))
        return error_set(ERR_STATE, "taskmill_app_free has begun: nothing more is sent");
    if (dispatcher->kafka != NULL)
        return kafka_out_send(dispatcher->kafka, items, count, wait, accepted);
    return broker_out_send(dispatcher->broker, items, count, wait, accepted);
}

int taskmill_flush(struct taskmill_app *app, uint32_t timeout_s)
{
    int64_t until_ms = clock_add(clock_boot_ms(), (int64_t)timeout_s * 1000);
    struct delivery_summary summary;
    struct dispatcher *dispatcher;
    int rv;

    pthread_mutex_lock(&app->lock);
    dispatcher = app->dispatcher;
    pthread_mutex_unlock(&app->lock);
    if (dispatcher == NULL)
        return 0;
    rv = delivery_flush(dispatcher->deliveries, until_ms, &summary);
    if (rv == 0 || rv == ERR_STATE)
        return rv;
    if (summary.failed > 0)
        return error_set(rv, "%zu not delivered: %s", summary.failed, summary.why.s);
    return error_set(rv, "%zu not confirmed in %u s", summary.open, timeout_s);
}
