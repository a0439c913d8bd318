/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "client/registry.h"

static struct task_def *find(const struct taskmill_app *app, const char *ns, const char *name)
{
    return registry_find(app, bytes_str(ns), bytes_str(name));
}

static void test_defaults(void **state)
{
    struct taskmill_app *app = taskmill_app_new("shop");
    struct taskmill_namespace *ns = taskmill_namespace(app, "billing", .processing_deadline_s = 30,
                                                       .expires_s = 60, .retry = {.times = 5});
    struct taskmill_namespace *plain = taskmill_namespace(app, "plain");
    const struct taskmill_task_options *got;

    (void)state;
    assert_int_equal(taskmill_task(ns, "a", NULL), 0);
    got = &find(app, "billing", "a")->options;
    assert_int_equal(got->processing_deadline_s, 30);
    assert_int_equal(got->expires_s, 60);
    assert_int_equal(got->retry.times, 5);

    assert_int_equal(taskmill_task(ns, "b", NULL, .at_most_once = true, .processing_deadline_s = 1),
                     0);
    got = &find(app, "billing", "b")->options;
    assert_int_equal(got->processing_deadline_s, 1);
    assert_int_equal(got->retry.times, 0); /* the namespace's policy is dropped */

    assert_int_equal(taskmill_task(plain, "a", NULL), 0);
    assert_int_equal(find(app, "plain", "a")->options.processing_deadline_s, 10);
    assert_null(find(app, "plain", "b"));
    assert_null(find(app, "", "a"));
    assert_int_equal(registry_task_count(app), 3);
    taskmill_app_free(app);
}

static void test_refused(void **state)
{
    struct taskmill_app *app = taskmill_app_new("shop");
    struct taskmill_namespace *ns = taskmill_namespace(app, "n");

    (void)state;
    assert_null(taskmill_app_new(""));
    assert_null(taskmill_app_new("x", .broker = "a:1", .kafka = "b:1"));
    assert_int_equal(taskmill_task(ns, "t", NULL), 0);
    assert_false(app->broken);
    assert_int_equal(taskmill_task(ns, "t", NULL), TASKMILL_ERR_EXISTS);
    assert_true(app->broken);
    assert_non_null(strstr(app->fault.s, "declared twice"));
    assert_int_equal(taskmill_task(ns, "", NULL), TASKMILL_ERR_INVALID);
    assert_int_equal(taskmill_task(NULL, "u", NULL), TASKMILL_ERR_INVALID);
    assert_int_equal(taskmill_child_start(NULL, NULL, NULL), TASKMILL_ERR_INVALID);
    assert_int_equal(taskmill_child_start(app, NULL, NULL), TASKMILL_ERR_INVALID);
    assert_int_equal(taskmill_task(ns, "v", NULL, .at_most_once = true, .retry = {.times = 2}),
                     TASKMILL_ERR_INVALID);
    assert_null(taskmill_namespace(app, "internal"));
    assert_null(taskmill_namespace(app, "n"));
    assert_null(taskmill_namespace(NULL, "n"));
    assert_null(taskmill_namespace(app, "\xff"));
    assert_int_equal(taskmill_application(app, "late"), TASKMILL_ERR_STATE);
    taskmill_app_free(app);
}

static void assert_refused(int rv, int code, const char *text)
{
    assert_int_equal(rv, code);
    assert_non_null(strstr(taskmill_last_error(), text));
}

static void test_policies(void **state)
{
    struct taskmill_app *app = taskmill_app_new("shop");
    struct taskmill_namespace *ns = taskmill_namespace(app, "n");

    (void)state;
    assert_int_equal(taskmill_app_check(app), 0);
    assert_refused(taskmill_task(ns, "t", NULL, .retry = {.times = 2, .on = 4}),
                   TASKMILL_ERR_INVALID, "t: retry.on is 0x4");
    assert_refused(
        taskmill_task(ns, "t", NULL, .retry = {.times_exceeded = (enum taskmill_times_exceeded)7}),
        TASKMILL_ERR_INVALID, "retry.times_exceeded is 7");
    assert_null(taskmill_namespace(app, "m", .retry = {.on = 8}));
    assert_non_null(strstr(taskmill_last_error(), "m: retry.on"));
    /* A program that looked at nothing can ask for the first mistake. */
    assert_refused(taskmill_app_check(app), TASKMILL_ERR_INVALID, "t: retry.on is 0x4");
    assert_int_equal(taskmill_app_check(NULL), TASKMILL_ERR_INVALID);
    taskmill_app_free(app);
}

static enum taskmill_status handler(struct taskmill_call *call)
{
    (void)call;
    return TASKMILL_COMPLETE;
}

static struct task_def *find_external(const struct taskmill_app *app, const char *application,
                                      const char *ns, const char *name)
{
    return registry_find_external(app, bytes_str(application), bytes_str(ns), bytes_str(name));
}

static void test_external(void **state)
{
    struct taskmill_app *app = taskmill_app_new("shop");
    struct taskmill_namespace *own = taskmill_namespace(app, "billing");
    struct taskmill_namespace *other = taskmill_external_namespace(
        app, "billing", "bank", .processing_deadline_s = 7, .retry = {.times = 3});

    (void)state;
    assert_non_null(other);
    assert_non_null(taskmill_external_namespace(app, "billing", "mint"));
    assert_non_null(taskmill_external_namespace(app, "internal", "bank"));
    assert_int_equal(taskmill_task(other, "pay", NULL), 0);
    assert_null(find(app, "billing", "pay"));
    assert_int_equal(registry_task_count(app), 0);
    assert_int_equal(taskmill_task(own, "pay", handler), 0);
    assert_int_equal(find_external(app, "bank", "billing", "pay")->options.processing_deadline_s,
                     7);
    assert_int_equal(find_external(app, "bank", "billing", "pay")->options.retry.times, 3);
    assert_string_equal(find_external(app, "bank", "billing", "pay")->ns->route, "bank:billing");
    assert_null(find_external(app, "mint", "billing", "pay"));
    assert_int_equal(taskmill_app_check(app), 0);

    assert_refused(taskmill_task(other, "pay", NULL), TASKMILL_ERR_EXISTS, "bank:billing");
    assert_refused(taskmill_task(other, "run", handler), TASKMILL_ERR_INVALID,
                   "its handler must be NULL");
    assert_null(taskmill_external_namespace(app, "billing", "bank"));
    assert_non_null(strstr(taskmill_last_error(), "bank:billing is declared twice"));
    assert_null(taskmill_external_namespace(app, "billing", ""));
    assert_null(taskmill_external_namespace(app, "", "bank"));
    assert_null(taskmill_external_namespace(NULL, "billing", "bank"));
    taskmill_app_free(app);
}

/* A program built with an older header passes a shorter struct. */
static void test_older_struct(void **state)
{
    struct taskmill_app *app = taskmill_app_new("shop");
    struct taskmill_namespace_options options = {.processing_deadline_s = 3, .expires_s = 77};
    struct taskmill_namespace *ns;

    (void)state;
    options.size = offsetof(struct taskmill_namespace_options, expires_s);
    ns = taskmill_namespace_with(app, "n", &options);
    assert_int_equal(ns->options.processing_deadline_s, 3);
    assert_int_equal(ns->options.expires_s, 0);
    taskmill_app_free(app);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_policies), cmocka_unit_test(test_external),
        cmocka_unit_test(test_older_struct)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
