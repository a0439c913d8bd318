/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two lists of effects: `next` grows while events come in; the commit judges each entry by what
 * became of its task since, and lets the rest go as `released`. A claim that has an entry in `next`
 * knows its index, so that a caller who hangs up can take its answer back.
 */
#include <assert.h>

#include "base/mem.h"
#include "core/state.h"

void effects_push(struct inflight *inflight, struct effect effect)
{
    struct effect_list *next = &inflight->next;

    if (next->count == next->cap) {
        next->cap = next->cap ? next->cap * 2 : 64;
        next->effects = mem_realloc(next->effects, next->cap * sizeof(*next->effects));
    }
    next->effects[next->count++] = effect;
    if (effect.claim)
        effect.claim->effect = next->count;
}

void effects_cancel(struct inflight *inflight, struct claim *claim)
{
    if (!claim->effect)
        return;
    assert(claim->effect <= inflight->next.count);
    struct effect *effect = &inflight->next.effects[claim->effect - 1];
    assert(effect->claim == claim);
    claim->effect = 0;
    effect->claim = NULL;
    if (effect->kind == EFFECT_GRANT && inflight_claim_stands(effect->task, effect->claim_number))
        state_undo_grant(inflight, effect->task);
}

static bool keep_publish(struct effect *effect)
{
    if (effect->task->end != TASK_LIVE)
        return false;
    assert(effect->task->publish == effect->publish);
    effect->task->handed = true;
    return true;
}

static bool keep_answer(struct effect *effect)
{
    if (!effect->claim)
        return false;
    effect->claim->effect = 0;
    if (effect->kind == EFFECT_GRANT && !inflight_claim_stands(effect->task, effect->claim_number))
        *effect = (struct effect){.kind = EFFECT_NONE, .claim = effect->claim};
    return true;
}

static void release_effects(struct inflight *inflight)
{
    struct effect_list released = inflight->next;
    size_t kept = 0;

    assert(inflight->released.count == 0); /* effects_done follows each commit */
    for (size_t i = 0; i < released.count; i++) {
        struct effect *effect = &released.effects[i];
        if (effect->kind == EFFECT_PUBLISH ? keep_publish(effect) : keep_answer(effect))
            released.effects[kept++] = *effect;
    }
    released.count = kept;
    inflight->next = inflight->released; /* the two arrays swap */
    inflight->released = released;
}

void inflight_committed(struct inflight *inflight)
{
    struct list_node *node;

    while ((node = list_pop_front(&inflight->changed))) {
        struct task *task = container_of(node, struct task, changed);
        task->rewritten = false;
        task->stored = task->end == TASK_LIVE;
        if (task->end != TASK_LIVE)
            list_push_back(&inflight->ended, node);
    }
    release_effects(inflight);
}

const struct effect *inflight_effects(const struct inflight *inflight, size_t *count)
{
    *count = inflight->released.count;
    return inflight->released.effects;
}

struct task *inflight_next_change(const struct inflight *inflight, const struct task *after)
{
    const struct list_node *sentinel = &inflight->changed.head;
    struct list_node *node = after ? after->changed.next : sentinel->next;

    return node == sentinel ? NULL : container_of(node, struct task, changed);
}

size_t inflight_change_count(const struct inflight *inflight)
{
    return inflight->changed.count;
}
