# SPDX-License-Identifier: Apache-2.0
"""Applications do not block each other: rows that nobody asks for do not count toward
max_pending_count while somebody works (default limits, but a shorter time than 60 s)."""

import time

from harness.process import wait_for
from harness.rpc import COMPLETE, activation

LONELY = 5000
MAX_PENDING = 2048  # the default of store.max_pending_count


def payloads(application, count):
    return [activation(id=f"{application}-{i:05}", application=application).SerializeToString()
            for i in range(count)]


def pending(b):
    return b.statuses().get("Pending", 0)


def test_rows_of_an_unserved_application_do_not_block_others(kafka, broker, grpc_client):
    b = broker(kafka=kafka, config={"store": {"unserved_application_sec": 2}, "grpc_long_poll_ms": 500})
    kafka.produce(b.topic, payloads("lonely", LONELY))
    wait_for(lambda: pending(b) >= MAX_PENDING, "a full store", 30)

    kafka.produce(b.topic, payloads("busy", 20))
    client = grpc_client(b)
    done = []

    def work():
        task = client.get_task(application="busy")
        if task is not None:
            client.set_status(task.id, COMPLETE)
            done.append(task.id)
        return len(done) == 20
    wait_for(work, "the tasks behind 5,000 of another application", 30)
    assert sorted(done) == [f"busy-{i:05}" for i in range(20)]
    assert pending(b) == LONELY, "none of the others is lost or run"
    b.wait_log("no worker asks for the tasks of an application.* application=lonely")

    # A worker of the other application makes its rows count again, and gets them in order.
    assert client.get_task(application="lonely").id == "lonely-00000"


def test_without_any_worker_max_pending_count_holds(kafka, broker, grpc_client):
    b = broker(kafka=kafka, config={"store": {"unserved_application_sec": 1}})
    kafka.produce(b.topic, payloads("lonely", LONELY))
    wait_for(lambda: pending(b) >= MAX_PENDING, "a full store", 30)
    # Rows of a second application are sent behind; nothing asks, so nothing may come in.
    kafka.produce(b.topic, payloads("other", 10))
    start = time.monotonic()
    wait_for(lambda: time.monotonic() > start + 3 or pending(b) > MAX_PENDING, "three seconds", 10)
    assert pending(b) == MAX_PENDING
    assert "no worker asks" not in b.log()
    assert grpc_client(b).get_task(application="lonely").id == "lonely-00000"
