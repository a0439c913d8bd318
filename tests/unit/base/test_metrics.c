/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/metrics.h"

static const struct metric_def requests = {
    .name = "requests", .help = "Requests", .kind = METRIC_COUNTER, .labels = {"method", "result"}};
static const struct metric_def depth = {.name = "depth", .help = "Depth", .kind = METRIC_GAUGE};
static const struct metric_def duration = {
    .name = "duration", .help = "Duration", .kind = METRIC_HISTOGRAM, .scale = 1e-6};

static struct metric *request_series(struct metric_family *family, const char *method,
                                     const char *result)
{
    const struct bytes values[] = {bytes_str(method), bytes_str(result)};

    return metrics_series(family, values);
}

/* The visitor writes one line a series. */
static void append_line(void *arg, const struct metric_view *view)
{
    struct buf *out = arg;

    buf_printf(out, "%zu %s", view->index, view->def->name);
    for (size_t i = 0; i < view->label_count; i++)
        buf_printf(out, " %s=%.*s", view->def->labels[i], BYTES_FMT_ARG(view->values[i]));
    if (view->histogram)
        buf_printf(out, ": count %llu sum %llu\n", (unsigned long long)view->histogram->count,
                   (unsigned long long)view->histogram->sum);
    else
        buf_printf(out, ": %llu %lld\n", (unsigned long long)view->counter, (long long)view->gauge);
}

static void assert_dump(struct metrics *metrics, const char *wanted)
{
    struct buf out = {0};

    metrics_visit(metrics, append_line, &out);
    assert_string_equal(buf_cstr(&out), wanted);
    buf_free(&out);
}

static void test_kinds_and_visit_order(void **state)
{
    (void)state;
    struct metrics *m = metrics_new(100);
    struct metric_family *family = metrics_family(m, &requests);
    struct metric *gauge = metrics_single(m, &depth), *histogram = metrics_single(m, &duration);
    metric_add(request_series(family, "get", "ok"), 3);
    metric_add(request_series(family, "set", "ok"), 1);
    metric_add(request_series(family, "get", "ok"), 4);
    metric_set(gauge, 10);
    metric_change(gauge, -15);
    metric_observe(histogram, 1000);
    metric_observe(histogram, 0);
    assert_dump(m, "2 requests method=get result=ok: 7 0\n"
                   "3 requests method=set result=ok: 1 0\n"
                   "0 depth: 0 -5\n"
                   "1 duration: count 2 sum 1000\n");
    assert_int_equal(metrics_overflows(m), 0);
    metrics_free(m);
    metrics_free(NULL);
}

static void test_same_values_same_series(void **state)
{
    (void)state;
    struct metrics *m = metrics_new(100);
    struct metric_family *family = metrics_family(m, &requests);
    assert_ptr_equal(request_series(family, "a", "bc"), request_series(family, "a", "bc"));
    assert_ptr_not_equal(request_series(family, "a", "bc"), request_series(family, "ab", "c"));
    assert_ptr_not_equal(request_series(family, "", "abc"), request_series(family, "abc", ""));
    metrics_free(m);
}

static void test_long_values_are_cut(void **state)
{
    char text[301];

    (void)state;
    memset(text, 'x', 300);
    text[300] = '\0';
    struct metrics *m = metrics_new(100);
    struct metric_family *family = metrics_family(m, &requests);
    struct metric *metric = request_series(family, text, "r");
    text[METRIC_LABEL_VALUE_MAX] = '\0';
    assert_ptr_equal(request_series(family, text, "r"), metric);
    metrics_free(m);
}

static void test_values_are_cut_between_characters(void **state)
{
    char text[METRIC_LABEL_VALUE_MAX + 8];

    (void)state;
    memset(text, 'x', sizeof(text));
    struct bytes values[] = {bytes_of(text, METRIC_LABEL_VALUE_MAX + 2), bytes_str("r")};
    text[METRIC_LABEL_VALUE_MAX - 1] = '\xc3'; /* an e acute across the limit */
    text[METRIC_LABEL_VALUE_MAX] = '\xa9';
    struct metrics *m = metrics_new(100);
    struct metric *metric = metrics_series(metrics_family(m, &requests), values);
    assert_false(metric_has_values(metric, values));
    values[0].len = METRIC_LABEL_VALUE_MAX - 1;
    assert_true(metric_has_values(metric, values));
    values[1] = bytes_str("s");
    assert_false(metric_has_values(metric, values));
    metrics_free(m);
}

static void test_beyond_the_limit_totals_stay_right(void **state)
{
    (void)state;
    struct metrics *m = metrics_new(3);
    struct metric_family *family = metrics_family(m, &requests);
    struct metric *gauge = metrics_single(m, &depth);
    for (int i = 0; i < 10; i++) {
        char name[8];
        snprintf(name, sizeof(name), "m%d", i);
        metric_add(request_series(family, name, "ok"), 1);
    }
    metric_add(request_series(family, "m0", "ok"), 1); /* an old one is still found */
    metric_set(gauge, 1);
    assert_dump(m, "1 requests method=m0 result=ok: 2 0\n"
                   "2 requests method=m1 result=ok: 1 0\n"
                   "3 requests method=other result=other: 8 0\n"
                   "0 depth: 0 1\n");
    assert_int_equal(metrics_overflows(m), 8);
    metrics_free(m);
}

static void test_real_other_is_not_listed_twice(void **state)
{
    (void)state;
    struct metrics *m = metrics_new(1);
    struct metric_family *family = metrics_family(m, &requests);
    metric_add(request_series(family, "other", "other"), 1);
    metric_add(request_series(family, "x", "y"), 1);
    metric_add(request_series(family, "other", "other"), 1);
    assert_dump(m, "0 requests method=other result=other: 3 0\n");
    metrics_free(m);
}

static void test_buckets_cover_all_values_once(void **state)
{
    (void)state;
    assert_int_equal(metric_bucket_first(0), 0);
    assert_true(metric_bucket_last(METRIC_BUCKETS - 1) == UINT64_MAX);
    for (size_t i = 0; i < METRIC_BUCKETS; i++) {
        uint64_t first = metric_bucket_first(i), last = metric_bucket_last(i);
        assert_true(first <= last);
        assert_int_equal(metric_bucket(first), i);
        assert_int_equal(metric_bucket(last), i);
        assert_true(last - first <= first / 8);
        if (i > 0)
            assert_true(metric_bucket_last(i - 1) + 1 == first);
    }
}

static void keep_histogram(void *arg, const struct metric_view *view)
{
    *(struct metric_histogram *)arg = *view->histogram;
}

static void test_quantiles(void **state)
{
    static const double quantiles[] = {0.01, 0.25, 0.5, 0.9, 0.99, 1.0};
    struct metric_histogram h;

    (void)state;
    struct metrics *m = metrics_new(1);
    struct metric *metric = metrics_single(m, &duration);
    metrics_visit(m, keep_histogram, &h);
    assert_true(metric_quantile(&h, 0.5) == 0);

    for (uint64_t i = 1; i <= 10000; i++)
        metric_observe(metric, i);
    metrics_visit(m, keep_histogram, &h);
    assert_int_equal(h.count, 10000);
    assert_int_equal(h.sum, 50005000);
    for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++) {
        double estimate = metric_quantile(&h, quantiles[i]), exact = quantiles[i] * 10000;
        assert_true(estimate > exact * 0.98 && estimate < exact * 1.03);
    }
    assert_true(metric_quantile(&h, 0) == 1);
    metrics_free(m);
}

static void test_quantile_of_equal_and_huge_values(void **state)
{
    struct metric_histogram h;

    (void)state;
    struct metrics *m = metrics_new(1);
    struct metric *metric = metrics_single(m, &duration);
    metric_observe(metric, 5);
    metric_observe(metric, 5);
    metrics_visit(m, keep_histogram, &h);
    assert_true(metric_quantile(&h, 0.5) == 5 && metric_quantile(&h, 1) == 5);
    metric_observe(metric, UINT64_MAX);
    metrics_visit(m, keep_histogram, &h);
    assert_int_equal(h.buckets[METRIC_BUCKETS - 1], 1);
    assert_true(metric_quantile(&h, 1) == 0x1p64);
    metrics_free(m);
}

#define THREADS 4
#define ROUNDS  20000

struct shared {
    struct metric_family *family;
    struct metric *gauge, *histogram;
};

static void *update(void *arg)
{
    static const char *const methods[] = {"a", "b", "c", "d", "e"};
    const struct shared *s = arg;

    for (int i = 0; i < ROUNDS; i++) {
        metric_add(request_series(s->family, methods[i % 5], "ok"), 1);
        metric_change(s->gauge, i % 2 ? -1 : 1);
        metric_observe(s->histogram, (uint64_t)i);
    }
    return NULL;
}

static void sum_counters(void *arg, const struct metric_view *view)
{
    *(uint64_t *)arg += view->counter;
    if (view->histogram)
        assert_true(view->histogram->count <= (uint64_t)THREADS * ROUNDS);
}

static void test_threads_update_while_one_visits(void **state)
{
    pthread_t threads[THREADS];
    uint64_t sum = 0, before = 0;

    (void)state;
    struct metrics *m = metrics_new(5); /* two single ones and three methods: two share "other" */
    struct shared s = {.histogram = metrics_single(m, &duration)};
    s.gauge = metrics_single(m, &depth);
    s.family = metrics_family(m, &requests);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, update, &s), 0);
    for (int i = 0; i < 50; i++) {
        sum = 0;
        metrics_visit(m, sum_counters, &sum);
        assert_true(sum >= before);
        before = sum;
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    sum = 0;
    metrics_visit(m, sum_counters, &sum);
    assert_int_equal(sum, THREADS * ROUNDS);
    struct buf out = {0};
    metrics_visit(m, append_line, &out);
    assert_non_null(strstr(buf_cstr(&out), "1 depth: 0 0\n"));
    assert_non_null(strstr(buf_cstr(&out), "0 duration: count 80000 sum 799960000\n"));
    buf_free(&out);
    metrics_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds_and_visit_order),
        cmocka_unit_test(test_same_values_same_series),
        cmocka_unit_test(test_long_values_are_cut),
        cmocka_unit_test(test_values_are_cut_between_characters),
        cmocka_unit_test(test_beyond_the_limit_totals_stay_right),
        cmocka_unit_test(test_real_other_is_not_listed_twice),
        cmocka_unit_test(test_buckets_cover_all_values_once),
        cmocka_unit_test(test_quantiles),
        cmocka_unit_test(test_quantile_of_equal_and_huge_values),
        cmocka_unit_test(test_threads_update_while_one_visits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
