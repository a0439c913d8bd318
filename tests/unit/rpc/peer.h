/* SPDX-License-Identifier: Apache-2.0 */
/* A client that can send any bytes: frames are made by hand, so that they can be wrong. Blocking; a
 * read that gets nothing for PEER_WAIT_S fails the test. */
#ifndef TASKMILL_TEST_RPC_PEER_H
#define TASKMILL_TEST_RPC_PEER_H

#include <nghttp2/nghttp2.h>

#include "fixture.h"

#define PEER_WAIT_S 20

struct peer {
    int fd;
    nghttp2_hd_inflater *inflater;
    struct buf in;      /* bytes read, not yet taken */
    struct buf headers; /* "name: value\n" of the last HEADERS frame */
};

struct peer_frame {
    uint8_t type, flags;
    int32_t stream_id;
    struct bytes payload; /* valid until the next read */
};

struct peer *peer_new(uint16_t port); /* connects, sends nothing */
void peer_free(struct peer *peer);

/* False when the server has closed the connection. */
bool peer_write(struct peer *peer, struct bytes bytes);
bool peer_frame(struct peer *peer, uint8_t type, uint8_t flags, int32_t stream_id,
                struct bytes payload);
/* Preface and empty SETTINGS. */
void peer_hello(struct peer *peer);
/* HEADERS of a proper gRPC request. */
bool peer_request(struct peer *peer, int32_t stream_id, const char *path, uint8_t flags);
void peer_add_header(struct buf *block, const char *name, const char *value);
bool peer_data(struct peer *peer, int32_t stream_id, struct bytes bytes, bool is_end);

/* The next frame; false at the end of the connection. HEADERS are decoded into peer->headers. */
bool peer_read(struct peer *peer, struct peer_frame *frame);
/* Reads on until a HEADERS frame with such a line came on the stream; false at the end. */
bool peer_expect_header(struct peer *peer, int32_t stream_id, const char *line);
/* Reads on until a frame of that kind; false at the end. */
bool peer_expect(struct peer *peer, uint8_t type, int32_t stream_id, struct peer_frame *frame);
/* Reads to the end; the error code of the last GOAWAY, -1 if there was none. */
int64_t peer_read_to_end(struct peer *peer);

#endif
