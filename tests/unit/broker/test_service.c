/* SPDX-License-Identifier: Apache-2.0 */
/* The services over a real connection, with the engine on its thread behind them. */
#include "world.h"

#include <poll.h>
#include <sqlite3.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "broker/engine_thread.h"
#include "broker/service.h"
#include "rpc/client.h"

struct bench {
    struct world *world;
    struct inbox inbox;
    struct meters *meters;
    struct engine_thread *thread;
    struct service *service;
    struct rpc_client *client;
    struct buf body;
    int failed_fd;
};

static void on_failed(void *ctx, int code, const char *why)
{
    struct bench *b = ctx;
    (void)code;
    (void)why;
    eventfd_write(b->failed_fd, 1);
}

/* Serves the client meanwhile. */
static void await_failure(struct bench *b)
{
    struct pollfd fds[] = {{.fd = b->failed_fd, .events = POLLIN}, {.fd = -1}};
    int64_t until_ms = clock_boot_ms() + 30000;
    do {
        rpc_client_io(b->client, clock_boot_ms());
        fds[1] =
            (struct pollfd){.fd = rpc_client_fd(b->client), .events = rpc_client_events(b->client)};
        poll(fds, 2, 1000);
    } while (!fds[0].revents && clock_boot_ms() < until_ms);
    assert_true(fds[0].revents);
}

static int set_up(void **state)
{
    struct bench *b = mem_zalloc(sizeof *b);
    void *any;
    struct err_text why;
    b->failed_fd = eventfd(0, EFD_NONBLOCK);
    b->meters = meters_new();
    world_setup_embedded(&any);
    b->world = any;
    assert_int_equal(inbox_init(&b->inbox), 0);
    struct service_options options = {.address = "127.0.0.1",
                                      .threads = 2,
                                      .intake = b->world->options.intake,
                                      .inbox = &b->inbox,
                                      .meters = b->meters};
    assert_int_equal(service_create(&b->service, &options, &why), 0);
    b->world->now_ms = clock_boot_ms();
    b->world->wall_ms = clock_wall_ms();
    struct engine_ports *ports = &b->world->options.ports;
    ports->ctx = b->service;
    ports->reply = service_reply;
    ports->release = service_release;
    ports->flush = service_flush;
    assert_int_equal(world_open(b->world, &why), 0);
    b->thread = engine_thread_new(b->world->engine, &b->inbox, on_failed, b);
    assert_int_equal(engine_thread_start(b->thread, &why), 0);
    assert_int_equal(service_open(b->service, &why), 0);
    struct rpc_client_options client = {.host = "127.0.0.1",
                                        .port = rpc_server_port(service_server(b->service))};
    b->client = rpc_client_new(&client);
    *state = b;
    return 0;
}

/* As broker_destroy does it, also after a failed turn. */
static int tear_down(void **state)
{
    struct bench *b = *state;
    void *any = b->world;
    rpc_client_free(b->client);
    rpc_server_drain(service_server(b->service));
    rpc_server_stop(service_server(b->service));
    assert_true(engine_thread_stop(b->thread, CLOCK_NEVER));
    engine_thread_free(b->thread);
    b->world->events = inbox_take(&b->inbox, SIZE_MAX);
    world_close_engine(b->world);
    service_destroy(b->service);
    world_teardown(&any);
    inbox_destroy(&b->inbox);
    close(b->failed_fd);
    meters_free(b->meters);
    buf_free(&b->body);
    mem_free(b);
    return 0;
}

static int ask(struct bench *b, const char *path, struct bytes message, uint32_t timeout_ms)
{
    struct err_text why = {""};
    int status = -1;
    buf_clear(&b->body);
    int rc = rpc_client_call_wait(b->client, path, message, timeout_ms, &status, &b->body, &why);
    if (rc)
        fail_msg("%s", why.s);
    return status;
}

static int enqueue(struct bench *b, const char *id)
{
    struct activation activation = world_activation(id);
    struct blob *payload = world_payload(&activation);
    struct buf message = {0};
    enqueue_encode_activation(blob_bytes(payload), &message);
    int status = ask(b, PRODUCER_ENQUEUE, buf_bytes(&message), 10000);
    blob_unref(payload);
    buf_free(&message);
    return status;
}

static int get_task(struct bench *b, uint32_t timeout_ms)
{
    return ask(b, CONSUMER_GET_TASK, bytes_str(""), timeout_ms);
}

static int report(struct bench *b, const char *id, int32_t status)
{
    struct set_status_request request = {.id = bytes_str(id), .status = status};
    struct buf message = {0};
    set_status_encode(&request, &message);
    int answer = ask(b, CONSUMER_SET_STATUS, buf_bytes(&message), 10000);
    buf_free(&message);
    return answer;
}

static void expect_task(struct bench *b, const char *id)
{
    struct task_response response;
    struct activation activation;
    const char *why;
    assert_int_equal(task_response_decode(buf_bytes(&b->body), &response, &why), 0);
    assert_true(response.has_task);
    assert_int_equal(activation_parse(response.activation, &activation, &why), 0);
    assert_true(bytes_equal_str(activation.id, id));
}

static int get_task_and_claim(struct bench *b, const char *id, uint64_t *claim)
{
    struct task_filter filter = {.wants_claim = true};
    struct task_response response;
    struct buf message = {0};
    const char *why;
    task_filter_encode(&filter, &message);
    int status = ask(b, CONSUMER_GET_TASK, buf_bytes(&message), 10000);
    buf_free(&message);
    expect_task(b, id);
    assert_int_equal(task_response_decode(buf_bytes(&b->body), &response, &why), 0);
    *claim = response.claim;
    return status;
}

static int give_back(struct bench *b, const char *id, uint64_t claim, size_t times,
                     struct give_back_response *response)
{
    struct give_back entry = {.id = bytes_str(id), .claim = claim};
    struct buf message = {0};
    const char *why;
    for (size_t i = 0; i < times; i++)
        give_back_encode_one(&entry, &message);
    int status = ask(b, WORKER_GIVE_BACK, buf_bytes(&message), 10000);
    buf_free(&message);
    assert_int_equal(give_back_response_decode(buf_bytes(&b->body), response, &why), 0);
    return status;
}

static void a_task_that_is_given_back(void **state)
{
    struct bench *b = *state;
    struct give_back_response response;
    uint64_t claim, next;
    assert_int_equal(enqueue(b, "a"), GRPC_OK);
    assert_int_equal(get_task_and_claim(b, "a", &claim), GRPC_OK);
    assert_int_not_equal(claim, 0);
    assert_int_equal(give_back(b, "a", claim, 2, &response), GRPC_OK); /* the second is ignored */
    assert_int_equal(response.returned, 1);
    assert_int_equal(response.ignored, 1);
    assert_int_equal(get_task_and_claim(b, "a", &next), GRPC_OK);
    assert_int_not_equal(claim, next);
    assert_int_equal(give_back(b, "a", claim, 1, &response), GRPC_OK);
    assert_int_equal(response.returned, 0);
    assert_int_equal(give_back(b, "a", next, 0, &response), GRPC_OK);
    assert_int_equal(response.returned + response.ignored, 0);
    assert_int_equal(give_back(b, "a", next, GIVE_BACK_MAX + 1, &response), GRPC_INVALID_ARGUMENT);
    assert_int_equal(give_back(b, "a", next, GIVE_BACK_MAX, &response), GRPC_OK);
    assert_int_equal(response.returned, 1);
    assert_int_equal(response.ignored, GIVE_BACK_MAX - 1);
}

/* Bytes of clients that do not know the extension stay what they were. */
static void nobody_is_told_a_claim_unasked(void **state)
{
    struct bench *b = *state;
    struct task_response response;
    const char *why;
    assert_int_equal(enqueue(b, "a"), GRPC_OK);
    assert_int_equal(get_task(b, 10000), GRPC_OK);
    assert_int_equal(task_response_decode(buf_bytes(&b->body), &response, &why), 0);
    assert_int_equal(response.claim, 0);
    assert_int_equal(((const uint8_t *)buf_bytes(&b->body).ptr)[0], 0x0a);
}

static void a_task_from_producer_to_worker_and_back(void **state)
{
    struct bench *b = *state;
    assert_int_equal(enqueue(b, "a"), GRPC_OK);
    assert_int_equal(get_task(b, 10000), GRPC_OK);
    expect_task(b, "a");
    assert_int_equal(report(b, "a", ACTIVATION_COMPLETE), GRPC_OK);
    assert_int_equal(get_task(b, 300), GRPC_NOT_FOUND); /* held until just before that */
}

static void statuses_that_a_worker_may_not_report(void **state)
{
    struct bench *b = *state;
    assert_int_equal(report(b, "a", ACTIVATION_PENDING), GRPC_INVALID_ARGUMENT);
    assert_int_equal(report(b, "a", ACTIVATION_PROCESSING), GRPC_INVALID_ARGUMENT);
    assert_int_equal(report(b, "a", ACTIVATION_UNSPECIFIED), GRPC_INVALID_ARGUMENT);
    assert_int_equal(report(b, "a", 77), GRPC_INVALID_ARGUMENT);
    assert_int_equal(report(b, "a", ACTIVATION_FAILURE), GRPC_OK); /* unknown id: as the original */
}

static void one_bad_update_refuses_the_batch(void **state)
{
    struct bench *b = *state;
    struct buf message = {0};
    struct set_status_request update = {.id = bytes_str("a"), .status = ACTIVATION_COMPLETE};
    assert_int_equal(enqueue(b, "a"), GRPC_OK);
    set_batch_encode_one(&update, &message);
    update.status = ACTIVATION_PENDING;
    set_batch_encode_one(&update, &message);
    assert_int_equal(ask(b, CONSUMER_SET_BATCH, buf_bytes(&message), 10000), GRPC_INVALID_ARGUMENT);
    buf_free(&message);
    assert_int_equal(get_task(b, 10000), GRPC_OK); /* nothing of it was applied */
}

static void bodies_that_do_not_decode(void **state)
{
    static const char *const paths[] = {CONSUMER_GET_TASK, CONSUMER_SET_STATUS, CONSUMER_SET_BATCH,
                                        PRODUCER_ENQUEUE, WORKER_GIVE_BACK};
    struct bench *b = *state;
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        assert_int_equal(ask(b, paths[i], bytes_str("\x0a\xff"), 10000), GRPC_INTERNAL);
}

static void a_bad_activation_refuses_all(void **state)
{
    struct bench *b = *state;
    struct activation activation = world_activation("good");
    struct blob *payload = world_payload(&activation);
    struct buf message = {0};
    enqueue_encode_activation(blob_bytes(payload), &message);
    enqueue_encode_activation(bytes_str("\xff"), &message);
    assert_int_equal(ask(b, PRODUCER_ENQUEUE, buf_bytes(&message), 10000), GRPC_INVALID_ARGUMENT);
    blob_unref(payload);
    buf_free(&message);
    assert_int_equal(get_task(b, 250), GRPC_NOT_FOUND);
}

struct pending {
    int status;
    bool done;
};

static void on_result(void *ctx, const struct rpc_result *result)
{
    struct pending *pending = ctx;
    pending->status = result->status;
    pending->done = true;
}

/* The worker hangs up while it is held: the task goes to the next one. */
static void a_call_that_is_cancelled(void **state)
{
    struct bench *b = *state;
    struct pending pending = {0};
    uint64_t id;
    rpc_client_call(b->client, CONSUMER_GET_TASK, bytes_str(""), 0, on_result, &pending,
                    clock_boot_ms(), &id);
    assert_int_equal(report(b, "x", ACTIVATION_COMPLETE), GRPC_OK); /* the claim is there by now */
    rpc_client_cancel(b->client, id);
    assert_true(pending.done);
    assert_int_equal(enqueue(b, "a"), GRPC_OK);
    assert_int_equal(get_task(b, 10000), GRPC_OK);
    expect_task(b, "a");
}

/* Calls are held, a report waits for a commit that never comes: the way to the exit must be free.
 */
static void a_failed_store_leaves_no_call_behind(void **state)
{
    struct bench *b = *state;
    static struct pending held, waiting; /* they end in tear_down */
    struct activation activation = world_activation("a");
    struct blob *payload = world_payload(&activation);
    struct buf message = {0};
    rpc_client_call(b->client, CONSUMER_GET_TASK, bytes_str(""), 0, on_result, &held,
                    clock_boot_ms(), NULL);
    assert_int_equal(report(b, "x", ACTIVATION_COMPLETE), GRPC_OK); /* the claim is there by now */
    assert_false(held.done);
    crash_vfs_fail(b->world->disk, CRASH_OP_SYNC, 1, SQLITE_IOERR_FSYNC, true);
    enqueue_encode_activation(blob_bytes(payload), &message);
    rpc_client_call(b->client, PRODUCER_ENQUEUE, buf_bytes(&message), 10000, on_result, &waiting,
                    clock_boot_ms(), NULL);
    await_failure(b);
    assert_false(held.done || waiting.done);
    blob_unref(payload);
    buf_free(&message);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_task_from_producer_to_worker_and_back),
        TEST(a_task_that_is_given_back),
        TEST(nobody_is_told_a_claim_unasked),
        TEST(statuses_that_a_worker_may_not_report),
        TEST(one_bad_update_refuses_the_batch),
        TEST(bodies_that_do_not_decode),
        TEST(a_bad_activation_refuses_all),
        TEST(a_call_that_is_cancelled),
        TEST(a_failed_store_leaves_no_call_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
