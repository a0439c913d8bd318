# SPDX-License-Identifier: Apache-2.0
"""What Taskmill sends, the real taskbroker-client runs, and the other way round, with both releases.

Tasks write down what they were called with (clients/interchange_app.py tells how), and each test
compares that with what it sent. Every send carries a header "case", by which it is known again.
"""

import json
import os
import resource
import subprocess
import time
from collections import defaultdict

import pytest
from sentry_protos.taskbroker.v1 import taskbroker_pb2 as pb

from harness.broker import build_folder, program
from harness.cache import INTEGRATION
from harness.process import Process, wait_for
from harness.worker import Worker

CLIENTS = INTEGRATION / "clients"
MODULE = "tests/integration/clients/interchange_tasks.so"
APPLICATION = "interchange"

KINDS = {
    "args": [
        0, 1, -1, 127, 128, -32, -33, 255, 256, -128, -129, 65535, 65536, -32769, 2**31, 2**32, 2**53 + 1,
        2**63 - 1, 2**63, 2**64 - 1, -2**63, 0.0, -0.0, 1.0, 0.1, -2.25, 1e308, 5e-324, 1e16,
        True, False, None, "", "text", "grün 😀", "nul\0 tab\t \"quoted\" \\", "x" * 31, "x" * 32, "y" * 70000,
        [], {}, [[]], [1, [2, [3, {"a": [{}]}]]], {"k": {"ä": [None, True]}, "": 0},
        {"$bytes": ""}, {"$bytes": "AAH/gA=="}, {"$float": "nan"}, {"$float": "inf"}, {"$float": "-inf"},
    ],
    "kwargs": {
        "int": 2**64 - 1, "negative": -2**63, "double": 3.0, "text": "wört", "bytes": {"$bytes": "/w=="},
        "none": None, "yes": True, "list": [1, "two", 3.5], "map": {"deep": {"er": [{"$bytes": "AA=="}]}},
        "schlüssel": "wert",
    },
}
# What the older release's JSON (orjson) can say: no bytes, and null for what is no number.
JSON_KINDS = {
    "args": [0, -1, 2**63 - 1, 2**64 - 1, -2**63, 0.1, -0.0, 1.0, 1e308, True, None, "grün 😀\0", [[], {}],
             {"a": {"b": [1]}}],
    "kwargs": {"k": [1, 2.0, "three"]},
}
LARGE = "x" * 3_500_000
LATE_S = 15  # what a busy machine may add to a delay, the start of a Python worker included


def same(a, b):
    """Equal as JSON texts: 1, 1.0 and true differ, and so do 0.0 and -0.0."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


class Results:
    """The file that tasks write to."""

    def __init__(self, path):
        self.path = path
        path.touch()

    def lines(self):
        """The whole ones: what is being written now may end within a character."""
        data = self.path.read_bytes()
        return [json.loads(line) for line in data[:data.rfind(b"\n") + 1].splitlines()]

    def by_case(self):
        cases = defaultdict(list)
        for line in self.lines():
            cases[line["headers"]["case"]].append(line)
        return cases

    def wait(self, counts, timeout_s=30):
        """Waits for so many runs of each case; returns by_case()."""
        def state():
            return {case: len(lines) for case, lines in self.by_case().items()}

        wait_for(lambda: state() == counts, lambda: f"runs {counts}, there are {state()}", timeout_s, 0.05)
        return self.by_case()


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "results.jsonl")


@pytest.fixture
def python_worker(client_python, results, tmp_path):
    """Factory: python_worker(broker, namespace=None). Several may follow each other in one test."""
    made = []

    def make(broker, *namespace):
        argv = [client_python, "-B", "-m", "clients.interchange_app", "worker", broker.address, *namespace]
        it = Process(argv, tmp_path / f"python{len(made)}.txt",
                     {"PYTHONPATH": str(INTEGRATION), "INTERCHANGE_RESULTS": str(results.path)})
        made.append(it)
        return it

    yield make
    for it in made:
        it.kill9()


@pytest.fixture
def python_send(client_python, kafka):
    """Sends orders with the client's own producer."""
    def send(broker, orders, env=None):
        done = subprocess.run(
            [client_python, "-B", "-m", "clients.interchange_app", "send"], input=json.dumps(orders),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
            env={**os.environ, "PYTHONPATH": str(INTEGRATION), "INTERCHANGE_KAFKA": kafka.bootstrap,
                 "INTERCHANGE_TOPIC": broker.topic, **(env or {})})
        assert done.returncode == 0, done.stdout[-4000:]
    return send


@pytest.fixture
def worker(results, tmp_path):
    """Factory of `taskmill worker`, with the C module and with commands."""
    made = []

    def make(broker, *arguments, module=True, commands=True, concurrency=3):
        assert (build_folder() / MODULE).exists(), f"{MODULE} is not built"
        it = Worker(tmp_path / f"worker{len(made)}", [broker.address],
                    commands=command_file() if commands else None, modules=[MODULE] if module else [],
                    arguments=["--concurrency", concurrency, *arguments],
                    env={"INTERCHANGE_RESULTS": str(results.path)})
        made.append(it)
        return it

    yield make
    for it in made:
        it.kill9()


def command_file():
    def command(first=0, **options):
        return {"command": ["sh", str(CLIENTS / "interchange_record.sh"), str(first)], **options}

    policy = {"retry": {"times": 3, "delay": 1}}
    return {"application": APPLICATION, "namespaces": {"cmd": {"tasks": {
        "record": command(), "zstd": command(), "once": command(at_most_once=True),
        "again": command(9, **policy), "third": command(2, **policy)}}}}


def taskmill_send(*arguments):
    """`taskmill send` with room for large parameters; returns the id."""
    stack = (64 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1])
    done = subprocess.run(
        [str(a) for a in (program(), "send", "--application", APPLICATION, *arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=30,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_STACK, stack))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def wait_ready(broker, results):
    """Until Python, which takes seconds to start, has run a task: what follows finds a worker waiting."""
    taskmill_send("--rpc-host", broker.address, "--header", "case=ready", "py:record")
    results.wait({"ready": 1})


def wait_empty(broker, timeout_s=20):
    wait_for(lambda: broker.statuses() == {}, lambda: f"an empty store, it has {broker.statuses()}", timeout_s)


def dead_cases(kafka, broker):
    """Cases of the dead letters, sorted."""
    return sorted(pb.TaskActivation.FromString(record.value).headers["case"]
                  for record in kafka.consume_all(broker.dlq_topic))


def assert_attempts(lines, policy_times=3, delay_s=1.0):
    """Attempts 0, 1, 2 with the delay between them; the last one knows that it is."""
    assert [line["attempt"] for line in lines] == list(range(policy_times))
    assert len({line["id"] for line in lines}) == policy_times, "a retry has an id of its own"
    for before, after in zip(lines, lines[1:]):
        assert delay_s <= after["at"] - before["at"] < delay_s + LATE_S
    if "left" in lines[0]:
        assert lines[0]["left"]


# --- ours to Python


def test_taskmill_send_to_python(kafka, broker, results, python_worker):
    b = broker(kafka=kafka)
    ways = {"enqueue": ["--rpc-host", b.address], "kafka": ["--kafka", kafka.bootstrap, "--topic", b.topic]}
    counts = {"ready": 1}

    def send(case, task, *arguments, runs=1):
        """Both ways; returns the ids."""
        counts.update({f"{way} {case}": runs for way in ways if runs})
        return {way: taskmill_send(*to, "--header", f"case={way} {case}", task, *arguments)
                for way, to in ways.items()}

    send("expired", "py:record", "--expires", 1, runs=0)
    kafka.wait_committed(b.group, b.topic, {0: 2})
    wait_empty(b)  # nobody was there to run them
    python_worker(b)
    wait_ready(b, results)

    ids = send("kinds", "py:record", "--json", json.dumps(KINDS), "--header", "note=a=b ü")
    send("words", "py:record", 42, "text", "email=a@b.c", "007", -5, "list=[1, 2.5]")
    send("large", "py:record", *[LARGE[:100_000]] * 35)
    countdown_from = time.time()
    send("countdown", "py:record", "--countdown", 2, "--expires", 60)
    send("once", "py:once", "--at-most-once")
    send("third", "py:third", "--times", 3, "--delay", 1, "--deadletter", runs=3)
    send("again", "py:again", "--times", 3, "--delay", 1, "--deadletter", runs=3)
    send("bad", "py:bad", "--deadletter")
    send("dropped", "py:bad")
    send("stranger", "py:nobody", "--deadletter", runs=0)
    cases = results.wait(counts)
    wait_empty(b)

    for way in ways:
        [kinds] = cases[f"{way} kinds"]
        assert same(kinds["call"], KINDS)
        assert kinds["id"] == ids[way] and kinds["headers"] == {"case": f"{way} kinds", "note": "a=b ü"}
        [words] = cases[f"{way} words"]
        assert same(words["call"], {"args": [42, "text", "007", -5],
                                    "kwargs": {"email": "a@b.c", "list": [1, 2.5]}})
        [large] = cases[f"{way} large"]
        assert large["call"] == {"args": [LARGE[:100_000]] * 35, "kwargs": {}}
        assert large["headers"]["compression-type"] == "zstd"
        assert 2 <= cases[f"{way} countdown"][0]["at"] - countdown_from < 2 + LATE_S
        assert_attempts(cases[f"{way} third"])
        assert_attempts(cases[f"{way} again"])
    assert dead_cases(kafka, b) == sorted(f"{way} {case}" for way in ways for case in ("again", "bad", "stranger"))


@pytest.mark.parametrize("to", ["broker", "kafka"])
def test_library_to_python(kafka, broker, results, python_worker, to):
    b = broker(kafka=kafka)
    python_worker(b)
    wait_ready(b, results)
    started = time.time()
    argv = [build_folder() / "tests/integration/clients/interchange_send", to]
    argv += [b.address] if to == "broker" else [kafka.bootstrap, b.topic]
    done = subprocess.run([str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=60)
    assert done.returncode == 0, done.stderr
    cases = results.wait({"ready": 1, "kinds": 1, "nothing": 1, "countdown": 1, "once": 1, "third": 3, "again": 3,
                          "large": 1, "bulk": 200, "no wait": 200})
    wait_empty(b)

    [kinds] = cases["kinds"]
    assert same(kinds["call"], {
        "args": [None, True, False, 0, -1, -2**63, 2**63 - 1, 2**64 - 1, 0.1, -0.0, 1e308, "", "grün 😀",
                 {"$bytes": "AAH/"}, [1, [], {"in": "side"}]],
        "kwargs": {"nothing": None, "yes": True, "int": -32769, "uint": 2**64 - 1, "double": 2.0,
                   "schlüssel": "wert", "bytes": {"$bytes": ""}, "array": [None], "map": {"deeper": {}}}})
    assert kinds["id"] == done.stdout.strip()
    assert kinds["headers"] == {"case": "kinds", "note": "a=b ü"}
    assert cases["nothing"][0]["call"] == {"args": [], "kwargs": {}}
    assert cases["large"][0]["call"]["args"] == [LARGE]
    assert 1 <= cases["countdown"][0]["at"] - started < 1 + LATE_S
    for case in ("bulk", "no wait"):
        assert sorted(line["call"]["args"][0] for line in cases[case]) == list(range(200))
        assert len({line["id"] for line in cases[case]}) == 200
    assert_attempts(cases["third"])
    assert_attempts(cases["again"])
    assert dead_cases(kafka, b) == ["again"]


# --- Python to ours


def test_python_to_taskmill(kafka, broker, results, python_send, worker, client_version):
    b = broker(kafka=kafka)
    python_send(b, [{"task": "c:record", "headers": {"case": "expired"}, "expires": 1}])
    kafka.wait_committed(b.group, b.topic, {0: 1})
    wait_empty(b)
    worker(b)

    orders, counts, calls = [], {}, {}

    def order(case, task, runs=1, call=None, **options):
        for runner in ("c", "cmd"):
            name = f"{runner} {case}"
            orders.append({"task": f"{runner}:{task}", "headers": {"case": name, "note": "a=b ü"}, **(call or {}),
                           **options})
            counts[name] = runs
            calls[name] = call or {"args": [], "kwargs": {}}

    order("kinds", "record", call=KINDS)
    order("nothing", "record")
    order("zstd", "zstd", call=KINDS)
    order("large", "record", call={"args": [LARGE], "kwargs": {}})
    order("countdown", "record", countdown=1, expires=60)
    order("once", "once", call={"args": [1], "kwargs": {}})
    order("third", "third", runs=3, call={"args": [], "kwargs": {"k": 3}})
    order("again", "again", runs=3, call={"args": [], "kwargs": {"k": 4}})
    started = time.time()
    python_send(b, orders)
    if client_version == "26.5.0":
        orders = []
        order("json", "record", call=JSON_KINDS)
        order("json zstd", "zstd", call=JSON_KINDS)
        order("json large", "record", call={"args": [LARGE], "kwargs": {}})
        python_send(b, orders, env={"TASKBROKER_CLIENT_PARAMETERS_FORMAT": "json"})
    cases = results.wait(counts)
    wait_empty(b)

    for case, lines in cases.items():
        for line in lines:
            assert same(line["call"], calls[case]), case
            assert line["runner"] == {"c": "c", "cmd": "command"}[case.split()[0]]
            assert line["headers"]["note"] == "a=b ü"
    for runner in ("c", "cmd"):
        assert 1 <= cases[f"{runner} countdown"][0]["at"] - started < 1 + LATE_S
        assert_attempts(cases[f"{runner} third"])
        assert_attempts(cases[f"{runner} again"])
    assert not cases["c again"][2]["left"] and not cases["c once"][0]["left"]
    assert "zstd" not in cases["cmd kinds"][0]["headers"].values()
    assert cases["cmd zstd"][0]["headers"]["compression-type"] == "zstd"
    assert cases["cmd large"][0]["headers"]["compression-type"] == "zstd"
    assert dead_cases(kafka, b) == ["c again", "cmd again"]


# --- both at once


def test_attempts_in_turn(kafka, broker, results, python_send, python_worker, worker):
    """One task: a first attempt in C, the second in Python, the third in C."""
    b = broker(kafka=kafka)
    ours = worker(b, "--namespace", "hop", commands=False)
    python_send(b, [{"task": "hop:hop", "args": [1], "headers": {"case": "hop"}}])
    results.wait({"hop": 1})
    ours.stop()
    theirs = python_worker(b, "hop")
    results.wait({"hop": 2})
    wait_for(lambda: "Processing" not in b.statuses(), lambda: f"the report, {b.statuses()}")
    theirs.kill9()
    worker(b, "--namespace", "hop", commands=False)
    lines = results.wait({"hop": 3})["hop"]
    wait_empty(b)
    assert [line["runner"] for line in lines] == ["c", "python", "c"]
    assert all(line["call"] == {"args": [1], "kwargs": {}} for line in lines)
    assert [line["left"] for line in lines] == [True, True, True]
    assert_attempts(lines, delay_s=2.0)
    assert dead_cases(kafka, b) == []


def test_mixed_pool(kafka, broker, results, python_send, python_worker, worker):
    """One broker, one application; each worker asks for the namespace that it knows."""
    b = broker(kafka=kafka)
    python_worker(b, "py")
    worker(b, "--namespace", "c", commands=False)
    python_send(b, [{"task": f"{namespace}:record", "args": [n], "headers": {"case": f"python to {namespace}"}}
                    for n in range(100) for namespace in ("py", "c")])
    for namespace in ("py", "c"):
        for n in range(5):
            taskmill_send("--rpc-host", b.address, "--header", f"case=shell to {namespace}",
                          f"{namespace}:record", n)
    python_send(b, [{"task": "c:relay", "args": [n], "headers": {"case": "relay"}} for n in range(20)])
    cases = results.wait({"python to py": 100, "python to c": 100, "shell to py": 5, "shell to c": 5, "relay": 20,
                          "relayed": 20})
    wait_empty(b)
    for case, runner in {"python to py": "python", "python to c": "c", "shell to py": "python", "shell to c": "c",
                         "relay": "c", "relayed": "python"}.items():
        assert {line["runner"] for line in cases[case]} == {runner}
        assert sorted(line["call"]["args"][0] for line in cases[case]) == list(range(len(cases[case])))
    assert dead_cases(kafka, b) == []
