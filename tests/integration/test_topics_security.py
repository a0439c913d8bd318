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


def test_right_credentials_work_end_to_end(secure, broker, grpc_client):
    """One broker that consumes in all three ways; what it writes itself goes by SCRAM."""
    topics = {kind: secure.unique_topic(kind.lower()) for kind in secure.clusters}
    retry, dlq = secure.unique_topic("retry"), secure.unique_topic("dlq")
    b = broker(config=topics_config({f"{kind}/{topic}": {"consumer_group": f"g-{kind}"}
                                     for kind, topic in topics.items()},
                                    f"SCRAM/{retry}", f"SCRAM/{dlq}", secure.clusters))
    client = grpc_client(b)
    sent = {}
    for kind, topic in topics.items():
        for what in ("complete", "retry", "fail"):
            id = f"{kind} {what}"
            sent[id] = activation(id=id, max_attempts=2, on_exceeded=DEADLETTER).SerializeToString()
        secure.produce(topic, [value for id, value in sent.items() if id.startswith(kind)] + [b"\xff" + kind.encode()])
    got = {client.get_task(timeout_s=20).id for _ in sent}
    assert got == set(sent)
    for id in got:
        client.set_status(id, {"complete": COMPLETE, "retry": RETRY, "fail": FAILURE}[id.split()[1]])
    assert len(secure.wait_records(retry, 3)) == 3
    dead = {r.value: r.header("taskmill-cluster") for r in secure.wait_records(dlq, 6)}
    assert dead == {**{sent[f"{kind} fail"]: None for kind in topics},
                    **{b"\xff" + kind.encode(): kind for kind in topics}}
    for kind, topic in topics.items():
        secure.wait_committed(f"g-{kind}", topic, {0: 4})
        assert list(client.enqueue([activation(id=f"to {kind}")], topic=topic).ids) == [f"to {kind}"]
    assert {client.get_task(timeout_s=20).id for _ in topics} == {f"to {kind}" for kind in topics}
    assert PASSWORD not in b.log(), "no secret in the log"


WRONG = [  # cluster, its settings, what is wrong, part of the cause
    ("in", "PLAIN", {"sasl_password": "wrong"}, "SASL authentication error"),
    ("out", "SCRAM", {"sasl_username": "nobody"}, "SASL authentication error"),
    ("in", "SSL", {"ssl_ca_location": "stranger.crt"}, "SSL handshake failed"),
    ("in", "SSL", {"ssl_certificate_location": None, "ssl_key_location": None}, "SSL alert"),
]


def test_wrong_credentials_at_the_start(secure, broker):
    """After five tries: exit 1 and one line that names the cluster and the cause."""
    started = []
    for side, kind, changes, cause in WRONG:
        right = secure.clusters[kind]
        wrong = {**right, **{key: str(secure.folder / value) if value and key.startswith("ssl") else value
                             for key, value in changes.items()}}
        config, *_ = config_of(secure, wrong if side == "in" else right, wrong if side == "out" else right)
        b = broker(config=config, start=False)
        b.start(wait=False)
        started.append((b, f"Kafka cluster '{side}' ({right['address']}) refuses the connection: ", cause))
    for b, text, cause in started:
        assert b.wait(60) == 1, b.log()[-2000:]
        fatal = [line for line in b.log().splitlines() if "refuses the connection" in line]
        assert len(fatal) == 1 and text in fatal[0] and cause in fatal[0], b.log()[-4000:]


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
