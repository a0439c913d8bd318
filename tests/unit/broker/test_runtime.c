/* SPDX-License-Identifier: Apache-2.0 */
/* The runtime configuration as a file: what is accepted, what is refused and in which words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "broker/runtime.h"

#define NONE "drop_task_killswitch: []\ndemoted_namespaces: []\n"

static struct runtime *parse(const char *text)
{
    struct config_warnings warnings = {0};
    struct runtime *runtime = NULL;
    struct err_text why;
    if (runtime_parse(&runtime, "r.yml", bytes_str(text), &warnings, &why))
        fail_msg("%s", why.s);
    config_warnings_free(&warnings);
    return runtime;
}

static void expect_refused(const char *text, int code, const char *expected)
{
    struct config_warnings warnings = {0};
    struct runtime *runtime = NULL;
    struct err_text why = {{0}};
    assert_int_equal(runtime_parse(&runtime, "r.yml", bytes_str(text), &warnings, &why), code);
    assert_null(runtime);
    if (!strstr(why.s, expected))
        fail_msg("\"%s\" is not in: %s", expected, why.s);
    assert_null(strchr(why.s, '\n'));
    config_warnings_free(&warnings);
}

static void a_whole_file(void **state)
{
    (void)state;
    struct runtime *runtime = parse("drop_task_killswitch:\n"
                                    "  - a.task\n"
                                    "  - {name: b.task, select_arg: {0: 5}}\n"
                                    "  - {name: c.task, select_kwarg: {k: v}, colour: red}\n"
                                    "demoted_namespaces: [one, '', 2,]\n"
                                    "demoted_topic: long\n"
                                    "demoted_topic_cluster: k1:9092,k2:9092\n"
                                    "something_else: [1]\n");
    assert_int_equal(runtime_rule_count(runtime), 3);
    assert_int_equal(runtime_namespace_count(runtime), 3);
    assert_string_equal(runtime_topic(runtime), "long");
    assert_string_equal(runtime_cluster(runtime), "k1:9092,k2:9092");
    assert_int_equal(runtime_match_taskname(runtime, bytes_str("a.task")), RUNTIME_WHOLE_TASK);
    assert_int_equal(runtime_match_taskname(runtime, bytes_str("b.task")), RUNTIME_SELECTOR);
    assert_int_equal(runtime_match_taskname(runtime, bytes_str("c.task")), RUNTIME_SELECTOR);
    assert_int_equal(runtime_match_taskname(runtime, bytes_str("a.tas")), RUNTIME_KEEP);
    assert_int_equal(runtime_match_taskname(runtime, bytes_str("a.task2")), RUNTIME_KEEP);
    assert_int_equal(runtime_match_taskname(runtime, bytes_of("a.task\0", 7)), RUNTIME_KEEP);
    assert_true(runtime_demotes(runtime, bytes_str("one")));
    assert_true(runtime_demotes(runtime, bytes_str("")));
    assert_true(runtime_demotes(runtime, bytes_str("2")));
    assert_false(runtime_demotes(runtime, bytes_str("on")));
    assert_false(runtime_demotes(runtime, bytes_str("ones")));
    runtime_unref(runtime);
}

static void an_empty_item_is_the_empty_namespace(void **state)
{
    (void)state;
    struct runtime *runtime = parse("drop_task_killswitch: []\ndemoted_namespaces:\n  -\n");
    assert_true(runtime_demotes(runtime, bytes_str("")));
    runtime_unref(runtime);
}

static void defaults(void **state)
{
    (void)state;
    struct runtime *runtime = parse(NONE "demoted_topic: null\ndemoted_topic_cluster:\n");
    assert_null(runtime_topic(runtime));
    assert_null(runtime_cluster(runtime));
    assert_int_equal(runtime_rule_count(runtime), 0);
    assert_false(runtime_demotes(runtime, bytes_str("")));
    runtime_unref(runtime);
}

static void no_rules_at_all(void **state)
{
    (void)state;
    assert_int_equal(runtime_match_taskname(NULL, bytes_str("x")), RUNTIME_KEEP);
    assert_false(runtime_demotes(NULL, bytes_str("x")));
    assert_null(runtime_topic(NULL));
    assert_null(runtime_cluster(NULL));
    assert_int_equal(runtime_rule_count(NULL) + runtime_namespace_count(NULL), 0);
    assert_null(runtime_ref(NULL));
    runtime_unref(NULL);
}

static void refusals(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int code;
        const char *why;
    } cases[] = {
        {"", ERR_INVALID, "r.yml: drop_task_killswitch is missing"},
        {"drop_task_killswitch: []\n", ERR_INVALID, "r.yml: demoted_namespaces is missing"},
        {"demoted_namespaces: []\n", ERR_INVALID, "drop_task_killswitch is missing"},
        {"drop_task_killswitch:\ndemoted_namespaces: []\n", ERR_INVALID,
         "r.yml:1: drop_task_killswitch must be a list, not null"},
        {"drop_task_killswitch: a\ndemoted_namespaces: []\n", ERR_INVALID, "must be a list"},
        {"drop_task_killswitch: []\ndemoted_namespaces: {a: b}\n", ERR_INVALID,
         "r.yml:2: demoted_namespaces must be a list, not a map"},
        {"drop_task_killswitch: []\ndemoted_namespaces: [[a]]\n", ERR_INVALID,
         "r.yml:2: an item of demoted_namespaces must be text, not a list"},
        {"demoted_namespaces: []\ndrop_task_killswitch:\n - a\n - 12\n", ERR_INVALID,
         "r.yml:4: a rule of drop_task_killswitch must be the name of a task or a map"},
        {"demoted_namespaces: []\ndrop_task_killswitch: [{select_arg: {0: 1}}]\n", ERR_INVALID,
         "r.yml:2: a rule of drop_task_killswitch needs a name"},
        {"demoted_namespaces: []\ndrop_task_killswitch: [{name: 7}]\n", ERR_INVALID,
         "name must be text, not the number 7"},
        {"demoted_namespaces: []\ndrop_task_killswitch: [{name: a, select_arg: [1]}]\n",
         ERR_INVALID, "select_arg must be a map, not a list"},
        {"demoted_namespaces: []\ndrop_task_killswitch: [{name: a, select_kwarg: x}]\n",
         ERR_INVALID, "select_kwarg must be a map, not the text x"},
        {"demoted_namespaces: []\ndrop_task_killswitch: [{name: a, select_arg: {-1: 1}}]\n",
         ERR_INVALID, "must be the position of an argument (0, 1, ...), not -1"},
        {"demoted_namespaces: []\ndrop_task_killswitch: [{name: a, select_arg: {k: 1}}]\n",
         ERR_INVALID, "not k"},
        {NONE "demoted_topic: [a]\n", ERR_INVALID, "r.yml:3: demoted_topic must be text"},
        {NONE "demoted_topic: ''\n", ERR_INVALID, "r.yml:3: demoted_topic is empty"},
        {"- a\n", ERR_MALFORMED, "must be a map"},
        {"drop_task_killswitch: [\n", ERR_MALFORMED, "not YAML"},
        {NONE "---\n" NONE, ERR_MALFORMED, "more than one YAML document"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_refused(cases[i].text, cases[i].code, cases[i].why);
}

static void bounds(void **state)
{
    (void)state;
    struct buf text = {0};
    buf_append_str(&text, "demoted_namespaces: []\ndrop_task_killswitch: [a");
    for (int i = 0; i < 4096; i++)
        buf_append_str(&text, ",a");
    buf_append_str(&text, "]\n");
    expect_refused(buf_cstr(&text), ERR_TOO_LARGE, "a list of more than 4096 items");
    buf_clear(&text);
    for (int i = 0; i < 1 << 20; i++)
        buf_append_byte(&text, '#');
    buf_append_str(&text, "\n" NONE);
    expect_refused(buf_cstr(&text), ERR_TOO_LARGE, "larger than 1 MiB");
    buf_free(&text);
    expect_refused(NONE "x: [[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]\n", ERR_TOO_LARGE,
                   "levels");
}

static void same_or_not(void **state)
{
    (void)state;
    static const char base[] =
        "drop_task_killswitch: [a, {name: b, select_kwarg: {x: 1, y: [2]}}]\n"
        "demoted_namespaces: [n]\n";
    static const struct {
        const char *text;
        bool same;
    } cases[] = {
        {"# a comment\ndemoted_namespaces:\n - n\ndrop_task_killswitch:\n - a\n"
         " - select_kwarg: {y: [2], x: 1}\n   name: b\nunknown: 1\n",
         true},
        {"drop_task_killswitch: [a, {name: b, select_kwarg: {x: '1', y: [2]}}]\n"
         "demoted_namespaces: [n]\n",
         false},
        {"drop_task_killswitch: [a, {name: b, select_kwarg: {x: 1, y: [2, 3]}}]\n"
         "demoted_namespaces: [n]\n",
         false},
        {"drop_task_killswitch: [a]\ndemoted_namespaces: [n]\n", false},
        {"drop_task_killswitch: [a, {name: b, select_kwarg: {x: 1, y: [2]}}]\n"
         "demoted_namespaces: [n]\ndemoted_topic: t\n",
         false},
    };
    struct runtime *first = parse(base);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct runtime *other = parse(cases[i].text);
        assert_int_equal(runtime_equal(first, other), cases[i].same);
        assert_int_equal(runtime_equal(other, first), cases[i].same);
        runtime_unref(other);
    }
    assert_true(runtime_equal(first, first));
    assert_false(runtime_equal(first, NULL));
    assert_true(runtime_equal(NULL, NULL));
    runtime_unref(first);
}

/* --- files ------------------------------------------------------------------------------------ */

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static int read_path(const char *path, struct err_text *why)
{
    struct config_warnings warnings = {0};
    struct runtime *runtime = NULL;
    int rc = runtime_read(&runtime, path, &warnings, why);
    config_warnings_free(&warnings);
    runtime_unref(runtime);
    return rc;
}

static void files(void **state)
{
    (void)state;
    char folder[] = "/tmp/test_runtime.XXXXXX", path[64];
    struct err_text why = {{0}};
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/r.yml", folder);
    assert_int_equal(read_path(path, &why), ERR_NOT_FOUND);
    assert_non_null(strstr(why.s, path));
    write_file(path, NONE);
    assert_int_equal(read_path(path, &why), 0);
    write_file(path, "demoted_namespaces: []\n");
    assert_int_equal(read_path(path, &why), ERR_INVALID);
    assert_non_null(strstr(why.s, path));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0); /* nobody writes: it must not wait */
    assert_int_equal(read_path(path, &why), ERR_INVALID);
    assert_non_null(strstr(why.s, "not a regular file"));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(read_path(folder, &why), ERR_INVALID);
    assert_int_equal(rmdir(folder), 0);
}

static void twice_is_warned_about(void **state)
{
    (void)state;
    struct config_warnings warnings = {0};
    struct runtime *runtime = NULL;
    assert_int_equal(runtime_parse(&runtime, "r.yml", bytes_str(NONE "demoted_namespaces: [b]\n"),
                                   &warnings, NULL),
                     0);
    assert_int_equal(warnings.count, 1);
    assert_true(runtime_demotes(runtime, bytes_str("b")));
    config_warnings_free(&warnings);
    runtime_unref(runtime_ref(runtime));
    runtime_unref(runtime);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_file),
        cmocka_unit_test(an_empty_item_is_the_empty_namespace),
        cmocka_unit_test(defaults),
        cmocka_unit_test(no_rules_at_all),
        cmocka_unit_test(refusals),
        cmocka_unit_test(bounds),
        cmocka_unit_test(same_or_not),
        cmocka_unit_test(files),
        cmocka_unit_test(twice_is_warned_about),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
