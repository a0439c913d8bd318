/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include <taskmill.h>

static int hooks_entered;

static enum taskmill_status pay(struct taskmill_call *call)
{
    int64_t id;

    if (taskmill_arg_int(call, 0, &id) != 0)
        return taskmill_fail(call, "needs (id)");
    if (id == 0)
        return taskmill_retry(call, "attempt %u of %s, %s", taskmill_call_attempt(call),
                              taskmill_call_id(call), taskmill_call_header(call, "who"));
    assert_true(taskmill_call_deadline_s(call) == 30);
    return TASKMILL_COMPLETE;
}

/* Passes its arguments on. */
static enum taskmill_status relay(struct taskmill_call *call)
{
    struct taskmill_params *p = taskmill_params_new();
    struct taskmill_value args = taskmill_args(call), value;
    const char *json;

    for (size_t i = 0; taskmill_value_at(&args, i, &value) == 0; i++)
        taskmill_params_value(p, &value);
    assert_int_equal(taskmill_value_json(&args, &json), 0);
    taskmill_params_kw_str(p, "seen", json);
    if (taskmill_send(taskmill_call_app(call), "billing", "pay", p) != 0)
        return taskmill_fail(call, "%s", taskmill_last_error());
    return TASKMILL_COMPLETE;
}

static enum taskmill_status forever(struct taskmill_call *call)
{
    int rv = taskmill_send(taskmill_call_app(call), "billing", "forever", NULL);

    return rv == 0 ? TASKMILL_COMPLETE : taskmill_fail(call, "%s", taskmill_last_error());
}

static int on_dispatch(void *arg, struct taskmill_headers *headers)
{
    (void)arg;
    return taskmill_headers_get(headers, "who") ? 0 : taskmill_headers_set(headers, "who", "hook");
}

static enum taskmill_status on_execute(void *arg, struct taskmill_call *call)
{
    struct taskmill_header header;

    (void)arg;
    assert_true(taskmill_call_header_at(call, 0, &header));
    assert_string_equal(header.key, "who");
    assert_false(taskmill_call_header_at(call, 1, &header));
    hooks_entered++;
    return TASKMILL_COMPLETE;
}

static void init(struct taskmill_app *app)
{
    struct taskmill_namespace *ns, *other;

    (void)taskmill_application(app, "shop");
    ns = taskmill_namespace(app, "billing", .processing_deadline_s = 30);
    other = taskmill_external_namespace(app, "mail", "post");
    (void)taskmill_task(ns, "pay", pay,
                        .retry = {.times = 2, .delay_s = 5, .times_exceeded = TASKMILL_DEADLETTER});
    (void)taskmill_task(ns, "relay", relay);
    (void)taskmill_task(ns, "forever", forever);
    (void)taskmill_task(ns, "elsewhere", NULL);
    (void)taskmill_task(other, "letter", NULL);
    (void)taskmill_context_hook(app, .on_dispatch = on_dispatch, .on_execute = on_execute);
}

static void break_init(struct taskmill_app *app)
{
    (void)taskmill_namespace(app, "internal");
}

static struct taskmill_params *one_int(int64_t value)
{
    struct taskmill_params *p = taskmill_params_new();

    taskmill_params_int(p, value);
    return p;
}

static void assert_refused(int rv, int code, const char *text)
{
    assert_int_equal(rv, code);
    assert_non_null(strstr(taskmill_last_error(), text));
}

static void nothing(struct taskmill_app *app)
{
    (void)app;
}

static void test_app_without_a_name(void **state)
{
    struct taskmill_app *app = taskmill_test_app(nothing, "given");

    (void)state;
    assert_non_null(app);
    taskmill_app_free(app);
    assert_null(taskmill_test_app(nothing, NULL));
    assert_non_null(strstr(taskmill_last_error(), "names no application"));
}

static void test_run(void **state)
{
    struct taskmill_app *app = taskmill_test_app(init, "unused");
    struct taskmill_header header = {"who", "ann"};
    struct taskmill_test_result r;

    (void)state;
    hooks_entered = 0;
    assert_int_equal(taskmill_test_run(app, "billing", "pay", one_int(1), &r), 0);
    assert_true(r.status == TASKMILL_COMPLETE && r.report == TASKMILL_COMPLETE);
    assert_int_equal(hooks_entered, 1);
    assert_int_equal(taskmill_test_run(app, "billing", "pay", NULL, &r), 0);
    assert_true(r.status == TASKMILL_FAILURE && r.report == TASKMILL_FAILURE && r.deadletter);
    assert_string_equal(r.error, "needs (id)");
    assert_int_equal(taskmill_test_run(app, "billing", "pay", one_int(0), &r,
                                       .id = "0123456789abcdef0123456789abcdef", .headers = &header,
                                       .header_count = 1),
                     0);
    assert_true(r.status == TASKMILL_RETRY && r.report == TASKMILL_RETRY && r.retry_delay_s == 5);
    assert_string_equal(r.error, "attempt 0 of 0123456789abcdef0123456789abcdef, ann");
    assert_int_equal(taskmill_test_run(app, "billing", "pay", one_int(0), &r, .attempt = 1), 0);
    assert_true(r.status == TASKMILL_RETRY && r.report == TASKMILL_FAILURE && r.deadletter);
    assert_refused(taskmill_test_run(app, "billing", "elsewhere", NULL, &r), TASKMILL_ERR_NOT_FOUND,
                   "has no handler");
    taskmill_app_free(app);
    assert_null(taskmill_test_app(break_init, "x"));
    assert_non_null(strstr(taskmill_last_error(), "internal"));
}

static void test_eager(void **state)
{
    struct taskmill_app *app = taskmill_test_app(init, "unused");
    struct taskmill_bulk *bulk = taskmill_bulk_new(app);

    (void)state;
    hooks_entered = 0;
    assert_int_equal(taskmill_eager(app, true), 0);
    assert_int_equal(taskmill_send(app, "billing", "relay", one_int(3), .no_wait = true), 0);
    assert_refused(taskmill_send(app, "billing", "relay", NULL), TASKMILL_ERR_FAILED,
                   "relay failed: task pay failed: needs (id)");
    assert_refused(taskmill_send(app, "billing", "pay", one_int(0)), TASKMILL_ERR_RETRY,
                   "asks for a retry: attempt 0");
    assert_refused(taskmill_send(app, "billing", "forever", NULL), TASKMILL_ERR_FAILED,
                   "task forever failed: ");
    assert_refused(taskmill_send(app, "mail", "letter", NULL, .application = "post"),
                   TASKMILL_ERR_UNSUPPORTED, "application post");
    assert_int_equal(hooks_entered, 0);
    assert_int_equal(taskmill_bulk_add(bulk, "billing", "pay", one_int(1)), 0);
    assert_int_equal(taskmill_bulk_add(bulk, "billing", "pay", NULL), 0);
    assert_refused(taskmill_bulk_send(bulk), TASKMILL_ERR_FAILED, "needs (id)");
    assert_int_equal(taskmill_bulk_count(bulk), 1);
    taskmill_bulk_free(bulk);
    taskmill_app_free(app);
}

static void test_capture(void **state)
{
    struct taskmill_app *app = taskmill_test_app(init, "unused");
    const struct taskmill_test_sent *sent;
    struct taskmill_test_result r;
    char id[TASKMILL_ID_SIZE];

    (void)state;
    assert_int_equal(taskmill_test_count(app), 0);
    assert_int_equal(taskmill_test_capture(app, true), 0);
    assert_int_equal(taskmill_send(app, "billing", "relay", one_int(7), .countdown_s = 9,
                                   .expires_s = 60, .id = id),
                     0);
    assert_int_equal(taskmill_send(app, "mail", "letter", NULL, .application = "post"), 0);
    assert_refused(taskmill_send(app, "mail", "letter", NULL), TASKMILL_ERR_NOT_FOUND,
                   "is not declared");
    assert_int_equal(taskmill_test_count(app), 2);
    sent = taskmill_test_sent(app, 0);
    assert_string_equal(sent->application, "shop");
    assert_string_equal(sent->ns, "billing");
    assert_string_equal(sent->task, "relay");
    assert_string_equal(sent->id, id);
    assert_string_equal(sent->params_json, "{\"args\":[7],\"kwargs\":{}}");
    assert_true(sent->countdown_s == 9 && sent->expires_s == 60);
    assert_int_equal(sent->processing_deadline_s, 30);
    assert_string_equal(taskmill_test_sent_header(sent, "who"), "hook");
    assert_null(taskmill_test_sent_header(sent, "k"));
    assert_string_equal(taskmill_test_sent(app, 1)->application, "post");
    assert_null(taskmill_test_sent(app, 2));
    /* Running the first sends the third. */
    assert_int_equal(taskmill_test_run_sent(app, 0, &r), 0);
    assert_int_equal(r.report, TASKMILL_COMPLETE);
    assert_string_equal(taskmill_test_sent(app, 2)->params_json,
                        "{\"args\":[7],\"kwargs\":{\"seen\":\"[7]\"}}");
    assert_refused(taskmill_test_run_sent(app, 1, &r), TASKMILL_ERR_NOT_FOUND, "letter");
    taskmill_test_clear(app);
    assert_int_equal(taskmill_test_count(app), 0);
    taskmill_app_free(app);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_app_without_a_name),
                                       cmocka_unit_test(test_run), cmocka_unit_test(test_eager),
                                       cmocka_unit_test(test_capture)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
