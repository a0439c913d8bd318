/* SPDX-License-Identifier: Apache-2.0 */
#include "client/activation_build.h"

#include <string.h>

#include "base/mem.h"
#include "client/error.h"
#include "client/params_build.h"
#include "client/retry.h"
#include "wire/activation.h"
#include "wire/params.h"
#include "wire/pb.h"

#define COMPRESSION_HEADER "compression-type"

/* One slot more than the caller's headers, for ours. */
static int copy_headers(const struct taskmill_send_options *options, struct activation_header *out)
{
    for (size_t i = 0; i < options->header_count; i++) {
        const struct taskmill_header *header = &options->headers[i];

        if (header->key == NULL || header->value == NULL || header->key[0] == '\0')
            return error_set(ERR_INVALID, "header %zu needs a key and a value", i);
        if (!pb_utf8_valid(bytes_str(header->key)) || !pb_utf8_valid(bytes_str(header->value)))
            return error_set(ERR_INVALID, "header %zu is not UTF-8", i);
        if (strcmp(header->key, COMPRESSION_HEADER) == 0)
            return error_set(ERR_INVALID, "header " COMPRESSION_HEADER
                                          " is set by the library; use .compress of the task");
        out[i] = (struct activation_header){bytes_str(header->key), bytes_str(header->value)};
    }
    return 0;
}

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

int activation_build(const struct activation_source *source, struct buf *out)
{
    const struct taskmill_send_options *options = source->options;
    size_t header_count = options->header_count;
    struct activation_header *headers = mem_calloc(header_count + 1, sizeof *headers);
    uint32_t expires_s = options->expires_s ? options->expires_s : source->task->expires_s;
    struct buf params = {0};
    bool compressed = false;
    int rv = copy_headers(options, headers);

    if (rv == 0)
        rv = encode_params(source, &params, &compressed);
    if (rv != 0)
        goto out;
    if (compressed)
        headers[header_count++] =
            (struct activation_header){bytes_str(COMPRESSION_HEADER), bytes_str("zstd")};
    activation_encode(
        &(struct activation){
            .id = bytes_str(source->id),
            .namespace = bytes_str(source->namespace),
            .taskname = bytes_str(source->name),
            .has_application = true,
            .application = bytes_str(source->application),
            .parameters_bytes = buf_bytes(&params),
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
        headers, header_count, out);
out:
    buf_free(&params);
    mem_free(headers);
    return rv;
}
