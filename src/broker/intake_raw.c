/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw topics: the message is the argument of one configured task (spec/broker.md 3.5). From here on
 * it is an activation like any other: a retry of it leaves for the retry topic, which is never raw.
 *
 *   parameters_bytes   msgpack {"args": [bin(message)], "kwargs": {}}, in a zstd frame unless told
 *                      not to
 *   headers            those of the message that are text, in their order; of two with one name the
 *                      later one counts, as in every protobuf map, so they need not be searched
 */
#include "broker/intake.h"

#include <stdio.h>

#include "base/mem.h"
#include "wire/ident.h"
#include "wire/params.h"
#include "wire/pb.h"

#define COMPRESSION_HEADER "compression-type"
/* 9999-12-31 in Unix ms: what google.protobuf.Timestamp can hold. */
#define TIMESTAMP_MAX_MS INT64_C(253402300799999)

static void pack(struct bytes payload, struct buf *out)
{
    buf_reserve(out, payload.len + 32);
    msgpack_put_map(out, 2);
    msgpack_put_str(out, bytes_str("args"));
    msgpack_put_array(out, 1);
    msgpack_put_bin(out, payload);
    msgpack_put_str(out, bytes_str("kwargs"));
    msgpack_put_map(out, 0);
}

static int pack_params(struct bytes payload, int64_t level, struct buf *out, const char **why)
{
    struct buf packed = {0};
    int rv;

    if (payload.len > UINT32_MAX) {
        *why = "longer than 4 GiB";
        return ERR_TOO_LARGE;
    }
    if (level == INTAKE_RAW_PLAIN) {
        pack(payload, out);
        return 0;
    }
    pack(payload, &packed);
    rv = params_compress_at(buf_bytes(&packed), level, out, why);
    buf_free(&packed);
    return rv;
}

/* `out` has room for one more than the record has. */
static size_t copy_headers(const struct topic_record *record, bool compressed,
                           struct activation_header *out)
{
    size_t count = 0;

    for (size_t i = 0; i < record->header_count; i++) {
        const struct topic_header *header = &record->headers[i];
        if (header->value.ptr && pb_utf8_valid(header->key) && pb_utf8_valid(header->value))
            out[count++] = (struct activation_header){header->key, header->value};
    }
    if (compressed)
        out[count++] = (struct activation_header){bytes_str(COMPRESSION_HEADER), bytes_str("zstd")};
    return count;
}

static void encode(const struct topic_record *record, const struct intake_raw *raw,
                   struct bytes params, int64_t wall_ms, struct buf *out)
{
    struct activation_header *headers = mem_calloc(record->header_count + 1, sizeof *headers);
    size_t header_count = copy_headers(record, raw->compression_level != INTAKE_RAW_PLAIN, headers);
    const struct ident_place place = {.cluster = raw->cluster,
                                      .topic = raw->topic,
                                      .partition = record->partition,
                                      .offset = record->offset,
                                      .timestamp_ms = record->timestamp_ms};
    char id[IDENT_DASHED_LEN + 1];
    bool dated = record->timestamp_ms >= 0 && record->timestamp_ms <= TIMESTAMP_MAX_MS;
    int64_t received_ms = dated ? record->timestamp_ms : wall_ms;

    ident_raw(id, &place);
    activation_encode(
        &(struct activation){
            .id = bytes_str(id),
            .namespace = bytes_str(raw->namespace),
            .taskname = bytes_str(raw->taskname),
            .has_application = true,
            .application = bytes_str(raw->application),
            .parameters_bytes = params,
            .has_received_at = true,
            .received_at_s = received_ms / 1000,
            .received_at_ns = (int32_t)(received_ms % 1000) * 1000000,
            .processing_deadline_duration = raw->duration_s,
        },
        headers, header_count, out);
    mem_free(headers);
}

/* What is dead-lettered is what was read, not what was made of it. */
static void refuse(struct intake_item *item, const struct topic_record *record)
{
    blob_unref(item->blob);
    item->blob = blob_copy(record->payload);
}

void intake_raw_record(struct intake_item *item, const struct topic_record *record,
                       const struct intake_raw *raw, const struct intake_limits *limits,
                       int64_t wall_ms)
{
    struct buf params = {0}, encoded = {0};
    const char *why = "";

    *item = (struct intake_item){.partition = record->partition, .offset = record->offset};
    if (pack_params(record->payload, raw->compression_level, &params, &why)) {
        item->reason = "cannot be packed";
        snprintf(item->detail, sizeof item->detail, "%s", why);
    } else {
        encode(record, raw, buf_bytes(&params), wall_ms, &encoded);
        item->blob = blob_copy(buf_bytes(&encoded));
        intake_examine(item, limits, wall_ms);
    }
    if (item->reason)
        refuse(item, record);
    item->on_attempts_exceeded = ON_ATTEMPTS_EXCEEDED_DISCARD;
    buf_free(&params);
    buf_free(&encoded);
}
