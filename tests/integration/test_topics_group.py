# SPDX-License-Identifier: Apache-2.0
"""Several brokers in one group: members that are killed while they join, partitions that do not divide."""

import re
import time

from harness.kafka import GROUP, topics_config
from harness.process import wait_for
from harness.rpc import activation

UNEVEN = "do not divide evenly"
QUICK = {"session_timeout_ms": 2000}


def shared(kafka, partitions, broker):
    """Factory of brokers that consume one topic in one group."""
    topic, retry, dlq = kafka.unique_topic("work", partitions), kafka.unique_topic("retry"), kafka.unique_topic("dlq")
    group = f"g-{topic}"
    config = topics_config({f"main/{topic}": {"consumer_group": group, **QUICK}}, f"main/{retry}", f"main/{dlq}",
                           {"main": kafka})
    return topic, group, lambda **more: broker(config={**config, **more.pop("config", {})}, **more)


def shares(kafka, group):
    """How many partitions each member has, sorted; None while the group rebalances."""
    members = kafka.members(group)
    return None if members is None else sorted(len(owned) for _, owned in members)


def wait_shares(kafka, group, wanted, timeout_s=40):
    wait_for(lambda: shares(kafka, group) == wanted, lambda: f"{wanted}: {kafka.members(group)}", timeout_s, 0.05)


def test_a_member_killed_while_joining_does_not_stall_its_group(kafka, broker):
    """Wherever in its join the kill comes: the others go on after about one session time-out, and at the
    latest after the rebalance time-out."""
    topic, group, make = shared(kafka, 6, broker)
    survivor = make()
    wait_shares(kafka, group, [6])
    killed = 0
    for pause_s in (0.0, 0.05, 0.2):
        newcomer = make(start=False)
        newcomer.start(wait=False)
        # From here on the survivor has been told to join anew, and the newcomer is between its own
        # join and its first partitions.
        wait_for(lambda: kafka.members(group) is None or len(kafka.members(group) or []) > 1,
                 "the newcomer's join", 20, 0.005)
        time.sleep(pause_s)  # not a wait: where in the join the kill comes
        newcomer.kill9()
        start = time.monotonic()
        wait_shares(kafka, group, [6])
        assert time.monotonic() - start < 25
        killed += 1
    assert killed == 3
    kafka.produce(topic, [activation(id=f"t{p}").SerializeToString() for p in range(6)])
    with survivor.client() as client:
        assert len({client.get_task(timeout_s=20).id for _ in range(6)}) == 6


def test_partitions_that_do_not_divide_are_warned_about_once(kafka, broker):
    topic, group, make = shared(kafka, 4, broker)
    brokers = [make(), make()]
    wait_shares(kafka, group, [2, 2])
    brokers.append(make())
    wait_shares(kafka, group, [1, 1, 2])
    for b in brokers:
        b.wait_log(f"WARN.*the 4 partitions of topic '{topic}' {UNEVEN} among the 3 members of group '{group}'")
    brokers.pop().stop()
    wait_shares(kafka, group, [2, 2])
    brokers.append(make())
    wait_shares(kafka, group, [1, 1, 2])
    wait_for(lambda: brokers[0].log().count(UNEVEN) == 2, lambda: "a warning about the second change", 20)
    brokers.pop().stop()
    wait_shares(kafka, group, [2, 2])
    assert len(re.findall(UNEVEN, brokers[0].log())) == 2, "two members share them evenly"


def test_members_of_other_topics_do_not_count(kafka, broker):
    """One group, two topics: 4 partitions for two members, 3 for the third one alone."""
    topics = [kafka.unique_topic("four", 4), kafka.unique_topic("three", 3)]
    retry, dlq = kafka.unique_topic("retry"), kafka.unique_topic("dlq")
    group = f"{GROUP}-{topics[0]}"
    made = []

    def start(topic):
        made.append(broker(config=topics_config({f"main/{topic}": {"consumer_group": group, **QUICK}}, f"main/{retry}",
                                                f"main/{dlq}", {"main": kafka})))

    for topic in (topics[0], topics[1], topics[0]):
        start(topic)
    wait_shares(kafka, group, [2, 2, 3])
    # A change that is uneven for the second topic only: its members alone say so.
    start(topics[1])
    wait_shares(kafka, group, [1, 2, 2, 2])
    for b in (made[1], made[3]):
        b.wait_log(f"the 3 partitions of topic '{topics[1]}' {UNEVEN} among the 2 members")
    assert UNEVEN not in made[0].log() + made[2].log()
