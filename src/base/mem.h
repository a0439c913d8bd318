/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Allocation that does not fail: every queue, row count and connection has a named limit (INV-10),
 * so running out of memory is a misconfigured machine, not a state to limp through. These print one
 * line and abort, which the store survives by design (INV-11). Thread-safe as malloc is.
 */
#ifndef TASKMILL_BASE_MEM_H
#define TASKMILL_BASE_MEM_H

#include <stddef.h>

/* Never NULL, also for size 0. Free with mem_free. */
void *mem_alloc(size_t size) __attribute__((malloc, returns_nonnull));
void *mem_zalloc(size_t size) __attribute__((malloc, returns_nonnull));
/* count * size is checked for overflow (aborts). */
void *mem_calloc(size_t count, size_t size) __attribute__((malloc, returns_nonnull));
void *mem_realloc(void *ptr, size_t size) __attribute__((returns_nonnull));
void mem_free(void *ptr);
char *mem_strdup(const char *s) __attribute__((malloc, returns_nonnull));
/* Copies `len` bytes and adds a NUL. */
char *mem_strndup(const void *s, size_t len) __attribute__((malloc, returns_nonnull));

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#endif
