# SPDX-License-Identifier: Apache-2.0
"""The worker's command line, where its tasks come from, and how it ends."""

import shutil
import signal
import socket
import subprocess
import time

import pytest
import yaml

from harness.broker import program
from harness.process import free_port, wait_for
from harness.rpc import COMPLETE, activation
from harness.worker import FakeBroker, Worker


def shell(script, **options):
    return {"command": ["sh", "-c", script], **options}


def commands(**tasks):
    return {"application": "app", "namespaces": {"ns": {"processing_deadline": 20, "tasks": tasks}}}


@pytest.fixture
def fake():
    it = FakeBroker()
    yield it
    it.stop()


@pytest.fixture
def worker(tmp_path):
    made = []

    def make(fake, **options):
        made.append(Worker(tmp_path / f"worker{len(made)}", [fake.address] if fake else [], **options))
        return made[-1]

    yield make
    for it in made:
        it.kill9()


def usage(arguments, command=("worker",), env=None):
    """Exit code and the only line of a worker that does not start."""
    done = subprocess.run([program(), *command, *map(str, arguments)], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=10, env=env)
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return done.returncode, lines[0]


# --- command lines


INSTALLATIONS = [
    "--concurrency=4 --rpc-host-list={a},{b},{c} --health-check-file-path={health}",
    "--concurrency=4 --rpc-host={a} --health-check-file-path={health} --max-child-task-count=10000",
    "--rpc-host=localhost:{port} --num-brokers=3 --health-check-file-path={health}",
    "--rpc-host={a} --concurrency=1 --namespace=ns --result-queue-maxsize=5 --child-tasks-queue-maxsize=5"
    " --rebalance-after=32 --processing-pool-name=unknown --health-check-file-path={health}"
    " --health-check-sec-per-touch=1.0",
]
PULL = ("--broker-host {a} --broker-host {b} --max-child-task-count 100 --namespace ns --concurrency 3"
        " --min-concurrency 1 --child-tasks-queue-maxsize 5 --result-queue-maxsize 5 --rebalance-after 32"
        " --processing-pool-name pool --process-type spawn --health-check-file-path {health}"
        " --health-check-sec-per-touch 0.5 --skip-awaiting-futures --future-checking-frequency 0.1"
        " --track-producer-futures")


@pytest.mark.parametrize("line, command", [(line, ("run", "taskworker")) for line in INSTALLATIONS] +
                         [(PULL, ("worker",))])
def test_command_lines_of_existing_installations(fake, tmp_path, line, command):
    health = tmp_path / "health.txt"
    arguments = line.format(a=fake.address, b=f"127.0.0.1:{free_port()}", c=f"127.0.0.1:{free_port()}",
                            port=fake.address.split(":")[1], health=health).split()
    child = subprocess.Popen([program(), *command, *arguments], stderr=subprocess.PIPE, text=True)
    try:
        wait_for(health.exists, "the health file")
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 0
        said = child.stderr.read()
        assert ("children are forked" in said) == ("spawn" in line)
        assert " ERROR " not in said
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("option", [
    ["--push-mode"], ["--broker-service", "x:1"], ["--pod-name=x"], ["--grpc-port", "1"],
    ["--grpc-max-message-size=1"], ["--push-task-timeout=5"], ["--warmup-timeout=90"]])
def test_push_mode_is_not_supported(option):
    code, line = usage(option)
    assert code == 2
    assert f"{option[0]} is an option of push mode, which is not supported" in line


@pytest.mark.parametrize("arguments, text", [
    (["--min-concurrency", "2", "--concurrency", "2"], "--min-concurrency 2 must be below --concurrency 2"),
    (["--process-type", "thread"], "one of fork, spawn, forkserver"),
    (["--future-checking-frequency", "0"], "needs seconds"),
    (["--broker-host", "a:1,b:1"], "one host:port each"),
    (["--app-module", "examples.app:app"], "give --module FILE.so or --commands FILE.yml"),
    (["--skip-awaiting-futures=1"], "takes no value"),
    (["--result-queue-maxsize", "0"], "whole number"),
])
def test_wrong_values(arguments, text):
    code, line = usage(arguments)
    assert code == 2 and text in line


@pytest.mark.parametrize("secret", ['"hush"', '{"key": "hush"}', '["hush"', '[1]'])
def test_client_weakness_23_a_secret_that_would_switch_signing_off(secret):
    """A bare JSON string or object means no signature in the original."""
    code, line = usage([], env={"TASKMILL_RPC_SECRET": secret})
    assert code == 1 and line.startswith("taskmill worker: TASKMILL_RPC_SECRET: the secret")


def test_app_module_is_ignored_when_tasks_come_from_elsewhere(fake, worker):
    w = worker(fake, commands=commands(ok=shell("true")), arguments=["--app-module", "examples.app:app"])
    w.wait_log("--app-module is ignored")
    fake.tasks.append(activation("ok"))
    assert fake.wait_reports(1)[0].status == COMPLETE
    w.stop()


# --- where tasks come from


def test_tasks_from_everywhere(fake, worker, tmp_path):
    """The option, the variables and the folder: all of them are loaded."""
    folder = tmp_path / "worker.d"
    folder.mkdir()
    (folder / "b.yaml").write_text(yaml.safe_dump(commands(folder=shell("true"))))
    (folder / "README").write_text("not a task file")
    variable = tmp_path / "variable.yml"
    variable.write_text(yaml.safe_dump(commands(variable=shell("true"))))
    w = worker(fake, commands=commands(option=shell("true")),
               env={"TASKMILL_COMMANDS": f":{variable}", "TASKMILL_WORKER_D": str(folder)})
    fake.tasks.extend(activation(name, id=name) for name in ("option", "variable", "folder"))
    assert {r.id: r.status for r in fake.wait_reports(3)} == dict.fromkeys(
        ("option", "variable", "folder"), COMPLETE)
    w.stop()


def test_a_task_that_is_declared_twice(tmp_path):
    for name in ("a.yml", "b.yml"):
        (tmp_path / name).write_text(yaml.safe_dump(commands(same=shell("true"))))
    code, line = usage(["--commands", tmp_path / "b.yml"], env={"TASKMILL_WORKER_D": str(tmp_path)})
    assert code == 1
    assert f"by {tmp_path}/b.yml (--commands) and by {tmp_path}/a.yml (worker.d)" in line


# --- limits


class CountingBroker(FakeBroker):
    """Knows how many tasks the worker had at most."""

    def __init__(self):
        self.given = self.most = 0
        super().__init__()

    def _next(self):
        task = super()._next()
        with self._lock:
            self.given += task is not None
            self.most = max(self.most, self.given - len(self.reports))
        return task


@pytest.mark.parametrize("ahead, most", [(0, 2), (3, 5)])
def test_tasks_claimed_ahead_have_a_limit(worker, ahead, most):
    fake = CountingBroker()
    try:
        fake.tasks.extend(activation("ok") for _ in range(300))
        worker(fake, commands=commands(ok=shell("true")),
               arguments=["--concurrency", "2", "--child-tasks-queue-maxsize", str(ahead)])
        fake.wait_reports(300)
        assert fake.most <= most
    finally:
        fake.stop()


# --- the end


def test_client_weakness_09_shutdown_timeout_kills_what_still_runs(fake, worker, tmp_path):
    started = tmp_path / "started"
    w = worker(fake, commands=commands(hang=shell(f"touch {started}; sleep 60")),
               arguments=["--shutdown-timeout", "1"])
    fake.tasks.append(activation("hang", id="hung", deadline_s=100))
    wait_for(started.exists, "the start")
    signalled = time.monotonic()
    w.signal(signal.SIGTERM)
    assert w.wait(20) == 0
    assert 0.9 < time.monotonic() - signalled < 15
    assert fake.reports == [], "its broker is to find out by the deadline"
    assert w.log().count(" ERROR ") == 1 and "--shutdown-timeout is over" in w.log()
    assert "hung" in w.log()


def test_a_report_is_not_waited_for_when_its_broker_is_gone(fake, worker, tmp_path):
    """Everything is stopped at once: the supervisor would kill a worker that waits for 30 s."""
    started = tmp_path / "started"
    w = worker(fake, commands=commands(run=shell(f"touch {started}; sleep 1")))
    fake.tasks.append(activation("run"))
    wait_for(started.exists, "the start")
    fake.stop()
    signalled = time.monotonic()
    w.signal(signal.SIGTERM)
    assert w.wait(25) == 1
    assert 4.5 < time.monotonic() - signalled < 20
    assert "reports could not be delivered" in w.log()


def test_client_weakness_14_health_file_while_draining_and_without_brokers(fake, worker, tmp_path):
    health, started, go = tmp_path / "health", tmp_path / "started", tmp_path / "go"
    w = worker(fake, commands=commands(
        wait=shell(f"touch {started}; while [ ! -e {go} ]; do sleep 0.02; done")),
        arguments=["--health-check-file-path", health, "--health-check-sec-per-touch", "0.05"])

    def touched(when):
        for _ in range(2):
            health.unlink(missing_ok=True)
            wait_for(health.exists, f"the touch {when}")

    fake.tasks.append(activation("wait"))
    wait_for(started.exists, "the start")
    touched("while busy")
    fake.stop()
    touched("without a broker")
    w.signal(signal.SIGTERM)
    w.wait_log("no new tasks")
    touched("while draining")
    go.touch()
    w.wait_log("SetTaskStatus failed")
    touched("while a report waits")


def test_client_weakness_13_a_health_file_that_cannot_be_made(fake, worker, tmp_path):
    """In the original this ended the thread that fetches."""
    folder = tmp_path / "health"
    folder.mkdir()
    w = worker(fake, commands=commands(ok=shell("true")), arguments=[
        "--health-check-file-path", folder / "file", "--health-check-sec-per-touch", "0.05"])
    shutil.rmtree(folder)
    w.wait_log("the health-check file cannot be touched")
    fake.tasks.append(activation("ok"))
    assert fake.wait_reports(1)[0].status == COMPLETE
    folder.mkdir()
    wait_for((folder / "file").exists, "the next touch")
    w.stop()


# --- its connections


def test_client_weakness_20_a_broker_that_hangs_stops_nothing_else(fake, worker):
    """It takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as hung:
        w = worker(None, commands=commands(ok=shell("true")), arguments=[
            "--rpc-host-list", f"127.0.0.1:{hung.getsockname()[1]},{fake.address}"])
        fake.tasks.extend(activation("ok") for _ in range(20))
        assert len(fake.wait_reports(20)) == 20
        w.stop()


def test_a_broker_by_name(fake, worker):
    w = worker(None, commands=commands(ok=shell("true")),
               arguments=["--rpc-host", f"localhost:{fake.address.split(':')[1]}"])
    fake.tasks.append(activation("ok"))
    assert fake.wait_reports(1)[0].status == COMPLETE
    w.stop()


def test_a_broker_that_renews_its_connections_is_not_left_alone(broker, worker):
    """Calls are held there all the time; new ones go over a connection of their own."""
    b = broker(config={"grpc_max_connection_age_ms": 300})
    w = worker(b, commands=commands(ok=shell("sleep 0.01")), arguments=["--concurrency", "4"])
    with b.client() as client:
        for _ in range(40):
            client.enqueue([activation("ok") for _ in range(3)])
            time.sleep(0.05)  # not a wait: the load of two seconds, several ages long
    wait_for(lambda: b.statuses() == {}, "the last report")
    assert " WARN " not in w.log(), w.log()[-3000:]
    w.stop()
