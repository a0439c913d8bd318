/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/topic_ports.h"

#include <stdio.h>

#include "base/clock.h"

static size_t credit(void *ctx, size_t wanted)
{
    struct source_port *port = ctx;
    return gate_take(port->gate, wanted);
}

static void credit_return(void *ctx, size_t unused)
{
    struct source_port *port = ctx;
    gate_return(port->gate, unused);
}

static void decode(struct source_port *port, struct intake_item *item,
                   const struct topic_record *record, int64_t wall_ms)
{
    if (port->raw)
        intake_raw_record(item, record, port->raw, &port->intake, wall_ms);
    else
        intake_record(item, record, &port->intake, wall_ms);
    const struct intake_meter meter = {
        .meters = port->meters, .topic = port->topic, .cache = port->sizes};
    intake_measure(&meter, item, record, port->raw);
}

static void records(void *ctx, const struct topic_record *records, size_t count)
{
    struct source_port *port = ctx;
    struct engine_records *event =
        engine_event_new(EVENT_RECORDS, sizeof *event + count * sizeof event->items[0]);
    event->source = port->index;
    event->count = count;
    int64_t wall_ms = clock_wall_ms();
    for (size_t i = 0; i < count; i++)
        decode(port, &event->items[i], &records[i], wall_ms);
    inbox_push(port->inbox, &event->event.node);
}

static void assigned(void *ctx, const struct topic_position *positions, size_t count)
{
    struct source_port *port = ctx;
    struct engine_positions *event =
        engine_positions_event(EVENT_ASSIGNED, port->index, positions, count);
    inbox_push(port->inbox, &event->event.node);
}

static void answered(void *ctx, const struct topic_position *position, int code)
{
    struct source_port *port = ctx;
    struct engine_positions *event =
        engine_positions_event(EVENT_ANSWERED, port->index, position, 1);
    event->code = code;
    inbox_push(port->inbox, &event->event.node);
}

static struct engine_partitions *partitions_event(const struct source_port *port,
                                                  enum engine_event_kind kind,
                                                  const int32_t *partitions, size_t count)
{
    struct engine_partitions *event =
        engine_event_new(kind, sizeof *event + count * sizeof event->partitions[0]);
    event->source = port->index;
    event->count = count;
    if (count)
        memcpy(event->partitions, partitions, count * sizeof *partitions);
    return event;
}

static void revoking(void *ctx, const int32_t *partitions, size_t count)
{
    struct source_port *port = ctx;
    inbox_push(port->inbox, &partitions_event(port, EVENT_REVOKING, partitions, count)->event.node);
}

static void committed(void *ctx, int32_t partition, int64_t next_offset)
{
    struct source_port *port = ctx;
    struct engine_partitions *event = partitions_event(port, EVENT_COMMITTED, &partition, 1);
    event->next_offset = next_offset;
    inbox_push(port->inbox, &event->event.node);
}

static void failed(void *ctx, int code, const char *why)
{
    struct source_port *port = ctx;
    struct engine_source_failed *event = engine_event_new(EVENT_SOURCE_FAILED, sizeof *event);
    event->source = port->index;
    event->code = code;
    snprintf(event->why, sizeof event->why, "%s", why);
    inbox_push(port->inbox, &event->event.node);
}

void source_port_events(struct source_port *port, struct topic_source_events *events)
{
    *events = (struct topic_source_events){
        .ctx = port,
        .credit = credit,
        .credit_return = credit_return,
        .records = records,
        .assigned = assigned,
        .revoking = revoking,
        .committed = committed,
        .answered = answered,
        .failed = failed,
    };
}

static void delivered(void *ctx, void *opaque, enum topic_delivery delivery, const char *why)
{
    struct engine_delivered *event = engine_event_new(EVENT_DELIVERED, sizeof *event);
    event->opaque = opaque;
    event->delivery = delivery;
    snprintf(event->why, sizeof event->why, "%s", why ? why : "");
    inbox_push(ctx, &event->event.node);
}

void sink_port_events(struct inbox *inbox, struct topic_sink_events *events)
{
    *events = (struct topic_sink_events){.ctx = inbox, .delivered = delivered};
}
