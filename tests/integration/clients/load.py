# SPDX-License-Identifier: Apache-2.0
"""Load for tests that kill things: a producer, workers that log each run, and the final count.

    load = Load(kafka, topic, dlq_topic, folder)
    load.start(addresses, rate=400)      tasks flow: half of them at-most-once, some of the others retry
    load.add(make)                       a worker of another kind: make(log) -> a Process or the like
    ... kill, restart, rebalance ...
    load.stop_producing()
    load.wait_done(brokers, group)       stores empty, everything committed
    count = load.finish()                print(count); count.check()

The tasks of each batch go to one partition, the batches to all in turn. Other workers write `returned`
where logging_worker.py writes `ok`: they do not know whether a report arrived. After wait_done that
makes no difference, since nothing but its report, or a dead letter, takes a task from a store.
"""

import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from sentry_protos.taskbroker.v1 import taskbroker_pb2 as pb

from harness.process import Process, wait_for
from harness.rpc import COMPLETE, DEADLETTER, activation

WORKER = Path(__file__).resolve().parent / "logging_worker.py"
BATCHES_PER_S = 20


@dataclass
class Count:
    """Made from the topics and the workers' logs alone."""
    produced: int
    run: int
    doubled: int
    doubled_at_most_once: int
    dead_lettered: int
    lost: int
    lost_keys: list = field(default_factory=list)
    doubled_keys: list = field(default_factory=list)
    dead_at_least_once: list = field(default_factory=list)

    def __str__(self):
        return (f"produced {self.produced} / run {self.run} / doubled {self.doubled} "
                f"(at-most-once {self.doubled_at_most_once}) / dead-lettered {self.dead_lettered} / "
                f"lost {self.lost}")

    def check(self):
        """Each task has ended, and none that must not has run twice or is among the dead letters."""
        assert self.lost == 0, f"{self}: {self.lost_keys[:20]}"
        assert self.doubled_at_most_once == 0, f"{self}: {self.doubled_keys[:20]}"
        assert not self.dead_at_least_once, f"{self}: {self.dead_at_least_once[:20]}"
        assert self.produced > 1000 and self.run > 1000, f"{self}: too few to prove anything"


def at_most_once(number):
    return number % 2 == 0


def _task(number, deadline_s):
    """Number 0, 2, 4, ... at-most-once; of the others every fifth retries once."""
    headers = {"key": str(number)}
    options = {}
    if at_most_once(number):
        state = pb.RetryState(max_attempts=1, on_attempts_exceeded=DEADLETTER, at_most_once=True)
        options["retry_state"] = state
    else:
        options.update(max_attempts=3, on_exceeded=DEADLETTER)
        if number % 10 == 1:
            headers["retries"] = "1"
    return activation("load", headers=headers, deadline_s=deadline_s, **options).SerializeToString()


class Load:
    def __init__(self, kafka, topic, dlq_topic, folder, deadline_s=2):
        self._kafka = kafka
        self._topic = topic
        self._dlq_topic = dlq_topic
        self._folder = Path(folder)
        self._deadline_s = deadline_s
        self._workers = []
        self._stop = threading.Event()
        self._failure = None
        self.produced = 0
        self.rate = 0  # tasks a second; may be changed while it runs

    # --- while it runs

    def start(self, addresses, rate=400, processes=2, threads=4, drop=0.01):
        """drop: share of the runs that are never reported. Without processes: see add()."""
        for i in range(processes):
            self.add_worker(addresses, threads, drop)
        self.rate = rate
        self._producer = threading.Thread(target=self._produce, daemon=True)
        self._producer.start()

    def add_worker(self, addresses, threads=4, drop=0.01):
        self.add(lambda log: Process([sys.executable, "-B", WORKER, log, drop, threads, *addresses],
                                     log.with_suffix(".txt")))

    def add(self, make):
        """make(log) starts a worker that writes to that file; it must end with 0 on SIGTERM."""
        self._workers.append(make(self._log_path(len(self._workers))))

    def _log_path(self, i):
        return self._folder / f"runs{i}.log"

    def _produce(self):
        due = time.monotonic()
        try:
            partitions = cycle(self._kafka.partitions(self._topic))
            while not self._stop.wait(max(0, due - time.monotonic())):
                batch = max(1, self.rate // BATCHES_PER_S)
                numbers = range(self.produced, self.produced + batch)
                self._kafka.produce(self._topic, [_task(n, self._deadline_s) for n in numbers],
                                    next(partitions))
                self.produced += batch
                due = max(due + 1 / BATCHES_PER_S, time.monotonic() - 1)
        except BaseException as error:
            self._failure = error

    def lines(self):
        """Words of every line of the workers' logs."""
        return [line.split() for i in range(len(self._workers)) if self._log_path(i).exists()
                for line in self._log_path(i).read_text().splitlines()]

    def log_size(self):
        """Grows as tasks run: bytes of the logs."""
        return sum(self._log_path(i).stat().st_size for i in range(len(self._workers))
                   if self._log_path(i).exists())

    def wait_progress(self, lines, timeout_s=30):
        """Waits until about so many more lines have been logged."""
        target = self.log_size() + 12 * lines
        wait_for(lambda: self.log_size() >= target,
                 f"{lines} more lines of the workers; produced {self.produced}", timeout_s)

    # --- the end

    def stop_producing(self):
        self._stop.set()
        self._producer.join(60)
        assert not self._producer.is_alive(), "the producer hangs"
        if self._failure is not None:
            raise self._failure

    def wait_done(self, brokers, group, timeout_s=60):
        """Waits until nothing is left anywhere: all committed, no row in any store."""
        def rest():
            ends = self._kafka.end_offsets(self._topic)
            done = self._kafka.committed_offsets(group, self._topic)
            behind = {p: (done.get(p), end) for p, end in ends.items() if done.get(p, 0) < end}
            return behind, [broker.statuses() for broker in brokers]

        state = None

        def empty():
            nonlocal state
            state = rest()
            return not state[0] and not any(state[1])

        wait_for(empty, lambda: f"the end of all tasks: (committed, end) and rows {state}",
                 timeout_s, 0.2)

    def finish(self):
        for worker in self._workers:
            worker.signal(15)
        for worker in self._workers:
            code = worker.wait(30)
            assert code == 0, worker.log()[-4000:]
        return self._count()

    def _count(self):
        runs = Counter()
        ended = set()
        for word, key, what in self.lines():
            if word == "run":
                runs[int(key), what] += 1
            elif word in ("ok", "returned") and int(what) == COMPLETE:
                ended.add(int(key))
        dead = [int(pb.TaskActivation.FromString(record.value).headers["key"])
                for record in self._kafka.consume_all(self._dlq_topic)]
        doubled = sorted({key for (key, _), times in runs.items() if times > 1})
        lost = sorted(set(range(self.produced)) - ended - set(dead))
        return Count(
            produced=self.produced, run=len({key for key, _ in runs}), doubled=len(doubled),
            doubled_at_most_once=sum(map(at_most_once, doubled)), dead_lettered=len(set(dead)),
            lost=len(lost), lost_keys=lost, doubled_keys=doubled,
            dead_at_least_once=[key for key in dead if not at_most_once(key)])
