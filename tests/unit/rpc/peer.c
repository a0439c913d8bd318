/* SPDX-License-Identifier: Apache-2.0 */
#include "peer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/mem.h"

struct peer *peer_new(uint16_t port)
{
    struct peer *peer = (struct peer *)mem_zalloc(sizeof(*peer));
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval wait = {.tv_sec = PEER_WAIT_S};

    peer->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(peer->fd >= 0);
    setsockopt(peer->fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
    setsockopt(peer->fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
    assert_int_equal(connect(peer->fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(nghttp2_hd_inflate_new(&peer->inflater), 0);
    return peer;
}

void peer_free(struct peer *peer)
{
    close(peer->fd);
    nghttp2_hd_inflate_del(peer->inflater);
    buf_free(&peer->in);
    buf_free(&peer->headers);
    mem_free(peer);
}

bool peer_write(struct peer *peer, struct bytes bytes)
{
    while (bytes.len > 0) {
        ssize_t len = send(peer->fd, bytes.ptr, bytes.len, MSG_NOSIGNAL);
        if (len < 0) {
            if (errno != EPIPE && errno != ECONNRESET)
                fail_msg("send: %s", strerror(errno));
            return false;
        }
        bytes = bytes_of(bytes.ptr + len, bytes.len - (size_t)len);
    }
    return true;
}

bool peer_frame(struct peer *peer, uint8_t type, uint8_t flags, int32_t stream_id,
                struct bytes payload)
{
    const uint8_t head[9] = {(uint8_t)(payload.len >> 16),
                             (uint8_t)(payload.len >> 8),
                             (uint8_t)payload.len,
                             type,
                             flags,
                             (uint8_t)(stream_id >> 24),
                             (uint8_t)(stream_id >> 16),
                             (uint8_t)(stream_id >> 8),
                             (uint8_t)stream_id};
    struct buf frame = {0};

    buf_append(&frame, head, sizeof(head));
    buf_append(&frame, payload.ptr, payload.len);
    bool rv = peer_write(peer, buf_bytes(&frame));
    buf_free(&frame);
    return rv;
}

void peer_hello(struct peer *peer)
{
    peer_write(peer, bytes_str("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
    peer_frame(peer, NGHTTP2_SETTINGS, 0, 0, bytes_of(NULL, 0));
}

/* Literal without indexing, plain text: RFC 7541, 6.2.2. */
void peer_add_header(struct buf *block, const char *name, const char *value)
{
    buf_append_byte(block, 0);
    assert_true(strlen(name) < 127 && strlen(value) < 127);
    buf_append_byte(block, (uint8_t)strlen(name));
    buf_append_str(block, name);
    buf_append_byte(block, (uint8_t)strlen(value));
    buf_append_str(block, value);
}

bool peer_request(struct peer *peer, int32_t stream_id, const char *path, uint8_t flags)
{
    struct buf block = {0};

    peer_add_header(&block, ":method", "POST");
    peer_add_header(&block, ":scheme", "http");
    peer_add_header(&block, ":path", path);
    peer_add_header(&block, ":authority", "test");
    peer_add_header(&block, "te", "trailers");
    peer_add_header(&block, "content-type", "application/grpc");
    bool rv = peer_frame(peer, NGHTTP2_HEADERS, (uint8_t)(flags | NGHTTP2_FLAG_END_HEADERS),
                         stream_id, buf_bytes(&block));
    buf_free(&block);
    return rv;
}

bool peer_data(struct peer *peer, int32_t stream_id, struct bytes bytes, bool is_end)
{
    return peer_frame(peer, NGHTTP2_DATA, is_end ? NGHTTP2_FLAG_END_STREAM : 0, stream_id, bytes);
}

/* At least `len` bytes in peer->in; false at the end of the connection. */
static bool fill(struct peer *peer, size_t len)
{
    while (peer->in.len < len) {
        buf_reserve(&peer->in, 65536);
        ssize_t rv = recv(peer->fd, peer->in.ptr + peer->in.len, 65536, 0);
        if (rv < 0 && errno != ECONNRESET)
            fail_msg("recv: %s", strerror(errno));
        if (rv <= 0)
            return false;
        peer->in.len += (size_t)rv;
    }
    return true;
}

static void inflate(struct peer *peer, struct bytes block)
{
    buf_clear(&peer->headers);
    for (;;) {
        nghttp2_nv nv;
        int flags = 0;
        ssize_t len = nghttp2_hd_inflate_hd2(peer->inflater, &nv, &flags, block.ptr, block.len, 1);
        assert_true(len >= 0);
        block = bytes_of(block.ptr + len, block.len - (size_t)len);
        if (flags & NGHTTP2_HD_INFLATE_EMIT)
            buf_printf(&peer->headers, "%.*s: %.*s\n", (int)nv.namelen, (const char *)nv.name,
                       (int)nv.valuelen, (const char *)nv.value);
        if (flags & NGHTTP2_HD_INFLATE_FINAL)
            break;
    }
    nghttp2_hd_inflate_end_headers(peer->inflater);
}

static size_t taken(const struct peer_frame *frame)
{
    return frame->payload.ptr ? 9 + frame->payload.len : 0;
}

bool peer_read(struct peer *peer, struct peer_frame *frame)
{
    buf_consume(&peer->in, taken(frame));
    *frame = (struct peer_frame){0};
    if (!fill(peer, 9))
        return false;
    const uint8_t *p = peer->in.ptr;
    size_t len = (size_t)p[0] << 16 | (size_t)p[1] << 8 | p[2];
    if (!fill(peer, 9 + len))
        return false;
    p = peer->in.ptr;
    frame->type = p[3];
    frame->flags = p[4];
    frame->stream_id = (int32_t)((uint32_t)p[5] << 24 | (uint32_t)p[6] << 16 | (uint32_t)p[7] << 8 |
                                 (uint32_t)p[8]);
    frame->payload = bytes_of(p + 9, len);
    if (frame->type == NGHTTP2_HEADERS)
        inflate(peer, frame->payload);
    return true;
}

/* The frame's bytes are taken, so that the next read starts a new one. */
static void finish(struct peer *peer, const struct peer_frame *frame)
{
    buf_consume(&peer->in, taken(frame));
}

bool peer_expect(struct peer *peer, uint8_t type, int32_t stream_id, struct peer_frame *frame)
{
    *frame = (struct peer_frame){0};
    while (peer_read(peer, frame))
        if (frame->type == type && frame->stream_id == stream_id)
            return true;
    return false;
}

bool peer_expect_header(struct peer *peer, int32_t stream_id, const char *line)
{
    struct peer_frame frame = {0};

    while (peer_read(peer, &frame)) {
        if (frame.type != NGHTTP2_HEADERS || frame.stream_id != stream_id)
            continue;
        if (strstr(buf_cstr(&peer->headers), line)) {
            finish(peer, &frame);
            return true;
        }
    }
    return false;
}

int64_t peer_read_to_end(struct peer *peer)
{
    struct peer_frame frame = {0};
    int64_t error = -1;

    while (peer_read(peer, &frame)) {
        const uint8_t *p = frame.payload.ptr;
        if (frame.type == NGHTTP2_GOAWAY)
            error = (int64_t)p[4] << 24 | (int64_t)p[5] << 16 | (int64_t)p[6] << 8 | p[7];
    }
    return error;
}
