/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A random workload over all tables of a store, and a plain model of what they must hold. Both can
 * be written as text, one line an item, so that "the image holds exactly the committed
 * transactions" is a comparison of two texts.
 */
#ifndef TASKMILL_TESTS_STORE_CRASH_MODEL_H
#define TASKMILL_TESTS_STORE_CRASH_MODEL_H

#include "store/store.h"

enum {
    MODEL_ROWS = 120,
    MODEL_OUTBOX = 12,
    MODEL_DONE = 24,
    MODEL_SOURCES = 3,
    MODEL_PARTITIONS = 2,
    MODEL_TOPICS = 2
};

struct model_row {
    int64_t rowid;
    unsigned version; /* of the activation: its bytes follow from rowid and version */
    enum store_status status;
    int64_t attempts, deadline_s, due_ms;
};

struct model {
    uint64_t random;
    int64_t next_rowid, next_entry, next_done;
    struct model_row rows[MODEL_ROWS];
    size_t row_count;
    int64_t outbox[MODEL_OUTBOX];
    size_t outbox_count;
    int64_t done[MODEL_DONE];
    size_t done_count;
    int64_t source_count;
    int64_t confirmed[MODEL_SOURCES][MODEL_PARTITIONS]; /* 0: not set */
    int64_t log_low[MODEL_TOPICS], log_high[MODEL_TOPICS];
};

void model_init(struct model *model, uint64_t seed);
uint64_t model_random(struct model *model);
/* One random write inside the open transaction, in the store and, when it succeeded, in the model.
 */
int model_write(struct model *model, struct store *store);
/* Adds the next source (a transaction of its own), if there is one left. */
int model_add_source(struct model *model, struct store *store);
void model_print(const struct model *model, struct buf *out);
/* Everything the store holds, through its own calls. */
int model_print_store(struct store *store, struct buf *out);

#endif
