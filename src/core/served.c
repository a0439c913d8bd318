/* SPDX-License-Identifier: Apache-2.0 */
#include "core/served.h"

#include <assert.h>

#include "base/mem.h"

void served_init(struct served *served, int64_t after_ms)
{
    *served = (struct served){.after_ms = after_ms > 0 ? after_ms : 0};
    heap_init(&served->checks);
    list_init(&served->unserved);
}

void served_free(struct served *served)
{
    assert(served->checks.count == 0 && list_empty(&served->unserved));
    heap_free(&served->checks);
}

static void check_at(struct served *served, struct served_entry *entry, int64_t at_ms)
{
    if (served->after_ms)
        heap_insert(&served->checks, &entry->check, at_ms);
}

static int64_t last_asked_ms(const struct served *served, const struct served_entry *entry)
{
    if (served->asked_all && served->asked_all_ms > entry->asked_ms)
        return served->asked_all_ms;
    return entry->asked_ms;
}

static void serve_again(struct served *served, struct served_entry *entry, int64_t now_ms)
{
    list_remove(&served->unserved, &entry->link);
    served->unserved_pending -= entry->pending;
    check_at(served, entry, clock_add(now_ms, served->after_ms));
}

void served_enter(struct served *served, struct served_entry *entry, enum task_state state,
                  int64_t now_ms)
{
    if (state == TASK_PROCESSING)
        entry->processing++;
    if (state != TASK_PENDING)
        return;
    if (!entry->known) {
        entry->known = true;
        entry->asked_ms = now_ms;
    }
    if (entry->pending++ == 0)
        check_at(served, entry, clock_add(last_asked_ms(served, entry), served->after_ms));
    served->unserved_pending += served_is_unserved(entry);
}

void served_leave(struct served *served, struct served_entry *entry, enum task_state state)
{
    if (state == TASK_PROCESSING) {
        assert(entry->processing);
        entry->processing--;
    }
    if (state != TASK_PENDING)
        return;
    assert(entry->pending);
    served->unserved_pending -= served_is_unserved(entry);
    if (--entry->pending)
        return;
    if (served_is_unserved(entry))
        list_remove(&served->unserved, &entry->link);
    else if (heap_contains(&entry->check))
        heap_remove(&served->checks, &entry->check);
}

void served_ask(struct served *served, struct served_entry *entry, int64_t now_ms)
{
    served->asked = true;
    served->asked_ms = now_ms;
    if (!entry)
        return;
    entry->known = true;
    entry->asked_ms = now_ms;
    if (served_is_unserved(entry))
        serve_again(served, entry, now_ms);
}

void served_ask_all(struct served *served, int64_t now_ms)
{
    struct list_node *node;

    served->asked_all = true;
    served->asked_all_ms = now_ms;
    while ((node = list_first(&served->unserved)))
        serve_again(served, container_of(node, struct served_entry, link), now_ms);
}

static void check(struct served *served, struct served_entry *entry, int64_t now_ms)
{
    int64_t until_ms = clock_add(last_asked_ms(served, entry), served->after_ms);

    heap_remove(&served->checks, &entry->check);
    if (entry->processing)
        until_ms = clock_add(now_ms, served->after_ms);
    if (until_ms > now_ms) {
        check_at(served, entry, until_ms);
        return;
    }
    list_push_back(&served->unserved, &entry->link);
    served->unserved_pending += entry->pending;
}

void served_advance(struct served *served, int64_t now_ms)
{
    struct heap_node *node;

    while ((node = heap_min(&served->checks)) && node->key <= now_ms)
        check(served, container_of(node, struct served_entry, check), now_ms);
}

int64_t served_next_ms(const struct served *served)
{
    const struct heap_node *node = heap_min(&served->checks);

    return node ? node->key : CLOCK_NEVER;
}

bool served_applies(const struct served *served, int64_t now_ms)
{
    return served->asked && clock_add(served->asked_ms, served->after_ms) > now_ms;
}
