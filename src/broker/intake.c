/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/intake.h"

#include <stdio.h>

#include "base/clock.h"
#include "broker/meters.h"

/* Years 1 to 9999, the range of google.protobuf.Timestamp. */
#define TIMESTAMP_MIN_S (-62135596800)
#define TIMESTAMP_MAX_S 253402300799

static int64_t received_at_ms(const struct activation *parsed, int64_t wall_ms)
{
    if (!parsed->has_received_at || parsed->received_at_s < TIMESTAMP_MIN_S ||
        parsed->received_at_s > TIMESTAMP_MAX_S || parsed->received_at_ns < 0 ||
        parsed->received_at_ns > 999999999)
        return wall_ms;
    return parsed->received_at_s * 1000 + parsed->received_at_ns / 1000000;
}

static const char *check_names(const struct activation *parsed)
{
    if (parsed->id.len > INTAKE_NAME_MAX)
        return "id is longer than 1024 bytes";
    if (parsed->application.len > INTAKE_NAME_MAX)
        return "application is longer than 1024 bytes";
    if (parsed->namespace.len > INTAKE_NAME_MAX)
        return "namespace is longer than 1024 bytes";
    if (parsed->taskname.len > INTAKE_NAME_MAX)
        return "taskname is longer than 1024 bytes";
    return NULL;
}

static const char *check_values(const struct activation *parsed, int64_t received_ms)
{
    int32_t action = parsed->retry_state.on_attempts_exceeded;
    if (parsed->retry_state.present &&
        (action < ON_ATTEMPTS_EXCEEDED_UNSPECIFIED || action > ON_ATTEMPTS_EXCEEDED_DEADLETTER))
        return "retry_state.on_attempts_exceeded is not a known value";
    if (parsed->has_expires && parsed->expires > (uint64_t)(TIMESTAMP_MAX_S - received_ms / 1000))
        return "expires lies beyond the year 9999";
    return NULL;
}

static void derive_times(struct intake_item *item, const struct intake_limits *limits)
{
    const struct activation *parsed = &item->parsed;
    item->expires_at_ms = CLOCK_NEVER;
    if (parsed->has_expires)
        item->expires_at_ms = item->received_at_ms + (int64_t)parsed->expires * 1000;
    item->delay_until_ms = INT64_MIN;
    if (parsed->has_delay) {
        item->delay_cut = parsed->delay > limits->delay_max_s;
        uint64_t delay_s = item->delay_cut ? limits->delay_max_s : parsed->delay;
        item->delay_until_ms = clock_add(item->received_at_ms, (int64_t)delay_s * 1000);
    }
    uint64_t duration_s = parsed->processing_deadline_duration;
    item->duration_s = duration_s > INT32_MAX ? INT32_MAX : (int64_t)duration_s;
    if (parsed->retry_state.present)
        item->on_attempts_exceeded = (uint8_t)parsed->retry_state.on_attempts_exceeded;
}

/* The reason why the payload cannot be a row; NULL and item->parsed filled when it can. */
static const char *examine(struct intake_item *item, struct bytes payload,
                           const struct intake_limits *limits, int64_t wall_ms, const char **detail)
{
    if (payload.len > limits->payload_max)
        return "too large";
    if (activation_parse(payload, &item->parsed, detail))
        return "not a TaskActivation";
    *detail = check_names(&item->parsed);
    if (*detail)
        return "name too long";
    item->received_at_ms = received_at_ms(&item->parsed, wall_ms);
    *detail = check_values(&item->parsed, item->received_at_ms);
    return *detail ? "value out of range" : NULL;
}

void intake_record(struct intake_item *item, const struct topic_record *record,
                   const struct intake_limits *limits, int64_t wall_ms)
{
    *item = (struct intake_item){.partition = record->partition, .offset = record->offset};
    if (record->tombstone) {
        item->reason = "null payload";
        return;
    }
    item->blob = blob_copy(record->payload);
    intake_examine(item, limits, wall_ms);
}

void intake_examine(struct intake_item *item, const struct intake_limits *limits, int64_t wall_ms)
{
    const char *detail = NULL;
    item->reason = examine(item, blob_bytes(item->blob), limits, wall_ms, &detail);
    if (item->reason)
        snprintf(item->detail, sizeof item->detail, "%s", detail ? detail : "");
    else
        derive_times(item, limits);
}

int intake_check(struct bytes payload, const struct intake_limits *limits, const char **why)
{
    struct intake_item item = {0};
    const char *detail = NULL;
    const char *reason = examine(&item, payload, limits, 0, &detail);
    if (!reason)
        return 0;
    *why = detail ? detail : reason;
    return payload.len > limits->payload_max ? ERR_TOO_LARGE : ERR_MALFORMED;
}

void intake_measure(const struct intake_meter *meter, const struct intake_item *item,
                    const struct topic_record *record, const struct intake_raw *raw)
{
    if (item->reason) /* nobody's */
        return;
    const struct activation *parsed = &item->parsed;
    const struct bytes *tags =
        METER_TAGS(bytes_str(meter->topic), parsed->namespace, parsed->taskname);
    enum meter size = raw ? METER_RAW_SIZE : METER_PAYLOAD_SIZE;
    metric_observe(meter_cached(&meter->cache[0], meter->meters, size, tags), record->payload.len);
    if (raw && raw->compression_level != INTAKE_RAW_PLAIN)
        metric_observe(
            meter_cached(&meter->cache[1], meter->meters, METER_RAW_COMPRESSED_SIZE, tags),
            parsed->parameters_bytes.len);
}

void intake_item_clear(struct intake_item *item)
{
    blob_unref(item->blob);
    item->blob = NULL;
}
