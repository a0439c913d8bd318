# SPDX-License-Identifier: Apache-2.0
"""A pool of three brokers on one topic, as operators run it: the same port on three addresses, workers
that know all three by a list or by number, ours and Python's, and brokers that die under load."""

import time

import pytest

from clients.load import Load
from harness.cache import INTEGRATION, venv
from harness.deploy import Network
from harness.process import Process, free_port, wait_for
from harness.worker import Worker

pytestmark = pytest.mark.alone

BROKERS = 3
PARTITIONS = 12
KILLS = 21
RATE = 300
FILL_RATE = 1500
CHILDREN = 16  # of each of the two workers
TASK_MS = 40  # much longer than a call takes: a broker that answers slower has no smaller share then
GAP_S = 20  # session time-out, joining and what a busy machine adds
BACKLOG = 900
DEADLINE_S = 5  # a task whose claim was lost at a kill is in the way for so long
WINDOW = 2000  # tasks of which each broker must have its share
MODULE = "tests/integration/clients/pool_tasks.so"

CONFIG = {
    "kafka_session_timeout_ms": 1000,
    "upkeep_deadline_reset_skip_after_startup_sec": 1,
    "processing_deadline_grace_sec": 0,
    "max_processing_attempts": 1000,  # a kill costs a task an attempt; that must not dead-letter it
    "max_pending_count": 1000,
}


class Pool:
    """The brokers, at 127.0.0.2 and up, named tb-0.pool and up as our workers number tb.pool, and
    tb.pool-0 and up as Python's do."""

    def __init__(self, kafka, broker, folder, size=BROKERS, start=True):
        self.port = free_port()
        self.network = Network(folder)
        self.brokers = []
        shared = {}
        for i in range(size):
            address = self.network.add(f"tb-{i}.pool", f"127.0.0.{2 + i}")
            self.network.add(f"tb.pool-{i}", address)
            config = {**CONFIG, **shared, "grpc_addr": address, "grpc_port": self.port}
            self.brokers.append(broker(kafka=kafka, partitions=PARTITIONS, config=config, start=start))
            shared = {key: value for key, value in self.brokers[0].config.items() if key.startswith("kafka_")}

    def partitions(self):
        """How many partitions each broker that runs has."""
        return [sum(len(topic["partitions"]) for topic in b.status().get("topics", []))
                for b in self.brokers if b.running]

    def wait_even(self):
        wait_for(lambda: self.partitions() == [PARTITIONS // BROKERS] * BROKERS,
                 lambda: f"an even share of the partitions: {self.partitions()}", 60, 0.1)

    def wait_owned(self):
        """Until each partition has a broker, and each broker that runs has one."""
        def owned():
            found = self.partitions()
            return sum(found) == PARTITIONS and min(found) > 0
        wait_for(owned, lambda: f"owners of all partitions: {self.partitions()}", GAP_S, 0.05)

    def pending(self):
        return [b.status()["tasks"]["pending"] for b in self.brokers]

    def completed(self):
        return [b.status()["totals"]["completed"] for b in self.brokers]

    def shares(self, tasks):
        """What each broker had run of about so many tasks from now on."""
        before = self.completed()

        def since():
            return [now - then for now, then in zip(self.completed(), before)]

        return wait_for(lambda: sum(since()) >= tasks and since(), lambda: f"{tasks} tasks: {since()}", 60)


def add_worker(load, hosts, *arguments, env=None):
    load.add(lambda log: Worker(
        log.with_suffix(""), hosts, modules=[MODULE], arguments=["--concurrency", str(CHILDREN), *arguments],
        env={"LOAD_LOG": str(log), "LOAD_MS": str(TASK_MS), **(env or {})}))


def add_python_worker(load, pool):
    """With the resolver of the C library, which asks the hosts file; gRPC's own does not."""
    env = {"PYTHONPATH": str(INTEGRATION), "GRPC_DNS_RESOLVER": "native", "LOAD_MS": str(TASK_MS),
           **pool.network.env()}
    argv = [venv("client-26.5.0"), "-B", "-m", "clients.pool_app", f"tb.pool:{pool.port}", BROKERS]

    def make(log):
        it = Process(argv, log.with_suffix(".txt"), {**env, "LOAD_LOG": str(log)})
        wait_for(log.exists, lambda: f"a first task:\n{it.log()[-4000:]}", 60)
        return it

    load.add(make)


def assert_even(shares):
    even = sum(shares) / len(shares)
    assert all(abs(share - even) <= 0.2 * even for share in shares), f"tasks run by each broker: {shares}"


def kill_in_turn(pool, load):
    """Each kill hits a broker that has partitions; every fourth lasts until the others have them all."""
    for turn in range(KILLS):
        victim = pool.brokers[turn % BROKERS]
        wait_for(lambda: pool.partitions()[turn % BROKERS] > 0, "the victim to have partitions", 60)
        load.wait_progress(100, 60)
        victim.kill9()
        if turn % 4 == 0:
            wait_for(lambda: sum(pool.partitions()) == PARTITIONS, "the others to take over", 60)
            load.wait_progress(50, 60)
        victim.start()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_brokers_of_a_pool_die_in_turn(kafka, broker, tmp_path, capsys):
    pool = Pool(kafka, broker, tmp_path)
    first = pool.brokers[0]
    pool.wait_even()
    load = Load(kafka, first.topic, first.dlq_topic, tmp_path, DEADLINE_S)
    load.start([], FILL_RATE, processes=0)
    wait_for(lambda: min(pool.pending()) >= BACKLOG, lambda: f"a backlog: {pool.pending()}", 60)
    load.rate = RATE

    add_worker(load, [b.address for b in pool.brokers])
    add_worker(load, [], "--rpc-host", f"tb.pool:{pool.port}", "--num-brokers", str(BROKERS),
               env=pool.network.env())
    busy = pool.shares(WINDOW)
    left = pool.pending()
    add_python_worker(load, pool)
    kill_in_turn(pool, load)
    pool.wait_even()
    # What runs from here on is what comes from Kafka, the same to each.
    wait_for(lambda: sum(pool.pending()) < 50, lambda: f"the end of the backlog: {pool.pending()}", 60)
    after = pool.shares(WINDOW // 2)

    load.stop_producing()
    load.wait_done(pool.brokers, first.group)
    count = load.finish()
    for b in pool.brokers:
        b.stop()
    with capsys.disabled():
        print(f"\n{BROKERS} brokers, {KILLS} kills: {count}; shares {busy} (left {left}), after the kills {after}")
    count.check()
    assert min(left) > 0  # the workers chose
    assert_even(busy)
    assert_even(after)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_members_of_a_large_pool_come_and_go(kafka, broker, tmp_path, capsys):
    """Five brokers join, leave in order and are killed, some at the same moment. Every partition gets a
    broker again, and no committed offset goes back."""
    pool = Pool(kafka, broker, tmp_path, 5, start=False)
    a, b, c, d, e = pool.brokers
    topic, group = a.topic, a.group
    load = Load(kafka, topic, a.dlq_topic, tmp_path, DEADLINE_S)
    a.start()
    load.start([], RATE, processes=0)
    add_worker(load, [it.address for it in pool.brokers])
    durable, longest = {}, 0

    def settle(*actions):
        nonlocal longest
        for action in actions:
            action()
        started = time.monotonic()
        pool.wait_owned()
        longest = max(longest, time.monotonic() - started)
        load.wait_progress(100, 60)
        now = kafka.committed_offsets(group, topic)
        assert all(now[partition] >= offset for partition, offset in durable.items()), f"{durable}, then {now}"
        durable.update(now)

    settle()
    settle(b.start, c.start)
    settle(d.start, e.start)
    settle(b.stop)
    settle(c.kill9)
    settle(d.kill9, b.start)
    settle(e.stop, c.start)
    settle(a.kill9, d.start)
    settle(b.kill9, c.kill9)
    settle(a.start, b.start, c.start, e.start)

    load.stop_producing()
    load.wait_done(pool.brokers, group)
    count = load.finish()
    for it in pool.brokers:
        it.stop()
    with capsys.disabled():
        print(f"\n5 brokers come and go: {count}; at most {longest:.1f} s until all partitions had owners")
    count.check()
