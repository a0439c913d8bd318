# SPDX-License-Identifier: Apache-2.0
"""Kafka, or the cluster of the dead letters, is away: tasks go on, nothing is lost."""

import time

import pytest
from sentry_protos.taskbroker.v1 import taskbroker_pb2 as pb

from harness.process import wait_for
from harness.rpc import COMPLETE, DEADLETTER, FAILURE, RETRY, activation

OUTBOX = "SELECT count(*) FROM taskmill_outbox"


def ids(count, name="t"):
    return [f"{name}{i}" for i in range(count)]


def produce(kafka, topic, names, **fields):
    kafka.produce(topic, [activation(id=name, **fields).SerializeToString() for name in names])


def next_task(client):
    """A GetTask is held for 5 s; Kafka may need longer to come back."""
    return wait_for(lambda: client.get_task(timeout_s=10), "a task", 30)


def get_all(client, count):
    return {next_task(client).id for _ in range(count)}


def test_kafka_down_at_start(own_kafka, broker, grpc_client):
    b = broker(kafka=own_kafka, start=False)
    produce(own_kafka, b.topic, ids(10))
    own_kafka.stop()
    b.start()  # SERVING: its rows can be worked on without Kafka
    b.wait_log("(WARN|ERROR).*(?i:connect|broker|transport)")
    client = grpc_client(b)
    assert client.get_task(timeout_s=1) is None
    assert b.running
    own_kafka.start()
    assert get_all(client, 10) == set(ids(10))
    own_kafka.wait_committed(b.group, b.topic, {0: 10})


def test_kafka_down_in_the_middle(own_kafka, broker, grpc_client):
    b = broker(kafka=own_kafka, config={"shutdown_timeout_ms": 3000})
    client = grpc_client(b)
    produce(own_kafka, b.topic, ids(40, "a"), max_attempts=2, on_exceeded=DEADLETTER)
    own_kafka.wait_committed(b.group, b.topic, {0: 40})  # else it may send them once more
    own_kafka.kill9()
    # All there is can be worked on; what has to be published waits in its row.
    got = sorted(get_all(client, 40))
    client.set_statuses([(id, COMPLETE) for id in got[:20]] + [(id, FAILURE) for id in got[20:30]] +
                        [(id, RETRY) for id in got[30:]])
    assert b.statuses() == {"Failure": 10, "Retry": 10}
    assert client.health() == "SERVING"
    # A restart of the broker meanwhile changes nothing.
    b.stop()
    b.start()
    assert b.statuses() == {"Failure": 10, "Retry": 10}
    own_kafka.start()
    produce(own_kafka, b.topic, ids(10, "b"))
    client = grpc_client(b)
    back = [next_task(client) for _ in range(20)]
    assert {task.id for task in back if task.retry_state.attempts == 0} == set(ids(10, "b"))
    assert len({task.id for task in back if task.retry_state.attempts == 1}) == 10
    dead = [pb.TaskActivation.FromString(r.value).id for r in own_kafka.wait_records(b.dlq_topic, 10)]
    assert sorted(dead) == got[20:30]
    wait_for(lambda: b.statuses() == {"Processing": 20}, "the published rows to go")


def test_at_most_once_waits_while_kafka_cannot_confirm(own_kafka, broker, grpc_client):
    """Nobody knows then whether another broker will read such a task too. The others run."""
    b = broker(kafka=own_kafka)
    client = grpc_client(b)
    produce(own_kafka, b.topic, ["first"])
    assert client.get_task(timeout_s=20).id == "first"
    b.stop()
    # The rows are there, the commit is not: as after a crash between the two.
    own_kafka.commit(b.group, b.topic, {0: 0})
    produce(own_kafka, b.topic, ["plain"])
    produce(own_kafka, b.topic, ids(5, "once"), at_most_once=True)
    b.start()
    assert client.get_task(timeout_s=20).id == "plain"
    assert get_all(client, 5) == set(ids(5, "once"))
    assert own_kafka.committed_offsets(b.group, b.topic)[0] == 7


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_dead_letter_cluster_out_of_reach(kafka, own_kafka, broker, grpc_client):
    """First a port where nobody listens, then a server that takes bytes and never answers, longer
    than a delivery may take (30 s): the partition goes on all the time."""
    dlq, retry = own_kafka.unique_topic("dlq"), own_kafka.unique_topic("retry")
    own_kafka.stop()
    b = broker(kafka=kafka, config={"kafka_deadletter_cluster": own_kafka.bootstrap,
                                    "kafka_deadletter_topic": dlq, "kafka_retry_topic": retry})
    client = grpc_client(b)
    seen = 0

    def flow(name):
        """20 bad messages, 20 tasks that fail, 20 that want a retry and 20 good ones."""
        nonlocal seen
        kafka.produce(b.topic, [b"\xff" + f"{name}{i}".encode() for i in range(20)])
        for what in ("fail", "retry", "good"):
            produce(kafka, b.topic, ids(20, f"{name}-{what}"), max_attempts=2, on_exceeded=DEADLETTER)
        seen += 80
        start = time.monotonic()
        for _ in range(60):
            task = next_task(client)
            status = FAILURE if "fail" in task.id else RETRY if "retry" in task.id else COMPLETE
            client.set_status(task.id, status)
        kafka.wait_committed(b.group, b.topic, {0: seen}, 10)
        assert time.monotonic() - start < 10

    def arrived():
        """(bad messages, ids of dead letters, retries), without the double ones."""
        dead = own_kafka.consume_all(dlq)
        bad = {r.value for r in dead if r.headers}
        return (len(bad), len({r.value for r in dead if not r.headers}),
                len({pb.TaskActivation.FromString(r.value).id for r in own_kafka.consume_all(retry)}))

    flow("dead-port")
    assert b.statuses() == {"Failure": 20, "Retry": 20} and b.sql(OUTBOX) == [(20,)]
    own_kafka.start()
    wait_for(lambda: b.statuses() == {} and b.sql(OUTBOX) == [(0,)], "everything to be published", 60, 0.2)
    assert arrived() == (20, 20, 20)

    own_kafka.pause()
    paused = time.monotonic()
    try:
        flow("frozen")
        assert b.statuses() == {"Failure": 20, "Retry": 20} and b.sql(OUTBOX) == [(20,)]
        wait_for(lambda: time.monotonic() > paused + 34, "34 s", 60, 1)
        flow("still-frozen")
        assert b.statuses() == {"Failure": 40, "Retry": 40} and b.sql(OUTBOX) == [(40,)]
        assert client.health() == "SERVING"
    finally:
        own_kafka.resume()
    wait_for(lambda: b.statuses() == {} and b.sql(OUTBOX) == [(0,)],
             lambda: f"everything to be published: {b.statuses()}, outbox {b.sql(OUTBOX)}", 90, 0.2)
    assert arrived() == (60, 60, 60)


@pytest.mark.timeout(60)
def test_stop_while_kafka_is_away(own_kafka, broker, grpc_client):
    b = broker(kafka=own_kafka, config={"shutdown_timeout_ms": 4000})
    client = grpc_client(b)
    produce(own_kafka, b.topic, ids(3), max_attempts=2)
    got = get_all(client, 3)
    own_kafka.pause()
    try:
        for id in got:
            client.set_status(id, RETRY)
        start = time.monotonic()
        b.stop()
        assert time.monotonic() - start < 7
    finally:
        own_kafka.resume()
    assert b.statuses() == {"Retry": 3}
    b.start()
    assert len(get_all(grpc_client(b), 3)) == 3
