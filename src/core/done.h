/* SPDX-License-Identifier: Apache-2.0 */
/* Ids of ended at-most-once tasks, remembered for a while so that a replay is dropped (INV-4).
 * Bounded by count and age; the oldest leave first. PURE; one thread. Times: boot ms. */
#ifndef TASKMILL_CORE_DONE_H
#define TASKMILL_CORE_DONE_H

#include "base/bytes.h"

struct done;
struct done *done_new(const uint64_t seed[2], size_t count_max, int64_t memory_ms);
void done_free(struct done *done);
bool done_contains(const struct done *done, struct bytes id);
/* False when it is inside already. A time before the newest one inside counts as that one. */
bool done_add(struct done *done, struct bytes id, int64_t ended_ms);
size_t done_count(const struct done *done);
/* Takes out what is too old or too much, at most `max`; `each` sees every id that left. */
void done_expire(struct done *done, int64_t now_ms, size_t max,
                 void (*each)(void *ctx, struct bytes id), void *ctx);
/* When done_expire has something to do next. */
int64_t done_next_ms(const struct done *done);

#endif
