# SPDX-License-Identifier: Apache-2.0
"""The worker with real brokers, and with a fake one where a real one is too well-behaved."""

import os
import signal
import subprocess
import time

import grpc
import pytest

from harness.broker import program
from harness.process import free_port, wait_for
from harness.rpc import COMPLETE, FAILURE, RETRY, activation
from harness.worker import MODULE, FakeBroker, Worker


def shell(script, **options):
    return {"command": ["sh", "-c", script], **options}


def commands(**tasks):
    return {"application": "app", "namespaces": {"ns": {"processing_deadline": 20, "tasks": tasks}}}


@pytest.fixture
def worker(tmp_path):
    made = []

    def make(hosts, **options):
        if not isinstance(hosts, list):
            hosts = [hosts]
        made.append(Worker(tmp_path / f"worker{len(made)}", [getattr(h, "address", h) for h in hosts],
                           **options))
        return made[-1]

    yield make
    for it in made:
        it.kill9()


@pytest.fixture
def fake():
    it = FakeBroker()
    yield it
    it.stop()


def wait_empty(broker, timeout_s=20):
    wait_for(lambda: broker.statuses() == {}, lambda: f"no row: {broker.statuses()}", timeout_s)


# --- with a real broker


def test_c_tasks_retry_and_dead_letter(broker, worker):
    b = broker()
    w = worker(b, modules=[MODULE], arguments=["--concurrency", "4"])
    with b.client() as client:
        client.enqueue(
            [activation("math.primes", args=[100], namespace="math", application="demo")
             for _ in range(500)] +
            [activation("mail.send", kwargs={"to": "a@b.c"}, namespace="mail", application="demo",
                        max_attempts=3)] +
            [activation("mail.bounce", namespace="mail", application="demo", max_attempts=1,
                        on_exceeded=2)])
    w.wait_log("asked for a retry: it will run again", 2)
    w.wait_log("no such address")
    wait_empty(b)
    assert "ERROR" not in w.log()
    assert w.log().count("task=mail.send") == 2, "the third attempt completes"
    w.stop()
    assert "tasks=504" in w.log()  # 500, three attempts, one failure


def test_commands_see_parameters_and_environment(broker, worker, tmp_path):
    b = broker()
    out = tmp_path / "out"
    script = f"(cat; echo; env | grep ^TASKMILL_TASK_ | sort; pwd) > {out}.tmp; mv {out}.tmp {out}"
    w = worker(b, commands=commands(show=shell(script)))
    task = activation("show", args=[1, "x"], kwargs={"b": b"\0"}, headers={"h": "1"})
    with b.client() as client:
        client.enqueue([task])
    wait_for(out.exists, "the command's output")
    wait_empty(b)
    assert out.read_text().splitlines() == [
        '{"args":[1,"x"],"kwargs":{"b":{"$bytes":"AA=="}}}',
        "TASKMILL_TASK_APPLICATION=app", "TASKMILL_TASK_ATTEMPT=0", 'TASKMILL_TASK_HEADERS={"h":"1"}',
        f"TASKMILL_TASK_ID={task.id}", "TASKMILL_TASK_NAME=show", "TASKMILL_TASK_NAMESPACE=ns",
        "TASKMILL_TASK_RETRIES_LEFT=0", str(w.folder)]
    w.stop()


def test_sigterm_lets_running_tasks_finish(broker, worker, tmp_path):
    b = broker()
    go, started, ended = tmp_path / "go", tmp_path / "started", tmp_path / "ended"
    w = worker(b, commands=commands(
        wait=shell(f"touch {started}; while [ ! -e {go} ]; do sleep 0.02; done; touch {ended}")))
    with b.client() as client:
        client.enqueue([activation("wait"), activation("wait")])
        wait_for(started.exists, "the start")
        w.signal(signal.SIGTERM)
        w.wait_log("no new tasks")
        assert w.running
        go.touch()
        assert w.wait() == 0, w.log()
        assert ended.exists()
        assert "tasks=1" in w.log()
        second = client.get_task(application="app", timeout_s=5)
        assert second is not None, "the second task was not claimed by the draining worker"
        client.set_status(second.id, COMPLETE)
    wait_empty(b)


def test_second_signal_ends_at_once(broker, worker, tmp_path):
    b = broker()
    pid_file = tmp_path / "pid"
    w = worker(b, commands=commands(hang=shell(f"echo $$ > {pid_file}.t; mv {pid_file}.t {pid_file}; sleep 60")))
    with b.client() as client:
        client.enqueue([activation("hang")])
    wait_for(pid_file.exists, "the start")
    w.signal(signal.SIGTERM)
    w.wait_log("no new tasks")
    w.signal(signal.SIGTERM)
    assert w.wait(5) == 1
    wait_gone(int(pid_file.read_text()))


def wait_gone(pid):
    def gone():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "Z"
    wait_for(gone, f"the end of process {pid}")


def test_killed_worker_takes_its_commands_along(broker, worker, tmp_path):
    b = broker()
    pid_file = tmp_path / "pid"
    w = worker(b, commands=commands(hang=shell(f"echo $$ > {pid_file}.t; mv {pid_file}.t {pid_file}; exec sleep 60")))
    with b.client() as client:
        client.enqueue([activation("hang")])
    wait_for(pid_file.exists, "the start")
    w.kill9()
    wait_gone(int(pid_file.read_text()))


def test_failover_between_brokers(broker, worker, tmp_path):
    first, second = broker(), broker()
    w = worker([first, second], commands=commands(ok=shell("true")), arguments=["--concurrency", "2"])

    def run_on(b):
        with b.client() as client:
            client.enqueue([activation("ok") for _ in range(20)])
        wait_empty(b)

    run_on(first)
    run_on(second)
    first.kill9()
    w.wait_log("the broker is left alone")
    run_on(second)
    first.start()
    run_on(first)
    w.wait_log("the broker answers again")
    w.stop()


def test_report_is_delivered_after_the_broker_comes_back(broker, worker, tmp_path):
    b = broker()
    go, started = tmp_path / "go", tmp_path / "started"
    w = worker(b, commands=commands(
        wait=shell(f"touch {started}; while [ ! -e {go} ]; do sleep 0.02; done; echo x >> {tmp_path}/runs")))
    with b.client() as client:
        client.enqueue([activation("wait", deadline_s=60)])
    wait_for(started.exists, "the start")
    b.kill9()
    go.touch()
    wait_for((tmp_path / "runs").exists, "the run")
    w.wait_log("SetTaskStatus failed")
    b.start()
    wait_empty(b)
    assert (tmp_path / "runs").read_text() == "x\n"
    w.stop()


def test_idle_worker_starts_a_task_at_once(broker, worker, tmp_path):
    """Three brokers, one child: a call is held at each of them."""
    brokers = [broker() for _ in range(3)]
    w = worker(brokers, commands=commands(ok=shell("true")))
    for b in brokers:
        with b.client() as client:
            started = time.monotonic()
            client.enqueue([activation("ok")])
            wait_empty(b, timeout_s=3)
            assert time.monotonic() - started < 3
    w.stop()


def test_signed_calls(broker, worker):
    b = broker(config={"grpc_shared_secret": ["hush"]})
    w = worker(b, commands=commands(ok=shell("true")), env={"TASKMILL_RPC_SECRET": '["hush", "older"]'})
    with b.client(secret="hush") as client:
        client.enqueue([activation("ok")])
    wait_empty(b)
    w.stop()


# --- with the fake one


def test_reports(fake, worker):
    w = worker(fake, commands=commands(
        ok=shell("true"), bad=shell("exit 3"), again=shell("exit 75"),
        late=shell("sleep 30 & sleep 30", retry={"times": 3, "on": ["deadline"]}),
        policy=shell("exit 75", retry={"times": 5, "delay": 7}),
        strict=shell("exit 1", retry={"times": 2, "on": ["failure"]})))
    cases = [
        (activation("ok", id="ok"), COMPLETE),
        (activation("bad", id="bad"), FAILURE),
        (activation("again", id="no-policy"), FAILURE),
        (activation("policy", id="policy"), RETRY),
        (activation("policy", id="policy-last", attempts=4, max_attempts=6), FAILURE),
        (activation("strict", id="strict"), RETRY),
        (activation("strict", id="strict-last", attempts=1, max_attempts=3), FAILURE),
        (activation("late", id="late", deadline_s=1), RETRY),
        (activation("nobody", id="unknown"), FAILURE),
        (activation("ok", id="broken", parameters_bytes=b"\xc1"), FAILURE),
    ]
    fake.tasks.extend(task for task, _ in cases)
    reports = {r.id: r for r in fake.wait_reports(len(cases))}
    assert {id: r.status for id, r in reports.items()} == {t.id: status for t, status in cases}
    assert reports["policy"].max_attempts == 6 and reports["policy"].delay_on_retry == 7
    assert reports["strict"].max_attempts == 3 and not reports["strict"].HasField("delay_on_retry")
    for id in ("ok", "bad", "policy-last"):
        assert not reports[id].HasField("max_attempts")
    assert all(r.fetch_next_task.application == "app" for r in reports.values()
               if r.HasField("fetch_next_task"))
    assert {r.application for r in fake.asked} == {"app"}
    assert "unknown task" in w.log()
    w.stop()


def test_deadline_kills_all_processes_of_a_task(fake, worker, tmp_path):
    pid_file = tmp_path / "pid"
    worker(fake, commands=commands(late=shell(f"sleep 60 & echo $! > {pid_file}; sleep 60")))
    started = time.monotonic()
    fake.tasks.append(activation("late", deadline_s=1))
    assert fake.wait_reports(1)[0].status == FAILURE
    assert 0.9 < time.monotonic() - started < 10
    wait_gone(int(pid_file.read_text()))


def test_report_is_repeated_until_it_is_taken(fake, worker):
    fake.fail = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.DEADLINE_EXCEEDED]
    worker(fake, commands=commands(ok=shell("true")))
    fake.tasks.append(activation("ok", id="one"))
    assert [r.id for r in fake.wait_reports(1)] == ["one"]
    assert fake.fail == []


def test_drain_does_not_wait_for_the_pause_of_a_report(fake, worker):
    """After six refusals the next pause is 2.4 s at least: longer than this worker may take to end."""
    refusals = 6
    fake.fail = [grpc.StatusCode.UNAVAILABLE] * refusals
    w = worker(fake, commands=commands(ok=shell("true")), arguments=["--drain-timeout", "2"])
    fake.tasks.append(activation("ok", id="one"))
    wait_for(lambda: fake.fail == [], "the refusals")
    w.stop()
    assert [r.id for r in fake.reports] == ["one"]


def test_not_found_report_counts_as_delivered(fake, worker):
    fake.fail = [grpc.StatusCode.NOT_FOUND]
    w = worker(fake, commands=commands(ok=shell("true")))
    fake.tasks.extend([activation("ok", id="one"), activation("ok", id="two")])
    assert [r.id for r in fake.wait_reports(1)] == ["two"]
    w.stop()


def test_health_file_is_touched_while_busy(fake, worker, tmp_path):
    health, started = tmp_path / "health", tmp_path / "started"
    w = worker(fake, commands=commands(hang=shell(f"touch {started}; sleep 20")),
               arguments=["--health-check-file-path", health, "--health-check-sec-per-touch", "0.1"])
    assert health.exists()
    fake.tasks.append(activation("hang"))
    wait_for(started.exists, "the start")
    for _ in range(2):
        health.unlink()
        wait_for(health.exists, "the file to be made again")
    assert w.running


def test_children_are_replaced(fake, worker, tmp_path):
    w = worker(fake, commands=commands(pid=shell(f"echo $PPID >> {tmp_path}/pids")),
               arguments=["--max-child-task-count", "3"])
    fake.tasks.extend(activation("pid") for _ in range(9))
    fake.wait_reports(9)
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 9 and len(set(pids)) == 3
    w.stop()


def test_a_claim_under_way_is_kept_while_children_are_replaced(fake, worker):
    """Without a child there is no room; a task that the broker has handed out must not be thrown away."""
    fake.pause_s = 0.02
    worker(fake, commands=commands(short=shell("true")), arguments=["--max-child-task-count", "1"])
    fake.tasks.extend([activation("short") for _ in range(40)])
    fake.wait_reports(40)


def test_without_tasks_it_claims_nothing(fake, worker, tmp_path):
    health = tmp_path / "health"
    w = worker(fake, arguments=["--health-check-file-path", health, "--health-check-sec-per-touch", "0.05"])
    w.wait_log("nothing is claimed")
    for _ in range(3):
        health.unlink()
        wait_for(health.exists, "the next touch")
    assert fake.asked == []
    w.stop()


# --- its command line


@pytest.mark.parametrize("arguments, code, text", [
    (["--nonsense"], 2, "--nonsense is no option"),
    (["--rpc-host", "x"], 2, "host:port"),
    (["--rpc-host", "10.0.0.1:1", "--num-brokers", "2"], 2, "can be numbered"),
    (["--concurrency", "0"], 2, "whole number"),
    (["--module", "/nonexistent.so"], 1, "/nonexistent.so: No such file"),
    (["--commands", "/nonexistent.yml"], 1, "/nonexistent.yml: No such file"),
    (["--health-check-file-path", "/nonexistent/health"], 1, "/nonexistent/health"),
])
def test_wrong_usage(arguments, code, text):
    done = subprocess.run([program(), "worker", *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=10)
    assert done.returncode == code
    assert text in done.stderr and len(done.stderr.splitlines()) == 1


def test_command_line_of_existing_installations(fake, tmp_path):
    """Word for word, so the port is whatever the fake one has."""
    health = tmp_path / "health.txt"
    child = subprocess.Popen(
        [program(), "run", "taskworker", "--concurrency=4",
         f"--rpc-host-list={fake.address},127.0.0.1:{free_port()}",
         f"--health-check-file-path={health}", "--max-child-task-count=10000"],
        stderr=subprocess.PIPE, text=True)
    try:
        wait_for(health.exists, "the health file")
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 0
    finally:
        child.kill()
        child.communicate()
