/* SPDX-License-Identifier: Apache-2.0 */
/* What another thread's source and sink say, as events. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/list.h"
#include "base/mem.h"
#include "broker/topic_ports.h"

struct fixture {
    struct inbox inbox;
    struct gate gate;
    struct source_port port;
    struct meters *meters;
    struct topic_source_events events;
};

static int set_up(void **state)
{
    struct fixture *f = mem_zalloc(sizeof *f);
    assert_int_equal(inbox_init(&f->inbox), 0);
    gate_init(&f->gate);
    f->meters = meters_new();
    f->port = (struct source_port){.inbox = &f->inbox,
                                   .gate = &f->gate,
                                   .intake = {.payload_max = 100, .delay_max_s = 10},
                                   .index = 3,
                                   .topic = "t",
                                   .meters = f->meters};
    source_port_events(&f->port, &f->events);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    assert_null(inbox_take(&f->inbox, SIZE_MAX));
    inbox_destroy(&f->inbox);
    meters_free(f->meters);
    mem_free(f);
    return 0;
}

/* The only event in the inbox. */
static struct engine_event *only(struct fixture *f, enum engine_event_kind kind)
{
    struct inbox_node *node = inbox_take(&f->inbox, SIZE_MAX);
    assert_non_null(node);
    assert_null(node->next);
    struct engine_event *event = container_of(node, struct engine_event, node);
    assert_int_equal(event->kind, kind);
    return event;
}

static void credit_is_the_gates(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(f->events.credit(f->events.ctx, 5), 0);
    gate_open(&f->gate, 4);
    assert_int_equal(f->events.credit(f->events.ctx, 5), 4);
    f->events.credit_return(f->events.ctx, 1);
    assert_int_equal(f->events.credit(f->events.ctx, 5), 1);
}

static void records_are_decoded_on_their_way(void **state)
{
    struct fixture *f = *state;
    struct topic_record records[] = {
        {.partition = 1, .offset = 10, .payload = bytes_str("\xff")},
        {.partition = 1, .offset = 11, .tombstone = true},
    };
    f->events.records(f->events.ctx, records, 2);
    struct engine_records *event =
        container_of(only(f, EVENT_RECORDS), struct engine_records, event);
    assert_int_equal(event->source, 3);
    assert_int_equal(event->count, 2);
    assert_int_equal(event->next, 0);
    assert_string_equal(event->items[0].reason, "not a TaskActivation");
    assert_int_equal(event->items[1].offset, 11);
    assert_string_equal(event->items[1].reason, "null payload");
    intake_item_clear(&event->items[0]);
    mem_free(event);
}

static void records_of_a_raw_topic_are_wrapped(void **state)
{
    struct fixture *f = *state;
    const struct intake_raw raw = {.cluster = "main",
                                   .topic = "events",
                                   .application = "app",
                                   .namespace = "ns",
                                   .taskname = "task",
                                   .compression_level = INTAKE_RAW_PLAIN};
    struct topic_record record = {.partition = 1, .offset = 10, .payload = bytes_str("\xff")};
    f->port.raw = &raw;
    f->port.intake.payload_max = 200;
    f->events.records(f->events.ctx, &record, 1);
    struct engine_records *event =
        container_of(only(f, EVENT_RECORDS), struct engine_records, event);
    assert_null(event->items[0].reason);
    assert_true(bytes_equal_str(event->items[0].parsed.taskname, "task"));
    intake_item_clear(&event->items[0]);
    mem_free(event);
}

static void positions_keep_their_metadata(void **state)
{
    struct fixture *f = *state;
    char metadata[600];
    memset(metadata, 'm', sizeof metadata);
    struct topic_position positions[] = {
        {.partition = 0, .start_offset = 5, .committed = 5, .metadata = bytes_str("tm1:x")},
        {.partition = 1, .metadata = bytes_of(metadata, sizeof metadata)},
    };
    f->events.assigned(f->events.ctx, positions, 2);
    memset(positions, 0, sizeof positions);
    struct engine_positions *event =
        container_of(only(f, EVENT_ASSIGNED), struct engine_positions, event);
    assert_int_equal(event->count, 2);
    assert_int_equal(event->positions[0].position.start_offset, 5);
    assert_int_equal(event->positions[0].metadata_len, 5);
    assert_memory_equal(event->positions[0].metadata, "tm1:x", 5);
    assert_int_equal(event->positions[1].metadata_len, 0); /* not one of ours: no list */
    mem_free(event);
}

static void an_answer_carries_its_code(void **state)
{
    struct fixture *f = *state;
    struct topic_position position = {.partition = 7};
    f->events.answered(f->events.ctx, &position, ERR_UNAVAILABLE);
    struct engine_positions *event =
        container_of(only(f, EVENT_ANSWERED), struct engine_positions, event);
    assert_int_equal(event->code, ERR_UNAVAILABLE);
    assert_int_equal(event->positions[0].position.partition, 7);
    mem_free(event);
}

static void partitions_that_come_and_go(void **state)
{
    struct fixture *f = *state;
    f->events.revoking(f->events.ctx, (const int32_t[]){4, 2}, 2);
    struct engine_partitions *event =
        container_of(only(f, EVENT_REVOKING), struct engine_partitions, event);
    assert_int_equal(event->count, 2);
    assert_int_equal(event->partitions[1], 2);
    mem_free(event);
    f->events.committed(f->events.ctx, 4, 99);
    event = container_of(only(f, EVENT_COMMITTED), struct engine_partitions, event);
    assert_int_equal(event->partitions[0], 4);
    assert_int_equal(event->next_offset, 99);
    mem_free(event);
}

static void a_failure_keeps_its_words(void **state)
{
    struct fixture *f = *state;
    f->events.failed(f->events.ctx, ERR_NOT_FOUND, "no such topic");
    struct engine_source_failed *event =
        container_of(only(f, EVENT_SOURCE_FAILED), struct engine_source_failed, event);
    assert_int_equal(event->code, ERR_NOT_FOUND);
    assert_string_equal(event->why, "no such topic");
    mem_free(event);
}

static void deliveries(void **state)
{
    struct fixture *f = *state;
    struct topic_sink_events events;
    int opaque;
    sink_port_events(&f->inbox, &events);
    events.delivered(events.ctx, &opaque, TOPIC_FAILED, NULL);
    struct engine_delivered *event =
        container_of(only(f, EVENT_DELIVERED), struct engine_delivered, event);
    assert_ptr_equal(event->opaque, &opaque);
    assert_int_equal(event->delivery, TOPIC_FAILED);
    assert_string_equal(event->why, "");
    mem_free(event);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(credit_is_the_gates),
        TEST(records_are_decoded_on_their_way),
        TEST(records_of_a_raw_topic_are_wrapped),
        TEST(positions_keep_their_metadata),
        TEST(an_answer_carries_its_code),
        TEST(partitions_that_come_and_go),
        TEST(a_failure_keeps_its_words),
        TEST(deliveries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
