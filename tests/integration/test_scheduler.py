# SPDX-License-Identifier: Apache-2.0
"""`taskmill scheduler`: against a real Redis and the local file, into our broker and into Kafka, and side
by side with the real schedulers of Python's client."""

import hashlib
import json
import os
import signal
import time
from datetime import datetime, timezone

import msgpack
import pytest
from sentry_protos.taskbroker.v1 import taskbroker_pb2 as pb

from harness.process import Process, wait_for
from harness.scheduler import Collector, Scheduler, describe_late, run_taskmill, write_schedules


def run_id(key, schedule_id, due):
    """The id of one run (src/wire/ident.h, ident_scheduled)."""
    text = b"taskmill schedule\0" + key.encode() + b"\0" + schedule_id.encode() + b"\0"
    uuid = bytearray(hashlib.sha256(text + due.to_bytes(8, "big", signed=True)).digest()[:16])
    uuid[6] = uuid[6] & 0x0F | 0x80
    uuid[8] = uuid[8] & 0x3F | 0x80
    return uuid.hex()


def every(seconds, task="ns:tick", **more):
    return {"task": task, "schedule": {"seconds": seconds}, **more}


@pytest.fixture
def scheduler(tmp_path):
    made = []

    def make(entries, *arguments, **options):
        it = Scheduler(tmp_path / f"scheduler{len(made)}", entries, *arguments, **options)
        made.append(it)
        return it

    yield make
    for it in made:
        it.kill9()


@pytest.fixture(params=["redis", "file"])
def storage(request, tmp_path):
    """The options that name a storage, once Redis and once the file."""
    if request.param == "redis":
        return ["--redis", request.getfixturevalue("redis").url]
    return ["--state-file", tmp_path / "state.sqlite"]


def due_of(tasks, key, seconds, since, until=None):
    """{due time: how many tasks} of an interval's tasks; one with another id fails the test."""
    known = {run_id(key, str(seconds), due): due for due in range(int(since) - 2, int(until or time.time()) + 2)}
    found = {}
    for task in tasks:
        assert task.id in known, f"{task.id} is the id of no run of {key}"
        found[known[task.id]] = found.get(known[task.id], 0) + 1
    return found


def assert_every_run_once(found, seconds):
    first, last = min(found), max(found)
    missing = [due - first for due in range(first, last + 1, seconds) if due not in found]
    assert missing == [] and len(found) == (last - first) // seconds + 1
    assert {due - first: n for due, n in found.items() if n != 1} == {}


# --- in time ------------------------------------------------------------------------------------


def test_fires_in_time(broker, scheduler, storage):
    b = broker()
    collector = Collector(b)
    began = time.time()
    entries = {"one": every(1, "ns:one", args=[1, "two"], kwargs={"k": [3]}, headers={"team": "ops"}),
               "two": every(2, "ns:two", expires=600, processing_deadline=7,
                            retry={"times": 3, "delay": 5, "times_exceeded": "deadletter"})}
    s = scheduler(entries, *storage, "--rpc-host", b.address).start()
    collector.wait(8, "one")
    s.stop()
    collector.stop()

    assert_every_run_once(due_of(collector.named("one"), "one", 1, began), 1)
    assert_every_run_once(due_of(collector.named("two"), "two", 2, began), 2)
    late = s.late_ms()[2:]  # the first two were due in the second in which it started
    describe_late(f"intervals, {storage[0]}", late)
    assert min(late) >= 0 and sorted(late)[len(late) // 2] < 250

    task = collector.named("one")[0]
    assert task.application == "sched" and msgpack.unpackb(task.parameters_bytes) == {
        "args": [1, "two"], "kwargs": {"k": [3]}}
    assert dict(task.headers) == {"team": "ops", "sentry-propagate-traces": "False"}
    task = collector.named("two")[0]
    assert task.expires == 600 and task.processing_deadline_duration == 7
    assert task.retry_state.max_attempts == 3 and task.retry_state.delay_on_retry == 5


def test_monitors_get_their_headers(broker, scheduler, tmp_path):
    b = broker()
    collector = Collector(b)
    scheduler({"hour": every(3600, "ns:hour")}, "--rpc-host", b.address, "--state-file", tmp_path / "s").start()
    collector.wait(1)
    collector.stop()
    [(_, task)] = collector.tasks
    assert dict(task.headers) == {"sentry-propagate-traces": "False", "sentry-monitor-slug": "hour",
                                  "sentry-monitor-check-in-id": task.id}


@pytest.mark.timeout(150)
@pytest.mark.slow
def test_crontab_runs_at_the_minute(kafka, scheduler, redis):
    """Straight into Kafka; after a start within a minute that matches, that minute's run is caught up."""
    topic = kafka.unique_topic("cron")
    s = scheduler({"minute": {"task": "ns:minute", "schedule": {"crontab": "* * * * *"}}}, "--redis", redis.url,
                  "--kafka", kafka.bootstrap, "--topic", topic).start()
    other = scheduler({"minute": {"task": "ns:minute", "schedule": {"crontab": "* * * * *"}}}, "--redis",
                      redis.url, "--kafka", kafka.bootstrap, "--topic", topic).start()
    began = int(time.time()) // 60 * 60
    records = kafka.wait_records(topic, 2, timeout_s=75)
    s.stop()
    other.stop()
    tasks = [pb.TaskActivation.FromString(record.value) for record in records]
    assert {task.id for task in tasks} == {run_id("minute", "*_*_*_*_*", began + 60 * n) for n in range(2)}
    late = [late for it in (s, other) for late in it.late_ms()]
    assert sorted(late)[0] < 1000
    describe_late("crontab", [min(late)])


# --- what Redis holds ---------------------------------------------------------------------------


def test_what_redis_holds(broker, scheduler, redis):
    b = broker()
    s = scheduler({"key": every(300, "ns:tick")}, "--redis", redis.url, "--rpc-host", b.address).start()
    s.wait_log("sent a run")
    s.stop()
    value = redis.cli("GET", "tw:scheduler:key:ns:tick:300")
    due = datetime.fromisoformat(value)
    assert due.tzinfo is not None and due.microsecond == 0
    left = int(redis.cli("PTTL", "tw:scheduler:key:ns:tick:300")) / 1000
    assert abs(due.timestamp() + 300 - time.time() - left) < 2
    assert redis.keys() == ["tm:scheduler:key:ns:tick:300", "tw:scheduler:key:ns:tick:300"]
    assert redis.cli("GET", "tm:scheduler:key:ns:tick:300").startswith(f"1 {int(due.timestamp())} ")


@pytest.mark.parametrize("key", ["tw:scheduler:key:ns:tick:300", "tw:scheduler:ns:tick:300", "tw:scheduler:ns:tick"])
def test_last_runs_of_all_formats_count(broker, scheduler, redis, key):
    b = broker()
    redis.cli("SET", key, datetime.now(timezone.utc).isoformat(), "EX", 299)
    s = scheduler({"key": every(300, "ns:tick")}, "--redis", redis.url, "--rpc-host", b.address).start()
    [entry] = json.loads(run_taskmill("scheduler", "list", "-s", s.path, "--redis", redis.url, "--json").stdout)
    assert entry["last_run"] is not None
    assert datetime.fromisoformat(entry["next_runs"][0]).timestamp() > time.time() + 200
    s.stop()
    assert "sent a run" not in s.log()


@pytest.mark.parametrize("value", ["garbage", "1767225600", "x" * 500])
def test_client_weakness_31_a_value_that_is_no_time_is_no_end(broker, scheduler, redis, value):
    b = broker()
    redis.cli("SET", "tw:scheduler:key:ns:tick:300", value)
    s = scheduler({"key": every(300, "ns:tick")}, "--redis", redis.url, "--rpc-host", b.address).start()
    s.wait_log("sent a run")
    s.stop()
    assert "holds no ISO 8601 time" in s.log()


# --- several schedulers, and ends of all kinds ---------------------------------------------------


@pytest.mark.timeout(180)
@pytest.mark.slow
def test_killed_in_turn(broker, scheduler, storage):
    """Two schedulers, one of which is killed every second or two. The broker keeps all tasks until the end,
    so that a second copy of a run that was sent before a kill is dropped there."""
    b = broker(config={"max_processing_count": 2048})
    began = time.time()
    collector = Collector(b, keep=True)
    entry = {"one": every(1, missed="all", processing_deadline=600)}
    pair = [scheduler(entry, *storage, "--rpc-host", b.address, "--takeover-after", 11) for _ in range(2)]
    for s in pair:
        s.start()
    for n in range(8):
        until = time.time() + 0.7 + 0.13 * n
        wait_for(lambda: time.time() > until, "the next kill")
        pair[n % 2].kill9()
        pair[n % 2].start()
    now = time.time()
    wait_for(lambda: len(collector.tasks) >= now + 12 - began, "the runs until now, 12 s later", 40)
    for s in pair:
        s.stop()
    collector.stop()
    found = due_of(collector.named("tick"), "one", 1, began)
    assert_every_run_once(found, 1)
    assert min(found) <= began + 2 and max(found) >= now


def test_storage_stops_and_comes_back(broker, scheduler, redis):
    b = broker()
    began = time.time()
    collector = Collector(b)
    entry = {"one": every(1, missed="all")}
    s = scheduler(entry, "--redis", redis.url, "--rpc-host", b.address).start()
    collector.wait(2)
    redis.pause()
    s.wait_log("the run storage fails")
    redis.resume()
    s.wait_log("the run storage is back")
    redis.kill9()
    s.wait_log("the run storage fails", 2)
    before = len(collector.tasks)
    paused = time.time()
    wait_for(lambda: time.time() > paused + 2, "two seconds without Redis")
    assert len(collector.tasks) <= before + 1
    redis.start()
    s.wait_log("the run storage is back", 2)
    back = time.time()
    wait_for(lambda: max(due_of(collector.named("tick"), "one", 1, began)) >= back, "the runs up to now")
    s.stop()
    collector.stop()
    assert s.log().count("the run storage fails") == 2  # no busy loop, and no flood of lines
    assert_every_run_once(due_of(collector.named("tick"), "one", 1, began), 1)


def test_target_down_and_back(broker, scheduler, tmp_path):
    b = broker()
    b.stop()
    began = time.time()
    s = scheduler({"hour": every(3600)}, "--state-file", tmp_path / "state", "--rpc-host", b.address).start()
    s.wait_log("runs cannot be sent")
    b.start()
    collector = Collector(b)
    s.wait_log("runs are sent again", timeout_s=40)
    collector.wait(1)
    s.stop()
    collector.stop()
    assert_every_run_once(due_of(collector.named("tick"), "hour", 3600, began), 3600)


def test_a_stopping_scheduler_hands_its_run_over(broker, scheduler, redis):
    b = broker()
    b.stop()
    began = time.time()
    first = scheduler({"hour": every(3600)}, "--redis", redis.url, "--rpc-host", b.address).start()
    first.wait_log("runs cannot be sent")
    first.stop()
    b.start()
    collector = Collector(b)
    second = scheduler({"hour": every(3600)}, "--redis", redis.url, "--rpc-host", b.address).start()
    collector.wait(1, timeout_s=8)  # less than a lease
    second.wait_log("took over a run")
    second.stop()
    collector.stop()
    assert_every_run_once(due_of(collector.named("tick"), "hour", 3600, began), 3600)


def test_missed_runs_by_policy(broker, scheduler, tmp_path):
    b = broker()
    collector = Collector(b)
    began = time.time()
    entries = {policy: every(1, f"ns:{policy}", missed=policy) for policy in ("one", "all")}
    s = scheduler(entries, "--state-file", tmp_path / "state", "--rpc-host", b.address).start()
    collector.wait(2, "all")
    s.stop()
    stopped = time.time()
    wait_for(lambda: time.time() > stopped + 4, "four missed runs")
    s.start(wait=False)
    back = time.time()
    wait_for(lambda: max(due_of(collector.named("all"), "all", 1, began)) > back, "the runs up to now")
    s.stop()
    collector.stop()
    assert_every_run_once(due_of(collector.named("all"), "all", 1, began), 1)
    one = due_of(collector.named("one"), "one", 1, began)
    assert len([due for due in one if stopped < due < stopped + 3]) == 0 and max(one) > back


# --- signals, files, commands --------------------------------------------------------------------


def test_hup_reads_the_schedules_again(broker, scheduler, tmp_path):
    b = broker()
    collector = Collector(b)
    s = scheduler({"old": every(1, "ns:old")}, "--rpc-host", b.address, "--state-file", tmp_path / "s",
                  "--health-check-file-path", tmp_path / "health").start()
    collector.wait(1, "old")
    s.path.write_text("schedules: [")
    s.signal(signal.SIGHUP)
    s.wait_log("the old ones go on")
    count = len(collector.named("old"))
    collector.wait(count + 1, "old")
    s.reload({"new": every(1, "ns:new")})
    collector.wait(1, "new")
    count = len(collector.named("old"))
    collector.wait(3, "new")
    assert len(collector.named("old")) == count
    (tmp_path / "health").unlink()
    wait_for((tmp_path / "health").exists, "the health file")
    s.signal(signal.SIGINT)
    assert s.wait() == 0
    collector.stop()


def test_list(scheduler, redis, broker, tmp_path):
    b = broker()
    entries = {"every": every(300, "ns:one"), "cron": {"task": "ns:two", "schedule": {"crontab": "30 2 * * 1-5"}}}
    s = scheduler(entries, "--redis", redis.url, "--rpc-host", b.address).start()
    s.wait_log("sent a run")
    s.stop()
    done = run_taskmill("scheduler", "list", "--schedules", s.path, "--redis", redis.url, "--json", "--count", 4)
    assert done.returncode == 0 and done.stderr == ""
    first, second = json.loads(done.stdout)
    assert (first["key"], first["namespace"], first["task"], first["schedule_id"]) == ("every", "ns", "one", "300")
    times = [datetime.fromisoformat(text).timestamp() for text in [first["last_run"], *first["next_runs"]]]
    assert [b - a for a, b in zip(times, times[1:])] == [300] * 4
    assert second["schedule"] == "30 2 * * 1-5" and second["last_run"] is None and second["timezone"] == "UTC"
    for text in second["next_runs"]:
        at = datetime.fromisoformat(text)
        assert (at.hour, at.minute) == (2, 30) and at.weekday() < 5 and at.timestamp() > time.time()
    text = run_taskmill("scheduler", "list", "--schedules", s.path, "--redis", redis.url).stdout
    assert "every  ns:one" in text and "30 2 * * 1-5" in text and text.count("next run") == 2
    redis.stop()
    done = run_taskmill("scheduler", "list", "--schedules", s.path, "--redis", redis.url)
    assert done.returncode == 0 and "not known" in done.stdout and "last runs are not known" in done.stderr


@pytest.mark.parametrize("arguments, code, text", [
    (["check", "nowhere.yml"], 1, "nowhere.yml"),
    (["--schedules", "good.yml", "--redis", "localhost:6379"], 1, "redis://"),
    (["--schedules", "good.yml", "--redis", "rediss://h"], 1, "TLS"),
    (["--schedules", "good.yml", "--redis", "redis://h", "--state-file", "f"], 2, "exclude"),
    (["--schedules", "good.yml", "--old-keys"], 2, "--redis"),
    (["--schedules", "good.yml", "--state-file", "no/such/folder/file"], 1, "no/such/folder/file"),
    (["--schedules", "good.yml", "--takeover-after", "5"], 2, "11"),
    (["--schedules", "good.yml", "--rpc-host", "a:1", "--kafka", "b:1"], 1, "not both"),
    (["what"], 2, "what"),
    (["list", "--count", "0", "--schedules", "good.yml"], 2, "--count"),
])
def test_wrong_usage(tmp_path, arguments, code, text):
    write_schedules(tmp_path / "good.yml", {"key": every(1)})
    done = run_taskmill("scheduler", *arguments, cwd=tmp_path)
    assert done.returncode == code and text in done.stderr, done.stderr


def test_check(tmp_path):
    path = write_schedules(tmp_path / "good.yml", {"key": every(1), "other": every(2)})
    done = run_taskmill("scheduler", "check", path)
    assert done.returncode == 0 and "2 schedules" in done.stdout


def test_as_the_original_starts_it(broker, scheduler, redis, tmp_path):
    """`run taskworker-scheduler` without options: everything comes from the environment."""
    b = broker()
    path = write_schedules(tmp_path / "schedules.yml", {"key": every(3600)})
    env = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(redis.port), "TASKMILL_BROKER": b.address,
           "TASKMILL_SCHEDULES": str(path)}
    s = Scheduler(tmp_path / "s", {}, env=env)
    s.argv = [s.argv[0], "run", "taskworker-scheduler", "--redis-cluster", "default"]
    s.start()
    try:
        s.wait_log("sent a run")
        s.stop()
    finally:
        s.kill9()
    assert redis.keys("tw:*") == ["tw:scheduler:key:ns:tick:3600"]


def test_a_password_and_a_socket(broker, scheduler, redis):
    b = broker()
    redis.cli("CONFIG", "SET", "requirepass", "se:cret@1")
    url = f"redis://:se%3Acret%401@127.0.0.1:{redis.port}/3"
    s = scheduler({"key": every(3600)}, "--redis", url, "--rpc-host", b.address).start()
    s.wait_log("sent a run")
    s.stop()
    assert "cret" not in s.log()
    wrong = scheduler({"key": every(3600)}, "--redis", url.replace("cret", "cure"), "--rpc-host", b.address).start()
    wrong.wait_log("WRONGPASS")
    wrong.stop()
    assert "cure" not in wrong.log()
    local = scheduler({"key": every(3600)}, "--redis", f"unix://:se%3Acret%401@{redis.socket}?db=4", "--rpc-host",
                      b.address).start()
    local.wait_log("sent a run")
    local.stop()


# --- side by side with the original --------------------------------------------------------------


def python_scheduler(python, tmp_path, name, entries, redis, kafka, topic):
    folder = os.path.dirname(__file__)
    return Process([python, "-m", "clients.scheduler_app", redis.port, json.dumps(entries)], tmp_path / f"{name}.log",
                   env={"SCHEDULER_KAFKA": kafka.bootstrap, "SCHEDULER_TOPIC": topic, "PYTHONPATH": folder},
                   cwd=folder)


def left_ms(redis, entry, old):
    key, (task, seconds) = entry[0], entry[1].values()
    return int(redis.cli("PTTL", f"tw:scheduler:{task}:{seconds}" if old else f"tw:scheduler:{key}:{task}:{seconds}"))


@pytest.mark.timeout(180)
def test_beside_python_each_run_once(client_version, client_python, kafka, redis, scheduler, tmp_path):
    """Two of ours and one of Python's on one Redis, intervals of 1 and 2 s, for 20 s; two are killed and one
    comes back. Whoever fires it: in each period there is one run."""
    topic = kafka.unique_topic("beside")
    theirs = {"one": {"task": "ns:one", "seconds": 1}, "two": {"task": "ns:two", "seconds": 2}}
    entries = {key: every(entry["seconds"], entry["task"]) for key, entry in theirs.items()}
    options = ["--redis", redis.url, "--kafka", kafka.bootstrap, "--topic", topic]
    old = client_version == "26.5.0"
    if old:
        options.append("--old-keys")
    pair = [scheduler(entries, *options).start()]
    python = python_scheduler(client_python, tmp_path, "python", theirs, redis, kafka, topic)
    pair.append(scheduler(entries, *options).start())
    try:
        wait_for(lambda: "running" in python.log(), lambda: python.log(), 60)
        started = time.time()
        wait_for(lambda: time.time() > started + 8, "8 s of three schedulers")
        for s in pair:
            s.stop()
        alone = time.time()
        wait_for(lambda: time.time() > alone + 5, "5 s of Python alone")
        # Python's keys die a second before the next run; who starts in that second finds no run and fires
        # (so would a scheduler of Python's).
        wait_for(lambda: all(left_ms(redis, entry, old) > 600 for entry in theirs.items()), "keys that live",
                 interval_s=0.005)
        pair[0].start(wait=False)
        wait_for(lambda: time.time() > alone + 10, "5 s of two schedulers")
        assert python.running, python.log()
    finally:
        python.kill9()
        pair[0].stop()
    tasks = [pb.TaskActivation.FromString(record.value) for record in kafka.consume_all(topic)]
    by = {name: len([task for task in tasks if task.application == name]) for name in ("sched", "python")}
    print(f"beside {client_version}: {by}")
    assert by["sched"] > 0 and by["python"] > 0
    for key, seconds in (("one", 1), ("two", 2)):
        runs = sorted((task.received_at.ToMicroseconds() / 1e6, task.application) for task in tasks
                      if task.taskname == key)
        text = "\n".join(map(str, runs))
        gaps = [b[0] - a[0] for a, b in zip(runs, runs[1:])]
        span = runs[-1][0] - runs[0][0]
        # Due times are whole seconds, and Python may be anywhere within the second that follows.
        assert min(gaps) > seconds - 1, text
        assert len(runs) < span / seconds + 2, text
        assert len(runs) > 0.6 * span / seconds, text  # Python alone skips some on a loaded machine
