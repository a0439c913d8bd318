/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "call_help.h"
#include "command/run.h"

#define PARAMS "{\"args\":[1,\"x\"],\"kwargs\":{\"k\":{\"$bytes\":\"AA==\"}}}"

struct fixture {
    struct process_groups groups;
    struct runner runner;
    struct command *command;
    const char *params;
    uint64_t deadline_s;
    struct err_text why;
};

static struct fixture *fresh(void **state)
{
    struct fixture *f = *state;

    if (f->command != NULL)
        command_free(f->command);
    f->command = command_new("/tmp");
    f->params = PARAMS;
    f->deadline_s = 30;
    return f;
}

static enum attempt_end run(struct fixture *f)
{
    struct call_help help;
    enum attempt_end end;

    f->why.s[0] = '\0';
    assert_int_equal(command_finish(f->command, &f->why), 0);
    call_help_open(&help, "the-id", f->params, 2, 4, f->deadline_s);
    end = runner_run(&f->runner, f->command, &help.call, &f->why);
    call_help_close(&help);
    for (size_t i = 0; i < PROCESS_GROUPS_MAX; i++)
        assert_int_equal(f->groups.leaders[i], 0);
    return end;
}

static void words(struct fixture *f, const char *const *all)
{
    for (; *all != NULL; all++)
        command_add_word(f->command, *all);
}

static enum attempt_end run_script(struct fixture *f, const char *script)
{
    words(f, (const char *[]){"sh", "-c", script, NULL});
    return run(f);
}

static const char *said(struct fixture *f)
{
    return buf_cstr(&f->runner.err.tail);
}

static void test_what_it_is_given(void **state)
{
    struct fixture *f = fresh(state);

    assert_int_equal(
        run_script(f, "cat >&2; echo >&2; pwd >&2; echo \"$TASKMILL_TASK_ID $TASKMILL_TASK_NAME "
                      "$TASKMILL_TASK_NAMESPACE $TASKMILL_TASK_APPLICATION $TASKMILL_TASK_ATTEMPT "
                      "$TASKMILL_TASK_RETRIES_LEFT $TASKMILL_TASK_HEADERS\" >&2; "
                      "env | grep -c ^TASKMILL_TASK_ARG >&2; echo to stdout"),
        ATTEMPT_COMPLETE);
    assert_string_equal(said(f), PARAMS "\n/tmp\nthe-id task ns app 2 1 {\"k\":\"v \\\" w\"}\n0\n");
    assert_string_equal(buf_cstr(&f->runner.out.tail), "to stdout\n");
}

static void test_msgpack_and_nothing(void **state)
{
    struct fixture *f = fresh(state);

    f->command->in = COMMAND_STDIN_MSGPACK;
    assert_int_equal(run_script(f, "od -An -tx1 | tr -d ' \\n' >&2"), ATTEMPT_COMPLETE);
    assert_string_equal(said(f), "82a4617267739201a178a66b776172677381a16bc40100");
    f = fresh(state);
    f->command->in = COMMAND_STDIN_NONE;
    assert_int_equal(run_script(f, "wc -c >&2"), ATTEMPT_COMPLETE);
    assert_string_equal(said(f), "0\n");
}

static void test_exit_codes(void **state)
{
    struct fixture *f = fresh(state);

    assert_int_equal(run_script(f, "exit 75"), ATTEMPT_RETRY);
    assert_string_equal(f->why.s, "exit code 75");
    f = fresh(state);
    assert_int_equal(run_script(f, "echo first >&2; echo 'the reason' >&2; echo; exit 3"),
                     ATTEMPT_FAILURE);
    assert_string_equal(f->why.s, "exit code 3: the reason");
    f = fresh(state);
    assert_int_equal(run_script(f, "echo only stdout; exit 4"), ATTEMPT_FAILURE);
    assert_string_equal(f->why.s, "exit code 4: only stdout");
    f = fresh(state);
    assert_int_equal(run_script(f, "kill -9 $$"), ATTEMPT_FAILURE);
    assert_string_equal(f->why.s, "the command was killed by signal 9 (Killed)");
}

static void test_exit_codes_of_ones_own(void **state)
{
    static const struct {
        const char *script;
        enum attempt_end end;
    } rows[] = {{"exit 0", ATTEMPT_COMPLETE},  {"exit 75", ATTEMPT_RETRY},
                {"exit 3", ATTEMPT_FAILURE},   {"exit 9", ATTEMPT_RETRY},
                {"exit 12", ATTEMPT_COMPLETE}, {"kill -9 $$", ATTEMPT_FAILURE}};

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct fixture *f = fresh(state);

        command_set_exit_code(f->command, 3, ATTEMPT_FAILURE);
        command_set_exit_code(f->command, 12, ATTEMPT_COMPLETE);
        command_set_exit_code(f->command, -1, ATTEMPT_RETRY);
        assert_int_equal(run_script(f, rows[i].script), rows[i].end);
    }
}

static void test_output_beyond_the_limit(void **state)
{
    struct fixture *f = fresh(state);

    f->command->output_limit = 1000;
    assert_int_equal(run_script(f, "yes x | head -c 3000000 >&2; echo end >&2; exit 1"),
                     ATTEMPT_FAILURE);
    assert_int_equal(f->runner.err.dropped, 3000004 - 1000);
    assert_string_equal(f->why.s, "exit code 1: end");
    f = fresh(state);
    f->command->out = f->command->err = COMMAND_OUTPUT_DISCARD;
    assert_int_equal(run_script(f, "echo x; echo y >&2; exit 1"), ATTEMPT_FAILURE);
    assert_string_equal(f->why.s, "exit code 1");
}

/* It must not be waited for, though it keeps stderr open. */
static void test_background_process(void **state)
{
    struct fixture *f = fresh(state);
    long pid;

    assert_int_equal(run_script(f, "sleep 60 & echo $! >&2"), ATTEMPT_COMPLETE);
    pid = strtol(said(f), NULL, 10);
    assert_true(pid > 1);
    assert_int_equal(kill((pid_t)pid, SIGKILL), 0);
}

static void test_cannot_start(void **state)
{
    struct fixture *f = fresh(state);

    words(f, (const char *[]){"/nonexistent/x", NULL});
    assert_int_equal(run(f), ATTEMPT_FAILURE);
    assert_string_equal(f->why.s, "cannot run /nonexistent/x in /tmp: No such file or directory");
    f = fresh(state);
    words(f, (const char *[]){"nothing-of-this-name", NULL});
    assert_int_equal(run(f), ATTEMPT_FAILURE);
    assert_non_null(strstr(f->why.s, "No such file"));
    f = fresh(state);
    words(f, (const char *[]){"/dev/null", NULL});
    assert_int_equal(run(f), ATTEMPT_FAILURE);
    assert_non_null(strstr(f->why.s, "Permission denied"));
    f = fresh(state);
    command_set_folder(f->command, "/", "nonexistent");
    assert_int_equal(run_script(f, "true"), ATTEMPT_FAILURE);
    assert_non_null(strstr(f->why.s, "entering its folder: No such file"));
}

/* The deadline of the task is its own process' group's; what it has started dies, too. */
static void test_deadline(void **state)
{
    struct fixture *f = fresh(state);
    int64_t before_ms = clock_boot_ms();
    long pid;

    f->deadline_s = 1;
    assert_int_equal(run_script(f, "trap '' TERM; sleep 60 & echo $! >&2; wait; sleep 60"),
                     ATTEMPT_DEADLINE);
    assert_true(clock_boot_ms() - before_ms >= 1000);
    assert_string_equal(f->why.s, "killed: the processing deadline passed");
    pid = strtol(said(f), NULL, 10);
    assert_true(pid > 1);
    while (kill((pid_t)pid, 0) == 0) { /* until its new parent has collected it */
        char path[64], line[64] = "";
        FILE *file;

        snprintf(path, sizeof path, "/proc/%ld/stat", pid);
        file = fopen(path, "r");
        if (file == NULL)
            break;
        assert_non_null(fgets(line, sizeof line, file));
        (void)fclose(file);
        if (strchr(line, 'Z') != NULL)
            break;
    }
}

static void test_soft_signal_before_the_deadline(void **state)
{
    struct fixture *f = fresh(state);
    int64_t before_ms = clock_boot_ms();

    f->command->terminate_before_s = 29;
    assert_int_equal(run_script(f, "trap 'echo saved >&2; exit 75' TERM; sleep 60 & wait"),
                     ATTEMPT_RETRY);
    assert_true(clock_boot_ms() - before_ms >= 1000);
    assert_string_equal(f->why.s, "exit code 75: saved");
    f = fresh(state);
    f->command->terminate_before_s = 29;
    assert_int_equal(run_script(f, "sleep 60"), ATTEMPT_DEADLINE);
    f = fresh(state);
    f->command->terminate_before_s = 60; /* longer than the deadline: at once */
    assert_int_equal(run_script(f, "sleep 60"), ATTEMPT_DEADLINE);
}

static void test_shell_arguments(void **state)
{
    struct fixture *f = fresh(state);

    f->params = "{\"args\":[\"a b; $(id) \\\"\",2,true,null,[1,{\"x\":1}]],"
                "\"kwargs\":{\"width\":1.5,\"no name\":1,\"B_2\":\"\"}}";
    f->command->shell = true;
    words(f, (const char *[]){
                 "/bin/sh", "-c",
                 "printf '%s|' \"$TASKMILL_TASK_ARGS\" \"$TASKMILL_TASK_ARG_0\" "
                 "\"$TASKMILL_TASK_ARG_1\" \"$TASKMILL_TASK_ARG_2\" \"$TASKMILL_TASK_ARG_3\" "
                 "\"$TASKMILL_TASK_ARG_4\" \"$TASKMILL_TASK_KWARG_width\" "
                 "\"${TASKMILL_TASK_KWARG_B_2-unset}\" >&2; env | grep -c KWARG >&2",
                 NULL});
    assert_int_equal(run(f), ATTEMPT_COMPLETE);
    assert_string_equal(said(f), "5|a b; $(id) \"|2|true|null|[1,{\"x\":1}]|1.5||2\n");
    f->params = "{\"args\":[\"a\\u0000b\"],\"kwargs\":{}}";
    assert_int_equal(run(f), ATTEMPT_FAILURE);
    assert_non_null(strstr(f->why.s, "ARG_0 holds a NUL"));
}

static void test_argument_too_large_for_a_shell(void **state)
{
    struct fixture *f = fresh(state);
    struct buf json = {0};

    buf_append_str(&json, "{\"args\":[\"");
    for (size_t i = 0; i < 110000; i++)
        buf_append_byte(&json, 'x');
    buf_append_str(&json, "\"],\"kwargs\":{}}");
    f->params = buf_cstr(&json);
    f->command->shell = true;
    words(f, (const char *[]){"/bin/sh", "-c", "true", NULL});
    assert_int_equal(run(f), ATTEMPT_FAILURE);
    assert_non_null(strstr(f->why.s, "read it from stdin"));
    f = fresh(state); /* through stdin there is no limit */
    f->params = buf_cstr(&json);
    assert_int_equal(run_script(f, "wc -c >&2"), ATTEMPT_COMPLETE);
    assert_string_equal(said(f), "110025\n");
    buf_free(&json);
}

static void test_environment(void **state)
{
    struct fixture *f = fresh(state);

    setenv("FROM_WORKER", "1", 1);
    assert_int_equal(command_set_env(f->command, "OWN", "a=b", &f->why), 0);
    assert_int_equal(run_script(f, "echo \"$FROM_WORKER $OWN\" >&2"), ATTEMPT_COMPLETE);
    assert_string_equal(said(f), "1 a=b\n");
    f = fresh(state);
    f->command->clear_environment = true;
    assert_int_equal(command_set_env(f->command, "OWN", "x", &f->why), 0);
    assert_int_equal(run_script(f, "env | grep -v -e TASKMILL_TASK_ -e ^_= -e ^PWD= -e ^OLDPWD "
                                   "-e ^SHLVL= | sort >&2"),
                     ATTEMPT_COMPLETE);
    assert_string_equal(said(f), "OWN=x\nPATH=" COMMAND_PATH_DEFAULT "\n");
    f = fresh(state); /* the program is looked up in its own PATH */
    assert_int_equal(command_set_env(f->command, "PATH", "/nonexistent", &f->why), 0);
    assert_int_equal(run_script(f, "true"), ATTEMPT_FAILURE);
}

static void test_limits(void **state)
{
    struct fixture *f = fresh(state);

    command_set_limit(f->command, COMMAND_LIMIT_MEMORY, 64 << 20, &f->why);
    command_set_limit(f->command, COMMAND_LIMIT_CPU, 7, &f->why);
    command_set_limit(f->command, COMMAND_LIMIT_OPEN_FILES, 20, &f->why);
    command_set_limit(f->command, COMMAND_LIMIT_FILE_SIZE, 1 << 20, &f->why);
    command_set_limit(f->command, COMMAND_LIMIT_CORE, 0, &f->why);
    assert_int_equal(run_script(f, "ulimit -d >&2; ulimit -t >&2; ulimit -n >&2; ulimit -f >&2; "
                                   "ulimit -c >&2; ulimit -Hd >&2; ulimit -Ht >&2"),
                     ATTEMPT_COMPLETE);
    assert_string_equal(said(f), "65536\n7\n20\n2048\n0\n65536\n8\n");
    f = fresh(state);
    command_set_limit(f->command, COMMAND_LIMIT_CPU, 1, &f->why);
    assert_int_equal(run_script(f, "while :; do :; done"), ATTEMPT_FAILURE);
    assert_non_null(strstr(f->why.s, "CPU time limit exceeded"));
}

static void test_memory_limit(void **state)
{
    struct fixture *f = fresh(state);

    command_set_limit(f->command, COMMAND_LIMIT_MEMORY, 64 << 20, &f->why);
    words(f, (const char *[]){"python3", "-c", "bytearray(200 << 20)", NULL});
    assert_int_equal(run(f), ATTEMPT_FAILURE);
    assert_string_equal(f->why.s, "exit code 1: MemoryError");
}

static void test_user(void **state)
{
    struct fixture *f = fresh(state);

    if (geteuid() != 0) {
        assert_int_equal(command_set_user(f->command, "nobody", &f->why), ERR_DENIED);
        assert_non_null(strstr(f->why.s, "started as root"));
        return;
    }
    assert_int_equal(command_set_user(f->command, "nobody", &f->why), 0);
    assert_int_equal(command_set_group(f->command, "daemon", &f->why), 0);
    assert_int_equal(command_clear_groups(f->command, &f->why), 0);
    assert_int_equal(command_add_group(f->command, "4242", &f->why), 0);
    assert_int_equal(run_script(f, "id -un >&2; id -gn >&2; id -G >&2; echo $USER $LOGNAME >&2; "
                                   "grep -c '^Groups:.4242 $' /proc/self/status >&2; "
                                   "kill -0 1 2>/dev/null || echo denied >&2"),
                     ATTEMPT_COMPLETE);
    assert_string_equal(said(f), "nobody\ndaemon\n1 4242\nnobody nobody\n1\ndenied\n");
    f = fresh(state); /* a number without an entry */
    assert_int_equal(command_set_user(f->command, "54321", &f->why), 0);
    assert_int_equal(run_script(f, "id -u >&2; id -G >&2"), ATTEMPT_COMPLETE);
    assert_string_equal(said(f), "54321\n54321\n");
}

/* The kernel forgets PR_SET_PDEATHSIG when the user changes: it must be set after that. */
static void test_dies_with_its_parent_though_it_changed_its_user(void **state)
{
    struct fixture *f = fresh(state);
    int ends[2], status;
    pid_t child;
    char byte;

    if (geteuid() != 0)
        skip();
    assert_int_equal(command_set_user(f->command, "nobody", &f->why), 0);
    f->command->err = COMMAND_OUTPUT_INHERIT;
    assert_int_equal(pipe(ends), 0);
    child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        (void)run_script(f, "echo x >&2; exec sleep 60");
        _exit(0);
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &byte, 1), 1); /* it runs */
    assert_int_equal(read(ends[0], &byte, 1), 1);
    kill(child, SIGKILL);
    assert_int_equal(read(ends[0], &byte, 1), 0); /* nobody holds its stderr any more */
    assert_int_equal(waitpid(child, &status, 0), child);
    close(ends[0]);
}

static void test_nothing_is_inherited(void **state)
{
    struct fixture *f = fresh(state);
    int open_one = dup(STDERR_FILENO); /* as careless as a library */

    assert_int_equal(run_script(f, "ls -l /proc/self/fd | wc -l >&2"), ATTEMPT_COMPLETE);
    assert_string_equal(said(f), "5\n"); /* a headline, 0, 1, 2 and that of ls */
    close(open_one);
}

static int set_up(void **state)
{
    static struct fixture f;

    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(log_init(LOG_TEXT, "off", NULL), 0); /* what commands say is looked at here */
    runner_init(&f.runner, &f.groups);
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
        cmocka_unit_test(test_what_it_is_given),
        cmocka_unit_test(test_msgpack_and_nothing),
        cmocka_unit_test(test_exit_codes),
        cmocka_unit_test(test_exit_codes_of_ones_own),
        cmocka_unit_test(test_output_beyond_the_limit),
        cmocka_unit_test(test_background_process),
        cmocka_unit_test(test_cannot_start),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_soft_signal_before_the_deadline),
        cmocka_unit_test(test_shell_arguments),
        cmocka_unit_test(test_argument_too_large_for_a_shell),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_memory_limit),
        cmocka_unit_test(test_user),
        cmocka_unit_test(test_dies_with_its_parent_though_it_changed_its_user),
        cmocka_unit_test(test_nothing_is_inherited),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
