/* SPDX-License-Identifier: Apache-2.0 */
/*
 * INV-14: somebody sets a broker's wall clock while it runs. The world's own time (sim->wall_ms,
 * which producers write into messages) goes on; what is off is one broker's idea of it. Nothing
 * that waits in that broker may move by it, and nothing may become due. Messages that come later,
 * and rows that are loaded later, are rightly read with the new clock: checks that compare with the
 * world's time allow for the widest errors there have been (error_low_ms, error_high_ms); two
 * runs of three have none.
 */
#include "sim.h"

#include "base/mem.h"
#include "core/state.h"

#define DRAIN_TURNS 64

struct waiting {
    char id[64];
    enum task_state state;
    uint64_t claim;
    int64_t due_ms, expires_at_ms;
};

static size_t remember(const struct inflight *inflight, struct waiting **out)
{
    size_t count = 0;

    *out = mem_calloc(inflight->tasks.count + 1, sizeof **out);
    for (struct map_node *node = map_first(&inflight->tasks); node;
         node = map_next(&inflight->tasks, node)) {
        const struct task *task = container_of(node, struct task, by_id);
        struct waiting *waiting = &(*out)[count++];
        *waiting = (struct waiting){.state = task->state,
                                    .claim = task->claim,
                                    .due_ms = task->due_ms,
                                    .expires_at_ms = task->expires_at_ms};
        snprintf(waiting->id, sizeof waiting->id, "%.*s", BYTES_FMT_ARG(task_id(task)));
    }
    return count;
}

static void compare(struct sim_node *node, const struct waiting *was)
{
    const struct task *task = inflight_find(node->engine->inflight, bytes_str(was->id));
    struct sim *sim = node->sim;

    if (!task)
        return; /* ended meanwhile: by a delivery report, a revoke, a report */
    if (was->state == TASK_DELAY && was->due_ms > sim->boot_ms && task->state != TASK_DELAY)
        sim_violation(sim, "INV-14: the delay of task %s ended when a clock was set", was->id);
    if (task->expires_at_ms != was->expires_at_ms)
        sim_violation(sim, "INV-14: the expiry of task %s moved when a clock was set", was->id);
    /* A record that could not be published meanwhile has a new time to be tried again. */
    if ((was->state == TASK_DELAY || was->state == TASK_PROCESSING) && task->state == was->state &&
        task->claim == was->claim && task->due_ms != was->due_ms)
        sim_violation(sim, "INV-14: task %s moved by %lld ms when a clock was set", was->id,
                      (long long)(task->due_ms - was->due_ms));
}

static bool drain(struct sim_node *node)
{
    for (int i = 0; i < DRAIN_TURNS && node->engine; i++) {
        sim_node_turn(node);
        if (node->engine && !engine_has_backlog(node->engine) && !node->events)
            return true;
    }
    return false;
}

void sim_clock_set(struct sim_node *node)
{
    static const int64_t errors_ms[] = {-10000, -1500, -1, 0, 1, 999, 4000, 10000};
    struct sim *sim = node->sim;
    struct waiting *waiting;

    if (!drain(node))
        return;
    size_t count = remember(node->engine->inflight, &waiting);
    node->wall_error_ms = errors_ms[sim_below(sim, sizeof errors_ms / sizeof *errors_ms)];
    if (node->wall_error_ms < sim->error_low_ms)
        sim->error_low_ms = node->wall_error_ms;
    if (node->wall_error_ms > sim->error_high_ms)
        sim->error_high_ms = node->wall_error_ms;
    sim_trace(sim, "node %d has its clock set: off by %lld ms", node->index,
              (long long)node->wall_error_ms);
    sim_node_turn(node);
    for (size_t i = 0; node->engine && i < count; i++)
        compare(node, &waiting[i]);
    mem_free(waiting);
}
