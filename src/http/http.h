/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small HTTP/1.1 port for people and machines that watch a process: a table of pages, GET and
 * HEAD only, nothing is authenticated or encrypted.
 *
 * It has no thread: whoever owns it polls http_fd and calls http_run, from one thread. Nothing
 * waits.
 *
 * Bounds: HTTP_CONNECTIONS at once (more wait in the kernel), HTTP_REQUEST_BYTES of request line
 * and headers, HTTP_ANSWER_BYTES of answers that are not read yet (more: 503), HTTP_REQUEST_MS from
 * a connection to the end of its answer; one answer a connection.
 */
#ifndef TASKMILL_HTTP_HTTP_H
#define TASKMILL_HTTP_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"

#define HTTP_CONNECTIONS   32
#define HTTP_REQUEST_BYTES 16384
#define HTTP_ANSWER_BYTES  (64u << 20)
#define HTTP_REQUEST_MS    10000

#define HTTP_OK          200
#define HTTP_UNAVAILABLE 503

struct http_page {
    const char *path, *content_type;
    unsigned (*tell)(void *ctx, struct buf *out); /* appends the body; the HTTP status */
    bool large;                                   /* counts against HTTP_ANSWER_BYTES */
};

struct http_options {
    const char
        *address;   /* of an interface and a port: 127.0.0.1:80, [::1]:80. Checked by http_check */
    unsigned ports; /* this one and the ones after it, until one is free */
    const char *setting; /* what the user calls the address, for messages */
    const char *advice;  /* what to do if it cannot be bound */
    const struct http_page *pages;
    size_t page_count;
    void *ctx; /* of tell */
};

struct http;

/* Whether an address is one: an IP address, in brackets if it is IPv6, and a port from 1 to 65535.
 */
bool http_check(const char *address);
/* Binds and listens. ERR_EXISTS: none of several ports is free; ERR_SYSTEM. One line in `why`. */
int http_open(struct http **out, const struct http_options *options, struct err_text *why);
/* Closes the port and every connection. NULL is fine. */
void http_close(struct http *http);
/* "127.0.0.1:9464" */
const char *http_address(const struct http *http);

/* Readable when there is something to do; http_run is also due after http_wait_ms (at most a
 * second). */
int http_fd(const struct http *http);
int http_wait_ms(const struct http *http);
/* ERR_SYSTEM: it cannot go on. */
int http_run(struct http *http, int64_t now_ms);

/* In a forked child: closes the port and the connections, which live on in the parent. */
void http_forked(struct http *http);

#endif
