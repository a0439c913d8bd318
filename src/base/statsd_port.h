/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of statsd: where the datagrams go. statsd_thread.c and statsd_loop.c drive it; one thread.
 */
#ifndef TASKMILL_BASE_STATSD_PORT_H
#define TASKMILL_BASE_STATSD_PORT_H

#include "base/lookup.h"
#include "base/statsd.h"

struct statsd_port {
    char *host, *port;
    int fd;             /* -1: no address yet */
    int64_t resolve_ms; /* not looked up before that */
    size_t attempt;     /* which of several addresses */
    bool send_failed;   /* since the last export */
    int64_t warn_ms;
    bool several_told, refused_told;
};

/* ERR_INVALID: not "host:port" or "[host]:port". */
int statsd_port_init(struct statsd_port *port, const char *address, struct err_text *why);
void statsd_port_close(struct statsd_port *port);
/* Before a look-up: false if it is too early for the next one. */
bool statsd_port_may_resolve(struct statsd_port *port, int64_t now_ms);
void statsd_port_resolved(struct statsd_port *port, const struct lookup_answer *answer,
                          int64_t now_ms);
/* Without a server (fd < 0) the numbers wait in the registry. */
void statsd_port_export(struct statsd_port *port, struct statsd_format *format,
                        struct metrics *metrics, int64_t now_ms);

#endif
