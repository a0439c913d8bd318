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

#include "command/command.h"
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

static const struct command *command_of(const struct tasks *tasks, const char *name)
{
    return find(tasks, "n", name)->command;
}

static const char *variable(const struct command *command, const char *name)
{
    size_t len = strlen(name);

    for (char **env = command->env; *env != NULL; env++)
        if (strncmp(*env, name, len) == 0 && (*env)[len] == '=')
            return *env + len + 1;
    return NULL;
}

/* Of each key the innermost value; of maps each entry by itself. */
static void test_levels(void **state)
{
    struct tasks tasks;
    struct err_text why = {{0}};
    const struct command *a, *b;

    (void)state;
    assert_int_equal(
        load("processing_deadline: 7\n"
             "retry: {times: 2}\n"
             "stdin: none\n"
             "environment: {A: file, B: file, C: file}\n"
             "limits: {memory: 64M, open_files: 100}\n"
             "output: {stdout: discard, limit: 2k}\n"
             "exit_codes: {3: retry, '*': retry, 4: failure}\n"
             "folder: /\n"
             "namespaces:\n"
             "  n:\n"
             "    environment: {B: namespace, C: namespace}\n"
             "    limits: {memory: 1G, core: 0}\n"
             "    stdin: json\n"
             "    terminate_before: 2\n"
             "    tasks:\n"
             "      a:\n"
             "        command: [x]\n"
             "        environment: {C: task}\n"
             "        output: {stderr: inherit, stdout: log}\n"
             "        exit_codes: {3: failure, 0: failure}\n"
             "        clear_environment: true\n"
             "        folder: ./\n"
             "      b: {command: \"echo $X | cat\", shell: true, stdin: msgpack, folder: .}\n",
             &tasks, &why),
        0);
    assert_int_equal(find(&tasks, "n", "a")->options.processing_deadline_s, 7);
    assert_int_equal(find(&tasks, "n", "a")->options.retry.times, 2);
    a = command_of(&tasks, "a");
    assert_string_equal(variable(a, "A"), "file");
    assert_string_equal(variable(a, "B"), "namespace");
    assert_string_equal(variable(a, "C"), "task");
    assert_string_equal(variable(a, "PATH"), COMMAND_PATH_DEFAULT);
    assert_null(variable(a, "HOME"));
    assert_int_equal(a->in, COMMAND_STDIN_JSON);
    assert_int_equal(a->limits[COMMAND_LIMIT_MEMORY], 1 << 30);
    assert_int_equal(a->limits[COMMAND_LIMIT_OPEN_FILES], 100);
    assert_int_equal(a->limits[COMMAND_LIMIT_CORE], 0);
    assert_true(a->limits[COMMAND_LIMIT_CPU] == COMMAND_LIMIT_NONE);
    assert_int_equal(a->out, COMMAND_OUTPUT_LOG);
    assert_int_equal(a->err, COMMAND_OUTPUT_INHERIT);
    assert_int_equal(a->output_limit, 2048);
    assert_int_equal(a->exit_codes[0], ATTEMPT_FAILURE);
    assert_int_equal(a->exit_codes[3], ATTEMPT_FAILURE);
    assert_int_equal(a->exit_codes[4], ATTEMPT_FAILURE);
    assert_int_equal(a->exit_codes[5], ATTEMPT_RETRY);
    assert_int_equal(a->exit_codes[75], ATTEMPT_RETRY);
    assert_int_equal(a->terminate_before_s, 2);
    assert_string_equal(a->folder, "/tmp/./");
    b = command_of(&tasks, "b");
    assert_string_equal(b->argv[0], "/bin/sh");
    assert_string_equal(b->argv[1], "-c");
    assert_string_equal(b->argv[2], "echo $X | cat");
    assert_null(b->argv[3]);
    assert_int_equal(b->in, COMMAND_STDIN_MSGPACK);
    assert_int_equal(b->out, COMMAND_OUTPUT_DISCARD);
    assert_int_equal(b->exit_codes[3], ATTEMPT_RETRY);
    assert_string_equal(variable(b, "C"), "namespace");
    tasks_free(&tasks);
}

/* Tasks whose settings are equal share one process of a child. */
static void test_shared_command(void **state)
{
    struct tasks tasks;
    struct err_text why = {{0}};

    (void)state;
    assert_int_equal(load("mode: persistent\n"
                          "command: [python3, tasks.py]\n"
                          "namespaces:\n"
                          "  n:\n"
                          "    ready: true\n"
                          "    tasks:\n"
                          "      a: {}\n"
                          "      b: {processing_deadline: 5}\n"
                          "      c: {max_tasks: 10, start_timeout: 5}\n"
                          "      d: {mode: process}\n",
                          &tasks, &why),
                     0);
    assert_ptr_equal(command_of(&tasks, "a"), command_of(&tasks, "b"));
    assert_int_equal(command_of(&tasks, "a")->mode, COMMAND_PERSISTENT);
    assert_true(command_of(&tasks, "a")->wait_ready);
    assert_ptr_not_equal(command_of(&tasks, "a"), command_of(&tasks, "c"));
    assert_int_equal(command_of(&tasks, "c")->max_tasks, 10);
    assert_int_equal(command_of(&tasks, "c")->start_time_s, 5);
    assert_int_equal(command_of(&tasks, "d")->mode, COMMAND_PROCESS);
    assert_int_equal(tasks.command_count, 3);
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
/* Brokers may hold canary tasks for each application; the worker's own tasks are counted without.
 */
static void test_each_application_has_a_canary(void **state)
{
    struct tasks tasks;
    struct err_text why = {{0}};
    const struct task_def *task;

    (void)state;
    assert_int_equal(
        load("{namespaces: {a: {tasks: {b: {command: [x]}}}}, application: one}", &tasks, &why), 0);
    task = find(&tasks, "internal", "canary_task");
    assert_non_null(task);
    assert_non_null(task->handler);
    assert_string_equal(task->ns->app->name, "one");
    assert_null(find(&tasks, "internal", "other"));
    assert_null(tasks_find(&tasks, "two", bytes_str("internal"), bytes_str("canary_task")));
    assert_int_equal(tasks_count(&tasks), 1);
    assert_int_equal(tasks.application_count, 1);
    tasks_free(&tasks);
    assert_int_equal(load("namespaces: {a: {tasks: {}}}", &tasks, &why), 0);
    assert_int_equal(tasks.application_count, 0);
    assert_int_equal(tasks_count(&tasks), 0);
    tasks_free(&tasks);
}

static void test_mistakes(void **state)
{
    static const struct {
        const char *text, *part;
    } rows[] = {
        {"", "empty"},
        {"[", "line 2"},
        {"- a", "must be a map"},
        {"aplication: x", "no key aplication"},
        {"application: x\napplication: y", "stands twice"},
        {"namespaces: {internal: {}}", "internal"},
        {"namespaces: {n: {}, n: {}}", "stands twice"},
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
        {"namespaces: {n: {tasks: {t: {command: [x], at_most_once: yes}}}}", "false or true"},
        {"namespaces: {n: {tasks: {t: {command: [x], at_most_once: true, retry: {times: 2}}}}}",
         "exclude each other"},
        {"\n\nnamespaces: {n: {what: 1}}", "line 3"},
        {"what:\n  more: 1", "line 1: there is no key what"},
        {"stdin: xml", "stdin is json, msgpack or none"},
        {"stdin: xml\nnamespaces: {n: {tasks: {t: {command: [x], stdin: json}}}}", "stdin is json"},
        {"namespaces: {n: {mode: forever}}", "mode is process or persistent"},
        {"shell: 1", "shell is false or true"},
        {"namespaces: {n: {tasks: {t: {command: [x], shell: true}}}}", "one text for /bin/sh"},
        {"namespaces: {n: {tasks: {t: {command: x}}}}", "say shell: true (task t)"},
        {"environment: [A]", "environment must be a map"},
        {"environment: {A=B: x}", "no name of an environment variable"},
        {"environment: {TASKMILL_TASK_ID: x}", "are set for each task"},
        {"environment: {A: [x]}", "A must be a text"},
        {"folder: nowhere/at/all", "there is no folder /tmp/nowhere/at/all"},
        {"user: no-such-user-here", "user"},
        {"group: no-such-group-here", "group"},
        {"limits: {\n mem: 1}", "line 2: limits has no key mem"},
        {"limits: {memory: 1T}", "memory must be a number of bytes"},
        {"limits: {memory: -1}", "memory must be a number of bytes"},
        {"limits: {memory: 99999999999G}", "memory must be a number of bytes"},
        {"limits: {cpu_seconds: 0}", "cpu_seconds must be a whole number from 1"},
        {"limits: {open_files: 2}", "open_files must be a whole number from 8"},
        {"terminate_before: 1.5", "terminate_before must be a whole number"},
        {"output: {stdout: file}", "stdout is log, discard or inherit"},
        {"output: {size: 1}", "output has no key size"},
        {"exit_codes: {256: retry}", "256 is no exit code"},
        {"exit_codes: {x: retry}", "x is no exit code"},
        {"exit_codes: {1: again}", "1 is complete, retry or failure"},
        {"limits: {core: 0}\nlimits: {core: 0}", "limits stands twice in the file"},
        {"processing_deadline: 0", "processing_deadline must be a whole number from 1"},
        {"namespaces: {n: {tasks: {t: {command: [x], ready: true}}}}", "ready needs mode: persist"},
        {"namespaces: {n: {tasks: {t: {command: [x], max_tasks: 2}}}}", "max_tasks needs mode"},
        {"namespaces: {n: {tasks: {t: {command: [x], mode: persistent, stdin: msgpack}}}}",
         "reads JSON lines"},
        {"namespaces: {n: {tasks: {t: {command: [x], mode: persistent, output: {stdout: "
         "inherit}}}}}",
         "carries its answers"},
        {"namespaces: {n: {tasks: {t: {command: [x], mode: persistent, limits: {cpu_seconds: "
         "1}}}}}",
         "count all tasks"},
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_everything),
                                       cmocka_unit_test(test_levels),
                                       cmocka_unit_test(test_shared_command),
                                       cmocka_unit_test(test_default_application),
                                       cmocka_unit_test(test_each_application_has_a_canary),
                                       cmocka_unit_test(test_mistakes),
                                       cmocka_unit_test(test_missing_file)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
