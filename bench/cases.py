# SPDX-License-Identifier: Apache-2.0
"""The cases: each is one server on a new database, one load, and the checks that all of it was done.

A case's figures of one round are a dict; table.py knows the keys.
"""

import sqlite3
import time
from dataclasses import dataclass
from typing import Callable

from harness.kafka import Kafka
from harness.process import wait_for

from servers import (Beanstalkd, BenchError, broker, check_empty, children_of, cpu_us, load, memory_mib,
                     worker)

# workers: (connections, streams, tasks). So many tasks that a round lasts about three seconds.
WORKERS = {
    "1": (1, 1, 6000),
    "24": (24, 1, 80000),
    "24x8": (24, 8, 240000),
    "240x10": (240, 10, 240000),
}
PEER_TASKS = {"fsync": 12000, "memory": 100000}
ROWS = 200000
IDLE_TASKS = 200
# A worker process: its children, and its tasks of one round.
WORKER_CHILDREN = 8
WORKER_TASKS = 80000
DISPATCHED = 500000
WARMUP_SHARE = 0.2

# The defaults but for these; the table's footnotes say why.
MORE_PROCESSING = {"store": {"max_processing_count": 4096, "max_pending_count": 4096}}
NO_PENDING_LIMIT = {"store": {"max_pending_count": 1000000}}


@dataclass
class Case:
    name: str
    rounds: int
    run: Callable[[], dict]
    headline: Callable[[dict], str]


def _rate(figures):
    return f"{figures['tasks_per_s']:,.0f} tasks/s"


def _dispatch_rate(figures):
    return f"{figures['dispatch_per_s']:,.0f} tasks/s"


def _latency(figures):
    return f"p50 {figures['p50_us'] / 1000:.2f} ms"


def _rows(figures):
    return f"{figures['rows_per_s']:,.0f} rows/s"


class Bench:
    """Folders, sizes, and Kafka with one filled topic for each number of tasks."""

    def __init__(self, folder, quick, stack, say):
        self._folder = folder
        self._quick = quick
        self._stack = stack
        self._say = say
        self._kafka = None
        self._topics = {}
        self._groups = 0

    def size(self, tasks):
        return tasks // 4 if self._quick else tasks

    def _server(self):
        if self._kafka is None:
            self._say("starting Kafka")
            self._kafka = Kafka(self._folder / "kafka", heap_mb=512)
            self._stack.callback(self._kafka.kill9)
            self._kafka.start()
            self._deadletter = self._kafka.create_topic("bench-dlq")
        return self._kafka

    def _filled_topic(self, tasks):
        """Every round reads the same topic from its beginning, as a group of its own."""
        if tasks not in self._topics:
            topic = self._server().create_topic(f"bench-{tasks}")
            load("fill", tasks=tasks, bootstrap=self._kafka.bootstrap, topic=topic)
            self._topics[tasks] = topic
        return self._topics[tasks]

    def _kafka_config(self, topic, more):
        self._groups += 1
        kafka = self._server()
        return {"kafka_cluster": kafka.bootstrap, "kafka_topic": topic,
                "kafka_consumer_group": f"bench-{self._groups}",
                "kafka_deadletter_cluster": kafka.bootstrap,
                "kafka_deadletter_topic": self._deadletter,
                "kafka_auto_offset_reset": "earliest", **more}

    def _drain(self, it, connections, streams, tasks):
        figures = load("drain", address=it.address, connections=connections, streams=streams,
                       tasks=tasks, warmup=int(tasks * WARMUP_SHARE), server_pid=it.pid)
        check_empty(it)
        return figures

    def drain_kafka(self, workers):
        connections, streams, tasks = WORKERS[workers]
        tasks = self.size(tasks)
        topic = self._filled_topic(tasks)
        config = self._kafka_config(topic, MORE_PROCESSING if connections * streams > 2000 else {})
        with broker(self._folder / f"kafka-{workers}", config) as it:
            figures = self._drain(it, connections, streams, tasks)
            group = config["kafka_consumer_group"]
            wait_for(lambda: self._kafka.committed_offsets(group, topic) == {0: tasks},
                     "the commit of the last offset", 10, 0.05)
        return figures

    def drain_embedded(self):
        connections, streams, tasks = WORKERS["24x8"]
        # Enqueue refuses more than 100,000 waiting tasks.
        tasks = self.size(min(tasks, 80000))
        with broker(self._folder / "embedded", {"embedded": True, **NO_PENDING_LIMIT}) as it:
            filled = load("fill", address=it.address, tasks=tasks)
            figures = self._drain(it, connections, streams, tasks)
        return {**figures, "enqueued_per_s": filled["tasks_per_s"]}

    def run_worker(self):
        """The same tasks twice on one broker: drained by the generator, then run by a worker. Both have
        one connection; the worker's clock runs from its start to the last report."""
        tasks = self.size(WORKER_TASKS)
        with broker(self._folder / "worker", {"embedded": True, **NO_PENDING_LIMIT}) as it:
            load("fill", address=it.address, tasks=tasks)
            raw = self._drain(it, 1, WORKER_CHILDREN * 8, tasks)
            load("fill", address=it.address, tasks=tasks)
            server_us = cpu_us(it.pid)
            with worker(self._folder / "children", it.address, WORKER_CHILDREN) as process:
                started = time.monotonic()
                wait_for(lambda: it.sql("SELECT NOT EXISTS (SELECT 1 FROM inflight_taskactivations)")[0][0],
                         "the last report", 60, 0.01)
                seconds = time.monotonic() - started
                children_us = sum(cpu_us(pid) for pid in children_of(process.pid))
                parent_us = cpu_us(process.pid)
            check_empty(it)
            server_us = cpu_us(it.pid) - server_us
        if f"tasks={tasks}" not in process.log() or "WARN" in process.log():
            raise BenchError(f"not all {tasks} tasks completed:\n{process.log()[-2000:]}")
        return {"tasks": tasks, "tasks_per_s": tasks / seconds, "raw_per_s": raw["tasks_per_s"],
                "server_cpu_us": server_us / tasks, "parent_cpu_us": parent_us / tasks,
                "children_cpu_us": children_us / tasks}

    def dispatch(self):
        tasks = self.size(DISPATCHED)
        topic = self._server().unique_topic("bench-dispatch")
        try:
            figures = load("dispatch", tasks=tasks, bootstrap=self._kafka.bootstrap, topic=topic)
            found = sum(self._kafka.end_offsets(topic).values())
        finally:
            self._kafka.delete_topic(topic)
        if found != 2 * tasks:
            raise BenchError(f"2 x {tasks} tasks became {found} records")
        return figures

    def drain_peer(self, log, workers):
        connections, streams, _ = WORKERS[workers]
        tasks = self.size(PEER_TASKS[log])
        with Beanstalkd(self._folder / "beanstalkd", fsync=log == "fsync") as it:
            figures = load("beanstalk", address=it.address, connections=connections, streams=streams,
                           tasks=tasks, warmup=int(tasks * WARMUP_SHARE), server_pid=it.pid)
            it.check_empty()
        return figures

    def idle_kafka(self):
        topic = self._server().unique_topic("bench-idle")
        with broker(self._folder / "idle", self._kafka_config(topic, {})) as it:
            return self._idle(it, bootstrap=self._kafka.bootstrap, topic=topic)

    def idle_embedded(self):
        with broker(self._folder / "idle", {"embedded": True}) as it:
            return self._idle(it)

    def _idle(self, it, **where):
        tasks = self.size(IDLE_TASKS)
        figures = load("latency", address=it.address, tasks=tasks + 20, warmup=20, **where)
        wait_for(lambda: not it.statuses(), "the last report")
        check_empty(it)
        return {**figures, "memory_mib": memory_mib(it.pid)}

    def ingest(self):
        rows = self.size(ROWS)
        topic = self._filled_topic(rows)
        with broker(self._folder / "ingest", self._kafka_config(topic, NO_PENDING_LIMIT)) as it:
            rate = _watch_rows(it, rows)
            figures = {"rows": rows, "rows_per_s": rate, "memory_mib": memory_mib(it.pid)}
            found = it.sql("SELECT count(*), count(DISTINCT id) FROM inflight_taskactivations")[0]
            if found != (rows, rows):
                raise BenchError(f"{rows} messages became {found[0]} rows with {found[1]} ids")
        return figures


def _watch_rows(it, rows):
    """Rows a second, from the first twentieth on: the group's start is not intake. Rows are counted by
    their highest rowid: no worker takes any away."""
    db = sqlite3.connect(f"file:{it.db_path}?mode=ro", uri=True, timeout=10)
    first = None

    def sample():
        nonlocal first
        now = time.monotonic()
        count = db.execute("SELECT coalesce(max(rowid), 0) FROM inflight_taskactivations").fetchone()[0]
        if first is None and count >= rows / 20:
            first = (now, count)
        return (now, count) if count >= rows else None

    try:
        now, count = wait_for(sample, f"{rows} rows", 60, 0.01)
    finally:
        db.close()
    if first[1] == count:
        raise BenchError("all rows were there at once: too few of them to measure")
    return (count - first[1]) / (now - first[0])


def make(only, folder, quick, stack, say):
    """The cases of the named parts, or of all."""
    bench = Bench(folder, quick, stack, say)
    found = []
    parts = only or ("kafka", "embedded", "worker", "dispatch", "beanstalkd", "idle", "ingest")
    if "kafka" in parts:
        found += [Case(f"kafka {w}", 3, lambda w=w: bench.drain_kafka(w), _rate) for w in WORKERS]
    if "embedded" in parts:
        found.append(Case("embedded 24x8", 3, bench.drain_embedded, _rate))
    if "worker" in parts:
        found.append(Case(f"worker {WORKER_CHILDREN}", 3, bench.run_worker, _rate))
    if "dispatch" in parts:
        found.append(Case("dispatch", 3, bench.dispatch, _dispatch_rate))
    if "beanstalkd" in parts:
        found += [Case(f"beanstalkd {log} {w}", 3, lambda log=log, w=w: bench.drain_peer(log, w), _rate)
                  for log in ("fsync", "memory") for w in ("24", "24x8")]
    if "ingest" in parts:
        found.append(Case("ingest", 3, bench.ingest, _rows))
    if "idle" in parts:
        found.append(Case("idle kafka", 1, bench.idle_kafka, _latency))
        found.append(Case("idle embedded", 1, bench.idle_embedded, _latency))
    return found
