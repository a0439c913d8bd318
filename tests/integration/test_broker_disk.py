# SPDX-License-Identifier: Apache-2.0
"""A disk that fills up, and other programs on the broker's file."""

import os
import shutil
import sqlite3
import subprocess
import threading
import time

import grpc
import pytest

from harness.process import wait_for
from harness.rpc import COMPLETE, activation


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 100 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", path], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs here: {done.stderr}")
    yield path
    subprocess.run(["umount", "-l", path])


def fill(disk, leave):
    """Leaves `leave` bytes free; returns the file to remove."""
    ballast = disk / "ballast"
    with open(ballast, "ab") as file:
        try:
            while (left := shutil.disk_usage(disk).free - leave) > 0:
                file.write(b"\0" * min(left, 1 << 20))
                file.flush()
        except OSError:
            pass
    return ballast


@pytest.fixture
def b(broker, small_disk):
    it = broker(config={"db_path": str(small_disk / "tasks.sqlite")}, start=False)
    it.db_path = small_disk / "tasks.sqlite"
    return it.start()


def test_intake_stops_before_the_disk_is_full(b, grpc_client, small_disk):
    client = grpc_client(b)
    client.enqueue([activation(id=f"t{i}") for i in range(100)])
    ballast = fill(small_disk, 30 << 20)

    def refused():
        try:
            client.enqueue([activation(id="refused")])  # taken or not: the disk is looked at now and then
            return False
        except grpc.RpcError as error:
            return error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED

    wait_for(refused, "a refusal")
    b.wait_log("WARN.*the disk of the store is nearly full.*disk_free_bytes=3")
    while (task := client.get_task(timeout_s=0.3)) is not None:  # what is there can be worked off
        client.set_status(task.id, COMPLETE)
    assert b.statuses() == {}
    ballast.unlink()

    def accepted():
        try:
            return client.enqueue([activation(id="accepted")])
        except grpc.RpcError:
            return False

    wait_for(accepted, "room again", 5)
    assert client.get_task().id == "accepted"


def test_full_disk_ends_the_broker_with_its_cause(b, grpc_client, small_disk):
    client = grpc_client(b)
    ids = [f"t{i}" for i in range(2000)]
    client.enqueue([activation(id=id, args=["x" * 500]) for id in ids])
    done = set()

    def work_off():
        while (task := client.get_task(timeout_s=2)) is not None:
            client.set_status(task.id, COMPLETE)
            done.add(task.id)

    ballast = fill(small_disk, 0)
    with pytest.raises(grpc.RpcError):
        work_off()
        raise AssertionError("2,000 tasks were worked off without a byte of room")
    assert b.wait() == 1
    last = [line for line in b.log().splitlines() if "ERROR" in line][-1]
    assert str(b.db_path) in last and "full" in last and "bytes free" in last
    # Room again: everything that was acknowledged is so, and the rest is there.
    ballast.unlink()
    b.config["upkeep_deadline_reset_skip_after_startup_sec"] = 0
    b.config["processing_deadline_grace_sec"] = 0
    b.start()
    assert b.sql("PRAGMA integrity_check") == [("ok",)]
    left = {row[0] for row in b.sql("SELECT id FROM inflight_taskactivations")}
    assert not left & done
    assert len(set(ids) - left - done) <= 1, "at most the one whose report was not answered is gone too"


def test_start_on_a_full_disk(broker, small_disk):
    b = broker(config={"db_path": str(small_disk / "tasks.sqlite")}, start=False)
    ballast = fill(small_disk, 0)
    b.start(wait=False)
    assert b.wait() == 1
    last = [line for line in b.log().splitlines() if "ERROR" in line][-1]
    assert str(small_disk) in last and "No space left on device" in last
    ballast.unlink()
    b.start()


def test_a_lock_from_outside_only_delays(broker, grpc_client):
    """A shell or a backup locks the file for a while: nothing is acknowledged, nothing is lost."""
    b = broker()
    client = grpc_client(b)
    client.enqueue([activation(id="x")])
    other = sqlite3.connect(b.db_path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ended = []

    def enqueue():
        with b.client() as mine:
            mine.enqueue([activation(id="y")], timeout_s=20)
            ended.append(time.monotonic())

    thread = threading.Thread(target=enqueue)
    thread.start()
    b.wait_log("WARN.*locked by another process")
    assert not ended
    released = time.monotonic()
    other.execute("ROLLBACK")
    other.close()
    thread.join(10)
    assert ended and ended[0] >= released
    assert {client.get_task().id, client.get_task().id} == {"x", "y"}


def test_a_foreign_write_ends_the_broker(broker, grpc_client):
    """Another program has changed the rows that the broker knows by heart."""
    b = broker()
    client = grpc_client(b)
    client.enqueue([activation(id="x"), activation(id="y")])
    other = sqlite3.connect(b.db_path)
    other.execute("DELETE FROM inflight_taskactivations WHERE id = 'x'")
    other.commit()
    other.close()
    with pytest.raises(grpc.RpcError):
        for _ in range(100):
            client.enqueue([activation()])
            time.sleep(0.05)
    assert b.wait() == 1
    last = [line for line in b.log().splitlines() if "ERROR" in line][-1]
    assert str(b.db_path) in last


def test_readers_do_not_disturb(broker, grpc_client):
    b = broker()
    client = grpc_client(b)
    reader = sqlite3.connect(f"file:{b.db_path}?mode=ro", uri=True, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM inflight_taskactivations").fetchone()
    for _ in range(500):
        client.enqueue([activation()])
        client.set_status(client.get_task().id, COMPLETE)
    assert reader.execute("SELECT count(*) FROM inflight_taskactivations").fetchone() == (0,)
    reader.close()
    assert b.statuses() == {}
