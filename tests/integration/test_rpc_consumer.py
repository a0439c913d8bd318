# SPDX-License-Identifier: Apache-2.0
"""The worker's calls: GetTask, SetTaskStatus, SetBatchActivationStatus, by a Python grpcio client."""

import threading
import time

import grpc
import pytest
from sentry_protos.taskbroker.v1 import taskbroker_pb2 as pb

from harness.process import wait_for
from harness.rpc import COMPLETE, CONSUMER, DEADLETTER, FAILURE, PENDING, PROCESSING, RETRY, activation

pytestmark = pytest.mark.alone

GET_TASK = f"/{CONSUMER}/GetTask"
NO_TASK = "No pending activations"


@pytest.fixture
def b(broker):
    return broker()


@pytest.fixture
def client(b, grpc_client):
    return grpc_client(b)


def status_of(call):
    """(code, message) with which a call fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code().name, caught.value.details()


def get_now(client, **filters):
    """A task that is claimable now, or None."""
    return client.get_task(timeout_s=0.3, **filters)


def timed(call):
    start = time.monotonic()
    result = call()
    return result, time.monotonic() - start


class Background:
    """A call in a thread; result() waits for it."""

    def __init__(self, call):
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._value = None
        self.ended = None
        self._thread.start()

    def _run(self, call):
        try:
            self._value = call()
        except Exception as error:
            self._value = error
        self.ended = time.monotonic()

    def result(self, timeout_s=10):
        self._thread.join(timeout_s)
        assert self.ended is not None, "the call still waits"
        if isinstance(self._value, Exception):
            raise self._value
        return self._value

    @property
    def waiting(self):
        return self.ended is None


# --- GetTask


def test_get_task_gives_back_what_came_in(client):
    sent = activation("t", args=[1, "x"], kwargs={"k": b"\0"}, headers={"h": "v"}, expires=60,
                      max_attempts=3, on_exceeded=DEADLETTER, delay_on_retry=7)
    client.enqueue([sent])
    assert client.get_task() == sent


def test_get_task_is_first_in_first_out(client):
    sent = [activation(f"t{i}", namespace=f"ns{i % 3}") for i in range(30)]
    client.enqueue(sent[:10])
    client.enqueue(sent[10:])
    assert [client.get_task().id for _ in sent] == [task.id for task in sent]


def test_get_task_filters(client):
    a1, a2, b1, none = (activation("a1", application="a", namespace="one"),
                        activation("a2", application="a", namespace="two"),
                        activation("b1", application="b", namespace="one"),
                        activation("none", application="", namespace="one"))
    client.enqueue([a1, a2, b1, none])
    assert get_now(client, application="nobody") is None
    assert get_now(client, application="b", namespace="two") is None
    assert get_now(client, application="a", namespace="two").id == a2.id
    assert get_now(client, application="b").id == b1.id
    assert get_now(client, application="").id == none.id, "an empty application is a filter too"
    assert get_now(client).id == a1.id
    assert get_now(client) is None


def test_get_task_by_namespace_without_application_finds_nothing(client):
    client.enqueue([activation(namespace="one")])
    answer, seconds = timed(lambda: status_of(lambda: client.call(
        CONSUMER, "GetTask", pb.GetTaskRequest(namespace="one"), pb.GetTaskResponse)))
    assert answer == ("NOT_FOUND", NO_TASK)
    assert seconds < 1, "it can never find anything, so it must not be held"


def test_get_task_claims(client, b):
    client.enqueue([activation(id="x", deadline_s=30)])
    before = time.time()
    assert client.get_task().id == "x"
    (status, deadline), = b.sql("SELECT status, processing_deadline FROM inflight_taskactivations")
    assert status == "Processing"
    assert before + 30 + 3 - 2 <= deadline <= time.time() + 30 + 3 + 1, "deadline and grace from now"
    assert get_now(client) is None


def test_held_get_task_is_answered_when_a_task_arrives(client, b, grpc_client):
    waiter = Background(lambda: grpc_client(b).get_task(timeout_s=20))
    time.sleep(0.3)  # the point of the test: it waits all this time
    assert waiter.waiting
    client.enqueue([activation(id="x")])
    done = time.monotonic()
    assert waiter.result().id == "x"
    assert waiter.ended - done < 0.25


def test_held_get_task_is_answered_when_a_delay_ends(client):
    client.enqueue([activation(id="x", delay=1)])
    task, seconds = timed(lambda: client.get_task(timeout_s=10))
    assert task.id == "x" and 0.5 < seconds < 1.5


def test_held_get_task_waits_for_its_own_filter(client, b, grpc_client):
    waiter = Background(lambda: grpc_client(b).get_task(application="other", timeout_s=20))
    client.enqueue([activation(id="x")])
    assert client.get_task().id == "x"
    assert waiter.waiting
    client.enqueue([activation(id="y", application="other")])
    assert waiter.result().id == "y"


def test_held_get_task_ends_before_the_callers_deadline(client):
    # 100 ms before it; a DEADLINE_EXCEEDED would raise.
    task, seconds = timed(lambda: client.get_task(timeout_s=1))
    assert task is None and 0.7 < seconds < 1


def test_get_task_with_hardly_any_time_is_answered_at_once(client):
    client.get_task(timeout_s=0.2)  # connected
    _, seconds = timed(lambda: client.get_task(timeout_s=0.09))
    assert seconds < 0.09


def test_held_get_task_ends_by_itself(broker, grpc_client):
    client = grpc_client(broker(config={"grpc_long_poll_ms": 400}))
    client.health()
    task, seconds = timed(lambda: client.get_task(timeout_s=20))
    assert task is None and 0.35 < seconds < 0.8


def test_long_poll_can_be_switched_off(broker, grpc_client):
    client = grpc_client(broker(config={"grpc_long_poll_ms": 0}))
    client.health()
    task, seconds = timed(lambda: client.get_task(timeout_s=20))
    assert task is None and seconds < 0.25


def test_a_cancelled_waiter_gets_nothing(client, b, grpc_client):
    gone = grpc_client(b).channel.unary_unary(GET_TASK).future(b"", timeout=20)
    time.sleep(0.3)  # until it is held; a call that is not yet there would prove nothing
    gone.cancel()
    time.sleep(0.2)
    client.enqueue([activation(id="x")])
    assert get_now(client).id == "x"


def test_a_waiter_whose_connection_died_gets_nothing(client, b, grpc_client):
    other = grpc_client(b)
    waiter = Background(lambda: other.get_task(timeout_s=20))
    time.sleep(0.3)
    other.close()
    with pytest.raises(Exception):
        waiter.result()
    client.enqueue([activation(id="x")])
    assert get_now(client).id == "x"


def test_the_newest_waiter_is_served_first(client, b, grpc_client):
    old = Background(lambda: grpc_client(b).get_task(timeout_s=20))
    time.sleep(0.3)
    new = Background(lambda: grpc_client(b).get_task(timeout_s=20))
    time.sleep(0.3)
    client.enqueue([activation(id="x")])
    assert new.result().id == "x"
    assert old.waiting
    client.enqueue([activation(id="y")])
    assert old.result().id == "y"


def test_many_waiters_get_one_task_each(client, b, grpc_client):
    others = [grpc_client(b) for _ in range(4)]
    waiters = [Background(lambda c=others[i % 4]: c.get_task(timeout_s=20)) for i in range(40)]
    time.sleep(0.3)
    ids = [f"t{i}" for i in range(40)]
    client.enqueue([activation(id=id) for id in ids])
    assert sorted(w.result().id for w in waiters) == sorted(ids)


def test_undecodable_request(client):
    code, text = status_of(lambda: client.raw(GET_TASK, b"\xff\xff\xff"))
    assert code == "INTERNAL" and text.startswith("failed to decode Protobuf message: ")


# --- SetTaskStatus


def claimed(client, **fields):
    sent = activation(**fields)
    client.enqueue([sent])
    task = client.get_task(timeout_s=5)
    assert task.id == sent.id
    return task


def test_complete_ends_the_task(client, b):
    task = claimed(client)
    assert client.set_status(task.id, COMPLETE) is None
    assert b.statuses() == {}


def test_failure_with_discard_policy_ends_the_task(client, b):
    client.set_status(claimed(client).id, FAILURE)
    wait_for(lambda: b.statuses() == {}, "the row to go")
    assert get_now(client) is None


def test_retry_comes_back_under_a_new_id(client, b):
    task = claimed(client, max_attempts=3, headers={"h": "v"}, expires=100)
    client.set_status(task.id, RETRY)
    again = client.get_task(timeout_s=5)
    assert again.id != task.id and len(again.id) == 36
    assert again.retry_state.attempts == 1
    assert again.received_at.ToNanoseconds() >= task.received_at.ToNanoseconds()
    for field in ("id", "received_at"):
        again.ClearField(field)
        task.ClearField(field)
    task.retry_state.attempts = 1
    assert again == task
    wait_for(lambda: b.statuses() == {"Processing": 1}, "the retried row to leave")


def test_retry_carries_the_reported_policy(client):
    task = claimed(client, max_attempts=3)
    client.set_status(task.id, RETRY, max_attempts=6, delay_on_retry=1)
    again, seconds = timed(lambda: client.get_task(timeout_s=5))
    assert again.retry_state.max_attempts == 6
    assert again.retry_state.delay_on_retry == again.delay == 1
    assert 0.7 < seconds < 2, "it waits for its delay"


def test_retry_reported_without_retry_state_gets_one(client):
    task = activation()
    task.ClearField("retry_state")
    client.enqueue([task])
    client.set_status(client.get_task().id, RETRY, max_attempts=4, delay_on_retry=0)
    again = client.get_task(timeout_s=5)
    assert again.retry_state.max_attempts == 4 and again.retry_state.delay_on_retry == 0


@pytest.mark.parametrize("status, name", [(0, "Unspecified"), (PENDING, "Pending"),
                                          (PROCESSING, "Processing")])
def test_statuses_that_no_worker_may_report(client, b, status, name):
    task = claimed(client)
    wanted = ("INVALID_ARGUMENT", "Invalid status, expects 3 (Failure), 4 (Retry), or 5 (Complete), "
              f"but got: {name}")
    assert status_of(lambda: client.set_status(task.id, status)) == wanted
    assert status_of(lambda: client.set_statuses([(task.id, COMPLETE), (task.id, status)])) == wanted
    assert b.statuses() == {"Processing": 1}, "nothing of a refused batch is applied"


@pytest.mark.parametrize("status", [6, 99, -1])
def test_unknown_statuses(client, b, status):
    task = claimed(client)
    wanted = ("INVALID_ARGUMENT", f"Unable to deserialize status: UnknownEnumValue({status})")
    assert status_of(lambda: client.set_status(task.id, status)) == wanted
    assert status_of(lambda: client.set_statuses([(task.id, status)])) == wanted
    assert b.statuses() == {"Processing": 1}


def test_unknown_id_is_a_success(client):
    client.set_status("nobody", COMPLETE)
    client.enqueue([activation(id="x")])
    assert client.set_status("nobody", FAILURE, fetch_next=True).id == "x"


def test_reports_on_a_task_that_nobody_claimed(client, b):
    client.enqueue([activation(id="x", max_attempts=3)])
    client.set_status("x", RETRY)
    client.set_status("x", FAILURE)
    assert b.statuses() == {"Pending": 1}, "only a claimed task can fail or be retried"
    client.set_status("x", COMPLETE)
    assert get_now(client) is None and b.statuses() == {}


def test_a_second_report_changes_nothing(client):
    task = claimed(client, max_attempts=3)
    client.set_status(task.id, COMPLETE)
    client.set_status(task.id, RETRY)
    client.set_status(task.id, FAILURE)
    assert get_now(client) is None


def test_at_most_once_is_never_retried(client, b):
    task = claimed(client, at_most_once=True)
    client.set_status(task.id, RETRY)
    wait_for(lambda: b.statuses() == {}, "the task to end by its policy")
    assert get_now(client) is None


def test_fetch_next(client, b):
    one, two, three = (activation(), activation(application="other", namespace="ns2"), activation())
    client.enqueue([one, two, three])
    first = client.get_task(application="app")
    second = client.set_status(first.id, COMPLETE, fetch_next={"application": "app"})
    assert (first.id, second.id) == (one.id, three.id)
    assert client.set_status(second.id, COMPLETE,
                             fetch_next={"application": "other", "namespace": "ns"}) is None
    assert client.set_status("nobody", COMPLETE, fetch_next={"namespace": "ns2"}) is None, \
        "a namespace without application finds nothing"
    assert client.set_status("nobody", COMPLETE, fetch_next=True).id == two.id
    assert b.statuses() == {"Processing": 1}


def test_batch_status_updates_changes_nothing(broker, grpc_client):
    """The original answers before the report is stored, and forgets fetch_next_task."""
    b = broker(config={"batch_status_updates": True, "status_update_batch_size": 100,
                       "status_update_interval_ms": 60000})
    client = grpc_client(b)
    client.enqueue([activation(id="first"), activation(id="second")])
    assert client.get_task().id == "first"
    assert client.set_status("first", COMPLETE, fetch_next=True).id == "second"
    assert b.statuses() == {"Processing": 1}
    client.set_status("second", COMPLETE)
    assert b.statuses() == {}


def test_fetch_next_is_never_held(client):
    task = claimed(client)
    next_task, seconds = timed(lambda: client.set_status(task.id, COMPLETE, fetch_next=True))
    assert next_task is None and seconds < 0.25


def test_fetch_next_of_nothing_is_ok_without_task(client):
    request = pb.SetTaskStatusRequest(id="nobody", status=COMPLETE, fetch_next_task=pb.FetchNextTask())
    reply = client.call(CONSUMER, "SetTaskStatus", request, pb.SetTaskStatusResponse)
    assert not reply.HasField("task")


# --- SetBatchActivationStatus


def test_batch(client, b):
    sent = [activation(f"t{i}", max_attempts=3) for i in range(6)]
    client.enqueue(sent)
    ids = [client.get_task().id for _ in sent]
    client.set_statuses([(ids[0], COMPLETE), (ids[1], FAILURE), (ids[2], RETRY), ("nobody", COMPLETE),
                         (ids[3], COMPLETE)])
    again = client.get_task(timeout_s=5)
    assert again.taskname == "t2" and again.retry_state.attempts == 1
    client.set_statuses([])
    rest = {row[0] for row in b.sql("SELECT id FROM inflight_taskactivations")}
    assert rest == {ids[4], ids[5], again.id}


def test_batch_with_retry_policy(client):
    task = claimed(client, max_attempts=3)
    client.set_statuses([pb.SetTaskStatusRequest(id=task.id, status=RETRY, max_attempts=9)])
    assert client.get_task(timeout_s=5).retry_state.max_attempts == 9


def test_batch_ignores_fetch_next(client, b):
    client.enqueue([activation(id="x")])
    client.set_statuses([pb.SetTaskStatusRequest(id="nobody", status=COMPLETE,
                                                 fetch_next_task=pb.FetchNextTask())])
    assert b.statuses() == {"Pending": 1}


def test_batch_of_thousands(client, b):
    ids = [f"t{i}" for i in range(2000)]
    client.enqueue([activation(id=id) for id in ids])
    task = client.get_task()
    for _ in range(1500):
        task = client.set_status("nobody", COMPLETE, fetch_next=True)
    assert b.statuses() == {"Processing": 1501, "Pending": 499}
    client.set_statuses([(id, COMPLETE) for id in ids])
    assert b.statuses() == {}
