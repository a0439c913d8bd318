# SPDX-License-Identifier: Apache-2.0
"""What a worker tells the outside: every number of a known run (docs/metrics.md, "The worker's metrics")."""

import os
import re
import signal
import socket
import urllib.error
import urllib.request

import pytest

from harness.process import free_port, wait_for
from harness.rpc import activation
from harness.worker import FakeBroker, Worker
from test_admin import parse
from test_metrics_statsd import DOCS, Statsd

LINE = re.compile(r"([a-z_.0-9]+):(-?[0-9.]+)\|(c|g|d|ms)(?:\|@([0-9.]+))?\|#([^|]*)")


@pytest.fixture
def fake():
    it = FakeBroker()
    yield it
    it.stop()


@pytest.fixture
def statsd():
    listener = Statsd()
    yield listener
    listener.close()


@pytest.fixture
def worker(tmp_path):
    made = []

    def make(host, *arguments, **options):
        made.append(Worker(tmp_path / f"worker{len(made)}", [host.address], commands=commands(),
                           arguments=["--concurrency", "2", *arguments], **options))
        return made[-1]

    yield make
    for it in made:
        it.kill9()


def commands():
    def task(script, **options):
        return {"command": ["sh", "-c", script], **options}
    return {"application": "app", "namespaces": {"ns": {"processing_deadline": 20, "tasks": {
        "ok": task("true"), "fail": task("exit 1"), "slow": task("sleep 60"), "busy": task("sleep 0.05"),
        "again": task("exit 1", retry={"times": 3, "on": ["failure"]}),
        "once": task("true", at_most_once=True)}}}}


def read(statsd, default_tags, prefix=""):
    """{name: {own tags: count}} of counters, {name: {tags: value}} of gauges, {name: {tags: (n, sum)}} of the
    others, and {name: {(type, tag keys)}}."""
    counters, gauges, rest, kinds = {}, {}, {}, {}
    for line in statsd.lines():
        found = LINE.fullmatch(line)
        assert found, line
        name, value, kind, rate, tags = found.groups()
        assert name.startswith(prefix) and (tags + ",").startswith(default_tags + ","), line
        name, own = name[len(prefix):], tags[len(default_tags) + 1:]
        keys = tuple(tag.split(":", 1)[0] for tag in own.split(",")) if own else ()
        kinds.setdefault(name, set()).add((kind, keys))
        if kind == "c":
            of_name = counters.setdefault(name, {})
            of_name[own] = of_name.get(own, 0) + int(value)
        elif kind == "g":
            gauges.setdefault(name, {}).setdefault(own, []).append(float(value))
        else:
            n = int(1 / float(rate)) if rate else 1
            count, total = rest.setdefault(name, {}).get(own, (0, 0.0))
            rest[name][own] = (count + n, total + n * float(value))
    return counters, gauges, rest, kinds


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as it:
        return [int(word) for word in it.read().split()]


def documented():
    text = DOCS.read_text().split("\n# The worker's metrics\n")[1]
    rows = re.findall(r"^\| `([^`]+)` \| (c|g|d|ms) \| ([^|]+) \| ([^|]+) \|$", text, re.M)
    return {name: (kind, () if tags == "-" else tuple(tags.split(", ")))
            for name, kind, tags, meaning in rows if not meaning.startswith("not sent")}


def test_every_count_of_a_life(fake, statsd, redis, worker):
    w = worker(fake, "--statsd-addr", statsd.address, "--statsd-prefix", "x.", "--processing-pool-name", "p1",
               "--redis", redis.url, "--health-check-file-path", "health")
    tasks = [*["ok"] * 20, *["fail"] * 3, *["again"] * 2, "nobody"]
    fake.tasks += [activation(name, id=f"{name}{n}") for n, name in enumerate(tasks)]
    fake.tasks += [activation("slow", deadline_s=1), activation("once", id="o", at_most_once=True),
                   activation("once", id="o", at_most_once=True)]
    fake.wait_reports(29)
    w.stop()
    statsd.close()
    counters, gauges, rest, kinds = read(statsd, "application:app,processing_pool:p1", "x.")

    known = documented()
    for name, found in kinds.items():
        assert name in known, f"{name} is not in docs/metrics.md"
        assert found == {known[name]}, name

    def check(name, wanted):
        assert {tags: n for tags, n in counters[name].items() if n} == wanted, name

    host = f"taskbroker_host:{fake.address}"

    def run(name, status):
        return f"namespace:ns,taskname:{name},status:{status},{host}"

    check("taskworker.worker.execute_task", {
        run("ok", "complete"): 20, run("fail", "failure"): 3, run("again", "retry"): 2,
        run("slow", "failure"): 1, run("once", "complete"): 1})
    check("taskworker.worker.unknown_task", {"namespace:ns,taskname:nobody": 1})
    check("taskworker.worker.processing_deadline_exceeded", {"namespace:ns,taskname:slow": 1})
    check("taskworker.worker.at_most_once.skipped", {"namespace:ns,taskname:once": 1})
    check("taskworker.task.at_most_once.executed", {"namespace:ns,taskname:once": 1})
    check("taskworker.worker.shutdown.results_dropped", {})
    assert sum(counters["taskworker.client.fetch_next"].values()) == 29
    assert counters["taskworker.worker.spawn_child"]["result:success"] >= 2
    assert counters["taskworker.client.health_check.touched"][""] >= 1
    not_found = counters["taskworker.worker.fetch_task.not_found"][""]
    assert not_found > 0
    check("taskworker.client.rpc_error", {"method:GetTask,status:NOT_FOUND": not_found})

    tags = f"namespace:ns,taskname:ok,{host}"
    assert rest["taskworker.worker.execution_duration"][tags][0] == 20
    assert 0 < rest["taskworker.worker.execution_duration"][tags][1] < 20 * 5
    count, total = rest["taskworker.worker.execution_duration"][f"namespace:ns,taskname:slow,{host}"]
    assert count == 1 and 0.9 < total < 10, total
    assert rest["taskworker.worker.execution_latency"][tags][0] == 20
    assert rest["taskworker.worker.e2e_latency"][tags][0] == 20
    assert rest["taskworker.worker.memory_change"]["namespace:ns,taskname:ok"][0] == 20
    assert rest["taskworker.update_task.rpc"][f"host:{fake.address}"][0] == 29
    assert rest["taskworker.worker.complete_duration"][""][0] == 29
    assert set(rest["taskworker.worker.shutdown.stage_duration"]) == {"stage:tasks", "stage:reports"}
    got = counters["taskworker.client.get_task"]["namespace:ns"]
    assert 0 < got <= 29
    assert rest["taskworker.get_task.rpc"][f"host:{fake.address}"][0] == got + not_found
    cogs = counters["taskworker.cogs.usage"]["feature:ns"]
    assert abs(cogs - 1000 * sum(t for _, t in rest["taskworker.worker.execution_duration"].values())) < 50
    pod = f"pod_name:{socket.gethostname()}"
    assert set(gauges["taskworker.worker.concurrency"][pod]) == {2}
    assert gauges["taskworker.worker.children"][f"{pod},state:running"][-1] in (1, 2)


def test_lost_children(fake, statsd, tmp_path):
    """One killed at its task's deadline, one by a stranger: an alarm goes off on these."""
    w = Worker(tmp_path / "lossy", [fake.address], modules=["tests/integration/clients/pool_tasks.so"],
               arguments=["--statsd-addr", statsd.address],
               env={"LOAD_LOG": str(tmp_path / "runs"), "LOAD_MS": "60000"})
    try:
        fake.tasks.append(activation("load", id="late", deadline_s=1, headers={"key": "late"}))
        fake.wait_reports(1)
        fake.tasks.append(activation("load", id="shot", headers={"key": "shot"}))
        wait_for(lambda: "run shot" in (tmp_path / "runs").read_text(), "the second task to run")
        [child] = children(w.pid)
        os.kill(child, signal.SIGKILL)
        fake.wait_reports(2)
        w.stop()
    finally:
        w.kill9()
    statsd.close()
    lost = read(statsd, "application:app,processing_pool:unknown")[0]["taskworker.worker.children_lost"]
    assert {tags: n for tags, n in lost.items() if n} == {"reason:deadline": 1, "reason:signal": 1}


def test_client_weakness_17_latency_does_not_know_time_zones(fake, statsd, worker):
    """spec/client.md 13.17"""
    w = worker(fake, "--statsd-addr", statsd.address, env={"TZ": "America/New_York"})
    task = activation("ok")
    task.received_at.seconds -= 100
    fake.tasks.append(task)
    fake.wait_reports(1)
    w.stop()
    statsd.close()
    rest = read(statsd, "application:app,processing_pool:unknown")[2]
    (count, total), = rest["taskworker.worker.execution_latency"].values()
    assert count == 1 and 99 < total < 160


def test_occupancy_of_short_tasks(fake, statsd, worker):
    """Two children, one task of 50 ms after the other: 0.5 at most, and far from 0 (spec/client.md 13.18)."""
    w = worker(fake, env={"TASKMILL_STATSD_ADDR": statsd.address})

    def seen():
        return [v for values in read(statsd, "application:app,processing_pool:unknown")[1]
                .get("taskworker.worker.occupancy", {}).values() for v in values]

    def exports():
        return sum("worker.concurrency" in line for line in statsd.lines())

    wait_for(lambda: exports() >= 2, "two exports")
    assert seen() == [], "before the first task nothing is said"
    fake.tasks += [activation("busy", id=f"b{n}") for n in range(200)]
    wait_for(lambda: len(seen()) >= 3, "occupancy", 30)
    assert 0.3 < max(seen()) <= 1
    fake.tasks.clear()
    wait_for(lambda: seen()[-1] == 0, "an idle worker", 30)
    fake.tasks.append(activation("slow", id="s", deadline_s=4))
    wait_for(lambda: not fake.tasks, "the claim")
    wait_for(lambda: seen()[-1] > 0.4, "a task that goes on", 30)
    w.signal(signal.SIGTERM)
    w.wait_log("no new tasks")
    count, before = len(seen()), exports()
    wait_for(lambda: exports() > before, "an export while it drains")
    assert len(seen()) <= count + 1, "withdrawn while draining"
    assert w.wait() == 0


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def samples(port):
    status, text = get(port, "/metrics")
    assert status == 200
    return {(name, tuple(sorted(labels.items()))): value
            for family in parse(text).values() for name, labels, value in family["samples"]}


def listeners(port):
    """Processes that have a socket which listens at the port."""
    inodes = set()
    with open("/proc/net/tcp") as table:
        for line in table.readlines()[1:]:
            fields = line.split()
            if fields[1].endswith(f":{port:04X}") and fields[3] == "0A":
                inodes.add(f"socket:[{fields[9]}]")
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            links = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        except OSError:
            continue
        if links & inodes:
            found.add(int(pid))
    return found


def test_prometheus_port(fake, worker):
    port = free_port()
    w = worker(fake, "--prometheus-port", str(port), "--processing-pool-name", "p1")
    wait_for(lambda: get(port, "/readyz") == (200, "ready\n"), "a ready child")
    assert get(port, "/healthz") == (200, "ok\n")
    assert get(port, "/nothing")[0] == 404
    pool = ("processing_pool", "p1")
    occupancy = ("taskworker_worker_occupancy", (pool,))
    assert occupancy not in samples(port), "before the first task nothing is said"
    fake.tasks += [activation("ok", id=f"o{n}") for n in range(30)]
    fake.wait_reports(30)
    wait_for(lambda: occupancy in samples(port), "occupancy")
    seen = samples(port)
    assert 0 <= seen[occupancy] <= 1
    assert seen["taskworker_worker_child_busy_seconds_total", (pool,)] > 0
    assert seen["taskworker_worker_child_wait_seconds_total", (pool,)] > 0
    run = tuple(sorted([pool, ("namespace", "ns"), ("taskname", "ok"), ("taskbroker_host", fake.address)]))
    assert seen["taskmill_taskworker_worker_execution_duration_count", run] == 30
    assert seen["taskmill_taskworker_worker_execute_task_total",
                tuple(sorted([*run, ("status", "complete")]))] == 30
    assert listeners(port) == {w.pid}, "children have closed the port"

    fake.tasks.append(activation("slow", id="s", deadline_s=3))
    wait_for(lambda: not fake.tasks, "the claim")
    with socket.create_connection(("127.0.0.1", port)) as half_a_request:
        half_a_request.sendall(b"GET /met")
        w.signal(signal.SIGTERM)
        wait_for(lambda: get(port, "/readyz") == (503, "stopping\n"), "the drain")
        assert get(port, "/healthz")[0] == 200
        assert occupancy not in samples(port), "withdrawn while draining"
        assert w.wait() == 0


def test_a_port_that_is_taken(fake, worker):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(AssertionError, match="--prometheus-port 127.0.0.1:[0-9]+: Address already in use"):
            worker(fake, "--prometheus-port", str(taken.getsockname()[1]))
    with pytest.raises(AssertionError, match="needs an IP address"):
        worker(fake, "--prometheus-port", "1234", "--prometheus-host", "localhost")
