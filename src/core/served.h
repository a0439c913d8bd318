/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which applications somebody serves. Rows that nobody will fetch must not fill max_pending_count
 * and so block everybody else's. An application is *unserved* when
 *
 *   - for `after_ms` no claim asked for it (a claim without filter asks for every one), and
 *   - none of its tasks is PROCESSING, and
 *   - some claim asked for another application in that time (`served_applies`).
 *
 * When nobody asks at all, workers are away altogether and every row counts. An application that
 * has just come counts as asked for.
 *
 * Cost: O(1) for a claim or a task; O(log n) once every after_ms for an application with pending
 * tasks; a claim without filter pays for the applications that it makes served again.
 */
#ifndef TASKMILL_CORE_SERVED_H
#define TASKMILL_CORE_SERVED_H

#include "base/heap.h"
#include "base/list.h"
#include "core/task.h"

/* The part of an application. Zeroed: nothing known. */
struct served_entry {
    size_t pending, processing; /* tasks in these states */
    int64_t asked_ms;
    bool known;             /* asked_ms is set */
    struct heap_node check; /* with pending tasks, unless unserved: the time to look again */
    struct list_node link;  /* in served.unserved */
};

struct served {
    int64_t after_ms; /* 0: every application counts as served */
    int64_t asked_ms; /* the last claim that named an application */
    bool asked;
    int64_t asked_all_ms; /* the last claim without filter */
    bool asked_all;
    struct heap checks;
    struct list unserved; /* longest ago first */
    size_t unserved_pending;
};

void served_init(struct served *served, int64_t after_ms);
/* No application has pending tasks any more (asserted). */
void served_free(struct served *served);

/* A task came into the state, and left it. */
void served_enter(struct served *served, struct served_entry *entry, enum task_state state,
                  int64_t now_ms);
void served_leave(struct served *served, struct served_entry *entry, enum task_state state);

/* A claim named this application; entry is NULL when no live task or claim knows it. */
void served_ask(struct served *served, struct served_entry *entry, int64_t now_ms);
/* A claim takes whatever there is. */
void served_ask_all(struct served *served, int64_t now_ms);

/* Finds the applications that have become unserved. */
void served_advance(struct served *served, int64_t now_ms);
int64_t served_next_ms(const struct served *served);

static inline bool served_is_unserved(const struct served_entry *entry)
{
    return list_linked(&entry->link);
}

/* Whether tasks of unserved applications may be left out of the count: somebody works. */
bool served_applies(const struct served *served, int64_t now_ms);

#endif
