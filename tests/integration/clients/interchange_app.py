# SPDX-License-Identifier: Apache-2.0
"""The application that Python and Taskmill exchange tasks of, for the real taskbroker-client.

    python -m clients.interchange_app worker ADDRESS [OPTIONS]   runs tasks until SIGTERM; OPTIONS are
                                    more of TaskWorker's parameters, as a JSON object
    python -m clients.interchange_app send       sends the orders on stdin, a JSON list, to Kafka
                                    $INTERCHANGE_KAFKA

Further environment: INTERCHANGE_TOPIC, INTERCHANGE_ROUTES (JSON: what the router is asked for ->
topic, before INTERCHANGE_TOPIC; with neither, the client's own router), INTERCHANGE_NAME (of the
application), INTERCHANGE_SECRETS (rpc_secret), INTERCHANGE_REDIS (port of the store of at-most-once
tasks).

Tasks of the namespace `py` are run here, those of `c` and `cmd` by Taskmill, `hop` and `both` by
both. A task that runs appends one line of JSON to the file $INTERCHANGE_RESULTS:

    {"runner": "python", "task": "py:record", "id": ..., "attempt": 0, "left": false, "at": seconds,
     "headers": {...}, "call": {"args": [...], "kwargs": {...}}}

`left` says whether attempts remain. `headers` are those that the context hook was entered with; it
adds "hook-python" to what is sent. What JSON lacks is written as Taskmill writes it for its
commands: {"$bytes": "base64"}, {"$float": "nan"}; orders are read the same way:

    {"task": "c:record", "args": [...], "kwargs": {...}, "headers": {...}, "countdown": 1, "expires": 60,
     "application": of an external namespace}
"""

import base64
import contextlib
import ctypes
import inspect
import json
import math
import multiprocessing
import os
import signal
import sys
import threading
import time

from arroyo.backends.kafka import KafkaProducer
from redis import StrictRedis
from taskbroker_client.app import TaskbrokerApp
from taskbroker_client.constants import CompressionType
from taskbroker_client.retry import LastAction, Retry, RetryTaskError
from taskbroker_client.state import current_task
from taskbroker_client.worker import TaskWorker

PR_SET_PDEATHSIG = 1
NAME = os.environ.get("INTERCHANGE_NAME", "interchange")
NEIGHBOUR = "neighbour"


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
    """The context hook. It also keeps the headers of the task that runs: the older release does not
    hand them to tasks."""

    def __init__(self):
        self._now = threading.local()

    def on_dispatch(self, headers):
        headers["hook-python"] = "sent"

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
        return json.loads(os.environ.get("INTERCHANGE_ROUTES", "{}")).get(name) or os.environ["INTERCHANGE_TOPIC"]


class Once:
    """The store of at-most-once tasks, as an application writes it for a Redis."""

    def __init__(self, port):
        self._redis = StrictRedis(host="127.0.0.1", port=port)

    def add(self, key, value, timeout):
        return bool(self._redis.set(key, value, nx=True, ex=timeout))


_producer = None


def producer(topic):
    global _producer
    if _producer is None:
        _producer = KafkaProducer({"bootstrap.servers": os.environ["INTERCHANGE_KAFKA"],
                                   "message.max.bytes": 10_000_000})
    return _producer


def application(hook):
    options = {}
    if {"INTERCHANGE_TOPIC", "INTERCHANGE_ROUTES"} & os.environ.keys():
        options["router_class"] = Router()
    if "INTERCHANGE_REDIS" in os.environ:
        options["at_most_once_store"] = Once(int(os.environ["INTERCHANGE_REDIS"]))
    made = TaskbrokerApp(name=NAME, producer_factory=producer, context_hooks=[hook], **options)
    made.set_config({"rpc_secret": os.environ.get("INTERCHANGE_SECRETS"), "at_most_once_timeout": 600})
    made.set_modules(["clients.interchange_app"])
    return made


headers = Headers()
app = application(headers)

TWICE_MORE = Retry(times=3, delay=1, times_exceeded=LastAction.Deadletter)


def declare(namespace, name, **options):
    """A task that records its call."""
    @namespace.register(name=name, **options)
    def task(*args, **kwargs):
        record(args, kwargs)
    return task


py = app.create_namespace("py")
declare(py, "record")
declare(py, "zstd")
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


# The worker's own policy decides about the next attempt, that of the sender about the end.
SHORT = Retry(times=2, delay=1)
LONG = Retry(times=5, delay=30, times_exceeded=LastAction.Deadletter)


@py.register(name="short", retry=SHORT)
def short(*args, **kwargs):
    record(args, kwargs)
    raise RetryTaskError()


@py.register(name="none")
def none(*args, **kwargs):
    record(args, kwargs)
    raise RetryTaskError()


@py.register(name="slow", retry=Retry(times=2, delay=1, on=(BaseException,)))
def slow(*args, **kwargs):
    """Runs past its deadline at its first attempt."""
    if record(args, kwargs).attempt == 0:
        time.sleep(60)


@py.register(name="late")
def late(*args, **kwargs):
    record(args, kwargs)
    time.sleep(60)


if "pass_headers" in inspect.signature(py.register).parameters:  # 0.20.30
    @py.register(name="headers", pass_headers=True)
    def with_headers(*args, headers, **kwargs):
        record(args, {**kwargs, "headers": dict(headers)})

hop = app.create_namespace("hop", retry=Retry(times=4, delay=2))


@hop.register(name="hop")
def hop_task(*args, **kwargs):
    record(args, kwargs)
    raise RetryTaskError()


# A task that is handed out again is late in 3 s and not run any more.
both = app.create_namespace("both", processing_deadline_duration=3)
declare(both, "record")
declare(both, "once", at_most_once=True)

for runner in ("c", "cmd"):
    elsewhere = app.create_namespace(runner)
    declare(elsewhere, "record")
    declare(elsewhere, "waited", wait_for_delivery=True)
    declare(elsewhere, "zstd", compression_type=CompressionType.ZSTD)
    declare(elsewhere, "once", at_most_once=True)
    declare(elsewhere, "again", retry=TWICE_MORE)
    declare(elsewhere, "third", retry=TWICE_MORE)
    declare(elsewhere, "relay")
    declare(elsewhere, "nobody", retry=TWICE_MORE)
    declare(elsewhere, "short", retry=LONG)
    declare(elsewhere, "drop", retry=Retry(times=5, delay=30))
    declare(elsewhere, "none", retry=TWICE_MORE)
    declare(elsewhere, "slow", retry=TWICE_MORE, processing_deadline_duration=1)
    declare(elsewhere, "late", retry=TWICE_MORE, processing_deadline_duration=1)

if NAME == NEIGHBOUR:
    declare(app.create_namespace("ext"), "record")
external = app.create_external_namespace("ext", NEIGHBOUR)


@external.register(name="record")
def elsewhere_record(*args, **kwargs):
    raise AssertionError("is run elsewhere")


def send(orders):
    for order in orders:
        namespace, name = order["task"].split(":", 1)
        application = order.get("application")
        task = (app.taskregistry.get_external(application, namespace).get(name) if application
                else app.get_task(namespace, name))
        task.apply_async(
            args=from_json(order.get("args", [])), kwargs=from_json(order.get("kwargs", {})),
            headers=order.get("headers"), expires=order.get("expires"),
            countdown=order.get("countdown"))
    producer(None).close().result(timeout=20)  # flushes


def work(address, options="{}"):
    worker = TaskWorker(app_module="clients.interchange_app:app", broker_hosts=[address],
                        **{"concurrency": 2, "process_type": "spawn", **json.loads(options)})
    return worker.start()


if multiprocessing.parent_process() is not None:
    # A worker that a test kills takes its children along.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

if __name__ == "__main__":
    if sys.argv[1] == "worker":
        sys.exit(work(*sys.argv[2:]))
    send(json.load(sys.stdin))
