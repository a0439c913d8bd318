/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The embedded log: topics inside the broker's own database, one partition (0) each, for an
 * installation without Kafka. Everything happens on the engine thread, inside the engine's
 * transaction: a record is appended, read into a row and trimmed by the same commits that carry the
 * rows themselves. The storage is a struct of functions, so that this room needs no other.
 *
 * What a crash leaves: a record is in the log, or it is a row, never neither and never both
 * (append, row and position commit together).
 */
#ifndef TASKMILL_TOPIC_EMBEDDED_H
#define TASKMILL_TOPIC_EMBEDDED_H

#include "topic/topic.h"

/* All calls happen on the engine thread; append and trim inside the transaction that is open. */
struct embedded_io {
    void *ctx;
    /* Offsets grow; there may be a gap between two. */
    int (*append)(void *ctx, const char *topic, int64_t offset, struct bytes payload,
                  const struct topic_header *headers, size_t header_count);
    /* Deletes below next_offset, which may lie past the end: records that were delivered in the
     * turn in which they came are never stored. From then on bounds() gives low and high >=
     * next_offset. */
    int (*trim)(void *ctx, const char *topic, int64_t next_offset);
    /* Committed and uncommitted records from `from` on, at most `max`, in order. Slices are valid
     * during the call of `each`. */
    int (*read)(void *ctx, const char *topic, int64_t from, size_t max,
                void (*each)(void *each_ctx, int64_t offset, struct bytes payload,
                             const struct topic_header *headers, size_t header_count),
                void *each_ctx);
    /* Next offset to append and first one still kept; also after a restart when the log is empty.
     */
    int (*bounds)(void *ctx, const char *topic, int64_t *low, int64_t *high);
};

struct embedded_log;

/* The log of one database, shared by its source and sink. */
struct embedded_log *embedded_log_new(const struct embedded_io *io);
void embedded_log_free(struct embedded_log *log);

/* Appends without a sink (Enqueue): *offset is the new record's. The record is buffered: sources
 * may get it at once, what they did not get is stored by embedded_log_write(). */
int embedded_log_append(struct embedded_log *log, const char *topic, struct bytes payload,
                        const struct topic_header *headers, size_t header_count, int64_t *offset);
/* True when embedded_log_write() has something to write, or an error to report. */
bool embedded_log_is_dirty(const struct embedded_log *log);
/* To be called by the engine last before each commit, inside the transaction: stores what was
 * appended and not delivered, and moves the positions of what was. So everything that records()
 * delivered since the last call must be in this transaction (rows, outbox, or dropped by policy).
 * An error, also one that poll() met, means that the transaction must not be committed (INV-12). */
int embedded_log_write(struct embedded_log *log);
/* To be called by the engine after each commit: sinks report, at their next poll(), what that
 * commit carried. */
void embedded_log_committed(struct embedded_log *log);
/* True while a poll() would do something: a source has records and was not refused credit since its
 * last wake(), or a sink has deliveries to report. */
bool embedded_log_has_work(const struct embedded_log *log);
/* Records that wait for a source: the backlog of Enqueue. Dead letters and the like do not count.
 */
uint64_t embedded_log_waiting(const struct embedded_log *log);
/* Records kept now in all topics that were used since the log was opened, and the payload bytes of
 * those that were appended since. */
void embedded_log_size(const struct embedded_log *log, uint64_t *records, uint64_t *bytes);

/* One source per topic (else ERR_EXISTS). Its commits are confirmed at once, inside commit(): row
 * and position share a database and nobody else reads it. Its rows therefore need no list of
 * owners. */
int embedded_source_new(struct topic_source **out, struct embedded_log *log, const char *topic,
                        struct err_text *why);
int embedded_sink_new(struct topic_sink **out, struct embedded_log *log,
                      const struct topic_sink_events *events, struct err_text *why);

#endif
