/* SPDX-License-Identifier: Apache-2.0 */
#include "base/hash.h"

#include <endian.h>

struct sip {
    uint64_t v0, v1, v2, v3;
};

static inline uint64_t rotl(uint64_t x, unsigned bits)
{
    return (x << bits) | (x >> (64 - bits));
}

static inline void sip_rounds(struct sip *s, unsigned rounds)
{
    while (rounds-- > 0) {
        s->v0 += s->v1;
        s->v1 = rotl(s->v1, 13) ^ s->v0;
        s->v0 = rotl(s->v0, 32);
        s->v2 += s->v3;
        s->v3 = rotl(s->v3, 16) ^ s->v2;
        s->v0 += s->v3;
        s->v3 = rotl(s->v3, 21) ^ s->v0;
        s->v2 += s->v1;
        s->v1 = rotl(s->v1, 17) ^ s->v2;
        s->v2 = rotl(s->v2, 32);
    }
}

static inline void absorb(struct sip *s, uint64_t word, unsigned rounds)
{
    s->v3 ^= word;
    sip_rounds(s, rounds);
    s->v0 ^= word;
}

/* The last word: what is left of the data, and the length modulo 256 in the top byte. */
static inline uint64_t tail_word(struct bytes data)
{
    uint64_t word = (uint64_t)data.len << 56;
    size_t whole = data.len & ~(size_t)7;

    for (size_t i = whole; i < data.len; i++)
        word |= (uint64_t)data.ptr[i] << (8 * (i - whole));
    return word;
}

/* Inline so that hash_bytes gets its rounds as constants, unrolled. */
static inline uint64_t sip(const uint64_t key[2], struct bytes data, unsigned c_rounds,
                           unsigned d_rounds)
{
    struct sip s = {.v0 = key[0] ^ UINT64_C(0x736f6d6570736575),
                    .v1 = key[1] ^ UINT64_C(0x646f72616e646f6d),
                    .v2 = key[0] ^ UINT64_C(0x6c7967656e657261),
                    .v3 = key[1] ^ UINT64_C(0x7465646279746573)};

    for (size_t i = 0; i + 8 <= data.len; i += 8) {
        uint64_t word;
        memcpy(&word, data.ptr + i, sizeof(word));
        absorb(&s, le64toh(word), c_rounds);
    }
    absorb(&s, tail_word(data), c_rounds);
    s.v2 ^= 0xff;
    sip_rounds(&s, d_rounds);
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

uint64_t hash_sip(const uint64_t key[2], struct bytes data, unsigned c_rounds, unsigned d_rounds)
{
    return sip(key, data, c_rounds, d_rounds);
}

uint64_t hash_bytes(const uint64_t seed[2], struct bytes data)
{
    return sip(seed, data, 1, 3);
}
