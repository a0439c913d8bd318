/* SPDX-License-Identifier: Apache-2.0 */
#include "client/dispatch_kafka.h"

#include <stdio.h>

#include "base/clock.h"
#include "base/mem.h"
#include "topic/kafka.h"

#define MESSAGE_MAX_BYTES 50000000 /* what Python producers use; the topic has the last word */
/* librdkafka looks at time-outs once a second: so much earlier they start, that the reason comes
 * before we stop waiting for it. */
#define REPORT_MARGIN_MS 1500

struct kafka_out {
    struct topic_sink *sink;
    char *bootstrap;
    uint32_t timeout_s;
    struct deliveries *deliveries;
};

static void on_delivered(void *ctx, void *opaque, enum topic_delivery delivery, const char *why)
{
    struct kafka_out *out = (struct kafka_out *)ctx;
    int code = delivery == TOPIC_DELIVERED ? 0 : kafka_sink_fate(out->sink);

    delivery_done(out->deliveries, (struct delivery *)opaque, code, why ? why : "not delivered");
}

static uint32_t delivery_timeout_ms(uint32_t timeout_s)
{
    uint32_t timeout_ms = timeout_s > UINT32_MAX / 1000 ? UINT32_MAX : timeout_s * 1000;

    if (timeout_ms > INT32_MAX)
        timeout_ms = INT32_MAX;
    return timeout_ms > 2 * REPORT_MARGIN_MS ? timeout_ms - REPORT_MARGIN_MS : timeout_ms / 2;
}

struct kafka_out *kafka_out_new(const char *bootstrap, uint32_t timeout_s,
                                struct deliveries *deliveries)
{
    struct kafka_out *out = mem_zalloc(sizeof *out);
    uint32_t timeout_ms = delivery_timeout_ms(timeout_s);
    char patience[16];
    /* A topic that is not there is told as such, before the record's own time is over. */
    struct kafka_property property = {"topic.metadata.propagation.max.ms", patience};
    struct kafka_sink_options options = {
        .cluster = {.address = bootstrap, .properties = &property, .property_count = 1},
        .message_max_bytes = MESSAGE_MAX_BYTES,
        .delivery_timeout_ms = timeout_ms};
    struct topic_sink_events events = {.ctx = out, .delivered = on_delivered};

    snprintf(patience, sizeof patience, "%u", timeout_ms / 2 < 5000 ? timeout_ms / 2 : 5000);
    out->timeout_s = timeout_s;
    out->bootstrap = mem_strdup(bootstrap);
    out->deliveries = deliveries;
    if (kafka_sink_new(&out->sink, &options, &events, error_text()) == 0)
        return out;
    kafka_out_free(out);
    return NULL;
}

void kafka_out_free(struct kafka_out *out)
{
    if (out->sink != NULL) {
        out->sink->ops->stop(out->sink, delivery_timeout_ms(out->timeout_s));
        out->sink->ops->destroy(out->sink);
    }
    mem_free(out->bootstrap);
    mem_free(out);
}

static int produce(struct kafka_out *out, const struct dispatch_item *item,
                   struct delivery_group *group, int64_t until_ms)
{
    const struct delivery_watch watch = {item->on_delivery, item->arg, item->id};
    bool watched = group == NULL && item->on_delivery != NULL, full = false, more = true;
    struct delivery *delivery;
    uint64_t count = 0;
    const char *why = "";
    int rv = delivery_begin(out->deliveries, group, watched ? &watch : NULL, until_ms, &delivery);

    if (rv != 0)
        return rv;
    for (;;) {
        rv = out->sink->ops->produce(out->sink, item->topic, item->activation, NULL, 0, delivery,
                                     &why);
        if (rv != ERR_FULL || !more)
            break;
        if (full) /* again, since the count was read: so no delivery was missed */
            more = delivery_wait_more(out->deliveries, count, until_ms);
        count = delivery_count(out->deliveries);
        full = true;
    }
    if (rv == 0)
        return 0;
    delivery_cancel(out->deliveries, delivery);
    return error_set(rv, "Kafka topic %s: %s", item->topic, why);
}

/* What to do about it, for each kind of failure. */
static int explain(const struct kafka_out *out, int code, const char *topic,
                   const struct delivery_summary *summary)
{
    const char *why = summary->why.s;

    switch (code) {
    case ERR_NOT_FOUND:
        return error_set(code, "Kafka %s has no topic %s (%s): create it, or send to another one",
                         out->bootstrap, topic, why);
    case ERR_TOO_LARGE:
        return error_set(code,
                         "Kafka topic %s: %s: send less, or raise the topic's max.message.bytes",
                         topic, why);
    case ERR_DENIED:
        return error_set(code, "Kafka %s does not let us write to topic %s: %s", out->bootstrap,
                         topic, why);
    case ERR_UNAVAILABLE:
        return error_set(code,
                         "Kafka %s cannot be reached, or topic %s has no leader: %zu not sent (%s)",
                         out->bootstrap, topic, summary->failed, why);
    case ERR_TIMEOUT:
        return error_set(code,
                         "Kafka %s has not confirmed %zu for topic %s in %u s; whether they were "
                         "written is not known",
                         out->bootstrap, summary->failed ? summary->failed : summary->open, topic,
                         out->timeout_s);
    default:
        return error_set(code, "Kafka topic %s: %s", topic, why);
    }
}

int kafka_out_send(struct kafka_out *out, const struct dispatch_item *items, size_t count,
                   bool wait, size_t *accepted)
{
    struct delivery_group *group = wait ? delivery_group_new() : NULL;
    int64_t until_ms = clock_add(clock_boot_ms(), (int64_t)out->timeout_s * 1000);
    struct delivery_summary summary;
    struct err_text why;
    size_t i;
    int rv = 0, awaited = 0;

    for (i = 0; i < count && rv == 0; i++)
        rv = produce(out, &items[i], group, until_ms);
    if (!wait) {
        *accepted = rv == 0 ? count : i - 1;
        return rv;
    }
    why = *error_text();
    awaited = delivery_await(out->deliveries, group, until_ms, &summary);
    *accepted = rv == 0 && awaited == 0 ? count : 0;
    if (rv != 0) /* What was refused at once explains more than what followed. */
        return error_set(rv, "%s", why.s);
    return awaited == 0 ? 0 : explain(out, awaited, items[0].topic, &summary);
}
