/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "client/activation_build.h"
#include "client/hooks.h"

/* What ran, in order: "+a" entered, "-a0" left with status 0, "h" the handler. */
static char trace[128];

struct hook {
    const char *name;
    enum taskmill_status answer;
    bool silent;
};

static void note(const char *what, const char *name, const char *more)
{
    size_t len = strlen(trace);

    snprintf(trace + len, sizeof trace - len, "%s%s%s ", what, name, more);
}

static enum taskmill_status enter(void *arg, struct taskmill_call *call)
{
    const struct hook *hook = arg;

    note("+", hook->name, "");
    if (hook->answer != TASKMILL_COMPLETE && !hook->silent)
        (void)taskmill_fail(call, "hook %s says no", hook->name);
    return hook->answer;
}

static void leave(void *arg, struct taskmill_call *call, enum taskmill_status status)
{
    char text[2] = {(char)('0' + (int)status), '\0'};

    assert_non_null(taskmill_call_id(call));
    note("-", ((const struct hook *)arg)->name, text);
}

static enum taskmill_status handler(struct taskmill_call *call)
{
    note("h", "", "");
    return *(enum taskmill_status *)taskmill_call_data(call);
}

static enum taskmill_status run(struct taskmill_app *app, struct err_text *why)
{
    const struct task_def *task = registry_find(app, bytes_str("n"), bytes_str("t"));
    struct taskmill_headers headers = {0};
    struct taskmill_send_options options = {0};
    struct taskmill_call call;
    struct buf payload = {0};
    enum taskmill_status status;

    assert_int_equal(activation_build(&(struct activation_source){.id = "id",
                                                                  .application = "shop",
                                                                  .namespace = "n",
                                                                  .name = "t",
                                                                  .task = &task->options,
                                                                  .options = &options,
                                                                  .headers = &headers},
                                      &payload),
                     0);
    assert_int_equal(call_open(&call, app, task, buf_bytes(&payload), why), 0);
    trace[0] = '\0';
    status = hooks_run(&call);
    *why = call.error;
    call_close(&call);
    buf_free(&payload);
    return status;
}

static void test_order(void **state)
{
    struct taskmill_app *app = taskmill_app_new("shop");
    enum taskmill_status answer = TASKMILL_RETRY;
    struct hook a = {"a", TASKMILL_COMPLETE, false}, b = {"b", TASKMILL_COMPLETE, false};
    struct hook c = {"c", TASKMILL_COMPLETE, false};
    struct err_text why;

    (void)state;
    (void)taskmill_task(taskmill_namespace(app, "n"), "t", handler, .data = &answer);
    assert_int_equal(run(app, &why), TASKMILL_RETRY);
    assert_string_equal(trace, "h ");
    (void)taskmill_context_hook(app, .on_execute = enter, .on_leave = leave, .arg = &a);
    (void)taskmill_context_hook(app, .on_leave = leave, .arg = &b);
    (void)taskmill_context_hook(app, .on_execute = enter, .arg = &c);
    assert_int_equal(run(app, &why), TASKMILL_RETRY);
    assert_string_equal(trace, "+a +c h -b2 -a2 ");

    /* The second fails: the handler does not run, those before it are left. */
    c.answer = TASKMILL_FAILURE;
    assert_int_equal(run(app, &why), TASKMILL_FAILURE);
    assert_string_equal(trace, "+a +c -b1 -a1 ");
    assert_string_equal(why.s, "hook c says no");
    c.silent = true;
    assert_int_equal(run(app, &why), TASKMILL_FAILURE);
    assert_string_equal(why.s, "on_execute of context hook 2 returned 1");
    a.answer = TASKMILL_RETRY;
    assert_int_equal(run(app, &why), TASKMILL_RETRY);
    assert_string_equal(trace, "+a ");
    taskmill_app_free(app);
}

static void test_no_status(void **state)
{
    struct taskmill_app *app = taskmill_app_new("shop");
    enum taskmill_status answer = (enum taskmill_status)9;
    struct hook a = {"a", TASKMILL_COMPLETE, false};
    struct err_text why;

    (void)state;
    (void)taskmill_task(taskmill_namespace(app, "n"), "t", handler, .data = &answer);
    (void)taskmill_context_hook(app, .on_leave = leave, .arg = &a);
    assert_int_equal(run(app, &why), TASKMILL_FAILURE);
    assert_string_equal(trace, "h -a1 ");
    assert_string_equal(why.s, "the handler returned 9, which is no status");
    taskmill_app_free(app);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_order),
                                       cmocka_unit_test(test_no_status)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
