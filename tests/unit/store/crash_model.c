/* SPDX-License-Identifier: Apache-2.0 */
#include "crash_model.h"

#include <assert.h>
#include <stdio.h>

static const char *const topics[MODEL_TOPICS] = {"log-a", "log-b"};

void model_init(struct model *model, uint64_t seed)
{
    *model = (struct model){.random = seed * 2 + 1, .next_rowid = 1, .next_entry = 1};
}

/* xorshift64* (Vigna 2016) */
uint64_t model_random(struct model *model)
{
    uint64_t x = model->random;

    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    model->random = x;
    return x * 0x2545f4914f6cdd1du >> 16;
}

/* The bytes of a payload follow from two numbers; lengths reach over several pages. */
static struct bytes content(struct buf *buf, int64_t number, unsigned version)
{
    uint64_t state = (uint64_t)number * 0x9e3779b97f4a7c15u + version;
    size_t len = state >> 40 & 15 ? state >> 20 & 0xff : state >> 20 & 0x3fff;

    buf_clear(buf);
    for (size_t i = 0; i < len; i++)
        buf_append_byte(buf, (uint8_t)(state >> (i % 7 * 8)) + (uint8_t)i);
    return buf_bytes(buf);
}

static uint64_t fingerprint(struct bytes b)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */

    for (size_t i = 0; i < b.len; i++)
        hash = (hash ^ b.ptr[i]) * 0x100000001b3u;
    return hash;
}

static struct bytes name_of(char *out, size_t size, const char *kind, int64_t number)
{
    snprintf(out, size, "%s-%lld", kind, (long long)number);
    return bytes_str(out);
}

static int insert(struct model *model, struct store *store)
{
    struct buf buf = {0};
    char id[40];
    struct model_row *new = &model->rows[model->row_count];

    *new = (struct model_row){.rowid = model->next_rowid,
                              .status = (enum store_status)(model_random(model) % 2),
                              .deadline_s = STORE_NULL};
    new->due_ms = 1800000000000 + (int64_t)(model_random(model) % 100000);
    const struct store_row row = {
        .rowid = new->rowid,
        .id = name_of(id, sizeof id, "row", new->rowid),
        .activation = content(&buf, new->rowid, 0),
        .expires_at_s = new->due_ms / 1000,
        .delay_until_s = new->due_ms / 1000,
        .processing_deadline_s = STORE_NULL,
        .claim_expires_at_s = STORE_NULL,
        .status = new->status,
        .has_namespace = true,
        .source = STORE_NULL,
        .due_ms = new->due_ms,
    };
    int rv = store_insert(store, &row);
    buf_free(&buf);
    if (rv)
        return rv;
    model->next_rowid++;
    model->row_count++;
    return 0;
}

static int update(struct model *model, struct store *store)
{
    char id[40];
    struct model_row *row = &model->rows[model_random(model) % model->row_count];
    int64_t due_ms = 1800000000000 + (int64_t)(model_random(model) % 100000);
    const struct store_change change = {.status = STORE_PROCESSING,
                                        .processing_attempts = row->attempts + 1,
                                        .processing_deadline_s = due_ms / 1000,
                                        .due_ms = due_ms};
    int rv = store_update(store, row->rowid, name_of(id, sizeof id, "row", row->rowid), &change);

    if (rv)
        return rv;
    row->status = change.status;
    row->attempts = change.processing_attempts;
    row->deadline_s = change.processing_deadline_s;
    row->due_ms = change.due_ms;
    return 0;
}

static int rewrite(struct model *model, struct store *store)
{
    struct buf buf = {0};
    char id[40];
    struct model_row *row = &model->rows[model_random(model) % model->row_count];
    int rv = store_set_activation(store, row->rowid, name_of(id, sizeof id, "row", row->rowid),
                                  content(&buf, row->rowid, row->version + 1));

    buf_free(&buf);
    row->version += rv == 0;
    return rv;
}

static int delete_row(struct model *model, struct store *store)
{
    char id[40];
    size_t i = model_random(model) % model->row_count;
    int64_t rowid = model->rows[i].rowid;
    int rv = store_delete(store, rowid, name_of(id, sizeof id, "row", rowid));

    if (rv)
        return rv;
    memmove(&model->rows[i], &model->rows[i + 1], (--model->row_count - i) * sizeof model->rows[0]);
    return 0;
}

static int outbox_add(struct model *model, struct store *store)
{
    struct buf buf = {0};
    char key[40];
    const struct store_header headers[] = {
        {name_of(key, sizeof key, "reason", model->next_entry), bytes_str("undecodable")},
        {bytes_str(""), bytes_of(NULL, 0)}};
    const struct store_outbox entry = {.entry = model->next_entry,
                                       .topic = bytes_str("dlq"),
                                       .payload = content(&buf, model->next_entry, 77),
                                       .headers = headers,
                                       .header_count = (size_t)(model->next_entry % 3)};
    int rv = store_outbox_add(store, &entry);

    buf_free(&buf);
    if (!rv)
        model->outbox[model->outbox_count++] = model->next_entry++;
    return rv;
}

static int outbox_delete(struct model *model, struct store *store)
{
    size_t i = model_random(model) % model->outbox_count;
    int rv = store_outbox_delete(store, model->outbox[i]);

    if (!rv)
        memmove(&model->outbox[i], &model->outbox[i + 1],
                (--model->outbox_count - i) * sizeof model->outbox[0]);
    return rv;
}

static int done_add(struct model *model, struct store *store)
{
    char id[40];
    int rv = store_done_add(store, name_of(id, sizeof id, "done", model->next_done),
                            1790000000 + model->next_done);

    if (!rv)
        model->done[model->done_count++] = model->next_done++;
    return rv;
}

static int done_delete(struct model *model, struct store *store)
{
    char id[40];
    int rv = store_done_delete(store, name_of(id, sizeof id, "done", model->done[0]));

    if (!rv)
        memmove(&model->done[0], &model->done[1], --model->done_count * sizeof model->done[0]);
    return rv;
}

static int confirm(struct model *model, struct store *store)
{
    int64_t source = (int64_t)(model_random(model) % (uint64_t)model->source_count);
    int64_t partition = (int64_t)(model_random(model) % MODEL_PARTITIONS);
    int64_t *next = &model->confirmed[source][partition];
    const struct store_confirmed confirmed = {
        .source = source + 1, .partition = partition, .next_offset = *next + 5};
    int rv = store_set_confirmed(store, &confirmed);

    if (!rv)
        *next = confirmed.next_offset;
    return rv;
}

static int log_append(struct model *model, struct store *store)
{
    struct buf buf = {0};
    size_t t = model_random(model) % MODEL_TOPICS;
    int64_t offset = model->log_high[t];
    const struct store_header header = {bytes_str("k"), bytes_str("v")};
    int rv = store_log_append(store, topics[t], offset, content(&buf, offset, 100 + (unsigned)t),
                              &header, (size_t)(offset & 1));

    buf_free(&buf);
    model->log_high[t] += rv == 0;
    return rv;
}

static int log_trim(struct model *model, struct store *store)
{
    size_t t = model_random(model) % MODEL_TOPICS;
    uint64_t kept = (uint64_t)(model->log_high[t] - model->log_low[t]);
    int64_t next = model->log_low[t] + (int64_t)(model_random(model) % (kept + 1));
    int rv = store_log_trim(store, topics[t], next);

    if (!rv)
        model->log_low[t] = next;
    return rv;
}

int model_write(struct model *model, struct store *store)
{
    switch (model_random(model) % 16) {
    default:
        return model->row_count < MODEL_ROWS ? insert(model, store) : delete_row(model, store);
    case 0:
    case 1:
    case 2:
        return model->row_count ? update(model, store) : insert(model, store);
    case 3:
        return model->row_count ? rewrite(model, store) : insert(model, store);
    case 4:
    case 5:
    case 6:
        return model->row_count ? delete_row(model, store) : insert(model, store);
    case 7:
        return model->outbox_count < MODEL_OUTBOX ? outbox_add(model, store)
                                                  : outbox_delete(model, store);
    case 8:
        return model->outbox_count ? outbox_delete(model, store) : outbox_add(model, store);
    case 9:
        return model->done_count < MODEL_DONE ? done_add(model, store) : done_delete(model, store);
    case 10:
        return model->source_count ? confirm(model, store) : log_append(model, store);
    case 11:
        return log_append(model, store);
    case 12:
        return log_trim(model, store);
    }
}

int model_add_source(struct model *model, struct store *store)
{
    char topic[40];
    int64_t number;
    const struct store_source source = {
        .cluster = bytes_str("main"),
        .topic = name_of(topic, sizeof topic, "topic", model->source_count + 1),
        .group = bytes_str("taskworker")};

    if (model->source_count == MODEL_SOURCES)
        return 0;
    int rv = store_add_source(store, &source, &number);
    if (rv)
        return rv;
    assert(number == model->source_count + 1);
    model->source_count++;
    return 0;
}

/* --- as text ---------------------------------------------------------------------------------- */

static void print_row(struct buf *out, int64_t rowid, struct bytes id, int status, int64_t attempts,
                      int64_t deadline_s, int64_t due_ms, struct bytes activation)
{
    buf_printf(out, "row %lld %.*s %d %lld %lld %lld %zu %llx\n", (long long)rowid,
               BYTES_FMT_ARG(id), status, (long long)attempts, (long long)deadline_s,
               (long long)due_ms, activation.len, (unsigned long long)fingerprint(activation));
}

static void print_payload(struct buf *out, const char *kind, int64_t number, struct bytes payload,
                          size_t header_count)
{
    buf_printf(out, "%s %lld %zu %zu %llx\n", kind, (long long)number, header_count, payload.len,
               (unsigned long long)fingerprint(payload));
}

void model_print(const struct model *model, struct buf *out)
{
    struct buf buf = {0};
    char id[40];

    for (size_t i = 0; i < model->row_count; i++) {
        const struct model_row *row = &model->rows[i];
        print_row(out, row->rowid, name_of(id, sizeof id, "row", row->rowid), (int)row->status,
                  row->attempts, row->deadline_s, row->due_ms,
                  content(&buf, row->rowid, row->version));
    }
    for (int64_t i = 0; i < model->source_count; i++)
        buf_printf(out, "source %lld main topic-%lld taskworker\n", (long long)i + 1,
                   (long long)i + 1);
    for (int s = 0; s < MODEL_SOURCES; s++)
        for (int p = 0; p < MODEL_PARTITIONS; p++)
            if (model->confirmed[s][p])
                buf_printf(out, "confirmed %d %d %lld\n", s + 1, p,
                           (long long)model->confirmed[s][p]);
    for (size_t i = 0; i < model->done_count; i++)
        buf_printf(out, "done done-%lld %lld\n", (long long)model->done[i],
                   1790000000 + (long long)model->done[i]);
    for (size_t i = 0; i < model->outbox_count; i++)
        print_payload(out, "outbox", model->outbox[i], content(&buf, model->outbox[i], 77),
                      (size_t)(model->outbox[i] % 3));
    for (unsigned t = 0; t < MODEL_TOPICS; t++) {
        buf_printf(out, "%s %lld %lld\n", topics[t], (long long)model->log_low[t],
                   (long long)model->log_high[t]);
        for (int64_t o = model->log_low[t]; o < model->log_high[t]; o++)
            print_payload(out, "record", o, content(&buf, o, 100 + t), (size_t)(o & 1));
    }
    buf_free(&buf);
}

struct printer {
    struct store *store;
    struct buf *out;
};

static int each_row(void *ctx, const struct store_row *row)
{
    const struct printer *p = (const struct printer *)ctx;
    struct blob *blob;
    int rv = store_read_activation(p->store, row->rowid, row->id, &blob);

    if (rv)
        return rv;
    print_row(p->out, row->rowid, row->id, (int)row->status, row->processing_attempts,
              row->processing_deadline_s, row->due_ms, blob_bytes(blob));
    blob_unref(blob);
    return 0;
}

static int each_source(void *ctx, const struct store_source *source)
{
    const struct printer *p = (const struct printer *)ctx;

    buf_printf(p->out, "source %lld %.*s %.*s %.*s\n", (long long)source->source,
               BYTES_FMT_ARG(source->cluster), BYTES_FMT_ARG(source->topic),
               BYTES_FMT_ARG(source->group));
    return 0;
}

static int each_confirmed(void *ctx, const struct store_confirmed *c)
{
    const struct printer *p = (const struct printer *)ctx;

    buf_printf(p->out, "confirmed %lld %lld %lld\n", (long long)c->source, (long long)c->partition,
               (long long)c->next_offset);
    return 0;
}

static int each_done(void *ctx, struct bytes id, int64_t ended_at_s)
{
    const struct printer *p = (const struct printer *)ctx;

    buf_printf(p->out, "done %.*s %lld\n", BYTES_FMT_ARG(id), (long long)ended_at_s);
    return 0;
}

static int each_outbox(void *ctx, const struct store_outbox *entry)
{
    const struct printer *p = (const struct printer *)ctx;
    struct blob *blob;
    int rv = store_read_outbox(p->store, entry->entry, &blob);

    if (rv)
        return rv;
    assert(blob->len == entry->payload_len);
    print_payload(p->out, "outbox", entry->entry, blob_bytes(blob), entry->header_count);
    blob_unref(blob);
    return 0;
}

static void each_record(void *ctx, int64_t offset, struct bytes payload,
                        const struct store_header *headers, size_t header_count)
{
    const struct printer *p = (const struct printer *)ctx;

    (void)headers;
    print_payload(p->out, "record", offset, payload, header_count);
}

int model_print_store(struct store *store, struct buf *out)
{
    struct printer p = {store, out};
    int rv = store_load_rows(store, each_row, &p);

    if (rv || (rv = store_load_sources(store, each_source, &p)) != 0 ||
        (rv = store_load_confirmed(store, each_confirmed, &p)) != 0 ||
        (rv = store_load_done(store, each_done, &p)) != 0 ||
        (rv = store_load_outbox(store, each_outbox, &p)) != 0)
        return rv;
    for (int t = 0; !rv && t < MODEL_TOPICS; t++) {
        int64_t low, high;
        rv = store_log_bounds(store, topics[t], &low, &high);
        if (rv)
            return rv;
        buf_printf(out, "%s %lld %lld\n", topics[t], (long long)low, (long long)high);
        rv = store_log_read(store, topics[t], low, SIZE_MAX, each_record, &p);
    }
    return rv;
}
