/* SPDX-License-Identifier: Apache-2.0 */
/* How much memory a process has, from /proc. */
#ifndef TASKMILL_WORKER_MEMORY_H
#define TASKMILL_WORKER_MEMORY_H

#include <stdint.h>
#include <sys/types.h>

/* At most so many processes are looked at: one child of a worker and what it started. */
#define MEMORY_PROCESSES_MAX 256

/* Resident bytes of the process and of all it started that live, shared pages included in each. 0
 * if there is no such process; only the process itself where the kernel does not list children. */
uint64_t memory_resident(pid_t pid);

#endif
