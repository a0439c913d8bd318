/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "broker/gate.h"

static void shut_until_opened(void **state)
{
    (void)state;
    struct gate gate;
    gate_init(&gate);
    assert_int_equal(gate_take(&gate, 5), 0);
    assert_true(gate_open(&gate, 3)); /* somebody asked */
    assert_int_equal(gate_take(&gate, 5), 3);
    assert_int_equal(gate_take(&gate, 5), 0);
}

static void room_counts_from_what_was_accepted(void **state)
{
    (void)state;
    struct gate gate;
    gate_init(&gate);
    gate_open(&gate, 10);
    assert_int_equal(gate_take(&gate, 6), 6);
    gate_open(&gate, 10); /* six are on their way: not granted again */
    assert_int_equal(gate_take(&gate, 100), 4);
    gate_accept(&gate, 10);
    gate_open(&gate, 10);
    assert_int_equal(gate_take(&gate, 100), 10);
}

static void what_is_returned_can_be_taken_again(void **state)
{
    (void)state;
    struct gate gate;
    gate_init(&gate);
    gate_open(&gate, 8);
    assert_int_equal(gate_take(&gate, 8), 8);
    gate_return(&gate, 5);
    assert_int_equal(gate_take(&gate, 8), 5);
}

static void only_the_starved_are_woken(void **state)
{
    (void)state;
    struct gate gate;
    gate_init(&gate);
    assert_false(gate_open(&gate, 4));
    assert_int_equal(gate_take(&gate, 4), 4);
    assert_int_equal(gate_take(&gate, 1), 0);
    gate_accept(&gate, 4);
    assert_false(gate_open(&gate, 0)); /* still shut: the wish is kept */
    assert_true(gate_open(&gate, 1));
    assert_false(gate_open(&gate, 1)); /* told once */
}

/* Shutting a gate takes back what nobody has taken. */
static void closing_takes_unused_room_back(void **state)
{
    (void)state;
    struct gate gate;
    gate_init(&gate);
    gate_open(&gate, 10);
    gate_open(&gate, 0);
    assert_int_equal(gate_take(&gate, 1), 0);
}

/* --- threads ---------------------------------------------------------------------------------- */

#define SOURCES 3
#define TOTAL   60000

struct race {
    struct gate gate;
    _Atomic int64_t arrived; /* taken by the sources, on their way to the engine */
    _Atomic bool over;
    int wake_fd[SOURCES];
    int engine_fd;
};

struct racer {
    struct race *race;
    int index;
    pthread_t thread;
};

static void sleep_on(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    eventfd_t ignored;
    assert_int_equal(poll(&poll_fd, 1, 60000), 1); /* else a wake was lost */
    eventfd_read(fd, &ignored);
}

/* Takes, gives some back, hands over the rest; without credit it sleeps until it is woken. */
static void *source_main(void *ctx)
{
    struct racer *racer = ctx;
    struct race *race = racer->race;
    while (!atomic_load(&race->over)) {
        size_t count = gate_take(&race->gate, 7);
        if (count == 0) {
            sleep_on(race->wake_fd[racer->index]);
            continue;
        }
        size_t unused = count > 4 ? 2 : 0;
        if (unused)
            gate_return(&race->gate, unused);
        atomic_fetch_add(&race->arrived, (int64_t)(count - unused));
        eventfd_write(race->engine_fd, 1);
    }
    return NULL;
}

static void wake_all(struct race *race)
{
    for (int i = 0; i < SOURCES; i++)
        eventfd_write(race->wake_fd[i], 1);
}

/* The engine has room for 5 at a time: sources starve all the time, and never for good. */
static void no_wake_is_lost(void **state)
{
    (void)state;
    static struct race race;
    struct racer racers[SOURCES];
    gate_init(&race.gate);
    race.engine_fd = eventfd(0, EFD_NONBLOCK);
    for (int i = 0; i < SOURCES; i++)
        race.wake_fd[i] = eventfd(0, EFD_NONBLOCK);
    for (int i = 0; i < SOURCES; i++) {
        racers[i] = (struct racer){.race = &race, .index = i};
        assert_int_equal(pthread_create(&racers[i].thread, NULL, source_main, &racers[i]), 0);
    }
    for (int64_t seen = 0; seen < TOTAL;) {
        int64_t arrived = atomic_load(&race.arrived);
        assert_true(arrived - seen <= 5);
        gate_accept(&race.gate, (size_t)(arrived - seen));
        seen = arrived;
        if (gate_open(&race.gate, 5))
            wake_all(&race);
        if (atomic_load(&race.arrived) == seen)
            sleep_on(race.engine_fd);
    }
    atomic_store(&race.over, true);
    wake_all(&race);
    for (int i = 0; i < SOURCES; i++) {
        pthread_join(racers[i].thread, NULL);
        close(race.wake_fd[i]);
    }
    close(race.engine_fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shut_until_opened),
        cmocka_unit_test(room_counts_from_what_was_accepted),
        cmocka_unit_test(what_is_returned_can_be_taken_again),
        cmocka_unit_test(only_the_starved_are_woken),
        cmocka_unit_test(closing_takes_unused_room_back),
        cmocka_unit_test(no_wake_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
