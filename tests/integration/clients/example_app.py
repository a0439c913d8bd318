# SPDX-License-Identifier: Apache-2.0
"""An application for the real taskbroker-client, run by its own python (client_python):

    python -m clients.example_app worker ADDRESS CONCURRENCY      runs tasks until SIGTERM
    python -m clients.example_app send                            sends the orders on stdin, a JSON list
                    of {"task": ..., "args": [...], "kwargs": {...}, "countdown": 1, "expires": 60}

Environment: EXAMPLE_KAFKA and EXAMPLE_TOPIC of the producer; EXAMPLE_RUNS, a file to which each run
appends a line: task, tag, attempt, moment in seconds; EXAMPLE_SECRETS, a JSON list for signing.
"""

import ctypes
import json
import multiprocessing
import os
import signal
import sys
import time

from arroyo.backends.kafka import KafkaProducer
from taskbroker_client.app import TaskbrokerApp
from taskbroker_client.constants import CompressionType
from taskbroker_client.retry import LastAction, Retry, RetryTaskError
from taskbroker_client.state import current_task
from taskbroker_client.worker import TaskWorker

PR_SET_PDEATHSIG = 1
_producer = None


class Router:
    def route_namespace(self, name):
        return os.environ["EXAMPLE_TOPIC"]


class OnceStore:
    """One worker only: what it has seen is known to its children by files."""

    def add(self, key, value, timeout):
        folder = os.environ["EXAMPLE_RUNS"] + ".once"
        os.makedirs(folder, exist_ok=True)
        try:
            os.close(os.open(os.path.join(folder, key), os.O_CREAT | os.O_EXCL))
            return True
        except FileExistsError:
            return False


def producer(topic):
    global _producer
    if _producer is None:
        _producer = KafkaProducer({"bootstrap.servers": os.environ["EXAMPLE_KAFKA"],
                                   "message.max.bytes": 10_000_000})
    return _producer


app = TaskbrokerApp(name="example", producer_factory=producer, router_class=Router(),
                    at_most_once_store=OnceStore())
app.set_config({"rpc_secret": os.environ.get("EXAMPLE_SECRETS")})
app.set_modules(["clients.example_app"])
tasks = app.create_namespace("tasks", processing_deadline_duration=5)


def ran(tag):
    task = current_task()
    line = f"{task.taskname} {tag} {task.attempt} {time.time()}\n".encode()
    file = os.open(os.environ["EXAMPLE_RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, line)
    os.close(file)
    return task.attempt


@tasks.register(name="complete")
def complete(tag, **kwargs):
    ran(tag)


@tasks.register(name="zstd", compression_type=CompressionType.ZSTD)
def zstd(tag, text):
    assert text == "x" * len(text)
    ran(tag)


@tasks.register(name="once", at_most_once=True)
def once(tag):
    ran(tag)


@tasks.register(name="retry", retry=Retry(times=3, delay=1))
def retry(tag, good_on):
    if ran(tag) < good_on:
        raise RetryTaskError()


@tasks.register(name="deadletter", retry=Retry(times=2, on=(ValueError,), times_exceeded=LastAction.Deadletter))
def deadletter(tag):
    ran(tag)
    raise ValueError(tag)


@tasks.register(name="discard", retry=Retry(times=1, times_exceeded=LastAction.Discard))
def discard(tag):
    ran(tag)
    raise ValueError(tag)


@tasks.register(name="raw", retry=Retry(times=3, delay=0))
def raw(payload, **nothing):
    """The task of a raw topic: the argument is a message as it was, the tag, perhaps after "again"."""
    assert type(payload) is bytes and not nothing
    words = payload.decode().split()
    ran(words[-1])
    with open(os.environ["EXAMPLE_RUNS"]) as runs:
        if words[0] == "again" and sum(f" {words[-1]} " in line for line in runs) < 2:
            raise RetryTaskError()


@tasks.register(name="sleep", processing_deadline_duration=2)
def sleep(tag, seconds):
    ran(tag)
    time.sleep(seconds)


@tasks.register(name="kill_on_first")
def kill_on_first(tag, marker):
    ran(tag)
    if not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)


def send(orders):
    for order in orders:
        app.taskregistry.get_task("tasks", order["task"]).apply_async(
            args=order.get("args", []), kwargs=order.get("kwargs", {}), expires=order.get("expires"),
            countdown=order.get("countdown"))
    producer(None).close().result(timeout=20)  # flushes


def work(address, concurrency):
    worker = TaskWorker(app_module="clients.example_app:app", broker_hosts=[address],
                        concurrency=int(concurrency), process_type="spawn")
    return worker.start()


if multiprocessing.parent_process() is not None:
    # A worker that a test kills takes its children along.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

if __name__ == "__main__":
    if sys.argv[1] == "worker":
        sys.exit(work(*sys.argv[2:]))
    send(json.load(sys.stdin))
