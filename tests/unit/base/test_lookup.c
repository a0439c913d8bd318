/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/wait.h>

#include "base/lookup.h"

static void assert_loopback(const struct lookup_answer *answer)
{
    struct sockaddr_in v4;

    assert_int_equal(answer->count, 1);
    assert_int_equal(answer->addresses[0].len, sizeof v4);
    memcpy(&v4, &answer->addresses[0].address, sizeof v4);
    assert_int_equal(v4.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
    assert_int_equal(v4.sin_port, htons(8125));
}

static void addresses_need_nobody(void **state)
{
    struct lookup_answer answer;

    (void)state;
    assert_true(lookup_numeric("127.0.0.1", "8125", SOCK_DGRAM, &answer));
    assert_loopback(&answer);
    assert_true(lookup_numeric("::1", "8125", SOCK_STREAM, &answer));
    assert_false(lookup_numeric("localhost", "8125", SOCK_DGRAM, &answer));
    assert_int_equal(answer.count, 0);
    assert_true(answer.why[0] != '\0');
}

static void another_process_asks(void **state)
{
    struct lookup_answer answer;
    struct lookup *lookup;
    struct err_text why;

    (void)state;
    assert_int_equal(lookup_start(&lookup, "127.0.0.1", "8125", SOCK_DGRAM, &why), 0);
    struct pollfd fd = {.fd = lookup_fd(lookup), .events = POLLIN};
    assert_int_equal(poll(&fd, 1, 30000), 1);
    lookup_end(lookup, &answer);
    assert_loopback(&answer);

    assert_int_equal(lookup_start(&lookup, "no-such-host.invalid", "8125", SOCK_DGRAM, &why), 0);
    fd.fd = lookup_fd(lookup);
    assert_int_equal(poll(&fd, 1, 60000), 1);
    lookup_end(lookup, &answer);
    assert_int_equal(answer.count, 0);
    assert_true(answer.why[0] != '\0');
}

static void one_that_is_not_wanted_any_more_leaves_no_process(void **state)
{
    struct lookup_answer answer;
    struct lookup *lookup;
    struct err_text why;

    (void)state;
    assert_int_equal(lookup_start(&lookup, "no-such-host.invalid", "1", SOCK_DGRAM, &why), 0);
    lookup_end(lookup, &answer);
    assert_int_equal(answer.count, 0);
    assert_true(answer.why[0] != '\0');
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child at all */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_need_nobody),
        cmocka_unit_test(another_process_asks),
        cmocka_unit_test(one_that_is_not_wanted_any_more_leaves_no_process),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
