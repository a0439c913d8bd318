/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/sign.h"

#include <assert.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <pthread.h>

#include "wire/hex.h"

#define DIGEST_LEN 32

/* Looking an algorithm up costs more than hashing a request, so both are fetched once per process.
 * They are immutable, and part of every OpenSSL 3 (the assert names a broken installation). */
static pthread_once_t fetch_once = PTHREAD_ONCE_INIT;
static EVP_MD *sha256_md;
static EVP_MAC *hmac_mac;

static void fetch_algorithms(void)
{
    sha256_md = EVP_MD_fetch(NULL, "SHA256", NULL);
    hmac_mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    assert(sha256_md && hmac_mac);
}

/* Only allocation can fail below, and that ends the process (base/mem.h). */
static void must(int done)
{
    assert(done == 1);
}

void sha256(uint8_t out[DIGEST_LEN], const struct bytes *parts, size_t count)
{
    must(pthread_once(&fetch_once, fetch_algorithms) == 0);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    must(ctx != NULL);
    must(EVP_DigestInit_ex2(ctx, sha256_md, NULL));
    for (size_t i = 0; i < count; i++)
        must(EVP_DigestUpdate(ctx, parts[i].ptr, parts[i].len));
    must(EVP_DigestFinal_ex(ctx, out, NULL));
    EVP_MD_CTX_free(ctx);
}

static void request_mac(uint8_t out[DIGEST_LEN], struct bytes secret, struct bytes path,
                        struct bytes message)
{
    static char digest_name[] = "SHA256";
    const OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest_name, 0),
        OSSL_PARAM_construct_end(),
    };
    /* A NULL key would mean "the key of before". */
    const uint8_t *key = secret.len ? secret.ptr : (const uint8_t *)"";
    must(pthread_once(&fetch_once, fetch_algorithms) == 0);
    EVP_MAC_CTX *ctx = EVP_MAC_CTX_new(hmac_mac);
    must(ctx != NULL);
    must(EVP_MAC_init(ctx, key, secret.len, params));
    must(EVP_MAC_update(ctx, path.ptr, path.len));
    must(EVP_MAC_update(ctx, (const uint8_t *)":", 1));
    must(EVP_MAC_update(ctx, message.ptr, message.len));
    size_t len;
    must(EVP_MAC_final(ctx, out, &len, DIGEST_LEN));
    assert(len == DIGEST_LEN);
    EVP_MAC_CTX_free(ctx);
}

void sign_request(char out[SIGN_HEX_LEN + 1], struct bytes secret, struct bytes path,
                  struct bytes message)
{
    uint8_t mac[DIGEST_LEN];
    request_mac(mac, secret, path, message);
    for (size_t i = 0; i < DIGEST_LEN; i++)
        out = hex_put(out, mac[i]);
    *out = '\0';
}

static bool parse_signature(struct bytes signature, uint8_t out[DIGEST_LEN])
{
    if (signature.len != SIGN_HEX_LEN)
        return false;
    for (size_t i = 0; i < DIGEST_LEN; i++) {
        int byte = hex_take(signature.ptr + 2 * i);
        if (byte < 0)
            return false;
        out[i] = (uint8_t)byte;
    }
    return true;
}

bool sign_verify(struct bytes signature, const struct bytes *secrets, size_t secret_count,
                 struct bytes path, struct bytes message)
{
    uint8_t given[DIGEST_LEN], expected[DIGEST_LEN];
    if (!parse_signature(signature, given))
        return false;
    bool match = false;
    /* All of them, always: time must not tell which one matched. */
    for (size_t i = 0; i < secret_count; i++) {
        request_mac(expected, secrets[i], path, message);
        match |= CRYPTO_memcmp(given, expected, DIGEST_LEN) == 0;
    }
    return match;
}
