/* SPDX-License-Identifier: Apache-2.0 */
/* How the oracles read their questions and write their answers: all at once, in blocks of a u32
 * length (little-endian, as the machine's) and bytes. */
#ifndef TASKMILL_TESTS_ORACLE_IO_H
#define TASKMILL_TESTS_ORACLE_IO_H

#include <stdio.h>

#include "base/bytes.h"

/* All input there is. */
static inline struct buf read_all(FILE *in)
{
    struct buf all = {0};
    size_t got;
    do {
        buf_reserve(&all, 1 << 20);
        got = fread(all.ptr + all.len, 1, all.cap - all.len, in);
        all.len += got;
    } while (got > 0);
    return all;
}

static inline void put_block(struct buf *out, const struct buf *content)
{
    uint32_t len = (uint32_t)content->len;
    buf_append(out, &len, sizeof(len));
    buf_append(out, content->ptr, content->len);
}

/* Everything, or false. */
static inline bool write_all(FILE *out, const struct buf *content)
{
    return fwrite(content->ptr, 1, content->len, out) == content->len && fflush(out) == 0;
}

#endif
