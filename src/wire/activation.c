/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading is one walk over the records; nested messages are walked where they stand. A field that
 * occurs again overwrites (scalars) or continues (received_at, retry_state) what was read before,
 * so the structs are filled in wire order and nothing else is needed for "last wins" and "messages
 * merge".
 *
 * Rewriting drops every record of a field that changes and writes one new record in front of the
 * rest. The nested messages keep their other fields: the new record holds the remains of all
 * occurrences, in wire order, and then the new values, which is what merging them would have given.
 */
#include "wire/activation.h"

#include <assert.h>

#include "wire/pb.h"

enum activation_field {
    FIELD_ID = 1,
    FIELD_NAMESPACE = 2,
    FIELD_TASKNAME = 3,
    FIELD_PARAMETERS = 4,
    FIELD_HEADERS = 5,
    FIELD_RECEIVED_AT = 6,
    FIELD_RETRY_STATE = 7,
    FIELD_PROCESSING_DEADLINE = 8,
    FIELD_EXPIRES = 9,
    FIELD_DELAY = 11,
    FIELD_APPLICATION = 12,
    FIELD_PARAMETERS_BYTES = 13
};

enum header_field { HEADER_KEY = 1, HEADER_VALUE = 2 };

enum timestamp_field { TIMESTAMP_SECONDS = 1, TIMESTAMP_NANOS = 2 };

enum retry_field {
    RETRY_ATTEMPTS = 1,
    RETRY_MAX_ATTEMPTS = 2,
    RETRY_ON_ATTEMPTS_EXCEEDED = 3,
    RETRY_AT_MOST_ONCE = 4,
    RETRY_DELAY_ON_RETRY = 5
};

#define NESTED_DEPTH 1

static int parse_timestamp(struct bytes message, struct activation *out, const char **why)
{
    struct pb_reader reader = pb_reader_init(message, NESTED_DEPTH);
    struct pb_field field;
    int rv;
    while ((rv = pb_next(&reader, &field, why)) > 0) {
        if (field.type != PB_VARINT)
            continue;
        if (field.number == TIMESTAMP_SECONDS)
            out->received_at_s = (int64_t)field.value;
        else if (field.number == TIMESTAMP_NANOS)
            out->received_at_ns = (int32_t)field.value;
    }
    if (rv < 0)
        return pb_fault(why, "received_at: malformed timestamp");
    out->has_received_at = true;
    return 0;
}

static int parse_retry_state(struct bytes message, struct retry_state *out, const char **why)
{
    struct pb_reader reader = pb_reader_init(message, NESTED_DEPTH);
    struct pb_field field;
    int rv;
    while ((rv = pb_next(&reader, &field, why)) > 0) {
        if (field.type != PB_VARINT)
            continue;
        switch (field.number) {
        case RETRY_ATTEMPTS:
            out->attempts = (uint32_t)field.value;
            break;
        case RETRY_MAX_ATTEMPTS:
            out->max_attempts = (uint32_t)field.value;
            break;
        case RETRY_ON_ATTEMPTS_EXCEEDED:
            out->on_attempts_exceeded = (int32_t)field.value;
            break;
        case RETRY_AT_MOST_ONCE:
            out->has_at_most_once = true;
            out->at_most_once = field.value != 0;
            break;
        case RETRY_DELAY_ON_RETRY:
            out->has_delay_on_retry = true;
            out->delay_on_retry = field.value;
            break;
        default:
            break;
        }
    }
    if (rv < 0)
        return pb_fault(why, "retry_state: malformed message");
    out->present = true;
    return 0;
}

/* *foreign: the entry holds a field of its own. upb then keeps the whole entry as an unknown field,
 * so that for the worker the map has no such key; yet its strings must be valid. */
static int parse_header(struct bytes entry, struct activation_header *out, bool *foreign,
                        const char **why)
{
    struct pb_reader reader = pb_reader_init(entry, NESTED_DEPTH);
    struct pb_field field;
    int rv;
    *out = (struct activation_header){0};
    *foreign = false;
    while ((rv = pb_next(&reader, &field, why)) > 0) {
        bool is_key = field.number == HEADER_KEY;
        if (field.type != PB_LEN || (!is_key && field.number != HEADER_VALUE)) {
            *foreign = true;
            continue;
        }
        rv = pb_take_text(
            &field, is_key ? &out->key : &out->value,
            is_key ? "headers: key is not valid UTF-8" : "headers: value is not valid UTF-8", why);
        if (rv < 0)
            return rv;
    }
    return rv < 0 ? pb_fault(why, "headers: malformed entry") : 0;
}

static int take_len_field(const struct pb_field *field, struct activation *out, const char **why)
{
    struct activation_header header;
    bool foreign;
    switch (field->number) {
    case FIELD_ID:
        return pb_take_text(field, &out->id, "id: not valid UTF-8", why);
    case FIELD_NAMESPACE:
        return pb_take_text(field, &out->namespace, "namespace: not valid UTF-8", why);
    case FIELD_TASKNAME:
        return pb_take_text(field, &out->taskname, "taskname: not valid UTF-8", why);
    case FIELD_PARAMETERS:
        return pb_take_text(field, &out->parameters, "parameters: not valid UTF-8", why);
    case FIELD_HEADERS:
        return parse_header(field->data, &header, &foreign, why);
    case FIELD_RECEIVED_AT:
        return parse_timestamp(field->data, out, why);
    case FIELD_RETRY_STATE:
        return parse_retry_state(field->data, &out->retry_state, why);
    case FIELD_APPLICATION:
        out->has_application = true;
        return pb_take_text(field, &out->application, "application: not valid UTF-8", why);
    case FIELD_PARAMETERS_BYTES:
        out->parameters_bytes = field->data;
        return 0;
    default:
        return 0;
    }
}

static void take_varint_field(const struct pb_field *field, struct activation *out)
{
    switch (field->number) {
    case FIELD_PROCESSING_DEADLINE:
        out->processing_deadline_duration = field->value;
        break;
    case FIELD_EXPIRES:
        out->has_expires = true;
        out->expires = field->value;
        break;
    case FIELD_DELAY:
        out->has_delay = true;
        out->delay = field->value;
        break;
    default:
        break;
    }
}

int activation_parse(struct bytes payload, struct activation *out, const char **why)
{
    struct pb_reader reader = pb_reader_init(payload, 0);
    struct pb_field field;
    int rv;
    *out = (struct activation){0};
    while ((rv = pb_next(&reader, &field, why)) > 0) {
        if (field.type == PB_VARINT)
            take_varint_field(&field, out);
        else if (field.type == PB_LEN && (rv = take_len_field(&field, out, why)) < 0)
            return rv;
    }
    return rv;
}

void activation_each_header(struct bytes payload, activation_header_fn each, void *ctx)
{
    struct pb_reader reader = pb_reader_init(payload, 0);
    struct pb_field field;
    struct activation_header header;
    const char *why;
    bool foreign;
    while (pb_next(&reader, &field, &why) > 0) {
        if (field.number != FIELD_HEADERS || field.type != PB_LEN)
            continue;
        if (parse_header(field.data, &header, &foreign, &why) == 0 && !foreign)
            each(ctx, header.key, header.value);
    }
}

struct header_search {
    struct bytes key, value;
    bool found;
};

static void match_header(void *ctx, struct bytes key, struct bytes value)
{
    struct header_search *search = ctx;
    if (bytes_equal(key, search->key)) {
        search->value = value;
        search->found = true;
    }
}

bool activation_header(struct bytes payload, const char *key, struct bytes *value)
{
    struct header_search search = {.key = bytes_str(key)};
    activation_each_header(payload, match_header, &search);
    if (search.found)
        *value = search.value;
    return search.found;
}

/* An edit, resolved against the payload it applies to. */
struct rewrite {
    const struct activation_edit *edit;
    bool id, received_at, delay;
    bool retry_state, attempts;
};

static struct rewrite rewrite_plan(const struct activation_edit *edit, const struct activation *old)
{
    bool attempts = edit->attempts_add != 0 && old->retry_state.present;
    return (struct rewrite){
        .edit = edit,
        .id = edit->set_id,
        .received_at = edit->set_received_at,
        .delay = edit->set_delay || edit->clear_delay,
        .retry_state = attempts || edit->set_max_attempts || edit->set_delay_on_retry,
        .attempts = attempts,
    };
}

/* Only a record of the field's own wire type is the field; any other is an unknown field and stays.
 */
static bool field_is_replaced(const struct rewrite *plan, const struct pb_field *field)
{
    if (field->type == PB_VARINT)
        return field->number == FIELD_DELAY && plan->delay;
    if (field->type != PB_LEN)
        return false;
    return (field->number == FIELD_ID && plan->id) ||
           (field->number == FIELD_RECEIVED_AT && plan->received_at) ||
           (field->number == FIELD_RETRY_STATE && plan->retry_state);
}

static bool nested_is_replaced(const struct rewrite *plan, uint32_t outer,
                               const struct pb_field *field)
{
    if (field->type != PB_VARINT)
        return false;
    if (outer == FIELD_RECEIVED_AT)
        return field->number == TIMESTAMP_SECONDS || field->number == TIMESTAMP_NANOS;
    return (field->number == RETRY_ATTEMPTS && plan->attempts) ||
           (field->number == RETRY_MAX_ATTEMPTS && plan->edit->set_max_attempts) ||
           (field->number == RETRY_DELAY_ON_RETRY && plan->edit->set_delay_on_retry);
}

/* What remains of all occurrences of the nested message `outer`. The payload is known to parse. */
static void collect_remains(struct bytes payload, const struct rewrite *plan, uint32_t outer,
                            struct buf *remains)
{
    struct pb_reader reader = pb_reader_init(payload, 0);
    struct pb_field field, inner;
    const char *why;
    while (pb_next(&reader, &field, &why) > 0) {
        if (field.number != outer || field.type != PB_LEN)
            continue;
        struct pb_reader nested = pb_reader_init(field.data, NESTED_DEPTH);
        while (pb_next(&nested, &inner, &why) > 0)
            if (!nested_is_replaced(plan, outer, &inner))
                buf_append(remains, inner.record.ptr, inner.record.len);
    }
}

static void put_edited_timestamp(struct bytes payload, const struct rewrite *plan,
                                 struct buf *scratch, struct buf *out)
{
    buf_clear(scratch);
    collect_remains(payload, plan, FIELD_RECEIVED_AT, scratch);
    pb_put_uint(scratch, TIMESTAMP_SECONDS, (uint64_t)plan->edit->received_at_s);
    pb_put_uint(scratch, TIMESTAMP_NANOS, (uint64_t)plan->edit->received_at_ns);
    pb_put_bytes(out, FIELD_RECEIVED_AT, buf_bytes(scratch));
}

static void put_edited_retry_state(struct bytes payload, const struct rewrite *plan,
                                   uint32_t old_attempts, struct buf *scratch, struct buf *out)
{
    const struct activation_edit *edit = plan->edit;
    buf_clear(scratch);
    collect_remains(payload, plan, FIELD_RETRY_STATE, scratch);
    if (plan->attempts)
        pb_put_uint(scratch, RETRY_ATTEMPTS, (uint32_t)(old_attempts + edit->attempts_add));
    if (edit->set_max_attempts)
        pb_put_uint(scratch, RETRY_MAX_ATTEMPTS, edit->max_attempts);
    if (edit->set_delay_on_retry)
        pb_put_uint(scratch, RETRY_DELAY_ON_RETRY, edit->delay_on_retry);
    pb_put_bytes(out, FIELD_RETRY_STATE, buf_bytes(scratch));
}

static void copy_untouched(struct bytes payload, const struct rewrite *plan, struct buf *out)
{
    struct pb_reader reader = pb_reader_init(payload, 0);
    struct pb_field field;
    const char *why;
    while (pb_next(&reader, &field, &why) > 0)
        if (!field_is_replaced(plan, &field))
            buf_append(out, field.record.ptr, field.record.len);
}

int activation_splice(struct bytes payload, const struct activation_edit *edit, struct buf *out,
                      const char **why)
{
    assert(!(edit->set_delay && edit->clear_delay));
    assert(!edit->set_id || pb_utf8_valid(edit->id));
    struct activation old;
    int rv = activation_parse(payload, &old, why);
    if (rv < 0)
        return rv;
    struct rewrite plan = rewrite_plan(edit, &old);
    struct buf scratch = {0};
    if (plan.id)
        pb_put_bytes(out, FIELD_ID, edit->id);
    if (plan.received_at)
        put_edited_timestamp(payload, &plan, &scratch, out);
    if (plan.retry_state)
        put_edited_retry_state(payload, &plan, old.retry_state.attempts, &scratch, out);
    if (edit->set_delay)
        pb_put_uint(out, FIELD_DELAY, edit->delay);
    copy_untouched(payload, &plan, out);
    buf_free(&scratch);
    return 0;
}

static void put_text(struct buf *out, uint32_t number, struct bytes text)
{
    if (text.len > 0)
        pb_put_bytes(out, number, text);
}

static void put_scalar(struct buf *out, uint32_t number, uint64_t value)
{
    if (value != 0)
        pb_put_uint(out, number, value);
}

static void put_header(struct buf *out, const struct activation_header *header, struct buf *scratch)
{
    buf_clear(scratch);
    pb_put_bytes(scratch, HEADER_KEY, header->key);
    pb_put_bytes(scratch, HEADER_VALUE, header->value);
    pb_put_bytes(out, FIELD_HEADERS, buf_bytes(scratch));
}

static void put_timestamp(struct buf *out, const struct activation *activation, struct buf *scratch)
{
    buf_clear(scratch);
    put_scalar(scratch, TIMESTAMP_SECONDS, (uint64_t)activation->received_at_s);
    put_scalar(scratch, TIMESTAMP_NANOS, (uint64_t)activation->received_at_ns);
    pb_put_bytes(out, FIELD_RECEIVED_AT, buf_bytes(scratch));
}

static void put_retry_state(struct buf *out, const struct retry_state *retry, struct buf *scratch)
{
    buf_clear(scratch);
    put_scalar(scratch, RETRY_ATTEMPTS, retry->attempts);
    put_scalar(scratch, RETRY_MAX_ATTEMPTS, retry->max_attempts);
    put_scalar(scratch, RETRY_ON_ATTEMPTS_EXCEEDED, (uint64_t)retry->on_attempts_exceeded);
    if (retry->has_at_most_once)
        pb_put_uint(scratch, RETRY_AT_MOST_ONCE, retry->at_most_once);
    if (retry->has_delay_on_retry)
        pb_put_uint(scratch, RETRY_DELAY_ON_RETRY, retry->delay_on_retry);
    pb_put_bytes(out, FIELD_RETRY_STATE, buf_bytes(scratch));
}

void activation_encode(const struct activation *activation, const struct activation_header *headers,
                       size_t header_count, struct buf *out)
{
    struct buf scratch = {0};
    put_text(out, FIELD_ID, activation->id);
    put_text(out, FIELD_NAMESPACE, activation->namespace);
    put_text(out, FIELD_TASKNAME, activation->taskname);
    put_text(out, FIELD_PARAMETERS, activation->parameters);
    for (size_t i = 0; i < header_count; i++)
        put_header(out, &headers[i], &scratch);
    if (activation->has_received_at)
        put_timestamp(out, activation, &scratch);
    if (activation->retry_state.present)
        put_retry_state(out, &activation->retry_state, &scratch);
    put_scalar(out, FIELD_PROCESSING_DEADLINE, activation->processing_deadline_duration);
    if (activation->has_expires)
        pb_put_uint(out, FIELD_EXPIRES, activation->expires);
    if (activation->has_delay)
        pb_put_uint(out, FIELD_DELAY, activation->delay);
    if (activation->has_application)
        pb_put_bytes(out, FIELD_APPLICATION, activation->application);
    put_text(out, FIELD_PARAMETERS_BYTES, activation->parameters_bytes);
    buf_free(&scratch);
}
