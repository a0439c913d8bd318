/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* Real processes: shells that speak the protocol. What a task should do is its first argument. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "call_help.h"
#include "command/run.h"

/* Answers by a text in the line, and numbers its lines. `$$` in an error tells processes apart. */
#define ANSWERS                                                                                \
    "n=0; while read -r line; do n=$((n+1)); id=${line#*:\\\"}; id=${id%%\\\"*}; "             \
    "answer() { echo \"{\\\"id\\\":\\\"$id\\\",\\\"status\\\":\\\"$1\\\",\\\"error\\\":"       \
    "\\\"$$ $n\\\"}\"; }; case $line in "                                                      \
    "*do-retry*) answer retry;; *do-crash*) echo last words >&2; exit 7;; "                    \
    "*do-hang*) sleep 60 & echo $! >&2; wait; sleep 60;; "                                     \
    "*do-junk*) echo Hello; answer complete;; *do-other*) id=other; answer complete;; "        \
    "*do-twice*) answer complete; answer complete;; "                                          \
    "*do-close*) exec 1>&-; sleep 60;; *do-long*) yes | tr -d '\\n' | head -c 200000; echo;; " \
    "*do-last*) answer failure; exit 0;; *do-late*) answer failure; sleep 0.2; exit 3;; "      \
    "*do-log*) echo logged >&2; answer failure;; "                                             \
    "*) answer failure;; esac; done"

struct fixture {
    struct process_groups groups;
    struct runner runner;
    struct command *command;
    uint64_t deadline_s;
    struct err_text why;
    long pid;    /* of the process that answered last */
    long number; /* its how many'th answer it was */
};

static struct fixture *fresh(void **state, const char *script)
{
    struct fixture *f = *state;

    runner_free(&f->runner);
    if (f->command != NULL)
        command_free(f->command);
    runner_init(&f->runner, &f->groups);
    f->command = command_new("/tmp");
    f->command->mode = COMMAND_PERSISTENT;
    f->deadline_s = 30;
    command_add_word(f->command, "sh");
    command_add_word(f->command, "-c");
    command_add_word(f->command, script);
    assert_int_equal(command_finish(f->command, &f->why), 0);
    return f;
}

static enum attempt_end run(struct fixture *f, const char *what)
{
    struct call_help help;
    struct buf json = {0};
    enum attempt_end end;
    char *stop;

    buf_printf(&json, "{\"args\":[\"%s\"],\"kwargs\":{}}", what);
    call_help_open(&help, "the-id", buf_cstr(&json), 0, 3, f->deadline_s);
    buf_free(&json);
    f->why.s[0] = '\0';
    end = runner_run(&f->runner, f->command, &help.call, &f->why);
    call_help_close(&help);
    f->pid = strtol(f->why.s, &stop, 10);
    f->number = strtol(stop, NULL, 10);
    return end;
}

static size_t running(const struct fixture *f)
{
    size_t count = 0;

    for (size_t i = 0; i < PROCESS_GROUPS_MAX; i++)
        count += f->groups.leaders[i] != 0;
    return count;
}

/* As a child that has nothing to do; nobody writes to the pipe. */
static void wait_for_none(struct fixture *f)
{
    int ends[2];

    assert_int_equal(pipe(ends), 0);
    runner_wait(&f->runner, ends[0]);
    assert_int_equal(running(f), 0);
    close(ends[0]);
    close(ends[1]);
}

static void test_one_process_for_many(void **state)
{
    struct fixture *f = fresh(state, ANSWERS);
    long pid;

    assert_int_equal(run(f, "x"), ATTEMPT_FAILURE);
    pid = f->pid;
    assert_int_equal(f->number, 1);
    assert_int_equal(run(f, "do-retry"), ATTEMPT_RETRY);
    assert_int_equal(f->number, 2);
    assert_int_equal(run(f, "do-log"), ATTEMPT_FAILURE);
    assert_string_equal(buf_cstr(&f->runner.err.tail), "logged\n");
    assert_int_equal(f->pid, pid);
    assert_int_equal(f->number, 3);
    assert_int_equal(running(f), 1);
    runner_free(&f->runner); /* the end of its stdin ends it */
    assert_int_equal(kill((pid_t)pid, 0), -1);
    assert_int_equal(running(f), 0);
}

static void test_crash_fails_only_its_task(void **state)
{
    struct fixture *f = fresh(state, ANSWERS);
    int64_t before_ms;

    (void)run(f, "x");
    before_ms = clock_boot_ms();
    assert_int_equal(run(f, "do-crash"), ATTEMPT_FAILURE);
    assert_string_equal(f->why.s,
                        "the persistent command ended without an answer: exit code 7: last words");
    assert_int_equal(run(f, "x"), ATTEMPT_FAILURE);
    assert_int_equal(f->number, 1);
    assert_true(clock_boot_ms() - before_ms < 5000);
}

static void test_answers_and_leaves(void **state)
{
    struct fixture *f = fresh(state, ANSWERS);
    long pid;

    assert_int_equal(run(f, "do-last"), ATTEMPT_FAILURE);
    pid = f->pid;
    assert_int_equal(f->number, 1);
    assert_int_equal(run(f, "do-late"), ATTEMPT_FAILURE); /* ends between two tasks */
    assert_int_not_equal(f->pid, pid);
    wait_for_none(f);
    assert_int_equal(run(f, "x"), ATTEMPT_FAILURE);
    assert_int_equal(f->number, 1);
}

static void test_broken_protocol(void **state)
{
    static const struct {
        const char *what, *part;
    } rows[] = {{"do-junk", "is no answer (stdout is for answers, stderr for everything else): "
                            "\"Hello\""},
                {"do-other", "answered another task"},
                {"do-long", "a line of more than 65536 bytes to stdout: \"yyy"},
                {"do-close", "closed its stdout without an answer"}};

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct fixture *f = fresh(state, ANSWERS);

        (void)run(f, "x");
        assert_int_equal(run(f, rows[i].what), ATTEMPT_FAILURE);
        if (strstr(f->why.s, rows[i].part) == NULL)
            fail_msg("%s: %s", rows[i].what, f->why.s);
        assert_int_equal(running(f), 0);
        (void)run(f, "x");
        assert_int_equal(f->number, 1);
    }
}

/* The task has its answer; the process is not trusted with another one. */
static void test_more_than_an_answer(void **state)
{
    struct fixture *f = fresh(state, ANSWERS);

    assert_int_equal(run(f, "do-twice"), ATTEMPT_COMPLETE);
    (void)run(f, "x");
    assert_int_equal(f->number, 1);
}

static void test_deadline(void **state)
{
    struct fixture *f = fresh(state, ANSWERS);
    int64_t before_ms = clock_boot_ms();

    (void)run(f, "x");
    f->deadline_s = 1;
    assert_int_equal(run(f, "do-hang"), ATTEMPT_DEADLINE);
    assert_true(clock_boot_ms() - before_ms >= 1000);
    assert_string_equal(f->why.s, "killed: the processing deadline passed");
    assert_int_equal(running(f), 0);
    f->deadline_s = 30;
    (void)run(f, "x");
    assert_int_equal(f->number, 1);
}

static void test_soft_signal(void **state)
{
    struct fixture *f = fresh(state, "trap 'answer retry' TERM; " ANSWERS);
    long pid;

    f->command->terminate_before_s = 29;
    assert_int_equal(run(f, "do-hang"), ATTEMPT_RETRY); /* answered by the handler */
    pid = f->pid;
    assert_true(pid > 1);
    f = fresh(state, ANSWERS); /* without one the signal ends it */
    f->command->terminate_before_s = 29;
    assert_int_equal(run(f, "do-hang"), ATTEMPT_DEADLINE);
}

static void test_dies_at_start(void **state)
{
    struct fixture *f = fresh(state, "echo no licence >&2; exit 1");
    int64_t before_ms = clock_boot_ms();

    for (int i = 0; i < 3; i++) {
        assert_int_equal(run(f, "x"), ATTEMPT_FAILURE);
        assert_non_null(strstr(f->why.s, "no licence"));
    }
    assert_true(clock_boot_ms() - before_ms >= 100 + 200); /* pauses before the 2nd and the 3rd */
    f->deadline_s = 1;
    for (int i = 0; i < 2; i++) /* 400, 800 */
        assert_int_equal(run(f, "x"), ATTEMPT_FAILURE);
    assert_int_equal(run(f, "x"), ATTEMPT_DEADLINE); /* 1600 */
    assert_non_null(strstr(f->why.s, "keeps dying"));
}

static void test_ready(void **state)
{
    struct fixture *f = fresh(state, "echo '{\"ready\": true}'; " ANSWERS);

    f->command->wait_ready = true;
    assert_int_equal(run(f, "do-retry"), ATTEMPT_RETRY);
    assert_int_equal(run(f, "do-retry"), ATTEMPT_RETRY);
    assert_int_equal(f->number, 2);
    f = fresh(state, "echo hello; " ANSWERS);
    f->command->wait_ready = true;
    assert_int_equal(run(f, "do-retry"), ATTEMPT_FAILURE);
    assert_string_equal(f->why.s, "its first line should be {\"ready\": true}: \"hello\"");
    f = fresh(state, "sleep 60");
    f->command->wait_ready = true;
    f->command->start_time_s = 1;
    assert_int_equal(run(f, "do-retry"), ATTEMPT_FAILURE);
    assert_string_equal(f->why.s, "it did not write {\"ready\": true} within 1 s");
    assert_int_equal(running(f), 0);
}

static void test_recycling(void **state)
{
    struct fixture *f = fresh(state, ANSWERS);
    long pid[5];

    f->command->max_tasks = 2;
    for (int i = 0; i < 5; i++) {
        (void)run(f, "x");
        pid[i] = f->pid;
        assert_int_equal(f->number, i % 2 + 1);
    }
    assert_int_equal(pid[0], pid[1]);
    assert_int_not_equal(pid[1], pid[2]);
    assert_int_equal(pid[2], pid[3]);
    assert_int_not_equal(pid[3], pid[4]);
}

/* One that does not leave when its stdin ends is killed after 2 s, with what it has started. */
static void test_stubborn_end(void **state)
{
    struct fixture *f =
        fresh(state, "read -r line; id=${line#*:\\\"}; id=${id%%\\\"*}; echo "
                     "\"{\\\"id\\\":\\\"$id\\\",\\\"status\\\":\\\"complete\\\"}\"; "
                     "sleep 60; sleep 60");
    int64_t before_ms;

    assert_int_equal(run(f, "x"), ATTEMPT_COMPLETE);
    before_ms = clock_boot_ms();
    runner_free(&f->runner);
    assert_true(clock_boot_ms() - before_ms >= 2000);
    assert_int_equal(running(f), 0);
}

/* Nor may it take the time of the task that waits for its successor. */
static void test_stubborn_predecessor(void **state)
{
    struct fixture *f = fresh(state, ANSWERS "; sleep 60");

    f->command->max_tasks = 1;
    f->deadline_s = 1;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(run(f, "x"), ATTEMPT_FAILURE);
        assert_int_equal(f->number, 1);
    }
}

static void test_large_parameters(void **state)
{
    struct fixture *f = fresh(state, ANSWERS);
    struct buf text = {0};

    for (size_t i = 0; i < 300000; i++)
        buf_append_byte(&text, 'x');
    assert_int_equal(run(f, buf_cstr(&text)), ATTEMPT_FAILURE);
    assert_int_equal(f->number, 1);
    buf_free(&text);
}

/* The oldest makes room. */
static void test_many_commands(void **state)
{
    struct fixture *f = fresh(state, ANSWERS);
    struct command *all[PROCESS_GROUPS_MAX + 2], *first = f->command;

    for (size_t i = 0; i < PROCESS_GROUPS_MAX + 2; i++) {
        char name[16];

        all[i] = command_new("/tmp");
        all[i]->mode = COMMAND_PERSISTENT;
        command_add_word(all[i], "sh");
        command_add_word(all[i], "-c");
        command_add_word(all[i], ANSWERS);
        snprintf(name, sizeof name, "%zu", i);
        command_add_word(all[i], name);
        assert_int_equal(command_finish(all[i], &f->why), 0);
        f->command = all[i];
        assert_int_equal(run(f, "x"), ATTEMPT_FAILURE);
        assert_int_equal(f->number, 1);
    }
    assert_int_equal(running(f), PROCESS_GROUPS_MAX - 1);
    (void)run(f, "x");
    assert_int_equal(f->number, 2); /* the newest lives */
    f->command = all[0];
    (void)run(f, "x");
    assert_int_equal(f->number, 1); /* the oldest had to go */
    runner_free(&f->runner);
    for (size_t i = 0; i < PROCESS_GROUPS_MAX + 2; i++)
        command_free(all[i]);
    f->command = first;
}

static void test_talks_between_tasks(void **state)
{
    struct fixture *f = fresh(state, "(sleep 0.1; echo late) & " ANSWERS);

    (void)run(f, "x");
    assert_int_equal(f->number, 1);
    wait_for_none(f);
    (void)run(f, "x");
    assert_int_equal(f->number, 1);
}

static int set_up(void **state)
{
    static struct fixture f;

    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(log_init(LOG_TEXT, "off", NULL), 0);
    *state = &f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    runner_free(&f->runner);
    if (f->command != NULL)
        command_free(f->command);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_process_for_many),
        cmocka_unit_test(test_crash_fails_only_its_task),
        cmocka_unit_test(test_answers_and_leaves),
        cmocka_unit_test(test_broken_protocol),
        cmocka_unit_test(test_more_than_an_answer),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_soft_signal),
        cmocka_unit_test(test_dies_at_start),
        cmocka_unit_test(test_ready),
        cmocka_unit_test(test_recycling),
        cmocka_unit_test(test_stubborn_end),
        cmocka_unit_test(test_stubborn_predecessor),
        cmocka_unit_test(test_large_parameters),
        cmocka_unit_test(test_many_commands),
        cmocka_unit_test(test_talks_between_tasks),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
