/* SPDX-License-Identifier: Apache-2.0 */
#include "base/bytes.h"

#include <assert.h>
#include <stdio.h>

#include "base/mem.h"

#define BUF_CAP_MIN 64

void buf_reserve(struct buf *b, size_t more)
{
    if (more <= b->cap - b->len)
        return;
    size_t need, cap = b->cap;
    if (__builtin_add_overflow(b->len, more, &need))
        need = SIZE_MAX; /* no such allocation: mem_realloc says so and aborts */
    if (cap < BUF_CAP_MIN)
        cap = BUF_CAP_MIN;
    while (cap < need && cap <= SIZE_MAX / 2)
        cap *= 2;
    if (cap < need)
        cap = need;
    b->ptr = (uint8_t *)mem_realloc(b->ptr, cap);
    b->cap = cap;
}

void buf_append(struct buf *b, const void *ptr, size_t len)
{
    if (len == 0)
        return;
    buf_reserve(b, len);
    memcpy(b->ptr + b->len, ptr, len);
    b->len += len;
}

void buf_append_byte(struct buf *b, uint8_t byte)
{
    buf_reserve(b, 1);
    b->ptr[b->len++] = byte;
}

void buf_append_str(struct buf *b, const char *s)
{
    buf_append(b, s, strlen(s));
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    buf_vprintf(b, fmt, ap);
    va_end(ap);
}

void buf_vprintf(struct buf *b, const char *fmt, va_list ap)
{
    va_list again;

    buf_reserve(b, BUF_CAP_MIN);
    va_copy(again, ap);
    int len = vsnprintf((char *)b->ptr + b->len, b->cap - b->len, fmt, ap);
    assert(len >= 0); /* only a bad format or a result above INT_MAX */
    if ((size_t)len >= b->cap - b->len) {
        buf_reserve(b, (size_t)len + 1);
        (void)vsnprintf((char *)b->ptr + b->len, b->cap - b->len, fmt, again);
    }
    va_end(again);
    b->len += (size_t)len;
}

void buf_consume(struct buf *b, size_t len)
{
    assert(len <= b->len);
    if (len == 0)
        return;
    b->len -= len;
    memmove(b->ptr, b->ptr + len, b->len);
}

void buf_clear(struct buf *b)
{
    b->len = 0;
}

void buf_free(struct buf *b)
{
    mem_free(b->ptr);
    *b = (struct buf){0};
}

const char *buf_cstr(struct buf *b)
{
    buf_reserve(b, 1);
    b->ptr[b->len] = '\0';
    return (const char *)b->ptr;
}

struct blob *blob_new(size_t len)
{
    assert(len <= UINT32_MAX);
    struct blob *blob = (struct blob *)mem_alloc(sizeof(*blob) + len);
    atomic_init(&blob->refs, 1);
    blob->len = (uint32_t)len;
    return blob;
}

struct blob *blob_copy(struct bytes content)
{
    struct blob *blob = blob_new(content.len);

    if (content.len)
        memcpy(blob->data, content.ptr, content.len);
    return blob;
}

struct blob *blob_ref(struct blob *blob)
{
    if (blob) {
        uint32_t before = atomic_fetch_add_explicit(&blob->refs, 1, memory_order_relaxed);
        assert(before > 0 && before < UINT32_MAX);
    }
    return blob;
}

void blob_unref(struct blob *blob)
{
    if (!blob)
        return;
    /* Release: our reads come before the free. Acquire: the last holder sees those of all others.
     */
    uint32_t before = atomic_fetch_sub_explicit(&blob->refs, 1, memory_order_acq_rel);
    assert(before > 0);
    if (before == 1)
        mem_free(blob);
}
