# SPDX-License-Identifier: Apache-2.0
"""The real scheduler of taskbroker-client, run by its own python (client_python):

    python -m clients.scheduler_app REDIS_PORT '{"KEY": {"task": "NS:TASK", "seconds": 2}, ...}'

Entries have "seconds" or "crontab", a list of the five fields by the client's own order. Runs are
sent to Kafka (SCHEDULER_KAFKA, SCHEDULER_TOPIC), until SIGTERM.
"""

import json
import os
import sys
import time
from datetime import timedelta

from arroyo.backends.kafka import KafkaProducer
from redis import StrictRedis
from taskbroker_client.app import TaskbrokerApp
from taskbroker_client.metrics import NoOpMetricsBackend
from taskbroker_client.scheduler import RunStorage, ScheduleRunner, crontab

try:
    from taskbroker_client.scheduler import RedisRunStorage
except ImportError:  # 26.5.0
    RedisRunStorage = RunStorage


class Router:
    def route_namespace(self, name):
        return os.environ["SCHEDULER_TOPIC"]


_producer = None


def producer(topic):
    global _producer
    if _producer is None:
        _producer = KafkaProducer({"bootstrap.servers": os.environ["SCHEDULER_KAFKA"]})
    return _producer


def main():
    port, entries = int(sys.argv[1]), json.loads(sys.argv[2])
    app = TaskbrokerApp(name="python", producer_factory=producer, router_class=Router())
    namespaces = {}
    for entry in entries.values():
        namespace, task = entry["task"].split(":")
        if namespace not in namespaces:
            namespaces[namespace] = app.taskregistry.create_namespace(namespace)
        namespaces[namespace].register(name=task)(lambda: None)
    redis = StrictRedis(host="127.0.0.1", port=port, decode_responses=True)
    runner = ScheduleRunner(app, RedisRunStorage(NoOpMetricsBackend(), redis))
    for key, entry in entries.items():
        schedule = timedelta(seconds=entry["seconds"]) if "seconds" in entry else crontab(*entry["crontab"])
        runner.add(key, {"task": entry["task"], "schedule": schedule})
    print("running", flush=True)
    while True:
        time.sleep(runner.tick())


if __name__ == "__main__":
    main()
