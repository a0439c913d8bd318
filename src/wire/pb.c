/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A message is a row of records, each a tag (field number << 3 | type, as a varint) and a value.
 * Where the format leaves room, this reader decides as upb does, since the Python workers read
 * with upb:
 *   - a varint has at most 10 bytes, and surplus bits are dropped; a tag has at most 5 bytes and
 *     32 bits; a length has at most 31 bits; spellings longer than needed are fine;
 *   - messages and groups count together toward PB_DEPTH_MAX;
 *   - inside a group only the frame is looked at: a field there belongs to no message we know.
 * It is the upb of protobuf 5.29, which the Python clients pin. That of 7.x differs twice: it
 * refuses lengths of more than 5 bytes and skips field number 0 inside groups.
 */
#include "wire/pb.h"

#include <assert.h>

#define TAG_TYPE_BITS  3
#define VARINT_LEN_MAX 10
#define TAG_LEN_MAX    5 /* of lengths too */

struct pb_reader pb_reader_init(struct bytes message, int depth)
{
    static const uint8_t nothing[1];
    assert(depth >= 0 && depth <= PB_DEPTH_MAX);
    const uint8_t *start = message.len ? message.ptr : nothing;
    return (struct pb_reader){.pos = start, .end = start + message.len, .depth = depth};
}

static int take_varint(struct pb_reader *reader, int max_len, uint64_t *value, const char **why)
{
    const uint8_t *pos = reader->pos;
    if (pos < reader->end && *pos < 0x80) {
        *value = *pos;
        reader->pos = pos + 1;
        return 0;
    }
    uint64_t sum = 0;
    for (int i = 0; i < max_len; i++) {
        if (pos == reader->end)
            return pb_fault(why, "message ends inside a varint");
        uint8_t byte = *pos++;
        sum |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (byte < 0x80) {
            *value = sum;
            reader->pos = pos;
            return 0;
        }
    }
    return pb_fault(why, "varint is too long");
}

static int take_tag(struct pb_reader *reader, uint32_t *number, enum pb_type *type,
                    const char **why)
{
    uint64_t tag;
    int rv = take_varint(reader, TAG_LEN_MAX, &tag, why);
    if (rv < 0)
        return rv;
    if (tag > UINT32_MAX)
        return pb_fault(why, "tag does not fit 32 bits");
    *number = (uint32_t)tag >> TAG_TYPE_BITS;
    *type = (enum pb_type)(tag & ((1u << TAG_TYPE_BITS) - 1));
    if (*number == 0)
        return pb_fault(why, "field number 0");
    return 0;
}

static int take_data(struct pb_reader *reader, struct bytes *data, const char **why)
{
    uint64_t len;
    int rv = take_varint(reader, VARINT_LEN_MAX, &len, why);
    if (rv < 0)
        return rv;
    if (len > INT32_MAX || len > (size_t)(reader->end - reader->pos))
        return pb_fault(why, "length runs past the end of the message");
    *data = bytes_of(reader->pos, len);
    reader->pos += len;
    return 0;
}

static int take_fixed(struct pb_reader *reader, int width, uint64_t *value, const char **why)
{
    if (reader->end - reader->pos < width)
        return pb_fault(why, "message ends inside a fixed-width value");
    uint64_t sum = 0;
    for (int i = 0; i < width; i++)
        sum |= (uint64_t)reader->pos[i] << (8 * i);
    *value = sum;
    reader->pos += width;
    return 0;
}

/* Every type but groups. */
static int take_value(struct pb_reader *reader, enum pb_type type, struct pb_field *field,
                      const char **why)
{
    switch (type) {
    case PB_VARINT:
        return take_varint(reader, VARINT_LEN_MAX, &field->value, why);
    case PB_LEN:
        return take_data(reader, &field->data, why);
    case PB_FIXED64:
        return take_fixed(reader, 8, &field->value, why);
    case PB_FIXED32:
        return take_fixed(reader, 4, &field->value, why);
    case PB_GROUP_START:
    case PB_GROUP_END:
        break;
    }
    return pb_fault(why, "unknown wire type");
}

/* The content of a group whose start tag has just been read, up to and past its end tag. Groups
 * nest, so `open` keeps their numbers: an end tag must name the innermost one. */
static int take_group(struct pb_reader *reader, uint32_t number, struct bytes *content,
                      const char **why)
{
    uint32_t open[PB_DEPTH_MAX];
    int level = 0, limit = PB_DEPTH_MAX - reader->depth;
    const uint8_t *start = reader->pos, *last = start;
    enum pb_type type = PB_GROUP_START;
    struct pb_field skipped;
    do {
        int rv = 0;
        if (type == PB_GROUP_START) {
            if (level == limit)
                return pb_fault(why, "groups are nested too deeply");
            open[level++] = number;
        } else if (type == PB_GROUP_END) {
            if (open[--level] != number)
                return pb_fault(why, "end of a group that is not open");
        } else {
            rv = take_value(reader, type, &skipped, why);
        }
        if (rv == 0 && level > 0) {
            last = reader->pos;
            rv = take_tag(reader, &number, &type, why);
        }
        if (rv < 0)
            return rv;
    } while (level > 0);
    *content = bytes_of(start, (size_t)(last - start));
    return 0;
}

int pb_next(struct pb_reader *reader, struct pb_field *field, const char **why)
{
    const uint8_t *start = reader->pos;
    if (start == reader->end)
        return 0;
    int rv = take_tag(reader, &field->number, &field->type, why);
    if (rv < 0)
        return rv;
    if (field->type == PB_GROUP_END)
        return pb_fault(why, "end of a group that is not open");
    if (field->type == PB_GROUP_START)
        rv = take_group(reader, field->number, &field->data, why);
    else
        rv = take_value(reader, field->type, field, why);
    if (rv < 0)
        return rv;
    field->record = bytes_of(start, (size_t)(reader->pos - start));
    return 1;
}

/* Length of the well-formed multi-byte character at `s`, 0 if there is none (RFC 3629: no
 * surrogates, nothing above U+10FFFF, no longer spelling than needed). */
static size_t utf8_char_len(const uint8_t *s, size_t len)
{
    if (s[0] < 0xc2 || len < 2)
        return 0;
    uint8_t second_min = 0x80, second_max = 0xbf;
    size_t need;
    if (s[0] < 0xe0) {
        need = 2;
    } else if (s[0] < 0xf0) {
        need = 3;
        if (s[0] == 0xe0)
            second_min = 0xa0;
        if (s[0] == 0xed)
            second_max = 0x9f;
    } else if (s[0] < 0xf5) {
        need = 4;
        if (s[0] == 0xf0)
            second_min = 0x90;
        if (s[0] == 0xf4)
            second_max = 0x8f;
    } else {
        return 0;
    }
    if (len < need || s[1] < second_min || s[1] > second_max)
        return 0;
    for (size_t i = 2; i < need; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    return need;
}

bool pb_utf8_valid(struct bytes text)
{
    const uint8_t *s = text.ptr;
    size_t len = text.len;
    while (len > 0) {
        uint64_t eight;
        if (len >= sizeof(eight)) { /* nearly all text is ASCII */
            memcpy(&eight, s, sizeof(eight));
            if ((eight & 0x8080808080808080u) == 0) {
                s += sizeof(eight);
                len -= sizeof(eight);
                continue;
            }
        }
        size_t step = *s < 0x80 ? 1 : utf8_char_len(s, len);
        if (step == 0)
            return false;
        s += step;
        len -= step;
    }
    return true;
}

void pb_put_varint(struct buf *out, uint64_t value)
{
    uint8_t bytes[VARINT_LEN_MAX];
    size_t len = 0;
    while (value >= 0x80) {
        bytes[len++] = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    bytes[len++] = (uint8_t)value;
    buf_append(out, bytes, len);
}

void pb_put_tag(struct buf *out, uint32_t number, enum pb_type type)
{
    pb_put_varint(out, number << TAG_TYPE_BITS | (uint32_t)type);
}

void pb_put_uint(struct buf *out, uint32_t number, uint64_t value)
{
    pb_put_tag(out, number, PB_VARINT);
    pb_put_varint(out, value);
}

void pb_put_fixed64(struct buf *out, uint32_t number, uint64_t value)
{
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(value >> 8 * i);
    pb_put_tag(out, number, PB_FIXED64);
    buf_append(out, bytes, sizeof bytes);
}

void pb_put_bytes(struct buf *out, uint32_t number, struct bytes value)
{
    pb_put_tag(out, number, PB_LEN);
    pb_put_varint(out, value.len);
    buf_append(out, value.ptr, value.len);
}
