/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A database whose broker is stopped (INV-15): looked at without changing it, and given back to the
 * original. Bringing a file up needs nothing of its own: store_open() and store_close() do it, and
 * store_opening() tells what they did.
 *
 *   offline_open(read_only)  -> offline_survey, offline_unconfirmed, offline_bad_rows
 *                            -> offline_close
 *   offline_open             -> ... the same ..., offline_give_back -> offline_close
 *
 * Both take the broker's lock and hold it until offline_close. One thread. Errors fail the store as
 * in store.h: store_why() has the line.
 */
#ifndef TASKMILL_STORE_OFFLINE_H
#define TASKMILL_STORE_OFFLINE_H

#include "store/store.h"

/* Opens an existing file: ERR_NOT_FOUND when there is none, ERR_BUSY when a broker holds the lock
 * or, for writing, any other process has it open (the line names its pid). Read-only, neither the
 * file nor its WAL changes by a byte (the -shm file beside them may). A lock file that was not
 * there is gone again after offline_close. Of `options`, wal_limit_bytes, full_vacuum and
 * synchronous_normal mean nothing here. */
int offline_open(struct store **out, const struct store_options *options, bool read_only,
                 struct err_text *why);
/* After writing, it checkpoints and removes the WAL if nobody else has the file open. */
void offline_close(struct store *store);

/* --- looking --------------------------------------------------------------------------------- */

enum survey_kind {
    SURVEY_EMPTY,    /* no table yet */
    SURVEY_ORIGINAL, /* written by the original, never opened by Taskmill */
    SURVEY_TASKMILL, /* has Taskmill's tables */
    SURVEY_FOREIGN   /* the database of another program */
};

enum survey_migration {
    SURVEY_MISSING, /* will be applied at the next start */
    SURVEY_APPLIED,
    SURVEY_DIFFERENT, /* another checksum than the original's 26.7 */
    SURVEY_HALF_DONE
};

/* A sentence about the file. A problem makes it unsound: a broker refuses it, loses or does not
 * serve something of it. `remedy` says what to do; "" for a note that needs nothing. */
struct survey_finding {
    bool problem;
    char *what, *remedy;
};

struct survey_topic {
    char *name;
    int64_t records;
};

#define SURVEY_MIGRATIONS 6

struct survey {
    enum survey_kind kind;
    enum survey_migration migrations[SURVEY_MIGRATIONS]; /* index + 1 is the version */
    int64_t format;                                      /* of Taskmill's tables; 0: none */
    char store_id[17];                                   /* "": none */
    bool index;                                          /* idx_pending_activation is there */
    int64_t rows[STORE_STATUS_UNKNOWN + 1];              /* by status */
    int64_t bad;         /* parked by our broker: no namespace, or an unknown status */
    int64_t unserved;    /* names too long: never served */
    int64_t unreadable;  /* numbers that the original could not read; give-back corrects them */
    int64_t unconfirmed; /* at-most-once rows that may not be claimed yet (INV-4) */
    int64_t outbox, done;
    struct survey_topic *topics; /* of the embedded log, those that hold records */
    size_t topic_count;
    struct store_size size;
    int64_t page_size, pages, free_pages, auto_vacuum;
    struct survey_finding *findings;
    size_t finding_count;
};

/* Reads the whole file (integrity_check). Always fills *out: what cannot be read is a finding. The
 * caller frees it with survey_free. */
void offline_survey(struct store *store, struct survey *out);
void survey_free(struct survey *survey);
bool survey_sound(const struct survey *survey);
const char *survey_migration_name(int version); /* 1 to SURVEY_MIGRATIONS */
const char *survey_status_name(enum store_status status);

/* A row as the lists below show it; slices are valid during the callback. */
struct offline_row {
    struct bytes id, status, reason;
    struct bytes cluster, topic; /* empty: not known (stored by the original) */
    int64_t partition, offset;
};
typedef void (*offline_row_fn)(void *ctx, const struct offline_row *row);

/* At-most-once rows that wait for their offset to be confirmed, in order of arrival. */
int offline_unconfirmed(struct store *store, offline_row_fn each, void *ctx);
/* Rows that our broker parks or cannot serve, each with its reason. */
int offline_bad_rows(struct store *store, offline_row_fn each, void *ctx);

/* --- giving back ----------------------------------------------------------------------------- */

struct give_back_options {
    bool accept_unconfirmed;
    const char *const *discard; /* topics of the embedded log whose records may be lost */
    size_t discard_count;
};

struct give_back {
    int migrations_applied;
    int64_t rows_to_deadletter; /* were bad: now Failure with the policy dead letter */
    int64_t rows_corrected;     /* had numbers that the original could not read */
    bool tables_removed, index_restored, vacuumed;
};

/* Makes the file exactly what the original's release with migration 6 has: missing migrations are
 * applied, rows that it could not read are mended, our columns and tables go, its index comes back,
 * all in one transaction; then the WAL is copied and truncated, and the lock file goes. Repeating
 * it changes nothing; a crash leaves the file as before or after the transaction, and the next call
 * goes on.
 *
 * ERR_STATE, with the reason in `why` and nothing changed, while the outbox holds messages, a topic
 * of the embedded log that `discard` does not name holds records, or (unless accepted) at-most-once
 * rows of a file that Taskmill has opened are unconfirmed. */
int offline_give_back(struct store *store, const struct give_back_options *options,
                      struct give_back *out, struct err_text *why);

#endif
