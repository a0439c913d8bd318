/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Task parameters: the first byte chooses between packed parameters, JSON text and a zstd frame.
 * What can be translated must survive the way there and back: JSON written from packed parameters,
 * packed again, must give the same JSON.
 */
#include <stdlib.h>

#include "wire/params.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define UNPACKED_MAX (1u << 20)

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void require_reason(int rv, const char *why, const struct buf *out)
{
    require(rv < 0 && why && *why);
    require(out->len == 0);
}

/* A key with a NUL and a map that looks like one of our marks do not survive; see params_json.c. */
static bool survives_json(const struct buf *json)
{
    return !memmem(json->ptr, json->len, "\\u000", 5) && !memmem(json->ptr, json->len, "\"$", 2);
}

static void check_packed(struct bytes packed)
{
    struct buf json = {0}, back = {0}, again = {0};
    const char *why = NULL;
    int rv = params_to_json(packed, &json, &why);
    if (rv < 0) {
        require_reason(rv, why, &json);
    } else if (survives_json(&json)) {
        require(params_from_json(buf_bytes(&json), &back, &why) == 0);
        require(params_to_json(buf_bytes(&back), &again, &why) == 0);
        require(again.len <= json.len); /* shorter where a map had a key twice */
        buf_clear(&json);
        require(params_from_json(buf_bytes(&again), &json, &why) == 0);
        require(bytes_equal(buf_bytes(&json), buf_bytes(&back)));
    }
    buf_free(&json);
    buf_free(&back);
    buf_free(&again);
}

static void check_json(struct bytes json)
{
    struct buf packed = {0}, text = {0}, again = {0};
    const char *why = NULL;
    int rv = params_from_json(json, &packed, &why);
    if (rv < 0) {
        require_reason(rv, why, &packed);
    } else {
        require(params_to_json(buf_bytes(&packed), &text, &why) == 0);
        if (survives_json(&text)) {
            require(params_from_json(buf_bytes(&text), &again, &why) == 0);
            require(bytes_equal(buf_bytes(&packed), buf_bytes(&again)));
        }
    }
    buf_free(&packed);
    buf_free(&text);
    buf_free(&again);
}

static void check_frame(struct bytes frame)
{
    struct buf plain = {0}, packed = {0}, again = {0};
    const char *why = NULL;
    int rv = params_decompress(frame, UNPACKED_MAX, &plain, &why);
    if (rv < 0) {
        require_reason(rv, why, &plain);
    } else {
        require(plain.len <= UNPACKED_MAX);
        require(params_compress(buf_bytes(&plain), &packed, &why) == 0);
        require(params_decompress(buf_bytes(&packed), plain.len, &again, &why) == 0);
        require(bytes_equal(buf_bytes(&plain), buf_bytes(&again)));
    }
    buf_free(&plain);
    buf_free(&packed);
    buf_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    struct bytes rest = bytes_of(data + 1, size - 1);
    switch (data[0] % 3) {
    case 0:
        check_packed(rest);
        break;
    case 1:
        check_json(rest);
        break;
    default:
        check_frame(rest);
        break;
    }
    return 0;
}
