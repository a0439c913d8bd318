# SPDX-License-Identifier: Apache-2.0
"""`taskmill worker` as a process, and a broker in a few lines of Python for what a real one never does."""

import signal
import threading
import time
from concurrent import futures

import grpc
import yaml
from sentry_protos.taskbroker.v1 import taskbroker_pb2 as pb

from harness.broker import build_folder, program
from harness.process import Process, wait_for
from harness.rpc import CONSUMER, WORKER, message

MODULE = "examples/demo_tasks.so"


class Worker:
    """Dies with the test. Its folder holds tasks.yml (from `commands`) and the log. Without hosts, the
    arguments name them."""

    def __init__(self, folder, hosts, commands=None, modules=(), arguments=(), env=None, program_path=None):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        argv = [program_path or program(), "worker"]
        if hosts:
            argv += ["--rpc-host-list", ",".join(hosts)]
        for module in modules:
            argv += ["--module", build_folder() / module]
        if commands is not None:
            (folder / "tasks.yml").write_text(yaml.safe_dump(commands))
            argv += ["--commands", folder / "tasks.yml"]
        self._process = Process([*argv, *arguments], folder / "worker.txt", env=env, cwd=folder)
        self.wait_log("worker started")

    def log(self):
        return self._process.log()

    def wait_log(self, text, count=1, timeout_s=20):
        wait_for(lambda: self.log().count(text) >= count or not self._process.running,
                 lambda: f"'{text}' in:\n{self.log()[-4000:]}", timeout_s)
        assert self.log().count(text) >= count, self.log()[-4000:]

    @property
    def pid(self):
        return self._process.pid

    @property
    def running(self):
        return self._process.running

    def signal(self, number):
        self._process.signal(number)

    def wait(self, timeout_s=20):
        return self._process.wait(timeout_s)

    def stop(self):
        self.signal(signal.SIGTERM)
        code = self.wait()
        assert code == 0, f"exit {code}:\n{self.log()[-4000:]}"

    def kill9(self):
        self._process.kill9()


class FakeBroker:
    """Hands out what is put in `tasks`, answers "no task" at once like the original, keeps the reports.

    pause_s how long GetTask thinks before it looks for a task
    fail    answers of SetTaskStatus before it starts to accept: a list of grpc.StatusCode
    claims  numbers of the tasks that were handed out, by id; None, as at first: it has no such numbers
    given_back  ids of tasks; give_back_fail: answers before it starts to accept, as in `fail`;
            as long as that is None, UNIMPLEMENTED
    """

    def __init__(self):
        self.tasks = []
        self.reports = []
        self.fail = []
        self.asked = []
        self.pause_s = 0
        self.claims = None
        self.given_back = []
        self.give_back_fail = None
        self._lock = threading.Lock()
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        methods = {
            "GetTask": (self._get_task, pb.GetTaskRequest, pb.GetTaskResponse),
            "SetTaskStatus": (self._set_status, pb.SetTaskStatusRequest, pb.SetTaskStatusResponse),
        }
        handlers = {name: grpc.unary_unary_rpc_method_handler(
            function, request_deserializer=request.FromString,
            response_serializer=response.SerializeToString)
            for name, (function, request, response) in methods.items()}
        give_back = grpc.unary_unary_rpc_method_handler(
            self._give_back, request_deserializer=message("taskmill.v1.GiveBackRequest").FromString,
            response_serializer=message("taskmill.v1.GiveBackResponse").SerializeToString)
        self._server.add_generic_rpc_handlers((
            grpc.method_handlers_generic_handler(CONSUMER, handlers),
            grpc.method_handlers_generic_handler(WORKER, {"GiveBack": give_back})))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _next(self):
        with self._lock:
            return self.tasks.pop(0) if self.tasks else None

    def _get_task(self, request, context):
        with self._lock:
            self.asked.append(request)
        time.sleep(self.pause_s)
        task = self._next()
        if task is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "No pending activation")
        return self._with_claim(pb.GetTaskResponse(task=task))

    def _with_claim(self, response):
        """Field 2001, as an unknown field of the published schema."""
        if self.claims is not None and response.HasField("task"):
            with self._lock:
                number = self.claims[response.task.id] = len(self.claims) + 1
            response.MergeFromString(bytes.fromhex("897d") + number.to_bytes(8, "little"))
        return response

    def _give_back(self, request, context):
        with self._lock:
            fail = self.give_back_fail
            failure = grpc.StatusCode.UNIMPLEMENTED if fail is None else fail.pop(0) if fail else None
            mine = [entry.id for entry in request.tasks if (self.claims or {}).get(entry.id) == entry.claim]
            if failure is None:
                self.given_back += mine
        if failure is not None:
            context.abort(failure, "planned")
        return message("taskmill.v1.GiveBackResponse")(returned=len(mine),
                                                       ignored=len(request.tasks) - len(mine))

    def _set_status(self, request, context):
        with self._lock:
            failure = self.fail.pop(0) if self.fail else None
            if failure is None:
                self.reports.append(request)
        if failure is not None:
            context.abort(failure, "planned")
        task = self._next() if request.HasField("fetch_next_task") else None
        return self._with_claim(pb.SetTaskStatusResponse(task=task))

    def wait_reports(self, count, timeout_s=20):
        wait_for(lambda: len(self.reports) >= count, lambda: f"{count} reports: {self.reports}", timeout_s)
        return self.reports

    def stop(self):
        self._server.stop(0)
