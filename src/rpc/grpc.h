/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What gRPC adds to HTTP/2, common to server and client. Pure, thread-safe.
 *
 * Message on the wire: a prefix of 5 bytes (flag: 0 plain, 1 compressed; length: 32 bits,
 * big-endian), then the message. A unary request or response body is exactly one of these.
 */
#ifndef TASKMILL_RPC_GRPC_H
#define TASKMILL_RPC_GRPC_H

#include <nghttp2/nghttp2.h>

#include "base/bytes.h"
#include "base/err.h"
#include "rpc/status.h"

#define GRPC_PREFIX_LEN 5

void grpc_prefix_encode(uint8_t out[GRPC_PREFIX_LEN], uint32_t message_len);

/* A body on its way in. Zeroed: nothing read yet. */
struct grpc_message {
    uint8_t prefix[GRPC_PREFIX_LEN];
    uint8_t prefix_len; /* bytes of it read so far */
    uint32_t want_len;  /* from the prefix, once that is complete */
    struct buf body;
};

enum grpc_feed {
    GRPC_FEED_OK,
    GRPC_FEED_TOO_LARGE,  /* want_len is above max_len */
    GRPC_FEED_COMPRESSED, /* flag 1 */
    GRPC_FEED_BAD_FLAG,
    GRPC_FEED_EXCESS, /* bytes after the first message */
};

/* Adds a chunk of the body. After anything but OK the message must not be fed again. Memory grows
 * with the bytes that came, not with the length that was announced. */
enum grpc_feed grpc_message_feed(struct grpc_message *message, struct bytes chunk,
                                 uint32_t max_len);
bool grpc_message_complete(const struct grpc_message *message);
/* Forgets the content for the next use; keeps up to `keep_cap` bytes of memory. */
void grpc_message_reset(struct grpc_message *message, size_t keep_cap);

/* "10S", "100m": 1 to 8 digits and a unit of H M S m u n; rounded up to ms. ERR_MALFORMED
 * otherwise. */
int grpc_timeout_parse(struct bytes text, int64_t *timeout_ms);
#define GRPC_TIMEOUT_TEXT_MAX 12
/* NUL-terminated, in ms as long as 8 digits can hold it, else in s. Returns its length. */
size_t grpc_timeout_format(char out[GRPC_TIMEOUT_TEXT_MAX], uint32_t timeout_ms);

/* grpc-message. The encoded text is cut (at a whole escape) to GRPC_MESSAGE_MAX bytes: peers limit
 * their header lists. Escapes everything the original's library escapes, blanks included. */
#define GRPC_MESSAGE_MAX 4096
void grpc_percent_encode(const char *text, struct buf *out);
/* Lenient: what is no valid escape stays as it is; NULs become '?'. */
void grpc_percent_decode(struct bytes text, struct buf *out);

/* "application/grpc", also with "+proto" or parameters behind it. */
bool grpc_content_type_ok(struct bytes value);

/* Decimal text of a status; static. */
struct bytes grpc_status_text(enum grpc_status status);
/* The status of a response without grpc-status (source: gRPC's http-grpc-status-mapping). */
enum grpc_status grpc_status_of_http(int http_status);
/* The status of a stream that was reset (source: gRPC over HTTP2, "Errors"). */
enum grpc_status grpc_status_of_reset(uint32_t http2_error);

/* A header whose name and value outlive the frame, so that nghttp2 need not copy them. */
#define GRPC_STATIC_NV(name, value)                                                 \
    {                                                                               \
        (uint8_t *)(name), (uint8_t *)(value), sizeof(name) - 1, sizeof(value) - 1, \
            NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE            \
    }
/* The name is static, the value is copied. */
static inline nghttp2_nv grpc_nv(const char *name, struct bytes value)
{
    return (nghttp2_nv){(uint8_t *)name, (uint8_t *)value.ptr, strlen(name), value.len,
                        NGHTTP2_NV_FLAG_NO_COPY_NAME};
}

#endif
