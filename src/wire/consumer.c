/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/consumer.h"

#include "wire/pb.h"

enum filter_field { FILTER_NAMESPACE = 1, FILTER_APPLICATION = 2, FILTER_WANTS_CLAIM = 2001 };

enum status_field {
    STATUS_ID = 1,
    STATUS_STATUS = 2,
    STATUS_FETCH_NEXT = 3,
    STATUS_MAX_ATTEMPTS = 4,
    STATUS_DELAY_ON_RETRY = 5
};

enum batch_field { BATCH_UPDATES = 1 };

enum task_response_field { TASK_RESPONSE_TASK = 1, TASK_RESPONSE_CLAIM = 2001 };

enum give_back_field {
    GIVE_BACK_TASKS = 1,
    GIVE_BACK_ID = 1,
    GIVE_BACK_CLAIM = 2,
    GIVE_BACK_RETURNED = 1,
    GIVE_BACK_IGNORED = 2
};

enum enqueue_field { ENQUEUE_ACTIVATIONS = 1, ENQUEUE_TOPIC = 2 };

enum enqueue_response_field { ENQUEUE_RESPONSE_IDS = 1 };

enum health_field { HEALTH_REQUEST_SERVICE = 1, HEALTH_RESPONSE_STATUS = 1 };

/* Adds to *out, as a message that occurs again merges with what was read before. */
static int merge_filter(struct bytes message, int depth, struct task_filter *out, const char **why)
{
    struct pb_reader reader = pb_reader_init(message, depth);
    struct pb_field field;
    int rv;
    while ((rv = pb_next(&reader, &field, why)) > 0) {
        if (field.number == FILTER_WANTS_CLAIM && field.type == PB_VARINT)
            out->wants_claim = field.value != 0;
        if (field.type != PB_LEN)
            continue;
        if (field.number == FILTER_NAMESPACE) {
            out->has_namespace = true;
            rv = pb_take_text(&field, &out->namespace, "namespace: not valid UTF-8", why);
        } else if (field.number == FILTER_APPLICATION) {
            out->has_application = true;
            rv = pb_take_text(&field, &out->application, "application: not valid UTF-8", why);
        }
        if (rv < 0)
            return rv;
    }
    return rv;
}

int task_filter_decode(struct bytes message, struct task_filter *out, const char **why)
{
    *out = (struct task_filter){0};
    return merge_filter(message, 0, out, why);
}

void task_filter_encode(const struct task_filter *filter, struct buf *out)
{
    if (filter->has_namespace)
        pb_put_bytes(out, FILTER_NAMESPACE, filter->namespace);
    if (filter->has_application)
        pb_put_bytes(out, FILTER_APPLICATION, filter->application);
    if (filter->wants_claim)
        pb_put_uint(out, FILTER_WANTS_CLAIM, 1);
}

static int take_status_field(const struct pb_field *field, int depth,
                             struct set_status_request *out, const char **why)
{
    if (field->type == PB_LEN && field->number == STATUS_ID)
        return pb_take_text(field, &out->id, "id: not valid UTF-8", why);
    if (field->type == PB_LEN && field->number == STATUS_FETCH_NEXT) {
        out->has_fetch_next = true;
        return merge_filter(field->data, depth + 1, &out->fetch_next, why);
    }
    if (field->type != PB_VARINT)
        return 0;
    if (field->number == STATUS_STATUS) {
        out->status = (int32_t)field->value;
    } else if (field->number == STATUS_MAX_ATTEMPTS) {
        out->has_max_attempts = true;
        out->max_attempts = (uint32_t)field->value;
    } else if (field->number == STATUS_DELAY_ON_RETRY) {
        out->has_delay_on_retry = true;
        out->delay_on_retry = field->value;
    }
    return 0;
}

static int decode_status(struct bytes message, int depth, struct set_status_request *out,
                         const char **why)
{
    struct pb_reader reader = pb_reader_init(message, depth);
    struct pb_field field;
    int rv;
    *out = (struct set_status_request){0};
    while ((rv = pb_next(&reader, &field, why)) > 0)
        if ((rv = take_status_field(&field, depth, out, why)) < 0)
            return rv;
    return rv;
}

int set_status_decode(struct bytes message, struct set_status_request *out, const char **why)
{
    return decode_status(message, 0, out, why);
}

void set_status_encode(const struct set_status_request *request, struct buf *out)
{
    if (request->id.len > 0)
        pb_put_bytes(out, STATUS_ID, request->id);
    if (request->status != 0)
        pb_put_uint(out, STATUS_STATUS, (uint64_t)request->status);
    if (request->has_fetch_next) {
        struct buf filter = {0};
        task_filter_encode(&request->fetch_next, &filter);
        pb_put_bytes(out, STATUS_FETCH_NEXT, buf_bytes(&filter));
        buf_free(&filter);
    }
    if (request->has_max_attempts)
        pb_put_uint(out, STATUS_MAX_ATTEMPTS, request->max_attempts);
    if (request->has_delay_on_retry)
        pb_put_uint(out, STATUS_DELAY_ON_RETRY, request->delay_on_retry);
}

/* One walk over the batch; with each == NULL it only checks. */
static int walk_batch(struct bytes message, set_status_fn each, void *ctx, const char **why)
{
    struct pb_reader reader = pb_reader_init(message, 0);
    struct pb_field field;
    struct set_status_request update;
    int rv;
    while ((rv = pb_next(&reader, &field, why)) > 0) {
        if (field.number != BATCH_UPDATES || field.type != PB_LEN)
            continue;
        rv = decode_status(field.data, 1, &update, why);
        if (rv == 0 && each)
            rv = each(ctx, &update);
        if (rv != 0)
            return rv;
    }
    return rv;
}

int set_batch_decode(struct bytes message, set_status_fn each, void *ctx, const char **why)
{
    int rv = walk_batch(message, NULL, NULL, why);
    return rv < 0 ? rv : walk_batch(message, each, ctx, why);
}

void set_batch_encode_one(const struct set_status_request *update, struct buf *out)
{
    struct buf element = {0};
    set_status_encode(update, &element);
    pb_put_bytes(out, BATCH_UPDATES, buf_bytes(&element));
    buf_free(&element);
}

/* The claim has a fixed width: its numbers begin anywhere (core/inflight.h), so that a varint would
 * be longer. */
static size_t put_claim(uint8_t *out, uint64_t claim)
{
    uint32_t tag = TASK_RESPONSE_CLAIM << 3 | PB_FIXED64;
    out[0] = (uint8_t)(tag | 0x80);
    out[1] = (uint8_t)(tag >> 7);
    for (int i = 0; i < 8; i++)
        out[2 + i] = (uint8_t)(claim >> 8 * i);
    return 10;
}

size_t task_response_prefix(uint8_t out[TASK_RESPONSE_PREFIX_MAX], size_t activation_len,
                            uint64_t claim)
{
    size_t len = claim ? put_claim(out, claim) : 0;
    out[len++] = TASK_RESPONSE_TASK << 3 | PB_LEN;
    while (activation_len >= 0x80) {
        out[len++] = (uint8_t)(activation_len | 0x80);
        activation_len >>= 7;
    }
    out[len++] = (uint8_t)activation_len;
    return len;
}

int task_response_decode(struct bytes message, struct task_response *out, const char **why)
{
    struct pb_reader reader = pb_reader_init(message, 0);
    struct pb_field field;
    int rv;
    *out = (struct task_response){0};
    while ((rv = pb_next(&reader, &field, why)) > 0) {
        if (field.number == TASK_RESPONSE_CLAIM && field.type == PB_FIXED64)
            out->claim = field.value;
        if (field.number != TASK_RESPONSE_TASK || field.type != PB_LEN)
            continue;
        if (out->has_task)
            return pb_fault(why, "task: occurs twice");
        out->has_task = true;
        out->activation = field.data;
    }
    return rv;
}

/* --- GiveBack -------------------------------------------------------------------------------- */

static int decode_given_back(struct bytes message, struct give_back *out, const char **why)
{
    struct pb_reader reader = pb_reader_init(message, 1);
    struct pb_field field;
    int rv;
    *out = (struct give_back){0};
    while ((rv = pb_next(&reader, &field, why)) > 0) {
        if (field.number == GIVE_BACK_CLAIM && field.type == PB_FIXED64)
            out->claim = field.value;
        if (field.number != GIVE_BACK_ID || field.type != PB_LEN)
            continue;
        rv = pb_take_text(&field, &out->id, "id: not valid UTF-8", why);
        if (rv < 0)
            return rv;
    }
    return rv;
}

/* One walk over the entries; with each == NULL it only checks. */
static int walk_give_back(struct bytes message, give_back_fn each, void *ctx, const char **why)
{
    struct pb_reader reader = pb_reader_init(message, 0);
    struct pb_field field;
    struct give_back entry;
    size_t count = 0;
    int rv;
    while ((rv = pb_next(&reader, &field, why)) > 0) {
        if (field.number != GIVE_BACK_TASKS || field.type != PB_LEN)
            continue;
        if (++count > GIVE_BACK_MAX) {
            *why = "tasks: too many";
            return ERR_FULL;
        }
        rv = decode_given_back(field.data, &entry, why);
        if (rv == 0 && each)
            rv = each(ctx, &entry);
        if (rv != 0)
            return rv;
    }
    return rv;
}

int give_back_decode(struct bytes message, give_back_fn each, void *ctx, const char **why)
{
    int rv = walk_give_back(message, NULL, NULL, why);
    return rv < 0 ? rv : walk_give_back(message, each, ctx, why);
}

void give_back_encode_one(const struct give_back *entry, struct buf *out)
{
    struct buf element = {0};
    if (entry->id.len > 0)
        pb_put_bytes(&element, GIVE_BACK_ID, entry->id);
    if (entry->claim != 0)
        pb_put_fixed64(&element, GIVE_BACK_CLAIM, entry->claim);
    pb_put_bytes(out, GIVE_BACK_TASKS, buf_bytes(&element));
    buf_free(&element);
}

int give_back_response_decode(struct bytes message, struct give_back_response *out,
                              const char **why)
{
    struct pb_reader reader = pb_reader_init(message, 0);
    struct pb_field field;
    int rv;
    *out = (struct give_back_response){0};
    while ((rv = pb_next(&reader, &field, why)) > 0) {
        if (field.type != PB_VARINT)
            continue;
        if (field.number == GIVE_BACK_RETURNED)
            out->returned = (uint32_t)field.value;
        else if (field.number == GIVE_BACK_IGNORED)
            out->ignored = (uint32_t)field.value;
    }
    return rv;
}

void give_back_response_encode(const struct give_back_response *response, struct buf *out)
{
    if (response->returned != 0)
        pb_put_uint(out, GIVE_BACK_RETURNED, response->returned);
    if (response->ignored != 0)
        pb_put_uint(out, GIVE_BACK_IGNORED, response->ignored);
}

/* --- Enqueue --------------------------------------------------------------------------------- */

int enqueue_decode(struct bytes message, struct enqueue_request *head, enqueue_fn each, void *ctx,
                   const char **why)
{
    struct enqueue_request found = {0};
    struct pb_reader reader = pb_reader_init(message, 0);
    struct pb_field field;
    int rv;
    while ((rv = pb_next(&reader, &field, why)) > 0) {
        if (field.type != PB_LEN)
            continue;
        if (field.number == ENQUEUE_ACTIVATIONS) {
            found.activation_count++;
        } else if (field.number == ENQUEUE_TOPIC) {
            found.has_topic = true;
            rv = pb_take_text(&field, &found.topic, "topic: not valid UTF-8", why);
            if (rv < 0)
                return rv;
        }
    }
    if (rv < 0)
        return rv;
    if (head)
        *head = found;
    if (!each)
        return 0;
    reader = pb_reader_init(message, 0);
    while (pb_next(&reader, &field, why) > 0) {
        if (field.number != ENQUEUE_ACTIVATIONS || field.type != PB_LEN)
            continue;
        rv = each(ctx, field.data);
        if (rv != 0)
            return rv;
    }
    return 0;
}

void enqueue_encode_activation(struct bytes activation, struct buf *out)
{
    pb_put_bytes(out, ENQUEUE_ACTIVATIONS, activation);
}

void enqueue_encode_topic(struct bytes topic, struct buf *out)
{
    pb_put_bytes(out, ENQUEUE_TOPIC, topic);
}

void enqueue_response_add(struct bytes id, struct buf *out)
{
    pb_put_bytes(out, ENQUEUE_RESPONSE_IDS, id);
}

static int walk_ids(struct bytes message, enqueue_id_fn each, void *ctx, const char **why)
{
    struct pb_reader reader = pb_reader_init(message, 0);
    struct pb_field field;
    struct bytes id;
    int rv;
    while ((rv = pb_next(&reader, &field, why)) > 0) {
        if (field.number != ENQUEUE_RESPONSE_IDS || field.type != PB_LEN)
            continue;
        rv = pb_take_text(&field, &id, "ids: not valid UTF-8", why);
        if (rv == 0 && each)
            rv = each(ctx, id);
        if (rv != 0)
            return rv;
    }
    return rv;
}

int enqueue_response_decode(struct bytes message, enqueue_id_fn each, void *ctx, const char **why)
{
    int rv = walk_ids(message, NULL, NULL, why);
    return rv < 0 ? rv : walk_ids(message, each, ctx, why);
}

int health_request_decode(struct bytes message, struct bytes *service, const char **why)
{
    struct pb_reader reader = pb_reader_init(message, 0);
    struct pb_field field;
    int rv;
    *service = (struct bytes){0};
    while ((rv = pb_next(&reader, &field, why)) > 0) {
        if (field.number != HEALTH_REQUEST_SERVICE || field.type != PB_LEN)
            continue;
        rv = pb_take_text(&field, service, "service: not valid UTF-8", why);
        if (rv < 0)
            return rv;
    }
    return rv;
}

void health_request_encode(struct bytes service, struct buf *out)
{
    if (service.len > 0)
        pb_put_bytes(out, HEALTH_REQUEST_SERVICE, service);
}

void health_response_encode(enum health_status status, struct buf *out)
{
    if (status != HEALTH_UNKNOWN)
        pb_put_uint(out, HEALTH_RESPONSE_STATUS, (uint64_t)status);
}

int health_response_decode(struct bytes message, enum health_status *status, const char **why)
{
    struct pb_reader reader = pb_reader_init(message, 0);
    struct pb_field field;
    int rv;
    int32_t value = HEALTH_UNKNOWN;
    while ((rv = pb_next(&reader, &field, why)) > 0)
        if (field.number == HEALTH_RESPONSE_STATUS && field.type == PB_VARINT)
            value = (int32_t)field.value;
    /* The enum is open: a status of a later protocol says nothing we know. */
    bool known = value > HEALTH_UNKNOWN && value <= HEALTH_SERVICE_UNKNOWN;
    *status = known ? (enum health_status)value : HEALTH_UNKNOWN;
    return rv;
}
