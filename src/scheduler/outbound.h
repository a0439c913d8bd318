/* SPDX-License-Identifier: Apache-2.0 */
/* Runs on their way out: the messages of a file of schedules, through libtaskmill. One thread. */
#ifndef TASKMILL_SCHEDULER_OUTBOUND_H
#define TASKMILL_SCHEDULER_OUTBOUND_H

#include "scheduler/tick.h"

struct outbound;

/* ERR_INVALID: the options, or the application's name, are wrong. Connects later. */
int outbound_new(struct outbound **out, const char *application,
                 const struct taskmill_app_options *options, struct err_text *why);
void outbound_free(struct outbound *outbound); /* NULL is fine */

/* Builds the message of each entry without sending it; ERR_INVALID for the first that is wrong. */
int outbound_check(struct outbound *outbound, const struct schedules *schedules,
                   struct err_text *why);

/* As tick_options.send: all runs at once, and one by one if what is refused may be just one of
 * them. Refused for good are a message that cannot be built and one that is too large. */
void outbound_send(struct outbound *outbound, struct tick_run *runs, size_t count);

#endif
