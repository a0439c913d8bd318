/* SPDX-License-Identifier: Apache-2.0 */
/* What taskmill_last_error() says: one line per thread. */
#ifndef TASKMILL_CLIENT_ERROR_H
#define TASKMILL_CLIENT_ERROR_H

#include "base/err.h"

/* Sets this thread's line and returns `code`. */
int error_set(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* This thread's line, to pass where a `why` is wanted. */
struct err_text *error_text(void);

#endif
