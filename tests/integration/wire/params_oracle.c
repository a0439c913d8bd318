/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Our translations of task parameters, for test_params_differential.py to compare with Python's.
 * stdin: records of one byte (enum operation) and a block; stdout, for each: one byte, 1 if it
 * could be translated, and a block: the result, or the reason why not.
 */
#include <assert.h>

#include "wire/params.h"

#include "oracle_io.h"

enum operation { TO_JSON, FROM_JSON, COMPRESS, DECOMPRESS };

static int translate(enum operation operation, struct bytes in, struct buf *out, const char **why)
{
    switch (operation) {
    case TO_JSON:
        return params_to_json(in, out, why);
    case FROM_JSON:
        return params_from_json(in, out, why);
    case COMPRESS:
        return params_compress(in, out, why);
    case DECOMPRESS:
        return params_decompress(in, 1 << 20, out, why);
    }
    return ERR_INVALID;
}

static void answer(enum operation operation, struct bytes in, struct buf *out)
{
    struct buf result = {0};
    const char *why = NULL;
    int rv = translate(operation, in, &result, &why);
    assert(rv <= 0 && (rv == 0 || (why && *why && result.len == 0)));
    if (rv < 0)
        buf_append_str(&result, why);
    buf_append_byte(out, rv == 0);
    put_block(out, &result);
    buf_free(&result);
}

int main(void)
{
    struct buf in = read_all(stdin), out = {0};
    uint32_t len;
    for (size_t at = 0; at < in.len; at += len) {
        assert(in.len - at >= 1 + sizeof(len));
        enum operation operation = (enum operation)in.ptr[at];
        memcpy(&len, in.ptr + at + 1, sizeof(len));
        at += 1 + sizeof(len);
        assert(in.len - at >= len);
        answer(operation, bytes_of(in.ptr + at, len), &out);
    }
    bool written = write_all(stdout, &out);
    buf_free(&in);
    buf_free(&out);
    return written ? 0 : 1;
}
