# SPDX-License-Identifier: Apache-2.0
"""The statsd metrics of a real run: names, types, tags and counts (docs/metrics.md)."""

import re
import socket
import threading
from collections import defaultdict
from pathlib import Path

import grpc
import pytest

from harness.process import wait_for
from harness.rpc import (COMPLETE, DEADLETTER, FAILURE, PENDING, RETRY, Client, activation)

DOCS = Path(__file__).resolve().parent.parent.parent / "docs" / "metrics.md"
LINE = re.compile(r"taskbroker\.([a-z_.]+):(-?[0-9.]+)\|([cgh])(?:\|@([0-9.]+))?\|#([^|]*)")
SERVICE = "/sentry_protos.taskbroker.v1.ConsumerService/"


class Statsd:
    """A listener on loopback. `counters` and `gauges` by (name, own tags), `histograms` as (count, sum)."""

    def __init__(self):
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.2)
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.datagrams = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self):
        while True:
            try:
                self.datagrams.append(self._socket.recv(65536))
            except TimeoutError:
                if self._ended.is_set():
                    return

    def close(self):
        """Reads what is there and stops."""
        if not self._ended.is_set():
            self._ended.set()
            self._thread.join()
            self._socket.close()

    def lines(self):
        return [line for datagram in list(self.datagrams) for line in datagram.decode().split("\n")]

    def read(self, default_tags):
        """(counters, gauges, histograms, kinds): kinds has (type, tag keys) by name."""
        counters, gauges, histograms = defaultdict(int), {}, defaultdict(lambda: (0, 0.0))
        kinds = defaultdict(set)
        for line in self.lines():
            found = LINE.fullmatch(line)
            assert found, line
            name, value, kind, rate, tags = found.groups()
            assert tags == default_tags or tags.startswith(default_tags + ","), line
            own = tags[len(default_tags) + 1:]
            keys = tuple(tag.split(":", 1)[0] for tag in own.split(",")) if own else ()
            kinds[name].add((kind, keys))
            if kind == "c":
                counters[name, own] += int(value)
            elif kind == "g":
                gauges[name, own] = float(value)
            else:
                count, total = histograms[name, own]
                n = int(1 / float(rate)) if rate else 1
                histograms[name, own] = (count + n, total + n * float(value))
        return counters, gauges, histograms, kinds


@pytest.fixture
def statsd():
    listener = Statsd()
    yield listener
    listener.close()


def documented():
    """(type, tag keys) by name, of what docs/metrics.md says is sent."""
    rows = re.findall(r"^\| `([^`]+)` \| ([cgh]) \| ([^|]+) \| ([^|]+) \|$",
                      DOCS.read_text().split("\n# The worker's metrics\n")[0], re.M)
    return {name: (kind, () if tags == "-" else tuple(tags.split(", ")))
            for name, kind, tags, meaning in rows if not meaning.startswith("not sent")}


def a_life_of_everything(kafka, b):
    """Success, retry, failure, dead letter, expiry, batch, duplicate, garbage, strangers."""
    expired = activation("t.expired", id="expired", expires=10)
    expired.received_at.seconds -= 100
    tasks = [activation("t.ok", id="ok"), activation("t.ok", id="ok"), activation("t.retry", id="retry"),
             activation("t.fail", id="fail"), activation("t.dead", id="dead", on_exceeded=DEADLETTER,
                                                         max_attempts=1),
             activation("t.batch", id="b1"), activation("t.batch", id="b2"), expired]
    kafka.produce(b.topic, [task.SerializeToString() for task in tasks] + [b"\xff\xff"])
    with b.client(secret="secret") as client:
        assert {client.get_task(timeout_s=20).id for _ in range(6)} == {
            "ok", "retry", "fail", "dead", "b1", "b2"}
        client.set_status("ok", COMPLETE)
        client.set_status("retry", RETRY)
        client.set_status("fail", FAILURE)
        client.set_status("dead", FAILURE)
        client.set_statuses([("b1", COMPLETE), ("b2", FAILURE), ("nobody", COMPLETE)])
        again = client.get_task(timeout_s=20)
        assert again.taskname == "t.retry"
        client.set_status(again.id, COMPLETE, fetch_next={})
        client.set_status("nobody", COMPLETE)
        with pytest.raises(grpc.RpcError):
            client.set_status("ok", PENDING)
        with pytest.raises(grpc.RpcError):
            client.raw("/no.such.Service/Method", b"")
    with Client(b.address, secret="wrong") as stranger, pytest.raises(grpc.RpcError) as refused:
        stranger.get_task()
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    kafka.wait_records(b.dlq_topic, 2)
    wait_for(lambda: b.statuses() == {}, "the last row to leave", 20)
    return tasks, again


def test_every_count_of_a_life(kafka, broker, statsd):
    b = broker(kafka=kafka, config={
        "statsd_addr": statsd.address, "default_metrics_tags": {"zone": "b", "env": "test"},
        "grpc_shared_secret": ["secret"], "runtime_metrics_interval": "200ms",
        "upkeep_task_interval_ms": 300})
    tasks, again = a_life_of_everything(kafka, b)
    wait_for(lambda: any("current_partitions:1|" in line for line in statsd.lines()), "an export", 20)
    wait_for(lambda: any("upkeep.duration" in line for line in statsd.lines()), "a period", 20)
    for record in ["Configuration", "GRPC server listening on", "partitions assigned",
                   "Failed to map message", "GRPC Authentication error"]:
        assert record in b.log()
    b.stop()
    statsd.close()
    assert max(map(len, statsd.datagrams)) <= 1024
    counters, gauges, histograms, kinds = statsd.read("env:test,zone:b")

    known = documented()
    for name, found in kinds.items():
        assert name in known, f"{name} is not in docs/metrics.md"
        assert found == {known[name]}, name

    topic = f"topic:{b.topic}"

    def check(name, wanted):
        """All series of a counter; those that are 0 need not be named."""
        got = {tags: n for (found, tags), n in counters.items() if found == name and n}
        assert got == wanted, name

    check("filter.expired_at_consumer", {topic: 1})
    check("consumer.inflight_activation_writer.stored", {topic: 7})
    check("consumer.inflight_activation_writer.backpressure", {})
    check("arroyo.consumer.partitions_assigned.count", {topic: 1})
    check("grpc_server.set_status", {
        "result:ok,status:Complete": 2, "result:ok,status:Retry": 1, "result:ok,status:Failure": 2,
        "result:not_found,status:Complete": 1})
    check("grpc_server.set_status.failure", {"": 2})
    check("grpc_server.set_batch_activation_status.total_updates_received", {"": 3})
    check("upkeep.task.state_transition", {"state:completed": 3, "state:retried": 1, "state:failed": 3})
    check("upkeep.cleanup_action", {"kind:publish_deadlettered": 1, "kind:delete_discarded": 2})
    check("intake.dropped", {"reason:duplicate id": 1})
    check("intake.dead_lettered", {"": 1})
    check("reports.ignored", {"reason:unknown id": 2})
    requests = {tags[len("path:"):]: n for (name, tags), n in counters.items() if name == "grpc.request"}
    assert requests.pop("/grpc.health.v1.Health/Check") > 0
    assert {path: n for path, n in requests.items() if n} == {
        f"{SERVICE}GetTask": 8, f"{SERVICE}SetTaskStatus": 7, f"{SERVICE}SetBatchActivationStatus": 1,
        "other": 1}
    assert counters["upkeep.health", "status:healthy"] > 0
    assert counters["upkeep.health", "status:unhealthy"] == 0
    assert ("upkeep.cleanup_action", "kind:removed_expired") in counters, "0 is sent, too"

    def histogram(name, own=""):
        return histograms[name, own]

    sizes = defaultdict(list)
    for task in [*tasks, again]:
        sizes[task.taskname].append(len(task.SerializeToString()))
    for taskname, lengths in sizes.items():
        count, total = histogram("consumer.message.payload_size_bytes",
                                 f"{topic},namespace:ns,taskname:{taskname}")
        assert count == len(lengths) and abs(total - sum(lengths)) < 0.01, taskname
    assert histogram("upkeep.dlq.message_size") == (1, sizes["t.dead"][0])
    assert histogram("consumer.batch_rows", topic)[1] == pytest.approx(10)
    assert histogram("grpc_server.get_task.duration")[0] == 7
    assert histogram("grpc_server.set_status.duration")[0] == 6
    assert histogram("grpc_server.fetch_next.duration")[0] == 1
    count, seconds = histogram("grpc_server.set_batch_activation_status.duration")
    assert count == 1 and 0 < seconds < 10
    batch = "grpc_server.set_batch_activation_status."
    assert histogram(batch + "num_batches") == (1, 1)
    assert histogram(batch + "retry_updates") == (1, 0)
    assert histogram(batch + "batch_size", "status:Complete") == (1, 2)
    assert histogram(batch + "batch_size", "status:Failure") == (1, 1)
    assert histogram(batch + "affected_diff", "status:Complete") == (1, 1)
    assert histogram(batch + "partial", "status:Complete") == (1, 1)
    assert histogram(batch + "partial", "status:Failure") == (1, 0)
    count, ms = histogram("grpc_server.received_to_gettask.latency", "namespace:ns,taskname:t.ok")
    assert count == 1 and 0 < ms < 60000
    for name in ["write_to_store", "insert_lag"]:
        assert histogram(f"consumer.inflight_activation_writer.{name}", topic)[0] > 0
    for name in ["handle_retries", "handle_failed_tasks", "remove_completed", "duration"]:
        count, seconds = histogram(f"upkeep.{name}")
        assert count > 0 and 0 < seconds < 10, name
    assert histogram("grpc.request.duration", f"path:{SERVICE}GetTask")[0] == 8

    depth = "topic:taskworker,partition:-1"
    for name in ["pending", "claimed", "processing", "delayed"]:
        assert gauges[f"upkeep.current_{name}_tasks", depth] == 0
    assert gauges["upkeep.db_file_size.bytes", ""] > 4096
    assert 0 <= gauges["runtime.worker_utilization", ""] <= 1
    assert gauges["runtime.num_workers", ""] >= 2
    assert gauges["sqlite.db.cache_used_bytes", ""] > 4096
    assert gauges["sqlite.db.cache_hit_total", ""] > 0
    assert not any(name.startswith(("push.", "fetch.", "postgres.", "worker.")) for name in kinds)


def test_status_metrics_can_be_switched_off(broker, statsd):
    b = broker(config={"statsd_addr": statsd.address, "runtime_metrics_interval": "100ms",
                       "upkeep_task_interval_ms": 100,
                       "store": {"sqlite": {"enable_status_metrics": False}}})
    with b.client() as client:
        client.enqueue([activation("a|b,c:d\ne", id="x")])
        assert client.get_task(timeout_s=10).id == "x"
    wait_for(lambda: any("a_b_c:d_e" in line for line in statsd.lines()), "the task's size", 20)
    wait_for(lambda: sum("upkeep.duration" in line for line in statsd.lines()) > 2, "periods", 20)
    b.stop()
    statsd.close()
    assert not any("sqlite.db" in line for line in statsd.lines())
    line = next(line for line in statsd.lines() if "received_to_gettask" in line or "a_b_c" in line)
    assert "namespace:ns,taskname:a_b_c:d_e" in line


def test_weakness_18_statsd_addr_that_does_not_resolve(broker):
    b = broker(config={"statsd_addr": "no-such-host.invalid:8125"})
    b.wait_log("statsd_addr no-such-host.invalid:8125 cannot be used", 30)
    with b.client() as client:
        client.enqueue([activation(id="x")])
        assert client.get_task(timeout_s=10).id == "x"


def test_weakness_41_paths_of_strangers_are_one(broker, statsd):
    b = broker(config={"statsd_addr": statsd.address, "runtime_metrics_interval": "100ms"})
    with b.client() as client:
        for i in range(50):
            with pytest.raises(grpc.RpcError):
                client.raw(f"/x{i}.Y/Z", b"")
    b.stop()
    statsd.close()
    paths = {found for line in statsd.lines() for found in re.findall(r"path:([^,\n]*)", line)}
    assert "other" in paths and not any(path.startswith("/x") for path in paths)
