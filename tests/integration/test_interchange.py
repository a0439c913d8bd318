# SPDX-License-Identifier: Apache-2.0
"""What Taskmill sends, the real taskbroker-client runs, and the other way round, with both releases.

docs/interchange.md has the table of what each test here shows. Tasks write down what they were called with (clients/interchange_app.py tells how), and each test
compares that with what it sent. Every send carries a header "case", by which it is known again.
"""

import json
import os
import resource
import signal
import subprocess
import time
from collections import defaultdict

import pytest
from sentry_protos.taskbroker.v1 import taskbroker_pb2 as pb

from harness.broker import build_folder, program
from harness.cache import INTEGRATION
from harness.process import Process, wait_for
from harness.rpc import activation
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
# As Python makes text of them.
HEADERS = {"number": 3.14, "yes": True, "none": None, "empty": ""}
HEADERS_SENT = {"number": "3.14", "yes": "True", "none": "None", "empty": "", "hook-python": "sent"}
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
    """Factory: python_worker(broker, env=None, OPTION=VALUE of TaskWorker...). Several may follow each
    other in one test."""
    made = []

    def make(broker, env=None, **options):
        argv = [client_python, "-B", "-m", "clients.interchange_app", "worker", broker.address, json.dumps(options)]
        it = Process(argv, tmp_path / f"python{len(made)}.txt",
                     {"PYTHONPATH": str(INTEGRATION), "INTERCHANGE_RESULTS": str(results.path),
                      "INTERCHANGE_TOPIC": "", **(env or {})})
        made.append(it)
        return it

    yield make
    for it in made:
        it.kill9()


@pytest.fixture
def python_send(client_python, kafka):
    """Sends orders with the client's own producer; without a topic, to the one of its own router."""
    def send(topic, orders, env=None):
        topic = {"INTERCHANGE_TOPIC": topic} if topic else {}
        done = subprocess.run(
            [client_python, "-B", "-m", "clients.interchange_app", "send"], input=json.dumps(orders),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
            env={**os.environ, "PYTHONPATH": str(INTEGRATION), "INTERCHANGE_KAFKA": kafka.bootstrap,
                 **topic, **(env or {})})
        assert done.returncode == 0, done.stdout[-4000:]
    return send


@pytest.fixture
def worker(results, tmp_path):
    """Factory of `taskmill worker`, with the C module and with commands (True, None, or a file's content)."""
    made = []

    def make(address, *arguments, module=True, commands=True, concurrency=3, env=None):
        assert (build_folder() / MODULE).exists(), f"{MODULE} is not built"
        it = Worker(tmp_path / f"worker{len(made)}", [getattr(address, "address", address)],
                    commands=command_file() if commands is True else commands,
                    modules=[MODULE] if module else [],
                    arguments=["--concurrency", concurrency, *arguments],
                    env={"INTERCHANGE_RESULTS": str(results.path), **(env or {})})
        made.append(it)
        return it

    yield make
    for it in made:
        it.kill9()


def command(first=0, **options):
    return {"command": ["sh", str(CLIENTS / "interchange_record.sh"), str(first)], **options}


def command_file():
    policy = {"retry": {"times": 3, "delay": 1}}
    short = {"retry": {"times": 2, "delay": 1}}
    return {"application": APPLICATION, "namespaces": {"cmd": {"tasks": {
        "record": command(), "waited": command(), "zstd": command(), "once": command(at_most_once=True),
        "again": command(9, **policy), "third": command(2, **policy),
        "short": command(9, **short), "drop": command(9, **short), "none": command(9),
        "slow": overrun(1, retry={"times": 2, "on": ["deadline"]}), "late": overrun(9)}}}}


def overrun(first, **options):
    """Sleeps past its deadline on its first FIRST attempts."""
    script = f'sh {CLIENTS}/interchange_record.sh; [ "$TASKMILL_TASK_ATTEMPT" -ge {first} ] || sleep 60'
    return {"command": ["sh", "-c", script], **options}


def taskmill_send(*arguments, env=None):
    """`taskmill send` with room for large parameters; returns the id."""
    stack = (64 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1])
    done = subprocess.run(
        [str(a) for a in (program(), "send", "--application", APPLICATION, *arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=30, env={**os.environ, **(env or {})},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_STACK, stack))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def interchange_send(*arguments, env=None):
    """The program with libtaskmill; returns what it prints."""
    argv = [build_folder() / "tests/integration/clients/interchange_send", *arguments]
    done = subprocess.run([str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=60, env={**os.environ, **(env or {})})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def wait_ready(broker, results, task="py:record", **options):
    """Until Python, which takes seconds to start, has run a task: what follows finds a worker waiting."""
    taskmill_send("--rpc-host", broker.address, "--header", "case=ready", task, **options)
    results.wait({"ready": 1})


def wait_empty(broker, timeout_s=20):
    wait_for(lambda: broker.statuses() == {}, lambda: f"an empty store, it has {broker.statuses()}", timeout_s)


def activations(kafka, topic):
    return [pb.TaskActivation.FromString(record.value) for record in kafka.consume_all(topic)]


def dead_cases(kafka, broker):
    """Cases of the dead letters, sorted."""
    return sorted(task.headers["case"] for task in activations(kafka, broker.dlq_topic))


def assert_attempts(lines, policy_times=3, delay_s=1.0):
    """Attempts 0, 1, 2 with the delay between them; the last one knows that it is."""
    assert [line["attempt"] for line in lines] == list(range(policy_times))
    assert len({line["id"] for line in lines}) == policy_times, "a retry has an id of its own"
    for before, after in zip(lines, lines[1:]):
        assert delay_s <= after["at"] - before["at"] < delay_s + LATE_S
    if "left" in lines[0]:
        assert lines[0]["left"]


# --- ours to Python


def test_taskmill_send_to_python(kafka, broker, results, python_worker, client_version):
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
    if client_version == "0.20.30":
        send("pass", "py:headers", 1, "a=2", "--header", "note=passed")
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
        for line in cases[f"{way} pass"]:
            assert line["call"] == {"args": [1], "kwargs": {
                "a": 2, "headers": {"case": f"{way} pass", "note": "passed"}}}
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
    id = interchange_send(to, *([b.address] if to == "broker" else [kafka.bootstrap, b.topic]))
    cases = results.wait({"ready": 1, "kinds": 1, "nothing": 1, "countdown": 1, "once": 1, "third": 3, "again": 3,
                          "zstd": 1, "large": 1, "bulk": 200, "no wait": 200})
    wait_empty(b)

    [kinds] = cases["kinds"]
    [zstd] = cases["zstd"]
    assert same(kinds["call"], zstd["call"]) and same(kinds["call"], {
        "args": [None, True, False, 0, -1, -2**63, 2**63 - 1, 2**64 - 1, 0.1, -0.0, 1e308, "", "grün 😀",
                 {"$bytes": "AAH/"}, [1, [], {"in": "side"}]],
        "kwargs": {"nothing": None, "yes": True, "int": -32769, "uint": 2**64 - 1, "double": 2.0,
                   "schlüssel": "wert", "bytes": {"$bytes": ""}, "array": [None], "map": {"deeper": {}}}})
    assert kinds["id"] == id
    assert kinds["headers"] == {"case": "kinds", "note": "a=b ü", "hook-c": "sent"}
    assert zstd["headers"]["compression-type"] == "zstd"
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
    python_send(b.topic, [{"task": "c:record", "headers": {"case": "expired"}, "expires": 1}])
    kafka.wait_committed(b.group, b.topic, {0: 1})
    wait_empty(b)
    worker(b)

    orders, counts, calls = [], {}, {}

    def order(case, task, runs=1, call=None, **options):
        for runner in ("c", "cmd"):
            name = f"{runner} {case}"
            orders.append({"task": f"{runner}:{task}", "headers": {"case": name, "note": "a=b ü", **HEADERS},
                           **(call or {}), **options})
            if runs:
                counts[name] = runs
            calls[name] = call or {"args": [], "kwargs": {}}

    order("kinds", "record", call=KINDS)
    order("nothing", "record")
    order("waited", "waited")
    order("stranger", "nobody", runs=0)
    order("zstd", "zstd", call=KINDS)
    order("large", "record", call={"args": [LARGE], "kwargs": {}})
    order("countdown", "record", countdown=1, expires=60)
    order("once", "once", call={"args": [1], "kwargs": {}})
    order("third", "third", runs=3, call={"args": [], "kwargs": {"k": 3}})
    order("again", "again", runs=3, call={"args": [], "kwargs": {"k": 4}})
    started = time.time()
    python_send(b.topic, orders)
    if client_version == "26.5.0":  # what is above was sent as "both", the default
        for mode, kinds in (("json", JSON_KINDS), ("msgpack", KINDS)):
            orders = []
            order(mode, "record", call=kinds)
            order(f"{mode} zstd", "zstd", call=kinds)
            order(f"{mode} large", "record", call={"args": [LARGE], "kwargs": {}})
            python_send(b.topic, orders, env={"TASKBROKER_CLIENT_PARAMETERS_FORMAT": mode})
    cases = results.wait(counts)
    wait_empty(b)

    for case, lines in cases.items():
        for line in lines:
            assert same(line["call"], calls[case]), case
            assert line["runner"] == {"c": "c", "cmd": "command"}[case.split()[0]]
            assert line["headers"]["note"] == "a=b ü"
            if line["runner"] == "c":
                assert line["hook"] == "sent", "our hook surrounds the task, and has what Python's hook sent"
            else:
                assert HEADERS_SENT.items() <= line["headers"].items()
    for runner in ("c", "cmd"):
        assert 1 <= cases[f"{runner} countdown"][0]["at"] - started < 1 + LATE_S
        assert_attempts(cases[f"{runner} third"])
        assert_attempts(cases[f"{runner} again"])
    assert not cases["c again"][2]["left"] and not cases["c once"][0]["left"]
    assert "zstd" not in cases["cmd kinds"][0]["headers"].values()
    assert cases["cmd zstd"][0]["headers"]["compression-type"] == "zstd"
    assert cases["cmd large"][0]["headers"]["compression-type"] == "zstd"
    assert dead_cases(kafka, b) == ["c again", "c stranger", "cmd again", "cmd stranger"]


# --- both at once


def test_attempts_in_turn(kafka, broker, results, python_send, python_worker, worker):
    """One task: a first attempt in C, the second in Python, the third in C."""
    b = broker(kafka=kafka)
    ours = worker(b, "--namespace", "hop", commands=None)
    python_send(b.topic, [{"task": "hop:hop", "args": [1], "headers": {"case": "hop"}}])
    results.wait({"hop": 1})
    ours.stop()
    theirs = python_worker(b, namespace="hop")
    results.wait({"hop": 2})
    wait_for(lambda: "Processing" not in b.statuses(), lambda: f"the report, {b.statuses()}")
    theirs.kill9()
    worker(b, "--namespace", "hop", commands=None)
    lines = results.wait({"hop": 3})["hop"]
    wait_empty(b)
    assert [line["runner"] for line in lines] == ["c", "python", "c"]
    assert all(line["call"] == {"args": [1], "kwargs": {}} for line in lines)
    assert [line["left"] for line in lines] == [True, True, True]
    assert_attempts(lines, delay_s=2.0)
    assert dead_cases(kafka, b) == []


OPTIONS = {"max_child_task_count": 30, "child_tasks_queue_maxsize": 3, "result_queue_maxsize": 2,
           "rebalance_after": 4, "processing_pool_name": "pool", "process_type": "forkserver",
           "health_check_sec_per_touch": 0.1}
NEWER_OPTIONS = {"min_concurrency": 1, "skip_awaiting_futures": False, "future_checking_frequency": 0.05}


def test_mixed_pool(kafka, broker, results, python_send, python_worker, worker, client_version, tmp_path):
    """One broker, one application. Each worker asks for a namespace; both kinds, for "both". All calls are
    signed, and the workers have many options."""
    b = broker(kafka=kafka, config={"grpc_shared_secret": ["old", "new"]})
    health = {"Python": tmp_path / "health-python", "Taskmill": tmp_path / "health-taskmill"}
    options = {**OPTIONS, **(NEWER_OPTIONS if client_version == "0.20.30" else {}),
               "health_check_file_path": str(health["Python"])}
    for namespace in ("py", "both"):
        python_worker(b, env={"INTERCHANGE_SECRETS": '["new"]'}, namespace=namespace, **options)
    for namespace in ("c", "both"):
        worker(b, "--namespace", namespace, "--max-child-task-count", 30, "--min-concurrency", 1,
               "--child-tasks-queue-maxsize", 3, "--result-queue-maxsize", 2, "--rebalance-after", 4,
               "--processing-pool-name", "pool", "--health-check-file-path", health["Taskmill"],
               "--health-check-sec-per-touch", "0.1", commands=None,
               env={"TASKMILL_RPC_SECRET": '["old", "unused"]'})
    signed = {"TASKMILL_RPC_SECRET": "new"}
    wait_ready(b, results, env=signed)
    python_send(b.topic, [{"task": f"{namespace}:record", "args": [n], "headers": {"case": f"python to {namespace}"}}
                          for n in range(100) for namespace in ("py", "c", "both")])
    for namespace in ("py", "c"):
        for n in range(5):
            taskmill_send("--rpc-host", b.address, "--header", f"case=shell to {namespace}",
                          f"{namespace}:record", n, env=signed)
    python_send(b.topic, [{"task": "c:relay", "args": [n], "headers": {"case": "relay"}} for n in range(20)])
    cases = results.wait({"ready": 1, "python to py": 100, "python to c": 100, "python to both": 100,
                          "shell to py": 5, "shell to c": 5, "relay": 20, "relayed": 20})
    wait_empty(b)
    for case, runner in {"python to py": "python", "python to c": "c", "shell to py": "python", "shell to c": "c",
                         "relay": "c", "relayed": "python"}.items():
        assert {line["runner"] for line in cases[case]} == {runner}
    for case in cases.keys() - {"ready"}:
        assert sorted(line["call"]["args"][0] for line in cases[case]) == list(range(len(cases[case])))
    for line in cases["relayed"]:
        assert line["headers"]["hook-c"] == "sent", "what a task of ours sends has passed its own hooks"
    assert dead_cases(kafka, b) == []
    for who, path in health.items():
        path.unlink()
        wait_for(path.exists, f"the health file of {who}")


def test_policies_of_sender_and_worker(kafka, broker, results, python_send, python_worker, worker, client_version):
    """The worker's policy decides about the next attempt and its delay, the sender's about the end."""
    b = broker(kafka=kafka)
    newer = client_version == "0.20.30"
    python_worker(b, namespace="py")
    worker(b, "--namespace", "c", commands=None, concurrency=4)
    worker(b, "--namespace", "cmd", module=False, concurrency=4)
    wait_ready(b, results)
    counts, dead = {"ready": 1}, []

    def case(name, runs, is_dead):
        counts[name] = runs
        if is_dead:
            dead.append(name)
        return name

    def shell(name, task, runs, is_dead, *arguments):
        # The older release does not report its delay: the sender's counts.
        taskmill_send("--kafka", kafka.bootstrap, "--topic", b.topic,
                      "--header", f"case={case(name, runs, is_dead)}", "--header", "note=kept",
                      "--expires", 600, "--times", 5, "--delay", 30 if newer else 2,
                      *(["--deadletter"] if is_dead else []), *arguments, task)

    shell("py short", "py:short", 2, True)
    shell("py drop", "py:short", 2, False)
    shell("py none", "py:none", 1, True)
    # The older release never tries an overrun again.
    shell("py slow", "py:slow", 2 if newer else 1, not newer, "--deadline", 1)
    shell("py late", "py:late", 1, True, "--deadline", 1)
    python_send(b.topic, [
        {"task": f"{runner}:{task}", "expires": 600,
         "headers": {"case": case(f"{runner} {task}", runs, is_dead), "note": "kept"}}
        for runner in ("c", "cmd")
        for task, runs, is_dead in (("short", 2, True), ("drop", 2, False), ("none", 1, True), ("slow", 2, False),
                                    ("late", 1, True))])
    cases = results.wait(counts)
    wait_empty(b)
    kafka.wait_records(b.dlq_topic, len(dead))
    assert dead_cases(kafka, b) == sorted(dead)
    sent = defaultdict(list)
    for task in activations(kafka, b.topic):
        sent[task.headers["case"]].append(task)
    for name in ("c short", "c drop", "cmd short", "cmd drop", "py short", "py drop"):
        reported = newer or name[0] == "c"
        assert_attempts(cases[name], 2, 1.0 if reported else 2.0)
        first, again = sent[name]
        assert_sent_again(first, again)
        state = again.retry_state
        assert (state.max_attempts, state.delay_on_retry, again.delay) == ((3, 1, 1) if reported else (5, 2, 2))


def assert_sent_again(first, again):
    """A retry is a copy, which expires as long after it was sent as the first did."""
    assert again.retry_state.attempts == first.retry_state.attempts + 1
    assert again.retry_state.on_attempts_exceeded == first.retry_state.on_attempts_exceeded
    assert again.id != first.id
    assert again.received_at.ToMicroseconds() > first.received_at.ToMicroseconds()
    for field in ("headers", "expires", "parameters_bytes", "parameters", "namespace", "taskname", "application",
                  "processing_deadline_duration"):
        assert getattr(again, field) == getattr(first, field), field


# --- at most once


def test_once_with_one_redis(kafka, broker, redis, results, python_send, python_worker, worker):
    """Each of two brokers hands out every task: one to Python, one to ours. Whoever is first runs it."""
    settings = {"processing_deadline_grace_sec": 0}
    b = broker(kafka=kafka, config=settings)
    group = f"{b.group}-other"
    other = broker(config={**settings, **{key: value for key, value in b.config.items() if key.startswith("kafka_")},
                           "kafka_consumer_group": group})
    theirs = python_worker(b, env={"INTERCHANGE_REDIS": str(redis.port)}, namespace="both")
    wait_ready(b, results, "both:record")
    counts = {"ready": 1}

    def send(case, count):
        """Half of them by Python, half by ours, all through the topic that both brokers read."""
        python_send(b.topic, [{"task": "both:once", "args": [n], "headers": {"case": case}}
                              for n in range(count // 2)])
        for n in range(count // 2, count):
            taskmill_send("--rpc-host", b.address, "--at-most-once", "--deadline", 3, "--header", f"case={case}",
                          "both:once", n)
        counts[case] = count

    def wait(case, runners):
        lines = results.wait(counts)[case]
        assert sorted(line["call"]["args"][0] for line in lines) == list(range(counts[case]))
        assert {line["runner"] for line in lines} <= runners

    def wait_all_done():
        """Both brokers have read all that was sent, and hold nothing of it any more."""
        for each, name in ((b, b.group), (other, group)):
            kafka.wait_committed(name, b.topic, {0: sum(counts.values()) - 1})
            wait_empty(each)

    send("python first", 10)
    wait("python first", {"python"})
    wait_empty(b)
    ours = worker(other, "--namespace", "both", "--redis", redis.url, commands=None)
    counts["ready"] = 2  # was sent once, but ours runs it, too
    ours.wait_log("it is not run again", 10)
    wait_all_done()

    theirs.signal(signal.SIGSTOP)
    send("ours first", 10)
    wait("ours first", {"c"})
    theirs.signal(signal.SIGCONT)
    wait_all_done()  # Python tells nobody that it does not run a task: the deadline ends it

    send("at once", 30)
    wait("at once", {"python", "c"})
    wait_all_done()
    lines = [line for line in results.lines() if line["task"] == "both:once"]
    assert redis.keys() == sorted(f"tw:amo:both:once:{line['id']}" for line in lines)
    for line in lines:
        assert len(line["id"]) == 32
        time_s = int(redis.cli("TTL", f"tw:amo:both:once:{line['id']}"))
        assert 300 < time_s <= 600 if line["runner"] == "python" else 86000 < time_s <= 86400
    results.wait(counts)


# --- applications and topics


def test_external_namespaces(kafka, broker, results, python_send, python_worker, worker):
    """Tasks of the application "neighbour", sent by "interchange"; the topic is that of "neighbour:ext"."""
    b = broker(kafka=kafka)
    routes = json.dumps({"neighbour:ext": b.topic})
    ours = worker(b, module=False, commands={
        "application": "neighbour", "namespaces": {"ext": {"tasks": {"record": command()}}}})
    python_send("", [{"task": "ext:record", "application": "neighbour", "args": [2], "headers": {"case": "from python"}}],
                env={"INTERCHANGE_ROUTES": routes})
    [line] = results.wait({"from python": 1})["from python"]
    assert line["runner"] == "command" and line["call"]["args"] == [2]
    wait_empty(b)
    ours.stop()

    interchange_send("neighbour", kafka.bootstrap, env={"TASKWORKER_ROUTES": routes})
    python_worker(b, env={"INTERCHANGE_NAME": "neighbour"}, namespace="ext")
    [line] = results.wait({"from python": 1, "from c": 1})["from c"]
    assert line["runner"] == "python" and line["call"]["args"] == [1]
    wait_empty(b)
    assert [task.application for task in activations(kafka, b.topic)] == ["neighbour"] * 2


def test_default_topic(kafka, broker, results, python_send, worker, client_version):
    """Without a router, Python and ours send to one topic; the older release's has another name."""
    topic = {"0.20.30": "taskworker", "26.5.0": "taskbroker"}[client_version]
    b = broker(config={"kafka_cluster": kafka.bootstrap, "kafka_topic": kafka.ensure_topic(topic),
                       "kafka_consumer_group": f"{topic}-interchange", "kafka_auto_offset_reset": "earliest",
                       "kafka_deadletter_cluster": kafka.bootstrap,
                       "kafka_deadletter_topic": kafka.unique_topic("default-dlq")})
    worker(b, "--namespace", "c", commands=None)
    python_send(None, [{"task": "c:record", "headers": {"case": "from python"}}])
    env = {"TASKWORKER_DEFAULT_TOPIC": topic} if client_version == "26.5.0" else {}
    taskmill_send("--kafka", kafka.bootstrap, "--header", "case=from taskmill", "c:record", env=env)
    results.wait({"from python": 1, "from taskmill": 1})


def test_canaries(broker, worker):
    """Those that a broker has from its start; test_broker_runtime.py has the ones that Python runs."""
    b = broker(config={"canary_tasks": 3, "worker_map": {APPLICATION: "http://127.0.0.1:1"}})
    it = worker(b)
    it.wait_log("a canary task ran", 3)
    wait_empty(b)
    assert "application=interchange" in it.log()
    it.stop()


# --- signatures


def test_python_authenticates_our_calls(client_python, results, worker):
    """Our worker at a broker whose calls the client's own code checks, that of its push mode."""
    tasks = [activation("record", namespace="c", application=APPLICATION, args=[n], headers={"case": "signed"})
             for n in range(3)]
    server = subprocess.Popen([client_python, "-B", "-m", "clients.signed_broker", '["old", "new"]'], text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(INTEGRATION)})
    try:
        address = server.stdout.readline().strip()
        server.stdin.writelines(task.SerializeToString().hex() + "\n" for task in tasks)
        server.stdin.flush()
        stranger = worker(address, commands=None, env={"TASKMILL_RPC_SECRET": "wrong"})
        stranger.wait_log("UNAUTHENTICATED")
        assert results.lines() == []
        worker(address, commands=None, env={"TASKMILL_RPC_SECRET": '["new", "unused"]'})
        results.wait({"signed": 3})
        assert sorted(server.stdout.readline().split() for _ in tasks) == \
            sorted([task.id, "TASK_ACTIVATION_STATUS_COMPLETE"] for task in tasks)
    finally:
        server.kill()
        server.communicate()
