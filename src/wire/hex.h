/* SPDX-License-Identifier: Apache-2.0 */
/* Hexadecimal text, for the ids and signatures of this room. */
#ifndef TASKMILL_WIRE_HEX_H
#define TASKMILL_WIRE_HEX_H

#include <stdint.h>

/* Writes two lower-case digits, no NUL; returns the position after them. */
static inline char *hex_put(char *out, uint8_t byte)
{
    static const char digits[] = "0123456789abcdef";
    *out++ = digits[byte >> 4];
    *out++ = digits[byte & 0x0f];
    return out;
}

/* The byte of two digits of either case; -1 when one is not a digit. */
static inline int hex_take(const uint8_t digits[2])
{
    int byte = 0;
    for (int i = 0; i < 2; i++) {
        uint8_t c = digits[i], letter = c | 0x20;
        if (c >= '0' && c <= '9')
            byte = byte << 4 | (c - '0');
        else if (letter >= 'a' && letter <= 'f')
            byte = byte << 4 | (letter - 'a' + 10);
        else
            return -1;
    }
    return byte;
}

#endif
