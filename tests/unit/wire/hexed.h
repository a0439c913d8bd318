/* SPDX-License-Identifier: Apache-2.0 */
/* Messages in the tests of this room are written as hex text: "0a 0161" is easier to check against
 * a specification than an array. Includes cmocka, with what it needs in front. */
#ifndef TASKMILL_TESTS_HEXED_H
#define TASKMILL_TESTS_HEXED_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "wire/hex.h"

struct hexed {
    uint8_t data[512];
    size_t len;
};

static inline struct bytes hexed_bytes(const struct hexed *hexed)
{
    return bytes_of(hexed->data, hexed->len);
}

/* Spaces are for the reader. */
static inline struct hexed unhex(const char *text)
{
    struct hexed out = {.len = 0};
    while (*text) {
        if (*text == ' ') {
            text++;
            continue;
        }
        int byte = text[1] ? hex_take((const uint8_t *)text) : -1;
        assert_in_range(byte, 0, 255);
        assert_true(out.len < sizeof(out.data));
        out.data[out.len++] = (uint8_t)byte;
        text += 2;
    }
    return out;
}

static inline void assert_bytes_hex(struct bytes actual, const char *expected)
{
    struct hexed want = unhex(expected);
    assert_int_equal(actual.len, want.len);
    if (want.len > 0)
        assert_memory_equal(actual.ptr, want.data, want.len);
}

static inline void assert_bytes_str(struct bytes actual, const char *expected)
{
    assert_true(bytes_equal_str(actual, expected));
}

#endif
