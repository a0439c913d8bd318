/* SPDX-License-Identifier: Apache-2.0 */
#include "topic/kafka_member.h"

static bool take(struct bytes *rest, size_t len, struct bytes *out)
{
    if (rest->len < len)
        return false;
    *out = bytes_of(rest->ptr, len);
    *rest = bytes_of(rest->ptr + len, rest->len - len);
    return true;
}

/* Two's complement, big-endian. */
static bool take_int(struct bytes *rest, size_t size, int32_t *out)
{
    struct bytes field;
    uint32_t value = 0;

    if (!take(rest, size, &field))
        return false;
    for (size_t i = 0; i < size; i++)
        value = value << 8 | field.ptr[i];
    *out = size == 2 ? (int16_t)value : (int32_t)value;
    return true;
}

int kafka_member_subscribes(struct bytes metadata, struct bytes topic, bool *subscribes)
{
    int32_t version, count, len;
    struct bytes name;

    *subscribes = false;
    if (!take_int(&metadata, 2, &version) || version < 0 || !take_int(&metadata, 4, &count) ||
        count < 0)
        return ERR_MALFORMED;
    for (int32_t i = 0; i < count; i++) {
        if (!take_int(&metadata, 2, &len) || len < 0 || !take(&metadata, (size_t)len, &name))
            return ERR_MALFORMED;
        *subscribes |= bytes_equal(name, topic);
    }
    return 0;
}
