# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the integration tests: real servers and real clients around our programs.

Run them with `tests/integration/run [pytest arguments]` (it makes the pinned environment first), or
`./dev test integration`. TASKMILL_BUILD=build-asan picks other programs than those of build/.

    def test_it(kafka, broker):
        b = broker(kafka=kafka)                     # fresh topics, folder and ports; SERVING
        kafka.produce(b.topic, [activation("t").SerializeToString()])
        with b.client() as client:
            task = client.get_task(timeout_s=10)
            client.set_status(task.id, COMPLETE)
        b.stop()                                    # SIGTERM, must exit 0

kafka           session: a real Apache Kafka 3.9.1 (harness/kafka.py): bootstrap, create_topic,
                unique_topic, produce, consume_all, wait_records, committed (offset and metadata),
                commit, wait_committed, add_partitions, delete_topic. Do not stop this one.
own_kafka       the same for one test alone, which may stop(), start(), kill9(), pause(), resume() it.
broker          factory (harness/broker.py): broker(kafka=..., config={...}, env={...}, start=True) gives
                a Broker: start, stop, kill9, wait, wait_log, log, sql, statuses, client, address,
                folder, topic, dlq_topic, group. Each is ended after the test; a broker that died by
                itself, or does not exit 0 on SIGTERM, fails the test unless the test ended it.
grpc_client     factory: grpc_client(broker or "host:port", secret=None) gives a harness.rpc.Client:
                get_task, set_status, set_statuses, enqueue, health, health_watch, call, raw.
redis           a real redis-server for one test (harness/redis.py): url, port, cli("GET", key), keys(),
                stop, start, kill9, pause, resume.
client_version  parametrised: "0.20.30" and "26.5.0", the pinned releases of taskbroker-client.
client_python   path of the python of an environment with that release, for subprocesses.

Import what else is needed: `from harness.rpc import activation, COMPLETE, RETRY, ...`,
`from harness.process import Process, free_port, wait_for`. Wait with wait_for, never with sleep.
A child started with Process is killed with the test run. Mark a test that needs more than 30 s with
@pytest.mark.slow, and one that needs more than the default limit of 120 s with
@pytest.mark.timeout(seconds). `./dev test` runs the tests beside each other (pytest -n 2, each worker with a
Kafka of its own), then those marked @pytest.mark.alone one by one: they measure times or load the processors.
A test without the mark may find the machine busy: its limits are for a hang, not for speed.
"""

import pytest

from harness import cache
from harness.broker import Broker
from harness.kafka import Kafka
from harness.redis import Redis
from harness.rpc import Client

CLIENT_VERSIONS = ["0.20.30", "26.5.0"]


@pytest.fixture(scope="session")
def kafka(tmp_path_factory):
    server = Kafka(tmp_path_factory.mktemp("kafka"))
    server.start()
    yield server
    server.kill9()


@pytest.fixture
def own_kafka(tmp_path):
    server = Kafka(tmp_path / "kafka")
    server.start()
    yield server
    server.kill9()


@pytest.fixture
def redis(tmp_path):
    server = Redis(tmp_path / "redis")
    server.start()
    yield server
    server.kill9()


def _kafka_config(kafka, name, partitions):
    """Legacy flat keys: one consumed topic and its dead-letter topic on one cluster."""
    topic = kafka.unique_topic(name, partitions)
    return {
        "kafka_cluster": kafka.bootstrap,
        "kafka_topic": topic,
        "kafka_consumer_group": f"{topic}-group",
        "kafka_deadletter_cluster": kafka.bootstrap,
        "kafka_deadletter_topic": kafka.create_topic(f"{topic}-dlq"),
        "kafka_auto_offset_reset": "earliest",
    }


@pytest.fixture
def broker(tmp_path):
    """Factory: broker(kafka=None, config=None, env=None, start=True, partitions=1, name=..., argv=None).

    With kafka: a fresh topic, dead-letter topic and group are configured (attributes topic, dlq_topic,
    group) unless config brings its own kafka_topics or kafka_topic. Without: `embedded: true`.
    """
    made = []

    def make(kafka=None, config=None, env=None, start=True, partitions=1, name=None, argv=None):
        name = name or f"broker{len(made)}"
        config = dict(config or {})
        if "kafka_topics" not in config and "kafka_topic" not in config:
            base = {"embedded": True} if kafka is None else _kafka_config(kafka, name, partitions)
            config = {**base, **config}
        it = Broker(tmp_path / name, config, env, argv)
        it.topic = config.get("kafka_topic")
        it.dlq_topic = config.get("kafka_deadletter_topic")
        it.group = config.get("kafka_consumer_group")
        made.append(it)
        return it.start() if start else it

    yield make
    try:
        for it in made:
            if it.running:
                it.stop()
    finally:
        for it in made:
            it.kill9()


@pytest.fixture
def grpc_client():
    made = []

    def make(target, **options):
        client = Client(getattr(target, "address", target), **options)
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


@pytest.fixture(params=CLIENT_VERSIONS)
def client_version(request):
    return request.param


@pytest.fixture
def client_python(client_version):
    return cache.venv(f"client-{client_version}")
