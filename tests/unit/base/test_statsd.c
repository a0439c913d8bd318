/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/statsd.h"

static const struct metric_def requests = {
    .name = "requests", .help = "Requests", .kind = METRIC_COUNTER, .labels = {"path", "result"}};
static const struct metric_def total = {.name = "total", .help = "T", .kind = METRIC_COUNTER};
static const struct metric_def depth = {
    .name = "depth", .help = "Depth", .kind = METRIC_GAUGE, .scale = 1e-3};
static const struct metric_def duration = {
    .name = "duration", .help = "Duration", .kind = METRIC_HISTOGRAM, .scale = 1e-6};
static const struct metric_def size = {.name = "size", .help = "Size", .kind = METRIC_HISTOGRAM};

struct world {
    struct metrics *metrics;
    struct statsd_format *format;
    struct buf text; /* of the last export, a newline between datagrams */
    size_t datagrams, longest;
};

static void collect(void *ctx, struct bytes datagram)
{
    struct world *w = ctx;
    if (w->text.len)
        buf_append_byte(&w->text, '\n');
    buf_append(&w->text, datagram.ptr, datagram.len);
    w->datagrams++;
    if (datagram.len > w->longest)
        w->longest = datagram.len;
}

static const char *export(struct world *w)
{
    buf_clear(&w->text);
    w->datagrams = w->longest = 0;
    statsd_format_export(w->format, w->metrics, collect, w);
    return buf_cstr(&w->text);
}

static int set_up(void **state)
{
    struct world *w = mem_zalloc(sizeof *w);
    w->metrics = metrics_new(1000);
    w->format = statsd_format_new("app.", NULL, 0);
    *state = w;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    statsd_format_free(w->format);
    statsd_format_free(NULL);
    metrics_free(w->metrics);
    buf_free(&w->text);
    mem_free(w);
    return 0;
}

static struct metric *request(struct metric_family *family, const char *path, const char *result)
{
    const struct bytes values[] = {bytes_str(path), bytes_str(result)};
    return metrics_series(family, values);
}

static void counters_are_deltas_and_zero_is_sent(void **state)
{
    struct world *w = *state;
    struct metric *counter = metrics_single(w->metrics, &total);
    metric_add(counter, 3);
    assert_string_equal(export(w), "app.total:3|c");
    assert_string_equal(export(w), "app.total:0|c");
    metric_add(counter, UINT64_C(12345678901));
    assert_string_equal(export(w), "app.total:12345678901|c");
}

static void gauges_are_values_in_their_unit(void **state)
{
    struct world *w = *state;
    struct metric *gauge = metrics_single(w->metrics, &depth);
    assert_string_equal(export(w), ""); /* never set: not known */
    metric_set(gauge, 0);
    assert_string_equal(export(w), "app.depth:0|g");
    metric_set(gauge, 1500);
    assert_string_equal(export(w), "app.depth:1.5|g");
    assert_string_equal(export(w), "app.depth:1.5|g");
    metric_set(gauge, -20000);
    assert_string_equal(export(w), "app.depth:-20|g");
}

static void default_tags_come_first_by_key(void **state)
{
    struct world *w = *state;
    static const struct statsd_tag tags[] = {{"zone", "b"}, {"env", "prod"}};
    statsd_format_free(w->format);
    w->format = statsd_format_new("taskbroker.", tags, 2);
    metrics_single(w->metrics, &total);
    metric_add(request(metrics_family(w->metrics, &requests), "/a/B", "ok"), 1);
    assert_string_equal(export(w), "taskbroker.total:0|c|#env:prod,zone:b\n"
                                   "taskbroker.requests:1|c|#env:prod,zone:b,path:/a/B,result:ok");
}

static void names_of_strangers_cannot_break_a_line(void **state)
{
    struct world *w = *state;
    static const struct statsd_tag tags[] = {{"a:b,c|d\n", "x,y:z"}};
    statsd_format_free(w->format);
    w->format = statsd_format_new("p.", tags, 1);
    metric_add(request(metrics_family(w->metrics, &requests), "evil\n|c|#,x:1\x7f", "\xc3\xa9 #@"),
               2);
    assert_string_equal(export(w),
                        "p.requests:2|c|#a_b_c_d_:x_y:z,path:evil__c_#_x:1_,result:\xc3\xa9 #@");
}

static void a_lone_observation_is_exact(void **state)
{
    struct world *w = *state;
    struct metric *histogram = metrics_single(w->metrics, &duration);
    assert_string_equal(export(w), "");
    metric_observe(histogram, 1234567);
    assert_string_equal(export(w), "app.duration:1.234567|h");
    assert_string_equal(export(w), "");
    metric_observe(histogram, 0);
    assert_string_equal(export(w), "app.duration:0|h");
    metric_observe(histogram, 3);
    assert_string_equal(export(w), "app.duration:0.000003|h");
}

/* What a server makes of the lines: count by the integer part of 1/rate, as some do, and sum. */
static uint64_t read_back(const char *text, double *sum, double *least, double *most)
{
    uint64_t count = 0;
    *sum = 0;
    *least = 1e300;
    *most = -1;
    for (const char *line = text; line && *line; line = strchr(line, '\n')) {
        line += *line == '\n';
        char *end;
        double value = strtod(strchr(line, ':') + 1, &end), rate = 1;
        assert_memory_equal(end, "|h", 2);
        if (strncmp(end, "|h|@", 4) == 0)
            rate = strtod(end + 4, &end);
        uint64_t n = (uint64_t)(1 / rate);
        count += n;
        *sum += (double)n * value;
        *least = value < *least ? value : *least;
        *most = value > *most ? value : *most;
    }
    return count;
}

static void a_server_gets_count_sum_and_distribution(void **state)
{
    struct world *w = *state;
    struct metric *histogram = metrics_single(w->metrics, &size);
    double sum, least, most, wanted = 0;
    for (uint64_t i = 1; i <= 10000; i++) {
        metric_observe(histogram, i * 10);
        wanted += (double)i * 10;
    }
    assert_int_equal(read_back(export(w), &sum, &least, &most), 10000);
    assert_true(sum > wanted - 1 && sum < wanted + 1);
    assert_true(least >= 10 && least <= 11);
    assert_true(most >= 100000 * 7.0 / 8 && most <= 100000 * 9.0 / 8);
    for (int i = 0; i < 3; i++)
        metric_observe(histogram, 1000);
    assert_int_equal(read_back(export(w), &sum, &least, &most), 3);
    assert_true(sum == 3000 && least == 1000 && most == 1000);
}

static void rates_give_back_their_count(void **state)
{
    struct world *w = *state;
    struct metric *histogram = metrics_single(w->metrics, &size);
    static const uint64_t counts[] = {2,  3,  7,   10,  11,   41,    47,    49,    55,    61,
                                      82, 93, 100, 983, 9999, 10000, 10001, 49999, 123457};
    double sum, least, most;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        for (uint64_t n = 0; n < counts[i]; n++)
            metric_observe(histogram, 5);
        const char *text = export(w);
        assert_int_equal(read_back(text, &sum, &least, &most), counts[i]);
        assert_true(sum == 5.0 * (double)counts[i]);
    }
}

static void datagrams_are_bounded(void **state)
{
    struct world *w = *state;
    struct metric_family *family = metrics_family(w->metrics, &requests);
    char name[METRIC_LABEL_VALUE_MAX + 1];
    for (int i = 0; i < 200; i++) {
        snprintf(name, sizeof name, "/service/Method%d", i);
        metric_add(request(family, name, "ok"), 1);
    }
    const char *text = export(w);
    assert_in_range(w->longest, STATSD_DATAGRAM_MAX - 64, STATSD_DATAGRAM_MAX);
    assert_in_range(w->datagrams, 8, 12);
    size_t lines = 1;
    for (; *text; text++)
        lines += *text == '\n';
    assert_int_equal(lines, 200);
}

static void a_line_longer_than_a_datagram_goes_alone(void **state)
{
    struct world *w = *state;
    char *value = mem_zalloc(2001);
    memset(value, 'v', 2000);
    const struct statsd_tag tag = {"k", value};
    statsd_format_free(w->format);
    w->format = statsd_format_new("p.", &tag, 1);
    metrics_single(w->metrics, &total);
    metric_set(metrics_single(w->metrics, &depth), 0);
    export(w);
    assert_int_equal(w->datagrams, 2);
    assert_int_equal(w->longest, strlen("p.total:0|c|#k:") + 2000);
    mem_free(value);
}

/* --- the thread ------------------------------------------------------------------------------ */

static int listen_udp(uint16_t *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    *port = ntohs(address.sin_port);
    return fd;
}

static void receive(int fd, char *text, size_t room)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&poll_fd, 1, 30000), 1);
    ssize_t got = recv(fd, text, room - 1, 0);
    assert_true(got >= 0);
    text[got] = '\0';
}

static void start(struct statsd **statsd, struct world *w, const char *host, uint16_t port,
                  uint64_t interval_ms)
{
    struct err_text why;
    char address[64];
    snprintf(address, sizeof address, "%s:%u", host, port);
    const struct statsd_options options = {
        .address = address, .prefix = "app.", .interval_ms = interval_ms, .metrics = w->metrics};
    assert_int_equal(statsd_start(statsd, &options, &why), 0);
}

static void exports_each_interval_and_at_the_end(void **state)
{
    struct world *w = *state;
    struct metric *counter = metrics_single(w->metrics, &total);
    struct statsd *statsd;
    uint16_t port;
    char text[2048];
    int fd = listen_udp(&port);
    metric_add(counter, 5);
    start(&statsd, w, "127.0.0.1", port, 1);
    receive(fd, text, sizeof text);
    assert_string_equal(text, "app.total:5|c");
    receive(fd, text, sizeof text);
    assert_string_equal(text, "app.total:0|c");
    statsd_stop(statsd);
    while (recv(fd, text, sizeof text, MSG_DONTWAIT) > 0)
        ;
    start(&statsd, w, "localhost", port, 3600000); /* whichever its addresses are */
    statsd_stop(statsd);
    start(&statsd, w, "127.0.0.1", port, 3600000);
    metric_add(counter, 7); /* a new exporter begins with all that is there */
    statsd_stop(statsd);
    do
        receive(fd, text, sizeof text);
    while (strcmp(text, "app.total:12|c") != 0);
    close(fd);
}

static void a_server_that_comes_later_is_found(void **state)
{
    struct world *w = *state;
    metrics_single(w->metrics, &total);
    struct statsd *statsd;
    uint16_t port;
    char text[2048];
    int fd = listen_udp(&port);
    start(&statsd, w, "127.0.0.1", port, 1);
    receive(fd, text, sizeof text);
    close(fd);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    receive(fd, text, sizeof text);
    assert_string_equal(text, "app.total:0|c");
    statsd_stop(statsd);
    close(fd);
}

/* spec/broker.md 13.18 */
static void test_weakness_18_statsd_name_that_does_not_resolve(void **state)
{
    struct world *w = *state;
    struct statsd *statsd;
    metrics_single(w->metrics, &total);
    start(&statsd, w, "no-such-host.invalid", 8126, 1);
    int64_t begin_ms = clock_boot_ms();
    statsd_stop(statsd);
    assert_in_range(clock_boot_ms() - begin_ms, 0, 20000);
    statsd_stop(NULL);
}

/* --- without a thread ------------------------------------------------------------------------ */

static void open_loop(struct statsd_loop **loop, struct world *w, const char *host, uint16_t port)
{
    struct err_text why;
    char address[64];
    snprintf(address, sizeof address, "%s:%u", host, port);
    const struct statsd_options options = {
        .address = address, .prefix = "app.", .interval_ms = 1000, .metrics = w->metrics};
    assert_int_equal(statsd_loop_open(loop, &options, &why), 0);
}

static void a_loop_exports_when_it_is_due(void **state)
{
    struct world *w = *state;
    struct metric *counter = metrics_single(w->metrics, &total);
    struct statsd_loop *loop;
    uint16_t port;
    char text[2048];
    int fd = listen_udp(&port);
    open_loop(&loop, w, "127.0.0.1", port);
    metric_add(counter, 5);
    assert_int_equal(statsd_loop_fd(loop), -1);
    statsd_loop_run(loop, false, 7000);
    receive(fd, text, sizeof text);
    assert_string_equal(text, "app.total:5|c");
    assert_int_equal(statsd_loop_next_ms(loop), 8000);
    statsd_loop_run(loop, false, 7999);
    assert_int_equal(recv(fd, text, sizeof text, MSG_DONTWAIT), -1);
    metric_add(counter, 2);
    statsd_loop_run(loop, false, 8000);
    receive(fd, text, sizeof text);
    assert_string_equal(text, "app.total:2|c");
    metric_add(counter, 1);
    statsd_loop_close(loop);
    receive(fd, text, sizeof text);
    assert_string_equal(text, "app.total:1|c");
    statsd_loop_close(NULL);
    close(fd);
}

static void a_loop_does_not_wait_for_names(void **state)
{
    struct world *w = *state;
    struct statsd_loop *loop;
    metrics_single(w->metrics, &total);
    open_loop(&loop, w, "no-such-host.invalid", 8125);
    statsd_loop_run(loop, false, 0);
    struct pollfd wait = {.fd = statsd_loop_fd(loop), .events = POLLIN};
    assert_true(wait.fd >= 0);
    assert_int_equal(poll(&wait, 1, 60000), 1);
    statsd_loop_run(loop, true, 500);
    assert_int_equal(statsd_loop_fd(loop), -1);
    statsd_loop_run(loop, false, 10499); /* too early to ask again */
    assert_int_equal(statsd_loop_fd(loop), -1);
    statsd_loop_run(loop, false, 11600);
    assert_true(statsd_loop_fd(loop) >= 0);
    statsd_loop_close(loop);
}

static void types_of_lines_can_be_chosen(void **state)
{
    static const struct metric_def timer = {
        .name = "timer", .help = "t", .kind = METRIC_HISTOGRAM, .scale = 1e-6, .statsd = "ms"};
    struct world *w = *state;
    metric_observe(metrics_single(w->metrics, &timer), 1500);
    export(w);
    assert_non_null(strstr(buf_cstr(&w->text), "timer:0.0015|ms"));
}

static void addresses_are_checked(void **state)
{
    static const char *const bad[] = {"host", ":8126", "host:", ""};
    struct world *w = *state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const struct statsd_options options = {
            .address = bad[i], .prefix = "", .interval_ms = 1, .metrics = w->metrics};
        struct err_text why;
        struct statsd *statsd = NULL;
        assert_int_equal(statsd_start(&statsd, &options, &why), ERR_INVALID);
        assert_non_null(strstr(why.s, "is not host:port"));
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(counters_are_deltas_and_zero_is_sent),
        TEST(gauges_are_values_in_their_unit),
        TEST(default_tags_come_first_by_key),
        TEST(names_of_strangers_cannot_break_a_line),
        TEST(a_lone_observation_is_exact),
        TEST(a_server_gets_count_sum_and_distribution),
        TEST(rates_give_back_their_count),
        TEST(datagrams_are_bounded),
        TEST(a_line_longer_than_a_datagram_goes_alone),
        TEST(exports_each_interval_and_at_the_end),
        TEST(a_server_that_comes_later_is_found),
        TEST(test_weakness_18_statsd_name_that_does_not_resolve),
        TEST(a_loop_exports_when_it_is_due),
        TEST(a_loop_does_not_wait_for_names),
        TEST(types_of_lines_can_be_chosen),
        TEST(addresses_are_checked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
