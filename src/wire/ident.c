/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/ident.h"

#include "wire/hex.h"
#include "wire/sign.h"

#define UUID_LEN   16
#define BRACED_LEN (IDENT_DASHED_LEN + 2)

static void uuid_mark(uint8_t uuid[UUID_LEN], uint8_t version)
{
    uuid[6] = (uint8_t)((uuid[6] & 0x0f) | version << 4);
    uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80); /* variant of RFC 9562 */
}

static bool dash_before(size_t index)
{
    return index == 4 || index == 6 || index == 8 || index == 10;
}

static void uuid_format(char *out, const uint8_t uuid[UUID_LEN], bool dashed)
{
    for (size_t i = 0; i < UUID_LEN; i++) {
        if (dashed && dash_before(i))
            *out++ = '-';
        out = hex_put(out, uuid[i]);
    }
    *out = '\0';
}

static uint8_t *put_big_endian(uint8_t *out, uint64_t value, size_t size)
{
    for (size_t i = size; i > 0; i--)
        *out++ = (uint8_t)(value >> (8 * (i - 1)));
    return out;
}

void ident_retry(char out[IDENT_DASHED_LEN + 1], struct bytes parent_id, uint32_t attempts)
{
    static const char label[] = "taskmill retry"; /* its NUL is part of the input */
    const uint8_t tail[] = {0, (uint8_t)(attempts >> 24), (uint8_t)(attempts >> 16),
                            (uint8_t)(attempts >> 8), (uint8_t)attempts};
    const struct bytes parts[] = {bytes_of(label, sizeof(label)), parent_id,
                                  bytes_of(tail, sizeof(tail))};
    uint8_t digest[32];
    sha256(digest, parts, sizeof(parts) / sizeof(parts[0]));
    uuid_mark(digest, 8);
    uuid_format(out, digest, true);
}

void ident_raw(char out[IDENT_DASHED_LEN + 1], const struct ident_place *place)
{
    static const char label[] = "taskmill raw"; /* its NUL is part of the input */
    uint8_t numbers[4 + 8 + 8], *end = numbers, digest[32];
    end = put_big_endian(end, (uint32_t)place->partition, 4);
    end = put_big_endian(end, (uint64_t)place->offset, 8);
    end = put_big_endian(end, (uint64_t)place->timestamp_ms, 8);
    const struct bytes parts[] = {bytes_of(label, sizeof(label)),
                                  bytes_of(place->cluster, strlen(place->cluster) + 1),
                                  bytes_of(place->topic, strlen(place->topic) + 1),
                                  bytes_of(numbers, (size_t)(end - numbers))};
    sha256(digest, parts, sizeof(parts) / sizeof(parts[0]));
    uuid_mark(digest, 8);
    uuid_format(out, digest, true);
}

void ident_scheduled(char out[IDENT_HEX_LEN + 1], const char *entry, const char *schedule,
                     int64_t due_s)
{
    static const char label[] = "taskmill schedule"; /* its NUL is part of the input */
    uint8_t due[8], digest[32];
    put_big_endian(due, (uint64_t)due_s, sizeof(due));
    const struct bytes parts[] = {
        bytes_of(label, sizeof(label)), bytes_of(entry, strlen(entry) + 1),
        bytes_of(schedule, strlen(schedule) + 1), bytes_of(due, sizeof(due))};
    sha256(digest, parts, sizeof(parts) / sizeof(parts[0]));
    uuid_mark(digest, 8);
    uuid_format(out, digest, false);
}

void ident_random(char out[IDENT_HEX_LEN + 1], const uint8_t random[16])
{
    uint8_t uuid[UUID_LEN];
    memcpy(uuid, random, UUID_LEN);
    uuid_mark(uuid, 4);
    uuid_format(out, uuid, false);
}

/* The last byte of a UUID of exactly 16 bytes in hex, or -1. */
static int last_byte(struct bytes text, bool dashed)
{
    size_t at = 0;
    int byte = 0;
    for (size_t i = 0; i < UUID_LEN; i++) {
        if (dashed && dash_before(i) && text.ptr[at++] != '-')
            return -1;
        byte = hex_take(text.ptr + at);
        if (byte < 0)
            return -1;
        at += 2;
    }
    return byte;
}

uint8_t ident_bucket(struct bytes id)
{
    static const char urn[] = "urn:uuid:";
    size_t urn_len = sizeof(urn) - 1;
    bool dashed = id.len != IDENT_HEX_LEN;
    if (id.len == BRACED_LEN && id.ptr[0] == '{' && id.ptr[id.len - 1] == '}')
        id = bytes_of(id.ptr + 1, IDENT_DASHED_LEN);
    else if (id.len == urn_len + IDENT_DASHED_LEN && memcmp(id.ptr, urn, urn_len) == 0)
        id = bytes_of(id.ptr + urn_len, IDENT_DASHED_LEN);
    if (id.len != (dashed ? IDENT_DASHED_LEN : IDENT_HEX_LEN))
        return 0;
    int bucket = last_byte(id, dashed);
    return bucket < 0 ? 0 : (uint8_t)bucket;
}
