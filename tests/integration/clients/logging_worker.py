# SPDX-License-Identifier: Apache-2.0
"""A worker that logs each run before it does anything else, for tests that count runs.

    python logging_worker.py LOG DROP THREADS ADDRESS...

Each thread asks one of the brokers for tasks, in turn. Lines of LOG, each one write(2):

    run KEY ATTEMPT             the task was received; KEY is its header "key"
    ok KEY STATUS               the broker acknowledged the report
    dropped KEY STATUS          this worker never sends the report

With probability DROP a worker forgets a task instead of reporting it, as one that was killed does.
Any other report is sent again until it is acknowledged: one that failed may or may not have been
applied. A task with the header "retries" = N asks for a retry on its first N attempts. Ends on
SIGTERM with exit code 0.
"""

import os
import random
import signal
import sys
import threading
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness.rpc import COMPLETE, RETRY, Client  # noqa: E402

RECONNECT = [("grpc.initial_reconnect_backoff_ms", 20), ("grpc.min_reconnect_backoff_ms", 20),
             ("grpc.max_reconnect_backoff_ms", 100), ("grpc.use_local_subchannel_pool", 1)]


class Worker:
    def __init__(self, address, log, drop, stop):
        self._client = Client(address, options=RECONNECT)
        self._log = log
        self._drop = drop
        self._stop = stop

    def _write(self, *words):
        os.write(self._log, (" ".join(map(str, words)) + "\n").encode())

    def _fetch(self):
        try:
            return self._client.get_task(timeout_s=1)
        except grpc.RpcError:
            self._stop.wait(0.02)
            return None

    def _report(self, task, key, status):
        """Returns the next task, if there is one."""
        if random.random() < self._drop:
            self._write("dropped", key, status)
            return None
        while not self._stop.is_set():
            try:
                following = self._client.set_status(task.id, status, fetch_next=True, timeout_s=2)
                self._write("ok", key, status)
                return following
            except grpc.RpcError:
                self._stop.wait(0.05)
        return None

    def _run(self, task):
        key = task.headers["key"]
        self._write("run", key, task.retry_state.attempts)
        again = task.retry_state.attempts < int(task.headers.get("retries", 0))
        return self._report(task, key, RETRY if again else COMPLETE)

    def loop(self):
        task = None
        while not self._stop.is_set():
            task = self._run(task) if task is not None else self._fetch()
        self._client.close()


def main(argv):
    path, drop, threads, addresses = argv[1], float(argv[2]), int(argv[3]), argv[4:]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    workers = [Worker(addresses[i % len(addresses)], log, drop, stop) for i in range(threads)]
    running = [threading.Thread(target=worker.loop) for worker in workers]
    for thread in running:
        thread.start()
    while not stop.wait(0.2):  # signals are handled between waits
        pass
    for thread in running:
        thread.join()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
