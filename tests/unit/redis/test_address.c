/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "redis/redis.h"

static struct redis_address parsed(const char *url)
{
    struct redis_address address;
    struct err_text why = {{0}};

    if (redis_address_parse(&address, url, &why) != 0)
        fail_msg("%s: %s", url, why.s);
    return address;
}

static void assert_printed(const char *url, const char *expected)
{
    struct redis_address address = parsed(url);
    struct buf text = {0};

    redis_address_print(&address, &text);
    assert_string_equal(buf_cstr(&text), expected);
    buf_free(&text);
    redis_address_free(&address);
}

static void test_forms(void **state)
{
    (void)state;
    assert_printed("redis://localhost", "localhost:6379/0");
    assert_printed("redis://10.0.0.1:7000/3", "10.0.0.1:7000/3");
    assert_printed("redis://h/", "h:6379/0");
    assert_printed("redis://[::1]:7000/1", "[::1]:7000/1");
    assert_printed("redis://[::1]", "[::1]:6379/0");
    assert_printed("redis://user:secret@h:1/2", "h:1/2");
    assert_printed("unix:///run/redis.sock", "/run/redis.sock/0");
    assert_printed("redis+unix:///run/my%20redis.sock?db=4", "/run/my redis.sock/4");
    assert_printed("unix://:secret@/run/redis.sock", "/run/redis.sock/0");
}

static void test_login(void **state)
{
    struct redis_address address = parsed("redis://me:a%40b%3a%2f@h:1");

    (void)state;
    assert_string_equal(address.user, "me");
    assert_string_equal(address.password, "a@b:/");
    redis_address_free(&address);

    address = parsed("redis://:p:q@h");
    assert_null(address.user);
    assert_string_equal(address.password, "p:q");
    redis_address_free(&address);

    address = parsed("redis://:p@ss@h"); /* the last @ counts: forgotten encoding is common */
    assert_string_equal(address.password, "p@ss");
    redis_address_free(&address);

    address = parsed("unix://u:p@/s?db=2");
    assert_string_equal(address.user, "u");
    assert_string_equal(address.path, "/s");
    assert_int_equal(address.db, 2);
    redis_address_free(&address);
}

static void test_wrong(void **state)
{
    static const char *const wrong[] = {"",
                                        "localhost:6379",
                                        "http://h",
                                        "redis://",
                                        "redis://:6379",
                                        "redis://h:0",
                                        "redis://h:65536",
                                        "redis://h:port",
                                        "redis://h:1/zero",
                                        "redis://h:1/-1",
                                        "redis://h:1/99999999999",
                                        "redis://user@h",
                                        "redis://u:%zz@h",
                                        "redis://u:%0@h",
                                        "redis://u:%00@h",
                                        "redis://[::1",
                                        "redis://[::1]x",
                                        "unix://",
                                        "unix://path",
                                        "unix:///s?base=1",
                                        "unix:///s?db=x",
                                        "rediss://h"};
    struct redis_address address;
    struct err_text why;

    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        if (redis_address_parse(&address, wrong[i], &why) != ERR_INVALID)
            fail_msg("'%s' was taken", wrong[i]);
        assert_null(address.host);
    }
    assert_int_equal(redis_address_parse(&address, "redis://u:hunter2@", &why), ERR_INVALID);
    assert_null(strstr(why.s, "hunter2"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forms), cmocka_unit_test(test_login),
                                       cmocka_unit_test(test_wrong)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
