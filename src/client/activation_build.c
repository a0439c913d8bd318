/* SPDX-License-Identifier: Apache-2.0 */
#include "client/activation_build.h"

#include "base/mem.h"
#include "client/error.h"
#include "client/params_build.h"
#include "client/retry.h"
#include "wire/params.h"

/* Packed, and compressed when asked for or large. */
static int encode_params(const struct activation_source *source, struct buf *out, bool *compressed)
{
    struct buf packed = {0};
    const char *fault = "";
    int rv = params_pack(source->params, &packed);

    *compressed = false;
    if (rv == 0 && (source->task->compress || packed.len > PARAMS_COMPRESS_ABOVE)) {
        *compressed = true;
        rv = params_compress(buf_bytes(&packed), out, &fault);
        buf_free(&packed);
        return rv == 0 ? 0 : error_set(rv, "parameters: %s", fault);
    }
    if (rv == 0)
        *out = packed;
    else
        buf_free(&packed);
    return rv;
}

/* Headers are few: more than these need memory of their own. */
#define FEW 16

static void encode(const struct activation_source *source, struct bytes params, bool compressed,
                   struct buf *out)
{
    const struct taskmill_send_options *options = source->options;
    const struct taskmill_headers *given = source->headers;
    struct activation_header few[FEW + 1], *headers = few;
    size_t count = given->count;
    uint32_t expires_s = options->expires_s ? options->expires_s : source->task->expires_s;

    if (count > FEW)
        headers = mem_calloc(count + 1, sizeof *headers);
    for (size_t i = 0; i < count; i++)
        headers[i] = (struct activation_header){bytes_str(given->items[i].key),
                                                bytes_str(given->items[i].value)};
    if (compressed)
        headers[count++] =
            (struct activation_header){bytes_str(HEADERS_COMPRESSION), bytes_str("zstd")};
    activation_encode(
        &(struct activation){
            .id = bytes_str(source->id),
            .namespace = bytes_str(source->namespace),
            .taskname = bytes_str(source->name),
            .has_application = true,
            .application = bytes_str(source->application),
            .parameters_bytes = params,
            .has_received_at = true,
            .received_at_s = source->now_us / 1000000,
            .received_at_ns = (int32_t)(source->now_us % 1000000) * 1000,
            .retry_state = retry_first_state(&source->task->retry, source->task->at_most_once),
            .processing_deadline_duration = source->task->processing_deadline_s,
            .has_expires = expires_s != 0,
            .expires = expires_s,
            .has_delay = options->countdown_s != 0,
            .delay = options->countdown_s,
        },
        headers, count, out);
    if (headers != few)
        mem_free(headers);
}

/* All but parameters and headers; should the names be longer, the buffer grows. */
#define MOST_FIELDS 256

int activation_build(const struct activation_source *source, struct buf *out)
{
    struct buf params = {0};
    bool compressed;
    int rv = encode_params(source, &params, &compressed);

    if (rv == 0) {
        buf_reserve(out, params.len + source->headers->bytes + MOST_FIELDS);
        encode(source, buf_bytes(&params), compressed, out);
    }
    buf_free(&params);
    return rv;
}
