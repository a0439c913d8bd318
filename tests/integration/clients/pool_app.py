# SPDX-License-Identifier: Apache-2.0
"""The task of load.py for the real taskbroker-client: pool_tasks.c in Python.

    python -m clients.pool_app HOST:PORT N      N brokers, named as the client's --num-brokers does

The lines of $LOAD_LOG and the pause of $LOAD_MS are those of pool_tasks.c. Ends on SIGTERM with 0.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time

from sentry_protos.taskbroker.v1 import taskbroker_pb2 as pb
from taskbroker_client.app import TaskbrokerApp
from taskbroker_client.retry import LastAction, Retry, RetryTaskError
from taskbroker_client.state import current_task
from taskbroker_client.worker import TaskWorker
from taskbroker_client.worker.client import make_broker_hosts

PR_SET_PDEATHSIG = 1


class Headers:
    """Keeps the headers of the task that runs: the older release does not hand them to tasks."""

    def __init__(self):
        self._now = threading.local()

    def on_dispatch(self, headers):
        pass

    @contextlib.contextmanager
    def on_execute(self, headers):
        self._now.headers = dict(headers)
        yield

    def get(self):
        return self._now.headers


class Router:
    def route_namespace(self, name):
        raise AssertionError("this application sends nothing")


def producer(topic):
    raise AssertionError("this application sends nothing")


headers = Headers()
app = TaskbrokerApp(name="app", producer_factory=producer, router_class=Router(), context_hooks=[headers])
app.set_modules(["clients.pool_app"])
ns = app.create_namespace("ns")


def append(*words):
    line = (" ".join(map(str, words)) + "\n").encode()
    file = os.open(os.environ["LOAD_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        assert os.write(file, line) == len(line)
    finally:
        os.close(file)


@ns.register(name="load", retry=Retry(times=3, times_exceeded=LastAction.Deadletter))
def load():
    key, attempt = headers.get()["key"], current_task().attempt
    append("run", key, attempt)
    time.sleep(int(os.environ["LOAD_MS"]) / 1000)
    again = attempt < int(headers.get().get("retries", 0))
    append("returned", key, pb.TASK_ACTIVATION_STATUS_RETRY if again else pb.TASK_ACTIVATION_STATUS_COMPLETE)
    if again:
        raise RetryTaskError()


if multiprocessing.parent_process() is not None:
    # A worker that a test kills takes its children along.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

if __name__ == "__main__":
    hosts = make_broker_hosts(sys.argv[1], int(sys.argv[2]))
    worker = TaskWorker(app_module="clients.pool_app:app", broker_hosts=hosts, concurrency=2,
                        process_type="spawn")
    with contextlib.suppress(KeyboardInterrupt):  # what it makes of SIGTERM
        worker.start()
