/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exports a registry (base/metrics.h) to a statsd server, as DogStatsD lines over UDP:
 *
 *   taskbroker.upkeep.cleanup_action:3|c|#env:prod,kind:removed_expired
 *   <prefix><name>:<value>|<c, g, h>[|@<rate>][|#<default tags by key>,<labels in their order>]
 *
 * joined by newlines into datagrams of at most STATSD_DATAGRAM_MAX bytes (a longer line goes
 * alone).
 *
 *   counter    what was added since the last export; 0 too
 *   gauge      the value
 *   histogram  what was observed since the last export: one line for each bucket that has something
 *              new (of type h, or of the type the family names: d, ms), with |@rate when it is
 *              n > 1 observations (1/n, so that a server that takes the integer part of 1/rate
 *              counts n). Count and sum are exact; a value is placed inside its bucket, so it is
 *              off by at most 1/8; a lone one is exact.
 *
 * Values are multiplied by the family's scale and written without exponent. In tag values a comma,
 * a bar and control characters become '_', in keys also a colon: no name can break a line.
 *
 * UDP: what nobody takes is lost, and the broker does not care. An address that does not resolve is
 * a WARN and is tried again; of several addresses the first is used (WARN), and the next one when
 * sending fails.
 */
#ifndef TASKMILL_BASE_STATSD_H
#define TASKMILL_BASE_STATSD_H

#include "base/err.h"
#include "base/metrics.h"

#define STATSD_DATAGRAM_MAX 1024

struct statsd_tag {
    const char *key, *value;
};

/* --- the format, pure ------------------------------------------------------------------------ */

struct statsd_format;

typedef void statsd_send_fn(void *ctx, struct bytes datagram);

/* Strings are copied. tags in any order: they are sorted by key. */
struct statsd_format *statsd_format_new(const char *prefix, const struct statsd_tag *tags,
                                        size_t tag_count);
void statsd_format_free(struct statsd_format *format);
/* One export of the whole registry; always the same one. */
void statsd_format_export(struct statsd_format *format, struct metrics *metrics,
                          statsd_send_fn *send, void *ctx);

/* --- the exporter ---------------------------------------------------------------------------- */

struct statsd;

struct statsd_options {
    const char *address; /* host:port, [IPv6]:port */
    const char *prefix;
    const struct statsd_tag *tags;
    size_t tag_count;
    uint64_t interval_ms; /* at least 1 */
    struct metrics *metrics;
};

/* Starts a thread that exports once an interval. ERR_INVALID: no host:port; ERR_SYSTEM: no thread.
 * A name that does not resolve is no error here. */
int statsd_start(struct statsd **out, const struct statsd_options *options, struct err_text *why);
/* Exports once more and ends the thread. Waits for it at most a second, also when it is stuck in
 * a name server's silence; afterwards the registry is not touched any more. NULL is fine. */
void statsd_stop(struct statsd *statsd);

/* --- the exporter without a thread ----------------------------------------------------------- */

/* For a process that forks (base/lookup.h says why), driven by its loop, which never waits here. */
struct statsd_loop;

/* As statsd_start. The first export is due at once. */
int statsd_loop_open(struct statsd_loop **out, const struct statsd_options *options,
                     struct err_text *why);
/* To be polled for reading; -1: nothing to wait for. */
int statsd_loop_fd(const struct statsd_loop *loop);
/* Does what is due; `readable`: what poll(2) says about the fd. */
void statsd_loop_run(struct statsd_loop *loop, bool readable, int64_t now_ms);
int64_t statsd_loop_next_ms(const struct statsd_loop *loop);
/* In a forked child: closes what belongs to the parent. */
void statsd_loop_forked(struct statsd_loop *loop);
/* Exports once more. NULL is fine. */
void statsd_loop_close(struct statsd_loop *loop);

#endif
