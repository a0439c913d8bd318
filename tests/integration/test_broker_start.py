# SPDX-License-Identifier: Apache-2.0
"""Configuration as an operator meets it, everything that can be wrong at start, and signals."""

import json
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import time

import pytest

from clients.http2 import END_HEADERS, HEADERS, PING, START, frame, headers, read_frames
from harness.broker import program
from harness.cache import ROOT
from harness.process import wait_for
from harness.rpc import COMPLETE, CONSUMER, activation


def taskbroker(*args, env=None, cwd=None, timeout_s=20):
    return subprocess.run([program("taskbroker"), *map(str, args)], capture_output=True, text=True,
                          env=env, cwd=cwd, timeout=timeout_s)


def fails_with(text, tmp_path):
    """The one line of a broker that refuses this configuration file."""
    path = tmp_path / "config.yml"
    path.write_text(text)
    done = taskbroker("-c", path, cwd=tmp_path)
    assert done.returncode == 1, done
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and done.stdout == "", done
    return lines[0]


# --- command line


def test_help_and_usage():
    assert taskbroker("--help").returncode == 0
    assert "--config" in taskbroker("-h").stdout
    for args in (["--nonsense"], ["-c"], ["-r", "bogus"], ["-r", "Broker"], ["extra"], ["--version"]):
        done = taskbroker(*args)
        assert done.returncode == 2 and "usage" in done.stderr, args


def test_migrations_mode_has_nothing_to_do():
    done = taskbroker("--run", "migrations")
    assert done.returncode == 0
    assert "Standalone migration not supported for SQLite" in done.stdout + done.stderr


# --- configuration


@pytest.mark.parametrize("text, parts", [
    ("grpc_port: abc\n", ["config.yml:1", "grpc_port", "abc"]),
    ("embedded: true\ngrpc_port: 70000\n", ["config.yml:2", "grpc_port", "70000"]),
    ("max_pending_count: -1\n", ["max_pending_count", "-1"]),
    ("max_pending_count: '5'\n", ["max_pending_count", "5"]),
    ("embedded: yes please\n", ["embedded", "yes please"]),
    ("log_format: xml\n", ["log_format", "text or json"]),
    ("fetch: {threads: 3}\n", ["fetch.threads", "power of two"]),
    ("push: {timeout: 1m}\n", ["push.timeout", "1m"]),
    ("worker_map: {}\n", ["worker_map"]),
    ("grpc_addr: localhost\n", ["grpc_addr", "localhost"]),
    ("a: [\n", ["config.yml:2", "YAML"]),
    ("a: b: c\n", ["config.yml:1", "YAML"]),
    ("\0\xff", ["config.yml", "YAML"]),
    ("- a\n- b\n", ["config.yml", "map"]),
    ("kafka_topic: x\nkafka_topics: {x: {cluster: c, consumer_group: g}}\n", ["cannot mix"]),
    ("kafka_topics: {x: {cluster: nope, consumer_group: g}}\nkafka_clusters: {c: {address: 'a:1'}}\n",
     ["nope"]),
    ("kafka_topic: same\nkafka_deadletter_topic: same\n", ["kafka_deadletter_topic"]),
    ("store: {adapter: mysql}\n", ["store.adapter", "mysql"]),
])
def test_bad_configuration_is_one_clear_line(tmp_path, text, parts):
    line = fails_with(text, tmp_path)
    for part in parts:
        assert part in line, line


@pytest.mark.parametrize("words", [("config",), ("broker", "config")])
def test_configuration_is_checked_and_printed(tmp_path, words):
    file = tmp_path / "config.yml"
    file.write_text("embedded: true\ngrpc_shared_secret: [geheim]\n")
    env = {"PATH": "/usr/bin:/bin", "TASKBROKER_GRPC_PORT": "50099"}

    def run(verb):
        return subprocess.run([program(), *words, verb, file], env=env, capture_output=True, text=True,
                              timeout=20)
    assert run("check").returncode == 0
    printed = run("print")
    assert printed.returncode == 0 and "geheim" not in printed.stdout
    assert re.search(r"grpc_port: 50099 .*TASKBROKER_GRPC_PORT", printed.stdout)
    assert re.search(r"embedded: true .*config.yml:1", printed.stdout)
    file.write_text("embedded: maybe\n")
    assert run("check").returncode == 1


def test_missing_configuration_file(tmp_path):
    done = taskbroker("-c", tmp_path / "nowhere.yml")
    assert done.returncode == 1 and "nowhere.yml" in done.stderr and len(done.stderr.splitlines()) == 1


def test_bad_value_in_the_environment(tmp_path):
    done = taskbroker(env={"TASKBROKER_GRPC_PORT": "many"}, cwd=tmp_path)
    assert done.returncode == 1
    assert "TASKBROKER_GRPC_PORT" in done.stderr and len(done.stderr.splitlines()) == 1


def test_unknown_keys_are_warned_about(broker):
    b = broker(config={"max_pending_cuont": 5, "store": {"nonsense": 1}},
               env={"TASKBROKER_GRPC_PROT": "5"})
    log = b.log()
    assert re.search(r"WARN.*max_pending_cuont.*max_pending_count", log), "with the nearest known key"
    assert re.search(r"WARN.*store\.nonsense", log)
    assert re.search(r"WARN.*(?i:grpc_prot)", log)


def printed(b):
    """{line of the printed configuration}"""
    text = re.search(r'Configuration config="(.*)"', b.log()).group(1)
    return set(text.replace('\\"', '"').split("\\n"))


def test_environment_beats_the_file_and_the_file_the_defaults(broker):
    b = broker(config={"max_message_size": 7777777, "max_delayed_task_allowed_sec": 55},
               env={"TASKBROKER_MAX_MESSAGE_SIZE": "8888888", "taskbroker_log_filter": "debug",
                    "TASKBROKER_STORE__MAX_PENDING_COUNT": "77"})
    lines = printed(b)
    assert {"max_message_size: 8888888", "max_delayed_task_allowed_sec: 55", "log_filter: debug",
            "  max_pending_count: 77", "  max_delay_count: 8192"} <= lines


def test_legacy_keys(kafka, broker):
    b = broker(kafka=kafka, config={"max_pending_count": 7, "db_max_size": 123456789,
                                    "db_insert_batch_max_len": 3, "max_processing_attempts": 9})
    lines = printed(b)
    assert {"  max_pending_count: 7", "  max_size: 123456789", "  insert_batch_max_length: 3",
            "  max_processing_attempts: 9", f"    path: {b.db_path}", f"  {b.topic}:",
            f"kafka_deadletter_topic: {b.dlq_topic}"} <= lines
    assert re.search(r"WARN.*max_pending_count \(now store\.max_pending_count\)", b.log())


def test_new_key_beats_the_legacy_one(broker):
    b = broker(config={"max_pending_count": 7, "store": {"max_pending_count": 2048}})
    assert "  max_pending_count: 2048" in printed(b)


def test_secrets_are_not_printed(broker):
    b = broker(config={"grpc_shared_secret": ["hush-1"], "store": {"pg": {"password": "hush-2"}}})
    assert "hush" not in b.log() and "******" in b.log()


def test_json_log(broker):
    b = broker(config={"log_format": "json"})
    b.stop()
    records = [json.loads(line) for line in b.log().splitlines()]
    assert any(r["message"] == "stopped" and r["level"] == "INFO" and r["target"] for r in records)


def test_port_0_serves_no_calls(kafka, broker):
    b = broker(kafka=kafka, start=False, config={"grpc_port": 0})
    b.start(wait=False)
    b.wait_log("grpc_port is 0: no gRPC server")
    b.wait_log("loaded .*tasks.sqlite")
    kafka.produce(b.topic, [activation(id="x").SerializeToString()])
    wait_for(lambda: b.statuses() == {"Pending": 1}, "the task to be stored", 20)
    b.stop()
    assert not re.search("ERROR", b.log())


# --- what can be wrong around it


def refuses_to_start(b, *parts, timeout_s=15):
    b.start(wait=False)
    assert b.wait(timeout_s) == 1, b.log()
    last = [line for line in b.log().splitlines() if "ERROR" in line][-1]
    for part in parts:
        assert str(part) in last, last


def test_port_in_use(broker):
    b = broker(start=False)
    with socket.socket() as other:
        other.bind(("127.0.0.1", b.port))
        other.listen()
        refuses_to_start(b, b.port, "in use")
    b.start()


@pytest.mark.parametrize("path", ["/proc/nowhere/tasks.sqlite", "/dev/null/tasks.sqlite"])
def test_unwritable_database(broker, path):
    b = broker(config={"db_path": path}, start=False)
    refuses_to_start(b, path)


def test_database_path_is_a_folder(broker, tmp_path):
    refuses_to_start(broker(config={"db_path": str(tmp_path)}, start=False), tmp_path)


def test_database_is_something_else(broker):
    b = broker(start=False)
    b.db_path.write_bytes(b"this is not a database at all " * 1000)
    refuses_to_start(b, b.db_path, "not a database")
    assert b.db_path.read_bytes().startswith(b"this is not"), "what is not ours stays as it is"


def test_database_of_a_newer_original(broker):
    b = broker()
    b.stop()
    db = sqlite3.connect(b.db_path)
    db.execute("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)"
               " VALUES (7, 'from the future', 1, x'00', 0)")
    db.commit()
    db.close()
    refuses_to_start(b, "7")


def test_two_brokers_on_one_file(broker):
    first = broker()
    second = broker(config={"db_path": str(first.db_path)}, start=False)
    start = time.monotonic()
    refuses_to_start(second, first.pid, timeout_s=30)
    assert 9 < time.monotonic() - start < 20, "it waits 10 s for the other to go"
    with first.client() as client:
        client.enqueue([activation()])
        assert client.get_task() is not None, "the first is not disturbed"


def test_second_broker_takes_over_when_the_first_goes(broker):
    first = broker()
    with first.client() as client:
        client.enqueue([activation(id="x")])
    second = broker(config={"db_path": str(first.db_path)}, start=False)
    second.start(wait=False)
    first.stop()
    second.wait_serving()
    with second.client() as client:
        assert client.get_task().id == "x"


def test_weakness_16_missing_topic_at_the_start(kafka, broker):
    b = broker(kafka=kafka, start=False)
    b.config["kafka_topic"] = "no-such-topic"
    refuses_to_start(b, "no-such-topic", kafka.bootstrap, timeout_s=30)


def test_missing_topics_are_created_if_wanted(kafka, broker):
    b = broker(kafka=kafka, start=False, config={"create_missing_topics": True,
                                                 "default_topic_partitions": 3})
    b.config["kafka_topic"] = topic = f"{b.topic}-new"
    b.start()
    assert kafka.partitions(topic) == [0, 1, 2]
    kafka.produce(topic, [activation(id="x").SerializeToString()])
    with b.client() as client:
        assert client.get_task(timeout_s=20).id == "x"


# --- signals


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGQUIT"])
def test_signals_end_it_cleanly(kafka, broker, name):
    b = broker(kafka=kafka)
    with b.client() as client:
        client.health()
        start = time.monotonic()
        b.signal(getattr(signal, name))
        assert b.wait() == 0
    assert time.monotonic() - start < 5
    assert "stopped" in b.log()
    assert not re.search("ERROR", b.log())


@pytest.fixture
def open_stream():
    """Factory: a call to the broker that has begun and never ends."""
    connections = []

    def make(b):
        connection = socket.create_connection(("127.0.0.1", b.port), timeout=5)
        connections.append(connection)
        connection.sendall(START + frame(HEADERS, END_HEADERS, 1, headers(f"/{CONSUMER}/GetTask".encode())) +
                           frame(PING, 0, 0, b"received"))
        assert any(kind == PING for kind, _, _, _ in read_frames(connection))

    yield make
    for connection in connections:
        connection.close()


def test_nobody_new_gets_in_while_it_stops(broker, open_stream, grpc_client):
    b = broker()
    client = grpc_client(b)
    client.enqueue([activation(id="x"), activation(id="y")])
    client.get_task()
    open_stream(b)
    b.signal(signal.SIGTERM)
    b.wait_log("stopping")

    def refused():
        """Who comes between that line and the closing of the port is told so."""
        with b.client() as new:
            answer = new.health(timeout_s=1)
        assert answer in ("NOT_SERVING", "UNAVAILABLE", "DEADLINE_EXCEEDED")
        return answer != "NOT_SERVING"

    wait_for(refused, "the port to be closed", 3)
    assert b.running
    assert b.wait() == 0
    assert b.statuses() == {"Processing": 1, "Pending": 1}


def test_a_stream_that_never_ends_delays_the_exit_by_5_s(broker, open_stream):
    b = broker()
    open_stream(b)
    start = time.monotonic()
    b.stop()
    assert 4 < time.monotonic() - start < 9


def test_second_signal_exits_at_once(broker, open_stream, grpc_client):
    b = broker()
    grpc_client(b).enqueue([activation(id="x")])
    open_stream(b)
    b.signal(signal.SIGTERM)
    b.wait_log("stopping")
    start = time.monotonic()
    b.signal(signal.SIGINT)
    assert b.wait() == 1
    assert time.monotonic() - start < 1
    assert "second signal" in b.log()
    b.start()
    assert grpc_client(b).get_task().id == "x"


def test_restart_keeps_everything(broker, grpc_client):
    b = broker()
    client = grpc_client(b)
    ids = [f"t{i}" for i in range(100)]
    client.enqueue([activation(id=id) for id in ids])
    for id in ids[:20]:
        assert client.get_task().id == id
    for id in ids[:10]:
        client.set_status(id, COMPLETE)
    b.stop()
    assert b.statuses() == {"Processing": 10, "Pending": 80}
    assert b.sql("PRAGMA integrity_check") == [("ok",)]
    b.start()
    client = grpc_client(b)
    assert [client.get_task().id for _ in range(80)] == ids[20:]
    client.set_status("t15", COMPLETE)
    assert b.statuses() == {"Processing": 89}


# --- a file of the original


@pytest.mark.parametrize("name", ["clean.sqlite", "hot/hot.sqlite"])
def test_a_file_of_the_original_is_served(broker, grpc_client, name):
    fixtures = ROOT / "tests/fixtures/original-26.7"
    b = broker(start=False, config={"upkeep_deadline_reset_skip_after_startup_sec": 1})
    for source in (fixtures / name).parent.glob((fixtures / name).name + "*"):
        shutil.copy(source, b.folder / ("tasks.sqlite" + source.name.split(".sqlite")[1]))
    rows = {row["id"]: row for row in json.loads((fixtures / "rows.json").read_text())}
    before = dict(b.sql("SELECT id, status FROM inflight_taskactivations"))
    assert before.keys() == rows.keys()
    b.start()
    client = grpc_client(b)
    pending = {id for id, status in before.items() if status == "Pending"}
    got = set()
    while (task := client.get_task(timeout_s=0.5)) is not None:
        assert task.namespace == rows[task.id]["namespace"]
        client.set_status(task.id, COMPLETE)
        got.add(task.id)
    assert pending <= got, "every pending task of the original has run"
    b.stop()
    assert b.sql("PRAGMA integrity_check") == [("ok",)]
    columns = [row[1] for row in b.sql("PRAGMA table_info(inflight_taskactivations)")]
    assert columns[:19] == ["id", "activation", "partition", "offset", "added_at", "processing_attempts",
                            "expires_at", "processing_deadline_duration", "processing_deadline", "status",
                            "at_most_once", "namespace", "delay_until", "on_attempts_exceeded",
                            "received_at", "taskname", "application", "bucket", "claim_expires_at"]
