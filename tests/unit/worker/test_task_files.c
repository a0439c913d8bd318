/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "worker/task_files.h"

struct fixture {
    char folder[64];
    struct task_files files;
    struct err_text why;
};

static const char *path_in(const struct fixture *f, const char *name)
{
    static char path[160];

    (void)snprintf(path, sizeof path, "%s/%s", f->folder, name);
    return path;
}

static void write_file(const struct fixture *f, const char *name, const char *text)
{
    FILE *file = fopen(path_in(f, name), "w");

    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    (void)snprintf(f->folder, sizeof f->folder, "/tmp/task-files-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    (void)unsetenv("TASKMILL_MODULES");
    (void)unsetenv("TASKMILL_COMMANDS");
    (void)setenv("TASKMILL_WORKER_D", f->folder, 1);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    static const char *const names[] = {"a.yml", "b.so", "c.yaml", "README",
                                        ".x.so", ".yml", "B.yml"};
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        (void)unlink(path_in(f, names[i]));
    (void)rmdir(f->folder);
    task_files_free(&f->files);
    free(f);
    return 0;
}

static void assert_file(const struct fixture *f, size_t i, bool is_module, const char *path,
                        const char *from)
{
    assert_true(i < f->files.count);
    assert_int_equal(f->files.items[i].is_module, is_module);
    assert_string_equal(f->files.items[i].path, path);
    assert_string_equal(f->files.items[i].from, from);
}

static void test_lists(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(task_files_add_list(&f->files, true, NULL, "X", &f->why), 0);
    assert_int_equal(task_files_add_list(&f->files, true, "", "X", &f->why), 0);
    assert_int_equal(task_files_add_list(&f->files, true, ":a.so::/b/c.so:", "X", &f->why), 0);
    assert_int_equal(f->files.count, 2);
    assert_file(f, 0, true, "a.so", "X");
    assert_file(f, 1, true, "/b/c.so", "X");
}

static void test_order(void **state)
{
    struct fixture *f = *state;

    (void)setenv("TASKMILL_MODULES", "m.so", 1);
    (void)setenv("TASKMILL_COMMANDS", "c.yml", 1);
    write_file(f, "c.yaml", "");
    write_file(f, "b.so", "");
    write_file(f, "a.yml", "");
    write_file(f, "B.yml", "");
    write_file(f, "README", "");
    write_file(f, ".x.so", "");
    write_file(f, ".yml", "");
    assert_int_equal(task_files_add_environment(&f->files, &f->why), 0);
    assert_int_equal(f->files.count, 6);
    assert_file(f, 0, true, "m.so", "TASKMILL_MODULES");
    assert_file(f, 1, false, "c.yml", "TASKMILL_COMMANDS");
    assert_file(f, 2, false, path_in(f, "B.yml"), "worker.d");
    assert_file(f, 3, false, path_in(f, "a.yml"), "worker.d");
    assert_file(f, 4, true, path_in(f, "b.so"), "worker.d");
    assert_file(f, 5, false, path_in(f, "c.yaml"), "worker.d");
}

static void test_a_folder_that_is_not_there(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(task_files_add_folder(&f->files, "/nonexistent/x", false, &f->why), 0);
    (void)setenv("TASKMILL_WORKER_D", "/nonexistent/x", 1);
    assert_int_equal(task_files_add_environment(&f->files, &f->why), ERR_NOT_FOUND);
    assert_string_equal(f->why.s, "folder /nonexistent/x: No such file or directory");
}

static void test_too_many(void **state)
{
    struct fixture *f = *state;

    for (size_t i = 0; i < TASK_FILES_MAX; i++)
        assert_int_equal(task_files_add(&f->files, true, "x", "--module", &f->why), 0);
    assert_int_equal(task_files_add(&f->files, true, "x", "--module", &f->why), ERR_TOO_LARGE);
    assert_string_equal(f->why.s, "--module: more than 256 modules and command files");
}

static void test_a_double_names_both_places(void **state)
{
    struct fixture *f = *state;
    struct tasks tasks;
    char expected[400];

    write_file(f, "a.yml", "namespaces: {n: {tasks: {t: {command: [true]}}}}");
    write_file(f, "c.yaml",
               "namespaces: {n: {tasks: {s: {command: [true]}, t: {command: [true]}}}}");
    assert_int_equal(task_files_add(&f->files, false, path_in(f, "c.yaml"), "--commands", &f->why),
                     0);
    assert_int_equal(
        task_files_add_list(&f->files, false, path_in(f, "a.yml"), "TASKMILL_COMMANDS", &f->why),
        0);
    tasks_init(&tasks, "app");
    assert_int_equal(task_files_load(&f->files, &tasks, &f->why), ERR_EXISTS);
    (void)snprintf(expected, sizeof expected,
                   "task t of namespace n, application app, is declared twice: by %s/c.yaml "
                   "(--commands) and by %s/a.yml (TASKMILL_COMMANDS)",
                   f->folder, f->folder);
    assert_string_equal(f->why.s, expected);
    tasks_free(&tasks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_lists, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_folder_that_is_not_there, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_too_many, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_double_names_both_places, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
