/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the worker: worker.c has the loop, traffic.c the calls to brokers. */
#ifndef TASKMILL_WORKER_WORKER_INT_H
#define TASKMILL_WORKER_WORKER_INT_H

#include <poll.h>

#include "base/health_file.h"
#include "rpc/client.h"
#include "worker/claims.h"
#include "worker/meters.h"
#include "worker/pool.h"
#include "worker/worker.h"

#define WORKER_TARGET "taskmill::worker"

struct host {
    struct peer peer;
    const char *name; /* host:port */
    struct rpc_client *rpc;
    struct rpc_client *leaving; /* the one before, whose broker said GOAWAY and still has calls of
                                   ours; NULL: none */
    bool dirty;                 /* has something to send */
    size_t reporting;           /* reports that it has not taken yet, waiting or under way */
    int64_t gone_since_ms; /* when its connection was lost or refused; CLOCK_NEVER: it answers */
    struct list returns;   /* unstarted jobs on their way back, until their call begins */
    int64_t returns_due_ms;
    uint32_t return_tries;
    bool has_left; /* it was said that tasks stay there until their deadline */
};

/* One GetTask under way. */
struct claim {
    struct list_node node; /* oldest first */
    struct worker *worker;
    struct source *source;
    struct rpc_client *rpc; /* that has the call */
    uint64_t call;
    int64_t sent_ms, sent_us;
    bool cancelled;
};

struct worker {
    struct worker_options options;
    int64_t now_ms; /* of this turn of the loop */
    int signal_fd;
    struct pool *pool;
    struct pollfd *fds;

    struct rpc_tls *tls; /* NULL: plain text */
    struct host *hosts;
    struct claims claims;
    struct list open_claims;
    size_t hopeful;      /* reports under way that ask for the next task */
    size_t sent;         /* reports under way */
    size_t returning;    /* jobs that are given back: waiting, or in a call under way */
    struct list reports; /* that wait to be sent (again) */
    struct watch watch;
    struct list queue; /* jobs without a child */
    struct list held;  /* at-most-once jobs that wait for Redis */
    struct once_outage outage;
    uint64_t claim_number; /* of the last job that must be asked for */

    int64_t average_run_us; /* of recent jobs; < 0: none yet */
    uint64_t finished;
    uint32_t chance; /* xorshift state */

    bool draining, killed;
    bool is_abandoning;      /* what still ran at the end of the shutdown time-out is left */
    int64_t shutdown_end_ms; /* CLOCK_NEVER: none */
    /* For reports, from the end of the last task on; the second for brokers that are gone. */
    int64_t drain_end_ms, drain_gone_ms;
    struct health_file health;
    int64_t idle_said_ms;
};

/* How many jobs the worker wants to have in all. */
size_t worker_capacity(const struct worker *worker);
uint32_t worker_chance(struct worker *worker);

/* --- traffic.c ------------------------------------------------------------------------------- */
int traffic_open(struct worker *worker, struct err_text *why);
void traffic_close(struct worker *worker);
/* After the hosts were served: a broker that closes its connection (it does so now and then when it
 * limits their age) gets a second one, for the calls from now on. */
void traffic_replace_leaving(struct worker *worker);
/* In a new child: closes the sockets. */
void traffic_forked(const struct worker *worker);
/* Asks for tasks and cancels what is too much. */
void traffic_claim(struct worker *worker);
/* The job's report; takes the job over. */
void traffic_report(struct worker *worker, struct job *job, enum activation_status status);
/* True if all reports that are left are for brokers that have been gone since `since_ms`. */
bool traffic_all_gone(const struct worker *worker, int64_t since_ms);
/* Ends the pauses of the reports that wait: the worker is about to end. */
void traffic_hurry_reports(struct worker *worker);
/* Sends the reports that are due. */
void traffic_send_reports(struct worker *worker);
/* A job that nobody has started, and nobody here will: back to its broker. Takes the job over. What
 * the broker does not take back (an original one never does) is left to its deadline; that is said
 * once for each broker. */
void traffic_give_back(struct worker *worker, struct job *job);
/* One call for each broker that is owed jobs. */
void traffic_send_returns(struct worker *worker);
int64_t traffic_next_ms(const struct worker *worker);

/* --- once_hold.c ------------------------------------------------------------------------------ */
/* Whether the job must be asked for before it runs. */
bool once_guards(const struct worker *worker, const struct job *job);
/* True if it must wait: then it has been put aside. */
bool once_hold(struct worker *worker, struct job *job);
/* Puts back into the queue what may ask now. */
void once_release(struct worker *worker);
int64_t once_next_ms(const struct worker *worker);
/* Those put aside that take the place of other tasks. */
size_t once_in_hand(const struct worker *worker);
/* The pool's event. */
void once_asked(struct worker *worker, struct job *job, enum once_answer answer, const char *why);

/* worker.c: a task has arrived, in a response that has one. Takes its bytes as a blob. */
void worker_take_task(struct worker *worker, struct source *source,
                      const struct task_response *response);
void worker_free_job(struct job *job);

#endif
