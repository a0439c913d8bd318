# SPDX-License-Identifier: Apache-2.0
"""Tasks that were claimed and not started go back: taskmill.v1.WorkerService/GiveBack."""

import threading
import time

import grpc
import pytest

from harness.process import wait_for
from harness.rpc import activation



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
