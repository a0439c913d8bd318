/* SPDX-License-Identifier: Apache-2.0 */
/* The owner list in an offset commit's metadata: what parses is exactly what we would write. */
#include <assert.h>

#include "core/offsets.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct owners owners;
    char text[OWNERS_TEXT_MAX];
    struct bytes input = bytes_of(data, size);

    if (!owners_parse(input, &owners)) {
        assert(owners.count == 0);
        return 0;
    }
    assert(owners.count > 0 && owners.count <= OWNERS_MAX);
    assert(bytes_equal(bytes_of(text, owners_format(&owners, text)), input));
    for (size_t i = 0; i < owners.count; i++)
        assert(owners_of(&owners, owners.list[i].first_offset) == &owners.list[i]);
    owners_append(&owners, "0123456789abcdef", owners.list[0].first_offset);
    assert(owners.count == 1);
    return 0;
}
