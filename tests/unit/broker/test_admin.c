/* SPDX-License-Identifier: Apache-2.0 */
/* The admin port beside an engine on its thread; over real sockets of the loopback. */
#include "world.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "broker/admin.h"

struct bench {
    struct world *world;
    struct inbox inbox;
    struct engine_thread *thread;
    struct config *cfg;
    struct meters *meters;
    struct admin *admin;
};

static void must_not_fail(void *ctx, int code, const char *why)
{
    (void)ctx;
    fail_msg("%d: %s", code, why);
}

/* A listening socket on a free port; -1 closes it. */
static int take_port(uint16_t *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    *port = ntohs(address.sin_port);
    return fd;
}

static struct config *load_config(uint16_t port)
{
    struct config_warnings warnings = {0};
    struct err_text why;
    struct config *cfg;
    struct buf text = {0};
    char *const no_environment[] = {NULL};

    buf_printf(&text, "embedded: true\nadmin_addr: 127.0.0.1:%u\n", port);
    assert_int_equal(
        config_load_text(&cfg, "test", buf_bytes(&text), no_environment, &warnings, &why), 0);
    config_warnings_free(&warnings);
    buf_free(&text);
    return cfg;
}

static int set_up(void **state)
{
    struct bench *b = mem_zalloc(sizeof *b);
    struct admin_options options = {.failed = must_not_fail};
    struct err_text why;
    void *world;
    uint16_t port;

    world_setup_embedded(&world);
    b->world = world;
    b->world->now_ms = clock_boot_ms();
    b->world->wall_ms = clock_wall_ms();
    assert_int_equal(inbox_init(&b->inbox), 0);
    assert_int_equal(world_open(b->world, &why), 0);
    b->thread = engine_thread_new(b->world->engine, &b->inbox, must_not_fail, NULL);
    b->meters = meters_new();
    close(take_port(&port));
    options.cfg = b->cfg = load_config(port);
    options.meters = b->meters;
    if (admin_create(&b->admin, &options, &why))
        fail_msg("%s", why.s);
    *state = b;
    return 0;
}

static int tear_down(void **state)
{
    struct bench *b = *state;
    void *world = b->world;

    admin_destroy(b->admin);
    assert_true(engine_thread_stop(b->thread, CLOCK_NEVER));
    engine_thread_free(b->thread);
    b->world->events = inbox_take(&b->inbox, SIZE_MAX);
    world_teardown(&world);
    inbox_destroy(&b->inbox);
    meters_free(b->meters);
    config_free(b->cfg);
    mem_free(b);
    return 0;
}

static int connect_to(const struct bench *b)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    address.sin_port =
        htons((uint16_t)strtoul(strrchr(admin_address(b->admin), ':') + 1, NULL, 10));
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

/* The whole answer; the server closes after it. */
static struct buf ask(const struct bench *b, const char *request)
{
    struct buf answer = {0};
    int fd = connect_to(b);

    assert_int_equal(send(fd, request, strlen(request), MSG_NOSIGNAL), strlen(request));
    for (;;) {
        buf_reserve(&answer, 4096);
        ssize_t got = recv(fd, answer.ptr + answer.len, 4096, 0);
        if (got <= 0)
            break;
        answer.len += (size_t)got;
    }
    close(fd);
    return answer;
}

static void assert_answer(const struct bench *b, const char *path, const char *status,
                          const char *part)
{
    struct buf request = {0};

    buf_printf(&request, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path);
    struct buf answer = ask(b, buf_cstr(&request));
    const char *text = buf_cstr(&answer);
    if (strncmp(text, "HTTP/1.1 ", 9) != 0 || strncmp(text + 9, status, 3) != 0 ||
        !strstr(text, part))
        fail_msg("%s: not %s with %s but\n%s", path, status, part, text);
    buf_free(&request);
    buf_free(&answer);
}

static void announce(struct bench *b)
{
    struct err_text why;
    struct admin_view view = {.thread = b->thread, .store_path = "/somewhere/tasks.sqlite"};

    assert_int_equal(engine_thread_start(b->thread, &why), 0);
    admin_started(b->admin, &view);
}

static void readiness_follows_the_life(void **state)
{
    struct bench *b = *state;

    assert_answer(b, "/readyz", "503", "\r\n\r\nstarting");
    assert_answer(b, "/healthz", "200", "\r\n\r\nstarting");
    assert_answer(b, "/status.json", "200", "\"state\": \"starting\"");
    assert_answer(b, "/metrics", "200", "# TYPE taskmill_");
    announce(b);
    assert_answer(b, "/readyz", "200", "\r\n\r\nready\n");
    assert_answer(b, "/healthz", "200", "\r\n\r\nok\n");
    assert_answer(b, "/status.json", "200", "\"path\": \"/somewhere/tasks.sqlite\"");
    admin_draining(b->admin);
    assert_answer(b, "/readyz", "503", "\r\n\r\nstopping\n");
    assert_answer(b, "/healthz", "200", "\r\n\r\nok\n");
}

static void a_drain_before_the_end_of_the_start(void **state)
{
    struct bench *b = *state;

    admin_draining(b->admin);
    assert_answer(b, "/readyz", "503", "starting");
    assert_answer(b, "/status.json", "200", "\"state\": \"starting\"");
}

static void other_requests_are_refused(void **state)
{
    static const struct {
        const char *request, *answer;
    } cases[] = {
        {"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.1 405"},
        {"GET /other HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 404"},
        {"GET /healthz\r\n\r\n\r\n", ""}, /* no HTTP/1.x: whatever the library thinks, it ends */
        {"\x16\x03\x01\x02 what TLS would say\r\n\r\n", ""},
    };
    struct bench *b = *state;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf answer = ask(b, cases[i].request);
        if (strncmp(buf_cstr(&answer), cases[i].answer, strlen(cases[i].answer)) != 0)
            fail_msg("case %zu: %s", i, buf_cstr(&answer));
        buf_free(&answer);
    }
    assert_answer(b, "/healthz", "200", "starting");
}

static void *ask_often(void *arg)
{
    for (int i = 0; i < 20; i++) {
        assert_answer(arg, "/status.json", "200", "\"tasks\"");
        assert_answer(arg, "/metrics", "200", "taskmill_store_commits_total");
    }
    return NULL;
}

static void many_ask_while_the_engine_works(void **state)
{
    struct bench *b = *state;
    pthread_t threads[4];

    announce(b);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ask_often, b), 0);
    for (int i = 0; i < 1000; i++)
        meter_add(b->meters, METER_COMMITS, 1);
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
}

static void its_end_does_not_wait_for_peers(void **state)
{
    struct bench *b = *state;
    int silent = connect_to(b), half = connect_to(b);

    assert_int_equal(send(half, "GET /he", 7, 0), 7);
    assert_answer(b, "/healthz", "200", "starting"); /* both are accepted by now */
    admin_destroy(b->admin);
    b->admin = NULL;
    char byte;
    assert_true(recv(silent, &byte, 1, 0) <= 0);
    assert_true(recv(half, &byte, 1, 0) <= 0);
    close(silent);
    close(half);
}

static void a_taken_port_is_an_error(void **state)
{
    struct bench *b = *state;
    uint16_t port;
    int fd = take_port(&port);
    struct config *cfg = load_config(port);
    struct admin_options options = {.cfg = cfg, .meters = b->meters, .failed = must_not_fail};
    struct admin *admin;
    struct err_text why;
    char wanted[64];

    assert_int_equal(admin_create(&admin, &options, &why), ERR_SYSTEM);
    snprintf(wanted, sizeof wanted, "admin_addr 127.0.0.1:%u: Address already in use", port);
    assert_non_null(strstr(why.s, wanted));
    config_free(cfg);
    close(fd);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(readiness_follows_the_life),      TEST(a_drain_before_the_end_of_the_start),
        TEST(other_requests_are_refused),      TEST(many_ask_while_the_engine_works),
        TEST(its_end_does_not_wait_for_peers), TEST(a_taken_port_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
