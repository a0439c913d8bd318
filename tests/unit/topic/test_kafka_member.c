/* SPDX-License-Identifier: Apache-2.0 */
/* Subscriptions as members of real groups wrote them, and what nobody should have written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "topic/kafka_member.h"

/* librdkafka 2 in Kafka 3.9, subscribed to alpha and beta. */
#define CAPTURED    "\0\3\0\0\0\2\0\5alpha\0\4beta\0\0\0\0\0\0\0\0\xff\xff\xff\xff\0\0"
#define BYTES(text) bytes_of(text, sizeof(text) - 1)

static void expect(struct bytes metadata, const char *topic, bool expected)
{
    bool subscribes = !expected;
    assert_int_equal(kafka_member_subscribes(metadata, bytes_str(topic), &subscribes), 0);
    assert_int_equal(subscribes, expected);
}

static void a_captured_one(void **state)
{
    (void)state;
    expect(BYTES(CAPTURED), "alpha", true);
    expect(BYTES(CAPTURED), "beta", true);
    expect(BYTES(CAPTURED), "alph", false);
    expect(BYTES(CAPTURED), "alphabet", false);
    expect(BYTES(CAPTURED), "", false);
}

static void every_version(void **state)
{
    (void)state;
    /* 0: user data only; 1: with owned partitions; an unknown one, whose rest we do not know. */
    expect(BYTES("\0\0\0\0\0\1\0\1t\xff\xff\xff\xff"), "t", true);
    expect(BYTES("\0\1\0\0\0\1\0\1t\0\0\0\2uu\0\0\0\1\0\1t\0\0\0\1\0\0\0\7"), "t", true);
    expect(BYTES("\x7f\xff\0\0\0\1\0\1tanything"), "t", true);
    expect(BYTES("\0\0\0\0\0\0"), "t", false);
}

static void cut_off(void **state)
{
    (void)state;
    bool subscribes;
    size_t end_of_topics = 2 + 4 + 2 + 5 + 2 + 4;
    for (size_t len = 0; len < sizeof CAPTURED - 1; len++)
        assert_int_equal(
            kafka_member_subscribes(bytes_of(CAPTURED, len), bytes_str("beta"), &subscribes),
            len < end_of_topics ? ERR_MALFORMED : 0);
}

static void impossible(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t len;
    } bad[] = {
        {"", 0},
        {"\xff\xff\0\0\0\0", 6},             /* version -1: no subscription */
        {"\0\0\xff\xff\xff\xff", 6},         /* -1 topics */
        {"\0\0\0\0\0\1\xff\xff", 8},         /* a name of -1 bytes */
        {"\0\0\x7f\xff\xff\xff\0\1t", 9},    /* two thousand million topics, one is there */
        {"\0\0\0\0\0\2\0\1t\x7f\xfftt", 13}, /* a name longer than all */
    };
    bool subscribes;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(kafka_member_subscribes(bytes_of(bad[i].bytes, bad[i].len), bytes_str("t"),
                                                 &subscribes),
                         ERR_MALFORMED);
    assert_int_equal(kafka_member_subscribes(bytes_of(NULL, 0), bytes_str("t"), &subscribes),
                     ERR_MALFORMED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_captured_one),
        cmocka_unit_test(every_version),
        cmocka_unit_test(cut_off),
        cmocka_unit_test(impossible),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
