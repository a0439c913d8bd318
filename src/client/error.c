/* SPDX-License-Identifier: Apache-2.0 */
#include "client/error.h"

#include <taskmill.h>

/* The public codes are those of base/err.h. */
_Static_assert((int)TASKMILL_ERR_INVALID == ERR_INVALID, "codes");
_Static_assert((int)TASKMILL_ERR_MALFORMED == ERR_MALFORMED, "codes");
_Static_assert((int)TASKMILL_ERR_TOO_LARGE == ERR_TOO_LARGE, "codes");
_Static_assert((int)TASKMILL_ERR_NOT_FOUND == ERR_NOT_FOUND, "codes");
_Static_assert((int)TASKMILL_ERR_EXISTS == ERR_EXISTS, "codes");
_Static_assert((int)TASKMILL_ERR_FULL == ERR_FULL, "codes");
_Static_assert((int)TASKMILL_ERR_IO == ERR_IO, "codes");
_Static_assert((int)TASKMILL_ERR_TIMEOUT == ERR_TIMEOUT, "codes");
_Static_assert((int)TASKMILL_ERR_UNAVAILABLE == ERR_UNAVAILABLE, "codes");
_Static_assert((int)TASKMILL_ERR_DENIED == ERR_DENIED, "codes");
_Static_assert((int)TASKMILL_ERR_UNSUPPORTED == ERR_UNSUPPORTED, "codes");
_Static_assert((int)TASKMILL_ERR_STATE == ERR_STATE, "codes");
_Static_assert((int)TASKMILL_ERR_SYSTEM == ERR_SYSTEM, "codes");

static _Thread_local struct err_text last;

struct err_text *error_text(void)
{
    return &last;
}

int error_set(int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    err_setv(&last, code, fmt, ap);
    va_end(ap);
    return code;
}

const char *taskmill_last_error(void)
{
    return last.s;
}
