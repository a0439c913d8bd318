/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

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
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random), cmocka_unit_test(test_given),
                                       cmocka_unit_test(test_refused)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
