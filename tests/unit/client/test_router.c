/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "client/router.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_precedence),
                                       cmocka_unit_test(test_bad_routes_count_as_none),
                                       cmocka_unit_test(test_answers_stay)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
