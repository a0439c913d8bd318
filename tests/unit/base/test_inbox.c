/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <poll.h>
#include <stdatomic.h>

#include "base/inbox.h"
#include "base/mem.h"

struct message {
    struct inbox_node node;
    int producer, number;
};

static struct message *message_of(struct inbox_node *node)
{
    return container_of(node, struct message, node);
}

static bool readable(const struct inbox *inbox)
{
    struct pollfd pfd = {.fd = inbox->event_fd, .events = POLLIN};

    return poll(&pfd, 1, 0) == 1;
}

static int setup(void **state)
{
    struct inbox *inbox = mem_zalloc(sizeof(*inbox));

    *state = inbox;
    return inbox_init(inbox);
}

static int teardown(void **state)
{
    inbox_destroy(*state);
    mem_free(*state);
    return 0;
}

/* The chain has exactly the messages number `from` to `to` - 1, in order. */
static void assert_chain(struct inbox_node *chain, int from, int to)
{
    for (int i = from; i < to; i++, chain = chain->next) {
        assert_non_null(chain);
        assert_int_equal(message_of(chain)->number, i);
    }
    assert_null(chain);
}

static void number(struct message *messages, int count)
{
    for (int i = 0; i < count; i++)
        messages[i] = (struct message){.number = i};
}

static void test_take_in_order_and_in_parts(void **state)
{
    struct inbox *inbox = *state;
    struct message messages[10];

    number(messages, 10);
    assert_null(inbox_take(inbox, 100));
    for (int i = 0; i < 6; i++)
        inbox_push(inbox, &messages[i].node);
    assert_null(inbox_take(inbox, 0));
    assert_chain(inbox_take(inbox, 4), 0, 4);
    assert_false(inbox_prepare_sleep(inbox)); /* two are held back */
    for (int i = 6; i < 10; i++)
        inbox_push(inbox, &messages[i].node);
    assert_chain(inbox_take(inbox, 3), 4, 7);
    assert_chain(inbox_take(inbox, 3), 7, 10);
    assert_null(inbox_take(inbox, 1));
    assert_true(inbox_prepare_sleep(inbox));
}

static void test_chains_keep_their_order(void **state)
{
    struct inbox *inbox = *state;
    struct message messages[7];

    number(messages, 7);
    for (int i = 0; i < 6; i++)
        messages[i].node.next = &messages[i + 1].node;
    messages[3].node.next = NULL;
    inbox_push_chain(inbox, &messages[0].node, 4);
    inbox_push_chain(inbox, NULL, 0);
    inbox_push_chain(inbox, &messages[4].node, 3);
    assert_chain(inbox_take(inbox, SIZE_MAX), 0, 7);
}

static void test_busy_consumer_costs_no_system_call(void **state)
{
    struct inbox *inbox = *state;
    struct message messages[2];

    number(messages, 2);
    inbox_push(inbox, &messages[0].node);
    assert_false(readable(inbox));
    assert_false(inbox_prepare_sleep(inbox));
    inbox_push(inbox, &messages[1].node);
    assert_false(readable(inbox));
    assert_chain(inbox_take(inbox, 2), 0, 2);
}

static void test_sleeping_consumer_is_woken_once(void **state)
{
    struct inbox *inbox = *state;
    struct message messages[3];

    number(messages, 3);
    assert_true(inbox_prepare_sleep(inbox));
    assert_false(readable(inbox));
    inbox_push(inbox, &messages[0].node);
    assert_true(readable(inbox));
    inbox_woken(inbox);
    assert_false(readable(inbox));
    inbox_push(inbox, &messages[1].node); /* it is awake already */
    assert_false(readable(inbox));
    assert_false(inbox_prepare_sleep(inbox));
    assert_chain(inbox_take(inbox, 3), 0, 2);

    assert_true(inbox_prepare_sleep(inbox));
    assert_null(inbox_take(inbox, 3)); /* its poll timed out */
    inbox_push(inbox, &messages[2].node);
    assert_false(readable(inbox));
    inbox_woken(inbox); /* nothing to drain is no error */
}

static void test_wake_without_message_is_not_lost(void **state)
{
    struct inbox *inbox = *state;

    inbox_wake(inbox); /* while busy */
    assert_true(inbox_prepare_sleep(inbox));
    assert_true(readable(inbox));
    inbox_woken(inbox);
    assert_false(readable(inbox));
    inbox_wake(inbox); /* while asleep; twice is once */
    inbox_wake(inbox);
    assert_true(readable(inbox));
    inbox_woken(inbox);
    assert_false(readable(inbox));
}

#define PRODUCERS 4
#define EACH      20000

struct producer {
    struct inbox *inbox;
    struct message *messages;
};

/* Pushes singles and chains of up to 7. */
static void *produce(void *arg)
{
    struct producer *p = arg;

    for (int i = 0; i < EACH;) {
        int count = i % 8;
        if (count == 0 || i + count > EACH)
            count = 1;
        for (int k = 0; k < count; k++)
            p->messages[i + k].node.next = k + 1 < count ? &p->messages[i + k + 1].node : NULL;
        inbox_push_chain(p->inbox, &p->messages[i].node, (size_t)count);
        i += count;
    }
    return NULL;
}

/* The consumer sleeps without a time-out: a lost wake-up would hang the test. */
static void test_several_producers(void **state)
{
    struct inbox *inbox = *state;
    struct producer producers[PRODUCERS];
    pthread_t threads[PRODUCERS];
    int next[PRODUCERS] = {0}, total = 0;

    for (int p = 0; p < PRODUCERS; p++) {
        struct message *messages = mem_calloc(EACH, sizeof(*messages));
        for (int i = 0; i < EACH; i++)
            messages[i] = (struct message){.producer = p, .number = i};
        producers[p] = (struct producer){inbox, messages};
        assert_int_equal(pthread_create(&threads[p], NULL, produce, &producers[p]), 0);
    }
    while (total < PRODUCERS * EACH) {
        struct inbox_node *node = inbox_take(inbox, 100);
        for (; node; node = node->next, total++) {
            struct message *m = message_of(node);
            assert_int_equal(m->number, next[m->producer]++);
        }
        if (total < PRODUCERS * EACH && inbox_prepare_sleep(inbox)) {
            struct pollfd pfd = {.fd = inbox->event_fd, .events = POLLIN};
            assert_int_equal(poll(&pfd, 1, -1), 1);
            inbox_woken(inbox);
        }
    }
    for (int p = 0; p < PRODUCERS; p++) {
        pthread_join(threads[p], NULL);
        mem_free(producers[p].messages);
    }
    assert_null(inbox_take(inbox, 1));
}

struct stopper {
    struct inbox *inbox;
    _Atomic int asked, seen;
};

#define STOPS 5000

static void *ask(void *arg)
{
    struct stopper *s = arg;

    for (int i = 1; i <= STOPS; i++) {
        atomic_store(&s->asked, i);
        inbox_wake(s->inbox);
        while (atomic_load(&s->seen) < i)
            sched_yield();
    }
    return NULL;
}

/* A flag beside the inbox, told by inbox_wake alone, is seen each time. */
static void test_wakes_from_another_thread(void **state)
{
    struct stopper s = {.inbox = *state};
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, ask, &s), 0);
    while (atomic_load(&s.seen) < STOPS) {
        if (inbox_prepare_sleep(s.inbox)) {
            struct pollfd pfd = {.fd = s.inbox->event_fd, .events = POLLIN};
            assert_int_equal(poll(&pfd, 1, -1), 1);
            inbox_woken(s.inbox);
        }
        atomic_store(&s.seen, atomic_load(&s.asked));
    }
    pthread_join(thread, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_take_in_order_and_in_parts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_chains_keep_their_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_busy_consumer_costs_no_system_call, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sleeping_consumer_is_woken_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wake_without_message_is_not_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(test_several_producers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wakes_from_another_thread, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
