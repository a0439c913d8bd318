/* SPDX-License-Identifier: Apache-2.0 */
/* The only place that asks the system what time it is. In memory all times are CLOCK_BOOTTIME
 * milliseconds (INV-14); wall times are only for files, wires and people. Thread-safe. */
#ifndef TASKMILL_BASE_CLOCK_H
#define TASKMILL_BASE_CLOCK_H

#include <stdint.h>

int64_t clock_boot_ms(void);
int64_t clock_boot_us(void);
int64_t clock_wall_ms(void); /* Unix time */
int64_t clock_wall_us(void);

/* "No time": later than any real one. */
#define CLOCK_NEVER INT64_MAX

/* a + b, saturating at the ends of int64. */
int64_t clock_add(int64_t a, int64_t b);

#endif
