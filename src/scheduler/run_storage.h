/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who fires a run: what schedulers that share a Redis, or a local file, tell each other through it.
 *
 * The original claims a run with SET key NX and then sends it: a scheduler that dies in between, or
 * whose send fails, loses the run (spec/client.md 13 no. 30). Here a run is claimed, sent, and only
 * then marked as done, and a claim whose owner has gone is taken over.
 *
 * State
 *
 *   Each entry of the schedules has one state (struct run_state): the due times first_s..last_s of
 *   the latest claim, whether it is *open* (not everything is known to be sent), and its owner, a
 *   random name of one scheduler process. An open claim has a *lease*: while it runs, only its
 *   owner sends. There is at most one open claim for each entry; what falls due meanwhile is a
 *   missed run afterwards, by the entry's policy.
 *
 *        (none) --NOTE--> done --CLAIM--> open --DONE--> done --CLAIM--> ...
 *                                        |    ^
 *                                        +----+ RENEW (its owner), TAKE (anybody, lease over),
 *                                               RELEASE (its owner, at exit: lease over at once)
 *
 *   Every step is compare-and-swap: it names the state that the caller has read, and does nothing
 *   but return what is stored if that has changed. A Lua script does it in Redis, a transaction in
 *   SQLite. So two schedulers that find the same run due claim it once, and clocks that differ do
 *   no harm: whoever is late finds the run in the state.
 *
 *   Each run is sent under an id made of entry, schedule and due time (schedule_run_id), whoever
 *   sends it and however often: brokers drop the second copy while the first one lives.
 *
 * What a crash leaves
 *
 *   before CLAIM             nothing: others, or the next start, find the run due
 *   CLAIM, outcome unknown   read again: it is in the state with our name, or it is not
 *   after CLAIM, not sent    an open claim: when the lease is over, another scheduler (or the next
 *                            start of this one) takes it over and sends it
 *   after sending, no DONE   the same: sent a second time under the same id
 *   send fails, or nobody    the owner sends again, under the same id, with back-off, and renews
 *   knows                    its lease before; if the lease cannot be renewed it stops sending
 *   DONE, outcome unknown    DONE is repeated; done stays done
 *   owner stopped (SIGSTOP)  after its lease another one sends; when it wakes up inside a send,
 *   for longer than a lease  that send is a second copy under the same id, and its DONE finds
 *                            another owner and does nothing
 *   the storage loses all    an interval is due at once, a crontab at its next match, as with the
 *                            original; a scheduler that runs remembers its own last runs
 *
 *   So every claimed run is sent at least once, and all copies have one id.
 *
 * Beside schedulers of the original (Redis only)
 *
 *   They know one key for each entry, tw:scheduler:..., written by SET NX EX with the time of
 *   sending, and read it as "last run". CLAIM respects it in the same script: the key must be
 *   absent or hold what the caller has read and counted as a last run (struct run_record, values);
 *   then it is written, with the due time as value, living until the next due time. So their NX
 *   decides for them and this comparison for us, and each run is fired by one side. Our state is in
 *   keys of its own, tm:scheduler:... and tm:scheduler-lease:..., which they do not look at.
 *   Schedulers of client 26.5.0 write a key without the entry's name; they are respected when the
 *   storage was opened with `old_keys`: both keys are compared and written. Entries with the same
 *   task and schedule share runs then, as they do there.
 *
 * The local file
 *
 *   One SQLite file coordinates the schedulers of one machine that are given it. They all write, so
 *   it has a rollback journal, not a WAL: SQLite before 3.51.3 may corrupt a WAL database when one
 *   connection restarts the WAL while another one checkpoints. synchronous=EXTRA, because in this
 *   mode a commit is the journal's deletion, which FULL does not make durable. It must not be on a
 *   network file system: its locks are not to be trusted there; several machines need Redis.
 *
 * One thread. Times: wall time in seconds or milliseconds, leases measured by the Redis server, or
 * by this machine's wall clock in the file (a lease that ends later than one lease from now was
 * given before the clock was put back, and is over).
 */
#ifndef TASKMILL_SCHEDULER_RUN_STORAGE_H
#define TASKMILL_SCHEDULER_RUN_STORAGE_H

#include "base/err.h"
#include "redis/redis.h"
#include "scheduler/schedule.h"

#define RUN_OWNER_SIZE 33 /* 32 hexadecimal digits and a NUL */
#define RUN_VALUE_SIZE 48 /* longest text of the original's key that is understood, and a NUL */
/* How long the state of an entry that no longer runs is kept. */
#define RUN_KEEP_MS (90LL * 86400 * 1000)

struct run_state {
    bool known; /* false: nothing is stored; the rest is zero */
    bool open;
    int64_t first_s, last_s;
    char owner[RUN_OWNER_SIZE];
};

/* The original's keys that count, in the order of struct run_key. "" is an absent one. */
#define RUN_VALUES 2

struct run_record {
    struct run_state state;
    int64_t lease_ms;                        /* what is left of the owner's lease; 0: over */
    char values[RUN_VALUES][RUN_VALUE_SIZE]; /* as stored: for comparing */
    /* The last run that somebody else fired, in whole seconds, cut off: from values that we did not
     * write; at load also from the older forms of the key. SCHEDULE_NEVER_RAN: none. */
    int64_t foreign_s;
};

/* How the storage knows an entry; made once. */
struct run_key {
    char *forms[SCHEDULE_KEY_COUNT]; /* schedule_storage_key */
};

void run_key_make(struct run_key *out, const struct schedule_names *names);
void run_key_free(struct run_key *key);

enum run_step { RUN_NOTE, RUN_CLAIM, RUN_TAKE, RUN_RENEW, RUN_DONE, RUN_RELEASE };

struct run_swap {
    const struct run_key *key;
    enum run_step step;
    struct run_record *record; /* what the caller has read; gets what is stored afterwards */
    struct run_state next;     /* to be stored */
    uint32_t lease_ms;         /* of CLAIM, TAKE and RENEW; the other steps end the lease */
    int64_t value_ttl_ms;      /* of CLAIM: schedule_ttl_ms */
    int64_t keep_ms;           /* how long the state is kept at least; at least RUN_KEEP_MS */
    bool settled;              /* out: the outcome is known, `record` is new */
    bool won;                  /* out: done */
};

struct run_storage {
    const struct run_storage_ops *ops;
};

struct run_storage_ops {
    /* Reads the records of `count` entries. On failure none is changed. */
    int (*load)(struct run_storage *storage, const struct run_key *const *keys, size_t count,
                struct run_record *out, struct err_text *why);
    /* Tries each of `swaps`. On failure some may be settled; the others were done or not: load
     * tells. */
    int (*swap)(struct run_storage *storage, struct run_swap *swaps, size_t count,
                struct err_text *why);
    const char *(*name)(const struct run_storage *storage); /* for messages */
    void (*close)(struct run_storage *storage);
};

/* Errors of load and swap: ERR_UNAVAILABLE, ERR_TIMEOUT, ERR_DENIED, ERR_BUSY, ERR_IO, ERR_CORRUPT,
 * ERR_NO_SPACE: all of them may pass; calling again is right, with back-off. */

/* Nothing is connected before the first call. timeout_ms 0: REDIS_TIMEOUT_MS. */
struct run_storage *run_storage_redis(const struct redis_address *address, uint32_t timeout_ms,
                                      bool old_keys);

/* Opens or makes the file; its folder must be there. ERR_IO, ERR_DENIED, ERR_BUSY, ERR_CORRUPT,
 * ERR_INVALID (a file of something else). */
int run_storage_file(struct run_storage **out, const char *path, struct err_text *why);

/* --- pieces for the storages, and their tests ------------------------------------------------- */

/* Would this step be right on this record? The rules of compare-and-swap, for storages that read
 * and write in a transaction of their own. `believed` is what the caller has read. */
bool run_step_allowed(enum run_step step, const struct run_record *believed,
                      const struct run_record *stored);

/* Time as the original writes it: "2026-01-01T00:00:00+00:00". */
void run_value_print(char out[RUN_VALUE_SIZE], int64_t time_s);
/* Whole seconds, cut off. ISO 8601 with T or blank, optional fraction, Z or an offset; without
 * either it is UTC (the original dies of it, spec/client.md 13 no. 31). ERR_MALFORMED. */
int run_value_parse(const char *text, int64_t *time_s);

/* "1 FIRST LAST open|done OWNER", as Redis keeps it. Unreadable text is no state. */
#define RUN_STATE_SIZE 96
void run_state_print(char out[RUN_STATE_SIZE], const struct run_state *state);
void run_state_parse(struct run_state *out, const char *text);

#endif
