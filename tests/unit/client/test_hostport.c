/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "client/hostport.h"

static void test_good(void **state)
{
    static const struct {
        const char *text, *host;
        uint16_t port;
    } rows[] = {{"localhost:50051", "localhost", 50051},
                {"1.2.3.4:1", "1.2.3.4", 1},
                {"[::1]:65535", "::1", 65535}};
    char host[HOSTPORT_HOST_MAX];
    uint16_t port;

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(hostport_parse(rows[i].text, host, &port), 0);
        assert_string_equal(host, rows[i].host);
        assert_int_equal(port, rows[i].port);
    }
}

static void test_bad(void **state)
{
    static const char *const rows[] = {"",        ":",    "a",    "a:",    ":1",     "a:0",
                                       "a:65536", "a:1x", "a:-1", "::1:5", "[::1]5", "[]:1",
                                       "[::1:5",  "a b:", "[:1",  "a: 1"};
    char host[HOSTPORT_HOST_MAX], text[400];
    uint16_t port;

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal(hostport_parse(rows[i], host, &port), ERR_INVALID);
    memset(text, 'a', sizeof text);
    memcpy(text + 300, ":1", 3);
    assert_int_equal(hostport_parse(text, host, &port), ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_good), cmocka_unit_test(test_bad)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
