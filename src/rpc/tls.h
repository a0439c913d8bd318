/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS for server and client, with OpenSSL: TLS 1.2 and 1.3, ALPN "h2", forward secrecy and
 * authenticated ciphers only; no compression, no renegotiation, no session tickets (a resumed
 * session would outlive the authority that vouched for it).
 *
 *   struct rpc_tls     what was read from files: certificate, key, authorities. Immutable,
 *                      reference counted, any thread.
 *   struct tls_stream  one connection's TLS over a non-blocking socket. Owned by one thread; never
 *                      blocks, never raises SIGPIPE, does not own the socket.
 */
#ifndef TASKMILL_RPC_TLS_H
#define TASKMILL_RPC_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

struct rpc_tls;

/* PEM files. They are read by the functions below and not again. */
struct rpc_tls_options {
    /* Server: authorities of clients, each of which must then show a certificate; NULL: none asked
     * for. Client: authorities of servers; NULL: those of the system. */
    const char *ca_path;
    /* Chain and private key. Server: required. Client: both, or NULL both. The key may not have a
     * passphrase: nobody is there to type it. */
    const char *certificate_path, *key_path;
    /* Client: what the server's certificate must name; NULL: the host that is connected to. */
    const char *name;
};

/* ERR_IO, ERR_MALFORMED or ERR_INVALID with one line that names the file in why. */
int rpc_tls_server_new(struct rpc_tls **out, const struct rpc_tls_options *options,
                       struct err_text *why);
int rpc_tls_client_new(struct rpc_tls **out, const struct rpc_tls_options *options,
                       struct err_text *why);
struct rpc_tls *rpc_tls_ref(struct rpc_tls *tls); /* returns its argument; NULL is allowed */
void rpc_tls_unref(struct rpc_tls *tls);          /* the same */

/* --- streams, for the files of this room ----------------------------------------------------- */

#define TLS_RECORD_MAX 16384 /* plain bytes in one record */

struct tls_stream;

/* host (client only): name or IP literal that is connected to. */
struct tls_stream *tls_stream_new(struct rpc_tls *tls, int fd, const char *host);
/* Says goodbye (close_notify) if the handshake was done and nothing went wrong. NULL is allowed. */
void tls_stream_free(struct tls_stream *stream);
/* 0: done, both sides speak h2. ERR_BUSY: to be called again when the socket is ready. Else it has
 * failed, and why says how. */
int tls_stream_handshake(struct tls_stream *stream, struct err_text *why);
/* The socket must become writable before the stream can go on, even to read. */
bool tls_stream_wants_write(const struct tls_stream *stream);
/* Up to len (at least TLS_RECORD_MAX) bytes; 0 at the end; ERR_BUSY: none now; else why. Takes at
 * most about len bytes from the socket, so that records without content cannot hold the thread; no
 * plain bytes stay behind in the stream, so that waiting for the socket is enough. */
ssize_t tls_stream_read(struct tls_stream *stream, void *ptr, size_t len, struct err_text *why);
/* How many bytes were accepted: their records are in the kernel. ERR_BUSY: none now, and the next
 * attempt must begin with the same bytes. Else why. */
ssize_t tls_stream_write(struct tls_stream *stream, const void *ptr, size_t len,
                         struct err_text *why);
/* Handshake messages that came after the handshake, since the last call: key updates and attempts
 * to renegotiate. Each costs us work and brings nothing. */
uint32_t tls_stream_take_chatter(struct tls_stream *stream);

#endif
