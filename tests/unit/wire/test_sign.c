/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/sign.h"

#include "hexed.h"
#include "wire/consumer.h"

#define VECTOR "f190efe218d02d9c0f1f6c8793029d8b46e230873bbe2ec5d96be5bf2c154944"

static struct bytes path(void)
{
    return bytes_str(CONSUMER_GET_TASK);
}

/* spec/client.md 0 */
static void test_vector(void **state)
{
    (void)state;
    struct hexed request = unhex("120673656e747279");
    char hex[SIGN_HEX_LEN + 1];
    sign_request(hex, bytes_str("secret"), path(), hexed_bytes(&request));
    assert_string_equal(hex, VECTOR);
}

static void test_verify(void **state)
{
    (void)state;
    struct hexed request = unhex("120673656e747279");
    struct bytes message = hexed_bytes(&request), signature = bytes_str(VECTOR);
    const struct bytes secrets[] = {bytes_str("other"), bytes_str("secret"), bytes_str("")};
    assert_true(sign_verify(signature, secrets, 3, path(), message));
    assert_false(sign_verify(signature, secrets, 1, path(), message));
    assert_false(sign_verify(signature, NULL, 0, path(), message));
    assert_false(sign_verify(signature, secrets, 3, bytes_str(CONSUMER_SET_STATUS), message));
    message.len--;
    assert_false(sign_verify(signature, secrets, 3, path(), message));
}

static void test_verify_takes_either_case(void **state)
{
    (void)state;
    struct hexed request = unhex("120673656e747279");
    struct bytes secret = bytes_str("secret");
    char upper[] = VECTOR;
    for (char *c = upper; *c; c++)
        if (*c >= 'a')
            *c = (char)(*c - 'a' + 'A');
    assert_true(sign_verify(bytes_str(upper), &secret, 1, path(), hexed_bytes(&request)));
}

static void test_verify_refuses_what_is_no_signature(void **state)
{
    (void)state;
    struct hexed request = unhex("120673656e747279");
    struct bytes secret = bytes_str("secret"), message = hexed_bytes(&request);
    char bad[] = VECTOR;
    assert_false(sign_verify(bytes_of(NULL, 0), &secret, 1, path(), message));
    assert_false(sign_verify(bytes_of(bad, SIGN_HEX_LEN - 1), &secret, 1, path(), message));
    assert_false(sign_verify(bytes_of(bad, SIGN_HEX_LEN + 1), &secret, 1, path(), message));
    for (size_t i = 0; i < SIGN_HEX_LEN; i++) {
        char right = bad[i];
        bad[i] = right == '0' ? '1' : '0';
        assert_false(sign_verify(bytes_str(bad), &secret, 1, path(), message));
        bad[i] = 'g';
        assert_false(sign_verify(bytes_str(bad), &secret, 1, path(), message));
        bad[i] = right;
    }
    assert_true(sign_verify(bytes_str(bad), &secret, 1, path(), message));
}

static void test_empty_secret_and_message(void **state)
{
    (void)state;
    char hex[SIGN_HEX_LEN + 1];
    struct bytes none = {0};
    sign_request(hex, none, none, none);
    /* HMAC-SHA256("", ":") */
    assert_string_equal(hex, "c74a7f0e3acf82914ba8cd278e1f3f5bf898523ec89c72d66ca67ef3dd76311f");
    assert_true(sign_verify(bytes_str(hex), &none, 1, none, none));
}

static void test_sha256(void **state)
{
    (void)state;
    uint8_t digest[32];
    const struct bytes parts[] = {bytes_str("a"), bytes_of(NULL, 0), bytes_str("bc")};
    sha256(digest, parts, 3); /* FIPS 180-2, "abc" */
    assert_bytes_hex(bytes_of(digest, sizeof(digest)),
                     "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    sha256(digest, NULL, 0);
    assert_bytes_hex(bytes_of(digest, sizeof(digest)),
                     "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vector),
        cmocka_unit_test(test_verify),
        cmocka_unit_test(test_verify_takes_either_case),
        cmocka_unit_test(test_verify_refuses_what_is_no_signature),
        cmocka_unit_test(test_empty_secret_and_message),
        cmocka_unit_test(test_sha256),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
