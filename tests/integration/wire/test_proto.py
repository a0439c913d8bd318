# SPDX-License-Identifier: Apache-2.0
"""proto/ describes the same wire as the published schemas: numbers, names, types, presence, methods."""

import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_tools import protoc
from sentry_protos.taskbroker.v1 import taskbroker_pb2

PROTO = Path(__file__).resolve().parents[3] / "proto"


def compiled(name):
    with tempfile.NamedTemporaryFile() as out:
        include = Path(protoc.__file__).parent / "_proto"
        assert protoc.main(["protoc", f"-I{PROTO}", f"-I{include}", f"--descriptor_set_out={out.name}",
                            name]) == 0
        (file,) = descriptor_pb2.FileDescriptorSet.FromString(Path(out.name).read_bytes()).file
    return file


def published(module):
    file = descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    return file


OURS = 2001  # fields from here on are Taskmill's, in messages of the published schema


def field(f):
    return f.name, f.type, f.label, f.type_name, f.proto3_optional


def fields(message):
    return {f.number: field(f) for f in message.field if f.number < OURS}


def messages(file):
    return {m.name: fields(m) for m in file.message_type}


def values(enum):
    return {v.number: v.name for v in enum.value}


def enums(file):
    return {e.name: values(e) for e in file.enum_type}


def methods(file):
    return {s.name: {m.name: (m.input_type, m.output_type, m.client_streaming, m.server_streaming)
                     for m in s.method}
            for s in file.service}


def test_taskbroker_is_the_published_schema():
    ours = compiled("sentry_protos/taskbroker/v1/taskbroker.proto")
    theirs = published(taskbroker_pb2)
    assert ours.package == theirs.package
    assert messages(ours) == messages(theirs)
    assert enums(ours) == enums(theirs)
    assert methods(ours) == methods(theirs)


def test_extensions_of_the_taskbroker_schema():
    """Nothing else is added to the published messages, and unknown fields keep it out of old clients' way."""
    asked, told = (OURS, ("taskmill_wants_claim", 8, 1, "", False)), (OURS, ("taskmill_claim", 6, 1, "", True))
    ours = compiled("sentry_protos/taskbroker/v1/taskbroker.proto")
    assert {m.name: (f.number, field(f)) for m in ours.message_type for f in m.field if f.number >= OURS} == {
        "GetTaskRequest": asked, "FetchNextTask": asked,
        "GetTaskResponse": told, "SetTaskStatusResponse": told}
    response = bytes.fromhex("897d0807060504030201") + taskbroker_pb2.GetTaskResponse(
        task=taskbroker_pb2.TaskActivation(id="a")).SerializeToString()
    assert taskbroker_pb2.GetTaskResponse.FromString(response).task.id == "a"
    assert taskbroker_pb2.GetTaskRequest.FromString(bytes.fromhex("887d01")).WhichOneof("_namespace") is None


def test_worker():
    file = compiled("taskmill/v1/worker.proto")
    assert messages(file) == {
        "GivenBack": {1: ("id", 9, 1, "", False), 2: ("claim", 6, 1, "", False)},
        "GiveBackRequest": {1: ("tasks", 11, 3, ".taskmill.v1.GivenBack", False)},
        "GiveBackResponse": {1: ("returned", 13, 1, "", False), 2: ("ignored", 13, 1, "", False)},
    }
    assert methods(file) == {"WorkerService": {
        "GiveBack": (".taskmill.v1.GiveBackRequest", ".taskmill.v1.GiveBackResponse", False, False)}}


def test_health_is_part_of_the_published_schema():
    ours, theirs = compiled("grpc/health/v1/health.proto"), published(health_pb2)
    assert ours.package == theirs.package
    reference = messages(theirs)
    assert messages(ours).items() <= reference.items()
    assert values(ours.message_type[1].enum_type[0]) == {
        v.number: v.name for v in health_pb2.HealthCheckResponse.DESCRIPTOR.enum_types[0].values}
    assert methods(ours)["Health"].items() <= methods(theirs)["Health"].items()


def test_producer():
    assert messages(compiled("taskmill/v1/producer.proto")) == {
        "EnqueueRequest": {1: ("activations", 12, 3, "", False), 2: ("topic", 9, 1, "", True)},
        "EnqueueResponse": {1: ("ids", 9, 3, "", False)},
    }
    assert methods(compiled("taskmill/v1/producer.proto")) == {
        "ProducerService": {"Enqueue": (".taskmill.v1.EnqueueRequest", ".taskmill.v1.EnqueueResponse",
                                        False, False)}}


def test_reflection_is_the_published_schema_in_both_versions():
    alpha = compiled("grpc/reflection/v1alpha/reflection.proto")
    theirs = published(reflection_pb2)
    assert alpha.package == theirs.package
    assert messages(alpha) == messages(theirs)
    assert methods(alpha) == methods(theirs)
    # There is no Python package of v1, which is the same but for its name.
    v1 = compiled("grpc/reflection/v1/reflection.proto")
    assert v1.package == "grpc.reflection.v1"
    assert {m.name: [(f.number, f.name, f.type) for f in m.field] for m in v1.message_type} == \
        {m.name: [(f.number, f.name, f.type) for f in m.field] for m in alpha.message_type}
    (method,) = v1.service[0].method
    assert (method.name, method.client_streaming, method.server_streaming) == \
        ("ServerReflectionInfo", True, True)


def test_the_servers_descriptors_are_those_of_proto():
    """src/rpc/reflection_data.c is what scripts/reflection_data.py makes of proto/ today."""
    script = PROTO.parent / "scripts/reflection_data.py"
    made = subprocess.run([sys.executable, script, "--print"], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert made.stdout == (PROTO.parent / "src/rpc/reflection_data.c").read_text(), \
        "run scripts/reflection_data.py"
