/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <string.h>

#include "base/bytes.h"
#include "base/mem.h"

static void test_bytes_compare(void **state)
{
    (void)state;
    assert_true(bytes_equal(bytes_of(NULL, 0), bytes_str("")));
    assert_true(bytes_equal(bytes_of("a\0b", 3), bytes_of("a\0b", 3)));
    assert_false(bytes_equal(bytes_of("a\0b", 3), bytes_of("a\0c", 3)));
    assert_false(bytes_equal(bytes_str("ab"), bytes_str("abc")));
    assert_true(bytes_equal_str(bytes_of("abc", 2), "ab"));
    assert_false(bytes_equal_str(bytes_of("a\0", 2), "a"));
}

static void test_zeroed_buf_is_empty(void **state)
{
    struct buf b = {0};

    (void)state;
    assert_int_equal(buf_bytes(&b).len, 0);
    buf_append(&b, NULL, 0);
    buf_consume(&b, 0);
    buf_clear(&b);
    assert_string_equal(buf_cstr(&b), "");
    buf_free(&b);
    buf_free(&b);
}

static void test_buf_appends(void **state)
{
    struct buf b = {0};

    (void)state;
    buf_append(&b, "a\0b", 3);
    buf_append_byte(&b, 0xFF);
    buf_append_str(&b, "xyz");
    buf_printf(&b, "%d-%s", 42, "q");
    assert_int_equal(b.len, 11);
    assert_memory_equal(b.ptr, "a\0b\xFFxyz42-q", 11);
    assert_int_equal(buf_cstr(&b)[11], '\0');
    assert_int_equal(b.len, 11);
    buf_free(&b);
    assert_null(b.ptr);
    buf_append_str(&b, "again");
    assert_string_equal(buf_cstr(&b), "again");
    buf_free(&b);
}

static void test_buf_grows_and_keeps_content(void **state)
{
    struct buf b = {0};
    size_t moves = 0, cap = 0;

    (void)state;
    for (size_t i = 0; i < 100000; i++) {
        buf_append_byte(&b, (uint8_t)(i * 7));
        moves += b.cap != cap;
        cap = b.cap;
    }
    assert_true(moves < 20); /* doubling, not one step a byte */
    for (size_t i = 0; i < b.len; i++)
        assert_int_equal(b.ptr[i], (uint8_t)(i * 7));
    buf_clear(&b);
    assert_int_equal(b.len, 0);
    assert_int_equal(b.cap, cap);
    buf_reserve(&b, cap);
    assert_int_equal(b.cap, cap);
    buf_free(&b);
}

static void test_buf_printf_of_any_length(void **state)
{
    char text[300];

    (void)state;
    for (size_t len = 0; len < sizeof(text); len++) {
        struct buf b = {0};
        memset(text, 'a' + (int)(len % 26), len);
        text[len] = '\0';
        buf_printf(&b, "<%s>", text);
        assert_int_equal(b.len, len + 2);
        assert_memory_equal(b.ptr + 1, text, len);
        assert_int_equal(b.ptr[len + 1], '>');
        buf_free(&b);
    }
}

static void test_buf_consume_drops_the_front(void **state)
{
    struct buf b = {0};

    (void)state;
    buf_append_str(&b, "hello world");
    buf_consume(&b, 6);
    assert_string_equal(buf_cstr(&b), "world");
    buf_consume(&b, 5);
    assert_int_equal(b.len, 0);
    buf_free(&b);
}

static void test_blob_holds_a_copy(void **state)
{
    char text[] = "payload";

    (void)state;
    struct blob *blob = blob_copy(bytes_str(text));
    text[0] = 'X';
    assert_true(bytes_equal_str(blob_bytes(blob), "payload"));
    assert_ptr_equal(blob_ref(blob), blob);
    assert_int_equal(atomic_load(&blob->refs), 2);
    blob_unref(blob);
    assert_true(bytes_equal_str(blob_bytes(blob), "payload"));
    blob_unref(blob);

    blob = blob_copy(bytes_of(NULL, 0));
    assert_int_equal(blob_bytes(blob).len, 0);
    blob_unref(blob);
}

static void test_null_blob(void **state)
{
    (void)state;
    assert_null(blob_ref(NULL));
    blob_unref(NULL);
    assert_int_equal(blob_bytes(NULL).len, 0);
}

#define BLOB_THREADS 4
#define BLOB_ROUNDS  20000

static void *share_blob(void *arg)
{
    struct blob *mine = (struct blob *)arg;
    uintptr_t sum = 0;

    for (int i = 0; i < BLOB_ROUNDS; i++) {
        struct blob *more = blob_ref(mine);
        sum += more->data[i % more->len];
        blob_unref(more);
    }
    blob_unref(mine); /* the thread's own reference; the last one to get here frees */
    return (void *)sum;
}

/* Sanitizers look for a leak, a double free and a race between the last reader and the free. */
static void test_blob_is_shared_by_threads(void **state)
{
    pthread_t threads[BLOB_THREADS];
    struct blob *blob = blob_new(100);

    (void)state;
    memset(blob->data, 1, 100);
    for (int i = 0; i < BLOB_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, share_blob, blob_ref(blob)), 0);
    blob_unref(blob);
    for (int i = 0; i < BLOB_THREADS; i++) {
        void *sum;
        assert_int_equal(pthread_join(threads[i], &sum), 0);
        assert_int_equal((uintptr_t)sum, BLOB_ROUNDS);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_compare),
        cmocka_unit_test(test_zeroed_buf_is_empty),
        cmocka_unit_test(test_buf_appends),
        cmocka_unit_test(test_buf_grows_and_keeps_content),
        cmocka_unit_test(test_buf_printf_of_any_length),
        cmocka_unit_test(test_buf_consume_drops_the_front),
        cmocka_unit_test(test_blob_holds_a_copy),
        cmocka_unit_test(test_null_blob),
        cmocka_unit_test(test_blob_is_shared_by_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
