# SPDX-License-Identifier: Apache-2.0
"""The real Python client, both pinned releases, as producer and as worker of our broker."""

import json
import os
import random
import re
import signal
import statistics
import subprocess
import time
from collections import defaultdict

import pytest
from sentry_protos.taskbroker.v1 import taskbroker_pb2 as pb

from harness.cache import INTEGRATION, venv
from harness.process import Process, wait_for
from harness.rpc import activation


class Example:
    """Runs clients/example_app.py around one broker."""

    def __init__(self, python, folder, kafka, b):
        self._python = python
        self._folder = folder
        self._runs = folder / "runs"
        self._workers = []
        self.env = {"PYTHONPATH": str(INTEGRATION), "EXAMPLE_KAFKA": kafka.bootstrap,
                    "EXAMPLE_TOPIC": b.topic, "EXAMPLE_RUNS": str(self._runs)}
        self._b = b

    def send(self, *orders):
        """Orders: (task, args, options)."""
        orders = [{"task": task, "args": args, **options} for task, args, options in orders]
        done = subprocess.run([self._python, "-B", "-m", "clients.example_app", "send"],
                              input=json.dumps(orders), text=True, timeout=60, env={**os.environ, **self.env},
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, done.stdout[-4000:]

    def worker(self, concurrency=2):
        it = Process([self._python, "-B", "-m", "clients.example_app", "worker", self._b.address, concurrency],
                     self._folder / f"worker{len(self._workers)}.txt", self.env)
        self._workers.append(it)
        return it

    def runs(self):
        """{tag: [(task, attempt, moment), ...]}"""
        found = defaultdict(list)
        if self._runs.exists():
            for line in self._runs.read_text().splitlines():
                task, tag, attempt, moment = line.split()
                found[tag].append((task, int(attempt), float(moment)))
        return found

    def attempts(self):
        return {tag: [attempt for _, attempt, _ in runs] for tag, runs in self.runs().items()}

    def wait_attempts(self, wanted, timeout_s=60):
        wait_for(lambda: self.attempts() == wanted,
                 lambda: f"runs {wanted}, there are {self.attempts()}\n" +
                 "\n".join(worker.log()[-2000:] for worker in self._workers), timeout_s, 0.05)

    def kill(self):
        for worker in self._workers:
            worker.kill9()


@pytest.fixture
def example(client_python, tmp_path, kafka):
    made = []

    def make(b):
        made.append(Example(client_python, tmp_path, kafka, b))
        return made[-1]

    yield make
    for it in made:
        it.kill()


@pytest.mark.timeout(180)
def test_life_of_tasks(kafka, broker, example, client_version):
    b = broker(kafka=kafka, config={"processing_deadline_grace_sec": 1})
    it = example(b)
    it.worker()
    sent = time.time()
    it.send(("complete", ["c1"], {}), ("complete", ["c2"], {"kwargs": {"x": [1, None, "ü"]}}),
            ("zstd", ["z1"], {"kwargs": {"text": "x" * 100000}}),
            ("zstd", ["z2"], {"kwargs": {"text": "x" * 3500000}}),
            ("once", ["o1"], {}), ("once", ["o2"], {}),
            ("retry", ["r0", 0], {}), ("retry", ["r2", 2], {}), ("retry", ["r9", 9], {}),
            ("deadletter", ["d1"], {}), ("discard", ["x1"], {}),
            ("complete", ["late"], {"countdown": 3}), ("complete", ["gone"], {"expires": 0}))
    it.wait_attempts({"c1": [0], "c2": [0], "z1": [0], "z2": [0], "o1": [0], "o2": [0], "r0": [0],
                      "r2": [0, 1, 2], "r9": [0, 1, 2], "d1": [0, 1], "x1": [0], "late": [0]})
    runs = it.runs()
    assert runs["late"][0][2] >= sent + 3
    if client_version != "26.5.0":  # that one does not tell the broker its delay, but sends it
        assert runs["r2"][1][2] >= runs["r2"][0][2] + 1
    wait_for(lambda: b.statuses() == {}, lambda: f"an empty store, not {b.statuses()}", 10)
    dead, = kafka.wait_records(b.dlq_topic, 1)
    dead = pb.TaskActivation.FromString(dead.value)
    assert dead.taskname == "deadletter" and dead.retry_state.attempts == 1
    retried = [pb.TaskActivation.FromString(r.value) for r in kafka.consume_all(b.topic)[13:]]
    assert sorted((t.taskname, t.retry_state.attempts) for t in retried) == [
        ("deadletter", 1), ("retry", 1), ("retry", 1), ("retry", 2), ("retry", 2)]
    assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", t.id) for t in retried)
    assert len({t.id for t in retried}) == len(retried)


def test_a_killed_child_brings_the_task_back(kafka, broker, example, tmp_path):
    """The child dies while it runs the task: nobody reports it, its deadline does."""
    b = broker(kafka=kafka, config={"processing_deadline_grace_sec": 0})
    it = example(b)
    it.worker(1)
    it.send(("kill_on_first", ["k", str(tmp_path / "marker")], {}))
    it.wait_attempts({"k": [0, 0]})
    first, second = (moment for _, _, moment in it.runs()["k"])
    # 5 s from the claim, which on a busy machine is a while before the child begins.
    assert 2 < second - first < 9, "the deadline is 5 s"
    wait_for(lambda: b.statuses() == {}, "an empty store")


def test_a_killed_worker_loses_nothing(kafka, broker, example):
    b = broker(kafka=kafka, config={"processing_deadline_grace_sec": 0})
    it = example(b)
    first = it.worker()
    it.send(*[("sleep", [f"t{i}", 0.2], {}) for i in range(20)])
    wait_for(lambda: len(it.runs()) >= 3, "some runs", 30)
    first.kill9()
    it.worker()
    wait_for(lambda: len(it.runs()) == 20 and b.statuses() == {},
             lambda: f"all tasks; {len(it.runs())} ran, left {b.statuses()}", 60)


def test_worker_ends_on_sigterm(kafka, broker, example, client_version):
    b = broker(kafka=kafka)
    it = example(b)
    worker = it.worker()
    it.send(("complete", ["c"], {}))
    it.wait_attempts({"c": [0]})
    wait_for(lambda: b.statuses() == {}, "an empty store")
    start = time.monotonic()
    worker.signal(signal.SIGTERM)
    code = worker.wait(20)
    # A GetTask that is held is not interrupted in the newer one: grpc_long_poll_ms is 5 s.
    assert time.monotonic() - start < 12
    if client_version == "0.20.30":
        assert code == 0


def test_signed_calls(kafka, broker, example):
    b = broker(kafka=kafka, config={"grpc_shared_secret": ["old", "new"]})
    it = example(b)
    it.env["EXAMPLE_SECRETS"] = '["new"]'
    it.worker()
    it.send(("complete", ["c"], {}))
    it.wait_attempts({"c": [0]})
    wait_for(lambda: b.statuses() == {}, "an empty store")


@pytest.mark.parametrize("client_version", ["0.20.30"])  # the older one rests for 20 s
def test_worker_outlives_a_restart_of_the_broker(kafka, broker, example):
    b = broker(kafka=kafka)
    it = example(b)
    it.worker()
    it.send(("complete", ["before"], {}))
    it.wait_attempts({"before": [0]})
    b.kill9()
    b.start()
    it.send(("complete", ["after"], {}))
    it.wait_attempts({"before": [0], "after": [0]})


@pytest.mark.alone
@pytest.mark.timeout(180)
def test_idle_worker_starts_a_task_at_once(kafka, broker, tmp_path, capsys):
    """From the producer's call to the task's first line, in the newest worker, at random moments."""
    b = broker(kafka=kafka)
    it = Example(venv("client-0.20.30"), tmp_path, kafka, b)
    it.worker()
    rng = random.Random(3)

    def order(i):
        task = activation("complete", namespace="tasks", application="example", args=[f"t{i}"])
        kafka.produce(b.topic, [task.SerializeToString()])
        return task.received_at.ToMicroseconds() / 1e6

    try:
        order("warm")
        it.wait_attempts({"twarm": [0]})
        sent = {}
        for i in range(20):
            time.sleep(rng.uniform(0.1, 0.9))  # idle, for different times
            sent[f"t{i}"] = order(i)
        wait_for(lambda: len(it.runs()) == 21, lambda: f"all runs, not {it.attempts()}", 30)
    finally:
        it.kill()
    late = sorted((it.runs()[tag][0][2] - moment) * 1000 for tag, moment in sent.items())
    with capsys.disabled():
        print(f"\nan idle Python worker starts a task {statistics.median(late):.0f} ms after it was sent "
              f"(median; {late[0]:.0f} to {late[-1]:.0f} ms)")
    assert statistics.median(late) <= 100
