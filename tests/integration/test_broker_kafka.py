# SPDX-License-Identifier: Apache-2.0
"""Intake from Kafka, what leaves to Kafka, offsets, back-pressure, and messages that are no tasks."""

import threading
import time

import pytest
from sentry_protos.taskbroker.v1 import taskbroker_pb2 as pb

from harness.process import wait_for
from harness.rpc import COMPLETE, DEADLETTER, DISCARD, FAILURE, RETRY, activation

UNKNOWN_FIELD = b"\xa2\x06\x03new"  # field 100, three bytes: from a newer client


def payloads(count, **fields):
    return [activation(f"t{i}", **fields).SerializeToString() for i in range(count)]


def get_ids(client, count, timeout_s=20):
    return [client.get_task(timeout_s=timeout_s).id for _ in range(count)]


def wait_all_committed(kafka, b, timeout_s=20):
    return kafka.wait_committed(b.group, b.topic, {p: end for p, end in kafka.end_offsets(b.topic).items()
                                                   if end}, timeout_s)


# --- intake


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_weakness_15_record_sets_of_every_compression(kafka, broker, grpc_client, codec):
    b = broker(kafka=kafka)
    kafka.produce(b.topic, payloads(200, kwargs={"text": "x" * 500}),
                  config={"compression.type": codec, "linger.ms": 50})
    client = grpc_client(b)
    names = {client.get_task(timeout_s=20).taskname for _ in range(200)}
    assert names == {f"t{i}" for i in range(200)}


def test_bytes_pass_untouched(kafka, broker, grpc_client):
    b = broker(kafka=kafka)
    sent = activation().SerializeToString() + UNKNOWN_FIELD
    kafka.produce(b.topic, [sent])
    client = grpc_client(b)
    reply = client.raw("/sentry_protos.taskbroker.v1.ConsumerService/GetTask", b"", timeout_s=20)
    assert reply.endswith(sent)


def test_rows_carry_their_origin(kafka, broker):
    b = broker(kafka=kafka, partitions=3)
    sent = [activation(id=f"{p}-{i}") for p in range(3) for i in range(4)]
    for task in sent:
        kafka.produce(b.topic, [task.SerializeToString()], partition=int(task.id[0]))
    wait_for(lambda: b.statuses() == {"Pending": 12}, "12 rows")
    rows = b.sql('SELECT id, partition, "offset" FROM inflight_taskactivations')
    assert {id: (p, o) for id, p, o in rows} == {task.id: (int(task.id[0]), int(task.id[2])) for task in sent}
    assert {p: c.offset for p, c in wait_all_committed(kafka, b).items()} == {0: 4, 1: 4, 2: 4}


def test_commits_carry_the_owner(kafka, broker):
    b = broker(kafka=kafka)
    kafka.produce(b.topic, payloads(3))
    committed = wait_all_committed(kafka, b)[0]
    assert committed.offset == 3
    store, first = committed.metadata.split("@")
    assert len(store) >= 8 and first == "0"
    b.stop()
    b.start()
    kafka.produce(b.topic, payloads(1))
    assert wait_all_committed(kafka, b)[0].metadata == committed.metadata, "the same owner goes on"


def test_restart_reads_nothing_twice(kafka, broker, grpc_client):
    b = broker(kafka=kafka)
    kafka.produce(b.topic, payloads(50))
    first = get_ids(grpc_client(b), 50)
    grpc_client(b).set_statuses([(id, COMPLETE) for id in first])
    wait_all_committed(kafka, b)
    b.stop()
    b.start()
    kafka.produce(b.topic, payloads(5))
    client = grpc_client(b)
    assert len(set(get_ids(client, 5)) - set(first)) == 5
    assert client.get_task(timeout_s=0.3) is None


def test_latest_starts_at_the_end(kafka, broker, grpc_client):
    b = broker(kafka=kafka, start=False, config={"kafka_auto_offset_reset": "latest"})
    kafka.produce(b.topic, payloads(5))
    b.start()
    b.wait_log("partitions assigned")
    kafka.produce(b.topic, [activation(id="new").SerializeToString()])
    assert grpc_client(b).get_task(timeout_s=20).id == "new"


def test_duplicate_ids_are_one_task(kafka, broker, grpc_client):
    b = broker(kafka=kafka)
    kafka.produce(b.topic, [activation(id="x").SerializeToString()] * 5 +
                  [activation(id="y").SerializeToString()])
    client = grpc_client(b)
    assert get_ids(client, 2) == ["x", "y"]
    assert client.get_task(timeout_s=0.3) is None
    assert wait_all_committed(kafka, b)[0].offset == 6


def test_at_most_once_is_claimed_once_its_offset_is_committed(kafka, broker, grpc_client):
    b = broker(kafka=kafka)
    kafka.produce(b.topic, payloads(20, at_most_once=True))
    client = grpc_client(b)
    get_ids(client, 20)
    assert kafka.committed_offsets(b.group, b.topic)[0] == 20
    # The last ones; their claim is durable before the reply.
    assert b.statuses() == {"Processing": 20}


def test_several_topics_into_one_store(kafka, broker, grpc_client):
    topics = [kafka.unique_topic("several") for _ in range(2)]
    dlq, retry = kafka.unique_topic("dlq"), kafka.unique_topic("retry")
    b = broker(config={
        "kafka_clusters": {"main": {"address": kafka.bootstrap}},
        "kafka_topics": {**{name: {"cluster": "main", "consumer_group": f"g-{name}"} for name in topics},
                         **{name: {"cluster": "main", "consumer_group": "g", "produce_only": True}
                            for name in (dlq, retry)}},
        "kafka_deadletter_topic": dlq, "kafka_retry_topic": retry, "kafka_auto_offset_reset": "earliest"})
    for name in topics:
        kafka.produce(name, [activation(id=name, max_attempts=2).SerializeToString()])
    client = grpc_client(b)
    assert set(get_ids(client, 2)) == set(topics)
    client.set_status(topics[0], RETRY)
    assert len(kafka.wait_records(retry, 1)) == 1
    assert list(client.enqueue([activation(id="named")], topic=topics[1]).ids) == ["named"]
    assert client.get_task(timeout_s=20).id == "named"


# --- what leaves


def test_retry_goes_to_the_retry_topic(kafka, broker, grpc_client):
    b = broker(kafka=kafka)
    sent = activation(max_attempts=3, delay_on_retry=0, headers={"h": "v"})
    kafka.produce(b.topic, [sent.SerializeToString() + UNKNOWN_FIELD])
    client = grpc_client(b)
    client.get_task(timeout_s=20)
    client.set_status(sent.id, RETRY, max_attempts=4)
    record = kafka.wait_records(b.topic, 2)[1]
    assert record.key is None and record.headers == []
    assert UNKNOWN_FIELD in record.value, "fields that the broker does not know survive a retry"
    again = pb.TaskActivation.FromString(record.value)
    assert again.id != sent.id and again.retry_state.attempts == 1 and again.retry_state.max_attempts == 4
    assert again.headers == sent.headers and again.parameters_bytes == sent.parameters_bytes
    assert client.get_task(timeout_s=20).id == again.id
    wait_for(lambda: b.statuses() == {"Processing": 1}, "only the retry in the store")


def test_failures_go_to_the_dead_letter_topic(kafka, broker, grpc_client):
    b = broker(kafka=kafka)
    sent = {task.id: task.SerializeToString() + UNKNOWN_FIELD for task in
            [activation(max_attempts=1, on_exceeded=DEADLETTER if i % 2 else DISCARD) for i in range(10)]}
    kafka.produce(b.topic, sent.values())
    client = grpc_client(b)
    for id in get_ids(client, 10):
        client.set_status(id, FAILURE)
    records = kafka.wait_records(b.dlq_topic, 5)
    assert sorted(r.value for r in records) == sorted(list(sent.values())[1::2]), "byte for byte"
    assert all(r.key is None and r.headers == [] for r in records)
    wait_for(lambda: b.statuses() == {}, "an empty store")


# --- messages that are no tasks


def bad_enum(value=17):
    task = activation()
    task.retry_state.on_attempts_exceeded = value
    return task.SerializeToString()


def far_future():
    return activation(expires=2**63).SerializeToString()


GOOD = activation("good").SerializeToString()
BAD = {
    "garbage": (b"\xff\xfe\xfd" * 20, "not a TaskActivation"),
    "truncated": (GOOD[:10], "not a TaskActivation"),  # inside its id: never at the end of a field
    "bad utf-8": (b"\x0a\x02\xff\xfe", "not a TaskActivation"),
    "unknown enum": (bad_enum(), "value out of range"),
    "negative enum": (bad_enum(-1), "value out of range"),
    "expires beyond the calendar": (far_future(), "value out of range"),
    "name of 2 kB": (activation("x" * 2000).SerializeToString(), "name too long"),
    "tombstone": (None, "null payload"),
}


@pytest.mark.parametrize("what", BAD)
def test_weakness_03_bad_message_is_dead_lettered_and_the_partition_goes_on(kafka, broker, grpc_client, what):
    payload, reason = BAD[what]
    b = broker(kafka=kafka)
    before, after = activation(id="before"), activation(id="after")
    kafka.produce(b.topic, [before.SerializeToString(), payload, after.SerializeToString()])
    assert get_ids(grpc_client(b), 2) == ["before", "after"]
    record, = kafka.wait_records(b.dlq_topic, 1)
    assert record.value == (payload or b"")
    assert record.header("taskmill-reason") == reason
    assert record.header("taskmill-topic") == b.topic
    assert (record.header("taskmill-partition"), record.header("taskmill-offset")) == ("0", "1")
    assert wait_all_committed(kafka, b)[0].offset == 3
    wait_for(lambda: b.sql("SELECT count(*) FROM taskmill_outbox") == [(0,)], "an empty outbox")
    b.wait_log(f"WARN.*{reason}")


def test_empty_message_is_a_task_without_name(kafka, broker, grpc_client):
    """Protobuf's reading: all fields at their defaults."""
    b = broker(kafka=kafka)
    kafka.produce(b.topic, [b""])
    assert grpc_client(b).get_task(timeout_s=20).id == ""


def test_oversized_message(kafka, broker, grpc_client):
    b = broker(kafka=kafka, config={"max_message_size": 10000})
    kafka.produce(b.topic, [activation(args=["x" * 20000]).SerializeToString(),
                            activation(id="after", args=["x" * 9000]).SerializeToString()])
    assert grpc_client(b).get_task(timeout_s=20).id == "after"
    assert wait_all_committed(kafka, b)[0].offset == 2
    record, = kafka.wait_records(b.dlq_topic, 1)
    assert record.header("taskmill-reason") == "too large"
    assert record.value == b"", "it does not fit there either: a notice without it, the record stays"
    assert b.sql("SELECT count(*) FROM taskmill_outbox") == [(1,)]


def test_weakness_24_many_bad_messages_pass_quickly(kafka, broker, grpc_client):
    b = broker(kafka=kafka)
    kafka.produce(b.topic, [b"\xff" * 50] * 5000 + [activation(id="after").SerializeToString()])
    start = time.monotonic()
    assert grpc_client(b).get_task(timeout_s=30).id == "after"
    assert len(kafka.wait_records(b.dlq_topic, 5000)) == 5000
    assert time.monotonic() - start < 20
    assert b.log().count("cannot become a task") == 1, "one line, not 5,000"


def test_dead_letters_survive_a_kill(kafka, broker):
    """Killed between intake and delivery, the outbox is published by the next start."""
    b = broker(kafka=kafka, config={"kafka_session_timeout_ms": 2000})
    for i in range(3):
        kafka.produce(b.topic, [b"\xff%d" % n for n in range(300)])
        # Not before it has joined: Kafka waits minutes for a member that died while joining.
        wait_for(lambda: kafka.committed_offsets(b.group, b.topic).get(0, 0) > 300 * i, "this batch's commit")
        b.kill9()
        b.start()
    wait_all_committed(kafka, b)
    wait_for(lambda: b.sql("SELECT count(*) FROM taskmill_outbox") == [(0,)], "an empty outbox")
    offsets = {int(r.header("taskmill-offset")) for r in kafka.consume_all(b.dlq_topic)}
    assert offsets == set(range(900))


# --- back-pressure


def drain(b, count, threads=3):
    """Works off `count` tasks; returns the times at which they came."""
    times, lock = [], threading.Lock()

    def work():
        with b.client() as client:
            task = client.get_task(timeout_s=20)
            while task is not None:
                with lock:
                    times.append(time.monotonic())
                    if len(times) >= count:
                        return
                task = client.set_status(task.id, COMPLETE, fetch_next=True) or client.get_task(timeout_s=2)

    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(90)
    return sorted(times)


def test_weakness_22_a_batch_larger_than_max_pending_count_is_split(kafka, broker, grpc_client):
    b = broker(kafka=kafka, partitions=2, config={"max_pending_count": 100})
    kafka.produce(b.topic, payloads(3000))
    wait_for(lambda: b.statuses() == {"Pending": 100}, "a full store")
    most = 0
    stop = threading.Event()

    def watch():
        nonlocal most
        while not stop.wait(0.005):
            most = max(most, b.statuses().get("Pending", 0))

    watcher = threading.Thread(target=watch)
    watcher.start()
    times = drain(b, 3000)
    stop.set()
    watcher.join()
    assert len(times) >= 3000
    assert most <= 100
    assert b.statuses().get("Pending", 0) == 0


def test_max_processing_count_holds(kafka, broker, grpc_client):
    b = broker(kafka=kafka, config={"max_processing_count": 50, "max_pending_count": 20})
    kafka.produce(b.topic, payloads(500))
    client = grpc_client(b)
    claimed = []
    while (task := client.get_task(timeout_s=1)) is not None:
        claimed.append(task.id)
    # At 50 nothing more is taken in; what was there already can still be claimed.
    assert 50 <= len(claimed) <= 50 + 20
    client.set_statuses([(id, COMPLETE) for id in claimed])
    assert client.get_task(timeout_s=5) is not None


@pytest.mark.alone
def test_intake_resumes_at_once_when_pressure_lifts(kafka, broker, capsys):
    """The prefetch is full for long; librdkafka alone would look again only after up to 1 s."""
    b = broker(kafka=kafka, config={"max_pending_count": 50, "kafka_prefetch_bytes": 1048576})
    kafka.produce(b.topic, payloads(1500, kwargs={"pad": "x" * 10000}))
    wait_for(lambda: b.statuses() == {"Pending": 50}, "a full store")
    time.sleep(2)  # long enough for every fetch to have stopped
    times = drain(b, 1500)
    assert len(times) >= 1500
    gaps = sorted((later - earlier) * 1000 for earlier, later in zip(times, times[1:]))
    with capsys.disabled():
        print(f"\n1,500 tasks of 10 kB from Kafka in {times[-1] - times[0]:.1f} s, "
              f"longest gaps {', '.join(f'{gap:.0f}' for gap in gaps[-4:])} ms")
    assert gaps[-1] < 250, "a pause of Kafka's fetcher"


def test_max_size_holds(kafka, broker, grpc_client):
    """What was on its way when the limit was noticed still comes in; nothing after it does."""
    b = broker(kafka=kafka, config={"db_max_size": 3000000})
    kafka.produce(b.topic, payloads(200, kwargs={"pad": "x" * 20000}))
    b.wait_log("WARN.*the store has reached store.max_size")
    kafka.produce(b.topic, payloads(200, kwargs={"pad": "x" * 20000}))
    time.sleep(1)  # in which nothing may happen
    assert 50 < b.statuses()["Pending"] <= 200
    times = drain(b, 400)
    assert len(times) >= 400
