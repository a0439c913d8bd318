# SPDX-License-Identifier: Apache-2.0
"""What is measured, as processes: the broker, beanstalkd, and the generator that loads them."""

import json
import os
import shutil
import signal
import socket
import subprocess
from contextlib import contextmanager

from harness.broker import Broker, build_folder
from harness.process import Process, free_port, wait_for

LOAD_LIMIT_S = 120


class BenchError(Exception):
    pass


def check_disk(folder):
    """Type of the file system of the folder; memory does not count as a disk."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", folder], check=True, text=True,
                          stdout=subprocess.PIPE).stdout.strip()
    if kind in ("tmpfs", "ramfs"):
        raise BenchError(f"{folder} is in memory ({kind}), where fsync costs nothing: choose --folder")
    return kind


def load(command, **options):
    """Runs taskmill-load; its figures as a dict. Any task lost or doubled fails the run."""
    program = build_folder() / "bench" / "taskmill-load"
    if not program.exists():
        raise BenchError(f"{program} is not there: run ./dev build")
    argv = [str(program), command]
    for name, value in options.items():
        argv += [f"--{name.replace('_', '-')}", str(value)]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=LOAD_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{' '.join(argv)}: no end after {LOAD_LIMIT_S} s") from None
    if done.returncode != 0:
        raise BenchError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def cpu_us(pid):
    """User and system time of a process, and of its children that were waited for."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) * 1000000 // os.sysconf("SC_CLK_TCK")


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as children:
        return [int(child) for child in children.read().split()]


@contextmanager
def worker(folder, address, concurrency):
    """`taskmill worker` with the load's task in C; must end with exit 0."""
    folder.mkdir(parents=True, exist_ok=True)
    it = Process([build_folder() / "taskmill", "worker", "--rpc-host", address, "--concurrency", concurrency,
                  "--module", build_folder() / "bench" / "bench_tasks.so"], folder / "worker.txt")
    try:
        wait_for(lambda: "worker started" in it.log() or not it.running, "the worker", 10, 0.005)
        yield it
        it.signal(signal.SIGTERM)
        if it.wait(20) != 0:
            raise BenchError(f"the worker failed:\n{it.log()[-2000:]}")
    finally:
        it.kill9()


def memory_mib(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    raise BenchError(f"process {pid} has no memory")


@contextmanager
def broker(folder, config):
    """A broker on a new database; must end with exit 0. The folder is gone afterwards."""
    it = Broker(folder, config)
    try:
        it.start()
        yield it
        it.stop()
    except AssertionError as error:
        raise BenchError(f"{error}\n{it.log()[-2000:]}") from None
    finally:
        it.kill9()
        shutil.rmtree(folder, ignore_errors=True)


def check_empty(it):
    """Nothing may be left in the store: neither rows nor messages for other topics."""
    for table in ("inflight_taskactivations", "taskmill_outbox"):
        left = it.sql(f"SELECT count(*) FROM {table}")[0][0]
        if left:
            raise BenchError(f"{left} rows are left in {table} after all tasks were done")


class Beanstalkd:
    """`with Beanstalkd(folder, fsync=True) as it: it.address, it.pid`."""

    def __init__(self, folder, fsync):
        self._folder = folder
        self._port = free_port()
        self.address = f"127.0.0.1:{self._port}"
        # -z: as large as the broker's default; -f 0: fsync at every write; -b: the log's folder.
        self._argv = ["beanstalkd", "-l", "127.0.0.1", "-p", self._port, "-z", 5000000]
        if fsync:
            self._argv += ["-f", 0, "-b", folder]

    def __enter__(self):
        self._folder.mkdir(parents=True)
        self._process = Process(self._argv, self._folder / "log.txt")
        wait_for(lambda: not self._process.running or self._stats() is not None, "beanstalkd", 10)
        if not self._process.running:
            raise BenchError(f"beanstalkd ended at start: {self._process.log()}")
        return self

    def __exit__(self, *exc_info):
        self._process.kill9()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def pid(self):
        return self._process.pid

    def _stats(self):
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=5) as connection:
                connection.sendall(b"stats\r\n")
                text = b""
                while not text.endswith(b"\n\r\n"):
                    more = connection.recv(65536)
                    if not more:
                        return None
                    text += more
        except ConnectionRefusedError:
            return None
        pairs = (line.split(": ", 1) for line in text.decode().splitlines() if ": " in line)
        return dict(pairs)

    def check_empty(self):
        def left():
            stats = self._stats()
            return sum(int(stats[f"current-jobs-{state}"]) for state in ("ready", "reserved", "buried"))
        # The last deletions are still on their way when the generator ends.
        wait_for(lambda: left() == 0, lambda: f"an empty beanstalkd, {left()} jobs are left", 10)
