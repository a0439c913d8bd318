# SPDX-License-Identifier: Apache-2.0
"""A Python grpcio client for every call of the broker.

The compatible messages come from the reference schema (package sentry-protos); what only Taskmill
has (taskmill.v1) is compiled from proto/ into a descriptor pool of its own, so that proto/ can hold
the compatible schema too without a clash.
"""

import functools
import hashlib
import hmac
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import grpc
import msgpack
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2
from sentry_protos.taskbroker.v1 import taskbroker_pb2 as pb

from harness import cache

CONSUMER = "sentry_protos.taskbroker.v1.ConsumerService"
PRODUCER = "taskmill.v1.ProducerService"
WORKER = "taskmill.v1.WorkerService"
HEALTH = "grpc.health.v1.Health"

PENDING = pb.TASK_ACTIVATION_STATUS_PENDING
PROCESSING = pb.TASK_ACTIVATION_STATUS_PROCESSING
FAILURE = pb.TASK_ACTIVATION_STATUS_FAILURE
RETRY = pb.TASK_ACTIVATION_STATUS_RETRY
COMPLETE = pb.TASK_ACTIVATION_STATUS_COMPLETE
DISCARD = pb.ON_ATTEMPTS_EXCEEDED_DISCARD
DEADLETTER = pb.ON_ATTEMPTS_EXCEEDED_DEADLETTER

OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1),
           ("grpc.enable_retries", 0)]


@functools.cache
def schema(folder=None):
    """Descriptor pool of every .proto under `folder` (default: proto/ of the repository)."""
    folder = Path(folder or cache.ROOT / "proto")
    sources = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.proto"))
    assert sources, f"no .proto file under {folder}"
    with tempfile.NamedTemporaryFile() as compiled:
        done = subprocess.run(
            [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", "--include_imports",
             f"--descriptor_set_out={compiled.name}", *sources],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, f"protoc: {done.stdout}"
        files = descriptor_pb2.FileDescriptorSet.FromString(Path(compiled.name).read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool


def message(name, folder=None):
    """Class of a message of proto/, by full name: message("taskmill.v1.EnqueueRequest")."""
    return message_factory.GetMessageClass(schema(folder).FindMessageTypeByName(name))


def activation(taskname="task", *, args=(), kwargs=None, namespace="ns", application="app", id=None,
               headers=None, deadline_s=10, expires=None, delay=None, retry_state=None,
               at_most_once=None, max_attempts=None, on_exceeded=DISCARD, attempts=0,
               delay_on_retry=None, parameters_bytes=None):
    """A TaskActivation as the Python client of today sends it; every field can be overridden."""
    task = pb.TaskActivation(
        id=id or uuid.uuid4().hex, namespace=namespace, taskname=taskname, application=application,
        headers=headers or {}, processing_deadline_duration=deadline_s, expires=expires, delay=delay,
        parameters_bytes=msgpack.packb({"args": list(args), "kwargs": kwargs or {}})
        if parameters_bytes is None else parameters_bytes)
    task.received_at.FromNanoseconds(time.time_ns() // 1000 * 1000)
    if retry_state is not None:
        task.retry_state.CopyFrom(retry_state)
    else:
        task.retry_state.attempts = attempts
        task.retry_state.max_attempts = 1 if max_attempts is None else max_attempts
        task.retry_state.on_attempts_exceeded = on_exceeded
        if max_attempts is None:
            task.retry_state.at_most_once = bool(at_most_once)
        if delay_on_retry is not None:
            task.retry_state.delay_on_retry = delay_on_retry
    return task


class Client:
    """One channel to one broker. Failed calls raise grpc.RpcError, except where a method says other."""

    def __init__(self, address, secret=None, credentials=None, options=()):
        options = OPTIONS + list(options)
        if credentials is None:
            self.channel = grpc.insecure_channel(address, options)
        else:
            self.channel = grpc.secure_channel(address, credentials, options)
        self.secret = secret

    def close(self):
        self.channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def raw(self, path, body, timeout_s=10.0, metadata=(), **options):
        """Unary call with bytes in and bytes out, signed if there is a secret. Path: /service/Method."""
        metadata = list(metadata)
        if self.secret is not None:
            digest = hmac.new(self.secret.encode(), path.encode() + b":" + body, hashlib.sha256)
            metadata.append(("sentry-signature", digest.hexdigest()))
        return self.channel.unary_unary(path)(body, timeout=timeout_s, metadata=metadata, **options)

    def call(self, service, method, request, reply_class, **options):
        body = self.raw(f"/{service}/{method}", request.SerializeToString(), **options)
        return reply_class.FromString(body)

    # --- worker's calls

    def get_task(self, namespace=None, application=None, **options):
        """The activation, or None for NOT_FOUND. An empty queue holds the call: see grpc_long_poll_ms."""
        request = pb.GetTaskRequest(namespace=namespace, application=application)
        try:
            reply = self.call(CONSUMER, "GetTask", request, pb.GetTaskResponse, **options)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return None
            raise
        return reply.task if reply.HasField("task") else None

    def set_status(self, id, status, fetch_next=None, max_attempts=None, delay_on_retry=None, **options):
        """Reports a status. fetch_next: True, or a dict of FetchNextTask's fields; returns the next
        activation or None."""
        request = pb.SetTaskStatusRequest(id=id, status=status, max_attempts=max_attempts,
                                          delay_on_retry=delay_on_retry)
        if fetch_next is not None and fetch_next is not False:
            fields = {} if fetch_next is True else fetch_next
            request.fetch_next_task.CopyFrom(pb.FetchNextTask(**fields))
        try:
            reply = self.call(CONSUMER, "SetTaskStatus", request, pb.SetTaskStatusResponse, **options)
        except grpc.RpcError as error:
            if fetch_next and error.code() == grpc.StatusCode.NOT_FOUND:
                return None
            raise
        return reply.task if reply.HasField("task") else None

    def set_statuses(self, updates, **options):
        """SetBatchActivationStatus of [(id, status), ...] or of SetTaskStatusRequest messages."""
        request = pb.SetBatchActivationStatusRequest(updates=[
            pb.SetTaskStatusRequest(id=u[0], status=u[1]) if isinstance(u, tuple) else u
            for u in updates])
        self.call(CONSUMER, "SetBatchActivationStatus", request, pb.SetBatchActivationStatusResponse,
                  **options)

    def claim(self, **options):
        """(activation, number of the claim), by Taskmill's extension of GetTask."""
        request = message(f"{pb.DESCRIPTOR.package}.GetTaskRequest")(taskmill_wants_claim=True)
        reply = self.call(CONSUMER, "GetTask", request, message(f"{pb.DESCRIPTOR.package}.GetTaskResponse"),
                          **options)
        return pb.TaskActivation.FromString(reply.task.SerializeToString()), reply.taskmill_claim

    def give_back(self, claims, **options):
        """taskmill.v1.WorkerService/GiveBack of [(id, claim), ...]: (returned, ignored)."""
        request = message("taskmill.v1.GiveBackRequest")()
        for id, claim in claims:
            request.tasks.add(id=id, claim=claim)
        reply = self.call(WORKER, "GiveBack", request, message("taskmill.v1.GiveBackResponse"), **options)
        return reply.returned, reply.ignored

    # --- producer's call

    def enqueue(self, activations, topic=None, **options):
        """taskmill.v1.ProducerService/Enqueue of messages or bytes; returns the reply."""
        request = message("taskmill.v1.EnqueueRequest")()
        request.activations.extend(a if isinstance(a, bytes) else a.SerializeToString()
                                   for a in activations)
        if topic is not None:
            request.topic = topic
        return self.call(PRODUCER, "Enqueue", request, message("taskmill.v1.EnqueueResponse"), **options)

    # --- health

    def health(self, service=CONSUMER, timeout_s=2.0):
        """"SERVING", "NOT_SERVING", or the name of the grpc status if the call failed."""
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            reply = self.channel.unary_unary(f"/{HEALTH}/Check")(request.SerializeToString(),
                                                                 timeout=timeout_s)
        except grpc.RpcError as error:
            return error.code().name
        status = health_pb2.HealthCheckResponse.FromString(reply).status
        return health_pb2.HealthCheckResponse.ServingStatus.Name(status)

    def health_watch(self, service=CONSUMER, timeout_s=30.0):
        """Iterator over the names of the states that Watch sends."""
        request = health_pb2.HealthCheckRequest(service=service)
        stream = self.channel.unary_stream(f"/{HEALTH}/Watch")(request.SerializeToString(),
                                                               timeout=timeout_s)
        for body in stream:
            status = health_pb2.HealthCheckResponse.FromString(body).status
            yield health_pb2.HealthCheckResponse.ServingStatus.Name(status)
