/* SPDX-License-Identifier: Apache-2.0 */
/* The builder behind taskmill_params_*. */
#ifndef TASKMILL_CLIENT_PARAMS_BUILD_H
#define TASKMILL_CLIENT_PARAMS_BUILD_H

#include <taskmill.h>

#include "base/bytes.h"

/* Appends the packed map {"args", "kwargs"} to out. `p` may be NULL (no parameters). On a mistake
 * while building: its code, and taskmill_last_error() has the text. */
int params_pack(const struct taskmill_params *p, struct buf *out);

#endif
