/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a member of a consumer group says about itself when it joins: the "subscription" of Kafka's
 * consumer protocol (Kafka protocol guide, ConsumerProtocolSubscription), as DescribeGroups hands
 * it out. All numbers are big-endian:
 *
 *     version int16 | count int32 | count times: len int16, topic | what versions added, which
 *     is not looked at
 *
 * It is written by whatever program joined the group, so it is read with suspicion. Pure.
 */
#ifndef TASKMILL_TOPIC_KAFKA_MEMBER_H
#define TASKMILL_TOPIC_KAFKA_MEMBER_H

#include "base/bytes.h"
#include "base/err.h"

/* Does the member take part in the distribution of this topic? ERR_MALFORMED: nobody can tell. */
int kafka_member_subscribes(struct bytes metadata, struct bytes topic, bool *subscribes);

#endif
