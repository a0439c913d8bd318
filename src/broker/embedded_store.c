/* SPDX-License-Identifier: Apache-2.0 */
/* The embedded log's storage: tables of the broker's own file, in the transaction of the engine's
 * turn. */
#include "broker/engine.h"

#include <assert.h>

#include "base/mem.h"

static int append(void *ctx, const char *topic, int64_t offset, struct bytes payload,
                  const struct topic_header *headers, size_t header_count)
{
    struct store_header *own = mem_calloc(header_count, sizeof *own);
    for (size_t i = 0; i < header_count; i++)
        own[i] = (struct store_header){.key = headers[i].key, .value = headers[i].value};
    int rc = store_log_append(ctx, topic, offset, payload, own, header_count);
    mem_free(own);
    return rc;
}

static int trim(void *ctx, const char *topic, int64_t next_offset)
{
    return store_log_trim(ctx, topic, next_offset);
}

typedef void (*log_record_fn)(void *ctx, int64_t offset, struct bytes payload,
                              const struct topic_header *headers, size_t header_count);

struct reading {
    log_record_fn each;
    void *ctx;
};

static void pass_record(void *ctx, int64_t offset, struct bytes payload,
                        const struct store_header *headers, size_t header_count)
{
    const struct reading *reading = ctx;
    struct topic_header *own = mem_calloc(header_count, sizeof *own);
    for (size_t i = 0; i < header_count; i++)
        own[i] = (struct topic_header){.key = headers[i].key, .value = headers[i].value};
    reading->each(reading->ctx, offset, payload, own, header_count);
    mem_free(own);
}

static int read_records(void *ctx, const char *topic, int64_t from, size_t max, log_record_fn each,
                        void *each_ctx)
{
    struct reading reading = {.each = each, .ctx = each_ctx};
    return store_log_read(ctx, topic, from, max, pass_record, &reading);
}

static int bounds(void *ctx, const char *topic, int64_t *low, int64_t *high)
{
    return store_log_bounds(ctx, topic, low, high);
}

void engine_embedded_io(struct store *store, struct embedded_io *io)
{
    *io = (struct embedded_io){
        .ctx = store, .append = append, .trim = trim, .read = read_records, .bounds = bounds};
}
