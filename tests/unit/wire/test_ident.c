/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/ident.h"

#include "hexed.h"

/* The expected ids were computed with Python's hashlib and uuid from the formula in ident.h. */
static void test_retry_is_derived(void **state)
{
    (void)state;
    char id[IDENT_DASHED_LEN + 1], again[IDENT_DASHED_LEN + 1];
    ident_retry(id, bytes_str("0123456789abcdef0123456789abcdef"), 1);
    assert_string_equal(id, "bcd9e143-ba38-8ed4-bbfb-4fff868198ad");
    ident_retry(id, bytes_str(""), UINT32_MAX);
    assert_string_equal(id, "c5265ed0-b214-815b-83fe-473bcbe21fd2");
    ident_retry(again, bytes_str(""), UINT32_MAX - 1);
    assert_string_not_equal(id, again);
    ident_retry(again, bytes_str("a"), UINT32_MAX);
    assert_string_not_equal(id, again);
}

static void test_raw_is_derived(void **state)
{
    (void)state;
    char id[IDENT_DASHED_LEN + 1];
    struct ident_place place = {.cluster = "main",
                                .topic = "events",
                                .partition = 2,
                                .offset = 77,
                                .timestamp_ms = 1700000000123};
    ident_raw(id, &place);
    assert_string_equal(id, "05bb1ec8-c9b6-802e-be90-21937ac4cc6c");
    place.timestamp_ms = -1;
    ident_raw(id, &place);
    assert_string_equal(id, "02d16335-3023-8899-a701-b0decc048c96");
    place = (struct ident_place){.cluster = "", .topic = "", .offset = INT64_C(1) << 62};
    ident_raw(id, &place);
    assert_string_equal(id, "d455c566-b809-85da-835d-5c48c0e4aa8a");
    /* Where one name ends counts. */
    place = (struct ident_place){.cluster = "mai",
                                 .topic = "nevents",
                                 .partition = 2,
                                 .offset = 77,
                                 .timestamp_ms = 1700000000123};
    ident_raw(id, &place);
    assert_string_equal(id, "59a55af3-6f5e-8310-a2e4-c74f393f3a12");
}

static void test_random_is_version_4(void **state)
{
    (void)state;
    char id[IDENT_HEX_LEN + 1];
    uint8_t bits[16];
    memset(bits, 0xff, sizeof(bits));
    ident_random(id, bits);
    assert_string_equal(id, "ffffffffffff4fffbfffffffffffffff");
    memset(bits, 0, sizeof(bits));
    bits[15] = 0xab;
    ident_random(id, bits);
    assert_string_equal(id, "000000000000400080000000000000ab");
}

static void test_bucket_of_every_spelling(void **state)
{
    (void)state;
    assert_int_equal(ident_bucket(bytes_str("0123456789abcdef0123456789abcdef")), 0xef);
    assert_int_equal(ident_bucket(bytes_str("0123456789ABCDEF0123456789ABCDEF")), 0xef);
    assert_int_equal(ident_bucket(bytes_str("01234567-89ab-cdef-0123-456789abcd7A")), 0x7a);
    assert_int_equal(ident_bucket(bytes_str("{01234567-89ab-cdef-0123-456789abcd7a}")), 0x7a);
    assert_int_equal(ident_bucket(bytes_str("urn:uuid:01234567-89ab-cdef-0123-456789abcd7a")),
                     0x7a);
}

static void test_bucket_of_anything_else_is_0(void **state)
{
    (void)state;
    const char *ids[] = {
        "",
        "a",
        "0123456789abcdef0123456789abcde",
        "0123456789abcdef0123456789abcdef0",
        "0123456789abcdeg0123456789abcdef",
        "0123456789abcdef0123456789abcdeg",
        "0123-4567-89ab-cdef-0123-456789abcd7a",
        "0123456-789ab-cdef-0123-456789abcd7a",
        "01234567-89ab-cdef-0123456789abcd7a-",
        "{01234567-89ab-cdef-0123-456789abcd7a)",
        "{0123456789abcdef0123456789abcdef}",
        "xrn:uuid:01234567-89ab-cdef-0123-456789abcd7a",
    };
    for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++)
        assert_int_equal(ident_bucket(bytes_str(ids[i])), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_retry_is_derived),
        cmocka_unit_test(test_raw_is_derived),
        cmocka_unit_test(test_random_is_version_4),
        cmocka_unit_test(test_bucket_of_every_spelling),
        cmocka_unit_test(test_bucket_of_anything_else_is_0),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
