/* SPDX-License-Identifier: Apache-2.0 */
/* The exporter for a process with one thread: the caller's loop drives it. */
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/statsd_port.h"

struct statsd_loop {
    struct statsd_port port;
    struct statsd_format *format;
    struct metrics *metrics;
    uint64_t interval_ms;
    int64_t next_ms;       /* of the next export */
    struct lookup *lookup; /* under way; else NULL */
};

int statsd_loop_open(struct statsd_loop **out, const struct statsd_options *options,
                     struct err_text *why)
{
    struct statsd_loop *loop = mem_zalloc(sizeof *loop);
    int rv = statsd_port_init(&loop->port, options->address, why);

    if (rv != 0) {
        mem_free(loop);
        return rv;
    }
    loop->interval_ms = options->interval_ms ? options->interval_ms : 1;
    loop->metrics = options->metrics;
    loop->format = statsd_format_new(options->prefix, options->tags, options->tag_count);
    *out = loop;
    return 0;
}

int statsd_loop_fd(const struct statsd_loop *loop)
{
    return loop->lookup ? lookup_fd(loop->lookup) : -1;
}

static void begin_lookup(struct statsd_loop *loop, int64_t now_ms)
{
    struct statsd_port *port = &loop->port;
    struct lookup_answer answer = {0};
    struct err_text why;

    if (!statsd_port_may_resolve(port, now_ms))
        return;
    if (lookup_numeric(port->host, port->port, SOCK_DGRAM, &answer)) {
        statsd_port_resolved(port, &answer, now_ms);
        return;
    }
    if (lookup_start(&loop->lookup, port->host, port->port, SOCK_DGRAM, &why) == 0)
        return;
    snprintf(answer.why, sizeof answer.why, "%.*s", (int)sizeof answer.why - 1, why.s);
    statsd_port_resolved(port, &answer, now_ms);
}

static void end_lookup(struct statsd_loop *loop, int64_t now_ms)
{
    struct lookup_answer answer;

    lookup_end(loop->lookup, &answer);
    loop->lookup = NULL;
    statsd_port_resolved(&loop->port, &answer, now_ms);
}

void statsd_loop_run(struct statsd_loop *loop, bool readable, int64_t now_ms)
{
    if (loop->lookup && readable)
        end_lookup(loop, now_ms);
    if (now_ms < loop->next_ms)
        return;
    loop->next_ms = now_ms + (int64_t)loop->interval_ms;
    if (loop->port.fd < 0 && !loop->lookup)
        begin_lookup(loop, now_ms);
    statsd_port_export(&loop->port, loop->format, loop->metrics, now_ms);
}

int64_t statsd_loop_next_ms(const struct statsd_loop *loop)
{
    return loop->next_ms;
}

void statsd_loop_forked(struct statsd_loop *loop)
{
    if (loop->port.fd >= 0)
        close(loop->port.fd);
    if (loop->lookup)
        close(lookup_fd(loop->lookup));
}

void statsd_loop_close(struct statsd_loop *loop)
{
    if (!loop)
        return;
    if (loop->lookup)
        end_lookup(loop, clock_boot_ms());
    statsd_port_export(&loop->port, loop->format, loop->metrics, clock_boot_ms());
    statsd_format_free(loop->format);
    statsd_port_close(&loop->port);
    mem_free(loop);
}
