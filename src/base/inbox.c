/* SPDX-License-Identifier: Apache-2.0 */
#include "base/inbox.h"

#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/err.h"

int inbox_init(struct inbox *inbox)
{
    *inbox = (struct inbox){0};
    inbox->tail = &inbox->first;
    inbox->held_tail = &inbox->held;
    inbox->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (inbox->event_fd < 0)
        return ERR_SYSTEM;
    int rv = pthread_mutex_init(&inbox->lock, NULL);
    assert(rv == 0); /* glibc's plain mutex needs no resources */
    return 0;
}

void inbox_destroy(struct inbox *inbox)
{
    close(inbox->event_fd);
    pthread_mutex_destroy(&inbox->lock);
    inbox->event_fd = -1;
}

static void signal_event(struct inbox *inbox)
{
    uint64_t one = 1;
    ssize_t len;

    do
        len = write(inbox->event_fd, &one, sizeof(one));
    while (len < 0 && errno == EINTR);
    assert(len == sizeof(one) || errno == EAGAIN); /* EAGAIN: the counter is full, so readable */
}

void inbox_push_chain(struct inbox *inbox, struct inbox_node *first, size_t count)
{
    if (count == 0)
        return;
    /* The end is found before the lock is taken: the others need not wait for our cache misses. */
    struct inbox_node *last = first;
    for (size_t i = 1; i < count; i++)
        last = last->next;
    assert(last->next == NULL);

    pthread_mutex_lock(&inbox->lock);
    *inbox->tail = first;
    inbox->tail = &last->next;
    inbox->count += count;
    bool wake = inbox->sleeping;
    inbox->sleeping = false; /* one write is enough for all that arrive until the consumer looks */
    pthread_mutex_unlock(&inbox->lock);
    if (wake)
        signal_event(inbox);
}

void inbox_push(struct inbox *inbox, struct inbox_node *node)
{
    node->next = NULL;
    inbox_push_chain(inbox, node, 1);
}

/* Always writes: a consumer that is busy now would otherwise miss it and sleep. */
void inbox_wake(struct inbox *inbox)
{
    signal_event(inbox);
}

/* Moves everything from the shared chain to the consumer's own. */
static void fetch(struct inbox *inbox)
{
    pthread_mutex_lock(&inbox->lock);
    inbox->sleeping = false;
    if (inbox->first) {
        *inbox->held_tail = inbox->first;
        inbox->held_tail = inbox->tail;
        inbox->held_count += inbox->count;
        inbox->first = NULL;
        inbox->tail = &inbox->first;
        inbox->count = 0;
    }
    pthread_mutex_unlock(&inbox->lock);
}

size_t inbox_count(struct inbox *inbox)
{
    pthread_mutex_lock(&inbox->lock);
    size_t count = inbox->count;
    pthread_mutex_unlock(&inbox->lock);
    return count;
}

struct inbox_node *inbox_take(struct inbox *inbox, size_t max)
{
    fetch(inbox);
    struct inbox_node *first = inbox->held;
    if (max == 0 || !first)
        return NULL;
    if (max >= inbox->held_count) {
        inbox->held = NULL;
        inbox->held_tail = &inbox->held;
        inbox->held_count = 0;
        return first;
    }
    struct inbox_node *last = first;
    for (size_t i = 1; i < max; i++)
        last = last->next;
    inbox->held = last->next;
    inbox->held_count -= max;
    last->next = NULL;
    return first;
}

bool inbox_prepare_sleep(struct inbox *inbox)
{
    if (inbox->held)
        return false;
    pthread_mutex_lock(&inbox->lock);
    inbox->sleeping = inbox->first == NULL;
    bool may_sleep = inbox->sleeping;
    pthread_mutex_unlock(&inbox->lock);
    return may_sleep;
}

void inbox_woken(struct inbox *inbox)
{
    uint64_t count;
    ssize_t len;

    do
        len = read(inbox->event_fd, &count, sizeof(count));
    while (len < 0 && errno == EINTR);
    assert(len == sizeof(count) || errno == EAGAIN); /* EAGAIN: the poll timed out */
}
