/* SPDX-License-Identifier: Apache-2.0 */
/*
 * activation_parse and activation_splice on any bytes. The first bytes choose the edit, the rest is
 * the payload. What parses must also parse after the edit, with the edited values and all others
 * unchanged; and reading what activation_encode wrote must give the same values again.
 */
#include <stdlib.h>

#include "wire/activation.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HEADERS_MAX 64

enum edit_flag {
    EDIT_ID = 1,
    EDIT_RECEIVED_AT = 2,
    EDIT_DELAY = 4,
    EDIT_CLEAR_DELAY = 8,
    EDIT_MAX_ATTEMPTS = 16,
    EDIT_DELAY_ON_RETRY = 32,
    EDIT_ATTEMPTS = 64
};

struct headers {
    struct activation_header list[HEADERS_MAX];
    size_t count;
};

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void remember(void *ctx, struct bytes key, struct bytes value)
{
    struct headers *headers = ctx;
    if (headers->count < HEADERS_MAX)
        headers->list[headers->count++] = (struct activation_header){key, value};
}

static struct headers headers_of(struct bytes payload)
{
    struct headers headers = {.count = 0};
    activation_each_header(payload, remember, &headers);
    return headers;
}

static struct activation parse(struct bytes payload)
{
    struct activation activation;
    const char *why = NULL;
    require(activation_parse(payload, &activation, &why) == 0);
    return activation;
}

static void require_same_retry(const struct retry_state *a, const struct retry_state *b)
{
    require(a->present == b->present);
    require(a->attempts == b->attempts);
    require(a->max_attempts == b->max_attempts);
    require(a->on_attempts_exceeded == b->on_attempts_exceeded);
    require(a->has_at_most_once == b->has_at_most_once);
    require(a->at_most_once == b->at_most_once);
    require(a->has_delay_on_retry == b->has_delay_on_retry);
    require(a->delay_on_retry == b->delay_on_retry);
}

static void require_same(const struct activation *a, const struct activation *b)
{
    require(bytes_equal(a->id, b->id));
    require(bytes_equal(a->namespace, b->namespace));
    require(bytes_equal(a->taskname, b->taskname));
    require(bytes_equal(a->application, b->application));
    require(a->has_application == b->has_application);
    require(bytes_equal(a->parameters, b->parameters));
    require(bytes_equal(a->parameters_bytes, b->parameters_bytes));
    require(a->has_received_at == b->has_received_at);
    require(a->received_at_s == b->received_at_s);
    require(a->received_at_ns == b->received_at_ns);
    require_same_retry(&a->retry_state, &b->retry_state);
    require(a->processing_deadline_duration == b->processing_deadline_duration);
    require(a->has_expires == b->has_expires && a->expires == b->expires);
    require(a->has_delay == b->has_delay && a->delay == b->delay);
}

static void require_same_headers(struct bytes a, struct bytes b)
{
    struct headers first = headers_of(a), second = headers_of(b);
    require(first.count == second.count);
    for (size_t i = 0; i < first.count; i++) {
        require(bytes_equal(first.list[i].key, second.list[i].key));
        require(bytes_equal(first.list[i].value, second.list[i].value));
    }
}

/* The edit on the struct, as the model of what it does to the bytes. */
static void apply(const struct activation_edit *edit, struct activation *activation)
{
    struct retry_state *retry = &activation->retry_state;
    if (retry->present)
        retry->attempts += edit->attempts_add;
    if (edit->set_id)
        activation->id = edit->id;
    if (edit->set_received_at) {
        activation->has_received_at = true;
        activation->received_at_s = edit->received_at_s;
        activation->received_at_ns = edit->received_at_ns;
    }
    if (edit->set_delay || edit->clear_delay) {
        activation->has_delay = edit->set_delay;
        activation->delay = edit->set_delay ? edit->delay : 0;
    }
    if (edit->set_max_attempts) {
        retry->present = true;
        retry->max_attempts = edit->max_attempts;
    }
    if (edit->set_delay_on_retry) {
        retry->present = retry->has_delay_on_retry = true;
        retry->delay_on_retry = edit->delay_on_retry;
    }
}

static struct activation_edit edit_of(uint8_t flags, uint8_t value)
{
    return (struct activation_edit){
        .set_id = flags & EDIT_ID,
        .id = bytes_str("8e9c2c4e-0000-8000-8000-000000000001"),
        .set_received_at = flags & EDIT_RECEIVED_AT,
        .received_at_s = (int8_t)value,
        .received_at_ns = -value,
        .set_delay = (flags & EDIT_DELAY) && !(flags & EDIT_CLEAR_DELAY),
        .clear_delay = flags & EDIT_CLEAR_DELAY,
        .delay = value,
        .set_max_attempts = flags & EDIT_MAX_ATTEMPTS,
        .max_attempts = value,
        .set_delay_on_retry = flags & EDIT_DELAY_ON_RETRY,
        .delay_on_retry = value,
        .attempts_add = flags & EDIT_ATTEMPTS ? value : 0,
    };
}

static void check_splice(struct bytes payload, const struct activation_edit *edit)
{
    struct buf out = {0}, again = {0};
    const char *why = NULL;
    struct activation expected = parse(payload);
    apply(edit, &expected);
    require(activation_splice(payload, edit, &out, &why) == 0);
    struct activation actual = parse(buf_bytes(&out));
    require_same(&expected, &actual);
    require_same_headers(payload, buf_bytes(&out));
    /* Without attempts_add the same edit once more changes nothing. */
    struct activation_edit repeat = *edit;
    repeat.attempts_add = 0;
    require(activation_splice(buf_bytes(&out), &repeat, &again, &why) == 0);
    struct activation twice = parse(buf_bytes(&again));
    require_same(&actual, &twice);
    buf_free(&out);
    buf_free(&again);
}

static void check_encode(struct bytes payload)
{
    struct activation activation = parse(payload);
    struct headers headers = headers_of(payload);
    struct buf out = {0};
    activation_encode(&activation, headers.list, headers.count, &out);
    struct activation again = parse(buf_bytes(&out));
    require_same(&activation, &again);
    if (headers.count < HEADERS_MAX)
        require_same_headers(payload, buf_bytes(&out));
    buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct activation activation;
    struct buf out = {0};
    const char *why = NULL;
    if (size < 2)
        return 0;
    struct activation_edit edit = edit_of(data[0], data[1]);
    struct bytes payload = bytes_of(data + 2, size - 2);
    int rv = activation_parse(payload, &activation, &why);
    if (rv == 0) {
        check_splice(payload, &edit);
        check_encode(payload);
    } else {
        require(rv == ERR_MALFORMED && why && *why);
        require(activation_splice(payload, &edit, &out, &why) == ERR_MALFORMED);
        require(out.len == 0);
    }
    return 0;
}
