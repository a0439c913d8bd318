# SPDX-License-Identifier: Apache-2.0
"""The end of a broker: what a signal does in which order and time, whatever hangs, and exit codes."""

import fcntl
import re
import signal
import socket
import sqlite3
import struct
import threading
import time

import grpc
import pytest
from sentry_protos.taskbroker.v1 import taskbroker_pb2 as pb

from clients.http2 import (DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, START, frame, headers,
                           read_frames)
from harness.broker import build_folder
from harness.process import wait_for
from harness.rpc import COMPLETE, CONSUMER, RETRY, activation


def errors(b):
    return re.findall("^.*ERROR.*$", b.log(), re.MULTILINE)


class Clock:
    def __init__(self):
        self.start = time.monotonic()

    def __call__(self):
        return time.monotonic() - self.start


def end(b, limit_s, code=0):
    """SIGTERM; the exit code must come within the limit (and a margin for a loaded machine)."""
    clock = Clock()
    b.signal(signal.SIGTERM)
    assert b.wait(limit_s + 10) == code, b.log()[-3000:]
    assert clock() < limit_s + 3, b.log()[-3000:]
    return clock()


@pytest.fixture
def connect():
    """Factory: a raw HTTP/2 connection to the broker; with a path, also a call that never ends."""
    made = []

    def make(b, path=None):
        connection = socket.create_connection(("127.0.0.1", b.port), timeout=5)
        made.append(connection)
        call = frame(HEADERS, END_HEADERS, 1, headers(path.encode())) if path else b""
        connection.sendall(START + call + frame(PING, 0, 0, b"received"))
        assert any(kind == PING for kind, _, _, _ in read_frames(connection))
        return connection

    yield make
    for connection in made:
        connection.close()


# --- reports


def test_weakness_06_reports_in_flight_at_sigterm_are_durable(broker, grpc_client):
    """Whatever was answered OK is in the file, and every call gets an answer or a clear refusal."""
    b = broker(config={"store": {"max_pending_count": 5000, "max_processing_count": 5000}})
    ids = [f"t{i}" for i in range(1200)]
    client = grpc_client(b)
    client.enqueue([activation(id=id) for id in ids])
    for _ in ids:
        client.get_task()
    answered, refused = set(), []

    def report(share):
        with b.client() as own:
            for id in share:
                try:
                    own.set_status(id, COMPLETE)
                    answered.add(id)
                except grpc.RpcError as error:
                    refused.append(error.code())
                    return

    threads = [threading.Thread(target=report, args=(ids[i::8],)) for i in range(8)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(answered) > 100, "reports to flow")
    b.signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert b.wait() == 0
    assert set(refused) <= {grpc.StatusCode.UNAVAILABLE}
    left = {id for id, in b.sql("SELECT id FROM inflight_taskactivations")}
    assert not left & answered
    assert len(answered) + len(left) >= len(ids)


def test_reports_are_taken_while_a_stream_is_open(broker, connect, grpc_client):
    """GOAWAY ends no call that has begun, and nothing new is handed out."""
    b = broker()
    client = grpc_client(b)
    client.enqueue([activation(id="x"), activation(id="y")])
    assert client.get_task().id == "x"
    connection = connect(b, f"/{CONSUMER}/SetTaskStatus")
    request = pb.SetTaskStatusRequest(id="x", status=COMPLETE, fetch_next_task=pb.FetchNextTask())
    body = request.SerializeToString()
    b.signal(signal.SIGTERM)
    frames = read_frames(connection)
    assert any(kind == GOAWAY for kind, _, _, _ in frames)
    connection.sendall(frame(DATA, END_STREAM, 1, b"\0" + struct.pack(">I", len(body)) + body))
    clock = Clock()
    assert b.wait() == 0 and clock() < 4.5  # it was the last stream
    assert b.statuses() == {"Pending": 1}


# --- peers


def test_open_connections_do_not_delay_the_end(broker, connect, grpc_client):
    b = broker()
    held = []
    for _ in range(3):
        held.append(socket.create_connection(("127.0.0.1", b.port)))  # says nothing
        held.append(socket.create_connection(b.admin_address.split(":")))
        connect(b)
    watch = grpc_client(b).health_watch()
    assert next(watch) == "SERVING"
    waiting = threading.Thread(target=grpc_client(b).get_task, kwargs={"timeout_s": 20})
    waiting.start()
    wait_for(lambda: b.status()["held_claims"] == 1, "a held call")
    assert end(b, 9) < 4.5
    waiting.join()
    for connection in held:
        connection.close()


def test_a_short_limit_holds_for_streams(broker, connect):
    b = broker(config={"shutdown_timeout_ms": 900})
    connect(b, f"/{CONSUMER}/GetTask")
    end(b, 0.9)
    assert not errors(b)


# --- Kafka


@pytest.mark.timeout(180)
def test_weakness_21_unreachable_kafka_blocks_nothing(own_kafka, broker, grpc_client):
    """A frozen cluster: tasks, deadlines and health go on, and the end keeps its limit although
    several consumers and a producer wait for answers."""
    topics = [own_kafka.unique_topic("w21") for _ in range(3)]
    dlq = own_kafka.unique_topic("dlq")
    declared = {name: {"cluster": "main", "consumer_group": f"{name}-group"} for name in topics}
    declared[dlq] = {"cluster": "main", "consumer_group": "unused", "produce_only": True}
    b = broker(config={"kafka_clusters": {"main": {"address": own_kafka.bootstrap}},
                       "kafka_topics": declared, "kafka_deadletter_topic": dlq,
                       "kafka_retry_topic": topics[0], "kafka_auto_offset_reset": "earliest",
                       "shutdown_timeout_ms": 3600, "store": {"processing_deadline_grace_sec": 0}})
    client = grpc_client(b)
    for name in topics:
        own_kafka.produce(name, [activation(id=f"{name}{i}", max_attempts=2, deadline_s=1 + i).SerializeToString()
                                 for i in range(2)])
    got = {wait_for(lambda: client.get_task(timeout_s=10), "a task", 30).id for _ in range(6)}
    own_kafka.pause()
    try:
        retried = f"{topics[0]}1"
        client.set_status(retried, RETRY)
        assert b.statuses()["Retry"] == 1
        for id in got - {retried}:
            # The deadline passes with Kafka away: a publish that waits does not hold it up.
            task = wait_for(lambda: client.get_task(timeout_s=10), "a task after its deadline", 90)
            client.set_status(task.id, COMPLETE)
        assert b.statuses() == {"Retry": 1}
        assert client.health() == "SERVING" and b.http("/readyz")[0] == 200
        assert b.status()["tasks"]["retry"] == 1
        end(b, 3.6)
        assert not errors(b)
    finally:
        own_kafka.resume()
    assert b.statuses() == {"Retry": 1}
    b.start()
    task = wait_for(lambda: grpc_client(b).get_task(timeout_s=10), "the retry", 60)
    assert task.retry_state.attempts == 1


# --- the database


def test_database_locked_for_good(broker, grpc_client):
    """Another process never lets go: exit 1 within the limit, with the cause."""
    b = broker(config={"shutdown_timeout_ms": 2700})
    client = grpc_client(b)
    client.enqueue([activation(id="x"), activation(id="y")])
    client.get_task()
    other = sqlite3.connect(b.db_path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        report = client.channel.unary_unary(f"/{CONSUMER}/SetTaskStatus").future(
            pb.SetTaskStatusRequest(id="x", status=COMPLETE).SerializeToString(), timeout=20)
        b.wait_log("is locked by another process")
        end(b, 2.7, code=1)
    finally:
        other.execute("ROLLBACK")
        other.close()
    assert str(b.db_path) in errors(b)[-1] and "locked" in errors(b)[-1]
    with pytest.raises(grpc.RpcError):
        report.result()
    b.start()
    assert b.statuses() == {"Processing": 1, "Pending": 1}


def test_database_locked_by_a_reader_only(broker, grpc_client):
    """A backup that reads holds up nothing: all is durable, exit 0."""
    b = broker()
    grpc_client(b).enqueue([activation(id="x")])
    other = sqlite3.connect(b.db_path, isolation_level=None)
    other.execute("BEGIN")
    assert other.execute("SELECT count(*) FROM inflight_taskactivations").fetchone() == (1,)
    end(b, 9)
    other.close()
    assert not errors(b) and b.statuses() == {"Pending": 1}


@pytest.fixture
def hanging(broker, tmp_path):
    """A broker whose disk hangs while the file .hang exists."""
    hang = tmp_path / "hang"
    env = {"LD_PRELOAD": str(build_folder() / "tests/integration/disk/hanging_disk.so"), "HANG_FILE": str(hang),
           "ASAN_OPTIONS": "verify_asan_link_order=0"}
    b = broker(config={"shutdown_timeout_ms": 2700}, env=env)
    b.hang = hang
    yield b
    hang.unlink(missing_ok=True)


def test_disk_hangs_in_the_last_turn(hanging, grpc_client):
    b = hanging
    client = grpc_client(b)
    client.enqueue([activation(id="x"), activation(id="y")])
    client.get_task()
    b.hang.touch()
    report = client.channel.unary_unary(f"/{CONSUMER}/SetTaskStatus").future(
        pb.SetTaskStatusRequest(id="x", status=COMPLETE).SerializeToString(), timeout=20)
    wait_for(lambda: b.status()["streams"] == 1, "the report to arrive")
    end(b, 2.7, code=1)
    assert "a write has not ended within shutdown_timeout_ms (2700)" in errors(b)[-1]
    with pytest.raises(grpc.RpcError):
        report.result()
    b.hang.unlink()
    b.start()
    assert b.sql("PRAGMA integrity_check") == [("ok",)]
    assert b.statuses() in ({"Pending": 1}, {"Processing": 1, "Pending": 1})  # nobody was told


def test_disk_hangs_while_the_database_is_closed(hanging, grpc_client):
    b = hanging
    grpc_client(b).enqueue([activation(id="x")])
    b.hang.touch()
    end(b, 2.7, code=1)
    assert "still waits for the database to close" in errors(b)[-1]
    b.hang.unlink()
    b.start()
    assert b.statuses() == {"Pending": 1}


def test_second_signal_while_the_disk_hangs(hanging, grpc_client):
    b = hanging
    grpc_client(b).enqueue([activation(id="x")])
    b.hang.touch()
    b.signal(signal.SIGTERM)
    b.wait_log("stopping")
    clock = Clock()
    b.signal(signal.SIGQUIT)
    assert b.wait() == 1 and clock() < 2.4
    assert "second signal" in errors(b)[-1]
    b.hang.unlink()
    assert b.sql("PRAGMA integrity_check") == [("ok",)]
    b.start()
    assert grpc_client(b).get_task().id == "x"


# --- the start


def test_signal_during_the_start(broker):
    b = broker()
    b.stop()
    with open(f"{b.db_path}.lock", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the start would wait for 10 s
        b.start(wait=False)
        b.wait_log("(?s)stopped.*admin port listening")
        end(b, 2)
    assert "received Terminated during the start: exit" in b.log() and not errors(b)


# --- failures


def test_weakness_18_a_mistyped_path_is_an_error(broker, tmp_path):
    b = broker(start=False)
    b._argv = [*b._argv[:-1], tmp_path / "mistyped.yml"]
    b.start(wait=False)
    assert b.wait() == 1
    assert "mistyped.yml" in b.log() and len(b.log().splitlines()) == 1


def test_weakness_19_a_failed_engine_exits_1_with_the_cause(broker, grpc_client):
    b = broker()
    client = grpc_client(b)
    client.enqueue([activation(id="x")])
    with sqlite3.connect(b.db_path) as other:
        other.execute("UPDATE inflight_taskactivations SET bucket = 7")
    with pytest.raises(grpc.RpcError):
        client.enqueue([activation(id="y")])
        client.enqueue([activation(id="z")])
    assert b.wait() == 1
    assert "another program has written to it" in errors(b)[-1] and str(b.db_path) in errors(b)[-1]


def test_weakness_19_a_failed_consumer_exits_1_with_the_cause(kafka, broker):
    b = broker(kafka=kafka, start=False)
    b.config["kafka_topic"] = "w19-nowhere"
    b.start(wait=False)
    assert b.wait(30) == 1
    assert "topic 'w19-nowhere' does not exist" in errors(b)[-1]


def test_weakness_19_a_taken_port_exits_1_with_the_cause(broker):
    b = broker(start=False)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", b.port))
        holder.listen()
        b.start(wait=False)
        assert b.wait() == 1
    assert f"{b.address}: Address already in use" in errors(b)[-1]
