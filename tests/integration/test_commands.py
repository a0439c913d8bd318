# SPDX-License-Identifier: Apache-2.0
"""Tasks that are commands: the examples in Python, Node and shell, end to end on an embedded broker."""

import hashlib
import json
import os
import signal

import msgpack
import pytest
import zstandard

from harness.cache import ROOT
from harness.process import wait_for
from harness.rpc import COMPLETE, FAILURE, RETRY, activation
from harness.worker import FakeBroker, Worker

EXAMPLES = ROOT / "examples" / "commands" / "tasks.yml"
LANGUAGES = ["python", "node", "shell"]
LARGE = "l\u00e4rge \u2028 \U0001f600 " * 100_000


@pytest.fixture
def worker(tmp_path):
    made = []

    def make(broker, commands=None, files=(), **options):
        arguments = [x for file in files for x in ("--commands", file)] + options.pop("arguments", [])
        made.append(Worker(tmp_path / f"worker{len(made)}", [broker.address], commands,
                           arguments=arguments, **options))
        return made[-1]

    yield make
    for it in made:
        it.kill9()


@pytest.fixture
def fake():
    it = FakeBroker()
    yield it
    it.stop()


def sha(data):
    return hashlib.sha256(data if isinstance(data, bytes) else data.encode()).hexdigest()


def task(name, *args, deadline_s=20, **kwargs):
    return activation(name, args=args, kwargs=kwargs, namespace=name.split(".")[0], application="examples",
                      deadline_s=deadline_s, max_attempts=3)


def wait_empty(b, timeout_s=30):
    wait_for(lambda: b.statuses() == {}, lambda: f"no row: {b.statuses()}", timeout_s)


@pytest.mark.parametrize("language", LANGUAGES)
def test_example(broker, worker, language):
    b = broker()
    w = worker(b, files=[EXAMPLES])
    text = "gr\u00fc\u00df \u2028 \U0001f600 'a' \"b\" $(id) `id` \\ ; \n"
    good = [task(f"{language}.digest", text, expect=sha(text)), task(f"{language}.digest", "", expect=sha(""))]
    if language != "shell":
        good += [task(f"{language}.digest", data, expect=sha(data)) for data in (bytes(range(256)), LARGE)]
    slow = task(f"{language}.slow", 60, deadline_s=2 if language == "shell" else 1)
    with b.client() as client:
        client.enqueue(good)
        wait_empty(b)
        assert "failed" not in w.log() and "deadline" not in w.log(), w.log()
        client.enqueue([task(f"{language}.digest", "x", expect="y"), task(f"{language}.flaky", 2), slow])
    w.wait_log("asked for a retry: it will run again")
    w.wait_log(f"it is {sha('x')}")
    w.wait_log("out of time" if language == "shell" else "ran past its deadline")
    wait_empty(b)
    w.stop()
    assert w.log().count("a task failed") == (2 if language == "shell" else 1), w.log()
    if language != "shell":
        assert "attempt 1, 1 left" in w.log(), "the second attempt of flaky, through print()"


def test_parameters_of_any_size_come_on_stdin(broker, worker):
    b = broker()
    w = worker(b, files=[EXAMPLES])
    with b.client() as client:
        client.enqueue([task("shell.size", LARGE)])
    size = len(json.dumps({"args": [LARGE], "kwargs": {}}, ensure_ascii=False, separators=(",", ":")).encode())
    w.wait_log(f": {size} id=")
    w.stop()


def test_zstd(fake, worker):
    """A client compresses what is large."""
    w = worker(fake, files=[EXAMPLES])
    data = LARGE * 3  # above the size from which clients compress
    packed = msgpack.packb({"args": [data], "kwargs": {"expect": sha(data)}})
    fake.tasks.append(activation("python.digest", namespace="python", application="examples", deadline_s=20,
                                 headers={"compression-type": "zstd"},
                                 parameters_bytes=zstandard.compress(packed)))
    assert fake.wait_reports(1)[0].status == COMPLETE, w.log()
    w.stop()


PERSISTENT = '''
import json, os, signal, sys, time
print("process", os.getpid(), file=sys.stderr)
for line in sys.stdin:
    call = json.loads(line)
    what = call["args"][0]
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "hang":
        os.spawnlp(os.P_NOWAIT, "tail", "tail", "-n0", "-f", __file__)
        time.sleep(60)
    if what == "junk":
        print("Hello, world")
    if what == "child":
        print("ppid", os.getppid(), file=sys.stderr)
    print(json.dumps({"id": call["id"], "status": "complete"}), flush=True)
print("farewell", file=sys.stderr)
'''


def persistent(tmp_path, **task_options):
    (tmp_path / "it.py").write_text(PERSISTENT)
    return {"application": "app", "namespaces": {"ns": {
        "command": ["python3", str(tmp_path / "it.py")], "mode": "persistent",
        "tasks": {"it": task_options, "twin": {}}}}}


def run(fake, what, name="it", **options):
    count = len(fake.reports)
    fake.tasks.append(activation(name, args=[what], id=f"{what}-{count}", **options))
    return fake.wait_reports(count + 1)[count]


def test_persistent_process_and_its_end(fake, worker, tmp_path):
    w = worker(fake, persistent(tmp_path))
    for name in ("it", "twin", "it"):
        assert run(fake, "x", name).status == COMPLETE
    w.stop()
    assert w.log().count(": process ") == 1, "tasks with equal settings share it"
    assert "farewell" in w.log(), "the end of its stdin tells it"


def test_crash_and_deadline_of_a_persistent_process(fake, worker, tmp_path):
    """Its own task ends as its policy says; the child and the next task are not harmed."""
    w = worker(fake, persistent(tmp_path, retry={"times": 3, "on": ["failure"]}))
    assert run(fake, "child").status == COMPLETE
    assert run(fake, "crash").status == RETRY
    w.wait_log("ended without an answer: the command was killed by signal 11")
    assert run(fake, "hang", deadline_s=1).status == FAILURE
    w.wait_log("ran past its deadline")
    assert run(fake, "junk").status == RETRY
    w.wait_log("broke the protocol: the process is replaced")
    w.wait_log("Hello, world")
    assert run(fake, "child").status == COMPLETE
    parents = {line.split("ppid ")[1].split()[0] for line in w.log().splitlines() if "ppid " in line}
    assert len(parents) == 1, "all of it in one child"
    assert w.log().count(": process ") == 4
    assert no_process(f"tail -n0 -f {tmp_path / 'it.py'}")
    w.stop()


def no_process(command):
    def gone():
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    if file.read().replace(b"\0", b" ").strip() == command.encode():
                        return False
            except OSError:
                pass
        return True
    return wait_for(gone, f"the end of '{command}'")


def test_killed_worker_takes_persistent_processes_along(fake, worker, tmp_path):
    w = worker(fake, persistent(tmp_path))
    assert run(fake, "x").status == COMPLETE
    w.kill9()
    assert no_process(f"python3 {tmp_path / 'it.py'}")


def test_second_signal_ends_commands_at_once(fake, worker, tmp_path):
    """Their groups are not the child's: the parent knows them through shared memory."""
    w = worker(fake, persistent(tmp_path))
    fake.tasks.append(activation("it", args=["hang"], id="hang"))
    w.wait_log("process ")
    w.signal(signal.SIGTERM)
    w.wait_log("no new tasks")
    w.signal(signal.SIGTERM)
    assert w.wait(5) == 1
    assert no_process(f"python3 {tmp_path / 'it.py'}")
    assert no_process(f"tail -n0 -f {tmp_path / 'it.py'}")


def test_a_child_that_hangs_takes_its_command_along(fake, worker, tmp_path):
    """Commands are ended by their child; one that does not do it is ended by the worker."""
    pids, script = tmp_path / "pids", tmp_path / "it.sh"
    script.write_text(f"echo $PPID > {pids}.t; mv {pids}.t {pids}; while :; do sleep 0.1; done")
    w = worker(fake, {"application": "app", "namespaces": {"ns": {"tasks": {"hang": {
        "command": ["sh", str(script)]}}}}})
    fake.tasks.append(activation("hang", id="hang", deadline_s=2))
    wait_for(pids.exists, "the start")
    os.kill(int(pids.read_text()), signal.SIGSTOP)
    assert fake.wait_reports(1)[0].status == FAILURE
    assert no_process(f"sh {script}")
    fake.tasks.append(activation("hang", id="again", deadline_s=1))
    assert fake.wait_reports(2)[1].status == FAILURE, "by a new child"
    w.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change the user")
def test_user_and_limits(fake, worker, tmp_path):
    w = worker(fake, {"application": "app", "namespaces": {"ns": {"tasks": {"who": {
        "command": ["sh", "-c", "id -un; ulimit -n; echo $HOME; exit 9"], "user": "nobody", "folder": "/",
        "limits": {"open_files": 33}, "exit_codes": {9: "complete"}}}}}})
    fake.tasks.append(activation("who", id="who"))
    assert fake.wait_reports(1)[0].status == COMPLETE
    lines = [line for line in w.log().splitlines() if "stream=stdout" in line and "id=who" in line]
    assert [line.split("taskmill::command: ")[1].split(" ")[0] for line in lines] == \
        ["nobody", "33", "/nonexistent"]
    w.stop()
