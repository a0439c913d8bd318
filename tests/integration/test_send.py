# SPDX-License-Identifier: Apache-2.0
"""`taskmill send`: what arrives is what Python's client would have sent."""

import subprocess
import time

import msgpack
import pytest
from sentry_protos.taskbroker.v1 import taskbroker_pb2 as pb

from harness.broker import program
from harness.process import free_port
from harness.rpc import COMPLETE, DEADLETTER, DISCARD


def send(*arguments, env=None):
    return subprocess.run([str(a) for a in [program(), "send", *arguments]], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=30, env=env)


def sent(*arguments):
    done = send(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def claim(broker):
    with broker.client() as client:
        task = client.get_task(timeout_s=10)
        client.set_status(task.id, COMPLETE)
    return task


def test_every_field(broker):
    b = broker()
    before = time.time()
    id = sent("billing:pay:now", 42, "text", "email=a@b.c", "--rpc-host", b.address, "--application",
              "shop", "--expires", 60, "--deadline", 7, "--header", "k=v=w", "--times", 3, "--delay", 5,
              "--deadletter")
    task = claim(b)
    assert task.id == id and len(id) == 32 and int(id, 16)
    assert (task.application, task.namespace, task.taskname) == ("shop", "billing", "pay:now")
    assert msgpack.unpackb(task.parameters_bytes) == {"args": [42, "text"], "kwargs": {"email": "a@b.c"}}
    assert task.parameters == ""
    assert before - 1 <= task.received_at.seconds <= time.time() + 1
    assert task.expires == 60 and task.processing_deadline_duration == 7
    assert dict(task.headers) == {"k": "v=w"}
    state = task.retry_state
    assert (state.attempts, state.max_attempts, state.on_attempts_exceeded) == (0, 3, DEADLETTER)
    assert state.delay_on_retry == 5 and not state.HasField("at_most_once")


def test_defaults(broker):
    b = broker()
    sent("ns:t", "--rpc-host", b.address)
    task = claim(b)
    assert task.application == "default" and task.processing_deadline_duration == 10
    assert not task.HasField("expires") and not task.HasField("delay") and not task.headers
    state = task.retry_state
    assert (state.max_attempts, state.on_attempts_exceeded) == (1, DISCARD)
    assert state.HasField("at_most_once") and not state.at_most_once


VALUES = [
    ("1", 1), ("-5", -5), ("1.5", 1.5), ("true", True), ("null", None), ("18446744073709551615", 2**64 - 1),
    ("-9223372036854775808", -2**63), ("text", "text"), ("007", "007"), ("[1, {\"a\": []}]", [1, {"a": []}]),
    ('"a=b"', "a=b"), ("ä", "ä"), ("", ""), ("a b", "a b"), ("1=2", "1=2"), ("nan", "nan"),
    ('{"$bytes": "AAE="}', b"\0\1"),
]


def test_values(broker):
    b = broker()
    sent("ns:t", "--rpc-host", b.address, "--", *[text for text, _ in VALUES])
    args = msgpack.unpackb(claim(b).parameters_bytes)["args"]
    assert args == [value for _, value in VALUES]


def test_json(broker):
    b = broker()
    sent("ns:t", "--rpc-host", b.address, "--json", '{"args": [1], "kwargs": {"k": [2]}}')
    assert msgpack.unpackb(claim(b).parameters_bytes) == {"args": [1], "kwargs": {"k": [2]}}


def test_many_large_words(broker):
    """Half of what would be compressed: one word of a command line has at most 128 KiB."""
    b = broker()
    words = ["x" * 100000] * 15
    sent("ns:t", *words, "--rpc-host", b.address)
    task = claim(b)
    assert msgpack.unpackb(task.parameters_bytes)["args"] == words and not task.headers


def test_to_kafka(kafka):
    topic = kafka.unique_topic("send")
    id = sent("ns:t", 7, "--kafka", kafka.bootstrap, "--topic", topic, "--at-most-once")
    [record] = kafka.wait_records(topic, 1)
    task = pb.TaskActivation.FromString(record.value)
    assert task.id == id and msgpack.unpackb(task.parameters_bytes) == {"args": [7], "kwargs": {}}
    assert task.retry_state.at_most_once
    assert record.key is None and not record.headers


@pytest.mark.parametrize("arguments, code, text", [
    ([], 2, "NAMESPACE:TASK"),
    (["task"], 2, "NAMESPACE:TASK"),
    ([":t"], 2, "NAMESPACE:TASK"),
    (["n:t", "--countdown", "soon"], 2, "whole number"),
    (["n:t", "--header", "x"], 2, "NAME=VALUE"),
    (["n:t", "--json", "{", ], 2, "JSON"),
    (["n:t", "k=1", "other=1", "k=2"], 2, "k is given twice"),
    (["n:t", "1", "--json", "{}"], 2, "one or the other"),
    (["n:t", "--at-most-once", "--times", "2"], 1, "exclude each other"),
    (["n:t", "--rpc-host", "nowhere"], 1, "host:port"),
    (["n:t", "--rpc-host", "a:1", "--kafka", "b:1"], 1, "not both"),
    (["n:t", "--header", "compression-type=zstd"], 1, "compression-type"),
])
def test_wrong_usage(arguments, code, text):
    done = send(*arguments)
    assert done.returncode == code and done.stdout == ""
    assert text in done.stderr and len(done.stderr.splitlines()) == 1


def test_nobody_there():
    port = free_port()
    done = send("n:t", "--rpc-host", f"127.0.0.1:{port}")
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr and "refused" in done.stderr
