/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"

/* Sanitizers would end the process by their own message where malloc returns NULL. */
const char *__asan_default_options(void);
const char *__tsan_default_options(void);

const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}

const char *__tsan_default_options(void)
{
    return "allocator_may_return_null=1";
}

/* Runs `fn` in a child; expects it to abort after saying that memory is out. */
static void assert_aborts(void (*fn)(void))
{
    int fds[2], status;
    char said[4096];
    size_t len = 0;
    ssize_t n;

    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        signal(SIGABRT, SIG_DFL); /* cmocka catches it */
        dup2(fds[1], STDERR_FILENO);
        fn();
        _exit(0);
    }
    close(fds[1]);
    while (len < sizeof(said) - 1 && (n = read(fds[0], said + len, sizeof(said) - 1 - len)) > 0)
        len += (size_t)n;
    said[len] = '\0';
    close(fds[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    assert_non_null(strstr(said, "taskmill: out of memory: cannot allocate "));
}

static void *volatile sink; /* keeps allocations that nobody reads */

static void alloc_everything(void)
{
    sink = mem_alloc(SIZE_MAX / 2);
}

static void calloc_overflow(void)
{
    sink = mem_calloc(SIZE_MAX / 2, 3);
}

static void realloc_everything(void)
{
    sink = mem_realloc(mem_alloc(1), SIZE_MAX / 2);
}

static void strndup_everything(void)
{
    sink = mem_strndup("", SIZE_MAX);
}

static void test_out_of_memory_aborts_with_a_line(void **state)
{
    (void)state;
    assert_aborts(alloc_everything);
    assert_aborts(calloc_overflow);
    assert_aborts(realloc_everything);
    assert_aborts(strndup_everything);
}

static void test_size_zero_is_a_real_pointer(void **state)
{
    (void)state;
    void *a = mem_alloc(0), *b = mem_zalloc(0), *c = mem_calloc(0, 8);
    assert_ptr_not_equal(a, b);
    assert_ptr_not_equal(b, c);
    a = mem_realloc(a, 0);
    assert_non_null(a);
    mem_free(a);
    mem_free(b);
    mem_free(c);
    mem_free(NULL);
}

static void test_zeroed_memory_is_zero(void **state)
{
    static const char zeros[400];

    (void)state;
    char *a = mem_zalloc(400), *b = mem_calloc(100, 4);
    assert_memory_equal(a, zeros, 400);
    assert_memory_equal(b, zeros, 400);
    mem_free(a);
    mem_free(b);
}

static void test_realloc_keeps_content(void **state)
{
    (void)state;
    char *s = mem_realloc(NULL, 4);
    memcpy(s, "abc", 4);
    s = mem_realloc(s, 1 << 20);
    assert_string_equal(s, "abc");
    mem_free(s);
}

static void test_string_copies(void **state)
{
    (void)state;
    char *a = mem_strdup("hello"), *b = mem_strndup("a\0bc", 3), *c = mem_strndup(NULL, 0);
    assert_string_equal(a, "hello");
    assert_memory_equal(b, "a\0b", 4);
    assert_string_equal(c, "");
    mem_free(a);
    mem_free(b);
    mem_free(c);
}

struct outer {
    char before[3];
    int64_t member;
};

static void test_container_of(void **state)
{
    struct outer outer;

    (void)state;
    assert_ptr_equal(container_of(&outer.member, struct outer, member), &outer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_out_of_memory_aborts_with_a_line),
        cmocka_unit_test(test_size_zero_is_a_real_pointer),
        cmocka_unit_test(test_zeroed_memory_is_zero),
        cmocka_unit_test(test_realloc_keeps_content),
        cmocka_unit_test(test_string_copies),
        cmocka_unit_test(test_container_of),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
