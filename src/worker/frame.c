/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/frame.h"

#include <errno.h>
#include <sys/socket.h>

#define READ_SIZE (256u << 10)

void frame_put(struct buf *out, const struct frame_head *head, struct bytes body)
{
    struct frame_head whole = *head;

    whole.len = (uint32_t)body.len;
    buf_append(out, &whole, sizeof whole);
    buf_append(out, body.ptr, body.len);
}

bool frame_take(const struct buf *in, size_t *pos, struct frame_head *head, struct bytes *body)
{
    size_t left = in->len - *pos;

    if (left < sizeof *head)
        return false;
    memcpy(head, in->ptr + *pos, sizeof *head);
    if (left - sizeof *head < head->len)
        return false;
    *body = bytes_of(in->ptr + *pos + sizeof *head, head->len);
    *pos += sizeof *head + head->len;
    return true;
}

int frame_read(int fd, struct buf *in)
{
    ssize_t n;

    buf_reserve(in, READ_SIZE);
    do {
        n = recv(fd, in->ptr + in->len, READ_SIZE, 0);
    } while (n < 0 && errno == EINTR);
    if (n > 0) {
        in->len += (size_t)n;
        return 0;
    }
    return n < 0 && errno == EAGAIN ? 0 : ERR_CLOSED;
}

int frame_write(int fd, struct buf *out, size_t *done)
{
    while (*done < out->len) {
        ssize_t n = send(fd, out->ptr + *done, out->len - *done, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? ERR_FULL : ERR_CLOSED;
        *done += (size_t)n;
    }
    buf_clear(out);
    *done = 0;
    return 0;
}
