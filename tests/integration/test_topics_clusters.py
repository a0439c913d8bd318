# SPDX-License-Identifier: Apache-2.0
"""Several topics on several clusters in one broker; topics that are looked at and not consumed."""

import pytest

from harness.kafka import GROUP, Kafka, topics_config
from harness.process import free_port, wait_for
from harness.rpc import COMPLETE, DEADLETTER, FAILURE, RETRY, activation
from test_broker_start import refuses_to_start


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A second Kafka."""
    server = Kafka(tmp_path_factory.mktemp("other"), heap_mb=256)
    server.start()
    yield server
    server.kill9()


@pytest.fixture
def both(kafka, other):
    """Names: here (consumed, cluster main), there (consumed, cluster other), retry and dlq (cluster other)."""
    names = {"here": kafka.unique_topic("here"), "there": other.unique_topic("there"),
             "retry": other.unique_topic("retry"), "dlq": other.unique_topic("dlq")}
    names["config"] = topics_config({f"main/{names['here']}": {}, f"other/{names['there']}": {}},
                                    f"other/{names['retry']}", f"other/{names['dlq']}",
                                    {"main": kafka, "other": other})
    return names


def next_task(client):
    """A held call ends after 5 s; a cluster may take longer to come back."""
    return wait_for(lambda: client.get_task(timeout_s=20), "a task", 60)


def test_two_clusters(kafka, other, both, broker, grpc_client):
    b = broker(config=both["config"])
    client = grpc_client(b)
    for server, name in ((kafka, "here"), (other, "there")):
        server.produce(both[name], [activation(id=f"{name}-{what}", max_attempts=3,
                                               on_exceeded=DEADLETTER).SerializeToString()
                                    for what in ("retry", "fail")] + [b"\xff" + name.encode()])
    got = {client.get_task(timeout_s=20).id for _ in range(4)}
    assert got == {"here-retry", "here-fail", "there-retry", "there-fail"}
    for id in got:
        client.set_status(id, RETRY if id.endswith("retry") else FAILURE)
    # Retries and dead letters of both leave for the dead-letter topic's cluster.
    assert len(other.wait_records(both["retry"], 2)) == 2
    dead = other.wait_records(both["dlq"], 4)
    origins = {r.value: (r.header("taskmill-cluster"), r.header("taskmill-topic")) for r in dead if r.headers}
    assert origins == {b"\xffhere": ("main", both["here"]), b"\xffthere": ("other", both["there"])}
    kafka.wait_committed(GROUP, both["here"], {0: 3})
    other.wait_committed(GROUP, both["there"], {0: 3})
    # Enqueue finds the cluster of the topic.
    for server, name in ((kafka, "here"), (other, "there")):
        assert list(client.enqueue([activation(id=f"to {name}")], topic=both[name]).ids) == [f"to {name}"]
        assert len(server.wait_records(both[name], 4)) == 4
    assert {client.get_task(timeout_s=20).id for _ in range(2)} == {"to here", "to there"}
    with pytest.raises(Exception, match="or name one of several"):
        client.enqueue([activation()])


def test_weakness_23_a_cluster_that_stands_still_does_not_stop_the_others(kafka, other, both, broker, grpc_client):
    b = broker(config=both["config"])
    client = grpc_client(b)
    other.produce(both["there"], [activation(id="first").SerializeToString()])
    assert client.get_task(timeout_s=20).id == "first"
    other.pause()
    try:
        kafka.produce(both["here"], [activation(id=f"t{i}").SerializeToString() for i in range(500)] + [b"\xff"])
        for _ in range(500):
            client.set_status(client.get_task(timeout_s=20).id, COMPLETE)
        kafka.wait_committed(GROUP, both["here"], {0: 501})
        # What leaves for the other cluster waits in the file.
        assert b.sql("SELECT count(*) FROM taskmill_outbox") == [(1,)]
    finally:
        other.resume()
    wait_for(lambda: b.sql("SELECT count(*) FROM taskmill_outbox") == [(0,)], "an empty outbox", 60)
    other.produce(both["there"], [activation(id="again").SerializeToString()])
    assert next_task(client).id == "again"


def test_weakness_16_a_topic_that_is_deleted_stops_only_itself(kafka, other, both, broker, grpc_client):
    b = broker(config=both["config"])
    client = grpc_client(b)
    other.produce(both["there"], [activation(id="there").SerializeToString()])
    assert client.get_task(timeout_s=20).id == "there"
    client.set_status("there", COMPLETE)
    other.wait_committed(GROUP, both["there"], {0: 1})
    other.delete_topic(both["there"])
    b.wait_log(f"WARN.*topic '{both['there']}' is gone from cluster 'other' .*its consumer waits for it", 60)
    kafka.produce(both["here"], [activation(id="here").SerializeToString()])
    assert client.get_task(timeout_s=20).id == "here"
    assert b.running
    other.create_topic(both["there"])
    other.produce(both["there"], [activation(id="anew").SerializeToString()])
    assert next_task(client).id == "anew"


def test_settings_of_a_topic(kafka, broker, grpc_client):
    """Group, reset and session time-out of its own; the others follow the global keys."""
    own, plain, retry, dlq = (kafka.unique_topic(stem) for stem in ("own", "plain", "retry", "dlq"))
    kafka.produce(own, [activation(id="old").SerializeToString()])
    kafka.produce(plain, [activation(id="old too").SerializeToString()])
    b = broker(config=topics_config(
        {f"main/{own}": {"consumer_group": f"g-{own}", "auto_offset_reset": "latest", "session_timeout_ms": 1500},
         f"main/{plain}": {}}, f"main/{retry}", f"main/{dlq}", {"main": kafka}))
    client = grpc_client(b)
    assert client.get_task(timeout_s=20).id == "old too"
    b.wait_log(f"partitions assigned.*topic={own}")
    kafka.produce(own, [activation(id="new").SerializeToString()])
    assert client.get_task(timeout_s=20).id == "new"
    kafka.wait_committed(f"g-{own}", own, {0: 2})
    kafka.wait_committed(GROUP, plain, {0: 1})
    # The member of the killed broker is gone after the topic's own session time-out, not after 6 s.
    b.kill9()
    kafka.wait_group_empty(f"g-{own}", timeout_s=5)
    assert len(kafka.members(GROUP)) == 1


# --- not consumed


def disabled_config(kafka, names, **settings):
    work, aside, produced, retry, dlq = names
    return topics_config({f"main/{work}": {}, f"main/{aside}": {"consumer_disabled": True},
                          f"main/{produced}": {"produce_only": True}},
                         f"main/{retry}", f"main/{dlq}", {"main": kafka})


def test_disabled_and_produce_only_topics_are_not_consumed(kafka, broker, grpc_client):
    names = [kafka.unique_topic(stem) for stem in ("work", "aside", "produced", "retry", "dlq")]
    for name in names[:3]:
        kafka.produce(name, [activation(id=name).SerializeToString()])
    b = broker(config=disabled_config(kafka, names))
    client = grpc_client(b)
    assert client.get_task(timeout_s=20).id == names[0]
    b.wait_log(f"INFO.*topic is there on cluster 'main' .*not consumed: consumer_disabled.*{names[1]}")
    assert client.get_task(timeout_s=0.3) is None
    assert b.statuses() == {"Processing": 1}
    assert len(kafka.members(GROUP)) == 1


def test_a_disabled_topic_must_be_there(kafka, broker):
    names = [kafka.unique_topic("work"), "not-there", "produced", kafka.unique_topic("retry"),
             kafka.unique_topic("dlq")]
    b = broker(config=disabled_config(kafka, names), start=False)
    refuses_to_start(b, f"topic 'not-there' does not exist on cluster 'main' ({kafka.bootstrap})", timeout_s=30)


def test_a_disabled_topic_of_a_cluster_that_is_away_is_waited_for(kafka, broker, grpc_client):
    work, retry, dlq = (kafka.unique_topic(stem) for stem in ("work", "retry", "dlq"))
    away = {"address": f"127.0.0.1:{free_port()}"}
    b = broker(config=topics_config({f"main/{work}": {}, "away/aside": {"consumer_disabled": True}},
                                    f"main/{retry}", f"main/{dlq}", {"main": kafka, "away": away}))
    b.wait_log("WARN.*waiting for Kafka cluster 'away'")
    kafka.produce(work, [activation(id="x").SerializeToString()])
    assert grpc_client(b).get_task(timeout_s=20).id == "x"


# --- topics that are made


def test_missing_topics_of_all_clusters_are_created(kafka, other, both, broker):
    config = {**both["config"], "create_missing_topics": True, "default_topic_partitions": 2}
    here, there = both["here"] + "-new", both["there"] + "-new"
    config["kafka_topics"] |= {here: {"cluster": "main", "consumer_group": GROUP},
                               there: {"cluster": "other", "consumer_group": GROUP, "produce_only": True}}
    b = broker(config=config)
    assert kafka.partitions(here) == other.partitions(there) == [0, 1]
    assert kafka.partitions(both["here"]) == [0], "what exists stays as it is"
    assert b.log().count("topic exists already") == 4
    b.stop()
    b.start()
    assert b.log().count("topic exists already") == 10


def test_a_topic_that_cannot_be_created(kafka, both, broker):
    config = {**both["config"], "create_missing_topics": True, "default_topic_partitions": 20000}  # more than KRaft makes at once
    config["kafka_topics"]["too-many"] = {"cluster": "main", "consumer_group": GROUP}
    refuses_to_start(broker(config=config, start=False),
                     "cannot create topic '", f"' on cluster 'main' ({kafka.bootstrap}): Excessively large number",
                     timeout_s=60)
    assert not kafka.has_topic("too-many")
