# SPDX-License-Identifier: Apache-2.0
"""Raw topics: the message itself is the argument of one configured task."""

import hashlib
import random
import struct
import uuid

import msgpack
import pytest
import zstandard
from sentry_protos.taskbroker.v1 import taskbroker_pb2 as pb

from harness.kafka import GROUP, topics_config
from harness.process import wait_for
from harness.rpc import COMPLETE, FAILURE, RETRY, activation
from harness.worker import Worker
from test_clients_python import example  # noqa: F401  (a fixture)

RAW = {"namespace": "tasks", "application": "example", "taskname": "raw", "processing_deadline_duration": 11}


def expected_id(topic, offset, timestamp_ms, partition=0, cluster="main"):
    """docs/protocol.md, in another language."""
    digest = bytearray(hashlib.sha256(b"taskmill raw\0%s\0%s\0" % (cluster.encode(), topic.encode()) +
                                      struct.pack(">iqq", partition, offset, timestamp_ms)).digest()[:16])
    digest[6] = digest[6] & 0x0f | 0x80
    digest[8] = digest[8] & 0x3f | 0x80
    return str(uuid.UUID(bytes=bytes(digest)))


@pytest.fixture
def raw_broker(kafka, broker):
    """A broker that consumes a raw topic (b.topic) and its retry topic (b.retry_topic)."""
    def make(config=None):
        topic = kafka.unique_topic("raw")
        retry, dlq = kafka.unique_topic("retry"), kafka.unique_topic("dlq")
        b = broker(config={
            "worker_map": {"example": "http://127.0.0.1:1"},
            **topics_config({f"main/{topic}": {"raw": RAW}, f"main/{retry}": {}},
                            f"main/{retry}", f"main/{dlq}", {"main": kafka}),
            **(config or {})})
        b.topic, b.retry_topic, b.dlq_topic, b.group = topic, retry, dlq, GROUP
        return b
    return make


def argument(task):
    """What the task's parameters hold, by Python's own msgpack and zstd."""
    packed = task.parameters_bytes
    if task.headers.get("compression-type") == "zstd":
        assert zstandard.frame_content_size(packed) >= 0, "the frame says its size"
        packed = zstandard.ZstdDecompressor().decompress(packed)
    parameters = msgpack.unpackb(packed)
    assert list(parameters) == ["args", "kwargs"] and parameters["kwargs"] == {}
    assert packed == msgpack.packb({"args": parameters["args"], "kwargs": {}}), "as Python packs it"
    value, = parameters["args"]
    assert type(value) is bytes
    return value


LEVELS = {"default": None, "plain": -1, "high": 1000000, "low": -1000000}


def test_messages_become_tasks(kafka, broker, grpc_client):
    """One topic for each compression level, told apart by the task's name."""
    topics = {name: kafka.unique_topic(name) for name in LEVELS}
    retry, dlq = kafka.unique_topic("retry"), kafka.unique_topic("dlq")
    b = broker(config={
        "worker_map": {"example": "http://127.0.0.1:1"},
        **topics_config({f"main/{topics[name]}": {"raw": {**RAW, "taskname": name, "compression_level": level}}
                         for name, level in LEVELS.items()}, f"main/{retry}", f"main/{dlq}", {"main": kafka})})
    rng = random.Random(7)
    sent = [None, b"", b"{\"json\": 1}", *(rng.randbytes(n) for n in (1, 31, 32, 255, 256, 65535, 65536)),
            b"x" * 300000, *(rng.randbytes(rng.randrange(300)) for _ in range(60))]
    headers = [("h", b"first"), ("not-text", b"\xff\xfe"), ("null", None), ("h", b"second"),
               ("\u00fc", "\u00fc".encode())]
    for topic in topics.values():
        kafka.produce(topic, sent, headers=headers, key=b"the key is ignored")
    client = grpc_client(b)
    tasks = {name: [] for name in LEVELS}
    for _ in range(len(sent) * len(LEVELS)):
        task = client.get_task(timeout_s=20)
        tasks[task.taskname].append(task)
    for name, topic in topics.items():
        records = kafka.wait_records(topic, len(sent))
        assert len(tasks[name]) == len(sent)
        for payload, record, task in zip(sent, records, tasks[name]):
            assert argument(task) == (payload or b"")
            assert task.id == expected_id(topic, record.offset, record.timestamp_ms)
            assert (task.namespace, task.application, task.processing_deadline_duration) == ("tasks", "example", 11)
            assert task.received_at.ToMilliseconds() == record.timestamp_ms
            assert dict(task.headers) == {"h": "second", "\u00fc": "\u00fc",
                                          **({} if name == "plain" else {"compression-type": "zstd"})}
            assert not any(task.HasField(field) for field in ("retry_state", "expires", "delay"))
    assert b.sql("SELECT DISTINCT status, at_most_once, on_attempts_exceeded FROM inflight_taskactivations") == [
        ("Processing", 0, 1)]
    assert client.get_task(timeout_s=0.3) is None


def test_a_retry_is_an_activation_of_the_retry_topic(kafka, raw_broker, grpc_client):
    b = raw_broker()
    kafka.produce(b.topic, [b"payload"])
    client = grpc_client(b)
    first = client.get_task(timeout_s=20)
    client.set_status(first.id, RETRY, max_attempts=3)
    again = client.get_task(timeout_s=20)
    assert argument(again) == b"payload" and again.id != first.id and again.headers == first.headers
    assert again.retry_state.max_attempts == 3
    record, = kafka.wait_records(b.retry_topic, 1)
    assert record.value == again.SerializeToString() or pb.TaskActivation.FromString(record.value) == again
    client.set_status(again.id, FAILURE)
    wait_for(lambda: b.statuses() == {}, "an empty store: a raw task is discarded")
    assert kafka.consume_all(b.dlq_topic) == []


def test_weakness_10_a_message_read_again_is_the_same_task(kafka, raw_broker, grpc_client):
    b = raw_broker(config={"kafka_session_timeout_ms": 2000})
    kafka.produce(b.topic, [b"%d" % i for i in range(50)])
    kafka.wait_committed(b.group, b.topic, {0: 50})
    before = b.sql("SELECT id FROM inflight_taskactivations ORDER BY id")
    b.kill9()
    kafka.wait_group_empty(b.group)
    kafka.commit(b.group, b.topic, {0: 0})  # as if nothing had been committed before the kill
    b.start()
    kafka.wait_committed(b.group, b.topic, {0: 50})
    assert b.sql("SELECT id FROM inflight_taskactivations ORDER BY id") == before
    assert len(before) == 50


def test_too_large_for_a_row(kafka, raw_broker, grpc_client):
    """Its size as a task counts, not that of the message."""
    b = raw_broker(config={"max_message_size": 10000})
    noise = random.Random(1).randbytes(9990)
    kafka.produce(b.topic, [noise, b"x" * 50000])
    assert argument(grpc_client(b).get_task(timeout_s=20)) == b"x" * 50000
    record, = kafka.wait_records(b.dlq_topic, 1)
    assert record.header("taskmill-reason") == "too large"
    assert (record.header("taskmill-topic"), record.header("taskmill-offset"), record.header("taskmill-cluster")) == (
        b.topic, "0", "main")
    assert kafka.wait_committed(b.group, b.topic, {0: 2})[0].offset == 2


def test_enqueue_takes_activations_only(kafka, raw_broker, grpc_client):
    """Without a name it finds the topic that is not raw."""
    b = raw_broker()
    client = grpc_client(b)
    with pytest.raises(Exception, match="topic is not one that this broker consumes activations from"):
        client.enqueue([activation(id="x")], topic=b.topic)
    assert list(client.enqueue([activation(id="y")]).ids) == ["y"]
    assert client.get_task(timeout_s=20).id == "y"
    assert len(kafka.wait_records(b.retry_topic, 1)) == 1


@pytest.mark.timeout(180)
def test_a_python_worker_runs_them(kafka, raw_broker, example, client_version):
    b = raw_broker()
    it = example(b)
    it.worker()
    kafka.produce(b.topic, [b"one", b"again two", b"three"])
    # A raw task has no retry state until a worker reports its limit, which 26.5.0 does not: not counted.
    second = 0 if client_version == "26.5.0" else 1
    it.wait_attempts({"one": [0], "two": [0, second], "three": [0]})
    wait_for(lambda: b.statuses() == {}, lambda: f"an empty store, not {b.statuses()}")


def test_our_worker_runs_them(kafka, raw_broker, tmp_path):
    b = raw_broker()
    kafka.produce(b.topic, [b"\x00\xffbytes"])
    out = tmp_path / "out"
    worker = Worker(tmp_path / "worker", [b.address], commands={
        "application": "example", "namespaces": {"tasks": {"processing_deadline": 20, "tasks": {
            "raw": {"command": ["sh", "-c", f"cat > {out}.tmp; mv {out}.tmp {out}"]}}}}})
    try:
        wait_for(out.exists, "the task")
        assert "{\"$bytes\":\"AP9ieXRlcw==\"}" in out.read_text().replace(" ", "")
        wait_for(lambda: b.statuses() == {}, "an empty store")
    finally:
        worker.kill9()


def test_a_self_hosted_installation_starts_unchanged(kafka, broker, grpc_client, tmp_path):
    """Seven raw topics beside taskworker; address, database and statsd come from the environment."""
    stem = kafka.unique_topic("installation")
    raw = [f"{stem}.raw-{i}" for i in range(7)]
    tasks, dlq = f"{stem}.tasks", f"{stem}.dlq"
    b = broker(
        config={
            "create_missing_topics": True, "kafka_retry_topic": tasks, "kafka_deadletter_topic": dlq,
            "kafka_auto_offset_reset": "earliest",
            "kafka_clusters": {"default": {"address": "127.0.0.1:9092"}},
            "kafka_topics": {
                tasks: {"cluster": "default", "consumer_group": f"{stem}-group"},
                dlq: {"cluster": "default", "consumer_group": f"{stem}-group", "produce_only": True},
                **{name: {"cluster": "default", "consumer_group": f"{stem}-raw",
                          "raw": {**RAW, "application": "sentry", "taskname": name}} for name in raw}}},
        env={"TASKBROKER_KAFKA_CLUSTERS__DEFAULT__ADDRESS": kafka.bootstrap,
             "TASKBROKER_DB_PATH": str(tmp_path / "moved.sqlite"),
             "TASKBROKER_STATSD_ADDR": "127.0.0.1:9"})
    for name in raw:
        kafka.produce(name, [name.encode()])
    kafka.produce(tasks, [activation("plain", application="sentry").SerializeToString()])
    client = grpc_client(b)
    found = set()

    def run():
        task = client.get_task(application="sentry")
        if task is not None:
            client.set_status(task.id, COMPLETE)
            found.add(task.taskname)
        return len(found) == 8
    wait_for(run, lambda: f"the tasks of all topics, not only {found}", 60)
    assert found == {"plain", *raw}
    assert (tmp_path / "moved.sqlite").exists()
