/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/mem.h"
#include "recorder.h"
#include "topic/embedded.h"

/* A storage of two topics in memory, with a committed and an uncommitted image. */

#define KEPT 16384

struct image {
    int64_t low, high;
    struct blob *records[KEPT]; /* by offset; NULL: none; each holds a reference */
};

struct storage {
    struct image now, durable;
    size_t appends, trims, reads;
    int fail; /* of the next call */
};

static struct storage storages[2];

static struct storage *of(const char *topic)
{
    return &storages[!strcmp(topic, "dlq")];
}

static void copy_image(struct image *to, const struct image *from)
{
    to->low = from->low;
    to->high = from->high;
    for (size_t i = 0; i < KEPT; i++) {
        struct blob *old = to->records[i];
        to->records[i] = blob_ref(from->records[i]);
        blob_unref(old);
    }
}

static void drop_record(struct image *image, int64_t offset)
{
    blob_unref(image->records[offset]);
    image->records[offset] = NULL;
}

static int take_failure(struct storage *s)
{
    int rv = s->fail;

    s->fail = 0;
    return rv;
}

static int io_append(void *ctx, const char *topic, int64_t offset, struct bytes payload,
                     const struct topic_header *headers, size_t header_count)
{
    struct storage *s = of(topic);

    (void)ctx;
    (void)headers;
    (void)header_count;
    assert_true(offset >= s->now.high && offset < KEPT);
    s->now.records[offset] = blob_copy(payload);
    s->now.high = offset + 1;
    s->appends++;
    return take_failure(s);
}

static int io_trim(void *ctx, const char *topic, int64_t next_offset)
{
    struct storage *s = of(topic);

    (void)ctx;
    for (int64_t i = s->now.low; i < next_offset; i++)
        drop_record(&s->now, i);
    s->now.low = next_offset;
    s->now.high = s->now.high < next_offset ? next_offset : s->now.high;
    s->trims++;
    return take_failure(s);
}

static int io_read(void *ctx, const char *topic, int64_t from, size_t max,
                   void (*each)(void *each_ctx, int64_t offset, struct bytes payload,
                                const struct topic_header *headers, size_t header_count),
                   void *each_ctx)
{
    struct storage *s = of(topic);

    (void)ctx;
    s->reads++;
    for (int64_t i = from; i < s->now.high && max > 0; i++) {
        if (!s->now.records[i])
            continue;
        each(each_ctx, i, blob_bytes(s->now.records[i]), NULL, 0);
        max--;
    }
    return take_failure(s);
}

static int io_bounds(void *ctx, const char *topic, int64_t *low, int64_t *high)
{
    (void)ctx;
    *low = of(topic)->now.low;
    *high = of(topic)->now.high;
    return take_failure(of(topic));
}

static const struct embedded_io io = {
    .append = io_append, .trim = io_trim, .read = io_read, .bounds = io_bounds};

/* The engine. */

static struct embedded_log *elog;
static struct topic_source *source;
static struct topic_sink *sink;
static struct recorder recorder;
static size_t delivered, failed;

static void on_delivered(void *ctx, void *opaque, enum topic_delivery delivery, const char *why)
{
    (void)ctx;
    (void)why;
    delivered += delivery == TOPIC_DELIVERED;
    failed += delivery != TOPIC_DELIVERED;
    ++*(int *)opaque;
}

static void open_log(void)
{
    const struct topic_sink_events events = {.delivered = on_delivered};
    struct err_text why;

    elog = embedded_log_new(&io);
    assert_int_equal(embedded_source_new(&source, elog, "tasks", &why), 0);
    assert_int_equal(embedded_sink_new(&sink, elog, &events, &why), 0);
    recorder.source = source;
    assert_int_equal(source->ops->start(source, &recorder.events, &why), 0);
}

static void close_log(void)
{
    source->ops->stop(source, 0);
    source->ops->destroy(source);
    sink->ops->stop(sink, 0);
    sink->ops->destroy(sink);
    embedded_log_free(elog);
}

static int commit_turn(void)
{
    int rv = embedded_log_write(elog);

    if (rv)
        return rv;
    for (size_t i = 0; i < 2; i++)
        copy_image(&storages[i].durable, &storages[i].now);
    embedded_log_committed(elog);
    return 0;
}

static int turn(void)
{
    source->ops->poll(source);
    sink->ops->poll(sink);
    return commit_turn();
}

/* The process dies: what was not committed is gone. */
static void crash(void)
{
    close_log();
    for (size_t i = 0; i < 2; i++)
        copy_image(&storages[i].now, &storages[i].durable);
    recorder_free(&recorder);
    recorder_init(&recorder);
    open_log();
}

static void append(const char *topic, int first, int count)
{
    for (int i = first; i < first + count; i++) {
        char text[16];
        int64_t offset;
        snprintf(text, sizeof(text), "%d", i);
        assert_int_equal(embedded_log_append(elog, topic, bytes_str(text), NULL, 0, &offset), 0);
    }
}

static void check_received(int count)
{
    assert_int_equal(recorder.record_count, count);
    assert_int_equal(recorder.out_of_order, 0);
    for (int i = 0; i < count; i++) {
        char text[16];
        snprintf(text, sizeof(text), "%d", i);
        assert_string_equal(recorder.records[i].payload, text);
    }
}

static int set_up(void **state)
{
    (void)state;
    memset(storages, 0, sizeof(storages));
    delivered = failed = 0;
    recorder_init(&recorder);
    open_log();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    close_log();
    recorder_free(&recorder);
    for (size_t i = 0; i < 2; i++) {
        for (int64_t k = 0; k < KEPT; k++) {
            drop_record(&storages[i].now, k);
            drop_record(&storages[i].durable, k);
        }
    }
    return 0;
}

static void what_is_taken_at_once_is_never_stored(void **state)
{
    (void)state;
    recorder.credit = 100;
    append("tasks", 0, 10);
    assert_true(embedded_log_has_work(elog));
    assert_int_equal(turn(), 0);
    check_received(10);
    assert_int_equal(storages[0].appends, 0);
    assert_int_equal(storages[0].durable.low, 10);
    assert_int_equal(storages[0].durable.high, 10);
    assert_false(embedded_log_has_work(elog));
    assert_int_equal(recorder.credit, 90);
    assert_int_equal(recorder.credit_taken, 0);
}

static void offsets_go_on_after_a_restart_with_an_empty_log(void **state)
{
    (void)state;
    int64_t offset;
    recorder.credit = 100;
    append("tasks", 0, 10);
    turn();
    crash();
    assert_int_equal(embedded_log_append(elog, "tasks", bytes_str("x"), NULL, 0, &offset), 0);
    assert_int_equal(offset, 10);
}

static void what_has_no_credit_is_stored_and_delivered_later_in_order(void **state)
{
    (void)state;
    recorder.credit = 3;
    append("tasks", 0, 10);
    turn();
    check_received(3);
    assert_int_equal(storages[0].appends, 7);
    assert_int_equal(embedded_log_waiting(elog), 7);
    assert_false(embedded_log_has_work(elog)); /* blocked */
    recorder_set_credit(&recorder, 100);
    assert_true(embedded_log_has_work(elog));
    append("tasks", 10, 5);
    turn();
    check_received(15);
    assert_int_equal(storages[0].reads, 0); /* all of it was still in memory */
    assert_int_equal(storages[0].durable.low, 15);
}

static void a_crash_leaves_each_record_once(void **state)
{
    (void)state;
    recorder.credit = 4;
    append("tasks", 0, 10);
    turn();
    append("tasks", 10, 5); /* never committed */
    crash();
    recorder.credit = 100;
    turn();
    assert_int_equal(recorder.assigned[0].start_offset, 4);
    assert_int_equal(recorder.record_count, 6);
    assert_string_equal(recorder.records[0].payload, "4");
    assert_int_equal(storages[0].reads, 1);
    assert_int_equal(storages[0].durable.low, 10);
}

static void a_delivery_that_was_not_committed_is_repeated(void **state)
{
    (void)state;
    append("tasks", 0, 5);
    turn();
    recorder_set_credit(&recorder, 100);
    source->ops->poll(source);
    check_received(5);
    crash();
    recorder.credit = 100;
    turn();
    check_received(5);
}

static void a_long_backlog_is_read_back_in_bounded_turns(void **state)
{
    (void)state;
    char *big = mem_zalloc(4000);
    int64_t offset;
    for (int i = 0; i < 5000; i++) { /* 20 MB: more than is kept in memory */
        snprintf(big, 4000, "%d", i);
        assert_int_equal(embedded_log_append(elog, "tasks", bytes_of(big, 4000), NULL, 0, &offset),
                         0);
    }
    mem_free(big);
    turn();
    recorder_set_credit(&recorder, 10000);
    turn();
    assert_true(recorder.record_count >= 4096 && recorder.record_count < 5000);
    assert_true(embedded_log_has_work(elog));
    turn();
    check_received(5000);
    assert_true(storages[0].reads > 0);
    assert_false(embedded_log_has_work(elog));
    uint64_t records, bytes;
    embedded_log_size(elog, &records, &bytes);
    assert_int_equal(records, 0);
    assert_int_equal(bytes, 0);
}

static void gaps_in_the_storage_are_stepped_over(void **state)
{
    (void)state;
    append("tasks", 0, 12);
    turn();
    crash();
    drop_record(&storages[0].now, 0);
    drop_record(&storages[0].now, 5);
    drop_record(&storages[0].now, 11);
    append("tasks", 12, 2);
    recorder_set_credit(&recorder, 100);
    turn();
    turn();
    assert_int_equal(recorder.record_count, 11);
    assert_int_equal(recorder.out_of_order, 0);
    assert_string_equal(recorder.records[0].payload, "1");
    assert_string_equal(recorder.records[10].payload, "13");
    assert_int_equal(recorder.credit_taken, 0);
    assert_false(embedded_log_has_work(elog));
}

static void commits_are_confirmed_at_once(void **state)
{
    (void)state;
    recorder.credit = 100;
    append("tasks", 0, 5);
    turn();
    source->ops->commit(source, 0, 5, bytes_str("me@0"), true);
    assert_int_equal(recorder.committed[0], 5);
    source->ops->ask(source, 0);
    source->ops->ask(source, 3);
    assert_true(embedded_log_has_work(elog));
    source->ops->poll(source);
    assert_int_equal(recorder.answered_count, 2);
    assert_int_equal(recorder.answer.code, ERR_UNAVAILABLE); /* there is no partition 3 */
    source->ops->ask(source, 0);
    source->ops->poll(source);
    assert_int_equal(recorder.answer.code, 0);
    assert_int_equal(recorder.answer.committed, 5);
    assert_string_equal(recorder.answer.metadata, "me@0");
}

static void a_publication_is_reported_after_its_commit(void **state)
{
    (void)state;
    int first = 0, second = 0;
    const char *why;
    struct blob *payload = blob_copy(bytes_str("dead"));
    const struct topic_header header = {bytes_str("reason"), bytes_str("test")};
    assert_int_equal(sink->ops->produce(sink, "dlq", payload, &header, 1, &first, &why), 0);
    blob_unref(payload);
    sink->ops->poll(sink);
    assert_int_equal(first, 0);
    assert_int_equal(embedded_log_write(elog), 0);
    /* Came too late for this transaction. */
    assert_int_equal(sink->ops->produce(sink, "dlq", NULL, NULL, 0, &second, &why), 0);
    embedded_log_committed(elog);
    assert_int_equal(first, 0);
    assert_true(embedded_log_has_work(elog));
    sink->ops->poll(sink);
    assert_int_equal(first, 1);
    assert_int_equal(second, 0);
    turn();
    sink->ops->poll(sink);
    assert_int_equal(second, 1);
    assert_int_equal(delivered, 2);
    assert_int_equal(storages[1].durable.high, 2);
    /* A topic without a source just grows, and is nobody's backlog. */
    assert_int_equal(embedded_log_waiting(elog), 0);
    uint64_t records, bytes;
    embedded_log_size(elog, &records, &bytes);
    assert_int_equal(records, 2);
    assert_int_equal(bytes, 4);
}

static void headers_reach_the_source(void **state)
{
    (void)state;
    int opaque = 0;
    const char *why;
    const struct topic_header headers[] = {{bytes_str("a"), bytes_str("1")},
                                           {bytes_str("b"), bytes_of(NULL, 0)}};
    struct blob *payload = blob_copy(bytes_str("x"));
    sink->ops->produce(sink, "tasks", payload, headers, 2, &opaque, &why);
    blob_unref(payload);
    recorder.credit = 1;
    turn();
    sink->ops->poll(sink);
    assert_int_equal(opaque, 1);
    assert_int_equal(recorder.records[0].header_count, 2);
    assert_string_equal(recorder.records[0].header, "a=1");
}

static void storage_errors_reach_the_write(void **state)
{
    (void)state;
    int64_t offset;
    storages[1].fail = ERR_IO;
    assert_int_equal(embedded_log_append(elog, "dlq", bytes_str("x"), NULL, 0, &offset), ERR_IO);
    append("tasks", 0, 5);
    turn();
    crash();
    recorder.credit = 100;
    storages[0].fail = ERR_CORRUPT; /* of the read in poll() */
    assert_int_equal(turn(), ERR_CORRUPT);
    assert_int_equal(turn(), ERR_CORRUPT); /* and it stays so */
}

static void a_failed_append_or_trim_fails_the_write(void **state)
{
    (void)state;
    append("tasks", 0, 5);
    storages[0].fail = ERR_NO_SPACE;
    assert_int_equal(turn(), ERR_NO_SPACE);
}

static void a_topic_has_one_source(void **state)
{
    (void)state;
    struct topic_source *another;
    struct err_text why;
    assert_int_equal(embedded_source_new(&another, elog, "tasks", &why), ERR_EXISTS);
    assert_non_null(strstr(why.s, "tasks"));
}

static void stop_reports_what_was_never_committed(void **state)
{
    (void)state;
    int first = 0, second = 0;
    const char *why;
    sink->ops->produce(sink, "dlq", NULL, NULL, 0, &first, &why);
    commit_turn();
    sink->ops->produce(sink, "dlq", NULL, NULL, 0, &second, &why);
    sink->ops->stop(sink, 0);
    assert_int_equal(first, 1);
    assert_int_equal(second, 1);
    assert_int_equal(delivered, 1);
    assert_int_equal(failed, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_taken_at_once_is_never_stored),
        TEST(offsets_go_on_after_a_restart_with_an_empty_log),
        TEST(what_has_no_credit_is_stored_and_delivered_later_in_order),
        TEST(a_crash_leaves_each_record_once),
        TEST(a_delivery_that_was_not_committed_is_repeated),
        TEST(a_long_backlog_is_read_back_in_bounded_turns),
        TEST(gaps_in_the_storage_are_stepped_over),
        TEST(commits_are_confirmed_at_once),
        TEST(a_publication_is_reported_after_its_commit),
        TEST(headers_reach_the_source),
        TEST(storage_errors_reach_the_write),
        TEST(a_failed_append_or_trim_fails_the_write),
        TEST(a_topic_has_one_source),
        TEST(stop_reports_what_was_never_committed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
