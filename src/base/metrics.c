/* SPDX-License-Identifier: Apache-2.0 */
#include "base/metrics.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "base/map.h"
#include "base/mem.h"

#define SUB_BITS 3 /* 2^3 linear buckets a power of two */
#define SUB      (1u << SUB_BITS)

_Static_assert(METRIC_BUCKETS == SUB + (64 - SUB_BITS) * SUB, "buckets cover uint64");

struct metrics {
    pthread_mutex_t lock;
    struct list families;
    size_t series_max, series_count;
    size_t next_index;
    _Atomic uint64_t overflows;
};

struct metric_family {
    struct list_node node;
    struct metrics *metrics;
    const struct metric_def *def;
    size_t label_count;
    struct list series;
    struct map by_values;
    struct metric *other; /* NULL until the limit is met */
};

struct metric {
    struct list_node node;
    struct map_node by_values;
    struct metric_family *family;
    size_t index;
    struct buf key;             /* the label values, each with its length before it */
    _Atomic uint64_t word;      /* counter; a gauge's bits; a histogram's sum */
    _Atomic uint64_t buckets[]; /* of a histogram; a gauge's one: not 0 once it was set */
};

struct metrics *metrics_new(size_t series_max)
{
    struct metrics *m = (struct metrics *)mem_zalloc(sizeof(*m));

    int rv = pthread_mutex_init(&m->lock, NULL);
    assert(rv == 0);
    list_init(&m->families);
    m->series_max = series_max;
    return m;
}

static void free_family(struct metric_family *family)
{
    struct list_node *node;

    map_free(&family->by_values);
    while ((node = list_pop_front(&family->series))) {
        struct metric *metric = container_of(node, struct metric, node);
        buf_free(&metric->key);
        mem_free(metric);
    }
    mem_free(family);
}

void metrics_free(struct metrics *m)
{
    struct list_node *node;

    if (!m)
        return;
    while ((node = list_pop_front(&m->families)))
        free_family(container_of(node, struct metric_family, node));
    pthread_mutex_destroy(&m->lock);
    mem_free(m);
}

struct metric_family *metrics_family(struct metrics *m, const struct metric_def *def)
{
    /* Not secret: the number of series is limited, so collisions cannot cost much. */
    static const uint64_t seed[2] = {0x7461736b6d696c6c, 0x6d657472696373};
    struct metric_family *family = (struct metric_family *)mem_zalloc(sizeof(*family));

    list_foreach (&m->families, it)
        assert(strcmp(container_of(it, struct metric_family, node)->def->name, def->name) != 0);
    family->metrics = m;
    family->def = def;
    while (family->label_count < METRIC_LABELS_MAX && def->labels[family->label_count])
        family->label_count++;
    list_init(&family->series);
    map_init(&family->by_values, seed);
    list_push_back(&m->families, &family->node);
    return family;
}

/* The key is unambiguous for any bytes in the values: METRIC_LABEL_VALUE_MAX fits in the length
 * byte. */
_Static_assert(METRIC_LABEL_VALUE_MAX <= UINT8_MAX, "length of a label value");

static size_t kept_len(struct bytes value)
{
    size_t len = value.len;

    if (len <= METRIC_LABEL_VALUE_MAX)
        return len;
    len = METRIC_LABEL_VALUE_MAX;
    while (len > METRIC_LABEL_VALUE_MAX - 4 && (value.ptr[len] & 0xc0) == 0x80)
        len--; /* the byte after the cut must not go on with a character */
    return len;
}

static void make_key(struct buf *key, const struct bytes *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        size_t len = kept_len(values[i]);
        buf_append_byte(key, (uint8_t)len);
        buf_append(key, values[i].ptr, len);
    }
}

static void split_key(const struct metric *metric, struct bytes values[METRIC_LABELS_MAX])
{
    const uint8_t *at = metric->key.ptr;

    for (size_t i = 0; i < metric->family->label_count; i++) {
        values[i] = bytes_of(at + 1, *at);
        at += 1 + *at;
    }
}

/* Takes the key. */
static struct metric *create(struct metric_family *family, struct buf *key)
{
    size_t buckets = family->def->kind == METRIC_HISTOGRAM ? METRIC_BUCKETS
                     : family->def->kind == METRIC_GAUGE   ? 1
                                                           : 0;
    struct metric *metric =
        (struct metric *)mem_zalloc(sizeof(*metric) + buckets * sizeof(metric->buckets[0]));

    metric->family = family;
    metric->index = family->metrics->next_index++;
    metric->key = *key;
    *key = (struct buf){0};
    list_push_back(&family->series, &metric->node);
    return metric;
}

static struct metric *other(struct metric_family *family)
{
    struct bytes values[METRIC_LABELS_MAX];
    struct buf key = {0};

    atomic_fetch_add_explicit(&family->metrics->overflows, 1, memory_order_relaxed);
    if (family->other)
        return family->other;
    for (size_t i = 0; i < family->label_count; i++)
        values[i] = bytes_str("other");
    make_key(&key, values, family->label_count);
    struct map_node *found = map_find(&family->by_values, buf_bytes(&key));
    if (found) /* somebody really is called "other": an exporter must not see the labels twice */
        family->other = container_of(found, struct metric, by_values);
    else
        family->other = create(family, &key);
    buf_free(&key);
    return family->other;
}

static struct metric *find_or_create(struct metric_family *family, struct buf *key)
{
    struct metrics *m = family->metrics;
    struct map_node *found = map_find(&family->by_values, buf_bytes(key));

    if (found)
        return container_of(found, struct metric, by_values);
    if (m->series_count == m->series_max)
        return other(family);
    m->series_count++;
    struct metric *metric = create(family, key);
    map_insert(&family->by_values, &metric->by_values, buf_bytes(&metric->key));
    return metric;
}

struct metric *metrics_series(struct metric_family *family, const struct bytes *values)
{
    struct buf key = {0};

    assert(values || family->label_count == 0);
    make_key(&key, values, family->label_count);
    pthread_mutex_lock(&family->metrics->lock);
    struct metric *metric = find_or_create(family, &key);
    pthread_mutex_unlock(&family->metrics->lock);
    buf_free(&key);
    return metric;
}

bool metric_has_values(const struct metric *metric, const struct bytes *values)
{
    const uint8_t *at = metric->key.ptr;

    for (size_t i = 0; i < metric->family->label_count; i++) {
        if (!bytes_equal(bytes_of(at + 1, *at), values[i]))
            return false;
        at += 1 + *at;
    }
    return true;
}

struct metric *metrics_single(struct metrics *m, const struct metric_def *def)
{
    return metrics_series(metrics_family(m, def), NULL);
}

uint64_t metrics_overflows(const struct metrics *m)
{
    return atomic_load_explicit(&m->overflows, memory_order_relaxed);
}

/* Relaxed everywhere: a metric orders nothing but itself. */
static void add(_Atomic uint64_t *word, uint64_t n)
{
    atomic_fetch_add_explicit(word, n, memory_order_relaxed);
}

void metric_add(struct metric *metric, uint64_t n)
{
    assert(metric->family->def->kind == METRIC_COUNTER);
    add(&metric->word, n);
}

void metric_set(struct metric *metric, int64_t value)
{
    assert(metric->family->def->kind == METRIC_GAUGE);
    atomic_store_explicit(&metric->word, (uint64_t)value, memory_order_relaxed);
    atomic_store_explicit(&metric->buckets[0], 1, memory_order_relaxed);
}

void metric_change(struct metric *metric, int64_t by)
{
    assert(metric->family->def->kind == METRIC_GAUGE);
    add(&metric->word, (uint64_t)by);
    atomic_store_explicit(&metric->buckets[0], 1, memory_order_relaxed);
}

void metric_unset(struct metric *metric)
{
    assert(metric->family->def->kind == METRIC_GAUGE);
    atomic_store_explicit(&metric->buckets[0], 0, memory_order_relaxed);
}

void metric_observe(struct metric *metric, uint64_t value)
{
    assert(metric->family->def->kind == METRIC_HISTOGRAM);
    add(&metric->buckets[metric_bucket(value)], 1);
    add(&metric->word, value);
}

size_t metric_bucket(uint64_t value)
{
    if (value < SUB)
        return (size_t)value;
    unsigned shift = 63 - (unsigned)__builtin_clzll(value) - SUB_BITS;
    return (size_t)(shift + 1) * SUB + (size_t)(value >> shift & (SUB - 1));
}

uint64_t metric_bucket_first(size_t bucket)
{
    assert(bucket < METRIC_BUCKETS);
    if (bucket < SUB)
        return bucket;
    size_t shift = bucket / SUB - 1;
    return (uint64_t)(SUB + bucket % SUB) << shift;
}

uint64_t metric_bucket_last(size_t bucket)
{
    return bucket + 1 < METRIC_BUCKETS ? metric_bucket_first(bucket + 1) - 1 : UINT64_MAX;
}

double metric_quantile(const struct metric_histogram *h, double q)
{
    double rank = q * (double)h->count, below = 0;
    size_t last = 0;

    assert(q >= 0 && q <= 1);
    if (h->count == 0)
        return 0;
    for (size_t i = 0; i < METRIC_BUCKETS; i++) {
        double here = (double)h->buckets[i];
        if (here == 0)
            continue;
        last = i;
        if (below + here >= rank)
            break;
        below += here;
    }
    double first = (double)metric_bucket_first(last), end = (double)metric_bucket_last(last);
    double part = (rank - below) / (double)h->buckets[last];
    return first + (end - first) * (part < 0 ? 0 : part > 1 ? 1 : part);
}

static void copy_histogram(struct metric *metric, struct metric_histogram *h)
{
    h->count = 0;
    h->sum = atomic_load_explicit(&metric->word, memory_order_relaxed);
    for (size_t i = 0; i < METRIC_BUCKETS; i++) {
        h->buckets[i] = atomic_load_explicit(&metric->buckets[i], memory_order_relaxed);
        h->count += h->buckets[i];
    }
}

static void visit_one(struct metric *metric, metrics_visit_fn *visit, void *arg)
{
    struct metric_family *family = metric->family;
    struct metric_view view = {
        .def = family->def, .index = metric->index, .label_count = family->label_count};
    struct metric_histogram histogram;

    if (family->def->kind == METRIC_GAUGE &&
        !atomic_load_explicit(&metric->buckets[0], memory_order_relaxed))
        return;
    split_key(metric, view.values);
    if (family->def->kind == METRIC_HISTOGRAM) {
        copy_histogram(metric, &histogram);
        view.histogram = &histogram;
    } else {
        uint64_t word = atomic_load_explicit(&metric->word, memory_order_relaxed);
        view.counter = family->def->kind == METRIC_COUNTER ? word : 0;
        view.gauge = family->def->kind == METRIC_GAUGE ? (int64_t)word : 0;
    }
    visit(arg, &view);
}

/* The one after `metric`, or the first. Under the lock because others append meanwhile; nothing is
 * ever removed, so the lock need not be held in between. */
static struct metric *next_series(struct metric_family *family, struct metric *metric)
{
    pthread_mutex_lock(&family->metrics->lock);
    struct list_node *next = metric ? metric->node.next : family->series.head.next;
    pthread_mutex_unlock(&family->metrics->lock);
    return next == &family->series.head ? NULL : container_of(next, struct metric, node);
}

void metrics_visit(struct metrics *m, metrics_visit_fn *visit, void *arg)
{
    list_foreach (&m->families, it) {
        struct metric_family *family = container_of(it, struct metric_family, node);
        for (struct metric *s = NULL; (s = next_series(family, s));)
            visit_one(s, visit, arg);
    }
}
