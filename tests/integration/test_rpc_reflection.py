# SPDX-License-Identifier: Apache-2.0
"""Reflection as tools use it: grpcio-reflection's client, and grpcurl's way in both versions."""

import hashlib
import hmac
import queue

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from sentry_protos.taskbroker.v1 import taskbroker_pb2 as pb

from harness.rpc import CONSUMER, HEALTH, PRODUCER, WORKER, activation, message

VERSIONS = ["v1", "v1alpha"]
SERVICES = {CONSUMER, PRODUCER, WORKER, HEALTH, "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection"}


class Tool:
    """One reflection stream, request by request as grpcurl does it: the next after the answer."""

    def __init__(self, client, version, secret=None):
        self.package = f"grpc.reflection.{version}"
        self.path = f"/{self.package}.ServerReflection/ServerReflectionInfo"
        self.reply_class = message(f"{self.package}.ServerReflectionResponse")
        self._secret = secret
        self._client = client
        self._requests = queue.Queue()
        self._stream = None

    def ask(self, **fields):
        body = message(f"{self.package}.ServerReflectionRequest")(**fields).SerializeToString()
        if self._stream is None:
            metadata = []
            if self._secret is not None:
                digest = hmac.new(self._secret.encode(), self.path.encode() + b":" + body, hashlib.sha256)
                metadata = [("sentry-signature", digest.hexdigest())]
            self._stream = self._client.channel.stream_stream(self.path)(
                iter(self._requests.get, None), timeout=10, metadata=metadata)
        self._requests.put(body)
        return self.reply_class.FromString(next(self._stream))

    def services(self):
        return {s.name for s in self.ask(list_services="*").list_services_response.service}

    def files(self, **fields):
        reply = self.ask(**fields)
        return [descriptor_pb2.FileDescriptorProto.FromString(file)
                for file in reply.file_descriptor_response.file_descriptor_proto]

    def error(self, **fields):
        reply = self.ask(**fields)
        assert reply.WhichOneof("message_response") == "error_response"
        return reply.error_response.error_code

    def close(self):
        """Half-closes; the stream must end well."""
        self._requests.put(None)
        assert list(self._stream) == []
        assert self._stream.code() == grpc.StatusCode.OK


@pytest.mark.parametrize("version", VERSIONS)
def test_a_tool_without_any_schema_calls_the_broker(broker, grpc_client, version):
    client = grpc_client(broker())
    tool = Tool(client, version)
    assert tool.services() == SERVICES
    pool = descriptor_pool.DescriptorPool()
    for service in SERVICES:
        for file in reversed(tool.files(file_containing_symbol=service)):
            pool.Add(file)
    # Every method of every service can be called with what the tool has learnt.
    for service in SERVICES:
        for method in pool.FindServiceByName(service).methods:
            message_factory.GetMessageClass(method.input_type)()
            message_factory.GetMessageClass(method.output_type)()
    task = activation()
    enqueue = pool.FindMethodByName(f"{PRODUCER}.Enqueue")
    request = message_factory.GetMessageClass(enqueue.input_type)(activations=[task.SerializeToString()])
    client.raw(f"/{PRODUCER}/Enqueue", request.SerializeToString())
    get_task = pool.FindMethodByName(f"{CONSUMER}.GetTask")
    reply = message_factory.GetMessageClass(get_task.output_type).FromString(
        client.raw(f"/{CONSUMER}/GetTask", b""))
    assert reply.task.SerializeToString(deterministic=True) == task.SerializeToString(deterministic=True)

    (timestamp,) = tool.files(file_by_filename="google/protobuf/timestamp.proto")
    assert timestamp.message_type[0].name == "Timestamp"
    assert tool.error(file_by_filename="no.proto") == 5
    assert tool.error(file_containing_symbol="no.Symbol") == 5
    assert tool.error(file_containing_extension={"containing_type": f"{CONSUMER}", "extension_number": 1}) == 5
    assert tool.error(all_extension_numbers_of_type="no.Type") == 5
    numbers = tool.ask(all_extension_numbers_of_type="taskmill.v1.EnqueueRequest", host="me")
    assert list(numbers.all_extension_numbers_response.extension_number) == []
    assert numbers.valid_host == "me" and numbers.original_request.host == "me"
    tool.close()


def test_grpcio_reflections_own_client(broker, grpc_client):
    client = grpc_client(broker())
    database = ProtoReflectionDescriptorDatabase(client.channel)
    assert set(database.get_services()) == SERVICES
    pool = descriptor_pool.DescriptorPool(database)
    for service in SERVICES:
        assert pool.FindServiceByName(service).methods
    theirs = pb.DESCRIPTOR.message_types_by_name["TaskActivation"]
    ours = pool.FindMessageTypeByName("sentry_protos.taskbroker.v1.TaskActivation")
    assert {f.name: (f.number, f.type) for f in ours.fields} == {f.name: (f.number, f.type)
                                                                for f in theirs.fields}


@pytest.mark.parametrize("version", VERSIONS)
def test_reflection_needs_the_signature(broker, grpc_client, version):
    client = grpc_client(broker(config={"grpc_shared_secret": ["first", "second"]}))
    for secret in (None, "third"):
        with pytest.raises(grpc.RpcError) as refused:
            Tool(client, version, secret).services()
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert refused.value.details() == "Authentication failed"
    for secret in ("first", "second"):
        tool = Tool(client, version, secret)
        assert tool.services() == SERVICES
        assert tool.files(file_containing_symbol=HEALTH)
        tool.close()
