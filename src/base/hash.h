/* SPDX-License-Identifier: Apache-2.0 */
/* Keyed hashing of bytes that strangers choose (SipHash, Aumasson and Bernstein 2012): whoever does
 * not know the key cannot make collisions. Not for signatures; those are HMACs (wire/sign.h). Pure.
 */
#ifndef TASKMILL_BASE_HASH_H
#define TASKMILL_BASE_HASH_H

#include "base/bytes.h"

/* SipHash-c-d with c rounds a word and d rounds at the end. The key is its 16 bytes read as two
 * little-endian words; the result is the little-endian word of the reference's 8 bytes. */
uint64_t hash_sip(const uint64_t key[2], struct bytes data, unsigned c_rounds, unsigned d_rounds);

/* SipHash-1-3, the hash of all our tables. */
uint64_t hash_bytes(const uint64_t seed[2], struct bytes data);

#endif
