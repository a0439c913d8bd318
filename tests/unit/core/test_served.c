/* SPDX-License-Identifier: Apache-2.0 */
/* Applications that nobody asks for do not count toward the limit of intake. */
#include "core_help.h"

#define AFTER 60000

static struct inflight *new_fair(void)
{
    return inflight_new(&(struct inflight_config){
        .seed = {1, 2},
        .max_processing_attempts = 3,
        .grace_ms = GRACE,
        .publish_backoff_ms = BACKOFF,
        .publish_backoff_max_ms = 30000,
        .parked_retry_ms = PARKED,
        .unserved_after_ms = AFTER,
        .claims_max = 100,
        .queues_max = 20,
    });
}

static struct task *add_of(struct inflight *inflight, const char *application, const char *id,
                           int64_t rowid, int64_t now_ms)
{
    struct task_spec spec = spec_of(id, rowid);
    spec.application = bytes_str(application);
    return add(inflight, &spec, now_ms);
}

/* Three tasks of "lonely" and one of "busy". */
static struct inflight *two_applications(void)
{
    struct inflight *inflight = new_fair();
    add_of(inflight, "lonely", "l1", 1, T0);
    add_of(inflight, "lonely", "l2", 2, T0);
    add_of(inflight, "lonely", "l3", 3, T0);
    add_of(inflight, "busy", "b1", 4, T0);
    return inflight;
}

static void advance(struct inflight *inflight, int64_t now_ms)
{
    while (inflight_advance(inflight, now_ms, 0))
        ;
    inflight_check(inflight);
}

static void expect_unserved(const struct inflight *inflight, const char *application,
                            size_t pending)
{
    size_t found;
    struct bytes name = inflight_first_unserved(inflight, &found);
    assert_int_equal(found, pending);
    assert_true(bytes_equal(name, bytes_str(application)));
}

static void test_unserved_rows_do_not_count(void **state)
{
    (void)state;
    struct inflight *inflight = two_applications();
    assert_int_equal(inflight_next_ms(inflight), T0 + AFTER);
    assert_null(claim_now(inflight, of_application("other"), T0 + AFTER - 1));
    advance(inflight, T0 + AFTER - 1);
    assert_int_equal(inflight_pending_served(inflight, T0 + AFTER - 1), 4);
    claim_now(inflight, of_application("busy"), T0 + AFTER);
    advance(inflight, T0 + AFTER);
    assert_int_equal(inflight_pending_served(inflight, T0 + AFTER), 0); /* b1 is PROCESSING */
    expect_unserved(inflight, "lonely", 3);
    assert_int_equal(counts_of(inflight).unserved_applications, 1);

    /* More of them come, and go, and do not count either. */
    add_of(inflight, "lonely", "l4", 5, T0 + AFTER);
    add_of(inflight, "busy", "b2", 6, T0 + AFTER);
    inflight_check(inflight);
    assert_int_equal(inflight_pending_served(inflight, T0 + AFTER), 1);
    assert_int_equal(counts_of(inflight).unserved_pending, 4);

    /* The first claim for it makes all of its rows count. */
    assert_non_null(claim_now(inflight, of_application("lonely"), T0 + AFTER + 1));
    inflight_check(inflight);
    assert_int_equal(inflight_pending_served(inflight, T0 + AFTER + 1), 4);
    assert_int_equal(counts_of(inflight).unserved_applications, 0);
    inflight_free(inflight);
}

static void test_without_any_worker_every_row_counts(void **state)
{
    (void)state;
    struct inflight *inflight = two_applications();
    advance(inflight, T0 + 10 * AFTER);
    assert_int_equal(counts_of(inflight).unserved_pending, 4);
    assert_int_equal(inflight_pending_served(inflight, T0 + 10 * AFTER), 4);
    /* A worker comes, and goes for good: after a while all count again. */
    int64_t now_ms = T0 + 10 * AFTER;
    assert_null(claim_now(inflight, of_application("other"), now_ms));
    assert_int_equal(inflight_pending_served(inflight, now_ms + AFTER - 1), 0);
    assert_int_equal(inflight_pending_served(inflight, now_ms + AFTER), 4);
    inflight_free(inflight);
}

static void test_an_unfiltered_claim_asks_for_all(void **state)
{
    (void)state;
    struct inflight *inflight = two_applications();
    claim_now(inflight, any_task(), T0 + AFTER - 10); /* l1 */
    claim_now(inflight, of_application("other"), T0 + AFTER);
    advance(inflight, T0 + AFTER);
    assert_int_equal(inflight_pending_served(inflight, T0 + AFTER), 3);
    /* One namespace without application asks for nothing. */
    struct claim_filter hopeless = {.has_namespace = true, .namespace = bytes_str("ns")};
    assert_null(claim_now(inflight, hopeless, T0 + AFTER));
    inflight_report(inflight, bytes_str("l1"), REPORT_COMPLETE, NULL, T0 + AFTER);
    claim_now(inflight, of_application("other"), T0 + 3 * AFTER);
    advance(inflight, T0 + 3 * AFTER);
    assert_int_equal(inflight_pending_served(inflight, T0 + 3 * AFTER), 0);
    claim_now(inflight, any_task(), T0 + 3 * AFTER); /* l2 */
    inflight_check(inflight);
    assert_int_equal(inflight_pending_served(inflight, T0 + 3 * AFTER), 2);
    inflight_free(inflight);
}

static void test_processing_is_being_served(void **state)
{
    (void)state;
    struct inflight *inflight = new_fair();
    struct task_spec spec = spec_of("long", 1);
    spec.application = bytes_str("slow");
    spec.duration_ms = 10 * AFTER;
    add(inflight, &spec, T0);
    add_of(inflight, "slow", "next", 2, T0);
    assert_non_null(claim_now(inflight, of_application("slow"), T0));
    claim_now(inflight, of_application("other"), T0 + 2 * AFTER);
    advance(inflight, T0 + 2 * AFTER);
    assert_int_equal(inflight_pending_served(inflight, T0 + 2 * AFTER), 1);
    report(inflight, "long", REPORT_COMPLETE, T0 + 2 * AFTER);
    claim_now(inflight, of_application("other"), T0 + 4 * AFTER);
    advance(inflight, T0 + 4 * AFTER);
    assert_int_equal(inflight_pending_served(inflight, T0 + 4 * AFTER), 0);
    inflight_free(inflight);
}

static void test_zero_turns_it_off(void **state)
{
    (void)state;
    struct inflight *inflight = new_inflight();
    add_of(inflight, "lonely", "l1", 1, T0);
    claim_now(inflight, of_application("other"), T0 + 100 * AFTER);
    advance(inflight, T0 + 100 * AFTER);
    assert_int_equal(inflight_next_ms(inflight), CLOCK_NEVER);
    assert_int_equal(inflight_pending_served(inflight, T0 + 100 * AFTER), 1);
    inflight_free(inflight);
}

static void test_loaded_rows_get_their_time(void **state)
{
    (void)state;
    struct inflight *inflight = new_fair();
    struct task_load load = {.spec = spec_of("old", 1), .state = TASK_PENDING};
    struct task *task;
    assert_int_equal(inflight_load(inflight, &load, T0, &task), 0);
    claim_now(inflight, of_application("other"), T0 + 1);
    advance(inflight, T0 + 1);
    assert_int_equal(inflight_pending_served(inflight, T0 + 1), 1);
    /* Its end takes it out of the count of unserved ones as well. */
    claim_now(inflight, of_application("other"), T0 + AFTER);
    advance(inflight, T0 + AFTER);
    expect_unserved(inflight, "app", 1);
    inflight_free(inflight);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unserved_rows_do_not_count),
        cmocka_unit_test(test_without_any_worker_every_row_counts),
        cmocka_unit_test(test_an_unfiltered_claim_asks_for_all),
        cmocka_unit_test(test_processing_is_being_served),
        cmocka_unit_test(test_zero_turns_it_off),
        cmocka_unit_test(test_loaded_rows_get_their_time),
    };
    return cmocka_run_group_tests_name("core/served", tests, NULL, NULL);
}
