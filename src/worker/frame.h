/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages between the worker and its children, over a stream socketpair: a head and `len` bytes.
 * Both ends are one program on one machine, so the head goes as it lies in memory.
 *
 *   to a child    kind: index of the app; seq: number of the job; value: the claim's number if the
 *                 task must be asked for (once.h), else 0; body: the activation
 *   to the worker kind: enum attempt_end; seq; value: run time in us; memory_kib: growth of the
 *                 child's peak resident memory; body: one line of explanation
 *                 FRAME_READY once at start
 *                 FRAME_ASKED before the task is run, or not; seq; value: enum once_answer; body:
 *                 why there is no answer
 */
#ifndef TASKMILL_WORKER_FRAME_H
#define TASKMILL_WORKER_FRAME_H

#include "base/bytes.h"
#include "base/err.h"

#define FRAME_READY UINT32_C(1000)
#define FRAME_ASKED UINT32_C(1001)

struct frame_head {
    uint32_t len;
    uint32_t kind;
    uint64_t seq;
    uint64_t value;
    uint64_t memory_kib;
};

void frame_put(struct buf *out, const struct frame_head *head, struct bytes body); /* sets len */

/* The frame at `*pos` of `in`; moves *pos behind it. False if it is not complete yet. */
bool frame_take(const struct buf *in, size_t *pos, struct frame_head *head, struct bytes *body);

/* Reads what is there into `in`, at most about 256 KiB. 0, ERR_CLOSED at the end of the stream or
 * when it is broken. Blocks only if the socket does. */
int frame_read(int fd, struct buf *in);
/* Writes what the socket takes; what is left stays from *done on. 0, ERR_FULL (more later),
 * ERR_CLOSED. */
int frame_write(int fd, struct buf *out, size_t *done);

#endif
