/* SPDX-License-Identifier: Apache-2.0 */
/* How activations leave a program: through a broker's Enqueue or to Kafka. Thread-safe. */
#ifndef TASKMILL_CLIENT_DISPATCH_H
#define TASKMILL_CLIENT_DISPATCH_H

#include "base/bytes.h"
#include "client/registry.h"
#include "rpc/tls.h"

struct dispatch_item {
    struct blob *activation;
    const char *topic; /* NULL: the broker's default. Of the app's router */
    /* Without wait: called once when the fate of an accepted item is known, on a thread of the
     * library; may be NULL. */
    taskmill_delivery *on_delivery;
    void *arg;
    char id[TASKMILL_ID_SIZE];
};

/* Sends to where the app says; connects at the first call. *accepted items from the front are
 * durable (or, without wait, in a local queue). On failure taskmill_last_error() says why. */
int dispatch_items(struct taskmill_app *app, const struct dispatch_item *items, size_t count,
                   bool wait, size_t *accepted);

/* Does this app send to Kafka? False when the destination is not known. */
bool dispatch_to_kafka(const struct taskmill_app *app);

/* Where an app sends that names no destination, nor does the environment. secret and tls may be
 * NULL; all is copied. */
void dispatch_default_broker(struct taskmill_app *app, const char *broker, const char *secret,
                             const struct rpc_tls_options *tls);

/* What a client of ours needs to speak TLS, read from the files that `given` names and, for what it
 * does not name, those of TASKMILL_TLS_CA, _CERT, _KEY and _NAME. None of them: 0 and *out NULL,
 * that is plain text. The caller unrefs *out. Errors as rpc_tls_client_new. */
int dispatch_tls(const struct rpc_tls_options *given, struct rpc_tls **out, struct err_text *why);

/* Waits for what is open, at most the app's time-out; then every callback has run. NULL is fine. */
void dispatch_close(struct dispatcher *dispatcher);

/* The secret that signs: text as it is, or the first of a JSON array of them. NULL in: NULL. An
 * empty array or text: NULL. ERR_MALFORMED if it starts like an array and is none, or is a
 * JSON string or object. Owned by the
 * caller. */
int dispatch_secret(const char *text, char **secret);

#endif
