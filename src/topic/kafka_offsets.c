/* SPDX-License-Identifier: Apache-2.0 */
#include "topic/kafka_source.h"

#include "base/mem.h"

int kafka_offsets_partitions(struct kafka_source *source)
{
    rd_kafka_topic_t *topic = rd_kafka_topic_new(source->rk, source->topic, NULL);
    const struct rd_kafka_metadata *metadata;
    int count = ERR_UNAVAILABLE;

    if (!topic)
        return count;
    if (!rd_kafka_metadata(source->rk, 0, topic, &metadata, KAFKA_REQUEST_MS)) {
        const struct rd_kafka_metadata_topic *found = metadata->topics;
        if (metadata->topic_cnt == 1 && !found->err)
            count = found->partition_cnt;
        else if (metadata->topic_cnt == 1 && found->err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
            count = 0;
        rd_kafka_metadata_destroy(metadata);
    }
    rd_kafka_topic_destroy(topic);
    return count;
}

static int64_t offset_or_unknown(const rd_kafka_topic_partition_t *element)
{
    return element->err || element->offset < 0 ? -1 : element->offset;
}

void kafka_offsets_mark(struct kafka_source *source, const int32_t *ids, size_t count,
                        int64_t timestamp, int64_t *out)
{
    rd_kafka_topic_partition_list_t *list = kafka_source_list(source, ids, count);

    for (size_t i = 0; i < count; i++)
        list->elems[i].offset = timestamp;
    rd_kafka_resp_err_t err = rd_kafka_offsets_for_times(source->rk, list, KAFKA_REQUEST_MS);
    for (size_t i = 0; i < count; i++) {
        const rd_kafka_topic_partition_t *found =
            rd_kafka_topic_partition_list_find(list, source->topic, ids[i]);
        /* What was not answered still holds the (negative) timestamp. */
        out[i] = err || !found ? -1 : offset_or_unknown(found);
    }
    rd_kafka_topic_partition_list_destroy(list);
}

static int take_committed(const rd_kafka_topic_partition_list_t *list, const char *topic,
                          int32_t id, struct kafka_offsets *out, struct err_text *why)
{
    const rd_kafka_topic_partition_t *found = rd_kafka_topic_partition_list_find(
        (rd_kafka_topic_partition_list_t *)(uintptr_t)list, topic, id);

    if (!found || found->err)
        return err_set(why, ERR_UNAVAILABLE, "committed offset of partition %d: %s", (int)id,
                       found ? rd_kafka_err2str(found->err) : "no answer");
    out->committed = offset_or_unknown(found);
    buf_clear(&out->metadata);
    if (out->committed >= 0)
        buf_append(&out->metadata, found->metadata, found->metadata_size);
    return 0;
}

static int ask_committed(struct kafka_source *source, const int32_t *ids, size_t count,
                         struct kafka_offsets *out, struct err_text *why)
{
    rd_kafka_topic_partition_list_t *list = kafka_source_list(source, ids, count);
    rd_kafka_resp_err_t err = rd_kafka_committed(source->rk, list, KAFKA_REQUEST_MS);
    int rv = 0;

    if (err)
        rv = err_set(why, ERR_UNAVAILABLE, "committed offsets: %s", rd_kafka_err2str(err));
    for (size_t i = 0; i < count && !rv; i++)
        rv = take_committed(list, source->topic, ids[i], &out[i], why);
    rd_kafka_topic_partition_list_destroy(list);
    return rv;
}

int kafka_offsets_ask(struct kafka_source *source, const int32_t *ids, size_t count,
                      struct kafka_offsets *out, struct err_text *why)
{
    int rv = ask_committed(source, ids, count, out, why);

    if (rv)
        return rv;
    int64_t *marks = mem_calloc(count, sizeof(*marks));
    kafka_offsets_mark(source, ids, count, RD_KAFKA_OFFSET_BEGINNING, marks);
    for (size_t i = 0; i < count; i++)
        out[i].low = marks[i];
    kafka_offsets_mark(source, ids, count, RD_KAFKA_OFFSET_END, marks);
    for (size_t i = 0; i < count; i++)
        out[i].high = marks[i];
    mem_free(marks);
    return 0;
}
