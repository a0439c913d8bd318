/* SPDX-License-Identifier: Apache-2.0 */
/* The id of a new activation: random, or the sender's own. Thread-safe. */
#ifndef TASKMILL_CLIENT_IDS_H
#define TASKMILL_CLIENT_IDS_H

#include <taskmill.h>

/* `given` (of struct taskmill_send_options.send_id), checked, or a new random id if it is NULL.
 * ERR_INVALID: not of one of the two spellings; taskmill_last_error() says which these are. */
int ids_choose(char id[TASKMILL_ID_SIZE], const char *given);

#endif
