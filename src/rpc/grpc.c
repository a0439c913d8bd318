/* SPDX-License-Identifier: Apache-2.0 */
#include "rpc/grpc.h"

#include <assert.h>
#include <stdio.h>

void grpc_prefix_encode(uint8_t out[GRPC_PREFIX_LEN], uint32_t message_len)
{
    out[0] = 0;
    out[1] = (uint8_t)(message_len >> 24);
    out[2] = (uint8_t)(message_len >> 16);
    out[3] = (uint8_t)(message_len >> 8);
    out[4] = (uint8_t)message_len;
}

static enum grpc_feed check_prefix(struct grpc_message *message, uint32_t max_len)
{
    const uint8_t *p = message->prefix;

    if (p[0] == 1)
        return GRPC_FEED_COMPRESSED;
    if (p[0] != 0)
        return GRPC_FEED_BAD_FLAG;
    message->want_len =
        (uint32_t)p[1] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 8 | (uint32_t)p[4];
    return message->want_len > max_len ? GRPC_FEED_TOO_LARGE : GRPC_FEED_OK;
}

enum grpc_feed grpc_message_feed(struct grpc_message *message, struct bytes chunk, uint32_t max_len)
{
    if (message->prefix_len < GRPC_PREFIX_LEN) {
        size_t missing = GRPC_PREFIX_LEN - message->prefix_len;
        size_t len = chunk.len < missing ? chunk.len : missing;

        if (len)
            memcpy(message->prefix + message->prefix_len, chunk.ptr, len);
        message->prefix_len = (uint8_t)(message->prefix_len + len);
        if (message->prefix_len < GRPC_PREFIX_LEN)
            return GRPC_FEED_OK;
        enum grpc_feed rv = check_prefix(message, max_len);
        if (rv != GRPC_FEED_OK)
            return rv;
        chunk = bytes_of(chunk.ptr + len, chunk.len - len);
    }
    if (chunk.len > message->want_len - message->body.len)
        return GRPC_FEED_EXCESS;
    buf_append(&message->body, chunk.ptr, chunk.len);
    return GRPC_FEED_OK;
}

bool grpc_message_complete(const struct grpc_message *message)
{
    return message->prefix_len == GRPC_PREFIX_LEN && message->body.len == message->want_len;
}

void grpc_message_reset(struct grpc_message *message, size_t keep_cap)
{
    message->prefix_len = 0;
    message->want_len = 0;
    if (message->body.cap > keep_cap)
        buf_free(&message->body);
    buf_clear(&message->body);
}

/* Unit in microseconds, so that only nanoseconds are a fraction of it. */
static int64_t unit_us(uint8_t unit)
{
    switch (unit) {
    case 'H':
        return 3600LL * 1000 * 1000;
    case 'M':
        return 60LL * 1000 * 1000;
    case 'S':
        return 1000LL * 1000;
    case 'm':
        return 1000;
    case 'u':
    case 'n':
        return 1;
    default:
        return 0;
    }
}

int grpc_timeout_parse(struct bytes text, int64_t *timeout_ms)
{
    if (text.len < 2 || text.len > 9)
        return ERR_MALFORMED;
    uint8_t unit = text.ptr[text.len - 1];
    int64_t factor = unit_us(unit), value = 0;
    if (factor == 0)
        return ERR_MALFORMED;
    for (size_t i = 0; i + 1 < text.len; i++) {
        if (text.ptr[i] < '0' || text.ptr[i] > '9')
            return ERR_MALFORMED;
        value = value * 10 + (text.ptr[i] - '0');
    }
    if (unit == 'n')
        value = (value + 999) / 1000;
    *timeout_ms = (value * factor + 999) / 1000; /* at most 99999999 h: far from overflow */
    return 0;
}

size_t grpc_timeout_format(char out[GRPC_TIMEOUT_TEXT_MAX], uint32_t timeout_ms)
{
    int len = timeout_ms <= 99999999
                  ? snprintf(out, GRPC_TIMEOUT_TEXT_MAX, "%um", timeout_ms)
                  : snprintf(out, GRPC_TIMEOUT_TEXT_MAX, "%uS", timeout_ms / 1000);

    assert(len > 0 && len < GRPC_TIMEOUT_TEXT_MAX);
    return (size_t)len;
}

static bool stays_plain(uint8_t c)
{
    return c > 0x20 && c < 0x7f && !strchr("\"#<>`?{}%", c);
}

void grpc_percent_encode(const char *text, struct buf *out)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t end = out->len + GRPC_MESSAGE_MAX;

    for (const uint8_t *p = (const uint8_t *)text; *p && out->len + 3 <= end; p++) {
        if (stays_plain(*p)) {
            buf_append_byte(out, *p);
        } else {
            const uint8_t escape[3] = {'%', (uint8_t)hex[*p >> 4], (uint8_t)hex[*p & 15]};
            buf_append(out, escape, sizeof(escape));
        }
    }
}

static int hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

void grpc_percent_decode(struct bytes text, struct buf *out)
{
    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = text.ptr[i];

        if (c == '%' && text.len - i > 2) {
            int high = hex_digit(text.ptr[i + 1]), low = hex_digit(text.ptr[i + 2]);
            if (high >= 0 && low >= 0) {
                c = (uint8_t)(high << 4 | low);
                i += 2;
            }
        }
        buf_append_byte(out, c ? c : '?');
    }
}

bool grpc_content_type_ok(struct bytes value)
{
    static const char type[] = "application/grpc";
    const size_t len = sizeof(type) - 1;

    if (value.len < len || memcmp(value.ptr, type, len) != 0)
        return false;
    return value.len == len || value.ptr[len] == '+' || value.ptr[len] == ';';
}

struct bytes grpc_status_text(enum grpc_status status)
{
    static const char *const texts[] = {"0", "1",  "2",  "3",  "4",  "5",  "6",  "7", "8",
                                        "9", "10", "11", "12", "13", "14", "15", "16"};

    assert((size_t)status < sizeof(texts) / sizeof(texts[0]));
    return bytes_str(texts[status]);
}

enum grpc_status grpc_status_of_http(int http_status)
{
    switch (http_status) {
    case 400:
        return GRPC_INTERNAL;
    case 401:
        return GRPC_UNAUTHENTICATED;
    case 403:
        return GRPC_PERMISSION_DENIED;
    case 404:
        return GRPC_UNIMPLEMENTED;
    case 429:
    case 502:
    case 503:
    case 504:
        return GRPC_UNAVAILABLE;
    default:
        return GRPC_UNKNOWN;
    }
}

enum grpc_status grpc_status_of_reset(uint32_t http2_error)
{
    switch (http2_error) {
    case NGHTTP2_REFUSED_STREAM:
        return GRPC_UNAVAILABLE;
    case NGHTTP2_CANCEL:
        return GRPC_CANCELLED;
    case NGHTTP2_ENHANCE_YOUR_CALM:
        return GRPC_RESOURCE_EXHAUSTED;
    case NGHTTP2_INADEQUATE_SECURITY:
        return GRPC_PERMISSION_DENIED;
    default:
        return GRPC_INTERNAL;
    }
}
