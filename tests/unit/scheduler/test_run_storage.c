/* SPDX-License-Identifier: Apache-2.0 */
/* The texts, and the rules of every step on the local file. Redis has the same rules in a script;
 * tests/integration/test_scheduler.py runs them against a real server. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "scheduler/run_storage.h"

static void test_values(void **state)
{
    static const struct {
        const char *text;
        int64_t time_s;
    } good[] = {{"2026-01-01T00:00:00+00:00", 1767225600},
                {"2026-01-01T00:00:00.000005+00:00", 1767225600},
                {"2026-01-01T00:00:00.999999+00:00", 1767225600},
                {"2026-01-01T00:00:00Z", 1767225600},
                {"2026-01-01 00:00:00", 1767225600},
                {"2026-01-01T01:00:00.5+01:00", 1767225600},
                {"2025-12-31T23:30:00-0030", 1767225600},
                {"2025-12-31T22:00:00-02", 1767225600},
                {"1970-01-01T00:00:00+00:00", 0},
                {"1969-12-31T23:59:59+00:00", -1},
                {"2024-02-29T12:00:00+00:00", 1709208000}};
    static const char *const bad[] = {"",
                                      "now",
                                      "1767225600",
                                      "2026-01-01",
                                      "2026-01-01T00:00",
                                      "2026-13-01T00:00:00",
                                      "2026-00-01T00:00:00",
                                      "2026-02-29T00:00:00",
                                      "2026-01-01T24:00:00",
                                      "2026-01-01T00:00:60",
                                      "2026-01-01T00:00:00.",
                                      "2026-01-01T00:00:00+1",
                                      "2026-01-01T00:00:00+01:0",
                                      "2026-01-01T00:00:00+01:000",
                                      "2026-01-01T00:00:00ZZ",
                                      "0000-01-01T00:00:00Z",
                                      "b'2026-01-01T00:00:00Z'"};
    char text[RUN_VALUE_SIZE];
    int64_t time_s;

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        if (run_value_parse(good[i].text, &time_s) != 0)
            fail_msg("%s is refused", good[i].text);
        assert_int_equal(time_s, good[i].time_s);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (run_value_parse(bad[i], &time_s) != ERR_MALFORMED)
            fail_msg("%s is taken", bad[i]);
    run_value_print(text, 1767225600 + 86399);
    assert_string_equal(text, "2026-01-01T23:59:59+00:00");
}

static void test_state_text(void **state)
{
    struct run_state given = {.known = true, .open = true, .first_s = -5, .last_s = 1767225600};
    static const char *const bad[] = {"",
                                      "1",
                                      "2 1 1 open a",
                                      "1 x 1 open a",
                                      "1 1 1 ajar a",
                                      "1 1 1 open",
                                      "1 1 1 open a b",
                                      "1 99999999999999999999 1 open a",
                                      "1 1 1 open 123456789012345678901234567890123"};
    struct run_state back;
    char text[RUN_STATE_SIZE];

    (void)state;
    (void)snprintf(given.owner, sizeof given.owner, "%032d", 7);
    run_state_print(text, &given);
    assert_string_equal(text, "1 -5 1767225600 open 00000000000000000000000000000007");
    run_state_parse(&back, text);
    assert_memory_equal(&back, &given, sizeof back);
    run_state_parse(&back, "1 3 4 done -");
    assert_true(back.known && !back.open && back.first_s == 3 && back.last_s == 4);
    assert_string_equal(back.owner, "");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        run_state_parse(&back, bad[i]);
        if (back.known)
            fail_msg("'%s' is taken", bad[i]);
    }
}

/* --- the file -------------------------------------------------------------------------------- */

struct two {
    char path[64];
    struct run_storage *a, *b; /* of two schedulers */
    struct run_key key;
    struct run_record of_a, of_b;
};

static int set_up(void **state)
{
    static struct two two;
    struct schedule_names names = {"entry", "ns", "task", "300"};
    struct err_text why;

    memset(&two, 0, sizeof two);
    (void)snprintf(two.path, sizeof two.path, "/tmp/run_storage.%d.sqlite", (int)getpid());
    (void)unlink(two.path);
    assert_int_equal(run_storage_file(&two.a, two.path, &why), 0);
    assert_int_equal(run_storage_file(&two.b, two.path, &why), 0);
    run_key_make(&two.key, &names);
    *state = &two;
    return 0;
}

static int tear_down(void **state)
{
    struct two *two = (struct two *)*state;

    two->a->ops->close(two->a);
    two->b->ops->close(two->b);
    run_key_free(&two->key);
    return unlink(two->path);
}

static struct run_record loaded(struct run_storage *storage, const struct run_key *key)
{
    struct run_record record;
    struct err_text why;

    assert_int_equal(storage->ops->load(storage, &key, 1, &record, &why), 0);
    return record;
}

static bool step(struct two *two, bool by_a, enum run_step step, int64_t first_s, int64_t last_s)
{
    struct run_storage *storage = by_a ? two->a : two->b;
    struct run_swap swap = {.key = &two->key,
                            .step = step,
                            .record = by_a ? &two->of_a : &two->of_b,
                            .next = {.known = true,
                                     .open = step != RUN_DONE && step != RUN_NOTE,
                                     .first_s = first_s,
                                     .last_s = last_s},
                            .lease_ms = 60000,
                            .value_ttl_ms = 1000};
    struct err_text why = {{0}};

    (void)snprintf(swap.next.owner, sizeof swap.next.owner, "%s",
                   step == RUN_NOTE ? ""
                   : by_a           ? "a"
                                    : "b");
    if (storage->ops->swap(storage, &swap, 1, &why) != 0)
        fail_msg("%s", why.s);
    assert_true(swap.settled);
    return swap.won;
}

static void test_one_wins(void **state)
{
    struct two *two = (struct two *)*state;

    two->of_a = loaded(two->a, &two->key);
    two->of_b = loaded(two->b, &two->key);
    assert_false(two->of_a.state.known);
    assert_true(two->of_a.foreign_s == SCHEDULE_NEVER_RAN);
    assert_true(step(two, true, RUN_CLAIM, 100, 103));
    assert_true(two->of_a.state.open);
    assert_false(step(two, false, RUN_CLAIM, 100, 103));
    assert_string_equal(two->of_b.state.owner, "a");
    assert_int_equal(two->of_b.state.first_s, 100);
    assert_int_equal(two->of_b.state.last_s, 103);
    assert_in_range(two->of_b.lease_ms, 50000, 60000);

    assert_false(step(two, false, RUN_TAKE, 100, 103)); /* the lease runs */
    assert_true(step(two, true, RUN_RENEW, 102, 103));
    assert_false(step(two, false, RUN_TAKE, 100, 103)); /* the state moved on */
    assert_int_equal(two->of_b.state.first_s, 102);
    assert_true(step(two, true, RUN_DONE, 102, 103));
    assert_int_equal(two->of_a.lease_ms, 0);
    two->of_b = loaded(two->b, &two->key);
    assert_false(two->of_b.state.open);
    assert_true(step(two, false, RUN_CLAIM, 104, 104));
    assert_false(step(two, true, RUN_CLAIM, 104, 104));
}

static void test_take_over(void **state)
{
    struct two *two = (struct two *)*state;
    struct run_record as_claimed;

    assert_true(step(two, true, RUN_CLAIM, 100, 100));
    as_claimed = two->of_a;
    two->of_b = loaded(two->b, &two->key);
    assert_true(step(two, true, RUN_RELEASE, 100, 100));
    assert_false(two->of_b.lease_ms == 0);
    assert_true(step(two, false, RUN_TAKE, 100, 100));
    assert_string_equal(two->of_b.state.owner, "b");
    assert_false(step(two, true, RUN_RENEW, 100, 100)); /* fenced */
    assert_string_equal(two->of_a.state.owner, "b");
    two->of_a = as_claimed;
    assert_false(step(two, true, RUN_DONE, 100, 100));
    assert_true(step(two, false, RUN_DONE, 100, 100));
}

static void test_note(void **state)
{
    struct two *two = (struct two *)*state;

    assert_true(step(two, true, RUN_NOTE, 90, 90));
    assert_false(two->of_a.state.open);
    assert_false(step(two, false, RUN_NOTE, 95, 95));
    assert_int_equal(two->of_b.state.last_s, 90);
}

static void test_it_survives(void **state)
{
    struct two *two = (struct two *)*state;
    struct err_text why;

    assert_true(step(two, true, RUN_CLAIM, 100, 100));
    two->a->ops->close(two->a);
    assert_int_equal(run_storage_file(&two->a, two->path, &why), 0);
    two->of_a = loaded(two->a, &two->key);
    assert_true(two->of_a.state.open);
    assert_int_equal(two->of_a.state.last_s, 100);
}

static void test_wrong_files(void **state)
{
    struct run_storage *storage = NULL;
    char path[64];
    struct err_text why;
    FILE *file;

    (void)state;
    assert_int_not_equal(run_storage_file(&storage, "/nowhere/at/all.sqlite", &why), 0);
    assert_non_null(strstr(why.s, "/nowhere/at/all.sqlite"));
    (void)snprintf(path, sizeof path, "/tmp/run_storage.%d.text", (int)getpid());
    file = fopen(path, "w");
    assert_non_null(file);
    for (int i = 0; i < 1000; i++)
        (void)fputs("this is no database\n", file);
    (void)fclose(file);
    assert_int_equal(run_storage_file(&storage, path, &why), ERR_CORRUPT);
    (void)unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_state_text),
        cmocka_unit_test_setup_teardown(test_one_wins, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_take_over, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_note, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_it_survives, set_up, tear_down),
        cmocka_unit_test(test_wrong_files)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
