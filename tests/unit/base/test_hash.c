/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <string.h>

#include "base/hash.h"

/* The key of the reference's vectors: bytes 0 to 15. */
static const uint64_t reference_key[2] = {0x0706050403020100, 0x0f0e0d0c0b0a0908};

/* SipHash-2-4 of the messages {}, {0}, {0, 1}, ...: first lines of vectors.h in the authors'
 * reference implementation; the one for 15 bytes is also in appendix A of their paper. */
static const uint8_t vectors_2_4[][8] = {
    {0x31, 0x0e, 0x0e, 0xdd, 0x47, 0xdb, 0x6f, 0x72},
    {0xfd, 0x67, 0xdc, 0x93, 0xc5, 0x39, 0xf8, 0x74},
    {0x5a, 0x4f, 0xa9, 0xd9, 0x09, 0x80, 0x6c, 0x0d},
    {0x2d, 0x7e, 0xfb, 0xd7, 0x96, 0x66, 0x67, 0x85},
    {0xb7, 0x87, 0x71, 0x27, 0xe0, 0x94, 0x27, 0xcf},
    {0x8d, 0xa6, 0x99, 0xcd, 0x64, 0x55, 0x76, 0x18},
    {0xce, 0xe3, 0xfe, 0x58, 0x6e, 0x46, 0xc9, 0xcb},
    {0x37, 0xd1, 0x01, 0x8b, 0xf5, 0x00, 0x02, 0xab},
    {0x62, 0x24, 0x93, 0x9a, 0x79, 0xf5, 0xf5, 0x93},
    {0xb0, 0xe4, 0xa9, 0x0b, 0xdf, 0x82, 0x00, 0x9e},
    {0xf3, 0xb9, 0xdd, 0x94, 0xc5, 0xbb, 0x5d, 0x7a},
    {0xa7, 0xad, 0x6b, 0x22, 0x46, 0x2f, 0xb3, 0xf4},
    {0xfb, 0xe5, 0x0e, 0x86, 0xbc, 0x8f, 0x1e, 0x75},
    {0x90, 0x3d, 0x84, 0xc0, 0x27, 0x56, 0xea, 0x14},
    {0xee, 0xf2, 0x7a, 0x8e, 0x90, 0xca, 0x23, 0xf7},
    {0xe5, 0x45, 0xbe, 0x49, 0x61, 0xca, 0x29, 0xa1},
};

static uint64_t little_endian(const uint8_t bytes[8])
{
    uint64_t word = 0;

    for (int i = 7; i >= 0; i--)
        word = word << 8 | bytes[i];
    return word;
}

static void test_published_vectors(void **state)
{
    uint8_t message[16];

    (void)state;
    for (uint8_t i = 0; i < sizeof(message); i++)
        message[i] = i;
    for (size_t len = 0; len < sizeof(vectors_2_4) / 8; len++)
        assert_int_equal(hash_sip(reference_key, bytes_of(message, len), 2, 4),
                         little_endian(vectors_2_4[len]));
}

/* OpenSSL's SipHash takes the numbers of rounds too. */
static uint64_t openssl_sip(const uint8_t key[16], struct bytes data, unsigned c, unsigned d)
{
    uint8_t result[8];
    size_t len, size = sizeof(result);
    const OSSL_PARAM params[] = {
        OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, (void *)(uintptr_t)key, 16),
        OSSL_PARAM_construct_size_t(OSSL_MAC_PARAM_SIZE, &size),
        OSSL_PARAM_construct_uint(OSSL_MAC_PARAM_C_ROUNDS, &c),
        OSSL_PARAM_construct_uint(OSSL_MAC_PARAM_D_ROUNDS, &d), OSSL_PARAM_construct_end()};
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "SIPHASH", NULL);
    EVP_MAC_CTX *ctx = EVP_MAC_CTX_new(mac);

    assert_non_null(ctx);
    assert_int_equal(EVP_MAC_init(ctx, NULL, 0, params), 1);
    assert_int_equal(EVP_MAC_update(ctx, data.ptr, data.len), 1);
    assert_int_equal(EVP_MAC_final(ctx, result, &len, sizeof(result)), 1);
    assert_int_equal(len, sizeof(result));
    EVP_MAC_CTX_free(ctx);
    EVP_MAC_free(mac);
    return little_endian(result);
}

static void test_agrees_with_openssl(void **state)
{
    uint8_t key[16], message[300];
    uint64_t seed[2];

    (void)state;
    for (size_t i = 0; i < sizeof(key); i++)
        key[i] = (uint8_t)(i * 73 + 200);
    for (size_t i = 0; i < sizeof(message); i++)
        message[i] = (uint8_t)(i * 151 + 7);
    seed[0] = little_endian(key);
    seed[1] = little_endian(key + 8);
    for (size_t len = 0; len <= sizeof(message); len++) {
        struct bytes data = bytes_of(message, len);
        assert_int_equal(hash_bytes(seed, data), openssl_sip(key, data, 1, 3));
        assert_int_equal(hash_sip(seed, data, 2, 4), openssl_sip(key, data, 2, 4));
    }
}

static void test_unaligned_and_empty_input(void **state)
{
    static const char text[] = "xthe same bytes";
    char moved[32];

    (void)state;
    memcpy(moved + 3, text + 1, 14);
    assert_int_equal(hash_bytes(reference_key, bytes_of(text + 1, 14)),
                     hash_bytes(reference_key, bytes_of(moved + 3, 14)));
    assert_int_equal(hash_bytes(reference_key, bytes_of(NULL, 0)),
                     hash_bytes(reference_key, bytes_str("")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_vectors),
        cmocka_unit_test(test_agrees_with_openssl),
        cmocka_unit_test(test_unaligned_and_empty_input),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
