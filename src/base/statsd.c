/* SPDX-License-Identifier: Apache-2.0 */
#include "base/statsd.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"

/* Decimals of a value: nanoseconds in seconds. */
#define VALUE_DECIMALS 9
/* 1/rate must not fall below n, whose integer part some servers take: the rate is this much lower
 * than 1/n, and has so many digits that this much is there. */
#define RATE_MARGIN 1e-12
#define RATE_DIGITS 14

/* What was exported of one series. */
struct earlier {
    uint64_t counter;
    struct metric_histogram *histogram; /* NULL until there is something in it */
};

struct statsd_format {
    char *prefix;
    struct buf default_tags; /* ready to be appended */
    struct earlier *earlier; /* by metric_view.index */
    size_t earlier_count;
    struct buf line, datagram;
    statsd_send_fn *send;
    void *ctx;
};

/* --- text ------------------------------------------------------------------------------------ */

static void append_clean(struct buf *out, struct bytes text, bool key)
{
    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = text.ptr[i];
        bool bad = c < 0x20 || c == 0x7f || c == ',' || c == '|' || (key && c == ':');
        buf_append_byte(out, bad ? '_' : c);
    }
}

static void append_tag(struct buf *out, const char *key, struct bytes value)
{
    if (out->len)
        buf_append_byte(out, ',');
    append_clean(out, bytes_str(key), true);
    buf_append_byte(out, ':');
    append_clean(out, value, false);
}

static void append_number(struct buf *out, double value, int decimals)
{
    buf_printf(out, "%.*f", decimals, value);
    while (decimals > 0 && out->ptr[out->len - 1] == '0')
        out->len--;
    if (decimals > 0 && out->ptr[out->len - 1] == '.')
        out->len--;
}

static void append_rate(struct buf *out, uint64_t n)
{
    int decimals = RATE_DIGITS;
    for (uint64_t rest = n; rest >= 10; rest /= 10)
        decimals++;
    append_number(out, (1 - RATE_MARGIN) / (double)n, decimals);
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const struct statsd_tag *)a)->key, ((const struct statsd_tag *)b)->key);
}

struct statsd_format *statsd_format_new(const char *prefix, const struct statsd_tag *tags,
                                        size_t tag_count)
{
    struct statsd_format *format = mem_zalloc(sizeof *format);
    struct statsd_tag *sorted = mem_calloc(tag_count, sizeof *sorted);

    format->prefix = mem_strdup(prefix);
    if (tag_count) {
        memcpy(sorted, tags, tag_count * sizeof *tags);
        qsort(sorted, tag_count, sizeof *sorted, by_key);
    }
    for (size_t i = 0; i < tag_count; i++)
        append_tag(&format->default_tags, sorted[i].key, bytes_str(sorted[i].value));
    mem_free(sorted);
    return format;
}

void statsd_format_free(struct statsd_format *format)
{
    if (!format)
        return;
    for (size_t i = 0; i < format->earlier_count; i++)
        mem_free(format->earlier[i].histogram);
    mem_free(format->earlier);
    mem_free(format->prefix);
    buf_free(&format->default_tags);
    buf_free(&format->line);
    buf_free(&format->datagram);
    mem_free(format);
}

/* --- lines and datagrams --------------------------------------------------------------------- */

static void flush(struct statsd_format *format)
{
    if (format->datagram.len)
        format->send(format->ctx, buf_bytes(&format->datagram));
    buf_clear(&format->datagram);
}

static void put_line(struct statsd_format *format, const struct metric_view *view)
{
    struct buf *line = &format->line, *datagram = &format->datagram;
    struct buf tags = {0};

    buf_append(&tags, format->default_tags.ptr, format->default_tags.len);
    for (size_t i = 0; i < view->label_count; i++)
        append_tag(&tags, view->def->labels[i], view->values[i]);
    if (tags.len) {
        buf_append_str(line, "|#");
        buf_append(line, tags.ptr, tags.len);
    }
    buf_free(&tags);
    if (datagram->len + 1 + line->len > STATSD_DATAGRAM_MAX)
        flush(format);
    if (datagram->len)
        buf_append_byte(datagram, '\n');
    buf_append(datagram, line->ptr, line->len);
}

static void begin_line(struct statsd_format *format, const struct metric_view *view)
{
    buf_clear(&format->line);
    buf_append_str(&format->line, format->prefix);
    buf_append_str(&format->line, view->def->name);
    buf_append_byte(&format->line, ':');
}

static double scale_of(const struct metric_view *view)
{
    return view->def->scale == 0 ? 1 : view->def->scale;
}

/* --- kinds ----------------------------------------------------------------------------------- */

static struct earlier *earlier_of(struct statsd_format *format, size_t index)
{
    if (index >= format->earlier_count) {
        size_t count = format->earlier_count ? format->earlier_count * 2 : 256;
        while (count <= index)
            count *= 2;
        format->earlier = mem_realloc(format->earlier, count * sizeof *format->earlier);
        memset(format->earlier + format->earlier_count, 0,
               (count - format->earlier_count) * sizeof *format->earlier);
        format->earlier_count = count;
    }
    return &format->earlier[index];
}

static void put_counter(struct statsd_format *format, const struct metric_view *view,
                        struct earlier *earlier)
{
    begin_line(format, view);
    append_number(&format->line, (double)(view->counter - earlier->counter) * scale_of(view),
                  VALUE_DECIMALS);
    buf_append_str(&format->line, "|c");
    earlier->counter = view->counter;
    put_line(format, view);
}

static void put_gauge(struct statsd_format *format, const struct metric_view *view)
{
    begin_line(format, view);
    append_number(&format->line, (double)view->gauge * scale_of(view), VALUE_DECIMALS);
    buf_append_str(&format->line, "|g");
    put_line(format, view);
}

/* What is new since the last export. The sum is read apart from the buckets and may miss what they
 * have; such a difference goes into the next export. */
struct news {
    double least; /* the sum, if each observation were the first value of its bucket */
    double width; /* and by how much more it would be with the last ones */
    double part;  /* where in its bucket each is placed, 0 to 1, so that the sum comes out right */
};

static struct news news_of(const struct metric_histogram *now,
                           const struct metric_histogram *before)
{
    struct news news = {0};

    for (size_t i = 0; i < METRIC_BUCKETS; i++) {
        double n = (double)(now->buckets[i] - before->buckets[i]);
        double first = (double)metric_bucket_first(i), last = (double)metric_bucket_last(i);
        news.least += n * first;
        news.width += n * (last - first);
    }
    double part = (double)(int64_t)(now->sum - before->sum) - news.least;
    if (part > 0 && news.width > 0)
        news.part = part < news.width ? part / news.width : 1;
    return news;
}

static void put_bucket(struct statsd_format *format, const struct metric_view *view, double value,
                       uint64_t n)
{
    begin_line(format, view);
    append_number(&format->line, value * scale_of(view), VALUE_DECIMALS);
    buf_append_byte(&format->line, '|');
    buf_append_str(&format->line, view->def->statsd ? view->def->statsd : "h");
    if (n > 1) {
        buf_append_str(&format->line, "|@");
        append_rate(&format->line, n);
    }
    put_line(format, view);
}

static void put_histogram(struct statsd_format *format, const struct metric_view *view,
                          struct earlier *earlier)
{
    const struct metric_histogram *now = view->histogram;

    if (now->count == 0)
        return;
    if (!earlier->histogram)
        earlier->histogram = mem_zalloc(sizeof *earlier->histogram);
    struct metric_histogram *before = earlier->histogram;
    struct news news = news_of(now, before);
    for (size_t i = 0; i < METRIC_BUCKETS; i++) {
        double first = (double)metric_bucket_first(i), last = (double)metric_bucket_last(i);
        uint64_t n = now->buckets[i] - before->buckets[i];
        if (n)
            put_bucket(format, view, first + news.part * (last - first), n);
    }
    uint64_t exported = before->sum + (uint64_t)(news.least + news.part * news.width + 0.5);
    *before = *now;
    before->sum = exported;
}

static void put_series(void *arg, const struct metric_view *view)
{
    struct statsd_format *format = arg;
    if (view->def->statsd && !view->def->statsd[0])
        return;
    struct earlier *earlier = earlier_of(format, view->index);

    switch (view->def->kind) {
    case METRIC_COUNTER:
        put_counter(format, view, earlier);
        break;
    case METRIC_GAUGE:
        put_gauge(format, view);
        break;
    case METRIC_HISTOGRAM:
        put_histogram(format, view, earlier);
        break;
    }
}

void statsd_format_export(struct statsd_format *format, struct metrics *metrics,
                          statsd_send_fn *send, void *ctx)
{
    format->send = send;
    format->ctx = ctx;
    metrics_visit(metrics, put_series, format);
    flush(format);
}
