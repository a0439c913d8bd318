/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "worker/hosts.h"

static void assert_list(const struct host_list *list, size_t count, const char *const *expected)
{
    assert_int_equal(list->count, count);
    for (size_t i = 0; i < count; i++)
        assert_string_equal(list->items[i], expected[i]);
}

static void test_list(void **state)
{
    struct host_list list;
    struct err_text why;

    (void)state;
    assert_int_equal(hosts_from_list(" a:1 ,,b:2,", &list, &why), 0);
    assert_list(&list, 2, (const char *[]){"a:1", "b:2"});
    hosts_free(&list);
    assert_int_equal(hosts_from_list("", &list, &why), ERR_INVALID);
    assert_int_equal(hosts_from_list(" , ", &list, &why), ERR_INVALID);
    assert_int_equal(hosts_from_list("a:1,b", &list, &why), ERR_INVALID);
    assert_non_null(strstr(why.s, "'b'"));
}

static void test_client_weakness_24_numbered(void **state)
{
    struct host_list list;
    struct err_text why;

    (void)state;
    assert_int_equal(hosts_numbered("tb:50051", 3, &list, &why), 0);
    assert_list(&list, 3, (const char *[]){"tb-0:50051", "tb-1:50051", "tb-2:50051"});
    hosts_free(&list);
    assert_int_equal(hosts_numbered("tb.ns.svc:1", 2, &list, &why), 0);
    assert_list(&list, 2, (const char *[]){"tb-0.ns.svc:1", "tb-1.ns.svc:1"});
    hosts_free(&list);
    assert_int_equal(hosts_numbered("10.0.0.1:1", 2, &list, &why), ERR_INVALID);
    assert_int_equal(hosts_numbered("[::1]:1", 2, &list, &why), ERR_INVALID);
    assert_int_equal(hosts_numbered("tb", 2, &list, &why), ERR_INVALID);
    assert_int_equal(hosts_numbered("tb:1", HOSTS_MAX + 1, &list, &why), ERR_TOO_LARGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_list),
                                       cmocka_unit_test(test_client_weakness_24_numbered)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
