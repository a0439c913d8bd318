/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Intake credit: how many more records the sources may hand to the engine. The engine opens the
 * gate to an absolute count of records ("permitted"); sources take from it. All counts only grow,
 * so a record on its way through the inbox is never granted twice and needs no bookkeeping of its
 * own.
 *
 * Threads: gate_take and gate_return from any source thread, the rest from the engine thread.
 */
#ifndef TASKMILL_BROKER_GATE_H
#define TASKMILL_BROKER_GATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gate {
    _Atomic int64_t permitted; /* records that may have been taken since the start */
    _Atomic int64_t taken;     /* records taken since the start, returns subtracted */
    _Atomic bool starved;      /* a source asked and got less than it wanted */
    int64_t accepted;          /* records the engine has seen */
};

void gate_init(struct gate *gate);
/* At most `wanted`; 0 when the gate is shut. */
size_t gate_take(struct gate *gate, size_t wanted);
void gate_return(struct gate *gate, size_t unused);
/* The engine saw `count` records that a source had taken. */
void gate_accept(struct gate *gate, size_t count);
/* Room for `room` more records beyond those accepted. True when a starved source should be woken.
 */
bool gate_open(struct gate *gate, size_t room);

#endif
