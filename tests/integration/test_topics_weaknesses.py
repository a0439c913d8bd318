# SPDX-License-Identifier: Apache-2.0
"""What made the original stumble over single messages and rows (spec/broker.md 13); more of it is in
test_broker_kafka.py, test_topics_raw.py, test_topics_clusters.py and test_topics_security.py."""

import sqlite3

from sentry_protos.taskbroker.v1 import taskbroker_pb2 as pb

from harness.process import wait_for
from harness.rpc import COMPLETE, DEADLETTER, DISCARD, FAILURE, RETRY, activation
from test_broker_kafka import bad_enum, far_future


def test_weakness_01_a_dead_letter_that_is_too_large_keeps_its_row(kafka, broker, grpc_client):
    """The topic gets a notice that says which task; the task itself waits in the file for a larger topic."""
    dlq = kafka.create_topic(f"{kafka.unique_topic('small')}-dlq", config={"max.message.bytes": "5000"})
    b = broker(kafka=kafka, config={"kafka_deadletter_topic": dlq})
    sent = activation(id="large", kwargs={"pad": "x" * 8000}, on_exceeded=DEADLETTER)
    kafka.produce(b.topic, [sent.SerializeToString()])
    client = grpc_client(b)
    client.set_status(client.get_task(timeout_s=20).id, FAILURE)
    notice, = kafka.wait_records(dlq, 1)
    assert notice.header("taskmill-id") == "large"
    assert b.log().count("deadletter.publish.failure: dead letter not published") == 1
    assert b.statuses() == {"Failure": 1}
    b.stop()
    b.start()
    assert len(kafka.wait_records(dlq, 2)) == 2
    assert b.statuses() == {"Failure": 1}


def test_weakness_14_poison_does_not_come_back(kafka, broker, grpc_client):
    """Values that made the original panic, and panic again after each restart."""
    b = broker(kafka=kafka)
    kafka.produce(b.topic, [bad_enum(), far_future(), bad_enum(-1), activation(id="after").SerializeToString()])
    client = grpc_client(b)
    assert client.get_task(timeout_s=20).id == "after"
    client.set_status("after", COMPLETE)
    assert [r.header("taskmill-reason") for r in kafka.wait_records(b.dlq_topic, 3)] == ["value out of range"] * 3
    kafka.wait_committed(b.group, b.topic, {0: 4})
    b.stop()
    b.start()
    kafka.produce(b.topic, [activation(id="next").SerializeToString()])
    assert grpc_client(b).get_task(timeout_s=20).id == "next"
    assert len(kafka.consume_all(b.dlq_topic)) == 3


def test_weakness_17_a_retry_row_that_does_not_parse(kafka, broker, grpc_client):
    """Somebody damaged the file: the bytes end as a dead letter, whatever the row's policy, the rest goes on."""
    b = broker(kafka=kafka)
    kafka.produce(b.topic, [activation(id=id, on_exceeded=DISCARD).SerializeToString() for id in ("bad", "good")])
    wait_for(lambda: b.statuses() == {"Pending": 2}, "two rows")
    b.stop()
    with sqlite3.connect(b.db_path) as db:
        assert db.execute("UPDATE inflight_taskactivations SET status = 'Retry', activation = x'ffff' "
                          "WHERE id = 'bad'").rowcount == 1
    db.close()
    b.start()
    record, = kafka.wait_records(b.dlq_topic, 1)
    assert record.value == b"\xff\xff"
    wait_for(lambda: b.statuses() == {"Pending": 1}, "the end of the row")
    assert grpc_client(b).get_task(timeout_s=20).id == "good"


def test_weakness_23_delayed_tasks_do_not_block_the_others(kafka, broker, grpc_client):
    """One delayed task too many stopped all partitions of the original's consumer."""
    b = broker(kafka=kafka, partitions=3, config={"max_delay_count": 2, "max_pending_count": 500})
    for p in range(3):
        kafka.produce(b.topic, [activation(id=f"d{p}-{i}", delay=3600).SerializeToString() for i in range(5)] +
                      [activation(id=f"p{p}-{i}").SerializeToString() for i in range(50)], partition=p)
    client = grpc_client(b)
    assert len({client.get_task(timeout_s=20).id for _ in range(150)}) == 150
    kafka.wait_committed(b.group, b.topic, {p: 55 for p in range(3)})
    assert b.statuses() == {"Processing": 150, "Delay": 15}


def test_weakness_25_a_stream_of_dropped_messages_is_committed(kafka, broker):
    b = broker(kafka=kafka)
    expired = activation(id="expired", expires=1)
    expired.received_at.FromSeconds(1700000000)
    kafka.produce(b.topic, [expired.SerializeToString()] * 5000)
    kafka.wait_committed(b.group, b.topic, {0: 5000})
    assert b.statuses() == {} and kafka.consume_all(b.dlq_topic) == []


def test_weakness_26_a_retry_that_is_too_large_for_its_topic(kafka, broker, grpc_client):
    """It will never be published: the task becomes a dead letter, at once, and only once."""
    retry = kafka.create_topic(f"{kafka.unique_topic('small')}-retry", config={"max.message.bytes": "5000"})
    topic, dlq = kafka.unique_topic("work"), kafka.unique_topic("dlq")
    topics = {topic: {}, retry: {"produce_only": True}, dlq: {"produce_only": True}}
    b = broker(config={"kafka_clusters": {"main": {"address": kafka.bootstrap}},
                       "kafka_topics": {name: {"cluster": "main", "consumer_group": "g", **settings}
                                        for name, settings in topics.items()},
                       "kafka_retry_topic": retry, "kafka_deadletter_topic": dlq,
                       "kafka_auto_offset_reset": "earliest"})
    sent = activation(id="large", kwargs={"pad": "x" * 8000}, max_attempts=3, on_exceeded=DISCARD)
    kafka.produce(topic, [sent.SerializeToString()])
    client = grpc_client(b)
    client.set_status(client.get_task(timeout_s=20).id, RETRY)
    record, = kafka.wait_records(dlq, 1)
    assert pb.TaskActivation.FromString(record.value) == sent
    wait_for(lambda: b.statuses() == {}, "an empty store")
    assert kafka.consume_all(retry) == []
    assert b.log().count("retry.publish.failure: retry not published") == 1
