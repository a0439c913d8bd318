/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three shapes of bytes:
 *   struct bytes  a borrowed slice: pointer and length, owns nothing, may hold NULs;
 *   struct buf    a growable buffer, owned by one holder; a zeroed one is valid and empty;
 *   struct blob   an immutable, reference-counted payload that threads share (an activation on its
 *                 way from Kafka through the store's cache to a socket is one blob, never copied).
 */
#ifndef TASKMILL_BASE_BYTES_H
#define TASKMILL_BASE_BYTES_H

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct bytes {
    const uint8_t *ptr; /* may be NULL when len is 0 */
    size_t len;
};

static inline struct bytes bytes_of(const void *ptr, size_t len)
{
    return (struct bytes){.ptr = (const uint8_t *)ptr, .len = len};
}

static inline struct bytes bytes_str(const char *s)
{
    return bytes_of(s, strlen(s));
}

static inline bool bytes_equal(struct bytes a, struct bytes b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

static inline bool bytes_equal_str(struct bytes a, const char *s)
{
    return bytes_equal(a, bytes_str(s));
}

/* For printf's "%.*s": BYTES_FMT_ARG(b). Lengths above INT_MAX are cut. */
#define BYTES_FMT_ARG(b) (int)((b).len > 0x7fffffff ? 0x7fffffff : (b).len), (const char *)(b).ptr

struct buf {
    uint8_t *ptr;
    size_t len;
    size_t cap;
};

/* Room for `more` bytes after len; never fails (base/mem.h). Doubles, so appends are amortised
 * O(1). */
void buf_reserve(struct buf *b, size_t more);
void buf_append(struct buf *b, const void *ptr, size_t len);
void buf_append_byte(struct buf *b, uint8_t byte);
void buf_append_str(struct buf *b, const char *s);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_vprintf(struct buf *b, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
/* Drops the first `len` bytes (memmove). */
void buf_consume(struct buf *b, size_t len);
void buf_clear(struct buf *b); /* keeps the memory */
void buf_free(struct buf *b);  /* frees it; the zeroed buf may be used again */
/* The content with a NUL after it (not counted); valid until the next change. */
const char *buf_cstr(struct buf *b);

static inline struct bytes buf_bytes(const struct buf *b)
{
    return bytes_of(b->ptr, b->len);
}

struct blob {
    _Atomic uint32_t refs;
    uint32_t len; /* blobs are at most UINT32_MAX bytes; callers bound payloads long before */
    uint8_t data[];
};

/* One reference, owned by the caller; the content is for the caller to fill before sharing. */
struct blob *blob_new(size_t len);
struct blob *blob_copy(struct bytes content);
/* Any thread. blob_ref returns its argument; both accept NULL. */
struct blob *blob_ref(struct blob *blob);
void blob_unref(struct blob *blob);

static inline struct bytes blob_bytes(const struct blob *blob)
{
    return blob ? bytes_of(blob->data, blob->len) : bytes_of(NULL, 0);
}

#endif
