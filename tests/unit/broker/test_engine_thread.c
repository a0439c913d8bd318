/* SPDX-License-Identifier: Apache-2.0 */
/* The engine on its thread, fed through its inbox. */
#include "world.h"

#include <poll.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "broker/engine_thread.h"

#define WAIT_MS 30000

struct bench {
    struct world *world;
    struct inbox inbox;
    struct engine_thread *thread;
    int done_fd; /* a reply was made, or the thread failed */
    _Atomic int failed;
    char why[256];
    void (*record_reply)(void *ctx, struct engine_call *call, const struct rpc_reply *reply);
};

static struct bench *bench;

static void on_reply(void *ctx, struct engine_call *call, const struct rpc_reply *reply)
{
    bench->record_reply(ctx, call, reply);
    eventfd_write(bench->done_fd, 1);
}

static void on_failed(void *ctx, int code, const char *why)
{
    struct bench *b = ctx;
    snprintf(b->why, sizeof b->why, "%s", why);
    atomic_store(&b->failed, code);
    eventfd_write(b->done_fd, 1);
}

static void await(void)
{
    struct pollfd poll_fd = {.fd = bench->done_fd, .events = POLLIN};
    eventfd_t ignored;
    assert_int_equal(poll(&poll_fd, 1, WAIT_MS), 1);
    eventfd_read(bench->done_fd, &ignored);
}

static int set_up(void **state)
{
    struct bench *b = mem_zalloc(sizeof *b);
    void *world;
    struct err_text why;
    bench = b;
    world_setup_embedded(&world);
    b->world = world;
    b->record_reply = b->world->options.ports.reply;
    b->world->options.ports.reply = on_reply;
    b->world->now_ms = clock_boot_ms();
    b->world->wall_ms = clock_wall_ms();
    b->done_fd = eventfd(0, EFD_NONBLOCK);
    assert_int_equal(inbox_init(&b->inbox), 0);
    assert_int_equal(world_open(b->world, &why), 0);
    b->thread = engine_thread_new(b->world->engine, &b->inbox, on_failed, b);
    *state = b;
    return 0;
}

static int tear_down(void **state)
{
    struct bench *b = *state;
    void *world = b->world;
    assert_true(engine_thread_stop(b->thread, CLOCK_NEVER));
    engine_thread_free(b->thread);
    b->world->events = inbox_take(&b->inbox, SIZE_MAX);
    world_teardown(&world);
    inbox_destroy(&b->inbox);
    close(b->done_fd);
    mem_free(b);
    return 0;
}

/* Hands over what a world_... helper posted. */
static void push_posted(struct bench *b)
{
    struct inbox_node *first = b->world->events;
    size_t count = 0;
    for (struct inbox_node *node = first; node; node = node->next)
        count++;
    b->world->events = NULL;
    b->world->events_tail = &b->world->events;
    inbox_push_chain(&b->inbox, first, count);
}

static void start(struct bench *b)
{
    struct err_text why;
    assert_int_equal(engine_thread_start(b->thread, &why), 0);
}

static void it_wakes_for_events(void **state)
{
    struct bench *b = *state;
    start(b);
    struct test_call *call = world_enqueue(b->world, NULL, (const char *[]){"a"}, 1);
    push_posted(b);
    await();
    assert_int_equal(call->status, GRPC_OK);
}

static void it_wakes_for_timers(void **state)
{
    struct bench *b = *state;
    start(b);
    struct test_call *call = world_claim(b->world);
    call->call.deadline_ms = clock_boot_ms() + 120;
    push_posted(b);
    await();
    assert_int_equal(call->status, GRPC_NOT_FOUND);
}

static void what_was_queued_is_handled_before_it_ends(void **state)
{
    struct bench *b = *state;
    struct test_call *calls[20];
    start(b);
    for (size_t i = 0; i < 20; i++)
        calls[i] = world_report(b->world, "x", ACTIVATION_COMPLETE);
    push_posted(b);
    assert_true(engine_thread_stop(b->thread, CLOCK_NEVER));
    for (size_t i = 0; i < 20; i++)
        assert_true(calls[i]->replied);
}

static void a_failed_turn_ends_it_with_the_cause(void **state)
{
    struct bench *b = *state;
    crash_vfs_fail(b->world->disk, CRASH_OP_SYNC, 1, SQLITE_IOERR_FSYNC, true);
    start(b);
    struct test_call *call = world_enqueue(b->world, NULL, (const char *[]){"a"}, 1);
    push_posted(b);
    await();
    assert_true(engine_thread_stop(b->thread, CLOCK_NEVER));
    assert_int_not_equal(atomic_load(&b->failed), 0);
    assert_non_null(strstr(b->why, "world.sqlite"));
    assert_false(call->replied); /* tear_down's engine_destroy answers it */
}

static void a_sleeping_engine_is_healthy(void **state)
{
    struct bench *b = *state;
    start(b);
    struct test_call *call = world_report(b->world, "x", ACTIVATION_COMPLETE);
    push_posted(b);
    await();
    assert_true(call->replied);
    /* A moment ago a turn ended, from now on it sleeps: both count. */
    assert_true(engine_thread_healthy(b->thread, 60000, clock_boot_ms()));
    assert_true(engine_thread_stop(b->thread, CLOCK_NEVER));
    assert_false(engine_thread_healthy(b->thread, 1000, clock_boot_ms() + 10000));
}

static void numbers_are_there_after_a_while(void **state)
{
    struct bench *b = *state;
    struct engine_stats stats = {0};
    start(b);
    world_enqueue(b->world, NULL, (const char *[]){"a", "b"}, 2);
    push_posted(b);
    await();
    int64_t until_ms = clock_boot_ms() + WAIT_MS;
    while (stats.inflight.tasks != 2 && clock_boot_ms() < until_ms) {
        poll(NULL, 0, 5);
        engine_thread_stats(b->thread, &stats);
    }
    assert_int_equal(stats.inflight.tasks, 2);
    assert_int_equal(stats.enqueued, 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(it_wakes_for_events),
        TEST(it_wakes_for_timers),
        TEST(what_was_queued_is_handled_before_it_ends),
        TEST(a_failed_turn_ends_it_with_the_cause),
        TEST(a_sleeping_engine_is_healthy),
        TEST(numbers_are_there_after_a_while),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
