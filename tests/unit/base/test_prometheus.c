/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "base/prometheus.h"

static void assert_text(struct metrics *metrics, const char *wanted)
{
    struct buf out = {0};

    prometheus_write(metrics, &out);
    assert_string_equal(buf_cstr(&out), wanted);
    buf_free(&out);
}

static void test_counters_and_gauges(void **state)
{
    (void)state;
    static const struct metric_def requests = {.name = "grpc.request",
                                               .help = "Calls",
                                               .kind = METRIC_COUNTER,
                                               .labels = {"path", "result"}};
    static const struct metric_def lag = {
        .name = "upkeep.max-lag.sec", .help = "Lag", .kind = METRIC_GAUGE, .scale = 1e-3};
    static const struct metric_def busy = {
        .name = "busy", .help = "Time", .kind = METRIC_COUNTER, .scale = 1e-6};
    struct metrics *m = metrics_new(100);
    struct metric_family *family = metrics_family(m, &requests);

    metric_add(metrics_series(family, (struct bytes[]){bytes_str("/a"), bytes_str("ok")}), 3);
    metric_add(metrics_series(family, (struct bytes[]){bytes_str("/b"), bytes_str("")}),
               UINT64_MAX);
    metric_set(metrics_single(m, &lag), -1500);
    metric_add(metrics_single(m, &busy), 2500000);
    assert_text(m, "# HELP taskmill_grpc_request_total Calls\n"
                   "# TYPE taskmill_grpc_request_total counter\n"
                   "taskmill_grpc_request_total{path=\"/a\",result=\"ok\"} 3\n"
                   "taskmill_grpc_request_total{path=\"/b\",result=\"\"} 18446744073709551615\n"
                   "# HELP taskmill_upkeep_max_lag_sec Lag\n"
                   "# TYPE taskmill_upkeep_max_lag_sec gauge\n"
                   "taskmill_upkeep_max_lag_sec -1.5\n"
                   "# HELP taskmill_busy_total Time\n"
                   "# TYPE taskmill_busy_total counter\n"
                   "taskmill_busy_total 2.5\n");
    metrics_free(m);
}

static void test_escaping(void **state)
{
    (void)state;
    static const struct metric_def def = {.name = "g",
                                          .help = "back\\slash\nand line",
                                          .kind = METRIC_GAUGE,
                                          .labels = {"task.name"}};
    static const struct {
        const char *value, *shown;
    } cases[] = {
        {"a\"b\\c\nd", "a\\\"b\\\\c\\nd"},
        {"\xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80", "\xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80"},
        {"cut \xe2\x82", "cut \\\\xe2\\\\x82"},
        {"\xff\xc0\x80", "\\\\xff\\\\xc0\\\\x80"},            /* overlong NUL */
        {"\xed\xa0\x80", "\\\\xed\\\\xa0\\\\x80"},            /* surrogate */
        {"\xf4\x90\x80\x80", "\\\\xf4\\\\x90\\\\x80\\\\x80"}, /* above U+10FFFF */
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct metrics *m = metrics_new(10);
        struct buf wanted = {0};
        struct bytes value = bytes_str(cases[i].value);

        metric_set(metrics_series(metrics_family(m, &def), &value), 1);
        buf_printf(&wanted,
                   "# HELP taskmill_g back\\\\slash\\nand line\n# TYPE taskmill_g gauge\n"
                   "taskmill_g{task_name=\"%s\"} 1\n",
                   cases[i].shown);
        assert_text(m, buf_cstr(&wanted));
        buf_free(&wanted);
        metrics_free(m);
    }
}

static void assert_has(const char *text, const char *line)
{
    if (!strstr(text, line))
        fail_msg("no line \"%s\" in:\n%s", line, text);
}

static void test_histogram(void **state)
{
    (void)state;
    static const struct metric_def def = {
        .name = "wait", .help = "Wait", .kind = METRIC_HISTOGRAM, .scale = 1e-6, .labels = {"q"}};
    struct metrics *m = metrics_new(10);
    struct bytes value = bytes_str("x");
    struct metric *wait = metrics_series(metrics_family(m, &def), &value);
    struct buf out = {0};

    metric_observe(wait, 0);
    metric_observe(wait, 1023); /* the bound itself counts */
    metric_observe(wait, 1024);
    metric_observe(wait, UINT64_C(1) << 40); /* above the last bound */
    prometheus_write(m, &out);
    const char *text = buf_cstr(&out);
    assert_has(text, "# TYPE taskmill_wait histogram\n");
    assert_has(text, "\ntaskmill_wait_bucket{q=\"x\",le=\"1e-06\"} 1\n");
    assert_has(text, "\ntaskmill_wait_bucket{q=\"x\",le=\"0.000511\"} 1\n");
    assert_has(text, "\ntaskmill_wait_bucket{q=\"x\",le=\"0.001023\"} 2\n");
    assert_has(text, "\ntaskmill_wait_bucket{q=\"x\",le=\"0.002047\"} 3\n");
    assert_has(text, "\ntaskmill_wait_bucket{q=\"x\",le=\"4294.967295\"} 3\n");
    assert_has(text, "\ntaskmill_wait_bucket{q=\"x\",le=\"+Inf\"} 4\n");
    assert_has(text, "\ntaskmill_wait_count{q=\"x\"} 4\n");
    assert_has(text, "\ntaskmill_wait_sum{q=\"x\"} 1099511.629823\n");
    buf_free(&out);
    metrics_free(m);
}

static void test_nothing_declared(void **state)
{
    (void)state;
    struct metrics *m = metrics_new(1);

    assert_text(m, "");
    metrics_free(m);
}

static void test_labels_of_all_and_a_name_of_its_own(void **state)
{
    (void)state;
    static const struct metric_def occupancy = {.name = "worker.occupancy",
                                                .help = "Busy",
                                                .kind = METRIC_GAUGE,
                                                .prometheus = "taskworker_worker_occupancy"};
    static const struct metric_def tasks = {
        .name = "tasks", .help = "Tasks", .kind = METRIC_COUNTER, .labels = {"ns"}};
    const struct prometheus_label labels[] = {{"pool", "a\"b"}, {"pod", "p"}};
    struct metrics *m = metrics_new(2);
    struct buf out = {0};

    metric_set(metrics_single(m, &occupancy), 1);
    metric_add(metrics_series(metrics_family(m, &tasks), &(struct bytes){(const uint8_t *)"x", 1}),
               1);
    prometheus_write_labelled(m, labels, 2, &out);
    assert_string_equal(buf_cstr(&out),
                        "# HELP taskworker_worker_occupancy Busy\n"
                        "# TYPE taskworker_worker_occupancy gauge\n"
                        "taskworker_worker_occupancy{pool=\"a\\\"b\",pod=\"p\"} 1\n"
                        "# HELP taskmill_tasks_total Tasks\n"
                        "# TYPE taskmill_tasks_total counter\n"
                        "taskmill_tasks_total{pool=\"a\\\"b\",pod=\"p\",ns=\"x\"} 1\n");
    buf_free(&out);
    metrics_free(m);
}

static void test_a_gauge_that_is_withdrawn(void **state)
{
    (void)state;
    static const struct metric_def def = {.name = "g", .help = "G", .kind = METRIC_GAUGE};
    struct metrics *m = metrics_new(1);
    struct metric *gauge = metrics_single(m, &def);

    metric_set(gauge, 5);
    metric_unset(gauge);
    assert_text(m, "");
    metric_set(gauge, 0);
    assert_text(m, "# HELP taskmill_g G\n# TYPE taskmill_g gauge\ntaskmill_g 0\n");
    metrics_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counters_and_gauges),
        cmocka_unit_test(test_escaping),
        cmocka_unit_test(test_histogram),
        cmocka_unit_test(test_nothing_declared),
        cmocka_unit_test(test_labels_of_all_and_a_name_of_its_own),
        cmocka_unit_test(test_a_gauge_that_is_withdrawn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
