# SPDX-License-Identifier: Apache-2.0
"""Clusters that want credentials: SASL PLAIN and SCRAM-SHA-256, TLS with certificates on both sides."""

import pytest

from harness.kafka import GROUP, topics_config
from harness.kafka_secure import PASSWORD, SecureKafka
from harness.process import wait_for
from harness.rpc import COMPLETE, DEADLETTER, FAILURE, RETRY, activation


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    server = SecureKafka(tmp_path_factory.mktemp("secure"))
    server.start()
    server.set_scram_password(PASSWORD)
    yield server
    server.kill9()


def config_of(secure, incoming, outgoing):
    """Consumes on the cluster "in", writes to the cluster "out" (settings of each)."""
    topic, retry, dlq = (secure.unique_topic(stem) for stem in ("work", "retry", "dlq"))
    config = topics_config({f"in/{topic}": {}}, f"out/{retry}", f"out/{dlq}", {"in": incoming, "out": outgoing})
    return config, topic, retry, dlq


@pytest.mark.parametrize("kind", ["PLAIN", "SCRAM", "SSL"])
def test_right_credentials_work_end_to_end(secure, broker, grpc_client, kind):
    settings = secure.clusters[kind]
    config, topic, retry, dlq = config_of(secure, settings, settings)
    b = broker(config=config)
    sent = {id: activation(id=id, max_attempts=2, on_exceeded=DEADLETTER).SerializeToString()
            for id in ("complete", "retry", "fail")}
    secure.produce(topic, [*sent.values(), b"\xff"])
    client = grpc_client(b)
    assert [client.get_task(timeout_s=20).id for _ in sent] == list(sent)
    for id, status in zip(sent, (COMPLETE, RETRY, FAILURE)):
        client.set_status(id, status)
    assert len(secure.wait_records(retry, 1)) == 1
    dead = {r.value: r for r in secure.wait_records(dlq, 2)}
    assert set(dead) == {sent["fail"], b"\xff"}
    assert dead[b"\xff"].header("taskmill-cluster") == "in"
    secure.wait_committed(GROUP, topic, {0: 4})
    assert list(client.enqueue([activation(id="enqueued")]).ids) == ["enqueued"]
    assert client.get_task(timeout_s=20).id == "enqueued"
    assert PASSWORD not in b.log(), "no secret in the log"


WRONG = {
    "PLAIN": {"sasl_password": "wrong"},
    "SCRAM": {"sasl_username": "nobody"},
    "SSL": {"ssl_ca_location": "stranger.crt"},
    "SSL without certificate": {"ssl_certificate_location": None, "ssl_key_location": None},
}
CAUSE = {"PLAIN": "SASL authentication error", "SCRAM": "SASL authentication error", "SSL": "SSL handshake failed"}


@pytest.mark.parametrize("what,side", [("PLAIN", "in"), ("SCRAM", "out"), ("SSL", "in"), ("SSL without certificate", "in")])
def test_wrong_credentials_at_the_start(secure, broker, what, side):
    """After five tries: exit 1 and one line that names the cluster and the cause."""
    right = secure.clusters[what.split()[0]]
    wrong = {**right, **{key: str(secure.folder / value) if value and key.startswith("ssl") else value
                         for key, value in WRONG[what].items()}}
    config, *_ = config_of(secure, wrong if side == "in" else right, wrong if side == "out" else right)
    b = broker(config=config, start=False)
    b.start(wait=False)
    assert b.wait(60) == 1, b.log()[-2000:]
    fatal = [line for line in b.log().splitlines() if "refuses the connection" in line]
    assert len(fatal) == 1, b.log()[-4000:]
    cause = CAUSE[what] if what in CAUSE else ""
    assert f"Kafka cluster '{side}' ({right['address']}) refuses the connection: " in fatal[0] and cause in fatal[0]


@pytest.mark.timeout(180)
def test_credentials_that_are_refused_later_are_tried_again(secure, broker, grpc_client):
    settings = secure.clusters["SCRAM"]
    config, topic, *_ = config_of(secure, settings, settings)
    b = broker(config=config)
    secure.produce(topic, [activation(id="before").SerializeToString()])
    client = grpc_client(b)
    assert client.get_task(timeout_s=20).id == "before"
    secure.set_scram_password("changed")
    secure.stop()  # so that the broker has to connect anew
    secure.start()
    try:
        b.wait_log(r"WARN.*cluster 'in' .*SASL authentication error", 60)
        client.set_status("before", COMPLETE)  # what is stored is served
        assert b.running
    finally:
        secure.set_scram_password(PASSWORD)
    secure.produce(topic, [activation(id="after").SerializeToString()])
    wait_for(lambda: b.statuses() == {"Pending": 1}, lambda: f"the next task\n{b.log()[-3000:]}", 60)


def test_weakness_40_the_legacy_dead_letter_cluster_has_its_own_credentials(secure, broker, grpc_client):
    """Kept: the main ones are not inherited. Missing, the broker says which cluster it waits for; given,
    they are used."""
    topic, dlq = secure.unique_topic("work"), secure.unique_topic("dlq")
    settings = secure.clusters["PLAIN"]
    legacy = {"kafka_topic": topic, "kafka_consumer_group": GROUP, "kafka_auto_offset_reset": "earliest",
              "kafka_deadletter_topic": dlq, "kafka_cluster": settings["address"],
              **{f"kafka_{key}": value for key, value in settings.items() if key != "address"}}
    bare = broker(config={**legacy, "kafka_deadletter_cluster": settings["address"]}, start=False)
    bare.start(wait=False)
    wait_for(lambda: "waiting for Kafka cluster 'deadletter'" in bare.log(), lambda: bare.log()[-3000:], 30)
    bare.kill9()
    b = broker(config={**legacy, "kafka_deadletter_cluster": settings["address"], **{
        f"kafka_deadletter_{key}": value for key, value in settings.items() if key != "address"}})
    secure.produce(topic, [b"\xff"])
    record, = secure.wait_records(dlq, 1)
    assert record.header("taskmill-reason") == "not a TaskActivation"
