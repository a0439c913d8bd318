# SPDX-License-Identifier: Apache-2.0
"""The harness itself: what the other tests rely on holds."""

import subprocess
from concurrent import futures

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from sentry_protos.taskbroker.v1 import taskbroker_pb2 as pb

from harness.kafka import Committed
from harness.process import Process, free_port, wait_for
from harness.rpc import COMPLETE, CONSUMER, activation, message, schema


def test_kafka_round_trip(kafka):
    topic = kafka.unique_topic("round", partitions=3)
    payloads = [b"payload %d" % i for i in range(300)] + [None]

    places = kafka.produce(topic, payloads, headers=[("reason", b"because")])

    records = kafka.consume_all(topic)
    by_place = {(r.partition, r.offset): r for r in records}
    assert [by_place[place].value for place in places] == payloads
    assert {r.header("reason") for r in records} == {"because"}
    assert sum(kafka.end_offsets(topic).values()) == 301


def test_kafka_produce_to_one_partition_keeps_order(kafka):
    topic = kafka.unique_topic("order", partitions=2)
    assert kafka.produce(topic, [b"a", b"b", b"c"], partition=1) == [(1, 0), (1, 1), (1, 2)]
    assert [(r.partition, r.value) for r in kafka.consume_all(topic)] == [(1, b"a"), (1, b"b"), (1, b"c")]


def test_kafka_committed_offsets_with_metadata(kafka):
    topic = kafka.unique_topic("commits", partitions=2)
    assert kafka.committed("some-group", topic) == {}
    kafka.commit("some-group", topic, {0: 7}, metadata="store-1@0,store-2@5")
    assert kafka.committed("some-group", topic) == {0: Committed(7, "store-1@0,store-2@5")}
    assert kafka.wait_committed("some-group", topic, {0: 7})[0].offset == 7


def test_kafka_add_partitions_and_delete(kafka):
    topic = kafka.unique_topic("grow")
    kafka.add_partitions(topic, 3)
    assert kafka.partitions(topic) == [0, 1, 2]
    kafka.delete_topic(topic)
    assert not kafka.has_topic(topic)


def test_kafka_keeps_data_and_address_over_outages(own_kafka):
    topic = own_kafka.unique_topic("outage")
    own_kafka.produce(topic, [b"before"])
    own_kafka.stop()
    assert not own_kafka.running
    own_kafka.start()
    own_kafka.produce(topic, [b"after"])
    own_kafka.kill9()
    own_kafka.start()
    assert [r.value for r in own_kafka.consume_all(topic)] == [b"before", b"after"]


def test_client_environments_have_the_pinned_release(client_version, client_python):
    done = subprocess.run(
        [client_python, "-c", "import importlib.metadata as m, taskbroker_client.app;"
         "print(m.version('taskbroker-client'))"], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == client_version, done.stderr


class ModelBroker:
    """Serves GetTask and SetTaskStatus with reference code, to test our client helper alone."""

    def __init__(self, tasks):
        self.tasks = list(tasks)
        self.statuses = []
        self.signatures = []

    def get_task(self, request, context):
        self.signatures.append(dict(context.invocation_metadata()).get("sentry-signature"))
        if not self.tasks:
            context.abort(grpc.StatusCode.NOT_FOUND, "no task")
        return pb.GetTaskResponse(task=self.tasks.pop(0))

    def set_status(self, request, context):
        self.statuses.append((request.id, request.status))
        if not request.HasField("fetch_next_task"):
            return pb.SetTaskStatusResponse()
        if not self.tasks:
            context.abort(grpc.StatusCode.NOT_FOUND, "no task")
        return pb.SetTaskStatusResponse(task=self.tasks.pop(0))

    def handler(self):
        def unary(function, request_class):
            return grpc.unary_unary_rpc_method_handler(
                function, request_class.FromString, lambda reply: reply.SerializeToString())
        return grpc.method_handlers_generic_handler(CONSUMER, {
            "GetTask": unary(self.get_task, pb.GetTaskRequest),
            "SetTaskStatus": unary(self.set_status, pb.SetTaskStatusRequest),
        })


@pytest.fixture
def model():
    it = ModelBroker([activation("first"), activation("second")])
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((it.handler(),))
    checks = health.HealthServicer()
    checks.set(CONSUMER, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    it.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield it
    server.stop(None)


def test_grpc_client_speaks_the_reference_schema(model, grpc_client):
    client = grpc_client(model)
    assert client.health() == "SERVING"
    assert client.health("nobody") == "NOT_FOUND"
    first = client.get_task(application="app")
    second = client.set_status(first.id, COMPLETE, fetch_next={"application": "app"})
    assert (first.taskname, second.taskname) == ("first", "second")
    assert client.set_status(second.id, COMPLETE, fetch_next=True) is None
    assert client.get_task() is None
    assert model.statuses == [(first.id, COMPLETE), (second.id, COMPLETE)]


def test_grpc_client_signs(model, grpc_client):
    grpc_client(model, secret="secret").get_task(application="sentry")
    assert model.signatures == ["f190efe218d02d9c0f1f6c8793029d8b46e230873bbe2ec5d96be5bf2c154944"]


def test_process_reports_exit_code_and_output(tmp_path):
    child = Process(["sh", "-c", "echo out; echo err >&2; exit 3"], tmp_path / "log")
    assert child.wait() == 3
    assert sorted(child.log().split()) == ["err", "out"]
    sleeper = Process(["sleep", "60"], tmp_path / "log2")
    assert sleeper.kill9() == -9


def test_wait_for_says_what_it_waited_for():
    with pytest.raises(AssertionError, match="waiting for the moon"):
        wait_for(lambda: False, "the moon", timeout_s=0.05)


def test_free_ports_differ():
    assert len({free_port() for _ in range(50)}) == 50


def schema_of(pool, name):
    """{field: (number, type, label, explicit presence)} of a message, or {name: number} of an enum."""
    if name.endswith(("Status", "Exceeded")):
        return {value.name: value.number for value in pool.FindEnumTypeByName(name).values}
    return {f.name: (f.number, f.type, f.label, f.has_presence)
            for f in pool.FindMessageTypeByName(name).fields}


@pytest.mark.parametrize("name", [
    "TaskActivation", "RetryState", "GetTaskRequest", "GetTaskResponse", "FetchNextTask",
    "SetTaskStatusRequest", "SetTaskStatusResponse", "SetBatchActivationStatusRequest",
    "OnAttemptsExceeded", "TaskActivationStatus"])
def test_proto_text_equals_the_reference_schema(name):
    full = f"sentry_protos.taskbroker.v1.{name}"
    ours = schema_of(schema(), full)
    if not name.endswith(("Status", "Exceeded")):  # our extensions: wire/test_proto.py has them all
        ours = {field: about for field, about in ours.items() if about[0] < 2001}
    assert ours == schema_of(pb.DESCRIPTOR.pool, full)


def test_producer_messages_are_those_that_enqueue_uses():
    request = message("taskmill.v1.EnqueueRequest")()
    request.activations.append(activation().SerializeToString())
    request.topic = "topic"
    assert message("taskmill.v1.EnqueueResponse")().ids == []


def test_redis_keeps_its_data_and_can_be_stopped(redis):
    assert redis.cli("SET", "key", "value", "NX", "EX", "100") == "OK"
    assert redis.cli("SET", "key", "other", "NX") == ""
    redis.kill9()
    redis.start()
    assert redis.cli("GET", "key") == "value" and redis.keys() == ["key"]
    redis.stop()
    assert not redis.running
