/* SPDX-License-Identifier: Apache-2.0 */
/*
 * grpc.reflection.v1 and v1alpha: requests and answers flow both ways on one stream, answers in the
 * order of the requests. The first request starts the call; with secrets set it is what the
 * signature is of (tools wait for the answer before they say more). Requests that came before the
 * answer to an earlier one has left wait in `waiting`, each behind its length; the next answer is
 * made when the peer has room for it, so that nobody lets answers pile up here.
 */
#include "rpc/reflection.h"

#include "rpc/server_internal.h"

/* Ends the stream early: by trailers, after the answer that is on its way. */
static void end_with(struct rpc_call *call, enum grpc_status status, const char *text)
{
    struct buf encoded = {0};

    if (call->is_stream_end)
        return;
    grpc_percent_encode(text, &encoded);
    call->reply.message = buf_cstr(&encoded); /* the call frees it */
    stream_stop(call, status);
}

/* The complete message in call->request is the next to be answered. */
static void queue_request(struct rpc_call *call)
{
    struct bytes message = buf_bytes(&call->request.body);
    uint32_t len = (uint32_t)message.len;

    if (call->waiting.len + sizeof(len) + message.len > REFLECTION_WAITING_MAX) {
        end_with(call, GRPC_RESOURCE_EXHAUSTED, "Too many requests wait for an answer");
        return;
    }
    buf_append(&call->waiting, &len, sizeof(len));
    buf_append(&call->waiting, message.ptr, message.len);
    grpc_message_reset(&call->request, REFLECTION_REQUEST_MAX);
    stream_resume(call);
}

void reflection_start(void *ctx, struct rpc_call *call)
{
    (void)ctx;
    stream_start(call);
    queue_request(call);
}

/* As much of the chunk as belongs to the message that is being read. */
static struct bytes cut_message(const struct grpc_message *message, struct bytes *chunk)
{
    size_t missing = message->prefix_len < GRPC_PREFIX_LEN
                         ? (size_t)GRPC_PREFIX_LEN - message->prefix_len
                         : message->want_len - message->body.len;
    struct bytes part = bytes_of(chunk->ptr, chunk->len < missing ? chunk->len : missing);

    *chunk = bytes_of(chunk->ptr + part.len, chunk->len - part.len);
    return part;
}

/* What is wrong with the next bytes, NULL if nothing is. */
static const char *feed(struct rpc_call *call, struct bytes part)
{
    call_count_request(call, part.len);
    switch (grpc_message_feed(&call->request, part, REFLECTION_REQUEST_MAX)) {
    case GRPC_FEED_OK:
        return call_over_limit(call);
    case GRPC_FEED_TOO_LARGE:
        return "The request is too large";
    case GRPC_FEED_COMPRESSED:
        return "Compressed messages are not supported";
    case GRPC_FEED_BAD_FLAG:
    case GRPC_FEED_EXCESS: /* cannot be: what is fed is cut */
        break;
    }
    return "protocol error: received message with invalid compression flag";
}

void reflection_take(struct rpc_call *call, struct bytes chunk)
{
    while (chunk.len > 0 && reflection_is_open(call)) {
        bool is_first = call->state == CALL_RECEIVING;
        const char *fault = feed(call, cut_message(&call->request, &chunk));

        if (fault && is_first)
            call_refuse(call, GRPC_RESOURCE_EXHAUSTED, fault);
        else if (fault)
            end_with(call, GRPC_RESOURCE_EXHAUSTED, fault);
        else if (grpc_message_complete(&call->request) && is_first)
            call_start(call);
        else if (grpc_message_complete(&call->request))
            queue_request(call);
    }
}

bool reflection_is_open(const struct rpc_call *call)
{
    return call->state == CALL_RECEIVING || (call->state == CALL_HELD && !call->is_stream_end);
}

void reflection_half_closed(struct rpc_call *call)
{
    if (call->state == CALL_RECEIVING)
        call_start(call); /* which says what is missing */
    else if (call->request.prefix_len > 0)
        end_with(call, GRPC_INTERNAL, "Unexpected EOF decoding stream.");
    else
        stream_resume(call);
}

bool reflection_next(struct rpc_call *call)
{
    const struct rpc_server *server = call->thread->server;
    struct buf answer = {0};
    const char *why;
    uint32_t len;

    if (call->is_stream_end)
        return false;
    if (call->waiting.len == 0) {
        call->is_stream_end = call->is_request_end;
        return false;
    }
    memcpy(&len, call->waiting.ptr, sizeof(len));
    int rv = reflection_answer(bytes_of(call->waiting.ptr + sizeof(len), len), server->services,
                               server->service_count, &answer, &why);
    buf_consume(&call->waiting, sizeof(len) + len);
    call_uncount_request(call, GRPC_PREFIX_LEN + len);
    if (rv != 0) {
        buf_free(&answer);
        end_with(call, GRPC_INVALID_ARGUMENT, why);
        return false;
    }
    blob_unref(call->reply.blob);
    call->reply.blob = blob_copy(buf_bytes(&answer));
    buf_free(&answer);
    return true;
}
