/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "worker/memory.h"

#define SIZE ((size_t)64 << 20)

/* A process that has that much more than we, until it is killed. */
static pid_t start_large_process(void)
{
    int ready[2];
    char byte;
    pid_t pid;

    assert_int_equal(pipe(ready), 0);
    pid = fork();
    if (pid == 0) {
        volatile char *memory = malloc(SIZE);

        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (size_t i = 0; i < SIZE; i += 1024)
            memory[i] = 1;
        if (write(ready[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    return pid;
}

static void test_what_a_process_started_counts(void **state)
{
    uint64_t before = memory_resident(getpid()), with_child;
    pid_t pid;

    (void)state;
    assert_true(before > 0);
    pid = start_large_process();
    assert_true(memory_resident(pid) >= SIZE);
    with_child = memory_resident(getpid());
    (void)kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_true(memory_resident(getpid()) < with_child);
    /* Some kernels do not list children. */
    if (access("/proc/thread-self/children", F_OK) == 0)
        assert_true(with_child >= before + SIZE);
}

static void test_no_process(void **state)
{
    pid_t pid = fork();

    (void)state;
    if (pid == 0)
        _exit(0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(memory_resident(pid), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_a_process_started_counts),
        cmocka_unit_test(test_no_process),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
