# SPDX-License-Identifier: Apache-2.0
"""Two brokers on one topic: partitions move while tasks flow, nothing is lost, nothing at-most-once
runs twice."""

import pytest

from clients.load import Load
from harness.process import wait_for

pytestmark = pytest.mark.alone

PARTITIONS = 4


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_partitions_move_under_load(kafka, broker, tmp_path, capsys):
    config = {"kafka_session_timeout_ms": 1000, "upkeep_deadline_reset_skip_after_startup_sec": 1,
              "processing_deadline_grace_sec": 0, "max_processing_attempts": 1000, "max_pending_count": 300}
    first = broker(kafka=kafka, partitions=PARTITIONS, config=config)
    shared = {key: value for key, value in first.config.items() if key.startswith("kafka_")}
    second = broker(config={**config, **shared}, start=False)
    load = Load(kafka, first.topic, first.dlq_topic, tmp_path)
    load.start([first.address, second.address], rate=300)
    load.wait_progress(100)

    def assigned(b):
        return b.log().count("partitions assigned")

    def joins(b, start):
        before = assigned(first) + assigned(second)
        start()
        wait_for(lambda: assigned(first) + assigned(second) >= before + 2, "both to get partitions", 30)
        load.wait_progress(200)

    for turn in range(2):
        joins(second, second.start)
        second.stop()  # leaves the group in order
        load.wait_progress(200)
        joins(second, second.start)
        second.kill9()  # the group notices after the session timeout
        load.wait_progress(200)
        joins(second, second.start)
        first.kill9()
        load.wait_progress(200)
        joins(first, first.start)
        second.stop()
    second.start()  # what it still holds must be worked off too
    load.wait_progress(200)
    load.stop_producing()
    load.wait_done([first, second], first.group)
    first.stop()
    second.stop()
    count = load.finish()
    with capsys.disabled():
        print(f"\ntwo brokers, 6 joins, 2 leaves, 4 kills: {count}")
    count.check()
