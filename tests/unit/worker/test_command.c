/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "client/params_build.h"
#include "worker/command.h"

static struct buf payload;

static void open_call(struct taskmill_call *call, const char *id)
{
    struct activation_header headers[] = {{bytes_str("k"), bytes_str("v \" w")}};
    struct taskmill_params *p =
        taskmill_params_from_json("{\"args\":[1,\"x\"],\"kwargs\":{\"k\":{\"$bytes\":\"AA==\"}}}");
    struct buf packed = {0};
    struct err_text why;

    buf_clear(&payload);
    assert_int_equal(params_pack(p, &packed), 0);
    taskmill_params_free(p);
    activation_encode(&(struct activation){.id = bytes_str(id),
                                           .namespace = bytes_str("ns"),
                                           .taskname = bytes_str("task"),
                                           .has_application = true,
                                           .application = bytes_str("app"),
                                           .parameters_bytes = buf_bytes(&packed),
                                           .retry_state = {.present = true, .attempts = 2}},
                      headers, 1, &payload);
    buf_free(&packed);
    assert_int_equal(call_open(call, NULL, NULL, buf_bytes(&payload), &why), 0);
}

static enum attempt_end run_words(const char *const *words, const char *folder, struct buf *tail,
                                  struct err_text *why)
{
    struct command *command = command_new(folder);
    struct taskmill_call call;
    enum attempt_end end;

    for (; *words != NULL; words++)
        command_add_word(command, *words);
    open_call(&call, "the-id");
    why->s[0] = '\0';
    buf_clear(tail);
    end = command_run(command, &call, tail, why);
    call_close(&call);
    command_free(command);
    return end;
}

static enum attempt_end run_shell(const char *script, struct buf *tail, struct err_text *why)
{
    return run_words((const char *[]){"sh", "-c", script, NULL}, "/tmp", tail, why);
}

static void test_what_it_is_given(void **state)
{
    struct buf tail = {0};
    struct err_text why;

    (void)state;
    assert_int_equal(
        run_shell("cat >&2; echo >&2; pwd >&2; echo \"$TASKMILL_TASK_ID $TASKMILL_TASK_NAME "
                  "$TASKMILL_TASK_NAMESPACE $TASKMILL_TASK_APPLICATION $TASKMILL_TASK_ATTEMPT "
                  "$TASKMILL_TASK_HEADERS\" >&2",
                  &tail, &why),
        ATTEMPT_COMPLETE);
    assert_string_equal(buf_cstr(&tail),
                        "{\"args\":[1,\"x\"],\"kwargs\":{\"k\":{\"$bytes\":\"AA==\"}}}\n/tmp\n"
                        "the-id task ns app 2 {\"k\":\"v \\\" w\"}\n");
    buf_free(&tail);
}

static void test_exit_codes(void **state)
{
    struct buf tail = {0};
    struct err_text why;

    (void)state;
    assert_int_equal(run_shell("exit 75", &tail, &why), ATTEMPT_RETRY);
    assert_string_equal(why.s, "exit code 75");
    assert_int_equal(run_shell("echo first >&2; echo 'the reason' >&2; exit 3", &tail, &why),
                     ATTEMPT_FAILURE);
    assert_string_equal(why.s, "exit code 3: the reason");
    assert_int_equal(run_shell("kill -9 $$", &tail, &why), ATTEMPT_FAILURE);
    assert_non_null(strstr(why.s, "signal 9"));
    buf_free(&tail);
}

static void test_only_the_tail_is_kept(void **state)
{
    struct buf tail = {0};
    struct err_text why;

    (void)state;
    assert_int_equal(run_shell("yes x | head -c 300000 >&2; echo end >&2", &tail, &why),
                     ATTEMPT_COMPLETE);
    assert_int_equal(tail.len, COMMAND_STDERR_TAIL_MAX);
    assert_memory_equal(tail.ptr + tail.len - 4, "end\n", 4);
    buf_free(&tail);
}

/* It must not be waited for, though it keeps stderr open. */
static void test_background_process(void **state)
{
    struct buf tail = {0};
    struct err_text why;

    (void)state;
    /* Its pid is what the command says; stdout is the test's own and stays free. */
    assert_int_equal(run_shell("sleep 60 >/dev/null & echo $! >&2", &tail, &why), ATTEMPT_COMPLETE);
    long pid = strtol(buf_cstr(&tail), NULL, 10);
    assert_true(pid > 1);
    assert_int_equal(kill((pid_t)pid, SIGKILL), 0);
    buf_free(&tail);
}

static void test_cannot_start(void **state)
{
    struct buf tail = {0};
    struct err_text why;

    (void)state;
    assert_int_equal(run_words((const char *[]){"/nonexistent/x", NULL}, "/tmp", &tail, &why),
                     ATTEMPT_FAILURE);
    assert_non_null(strstr(why.s, "cannot run /nonexistent/x in /tmp: No such file"));
    assert_int_equal(run_words((const char *[]){"true", NULL}, "/nonexistent", &tail, &why),
                     ATTEMPT_FAILURE);
    buf_free(&tail);
}

static int tear_down(void **state)
{
    (void)state;
    buf_free(&payload);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_it_is_given), cmocka_unit_test(test_exit_codes),
        cmocka_unit_test(test_only_the_tail_is_kept), cmocka_unit_test(test_background_process),
        cmocka_unit_test(test_cannot_start)};

    return cmocka_run_group_tests(tests, NULL, tear_down);
}
