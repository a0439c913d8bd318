/* SPDX-License-Identifier: Apache-2.0 */
/* Something that happens once, and may be waited for with a limit: pthread_join has none. */
#ifndef TASKMILL_BASE_LATCH_H
#define TASKMILL_BASE_LATCH_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct latch {
    pthread_mutex_t lock;
    pthread_cond_t opened;
    bool open;
};

void latch_init(struct latch *latch);
void latch_destroy(struct latch *latch);

/* Any thread, any number of times. Whoever waits may go on; the opener touches the latch no more.
 */
void latch_open(struct latch *latch);
/* True once it is open; false when until_ms (boot clock, CLOCK_NEVER: no limit) came first. */
bool latch_wait(struct latch *latch, int64_t until_ms);

#endif
