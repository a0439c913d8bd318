/* SPDX-License-Identifier: Apache-2.0 */
#include "core_help.h"

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(task_end_name(TASK_LIVE), "live");
    assert_string_equal(task_end_name(TASK_FOREIGN),
                        "dropped: another broker's store owns this at-most-once task");
    assert_string_equal(task_end_name((enum task_end)TASK_ENDS), "unknown end");
    assert_string_equal(task_failure_name(FAILURE_NONE), "");
    assert_string_equal(task_failure_name(FAILURE_CLAIMED_AT_CRASH), "claimed at crash");
    assert_string_equal(task_failure_name(FAILURE_BAD_ROW), "bad row in the database file");
    assert_string_equal(task_failure_name((enum task_failure)99), "unknown failure");
    assert_string_equal(report_result_name(REPORT_ENDING), "already ending");
    assert_string_equal(report_result_name((enum report_result)REPORT_RESULTS), "unknown result");
}

static void test_texts_are_copied(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    char id[] = "one", application[] = "mail", namespace[] = "bulk", name[] = "mail.send";
    struct task_spec spec = spec_of(id, 1);
    spec.application = bytes_str(application);
    spec.namespace = bytes_str(namespace);
    spec.taskname = bytes_str(name);
    struct task *task = add(inflight, &spec, T0);
    memset(id, 'x', 3);
    memset(application, 'x', 4);
    memset(namespace, 'x', 4);
    memset(name, 'x', 9);
    assert_true(bytes_equal_str(task_id(task), "one"));
    assert_true(bytes_equal_str(task_application(task), "mail"));
    assert_true(bytes_equal_str(task_namespace(task), "bulk"));
    assert_true(bytes_equal_str(task_name(task), "mail.send"));
    assert_ptr_equal(inflight_find(inflight, bytes_str("one")), task);
    assert_null(inflight_find(inflight, bytes_str("xxx")));
    inflight_free(inflight);
}

static void test_empty_texts(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    struct task_spec spec = {.rowid = 1, .expires_at_ms = CLOCK_NEVER, .duration_ms = 1};
    struct task *task = add(inflight, &spec, T0);
    assert_int_equal(task_id(task).len, 0);
    assert_ptr_equal(inflight_find(inflight, bytes_str("")), task);
    assert_ptr_equal(claim_now(inflight, of_namespace("", ""), T0), task);
    turn(inflight, 0);
    inflight_free(inflight);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_texts_are_copied),
        cmocka_unit_test(test_empty_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
