/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Task parameters (spec/client.md 2.4): a msgpack map {"args": [...], "kwargs": {...}}, perhaps in
 * one zstd frame with its content size. Here: a bounded msgpack reader and writer, zstd both ways,
 * and the translation to and from JSON for tasks in other languages (bytes as {"$bytes": "base64"},
 * NaN and infinities as {"$float": "nan" | "inf" | "-inf"}, large integers stay integers). Pure,
 * thread-safe.
 */
#ifndef TASKMILL_WIRE_PARAMS_H
#define TASKMILL_WIRE_PARAMS_H

#include "base/bytes.h"
#include "base/err.h"

#define PARAMS_DEPTH_MAX        1024 /* containers, the outer map included: what Python unpacks */
#define PARAMS_UNCOMPRESSED_MAX (64u << 20) /* refuse zstd frames that claim more */
#define PARAMS_COMPRESS_ABOVE   3000000u    /* packed bytes; strictly more is compressed */
#define PARAMS_ZSTD_LEVEL       3

enum msgpack_type {
    MSGPACK_NIL,
    MSGPACK_BOOL,
    MSGPACK_INT,  /* negative */
    MSGPACK_UINT, /* zero and positive */
    MSGPACK_FLOAT,
    MSGPACK_STR, /* valid UTF-8, checked */
    MSGPACK_BIN,
    MSGPACK_ARRAY, /* `count` values follow */
    MSGPACK_MAP,   /* `count` key-value pairs follow */
    MSGPACK_EXT
};

struct msgpack_value {
    enum msgpack_type type;
    bool b;
    int64_t i;
    uint64_t u;
    double d;
    struct bytes data; /* STR, BIN, EXT (without the type byte) */
    int8_t ext_type;
    uint32_t count;
};

struct msgpack_reader {
    const uint8_t *pos, *end;
};

/* One value head; containers announce their children. 0 or ERR_MALFORMED. */
int msgpack_read(struct msgpack_reader *reader, struct msgpack_value *value, const char **why);
/* Skips one whole value (iteratively, depth <= PARAMS_DEPTH_MAX). Keys of maps must be STR or BIN:
 * the Python worker reads no others. */
int msgpack_skip(struct msgpack_reader *reader, const char **why);
/* The same for a value inside of `outer` containers, which count; outer <= PARAMS_DEPTH_MAX. */
int msgpack_skip_inside(struct msgpack_reader *reader, int outer, const char **why);

/* Shortest encodings, as msgpack-python writes them. */
void msgpack_put_nil(struct buf *out);
void msgpack_put_bool(struct buf *out, bool value);
void msgpack_put_int(struct buf *out, int64_t value);
void msgpack_put_uint(struct buf *out, uint64_t value);
void msgpack_put_double(struct buf *out, double value);
void msgpack_put_str(struct buf *out, struct bytes value);
void msgpack_put_bin(struct buf *out, struct bytes value);
void msgpack_put_array(struct buf *out, uint32_t count);
void msgpack_put_map(struct buf *out, uint32_t count);

/* Finds args (array) and kwargs (map with string keys) in a packed parameters value; each slice is
 * the packed container, empty when the key is missing. The whole value is checked, and accepted as
 * the Python worker accepts it: nothing may follow, other keys are ignored, the last duplicate
 * wins, empty input is ERR_MALFORMED. */
int params_open(struct bytes packed, struct bytes *args, struct bytes *kwargs, const char **why);

/* {"args": [...], "kwargs": {...}} as compact JSON text appended to out, and back. Recursive, so
 * PARAMS_DEPTH_MAX is what bounds their stack: measured, 200 KiB. `json` may hold other keys, which
 * are ignored. ERR_MALFORMED, ERR_UNSUPPORTED (ext type, map key of type BIN). On
 * failure nothing is appended. */
int params_to_json(struct bytes packed, struct buf *out, const char **why);
int params_from_json(struct bytes json, struct buf *packed, const char **why);
/* One packed value out of what params_open has accepted, say one argument. */
int params_value_to_json(struct bytes packed, struct buf *out, const char **why);
/* A JSON string with its quotes. `text` is UTF-8. */
void params_put_json_string(struct bytes text, struct buf *out);

/* zstd. compress writes one frame with content size, no checksum; a level that zstd does not know
 * is cut to the nearest one, 0 is its default. decompress needs the content size and refuses more
 * than `max` bytes (ERR_TOO_LARGE). */
int params_compress(struct bytes in, struct buf *out, const char **why);
int params_compress_at(struct bytes in, int64_t level, struct buf *out, const char **why);
int params_decompress(struct bytes in, size_t max, struct buf *out, const char **why);
/* The same for compressed JSON: a text field cannot hold a frame, so it holds its base64. */
int params_decompress_text(struct bytes base64, size_t max, struct buf *out, const char **why);

#endif
