/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file that says "I live" to a probe: it is touched again and again, and a probe either looks at
 * its age or deletes it and looks whether it comes back. So it is made anew each time; its folder
 * must be there. One thread.
 */
#ifndef TASKMILL_BASE_HEALTH_FILE_H
#define TASKMILL_BASE_HEALTH_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define HEALTH_FILE_RETELL_MS 60000 /* between two ERROR lines about the same trouble */

struct health_file {
    const char *path; /* not owned; NULL: none, and nothing below does anything */
    uint32_t every_ms;
    const char *log_target;
    int64_t next_ms; /* boot clock: when it is to be touched; CLOCK_NEVER without a path */
    int64_t told_ms;
};

/* Touches it for the first time. ERR_INVALID if it cannot be made; the text names it. */
int health_file_open(struct health_file *file, const char *path, uint32_t every_ms,
                     const char *log_target, int64_t now_ms, struct err_text *why);
/* Touches it if it is time; true if it was touched. Trouble is an ERROR on the log. */
bool health_file_tick(struct health_file *file, int64_t now_ms);

#endif
