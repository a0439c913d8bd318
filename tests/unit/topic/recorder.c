/* SPDX-License-Identifier: Apache-2.0 */
#include "recorder.h"

#include <stdio.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"

struct timespec recorder_deadline(int timeout_ms)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += timeout_ms / 1000;
    at.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (at.tv_nsec >= 1000000000) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000;
    }
    return at;
}

static size_t on_credit(void *ctx, size_t wanted)
{
    struct recorder *r = ctx;

    pthread_mutex_lock(&r->lock);
    size_t given = wanted < r->credit ? wanted : r->credit;
    r->credit -= given;
    r->credit_taken += given;
    r->credit_calls++;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    return given;
}

static void on_credit_return(void *ctx, size_t unused)
{
    struct recorder *r = ctx;

    pthread_mutex_lock(&r->lock);
    r->credit += unused;
    r->credit_taken -= unused;
    pthread_mutex_unlock(&r->lock);
}

static void copy_text(char *to, size_t cap, struct bytes from)
{
    size_t len = from.len < cap - 1 ? from.len : cap - 1;

    if (len > 0)
        memcpy(to, from.ptr, len);
    to[len] = '\0';
}

static void keep(struct recorder *r, const struct topic_record *record)
{
    if (r->record_count == r->record_cap) {
        r->record_cap = r->record_cap ? 2 * r->record_cap : 64;
        r->records = mem_realloc(r->records, r->record_cap * sizeof(*r->records));
    }
    struct recorded *kept = &r->records[r->record_count++];
    *kept = (struct recorded){.partition = record->partition,
                              .offset = record->offset,
                              .timestamp_ms = record->timestamp_ms,
                              .tombstone = record->tombstone,
                              .payload_len = record->payload.len,
                              .header_count = record->header_count,
                              .at_ms = clock_boot_ms()};
    copy_text(kept->payload, sizeof(kept->payload), record->payload);
    if (record->header_count > 0)
        snprintf(kept->header, sizeof(kept->header), "%.*s=%.*s",
                 BYTES_FMT_ARG(record->headers[0].key), BYTES_FMT_ARG(record->headers[0].value));
}

static void on_records(void *ctx, const struct topic_record *records, size_t count)
{
    struct recorder *r = ctx;
    int64_t now_ms = clock_boot_ms();

    pthread_mutex_lock(&r->lock);
    for (size_t i = 0; i < count; i++) {
        int32_t id = records[i].partition;
        r->out_of_order += records[i].offset < r->next[id];
        r->after_revoke += r->revoking[id];
        r->next[id] = records[i].offset + 1;
        if (r->keep_records)
            keep(r, &records[i]);
    }
    if (r->last_ms && now_ms - r->last_ms > r->longest_gap_ms)
        r->longest_gap_ms = now_ms - r->last_ms;
    r->last_ms = now_ms;
    r->total += count;
    r->credit_taken -= count;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

static void copy_position(struct recorded_position *to, const struct topic_position *from)
{
    *to = (struct recorded_position){.partition = from->partition,
                                     .assigned = from->assigned,
                                     .start_offset = from->start_offset,
                                     .committed = from->committed,
                                     .low = from->low,
                                     .high = from->high,
                                     .metadata_len = from->metadata.len};
    copy_text(to->metadata, sizeof(to->metadata), from->metadata);
}

static void on_assigned(void *ctx, const struct topic_position *positions, size_t count)
{
    struct recorder *r = ctx;

    pthread_mutex_lock(&r->lock);
    for (size_t i = 0; i < count; i++) {
        int32_t id = positions[i].partition;
        copy_position(&r->assigned[id], &positions[i]);
        r->next[id] = positions[i].start_offset;
        r->revoking[id] = false;
    }
    r->assigned_calls++;
    r->assigned_now += count;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

static void on_revoking(void *ctx, const int32_t *partitions, size_t count)
{
    struct recorder *r = ctx;

    pthread_mutex_lock(&r->lock);
    for (size_t i = 0; i < count; i++)
        r->revoking[partitions[i]] = true;
    r->revoking_calls++;
    r->assigned_now -= count;
    pthread_cond_broadcast(&r->changed);
    bool answer = r->auto_revoke;
    pthread_mutex_unlock(&r->lock);
    for (size_t i = 0; i < count && answer; i++)
        r->source->ops->revoke_done(r->source, partitions[i]);
}

static void on_committed(void *ctx, int32_t partition, int64_t next_offset)
{
    struct recorder *r = ctx;

    pthread_mutex_lock(&r->lock);
    r->committed[partition] = next_offset;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

static void on_answered(void *ctx, const struct topic_position *position, int code)
{
    struct recorder *r = ctx;

    pthread_mutex_lock(&r->lock);
    copy_position(&r->answer, position);
    r->answer.code = code;
    r->answered_count++;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

static void on_failed(void *ctx, int code, const char *why)
{
    struct recorder *r = ctx;

    pthread_mutex_lock(&r->lock);
    r->failed_code = code;
    snprintf(r->failed_why, sizeof(r->failed_why), "%s", why);
    r->failed_count++;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

void recorder_init(struct recorder *r)
{
    pthread_condattr_t attr;

    *r = (struct recorder){.auto_revoke = true, .keep_records = true};
    pthread_mutex_init(&r->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&r->changed, &attr);
    pthread_condattr_destroy(&attr);
    for (size_t i = 0; i < RECORDER_PARTITIONS; i++)
        r->committed[i] = r->next[i] = -1;
    r->events = (struct topic_source_events){.ctx = r,
                                             .credit = on_credit,
                                             .credit_return = on_credit_return,
                                             .records = on_records,
                                             .assigned = on_assigned,
                                             .revoking = on_revoking,
                                             .committed = on_committed,
                                             .answered = on_answered,
                                             .failed = on_failed};
}

void recorder_free(struct recorder *r)
{
    mem_free(r->records);
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->lock);
}

void recorder_set_credit(struct recorder *r, size_t credit)
{
    pthread_mutex_lock(&r->lock);
    r->credit = credit;
    pthread_mutex_unlock(&r->lock);
    if (r->source)
        r->source->ops->wake(r->source);
}
