# SPDX-License-Identifier: Apache-2.0
"""The life of a task in its row: deadlines, delays, expiry, ends. Without Kafka, see also
test_broker_kafka.py."""

import statistics
import threading
import time

import pytest

from harness.process import wait_for
from harness.rpc import COMPLETE, DEADLETTER, DISCARD, FAILURE, RETRY, activation

pytestmark = pytest.mark.alone


def row(b, id):
    """The row as a dict, or None."""
    columns = ["status", "processing_attempts", "processing_deadline", "delay_until", "expires_at",
               "received_at", "added_at", "at_most_once", "on_attempts_exceeded", "bucket", "namespace",
               "taskname", "application", "processing_deadline_duration", "activation", "partition"]
    found = b.sql(f"SELECT {', '.join(columns)} FROM inflight_taskactivations WHERE id = ?", id)
    return dict(zip(columns, found[0])) if found else None


def dead_letters(b):
    """How many records the dead-letter topic of an embedded broker holds."""
    found = b.sql("SELECT high - low FROM taskmill_log_topics WHERE name = 'taskworker-dlq'")
    return found[0][0] if found else 0


@pytest.fixture
def quick(broker):
    """Factory of brokers whose deadlines have no grace."""
    def make(**config):
        return broker(config={"processing_deadline_grace_sec": 0,
                              "upkeep_deadline_reset_skip_after_startup_sec": 0, **config})
    return make


def test_columns_of_a_row(broker, grpc_client):
    b = broker()
    task = activation("name", id="0123456789abcdef0123456789abcdfe", namespace="space", application="app",
                      expires=1000, deadline_s=77, max_attempts=5, on_exceeded=DEADLETTER)
    grpc_client(b).enqueue([task])
    got = row(b, task.id)
    received = task.received_at.seconds
    assert abs(got.pop("added_at") - time.time()) < 3
    assert got == {
        "status": "Pending", "processing_attempts": 0, "processing_deadline": None, "delay_until": None,
        "expires_at": received + 1000, "received_at": received, "at_most_once": 0,
        "on_attempts_exceeded": 2, "bucket": 0xFE, "namespace": "space", "taskname": "name",
        "application": "app", "processing_deadline_duration": 77,
        "activation": task.SerializeToString(), "partition": 0}


# --- deadlines


def test_missed_deadline_brings_the_task_back(quick, grpc_client):
    b = quick()
    client = grpc_client(b)
    client.enqueue([activation(id="slow", deadline_s=1), activation(id="other")])
    assert client.get_task().id == "slow"
    claimed = time.monotonic()
    assert row(b, "slow")["status"] == "Processing"
    wait_for(lambda: row(b, "slow")["status"] == "Pending", "the deadline", 5)
    late = time.monotonic() - claimed - 1
    assert -0.05 < late < 0.3, f"{late * 1000:.0f} ms late"
    assert row(b, "slow")["processing_attempts"] == 1
    assert row(b, "slow")["processing_deadline"] is None
    assert client.get_task().id == "slow", "it keeps its place before the other"


def test_grace_is_added_to_the_deadline(quick, grpc_client):
    client = grpc_client(quick(processing_deadline_grace_sec=1))
    client.enqueue([activation(id="x", deadline_s=1)])
    client.get_task()
    start = time.monotonic()
    assert client.get_task(timeout_s=10).id == "x"
    assert 1.9 < time.monotonic() - start < 2.4


@pytest.mark.parametrize("policy, dead", [(DISCARD, 0), (DEADLETTER, 1)])
def test_attempts_are_limited(quick, grpc_client, policy, dead):
    b = quick(max_processing_attempts=2)
    client = grpc_client(b)
    client.enqueue([activation(id="x", deadline_s=1, max_attempts=1, on_exceeded=policy)])
    assert client.get_task().id == "x"
    assert client.get_task(timeout_s=4).id == "x"
    wait_for(lambda: b.statuses() == {}, "the end of the task", 5)
    assert dead_letters(b) == dead
    assert client.get_task(timeout_s=0.3) is None


@pytest.mark.parametrize("policy, dead", [(DISCARD, 0), (DEADLETTER, 1)])
def test_at_most_once_fails_at_its_deadline(quick, grpc_client, policy, dead):
    b = quick()
    client = grpc_client(b)
    task = activation(id="x", deadline_s=1, at_most_once=True)
    task.retry_state.on_attempts_exceeded = policy
    client.enqueue([task])
    assert client.get_task().id == "x"
    wait_for(lambda: b.statuses() == {}, "the end of the task", 5)
    assert dead_letters(b) == dead
    assert client.get_task(timeout_s=0.3) is None
    client.enqueue([task])
    assert client.get_task(timeout_s=0.3) is None, "its id is remembered"


def test_late_complete_ends_a_task_that_waits_again(quick, grpc_client):
    b = quick()
    client = grpc_client(b)
    client.enqueue([activation(id="x", deadline_s=1, max_attempts=3)])
    client.get_task()
    wait_for(lambda: row(b, "x")["status"] == "Pending", "the deadline", 5)
    client.set_status("x", RETRY)
    client.set_status("x", FAILURE)
    assert row(b, "x")["status"] == "Pending", "a late failure does not count, the task runs again"
    client.set_status("x", COMPLETE)
    assert b.statuses() == {}


def test_huge_and_zero_deadlines(quick, grpc_client):
    b = quick(processing_deadline_grace_sec=1)
    client = grpc_client(b)
    huge, none = activation(id="huge"), activation(id="none", deadline_s=0)
    huge.processing_deadline_duration = 2**64 - 1
    client.enqueue([huge, none])
    assert client.get_task().id == "huge"
    assert client.get_task().id == "none"
    assert client.get_task(timeout_s=3).id == "none", "of 0 s the grace is left"
    assert row(b, "huge")["status"] == "Processing"


def test_weakness_29_after_a_restart_deadlines_wait_for_the_grace(broker, grpc_client):
    b = broker(config={"processing_deadline_grace_sec": 0,
                       "upkeep_deadline_reset_skip_after_startup_sec": 3})
    client = grpc_client(b)
    client.enqueue([activation(id="x", deadline_s=1)])
    client.get_task()
    b.stop()
    time.sleep(1)  # its deadline passes while nobody is there
    start = time.monotonic()
    b.start()
    client = grpc_client(b)
    assert client.get_task(timeout_s=10).id == "x"
    assert 2.5 < time.monotonic() - start < 5


# --- delays and expiry


def test_delays_end_to_the_millisecond(broker, grpc_client, capsys):
    b = broker()
    client = grpc_client(b)
    tasks = []
    for _ in range(20):
        tasks.append(activation(delay=1))
        client.enqueue(tasks[-1:])
        time.sleep(0.03)  # spread over the second
    assert b.statuses() == {"Delay": 20}
    assert row(b, tasks[0].id)["delay_until"] == (tasks[0].received_at.ToMilliseconds() + 1002) // 1000
    late = []
    for task in tasks:
        assert client.get_task().id == task.id
        late.append(time.time() * 1000 - task.received_at.ToMilliseconds() - 1000)
    with capsys.disabled():
        print(f"\na delay of 1 s ends {statistics.median(late):.1f} ms late at the median, "
              f"{max(late):.1f} ms at most, {min(late):.1f} ms at least")
    assert min(late) >= 0, "never early"
    assert statistics.median(late) <= 20


def test_delay_in_the_past_and_zero(broker, grpc_client):
    client = grpc_client(broker())
    past = activation(id="past", delay=5)
    past.received_at.FromSeconds(int(time.time()) - 100)
    client.enqueue([past, activation(id="zero", delay=0)])
    assert [client.get_task(timeout_s=1).id for _ in range(2)] == ["past", "zero"]


def test_delay_is_capped(broker, grpc_client):
    b = broker(config={"max_delayed_task_allowed_sec": 1})
    client = grpc_client(b)
    future = activation(id="future", delay=1)
    future.received_at.FromSeconds(int(time.time()) + 100000)
    client.enqueue([activation(id="x", delay=2**64 - 1), future])
    start = time.monotonic()
    assert {client.get_task(timeout_s=5).id for _ in range(2)} == {"x", "future"}
    assert time.monotonic() - start < 2
    b.wait_log("WARN.*delay of 18446744073709551615 s was cut")


def test_delays_survive_a_restart(broker, grpc_client):
    b = broker()
    grpc_client(b).enqueue([activation(id="x", delay=2)])
    start = time.monotonic()
    b.kill9()
    b.start()
    assert b.statuses() == {"Delay": 1}
    assert grpc_client(b).get_task(timeout_s=5).id == "x"
    assert 1.7 < time.monotonic() - start < 2.5


def test_expiry(broker, grpc_client):
    b = broker()
    client = grpc_client(b)
    client.enqueue([activation(id="zero", expires=0), activation(id="soon", expires=1),
                    activation(id="never"), activation(id="running", expires=1, application="other")])
    assert client.get_task(application="other").id == "running"
    assert row(b, "zero") is None, "expired when it came"
    wait_for(lambda: row(b, "soon") is None, "the expiry", 5)
    assert client.get_task().id == "never"
    assert row(b, "running")["status"] == "Processing", "what runs does not expire"


def test_expiry_does_not_count_while_delayed(broker, grpc_client):
    """As the original: only waiting tasks expire, so this one is gone when its delay ends."""
    b = broker()
    grpc_client(b).enqueue([activation(id="x", expires=1, delay=2)])
    assert b.statuses() == {"Delay": 1}
    time.sleep(1.3)
    assert b.statuses() == {"Delay": 1}
    wait_for(lambda: b.statuses() == {}, "the end", 3)


def test_retry_waits_for_its_delay(broker, grpc_client):
    b = broker()
    client = grpc_client(b)
    client.enqueue([activation(id="x", max_attempts=3, delay_on_retry=1)])
    client.get_task()
    client.set_status("x", RETRY)
    start = time.monotonic()
    wait_for(lambda: b.statuses() == {"Delay": 1}, "the delay")
    assert client.get_task(timeout_s=5).retry_state.attempts == 1
    assert 0.9 < time.monotonic() - start < 1.4


# --- load


def test_many_workers_no_task_twice(broker, grpc_client):
    """12 threads, 3,000 tasks, every status: each task is claimed once per attempt."""
    b = broker(config={"max_pending_count": 500})
    tasks = [activation(id=f"t{i}", max_attempts=2, on_exceeded=DEADLETTER if i % 2 else DISCARD)
             for i in range(3000)]
    seen, lock, errors = [], threading.Lock(), []

    def work():
        try:
            with b.client() as client:
                while (task := client.get_task(timeout_s=1)) is not None:
                    while task is not None:
                        with lock:
                            seen.append((task.headers.get("origin", task.id), task.retry_state.attempts))
                        number = int(task.headers["n"])
                        status = COMPLETE if task.retry_state.attempts or number % 3 == 0 else \
                            FAILURE if number % 3 == 1 else RETRY
                        task = client.set_status(task.id, status, fetch_next=True)
        except Exception as error:
            errors.append(error)

    for number, task in enumerate(tasks):
        task.headers["n"] = str(number)
        task.headers["origin"] = task.id
    client = grpc_client(b)
    client.enqueue(tasks)
    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert len(seen) == len(set(seen))
    assert {origin for origin, _ in seen} == {task.id for task in tasks}
    assert sum(attempts for _, attempts in seen) == 1000, "a third was retried once"
    wait_for(lambda: b.statuses() == {}, "an empty store", 5)
    assert dead_letters(b) == 500
