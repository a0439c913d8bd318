/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/ids.h"

static void test_random(void **state)
{
    char a[TASKMILL_ID_SIZE], b[TASKMILL_ID_SIZE];

    (void)state;
    assert_int_equal(ids_choose(a, NULL), 0);
    assert_int_equal(ids_choose(b, NULL), 0);
    assert_int_equal(strlen(a), 32);
    assert_int_equal(strspn(a, "0123456789abcdef"), 32);
    assert_string_not_equal(a, b);
    assert_int_equal(a[12], '4');          /* the version of a random UUID */
    assert_int_equal(ids_choose(b, a), 0); /* and good to be sent again */
    assert_string_equal(a, b);
}

/* --- never twice ------------------------------------------------------------------------------ */

#define ROUND 100 /* more than are fetched at once */

static int compare(const void *a, const void *b)
{
    return memcmp(a, b, TASKMILL_ID_SIZE);
}

static void assert_distinct(char (*ids)[TASKMILL_ID_SIZE], size_t count)
{
    qsort(ids, count, sizeof *ids, compare);
    for (size_t i = 1; i < count; i++)
        assert_string_not_equal(ids[i - 1], ids[i]);
}

static void make(char (*ids)[TASKMILL_ID_SIZE], size_t count)
{
    for (size_t i = 0; i < count; i++)
        assert_int_equal(ids_choose(ids[i], NULL), 0);
}

static void make_in_child(char (*ids)[TASKMILL_ID_SIZE], pid_t (*fork_as)(void), int depth)
{
    int status;
    pid_t pid = fork_as();

    assert_true(pid >= 0);
    if (pid == 0) {
        make(ids, ROUND);
        if (depth > 1)
            make_in_child(ids + ROUND, fork_as, depth - 1);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* Without libc, and so without the handlers of pthread_atfork. */
static pid_t raw_fork(void)
{
    return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

/* Each child of a parent that has some left, and their children, make their own. */
static void test_children(void **state)
{
    pid_t (*const forks[])(void) = {fork, raw_fork};
    enum { CHILDREN = 4, DEPTH = 3, ALL = ROUND * (2 + 2 * CHILDREN * DEPTH) };
    size_t bytes = sizeof(char[ALL][TASKMILL_ID_SIZE]), count = 0;
    char(*ids)[TASKMILL_ID_SIZE] =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    (void)state;
    assert_true(ids != MAP_FAILED);
    make(ids, ROUND);
    count += ROUND;
    for (size_t f = 0; f < 2; f++)
        for (int i = 0; i < CHILDREN; i++, count += (size_t)ROUND * DEPTH)
            make_in_child(ids + count, forks[f], DEPTH);
    make(ids + count, ROUND);
    count += ROUND;
    assert_int_equal(count, ALL);
    assert_distinct(ids, count);
    munmap(ids, bytes);
}

static void *make_some(void *arg)
{
    make(arg, ROUND);
    return NULL;
}

static void test_threads(void **state)
{
    enum { THREADS = 8 };
    static char ids[THREADS * ROUND][TASKMILL_ID_SIZE];
    pthread_t threads[THREADS];

    (void)state;
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, make_some, ids + i * ROUND), 0);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_distinct(ids, (size_t)THREADS * ROUND);
}

static void test_given(void **state)
{
    static const char *const good[] = {"0123456789abcdef0123456789abcdef",
                                       "01234567-89ab-cdef-0123-456789abcdef"};
    char id[TASKMILL_ID_SIZE];

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_int_equal(ids_choose(id, good[i]), 0);
        assert_string_equal(id, good[i]);
    }
}

static void test_refused(void **state)
{
    static const char *const bad[] = {"",
                                      "0123456789abcdef0123456789abcde",
                                      "0123456789abcdef0123456789abcdef0",
                                      "0123456789ABCDEF0123456789ABCDEF",
                                      "0123456789abcdef0123456789abcdeg",
                                      "01234567-89ab-cdef-0123-456789abcde",
                                      "0123456-789ab-cdef-0123-456789abcdef",
                                      "01234567-89ab-cdef-0123-456789abcdef0",
                                      "01234567-89ab-cdef-0123_456789abcdef",
                                      "-0123456789abcdef0123456789abcde"};
    char id[TASKMILL_ID_SIZE];

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(ids_choose(id, bad[i]), TASKMILL_ERR_INVALID);
        assert_non_null(strstr(taskmill_last_error(), "send_id '"));
        assert_non_null(strstr(taskmill_last_error(), "32 lower-case"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random),
                                       cmocka_unit_test(test_children),
                                       cmocka_unit_test(test_threads), cmocka_unit_test(test_given),
                                       cmocka_unit_test(test_refused)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
