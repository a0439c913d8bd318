/* SPDX-License-Identifier: Apache-2.0 */
#include "peer.h"

#include "wire/consumer.h"

static int check(struct rpc_client *client, const char *service, enum health_status *status)
{
    struct buf request = {0}, response = {0};
    const char *why;

    health_request_encode(bytes_str(service), &request);
    int rv = fixture_ask(client, HEALTH_CHECK, buf_bytes(&request), &response, NULL);
    if (rv == GRPC_OK)
        assert_int_equal(health_response_decode(buf_bytes(&response), status, &why), 0);
    buf_free(&request);
    buf_free(&response);
    return rv;
}

static void check_tells_what_was_set(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, "secret", 2); /* health needs no signature */
    struct rpc_client *client = fixture_client(f, NULL);
    enum health_status status;
    struct err_text why;

    assert_int_equal(check(client, "", &status), GRPC_OK);
    assert_int_equal(status, HEALTH_SERVING);
    assert_int_equal(check(client, CONSUMER_SERVICE, &status), GRPC_NOT_FOUND);
    rpc_server_set_health(f->server, CONSUMER_SERVICE, HEALTH_NOT_SERVING);
    assert_int_equal(check(client, CONSUMER_SERVICE, &status), GRPC_OK);
    assert_int_equal(status, HEALTH_NOT_SERVING);
    rpc_server_set_health(f->server, CONSUMER_SERVICE, HEALTH_SERVING);
    assert_int_equal(check(client, CONSUMER_SERVICE, &status), GRPC_OK);
    assert_int_equal(status, HEALTH_SERVING);

    assert_int_equal(fixture_ask(client, HEALTH_CHECK, bytes_str("\x0a\x05x"), NULL, NULL),
                     GRPC_INTERNAL);
    assert_int_equal(fixture_ask(client, "/" HEALTH_SERVICE "/List", bytes_of(NULL, 0), NULL, &why),
                     GRPC_UNIMPLEMENTED);
    rpc_client_free(client);
    fixture_free(f);
}

static void watch(struct peer *peer, int32_t stream_id, const char *service)
{
    struct buf request = {0}, body = {0};

    health_request_encode(bytes_str(service), &request);
    buf_append(&body, "\0\0\0\0", 4);
    buf_append_byte(&body, (uint8_t)request.len);
    buf_append(&body, request.ptr, request.len);
    peer_request(peer, stream_id, HEALTH_WATCH, 0);
    peer_data(peer, stream_id, buf_bytes(&body), true);
    buf_free(&request);
    buf_free(&body);
}

/* The status that comes next on the stream. */
static int next_status(struct peer *peer, int32_t stream_id)
{
    struct peer_frame frame;
    enum health_status status;
    const char *why;

    assert_true(peer_expect(peer, NGHTTP2_DATA, stream_id, &frame));
    assert_true(frame.payload.len >= 5);
    struct bytes message = bytes_of(frame.payload.ptr + 5, frame.payload.len - 5);
    assert_int_equal(health_response_decode(message, &status, &why), 0);
    buf_consume(&peer->in, 9 + frame.payload.len);
    return (int)status;
}

static void watch_tells_changes_and_ends_with_the_drain(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, NULL, 1);
    struct peer *peer = peer_new(rpc_server_port(f->server));

    peer_hello(peer);
    watch(peer, 1, "");
    assert_int_equal(next_status(peer, 1), HEALTH_SERVING);
    watch(peer, 3, "later");
    assert_int_equal(next_status(peer, 3), HEALTH_SERVICE_UNKNOWN);
    rpc_server_set_health(f->server, "later", HEALTH_SERVING);
    assert_int_equal(next_status(peer, 3), HEALTH_SERVING);
    rpc_server_set_health(f->server, "", HEALTH_NOT_SERVING);
    assert_int_equal(next_status(peer, 1), HEALTH_NOT_SERVING);
    rpc_server_set_health(f->server, "later", HEALTH_NOT_SERVING);
    assert_int_equal(next_status(peer, 3), HEALTH_NOT_SERVING);

    assert_int_equal(rpc_server_open_streams(f->server), 2);
    rpc_server_drain(f->server);
    assert_true(peer_expect_header(peer, 1, "grpc-status: 14\n"));
    fixture_wait_no_streams(f);
    peer_free(peer);
    fixture_free(f);
}

static void watchers_may_vanish(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, NULL, 1);
    struct peer *peer = peer_new(rpc_server_port(f->server));

    peer_hello(peer);
    for (int32_t i = 0; i < 10; i++) {
        watch(peer, 2 * i + 1, "");
        assert_int_equal(next_status(peer, 2 * i + 1), HEALTH_SERVING);
    }
    peer_frame(peer, NGHTTP2_RST_STREAM, 0, 1, bytes_of("\0\0\0\x08", 4));
    rpc_server_set_health(f->server, "", HEALTH_NOT_SERVING);
    assert_int_equal(next_status(peer, 19), HEALTH_NOT_SERVING);
    peer_free(peer);
    fixture_wait_no_streams(f);
    rpc_server_set_health(f->server, "", HEALTH_SERVING);
    fixture_free(f);
}

/* Watch reads a window of its own: a status that cannot leave yet is overtaken by the latest. */
static void closed_window_gets_the_latest_status(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(NULL, NULL, 1);
    struct peer *peer = peer_new(rpc_server_port(f->server));
    struct peer_frame frame;

    peer_hello(peer);
    peer_frame(peer, NGHTTP2_SETTINGS, 0, 0, bytes_of("\0\x04\0\0\0\0", 6)); /* window 0 */
    watch(peer, 1, "");
    assert_true(peer_expect(peer, NGHTTP2_HEADERS, 1, &frame));
    buf_consume(&peer->in, 9 + frame.payload.len);
    rpc_server_set_health(f->server, "", HEALTH_NOT_SERVING);
    /* The answer to this PING says that the change was seen. */
    peer_frame(peer, NGHTTP2_PING, 0, 0, bytes_str("12345678"));
    assert_true(peer_expect(peer, NGHTTP2_PING, 0, &frame));
    buf_consume(&peer->in, 9 + frame.payload.len);
    peer_frame(peer, NGHTTP2_WINDOW_UPDATE, 0, 1, bytes_of("\0\0\0\x64", 4));
    int status = next_status(peer, 1);
    if (status == HEALTH_SERVING) /* was a message before the change */
        status = next_status(peer, 1);
    assert_int_equal(status, HEALTH_NOT_SERVING);
    peer_free(peer);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(check_tells_what_was_set),
        cmocka_unit_test(watch_tells_changes_and_ends_with_the_drain),
        cmocka_unit_test(watchers_may_vanish),
        cmocka_unit_test(closed_window_gets_the_latest_status),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
