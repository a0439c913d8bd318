/* SPDX-License-Identifier: Apache-2.0 */
#include "base/prometheus.h"

#include <inttypes.h>

#define PREFIX "taskmill_"

/* The bounds are 2^n - 1: the last value of a bucket of the registry. */
static const uint8_t bound_bits[] = {1,  3,  5,  7,  9,  10, 11, 12, 13, 14, 15, 16, 17,
                                     18, 19, 20, 21, 22, 23, 24, 25, 26, 28, 30, 32};
#define BOUNDS (sizeof bound_bits / sizeof *bound_bits)

struct writer {
    struct buf *out;
    const struct metric_def *def; /* of the series before */
    struct buf labels;            /* those that every series gets, ready to be appended */
};

/* --- names and labels ------------------------------------------------------------------------ */

static bool is_name_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static void append_name(struct buf *out, const char *name)
{
    for (; *name; name++)
        buf_append_byte(out, is_name_byte(*name) ? (uint8_t)*name : '_');
}

static void append_metric(struct buf *out, const struct metric_def *def, const char *suffix)
{
    if (def->prometheus) {
        buf_append_str(out, def->prometheus);
    } else {
        buf_append_str(out, PREFIX);
        append_name(out, def->name);
        if (def->kind == METRIC_COUNTER)
            buf_append_str(out, "_total");
    }
    buf_append_str(out, suffix);
}

/* Length of the UTF-8 character at the beginning; 0: none. */
static size_t utf8_length(struct bytes text)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    uint8_t first = text.ptr[0];
    size_t len = first < 0x80           ? 1
                 : (first >> 5) == 0x06 ? 2
                 : (first >> 4) == 0x0e ? 3
                 : (first >> 3) == 0x1e ? 4
                                        : 0;
    if (len <= 1)
        return len;
    if (len > text.len)
        return 0;
    uint32_t code = first & (0x7fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((text.ptr[i] & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (text.ptr[i] & 0x3f);
    }
    bool surrogate = code >= 0xd800 && code <= 0xdfff;
    return code >= least[len] && code <= 0x10ffff && !surrogate ? len : 0;
}

static void append_value(struct buf *out, struct bytes value)
{
    while (value.len > 0) {
        size_t len = utf8_length(value);
        if (len == 0)
            buf_printf(out, "\\\\x%02x", value.ptr[0]);
        else if (value.ptr[0] == '\n')
            buf_append_str(out, "\\n");
        else if (value.ptr[0] == '"' || value.ptr[0] == '\\')
            buf_printf(out, "\\%c", value.ptr[0]);
        else
            buf_append(out, value.ptr, len);
        len += len == 0;
        value = bytes_of(value.ptr + len, value.len - len);
    }
}

static void append_label(struct buf *out, const char *key, struct bytes value)
{
    append_name(out, key);
    buf_append_str(out, "=\"");
    append_value(out, value);
    buf_append_byte(out, '"');
}

/* `bound`: text of the label le; NULL: none. */
static void append_labels(struct writer *writer, const struct metric_view *view, const char *bound)
{
    struct buf *out = writer->out;
    size_t start = out->len;

    buf_append(out, writer->labels.ptr, writer->labels.len);
    for (size_t i = 0; i < view->label_count; i++) {
        buf_append_byte(out, out->len == start ? '{' : ',');
        append_label(out, view->def->labels[i], view->values[i]);
    }
    if (bound)
        buf_printf(out, "%sle=\"%s\"", out->len == start ? "{" : ",", bound);
    if (out->len > start)
        buf_append_byte(out, '}');
}

static void append_head(struct buf *out, const struct metric_def *def)
{
    static const char *const types[] = {
        [METRIC_COUNTER] = "counter", [METRIC_GAUGE] = "gauge", [METRIC_HISTOGRAM] = "histogram"};

    buf_append_str(out, "# HELP ");
    append_metric(out, def, " ");
    for (const char *c = def->help; *c; c++) {
        if (*c == '\\' || *c == '\n')
            buf_append_byte(out, '\\');
        buf_append_byte(out, *c == '\n' ? 'n' : (uint8_t)*c);
    }
    buf_append_str(out, "\n# TYPE ");
    append_metric(out, def, " ");
    buf_printf(out, "%s\n", types[def->kind]);
}

/* --- values ---------------------------------------------------------------------------------- */

static double scale_of(const struct metric_def *def)
{
    return def->scale > 0 || def->scale < 0 ? def->scale : 1;
}

static void append_sample(struct writer *writer, const struct metric_view *view, const char *suffix,
                          const char *bound, const char *value)
{
    append_metric(writer->out, view->def, suffix);
    append_labels(writer, view, bound);
    buf_printf(writer->out, " %s\n", value);
}

static void append_scaled(struct writer *writer, const struct metric_view *view, const char *suffix,
                          double value)
{
    struct buf text = {0};

    buf_printf(&text, "%.15g", value * scale_of(view->def));
    append_sample(writer, view, suffix, NULL, buf_cstr(&text));
    buf_free(&text);
}

static void append_count(struct writer *writer, const struct metric_view *view, const char *suffix,
                         const char *bound, uint64_t count)
{
    struct buf text = {0};

    buf_printf(&text, "%" PRIu64, count);
    append_sample(writer, view, suffix, bound, buf_cstr(&text));
    buf_free(&text);
}

static void append_histogram(struct writer *writer, const struct metric_view *view)
{
    const struct metric_histogram *histogram = view->histogram;
    struct buf bound = {0};
    uint64_t below = 0;
    size_t bucket = 0;

    for (size_t i = 0; i < BOUNDS; i++) {
        uint64_t last = (UINT64_C(1) << bound_bits[i]) - 1;
        for (; metric_bucket_last(bucket) <= last; bucket++)
            below += histogram->buckets[bucket];
        buf_clear(&bound);
        buf_printf(&bound, "%.15g", (double)last * scale_of(view->def));
        append_count(writer, view, "_bucket", buf_cstr(&bound), below);
    }
    append_count(writer, view, "_bucket", "+Inf", histogram->count);
    append_scaled(writer, view, "_sum", (double)histogram->sum);
    append_count(writer, view, "_count", NULL, histogram->count);
    buf_free(&bound);
}

static void write_series(void *arg, const struct metric_view *view)
{
    struct writer *writer = arg;

    if (writer->def != view->def)
        append_head(writer->out, view->def);
    writer->def = view->def;
    if (view->def->kind == METRIC_HISTOGRAM)
        append_histogram(writer, view);
    else if (view->def->kind == METRIC_GAUGE)
        append_scaled(writer, view, "", (double)view->gauge);
    else if (scale_of(view->def) == 1)
        append_count(writer, view, "", NULL, view->counter);
    else
        append_scaled(writer, view, "", (double)view->counter);
}

void prometheus_write_labelled(struct metrics *metrics, const struct prometheus_label *labels,
                               size_t label_count, struct buf *out)
{
    struct writer writer = {.out = out};

    for (size_t i = 0; i < label_count; i++) {
        buf_append_byte(&writer.labels, i == 0 ? '{' : ',');
        append_label(&writer.labels, labels[i].key, bytes_str(labels[i].value));
    }
    metrics_visit(metrics, write_series, &writer);
    buf_free(&writer.labels);
}

void prometheus_write(struct metrics *metrics, struct buf *out)
{
    prometheus_write_labelled(metrics, NULL, 0, out);
}
