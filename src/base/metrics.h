/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Registry of counters, gauges and histograms. A *family* is what the program declares once at
 * start: a name, a kind and label keys. A *series* is a family with label values; a family without
 * labels has one. Series are never removed, so a pointer to one is good until metrics_free(): look
 * it up once, keep it, update it from any thread without a lock.
 *
 * Label values may come from strangers (task names), so the registry has a hard limit of series. At
 * the limit a family answers with its series "other": totals stay right, memory stays bounded
 * (INV-10).
 *
 * Values are integers in the unit that the program counts in; exporters multiply by the family's
 * scale (1e-6 for microseconds shown as seconds).
 *
 * Thread-safe, except metrics_new, metrics_family and metrics_free.
 */
#ifndef TASKMILL_BASE_METRICS_H
#define TASKMILL_BASE_METRICS_H

#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

#define METRIC_LABELS_MAX      4
#define METRIC_LABEL_VALUE_MAX 200 /* bytes; a longer value is cut, between UTF-8 characters */

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

#define METRIC_HIDDEN "" /* not exported there */

/* Lives as long as the registry; usually a static const. */
struct metric_def {
    const char *name; /* "consumer.messages": exporters change it to what their format allows */
    const char *help; /* one line */
    enum metric_kind kind;
    double scale;                          /* 0 means 1 */
    const char *labels[METRIC_LABELS_MAX]; /* keys; NULL after the last */
    const char *statsd;     /* type of a histogram's lines there; NULL: "h"; or METRIC_HIDDEN */
    const char *prometheus; /* its whole name there; NULL: made of `name` (base/prometheus.h) */
};

struct metrics;
struct metric_family;
struct metric; /* a series */

/* At most `series_max` series over all families, not counting those named "other". */
struct metrics *metrics_new(size_t series_max);
void metrics_free(struct metrics *metrics);

/* At start. A name is declared once (asserted). */
struct metric_family *metrics_family(struct metrics *metrics, const struct metric_def *def);
/* Finds or creates; never NULL. `values` has one value for each label of the family, or is NULL
 * when it has none. */
struct metric *metrics_series(struct metric_family *family, const struct bytes *values);
/* Whether metrics_series() of the same family would find this one by these values. False for values
 * that are cut, and for a series that answers for others at the limit. */
bool metric_has_values(const struct metric *metric, const struct bytes *values);
/* Family and series of a metric without labels. */
struct metric *metrics_single(struct metrics *metrics, const struct metric_def *def);
/* How many look-ups were answered with "other". */
uint64_t metrics_overflows(const struct metrics *metrics);

/* Each for its own kind (asserted): counter, gauge, gauge, histogram. */
void metric_add(struct metric *metric, uint64_t n);
void metric_set(struct metric *metric, int64_t value);
void metric_change(struct metric *metric, int64_t by);
/* A gauge whose value is not known any more: as if it had never been set. */
void metric_unset(struct metric *metric);
void metric_observe(struct metric *metric, uint64_t value);

/*
 * Histograms are log-linear: values below 8 have a bucket each, every power of two above has 8
 * buckets of equal width, so a bucket is at most 1/8 of its values wide over the whole range of
 * uint64.
 */
#define METRIC_BUCKETS 496

size_t metric_bucket(uint64_t value);
/* The least and the greatest value of a bucket. */
uint64_t metric_bucket_first(size_t bucket);
uint64_t metric_bucket_last(size_t bucket);

/* A copy of a histogram. Updates go on meanwhile: `count` is exactly the sum of the buckets, `sum`
 * may miss or have a few observations more. */
struct metric_histogram {
    uint64_t count, sum;
    uint64_t buckets[METRIC_BUCKETS];
};

/* Estimate of the quantile q (0 to 1), interpolated inside its bucket; 0 when empty. */
double metric_quantile(const struct metric_histogram *histogram, double q);

/* What an exporter sees of one series. */
struct metric_view {
    const struct metric_def *def;
    size_t
        index; /* 0, 1, ... in the order of creation: exporters keep earlier values in an array */
    size_t label_count;
    struct bytes values[METRIC_LABELS_MAX];
    uint64_t counter;
    int64_t gauge;
    const struct metric_histogram *histogram; /* NULL for the other kinds */
};

typedef void metrics_visit_fn(void *arg, const struct metric_view *view);

/* All series, except gauges that were never set (nobody knows their value): families in the order
 * of declaration, within one in the order of creation. `visit` runs without a lock; the view is
 * valid only inside the call. */
void metrics_visit(struct metrics *metrics, metrics_visit_fn *visit, void *arg);

#endif
