# SPDX-License-Identifier: Apache-2.0
"""taskmill.v1.ProducerService/Enqueue, with Kafka and without."""

import grpc
import pytest

from harness.process import wait_for
from harness.rpc import COMPLETE, PRODUCER, activation

UNKNOWN_FIELD = b"\xa2\x06\x03new"  # field 100, three bytes: from a newer client


def refusal(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code().name, caught.value.details()


@pytest.fixture(params=["embedded", "kafka"])
def b(request, broker):
    kafka = request.getfixturevalue("kafka") if request.param == "kafka" else None
    return broker(kafka=kafka)


def test_enqueued_tasks_run(b, grpc_client):
    client = grpc_client(b)
    sent = [activation(f"t{i}") for i in range(50)]
    reply = client.enqueue(sent, timeout_s=30)
    assert list(reply.ids) == [task.id for task in sent]
    got = [client.get_task(timeout_s=20) for _ in sent]
    assert got == sent
    client.set_statuses([(task.id, COMPLETE) for task in got])
    assert b.statuses() == {}


def test_refused_calls_leave_nothing(b, grpc_client):
    client = grpc_client(b)
    good = activation().SerializeToString()
    code, text = refusal(lambda: client.enqueue([good, b"\xff\xff", good]))
    assert code == "INVALID_ARGUMENT" and text.startswith("activation 1: ")
    bad_enum = activation()
    bad_enum.retry_state.on_attempts_exceeded = 77
    code, text = refusal(lambda: client.enqueue([good, good, bad_enum]))
    assert code == "INVALID_ARGUMENT" and text.startswith("activation 2: ")
    code, text = refusal(lambda: client.enqueue([good], topic="nowhere"))
    assert code == "INVALID_ARGUMENT" and "topic" in text
    code, text = refusal(lambda: client.raw(f"/{PRODUCER}/Enqueue", b"\x0a\xff"))
    assert code == "INTERNAL" and text.startswith("failed to decode Protobuf message")
    # What comes later would be behind it.
    client.enqueue([activation(id="good")], timeout_s=30)
    assert client.get_task(timeout_s=20).id == "good"
    assert client.get_task(timeout_s=0.3) is None


def test_too_large_an_activation_is_refused(broker, grpc_client):
    client = grpc_client(broker(config={"max_message_size": 10000}))
    code, text = refusal(lambda: client.enqueue([activation(args=[b"x" * 10000])]))
    assert code == "INVALID_ARGUMENT" and text.startswith("activation 0: ") and "large" in text
    client.enqueue([activation(args=[b"x" * 9000])])
    assert client.get_task() is not None


def test_an_empty_call_is_ok(b, grpc_client):
    assert list(grpc_client(b).enqueue([]).ids) == []


def test_enqueue_lands_in_the_topic_byte_for_byte(kafka, broker, grpc_client):
    b = broker(kafka=kafka)
    payloads = [activation(f"t{i}").SerializeToString() + UNKNOWN_FIELD for i in range(10)]
    grpc_client(b).enqueue(payloads, topic=b.topic, timeout_s=30)
    records = kafka.consume_all(b.topic)
    assert [record.value for record in records] == payloads
    assert all(record.key is None and not record.headers for record in records)


def test_enqueue_while_kafka_is_away(own_kafka, broker, grpc_client):
    b = broker(kafka=own_kafka)
    client = grpc_client(b)
    client.enqueue([activation(id="before")], timeout_s=30)
    wait_for(lambda: b.statuses() == {"Pending": 1}, "the row")
    own_kafka.wait_committed(b.group, b.topic, {0: 1})
    own_kafka.stop()
    # The caller's own limit ends the call, on its side or on ours, whichever looks at its clock first;
    # without one it is UNAVAILABLE after 30 s.
    code, text = refusal(lambda: client.enqueue([activation(id="during")], timeout_s=2))
    assert code == "DEADLINE_EXCEEDED" or (code, text) == ("CANCELLED", "Timeout expired")
    assert client.get_task(timeout_s=5).id == "before", "the rest of the broker lives"
    client.set_status("before", COMPLETE)  # else its deadline brings it back
    own_kafka.start()
    client.enqueue([activation(id="after")], timeout_s=30)
    # A call that failed may have been taken all the same.
    got = set()
    while "after" not in got:
        # Held for 5 s at most, while the consumer may still be on its way back into its group.
        got.add(wait_for(lambda: client.get_task(timeout_s=20), "a task", timeout_s=60).id)
    assert got <= {"during", "after"}


def test_what_was_acknowledged_survives_a_kill(broker, grpc_client):
    b = broker()
    sent = [activation(id=f"t{i}", at_most_once=i % 2 == 0) for i in range(200)]
    for i in range(0, 200, 20):
        grpc_client(b).enqueue(sent[i:i + 20])
    b.kill9()
    b.start()
    client = grpc_client(b)
    assert {client.get_task().id for _ in sent} == {task.id for task in sent}


def test_same_id_twice_is_one_task(broker, grpc_client):
    client = grpc_client(broker())
    assert list(client.enqueue([activation(id="x"), activation(id="x")]).ids) == ["x", "x"]
    assert client.get_task().id == "x"
    assert client.get_task(timeout_s=0.3) is None


def test_a_full_store_refuses_and_recovers(broker, grpc_client):
    b = broker(config={"store": {"max_size": 4000000, "sqlite": {"path": "tasks.sqlite"}},
                       "db_path": None})
    client = grpc_client(b)
    sent = 0

    def enqueue():
        nonlocal sent
        client.enqueue([activation(args=[b"x" * 50000]) for _ in range(10)])
        sent += 10

    def until_full():
        for _ in range(1000):
            enqueue()
        raise AssertionError("max_size is 4 MB and 500 MB were accepted")

    code, text = refusal(until_full)
    assert code == "RESOURCE_EXHAUSTED" and "full" in text
    assert 40 <= sent <= 400
    b.wait_log("store.max_size")
    for _ in range(sent):  # they all can be worked off
        client.set_status(client.get_task().id, COMPLETE)

    def accepted():
        try:
            enqueue()
            return True
        except grpc.RpcError:
            return False
    wait_for(accepted, "room in the store")


def test_embedded_topics_hold_what_the_store_may_not(broker, grpc_client):
    """max_pending_count limits rows, not producers: the log takes the rest."""
    b = broker(config={"max_pending_count": 100})
    client = grpc_client(b)
    sent = [activation() for _ in range(1000)]
    client.enqueue(sent)
    assert b.statuses() == {"Pending": 100}
    for task in sent:
        got = client.get_task()
        assert got.id == task.id
        client.set_status(got.id, COMPLETE)
    assert b.statuses() == {} and b.sql("SELECT count(*) FROM taskmill_log") == [(0,)]
