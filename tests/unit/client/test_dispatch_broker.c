/* SPDX-License-Identifier: Apache-2.0 */
/* The public sending functions against a broker inside the test, which can hold and refuse. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <taskmill.h>

#include "base/clock.h"
#include "base/err.h"
#include "rpc/server.h"
#include "wire/activation.h"
#include "wire/consumer.h"

#define CALLS_MAX 64

static struct broker {
    struct rpc_server *server;
    char address[32];
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool hold; /* replies wait */
    struct rpc_call *held[CALLS_MAX];
    size_t held_count;
    size_t requests, tasks, largest; /* taken; tasks of the largest request */
    bool refuse_all;
} broker;

static int is_bad(void *ctx, struct bytes payload)
{
    struct activation a;
    const char *why;

    assert_int_equal(activation_parse(payload, &a, &why), 0);
    if (bytes_equal_str(a.taskname, "bad"))
        *(bool *)ctx = true;
    return 0;
}

/* Under the lock. */
static void answer(struct rpc_call *call)
{
    struct enqueue_request head;
    bool bad = false;
    const char *why;
    struct rpc_reply reply = {.status = GRPC_OK};

    assert_int_equal(enqueue_decode(rpc_call_body(call), &head, is_bad, &bad, &why), 0);
    if (broker.refuse_all)
        reply = (struct rpc_reply){.status = GRPC_RESOURCE_EXHAUSTED, .message = "no room"};
    else if (bad)
        reply = (struct rpc_reply){.status = GRPC_INVALID_ARGUMENT, .message = "one is bad"};
    else
        broker.tasks += head.activation_count;
    broker.requests++;
    if (broker.largest < head.activation_count)
        broker.largest = head.activation_count;
    rpc_reply(call, &reply);
    rpc_call_unref(call);
}

static void on_enqueue(void *ctx, struct rpc_call *call)
{
    (void)ctx;
    pthread_mutex_lock(&broker.lock);
    rpc_call_ref(call);
    if (broker.hold)
        broker.held[broker.held_count++] = call;
    else
        answer(call);
    pthread_cond_broadcast(&broker.changed);
    pthread_mutex_unlock(&broker.lock);
}

static void hold(bool on)
{
    pthread_mutex_lock(&broker.lock);
    broker.hold = on;
    while (!on && broker.held_count > 0)
        answer(broker.held[--broker.held_count]);
    pthread_mutex_unlock(&broker.lock);
}

static void wait_held(size_t count)
{
    pthread_mutex_lock(&broker.lock);
    while (broker.held_count < count)
        pthread_cond_wait(&broker.changed, &broker.lock);
    pthread_mutex_unlock(&broker.lock);
}

static const struct rpc_method methods[] = {{PRODUCER_ENQUEUE, on_enqueue, NULL, NULL}};

static void start_broker(uint16_t port)
{
    struct rpc_server_options options = {
        .address = "127.0.0.1", .port = port, .threads = 1, .methods = methods, .method_count = 1};
    struct err_text why;

    assert_int_equal(rpc_server_create(&broker.server, &options, &why), 0);
    assert_int_equal(rpc_server_start(broker.server, &why), 0);
    snprintf(broker.address, sizeof broker.address, "127.0.0.1:%u", rpc_server_port(broker.server));
}

static void stop_broker(void)
{
    hold(false);
    rpc_server_stop(broker.server);
    rpc_server_destroy(broker.server);
}

static int set_up(void **state)
{
    (void)state;
    memset(&broker, 0, sizeof broker);
    pthread_mutex_init(&broker.lock, NULL);
    pthread_cond_init(&broker.changed, NULL);
    start_broker(0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    stop_broker();
    pthread_mutex_destroy(&broker.lock);
    pthread_cond_destroy(&broker.changed);
    return 0;
}

static struct taskmill_app *new_app(uint32_t timeout_s)
{
    struct taskmill_app *app =
        taskmill_app_new("shop", .broker = broker.address, .send_timeout_s = timeout_s);
    struct taskmill_namespace *ns = taskmill_namespace(app, "n");

    assert_int_equal(taskmill_task(ns, "good", NULL), 0);
    assert_int_equal(taskmill_task(ns, "bad", NULL), 0);
    return app;
}

static void assert_refused(int rv, int code, const char *text)
{
    if (rv != code)
        print_error("%s\n", taskmill_last_error());
    assert_int_equal(rv, code);
    assert_non_null(strstr(taskmill_last_error(), text));
}

/* --- callbacks ------------------------------------------------------------------------------- */

struct told {
    struct taskmill_app *app;
    atomic_int count, failed;
    bool keep_id; /* by one thread only */
    char id[TASKMILL_ID_SIZE];
};

static void on_delivery(void *arg, const char *id, int error, const char *reason)
{
    struct told *told = arg;

    atomic_fetch_add(&told->count, 1);
    if (error != 0)
        atomic_fetch_add(&told->failed, 1);
    assert_int_equal(error != 0, reason[0] != '\0');
    if (told->keep_id)
        memcpy(told->id, id, strlen(id) + 1);
}

static void test_waited(void **state)
{
    struct taskmill_app *app = new_app(10);
    struct told told = {.keep_id = true};
    char id[TASKMILL_ID_SIZE];

    (void)state;
    assert_int_equal(taskmill_send(app, "n", "good", NULL, .id = id, .on_delivery = on_delivery,
                                   .on_delivery_arg = &told),
                     0);
    assert_int_equal(told.count, 1);
    assert_string_equal(told.id, id);
    /* A send that returns an error has no callback. */
    assert_refused(
        taskmill_send(app, "n", "bad", NULL, .on_delivery = on_delivery, .on_delivery_arg = &told),
        TASKMILL_ERR_INVALID, "one is bad");
    assert_int_equal(told.count, 1);
    assert_int_equal(broker.tasks, 1);
    taskmill_app_free(app);
}

static void test_not_waited(void **state)
{
    struct taskmill_app *app = new_app(10);
    struct told told = {0};

    (void)state;
    for (int i = 0; i < 1000; i++)
        assert_int_equal(taskmill_send(app, "n", i == 500 ? "bad" : "good", NULL, .no_wait = true,
                                       .on_delivery = on_delivery, .on_delivery_arg = &told),
                         0);
    /* The bad one fails alone, and only once. */
    assert_refused(taskmill_flush(app, 30), TASKMILL_ERR_INVALID, "1 not delivered: ");
    assert_int_equal(told.count, 1000);
    assert_int_equal(told.failed, 1);
    assert_int_equal(broker.tasks, 999);
    assert_true(broker.largest > 1);
    assert_int_equal(taskmill_flush(app, 30), 0);
    taskmill_app_free(app);
}

/* Sends once more from inside, waiting; nothing locks up. */
static void send_again(void *arg, const char *id, int error, const char *reason)
{
    struct told *told = arg;

    assert_int_equal(taskmill_flush(told->app, 1), TASKMILL_ERR_STATE);
    if (told->count == 0)
        assert_int_equal(taskmill_send(told->app, "n", "good", NULL), 0);
    assert_int_equal(taskmill_send(told->app, "n", "good", NULL, .no_wait = true,
                                   .on_delivery = on_delivery, .on_delivery_arg = told),
                     0);
    on_delivery(arg, id, error, reason);
}

static void test_callback_sends(void **state)
{
    struct told told = {.app = new_app(10)};

    (void)state;
    assert_int_equal(taskmill_send(told.app, "n", "good", NULL, .no_wait = true,
                                   .on_delivery = send_again, .on_delivery_arg = &told),
                     0);
    assert_int_equal(taskmill_flush(told.app, 30), 0);
    assert_int_equal(told.count, 2);
    assert_int_equal(broker.tasks, 3);
    taskmill_app_free(told.app);
}

/* taskmill_app_free: every callback runs, with a failure for what is open. */
static void test_free_tells_all(void **state)
{
    struct taskmill_app *app = new_app(1);
    struct told told = {0};

    (void)state;
    hold(true);
    for (int i = 0; i < 10; i++)
        assert_int_equal(taskmill_send(app, "n", "good", NULL, .no_wait = true,
                                       .on_delivery = on_delivery, .on_delivery_arg = &told),
                         0);
    taskmill_app_free(app);
    assert_int_equal(told.count, 10);
    assert_int_equal(told.failed, 10);
}

/* --- failures -------------------------------------------------------------------------------- */

static void test_nobody_there(void **state)
{
    struct taskmill_app *app = new_app(10);
    uint16_t port = rpc_server_port(broker.server);
    int64_t start_ms = clock_boot_ms();

    (void)state;
    assert_int_equal(taskmill_send(app, "n", "good", NULL), 0);
    stop_broker();
    assert_refused(taskmill_send(app, "n", "good", NULL), TASKMILL_ERR_UNAVAILABLE,
                   "cannot be reached");
    assert_true(clock_boot_ms() - start_ms < 5000);
    start_broker(port);
    /* Back at once, with the same app. */
    assert_int_equal(taskmill_send(app, "n", "good", NULL), 0);
    /* A connection that ends while nobody uses it fails no send. */
    stop_broker();
    start_broker(port);
    assert_int_equal(taskmill_send(app, "n", "good", NULL), 0);
    taskmill_app_free(app);
}

static void test_silent_broker(void **state)
{
    struct taskmill_app *app = new_app(1);
    int64_t start_ms = clock_boot_ms();

    (void)state;
    hold(true);
    assert_refused(taskmill_send(app, "n", "good", NULL), TASKMILL_ERR_TIMEOUT, "not known");
    assert_true(clock_boot_ms() - start_ms < 1500);
    taskmill_app_free(app);
}

static void *wait_then_refuse(void *unused)
{
    (void)unused;
    wait_held(1);
    pthread_mutex_lock(&broker.lock);
    broker.refuse_all = true;
    pthread_mutex_unlock(&broker.lock);
    hold(false);
    return NULL;
}

static void test_full(void **state)
{
    struct taskmill_app *app = new_app(10);
    pthread_t thread;

    (void)state;
    hold(true);
    pthread_create(&thread, NULL, wait_then_refuse, NULL);
    assert_refused(taskmill_send(app, "n", "good", NULL), TASKMILL_ERR_FULL, "no room");
    pthread_join(thread, NULL);
    taskmill_app_free(app);
}

static void test_bulk(void **state)
{
    struct taskmill_app *app = new_app(10);
    struct taskmill_bulk *bulk = taskmill_bulk_new(app);
    struct told told = {0};

    (void)state;
    for (int i = 0; i < 100; i++)
        assert_int_equal(taskmill_bulk_add(bulk, "n", "good", NULL, .on_delivery = on_delivery,
                                           .on_delivery_arg = &told),
                         0);
    assert_int_equal(taskmill_bulk_send(bulk), 0);
    assert_int_equal(broker.requests, 1);
    assert_int_equal(told.count, 100);
    assert_int_equal(taskmill_bulk_add(bulk, "n", "bad", NULL), 0);
    assert_refused(taskmill_bulk_send(bulk), TASKMILL_ERR_INVALID, "one is bad");
    assert_int_equal(taskmill_bulk_count(bulk), 1);
    taskmill_bulk_free(bulk);
    taskmill_app_free(app);
}

/* --- many threads ---------------------------------------------------------------------------- */

#define SENDERS  8
#define PER_EACH 200

static void *send_many(void *arg)
{
    struct told *told = arg;

    for (int i = 0; i < PER_EACH; i++) {
        bool bad = i % 50 == 7;
        int rv = taskmill_send(told->app, "n", bad ? "bad" : "good", NULL, .no_wait = i % 4 == 1,
                               .on_delivery = on_delivery, .on_delivery_arg = told);

        assert_int_equal(rv, bad && i % 4 != 1 ? TASKMILL_ERR_INVALID : 0);
        if (i % 64 == 63)
            (void)taskmill_flush(told->app, 30);
    }
    return NULL;
}

static void test_threads(void **state)
{
    struct told told = {.app = new_app(30)};
    pthread_t threads[SENDERS];

    (void)state;
    for (int i = 0; i < SENDERS; i++)
        pthread_create(&threads[i], NULL, send_many, &told);
    for (int i = 0; i < SENDERS; i++)
        pthread_join(threads[i], NULL);
    (void)taskmill_flush(told.app, 30);
    assert_int_equal(broker.tasks, SENDERS * (PER_EACH - 4));
    /* 57 is no_wait (57 % 4 == 1); 7, 107 and 157: 157 % 4 == 1, too. */
    assert_int_equal(told.failed, SENDERS * 2);
    assert_int_equal(told.count, SENDERS * (PER_EACH - 2));
    taskmill_app_free(told.app);
}

/* What waits while a request is on its way shares the next one. */
static void *send_one(void *app)
{
    assert_int_equal(taskmill_send(app, "n", "good", NULL), 0);
    return NULL;
}

static void test_shared_requests(void **state)
{
    struct taskmill_app *app = new_app(30);
    pthread_t threads[SENDERS];

    (void)state;
    hold(true);
    for (int i = 0; i < SENDERS; i++) {
        pthread_create(&threads[i], NULL, send_one, app);
        wait_held(1); /* the first is on its way */
    }
    /* Never more than one, so these seven must share what follows, whenever they came. */
    assert_int_equal(broker.held_count, 1);
    hold(false);
    for (int i = 0; i < SENDERS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(broker.tasks, SENDERS);
    taskmill_app_free(app);
}

int main(void)
{
#define WITH_BROKER(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        WITH_BROKER(test_waited),         WITH_BROKER(test_not_waited),
        WITH_BROKER(test_callback_sends), WITH_BROKER(test_free_tells_all),
        WITH_BROKER(test_nobody_there),   WITH_BROKER(test_silent_broker),
        WITH_BROKER(test_full),           WITH_BROKER(test_bulk),
        WITH_BROKER(test_threads),        WITH_BROKER(test_shared_requests)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
