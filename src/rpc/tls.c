/* SPDX-License-Identifier: Apache-2.0 */
/* OpenSSL has a type of the name of one of our codes. */
#define ERR_STATE OPENSSL_ERR_STATE
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#undef ERR_STATE

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/mem.h"
#include "rpc/tls.h"

/* Of TLS 1.2; those of 1.3 are all good. RFC 9113, 9.2.2 forbids most others. */
#define CIPHERS "ECDHE+AESGCM:ECDHE+CHACHA20"

static const unsigned char alpn_h2[] = {2, 'h', '2'};

struct rpc_tls {
    _Atomic uint32_t refs;
    SSL_CTX *ctx;
    char *name;
};

/* --- files ----------------------------------------------------------------------------------- */

/* The newest reason that OpenSSL gives; its errors of this thread are forgotten. */
static const char *take_reason(void)
{
    unsigned long code = ERR_peek_last_error();
    const char *text = code ? ERR_reason_error_string(code) : NULL;

    ERR_clear_error();
    return text ? text : "unknown cause";
}

/* Tells a file that cannot be read from one that can but is not what it should be. */
static int bad_file(const char *path, const char *what, struct err_text *why)
{
    const char *reason = take_reason();
    FILE *file = fopen(path, "re");

    if (!file)
        return err_set(why, ERR_IO, "%s: cannot read the %s: %s", path, what, strerror(errno));
    (void)fclose(file);
    return err_set(why, ERR_MALFORMED, "%s: not a usable %s in PEM: %s", path, what, reason);
}

/* A key with a passphrase is an error, not a prompt on the terminal. */
static int no_passphrase(char *buf, int size, int is_write, void *user)
{
    (void)buf, (void)size, (void)is_write, (void)user;
    return -1;
}

static int use_certificate(SSL_CTX *ctx, const struct rpc_tls_options *options,
                           struct err_text *why)
{
    SSL_CTX_set_default_passwd_cb(ctx, no_passphrase);
    if (SSL_CTX_use_certificate_chain_file(ctx, options->certificate_path) != 1)
        return bad_file(options->certificate_path, "certificate", why);
    if (SSL_CTX_use_PrivateKey_file(ctx, options->key_path, SSL_FILETYPE_PEM) != 1) {
        unsigned long code = ERR_peek_last_error();
        if (ERR_GET_LIB(code) != ERR_LIB_X509)
            return bad_file(options->key_path, "private key without a passphrase", why);
        ERR_clear_error();
        return err_set(why, ERR_INVALID, "%s: is not the private key of the certificate in %s",
                       options->key_path, options->certificate_path);
    }
    return 0;
}

static int use_authorities(SSL_CTX *ctx, const char *path, struct err_text *why)
{
    if (SSL_CTX_load_verify_locations(ctx, path, NULL) != 1)
        return bad_file(path, "file of authorities", why);
    return 0;
}

/* --- contexts -------------------------------------------------------------------------------- */

static SSL_CTX *new_context(const SSL_METHOD *method)
{
    SSL_CTX *ctx = SSL_CTX_new(method);

    if (!ctx)
        return NULL;
    SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                              SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    if (SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1 ||
        SSL_CTX_set_cipher_list(ctx, CIPHERS) != 1 || SSL_CTX_set_num_tickets(ctx, 0) != 1) {
        SSL_CTX_free(ctx);
        return NULL;
    }
    return ctx;
}

static int choose_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len,
                       const unsigned char *offered, unsigned int offered_len, void *user)
{
    (void)ssl, (void)user;
    unsigned char *chosen;

    if (SSL_select_next_proto(&chosen, out_len, alpn_h2, sizeof(alpn_h2), offered, offered_len) !=
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

static int finish_new(struct rpc_tls **out, SSL_CTX *ctx, const char *name)
{
    *out = (struct rpc_tls *)mem_zalloc(sizeof(**out));
    atomic_init(&(*out)->refs, 1);
    (*out)->ctx = ctx;
    (*out)->name = name ? mem_strdup(name) : NULL;
    return 0;
}

static int require_clients(SSL_CTX *ctx, const char *path, struct err_text *why)
{
    int rv = use_authorities(ctx, path, why);

    if (rv != 0)
        return rv;
    SSL_CTX_set_client_CA_list(ctx, SSL_load_client_CA_file(path)); /* so that clients can choose */
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    return 0;
}

int rpc_tls_server_new(struct rpc_tls **out, const struct rpc_tls_options *options,
                       struct err_text *why)
{
    SSL_CTX *ctx = new_context(TLS_server_method());
    int rv;

    if (!ctx)
        return err_set(why, ERR_SYSTEM, "TLS cannot be set up: %s", take_reason());
    SSL_CTX_set_alpn_select_cb(ctx, choose_alpn, NULL);
    rv = use_certificate(ctx, options, why);
    if (rv == 0 && options->ca_path)
        rv = require_clients(ctx, options->ca_path, why);
    if (rv == 0)
        return finish_new(out, ctx, NULL);
    SSL_CTX_free(ctx);
    return rv;
}

int rpc_tls_client_new(struct rpc_tls **out, const struct rpc_tls_options *options,
                       struct err_text *why)
{
    SSL_CTX *ctx;
    int rv = 0;

    if (!options->certificate_path != !options->key_path)
        return err_set(why, ERR_INVALID, "%s: a certificate and its key go together: give both",
                       options->certificate_path ? options->certificate_path : options->key_path);
    ctx = new_context(TLS_client_method());
    if (!ctx || SSL_CTX_set_alpn_protos(ctx, alpn_h2, sizeof(alpn_h2)) != 0) {
        rv = err_set(why, ERR_SYSTEM, "TLS cannot be set up: %s", take_reason());
        goto fail;
    }
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    if (options->ca_path)
        rv = use_authorities(ctx, options->ca_path, why);
    else if (SSL_CTX_set_default_verify_paths(ctx) != 1)
        rv = err_set(why, ERR_SYSTEM, "the system's authorities cannot be read: %s", take_reason());
    if (rv == 0 && options->certificate_path)
        rv = use_certificate(ctx, options, why);
    if (rv == 0)
        return finish_new(out, ctx, options->name);

fail:
    SSL_CTX_free(ctx);
    return rv;
}

struct rpc_tls *rpc_tls_ref(struct rpc_tls *tls)
{
    if (tls)
        atomic_fetch_add_explicit(&tls->refs, 1, memory_order_relaxed);
    return tls;
}

void rpc_tls_unref(struct rpc_tls *tls)
{
    if (!tls || atomic_fetch_sub_explicit(&tls->refs, 1, memory_order_acq_rel) != 1)
        return;
    SSL_CTX_free(tls->ctx);
    mem_free(tls->name);
    mem_free(tls);
}

/* --- the socket under a stream --------------------------------------------------------------- */

struct tls_stream {
    SSL *ssl;
    int fd;
    size_t budget;   /* bytes that may still be taken from the socket in this call */
    bool is_end;     /* the peer has closed its side */
    bool is_secure;  /* the handshake is done */
    bool has_failed; /* nothing may be said any more */
    bool wants_write;
    uint32_t chatter;
};

static int socket_read(BIO *bio, char *ptr, int len)
{
    struct tls_stream *stream = (struct tls_stream *)BIO_get_data(bio);
    ssize_t rv;

    BIO_clear_retry_flags(bio);
    if (stream->budget == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    do
        rv = recv(stream->fd, ptr, (size_t)len, MSG_DONTWAIT);
    while (rv < 0 && errno == EINTR);
    if (rv == 0)
        stream->is_end = true;
    else if (rv > 0)
        stream->budget -= (size_t)rv < stream->budget ? (size_t)rv : stream->budget;
    else if (errno == EAGAIN || errno == EWOULDBLOCK)
        BIO_set_retry_read(bio);
    return (int)rv;
}

static int socket_write(BIO *bio, const char *ptr, int len)
{
    const struct tls_stream *stream = (const struct tls_stream *)BIO_get_data(bio);
    ssize_t rv;

    BIO_clear_retry_flags(bio);
    do
        rv = send(stream->fd, ptr, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (rv < 0 && errno == EINTR);
    if (rv < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        BIO_set_retry_write(bio);
    return (int)rv;
}

static long socket_ctrl(BIO *bio, int command, long number, void *ptr)
{
    (void)bio, (void)number, (void)ptr;
    return command == BIO_CTRL_FLUSH;
}

static BIO_METHOD *socket_method;

static void make_socket_method(void)
{
    BIO_METHOD *method = BIO_meth_new(BIO_TYPE_SOURCE_SINK | BIO_get_new_index(), "taskmill");

    assert(method); /* fails only without memory */
    BIO_meth_set_read(method, socket_read);
    BIO_meth_set_write(method, socket_write);
    BIO_meth_set_ctrl(method, socket_ctrl);
    socket_method = method;
}

static BIO *new_socket_bio(struct tls_stream *stream)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, make_socket_method);
    BIO *bio = BIO_new(socket_method);

    assert(bio); /* fails only without memory */
    BIO_set_data(bio, stream);
    BIO_set_init(bio, 1);
    return bio;
}

/* --- streams --------------------------------------------------------------------------------- */

static void on_message(int is_write, int version, int content_type, const void *ptr, size_t len,
                       SSL *ssl, void *user)
{
    (void)version, (void)ptr, (void)len, (void)ssl;
    struct tls_stream *stream = (struct tls_stream *)user;

    if (!is_write && content_type == SSL3_RT_HANDSHAKE && stream->is_secure)
        stream->chatter++;
}

static bool is_ip(const char *host)
{
    unsigned char address[sizeof(struct in6_addr)];

    return inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
}

/* Whom the certificate must name. An empty name matches none, as it should. */
static bool expect_name(SSL *ssl, const char *name)
{
    if (is_ip(name))
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1;
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set1_host(ssl, name) == 1 && SSL_set_tlsext_host_name(ssl, name) == 1;
}

struct tls_stream *tls_stream_new(struct rpc_tls *tls, int fd, const char *host)
{
    struct tls_stream *stream = (struct tls_stream *)mem_zalloc(sizeof(*stream));
    BIO *bio = new_socket_bio(stream);

    stream->fd = fd;
    stream->ssl = SSL_new(tls->ctx);
    assert(stream->ssl); /* fails only without memory */
    SSL_set_bio(stream->ssl, bio, bio);
    SSL_set_msg_callback(stream->ssl, on_message);
    SSL_set_msg_callback_arg(stream->ssl, stream);
    if (host) {
        SSL_set_connect_state(stream->ssl);
        /* A name that cannot be asked for cannot be shown either: the handshake would fail. */
        stream->has_failed = !expect_name(stream->ssl, tls->name ? tls->name : host);
    } else {
        SSL_set_accept_state(stream->ssl);
    }
    return stream;
}

void tls_stream_free(struct tls_stream *stream)
{
    if (!stream)
        return;
    ERR_clear_error();
    if (stream->is_secure && !stream->has_failed)
        (void)SSL_shutdown(stream->ssl); /* one attempt; the socket closes in any case */
    ERR_clear_error();
    SSL_free(stream->ssl);
    mem_free(stream);
}

bool tls_stream_wants_write(const struct tls_stream *stream)
{
    return stream->wants_write;
}

uint32_t tls_stream_take_chatter(struct tls_stream *stream)
{
    uint32_t count = stream->chatter;

    stream->chatter = 0;
    return count;
}

/* Why the peer's certificate was refused, if it was. */
static int note_failure(const struct tls_stream *stream, int error, struct err_text *why)
{
    long verify = SSL_get_verify_result(stream->ssl);

    if (stream->is_end) {
        ERR_clear_error();
        return err_set(why, ERR_CLOSED, "TLS: connection closed by the peer");
    }
    if (!stream->is_secure && verify != X509_V_OK) {
        ERR_clear_error();
        return err_set(why, ERR_DENIED, "TLS: the certificate of the peer is refused: %s",
                       X509_verify_cert_error_string(verify));
    }
    if (error == SSL_ERROR_SYSCALL && ERR_peek_last_error() == 0)
        return err_set(why, ERR_IO, "TLS: %s", strerror(errno));
    return err_set(why, ERR_IO, "TLS: %s", take_reason());
}

/* What became of an operation that did not succeed. */
static int conclude(struct tls_stream *stream, int rv, struct err_text *why)
{
    int error = SSL_get_error(stream->ssl, rv);

    stream->wants_write = error == SSL_ERROR_WANT_WRITE;
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
        return ERR_BUSY;
    if (error == SSL_ERROR_ZERO_RETURN) {
        stream->is_end = true;
        return err_set(why, ERR_CLOSED, "TLS: connection closed by the peer");
    }
    stream->has_failed = true;
    return note_failure(stream, error, why);
}

static bool speaks_h2(const SSL *ssl)
{
    const unsigned char *name;
    unsigned int len;

    SSL_get0_alpn_selected(ssl, &name, &len);
    return len == alpn_h2[0] && memcmp(name, alpn_h2 + 1, len) == 0;
}

int tls_stream_handshake(struct tls_stream *stream, struct err_text *why)
{
    if (stream->is_secure)
        return 0;
    if (stream->has_failed)
        return err_set(why, ERR_INVALID, "TLS: not a name that a certificate could have");
    ERR_clear_error();
    stream->budget = (size_t)4 * TLS_RECORD_MAX;
    int rv = SSL_do_handshake(stream->ssl);
    if (rv != 1)
        return conclude(stream, rv, why);
    stream->wants_write = false;
    if (!speaks_h2(stream->ssl)) {
        stream->has_failed = true;
        return err_set(why, ERR_UNSUPPORTED, "TLS: the peer does not speak HTTP/2 (ALPN h2)");
    }
    stream->is_secure = true;
    return 0;
}

ssize_t tls_stream_read(struct tls_stream *stream, void *ptr, size_t len, struct err_text *why)
{
    size_t done = 0, more;

    assert(len >= TLS_RECORD_MAX);
    ERR_clear_error();
    stream->budget = len;
    stream->wants_write = false;
    while (len - done >= TLS_RECORD_MAX) {
        int rv = SSL_read_ex(stream->ssl, (uint8_t *)ptr + done, len - done, &more);

        if (rv != 1) {
            int code = conclude(stream, rv, why);
            if (stream->is_end || code == ERR_BUSY)
                return done > 0 ? (ssize_t)done : stream->is_end ? 0 : ERR_BUSY;
            return code;
        }
        done += more;
    }
    return (ssize_t)done;
}

ssize_t tls_stream_write(struct tls_stream *stream, const void *ptr, size_t len,
                         struct err_text *why)
{
    size_t done = 0, more;

    if (stream->has_failed)
        return err_set(why, ERR_CLOSED, "TLS: connection lost");
    ERR_clear_error();
    stream->budget = TLS_RECORD_MAX;
    while (done < len) {
        int rv = SSL_write_ex(stream->ssl, (const uint8_t *)ptr + done, len - done, &more);

        if (rv != 1) {
            int code = conclude(stream, rv, why);
            /* What the kernel has taken counts even if the connection has failed meanwhile. */
            return done > 0 ? (ssize_t)done : code;
        }
        done += more;
    }
    stream->wants_write = false;
    return (ssize_t)done;
}
