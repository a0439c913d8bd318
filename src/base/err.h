/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One list of result codes for all rooms. Functions that can fail return `int`: 0 or one of the
 * negative codes below; results leave through out-parameters; on failure the caller still owns
 * whatever it passed in. Functions that can say more take a `struct err_text *` (may be NULL)
 * and leave one line in it: what is wrong, where, and what to do.
 */
#ifndef TASKMILL_BASE_ERR_H
#define TASKMILL_BASE_ERR_H

#include <stdarg.h>

/* X(code, number, text) */
#define ERR_MAP(X)                                       \
    X(ERR_INVALID, -1, "invalid argument or value")      \
    X(ERR_MALFORMED, -2, "malformed input")              \
    X(ERR_TOO_LARGE, -3, "larger than the limit")        \
    X(ERR_NOT_FOUND, -4, "not found")                    \
    X(ERR_EXISTS, -5, "exists already")                  \
    X(ERR_FULL, -6, "queue or table is full")            \
    X(ERR_BUSY, -7, "busy or locked by another process") \
    X(ERR_IO, -8, "input/output error")                  \
    X(ERR_CORRUPT, -9, "data is corrupt")                \
    X(ERR_NO_SPACE, -10, "no space left")                \
    X(ERR_TIMEOUT, -11, "timed out")                     \
    X(ERR_UNAVAILABLE, -12, "peer is unavailable")       \
    X(ERR_CANCELLED, -13, "cancelled")                   \
    X(ERR_DENIED, -14, "permission denied")              \
    X(ERR_UNSUPPORTED, -15, "not supported")             \
    X(ERR_CLOSED, -16, "closed")                         \
    X(ERR_STATE, -17, "not possible in this state")      \
    X(ERR_SYSTEM, -18, "system call failed")

enum err_code {
#define X(code, number, text) code = (number),
    ERR_MAP(X)
#undef X
};

/* One line of explanation, always NUL-terminated; longer text is cut with "...". */
struct err_text {
    char s[512];
};

/* Name ("ERR_FULL") and text of a code; "ERR_?" and "unknown error" for any other number. */
const char *err_name(int code);
const char *err_string(int code);

/* Sets the text (why may be NULL: then nothing happens) and returns `code`, so that
 * `return err_set(why, ERR_IO, "%s: %s", path, strerror(errno));` reads well. Line breaks in the
 * result become spaces. The text may be an argument itself: err_set(why, rv, "%s: %s", path,
 * why->s). */
int err_set(struct err_text *why, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
int err_setv(struct err_text *why, int code, const char *fmt, va_list ap)
    __attribute__((format(printf, 3, 0)));

#endif
