# SPDX-License-Identifier: Apache-2.0
"""Child processes, free ports and waiting for a condition."""

import ctypes
import os
import random
import signal
import socket
import subprocess
import threading
import time

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)

# Below the range from which the kernel takes ports for outgoing connections: a port of a server that
# is stopped for a while must not be taken by some client meanwhile.
PORTS = range(18000, 32000)
_given = set()


def _ports():
    """This process's own share of PORTS: other workers of the same run (pytest -n) have theirs."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return PORTS[worker::int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))]


def free_port():
    """A loopback port that nobody listens on and that this function has not given before."""
    for port in random.SystemRandom().sample(_ports(), 200):
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise RuntimeError("no free port among 200 tries")


def wait_for(condition, what, timeout_s=30.0, interval_s=0.02):
    """Calls condition() until it returns something true, and returns that.

    `what` completes the sentence "gave up after 30 s waiting for ..."; it may be a function, called
    at the end, so that the message shows the last state.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            text = what() if callable(what) else what
            raise AssertionError(f"gave up after {timeout_s:g} s waiting for {text}")
        time.sleep(interval_s)


def _die_with_parent():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A child with its output in a file. Dies with the test run, however that ends."""

    def __init__(self, argv, log_path, env=None, cwd=None):
        self.argv = [str(part) for part in argv]
        self.log_path = log_path
        # The kernel ties the death signal to the forking thread, so only the main one may set it.
        main = threading.current_thread() is threading.main_thread()
        with open(log_path, "ab") as log:
            self._popen = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})}, cwd=cwd,
                preexec_fn=_die_with_parent if main else None)

    @property
    def pid(self):
        return self._popen.pid

    @property
    def running(self):
        return self._popen.poll() is None

    def log(self):
        with open(self.log_path, errors="replace") as log:
            return log.read()

    def signal(self, number):
        self._popen.send_signal(number)

    def wait(self, timeout_s=30.0):
        """Exit code, negative for a signal; fails the test if the process is still there."""
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.argv[0]} still runs after {timeout_s:g} s:\n"
                                 f"{self.log()[-4000:]}") from None

    def kill9(self):
        if self.running:
            self._popen.kill()
        return self._popen.wait()
