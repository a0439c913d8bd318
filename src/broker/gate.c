/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/gate.h"

#include <assert.h>

void gate_init(struct gate *gate)
{
    atomic_init(&gate->permitted, 0);
    atomic_init(&gate->taken, 0);
    atomic_init(&gate->starved, false);
    gate->accepted = 0;
}

size_t gate_take(struct gate *gate, size_t wanted)
{
    /* The flag goes up before the look at permitted: an engine that opens the gate meanwhile either
     * is seen here or sees the flag. */
    int64_t taken = atomic_load(&gate->taken);
    for (;;) {
        int64_t room = atomic_load(&gate->permitted) - taken;
        if (room < (int64_t)wanted && !atomic_exchange(&gate->starved, true))
            room = atomic_load(&gate->permitted) - taken;
        if (room <= 0)
            return 0;
        int64_t count = room < (int64_t)wanted ? room : (int64_t)wanted;
        if (atomic_compare_exchange_weak(&gate->taken, &taken, taken + count))
            return (size_t)count;
    }
}

void gate_return(struct gate *gate, size_t unused)
{
    int64_t before = atomic_fetch_sub(&gate->taken, (int64_t)unused);
    assert(before >= (int64_t)unused);
}

void gate_accept(struct gate *gate, size_t count)
{
    gate->accepted += (int64_t)count;
}

bool gate_open(struct gate *gate, size_t room)
{
    atomic_store(&gate->permitted, gate->accepted + (int64_t)room);
    if (room == 0 || !atomic_load(&gate->starved))
        return false;
    return atomic_exchange(&gate->starved, false);
}
