/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "client/router.h"
#include "client/routes_file.h"

static void assert_topic(struct router_options options, const char *ns, const char *expected,
                         bool expect_chosen)
{
    struct router *router = router_new(&options);
    bool chosen = !expect_chosen;

    assert_string_equal(router_topic(router, ns, &chosen), expected);
    assert_int_equal(chosen, expect_chosen);
    router_free(router);
}

static void test_precedence(void **state)
{
    static const char routes[] = "{\"a\": \"topic-a\", \"bad\": 3}";

    (void)state;
    assert_topic((struct router_options){0}, "a", "taskworker", false);
    assert_topic((struct router_options){.default_topic = ""}, "a", "taskworker", false);
    assert_topic((struct router_options){.default_topic = "d"}, "a", "d", true);
    assert_topic((struct router_options){.default_topic = "d", .routes = routes}, "a", "topic-a",
                 true);
    assert_topic((struct router_options){.default_topic = "d", .routes = routes}, "b", "d", true);
    assert_topic((struct router_options){.routes = routes}, "bad", "taskworker", false);
    assert_topic((struct router_options){.routes = routes, .app_topic = "own"}, "a", "own", true);
}

static void test_bad_routes_count_as_none(void **state)
{
    (void)state;
    assert_topic((struct router_options){.routes = "{"}, "a", "taskworker", false);
    assert_topic((struct router_options){.routes = "[1]"}, "a", "taskworker", false);
    assert_topic((struct router_options){.routes = ""}, "a", "taskworker", false);
}

/* External namespaces are asked for with their application; answers live as long as the router. */
static void test_answers_stay(void **state)
{
    struct router_options options = {.routes = "{\"b:ns\": \"other\", \"ns\": \"own\"}"};
    struct router *router = router_new(&options);
    bool chosen;
    const char *external = router_topic(router, "b:ns", &chosen);
    const char *own = router_topic(router, "ns", &chosen);

    (void)state;
    assert_string_equal(external, "other");
    assert_string_equal(own, "own");
    router_free(router);
    router_free(NULL);
}

/* --- the file of overrides -------------------------------------------------------------------- */

#define FILE_TEST(f) cmocka_unit_test_setup_teardown(f, file_setup, file_teardown)
#define OVERRIDES    "taskworker.route.overrides: "

static char path[64];

static int file_setup(void **state)
{
    int fd;

    (void)state;
    (void)snprintf(path, sizeof(path), "/tmp/taskmill-routes-XXXXXX");
    fd = mkstemp(path);
    assert_true(fd >= 0);
    return close(fd);
}

static int file_teardown(void **state)
{
    (void)state;
    unlink(path);
    return 0;
}

static void write_file(const char *name, const char *text)
{
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static const char *asked(struct router *router, const char *route, int64_t now_ms)
{
    bool chosen;

    return router_topic_at(router, route, now_ms, &chosen);
}

static void test_file_precedence(void **state)
{
    struct router_options options = {
        .overrides = path, .routes = "{\"a\": \"env-a\", \"b\": \"env-b\"}", .default_topic = "d"};
    struct router *router = router_new(&options);
    bool chosen = false;

    (void)state;
    write_file(path, OVERRIDES "{a: file-a, 'other:a': file-other}\n");
    assert_string_equal(router_topic(router, "a", &chosen), "file-a");
    assert_true(chosen);
    assert_string_equal(asked(router, "b", 0), "env-b");
    assert_string_equal(asked(router, "c", 0), "d");
    assert_string_equal(asked(router, "other:a", 0), "file-other");
    router_free(router);
    options.app_topic = "own";
    router = router_new(&options);
    assert_string_equal(asked(router, "a", 0), "own");
    router_free(router);
}

static void test_file_is_read_again_once_a_second(void **state)
{
    struct router *router = router_new(&(struct router_options){.overrides = path});
    const char *first;

    (void)state;
    write_file(path, OVERRIDES "{a: one}\n");
    first = asked(router, "a", 5000);
    assert_string_equal(first, "one");
    write_file(path, OVERRIDES "{a: two, b: two}\n");
    assert_string_equal(asked(router, "a", 5000 + ROUTER_LOOK_EVERY_MS - 1), "one");
    assert_string_equal(asked(router, "a", 5000 + ROUTER_LOOK_EVERY_MS), "two");
    write_file(path,
               OVERRIDES "{a: six, b: six}\n"); /* as long, and within the same tick perhaps */
    assert_string_equal(asked(router, "a", 7000), "six");
    assert_string_equal(first, "one"); /* answers live on */
    write_file(path, "other.option: 1\n");
    assert_string_equal(asked(router, "a", 8000), ROUTER_DEFAULT_TOPIC);
    router_free(router);
}

static void test_old_file_is_noticed_by_its_stamp(void **state)
{
    struct router *router = router_new(&(struct router_options){.overrides = path});
    struct timespec old[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000}};

    (void)state;
    write_file(path, OVERRIDES "{a: one}\n");
    assert_int_equal(utimensat(AT_FDCWD, path, old, 0), 0);
    assert_string_equal(asked(router, "a", 0), "one");
    assert_string_equal(asked(router, "a", 1000), "one");
    write_file(path, OVERRIDES "{a: two}\n");
    old[1].tv_sec++;
    assert_int_equal(utimensat(AT_FDCWD, path, old, 0), 0);
    assert_string_equal(asked(router, "a", 2000), "two");
    router_free(router);
}

static void test_broken_or_missing_file_keeps_the_last_routes(void **state)
{
    struct router *router = router_new(&(struct router_options){.overrides = path});

    (void)state;
    unlink(path);
    assert_string_equal(asked(router, "a", 0), ROUTER_DEFAULT_TOPIC);
    write_file(path, OVERRIDES "{a: one}\n");
    assert_string_equal(asked(router, "a", 1000), "one");
    write_file(path, OVERRIDES "{a: [}\n");
    assert_string_equal(asked(router, "a", 2000), "one");
    unlink(path);
    assert_string_equal(asked(router, "a", 3000), "one");
    assert_int_equal(mkdir(path, 0700), 0);
    assert_string_equal(asked(router, "a", 4000), "one");
    assert_int_equal(rmdir(path), 0);
    write_file(path, OVERRIDES "{a: two}\n");
    assert_string_equal(asked(router, "a", 5000), "two");
    router_free(router);
}

static void *ask_often(void *arg)
{
    struct router *router = arg;

    for (int64_t i = 0; i < 2000; i++) {
        const char *topic = asked(router, "a", i * ROUTER_LOOK_EVERY_MS);

        if (strncmp(topic, "topic-", 6) != 0)
            return router;
    }
    return NULL;
}

static void test_threads_ask_while_the_file_changes(void **state)
{
    struct router *router = router_new(&(struct router_options){.overrides = path});
    pthread_t threads[4];
    char other[sizeof(path) + 4];

    (void)state;
    (void)snprintf(other, sizeof(other), "%s.new", path);
    write_file(path, OVERRIDES "{a: topic-0}\n");
    assert_string_equal(asked(router, "a", 0), "topic-0");
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ask_often, router), 0);
    for (int i = 1; i < 50; i++) {
        char text[64];

        (void)snprintf(text, sizeof(text), OVERRIDES "{a: topic-%d}\n", i);
        write_file(other, text);
        assert_int_equal(rename(other, path), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        void *failed = NULL;

        assert_int_equal(pthread_join(threads[i], &failed), 0);
        assert_null(failed);
    }
    assert_string_equal(asked(router, "a", 10000LL * ROUTER_LOOK_EVERY_MS), "topic-49");
    router_free(router);
}

static void refused(const char *text, const char *reason)
{
    struct routes_file routes;
    struct err_text why = {{0}};

    assert_int_not_equal(routes_file_parse(&routes, "r.yml", bytes_str(text), &why), 0);
    assert_int_equal(routes.count, 0);
    if (strcmp(why.s, reason) != 0)
        fail_msg("%s", why.s);
}

static void assert_routes(const char *text, size_t count)
{
    struct routes_file routes;

    assert_int_equal(routes_file_parse(&routes, "r.yml", bytes_str(text), NULL), 0);
    assert_int_equal(routes.count, count);
    routes_file_free(&routes);
}

static void test_shapes_of_the_file(void **state)
{
    (void)state;
    assert_routes("", 0);
    assert_routes("a: {b: c}\n", 0);
    assert_routes(OVERRIDES "\n", 0);
    assert_routes(OVERRIDES "{}\n", 0);
    assert_routes("x: 1\n" OVERRIDES "\n  a: b\n  c: d\n", 2);
    assert_routes("options:\n  y: 1\n  " OVERRIDES "{a: b}\n", 1);
}

static void test_errors_of_the_file(void **state)
{
    (void)state;
    refused("[1]", "r.yml:1: the file must be a map with the key taskworker.route.overrides");
    refused("x: 1\n" OVERRIDES "[a]\n",
            "r.yml:2: taskworker.route.overrides must be a map of namespace: topic");
    refused(OVERRIDES "\n  a: b\n  a: c\n",
            "r.yml:3: taskworker.route.overrides: a is there twice");
    refused(OVERRIDES "\n  a: b c\n",
            "r.yml:2: taskworker.route.overrides: the topic of a must be a text of at most 249 "
            "letters, digits, dots, dashes and underscores");
    refused(OVERRIDES "{a: {}}",
            "r.yml:1: taskworker.route.overrides: the topic of a must be a text of at most 249 "
            "letters, digits, dots, dashes and underscores");
    refused(OVERRIDES "{[a]: b}",
            "r.yml:1: taskworker.route.overrides: a namespace must be a text");
    refused(OVERRIDES "{}\noptions: {" OVERRIDES "{}}",
            "r.yml:2: taskworker.route.overrides is there twice");
    refused("a: b\n  c: [\n", "r.yml:2: not YAML: mapping values are not allowed in this context");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_precedence),
        cmocka_unit_test(test_bad_routes_count_as_none),
        cmocka_unit_test(test_answers_stay),
        cmocka_unit_test(test_shapes_of_the_file),
        cmocka_unit_test(test_errors_of_the_file),
        FILE_TEST(test_file_precedence),
        FILE_TEST(test_file_is_read_again_once_a_second),
        FILE_TEST(test_threads_ask_while_the_file_changes),
        FILE_TEST(test_old_file_is_noticed_by_its_stamp),
        FILE_TEST(test_broken_or_missing_file_keeps_the_last_routes)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
