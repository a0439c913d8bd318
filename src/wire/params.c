/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/params.h"

#include <zstd.h>

#include "wire/pb.h"

/* Reads one value of the outer map whole; *packed is where it stood. */
static int take_value(struct msgpack_reader *reader, struct msgpack_value *head,
                      struct bytes *packed, const char **why)
{
    struct msgpack_reader whole = *reader;
    const uint8_t *start = reader->pos;
    int rv = msgpack_read(reader, head, why);
    if (rv == 0)
        rv = msgpack_skip_inside(&whole, 1, why);
    if (rv < 0)
        return rv;
    *reader = whole;
    *packed = bytes_of(start, (size_t)(whole.pos - start));
    return 0;
}

static int take_entry(struct msgpack_reader *reader, struct bytes *args, struct bytes *kwargs,
                      const char **why)
{
    struct msgpack_value key, value;
    struct bytes packed;
    int rv = msgpack_read(reader, &key, why);
    if (rv < 0)
        return rv;
    if (key.type != MSGPACK_STR && key.type != MSGPACK_BIN)
        return pb_fault(why, "parameters have a key that is not a string");
    rv = take_value(reader, &value, &packed, why);
    if (rv < 0 || key.type != MSGPACK_STR)
        return rv;
    if (bytes_equal_str(key.data, "args")) {
        if (value.type != MSGPACK_ARRAY)
            return pb_fault(why, "args is not an array");
        *args = packed;
    } else if (bytes_equal_str(key.data, "kwargs")) {
        if (value.type != MSGPACK_MAP)
            return pb_fault(why, "kwargs is not a map");
        *kwargs = packed;
    }
    return 0;
}

static int check_keyword(struct msgpack_reader *reader, const char **why)
{
    struct msgpack_value key;
    int rv = msgpack_read(reader, &key, why);
    if (rv < 0)
        return rv;
    if (key.type != MSGPACK_STR)
        return pb_fault(why, "kwargs has a key that is not a string");
    return msgpack_skip(reader, why);
}

static int check_keywords(struct bytes kwargs, const char **why)
{
    struct msgpack_reader reader = {.pos = kwargs.ptr, .end = kwargs.ptr + kwargs.len};
    struct msgpack_value map;
    int rv = msgpack_read(&reader, &map, why);
    for (uint32_t i = 0; rv == 0 && i < map.count; i++)
        rv = check_keyword(&reader, why);
    return rv;
}

int params_open(struct bytes packed, struct bytes *args, struct bytes *kwargs, const char **why)
{
    *args = *kwargs = (struct bytes){0};
    if (packed.len == 0)
        return pb_fault(why, "parameters are empty");
    struct msgpack_reader reader = {.pos = packed.ptr, .end = packed.ptr + packed.len};
    struct msgpack_value map;
    int rv = msgpack_read(&reader, &map, why);
    if (rv < 0)
        return rv;
    if (map.type != MSGPACK_MAP)
        return pb_fault(why, "parameters are not a map");
    for (uint32_t i = 0; i < map.count; i++) {
        rv = take_entry(&reader, args, kwargs, why);
        if (rv < 0)
            return rv;
    }
    if (reader.pos != reader.end)
        return pb_fault(why, "parameters are followed by other bytes");
    return kwargs->len > 0 ? check_keywords(*kwargs, why) : 0;
}

static int clamp_level(int64_t level)
{
    if (level < ZSTD_minCLevel())
        return ZSTD_minCLevel();
    return level > ZSTD_maxCLevel() ? ZSTD_maxCLevel() : (int)level;
}

int params_compress(struct bytes in, struct buf *out, const char **why)
{
    return params_compress_at(in, PARAMS_ZSTD_LEVEL, out, why);
}

int params_compress_at(struct bytes in, int64_t level, struct buf *out, const char **why)
{
    size_t bound = ZSTD_compressBound(in.len);
    if (ZSTD_isError(bound)) {
        *why = "parameters are too large to compress";
        return ERR_TOO_LARGE;
    }
    buf_reserve(out, bound);
    size_t len = ZSTD_compress(out->ptr + out->len, bound, in.ptr, in.len, clamp_level(level));
    if (ZSTD_isError(len)) {
        *why = ZSTD_getErrorName(len);
        return ERR_SYSTEM;
    }
    out->len += len;
    return 0;
}

/* Only the first frame counts, as for the Python worker; what follows it is ignored. */
int params_decompress(struct bytes in, size_t max, struct buf *out, const char **why)
{
    unsigned long long size = ZSTD_getFrameContentSize(in.ptr, in.len);
    if (size == ZSTD_CONTENTSIZE_ERROR)
        return pb_fault(why, "compressed parameters are not a zstd frame");
    if (size == ZSTD_CONTENTSIZE_UNKNOWN)
        return pb_fault(why, "compressed parameters do not say their size");
    if (size > max) {
        *why = "compressed parameters unpack to more than the limit";
        return ERR_TOO_LARGE;
    }
    size_t frame_len = ZSTD_findFrameCompressedSize(in.ptr, in.len);
    if (ZSTD_isError(frame_len))
        return pb_fault(why, "compressed parameters are cut off or corrupt");
    buf_reserve(out, size ? size : 1); /* never a NULL to add to */
    size_t len = ZSTD_decompress(out->ptr + out->len, size, in.ptr, frame_len);
    if (ZSTD_isError(len) || len != size)
        return pb_fault(why, "compressed parameters are cut off or corrupt");
    out->len += len;
    return 0;
}
