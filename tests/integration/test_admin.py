# SPDX-License-Identifier: Apache-2.0
"""The admin port: /metrics, /healthz, /readyz, /status.json, and what it must bear."""

import contextlib
import fcntl
import json
import re
import signal
import socket
import sqlite3
import subprocess
import time

import pytest
from sentry_protos.taskbroker.v1 import taskbroker_pb2 as pb

from harness import cache
from harness.process import free_port, wait_for
from harness.rpc import COMPLETE, CONSUMER, FAILURE, activation

PORTS = range(9464, 9474)

# Judged by the official parser, in an environment of its own.
PARSE = """
import json, sys
from prometheus_client.parser import text_string_to_metric_families
families = {}
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.documentation, family.name
    families[family.name] = {"type": family.type, "samples": [
        [sample.name, sample.labels, sample.value] for sample in family.samples]}
json.dump(families, sys.stdout)
"""


def parse(text):
    done = subprocess.run([cache.venv("prometheus"), "-c", PARSE], input=text, text=True,
                          capture_output=True, check=True)
    return json.loads(done.stdout)


def line(b, path):
    """(HTTP status, first line) of a text page."""
    status, _, body = b.http(path)
    return status, body.splitlines()[0]


def test_pages(broker):
    b = broker()
    b.wait_log(f"admin port listening on http://{re.escape(b.admin_address)}")
    assert line(b, "/healthz") == (200, "ok")
    assert line(b, "/readyz") == (200, "ready")
    assert b.http("/healthz?verbose=1")[0] == 200
    status, kind, body = b.http("/metrics", "HEAD")
    assert (status, kind, body) == (200, "text/plain; version=0.0.4; charset=utf-8", "")
    assert b.http("/status.json")[1] == "application/json"
    assert b.http("/")[0] == b.http("/metrics/")[0] == 404
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert b.http("/healthz", method)[0] == 405
    assert b.running


def test_metrics_are_what_prometheus_reads(broker, grpc_client):
    b = broker()
    client = grpc_client(b)
    client.enqueue([activation(id="x", taskname='na"me\\\n', namespace="n\u00e4")])
    client.set_status(client.get_task().id, COMPLETE)
    families = parse(b.http("/metrics")[2])
    assert all(name.startswith("taskmill_") for name in families)
    durations = families["taskmill_grpc_server_set_status_duration"]
    assert durations["type"] == "histogram"
    bounds = [(s[1]["le"], s[2]) for s in durations["samples"] if s[0].endswith("_bucket")]
    assert bounds[-1][0] == "+Inf" and [n for _, n in bounds] == sorted(n for _, n in bounds)
    assert families["taskmill_upkeep_db_file_size_bytes"]["type"] == "gauge"
    assert families["taskmill_store_commits"]["type"] == "counter"


NUMBER = (int, float)
WINDOWS = {"1s": NUMBER, "10s": NUMBER, "60s": NUMBER}
VERDICT = {"ok": bool, "reason": str}
EVENTS = ("taken_in", "claimed", "completed", "retried", "failed", "dead_lettered")
# As docs/operations.md has it; a tuple of types with None: may be null.
SCHEMA = {
    "version": str, "pid": int, "state": str, "healthy": VERDICT, "ready": VERDICT,
    "started_at_s": NUMBER, "uptime_s": NUMBER, "admin_address": str, "grpc_address": (str, None),
    "connections": int, "streams": int, "held_claims": int,
    "tasks": dict.fromkeys(("pending", "delay", "processing", "retry", "failure", "total", "parked",
                            "unconfirmed_at_most_once", "unserved"), int),
    "oldest_pending_age_s": (*NUMBER, None), "backpressure": (str, None),
    "rates_per_s": dict.fromkeys(EVENTS, WINDOWS),
    "totals": dict.fromkeys((*EVENTS, "expired", "discarded", "killed", "forwarded", "deadlines_missed",
                             "duplicates"), int),
    "outbox": {"entries": int, "publishing": int},
    "store": {"path": (str, None), "used_bytes": int, "file_bytes": int, "wal_bytes": int,
              "disk_free_bytes": int, "max_bytes": (int, None)},
    "topics": [{"topic": str, "cluster": str, "group": str, "partitions": [
        {"partition": int, "position": int, "committed": (int, None),
         "high_watermark": (int, None), "lag": (int, None)}]}],
    "runtime_config": ({"path": str, "killswitch_rules": int, "demoted_namespaces": int,
                        "applying": bool}, None),
    "embedded_log": ({"records": int, "waiting": int}, None),
}


def check(value, schema, where="status"):
    """Exactly these names, and values of these types."""
    if isinstance(schema, dict):
        assert isinstance(value, dict) and set(value) == set(schema), \
            f"{where}: {set(value) ^ set(schema)}"
        for key, inner in schema.items():
            check(value[key], inner, f"{where}.{key}")
    elif isinstance(schema, list):
        for i, item in enumerate(value):
            check(item, schema[0], f"{where}[{i}]")
    elif isinstance(schema, tuple) and isinstance(schema[0], dict):
        if value is not None:
            check(value, schema[0], where)
    else:
        allowed = schema if isinstance(schema, tuple) else (schema,)
        allowed = tuple(type(None) if kind is None else kind for kind in allowed)
        assert isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool)), \
            f"{where}: {value!r}"


def test_status_of_an_embedded_broker(broker, grpc_client, tmp_path):
    rules = tmp_path / "runtime.yml"
    rules.write_text("drop_task_killswitch: [a, b]\ndemoted_namespaces: [c]\n")
    b = broker(config={"store": {"max_pending_count": 3}, "max_delay_count": 100,
                       "runtime_config_path": str(rules)})
    client = grpc_client(b)
    old = activation(id="old")
    old.received_at.FromSeconds(int(time.time()) - 100)
    client.enqueue([old, activation(id="done"), activation(id="fails"), activation(id="runs"),
                    activation(id="late", delay=3600)])
    for id in ("old", "done", "fails", "runs"):
        assert client.get_task().id == id
    client.set_status("done", COMPLETE)
    client.set_status("fails", FAILURE)
    client.enqueue([activation(id=f"w{i}") for i in range(4)])
    status = wait_for(lambda: (s := b.status())["rates_per_s"]["completed"]["60s"] > 0 and s, "rates")
    check(status, SCHEMA)
    assert (status["state"], status["pid"]) == ("running", b.pid)
    assert status["grpc_address"] == b.address and status["admin_address"] == b.admin_address
    tasks = status["tasks"]
    assert (tasks["pending"], tasks["delay"], tasks["processing"], tasks["total"]) == (3, 1, 2, 6)
    totals = status["totals"]
    assert (totals["completed"], totals["failed"], totals["discarded"], totals["claimed"]) == (1, 1, 1, 4)
    assert status["backpressure"] == "pending_limit" and status["embedded_log"]["waiting"] == 1
    assert status["store"]["path"] == str(b.db_path) and status["store"]["used_bytes"] > 4096
    assert status["connections"] == 1 and status["store"]["max_bytes"] == 3000000000
    assert status["runtime_config"] == {"path": str(rules), "killswitch_rules": 2,
                                        "demoted_namespaces": 1, "applying": False}
    # An idle engine does not turn: the age grows all the same.
    first = status["oldest_pending_age_s"]
    wait_for(lambda: b.status()["oldest_pending_age_s"] > first + 0.5, "age", 10)


def test_status_says_where_every_partition_stands(kafka, broker, grpc_client):
    b = broker(kafka=kafka, partitions=2, config={"store": {"max_pending_count": 4}})
    client = grpc_client(b)
    kafka.produce(b.topic, [activation(id=f"t{i}").SerializeToString() for i in range(10)], partition=1)

    def lag():
        check(status := b.status(), SCHEMA)
        partitions = {p["partition"]: p for p in status["topics"][0]["partitions"]}
        # The engine's numbers are a copy that may be a tenth of a second older than the partitions'.
        done = partitions.get(1, {}).get("committed") == 4 and status["backpressure"]
        return done and status, partitions

    status = wait_for(lambda: lag()[0], lambda: f"four rows: {lag()}")
    topic = status["topics"][0]
    assert (topic["topic"], topic["group"]) == (b.topic, b.group)
    empty, full = sorted(topic["partitions"], key=lambda p: p["partition"])
    assert empty == {"partition": 0, "position": 0, "committed": None, "high_watermark": 0, "lag": 0}
    assert full == {"partition": 1, "position": 4, "committed": 4, "high_watermark": 10, "lag": 6}
    assert status["backpressure"] == "pending_limit" and status["embedded_log"] is None
    for _ in range(10):
        client.set_status(client.get_task(timeout_s=10).id, COMPLETE)
    wait_for(lambda: b.status()["topics"][0]["partitions"][0]["lag"] == 0
             and b.status()["topics"][0]["partitions"][1]["lag"] == 0, "no lag")


# --- the port


def test_default_port_taken(broker):
    """Brokers that nobody gave a port share the default ones; without a free one they do without."""
    taken = {}
    for port in PORTS:
        taken[port] = socket.socket()
        try:
            taken[port].bind(("127.0.0.1", port))
            taken[port].listen()
        except OSError:
            taken.pop(port).close()  # somebody else has it
    try:
        b = broker(start=False)
        del b.config["admin_addr"]
        b.start()
        b.wait_log("WARN.*127.0.0.1:9464 and the 9 ports after it are taken: no admin port")
        b.stop()
        taken.pop(next(port for port in taken if port != 9464)).close()
        b.start()
        assert 9464 <= int(b.wait_log(r"admin port listening on http://127.0.0.1:(\d+)")[1]) < 9474
        assert len(re.findall("WARN.*127.0.0.1:9464 is taken; the admin port is", b.log())) == 1
    finally:
        for held in taken.values():
            held.close()


def test_explicit_port_taken_and_no_port(broker):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        address = "127.0.0.1:%d" % holder.getsockname()[1]
        b = broker(start=False, config={"admin_addr": address})
        b.start(wait=False)
        assert b.wait() == 1
        errors = re.findall("^.*ERROR.*$", b.log(), re.MULTILINE)
        assert len(errors) == 1 and f"admin_addr {address}: Address already in use" in errors[0]
    b.config["admin_addr"] = None
    b.start()
    assert len(re.findall("admin port", b.log())) == 1  # in the error above
    b.stop()


def test_ipv6(broker):
    port = free_port()
    b = broker(config={"admin_addr": f"[::1]:{port}"})
    b.wait_log(rf"admin port listening on http://\[::1\]:{port}")
    with socket.create_connection(("::1", port), timeout=5) as connection:
        connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_slow_and_greedy_clients(broker):
    """They are cut after 10 s at the latest, and then the others are served. The engine never waits."""
    b = broker()
    host, port = b.admin_address.split(":")

    def connect(text):
        connection = socket.create_connection((host, int(port)), timeout=20)
        connection.sendall(text)
        return connection

    big = connect(b"GET /healthz HTTP/1.1\r\nX: " + b"y" * 60000)
    assert b" 4" in big.recv(100)[:12]
    body = connect(b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
    assert body.recv(100).startswith(b"HTTP/1.1 200")
    start = time.monotonic()
    silent = [connect(b"GET /hea") for _ in range(40)]
    with b.client() as client:
        assert client.health() == "SERVING"
    for i in range(5):  # a byte now and then does not help
        wait_for(lambda: time.monotonic() > start + i, "a second", 10)
        for connection in silent:
            try:
                connection.sendall(b"x")
            except OSError:
                pass
    wait_for(lambda: line(b, "/readyz") == (200, "ready"), "an answer", 30)
    assert time.monotonic() - start < 20
    for connection in [big, body, *silent]:
        connection.close()


# --- readiness and health


def test_start_is_healthy_but_not_ready(broker):
    b = broker()
    b.stop()
    with open(f"{b.db_path}.lock", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        b.start(wait=False)
        b.wait_log("(?s)stopped.*admin port listening")
        assert line(b, "/readyz") == (503, "starting: the store is being read")
        assert line(b, "/healthz") == (200, "starting: the store is being read")
        status = b.status()
        assert status["state"] == "starting" and not status["ready"]["ok"] and "tasks" not in status
    wait_for(lambda: line(b, "/readyz") == (200, "ready"), "ready")


def begin_report(client, id):
    """A SetTaskStatus whose answer nobody waits for yet."""
    request = pb.SetTaskStatusRequest(id=id, status=COMPLETE)
    call = client.channel.unary_unary(f"/{CONSUMER}/SetTaskStatus")
    return call.future(request.SerializeToString(), timeout=20)


@contextlib.contextmanager
def locked(b):
    """The engine can commit nothing meanwhile."""
    other = sqlite3.connect(b.db_path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def test_readiness_falls_before_the_drain(broker, grpc_client):
    b = broker()
    client = grpc_client(b)
    client.enqueue([activation(id="x")])
    states = client.health_watch()
    assert next(states) == "SERVING"
    client.get_task()
    with locked(b):
        report = begin_report(client, "x")
        b.wait_log("is locked by another process")
        b.signal(signal.SIGTERM)
        assert next(states) == "NOT_SERVING"
        # The engine still stands in the turn before: its drain cannot have begun.
        assert line(b, "/readyz") == (503, "stopping")
        assert line(b, "/healthz")[0] == 200
        assert b.status()["state"] == "stopping" and not report.done()
    report.result()
    assert b.wait() == 0
    assert b.statuses() == {}


@pytest.mark.parametrize("killswitched", [False, True])
def test_health_tells_when_the_engine_hangs(broker, grpc_client, killswitched):
    b = broker(config={"upkeep_unhealthy_interval_ms": 300, "health_check_killswitched": killswitched})
    client = grpc_client(b)
    client.enqueue([activation(id="x")])
    client.get_task()
    with locked(b):
        report = begin_report(client, "x")
        b.wait_log("is locked by another process")
        if killswitched:
            wait_for(lambda: len(re.findall("is locked by another", b.log())) > 1, "many tries", 20)
            assert line(b, "/healthz")[0] == line(b, "/readyz")[0] == 200
            assert client.health() == "SERVING"
        else:
            wait_for(lambda: b.http("/healthz")[0] == b.http("/readyz")[0] == 503, "503")
            assert "no turn of the engine ended" in line(b, "/healthz")[1]
            wait_for(lambda: client.health() == "NOT_SERVING", "NOT_SERVING")
            assert client.health("") == "SERVING"
    report.result()
    wait_for(lambda: line(b, "/healthz") == (200, "ok") or killswitched, "health")
    wait_for(lambda: client.health() == "SERVING", "SERVING")
