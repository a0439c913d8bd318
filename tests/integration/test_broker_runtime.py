# SPDX-License-Identifier: Apache-2.0
"""The runtime configuration: killswitch, demoted namespaces, reload, and canary tasks."""

import re
import signal

import pytest
import yaml
from sentry_protos.taskbroker.v1 import taskbroker_pb2 as pb

from harness.cache import INTEGRATION, venv
from harness.process import Process, wait_for
from harness.rpc import COMPLETE, RETRY, activation


def rules(drop=(), demoted=(), **more):
    return {"drop_task_killswitch": list(drop), "demoted_namespaces": list(demoted), **more}


class Rules:
    """The runtime configuration file of a broker."""

    def __init__(self, path):
        self.path = path

    def write(self, text):
        self.path.write_text(text if isinstance(text, str) else yaml.safe_dump(text))

    def change(self, broker, **what):
        """Writes it and waits until the broker has it: far below the minute of its own poll."""
        before = broker.log().count("Reloaded new runtime config")
        self.write(rules(**what))
        broker.signal(signal.SIGHUP)
        wait_for(lambda: broker.log().count("Reloaded new runtime config") > before, "the reload", 10)


@pytest.fixture
def file(tmp_path):
    it = Rules(tmp_path / "runtime.yml")
    it.write(rules())
    return it


def at(file, **config):
    return {"runtime_config_path": str(file.path), **config}


def produce(kafka, topic, tasks):
    kafka.produce(topic, [task.SerializeToString() for task in tasks])


def ids(records):
    return [pb.TaskActivation.FromString(record.value).id for record in records]


def wait_rows(b, expected, timeout_s=20):
    wait_for(lambda: b.statuses() == expected, lambda: f"{expected}, not {b.statuses()}", timeout_s)


# --- killswitch


def test_killswitch(kafka, broker, grpc_client, file):
    file.write(rules(drop=["dropped"]))
    b = broker(kafka=kafka, config=at(file))
    client = grpc_client(b)
    produce(kafka, b.topic, [activation("dropped"), activation("kept", id="running"),
                             activation("dropped"), activation("kept", id="delayed", delay=1000),
                             activation("picky", id="p1", args=[1]), activation("picky", id="p2", args=["1"]),
                             activation("picky", id="p3", kwargs={"org": {"id": 7, "tags": ["a"]}})])
    kafka.wait_committed(b.group, b.topic, {0: 7})
    wait_rows(b, {"Pending": 4, "Delay": 1})
    assert client.get_task(timeout_s=10).id == "running"

    # By argument, of rows that are stored.
    file.change(b, drop=[{"name": "picky", "select_arg": {0: 1},
                          "select_kwarg": {"org": {"tags": ["a"], "id": 7}}}])
    wait_rows(b, {"Processing": 1, "Delay": 1, "Pending": 1})
    assert b.sql("SELECT id FROM inflight_taskactivations WHERE status = 'Pending'") == [("p2",)]

    # A broken file changes nothing.
    file.write("drop_task_killswitch: [\n")
    b.signal(signal.SIGHUP)
    b.wait_log("ERROR.*runtime config: .*not YAML.*stays")
    produce(kafka, b.topic, [activation("picky", args=[1]), activation("picky", id="p4")])
    wait_rows(b, {"Processing": 1, "Delay": 1, "Pending": 2})

    # By name, of rows in every state; the worker's report comes too late.
    file.change(b, drop=["kept", "picky"])
    wait_rows(b, {})
    client.set_status("running", COMPLETE)
    kafka.wait_committed(b.group, b.topic, {0: 9})
    b.kill9()
    b.start()
    assert b.statuses() == {}
    b.wait_log("Loaded runtime config")


def test_killswitch_opens_a_blocked_intake_and_drops_retries(kafka, broker, grpc_client, file):
    b = broker(kafka=kafka, config=at(file, max_pending_count=10))
    client = grpc_client(b)
    produce(kafka, b.topic, [activation("again", id="again", max_attempts=3)])
    assert client.get_task(timeout_s=10).id == "again"
    produce(kafka, b.topic, [activation("flood") for _ in range(200)])
    wait_rows(b, {"Processing": 1, "Pending": 10})
    file.change(b, drop=["flood"])
    kafka.wait_committed(b.group, b.topic, {0: 201})
    wait_rows(b, {"Processing": 1})
    file.change(b, drop=["again"])
    wait_rows(b, {})
    produce(kafka, b.topic, [activation("other", id="other")])
    assert client.get_task(timeout_s=10).id == "other"


def test_weakness_25_a_stream_of_dropped_messages_is_committed(kafka, broker, file):
    file.write(rules(drop=["dropped"]))
    b = broker(kafka=kafka, config=at(file))
    produce(kafka, b.topic, [activation("dropped") for _ in range(500)])
    kafka.wait_committed(b.group, b.topic, {0: 500})
    assert b.statuses() == {}


# --- demoted namespaces


def long_broker_config(kafka, topic):
    return {"kafka_cluster": kafka.bootstrap, "kafka_deadletter_cluster": kafka.bootstrap,
            "kafka_topic": topic, "kafka_consumer_group": f"{topic}-group",
            "kafka_deadletter_topic": kafka.unique_topic("dlq"), "kafka_auto_offset_reset": "earliest"}


def test_demoted_tasks_run_at_another_broker(kafka, broker, grpc_client, file):
    long_topic = kafka.unique_topic("long")
    b = broker(kafka=kafka, config=at(file, kafka_long_topic=long_topic))
    client = grpc_client(b)
    stored = [activation("t", id=f"stored{i}", namespace="slow") for i in range(30)]
    stored += [activation("t", id="delayed", namespace="slow", delay=1)]
    running = activation("t", id="running", namespace="slow")
    once = activation("t", id="once", namespace="slow", at_most_once=True)
    fast = activation("t", id="fast", namespace="fast")
    produce(kafka, b.topic, [running])
    assert client.get_task(timeout_s=10).id == "running"
    produce(kafka, b.topic, [*stored, once, fast])
    wait_rows(b, {"Processing": 1, "Pending": 32, "Delay": 1})

    file.change(b, demoted=["slow"])
    later = [activation("t", id=f"later{i}", namespace="slow") for i in range(30)]
    produce(kafka, b.topic, later)
    demoted = {task.SerializeToString() for task in stored + later}
    records = kafka.wait_records(long_topic, len(demoted))
    assert {record.value for record in records} == demoted, "byte for byte"
    assert all(record.key is None and record.headers == [] for record in records)
    # Forwarded, an at-most-once task could run twice: it stays, as what runs already does.
    wait_rows(b, {"Processing": 1, "Pending": 2})
    assert {client.get_task(timeout_s=10).id for _ in range(2)} == {"once", "fast"}
    client.set_statuses([(id, COMPLETE) for id in ("running", "once", "fast")])
    wait_rows(b, {})

    second = broker(config=long_broker_config(kafka, long_topic))
    other = grpc_client(second)
    got = [other.get_task(timeout_s=20).id for _ in range(len(demoted))]
    assert sorted(got) == sorted(task.id for task in stored + later)


def test_weakness_39_the_loop_guard_is_one_for_records_and_rows(kafka, broker, grpc_client, file):
    b = broker(kafka=kafka, config=at(file), start=False)
    b.config["kafka_long_topic"] = b.topic
    b.start()
    produce(kafka, b.topic, [activation("t", id="row", namespace="slow")])
    wait_rows(b, {"Pending": 1})
    file.change(b, demoted=["slow"])
    b.wait_log("demoted namespaces stay here")
    produce(kafka, b.topic, [activation("t", id="record", namespace="slow")])
    wait_rows(b, {"Pending": 2})
    client = grpc_client(b)
    assert [client.get_task(timeout_s=10).id for _ in range(2)] == ["row", "record"]
    assert kafka.end_offsets(b.topic) == {0: 2}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_weakness_02_an_outage_while_demoting_loses_nothing(own_kafka, broker, file):
    kafka = own_kafka
    long_topic = kafka.unique_topic("long")
    b = broker(kafka=kafka, config=at(file, kafka_long_topic=long_topic))
    tasks = [activation("t", id=f"t{i}", namespace="slow", kwargs={"text": "x" * 100}) for i in range(400)]
    produce(kafka, b.topic, tasks)
    wait_rows(b, {"Pending": 400})
    kafka.wait_committed(b.group, b.topic, {0: 400})
    kafka.kill9()
    file.change(b, demoted=["slow"])
    wait_rows(b, {})
    assert b.sql("SELECT count(*) FROM taskmill_outbox") == [(400,)]
    b.kill9()
    kafka.start()
    b.start(timeout_s=60)
    wait_for(lambda: b.sql("SELECT count(*) FROM taskmill_outbox") == [(0,)], "an empty outbox", 120)
    assert set(ids(kafka.consume_all(long_topic))) == {task.id for task in tasks}


def test_another_cluster_keeps_its_name_over_a_restart(kafka, broker, file, tmp_path):
    """The cluster is there, its topic is not yet: entries wait, and say where they belong."""
    long_topic = kafka.unique_topic("absent").replace("absent", "made-later")
    b = broker(kafka=kafka, config=at(file))
    # localhost: the same Kafka by another name, so another cluster.
    far = kafka.bootstrap.replace("127.0.0.1", "localhost")
    produce(kafka, b.topic, [activation("t", id="a", namespace="slow")])
    wait_rows(b, {"Pending": 1})
    file.change(b, demoted=["slow"], demoted_topic=long_topic, demoted_topic_cluster=far)
    wait_rows(b, {})
    assert b.sql("SELECT topic, cluster FROM taskmill_outbox") == [(long_topic, far)]
    b.kill9()
    file.write(rules())
    kafka.create_topic(long_topic)
    b.start()
    assert ids(kafka.wait_records(long_topic, 1)) == ["a"]
    wait_for(lambda: b.sql("SELECT count(*) FROM taskmill_outbox") == [(0,)], "an empty outbox", 30)


# --- without Kafka


def log_ids(b, topic):
    query = ("SELECT payload FROM taskmill_log, taskmill_log_topics WHERE name = ? AND "
             "entry / 281474976710656 = topic")
    return [pb.TaskActivation.FromString(payload).id for payload, in b.sql(query, topic)]


def test_embedded(broker, grpc_client, file):
    b = broker(config=at(file, kafka_long_topic="later"))
    client = grpc_client(b)
    client.enqueue([activation("t", id="a", namespace="slow"), activation("t", id="b"),
                    activation("dropped", id="c"), activation("retried", id="d", max_attempts=3)])
    wait_rows(b, {"Pending": 4})
    file.change(b, drop=["dropped"], demoted=["slow"])
    wait_rows(b, {"Pending": 2})
    client.enqueue([activation("t", id="e", namespace="slow"), activation("dropped")])
    wait_for(lambda: log_ids(b, "later") == ["a", "e"], lambda: log_ids(b, "later"), 10)
    assert {client.get_task(timeout_s=10).id for _ in range(2)} == {"b", "d"}
    file.change(b, drop=["retried"])
    client.set_status("d", RETRY)
    client.set_status("b", COMPLETE)
    wait_rows(b, {})
    b.stop()
    assert "ERROR" not in b.log()


def test_reload_without_a_file(broker):
    b = broker()
    b.signal(signal.SIGHUP)
    b.wait_log("nothing to reload")
    assert b.running


def test_a_missing_file_starts_without_rules(broker, file, grpc_client):
    file.path.unlink()
    b = broker(config=at(file))
    b.wait_log("ERROR.*runtime config: .*runtime.yml")
    grpc_client(b).enqueue([activation("t", id="a")])
    wait_rows(b, {"Pending": 1})
    file.write(rules(drop=["t"]))
    b.signal(signal.SIGHUP)
    wait_rows(b, {})


# --- canaries


def test_canaries_run(broker, tmp_path):
    """At a worker of the real client, which knows the task, for the application that it is of."""
    b = broker(config={"canary_tasks": 3, "max_pending_count": 1,
                       "worker_map": {"other": "http://127.0.0.1:1", "example": "http://127.0.0.1:1"}})
    b.wait_log("Stored startup canary tasks")
    rows = b.sql('SELECT application, namespace, taskname, partition, "offset", status, '
                 "on_attempts_exceeded, at_most_once, processing_deadline_duration "
                 "FROM inflight_taskactivations ORDER BY rowid")
    assert rows == [(app, "internal", "canary_task", 0, offset, "Pending", 1, 0, 10)
                    for app in ("example", "other") for offset in range(3)]
    assert all(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", id)
               for id, in b.sql("SELECT id FROM inflight_taskactivations"))
    b.kill9()
    b.config["canary_tasks"] = 0
    b.start()
    wait_rows(b, {"Pending": 6})
    env = {"PYTHONPATH": str(INTEGRATION), "EXAMPLE_KAFKA": "", "EXAMPLE_TOPIC": "", "EXAMPLE_RUNS": ""}
    worker = Process([venv("client-0.20.30"), "-B", "-m", "clients.example_app", "worker", b.address, 1],
                     tmp_path / "worker.txt", env)
    try:
        wait_rows(b, {"Pending": 3}, 60)
        wait_for(lambda: worker.log().count("Done running canary task!") == 3, worker.log, 20)
    finally:
        worker.kill9()
    assert b.sql("SELECT DISTINCT application FROM inflight_taskactivations") == [("other",)]
