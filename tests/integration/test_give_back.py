# SPDX-License-Identifier: Apache-2.0
"""Tasks that were claimed and not started go back: taskmill.v1.WorkerService/GiveBack."""

import signal
import threading
import time

import grpc
import pytest

from harness.process import wait_for
from harness.rpc import COMPLETE, activation
from harness.worker import MODULE, FakeBroker, Worker



def metric(broker, name):
    """A sample of /metrics."""
    lines = dict(line.rsplit(" ", 1) for line in broker.http("/metrics")[2].splitlines() if line[0] != "#")
    return float(lines[name])


# --- the call, by a Python grpcio client


def test_tasks_given_back_keep_place_and_attempts(broker, grpc_client):
    b = broker()
    client = grpc_client(b)
    sent = [activation("plain"), activation("once", at_most_once=True), activation("last")]
    client.enqueue(sent)
    claims = [client.claim() for _ in sent[:2]]
    assert [task for task, _ in claims] == sent[:2]
    assert all(claim for _, claim in claims) and claims[0][1] != claims[1][1]
    mine = [(task.id, claim) for task, claim in claims]
    assert client.give_back([*mine, mine[0], ("nobody", 1), (sent[2].id, 0)]) == (2, 3)
    assert b.sql("SELECT DISTINCT status, processing_attempts FROM inflight_taskactivations") == [("Pending", 0)]
    assert [client.get_task().id for _ in sent] == [task.id for task in sent]
    assert client.give_back(mine) == (0, 2), "others have them now"
    assert b.statuses() == {"Processing": 3}


def test_a_waiting_worker_gets_it_at_once(broker, grpc_client):
    b = broker(config={"grpc_long_poll_ms": 60000})
    client, other = grpc_client(b), grpc_client(b)
    client.enqueue([activation("t", at_most_once=True)])
    task, claim = client.claim()
    got = []
    waiting = threading.Thread(target=lambda: got.append((other.get_task(timeout_s=40), time.monotonic())))
    waiting.start()
    wait_for(lambda: metric(b, "taskmill_claims_held") == 1, "the held call")
    start = time.monotonic()
    assert client.give_back([(task.id, claim)]) == (1, 0)
    waiting.join(20)
    assert got[0][0].id == task.id
    assert got[0][1] - start < 5
    wait_for(lambda: metric(b, 'taskmill_claims_returned_total{result="ok"}') == 1, "the count")


def test_claims_from_before_a_restart_name_nothing(broker, grpc_client):
    """The row is Processing still, and its worker of then may have started it: it waits for its deadline."""
    b = broker()
    client = grpc_client(b)
    client.enqueue([activation("t", id=f"t{i}", deadline_s=60) for i in range(3)])
    before = {task.id: claim for task, claim in (client.claim() for _ in range(2))}
    b.kill9()
    b.start()
    client = grpc_client(b)
    assert client.give_back(list(before.items())) == (0, 2)
    task, claim = client.claim()
    assert task.id == "t2" and claim not in before.values()
    assert client.give_back([("t2", number) for number in before.values()]) == (0, 2)
    assert b.statuses() == {"Processing": 3}


def test_too_many_in_one_call(broker, grpc_client):
    client = grpc_client(broker())
    client.enqueue([activation("t")])
    task, claim = client.claim()
    with pytest.raises(grpc.RpcError) as caught:
        client.give_back([(task.id, claim)] * 10001)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "tasks: too many: at most 10000 in one call"
    assert client.give_back([(task.id, claim)] * 10000) == (1, 9999)


# --- a worker that stops


class Busy:
    """A worker of one child that has been quick so far, so that it claims ahead, and now has a long task.

    `others` are the ids of all other tasks; some of them are claimed and not started.
    """

    def __init__(self, folder, address, enqueue, arguments=(), **options):
        self.go, self.started = folder / "go", folder / "started"
        script = f"touch {self.started}; while [ ! -e {self.go} ]; do sleep 0.02; done"
        commands = {"application": "demo", "namespaces": {"long": {"processing_deadline": 60, "tasks": {
            "wait": {"command": ["sh", "-c", script]}}}}}
        self.worker = Worker(folder / "busy", [address], modules=[MODULE], commands=commands,
                             arguments=arguments)
        before, behind = [quick() for _ in range(300)], [quick(**options) for _ in range(30)]
        self.others = {task.id for task in before + behind}
        self.long = activation("wait", namespace="long", application="demo", deadline_s=60)
        enqueue([*before, self.long, *behind])
        wait_for(self.started.exists, "the long task")

    def stop(self):
        self.worker.signal(signal.SIGTERM)
        return time.monotonic()

    def end(self):
        self.worker.wait_log("no new tasks")
        self.go.touch()
        assert self.worker.wait() == 0, self.worker.log()
        assert "ERROR" not in self.worker.log(), self.worker.log()


def quick(**options):
    return activation("math.primes", args=[10], namespace="math", application="demo",
                      **{"deadline_s": 60, **options})


@pytest.fixture
def fake():
    it = FakeBroker()
    yield it
    it.stop()


def take_all_pending(client):
    """Runs what is pending elsewhere, so that only the busy worker's tasks are left."""
    while (task := client.get_task(timeout_s=0.5)) is not None:
        client.set_status(task.id, COMPLETE)


@pytest.mark.parametrize("at_most_once", [False, True])
def test_another_worker_has_the_unstarted_tasks_at_once(broker, grpc_client, tmp_path, at_most_once):
    b = broker(config={"grpc_long_poll_ms": 2000})
    client = grpc_client(b)
    busy = Busy(tmp_path, b.address, client.enqueue, at_most_once=at_most_once)
    take_all_pending(client)
    ahead = b.statuses()["Processing"] - 1
    assert ahead > 0, "nothing was claimed ahead"
    got = []

    def other_worker():
        while len(got) < ahead and (task := client.get_task(timeout_s=20)) is not None:
            got.append((task.id, time.monotonic()))

    thread = threading.Thread(target=other_worker)
    thread.start()
    wait_for(lambda: metric(b, "taskmill_claims_held") == 1, "the other worker's held call")
    stopped = busy.stop()
    thread.join(30)
    took_ms = (got[-1][1] - stopped) * 1000
    print(f"{ahead} unstarted tasks reached another worker {took_ms:.1f} ms after the signal")
    assert len({id for id, _ in got} & busy.others) == ahead
    assert took_ms < 2000
    assert b.sql("SELECT DISTINCT status, processing_attempts FROM inflight_taskactivations") == [("Processing", 0)]
    assert busy.worker.running, "the long task goes on"
    busy.end()
    assert f"unstarted tasks were given back broker={b.address} tasks={ahead}" in busy.worker.log()
    client.set_statuses([(id, COMPLETE) for id, _ in got])
    assert b.statuses() == {}


def test_another_worker_runs_the_unstarted_tasks(broker, grpc_client, tmp_path):
    b = broker()
    client = grpc_client(b)
    busy = Busy(tmp_path, b.address, client.enqueue)
    other = Worker(tmp_path / "other", [b.address], modules=[MODULE])
    wait_for(lambda: "Pending" not in b.statuses(), "what was not claimed")
    ahead = b.statuses()["Processing"] - 1
    assert ahead > 0, "nothing was claimed ahead"
    stopped = busy.stop()
    wait_for(lambda: b.statuses() == {"Processing": 1}, "the unstarted tasks' end", timeout_s=20)
    print(f"{ahead} unstarted tasks were run by another worker within {(time.monotonic() - stopped) * 1000:.1f} ms")
    busy.end()
    wait_for(lambda: b.statuses() == {}, "the long task's end")
    other.stop()


def without_report(busy, fake):
    """Ids of the tasks that the worker got and did not run; there are some."""
    assert busy.long.id in {report.id for report in fake.reports}
    unstarted = busy.others - {task.id for task in fake.tasks} - {report.id for report in fake.reports}
    assert unstarted, "nothing was claimed ahead"
    return unstarted


@pytest.mark.parametrize("claims, why", [(None, '"it names no claims"'), ({}, "planned")])
def test_a_broker_that_takes_nothing_back(fake, tmp_path, claims, why):
    """An original one has no claim numbers; one that had them and no GiveBack is UNIMPLEMENTED."""
    fake.claims = claims
    busy = Busy(tmp_path, fake.address, fake.tasks.extend)
    busy.stop()
    busy.end()
    unstarted = without_report(busy, fake)
    log = busy.worker.log()
    assert log.count("the broker takes no unstarted tasks back") == 1
    assert f"tasks={len(unstarted)} error={why}" in log
    assert fake.given_back == []


def test_a_shutdown_that_waits_for_nothing_gives_back_too(fake, tmp_path):
    fake.claims, fake.give_back_fail = {}, []
    busy = Busy(tmp_path, fake.address, fake.tasks.extend, arguments=["--shutdown-timeout", "0"])
    busy.stop()
    assert busy.worker.wait() == 0, busy.worker.log()
    handed = busy.others - {task.id for task in fake.tasks}
    assert fake.given_back and sorted(fake.given_back) == sorted(handed - {report.id for report in fake.reports})
    assert busy.long.id not in {report.id for report in fake.reports}


def test_a_give_back_is_repeated_when_the_connection_fails(fake, tmp_path):
    fake.claims, fake.give_back_fail = {}, [grpc.StatusCode.UNAVAILABLE] * 2
    busy = Busy(tmp_path, fake.address, fake.tasks.extend)
    busy.stop()
    busy.end()
    assert sorted(fake.given_back) == sorted(without_report(busy, fake))
    assert fake.give_back_fail == []


def test_a_task_that_found_no_child_in_time_goes_back(fake, tmp_path):
    """Its broker's deadline is near or over; which of the two, the claim's number tells the broker."""
    fake.claims, fake.give_back_fail = {}, []
    busy = Busy(tmp_path, fake.address, fake.tasks.extend, deadline_s=1)
    started = time.monotonic()
    wait_for(lambda: time.monotonic() - started > 1.1, "the deadline, by the worker's clock")
    busy.go.touch()
    wait_for(lambda: fake.given_back, "what goes back")
    busy.worker.wait_log("could not be started in time")
    busy.stop()
    busy.end()
    assert sorted(fake.given_back) == sorted(without_report(busy, fake))
