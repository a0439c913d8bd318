/* SPDX-License-Identifier: Apache-2.0 */
/* Our client against our server over loopback: what honest peers see. */
#include "fixture.h"
#include "peer.h"

#include <stdio.h>

static void echo_is_answered_from_another_thread(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, NULL, 2);
    struct rpc_client *client = fixture_client(f, NULL);
    struct buf body = {0};

    assert_int_equal(fixture_ask(client, ECHO_PATH, bytes_str("hello"), &body, NULL), GRPC_OK);
    assert_string_equal(buf_cstr(&body), "hello");
    buf_clear(&body);
    assert_int_equal(fixture_ask(client, ECHO_PATH, bytes_of(NULL, 0), &body, NULL), GRPC_OK);
    assert_int_equal(body.len, 0);
    fixture_wait(f, &f->sent, 2);
    assert_int_equal(fixture_count(f, &f->unsent), 0);
    assert_int_equal(fixture_count(f, &f->cancelled), 0);
    buf_free(&body);
    rpc_client_free(client);
    fixture_free(f);
}

static void statuses_carry_their_text(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, NULL, 1);
    struct rpc_client *client = fixture_client(f, NULL);
    struct err_text why;

    assert_int_equal(fixture_ask(client, FAIL_PATH, bytes_str("100% \xc3\xa9"), NULL, &why),
                     GRPC_NOT_FOUND);
    assert_string_equal(why.s, "100% \xc3\xa9");
    assert_int_equal(fixture_ask(client, "/t.Test/None", bytes_str("x"), NULL, &why),
                     GRPC_UNIMPLEMENTED);
    assert_string_equal(why.s, "");
    rpc_client_free(client);
    fixture_free(f);
}

static void large_messages_pass_both_ways(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, NULL, 1);
    struct rpc_client *client = fixture_client(f, NULL);
    struct buf body = {0}, request = {0};

    assert_int_equal(fixture_ask(client, SIZE_PATH, bytes_str("9000000"), &body, NULL), GRPC_OK);
    assert_int_equal(body.len, 9000002);
    assert_memory_equal(body.ptr, "ab", 2);
    for (size_t i = 0; i < 9000000; i++)
        if (body.ptr[i + 2] != (uint8_t)i)
            fail_msg("byte %zu differs", i);
    fixture_wait(f, &f->sent, 1);

    buf_reserve(&request, 4194304);
    memset(request.ptr, 'x', 4194304);
    request.len = 4194304;
    buf_clear(&body);
    assert_int_equal(fixture_ask(client, INLINE_PATH, buf_bytes(&request), &body, NULL), GRPC_OK);
    assert_true(bytes_equal(buf_bytes(&request), buf_bytes(&body)));
    buf_free(&body);
    buf_free(&request);
    rpc_client_free(client);
    fixture_free(f);
}

static void oversize_is_refused_early(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, NULL, 1);
    struct rpc_client *client = fixture_client(f, NULL);
    struct buf request = {0};
    struct err_text why;

    buf_reserve(&request, 6000000);
    memset(request.ptr, 'x', 6000000);
    request.len = 6000000;
    assert_int_equal(fixture_ask(client, ECHO_PATH, buf_bytes(&request), NULL, &why),
                     GRPC_OUT_OF_RANGE);
    assert_string_equal(why.s, "Error, decoded message length too large: found 6000000 bytes, the "
                               "limit is: 4194304 bytes");
    /* The connection goes on. */
    assert_int_equal(fixture_ask(client, ECHO_PATH, bytes_str("x"), NULL, NULL), GRPC_OK);
    assert_int_equal(fixture_count(f, &f->started), 1);
    buf_free(&request);
    rpc_client_free(client);
    fixture_free(f);
}

static void response_above_the_clients_limit_ends_the_call(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, NULL, 1);
    struct rpc_client_options options = {
        .host = "127.0.0.1", .port = rpc_server_port(f->server), .message_max = 1000};
    struct rpc_client *client = rpc_client_new(&options);
    struct outcome outcome = {0};

    fixture_call(client, SIZE_PATH, "999", 0, &outcome);
    fixture_run(client, &outcome.calls, 1);
    assert_int_equal(outcome.status, GRPC_RESOURCE_EXHAUSTED);
    assert_true(outcome.is_local);
    rpc_client_free(client);
    fixture_free(f);
}

static void signatures_are_checked(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, "secret", 1);
    struct rpc_client *good = fixture_client(f, "secret"), *bad = fixture_client(f, "wrong"),
                      *none = fixture_client(f, NULL), *second = fixture_client(f, "another");
    struct err_text why;

    assert_int_equal(fixture_ask(good, ECHO_PATH, bytes_str("x"), NULL, NULL), GRPC_OK);
    assert_int_equal(fixture_ask(second, ECHO_PATH, bytes_str("x"), NULL, NULL), GRPC_OK);
    assert_int_equal(fixture_ask(bad, ECHO_PATH, bytes_str("x"), NULL, &why), GRPC_UNAUTHENTICATED);
    assert_string_equal(why.s, "Authentication failed");
    assert_int_equal(fixture_ask(none, ECHO_PATH, bytes_str("x"), NULL, &why),
                     GRPC_UNAUTHENTICATED);
    /* Unknown paths tell nothing to strangers. */
    assert_int_equal(fixture_ask(none, "/t.Test/None", bytes_str("x"), NULL, NULL),
                     GRPC_UNAUTHENTICATED);
    assert_int_equal(fixture_ask(bad, "/t.Test/None", bytes_str("x"), NULL, NULL),
                     GRPC_UNAUTHENTICATED);
    assert_int_equal(fixture_ask(good, "/t.Test/None", bytes_str("x"), NULL, NULL),
                     GRPC_UNIMPLEMENTED);
    assert_int_equal(fixture_count(f, &f->started), 2);
    rpc_client_free(good);
    rpc_client_free(bad);
    rpc_client_free(none);
    rpc_client_free(second);
    fixture_free(f);
}

static void cancel_reaches_the_holder(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, NULL, 2);
    struct rpc_client *client = fixture_client(f, NULL);
    struct outcome held = {0}, other = {0};

    uint64_t id = fixture_call(client, HOLD_PATH, "x", 0, &held);
    fixture_call(client, ECHO_PATH, "y", 0, &other);
    fixture_run(client, &other.calls, 1);
    rpc_client_cancel(client, id);
    rpc_client_cancel(client, id); /* a second time: nothing */
    assert_int_equal(held.calls, 1);
    assert_int_equal(held.status, GRPC_CANCELLED);
    rpc_client_io(client, clock_boot_ms());
    fixture_wait(f, &f->cancelled, 1);
    /* The holder still owes the reply, and learns that it went nowhere. */
    fixture_reply(fixture_held(f), GRPC_OK, NULL, "late");
    fixture_wait(f, &f->unsent, 1);
    assert_int_equal(fixture_count(f, &f->sent), 1); /* the echo */
    fixture_wait_no_streams(f);
    outcome_free(&other);
    rpc_client_free(client);
    fixture_free(f);
}

static void cancel_before_the_first_io(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, NULL, 1);
    struct rpc_client *client = fixture_client(f, NULL);
    struct outcome first = {0}, second = {0};

    rpc_client_cancel(client, fixture_call(client, HOLD_PATH, "x", 0, &first));
    assert_int_equal(first.status, GRPC_CANCELLED);
    assert_int_equal(rpc_client_open_calls(client), 0);
    fixture_call(client, ECHO_PATH, "y", 0, &second);
    fixture_run(client, &second.calls, 1);
    assert_int_equal(second.status, GRPC_OK);
    assert_int_equal(fixture_count(f, &f->started), 1);
    outcome_free(&second);
    rpc_client_free(client);
    fixture_free(f);
}

static void death_of_the_connection_reaches_holders(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, NULL, 1);
    struct rpc_client *client = fixture_client(f, NULL);
    struct outcome held[3] = {0};

    for (int i = 0; i < 3; i++)
        fixture_call(client, HOLD_PATH, "x", 0, &held[i]);
    fixture_run_until(f, client, &f->held_count, 3);
    rpc_client_free(client);
    for (int i = 0; i < 3; i++)
        assert_int_equal(held[i].status, GRPC_CANCELLED);
    fixture_wait(f, &f->cancelled, 3);
    for (int i = 0; i < 3; i++)
        fixture_reply(fixture_held(f), GRPC_OK, NULL, "late");
    fixture_wait(f, &f->unsent, 3);
    assert_int_equal(fixture_count(f, &f->sent), 0);
    fixture_free(f);
}

static void a_reference_outlives_the_reply(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, NULL, 1);
    struct rpc_client *client = fixture_client(f, NULL);
    struct outcome outcome = {0};

    fixture_call(client, HOLD_PATH, "x", 0, &outcome);
    fixture_run_until(f, client, &f->held_count, 1);
    struct rpc_call *call = rpc_call_ref(fixture_held(f));
    fixture_reply(call, GRPC_OK, NULL, "done");
    fixture_run(client, &outcome.calls, 1);
    fixture_wait(f, &f->sent, 1);
    assert_ptr_equal(rpc_call_of_user(rpc_call_user(call)), call);
    rpc_call_unref(call);
    outcome_free(&outcome);
    rpc_client_free(client);
    fixture_free(f);
}

static void timeouts_end_calls_on_both_sides(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, NULL, 1);
    struct rpc_client *client = fixture_client(f, NULL);
    struct outcome outcome = {0};
    int64_t before_ms = clock_boot_ms();

    fixture_call(client, HOLD_PATH, "x", 50, &outcome);
    fixture_run(client, &outcome.calls, 1);
    /* Whoever is first: our clock or the server's. */
    assert_true(outcome.status == GRPC_DEADLINE_EXCEEDED || outcome.status == GRPC_CANCELLED);
    assert_true(clock_boot_ms() - before_ms >= 50);
    rpc_client_io(client, clock_boot_ms());
    fixture_wait(f, &f->cancelled, 1);
    struct rpc_call *call = fixture_held(f);
    assert_in_range(rpc_call_deadline_ms(call), before_ms + 50, clock_boot_ms() + 50);
    fixture_reply(call, GRPC_OK, NULL, "late");
    fixture_wait(f, &f->unsent, 1);
    rpc_client_free(client);
    fixture_free(f);
}

static void calls_without_timeout_have_no_deadline(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, NULL, 1);
    struct rpc_client *client = fixture_client(f, NULL);
    struct outcome outcome = {0};

    fixture_call(client, HOLD_PATH, "x", 0, &outcome);
    fixture_run_until(f, client, &f->held_count, 1);
    struct rpc_call *call = fixture_held(f);
    assert_int_equal(rpc_call_deadline_ms(call), CLOCK_NEVER);
    fixture_reply(call, GRPC_OK, NULL, NULL);
    fixture_run(client, &outcome.calls, 1);
    assert_int_equal(outcome.status, GRPC_OK);
    rpc_client_free(client);
    fixture_free(f);
}

/* --- many ------------------------------------------------------------------------------------- */

enum { MANY_CALLS = 20000, MANY_AT_ONCE = 300 };

struct many {
    struct rpc_client *client;
    int started, ended;
};

static void many_next(struct many *many);

static void many_done(void *ctx, const struct rpc_result *result)
{
    struct many *many = (struct many *)ctx;

    assert_int_equal(result->status, GRPC_OK);
    assert_int_equal(result->body.len, 100);
    many->ended++;
    many_next(many);
}

static void many_next(struct many *many)
{
    static const uint8_t message[100];

    if (many->started == MANY_CALLS)
        return;
    many->started++;
    rpc_client_call(many->client, ECHO_PATH, bytes_of(message, sizeof(message)), 60000, many_done,
                    many, clock_boot_ms(), NULL);
}

static void many_streams_at_once(void **state)
{
    (void)state;
    /* Fewer streams than calls: the client has to queue the rest. */
    struct rpc_limits limits = {.streams_per_connection = 128};
    struct fixture *f = fixture_new(&limits, NULL, 2);
    struct many many[2] = {0};

    for (int i = 0; i < 2; i++) {
        many[i].client = fixture_client(f, NULL);
        for (int j = 0; j < MANY_AT_ONCE; j++)
            many_next(&many[i]);
        rpc_client_io(many[i].client, clock_boot_ms());
    }
    fixture_run(many[0].client, &many[0].ended, MANY_CALLS);
    fixture_run(many[1].client, &many[1].ended, MANY_CALLS);
    fixture_wait(f, &f->sent, (size_t)2 * MANY_CALLS);
    assert_int_equal(fixture_count(f, &f->unsent) + fixture_count(f, &f->cancelled), 0);
    rpc_client_free(many[0].client);
    rpc_client_free(many[1].client);
    fixture_free(f);
}

/* --- life of server and connection ------------------------------------------------------------ */

static void drain_lets_open_calls_finish(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, NULL, 2);
    struct rpc_client *client = fixture_client(f, NULL);
    struct outcome held = {0}, late = {0}, after = {0};

    fixture_call(client, HOLD_PATH, "x", 0, &held);
    fixture_run_until(f, client, &f->held_count, 1);
    assert_int_equal(rpc_server_open_streams(f->server), 1);
    rpc_server_drain(f->server);
    /* New calls fail as soon as the GOAWAY is here. */
    fixture_call(client, HOLD_PATH, "x", 0, &late);
    for (int i = 0; late.calls == 0; i++) {
        if (fixture_count(f, &f->held_count) > 1)
            fixture_reply(fixture_held(f), GRPC_UNAVAILABLE, "draining", NULL);
        fixture_run(client, &late.calls, 0);
    }
    assert_int_equal(late.status, GRPC_UNAVAILABLE);
    assert_int_equal(held.calls, 0);
    fixture_reply(fixture_held(f), GRPC_OK, NULL, "done");
    fixture_run(client, &held.calls, 1);
    assert_int_equal(held.status, GRPC_OK);
    fixture_wait_no_streams(f);
    /* Nobody listens any more. */
    fixture_call(client, ECHO_PATH, "x", 0, &after);
    fixture_run(client, &after.calls, 1);
    assert_int_equal(after.status, GRPC_UNAVAILABLE);
    assert_true(after.is_local);
    outcome_free(&held);
    rpc_client_free(client);
    fixture_free(f);
}

/* A server without open streams stops as soon as it drains: idle connections get their GOAWAY
 * first. */
static void idle_connections_hear_of_the_end(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, NULL, 2);
    struct peer *peer = peer_new(rpc_server_port(f->server));
    struct peer_frame frame;

    peer_hello(peer);
    assert_true(peer_expect(peer, NGHTTP2_SETTINGS, 0, &frame));
    assert_true(
        peer_expect(peer, NGHTTP2_SETTINGS, 0, &frame)); /* ours is acknowledged: all is read */
    rpc_server_drain(f->server);
    rpc_server_stop(f->server);
    assert_int_equal(peer_read_to_end(peer), NGHTTP2_NO_ERROR);
    peer_free(peer);
    fixture_free(f);
}

static void client_connects_again_after_a_loss(void **state)
{
    (void)state;
    struct rpc_limits limits = {.idle_timeout_ms = 40};
    struct fixture *f = fixture_new(&limits, NULL, 1);
    struct rpc_client *client = fixture_client(f, NULL);
    struct outcome first = {0}, second = {0};

    fixture_call(client, ECHO_PATH, "x", 0, &first);
    fixture_run(client, &first.calls, 1);
    while (rpc_client_fd(client) >= 0) /* until the server ends the idle connection */
        rpc_client_io(client, clock_boot_ms());
    fixture_call(client, ECHO_PATH, "y", 0, &second);
    fixture_run(client, &second.calls, 1);
    assert_int_equal(second.status, GRPC_OK);
    outcome_free(&first);
    outcome_free(&second);
    rpc_client_free(client);
    fixture_free(f);
}

static void port_in_use_says_what_to_do(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, NULL, 1);
    struct rpc_server_options options = {
        .address = "127.0.0.1", .port = rpc_server_port(f->server), .threads = 1};
    struct rpc_server *second;
    struct err_text why;
    char expected[200];

    assert_int_equal(rpc_server_create(&second, &options, &why), ERR_SYSTEM);
    snprintf(expected, sizeof(expected),
             "address 127.0.0.1:%u: Address already in use; stop the program that uses it or "
             "choose another port",
             rpc_server_port(f->server));
    assert_string_equal(why.s, expected);
    options.address = "localhost";
    assert_int_equal(rpc_server_create(&second, &options, &why), ERR_INVALID);
    fixture_free(f);
}

static void nobody_listens(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, NULL, 1);
    struct rpc_client *client = fixture_client(f, NULL);
    struct err_text why;
    int status;

    rpc_server_stop(f->server);
    fixture_free(f);
    assert_int_equal(
        rpc_client_call_wait(client, ECHO_PATH, bytes_str("x"), 1000, &status, NULL, &why),
        ERR_UNAVAILABLE);
    assert_non_null(strstr(why.s, "cannot connect: Connection refused"));
    rpc_client_free(client);
}

static void ipv6_works_where_there_is_any(void **state)
{
    (void)state;
    struct rpc_server_options options = {.address = "::1", .threads = 1};
    struct rpc_server *server;
    struct err_text why;

    if (rpc_server_create(&server, &options, &why) != 0)
        skip();
    assert_int_equal(rpc_server_start(server, &why), 0);
    struct rpc_client_options client_options = {.host = "::1", .port = rpc_server_port(server)};
    struct rpc_client *client = rpc_client_new(&client_options);
    assert_int_equal(fixture_ask(client, "/none", bytes_str("x"), NULL, NULL), GRPC_UNIMPLEMENTED);
    rpc_client_free(client);
    rpc_server_stop(server);
    rpc_server_destroy(server);
}

static void stop_with_calls_held_elsewhere(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, NULL, 1);
    struct rpc_client *client = fixture_client(f, NULL);
    struct outcome outcome = {0};

    fixture_call(client, HOLD_PATH, "x", 0, &outcome);
    fixture_run_until(f, client, &f->held_count, 1);
    rpc_server_stop(f->server);
    assert_int_equal(fixture_count(f, &f->cancelled), 1);
    fixture_run(client, &outcome.calls, 1);
    assert_int_equal(outcome.status, GRPC_UNAVAILABLE);
    rpc_client_free(client);
    fixture_free(f); /* replies to the held call, after stop */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(echo_is_answered_from_another_thread),
        cmocka_unit_test(statuses_carry_their_text),
        cmocka_unit_test(large_messages_pass_both_ways),
        cmocka_unit_test(oversize_is_refused_early),
        cmocka_unit_test(response_above_the_clients_limit_ends_the_call),
        cmocka_unit_test(signatures_are_checked),
        cmocka_unit_test(cancel_reaches_the_holder),
        cmocka_unit_test(cancel_before_the_first_io),
        cmocka_unit_test(death_of_the_connection_reaches_holders),
        cmocka_unit_test(a_reference_outlives_the_reply),
        cmocka_unit_test(timeouts_end_calls_on_both_sides),
        cmocka_unit_test(calls_without_timeout_have_no_deadline),
        cmocka_unit_test(many_streams_at_once),
        cmocka_unit_test(drain_lets_open_calls_finish),
        cmocka_unit_test(idle_connections_hear_of_the_end),
        cmocka_unit_test(client_connects_again_after_a_loss),
        cmocka_unit_test(port_in_use_says_what_to_do),
        cmocka_unit_test(nobody_listens),
        cmocka_unit_test(ipv6_works_where_there_is_any),
        cmocka_unit_test(stop_with_calls_held_elsewhere),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
