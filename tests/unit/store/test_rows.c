/* SPDX-License-Identifier: Apache-2.0 */
#include "fixture.h"

static void insert(struct store *store, const struct store_row *row)
{
    assert_int_equal(store_begin(store), 0);
    assert_int_equal(store_insert(store, row), 0);
    assert_int_equal(store_commit(store), 0);
}

static void assert_bytes(struct bytes actual, const char *expected)
{
    assert_int_equal(actual.len, strlen(expected));
    assert_memory_equal(actual.ptr, expected, actual.len);
}

static void every_column_comes_back(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct fixture_rows all;
    struct store_row row = fixture_row(7, "id-7");

    row.processing_attempts = 2;
    row.expires_at_s = 1800000000;
    row.delay_until_s = 1800000001;
    row.processing_deadline_s = 1800000002;
    row.claim_expires_at_s = 1800000003;
    row.status = STORE_PROCESSING;
    row.at_most_once = true;
    row.on_attempts_exceeded = 2;
    row.bucket = 255;
    row.source = 4;
    row.due_ms = 1800000002789;
    insert(f->store, &row);
    fixture_reopen(f);
    fixture_load(f->store, &all);
    assert_int_equal(all.count, 1);
    const struct store_row *got = &all.rows[0];
    assert_int_equal(got->rowid, 7);
    assert_bytes(got->id, "id-7");
    assert_int_equal(got->activation.len, 0);
    assert_int_equal(got->activation_len, strlen("payload"));
    assert_int_equal(got->partition, 3);
    assert_int_equal(got->offset, 1007);
    assert_int_equal(got->added_at_s, 1790000000);
    assert_int_equal(got->received_at_s, 1789999999);
    assert_int_equal(got->processing_attempts, 2);
    assert_int_equal(got->expires_at_s, 1800000000);
    assert_int_equal(got->delay_until_s, 1800000001);
    assert_int_equal(got->processing_deadline_s, 1800000002);
    assert_int_equal(got->claim_expires_at_s, 1800000003);
    assert_int_equal(got->processing_deadline_duration_s, 30);
    assert_int_equal(got->status, STORE_PROCESSING);
    assert_true(got->at_most_once);
    assert_true(got->has_namespace);
    assert_bytes(got->namespace, "billing");
    assert_bytes(got->taskname, "billing.send");
    assert_bytes(got->application, "shop");
    assert_int_equal(got->on_attempts_exceeded, 2);
    assert_int_equal(got->bucket, 255);
    assert_int_equal(got->source, 4);
    assert_int_equal(got->due_ms, 1800000002789);
    assert_int_equal(store_next_rowid(f->store), 8);
    fixture_rows_free(&all);
}

static void nulls_and_empty_values_differ(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct fixture_rows all;
    struct store_row row = fixture_row(1, "a");

    row.has_namespace = false;
    row.activation = bytes_of(NULL, 0);
    row.application = bytes_of(NULL, 0);
    insert(f->store, &row);
    fixture_load(f->store, &all);
    assert_false(all.rows[0].has_namespace);
    assert_int_equal(all.rows[0].application.len, 0);
    assert_int_equal(all.rows[0].activation_len, 0);
    assert_int_equal(all.rows[0].expires_at_s, STORE_NULL);
    assert_int_equal(all.rows[0].source, STORE_NULL);
    assert_int_equal(all.rows[0].due_ms, STORE_NULL);
    fixture_rows_free(&all);
}

static void ids_may_hold_any_byte(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct fixture_rows all;
    struct store_row row = fixture_row(1, "x");

    row.id = bytes_of("a\0b", 3);
    insert(f->store, &row);
    row.rowid = 2;
    row.id = bytes_of("a\0c", 3);
    insert(f->store, &row);
    fixture_load(f->store, &all);
    assert_int_equal(all.count, 2);
    assert_int_equal(all.rows[1].id.len, 3);
    assert_memory_equal(all.rows[1].id.ptr, "a\0c", 3);
    fixture_rows_free(&all);
    assert_int_equal(store_begin(f->store), 0);
    assert_int_equal(store_delete(f->store, 2, bytes_of("a\0c", 3)), 0);
    assert_int_equal(store_commit(f->store), 0);
}

static void update_moves_a_row_and_ends_a_claim(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct fixture_rows all;
    struct store_row row = fixture_row(1, "a");
    const struct store_change change = {.status = STORE_PROCESSING,
                                        .processing_attempts = 1,
                                        .processing_deadline_s = 1790000033,
                                        .due_ms = 1790000033456,
                                        .on_attempts_exceeded = 2};

    row.status = STORE_CLAIMED;
    row.claim_expires_at_s = 1790000001;
    insert(f->store, &row);
    assert_int_equal(store_begin(f->store), 0);
    assert_int_equal(store_update(f->store, 1, row.id, &change), 0);
    assert_int_equal(store_commit(f->store), 0);
    fixture_load(f->store, &all);
    assert_int_equal(all.rows[0].status, STORE_PROCESSING);
    assert_int_equal(all.rows[0].processing_attempts, 1);
    assert_int_equal(all.rows[0].processing_deadline_s, 1790000033);
    assert_int_equal(all.rows[0].due_ms, 1790000033456);
    assert_int_equal(all.rows[0].claim_expires_at_s, STORE_NULL);
    assert_int_equal(all.rows[0].on_attempts_exceeded, 2);
    fixture_rows_free(&all);
}

/* The milliseconds count only while they agree with the seconds of the column that counts. */
static void due_needs_the_seconds_to_agree(void **state)
{
    static const struct {
        enum store_status status;
        int64_t expires_s, delay_s, deadline_s, due_ms, expected;
    } cases[] = {
        {STORE_PENDING, 10, STORE_NULL, STORE_NULL, 10999, 10999},
        {STORE_PENDING, 11, STORE_NULL, STORE_NULL, 10999, STORE_NULL},
        {STORE_PENDING, STORE_NULL, 10, 10, 10500, STORE_NULL},
        {STORE_DELAY, 10, 20, STORE_NULL, 20001, 20001},
        {STORE_DELAY, 10, 20, STORE_NULL, 10001, STORE_NULL},
        {STORE_PROCESSING, STORE_NULL, STORE_NULL, -1, -1, -1},
        {STORE_PROCESSING, STORE_NULL, STORE_NULL, 0, -1, STORE_NULL},
        {STORE_RETRY, 10, 10, 10, 10000, STORE_NULL},
    };
    struct fixture *f = (struct fixture *)*state;
    struct fixture_rows all;
    char id[16];

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(id, sizeof id, "case-%zu", i);
        struct store_row row = fixture_row((int64_t)i + 1, id);
        row.status = cases[i].status;
        row.expires_at_s = cases[i].expires_s;
        row.delay_until_s = cases[i].delay_s;
        row.processing_deadline_s = cases[i].deadline_s;
        row.due_ms = cases[i].due_ms;
        insert(f->store, &row);
    }
    fixture_load(f->store, &all);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(all.rows[i].due_ms, cases[i].expected);
    fixture_rows_free(&all);
}

static void activation_is_read_and_rewritten(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct store_row row = fixture_row(1, "a");
    struct blob *blob = NULL;

    insert(f->store, &row);
    assert_int_equal(store_begin(f->store), 0);
    assert_int_equal(store_set_activation(f->store, 1, row.id, bytes_str("longer than before")), 0);
    assert_int_equal(store_commit(f->store), 0);
    assert_int_equal(store_read_activation(f->store, 1, row.id, &blob), 0);
    assert_bytes(blob_bytes(blob), "longer than before");
    blob_unref(blob);
    assert_int_equal(store_read_activation(f->store, 1, bytes_str("b"), &blob), ERR_NOT_FOUND);
    assert_int_equal(store_read_activation(f->store, 2, row.id, &blob), ERR_NOT_FOUND);
    assert_string_equal(store_why(f->store), "");
}

static void rows_load_in_order_of_rowid(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct fixture_rows all;
    const int64_t order[] = {5, 2, 9, 3};
    char id[16];

    for (size_t i = 0; i < 4; i++) {
        snprintf(id, sizeof id, "%zu", 9 - i);
        struct store_row row = fixture_row(order[i], id);
        insert(f->store, &row);
    }
    fixture_load(f->store, &all);
    assert_int_equal(all.rows[0].rowid, 2);
    assert_int_equal(all.rows[1].rowid, 3);
    assert_int_equal(all.rows[2].rowid, 5);
    assert_int_equal(all.rows[3].rowid, 9);
    fixture_rows_free(&all);
    assert_int_equal(store_next_rowid(f->store), 10);
}

static int stop_at_second(void *ctx, const struct store_row *row)
{
    (void)row;
    return ++*(int *)ctx == 2 ? ERR_CANCELLED : 0;
}

static void callback_can_stop_the_load(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct store_row row = fixture_row(1, "a");
    int seen = 0;

    insert(f->store, &row);
    row = fixture_row(2, "b");
    insert(f->store, &row);
    row = fixture_row(3, "c");
    insert(f->store, &row);
    assert_int_equal(store_load_rows(f->store, stop_at_second, &seen), ERR_CANCELLED);
    assert_int_equal(seen, 2);
    /* The query is closed: a transaction can follow. */
    assert_int_equal(store_begin(f->store), 0);
    assert_int_equal(store_delete(f->store, 2, bytes_str("b")), 0);
    assert_int_equal(store_commit(f->store), 0);
}

/* Somebody changed the file behind our back: never carry on. */
static void a_write_that_hits_no_row_fails_the_store(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct store_row row = fixture_row(1, "a");

    insert(f->store, &row);
    assert_int_equal(store_begin(f->store), 0);
    assert_int_equal(store_delete(f->store, 1, bytes_str("other id")), ERR_CORRUPT);
    assert_non_null(strstr(store_why(f->store), "0 rows changed"));
    assert_non_null(strstr(store_why(f->store), f->path));
    assert_int_equal(store_commit(f->store), ERR_CLOSED);
    assert_int_equal(store_insert(f->store, &row), ERR_CLOSED);
    fixture_reopen(f);
    assert_int_equal(store_next_rowid(f->store), 2); /* nothing was deleted */
}

static void a_second_row_with_an_id_fails_the_store(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct store_row row = fixture_row(1, "a");

    insert(f->store, &row);
    row.rowid = 2;
    assert_int_equal(store_begin(f->store), 0);
    assert_int_equal(store_insert(f->store, &row), ERR_CORRUPT);
    assert_non_null(strstr(store_why(f->store), "UNIQUE"));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(every_column_comes_back),
        TEST(nulls_and_empty_values_differ),
        TEST(ids_may_hold_any_byte),
        TEST(update_moves_a_row_and_ends_a_claim),
        TEST(due_needs_the_seconds_to_agree),
        TEST(activation_is_read_and_rewritten),
        TEST(rows_load_in_order_of_rowid),
        TEST(callback_can_stop_the_load),
        TEST(a_write_that_hits_no_row_fails_the_store),
        TEST(a_second_row_with_an_id_fails_the_store),
    };

    return cmocka_run_group_tests_name("store/rows", tests, NULL, NULL);
}
