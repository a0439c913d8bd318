/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mailbox of one consumer thread and any number of producers: a mutex, an intrusive chain and an
 * eventfd. Producers append whole chains; the consumer takes everything at once. The eventfd is
 * written only when the consumer said that it sleeps, so a busy pair of threads makes no system
 * calls.
 *
 * The inbox itself does not bound its length: whoever puts messages in is bounded by a named limit
 * of its own (open streams per connection, intake credit, deliveries in flight); see INV-10.
 */
#ifndef TASKMILL_BASE_INBOX_H
#define TASKMILL_BASE_INBOX_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

struct inbox_node {
    struct inbox_node *next;
};

struct inbox {
    pthread_mutex_t lock;
    struct inbox_node *first, **tail; /* under the lock, as count and sleeping */
    size_t count;
    bool sleeping; /* consumer waits, or is about to wait, on the eventfd */
    int event_fd;
    /* The consumer's own: fetched, but beyond the `max` of the last take. */
    struct inbox_node *held, **held_tail;
    size_t held_count;
};

int inbox_init(struct inbox *inbox); /* ERR_SYSTEM when no eventfd can be had */
/* When all producers have returned from their last push. Messages still inside are forgotten. */
void inbox_destroy(struct inbox *inbox);

/* Any thread. push_chain takes nodes linked by `next`, `count` of them, ending in NULL. */
void inbox_push(struct inbox *inbox, struct inbox_node *node);
void inbox_push_chain(struct inbox *inbox, struct inbox_node *first, size_t count);
/* Any thread: wakes the consumer without a message. Never lost: a consumer that is busy finds its
 * next poll ready at once. What the wake is about must be set before, and looked at after
 * inbox_woken(). */
void inbox_wake(struct inbox *inbox);

/* Any thread: messages that wait now. */
size_t inbox_count(struct inbox *inbox);

/* Consumer only: up to `max` messages in order as a chain (NULL when empty). Clears `sleeping`. */
struct inbox_node *inbox_take(struct inbox *inbox, size_t max);
/* Consumer only, before polling event_fd: false means that messages wait and it must not sleep.
 * After the poll, inbox_woken() drains the eventfd. */
bool inbox_prepare_sleep(struct inbox *inbox);
void inbox_woken(struct inbox *inbox);

#endif
