# SPDX-License-Identifier: Apache-2.0
"""The application that Python and Taskmill exchange tasks of, for the real taskbroker-client.

    python -m clients.interchange_app worker ADDRESS [NAMESPACE]   runs tasks until SIGTERM
    python -m clients.interchange_app send                         sends the orders on stdin, a JSON
                                    list, to the topic $INTERCHANGE_TOPIC of Kafka $INTERCHANGE_KAFKA

Tasks of the namespace `py` are run here, those of `c` and `cmd` by Taskmill, and `hop` by both. A
task that runs appends one line of JSON to the file $INTERCHANGE_RESULTS:

    {"runner": "python", "task": "py:record", "id": ..., "attempt": 0, "left": false, "at": seconds,
     "headers": {...}, "call": {"args": [...], "kwargs": {...}}}

`left` says whether attempts remain. What JSON lacks is written as Taskmill writes it for its
commands: {"$bytes": "base64"}, {"$float": "nan"}; orders are read the same way:

    {"task": "c:record", "args": [...], "kwargs": {...}, "headers": {...}, "countdown": 1, "expires": 60}
"""

import base64
import contextlib
import ctypes
import json
import math
import multiprocessing
import os
import signal
import sys
import threading
import time

from arroyo.backends.kafka import KafkaProducer
from taskbroker_client.app import TaskbrokerApp
from taskbroker_client.constants import CompressionType
from taskbroker_client.retry import LastAction, Retry, RetryTaskError
from taskbroker_client.state import current_task
from taskbroker_client.worker import TaskWorker

PR_SET_PDEATHSIG = 1
NAME = "interchange"


def to_json(value):
    """The value with marks for what JSON lacks."""
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return value


def from_json(value):
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"$bytes"}:
        return base64.b64decode(value["$bytes"])
    if set(value) == {"$float"}:
        return float(value["$float"])
    return {key: from_json(item) for key, item in value.items()}


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


def record(args, kwargs):
    task = current_task()
    line = json.dumps({
        "runner": "python", "task": f"{task.namespace}:{task.taskname}", "id": task.id,
        "attempt": task.attempt, "left": task.retries_remaining, "at": time.time(),
        "headers": headers.get(), "call": to_json({"args": args, "kwargs": kwargs})})
    file = os.open(os.environ["INTERCHANGE_RESULTS"], os.O_WRONLY | os.O_APPEND)
    try:
        data = line.encode() + b"\n"
        assert os.write(file, data) == len(data)
    finally:
        os.close(file)
    return task


class Router:
    def route_namespace(self, name):
        return os.environ["INTERCHANGE_TOPIC"]


_producer = None


def producer(topic):
    global _producer
    if _producer is None:
        _producer = KafkaProducer({"bootstrap.servers": os.environ["INTERCHANGE_KAFKA"],
                                   "message.max.bytes": 10_000_000})
    return _producer


headers = Headers()
app = TaskbrokerApp(name=NAME, producer_factory=producer, router_class=Router(), context_hooks=[headers])
app.set_modules(["clients.interchange_app"])

TWICE_MORE = Retry(times=3, delay=1, times_exceeded=LastAction.Deadletter)


def declare(namespace, name, **options):
    """A task that records its call."""
    @namespace.register(name=name, **options)
    def task(*args, **kwargs):
        record(args, kwargs)
    return task


py = app.create_namespace("py")
declare(py, "record")
declare(py, "once", at_most_once=True)


@py.register(name="again", retry=TWICE_MORE)
def again(*args, **kwargs):
    record(args, kwargs)
    raise RetryTaskError()


@py.register(name="third", retry=TWICE_MORE)
def third(*args, **kwargs):
    if record(args, kwargs).attempt < 2:
        raise RetryTaskError()


@py.register(name="bad")
def bad(*args, **kwargs):
    record(args, kwargs)
    raise ValueError("as it should")


hop = app.create_namespace("hop", retry=Retry(times=4, delay=2))


@hop.register(name="hop")
def hop_task(*args, **kwargs):
    record(args, kwargs)
    raise RetryTaskError()


for runner in ("c", "cmd"):
    elsewhere = app.create_namespace(runner)
    declare(elsewhere, "record")
    declare(elsewhere, "zstd", compression_type=CompressionType.ZSTD)
    declare(elsewhere, "once", at_most_once=True)
    declare(elsewhere, "again", retry=TWICE_MORE)
    declare(elsewhere, "third", retry=TWICE_MORE)
    declare(elsewhere, "relay")


def send(orders):
    for order in orders:
        namespace, name = order["task"].split(":", 1)
        app.get_task(namespace, name).apply_async(
            args=from_json(order.get("args", [])), kwargs=from_json(order.get("kwargs", {})),
            headers=order.get("headers"), expires=order.get("expires"),
            countdown=order.get("countdown"))
    producer(None).close().result(timeout=20)  # flushes


def work(address, namespace=None):
    worker = TaskWorker(app_module="clients.interchange_app:app", broker_hosts=[address],
                        namespace=namespace, concurrency=2, process_type="spawn")
    return worker.start()


if multiprocessing.parent_process() is not None:
    # A worker that a test kills takes its children along.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

if __name__ == "__main__":
    if sys.argv[1] == "worker":
        sys.exit(work(*sys.argv[2:]))
    send(json.load(sys.stdin))
