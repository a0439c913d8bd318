# SPDX-License-Identifier: Apache-2.0
"""A real Apache Kafka (KRaft, one node) on loopback, in a folder of its own."""

import os
import shutil
import signal
import uuid
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from harness import cache
from harness.process import Process, free_port, wait_for

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners={listeners},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners={listeners}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs={folder}/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=2
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
num.network.threads=2
num.io.threads=2
log.cleaner.dedupe.buffer.size=4194304
message.max.bytes=20000000
replica.fetch.max.bytes=20000000
controlled.shutdown.enable=false
broker.session.timeout.ms=1000
broker.heartbeat.interval.ms=200
"""


ARCHIVE = "classes.jsa"
GROUP = "group"  # of topics_config()

# A group that is just being made has no coordinator yet.
COORDINATOR_MOVES = (KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE,
                     KafkaError.COORDINATOR_LOAD_IN_PROGRESS)


@dataclass
class Record:
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: list = field(default_factory=list)

    def header(self, name):
        """Text of the last header called `name`, or None."""
        found = [value for key, value in self.headers if key == name]
        return found[-1].decode() if found else None


@dataclass
class Committed:
    offset: int
    metadata: str


def class_archive():
    """Kafka's classes as the JVM keeps them in memory, made once by a server that starts, works and stops:
    with it, and with the quick compiler alone, a server starts in a third of the time. A JVM that it does
    not fit (another release) takes no notice of it."""
    jars = cache.kafka_jars()

    def make(folder):
        server = Kafka(folder / "server", java=[f"-XX:ArchiveClassesAtExit={folder.resolve()}/{ARCHIVE}"])
        try:
            server.start()
            server.produce(server.unique_topic(), [b"x"])
            server.stop(120)  # it writes the archive
        finally:
            server.kill9()
        shutil.rmtree(server.folder)

    java = Path(shutil.which("java") or "java").resolve()
    made_from = [(jars / ".stamp").read_text(), str(jars.resolve()), str(java), str(os.stat(java).st_mtime_ns)]
    return cache.ensure("kafka-classes", made_from, make).resolve() / ARCHIVE


class Kafka:
    """`bootstrap` is the address. start(), stop(), kill9() may be repeated; the data and the port stay.

    `listeners` are further ones, named by their security protocol: their addresses are in
    `addresses`. `properties` is text for the server's configuration, `java` options of the JVM.
    """

    _formatted = {}  # what the format tool makes, the same for each server: {path below data: bytes}

    def __init__(self, folder, heap_mb=384, listeners=(), properties="", java=None):
        self.folder = folder
        self.addresses = {name: f"127.0.0.1:{free_port()}" for name in ("PLAINTEXT", *listeners)}
        self.bootstrap = self.addresses["PLAINTEXT"]
        self._heap_mb = heap_mb
        self._java_options = [f"-XX:SharedArchiveFile={class_archive()}"] if java is None else java
        self._process = None
        self._kept_producer = None
        self._config = folder / "server.properties"
        self._log_path = folder / "server.log"
        # Short back-off: the server comes and goes in outage tests.
        self._admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0,
                                   "reconnect.backoff.max.ms": 200})
        folder.mkdir(parents=True, exist_ok=True)
        self._config.write_text(PROPERTIES.format(
            listeners=",".join(f"{name}://{it}" for name, it in self.addresses.items()),
            controller_port=free_port(), folder=folder) + properties)
        self._format()

    # --- the process

    def _java(self, main, *args):
        jars = cache.kafka_jars().resolve()
        argv = ["java", f"-Xmx{self._heap_mb}m", "-XX:+UseSerialGC", "-XX:-UsePerfData",
                "-XX:TieredStopAtLevel=1", *self._java_options,
                f"-Dlog4j.configuration=file:{cache.INTEGRATION}/kafka/log4j.properties",
                "-Djava.net.preferIPv4Stack=true", "-cp", f"{jars}/*", main, *args]
        return Process(argv, self._log_path, cwd=self.folder)

    def _format(self):
        data = self.folder / "data"
        if not Kafka._formatted:
            self._run_format_tool()
            Kafka._formatted = {path.relative_to(data): path.read_bytes()
                                for path in data.rglob("*") if path.is_file()}
            return
        for name, content in Kafka._formatted.items():
            (data / name).parent.mkdir(parents=True, exist_ok=True)
            (data / name).write_bytes(content)

    def _run_format_tool(self):
        # 16 bytes in base64; the first is 0 because Kafka takes a leading "-" for an option.
        cluster_id = urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).rstrip(b"=").decode()
        tool = self._java("kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", self._config)
        assert tool.wait(60) == 0, tool.log()

    @property
    def running(self):
        return self._process is not None and self._process.running

    def start(self, timeout_s=60):
        assert not self.running, "Kafka runs already"
        self._process = self._java("kafka.Kafka", self._config)
        wait_for(self._answers, lambda: f"Kafka:\n{self.log()[-4000:]}", timeout_s, 0.1)
        return self

    def _answers(self):
        assert self._process.running, f"Kafka ended at start:\n{self.log()[-4000:]}"
        try:
            return self._admin.list_topics(timeout=1).brokers
        except KafkaException:
            return False

    def log(self):
        return self._log_path.read_text(errors="replace")

    def stop(self, timeout_s=30):
        """Clean stop (SIGTERM). Clients see connections close and then refused."""
        if self.running:
            self._process.signal(signal.SIGTERM)
            self._process.wait(timeout_s)

    def kill9(self):
        if self.running:
            self._process.kill9()

    def pause(self):
        """Freeze the process: connections stay open and nothing answers. Undo with resume()."""
        self._process.signal(signal.SIGSTOP)

    def resume(self):
        self._process.signal(signal.SIGCONT)

    # --- topics

    def create_topic(self, name, partitions=1, config=None):
        """Creates a topic, waits until it can be used and returns its name."""
        topic = NewTopic(name, partitions, 1, config=config or {})
        self._admin.create_topics([topic])[name].result(30)
        wait_for(lambda: len(self.partitions(name)) == partitions, f"topic {name}")
        return name

    def ensure_topic(self, name, partitions=1):
        if not self.has_topic(name):
            self.create_topic(name, partitions)
        return name

    def unique_topic(self, stem="topic", partitions=1):
        return self.create_topic(f"{stem}-{uuid.uuid4().hex[:8]}", partitions)

    def add_partitions(self, name, total):
        self._admin.create_partitions([NewPartitions(name, total)])[name].result(30)
        wait_for(lambda: len(self.partitions(name)) == total, f"{total} partitions of {name}")

    def delete_topic(self, name):
        self._admin.delete_topics([name])[name].result(30)
        wait_for(lambda: not self.has_topic(name), f"the end of topic {name}")

    def has_topic(self, name):
        return name in self._admin.list_topics(timeout=10).topics

    def partitions(self, name):
        """Partition numbers that have a leader."""
        found = self._admin.list_topics(timeout=10).topics.get(name)
        if found is None or found.error is not None:
            return []
        return sorted(p.id for p in found.partitions.values() if p.leader >= 0)

    # --- records

    def _producer(self, config):
        return Producer({"bootstrap.servers": self.bootstrap, "acks": "all", "linger.ms": 5,
                         "enable.idempotence": True, "message.max.bytes": 20000000,
                         "reconnect.backoff.max.ms": 200, "log_level": 0, **config})

    def _shared_producer(self):
        # Its producer id takes a second to get, so one serves all calls.
        if self._kept_producer is None:
            self._kept_producer = self._producer({})
        return self._kept_producer

    def produce(self, topic, payloads, partition=None, key=None, headers=None, config=None):
        """Produces the payloads (bytes, or None for a tombstone) in order, with acks=all.

        Returns [(partition, offset), ...] in the same order, from the delivery reports.
        """
        producer = self._shared_producer() if config is None else self._producer(config)
        places = []
        errors = []

        def delivered(index):
            def report(error, message):
                if error is not None:
                    errors.append(error)
                else:
                    places[index] = (message.partition(), message.offset())
            return report

        for payload in payloads:
            places.append(None)
            options = {} if partition is None else {"partition": partition}
            while True:
                try:
                    producer.produce(topic, value=payload, key=key, headers=headers,
                                     on_delivery=delivered(len(places) - 1), **options)
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        left = producer.flush(60)
        assert not errors, f"produce to {topic}: {errors[0]} ({len(errors)} of {len(places)})"
        assert left == 0, f"produce to {topic}: {left} of {len(places)} not delivered in 60 s"
        return places

    def _consumer(self, config=None):
        return Consumer({"bootstrap.servers": self.bootstrap, "group.id": f"test-{uuid.uuid4().hex}",
                         "enable.auto.commit": False, "enable.partition.eof": True,
                         "auto.offset.reset": "error", "fetch.wait.max.ms": 10,
                         "log_level": 0, **(config or {})})

    def consume_all(self, topic, timeout_s=60):
        """Every committed record that the topic holds now: a list of Record, by partition and offset."""
        consumer = self._consumer({"isolation.level": "read_committed"})
        try:
            open_ends = set(self.partitions(topic))
            consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in open_ends])
            records = []

            def all_read():
                for message in consumer.consume(1000, timeout=0.2):
                    error = message.error()
                    if error is None:
                        records.append(_record(message))
                    elif error.code() == KafkaError._PARTITION_EOF:
                        open_ends.discard(message.partition())
                    else:
                        raise AssertionError(f"consume {topic}: {error}")
                return not open_ends

            wait_for(all_read, f"the end of {topic}", timeout_s, 0)
            return sorted(records, key=lambda r: (r.partition, r.offset))
        finally:
            consumer.close()

    def wait_records(self, topic, count, timeout_s=30):
        """consume_all() once the topic holds at least `count` records."""
        wait_for(lambda: sum(self.end_offsets(topic).values()) >= count,
                 lambda: f"{count} records in {topic}, it has {self.end_offsets(topic)}", timeout_s, 0.05)
        return self.consume_all(topic)

    def end_offsets(self, topic):
        """{partition: the offset its next record will get}."""
        consumer = self._consumer()
        try:
            return {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1]
                    for p in self.partitions(topic)}
        finally:
            consumer.close()

    # --- consumer groups

    def _committed(self, group, topic):
        asked = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, p)
                                                     for p in self.partitions(topic)])
        answer = self._admin.list_consumer_group_offsets([asked])[group].result(30)
        for place in answer.topic_partitions:
            if place.error is not None:
                raise AssertionError(f"committed offset of {group}, {topic}: {place.error}")
        return [place for place in answer.topic_partitions if place.offset >= 0]

    def committed(self, group, topic):
        """{partition: Committed(offset, metadata)} of what the group has committed in this topic."""
        for _ in range(20):
            try:
                return {place.partition: Committed(place.offset, place.metadata or "")
                        for place in self._committed(group, topic)}
            except UnicodeDecodeError:
                continue  # this client reads metadata past their end now and then
        raise AssertionError(f"the client cannot read the metadata of {group}, {topic}")

    def committed_offsets(self, group, topic):
        """{partition: offset}, the same without the metadata."""
        return {place.partition: place.offset for place in self._committed(group, topic)}

    def members(self, group):
        """The group's members: [(member id, {(topic, partition), ...})], or None while it rebalances."""
        try:
            found = self._admin.describe_consumer_groups([group])[group].result(30)
        except KafkaException as error:
            if error.args[0].code() in COORDINATOR_MOVES:
                return None
            raise
        if found.state not in (ConsumerGroupState.STABLE, ConsumerGroupState.EMPTY):
            return None
        return [(m.member_id, {(p.topic, p.partition) for p in m.assignment.topic_partitions})
                for m in found.members]

    def wait_group_empty(self, group, timeout_s=30):
        """Waits until every member has left or timed out."""
        wait_for(lambda: self.members(group) == [], f"the end of all members of {group}", timeout_s, 0.1)

    def commit(self, group, topic, offsets, metadata=""):
        """Commits {partition: offset} for a group without members, as an operator's reset does."""
        places = [TopicPartition(topic, p, offset, metadata) for p, offset in offsets.items()]
        consumer = self._consumer({"group.id": group})
        try:
            for place in consumer.commit(offsets=places, asynchronous=False):
                assert place.error is None, place.error
        finally:
            consumer.close()

    def wait_committed(self, group, topic, offsets, timeout_s=30):
        """Waits until the group has committed at least {partition: offset}; returns committed()."""
        def reached():
            now = self.committed_offsets(group, topic)
            if all(now.get(p, -1) >= offset for p, offset in offsets.items()):
                return True
            return None
        wait_for(reached, lambda: f"commits {offsets} of {group}, {topic}; there are "
                        f"{self.committed_offsets(group, topic)}", timeout_s, 0.05)
        return self.committed(group, topic)


def topics_config(consumed, retry, dlq, clusters, reset="earliest"):
    """The part of a broker's configuration about Kafka. `clusters`: {name: Kafka, or a dict of settings};
    a topic is "cluster/topic", a consumed one comes with its settings (the group is GROUP unless given)."""
    def topic(place, **settings):
        cluster, name = place.split("/")
        return name, {"cluster": cluster, "consumer_group": GROUP, **settings}

    return {
        "kafka_clusters": {name: {"address": it.bootstrap} if isinstance(it, Kafka) else it
                           for name, it in clusters.items()},
        "kafka_topics": dict([topic(place, **settings) for place, settings in consumed.items()] +
                             [topic(place, produce_only=True) for place in (retry, dlq)
                              if place not in consumed]),
        "kafka_retry_topic": retry.split("/")[1],
        "kafka_deadletter_topic": dlq.split("/")[1],
        "kafka_auto_offset_reset": reset,
    }


def _record(message):
    return Record(message.topic(), message.partition(), message.offset(), message.key(),
                  message.value(), message.timestamp()[1], message.headers() or [])
