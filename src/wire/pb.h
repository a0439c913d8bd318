/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Protocol Buffers wire format, bounded and allocation-free for reading
 * (source: the Protocol Buffers documentation, "Encoding"). A reader walks a slice field by field;
 * every length is checked against the slice; groups are skipped to a depth limit. All functions are
 * pure and thread-safe. Errors: ERR_MALFORMED with *why set to a constant text.
 */
#ifndef TASKMILL_WIRE_PB_H
#define TASKMILL_WIRE_PB_H

#include "base/bytes.h"
#include "base/err.h"

enum pb_type {
    PB_VARINT = 0,
    PB_FIXED64 = 1,
    PB_LEN = 2,
    PB_GROUP_START = 3,
    PB_GROUP_END = 4,
    PB_FIXED32 = 5
};

/* Messages and groups inside each other, the outermost message not counted. */
#define PB_DEPTH_MAX 100

struct pb_field {
    uint32_t number;
    enum pb_type type;
    uint64_t value;      /* PB_VARINT, PB_FIXED64, PB_FIXED32 */
    struct bytes data;   /* PB_LEN: content; PB_GROUP_START: content without the end tag */
    struct bytes record; /* the whole record, tag included: what an untouched copy needs */
};

struct pb_reader {
    const uint8_t *pos, *end;
    int depth; /* of the message being read; 0 for the outermost */
};

/* Sets *why and returns ERR_MALFORMED: how every decoder of this room ends on bad input. */
static inline int pb_fault(const char **why, const char *text)
{
    *why = text;
    return ERR_MALFORMED;
}

/* depth <= PB_DEPTH_MAX. */
struct pb_reader pb_reader_init(struct bytes message, int depth);
/* 1: a field was read; 0: clean end; < 0: malformed. */
int pb_next(struct pb_reader *reader, struct pb_field *field, const char **why);

bool pb_utf8_valid(struct bytes text);
/* The content of a string field; `invalid` becomes *why when it is not valid UTF-8. */
static inline int pb_take_text(const struct pb_field *field, struct bytes *text,
                               const char *invalid, const char **why)
{
    if (!pb_utf8_valid(field->data))
        return pb_fault(why, invalid);
    *text = field->data;
    return 0;
}

void pb_put_varint(struct buf *out, uint64_t value);
void pb_put_tag(struct buf *out, uint32_t number, enum pb_type type);
void pb_put_uint(struct buf *out, uint32_t number, uint64_t value);      /* always written */
void pb_put_fixed64(struct buf *out, uint32_t number, uint64_t value);   /* always written */
void pb_put_bytes(struct buf *out, uint32_t number, struct bytes value); /* always written */

#endif
