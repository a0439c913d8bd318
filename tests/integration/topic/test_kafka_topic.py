# SPDX-License-Identifier: Apache-2.0
"""The Kafka source and sink against a real Kafka, through kafka_probe (see the top of kafka_probe.c)."""

import json
import statistics
import subprocess

import pytest

from harness.broker import build_folder
from harness.process import wait_for

SANITIZED = "san" in build_folder().name
PREFETCH = 64 << 20


def program():
    return build_folder() / "tests/unit/topic/kafka_probe"


class Probe:
    """One source. Every command waits for its answer."""

    def __init__(self, folder, name, bootstrap, topic, group, reset="earliest", prefetch=PREFETCH):
        self.log_path = folder / f"{name}.log"
        self.log_file = open(self.log_path, "wb")
        self.child = subprocess.Popen(
            [str(part) for part in [program(), "source", bootstrap, topic, group, reset, 6000, prefetch]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log_file, text=True)

    def __call__(self, command):
        self.child.stdin.write(command + "\n")
        self.child.stdin.flush()
        answer = self.child.stdout.readline().strip()
        assert answer, f"{command}: the probe has ended:\n{self.log()}"
        return json.loads(answer) if answer[0] in "{-0123456789" else answer

    def wait(self, what, timeout_s=30):
        answer = self(f"wait {what} {timeout_s * 1000}")
        assert answer == "ok", f"wait {what}: {answer}: {self('show')}\n{self.log()}"

    def log(self):
        return self.log_path.read_text(errors="replace")

    def end(self):
        self.child.stdin.close()
        try:
            assert self.child.wait(30) == 0, self.log()
        finally:
            self.child.kill()
            self.child.wait()
            self.child.stdout.close()
            self.log_file.close()


@pytest.fixture
def probe(tmp_path):
    made = []

    def make(kafka, topic, group=None, **options):
        it = Probe(tmp_path, f"probe{len(made)}", kafka.bootstrap, topic, group or f"{topic}-group",
                   **options)
        made.append(it)
        return it

    yield make
    for it in made:
        it.end()


def fill(kafka, topic, count, size=200):
    """Through our own sink."""
    done = subprocess.run([program(), "produce", kafka.bootstrap, topic, str(count), str(size)],
                          capture_output=True, text=True, timeout=120)
    result = json.loads(done.stdout)
    assert (result["delivered"], result["failed"]) == (count, 0), done.stderr
    return result


def test_commits_offset_and_metadata(kafka, probe):
    topic = kafka.unique_topic("commit", partitions=2)
    kafka.produce(topic, [b"x"] * 100, partition=1)
    source = probe(kafka, topic)
    source("credit 1000")
    source.wait("total 100")
    source("commit 1 60 store-1@0 0")
    source.wait("committed 1 60")
    answer = source("ask 1")
    assert (answer["committed"], answer["metadata"], answer["low"], answer["high"]) == (60, "store-1@0", 0, 100)
    source("commit 1 80 store-1@0,store-2@70 0")
    state = source("stop")
    assert state["committed"][1] == 80

    # Read by another client: the Python one takes the metadata for a C string, which it is not.
    other = probe(kafka, topic)
    other.wait("assigned 2")
    start = {p["partition"]: p for p in other("show")["assigned"]}[1]
    assert (start["start"], start["committed"], start["metadata"]) == (80, 80, "store-1@0,store-2@70")


def test_last_commit_of_a_revoke_precedes_the_next_owner(kafka, probe):
    topic = kafka.unique_topic("revoke", partitions=2)
    for partition in range(2):
        kafka.produce(topic, [b"x"] * 50, partition=partition)
    first = probe(kafka, topic)
    first("manual")
    first("credit 1000")
    first.wait("total 100")
    second = probe(kafka, topic)
    first.wait("revoking 1")
    assert second("show")["assigned_calls"] == 0
    first("commit 0 40 first@0 0")
    first("commit 1 45 first@0 0")
    first("done 0")
    first("done 1")
    second.wait("assigned 1")
    first.wait("assigned 1")
    starts = {p["partition"]: (p["start"], p["metadata"]) for p in second("show")["assigned"]}
    assert starts.items() <= {0: (40, "first@0"), 1: (45, "first@0")}.items()
    assert first("show")["after_revoke"] == 0
    # The partition that went away is no longer this member's to commit.
    gone = next(iter(starts))
    first(f"commit {gone} 50 late 1")
    assert first(f"ask {gone}")["committed"] == starts[gone][0]


def test_a_member_that_stops_hands_over_at_once(kafka, probe):
    topic = kafka.unique_topic("handover", partitions=2)
    first = probe(kafka, topic)
    second = probe(kafka, topic)
    first.wait("assigned 1")
    second.wait("assigned 1")
    first("stop")
    second.wait("assigned 2", timeout_s=5)


@pytest.mark.slow
def test_throughput(kafka, probe):
    topic = kafka.unique_topic("throughput", partitions=4)
    fill(kafka, topic, 1_000_000)
    source = probe(kafka, topic)
    source.wait("assigned 4")
    result = source("measure 1000000 60000")
    assert result["all"], result
    rate = 1_000_000 / result["ms"] * 1000
    print(f"source: {rate:.0f} records/s")
    state = source("show")
    assert (state["out_of_order"], state["credit_taken"]) == (0, 0)
    if not SANITIZED:
        assert rate >= 150_000


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("prefetch", [PREFETCH, 1])
def test_no_gap_when_back_pressure_lifts(kafka, probe, prefetch):
    """Without the nudge, and with Kafka's usual fetch.wait.max.ms, these silences last 400 to 1000 ms."""
    topic = kafka.unique_topic("gap", partitions=4)
    kafka.produce(topic, [b"x" * 200] * 300_000, partition=0)  # the other partitions stay empty
    gaps = []
    for _ in range(5):
        source = probe(kafka, topic, group=kafka.unique_topic("group"), prefetch=prefetch)
        source.wait("assigned 4")
        assert source("measure 1000 10000")["all"]
        source("hold 2500")
        result = source("measure 290000 60000")
        assert result["all"], result
        gaps.append(result["gap_ms"])
        source("stop")
    print(f"longest silences: {gaps} ms")
    if not SANITIZED:
        assert statistics.median(gaps) <= 50


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stop", "kill9", "pause"])
def test_outage_and_return(own_kafka, probe, how):
    topic = own_kafka.unique_topic("outage", partitions=2)
    own_kafka.produce(topic, [b"x"] * 100, partition=0)
    source = probe(own_kafka, topic)
    source("credit 100000")
    source.wait("total 100")
    getattr(own_kafka, how)()
    source("commit 0 100 me@0 1")
    source("hold 8000")  # longer than the session
    assert source("show")["committed"][0] == -1
    own_kafka.resume() if how == "pause" else own_kafka.start()
    own_kafka.produce(topic, [b"y"] * 100, partition=0)
    # The assignment may have been lost: then the records come again from the committed offset.
    wait_for(lambda: source("show")["next"][0] == 200, lambda: f"the new records: {source('show')}", 60)
    source("commit 0 200 me@0 1")
    source.wait("committed 0 200", timeout_s=60)
    state = source("stop")
    assert (state["failed"], state["out_of_order"], state["after_revoke"]) == (0, 0, 0)


@pytest.mark.slow
def test_kafka_down_at_start_is_waited_for(own_kafka, probe):
    topic = own_kafka.unique_topic("late")
    own_kafka.stop()
    source = probe(own_kafka, topic)
    wait_for(lambda: "waiting for Kafka cluster" in source.log(), "the warning")
    own_kafka.start()
    source.wait("assigned 1", timeout_s=60)
    assert source("show")["failed"] == 0


def test_missing_topic(kafka, probe):
    source = probe(kafka, "no-such-topic")
    source.wait("failed 1")
    assert source("show")["failed_why"] == (
        f"topic 'no-such-topic' does not exist on cluster '{kafka.bootstrap}': "
        "create it or set create_missing_topics")


@pytest.mark.slow
def test_a_deleted_topic_is_warned_about_and_waited_for(own_kafka, probe):
    topic = own_kafka.unique_topic("deleted")
    source = probe(own_kafka, topic)
    source("credit 1000")
    source.wait("assigned 1")
    own_kafka.delete_topic(topic)
    wait_for(lambda: f"topic '{topic}' is gone" in source.log(), lambda: f"a warning: {source.log()}", 60)
    own_kafka.create_topic(topic)
    own_kafka.produce(topic, [b"x"] * 10)
    source.wait("total 10", timeout_s=90)
    assert source("show")["failed"] == 0


def test_creates_topics(kafka):
    name = kafka.unique_topic("exists")
    fresh = f"{name}-fresh"
    for _ in range(2):
        done = subprocess.run([program(), "create", kafka.bootstrap, "3", name, fresh],
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        kafka.ensure_topic(fresh)
    assert kafka.partitions(fresh) == [0, 1, 2]
    assert kafka.partitions(name) == [0]
    done = subprocess.run([program(), "create", kafka.bootstrap, "1", "bad/name"],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "bad/name" in done.stdout
