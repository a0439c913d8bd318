/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What our decoders make of a message, for test_activation_differential.py to compare with
 * Python's.
 *
 * stdin: records of struct head (little-endian, packed), then new_id, then the message.
 * stdout, for each: one byte 0 (refused), or 1 and a dump (u32 length, then bytes), and for an
 * activation also the result of the splice in the same form. A dump is what was read, written by
 * our encoder: Python reads it and compares, so that no second text format is needed. Lookups of
 * headers, which have no Python counterpart, are checked here against the walk over all headers.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "wire/activation.h"
#include "wire/consumer.h"

#include "oracle_io.h"

enum kind { KIND_ACTIVATION, KIND_SET_STATUS, KIND_SET_BATCH, KIND_FILTER, KIND_ENQUEUE };

enum edit_flag {
    EDIT_ID = 1,
    EDIT_RECEIVED_AT = 2,
    EDIT_DELAY = 4,
    EDIT_CLEAR_DELAY = 8,
    EDIT_MAX_ATTEMPTS = 16,
    EDIT_DELAY_ON_RETRY = 32
};

struct __attribute__((packed)) head {
    uint32_t message_len;
    uint8_t kind, flags, new_id_len;
    uint32_t attempts_add, max_attempts;
    int64_t received_at_s;
    int32_t received_at_ns;
    uint64_t delay, delay_on_retry;
};

#define HEADERS_MAX 4096

struct headers {
    struct activation_header list[HEADERS_MAX];
    size_t count;
};

static void remember_header(void *ctx, struct bytes key, struct bytes value)
{
    struct headers *headers = ctx;
    assert(headers->count < HEADERS_MAX);
    headers->list[headers->count++] = (struct activation_header){key, value};
}

static void check_lookup(struct bytes payload, const struct headers *headers, size_t index)
{
    struct bytes key = headers->list[index].key, expected = {0}, found;
    if (memchr(key.ptr ? key.ptr : (const uint8_t *)"", 0, key.len))
        return; /* cannot be asked for */
    for (size_t i = 0; i < headers->count; i++)
        if (bytes_equal(headers->list[i].key, key))
            expected = headers->list[i].value;
    struct buf name = {0};
    buf_append(&name, key.ptr, key.len);
    if (!activation_header(payload, buf_cstr(&name), &found) || !bytes_equal(found, expected)) {
        fprintf(stderr, "activation_header disagrees with activation_each_header\n");
        exit(1);
    }
    buf_free(&name);
}

static struct activation_edit edit_of(const struct head *head, struct bytes new_id)
{
    return (struct activation_edit){
        .set_id = head->flags & EDIT_ID,
        .id = new_id,
        .set_received_at = head->flags & EDIT_RECEIVED_AT,
        .received_at_s = head->received_at_s,
        .received_at_ns = head->received_at_ns,
        .set_delay = head->flags & EDIT_DELAY,
        .clear_delay = head->flags & EDIT_CLEAR_DELAY,
        .delay = head->delay,
        .set_max_attempts = head->flags & EDIT_MAX_ATTEMPTS,
        .max_attempts = head->max_attempts,
        .set_delay_on_retry = head->flags & EDIT_DELAY_ON_RETRY,
        .delay_on_retry = head->delay_on_retry,
        .attempts_add = head->attempts_add,
    };
}

static int answer_activation(struct bytes message, const struct head *head, struct bytes new_id,
                             struct buf *dump, struct buf *splice, const char **why)
{
    static struct headers headers;
    struct activation activation;
    struct activation_edit edit = edit_of(head, new_id);
    int rv = activation_parse(message, &activation, why);
    int splice_rv = activation_splice(message, &edit, splice, why);
    assert(rv == splice_rv);
    if (rv < 0)
        return rv;
    headers.count = 0;
    activation_each_header(message, remember_header, &headers);
    if (headers.count > 0)
        check_lookup(message, &headers, headers.count / 2);
    activation_encode(&activation, headers.list, headers.count, dump);
    return 0;
}

static int add_update(void *ctx, const struct set_status_request *update)
{
    set_batch_encode_one(update, ctx);
    return 0;
}

static int add_activation(void *ctx, struct bytes activation)
{
    enqueue_encode_activation(activation, ctx);
    return 0;
}

static int answer_request(struct bytes message, enum kind kind, struct buf *dump, const char **why)
{
    struct set_status_request status;
    struct task_filter filter;
    struct enqueue_request enqueue;
    int rv;
    switch (kind) {
    case KIND_SET_STATUS:
        rv = set_status_decode(message, &status, why);
        if (rv == 0)
            set_status_encode(&status, dump);
        return rv;
    case KIND_SET_BATCH:
        return set_batch_decode(message, add_update, dump, why);
    case KIND_FILTER:
        rv = task_filter_decode(message, &filter, why);
        if (rv == 0)
            task_filter_encode(&filter, dump);
        return rv;
    default:
        rv = enqueue_decode(message, &enqueue, add_activation, dump, why);
        if (rv == 0 && enqueue.has_topic)
            enqueue_encode_topic(enqueue.topic, dump);
        return rv;
    }
}

static void answer(const struct head *head, struct bytes new_id, struct bytes message,
                   struct buf *out)
{
    struct buf dump = {0}, splice = {0};
    const char *why = NULL;
    int rv;
    if (head->kind == KIND_ACTIVATION)
        rv = answer_activation(message, head, new_id, &dump, &splice, &why);
    else
        rv = answer_request(message, (enum kind)head->kind, &dump, &why);
    assert(rv == 0 || (rv == ERR_MALFORMED && why && *why));
    buf_append_byte(out, rv == 0);
    if (rv == 0) {
        put_block(out, &dump);
        if (head->kind == KIND_ACTIVATION)
            put_block(out, &splice);
    }
    buf_free(&dump);
    buf_free(&splice);
}

/* A copy of its own size on the heap, so that the address sanitizer sees a read past the end. */
static void answer_copy(const struct head *head, struct bytes rest, struct buf *out)
{
    uint8_t *copy = malloc(head->message_len ? head->message_len : 1);
    assert(copy);
    memcpy(copy, rest.ptr + head->new_id_len, head->message_len);
    answer(head, bytes_of(rest.ptr, head->new_id_len), bytes_of(copy, head->message_len), out);
    free(copy);
}

int main(void)
{
    struct buf in = read_all(stdin), out = {0};
    struct head head;
    for (size_t at = 0; at < in.len; at += head.new_id_len + head.message_len) {
        assert(in.len - at >= sizeof(head));
        memcpy(&head, in.ptr + at, sizeof(head));
        at += sizeof(head);
        assert(in.len - at >= (size_t)head.new_id_len + head.message_len);
        answer_copy(&head, bytes_of(in.ptr + at, in.len - at), &out);
    }
    bool written = write_all(stdout, &out);
    buf_free(&in);
    buf_free(&out);
    return written ? 0 : 1;
}
