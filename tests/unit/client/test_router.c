/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "client/router.h"

static void assert_topic(struct router router, const char *ns, const char *expected,
                         bool expect_chosen)
{
    bool chosen = !expect_chosen;
    char *topic = router_topic(&router, ns, &chosen);

    assert_string_equal(topic, expected);
    assert_int_equal(chosen, expect_chosen);
    mem_free(topic);
}

static void test_precedence(void **state)
{
    static const char routes[] = "{\"a\": \"topic-a\", \"bad\": 3}";

    (void)state;
    assert_topic((struct router){0}, "a", "taskworker", false);
    assert_topic((struct router){.default_topic = ""}, "a", "taskworker", false);
    assert_topic((struct router){.default_topic = "d"}, "a", "d", true);
    assert_topic((struct router){.default_topic = "d", .routes = routes}, "a", "topic-a", true);
    assert_topic((struct router){.default_topic = "d", .routes = routes}, "b", "d", true);
    assert_topic((struct router){.routes = routes}, "bad", "taskworker", false);
    assert_topic((struct router){.routes = routes, .app_topic = "own"}, "a", "own", true);
}

static void test_bad_routes_count_as_none(void **state)
{
    (void)state;
    assert_topic((struct router){.routes = "{"}, "a", "taskworker", false);
    assert_topic((struct router){.routes = "[1]"}, "a", "taskworker", false);
    assert_topic((struct router){.routes = ""}, "a", "taskworker", false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_precedence),
                                       cmocka_unit_test(test_bad_routes_count_as_none)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
