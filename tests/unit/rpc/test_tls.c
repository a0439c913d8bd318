/* SPDX-License-Identifier: Apache-2.0 */
/* TLS between our server and our client, and what peers see that do it wrong or slowly. */
#define ERR_STATE OPENSSL_ERR_STATE
#include <openssl/ssl.h>
#undef ERR_STATE

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "certs.h"
#include "fixture.h"

static struct cert *ca, *other_ca, *server_cert, *client_cert, *foreign_cert;

static int make_certs(void **state)
{
    (void)state;
    (void)signal(SIGPIPE, SIG_IGN); /* for this test's own SSL_write to sockets that are closed */
    ca = cert_new("ca", NULL);
    other_ca = cert_new("another ca", NULL);
    server_cert = cert_new("127.0.0.1", ca);
    client_cert = cert_new("client", ca);
    foreign_cert = cert_new("client", other_ca);
    return 0;
}

static int free_certs(void **state)
{
    (void)state;
    cert_free(ca);
    cert_free(other_ca);
    cert_free(server_cert);
    cert_free(client_cert);
    cert_free(foreign_cert);
    return 0;
}

static struct rpc_tls_options server_options(void)
{
    return (struct rpc_tls_options){.certificate_path = server_cert->pem_path,
                                    .key_path = server_cert->key_path};
}

static struct rpc_tls_options client_options(void)
{
    return (struct rpc_tls_options){.ca_path = ca->pem_path};
}

/* One call that must end with this status; the message is in `outcome`. */
static void call_once(struct fixture *f, const struct rpc_tls_options *tls, int status,
                      struct outcome *outcome)
{
    struct rpc_client *client = fixture_client_tls(f, tls);

    *outcome = (struct outcome){0};
    fixture_call(client, ECHO_PATH, "hello", 10000, outcome);
    fixture_run(client, &outcome->calls, 1);
    rpc_client_free(client);
    outcome_free(outcome);
    if (outcome->status != status)
        fail_msg("status %d, not %d: %s", outcome->status, status, outcome->message);
}

static void calls_pass(void **state)
{
    (void)state;
    struct rpc_tls_options server = server_options(), peer = client_options();
    struct fixture *f = fixture_new_tls(NULL, &server);
    struct rpc_client *client = fixture_client_tls(f, &peer);
    struct buf body = {0}, large = {0};

    assert_int_equal(fixture_ask(client, ECHO_PATH, bytes_str("hello"), &body, NULL), GRPC_OK);
    assert_string_equal(buf_cstr(&body), "hello");
    /* Larger than a record, a read and a flow-control window, both ways. */
    buf_clear(&body);
    buf_reserve(&large, 4000000);
    for (size_t i = 0; i < 4000000; i++)
        buf_append_byte(&large, (uint8_t)(i * 7));
    assert_int_equal(fixture_ask(client, ECHO_PATH, buf_bytes(&large), &body, NULL), GRPC_OK);
    assert_true(bytes_equal(buf_bytes(&body), buf_bytes(&large)));
    struct err_text why;
    assert_int_equal(fixture_ask(client, FAIL_PATH, bytes_str("100 % wrong\n"), NULL, &why),
                     GRPC_NOT_FOUND);
    buf_free(&body);
    buf_free(&large);
    rpc_client_free(client);
    fixture_free(f);
}

static void many_calls_at_once(void **state)
{
    (void)state;
    enum { CALLS = 500 };
    struct rpc_tls_options server = server_options(), peer = client_options();
    struct fixture *f = fixture_new_tls(NULL, &server);
    struct rpc_client *client = fixture_client_tls(f, &peer);
    struct outcome outcome = {0};

    for (int i = 0; i < CALLS; i++)
        fixture_call(client, SIZE_PATH, "30000", 0, &outcome);
    fixture_run(client, &outcome.calls, CALLS);
    assert_int_equal(outcome.body.len, CALLS * 30002);
    outcome_free(&outcome);
    rpc_client_free(client);
    fixture_wait(f, &f->sent, CALLS);
    fixture_free(f);
}

static void clients_must_show_a_certificate(void **state)
{
    (void)state;
    struct rpc_tls_options server = server_options(), peer = client_options();
    struct outcome outcome;

    server.ca_path = ca->pem_path;
    struct fixture *f = fixture_new_tls(NULL, &server);
    call_once(f, &peer, GRPC_UNAVAILABLE, &outcome);
    peer.certificate_path = foreign_cert->pem_path;
    peer.key_path = foreign_cert->key_path;
    call_once(f, &peer, GRPC_UNAVAILABLE, &outcome);
    peer.certificate_path = client_cert->pem_path;
    peer.key_path = client_cert->key_path;
    call_once(f, &peer, GRPC_OK, &outcome);
    fixture_free(f);
}

static void servers_must_be_who_they_should(void **state)
{
    (void)state;
    struct rpc_tls_options server = server_options(), peer = client_options();
    struct fixture *f = fixture_new_tls(NULL, &server);
    struct outcome outcome;

    peer.ca_path = other_ca->pem_path;
    call_once(f, &peer, GRPC_UNAVAILABLE, &outcome);
    assert_non_null(strstr(outcome.message, "the certificate of the peer is refused"));
    peer = client_options();
    peer.name = "broker.example";
    call_once(f, &peer, GRPC_UNAVAILABLE, &outcome);
    assert_non_null(strstr(outcome.message, "hostname mismatch"));
    peer.name = "";
    call_once(f, &peer, GRPC_UNAVAILABLE, &outcome);
    peer.name = "127.0.0.1";
    call_once(f, &peer, GRPC_OK, &outcome);
    fixture_free(f);
}

static void plain_and_tls_do_not_mix(void **state)
{
    (void)state;
    struct rpc_tls_options server = server_options(), peer = client_options();
    struct fixture *secure = fixture_new_tls(NULL, &server), *plain = fixture_new(NULL, NULL, 1);
    struct rpc_client *client = fixture_client(secure, NULL);
    struct outcome outcome = {0};

    call_once(plain, &peer, GRPC_UNAVAILABLE, &outcome);
    outcome = (struct outcome){0};
    fixture_call(client, ECHO_PATH, "hello", 10000, &outcome);
    fixture_run(client, &outcome.calls, 1);
    assert_int_equal(outcome.status, GRPC_UNAVAILABLE);
    outcome_free(&outcome);
    rpc_client_free(client);
    fixture_free(plain);
    fixture_free(secure);
}

/* --- files ------------------------------------------------------------------------------------ */

static void assert_names(int rv, const struct err_text *why, const char *path)
{
    assert_true(rv < 0);
    assert_non_null(strstr(why->s, path));
}

static void bad_files_are_named(void **state)
{
    (void)state;
    struct rpc_tls_options options = server_options();
    struct rpc_tls *tls;
    struct err_text why;

    options.certificate_path = "/nowhere.pem";
    assert_names(rpc_tls_server_new(&tls, &options, &why), &why, "/nowhere.pem");
    assert_non_null(strstr(why.s, "No such file"));
    options = server_options();
    options.key_path = "/nowhere.key";
    assert_names(rpc_tls_server_new(&tls, &options, &why), &why, "/nowhere.key");
    options.key_path = client_cert->key_path;
    assert_names(rpc_tls_server_new(&tls, &options, &why), &why, client_cert->key_path);
    assert_non_null(strstr(why.s, "is not the private key of the certificate in"));
    options.key_path = server_cert->pem_path;
    assert_names(rpc_tls_server_new(&tls, &options, &why), &why, server_cert->pem_path);
    options = server_options();
    options.ca_path = server_cert->key_path;
    assert_names(rpc_tls_server_new(&tls, &options, &why), &why, server_cert->key_path);
    options = client_options();
    options.key_path = client_cert->key_path;
    assert_names(rpc_tls_client_new(&tls, &options, &why), &why, client_cert->key_path);
}

static void reload_takes_new_files(void **state)
{
    (void)state;
    struct cert *cert = cert_new("127.0.0.1", ca), *fresh = cert_new("127.0.0.1", other_ca);
    struct rpc_tls_options server = {.certificate_path = cert->pem_path,
                                     .key_path = cert->key_path};
    struct rpc_tls_options peer = client_options(), new_peer = {.ca_path = other_ca->pem_path};
    struct fixture *f = fixture_new_tls(NULL, &server);
    struct rpc_client *client = fixture_client_tls(f, &peer);
    struct outcome outcome;
    struct err_text why;

    assert_int_equal(fixture_ask(client, ECHO_PATH, bytes_str("a"), NULL, NULL), GRPC_OK);
    assert_int_equal(rpc_server_reload_tls(f->server, &why), 0);
    call_once(f, &peer, GRPC_OK, &outcome);
    FILE *file = fopen(cert->pem_path, "w");
    (void)fclose(file);
    assert_names(rpc_server_reload_tls(f->server, &why), &why, cert->pem_path);
    call_once(f, &peer, GRPC_OK, &outcome); /* nothing has changed */
    cert_copy_files(fresh, cert);
    assert_int_equal(rpc_server_reload_tls(f->server, &why), 0);
    call_once(f, &peer, GRPC_UNAVAILABLE, &outcome);
    call_once(f, &new_peer, GRPC_OK, &outcome);
    /* The old connection is as good as before. */
    assert_int_equal(fixture_ask(client, ECHO_PATH, bytes_str("a"), NULL, NULL), GRPC_OK);
    rpc_client_free(client);
    fixture_free(f);
    cert_free(cert);
    cert_free(fresh);
}

/* --- strangers -------------------------------------------------------------------------------- */

static int connect_to(const struct fixture *f)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(rpc_server_port(f->server)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void wait_end(int fd)
{
    struct pollfd pollfd = {.fd = fd, .events = POLLIN};
    char bytes[4096];

    do
        assert_int_equal(poll(&pollfd, 1, FIXTURE_WAIT_S * 1000), 1);
    while (recv(fd, bytes, sizeof(bytes), 0) > 0);
}

static void slow_handshakes_time_out(void **state)
{
    (void)state;
    struct rpc_limits limits = {.preface_timeout_ms = 50};
    struct rpc_tls_options server = server_options(), peer = client_options();
    struct fixture *f = fixture_new_tls(&limits, &server);
    int silent = connect_to(f), half = connect_to(f);
    struct outcome outcome;

    assert_int_equal(send(half, "\x16\x03\x01\x02\x00\x01", 6, MSG_NOSIGNAL), 6);
    wait_end(silent);
    wait_end(half);
    close(silent);
    close(half);
    limits.preface_timeout_ms = 0;
    call_once(f, &peer, GRPC_OK, &outcome);
    fixture_free(f);
}

/* Strangers who do not finish cannot keep honest peers out: the oldest make room after a while. */
static void handshakes_are_bounded(void **state)
{
    (void)state;
    enum { STRANGERS = 12, LIMIT = 4 };
    struct rpc_limits limits = {.handshakes = LIMIT};
    struct rpc_tls_options server = server_options(), peer = client_options();
    struct fixture *f = fixture_new_tls(&limits, &server);
    int fds[STRANGERS];
    struct outcome outcome = {.status = GRPC_UNAVAILABLE};

    for (int i = 0; i < STRANGERS; i++)
        fds[i] = connect_to(f);
    for (int i = LIMIT; i < STRANGERS; i++)
        wait_end(fds[i]); /* refused at once: those before are young */
    struct rpc_client *client = fixture_client_tls(f, &peer);
    while (outcome.status == GRPC_UNAVAILABLE) {
        fixture_call(client, ECHO_PATH, "hello", 10000, &outcome);
        fixture_run(client, &outcome.calls, outcome.calls + 1);
    }
    assert_int_equal(outcome.status, GRPC_OK);
    wait_end(fds[0]); /* the oldest had its time */
    for (int i = 0; i < STRANGERS; i++)
        close(fds[i]);
    outcome_free(&outcome);
    rpc_client_free(client);
    fixture_free(f);
}

static SSL *handshake(int fd, int max_version, const char *alpn)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());

    SSL_CTX_set_max_proto_version(ctx, max_version);
    if (alpn)
        SSL_CTX_set_alpn_protos(ctx, (const unsigned char *)alpn, (unsigned int)strlen(alpn));
    SSL *ssl = SSL_new(ctx);
    SSL_CTX_free(ctx);
    SSL_set_fd(ssl, fd);
    if (SSL_connect(ssl) != 1) {
        SSL_free(ssl);
        return NULL;
    }
    return ssl;
}

struct hello {
    int version;
    const char *alpn;
    bool is_good;
};

static void http2_and_tls_1_2_are_required(void **state)
{
    (void)state;
    static const struct hello hellos[] = {
        {TLS1_3_VERSION, "\2h2", true},
        {TLS1_2_VERSION, "\2h2", true},
        {TLS1_2_VERSION, "\x08http/1.1\2h2", true},
        {TLS1_3_VERSION, "\x08http/1.1", false},
        {TLS1_1_VERSION, "\2h2", false},
    };
    struct rpc_tls_options server = server_options();
    struct fixture *f = fixture_new_tls(NULL, &server);

    for (size_t i = 0; i < sizeof(hellos) / sizeof(hellos[0]); i++) {
        int fd = connect_to(f);
        SSL *ssl = handshake(fd, hellos[i].version, hellos[i].alpn);
        assert_int_equal(ssl != NULL, hellos[i].is_good);
        SSL_free(ssl);
        close(fd);
    }
    /* Without ALPN the handshake ends well, but then it is over. */
    int fd = connect_to(f);
    SSL *ssl = handshake(fd, TLS1_3_VERSION, NULL);
    assert_non_null(ssl);
    wait_end(fd);
    SSL_free(ssl);
    close(fd);
    fixture_free(f);
}

/* A reply that the peer does not take comes back as not sent (INV-5), with TLS as without. */
static void undelivered_replies_come_back(void **state)
{
    (void)state;
    struct rpc_tls_options server = server_options(), peer = client_options();
    struct fixture *f = fixture_new_tls(NULL, &server);
    struct rpc_client *client = fixture_client_tls(f, &peer);
    struct outcome outcome = {0};

    assert_int_equal(fixture_ask(client, INLINE_PATH, bytes_str("a"), NULL, NULL), GRPC_OK);
    fixture_call(client, HOLD_PATH, "", 0, &outcome);
    fixture_run_until(f, client, &f->started, 1);
    rpc_client_free(client); /* gone before the reply */
    fixture_wait(f, &f->cancelled, 1);
    fixture_reply(fixture_held(f), GRPC_OK, NULL, "a claim");
    fixture_wait(f, &f->unsent, 1);
    assert_int_equal(fixture_count(f, &f->sent), 0);
    outcome_free(&outcome);
    fixture_free(f);
}

/* Socket buffers fill up: what was accepted counts as sent, what was not comes back. */
static void stalled_readers_lose_what_was_not_sent(void **state)
{
    (void)state;
    enum { CALLS = 40 };
    struct rpc_limits limits = {.write_timeout_ms = 200};
    struct rpc_tls_options server = server_options(), peer = client_options();
    struct fixture *f = fixture_new_tls(&limits, &server);
    struct rpc_client *client = fixture_client_tls(f, &peer);
    struct outcome outcome = {0};

    for (int i = 0; i < CALLS; i++)
        fixture_call(client, SIZE_PATH, "1000000", 0, &outcome);
    rpc_client_io(client, clock_boot_ms());
    while (rpc_server_open_streams(f->server) == 0 && outcome.calls == 0) {
        struct pollfd pollfd = {.fd = rpc_client_fd(client), .events = rpc_client_events(client)};
        (void)poll(&pollfd, 1, 1000);
        rpc_client_io(client, clock_boot_ms());
    }
    fixture_wait_no_streams(f); /* nothing is read here meanwhile */
    pthread_mutex_lock(&f->lock);
    size_t sent = f->sent, unsent = f->unsent;
    pthread_mutex_unlock(&f->lock);
    assert_true(sent >= 1 && unsent >= 1);
    assert_true(sent + unsent <= CALLS);
    rpc_client_free(client);
    outcome_free(&outcome);
    fixture_free(f);
}

/* Each costs a key derivation and brings nothing: counted like other useless frames. */
static void key_updates_are_bounded(void **state)
{
    (void)state;
    struct rpc_tls_options server = server_options(), peer = client_options();
    struct fixture *f = fixture_new_tls(NULL, &server);
    int fd = connect_to(f);
    SSL *ssl = handshake(fd, TLS1_3_VERSION, "\2h2");
    struct outcome outcome;
    int updates = 0;

    assert_non_null(ssl);
    while (updates < 100000 && SSL_key_update(ssl, SSL_KEY_UPDATE_NOT_REQUESTED) == 1 &&
           SSL_do_handshake(ssl) == 1)
        updates++;
    assert_in_range(updates, 5000, 99999);
    call_once(f, &peer, GRPC_OK, &outcome);
    SSL_free(ssl);
    close(fd);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_pass),
        cmocka_unit_test(many_calls_at_once),
        cmocka_unit_test(clients_must_show_a_certificate),
        cmocka_unit_test(servers_must_be_who_they_should),
        cmocka_unit_test(plain_and_tls_do_not_mix),
        cmocka_unit_test(bad_files_are_named),
        cmocka_unit_test(reload_takes_new_files),
        cmocka_unit_test(slow_handshakes_time_out),
        cmocka_unit_test(handshakes_are_bounded),
        cmocka_unit_test(http2_and_tls_1_2_are_required),
        cmocka_unit_test(undelivered_replies_come_back),
        cmocka_unit_test(stalled_readers_lose_what_was_not_sent),
        cmocka_unit_test(key_updates_are_bounded),
    };

    return cmocka_run_group_tests(tests, make_certs, free_certs);
}
