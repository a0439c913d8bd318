/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registry of base/metrics.h as text for Prometheus (exposition format 0.0.4).
 *
 *   name        "taskmill_" and the family's name with "_" for everything but letters and digits;
 *               a counter also ends in "_total": grpc.request -> taskmill_grpc_request_total; or
 *               the name that the family gives itself, as it stands
 *   value       in base units: what was counted times the family's scale (seconds, bytes)
 *   histogram   _bucket, _sum, _count. The bounds (le) are the same for every family, so that
 *               series can be added up: 2^n - 1 counted units for n = 1, 3, 5, 7, 9, every n from
 *               10 to 26, 28, 30 and 32; the registry has a bucket that ends at each of them, so
 *               the numbers are exact
 *   label       value in UTF-8; a byte that is none is shown as \xNN (its backslash escaped as the
 *               format wants)
 */
#ifndef TASKMILL_BASE_PROMETHEUS_H
#define TASKMILL_BASE_PROMETHEUS_H

#include "base/bytes.h"
#include "base/metrics.h"

#define PROMETHEUS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

struct prometheus_label {
    const char *key, *value;
};

/* Appends all series. Any thread; updates go on meanwhile. */
void prometheus_write(struct metrics *metrics, struct buf *out);
/* The same with labels that every series gets, before its own. */
void prometheus_write_labelled(struct metrics *metrics, const struct prometheus_label *labels,
                               size_t label_count, struct buf *out);

#endif
