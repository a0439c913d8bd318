/* SPDX-License-Identifier: Apache-2.0 */
/* The brokers of a worker, as its command line names them (spec/client.md 6.1). Pure. */
#ifndef TASKMILL_WORKER_HOSTS_H
#define TASKMILL_WORKER_HOSTS_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define HOSTS_MAX 256

struct host_list {
    char **items; /* "host:port", checked */
    size_t count;
};

/* "a:1, b:2": commas, blanks around entries and empty entries are dropped. */
int hosts_from_list(const char *text, struct host_list *out, struct err_text *why);
/* name:port and n become name-0:port ... name-(n-1):port; of a name with dots the first label is
 * numbered: tb.ns.svc:1 -> tb-0.ns.svc:1. */
int hosts_numbered(const char *host, uint32_t n, struct host_list *out, struct err_text *why);
void hosts_free(struct host_list *list);

#endif
