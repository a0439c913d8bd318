/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Does the topic divide evenly among those who share it? With 4 partitions and 3 brokers one of
 * them does half of the work. Only members that subscribe to this very topic count: one group may
 * serve several topics. Helper thread.
 */
#include "topic/kafka_source.h"

#include "base/clock.h"
#include "base/log.h"
#include "topic/kafka_member.h"

/* How long a group that rebalances again is waited for; then the next assignment asks anew. */
#define TRIES    20
#define AGAIN_MS 500

/* 0: not known. */
static int count_subscribers(const struct rd_kafka_group_info *group, const char *topic)
{
    int count = 0;

    if (group->err || strcmp(group->state, "Stable") != 0 ||
        strcmp(group->protocol_type, "consumer") != 0)
        return 0;
    for (int i = 0; i < group->member_cnt; i++) {
        const struct rd_kafka_group_member_info *member = &group->members[i];
        bool subscribes;
        size_t len = member->member_metadata_size > 0 ? (size_t)member->member_metadata_size : 0;
        if (kafka_member_subscribes(bytes_of(member->member_metadata, len), bytes_str(topic),
                                    &subscribes))
            return 0;
        count += subscribes;
    }
    return count;
}

static int ask_members(struct kafka_source *source)
{
    const struct rd_kafka_group_list *list = NULL;
    rd_kafka_resp_err_t err =
        rd_kafka_list_groups(source->rk, source->group, &list, KAFKA_REQUEST_MS);
    int count = 0;

    if (!err && list->group_cnt == 1)
        count = count_subscribers(&list->groups[0], source->topic);
    if (err)
        log_debug(KAFKA_LOG, LOG_FIELDS(log_str("topic", source->topic)),
                  "members of group '%s' are not known: %s", source->group, rd_kafka_err2str(err));
    if (list)
        rd_kafka_group_list_destroy(list);
    return count;
}

static void tell(struct kafka_source *source, int partitions, int members)
{
    bool changed = partitions != source->told_partitions || members != source->told_members;

    source->told_partitions = partitions;
    source->told_members = members;
    if (changed && partitions % members != 0)
        log_warn(
            KAFKA_LOG,
            LOG_FIELDS(log_str("topic", source->topic), log_int("partitions", partitions),
                       log_int("members", members)),
            "the %d partitions of topic '%s' do not divide evenly among the %d members of group "
            "'%s' that consume it: some get more work than others",
            partitions, source->topic, members, source->group);
}

int64_t kafka_balance_look(struct kafka_source *source)
{
    int members = ask_members(source);
    int partitions = members > 0 ? kafka_offsets_partitions(source) : 0;

    if (partitions > 0) {
        tell(source, partitions, members);
        return CLOCK_NEVER;
    }
    if (++source->balance_tries >= TRIES)
        return CLOCK_NEVER;
    return clock_boot_ms() + AGAIN_MS;
}
