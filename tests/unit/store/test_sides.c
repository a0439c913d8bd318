/* SPDX-License-Identifier: Apache-2.0 */
/* Sources, confirmed offsets, ended ids, outbox (with its headers). */
#include "fixture.h"

static int print_source(void *ctx, const struct store_source *s)
{
    buf_printf((struct buf *)ctx, "%lld=%.*s/%.*s/%.*s ", (long long)s->source,
               BYTES_FMT_ARG(s->cluster), BYTES_FMT_ARG(s->topic), BYTES_FMT_ARG(s->group));
    return 0;
}

static int print_confirmed(void *ctx, const struct store_confirmed *c)
{
    buf_printf((struct buf *)ctx, "%lld/%lld=%lld ", (long long)c->source, (long long)c->partition,
               (long long)c->next_offset);
    return 0;
}

static int print_done(void *ctx, struct bytes id, int64_t ended_at_s)
{
    buf_printf((struct buf *)ctx, "%.*s@%lld ", BYTES_FMT_ARG(id), (long long)ended_at_s);
    return 0;
}

static int print_outbox(void *ctx, const struct store_outbox *e)
{
    struct buf *out = (struct buf *)ctx;

    buf_printf(out, "%lld:%.*s:%llu", (long long)e->entry, BYTES_FMT_ARG(e->topic),
               (unsigned long long)e->payload_len);
    if (e->has_cluster)
        buf_printf(out, "@%.*s", BYTES_FMT_ARG(e->cluster));
    for (size_t i = 0; i < e->header_count; i++)
        buf_printf(out, ",%.*s=%.*s", BYTES_FMT_ARG(e->headers[i].key),
                   BYTES_FMT_ARG(e->headers[i].value));
    buf_append_byte(out, ' ');
    return 0;
}

#define assert_prints(call, expected)                  \
    do {                                               \
        struct buf out = {0};                          \
        assert_int_equal(call, 0);                     \
        assert_string_equal(buf_cstr(&out), expected); \
        buf_free(&out);                                \
    } while (0)

static int64_t source(struct store *store, const char *cluster, const char *topic,
                      const char *group)
{
    int64_t number = -1;
    const struct store_source source = {
        .cluster = bytes_str(cluster), .topic = bytes_str(topic), .group = bytes_str(group)};

    assert_int_equal(store_add_source(store, &source, &number), 0);
    return number;
}

static void sources_keep_their_numbers(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    assert_int_equal(source(f->store, "main", "tasks", "g"), 1);
    assert_int_equal(source(f->store, "main", "long", "g"), 2);
    assert_int_equal(source(f->store, "main", "tasks", "g2"), 3);
    assert_int_equal(source(f->store, "main", "tasks", "g"), 1);
    fixture_reopen(f);
    assert_int_equal(source(f->store, "main", "long", "g"), 2);
    assert_int_equal(source(f->store, "", "", ""), 4);
    assert_prints(store_load_sources(f->store, print_source, &out),
                  "1=main/tasks/g 2=main/long/g 3=main/tasks/g2 4=// ");
}

static void confirm(struct store *store, int64_t source, int64_t partition, int64_t next)
{
    const struct store_confirmed confirmed = {source, partition, next};

    assert_int_equal(store_begin(store), 0);
    assert_int_equal(store_set_confirmed(store, &confirmed), 0);
    assert_int_equal(store_commit(store), 0);
}

static void confirmed_offsets_are_replaced(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    confirm(f->store, 2, 0, 10);
    confirm(f->store, 1, 7, 20);
    confirm(f->store, 1, 3, 30);
    confirm(f->store, 2, 0, 11);
    fixture_reopen(f);
    assert_prints(store_load_confirmed(f->store, print_confirmed, &out), "1/3=30 1/7=20 2/0=11 ");
}

static void ended_ids_load_oldest_first(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    assert_int_equal(store_begin(f->store), 0);
    assert_int_equal(store_done_add(f->store, bytes_str("late"), 300), 0);
    assert_int_equal(store_done_add(f->store, bytes_str("early"), 100), 0);
    assert_int_equal(store_done_add(f->store, bytes_str("middle"), 200), 0);
    assert_int_equal(store_done_add(f->store, bytes_str("early"), 400), 0); /* ended again */
    assert_int_equal(store_commit(f->store), 0);
    fixture_reopen(f);
    assert_prints(store_load_done(f->store, print_done, &out), "middle@200 late@300 early@400 ");
    assert_int_equal(store_begin(f->store), 0);
    assert_int_equal(store_done_delete(f->store, bytes_str("middle")), 0);
    assert_int_equal(store_commit(f->store), 0);
    assert_prints(store_load_done(f->store, print_done, &out), "late@300 early@400 ");
}

static void forgetting_an_unknown_id_fails_the_store(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    assert_int_equal(store_begin(f->store), 0);
    assert_int_equal(store_done_delete(f->store, bytes_str("never seen")), ERR_CORRUPT);
    assert_int_equal(store_commit(f->store), ERR_CLOSED);
}

static void outbox_keeps_payload_and_headers(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct blob *payload;
    const struct store_header headers[] = {{bytes_str("reason"), bytes_str("undecodable")},
                                           {bytes_str(""), bytes_str("")},
                                           {bytes_str("from"), bytes_str("tasks/3/77")}};
    struct store_outbox entry = {.entry = 5,
                                 .topic = bytes_str("dlq"),
                                 .payload = bytes_of("\0\1\2", 3),
                                 .headers = headers,
                                 .header_count = 3};

    assert_int_equal(store_begin(f->store), 0);
    assert_int_equal(store_outbox_add(f->store, &entry), 0);
    entry = (struct store_outbox){.entry = 9,
                                  .topic = bytes_str("long"),
                                  .has_cluster = true,
                                  .cluster = bytes_str("far:9092")};
    assert_int_equal(store_outbox_add(f->store, &entry), 0);
    assert_int_equal(store_commit(f->store), 0);
    fixture_reopen(f);
    assert_prints(store_load_outbox(f->store, print_outbox, &out),
                  "5:dlq:3,reason=undecodable,=,from=tasks/3/77 9:long:0@far:9092 ");
    assert_int_equal(store_read_outbox(f->store, 5, &payload), 0);
    assert_true(bytes_equal(blob_bytes(payload), bytes_of("\0\1\2", 3)));
    blob_unref(payload);
    assert_int_equal(store_read_outbox(f->store, 6, &payload), ERR_NOT_FOUND);
    assert_int_equal(store_begin(f->store), 0);
    assert_int_equal(store_outbox_delete(f->store, 5), 0);
    assert_int_equal(store_commit(f->store), 0);
    assert_prints(store_load_outbox(f->store, print_outbox, &out), "9:long:0@far:9092 ");
}

/* Any cut or changed length must be told, never read past. */
static void malformed_headers_are_told(void **state)
{
    static const char *const bad[] = {"x'01'", "x'0500000041'", "x'ffffffff'",
                                      "x'0000000001000000'", "x'00000000'"};
    struct fixture *f = (struct fixture *)*state;
    char sql[200];

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct buf out = {0};
        store_close(f->store);
        snprintf(sql, sizeof sql,
                 "INSERT OR REPLACE INTO taskmill_outbox "
                 "(entry, topic, headers, payload) VALUES (1, 'dlq', %s, x'')",
                 bad[i]);
        assert_int_equal(fixture_foreign_sql(f->path, sql), SQLITE_OK);
        f->store = fixture_open_path(f->path);
        assert_int_equal(store_load_outbox(f->store, print_outbox, &out), ERR_CORRUPT);
        assert_non_null(strstr(store_why(f->store), "malformed"));
        buf_free(&out);
    }
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(sources_keep_their_numbers),       TEST(confirmed_offsets_are_replaced),
        TEST(ended_ids_load_oldest_first),      TEST(forgetting_an_unknown_id_fails_the_store),
        TEST(outbox_keeps_payload_and_headers), TEST(malformed_headers_are_told),
    };

    return cmocka_run_group_tests_name("store/sides", tests, NULL, NULL);
}
