/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every decoder of wire/consumer.h. The first byte chooses the message. What decodes is encoded,
 * and the encoding decoded and encoded again: both must be the same bytes.
 */
#include <stdlib.h>

#include "wire/consumer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

static int recode_filter(struct bytes message, struct buf *out, const char **why)
{
    struct task_filter filter;
    int rv = task_filter_decode(message, &filter, why);
    if (rv == 0)
        task_filter_encode(&filter, out);
    return rv;
}

static int recode_status(struct bytes message, struct buf *out, const char **why)
{
    struct set_status_request request;
    int rv = set_status_decode(message, &request, why);
    if (rv == 0)
        set_status_encode(&request, out);
    return rv;
}

static int add_update(void *ctx, const struct set_status_request *update)
{
    set_batch_encode_one(update, ctx);
    return 0;
}

static int recode_batch(struct bytes message, struct buf *out, const char **why)
{
    return set_batch_decode(message, add_update, out, why);
}

static int recode_task(struct bytes message, struct buf *out, const char **why)
{
    uint8_t prefix[TASK_RESPONSE_PREFIX_MAX];
    struct task_response response;
    int rv = task_response_decode(message, &response, why);
    if (rv == 0 && response.has_task) {
        size_t len = task_response_prefix(prefix, response.activation.len, response.claim);
        buf_append(out, prefix, len);
        buf_append(out, response.activation.ptr, response.activation.len);
    }
    return rv;
}

static int add_given_back(void *ctx, const struct give_back *entry)
{
    give_back_encode_one(entry, ctx);
    return 0;
}

static int recode_give_back(struct bytes message, struct buf *out, const char **why)
{
    return give_back_decode(message, add_given_back, out, why);
}

static int recode_give_back_response(struct bytes message, struct buf *out, const char **why)
{
    struct give_back_response response;
    int rv = give_back_response_decode(message, &response, why);
    if (rv == 0)
        give_back_response_encode(&response, out);
    return rv;
}

static int add_activation(void *ctx, struct bytes activation)
{
    enqueue_encode_activation(activation, ctx);
    return 0;
}

static int recode_enqueue(struct bytes message, struct buf *out, const char **why)
{
    struct enqueue_request request;
    int rv = enqueue_decode(message, &request, add_activation, out, why);
    if (rv == 0 && request.has_topic)
        enqueue_encode_topic(request.topic, out);
    return rv;
}

static int add_id(void *ctx, struct bytes id)
{
    enqueue_response_add(id, ctx);
    return 0;
}

static int recode_ids(struct bytes message, struct buf *out, const char **why)
{
    return enqueue_response_decode(message, add_id, out, why);
}

static int recode_health_request(struct bytes message, struct buf *out, const char **why)
{
    struct bytes service;
    int rv = health_request_decode(message, &service, why);
    if (rv == 0)
        health_request_encode(service, out);
    return rv;
}

static int recode_health_response(struct bytes message, struct buf *out, const char **why)
{
    enum health_status status;
    int rv = health_response_decode(message, &status, why);
    if (rv == 0)
        health_response_encode(status, out);
    return rv;
}

typedef int (*recode_fn)(struct bytes message, struct buf *out, const char **why);

static const recode_fn recoders[] = {recode_filter,         recode_status,
                                     recode_batch,          recode_task,
                                     recode_enqueue,        recode_ids,
                                     recode_health_request, recode_health_response,
                                     recode_give_back,      recode_give_back_response};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf first = {0}, second = {0};
    const char *why = NULL;
    if (size < 1)
        return 0;
    recode_fn recode = recoders[data[0] % (sizeof(recoders) / sizeof(recoders[0]))];
    int rv = recode(bytes_of(data + 1, size - 1), &first, &why);
    if (rv < 0) {
        require((rv == ERR_MALFORMED || rv == ERR_FULL) && why && *why);
        require(first.len == 0);
    } else {
        require(recode(buf_bytes(&first), &second, &why) == 0);
        require(bytes_equal(buf_bytes(&first), buf_bytes(&second)));
    }
    buf_free(&first);
    buf_free(&second);
    return 0;
}
