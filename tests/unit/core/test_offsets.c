/* SPDX-License-Identifier: Apache-2.0 */
#include "core/offsets.h"
#include "core_help.h"

#define A "aaaaaaaaaaaaaaaa"
#define B "bbbbbbbbbbbbbbbb"

static struct offsets *assigned(int64_t start, int64_t committed, const char *metadata)
{
    struct offsets *offsets = offsets_new(A);
    offsets_assign(offsets, 1, 0, start, committed, bytes_str(metadata));
    return offsets;
}

static void expect_commit(struct offsets *offsets, int32_t partition, int64_t next_offset,
                          bool urgent, const char *metadata)
{
    struct offset_commit commit;
    assert_true(offsets_next_commit(offsets, &commit));
    assert_int_equal(commit.source, 1);
    assert_int_equal(commit.partition, partition);
    assert_int_equal(commit.next_offset, next_offset);
    assert_int_equal(commit.urgent, urgent);
    assert_true(bytes_equal_str(commit.metadata, metadata));
}

static void expect_no_commit(struct offsets *offsets)
{
    struct offset_commit commit;
    assert_false(offsets_next_commit(offsets, &commit));
}

static void test_verdicts(void **state)
{
    (void)state;
    struct offsets *offsets = assigned(10, 10, "");
    struct offsets_counts counts;
    assert_int_equal(offsets_see(offsets, 1, 0, 10), OFFSET_NEXT);
    assert_int_equal(offsets_see(offsets, 1, 0, 11), OFFSET_NEXT);
    assert_int_equal(offsets_see(offsets, 1, 0, 11), OFFSET_BACK);
    assert_int_equal(offsets_see(offsets, 1, 0, 0), OFFSET_BACK);
    assert_int_equal(offsets_see(offsets, 1, 0, -1001), OFFSET_BACK);
    assert_int_equal(offsets_see(offsets, 1, 0, 20), OFFSET_JUMP);
    assert_int_equal(offsets_see(offsets, 1, 0, 21), OFFSET_NEXT);
    assert_int_equal(offsets_see(offsets, 1, 0, INT64_MAX), OFFSET_BACK);
    assert_int_equal(offsets_see(offsets, 1, 1, 22), OFFSET_REVOKED);
    assert_int_equal(offsets_see(offsets, 2, 0, 22), OFFSET_REVOKED);
    offsets_get_counts(offsets, &counts);
    assert_int_equal(counts.assigned, 1);
    assert_int_equal(counts.jumps, 1);
    assert_int_equal(counts.backs, 4);
    assert_int_equal(counts.revoked, 2);
    offsets_free(offsets);
}

/* INV-1: what was only seen is never offered for commit. */
static void test_commit_follows_durability(void **state)
{
    (void)state;
    struct offsets *offsets = assigned(10, 10, "");
    expect_no_commit(offsets);
    offsets_durable(offsets);
    expect_no_commit(offsets);
    offsets_see(offsets, 1, 0, 10);
    expect_no_commit(offsets);
    offsets_durable(offsets);
    offsets_see(offsets, 1, 0, 11);
    expect_commit(offsets, 0, 11, false, "tm1:" A "@10");
    expect_no_commit(offsets);
    offsets_durable(offsets);
    offsets_see(offsets, 1, 0, 15);
    offsets_durable(offsets);
    expect_commit(offsets, 0, 16, false, "tm1:" A "@10");
    expect_no_commit(offsets);
    offsets_free(offsets);
}

static void test_partitions_are_apart(void **state)
{
    (void)state;
    struct offsets *offsets = assigned(10, 10, "tm1:" B "@0");
    offsets_assign(offsets, 1, 1, 0, -1, bytes_str(""));
    offsets_see(offsets, 1, 1, 0);
    offsets_see(offsets, 1, 0, 10);
    offsets_durable(offsets);
    expect_commit(offsets, 1, 1, false, "tm1:" A "@0");
    expect_commit(offsets, 0, 11, false, "tm1:" B "@0," A "@10");
    expect_no_commit(offsets);
    offsets_free(offsets);
}

static void test_urgent(void **state)
{
    (void)state;
    struct offsets *offsets = assigned(10, 10, "");
    offsets_see(offsets, 1, 0, 10);
    offsets_durable(offsets);
    offsets_see(offsets, 1, 0, 11);
    offsets_want(offsets, 1, 0, 11);
    expect_commit(offsets, 0, 11, false, "tm1:" A "@10"); /* not past it */
    offsets_durable(offsets);
    expect_commit(offsets, 0, 12, true, "tm1:" A "@10");
    offsets_see(offsets, 1, 0, 12);
    offsets_durable(offsets);
    expect_commit(offsets, 0, 13, false, "tm1:" A "@10"); /* once */
    offsets_want(offsets, 1, 0, 12);                      /* on its way already */
    expect_no_commit(offsets);
    offsets_want(offsets, 1, 5, 12); /* not ours: nothing to do */
    offsets_free(offsets);
}

static void test_urgent_among_several(void **state)
{
    (void)state;
    struct offsets *offsets = assigned(0, 0, "");
    for (int64_t offset = 0; offset < 10; offset++) {
        offsets_see(offsets, 1, 0, offset);
        if (offset == 2 || offset == 4 || offset == 8)
            offsets_want(offsets, 1, 0, offset);
        if (offset == 5)
            offsets_durable(offsets);
    }
    expect_commit(offsets, 0, 6, true, "tm1:" A "@0");
    offsets_durable(offsets);
    expect_commit(offsets, 0, 10, true, "tm1:" A "@0");
    offsets_see(offsets, 1, 0, 10);
    offsets_durable(offsets);
    expect_commit(offsets, 0, 11, false, "tm1:" A "@0");
    offsets_free(offsets);
}

/* The log was cut below us: a row in the gap waits for a commit that no message would cause. */
static void test_want_in_the_gap_before_the_start(void **state)
{
    (void)state;
    struct offsets *offsets = assigned(100, 50, "tm1:" A "@0");
    expect_no_commit(offsets);
    offsets_want(offsets, 1, 0, 49); /* committed already */
    expect_no_commit(offsets);
    offsets_want(offsets, 1, 0, 60);
    expect_commit(offsets, 0, 100, true, "tm1:" A "@0");
    offsets_want(offsets, 1, 0, 60);
    expect_no_commit(offsets);
    offsets_free(offsets);
}

static void test_revoke(void **state)
{
    (void)state;
    struct offsets *offsets = assigned(10, 10, "");
    struct ownership_facts facts;
    offsets_see(offsets, 1, 0, 10);
    offsets_durable(offsets);
    offsets_see(offsets, 1, 0, 11);
    offsets_revoke(offsets, 1, 0);
    offsets_revoke(offsets, 1, 0);
    offsets_revoke(offsets, 1, 77);
    assert_false(offsets_assigned(offsets, 1, 0));
    expect_no_commit(offsets);
    offsets_durable(offsets);
    expect_no_commit(offsets);
    assert_int_equal(offsets_see(offsets, 1, 0, 12), OFFSET_REVOKED);
    assert_false(offsets_facts(offsets, 1, 0, &facts));
    offsets_committed(offsets, 1, 0, 11); /* the answer came late */

    offsets_assign(offsets, 1, 0, 40, 40, bytes_str("tm1:" A "@10," B "@20"));
    assert_true(offsets_facts(offsets, 1, 0, &facts));
    assert_int_equal(facts.committed, 40);
    assert_int_equal(offsets_see(offsets, 1, 0, 12), OFFSET_BACK);
    assert_int_equal(offsets_see(offsets, 1, 0, 40), OFFSET_NEXT);
    offsets_durable(offsets);
    expect_commit(offsets, 0, 41, false, "tm1:" A "@10," B "@20," A "@40");
    offsets_free(offsets);
}

/* An eager rebalance may assign again without a revoke between: nothing of before may be committed.
 */
static void test_assign_again(void **state)
{
    (void)state;
    struct offsets *offsets = assigned(10, 10, "");
    struct offsets_counts counts;
    offsets_see(offsets, 1, 0, 10);
    offsets_durable(offsets);
    offsets_see(offsets, 1, 0, 11);
    offsets_assign(offsets, 1, 0, 5, 5, bytes_str(""));
    offsets_durable(offsets);
    expect_no_commit(offsets);
    assert_int_equal(offsets_see(offsets, 1, 0, 5), OFFSET_NEXT);
    offsets_get_counts(offsets, &counts);
    assert_int_equal(counts.assigned, 1);
    offsets_free(offsets);
}

static void test_facts(void **state)
{
    (void)state;
    struct offsets *offsets = assigned(40, 40, "tm1:" A "@10," B "@20");
    struct ownership_facts facts;
    assert_true(offsets_facts(offsets, 1, 0, &facts));
    assert_true(facts.assigned && !facts.legacy);
    assert_int_equal(ownership_of(&facts, A, 15), OWNERSHIP_CONFIRMED);
    assert_int_equal(ownership_of(&facts, A, 25), OWNERSHIP_FOREIGN);
    assert_int_equal(ownership_of(&facts, A, 40), OWNERSHIP_WAIT);

    offsets_committed(offsets, 1, 0, 41);
    assert_true(offsets_facts(offsets, 1, 0, &facts));
    assert_int_equal(ownership_of(&facts, A, 40), OWNERSHIP_CONFIRMED);
    assert_int_equal(ownership_of(&facts, A, 41), OWNERSHIP_WAIT);
    offsets_committed(offsets, 1, 0, 39); /* answers may overtake each other */
    assert_true(offsets_facts(offsets, 1, 0, &facts));
    assert_int_equal(facts.committed, 41);
    offsets_free(offsets);
    offsets_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verdicts),
        cmocka_unit_test(test_commit_follows_durability),
        cmocka_unit_test(test_partitions_are_apart),
        cmocka_unit_test(test_urgent),
        cmocka_unit_test(test_urgent_among_several),
        cmocka_unit_test(test_want_in_the_gap_before_the_start),
        cmocka_unit_test(test_revoke),
        cmocka_unit_test(test_assign_again),
        cmocka_unit_test(test_facts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
