/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses as people write them: "host:port", "1.2.3.4:50051", "[::1]:50051". Pure. */
#ifndef TASKMILL_CLIENT_HOSTPORT_H
#define TASKMILL_CLIENT_HOSTPORT_H

#include <stddef.h>
#include <stdint.h>

#define HOSTPORT_HOST_MAX 256 /* bytes with the NUL */

/* The host is copied without brackets. ERR_INVALID if the text has another form. */
int hostport_parse(const char *text, char host[HOSTPORT_HOST_MAX], uint16_t *port);

#endif
