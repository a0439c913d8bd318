/* SPDX-License-Identifier: Apache-2.0 */
/* The public sending functions against librdkafka's mock cluster: each failure has its own error,
 * in time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <taskmill.h>

#include "../topic/mock.h"
#include "base/clock.h"

static struct mock mock;

static int set_up(void **state)
{
    (void)state;
    mock_start(&mock, 1);
    rd_kafka_mock_topic_create(mock.cluster, "tasks", 2, 1);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    mock_stop(&mock);
    return 0;
}

static struct taskmill_app *new_app(const char *topic, uint32_t timeout_s)
{
    struct taskmill_app *app = taskmill_app_new("shop", .kafka = mock.address.address,
                                                .topic = topic, .send_timeout_s = timeout_s);

    assert_int_equal(taskmill_task(taskmill_namespace(app, "n"), "t", NULL), 0);
    return app;
}

static void assert_refused(int rv, int code, const char *text)
{
    if (rv != code)
        print_error("%s\n", taskmill_last_error());
    assert_int_equal(rv, code);
    assert_non_null(strstr(taskmill_last_error(), text));
}

struct told {
    struct taskmill_app *app;
    atomic_int count, failed;
    atomic_int last_error;
};

static void on_delivery(void *arg, const char *id, int error, const char *reason)
{
    struct told *told = arg;

    assert_int_equal(strlen(id), 32);
    assert_int_equal(error != 0, reason[0] != '\0');
    atomic_store(&told->last_error, error);
    atomic_fetch_add(&told->failed, error != 0);
    atomic_fetch_add(&told->count, 1);
}

static void send_again(void *arg, const char *id, int error, const char *reason)
{
    struct told *told = arg;

    assert_int_equal(taskmill_send(told->app, "n", "t", NULL), 0);
    on_delivery(arg, id, error, reason);
}

static void test_delivered(void **state)
{
    struct told told = {.app = new_app("tasks", 10)};

    (void)state;
    assert_int_equal(taskmill_send(told.app, "n", "t", NULL, .on_delivery = on_delivery,
                                   .on_delivery_arg = &told),
                     0);
    assert_int_equal(told.count, 1);
    for (int i = 0; i < 50; i++)
        assert_int_equal(taskmill_send(told.app, "n", "t", NULL, .no_wait = true,
                                       .on_delivery = i ? on_delivery : send_again,
                                       .on_delivery_arg = &told),
                         0);
    assert_int_equal(taskmill_flush(told.app, 30), 0);
    assert_int_equal(told.count, 51);
    assert_int_equal(told.failed, 0);
    taskmill_app_free(told.app);
}

/* The mock makes topics that are asked for, so the answer is injected. */
static void fail_next(int request, rd_kafka_resp_err_t err)
{
    rd_kafka_mock_push_request_errors(mock.cluster, (int16_t)request, 1, err);
}

static void test_each_its_own(void **state)
{
    static const struct {
        rd_kafka_resp_err_t err;
        int code;
        const char *text;
    } cases[] = {
        {RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, TASKMILL_ERR_DENIED, "does not let us"},
        {RD_KAFKA_RESP_ERR_INVALID_RECORD, TASKMILL_ERR_INVALID, "tasks: "},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct taskmill_app *app = new_app("tasks", 10);

        fail_next(MOCK_PRODUCE, cases[i].err);
        assert_refused(taskmill_send(app, "n", "t", NULL), cases[i].code, cases[i].text);
        taskmill_app_free(app);
    }
}

static void test_too_large(void **state)
{
    struct taskmill_app *app = new_app("tasks", 10);
    struct taskmill_params *p = taskmill_params_new();
    size_t len = 60000000;
    uint8_t *noise = malloc(len);
    uint64_t x = 1;

    (void)state;
    for (size_t i = 0; i < len; i++) { /* so that it is still too large when compressed */
        x = x * UINT64_C(6364136223846793005) + 1;
        noise[i] = (uint8_t)(x >> 56);
    }
    taskmill_params_bytes(p, noise, len);
    free(noise);
    assert_refused(taskmill_send(app, "n", "t", p), TASKMILL_ERR_TOO_LARGE, "tasks: ");
    taskmill_app_free(app);
}

static void test_cluster_down(void **state)
{
    struct told told = {.app = new_app("tasks", 3)};
    int64_t start_ms;

    (void)state;
    assert_int_equal(taskmill_send(told.app, "n", "t", NULL), 0);
    rd_kafka_mock_broker_set_down(mock.cluster, 1);
    start_ms = clock_boot_ms();
    assert_refused(taskmill_send(told.app, "n", "t", NULL), TASKMILL_ERR_UNAVAILABLE,
                   "cannot be reached");
    assert_true(clock_boot_ms() - start_ms < 4000);
    assert_int_equal(taskmill_send(told.app, "n", "t", NULL, .no_wait = true,
                                   .on_delivery = on_delivery, .on_delivery_arg = &told),
                     0);
    taskmill_app_free(told.app);
    assert_int_equal(told.count, 1);
    assert_int_equal(told.failed, 1);
    assert_int_equal(told.last_error, TASKMILL_ERR_UNAVAILABLE);
}

/* The request is written, no answer comes: nobody knows. */
static void test_client_weakness_25_silence_is_no_success(void **state)
{
    struct taskmill_app *app = new_app("tasks", 3);
    int64_t start_ms;

    (void)state;
    assert_int_equal(taskmill_send(app, "n", "t", NULL), 0);
    rd_kafka_mock_broker_set_rtt(mock.cluster, 1, 20000);
    start_ms = clock_boot_ms();
    assert_refused(taskmill_send(app, "n", "t", NULL), TASKMILL_ERR_TIMEOUT, "not known");
    assert_true(clock_boot_ms() - start_ms < 4000);
    taskmill_app_free(app);
}

#define SENDERS  4
#define PER_EACH 500

static void *send_many(void *arg)
{
    struct told *told = arg;

    for (int i = 0; i < PER_EACH; i++) {
        assert_int_equal(taskmill_send(told->app, "n", "t", NULL, .no_wait = i % 100 != 0,
                                       .on_delivery = i % 2 ? on_delivery : NULL,
                                       .on_delivery_arg = told),
                         0);
        if (i % 128 == 127)
            assert_int_equal(taskmill_flush(told->app, 60), 0);
    }
    return NULL;
}

static void test_threads(void **state)
{
    struct told told = {.app = new_app("tasks", 60)};
    pthread_t threads[SENDERS];

    (void)state;
    for (int i = 0; i < SENDERS; i++)
        pthread_create(&threads[i], NULL, send_many, &told);
    for (int i = 0; i < SENDERS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(taskmill_flush(told.app, 60), 0);
    assert_int_equal(told.count, SENDERS * PER_EACH / 2);
    assert_int_equal(told.failed, 0);
    taskmill_app_free(told.app);
}

int main(void)
{
#define WITH_KAFKA(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {WITH_KAFKA(test_delivered),
                                       WITH_KAFKA(test_each_its_own),
                                       WITH_KAFKA(test_too_large),
                                       WITH_KAFKA(test_cluster_down),
                                       WITH_KAFKA(test_client_weakness_25_silence_is_no_success),
                                       WITH_KAFKA(test_threads)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
