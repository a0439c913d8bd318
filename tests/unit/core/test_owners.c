/* SPDX-License-Identifier: Apache-2.0 */
#include "core/offsets.h"
#include "core_help.h"

#define A "aaaaaaaaaaaaaaaa"
#define B "bbbbbbbbbbbbbbbb"
#define C "0123456789abcdef"

static void expect_text(const struct owners *owners, const char *expected)
{
    char text[OWNERS_TEXT_MAX];
    size_t len = owners_format(owners, text);
    assert_string_equal(text, expected);
    assert_int_equal(len, strlen(expected));
}

static void test_round_trip(void **state)
{
    static const char *const texts[] = {
        "tm1:" A "@0", "tm1:" A "@0," B "@1," C "@9223372036854775807",
        "tm1:" A "@7," A "@8", /* the format does not forbid it */
    };
    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        struct owners owners;
        assert_true(owners_parse(bytes_str(texts[i]), &owners));
        expect_text(&owners, texts[i]);
    }
}

static void test_longest(void **state)
{
    (void)state;
    struct owners owners = {0}, again;
    char text[OWNERS_TEXT_MAX];
    for (int i = 0; i < OWNERS_MAX; i++)
        owners_append(&owners, i % 2 ? A : B, INT64_MAX - OWNERS_MAX + i);
    size_t len = owners_format(&owners, text);
    assert_true(owners_parse(bytes_of(text, len), &again));
    assert_memory_equal(&owners, &again, sizeof(owners));
    expect_text(&(struct owners){0}, "");
}

static void test_garbage(void **state)
{
    static const char *const texts[] = {
        "",
        "tm1",
        "tm1:",
        "tm1:,",
        "tm2:" A "@0",
        "TM1:" A "@0",
        " tm1:" A "@0",
        "tm1:" A,
        "tm1:" A "@",
        "tm1:" A "@-1",
        "tm1:" A "@+1",
        "tm1:" A "@ 1",
        "tm1:" A "@01",
        "tm1:" A "@0x1",
        "tm1:" A "@1,",
        "tm1:" A "@1 ",
        "tm1:" A "@1," A "@1",
        "tm1:" A "@2," B "@1",
        "tm1:" A "@9223372036854775808",
        "tm1:" A "@99999999999999999999999999",
        "tm1:aaaaaaaaaaaaaaa@1",
        "tm1:aaaaaaaaaaaaaaaaa@1",
        "tm1:AAAAAAAAAAAAAAAA@1",
        "tm1:gggggggggggggggg@1",
        "tm1:" A "@1;" B "@2",
        "tm1:" A "@1," B "@2," A "@3," B "@4," A "@5," B "@6," A "@7," B "@8," A "@9",
        "{\"leader\": 1}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        struct owners owners = {.count = 3};
        assert_false(owners_parse(bytes_str(texts[i]), &owners));
        assert_int_equal(owners.count, 0);
    }
    struct owners owners;
    const char with_nul[] = "tm1:" A "@1\0";
    assert_false(owners_parse(bytes_of(with_nul, sizeof(with_nul) - 1), &owners));
    assert_false(owners_parse(bytes_of(NULL, 0), &owners));
}

/* What parses is what we would have written, whatever byte is changed, dropped or cut. */
static void test_every_change_is_strict(void **state)
{
    static const char text[] = "tm1:" A "@10," B "@200";
    char changed[sizeof(text)], again[OWNERS_TEXT_MAX];
    (void)state;
    for (size_t at = 0; at < sizeof(text) - 1; at++) {
        for (int byte = 0; byte < 256; byte++) {
            struct owners owners;
            memcpy(changed, text, sizeof(text));
            changed[at] = (char)byte;
            struct bytes input = bytes_of(changed, sizeof(text) - 1);
            if (owners_parse(input, &owners))
                assert_true(bytes_equal(bytes_of(again, owners_format(&owners, again)), input));
        }
        struct owners cut;
        if (owners_parse(bytes_of(text, at), &cut))
            assert_int_equal(owners_format(&cut, again), at);
    }
}

static void test_append(void **state)
{
    (void)state;
    struct owners owners = {0};
    owners_append(&owners, A, 0);
    expect_text(&owners, "tm1:" A "@0");
    owners_append(&owners, A, 50); /* still A: its stretch goes on */
    expect_text(&owners, "tm1:" A "@0");
    owners_append(&owners, B, 50);
    expect_text(&owners, "tm1:" A "@0," B "@50");
    owners_append(&owners, C, 50); /* B never got a message */
    expect_text(&owners, "tm1:" A "@0," C "@50");
    owners_append(&owners, A, 50); /* nor did C, so A's stretch never ended */
    expect_text(&owners, "tm1:" A "@0");
    owners_append(&owners, B, 70);
    owners_append(&owners, A, 60); /* the group went back: B's stretch is read again */
    expect_text(&owners, "tm1:" A "@0");
    owners_append(&owners, B, 0);
    expect_text(&owners, "tm1:" B "@0");
}

static void test_append_forgets_the_oldest(void **state)
{
    (void)state;
    struct owners owners = {0};
    for (int i = 0; i <= OWNERS_MAX; i++)
        owners_append(&owners, i % 2 ? A : B, i * 10);
    assert_int_equal(owners.count, OWNERS_MAX);
    assert_int_equal(owners.list[0].first_offset, 10);
    assert_null(owners_of(&owners, 9));
    assert_string_equal(owners_of(&owners, 10)->store_id, A);
}

static void test_owner_of_an_offset(void **state)
{
    (void)state;
    struct owners owners;
    assert_true(owners_parse(bytes_str("tm1:" A "@10," B "@20," C "@30"), &owners));
    assert_null(owners_of(&owners, 9));
    assert_string_equal(owners_of(&owners, 10)->store_id, A);
    assert_string_equal(owners_of(&owners, 19)->store_id, A);
    assert_string_equal(owners_of(&owners, 20)->store_id, B);
    assert_string_equal(owners_of(&owners, 30)->store_id, C);
    assert_string_equal(owners_of(&owners, INT64_MAX)->store_id, C);
    assert_null(owners_of(&(struct owners){0}, 0));
}

/* Each sentence of the design, for the store A. */
static void test_ownership(void **state)
{
    static const char list[] = "tm1:" A "@10," B "@20," A "@30";
    static const struct {
        const char *sentence;
        const char *metadata;
        int64_t committed, low, offset;
        bool assigned, legacy;
        enum ownership expected;
    } rows[] = {
        {"ours and committed > o", list, 40, 0, 15, false, false, OWNERSHIP_CONFIRMED},
        {"ours, the last below committed", list, 40, 0, 39, false, false, OWNERSHIP_CONFIRMED},
        {"ours, assigned as well", list, 40, -1, 30, true, false, OWNERSHIP_CONFIRMED},
        {"another store's: it has read it", list, 40, 0, 20, false, false, OWNERSHIP_FOREIGN},
        {"another store's, though assigned", list, 40, -1, 29, true, false, OWNERSHIP_FOREIGN},
        {"another store's, though legacy", list, 40, 0, 25, false, true, OWNERSHIP_FOREIGN},
        {"committed <= o: commit past it if assigned", list, 40, -1, 40, true, false,
         OWNERSHIP_WAIT},
        {"the same without any commit", "", -1, -1, 0, true, false, OWNERSHIP_WAIT},
        {"else the topic still holds o: its owner reads it", list, 40, 40, 40, false, false,
         OWNERSHIP_FOREIGN},
        {"the same without any commit", "", -1, 0, 7, false, false, OWNERSHIP_FOREIGN},
        {"else nobody can tell", list, 40, 51, 50, false, false, OWNERSHIP_UNKNOWN},
        {"the same for a legacy row", "", -1, 51, 50, false, true, OWNERSHIP_UNKNOWN},
        {"Kafka cannot be asked what it holds", list, 40, -1, 50, false, false, OWNERSHIP_WAIT},
        {"list missing", "", 40, 0, 15, false, false, OWNERSHIP_UNKNOWN},
        {"list missing, assigned", "", 40, -1, 15, true, false, OWNERSHIP_UNKNOWN},
        {"list of somebody else", "v=1", 40, 0, 15, false, false, OWNERSHIP_UNKNOWN},
        {"list too short", list, 40, 0, 9, false, false, OWNERSHIP_UNKNOWN},
        {"list missing, legacy: once committed > o", "", 40, 0, 39, false, true,
         OWNERSHIP_CONFIRMED},
        {"list too short, legacy", list, 40, 0, 9, false, true, OWNERSHIP_CONFIRMED},
        {"legacy, not yet: assigned", "", 40, -1, 40, true, true, OWNERSHIP_WAIT},
        {"legacy, not yet: another reads it", "", 40, 0, 40, false, true, OWNERSHIP_FOREIGN},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        struct ownership_facts facts = {.committed = rows[i].committed,
                                        .assigned = rows[i].assigned,
                                        .low = rows[i].low,
                                        .legacy = rows[i].legacy};
        owners_parse(bytes_str(rows[i].metadata), &facts.owners);
        enum ownership result = ownership_of(&facts, A, rows[i].offset);
        if (result != rows[i].expected)
            fail_msg("%s: got %d, expected %d", rows[i].sentence, result, rows[i].expected);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_longest),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_every_change_is_strict),
        cmocka_unit_test(test_append),
        cmocka_unit_test(test_append_forgets_the_oldest),
        cmocka_unit_test(test_owner_of_an_offset),
        cmocka_unit_test(test_ownership),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
