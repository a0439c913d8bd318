/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/headers.h"
#include "client/registry.h"

static void assert_refused(int rv, int code, const char *text)
{
    assert_int_equal(rv, code);
    assert_non_null(strstr(taskmill_last_error(), text));
}

static int take_one(const char *key, const char *value)
{
    struct taskmill_headers headers = {0};
    struct taskmill_header given = {key, value};
    int rv = headers_take(&headers, &given, 1);

    assert_int_equal(headers.count, rv == 0);
    headers_free(&headers);
    return rv;
}

static void test_client_weakness_26_headers_as_given(void **state)
{
    const struct taskmill_header twice[] = {{"k", "1"}, {"l", "2"}, {"k", "3"}};
    struct taskmill_headers headers = {0};

    (void)state;
    assert_int_equal(take_one("k", ""), 0);
    assert_int_equal(take_one("k", "gr\xc3\xbcn"), 0);
    assert_refused(take_one("", "v"), TASKMILL_ERR_INVALID, "needs a key");
    assert_refused(take_one(NULL, "v"), TASKMILL_ERR_INVALID, "needs a key");
    assert_refused(take_one("\xff", "v"), TASKMILL_ERR_INVALID, "key of a header is not UTF-8");
    assert_refused(take_one("k", NULL), TASKMILL_ERR_INVALID, "header k needs a value");
    assert_refused(take_one("k", "\xff"), TASKMILL_ERR_INVALID, "header k: its value is not");
    /* A surrogate alone is no character. */
    assert_refused(take_one("k", "\xed\xa0\x80"), TASKMILL_ERR_INVALID, "is not UTF-8");
    assert_refused(take_one("compression-type", "zstd"), TASKMILL_ERR_INVALID, ".compress");
    assert_refused(headers_take(&headers, twice, 3), TASKMILL_ERR_EXISTS, "k is given twice");
    headers_free(&headers);
}

static void test_limits(void **state)
{
    struct taskmill_headers headers = {0};
    char *large = malloc(TASKMILL_HEADERS_BYTES_MAX + 1);
    char key[16];

    (void)state;
    memset(large, 'x', TASKMILL_HEADERS_BYTES_MAX);
    large[TASKMILL_HEADERS_BYTES_MAX] = '\0';
    assert_refused(taskmill_headers_set(&headers, "k", large), TASKMILL_ERR_TOO_LARGE, "262144");
    assert_int_equal(taskmill_headers_set(&headers, "k", large + 1), 0);
    assert_refused(taskmill_headers_set(&headers, "l", ""), TASKMILL_ERR_TOO_LARGE, "header l");
    assert_int_equal(taskmill_headers_set(&headers, "k", ""), 0); /* gives its room back */
    for (int i = 1; i < TASKMILL_HEADERS_MAX; i++) {
        snprintf(key, sizeof key, "k%d", i);
        assert_int_equal(taskmill_headers_set(&headers, key, "v"), 0);
    }
    assert_refused(taskmill_headers_set(&headers, "one more", "v"), TASKMILL_ERR_TOO_LARGE, "128");
    assert_int_equal(taskmill_headers_set(&headers, "k5", "w"), 0);
    taskmill_headers_remove(&headers, "k6");
    assert_int_equal(taskmill_headers_set(&headers, "one more", "v"), 0);
    assert_int_equal(taskmill_headers_count(&headers), TASKMILL_HEADERS_MAX);
    assert_null(taskmill_headers_at(&headers, TASKMILL_HEADERS_MAX));
    headers_free(&headers);
    free(large);
}

static int add_user(void *arg, struct taskmill_headers *headers)
{
    if (taskmill_headers_get(headers, "user") == NULL)
        return taskmill_headers_set(headers, "user", arg);
    return 0;
}

/* Sees what the hook before it did. */
static int see_user(void *arg, struct taskmill_headers *headers)
{
    assert_string_equal(taskmill_headers_get(headers, "user"), arg);
    taskmill_headers_remove(headers, "given");
    taskmill_headers_remove(headers, "never there");
    return taskmill_headers_set(headers, "sentry-monitor-config", "{}");
}

static int refuse(void *arg, struct taskmill_headers *headers)
{
    (void)headers;
    return *(int *)arg;
}

static int break_rules(void *arg, struct taskmill_headers *headers)
{
    (void)arg;
    return taskmill_headers_set(headers, "compression-type", "zstd");
}

static void test_hooks(void **state)
{
    const struct taskmill_header given[] = {{"sentry-monitor-config", "x"}, {"given", "1"}};
    struct taskmill_app *app = taskmill_app_new("shop");
    struct taskmill_headers headers = {0};
    char user[] = "ann";

    (void)state;
    assert_int_equal(taskmill_context_hook(app, .on_dispatch = add_user, .arg = user), 0);
    assert_int_equal(taskmill_context_hook(app, .on_dispatch = see_user, .arg = user), 0);
    assert_int_equal(headers_take(&headers, given, 2), 0);
    assert_int_equal(headers_finish(&headers, app), 0);
    assert_int_equal(headers.count, 1);
    assert_string_equal(taskmill_headers_at(&headers, 0)->key, "user");
    assert_string_equal(taskmill_headers_at(&headers, 0)->value, "ann");
    headers_free(&headers);
    taskmill_app_free(app);
}

static void test_hooks_refuse(void **state)
{
    int code = 0;
    struct taskmill_app *app = taskmill_app_new("shop");
    struct taskmill_headers headers = {0};

    (void)state;
    assert_int_equal(taskmill_context_hook(app, .arg = &code), TASKMILL_ERR_INVALID);
    assert_int_equal(taskmill_context_hook(app, .on_dispatch = refuse, .arg = &code), 0);
    assert_int_equal(taskmill_context_hook(app, .on_dispatch = break_rules), 0);
    assert_refused(headers_finish(&headers, app), TASKMILL_ERR_INVALID, "compression-type");
    code = 5;
    assert_refused(headers_finish(&headers, app), TASKMILL_ERR_INVALID, "hook 0");
    code = TASKMILL_ERR_DENIED;
    assert_refused(headers_finish(&headers, app), TASKMILL_ERR_DENIED, "returned -14");
    headers_free(&headers);
    taskmill_app_free(app);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_client_weakness_26_headers_as_given),
                                       cmocka_unit_test(test_limits), cmocka_unit_test(test_hooks),
                                       cmocka_unit_test(test_hooks_refuse)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
