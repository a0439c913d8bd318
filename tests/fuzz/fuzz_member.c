/* SPDX-License-Identifier: Apache-2.0 */
/* Subscriptions of group members: the first byte is the length of the topic's name that is looked
 * for, then the name, then the subscription. An answer must not depend on what stands behind the
 * topics. */
#include <stdlib.h>

#include "topic/kafka_member.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool subscribes, again;
    if (size == 0 || size - 1 < data[0])
        return 0;
    struct bytes topic = bytes_of(data + 1, data[0]);
    struct bytes metadata = bytes_of(topic.ptr + topic.len, size - 1 - topic.len);
    int rv = kafka_member_subscribes(metadata, topic, &subscribes);
    if (rv != 0 && rv != ERR_MALFORMED)
        abort();
    if (rv != 0)
        return 0;
    struct buf longer = {0};
    buf_append(&longer, metadata.ptr, metadata.len);
    buf_append_byte(&longer, 0xff);
    if (kafka_member_subscribes(buf_bytes(&longer), topic, &again) != 0 || again != subscribes)
        abort();
    buf_free(&longer);
    return 0;
}
