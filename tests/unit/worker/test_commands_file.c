/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/command.h"
#include "worker/tasks.h"

static int load(const char *text, struct tasks *tasks, struct err_text *why)
{
    char path[] = "/tmp/taskmill-test-XXXXXX";
    int fd = mkstemp(path), rv;

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    tasks_init(tasks, "default");
    rv = tasks_load_commands(tasks, path, why);
    if (rv == 0)
        rv = tasks_finish(tasks, why);
    unlink(path);
    return rv;
}

static const struct task_def *find(const struct tasks *tasks, const char *ns, const char *name)
{
    return tasks_find(tasks, tasks->applications[0], bytes_str(ns), bytes_str(name));
}

static void test_everything(void **state)
{
    struct tasks tasks;
    struct err_text why = {{0}};
    const struct task_def *task;
    const struct command *command;

    (void)state;
    assert_int_equal(
        load("namespaces:\n"
             "  thumbs:\n"
             "    processing_deadline: 20\n"
             "    expires: 60\n"
             "    retry: {times: 3, delay: 5, times_exceeded: deadletter, on: [failure]}\n"
             "    tasks:\n"
             "      resize: {command: [python3, resize.py], mode: process}\n"
             "      once: {command: [./once], at_most_once: true, processing_deadline: 2}\n"
             "      own: {command: [x], retry: {times: 9, on: [deadline, failure]}}\n"
             "  empty: {}\n"
             "application: media\n",
             &tasks, &why),
        0);
    assert_int_equal(tasks.application_count, 1);
    assert_string_equal(tasks.applications[0], "media");
    assert_int_equal(tasks_count(&tasks), 3);
    task = find(&tasks, "thumbs", "resize");
    command = (const struct command *)task->command;
    assert_string_equal(command->argv[0], "python3");
    assert_string_equal(command->argv[1], "resize.py");
    assert_null(command->argv[2]);
    assert_string_equal(command->folder, "/tmp");
    assert_int_equal(task->options.processing_deadline_s, 20);
    assert_int_equal(task->options.expires_s, 60);
    assert_int_equal(task->options.retry.times, 3);
    assert_int_equal(task->options.retry.delay_s, 5);
    assert_int_equal(task->options.retry.times_exceeded, TASKMILL_DEADLETTER);
    assert_int_equal(task->options.retry.on, TASKMILL_ON_FAILURE);
    task = find(&tasks, "thumbs", "once");
    assert_true(task->options.at_most_once);
    assert_int_equal(task->options.retry.times, 0);
    assert_int_equal(task->options.processing_deadline_s, 2);
    task = find(&tasks, "thumbs", "own");
    assert_int_equal(task->options.retry.times, 9);
    assert_int_equal(task->options.retry.on, TASKMILL_ON_FAILURE | TASKMILL_ON_DEADLINE);
    assert_null(find(&tasks, "thumbs", "other"));
    tasks_free(&tasks);
}

static void test_default_application(void **state)
{
    struct tasks tasks;
    struct err_text why;

    (void)state;
    assert_int_equal(load("namespaces: {n: {tasks: {t: {command: [x]}}}}", &tasks, &why), 0);
    assert_string_equal(tasks.applications[0], "default");
    tasks_free(&tasks);
    assert_int_equal(load("namespaces: {n: {}}", &tasks, &why), 0);
    assert_int_equal(tasks.application_count, 0); /* nothing to ask for */
    tasks_free(&tasks);
}

/* Each with a word of the message. */
static void test_mistakes(void **state)
{
    static const struct {
        const char *text, *part;
    } rows[] = {
        {"", "empty"},
        {"[", "line 2"},
        {"- a", "must be a map"},
        {"aplication: x", "no key aplication"},
        {"application: x\napplication: y", "say it once"},
        {"namespaces: {internal: {}}", "internal"},
        {"namespaces: {n: {}, n: {}}", "declared twice"},
        {"namespaces: {n: {deadline: 3}}", "no key deadline"},
        {"namespaces: {n: {expires: -3}}", "whole number"},
        {"namespaces: {n: {expires: 99999999999}}", "whole number"},
        {"namespaces: {n: {retry: {tries: 1}}}", "no key tries"},
        {"namespaces: {n: {retry: {on: [all]}}}", "failure, deadline"},
        {"namespaces: {n: {retry: {times_exceeded: drop}}}", "deadletter or discard"},
        {"namespaces: {n: {tasks: {t: {}}}}", "has no command"},
        {"namespaces: {n: {tasks: {t: {command: ls}}}}", "must be a list"},
        {"namespaces: {n: {tasks: {t: {command: []}}}}", "must be a list"},
        {"namespaces: {n: {tasks: {t: {command: [[x]]}}}}", "must be texts"},
        {"namespaces: {n: {tasks: {t: {command: [x], mode: persistent}}}}", "not supported yet"},
        {"namespaces: {n: {tasks: {t: {command: [x], at_most_once: yes}}}}", "true or false"},
        {"namespaces: {n: {tasks: {t: {command: [x], at_most_once: true, retry: {times: 2}}}}}",
         "exclude each other"},
        {"\n\nnamespaces: {n: {what: 1}}", "line 3"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct tasks tasks;
        struct err_text why = {{0}};

        assert_true(load(rows[i].text, &tasks, &why) < 0);
        if (strstr(why.s, rows[i].part) == NULL)
            fail_msg("row %zu: %s", i, why.s);
        tasks_free(&tasks);
    }
}

static void test_missing_file(void **state)
{
    struct tasks tasks;
    struct err_text why;

    (void)state;
    tasks_init(&tasks, "default");
    assert_int_equal(tasks_load_commands(&tasks, "/nonexistent/tasks.yml", &why), ERR_NOT_FOUND);
    assert_non_null(strstr(why.s, "/nonexistent/tasks.yml"));
    assert_int_equal(tasks_load_module(&tasks, "/nonexistent/tasks.so", &why), ERR_NOT_FOUND);
    tasks_free(&tasks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everything), cmocka_unit_test(test_default_application),
        cmocka_unit_test(test_mistakes), cmocka_unit_test(test_missing_file)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
