/* SPDX-License-Identifier: Apache-2.0 */
/* A request of the reflection service: it is answered or refused, and an answer repeats it. */
#include <assert.h>

#include "rpc/reflection.h"
#include "wire/pb.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct bytes services[] = {bytes_str("a.B"), bytes_str("c.D")};
    struct bytes request = bytes_of(data, size);
    struct buf out = {0};
    const char *why = NULL;

    if (reflection_answer(request, services, 2, &out, &why) != 0) {
        assert(why);
        buf_free(&out);
        return 0;
    }
    assert(out.len <= 65536 + 2 * size);
    struct pb_reader reader = pb_reader_init(buf_bytes(&out), 0);
    struct pb_field field;
    bool has_request = false;
    int rv;
    while ((rv = pb_next(&reader, &field, &why)) > 0)
        has_request = has_request || (field.number == 2 && bytes_equal(field.data, request));
    assert(rv == 0 && has_request);
    buf_free(&out);
    return 0;
}
