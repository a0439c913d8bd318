/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Record headers in one blob: for each header the key's length (32 bits, little-endian), the key,
 * the value's length, the value. No header at all is the empty blob.
 */
#include <assert.h>

#include "base/mem.h"
#include "store/sql.h"

static void put(struct buf *out, struct bytes b)
{
    assert(b.len <= UINT32_MAX);
    uint32_t len = (uint32_t)b.len;
    const uint8_t le[4] = {(uint8_t)len, (uint8_t)(len >> 8), (uint8_t)(len >> 16),
                           (uint8_t)(len >> 24)};

    buf_append(out, le, sizeof le);
    buf_append(out, b.ptr, b.len);
}

void headers_encode(struct buf *out, const struct store_header *headers, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        put(out, headers[i].key);
        put(out, headers[i].value);
    }
}

static bool take(struct bytes *in, struct bytes *out)
{
    if (in->len < 4)
        return false;
    uint32_t len = (uint32_t)in->ptr[0] | (uint32_t)in->ptr[1] << 8 | (uint32_t)in->ptr[2] << 16 |
                   (uint32_t)in->ptr[3] << 24;
    if (in->len - 4 < len)
        return false;
    *out = bytes_of(in->ptr + 4, len);
    *in = bytes_of(in->ptr + 4 + len, in->len - 4 - len);
    return true;
}

int headers_decode(struct store *store, struct bytes encoded, size_t *count)
{
    size_t n = 0;

    while (encoded.len > 0) {
        if (n == store->header_cap) {
            store->header_cap = n ? 2 * n : 8;
            store->headers = (struct store_header *)mem_realloc(
                store->headers, store->header_cap * sizeof *store->headers);
        }
        struct store_header *header = &store->headers[n++];
        if (!take(&encoded, &header->key) || !take(&encoded, &header->value))
            return store_fail(store, ERR_CORRUPT, "headers of a message are malformed");
    }
    *count = n;
    return 0;
}
