# SPDX-License-Identifier: Apache-2.0
"""kill -9 and power cuts of the broker under load: nothing is lost, nothing at-most-once runs twice.

Half of the tasks are at-most-once. All have the dead-letter policy, so each task must end in one of
two places: a report of the workers that was acknowledged, or the dead-letter topic. What is counted
comes from the topics and the workers' own logs, not from the broker.
"""

import fcntl
import os
import random
import shutil
import signal
import struct
import subprocess

import pytest

from clients.load import Load
from harness.process import wait_for

pytestmark = pytest.mark.alone

KILLS = 20
CUTS = 10
PARTITIONS = 4

CONFIG = {
    "kafka_session_timeout_ms": 1000,
    "upkeep_deadline_reset_skip_after_startup_sec": 1,
    "processing_deadline_grace_sec": 0,
    "max_processing_attempts": 1000,  # a kill costs a task an attempt; that must not dead-letter it
    "max_pending_count": 500,
}

EXT4_IOC_SHUTDOWN = 0x8004587D
EXT4_GOING_FLAGS_NOLOGFLUSH = 2


class Disk:
    """An ext4 file system in a file, whose power can be cut: what was not synced is gone."""

    def __init__(self, folder, size_mb=256):
        self.path = folder / "disk"
        self._image = folder / "disk.img"
        self.path.mkdir()
        with open(self._image, "wb") as image:
            image.truncate(size_mb << 20)
        subprocess.run(["mkfs.ext4", "-q", self._image], check=True)
        self.mount()

    def mount(self):
        subprocess.run(["mount", "-o", "loop", self._image, self.path], check=True)

    def umount(self):
        subprocess.run(["umount", self.path], check=True)

    def cut(self):
        """From now on nothing reaches the disk, the journal's open transaction included."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", EXT4_GOING_FLAGS_NOLOGFLUSH))
        finally:
            os.close(fd)


@pytest.fixture
def disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("cutting off a file system needs root")
    if not shutil.which("mkfs.ext4"):
        pytest.skip("mkfs.ext4 is not installed")
    try:
        it = Disk(tmp_path)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no loop mount here: {error}")
    yield it
    subprocess.run(["umount", "-l", it.path])


def check(count, what, capsys):
    with capsys.disabled():
        print(f"\n{what}: {count}")
    count.check()
    # Otherwise the test proved nothing.
    assert count.dead_lettered > 0, "no at-most-once task was ever claimed at a kill"


def run_and_kill(kafka, b, tmp_path, times, kill, restart):
    """The count after so many kills; the broker has stopped."""
    load = Load(kafka, b.topic, b.dlq_topic, tmp_path)
    load.start([b.address])
    for _ in range(times):
        load.wait_progress(100)
        before = load.log_size()
        spread = random.randrange(2000)  # bytes of the logs: the moment of the kill differs
        wait_for(lambda: load.log_size() >= before + spread, "more runs")
        kill()
        restart()
    load.stop_producing()
    load.wait_done([b], b.group)
    b.stop()
    return load.finish()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_kill_9_under_load(kafka, broker, tmp_path, capsys):
    b = broker(kafka=kafka, partitions=PARTITIONS, config=CONFIG)
    count = run_and_kill(kafka, b, tmp_path, KILLS, b.kill9, b.start)
    check(count, f"{KILLS} kills", capsys)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_power_cut_under_load(kafka, broker, disk, tmp_path, capsys):
    config = {**CONFIG, "db_path": str(disk.path / "tasks.sqlite")}
    b = broker(kafka=kafka, partitions=PARTITIONS, config=config)
    b.db_path = disk.path / "tasks.sqlite"

    # The kill first, nobody must live to believe it: an fsync that is under way at the cut may
    # return 0 although its transaction was thrown away (Linux 6.18: 3 of 60 cuts of a loop that
    # only appends and calls fdatasync).
    def kill():
        b.signal(signal.SIGKILL)
        disk.cut()
        b.kill9()

    def restart():
        disk.umount()
        disk.mount()
        b.start()

    count = run_and_kill(kafka, b, tmp_path, CUTS, kill, restart)
    check(count, f"{CUTS} power cuts", capsys)
    disk.umount()
    fsck = subprocess.run(["fsck.ext4", "-n", "-f", tmp_path / "disk.img"], capture_output=True, text=True)
    assert fsck.returncode == 0, fsck.stdout
    disk.mount()
