/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The embedded log: topics inside the broker's own database, one partition (0) each, for an installation
 * without Kafka. Everything happens on the engine thread, inside the engine's transaction: a record is
 * appended, read into a row and trimmed by the same commits that carry the rows themselves. The storage is
 * a struct of functions, so that this room needs no other.
 *
 * What a crash leaves: a record is in the log, or it is a row, never neither and never both (append, row
 * and position commit together).
 */
#ifndef TASKMILL_TOPIC_EMBEDDED_H
#define TASKMILL_TOPIC_EMBEDDED_H

#include "topic/topic.h"

struct embedded_io {
    void *ctx;
    /* Inside the open transaction. */
    int (*append)(void *ctx, const char *topic, int64_t offset, struct bytes payload,
                  const struct topic_header *headers, size_t header_count);
    int (*trim)(void *ctx, const char *topic, int64_t next_offset); /* deletes below */
    /* Committed and uncommitted records from `from` on, at most `max`, in order. */
    int (*read)(void *ctx, const char *topic, int64_t from, size_t max,
                void (*each)(void *each_ctx, int64_t offset, struct bytes payload,
                             const struct topic_header *headers, size_t header_count),
                void *each_ctx);
    /* Next offset to append and first one still kept; also after a restart when the log is empty. */
    int (*bounds)(void *ctx, const char *topic, int64_t *low, int64_t *high);
};

struct embedded_log;

/* The log of one database, shared by its source and sink. */
struct embedded_log *embedded_log_new(const struct embedded_io *io);
void embedded_log_free(struct embedded_log *log);

/* Appends without a sink (Enqueue): *offset is the new record's. */
int embedded_log_append(struct embedded_log *log, const char *topic, struct bytes payload,
                        const struct topic_header *headers, size_t header_count, int64_t *offset);
/* To be called by the engine before each commit: writes what was appended and not delivered. */
int embedded_log_write(struct embedded_log *log);
/* To be called by the engine after each commit: sinks report what that commit carried. */
void embedded_log_committed(struct embedded_log *log);
/* True while a source has records to deliver (the engine must not sleep on credit it has). */
bool embedded_log_has_work(const struct embedded_log *log);
/* Records kept now (all topics) and their payload bytes: counts toward store.max_size. */
void embedded_log_size(const struct embedded_log *log, uint64_t *records, uint64_t *bytes);

int embedded_source_new(struct topic_source **out, struct embedded_log *log, const char *topic,
                        struct err_text *why);
int embedded_sink_new(struct topic_sink **out, struct embedded_log *log,
                      const struct topic_sink_events *events, struct err_text *why);

#endif
