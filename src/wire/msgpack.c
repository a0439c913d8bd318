/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MessagePack (source: the MessagePack specification). The first byte says what follows: small
 * integers, lengths and counts are inside it, others follow in 1, 2, 4 or 8 bytes, big-endian.
 *
 *   00..7f int   80..8f map    90..9f array  a0..bf str     c0 nil   c1 never   c2 c3 bool
 *   c4..c6 bin   c7..c9 ext    ca cb float   cc..cf uint    d0..d3 int
 *   d4..d8 ext of 1, 2, 4, 8, 16 bytes       d9..db str     dc dd array   de df map   e0..ff int
 */
#include "wire/params.h"

#include <assert.h>

#include "wire/pb.h"

/* No lower than this, a first byte is a value by itself (negative fixint). */
#define FIXINT_NEGATIVE 0xe0

static size_t left(const struct msgpack_reader *reader)
{
    return (size_t)(reader->end - reader->pos);
}

/* A big-endian number of 1, 2, 4 or 8 bytes. */
static int take_number(struct msgpack_reader *reader, size_t width, uint64_t *number,
                       const char **why)
{
    if (left(reader) < width)
        return pb_fault(why, "parameters end inside a value");
    uint64_t sum = 0;
    for (size_t i = 0; i < width; i++)
        sum = sum << 8 | reader->pos[i];
    reader->pos += width;
    *number = sum;
    return 0;
}

static int take_data(struct msgpack_reader *reader, enum msgpack_type type, uint64_t len,
                     struct msgpack_value *value, const char **why)
{
    if (left(reader) < len)
        return pb_fault(why, "parameters end inside a value");
    value->type = type;
    value->data = bytes_of(reader->pos, len);
    reader->pos += len;
    if (type == MSGPACK_STR && !pb_utf8_valid(value->data))
        return pb_fault(why, "parameters hold a string that is not valid UTF-8");
    return 0;
}

static int take_ext(struct msgpack_reader *reader, uint64_t len, struct msgpack_value *value,
                    const char **why)
{
    uint64_t ext_type;
    int rv = take_number(reader, 1, &ext_type, why);
    if (rv < 0)
        return rv;
    value->ext_type = (int8_t)ext_type;
    return take_data(reader, MSGPACK_EXT, len, value, why);
}

/* A child takes at least one byte: so a reader that allocates by `count` is bounded by the input.
 */
static int take_container(struct msgpack_reader *reader, enum msgpack_type type, uint64_t count,
                          struct msgpack_value *value, const char **why)
{
    if (left(reader) < (type == MSGPACK_MAP ? 2 * count : count))
        return pb_fault(why, "parameters end inside an array or a map");
    value->type = type;
    value->count = (uint32_t)count;
    return 0;
}

static void set_int(struct msgpack_value *value, int64_t number)
{
    value->type = number < 0 ? MSGPACK_INT : MSGPACK_UINT;
    value->i = number;
    value->u = (uint64_t)number;
}

static void set_float(struct msgpack_value *value, uint64_t bits, size_t width)
{
    value->type = MSGPACK_FLOAT;
    if (width == sizeof(float)) {
        uint32_t narrow = (uint32_t)bits;
        float f;
        memcpy(&f, &narrow, sizeof(f));
        value->d = (double)f;
    } else {
        memcpy(&value->d, &bits, sizeof(value->d));
    }
}

static int64_t sign_extend(uint64_t number, size_t width)
{
    assert(width > 0 && width <= 8);
    unsigned shift = (unsigned)(64 - 8 * width);
    return (int64_t)(number << shift) >> shift;
}

/* Bytes c0..df: everything that does not fit into its first byte. */
static int take_long_form(struct msgpack_reader *reader, uint8_t first, struct msgpack_value *value,
                          const char **why)
{
    /* Width of the number that follows; the fixed ext have none. */
    static const uint8_t widths[32] = {0, 0, 0, 0, 1, 2, 4, 1, 2, 4, 4, 8, 1, 2, 4, 8,
                                       1, 2, 4, 8, 0, 0, 0, 0, 0, 1, 2, 4, 2, 4, 2, 4};
    size_t width = widths[first - 0xc0];
    uint64_t number = 0;
    int rv = take_number(reader, width, &number, why);
    if (rv < 0)
        return rv;
    switch (first) {
    case 0xc0:
        value->type = MSGPACK_NIL;
        return 0;
    case 0xc2:
    case 0xc3:
        value->type = MSGPACK_BOOL;
        value->b = first == 0xc3;
        return 0;
    case 0xc4:
    case 0xc5:
    case 0xc6:
        return take_data(reader, MSGPACK_BIN, number, value, why);
    case 0xc7:
    case 0xc8:
    case 0xc9:
        return take_ext(reader, number, value, why);
    case 0xca:
    case 0xcb:
        set_float(value, number, width);
        return 0;
    case 0xcc:
    case 0xcd:
    case 0xce:
    case 0xcf:
        value->type = MSGPACK_UINT;
        value->u = number;
        return 0;
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
        set_int(value, sign_extend(number, width));
        return 0;
    case 0xd4:
    case 0xd5:
    case 0xd6:
    case 0xd7:
    case 0xd8:
        return take_ext(reader, 1u << (first - 0xd4), value, why);
    case 0xd9:
    case 0xda:
    case 0xdb:
        return take_data(reader, MSGPACK_STR, number, value, why);
    case 0xdc:
    case 0xdd:
        return take_container(reader, MSGPACK_ARRAY, number, value, why);
    case 0xde:
    case 0xdf:
        return take_container(reader, MSGPACK_MAP, number, value, why);
    default:
        return pb_fault(why, "parameters hold a byte that msgpack never uses");
    }
}

int msgpack_read(struct msgpack_reader *reader, struct msgpack_value *value, const char **why)
{
    uint64_t first;
    int rv = take_number(reader, 1, &first, why);
    if (rv < 0)
        return rv;
    *value = (struct msgpack_value){0};
    if (first < 0x80)
        set_int(value, (int64_t)first);
    else if (first < 0x90)
        return take_container(reader, MSGPACK_MAP, first & 0x0f, value, why);
    else if (first < 0xa0)
        return take_container(reader, MSGPACK_ARRAY, first & 0x0f, value, why);
    else if (first < 0xc0)
        return take_data(reader, MSGPACK_STR, first & 0x1f, value, why);
    else if (first < FIXINT_NEGATIVE)
        return take_long_form(reader, (uint8_t)first, value, why);
    else
        set_int(value, (int8_t)first);
    return 0;
}

/* A container whose values are still being skipped. */
struct open_container {
    bool map;
    uint64_t
        missing; /* values yet to come; keys count, so in a map an even number waits for a key */
};

static bool key_is_next(const struct open_container *inner)
{
    return inner->map && inner->missing % 2 == 0;
}

static struct open_container open_container(const struct msgpack_value *head)
{
    bool map = head->type == MSGPACK_MAP;
    return (struct open_container){.map = map, .missing = (uint64_t)head->count * (map ? 2 : 1)};
}

int msgpack_skip(struct msgpack_reader *reader, const char **why)
{
    return msgpack_skip_inside(reader, 0, why);
}

int msgpack_skip_inside(struct msgpack_reader *reader, int outer, const char **why)
{
    struct open_container open[PARAMS_DEPTH_MAX];
    struct msgpack_value value;
    int depth = 0;
    assert(outer >= 0 && outer <= PARAMS_DEPTH_MAX);
    do {
        int rv = msgpack_read(reader, &value, why);
        if (rv < 0)
            return rv;
        bool text = value.type == MSGPACK_STR || value.type == MSGPACK_BIN;
        if (depth > 0 && key_is_next(&open[depth - 1]) && !text)
            return pb_fault(why, "parameters have a map key that is not a string");
        if (depth > 0)
            open[depth - 1].missing--;
        if (value.type == MSGPACK_ARRAY || value.type == MSGPACK_MAP) {
            if (outer + depth == PARAMS_DEPTH_MAX)
                return pb_fault(why, "parameters are nested too deeply");
            open[depth++] = open_container(&value);
        }
        while (depth > 0 && open[depth - 1].missing == 0)
            depth--;
    } while (depth > 0);
    return 0;
}

static void put_number(struct buf *out, uint8_t first, uint64_t number, size_t width)
{
    uint8_t bytes[9] = {first};
    for (size_t i = 0; i < width; i++)
        bytes[1 + i] = (uint8_t)(number >> 8 * (width - 1 - i));
    buf_append(out, bytes, 1 + width);
}

/* The shortest of the 1, 2, 4 and 8 byte forms, whose first bytes follow each other from `first8`.
 */
static void put_sized(struct buf *out, uint8_t first8, uint64_t number)
{
    if (number <= UINT8_MAX)
        put_number(out, first8, number, 1);
    else if (number <= UINT16_MAX)
        put_number(out, first8 + 1, number, 2);
    else if (number <= UINT32_MAX)
        put_number(out, first8 + 2, number, 4);
    else
        put_number(out, first8 + 3, number, 8);
}

void msgpack_put_nil(struct buf *out)
{
    buf_append_byte(out, 0xc0);
}

void msgpack_put_bool(struct buf *out, bool value)
{
    buf_append_byte(out, value ? 0xc3 : 0xc2);
}

void msgpack_put_int(struct buf *out, int64_t value)
{
    if (value >= 0)
        msgpack_put_uint(out, (uint64_t)value);
    else if (value >= -32)
        buf_append_byte(out, (uint8_t)value);
    else if (value >= INT8_MIN)
        put_number(out, 0xd0, (uint64_t)value, 1);
    else if (value >= INT16_MIN)
        put_number(out, 0xd1, (uint64_t)value, 2);
    else if (value >= INT32_MIN)
        put_number(out, 0xd2, (uint64_t)value, 4);
    else
        put_number(out, 0xd3, (uint64_t)value, 8);
}

void msgpack_put_uint(struct buf *out, uint64_t value)
{
    if (value < 0x80)
        buf_append_byte(out, (uint8_t)value);
    else
        put_sized(out, 0xcc, value);
}

void msgpack_put_double(struct buf *out, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof(bits));
    put_number(out, 0xcb, bits, 8);
}

void msgpack_put_str(struct buf *out, struct bytes value)
{
    assert(value.len <= UINT32_MAX);
    if (value.len < 32)
        buf_append_byte(out, (uint8_t)(0xa0 | value.len));
    else
        put_sized(out, 0xd9, value.len);
    buf_append(out, value.ptr, value.len);
}

void msgpack_put_bin(struct buf *out, struct bytes value)
{
    assert(value.len <= UINT32_MAX);
    put_sized(out, 0xc4, value.len);
    buf_append(out, value.ptr, value.len);
}

/* Containers have no 1-byte count. */
static void put_count(struct buf *out, uint8_t fix, uint8_t first16, uint32_t count)
{
    if (count < 16)
        buf_append_byte(out, (uint8_t)(fix | count));
    else if (count <= UINT16_MAX)
        put_number(out, first16, count, 2);
    else
        put_number(out, first16 + 1, count, 4);
}

void msgpack_put_array(struct buf *out, uint32_t count)
{
    put_count(out, 0x90, 0xdc, count);
}

void msgpack_put_map(struct buf *out, uint32_t count)
{
    put_count(out, 0x80, 0xde, count);
}
