# SPDX-License-Identifier: Apache-2.0
"""`taskmill scheduler` as a process, and what tells which run a task is."""

import json
import re
import signal
import statistics
import subprocess
import threading
import time

from harness.broker import program
from harness.process import Process, wait_for
from harness.rpc import COMPLETE


def write_schedules(path, entries, application="sched"):
    """{"key": {"task": ..., "schedule": ...}} as a file; JSON is YAML."""
    path.write_text(json.dumps({"application": application, "schedules": entries}))
    return path


def run_taskmill(*arguments, env=None, cwd=None, timeout=30):
    return subprocess.run([str(word) for word in [program(), *arguments]], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=timeout, env=env, cwd=cwd)


class Scheduler:
    """Scheduler(folder, entries, "--redis", url, "--rpc-host", address).start(); dies with the test."""

    def __init__(self, folder, entries, *arguments, env=None, command=("scheduler",)):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.path = write_schedules(folder / "schedules.yml", entries)
        self.argv = [program(), *command, "--schedules", self.path, *arguments]
        self.env = env
        self._process = None

    def start(self, wait=True):
        before = self.log().count("the scheduler runs") if self._process else 0
        self._process = Process(self.argv, self.folder / "scheduler.log", env=self.env, cwd=self.folder)
        if wait:
            self.wait_log("the scheduler runs", before + 1)
        return self

    def log(self):
        return self._process.log()

    def wait_log(self, text, count=1, timeout_s=30):
        wait_for(lambda: self.log().count(text) >= count or not self._process.running,
                 lambda: f"{count} x '{text}' in:\n{self.log()[-4000:]}", timeout_s)
        assert self.log().count(text) >= count, self.log()[-4000:]

    def late_ms(self):
        """How late each run was that it sent."""
        return [int(text) for text in re.findall(r"late_ms=(-?\d+)", self.log())]

    def reload(self, entries):
        write_schedules(self.path, entries)
        self._process.signal(signal.SIGHUP)

    def signal(self, number):
        self._process.signal(number)

    def wait(self, timeout_s=20):
        return self._process.wait(timeout_s)

    def stop(self):
        self._process.signal(signal.SIGCONT)
        self._process.signal(signal.SIGTERM)
        assert self.wait() == 0, self.log()[-4000:]

    def kill9(self):
        if self._process is not None:
            self._process.kill9()


class Collector:
    """Takes every task of a broker, as it comes. With keep they stay unfinished there until the end, so
    that the broker drops a second copy; without, a second copy would be seen as a second task."""

    def __init__(self, broker, keep=False):
        self.tasks = []
        self._broker = broker
        self._keep = keep
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        with self._broker.client() as client:
            while not self._stop.is_set():
                try:
                    task = client.get_task(timeout_s=0.5)
                except Exception:  # the broker is down: the tests stop it on purpose
                    self._stop.wait(0.1)
                    continue
                if task is None:
                    continue
                self.tasks.append((time.time(), task))
                if not self._keep:
                    client.set_status(task.id, COMPLETE)

    def named(self, name):
        return [task for _, task in self.tasks if task.taskname == name]

    def wait(self, count, name=None, timeout_s=30):
        wait_for(lambda: len(self.named(name) if name else self.tasks) >= count,
                 lambda: f"{count} tasks, have {len(self.tasks)}", timeout_s)

    def stop(self):
        self._stop.set()
        self._thread.join(10)
        if self._keep:
            with self._broker.client() as client:
                for _, task in self.tasks:
                    client.set_status(task.id, COMPLETE)


def describe_late(name, late_ms):
    late = sorted(late_ms)
    print(f"{name}: {len(late)} runs, late by {statistics.median(late):.0f} ms in the median, "
          f"{late[-1]} ms at most")
