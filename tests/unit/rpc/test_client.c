/* SPDX-License-Identifier: Apache-2.0 */
/* Our client against servers that answer wrongly, or not at all. */
#include "peer.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

/* A server that says what the test wrote beforehand. */
struct script {
    int listen_fd;
    uint16_t port;
    struct peer peer; /* only fd is used: frames for the client */
    struct rpc_client *client;
    struct outcome outcome;
};

static void script_start_with(struct script *script, struct rpc_client_options options)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);

    *script = (struct script){0};
    script->listen_fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(script->listen_fd, (struct sockaddr *)&address, len), 0);
    assert_int_equal(listen(script->listen_fd, 8), 0);
    assert_int_equal(getsockname(script->listen_fd, (struct sockaddr *)&address, &len), 0);
    options.host = "127.0.0.1";
    options.port = ntohs(address.sin_port);
    script->client = rpc_client_new(&options);
    fixture_call(script->client, ECHO_PATH, "hello", 0, &script->outcome);
    rpc_client_io(script->client, clock_boot_ms());
    script->peer.fd = accept(script->listen_fd, NULL, NULL);
    assert_true(script->peer.fd >= 0);
}

static void script_start(struct script *script, uint32_t keepalive_ms)
{
    script_start_with(script, (struct rpc_client_options){.keepalive_ms = keepalive_ms});
}

static void script_settings(struct script *script)
{
    peer_frame(&script->peer, NGHTTP2_SETTINGS, 0, 0, bytes_of(NULL, 0));
    /* The request leaves before the answer comes. */
    while (rpc_client_events(script->client) & POLLOUT)
        rpc_client_io(script->client, clock_boot_ms());
}

static void script_headers(struct script *script, const char *http, const char *grpc, bool is_end)
{
    struct buf block = {0};

    if (http)
        peer_add_header(&block, ":status", http);
    if (grpc)
        peer_add_header(&block, "grpc-status", grpc);
    if (grpc)
        peer_add_header(&block, "grpc-message", "it%20says");
    peer_frame(&script->peer, NGHTTP2_HEADERS,
               (uint8_t)(NGHTTP2_FLAG_END_HEADERS | (is_end ? NGHTTP2_FLAG_END_STREAM : 0)), 1,
               buf_bytes(&block));
    buf_free(&block);
}

static void script_end(struct script *script, int status, bool is_local)
{
    fixture_run(script->client, &script->outcome.calls, 1);
    assert_int_equal(script->outcome.calls, 1);
    assert_int_equal(script->outcome.status, status);
    assert_int_equal(script->outcome.is_local, is_local);
    assert_int_equal(rpc_client_open_calls(script->client), 0);
    rpc_client_free(script->client);
    outcome_free(&script->outcome);
    close(script->peer.fd);
    close(script->listen_fd);
}

static void trailers_only(void **state)
{
    (void)state;
    struct script script;

    script_start(&script, 0);
    script_settings(&script);
    script_headers(&script, "200", "5", true);
    script_end(&script, GRPC_NOT_FOUND, false);
    assert_string_equal(script.outcome.message, "it says");
}

static void answers_without_grpc_status(void **state)
{
    (void)state;
    struct script script;

    script_start(&script, 0);
    script_settings(&script);
    script_headers(&script, "503", NULL, true);
    script_end(&script, GRPC_UNAVAILABLE, false);

    script_start(&script, 0);
    script_settings(&script);
    script_headers(&script, "200", NULL, false);
    peer_data(&script.peer, 1, bytes_of("\0\0\0\0\1x", 6), true);
    script_end(&script, GRPC_UNKNOWN, false);
}

static void status_that_is_no_number(void **state)
{
    (void)state;
    const char *const texts[] = {"", "x", "-1", "17", "999999999999"};

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct script script;
        script_start(&script, 0);
        script_settings(&script);
        script_headers(&script, "200", texts[i], true);
        script_end(&script, GRPC_UNKNOWN, false);
    }
}

static void ok_with_a_wrong_message(void **state)
{
    (void)state;
    const struct bytes bodies[] = {bytes_of("", 0), bytes_of("\0\0", 2),
                                   bytes_of("\0\0\0\0\3ab", 7), bytes_of("\0\0\0\0\1ab", 7),
                                   bytes_of("\2\0\0\0\0", 5)};

    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        struct script script;
        script_start(&script, 0);
        script_settings(&script);
        script_headers(&script, "200", NULL, false);
        peer_data(&script.peer, 1, bodies[i], false);
        script_headers(&script, NULL, "0", true);
        script_end(&script, GRPC_INTERNAL, true);
    }
}

static void resets_have_their_status(void **state)
{
    (void)state;
    const struct bytes codes[] = {bytes_of("\0\0\0\x07", 4), bytes_of("\0\0\0\x08", 4),
                                  bytes_of("\0\0\0\x0b", 4), bytes_of("\0\0\0\x02", 4)};
    const int statuses[] = {GRPC_UNAVAILABLE, GRPC_CANCELLED, GRPC_RESOURCE_EXHAUSTED,
                            GRPC_INTERNAL};

    for (size_t i = 0; i < sizeof(statuses) / sizeof(statuses[0]); i++) {
        struct script script;
        script_start(&script, 0);
        script_settings(&script);
        peer_frame(&script.peer, NGHTTP2_RST_STREAM, 0, 1, codes[i]);
        script_end(&script, statuses[i], true);
    }
}

static void a_server_of_another_protocol(void **state)
{
    (void)state;
    struct script script;

    script_start(&script, 0);
    peer_write(&script.peer, bytes_str("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"));
    close(script.peer.fd);
    script_end(&script, GRPC_UNAVAILABLE, true);
}

static void a_server_that_hangs_up(void **state)
{
    (void)state;
    struct script script;

    script_start(&script, 0);
    script_settings(&script);
    close(script.peer.fd);
    script_end(&script, GRPC_UNAVAILABLE, true);
}

static void a_server_that_falls_silent(void **state)
{
    (void)state;
    struct script script;

    script_start(&script, 30);
    script_settings(&script);
    script_end(&script, GRPC_UNAVAILABLE, true); /* by the PING that nobody answers */
    assert_string_equal(script.outcome.message, "no answer to a PING");
}

static void goaway_that_refuses_the_call(void **state)
{
    (void)state;
    struct script script;

    script_start(&script, 0);
    script_settings(&script);
    peer_frame(&script.peer, NGHTTP2_GOAWAY, 0, 0, bytes_of("\0\0\0\0\0\0\0\0", 8));
    script_end(&script, GRPC_UNAVAILABLE, true);
}

/* The server closes the connection in order; what it has is ended there, the rest goes elsewhere.
 */
static void calls_wait_at_goaway_if_wanted(void **state)
{
    (void)state;
    struct script script;
    struct outcome second = {0};

    script_start_with(&script, (struct rpc_client_options){.hold_calls = true});
    script_settings(&script);
    assert_false(rpc_client_is_leaving(script.client));
    peer_frame(&script.peer, NGHTTP2_GOAWAY, 0, 0, bytes_of("\x7f\xff\xff\xff\0\0\0\0", 8));
    while (!rpc_client_is_leaving(script.client))
        fixture_run(script.client, &script.outcome.calls, 0);
    fixture_call(script.client, ECHO_PATH, "late", 0, &second);
    rpc_client_io(script.client, clock_boot_ms());
    assert_int_equal(script.outcome.calls + second.calls, 0);
    /* It must not spin while it waits. */
    assert_false(rpc_client_events(script.client) & POLLOUT);
    script_headers(&script, "200", "5", true);
    fixture_run(script.client, &script.outcome.calls, 1);
    assert_int_equal(script.outcome.status, GRPC_NOT_FOUND);
    assert_false(rpc_client_is_leaving(script.client));

    close(script.peer.fd);
    script.peer.fd = accept(script.listen_fd, NULL, NULL);
    fixture_run(script.client, &second.calls, 0);
    script_settings(&script);
    script_headers(&script, "200", "5", true);
    fixture_run(script.client, &second.calls, 1);
    assert_int_equal(second.status, GRPC_NOT_FOUND);
    outcome_free(&second);
    script_end(&script, GRPC_NOT_FOUND, false);
}

/* The look-up is a process of its own: no call of the client waits for it. */
static void names_are_looked_up_without_blocking(void **state)
{
    (void)state;
    struct rpc_client_options options = {
        .host = "no-such-host.invalid", .port = 1, .forks_lookups = true};
    struct rpc_client *client = rpc_client_new(&options);
    struct outcome outcome = {0};

    fixture_call(client, ECHO_PATH, "hello", 0, &outcome);
    rpc_client_io(client, clock_boot_ms());
    assert_int_equal(outcome.calls, 0);
    assert_true(rpc_client_fd(client) >= 0);
    assert_int_equal(rpc_client_events(client), POLLIN);
    fixture_run(client, &outcome.calls, 1);
    assert_int_equal(outcome.status, GRPC_UNAVAILABLE);
    assert_true(outcome.is_local);
    assert_memory_equal(outcome.message, "cannot resolve the name: ", 25);
    assert_int_equal(rpc_client_fd(client), -1);
    rpc_client_free(client);
    outcome_free(&outcome);
}

/* A name server that never answers: the time of the connect covers it. */
static void a_look_up_has_an_end(void **state)
{
    (void)state;
    struct rpc_client_options options = {.host = "no-such-host.invalid",
                                         .port = 1,
                                         .forks_lookups = true,
                                         .connect_timeout_ms = 3000};
    struct rpc_client *client = rpc_client_new(&options);
    struct outcome outcome = {0};
    int64_t now_ms = clock_boot_ms();

    fixture_call(client, ECHO_PATH, "hello", 0, &outcome);
    rpc_client_io(client, now_ms - 3000);
    assert_int_equal(rpc_client_next_ms(client), now_ms);
    rpc_client_io(client, now_ms);
    if (outcome.calls == 0) /* the process was quicker than the test */
        fixture_run(client, &outcome.calls, 1);
    assert_int_equal(outcome.status, GRPC_UNAVAILABLE);
    /* One that ends in the middle of it. */
    fixture_call(client, ECHO_PATH, "hello", 0, &outcome);
    rpc_client_io(client, now_ms);
    rpc_client_free(client);
    assert_int_equal(outcome.calls, 2);
    assert_int_equal(outcome.status, GRPC_CANCELLED);
    outcome_free(&outcome);
}

static void random_bytes_end_every_call_once(void **state)
{
    (void)state;
    uint32_t random = 7;

    for (int round = 0; round < 300; round++) {
        struct script script;
        uint8_t garbage[200];
        script_start(&script, 0);
        script_settings(&script);
        for (size_t i = 0; i < sizeof(garbage); i++) {
            random = random * 1664525 + 1013904223;
            garbage[i] = (uint8_t)(random >> 24);
        }
        memset(garbage, 0, 9); /* the head of a short frame on stream 1 */
        garbage[2] = (uint8_t)(random % 60);
        garbage[3] = (uint8_t)(round % 10);
        garbage[4] = (uint8_t)(random >> 8);
        garbage[8] = 1;
        peer_write(&script.peer, bytes_of(garbage, sizeof(garbage)));
        shutdown(script.peer.fd, SHUT_WR);
        fixture_run(script.client, &script.outcome.calls, 1);
        assert_int_not_equal(script.outcome.status, GRPC_OK);
        script_end(&script, script.outcome.status, script.outcome.is_local);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trailers_only),
        cmocka_unit_test(answers_without_grpc_status),
        cmocka_unit_test(status_that_is_no_number),
        cmocka_unit_test(ok_with_a_wrong_message),
        cmocka_unit_test(resets_have_their_status),
        cmocka_unit_test(a_server_of_another_protocol),
        cmocka_unit_test(a_server_that_hangs_up),
        cmocka_unit_test(a_server_that_falls_silent),
        cmocka_unit_test(goaway_that_refuses_the_call),
        cmocka_unit_test(calls_wait_at_goaway_if_wanted),
        cmocka_unit_test(names_are_looked_up_without_blocking),
        cmocka_unit_test(a_look_up_has_an_end),
        cmocka_unit_test(random_bytes_end_every_call_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
