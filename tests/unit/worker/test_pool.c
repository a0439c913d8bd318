/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* Real children. Time comes in as an argument; only the waiting for a child's answer is real. */
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <taskmill.h>

#include "base/clock.h"
#include "base/mem.h"
#include "worker/memory.h"
#include "worker/pool.h"

#define CHILDREN 2
#define JOBS     16
#define GROWTH   ((size_t)128 << 20)

struct outcome {
    enum attempt_end end;
    bool done, returned;
    struct err_text why;
};

struct fixture {
    struct tasks tasks;
    struct pool *pool;
    struct job jobs[JOBS];
    struct outcome outcomes[JOBS];
    size_t ended;
    int64_t shift_ms; /* added to the clock */
};

/* Only this child's; the sanitizers must not think that it is lost. */
static char *volatile grown;

/* How often a handler of any child has begun, once share_runs was called. */
static _Atomic int *runs;

static enum taskmill_status handler(struct taskmill_call *call)
{
    const char *what;

    if (runs)
        ++*runs;
    if (taskmill_arg_str(call, 0, &what))
        return taskmill_fail(call, "needs a word");
    if (strcmp(what, "ok") == 0)
        return TASKMILL_COMPLETE;
    if (strcmp(what, "retry") == 0)
        return taskmill_retry(call, "again");
    if (strcmp(what, "exit") == 0)
        exit(0);
    if (strcmp(what, "abort") == 0)
        kill(getpid(), SIGABRT);
    if (strcmp(what, "hang") == 0)
        for (;;)
            pause();
    if (strcmp(what, "pid") == 0)
        return taskmill_fail(call, "%d", (int)getpid());
    if (strcmp(what, "grow") == 0) {
        grown = malloc(GROWTH);
        memset(grown, 1, GROWTH);
        return TASKMILL_COMPLETE;
    }
    if (strcmp(what, "send") == 0)
        return taskmill_send(taskmill_call_app(call), "n", "t", NULL, .no_wait = true)
                   ? taskmill_fail(call, "%s", taskmill_last_error())
                   : TASKMILL_COMPLETE;
    return taskmill_fail(call, "what is %s?", what);
}

static void on_done(void *ctx, struct job *job, enum attempt_end end, const char *why,
                    int64_t run_us)
{
    struct fixture *f = ctx;
    struct outcome *outcome = &f->outcomes[job - f->jobs];

    assert_true(run_us >= 0);
    assert_false(outcome->done);
    outcome->done = true;
    outcome->end = end;
    err_set(&outcome->why, 0, "%s", why);
    f->ended++;
}

static void on_returned(void *ctx, struct job *job)
{
    struct fixture *f = ctx;

    f->outcomes[job - f->jobs].returned = true;
    f->ended++;
}

/* Without Redis the answer is yes, and only guarded jobs ask. */
static void on_asked(void *ctx, struct job *job, enum once_answer answer, const char *why)
{
    (void)ctx;
    assert_int_not_equal(job->claim, 0);
    assert_int_equal(answer, ONCE_RUN);
    assert_string_equal(why, "");
}

static void on_forked(void *ctx)
{
    (void)ctx;
}

static int64_t now(const struct fixture *f)
{
    return clock_boot_ms() + f->shift_ms;
}

static void turn(struct fixture *f)
{
    struct pollfd fds[CHILDREN];

    pool_tick(f->pool, now(f));
    pool_flush(f->pool);
    (void)poll(fds, pool_poll(f->pool, fds), 5);
    pool_io(f->pool, fds, now(f));
    pool_reap(f->pool, now(f));
}

static void run_until_ended(struct fixture *f, size_t count)
{
    for (int i = 0; i < 4000 && f->ended < count; i++)
        turn(f);
    assert_int_equal(f->ended, count);
}

static void run_until_ready(struct fixture *f, size_t count)
{
    for (int i = 0; i < 4000 && pool_ready(f->pool) < count; i++)
        turn(f);
    assert_true(pool_ready(f->pool) >= count);
}

static void make_job(struct fixture *f, size_t n, const char *word, int64_t deadline_ms)
{
    struct taskmill_app *app = f->tasks.apps[0];
    struct buf payload = {0}, packed = {0};

    buf_printf(&packed, "%c%c%s%c%c%s", 0x81, 0xa4, "args", 0x91, 0xa0 | (int)strlen(word), word);
    activation_encode(&(struct activation){.id = bytes_str("id"),
                                           .namespace = bytes_str("n"),
                                           .taskname = bytes_str("t"),
                                           .parameters_bytes = buf_bytes(&packed)},
                      NULL, 0, &payload);
    f->jobs[n] = (struct job){.task = registry_find(app, bytes_str("n"), bytes_str("t")),
                              .payload = blob_copy(buf_bytes(&payload)),
                              .deadline_ms = deadline_ms};
    buf_free(&payload);
    buf_free(&packed);
}

static void make_pool(struct fixture *f, struct pool_options options)
{
    struct err_text why;

    options.tasks = &f->tasks;
    options.events = (struct pool_events){f, on_done, on_returned, on_asked, NULL, on_forked};
    assert_int_equal(pool_new(&f->pool, &options, &why), 0);
}

static void start(struct fixture *f, uint32_t size, uint32_t max_tasks)
{
    make_pool(f, (struct pool_options){.size = size, .max_tasks = max_tasks});
    run_until_ready(f, size);
}

/* Runs a job alone; what it said. */
static const char *run_word(struct fixture *f, size_t n, const char *word)
{
    size_t ended = f->ended;

    make_job(f, n, word, 60000);
    for (int i = 0; i < 4000 && !pool_assign(f->pool, &f->jobs[n], 1, now(f)); i++)
        turn(f);
    run_until_ended(f, ended + 1);
    return f->outcomes[n].why.s;
}

static bool hang_at_start;

static int on_start(void *arg)
{
    while (*(bool *)arg)
        pause();
    return 0;
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    /* Nobody listens there. */
    struct taskmill_app *app = taskmill_app_new("app", .kafka = "127.0.0.1:1", .send_timeout_s = 1);
    struct taskmill_namespace *ns = taskmill_namespace(app, "n");
    struct err_text why;

    (void)taskmill_task(ns, "t", handler);
    (void)taskmill_child_start(app, on_start, &hang_at_start);
    tasks_init(&f->tasks, "app");
    tasks_add_app(&f->tasks, app);
    *state = f;
    return tasks_finish(&f->tasks, &why);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    pool_free(f->pool);
    for (size_t i = 0; i < JOBS; i++)
        blob_unref(f->jobs[i].payload);
    tasks_free(&f->tasks);
    free(f);
    return 0;
}

static void test_outcomes(void **state)
{
    static const char *const words[] = {"ok", "retry", "nonsense", "ok"};
    static const enum attempt_end expected[] = {ATTEMPT_COMPLETE, ATTEMPT_RETRY, ATTEMPT_FAILURE,
                                                ATTEMPT_COMPLETE};
    struct fixture *f = *state;

    start(f, CHILDREN, 0);
    for (size_t i = 0; i < 4; i++) {
        make_job(f, i, words[i], 60000);
        assert_true(pool_assign(f->pool, &f->jobs[i], 2, now(f)));
    }
    make_job(f, 4, "ok", 0);
    assert_false(pool_assign(f->pool, &f->jobs[4], 2, now(f)));
    assert_int_equal(pool_jobs(f->pool), 4);
    run_until_ended(f, 4);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(f->outcomes[i].end, expected[i]);
    assert_string_equal(f->outcomes[1].why.s, "again");
    assert_string_equal(f->outcomes[2].why.s, "what is nonsense?");
    assert_int_equal(pool_jobs(f->pool), 0);
}

/* The job behind the one that killed its child was not started: it comes back. */
static void test_death(void **state)
{
    struct fixture *f = *state;

    start(f, 1, 0);
    make_job(f, 0, "abort", 60000);
    make_job(f, 1, "ok", 60000);
    assert_true(pool_assign(f->pool, &f->jobs[0], 2, now(f)));
    assert_true(pool_assign(f->pool, &f->jobs[1], 2, now(f)));
    run_until_ended(f, 2);
    assert_int_equal(f->outcomes[0].end, ATTEMPT_FAILURE);
    assert_non_null(strstr(f->outcomes[0].why.s, "signal 6"));
    assert_true(f->outcomes[1].returned);

    run_until_ready(f, 1);
    f->outcomes[1].returned = false;
    assert_true(pool_assign(f->pool, &f->jobs[1], 2, now(f)));
    run_until_ended(f, 3);
    assert_int_equal(f->outcomes[1].end, ATTEMPT_COMPLETE);
}

static void test_client_weakness_07_exit_is_a_failure(void **state)
{
    struct fixture *f = *state;

    start(f, 1, 0);
    make_job(f, 0, "exit", 60000);
    assert_true(pool_assign(f->pool, &f->jobs[0], 1, now(f)));
    run_until_ended(f, 1);
    assert_int_equal(f->outcomes[0].end, ATTEMPT_FAILURE);
    assert_non_null(strstr(f->outcomes[0].why.s, "exit(0)"));
}

/* The clock jumps instead of the test waiting. */
static void test_client_weakness_08_deadline(void **state)
{
    struct fixture *f = *state;

    start(f, 1, 0);
    make_job(f, 0, "hang", 3600000);
    make_job(f, 1, "ok", 3600000);
    assert_true(pool_assign(f->pool, &f->jobs[0], 2, now(f)));
    assert_true(pool_assign(f->pool, &f->jobs[1], 2, now(f)));
    for (int i = 0; i < 20; i++)
        turn(f);
    assert_int_equal(f->ended, 0);
    assert_in_range(pool_next_ms(f->pool) - now(f), 3590000, 3600000);
    f->shift_ms = 3600001;
    run_until_ended(f, 2);
    assert_int_equal(f->outcomes[0].end, ATTEMPT_DEADLINE);
    assert_true(f->outcomes[1].returned);
    assert_false(f->outcomes[1].done);
}

static void test_worn_out_children_are_replaced(void **state)
{
    struct fixture *f = *state;

    start(f, 1, 2);
    for (size_t i = 0; i < 6; i++) {
        make_job(f, i, "ok", 60000);
        for (int n = 0; n < 4000 && !pool_assign(f->pool, &f->jobs[i], 1, now(f)); n++)
            turn(f);
    }
    run_until_ended(f, 6);
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(f->outcomes[i].end, ATTEMPT_COMPLETE);
}

/* With min_ready 1, the second of two worn-out children goes on working until the first is back. */
static void test_some_children_stay(void **state)
{
    struct fixture *f = *state;
    char first[sizeof f->outcomes[0].why.s];

    make_pool(f, (struct pool_options){.size = 2, .min_ready = 1, .max_tasks = 1});
    run_until_ready(f, 2);
    for (size_t i = 0; i < 3; i++) {
        make_job(f, i, "pid", 60000);
        assert_true(pool_assign(f->pool, &f->jobs[i], 2, now(f)));
        assert_int_equal(pool_ready(f->pool), 1);
    }
    make_job(f, 3, "pid", 60000);
    assert_false(pool_assign(f->pool, &f->jobs[3], 2, now(f)));
    run_until_ended(f, 3);
    err_set(&f->outcomes[4].why, 0, "%s", f->outcomes[0].why.s);
    memcpy(first, f->outcomes[1].why.s, sizeof first);
    assert_string_not_equal(f->outcomes[0].why.s, first);
    assert_string_equal(f->outcomes[2].why.s, first);
    /* The first one's successor comes; only then may the second leave, and both are new in the end.
     */
    for (int i = 0; i < 4000 && strcmp(run_word(f, 5, "pid"), first) == 0; i++) {
        blob_unref(f->jobs[5].payload);
        f->outcomes[5] = (struct outcome){0};
    }
    run_until_ready(f, 1);
    assert_string_not_equal(f->outcomes[5].why.s, f->outcomes[4].why.s);
    assert_string_not_equal(f->outcomes[5].why.s, first);
}

static void test_a_large_child_is_replaced(void **state)
{
    struct fixture *f = *state;
    char pid[sizeof f->outcomes[0].why.s];

    make_pool(f, (struct pool_options){.size = 1,
                                       .max_memory_bytes = memory_resident(getpid()) + GROWTH / 2});
    run_until_ready(f, 1);
    memcpy(pid, run_word(f, 0, "pid"), sizeof pid);
    f->shift_ms += 1000;
    assert_string_equal(run_word(f, 1, "pid"), pid);
    f->shift_ms += 1000;
    (void)run_word(f, 2, "grow");
    assert_int_equal(f->outcomes[2].end, ATTEMPT_COMPLETE);
    assert_string_not_equal(run_word(f, 3, "pid"), pid);
}

static void test_client_weakness_15_a_start_that_hangs_is_ended(void **state)
{
    struct fixture *f = *state;

    hang_at_start = true;
    make_pool(f, (struct pool_options){.size = 1, .start_timeout_ms = 90000});
    for (int i = 0; i < 20; i++)
        turn(f);
    assert_int_equal(pool_ready(f->pool), 0);
    assert_in_range(pool_next_ms(f->pool) - now(f), 80000, 90000);
    hang_at_start = false; /* for those started from now on */
    f->shift_ms = 90001;
    run_until_ready(f, 1);
}

/* Whatever was started is not started again: both come back as what they are, jobs without an end.
 */
static void test_kill(void **state)
{
    struct fixture *f = *state;

    start(f, 1, 0);
    (void)run_word(f, 0, "ok");
    make_job(f, 1, "hang", 0);
    make_job(f, 2, "ok", 0);
    assert_true(pool_assign(f->pool, &f->jobs[1], 2, now(f)));
    assert_true(pool_assign(f->pool, &f->jobs[2], 2, now(f)));
    for (int i = 0; i < 20; i++)
        turn(f);
    pool_kill(f->pool, now(f));
    assert_int_equal(f->ended, 3);
    assert_true(f->outcomes[1].returned && f->outcomes[2].returned);
    assert_int_equal(pool_jobs(f->pool), 0);
    for (int i = 0; i < 5; i++)
        turn(f);
    assert_int_equal(pool_ready(f->pool), 0);
    assert_true(pool_next_ms(f->pool) == CLOCK_NEVER);
}

/* --no-skip-awaiting-futures: spec/client.md 5.4, and 13 number 16. */
static void test_client_weakness_16_a_task_waits_for_what_it_sent(void **state)
{
    struct fixture *f = *state;

    make_pool(f, (struct pool_options){.size = 1, .child = {.await_sends = true}});
    run_until_ready(f, 1);
    assert_non_null(strstr(run_word(f, 0, "send"), "was not delivered"));
    assert_int_equal(f->outcomes[0].end, ATTEMPT_RETRY);
    /* Its failure is not blamed on the next one. */
    (void)run_word(f, 1, "ok");
    assert_int_equal(f->outcomes[1].end, ATTEMPT_COMPLETE);
}

static void test_sends_are_not_awaited_unless_asked(void **state)
{
    struct fixture *f = *state;

    start(f, 1, 0);
    (void)run_word(f, 0, "send");
    assert_int_equal(f->outcomes[0].end, ATTEMPT_COMPLETE);
}

static void share_runs(void)
{
    if (!runs)
        runs = mmap(NULL, sizeof *runs, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(runs, MAP_FAILED);
    *runs = 0;
}

/* What is started goes on; the rest is back at once, and the child never starts it. */
static void test_revoke(void **state)
{
    struct fixture *f = *state;

    share_runs();
    start(f, 1, 0);
    make_job(f, 0, "hang", 3600000);
    make_job(f, 1, "ok", 3600000);
    make_job(f, 2, "ok", 3600000);
    for (size_t i = 0; i < 3; i++)
        assert_true(pool_assign(f->pool, &f->jobs[i], 3, now(f)));
    for (int i = 0; i < 4000 && *runs == 0; i++)
        turn(f);
    pool_revoke(f->pool);
    assert_int_equal(f->ended, 2);
    assert_true(f->outcomes[1].returned && f->outcomes[2].returned);
    assert_int_equal(pool_jobs(f->pool), 1);
    assert_false(pool_assign(f->pool, &f->jobs[1], 3, now(f)));
    assert_in_range(pool_next_ms(f->pool) - now(f), 3590000, 3600000);
    f->shift_ms = 3600001;
    run_until_ended(f, 3);
    assert_int_equal(f->outcomes[0].end, ATTEMPT_DEADLINE);
    assert_int_equal(*runs, 1);
}

/* Of a job that is taken back while its child is about to start it, one of the two has it: never
 * both, never none. */
static void test_revoke_races_with_the_start(void **state)
{
    struct fixture *f = *state;
    int returned_all = 0, done_all = 0;

    for (unsigned round = 0; round < 120; round++) {
        size_t done = 0, returned = 0;

        share_runs();
        f->ended = 0;
        start(f, CHILDREN, 0);
        for (size_t i = 0; i < JOBS; i++) {
            make_job(f, i, "ok", 3600000);
            f->jobs[i].claim = i % 3; /* some must be asked for before they start */
            f->outcomes[i] = (struct outcome){0};
            assert_true(pool_assign(f->pool, &f->jobs[i], JOBS, now(f)));
        }
        pool_flush(f->pool);
        for (int64_t until_us = clock_boot_us() + round % 40 * 5; clock_boot_us() < until_us;)
            ;
        pool_revoke(f->pool);
        run_until_ended(f, JOBS);
        for (int i = 0; i < 2; i++) /* time for a child that starts one all the same */
            turn(f);
        for (size_t i = 0; i < JOBS; i++) {
            assert_true(f->outcomes[i].done != f->outcomes[i].returned);
            assert_true(f->outcomes[i].returned || f->outcomes[i].end == ATTEMPT_COMPLETE);
            assert_false(f->outcomes[i].returned && f->jobs[i].is_asked);
            done += f->outcomes[i].done;
            returned += f->outcomes[i].returned;
            blob_unref(f->jobs[i].payload);
            f->jobs[i].payload = NULL;
        }
        assert_int_equal(*runs, done);
        returned_all += returned > 0;
        done_all += done > 0;
        pool_free(f->pool);
    }
    start(f, 1, 0);
    print_message("rounds with jobs taken back: %d, with jobs run: %d\n", returned_all, done_all);
    assert_true(returned_all > 0 && done_all > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_outcomes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_death, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_client_weakness_07_exit_is_a_failure, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_client_weakness_08_deadline, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_worn_out_children_are_replaced, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_revoke, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_revoke_races_with_the_start, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_some_children_stay, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_large_child_is_replaced, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_client_weakness_15_a_start_that_hangs_is_ended, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_kill, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_client_weakness_16_a_task_waits_for_what_it_sent,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_sends_are_not_awaited_unless_asked, set_up,
                                        tear_down)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
