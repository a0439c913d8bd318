/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "worker/frame.h"

static void test_pieces(void **state)
{
    struct buf whole = {0}, in = {0};
    struct frame_head head;
    struct bytes body;
    size_t pos = 0, taken = 0;

    (void)state;
    frame_put(&whole, &(struct frame_head){.kind = 1, .seq = 2, .value = 3}, bytes_str("hello"));
    frame_put(&whole, &(struct frame_head){.kind = 4, .seq = 5, .value = 6}, bytes_str(""));
    for (size_t i = 0; i < whole.len; i++) {
        buf_append_byte(&in, whole.ptr[i]);
        while (frame_take(&in, &pos, &head, &body)) {
            taken++;
            assert_int_equal(head.kind, taken == 1 ? 1 : 4);
            assert_int_equal(head.seq, taken == 1 ? 2 : 5);
            assert_int_equal(head.value, taken == 1 ? 3 : 6);
            assert_true(bytes_equal_str(body, taken == 1 ? "hello" : ""));
        }
    }
    assert_int_equal(taken, 2);
    assert_int_equal(pos, whole.len);
    buf_free(&whole);
    buf_free(&in);
}

/* More than a socket takes at once, through a non-blocking pair. */
static void test_large(void **state)
{
    size_t len = 3000000, done = 0, pos = 0;
    uint8_t *content = malloc(len);
    struct buf out = {0}, in = {0};
    struct frame_head head;
    struct bytes body;
    int ends[2], stalls = 0;

    (void)state;
    memset(content, 'x', len);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
    frame_put(&out, &(struct frame_head){.kind = 9, .seq = 8, .value = 7}, bytes_of(content, len));
    while (!frame_take(&in, &pos, &head, &body)) {
        stalls += frame_write(ends[0], &out, &done) == ERR_FULL;
        assert_int_equal(frame_read(ends[1], &in), 0);
    }
    assert_true(stalls > 0);
    assert_int_equal(body.len, len);
    assert_memory_equal(body.ptr, content, len);
    assert_int_equal(out.len, 0);
    assert_int_equal(frame_read(ends[1], &in), 0); /* nothing there */
    close(ends[0]);
    assert_int_equal(frame_read(ends[1], &in), ERR_CLOSED);
    frame_put(&out, &(struct frame_head){.kind = 0, .seq = 0, .value = 0}, bytes_str("x"));
    assert_int_equal(frame_write(ends[1], &out, &done), ERR_CLOSED);
    close(ends[1]);
    buf_free(&out);
    buf_free(&in);
    free(content);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pieces), cmocka_unit_test(test_large)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
